"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009)."""

import contextlib
import hashlib
import http.client
import logging
import os
import shutil
import tarfile
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_squeezenet.data.errors import DataError
from keras_squeezenet.data.examples import ArrayExamples, Source, frozen_labels, one_line

logger = logging.getLogger(__name__)

TIMEOUT = 30
"""Seconds without any byte from the server."""


@dataclass(frozen=True)
class CifarArchive:
    """The binary edition of CIFAR: records of one size in a tar file.

    Source: https://www.cs.toronto.edu/~kriz/cifar.html. keras.datasets takes the
    Python edition, which has to be unpickled, and gives no class names.

    Attributes:
        sha256: As recorded by tensorflow_datasets.
        label_bytes: Labels before each picture's 3,072 bytes. The last is the one that counts:
            CIFAR-100 has the coarse label first.
    """

    url: str
    sha256: str
    train_members: tuple[str, ...]
    test_member: str
    names_member: str
    label_bytes: int


CIFAR_ARCHIVES = {
    "cifar10": CifarArchive(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        train_members=tuple(f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)),
        test_member="cifar-10-batches-bin/test_batch.bin",
        names_member="cifar-10-batches-bin/batches.meta.txt",
        label_bytes=1,
    ),
    "cifar100": CifarArchive(
        url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        train_members=("cifar-100-binary/train.bin",),
        test_member="cifar-100-binary/test.bin",
        names_member="cifar-100-binary/fine_label_names.txt",
        label_bytes=2,
    ),
}


def read_cifar(name: str, path: str) -> Source:
    """Read a downloaded archive straight into arrays (184 MB); nothing is unpacked to the disk.

    Raises:
        DataError: The file is not that archive.
    """
    archive = CIFAR_ARCHIVES[name]
    try:
        with tarfile.open(path) as tar:
            train = [_cifar_records(tar, member, archive) for member in archive.train_members]
            test = _cifar_records(tar, archive.test_member, archive)
            class_names = tuple(tar.extractfile(archive.names_member).read().decode().split())
        images = np.concatenate([images for images, _ in train])
        labels = np.concatenate([labels for _, labels in train])
    except (OSError, EOFError, tarfile.TarError, zlib.error, KeyError, ValueError) as error:
        raise DataError(f"{path}: not the {name} archive of {archive.url} ({error})") from error
    return Source(name, class_names, ArrayExamples(images, labels), ArrayExamples(*test))


def _cifar_records(
    tar: tarfile.TarFile, member: str, archive: CifarArchive
) -> tuple[np.ndarray, np.ndarray]:
    content = np.frombuffer(tar.extractfile(member).read(), np.uint8)
    records = content.reshape(-1, archive.label_bytes + 3 * 32 * 32)
    planes = records[:, archive.label_bytes :].reshape(-1, 3, 32, 32)
    return (
        np.ascontiguousarray(planes.transpose(0, 2, 3, 1)),
        frozen_labels(records[:, archive.label_bytes - 1]),
    )


def download_cifar(name: str) -> str:
    """Fetch an archive into Keras's cache unless it is there, and check its SHA-256.

    Several processes may do so at once: each writes a file of its own and renames it.

    Returns:
        The archive's path.

    Raises:
        DataError: The download failed, or is not the file that was expected.
    """
    archive, target = CIFAR_ARCHIVES[name], _place_in_cache(name)
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        if is_cached(name):
            return str(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        logger.info("Downloading %s to %s", archive.url, target)
        with (
            urllib.request.urlopen(archive.url, timeout=TIMEOUT) as response,
            part.open("wb") as file,
        ):
            shutil.copyfileobj(response, file)
        digest = _sha256(part)
        if digest != archive.sha256:
            raise DataError(f"expected SHA-256 {archive.sha256}, got {digest}")
        os.replace(part, target)
    except (OSError, http.client.HTTPException, DataError) as error:
        raise DataError(
            f"{archive.url} could not be downloaded; a copy belongs at {target} ({one_line(error)})"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
    return str(target)


def is_cached(name: str) -> bool:
    """Whether an archive is in Keras's cache, whole, so that nothing has to be downloaded.

    Raises:
        OSError: What is there cannot be read.
    """
    path = _place_in_cache(name)
    return path.exists() and _sha256(path) == CIFAR_ARCHIVES[name].sha256


def _place_in_cache(name: str) -> Path:
    home = os.path.expanduser(os.environ.get("KERAS_HOME", "~/.keras"))
    return Path(home, "datasets", CIFAR_ARCHIVES[name].url.rsplit("/", 1)[-1])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
