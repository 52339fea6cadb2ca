"""What a .sqz file means, apart from its bytes: a digest of the network, for updates to name it by.

Two files have the same digest if and only if they hold the same network, whichever encoder wrote
them, in whichever mode, with whatever codebooks. `docs/sqz.md` has the bytes that are hashed.
"""

import hashlib
import struct
from typing import Any

from keras_squeezenet.sqz.container import header_list
from keras_squeezenet.sqz.graph_text import listed
from keras_squeezenet.sqz.model import CompressedModel
from keras_squeezenet.sqz.network import CompressedNetwork
from keras_squeezenet.sqz.versions import AnyCompressed

DIGEST_BYTES = 32


def digest(network: AnyCompressed) -> bytes:
    """SHA-256 of all that a network is: its description and every value, in order.

    Args:
        network: a `CompressedNetwork`, or a `CompressedModel`. Of the latter it does not matter
            which arrays are `SharedValues`.
    """
    if isinstance(network, CompressedModel):
        return _digest_of_model(network)
    return _digest_of_network(network)


def _digest_of_model(model: CompressedModel) -> bytes:
    description = [model.name, listed(model.graph), model.resize, model.class_names]
    hashed = hashlib.sha256(_tagged(description))
    for name in model.arrays:
        hashed.update(model.values(name).astype("<f4").tobytes())
    return hashed.digest()


def _digest_of_network(network: CompressedNetwork) -> bytes:
    *described, dropout_rate = header_list(network)
    no_minus = float(dropout_rate) + 0.0  # -0.0 becomes 0.0
    description = [*described, no_minus, network.class_names]
    hashed = hashlib.sha256(_tagged(description))
    for name, kernel in network.kernels.items():
        for shared in (kernel, network.biases[name]):
            hashed.update(shared.values.astype("<f4").tobytes())
    return hashed.digest()


def _tagged(value: Any) -> bytes:
    """A value as bytes that no other value has: type, length where that varies, content."""
    if value is None:
        return b"n"
    if isinstance(value, bool):
        return b"b" + bytes([value])
    if isinstance(value, float):
        return b"f" + struct.pack("<d", value)
    if isinstance(value, int):
        return b"i" + struct.pack("<q", value)
    if isinstance(value, str):
        text = value.encode(errors="surrogatepass")
        return b"s" + struct.pack("<q", len(text)) + text
    if isinstance(value, dict):
        fields = (field for name in sorted(value) for field in (name, value[name]))
        return b"m" + struct.pack("<q", len(value)) + b"".join(map(_tagged, fields))
    return b"l" + struct.pack("<q", len(value)) + b"".join(map(_tagged, value))
