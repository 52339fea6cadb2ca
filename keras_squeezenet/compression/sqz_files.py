"""Files of compressed networks and their updates, read and written without a framework."""

from pathlib import Path

from keras_squeezenet.compression import sqz
from keras_squeezenet.errors import InputError
from keras_squeezenet.files import replacing

# More bytes than any that the readers would take: the largest network they allow is smaller.
MAX_FILE_BYTES = 1 << 30


def read_network(path):
    """The `CompressedNetwork` in a .sqz file.

    Raises:
        SqzError: the file is none, or broken; the text is one line and names it.
        OSError: it cannot be read.
    """
    return _naming(path, sqz.decode, _content(path))


def write_network(network, path, mode="best"):
    """Write a .sqz file, read it back, and only then put it in place.

    Args:
        network: a `CompressedNetwork`.
        path: of the file, which is replaced where it exists.
        mode: "best" or "faithful", see `sqz.encode`.

    Returns:
        The `CompressedNetwork` that was read back.

    Raises:
        InputError: for a network that no .sqz file holds.
        OSError: the file cannot be written.
    """
    content = sqz.encode(network, mode)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
        return read_network(temporary)


def bytes_spent(path):
    """What the bytes of a .sqz file are spent on; see `sqz.bytes_spent`."""
    return _naming(path, sqz.bytes_spent, _content(path))


def write_update(old, new, path):
    """Write what turns one .sqz file into another, once it was seen to do so.

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
    before, after = _content(old), _content(new)
    update = sqz.diff(before, after)
    with replacing(path) as temporary:
        temporary.write_bytes(update)
        if sqz.patch(before, temporary.read_bytes()) != after:
            raise InputError(f"The update from {old} to {new} does not give the new file")
    return len(update)


def apply_update(old, update, path):
    """Write the .sqz file that an update makes of another.

    Args:
        old: path of the .sqz file that the update was made for.
        update: path of what `write_update` wrote.
        path: of the new .sqz file.

    Returns:
        The new file's size in bytes.

    Raises:
        SqzError: the update is damaged, or was made for another file.
        OSError: a file cannot be read or written.
    """
    new = _naming(update, sqz.patch, _content(old), _content(update))
    with replacing(path) as temporary:
        temporary.write_bytes(new)
    return len(new)


def _content(path):
    with Path(path).open("rb") as file:
        return file.read(MAX_FILE_BYTES + 1)


def _naming(path, function, *arguments):
    try:
        return function(*arguments)
    except sqz.SqzError as error:
        raise sqz.SqzError(f"{path}: {error}") from error
