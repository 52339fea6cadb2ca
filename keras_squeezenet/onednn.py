"""Importing this module has TensorFlow compute with oneDNN's kernels, on every processor.

By itself TensorFlow takes them only on processors with instructions for neural networks. A step of
SqueezeNet 1.1 (float32, one core of an AMD EPYC without AVX-512, 2026-11-27) was 1.26 times as fast
with them on 32 images of 160 pixels, and 1.2 to 1.5 times on 16 of 64 pixels. A script that trains
imports it before anything that imports TensorFlow, `quiet` included. Where TF_ENABLE_ONEDNN_OPTS is
set, it stays what it is.
"""

import os

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
