"""Compression that trains on: pruning, clustering, quantization-aware training, distillation."""
