"""ncnn's `.bin`: for each convolution a tag, the kernel, and the biases as float32.

The kernel is `[filters, channels, height, width]`, in float16 or float32 as its tag says, filled up
to a multiple of four bytes; all little-endian. The names and shapes are in another file
(`.param`), so they are taken from the architecture: https://github.com/Tencent/ncnn/wiki,
"param and model file structure".
"""

from math import prod
from struct import unpack_from

import numpy as np

from keras_squeezenet.network.architecture import Architecture
from keras_squeezenet.network.weight_files.contents import (
    WeightFile,
    WeightFileError,
    expected_shapes,
    from_oihw,
    max_parameters,
    published_last_conv_padding,
    with_classes,
)

TAGS: dict[int, np.dtype] = {0: np.dtype("<f4"), 0x01306B47: np.dtype("<f2")}
TAG_BYTES = 4


def read(data: bytes, architecture: Architecture) -> WeightFile:
    """A `WeightFile`; the number of its classes follows from the length of the file.

    Nothing else in the file tells of it: one that was cut short by just the weights of some classes
    is read as a network of fewer.

    Raises:
        WeightFileError: the bytes are not the weights of this architecture.
    """
    if len(data) % 4:
        raise WeightFileError(f"ncnn files have a multiple of 4 bytes. Received: {len(data)} bytes")
    kernels, biases = {}, {}
    for name, shape, dtype, offset in _layout(data, architecture):
        kernel = np.frombuffer(data, dtype, prod(shape), offset).astype(np.float32)
        kernels[name] = from_oihw(kernel, shape)
        offset += _kernel_bytes(shape, dtype)
        biases[name] = np.frombuffer(data, "<f4", shape[-1], offset).astype(np.float32)
    return WeightFile(kernels, biases, "caffe", published_last_conv_padding(architecture))


def max_bytes(architecture: Architecture) -> int:
    """The length of a file of float32 with as many classes as there may be."""
    return 4 * max_parameters(architecture) + TAG_BYTES * len(expected_shapes(architecture))


def _layout(
    data: bytes, architecture: Architecture
) -> list[tuple[str, tuple[int, ...], np.dtype, int]]:
    """Name, shape, dtype and offset of every kernel: the whole file is known before it is read."""
    layers, offset = [], 0
    for name, shape in expected_shapes(architecture).items():
        if offset + TAG_BYTES > len(data):
            raise WeightFileError(f"it ends before {name}. Received: {len(data)} bytes")
        (tag,) = unpack_from("<I", data, offset)
        offset += TAG_BYTES
        if tag not in TAGS:
            raise WeightFileError(
                f"the tag of {name} must say float32 or float16 "
                f"({' or '.join(f'0x{known:08x}' for known in TAGS)}). Received: 0x{tag:08x}"
            )
        dtype = TAGS[tag]
        if name == architecture.last_conv_name:
            shape = with_classes(shape, _classes(len(data) - offset, shape, dtype))
        layers.append((name, shape, dtype, offset))
        offset += _kernel_bytes(shape, dtype) + 4 * shape[-1]
    if offset != len(data):
        raise WeightFileError(
            f"the kernels and biases of this architecture would end at byte {offset}. "
            f"Received: {len(data)} bytes"
        )
    return layers


def _classes(bytes_left: int, shape: tuple[int, ...], dtype: np.dtype) -> int:
    # The padding, at most two bytes, is less than what one more class takes.
    return bytes_left // (prod(shape[:-1]) * dtype.itemsize + 4)


def _kernel_bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    return (prod(shape) * dtype.itemsize + 3) // 4 * 4
