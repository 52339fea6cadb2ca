"""PyTorch's `.pth`: a state dict of torchvision's SqueezeNet.

torchvision/models/squeezenet.py: `features` is conv1, a ReLU, and then the Fires and poolings in
order; `classifier` is a dropout, the last convolution and more without weights. Its images are
RGB, scaled and normalized as for all of torchvision's networks; nothing is padded.

The file is a pickle. `torch.load(weights_only=True)` calls nothing that is not on its list, and
that list still has calls that take any amount of memory; so what a state dict does not need is
refused before. PyTorch's reader of zip archives, in C++, is given an archive written here.
"""

import io
import pickletools
import zipfile
from typing import Any, BinaryIO

import numpy as np

from keras_squeezenet.network.architecture import Architecture
from keras_squeezenet.network.weight_files.archive import open_archive
from keras_squeezenet.network.weight_files.contents import (
    WeightFile,
    WeightFileError,
    check_names,
    expected_shapes,
    max_parameters,
    with_classes,
)

MAX_PICKLE_BYTES = 2**20  # a state dict of 52 tensors has 8 KiB
MAX_PICKLE_OPCODES = 100_000  # and 2,300 opcodes
OTHER_ENTRIES = 16  # of an archive: the pickle, versions, byte order, …
LEGACY_PICKLES = 5  # magic number, version, system, state dict, storage keys; before PyTorch 1.6
GLOBALS = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch HalfStorage",
    "torch BFloat16Storage",
    "torch FloatStorage",
    "torch DoubleStorage",
}
PROTOCOL = 2  # what torch.save writes
# What a pickle of a dict of tensors is made of, here and in files that Python 2 wrote.
OPCODES = {
    *("PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BUILD", "BINPERSID"),
    *("BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1"),
    *("BINUNICODE", "BINSTRING", "SHORT_BINSTRING"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS"),
    *("EMPTY_DICT", "SETITEM", "SETITEMS"),
}


def read(data: bytes, architecture: Architecture) -> WeightFile:
    """A `WeightFile` for the preprocessing "torch".

    Raises:
        WeightFileError: the bytes are not the weights of this architecture, the architecture is
            none that torchvision's names could describe, or PyTorch is not installed.
    """
    names = state_dict_names(architecture)
    state = _load(data, len(names))
    wanted = [f"{prefix}.{part}" for prefix in names.values() for part in ("weight", "bias")]
    if not isinstance(state, dict):
        raise WeightFileError(f"expected a state dict. Received: {type(state).__name__}")
    check_names("tensor", state, wanted)
    kernels, biases = {}, {}
    for name, shape in expected_shapes(architecture).items():
        kernel, bias = (state[f"{names[name]}.{part}"] for part in ("weight", "bias"))
        if name == architecture.last_conv_name and len(_shape(kernel)) == 4:
            shape = with_classes(shape, _shape(kernel)[0])
        height, width, channels, filters = shape
        kernel = _values(kernel, name, (filters, channels, height, width))
        kernels[name] = kernel.transpose(2, 3, 1, 0)
        biases[name] = _values(bias, name, (filters,))
    return WeightFile(kernels, biases, "torch", 0)


def max_bytes(architecture: Architecture) -> int:
    """The length of a file of float64 with as many classes as there may be, and its pickles."""
    return 8 * max_parameters(architecture) + MAX_PICKLE_BYTES


def state_dict_names(architecture: Architecture) -> dict[str, str]:
    """The prefixes of torchvision's keys by our names: `features.3.squeeze` for fire2_squeeze1x1.

    Raises:
        WeightFileError: for a complex bypass, which torchvision's network does not have.
    """
    places = {1: "features.0"}
    index = 2  # after conv1 and its ReLU
    for number in architecture.fire_numbers:
        index += number - 1 in architecture.pool_after
        places[number] = f"features.{index}"
        index += 1
    names = {}
    for name in expected_shapes(architecture):
        fire, _, part = name.partition("_")
        if part == "bypass1x1":
            raise WeightFileError(f"torchvision's SqueezeNet has no bypass. Received: {name}")
        if name == architecture.last_conv_name:
            names[name] = "classifier.1"
        elif part:
            part = "squeeze" if part == "squeeze1x1" else part
            names[name] = f"{places[int(fire.removeprefix('fire'))]}.{part}"
        else:
            names[name] = places[1]
    return names


def _load(data: bytes, layers: int) -> object:
    try:
        import torch
    except ImportError:
        raise WeightFileError("PyTorch's files are read with PyTorch: pip install torch") from None
    try:
        if bytes(data[:2]) == b"PK":
            data = _checked_archive(data, 2 * layers + OTHER_ENTRIES)
        else:
            _check_pickles(io.BytesIO(data), LEGACY_PICKLES)
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except WeightFileError:
        raise
    except Exception as error:  # zipfile, pickletools and PyTorch raise whatever they meet
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise WeightFileError(f"not a sound PyTorch file: {text[:200]}") from error


def _checked_archive(data: bytes, max_entries: int) -> bytes:
    archive, entries = open_archive(data, max_entries, (zipfile.ZIP_STORED,))
    if sum(info.file_size for info in entries.values()) > len(data):
        raise WeightFileError(f"the entries of the archive have more than its {len(data)} bytes")
    rewritten = io.BytesIO()
    with zipfile.ZipFile(rewritten, "w") as target:
        for name in entries:
            body = archive.read(name)
            if name.endswith(".pkl"):
                _check_pickles(io.BytesIO(body), 1)
            target.writestr(name, body)
    return rewritten.getvalue()


def _check_pickles(file: BinaryIO, count: int) -> None:
    """Raises where one of the pickles that follow each other does more than a state dict needs."""
    opcodes = 0
    for _ in range(count):
        for opcode, argument, _ in pickletools.genops(file):
            opcodes += 1
            if opcodes > MAX_PICKLE_OPCODES or file.tell() > MAX_PICKLE_BYTES:
                raise WeightFileError("its pickle is larger than a state dict needs")
            if opcode.name not in OPCODES or (opcode.name == "PROTO" and argument != PROTOCOL):
                raise WeightFileError(f"a state dict of tensors has no opcode {opcode.name} in it")
            if opcode.name == "GLOBAL" and argument not in GLOBALS:
                raise WeightFileError(
                    f"a state dict of tensors has no {str(argument)[:80]!r} in it"
                )


def _values(tensor: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 `[filters, channels, height, width]` or `[filters]`, of memory of their own."""
    import torch

    if _shape(tensor) != shape:
        raise WeightFileError(
            f"a tensor of {name} must have the shape {shape}. Received: {_shape(tensor)}"
        )
    if not tensor.is_floating_point():
        raise WeightFileError(f"a tensor of {name} must hold floats. Received: {tensor.dtype}")
    return np.array(tensor.detach().to(torch.float32).numpy())


def _shape(value: object) -> tuple[int, ...]:
    """The shape of a tensor; nothing has the shape of what is none."""
    return tuple(getattr(value, "shape", ()))
