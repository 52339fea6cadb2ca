"""Compression that trains on through tfmot: clustering, quantization-aware training."""

from keras_squeezenet.extras import require

require("compression")
