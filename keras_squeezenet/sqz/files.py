"""Files of compressed networks and their updates, read and written without a framework."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np

from keras_squeezenet import sqz
from keras_squeezenet.errors import InputError
from keras_squeezenet.files import replacing
from keras_squeezenet.sqz import container
from keras_squeezenet.sqz.model import CompressedModel
from keras_squeezenet.sqz.network import Values
from keras_squeezenet.sqz.versions import AnyCompressed

# 2**24 weights of 20 bits, with a gap of 20 bits each, take 80 MiB; 2**22 values of codebooks, with
# their code lengths, less than 40.
MAX_FILE_BYTES = 2**27

Read = TypeVar("Read")


def read_network(path: Path | str) -> AnyCompressed:
    """The `CompressedNetwork` in a .sqz file, or of version 2 the `CompressedModel`.

    Raises:
        SqzError: the file is none, or broken; the text is one line and names it.
        OSError: it cannot be read.
    """
    return _naming(path, sqz.decode, _content(path))


def write_network(network: AnyCompressed, path: Path | str, mode: str = "best") -> AnyCompressed:
    """Write a .sqz file, read it back, and only then put it in place.

    Args:
        network: a `CompressedNetwork` or a `CompressedModel`.
        path: of the file, which is replaced where it exists.
        mode: "best" or "faithful", see `sqz.encode`.

    Returns:
        What was read back.

    Raises:
        InputError: for a network that no .sqz file holds, or whose weights did not come back.
        OSError: the file cannot be written.
    """
    content = sqz.encode(network, mode)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
        written = read_network(temporary)
        _check_equal(written, network)
        return written


def bytes_spent(path: Path | str) -> dict[str, int]:
    """What the bytes of a .sqz file are spent on; see `sqz.bytes_spent`."""
    return _naming(path, sqz.bytes_spent, _content(path))


def write_update(old: Path | str, new: Path | str, path: Path | str) -> int:
    """Write what turns one .sqz file into another, once it was seen to do so.

    It fits every file of the old network, whichever encoder and mode wrote it.

    Args:
        old, new: paths of .sqz files.
        path: of the update.

    Returns:
        The update's size in bytes.

    Raises:
        SqzError: `old` or `new` is no .sqz file; the text names it.
        OSError: a file cannot be read or written.
    """
    for file in (old, new):
        read_network(file)
    before = _content(old)
    update = sqz.diff(before, _content(new))
    with replacing(path) as temporary:
        temporary.write_bytes(update)
        sqz.patch(before, temporary.read_bytes())  # it refuses to give another network
    return len(update)


def apply_update(old: Path | str, update: Path | str, path: Path | str) -> int:
    """Write the .sqz file that an update makes of another.

    Args:
        old: path of a .sqz file of the network that the update was made for.
        update: path of what `write_update` wrote.
        path: of the new .sqz file.

    Returns:
        The new file's size in bytes.

    Raises:
        SqzError: the update is damaged, was made for another network, or gives none; or `old` is
            no .sqz file. The text names the file.
        OSError: a file cannot be read or written.
    """
    bytes_spent(old)  # what is no whole .sqz file is named as such, not as the update's fault
    new = _naming(update, sqz.patch, _content(old), _content(update))
    with replacing(path) as temporary:
        temporary.write_bytes(new)
    return len(new)


def _content(path: Path | str) -> bytes:
    with Path(path).open("rb") as file:
        start = file.read(len(container.MAGIC))
        if start != container.MAGIC:
            return start  # what reads it says so; the rest may be of any length
        content = start + file.read(MAX_FILE_BYTES + 1 - len(start))
    if len(content) > MAX_FILE_BYTES:
        raise sqz.SqzError(f"{path}: a .sqz file has at most {MAX_FILE_BYTES} bytes")
    return content


def _check_equal(written: AnyCompressed, network: AnyCompressed) -> None:
    """Bit by bit, so that nothing that is not the network takes an older file's place."""
    found = dict(_arrays(written))
    for name, values in _arrays(network):
        if name not in found or not np.array_equal(
            found[name].view(np.uint32), values.view(np.uint32)
        ):
            raise InputError(f"The file does not give back the {name}")


def _arrays(network: AnyCompressed) -> Iterator[tuple[str, Values]]:
    if isinstance(network, CompressedModel):
        yield from ((name, network.values(name)) for name in network.arrays)
        return
    for part in ("kernels", "biases"):
        for name, shared in getattr(network, part).items():
            yield f"{part} of {name}", shared.values


def _naming(path: Path | str, function: Callable[..., Read], *arguments: bytes) -> Read:
    try:
        return function(*arguments)
    except sqz.SqzError as error:
        raise sqz.SqzError(f"{path}: {error}") from error
