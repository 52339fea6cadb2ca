"""Weight files that others wrote: bytes become arrays, or one line that says what is wrong.

A suffix stands for a format, and each format is a module with `read(data, architecture)` and
`max_bytes(architecture)`. Nothing here knows Keras, and nothing is unpickled outside PyTorch's
restricted loader. `.keras` and `.weights.h5` are Keras's own business.

Foreign bytes are hostile: what a file declares is held against what the architecture needs before
memory is taken for it.
"""

import os
from pathlib import Path
from typing import Protocol

from keras_squeezenet.network.architecture import Architecture
from keras_squeezenet.network.weight_files import caffe, deep_compression, ncnn, npz, pytorch
from keras_squeezenet.network.weight_files.contents import WeightFile, WeightFileError

__all__ = ["FORMATS", "WeightFile", "WeightFileError", "read_weights"]


class Format(Protocol):
    """What the module of a format has."""

    def read(self, data: bytes, architecture: Architecture) -> WeightFile: ...

    def max_bytes(self, architecture: Architecture) -> int: ...


FORMATS: dict[str, Format] = {
    ".net": deep_compression,
    ".bin": ncnn,
    ".npz": npz,
    ".caffemodel": caffe,
    ".pth": pytorch,
    ".pt": pytorch,
}


def read_weights(path: str | os.PathLike[str], architecture: Architecture) -> WeightFile:
    """The weights in a file, as arrays by the names of `architecture.kernel_shapes`.

    Args:
        path: a file whose suffix is in `FORMATS`.
        architecture: the `Architecture` that the weights are for. How many classes they are for
            is the file's to say, except in `.net` files, which have 1000.

    Returns:
        A `WeightFile`.

    Raises:
        WeightFileError: the file is of no known format, broken, larger than any file of its format
            for this architecture, or for another architecture. The text starts with the path.
        OSError: the file cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise WeightFileError(f"{path}: a weight file ends in one of {', '.join(FORMATS)}")
    file_format = FORMATS[path.suffix.lower()]
    try:
        data = _read_at_most(path, file_format.max_bytes(architecture))
        return file_format.read(data, architecture)
    except WeightFileError as error:
        raise WeightFileError(f"{path}: {error}") from error.__cause__


def _read_at_most(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        # A size within the limit is no promise: a pipe has 0, and goes on.
        data = file.read(limit + 1) if size <= limit else b""
    if max(size, len(data)) > limit:
        raise WeightFileError(
            f"weights of this architecture take at most {limit} bytes in a {path.suffix} file. "
            f"Received: {max(size, len(data))} bytes or more"
        )
    return data
