"""Files that others published: in a folder of the user's, in Keras's cache, or downloaded into it.

A file is known by its SHA-256, and nothing else is ever read, kept or put in the place of another.
"""

import contextlib
import hashlib
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from keras_squeezenet.errors import InputError, one_line

FOLDER_VARIABLE = "KERAS_SQUEEZENET_WEIGHTS"
SECONDS_WITHOUT_A_BYTE = 30

log = logging.getLogger(__name__)


class PublishedFileError(InputError):
    """A published file that cannot be had, or is not what was published; one line."""


@dataclass(frozen=True)
class PublishedFile:
    """A file on the web, and how to know it.

    Attributes:
        what: for messages.
        name: in the cache and in the user's folder.
        url: where it is downloaded from.
        sha256: of its bytes.
        folder: in Keras's cache.
    """

    what: str
    name: str
    url: str
    sha256: str
    folder: str = "models"

    @property
    def own(self) -> Path | None:
        """Where it is in the folder that KERAS_SQUEEZENET_WEIGHTS names; None where none is."""
        folder = os.environ.get(FOLDER_VARIABLE)
        return Path(folder) / self.name if folder else None

    @property
    def cached(self) -> Path:
        """Where it is in Keras's cache once it was downloaded."""
        # Keras's own rule, which it does not export.
        home = os.environ.get("KERAS_HOME") or "~/.keras"
        return Path(home).expanduser() / self.folder / self.name

    @property
    def is_at_hand(self) -> bool:
        """Whether it is in the user's folder or in Keras's cache, whole: nothing is downloaded.

        Raises:
            OSError: what is there cannot be read.
        """
        # In the order of `published_path`, which takes no other where the user's folder has one.
        found = (path for path in (self.own, self.cached) if path and path.is_file())
        return any(_sha256(path) == self.sha256 for path in list(found)[:1])


def published_path(file: PublishedFile) -> Path:
    """Where a published file is: in the user's folder, in Keras's cache, or downloaded into it.

    Several processes may ask at once: each downloads a file of its own and renames it.

    Raises:
        PublishedFileError: the folder that KERAS_SQUEEZENET_WEIGHTS names is missing, or holds
            other bytes under that name; or the download failed or brought other bytes. A good
            file in the cache is never touched.
        OSError: what is there cannot be read.
    """
    own, cached = file.own, file.cached
    if own:
        if not own.parent.is_dir():
            raise PublishedFileError(
                f"{FOLDER_VARIABLE} must name a folder. Received: {own.parent}"
            )
        if own.is_file():
            _check_hash(own, file, own)
            return own
    if cached.is_file():
        if _sha256(cached) == file.sha256:
            return cached
        log.warning("%s is not the published file and is downloaded again", cached)
    _download(file, cached)
    return cached


def _download(file: PublishedFile, destination: Path) -> None:
    """Download beside `destination`; only what has the right hash is moved there."""
    import keras

    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        # A folder of its own: ranks that start together do not write into each other's file.
        with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=destination.parent) as folder:
            # Keras shows its progress on standard output, which belongs to the results.
            with contextlib.redirect_stdout(sys.stderr), _patience():
                downloaded = Path(
                    keras.utils.get_file(file.name, file.url, cache_dir=folder, cache_subdir="")
                )
            _check_hash(downloaded, file, file.url)
            downloaded.replace(destination)
    except PublishedFileError:
        raise
    except Exception as error:  # get_file raises bare Exceptions
        raise PublishedFileError(
            f"The {file.what} cannot be downloaded from {file.url} ({one_line(error)}). Put the "
            f"file at {destination}, or into a folder that the environment variable "
            f"{FOLDER_VARIABLE} names"
        ) from error


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """Keras waits for ever for a server that sends nothing, unless sockets are told not to."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SECONDS_WITHOUT_A_BYTE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _check_hash(path: Path, file: PublishedFile, received: Path | str) -> None:
    found = _sha256(path)
    if found != file.sha256:
        raise PublishedFileError(
            f"Expected the {file.what} with SHA-256 {file.sha256}. "
            f"Received: {received} with SHA-256 {found}"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
