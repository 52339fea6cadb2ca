"""Compression that trains on: pruning, clustering, quantization-aware training, distillation."""

from keras_squeezenet.extras import require

require("compression")
