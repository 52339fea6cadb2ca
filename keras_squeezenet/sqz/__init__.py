"""The .sqz file: a network as bytes, and updates from one file to the next.

A `CompressedNetwork` is a SqueezeNet of ours, in files of version 1; a `CompressedModel` is any
model of Keras's layers and ours, in files of version 2.

Two modes: "faithful" writes codes and position gaps in Huffman codes, as Deep Compression (arXiv
1510.00149) does; "best" codes the weights by arithmetic coding in the context of their neighbours.
Both give back every weight, bit for bit. `docs/sqz.md` describes the format.
"""

from keras_squeezenet.sqz.content import digest
from keras_squeezenet.sqz.delta import diff, patch
from keras_squeezenet.sqz.reading import SqzError
from keras_squeezenet.sqz.versions import bytes_spent, decode, encode

__all__ = ["SqzError", "bytes_spent", "decode", "diff", "digest", "encode", "patch"]
