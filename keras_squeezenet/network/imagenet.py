"""ImageNet: what the published networks take and say, and their files as paths.

The files are not part of the package: `downloads` finds them, or has them downloaded. Whatever is
found has to have the SHA-256 that `published` says before a byte of it is read.
"""

import json
from functools import cache
from pathlib import Path

import keras
import numpy as np

from keras_squeezenet.checks import is_int
from keras_squeezenet.downloads import published_path
from keras_squeezenet.network.data_formats import Tensor
from keras_squeezenet.network.layers import ImagePreprocessing
from keras_squeezenet.network.published import CLASS_INDEX, WEIGHTS

CLASSES = 1000


def preprocess_input(x: np.ndarray | Tensor, data_format: str | None = None) -> np.ndarray | Tensor:
    """Prepare images for the published networks: blue-green-red minus (104, 117, 123).

    As in `keras.applications`, for a model without `include_preprocessing`; but the caller's array
    stays as it is.

    Args:
        x: RGB 0…255, an array or tensor `(height, width, 3)` or `(batch, height, width, 3)`; with
            "channels_first" `(3, height, width)` or `(batch, 3, height, width)`.
        data_format: "channels_last", "channels_first" or None for Keras's own setting.

    Returns:
        The same kind and shape, float32.

    Raises:
        ValueError: for another shape or data format.

    Example:

    >>> preprocess_input(np.zeros((224, 224, 3)))[0, 0]
    array([-104., -117., -123.], dtype=float32)
    """
    if len(x.shape) not in (3, 4):
        raise ValueError(
            "`x` must be an image or a batch of images, with three or four axes. "
            f"Received: x.shape={tuple(x.shape)}"
        )
    prepare = ImagePreprocessing("caffe", data_format, dtype="float32")
    if len(x.shape) == 4:
        prepared = prepare(x)
    else:
        prepared = keras.ops.squeeze(prepare(keras.ops.expand_dims(x, 0)), 0)
    return keras.ops.convert_to_numpy(prepared) if isinstance(x, np.ndarray) else prepared


def decode_predictions(
    preds: np.ndarray | Tensor, top: int = 5
) -> list[list[tuple[str, str, float]]]:
    """The most probable classes, as in `keras.applications`.

    Args:
        preds: array or tensor `(batch, 1000)`, of the published networks or of others that were
            trained on the same classes in the same order.
        top: how many, 1 to 1000.

    Returns:
        For each image a list of `(WordNet ID, name, score)`, the greatest score first.

    Raises:
        ValueError: for another shape or number.
        PublishedFileError: the class index is neither at hand nor to be had.
    """
    scores = keras.ops.convert_to_numpy(preds)
    if scores.ndim != 2 or scores.shape[1] != CLASSES:
        raise ValueError(
            f"`preds` must have the shape (batch, {CLASSES}). Received: preds.shape={scores.shape}"
        )
    if not is_int(top, 1, CLASSES):
        raise ValueError(f"`top` must be an integer from 1 to {CLASSES}. Received: top={top}")
    index = class_index()
    return [
        [(*index[i], float(row[i])) for i in np.argsort(-row, kind="stable")[:top]]
        for row in scores
    ]


def class_names() -> tuple[str, ...]:
    """The 1000 names in the order of the outputs: "tench", "goldfish", …"""
    return tuple(name for _, name in class_index())


@cache
def class_index() -> tuple[tuple[str, str], ...]:
    """A tuple of 1000 (WordNet ID, name)."""
    content = json.loads(published_path(CLASS_INDEX).read_text(encoding="utf-8"))
    return tuple((content[str(i)][0], content[str(i)][1]) for i in range(CLASSES))


def weights_path(version: str) -> Path:
    """Where the weights of a version are, downloaded if need be.

    Raises:
        PublishedFileError: see `downloads.published_path`.
    """
    return published_path(WEIGHTS[version])
