"""`classify --explain`: a picture of where a classifier looked.

Keras is imported when something is explained, so that what cannot be is refused at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_squeezenet.data.images import read_square, read_thumbnail
from keras_squeezenet.errors import InputError
from keras_squeezenet.inference.explain import ExplanationError, grad_cam
from keras_squeezenet.reports import figures

if TYPE_CHECKING:
    from keras_squeezenet.data.framing import Framing
    from keras_squeezenet.inference.classifiers import Classifier, Prediction


def check_explainable(out: Path, model_path: Path | None, files: Sequence[Path]) -> None:
    """What can be said of a drawing before the model is read.

    Args:
        out: path of the PNG to write.
        model_path: None of a published network.
        files: paths of the images.

    Raises:
        InputError: the model has no gradients, there are too many images, or `out` is not the name
            of a PNG or that of one of the images.
    """
    if model_path is not None and model_path.suffix == ".tflite":
        raise ExplanationError(
            f"--explain needs gradients, and a .tflite file has none. Received: {model_path}"
        )
    if out.suffix.lower() != ".png" or out.is_dir():
        raise InputError(f"--explain takes the name of a PNG file to write. Received: {out}")
    if out.exists() and any(out.samefile(file) for file in files):
        raise InputError(f"--explain would replace one of the images. Received: {out}")
    if len(files) > figures.EXPLAINED_PICTURES:
        raise InputError(
            f"--explain draws at most {figures.EXPLAINED_PICTURES} images. Received: {len(files)}"
        )


def draw_explanations(
    out: Path,
    classifier: Classifier,
    files: Sequence[Path],
    framing: Framing,
    predictions: Sequence[Sequence[Prediction]],
) -> None:
    """Draw images with what the classifier said and where it looked for the first class.

    Args:
        out: path of the PNG to write.
        classifier: a `Classifier` with a Keras model.
        files: paths of the images, at most `figures.EXPLAINED_PICTURES`.
        framing: the `Framing` they were classified with.
        predictions: of each image its `Prediction`s, the most probable first.

    Raises:
        InputError: an image can no longer be read, the model cannot be explained, or `out` cannot
            be written.
    """
    images = np.stack([read_square(file, framing) for file in files])
    maps = grad_cam(classifier.model, images, [found[0].index for found in predictions])
    rows = []
    for file, heat, found in zip(files, maps, predictions, strict=True):
        photo = read_thumbnail(file, figures.EXPLAINED_SIDE)
        height, width = photo.shape[:2]
        seen = np.divide(framing.box(width, height), (width, height, width, height))
        named = [(prediction.name, prediction.probability) for prediction in found]
        rows.append(figures.Explanation(file.name, photo, tuple(seen), heat, named))
    try:
        figures.explanations(rows, out)
    except OSError as error:
        raise InputError(f"--explain cannot write {out}: {error.strerror}") from error
