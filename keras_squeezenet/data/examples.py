"""Which examples there are: files of a folder, arrays in memory, records of tensorflow_datasets."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from keras_squeezenet.data.errors import DataError
from keras_squeezenet.data.images import open_image
from keras_squeezenet.errors import one_line


class Examples(ABC):
    """A numbered collection of labelled pictures, each read when it is asked for.

    Attributes:
        labels: int32, one class index per example; None where only reading an example tells.
    """

    labels: np.ndarray | None

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> tuple[Image.Image, int]:
        """The opened picture, perhaps not decoded yet, and its label.

        Raises:
            Exception: It cannot be read. Pillow raises nearly anything for hostile bytes.
        """

    def file_name(self, index: int) -> str | None:
        """The file that holds this example alone, if there is one."""
        return None

    def describe(self, index: int) -> str:
        """What a message calls this example."""
        return self.file_name(index) or f"example {index}"


@dataclass(frozen=True, eq=False)
class FileExamples(Examples):
    """Image files; `files` are relative to `folder`."""

    folder: str
    files: tuple[str, ...]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> tuple[Image.Image, int]:
        return open_image(self.file_name(index)), int(self.labels[index])

    def file_name(self, index: int) -> str:
        return os.path.join(self.folder, self.files[index])


@dataclass(frozen=True, eq=False)
class ArrayExamples(Examples):
    """Pictures in memory: uint8 `[count, height, width, 3]`."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.images[index]), int(self.labels[index])


@dataclass(frozen=True, eq=False)
class RecordExamples(Examples):
    """A split of tensorflow_datasets with random access, its pictures still encoded.

    Attributes:
        name: of the split.
        records: dicts of an encoded `image` and a `label`, by number.
        numbers: those that belong to the collection; None: all.
    """

    name: str
    records: Any
    numbers: np.ndarray | None = None
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.records if self.numbers is None else self.numbers)

    def read(self, index: int) -> tuple[Image.Image, int]:
        record = self.records[self._number(index)]
        return open_image(BytesIO(record["image"])), int(record["label"])

    def describe(self, index: int) -> str:
        return f"{self.name}[{self._number(index)}]"

    def _label(self, number: int) -> int:
        try:
            return int(self.records[number]["label"])
        except Exception as error:  # a reader of foreign records raises what it likes
            raise DataError(f"{self.name}: record {number}: {one_line(error)}") from error

    def _number(self, index: int) -> int:
        return index if self.numbers is None else int(self.numbers[index])

    def divided(self, val_fraction: float, seed: int) -> tuple["RecordExamples", "RecordExamples"]:
        """Training and validation, as `stratified_split`: it reads every record for its label.

        Raises:
            DataError: one has none.
        """
        labels = np.array([self._label(number) for number in range(len(self.records))])
        names = [str(number) for number in range(len(labels))]
        train, val = (
            replace(self, numbers=numbers, labels=frozen_labels(labels[numbers]))
            for numbers in stratified_split(names, labels, val_fraction=val_fraction, seed=seed)
        )
        return train, val


@dataclass(frozen=True, eq=False)
class Source:
    """A data set before it is framed and batched."""

    name: str
    class_names: tuple[str, ...]
    train: Examples
    val: Examples
    resample: Image.Resampling = Image.Resampling.BILINEAR


def stratified_split(
    names: Sequence[str], labels: np.ndarray, *, val_fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Divide examples into training and validation, class by class.

    Who goes where follows from a hash of the seed and the example's name alone, so it is the same
    with every version of numpy and Python and in whichever folder the data lie.

    Args:
        names: One per example, all different.
        labels: One class index per example.
        val_fraction: Share of each class that is held out, rounded; at least one example of a class
            that has two, and never all of them.

    Returns:
        Indices of the training and of the validation examples, ascending.
    """

    def draw(index: int) -> bytes:
        # File names need not be valid Unicode on Linux.
        return hashlib.sha256(f"{seed}/{names[index]}".encode(errors="surrogateescape")).digest()

    held_out: list[int] = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(round(len(members) * val_fraction), 1), len(members) - 1)
        held_out += sorted(members.tolist(), key=draw)[:count]
    val = np.sort(np.array(held_out, np.int64))
    return np.setdiff1d(np.arange(len(labels)), val), val


def evenly_spread(count: int, most: int) -> np.ndarray:
    """Positions of at most `most` among `count`, which reach from the first to nearly the last.

    Of count / taken, where that is no integer, the distances are the integers next to it. So of
    examples sorted by class each class of count / taken or more gets one.

    Returns:
        int64 `[min(count, most)]`, ascending.
    """
    taken = min(count, most)
    return np.arange(taken, dtype=np.int64) * count // max(taken, 1)


def frozen_labels(labels: Sequence[int] | np.ndarray) -> np.ndarray:
    """A read-only int32 copy."""
    array = np.array(labels, np.int32)
    array.setflags(write=False)
    return array
