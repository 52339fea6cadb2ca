"""Which data set is meant by a name or a path."""

import contextlib
import os
import sys

import numpy as np
from PIL import Image

from keras_squeezenet.data.cifar import CIFAR_ARCHIVES, download_cifar, is_cached, read_cifar
from keras_squeezenet.data.errors import DataError
from keras_squeezenet.data.examples import (
    ArrayExamples,
    RecordExamples,
    Source,
    frozen_labels,
    stratified_split,
)
from keras_squeezenet.data.folders import open_folder
from keras_squeezenet.errors import one_line
from keras_squeezenet.extras import from_extra


def open_source(source: str, *, val_fraction: float, seed: int) -> Source:
    """Find the examples of `source`; see `load_dataset`."""
    if source == "digits":
        return _digits(val_fraction, seed)
    if source in CIFAR_ARCHIVES:
        return read_cifar(source, download_cifar(source))
    if source.startswith("tfds:"):
        return _tensorflow_datasets(source.removeprefix("tfds:"), val_fraction, seed)
    return open_folder(source, val_fraction=val_fraction, seed=seed)


def resolved(source: str) -> str:
    """A source in one spelling: the real path of a folder; a name as it is."""
    return source if _is_name(source) else os.path.realpath(os.path.expanduser(source))


def is_folder(source: str) -> bool:
    """Whether a source is a folder that exists. A data set by name is none, whatever lies there."""
    return not _is_name(source) and os.path.isdir(os.path.expanduser(source))


def is_at_hand(source: str) -> bool:
    """Whether a source is on this machine: to read it downloads nothing.

    Raises:
        OSError: It is there and cannot be read.
    """
    if source in CIFAR_ARCHIVES:
        return is_cached(source)
    if source.startswith("tfds:"):
        return _is_prepared(source.removeprefix("tfds:"))
    return source == "digits" or is_folder(source)


def _is_prepared(name: str) -> bool:
    try:
        with from_extra("tfds"):
            import tensorflow_datasets as tfds

        return tfds.builder(name).is_prepared()
    except Exception:  # it raises what it likes; to read the data set says what is wrong
        return False


def _is_name(source: str) -> bool:
    return source == "digits" or source in CIFAR_ARCHIVES or source.startswith("tfds:")


def is_same_source(one: str, other: str) -> bool:
    """Whether two sources are one data set, or one folder, however they are written."""
    one, other = resolved(one), resolved(other)
    if one == other:
        return True
    # A folder may have two real paths: mounted twice, or where names ignore the case.
    are_folders = all(os.path.isabs(path) and os.path.isdir(path) for path in (one, other))
    return are_folders and os.path.samefile(one, other)


def _digits(val_fraction: float, seed: int) -> Source:
    with from_extra("train"):
        from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=-1)
    labels = digits.target
    names = [str(index) for index in range(len(labels))]
    train, val = stratified_split(names, labels, val_fraction=val_fraction, seed=seed)
    return Source(
        "digits",
        tuple(str(name) for name in digits.target_names),
        ArrayExamples(images[train], frozen_labels(labels[train])),
        ArrayExamples(images[val], frozen_labels(labels[val])),
        # 8x8 pixels grow many times over; bilinear would leave visible squares.
        Image.Resampling.BICUBIC,
    )


def _tensorflow_datasets(name: str, val_fraction: float, seed: int) -> Source:
    with from_extra("tfds"):
        import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name)
        if not builder.is_prepared():
            # Of their file formats, the one that can be read in any order.
            builder = tfds.builder(name, file_format="array_record")
            # It tells its progress on standard output, which belongs to the results.
            with contextlib.redirect_stdout(sys.stderr):
                builder.download_and_prepare()
    except Exception as error:
        raise DataError(f"tfds:{name}: {one_line(error)}") from error

    file_format = builder.info.file_format.value
    if file_format != "array_record":
        raise DataError(
            f"tfds:{name}: was prepared in {builder.data_dir} in a format without random access; "
            f"set TFDS_DATA_DIR to another folder. Received: file_format={file_format}"
        )
    features = dict(builder.info.features.items())
    label = features.get("label")
    if "image" not in features or not isinstance(label, tfds.features.ClassLabel):
        raise DataError(
            f"tfds:{name}: expected the features image and label (a class). "
            f"Received: features={', '.join(features)}"
        )
    splits = tuple(builder.info.splits)
    if "train" not in splits:
        raise DataError(
            f"tfds:{name}: expected a train split. Received: splits={', '.join(splits)}"
        )

    def examples(split: str) -> RecordExamples:
        encoded = {"image": tfds.decode.SkipDecoding()}
        return RecordExamples(
            f"tfds:{name}/{split}", builder.as_data_source(split, decoders=encoded)
        )

    held_out = next((split for split in ("validation", "test") if split in splits), None)
    train = examples("train")
    parts = (train, examples(held_out)) if held_out else train.divided(val_fraction, seed)
    return Source(name, tuple(label.names), *parts)
