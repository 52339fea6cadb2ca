"""Importing this module has TensorFlow compute with oneDNN's kernels, on every processor.

By itself TensorFlow takes them only on processors with instructions for neural networks. On an AMD
EPYC without AVX-512 (2 cores, 2026-11-27) the last epoch of

    TF_ENABLE_ONEDNN_OPTS=0 python train/train.py --recipe train/recipes/digits.yaml \
        --set training.epochs=3

trained on 230 and 299 images per second, and without the first word, in turns with it, on 318 and
325. A script that trains imports this module before anything that imports TensorFlow, `quiet`
included. Where TF_ENABLE_ONEDNN_OPTS is set, it stays what it is.
"""

import os

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
