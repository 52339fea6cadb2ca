"""numpy's `.npz`: the arrays `NAME/kernel`, `[height, width, channels, filters]`, and `NAME/bias`.

Two more entries may say what the weights are for: `channel_order`, the string "BGR" (which is the
default, as every published SqueezeNet takes it) or "RGB"; and `last_conv_padding`, an integer.

`numpy.load` takes memory for whatever shape an entry declares, and inflates what is deflated, so
the entries are read here with their headers checked first.
"""

import zipfile
from collections.abc import Container
from math import prod
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from keras_squeezenet.errors import one_line
from keras_squeezenet.network.architecture import Architecture
from keras_squeezenet.network.weight_files.archive import open_archive
from keras_squeezenet.network.weight_files.contents import (
    WeightFile,
    WeightFileError,
    check_names,
    expected_shapes,
    max_parameters,
    published_last_conv_padding,
    with_classes,
)

CHANNEL_ORDERS = ("BGR", "RGB")
OPTIONS = ("channel_order", "last_conv_padding")
MAX_HEADER_BYTES = 512  # numpy writes 128
MAX_OPTION_BYTES = 64
COMPRESSION = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read(data: bytes, architecture: Architecture) -> WeightFile:
    """A `WeightFile`, its conv1 always with channels in the order B, G, R.

    Raises:
        WeightFileError: the bytes are not the weights of this architecture.
    """
    try:
        return _read(data, architecture)
    except WeightFileError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds on broken bytes
        raise WeightFileError(
            f"not a sound .npz file: {type(error).__name__}: {one_line(error, 200)}"
        ) from error


def max_bytes(architecture: Architecture) -> int:
    """The length of a file of float64 with as many classes as there may be, and its headers."""
    entries = 2 * len(expected_shapes(architecture)) + len(OPTIONS)
    return 8 * max_parameters(architecture) + 1024 * entries


def _read(data: bytes, architecture: Architecture) -> WeightFile:
    shapes = expected_shapes(architecture)
    archive, entries = open_archive(data, 2 * len(shapes) + len(OPTIONS), COMPRESSION)
    needed = [f"{name}/{part}.npy" for name in shapes for part in ("kernel", "bias")]
    check_names("entry", entries, needed, [f"{option}.npy" for option in OPTIONS])
    reverse = _channel_order(archive, entries) == "RGB"
    padding = _last_conv_padding(archive, entries, published_last_conv_padding(architecture))
    kernels, biases = {}, {}
    for name, shape in shapes.items():
        any_classes = name == architecture.last_conv_name
        kernels[name] = _read_numbers(archive, f"{name}/kernel", shape, any_classes)
        biases[name] = _read_numbers(archive, f"{name}/bias", kernels[name].shape[-1:])
    if reverse:
        kernels["conv1"] = kernels["conv1"][:, :, ::-1]
    return WeightFile(kernels, biases, "caffe", padding)


def _read_numbers(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], any_classes: bool = False
) -> np.ndarray:
    """Float32 of the shape, of which the last number may be another where `any_classes`."""
    with archive.open(f"{name}.npy") as entry:
        found, fortran_order, dtype = _read_header(entry, name)
        if any_classes and len(found) == len(shape):
            shape = with_classes(shape, found[-1])
        if found != shape:
            raise WeightFileError(f"{name} must have the shape {shape}. Received: {found}")
        if dtype.kind != "f" or dtype.itemsize not in (2, 4, 8):
            raise WeightFileError(f"{name} must be float16, float32 or float64. Received: {dtype}")
        values = np.frombuffer(_read_body(entry, name, prod(shape) * dtype.itemsize), dtype)
    with np.errstate(over="ignore", invalid="ignore"):  # WeightFile finds what is not finite
        return values.astype(np.float32).reshape(shape, order="F" if fortran_order else "C")


def _channel_order(archive: zipfile.ZipFile, entries: Container[str]) -> str:
    order = _read_option(archive, entries, "channel_order", "US", "BGR")
    order = order.decode("ascii", "replace") if isinstance(order, bytes) else order
    if order not in CHANNEL_ORDERS:
        raise WeightFileError(
            f"channel_order must be one of {', '.join(CHANNEL_ORDERS)}. Received: {order!r}"
        )
    return order


def _last_conv_padding(archive: zipfile.ZipFile, entries: Container[str], default: int) -> int:
    return int(_read_option(archive, entries, "last_conv_padding", "iu", default))


def _read_option(
    archive: zipfile.ZipFile, entries: Container[str], name: str, kinds: str, default: Any
) -> Any:
    """The one value of an entry whose dtype is of one of the kinds, or the default."""
    if f"{name}.npy" not in entries:
        return default
    with archive.open(f"{name}.npy") as entry:
        shape, _, dtype = _read_header(entry, name)
        if shape != () or dtype.kind not in kinds or not 0 < dtype.itemsize <= MAX_OPTION_BYTES:
            kind = "a short string" if "U" in kinds else "an integer"
            raise WeightFileError(f"{name} must be {kind}. Received: {dtype} of shape {shape}")
        return np.frombuffer(_read_body(entry, name, dtype.itemsize), dtype)[0].item()


def _read_header(entry: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = npy.read_magic(entry)
    if version != (1, 0):  # the others are for headers that only structured arrays need
        raise WeightFileError(f"{name} is in version {version} of the .npy format, expected (1, 0)")
    return npy.read_array_header_1_0(entry, max_header_size=MAX_HEADER_BYTES)


def _read_body(entry: IO[bytes], name: str, size: int) -> bytes:
    body = entry.read(size)
    if len(body) != size or entry.read(1):
        raise WeightFileError(f"{name} must have {size} bytes after its header")
    return body
