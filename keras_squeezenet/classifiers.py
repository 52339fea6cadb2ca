"""A classifier in a file, .keras or .tflite, asked the same way."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from keras_squeezenet import layers  # noqa: F401 - registers Fire and the others with Keras
from keras_squeezenet.errors import InputError
from keras_squeezenet.litert import LiteRTModel

CLASS_NAMES_FILE = "class_names.json"


class ModelFileError(InputError):
    """A model file that cannot be used; the text is one line and names the file."""


@dataclass(frozen=True, eq=False)
class Classifier:
    """What a model file can do.

    Attributes:
        path: the file.
        image_size: side in pixels of the square RGB images it takes.
        classes: number of classes.
        class_names: in the order of the outputs; None where the file came without.
        predict: images float32 `[n, image_size, image_size, 3]`, RGB 0…255, to probabilities
            float32 `[n, classes]`.
        model: the `keras.Model`, of a .keras file.
    """

    path: Path
    image_size: int
    classes: int
    class_names: tuple[str, ...] | None
    predict: Callable[[np.ndarray], np.ndarray]
    model: keras.Model | None = None


def open_classifier(path):
    """Read a .keras file, with class_names.json beside it, or a .tflite file.

    Raises:
        ModelFileError: one line: the file is missing, broken, or no image classifier.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"The model file does not exist. Received: {path}")
    if path.suffix not in _READERS:
        raise ModelFileError(f"A model file ends in .keras or .tflite. Received: {path}")
    try:
        return _READERS[path.suffix](path)
    except ModelFileError:
        raise
    except Exception as error:  # both libraries raise nearly anything for hostile bytes
        text = " ".join(str(error).split())
        raise ModelFileError(f"The model file cannot be read: {path}: {text[:300]}") from error


def _open_keras(path):
    model = keras.saving.load_model(path, compile=False)
    image_size, classes = _sizes(path, model.input_shape, model.output_shape)
    return Classifier(
        path, image_size, classes, _names_beside(path, classes), model.predict_on_batch, model
    )


def _open_litert(path):
    model = LiteRTModel(path)
    image_size, classes = _sizes(path, model.input.shape, model.output.shape)
    return Classifier(path, image_size, classes, model.class_names, model.predict)


_READERS = {".keras": _open_keras, ".tflite": _open_litert}


def _sizes(path, input_shape, output_shape):
    if not (
        len(input_shape) == 4
        and input_shape[1] == input_shape[2]
        and input_shape[1]
        and input_shape[3] == 3
        and len(output_shape) == 2
    ):
        raise ModelFileError(
            "Expected a model from square RGB images (n, side, side, 3) to (n, classes). "
            f"Received: {tuple(input_shape)} to {tuple(output_shape)} in {path}"
        )
    return int(input_shape[1]), int(output_shape[1])


def _names_beside(path, classes):
    names_path = path.with_name(CLASS_NAMES_FILE)
    if not names_path.exists():
        return None
    names = json.loads(names_path.read_text(encoding="utf-8"))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelFileError(f"Expected a list of class names in {names_path}")
    if len(names) != classes:
        raise ModelFileError(
            f"Expected {classes} class names, as many as the model has classes. "
            f"Received: {len(names)} in {names_path}"
        )
    return tuple(names)
