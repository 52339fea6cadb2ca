"""The .sqz file: a `CompressedNetwork` as bytes, and updates from one file to the next.

Two modes: "faithful" writes codes and position gaps in Huffman codes, as Deep Compression (arXiv
1510.00149) does; "best" codes the weights by arithmetic coding in the context of their neighbours.
Both give back every weight, bit for bit. `docs/sqz.md` describes the format.
"""

from keras_squeezenet.sqz.coding import bytes_spent, decode, encode
from keras_squeezenet.sqz.content import digest
from keras_squeezenet.sqz.delta import diff, patch
from keras_squeezenet.sqz.reading import SqzError

__all__ = ["SqzError", "bytes_spent", "decode", "diff", "digest", "encode", "patch"]
