"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009)."""

import tarfile
import zlib
from dataclasses import dataclass

import numpy as np

from keras_squeezenet.data.errors import DataError
from keras_squeezenet.data.examples import ArrayExamples, Source, frozen_labels
from keras_squeezenet.downloads import PublishedFile, PublishedFileError, published_path
from keras_squeezenet.errors import one_line


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

    @property
    def file(self) -> PublishedFile:
        name = self.url.rsplit("/", 1)[-1]
        return PublishedFile("CIFAR archive", name, self.url, self.sha256, folder="datasets")


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
            class_names = tuple(_content(tar, archive.names_member).decode().split())
        images = np.concatenate([images for images, _ in train])
        labels = np.concatenate([labels for _, labels in train])
    except (OSError, EOFError, tarfile.TarError, zlib.error, KeyError, ValueError) as error:
        raise DataError(f"{path}: not the {name} archive of {archive.url} ({error})") from error
    return Source(name, class_names, ArrayExamples(images, labels), ArrayExamples(*test))


def _cifar_records(
    tar: tarfile.TarFile, member: str, archive: CifarArchive
) -> tuple[np.ndarray, np.ndarray]:
    content = np.frombuffer(_content(tar, member), np.uint8)
    records = content.reshape(-1, archive.label_bytes + 3 * 32 * 32)
    planes = records[:, archive.label_bytes :].reshape(-1, 3, 32, 32)
    return (
        np.ascontiguousarray(planes.transpose(0, 2, 3, 1)),
        frozen_labels(records[:, archive.label_bytes - 1]),
    )


def _content(tar: tarfile.TarFile, member: str) -> bytes:
    file = tar.extractfile(member)
    if file is None:
        raise ValueError(f"{member} is no file")
    return file.read()


def download_cifar(name: str) -> str:
    """Where an archive is, downloaded into Keras's cache unless it is at hand.

    Raises:
        DataError: The download failed, or is not the file that was expected.
    """
    try:
        return str(published_path(CIFAR_ARCHIVES[name].file))
    except (PublishedFileError, OSError) as error:
        raise DataError(f"{name}: {one_line(error)}") from error


def is_cached(name: str) -> bool:
    """Whether an archive is on this machine, whole, so that nothing has to be downloaded.

    Raises:
        OSError: What is there cannot be read.
    """
    return CIFAR_ARCHIVES[name].file.is_at_hand
