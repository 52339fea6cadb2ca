"""Images to measure, calibrate and compare a trained model with.

Those of a folder without classes are read without TensorFlow; all others are a `Split`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from keras_squeezenet import data
from keras_squeezenet.data.broken import BrokenImages
from keras_squeezenet.data.errors import DataError
from keras_squeezenet.data.examples import evenly_spread
from keras_squeezenet.data.folders import (
    find_pictures,
    has_labels_file,
    has_splits,
    image_files,
    open_class_folders,
    open_labels_file,
)
from keras_squeezenet.data.framing import Framing
from keras_squeezenet.data.images import decode_square, open_image
from keras_squeezenet.errors import one_line

if TYPE_CHECKING:
    from keras_squeezenet.data.split import Split

MADE_CONTRAST = 0.5  # of made images: of each pattern relative to the one twice as coarse


def load_labelled(
    source: str,
    *,
    class_names: tuple[str, ...] | None,
    classes: int,
    image_size: int,
    resize: int | Literal["stretch"] | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
    max_broken_share: float = 0.05,
    held_out: bool = False,
) -> Split:
    """Find labelled images to measure a classifier with.

    Args:
        source: As in `load_dataset`, whose validation split is meant; but of a folder of class
            folders without `train/` every image is. Or a folder with a `labels.csv`, of columns
            `file` (in the folder or in its `images/`) and `class_index` (the position among the
            classifier's outputs); other columns are ignored.
        class_names: The classifier's classes in the order of its outputs, or None where they are
            not known: then those of the source, or numbers with a `labels.csv`.
        classes: The number of the classifier's classes.
        image_size, resize, val_fraction, seed, max_broken_share: See `load_dataset`.
        held_out: Of a folder of class folders too, only what `load_dataset` holds out of training.

    Raises:
        DataError: As `load_dataset`, and when the source has other classes than the classifier.
    """
    folder = Path(os.path.expanduser(source))
    framing = Framing(image_size, resize)
    if has_labels_file(folder) and not has_splits(folder):
        examples = open_labels_file(folder, classes)
        broken = BrokenImages(folder.name, len(examples), max_broken_share)
        class_names = class_names or tuple(map(str, range(classes)))
        return data.Split(class_names, examples, framing, broken)
    if class_names and not held_out and folder.is_dir() and not has_splits(folder):
        examples = open_class_folders(folder, class_names)
        broken = BrokenImages(folder.name, len(examples), max_broken_share)
        return data.Split(class_names, examples, framing, broken)
    dataset = data.load_dataset(
        source,
        image_size=image_size,
        resize=resize,
        val_fraction=val_fraction,
        seed=seed,
        max_broken_share=max_broken_share,
    )
    if len(dataset.class_names) != classes:
        raise DataError(
            f"{source}: expected as many classes as the model has, {classes}. "
            f"Received: {len(dataset.class_names)} classes"
        )
    if class_names and class_names != dataset.class_names:
        pairs = zip(class_names, dataset.class_names, strict=True)
        expected, received = next(pair for pair in pairs if pair[0] != pair[1])
        raise DataError(
            f"{source}: expected the model's classes, {expected!r} among them. "
            f"Received: {received!r} in its place"
        )
    return dataset.val


def count_shared(split: Split, other: Split) -> int:
    """How many examples of a split are files that another has too, however their paths are written.

    Examples that are no files of their own, such as CIFAR's, are not counted.
    """
    files = _real_files(other)
    return sum(file in files for file in _real_files(split))


def _real_files(split: Split) -> set[str]:
    # Of each folder once: `realpath` asks for every part of a path, 25 µs a file.
    real_folder = functools.cache(os.path.realpath)

    def real_path(path: str) -> str:
        if os.path.islink(path):
            return os.path.realpath(path)
        folder, name = os.path.split(path)
        return os.path.join(real_folder(folder), name)

    names = map(split.examples.file_name, range(split.count))
    return {real_path(name) for name in names if name}


def _images_without_classes(folder: Path) -> list[Path]:
    """The images of a folder that has no folder for each class."""
    if not folder.is_dir():
        return []
    return find_pictures([folder]) if has_labels_file(folder) else image_files(folder)


def sample_images(
    source: str,
    *,
    image_size: int,
    resize: int | Literal["stretch"] | None = None,
    max_broken_share: float = 0.05,
    count: int = 100,
    val_fraction: float = 0.2,
    seed: int = 0,
) -> Iterator[np.ndarray]:
    """Read images spread evenly over a source, framed as in evaluation.

    Args:
        source: As in `load_dataset`, whose training split is meant; or a folder of image files, or
            one with a `labels.csv`, of which all images are.
        image_size, resize, max_broken_share, val_fraction, seed: See `load_dataset`.
        count: At most so many.

    Yields:
        float32 `[1, image_size, image_size, 3]`, RGB 0…255.

    Raises:
        DataError: The source is missing or empty, or too many of its images are broken.
    """
    folder = Path(os.path.expanduser(source))
    files = _images_without_classes(folder)
    if files:
        framing = Framing(image_size, resize)
        broken = BrokenImages(folder.name, len(files), max_broken_share)
        for path in (files[index] for index in evenly_spread(len(files), count)):
            try:
                with open_image(str(path)) as image:
                    pixels = decode_square(image, framing)
            # Pillow's plug-ins raise nearly anything for hostile bytes.
            except Exception as error:
                broken.add(str(path), one_line(error))
                continue
            yield pixels[None].astype("float32")
        return
    train = data.load_dataset(
        source,
        image_size=image_size,
        resize=resize,
        val_fraction=val_fraction,
        seed=seed,
        max_broken_share=max_broken_share,
    ).train
    with train.clear_errors():
        for images, _ in train.batches_at(evenly_spread(train.count, count), 1):
            yield images.numpy()


def made_images(count: int, image_size: int) -> Iterator[np.ndarray]:
    """Images where there are no photos: coloured clouds, coarse ones strong and fine ones weak.

    They are always the same. They tell whether two forms of a network compute the same; what a
    network does with photos they do not tell.

    Yields:
        float32 `[1, image_size, image_size, 3]`, from 0 to 255.
    """
    rng = np.random.default_rng(0)
    for _ in range(count):
        image, contrast, cells = np.zeros((image_size, image_size, 3)), 1.0, 2
        while cells <= max(image_size, 2):
            pattern = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
            side = image_size, image_size
            image += contrast * np.asarray(pattern.resize(side, Image.Resampling.BILINEAR), float)
            contrast, cells = contrast * MADE_CONTRAST, 2 * cells
        low, high = image.min(), image.max()
        yield (255 * (image - low) / max(high - low, 1e-9))[None].astype("float32")
