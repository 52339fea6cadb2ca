"""Images to compress a trained network with, and others to judge the result by."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from keras_squeezenet import data
from keras_squeezenet.data.examples import evenly_spread
from keras_squeezenet.data.folders import has_labels_file, has_splits, image_files

if TYPE_CHECKING:  # it imports TensorFlow
    from keras_squeezenet.data.split import Split

MOST_HELD_OUT = 2000  # images in memory, 0.15 MB each at 224 x 224
BATCH = 32


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Images that a network was not compressed with.

    Attributes:
        images: uint8 `[n, side, side, 3]`, RGB.
        labels: int64 `[n]`, positions among the classifier's outputs; None where they are not
            known or are of other classes.
    """

    images: np.ndarray
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.images)

    def decisions(self, predict: Callable[[np.ndarray], Any]) -> np.ndarray:
        """The class that a classifier gives each image: int64 `[n]`.

        Args:
            predict: float32 images, RGB 0…255, to outputs `[n, classes]`.
        """
        starts = range(0, len(self.images), BATCH)
        batches = (self.images[start : start + BATCH].astype(np.float32) for start in starts)
        return np.concatenate([np.asarray(predict(batch)).argmax(axis=1) for batch in batches])

    def top1(self, decisions: np.ndarray) -> float | None:
        """Share (0 to 1) of the decisions that are right; None without labels."""
        return None if self.labels is None else float(np.mean(decisions == self.labels))

    def drop(self, before: np.ndarray, after: np.ndarray) -> float:
        """What a changed network loses, in percentage points.

        Args:
            before, after: its `decisions` before and after the change.

        Returns:
            By how much top-1 fell (below 0: it rose), or without labels the share of the decisions
            that are others.
        """
        if self.labels is None:
            return 100 * float(np.mean(before != after))
        # With labels neither is None, which mypy does not see.
        return 100 * (self.top1(before) - self.top1(after))  # type: ignore[operator]


@dataclass(frozen=True, eq=False)
class Samples:
    """What `draw_samples` found.

    Attributes:
        calibration: float32 `[n, side, side, 3]`, RGB 0…255, in random order.
        held_out: a `HeldOut` of other images.
    """

    calibration: np.ndarray
    held_out: HeldOut


def draw_samples(
    source: str,
    *,
    class_names: tuple[str, ...] | None,
    classes: int,
    image_size: int,
    resize: int | Literal["stretch"] | None,
    max_broken_share: float,
    count: int,
    val_fraction: float = 0.2,
    seed: int = 0,
) -> Samples:
    """Read images of a source, and set others of it apart.

    Args:
        source: as in `load_dataset`: the training split is to compress with, the validation split
            to judge by. Or a folder of image files, or one with a `labels.csv` as in
            `load_labelled`, of which every second image is for the one and the others for the
            other.
        class_names: the classifier's, or None where they are not known.
        classes: the number of its classes.
        image_size, resize, max_broken_share: see `load_dataset`.
        count: images to compress with, at most. 2,000 are held out at most.
        val_fraction, seed: of the division of a data set that has none, see `load_dataset`.

    Raises:
        DataError: the source is missing or empty, or too many of its images are broken.
    """
    folder = Path(os.path.expanduser(source))
    framing: dict[str, Any] = {
        "image_size": image_size,
        "resize": resize,
        "max_broken_share": max_broken_share,
    }
    if has_labels_file(folder) and not has_splits(folder):
        split = data.load_labelled(source, class_names=class_names, classes=classes, **framing)
        return _of_labelled_folder(split, count)
    if folder.is_dir() and image_files(folder):
        images = [batch[0] for batch in data.sample_images(source, count=2 * count, **framing)]
        return _samples(_stacked(images[::2], image_size), _stacked(images[1::2], image_size), None)
    dataset = data.load_dataset(source, val_fraction=val_fraction, seed=seed, **framing)
    with dataset.clear_errors():
        calibration, _ = _read(dataset.train, count, 0, 1)
        held_out, labels = _read(dataset.val, MOST_HELD_OUT, 0, 1)
    return _samples(
        calibration, held_out, _matched(labels, dataset.class_names, class_names, classes)
    )


def _of_labelled_folder(split: "Split", count: int) -> Samples:
    with split.clear_errors():
        calibration, _ = _read(split, count, 0, 2)
        held_out, labels = _read(split, MOST_HELD_OUT, 1, 2)
    return _samples(calibration, held_out, labels)


def _samples(calibration: np.ndarray, held_out: np.ndarray, labels: np.ndarray | None) -> Samples:
    # They came sorted by class, and the first ones have to be of all classes.
    order = np.random.default_rng(0).permutation(len(calibration))
    return Samples(calibration[order].astype(np.float32), HeldOut(held_out, labels))


def _read(split: "Split", most: int, part: int, parts: int) -> tuple[np.ndarray, np.ndarray]:
    """(images, labels) of one of several parts of a split: at most so many, spread evenly."""
    indices = np.arange(part, split.count, parts)
    images, labels = [], []
    for batch, label in split.batches_at(indices[evenly_spread(len(indices), most)], 1):
        images.append(batch.numpy()[0])
        labels.append(int(label[0]))
    return _stacked(images, split.framing.image_size), np.array(labels, np.int64)


def _stacked(images: Sequence[np.ndarray], side: int) -> np.ndarray:
    return np.array(images, np.uint8).reshape(-1, side, side, 3)


def _matched(
    labels: np.ndarray,
    names: tuple[str, ...],
    class_names: tuple[str, ...] | None,
    classes: int,
) -> np.ndarray | None:
    """Labels of a data set as positions among a classifier's classes; None where it has others."""
    if class_names is None:
        return labels if len(names) == classes else None
    if not set(names) <= set(class_names):
        return None
    return np.array([class_names.index(name) for name in names], np.int64)[labels]
