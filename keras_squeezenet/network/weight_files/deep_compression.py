"""The authors' deep-compressed SqueezeNet 1.0, `compressed_SqueezeNet.net`.

Han et al., arXiv 1510.00149, sections 2 and 3: pruned weights as 4-bit distances, shared values as
8-bit codes; written down in decode.py of github.com/songhan/SqueezeNet-Deep-Compression. All
numbers are little-endian: first, for every layer, how many entries it stores (uint32); then, layer
by layer, a codebook (256 float32), the biases (float32), the codes (uint8) and the distances, two
to a byte, low nibble first. An entry lies distance + 1 places after the one before it in the
flattened kernel `[filters, channels, height, width]`. Where a distance would not fit four bits, an
entry of value zero stands in between.
"""

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from keras_squeezenet.network.architecture import Architecture
from keras_squeezenet.network.weight_files.contents import (
    WeightFile,
    WeightFileError,
    expected_shapes,
    from_oihw,
    published_last_conv_padding,
)

CODEBOOK_BYTES = 256 * 4


def read(data: bytes, architecture: Architecture) -> WeightFile:
    """A `WeightFile` of 1000 classes.

    Their number is not taken from the length of the file, which would make a file cut short one of
    fewer classes.

    Raises:
        WeightFileError: the bytes are not the weights of this architecture.
    """
    shapes = expected_shapes(architecture)
    counts = _stored_entries(data, shapes)
    offset = 4 * len(shapes)
    kernels, biases = {}, {}
    for (name, shape), count in zip(shapes.items(), counts, strict=True):
        codebook = np.frombuffer(data, "<f4", 256, offset)
        if codebook[0] != 0:
            raise WeightFileError(f"the codebook of {name} must start with 0, for pruned weights")
        offset += CODEBOOK_BYTES
        biases[name] = np.frombuffer(data, "<f4", shape[-1], offset).astype(np.float32)
        offset += 4 * shape[-1]
        codes = np.frombuffer(data, np.uint8, count, offset)
        offset += count
        positions = _positions(np.frombuffer(data, np.uint8, _gap_bytes(count), offset), count)
        offset += _gap_bytes(count)
        if count and positions[-1] >= prod(shape):
            raise WeightFileError(f"the entries of {name} go on beyond its {prod(shape)} weights")
        values = np.zeros(prod(shape), np.float32)
        values[positions] = codebook[codes]
        kernels[name] = from_oihw(values, shape)
    return WeightFile(kernels, biases, "caffe", published_last_conv_padding(architecture))


def max_bytes(architecture: Architecture) -> int:
    """The length of a file that stores every weight."""
    shapes = expected_shapes(architecture)
    return _length(shapes, [prod(shape) for shape in shapes.values()])


def _stored_entries(data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> list[int]:
    if len(data) < 4 * len(shapes):
        raise WeightFileError(
            f"a file for {len(shapes)} layers starts with {4 * len(shapes)} bytes of entry counts. "
            f"Received: {len(data)} bytes"
        )
    counts = np.frombuffer(data, "<u4", len(shapes)).tolist()
    if len(data) != _length(shapes, counts):
        raise WeightFileError(
            f"its entry counts and {len(shapes)} layers make {_length(shapes, counts)} bytes. "
            f"Received: {len(data)} bytes"
        )
    for (name, shape), count in zip(shapes.items(), counts, strict=True):
        if count > prod(shape):
            raise WeightFileError(f"{name} has {prod(shape)} weights. Received: {count} entries")
    return counts


def _length(shapes: Mapping[str, tuple[int, ...]], counts: Sequence[int]) -> int:
    layers = sum(CODEBOOK_BYTES + 4 * shape[-1] for shape in shapes.values())
    return 4 * len(shapes) + layers + sum(count + _gap_bytes(count) for count in counts)


def _gap_bytes(count: int) -> int:
    return (count + 1) // 2


def _positions(packed: NDArray[np.uint8], count: int) -> NDArray[np.int32]:
    """Where the entries lie in the flattened kernel: int32 `[count]`."""
    steps = np.empty((len(packed), 2), np.int32)
    np.bitwise_and(packed, 15, out=steps[:, 0])
    np.right_shift(packed, 4, out=steps[:, 1])
    positions = steps.ravel()[:count]
    positions += 1
    np.cumsum(positions, out=positions)
    positions -= 1
    return positions
