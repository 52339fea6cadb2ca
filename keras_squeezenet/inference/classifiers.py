"""A classifier, published or in a file, .keras, .sqz or .tflite, asked the same way.

Keras is imported when a model is opened, so that a wrong file name is answered at once.
"""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_squeezenet.errors import InputError, one_line
from keras_squeezenet.extras import NotInstalledError
from keras_squeezenet.files import find_beside
from keras_squeezenet.inference.layers_in_files import odd_layer
from keras_squeezenet.litert.model import LiteRTModel
from keras_squeezenet.network.architecture import PRESETS
from keras_squeezenet.sqz import SqzError
from keras_squeezenet.sqz.files import read_network
from keras_squeezenet.sqz.model import CompressedModel
from keras_squeezenet.sqz.network import CompressedNetwork

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

CLASS_NAMES_FILE = "class_names.json"
MAX_LABELS_BYTES = 1 << 20

PUBLISHED_VERSIONS = tuple(PRESETS)

_BATCH_SIZE = 32
# Room for the rounding of a softmax, in whichever precision it was computed.
_PROBABILITY_SLACK = 1e-3


class ModelFileError(InputError):
    """A model file that cannot be used; the text is one line and names the file."""


@dataclass(frozen=True, eq=False)
class Classifier:
    """What a model can do.

    Attributes:
        path: the file; of a published network, that of its weights.
        image_size: side in pixels of the square RGB images it takes.
        classes: number of classes.
        class_names: in the order of the outputs; None where the file came without.
        predict: images float32 `[n, image_size, image_size, 3]`, RGB 0…255, to probabilities
            float32 `[n, classes]`.
        model: the `keras.Model`, except of a .tflite file.
    """

    path: Path
    image_size: int
    classes: int
    class_names: tuple[str, ...] | None
    predict: Callable[[np.ndarray], np.ndarray]
    model: keras.Model | None = None


@dataclass(frozen=True)
class Prediction:
    """One of the classes that a picture may show.

    Attributes:
        index: of the class in the classifier's outputs.
        name: its name; "class 17" where the classifier came without names.
        probability: 0 to 1.
    """

    index: int
    name: str
    probability: float

    def to_dict(self) -> dict[str, Any]:
        return {"class": self.index, "name": self.name, "probability": self.probability}


def check_model_path(path: str | Path) -> Path:
    """What can be said of a model file before it is read.

    Raises:
        ModelFileError: it does not exist, is no file, or is called like none.
    """
    path = Path(path)
    if path.is_dir():
        raise ModelFileError(f"A model is a file, {_endings()}. Received: {path}, a folder")
    if not path.is_file():
        raise ModelFileError(
            f"Expected {', '.join(PUBLISHED_VERSIONS)} or an existing model file. Received: {path}"
        )
    if path.suffix not in _READERS:
        raise ModelFileError(f"A model file ends in {_endings()}. Received: {path}")
    return path


def open_classifier(path: str | Path) -> Classifier:
    """A classifier, whatever holds it, asked the same way.

    Args:
        path: of a .keras file, with class_names.json beside it, or a .sqz or .tflite file; or "1.0"
            or "1.1", the published ImageNet network. Of a .keras file that is a link,
            class_names.json may be beside the file that it leads to.

    Returns:
        A `Classifier`: its `predict` takes float32 `[n, side, side, 3]`, RGB 0…255, and gives
        probabilities float32 `[n, classes]`.

    Raises:
        ModelFileError: one line: the file is missing, broken, or no image classifier.
        PublishedFileError: the published weights cannot be had.
        NotInstalledError: LiteRT is not installed, and the file is a .tflite file.
    """
    if str(path) in PUBLISHED_VERSIONS:
        return open_published(str(path))
    path = check_model_path(path)
    try:
        return _READERS[path.suffix](path)
    except (ModelFileError, NotInstalledError):
        raise
    except Exception as error:  # both libraries raise nearly anything for hostile bytes
        raise ModelFileError(
            f"The model file cannot be read: {path}: {one_line(error, 300)}"
        ) from error


def read_model(path: str | Path) -> keras.Model:
    """The Keras model in a .keras or .sqz file, whatever it takes and gives.

    Raises:
        ModelFileError: one line: the file is missing, broken, or holds no Keras model.
    """
    path = check_model_path(path)
    if path.suffix == ".tflite":
        raise ModelFileError(f"Expected a .keras or .sqz file. Received: {path}")
    try:
        return _load_keras(path) if path.suffix == ".keras" else _load_sqz(path)[1]
    except ModelFileError:
        raise
    except Exception as error:  # as in `open_classifier`
        raise ModelFileError(
            f"The model file cannot be read: {path}: {one_line(error, 300)}"
        ) from error


def open_published(version: str) -> Classifier:
    """The published ImageNet network, "1.0" or "1.1", at the size that it was designed for.

    Raises:
        ValueError: its weights cannot be had; the text says what to do.
    """
    from keras_squeezenet.network import imagenet
    from keras_squeezenet.network.models import SqueezeNet

    model = SqueezeNet(weights="imagenet", version=version, include_preprocessing=True)
    path = Path(imagenet.weights_path(version))
    image_size, classes = _sizes(path, model.input_shape, model.output_shape)
    names = tuple(imagenet.class_names())
    return Classifier(path, image_size, classes, names, model.predict_on_batch, model)


def read_class_names(path: str | Path) -> tuple[str, ...]:
    """Class names of a file: a JSON list of strings, or text with a name in each line.

    Raises:
        InputError: the file cannot be read, is larger than 1 MiB, or holds something else.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_LABELS_BYTES + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"The class names cannot be read: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"Expected class names as text in UTF-8 in {path}: {error}") from error
    if len(content) > MAX_LABELS_BYTES:
        raise InputError(f"Expected at most {MAX_LABELS_BYTES} bytes of class names in {path}")
    lines = _names_in_json(path, text) if text.lstrip().startswith("[") else text.splitlines()
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise InputError(f"Expected class names in {path}. Received: none")
    return names


def name_classes(
    classifier: Classifier, class_names: tuple[str, ...], path: str | Path
) -> Classifier:
    """The same classifier with the class names that `read_class_names` read from `path`.

    Raises:
        ModelFileError: the names are not as many as the classes.
    """
    _check_count(class_names, classifier.classes, path)
    return replace(classifier, class_names=class_names)


def classify(
    classifier: Classifier, images: Iterable[np.ndarray], top: int = 5
) -> Iterator[tuple[Prediction, ...]]:
    """The most probable classes of each image.

    Args:
        classifier: as `open_classifier` or `open_published` gives it.
        images: `[image_size, image_size, 3]` each, RGB 0…255. They are taken in batches, as they
            are needed.
        top: how many classes; where there are fewer, all of them.

    Yields:
        `Prediction`s of one image, the most probable first and of equals the lower index.

    Raises:
        ModelFileError: an output is no probability.
    """
    names = classifier.class_names or [f"class {index}" for index in range(classifier.classes)]
    for batch in _batches(images):
        for probabilities in _probabilities(classifier, batch):
            best = np.argsort(-probabilities, kind="stable")[:top]
            yield tuple(Prediction(int(i), names[i], float(probabilities[i])) for i in best)


def _load_keras(path: Path) -> keras.Model:
    import keras

    if not zipfile.is_zipfile(path):
        raise ModelFileError(f"Expected an archive that Keras saved. Received: {path}")
    try:
        return keras.saving.load_model(path, compile=False)
    except (TypeError, ValueError) as error:
        odd = odd_layer(path)
        if odd is not None and odd[1] == "Lambda":
            raise ModelFileError(
                "A file's own code is not run: a layer of your own, in a module that --import "
                f"names, can take the place of a Lambda. Received: {path}: layer {odd[0]} of class "
                "Lambda"
            ) from error
        if "Could not locate" not in str(error):
            raise
        name, kind = odd or ("?", one_line(error, 80))
        raise ModelFileError(
            "A layer's class is neither Keras's nor of this package. If it is in a module of "
            "yours: keras-squeezenet --import MODULE …. "
            f"Received: {path}: layer {name} of class {kind}"
        ) from error


def _open_keras(path: Path) -> Classifier:
    model = _load_keras(path)
    image_size, classes = _sizes(path, model.input_shape, model.output_shape)
    if not _prepares_images(model):
        _warn_of_pixels(path)
    names = _names_beside(path, classes)
    return Classifier(path, image_size, classes, names, model.predict_on_batch, model)


def _prepares_images(model: keras.Model) -> bool:
    import keras

    from keras_squeezenet.network.graph import every_layer
    from keras_squeezenet.network.layers import ImagePreprocessing

    prepares = (ImagePreprocessing, keras.layers.Rescaling, keras.layers.Normalization)
    return any(isinstance(layer, prepares) for layer in every_layer(model))


def _load_sqz(path: Path) -> tuple[CompressedNetwork | CompressedModel, keras.Model]:
    try:
        network = read_network(path)
    except SqzError as error:
        raise ModelFileError(str(error)) from error
    # Only of a file that holds a network.
    from keras_squeezenet.compression.saving import model_of

    return network, model_of(network)


def _open_sqz(path: Path) -> Classifier:
    network, model = _load_sqz(path)
    if isinstance(network, CompressedNetwork):
        image_size, classes = network.input_size, network.classes
    else:
        image_size, classes = _sizes(path, model.input_shape, model.output_shape)
        if network.class_names is not None:
            _check_count(network.class_names, classes, path)
    if not _prepares_images(model):
        _warn_of_pixels(path)
    return Classifier(path, image_size, classes, network.class_names, model.predict_on_batch, model)


def _open_litert(path: Path) -> Classifier:
    model = LiteRTModel(path)
    image_size, classes = _sizes(path, model.input.shape, model.output.shape)
    return Classifier(path, image_size, classes, model.class_names, model.predict)


_READERS = {".keras": _open_keras, ".sqz": _open_sqz, ".tflite": _open_litert}


def _endings() -> str:
    *others, last = _READERS
    return f"{', '.join(others)} or {last}"


def _warn_of_pixels(path: Path) -> None:
    log.warning(
        "%s has no layer that prepares images, and is given RGB 0…255 as they are. If it was "
        "trained on others, build it with include_preprocessing",
        path,
    )


def _sizes(path: Path, input_shape: Sequence[Any], output_shape: Sequence[Any]) -> tuple[int, int]:
    # Of several inputs or outputs the shapes are in a list, or by name.
    if not (
        isinstance(input_shape, tuple)
        and isinstance(output_shape, tuple)
        and len(input_shape) == 4
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


def _names_beside(path: Path, classes: int) -> tuple[str, ...] | None:
    names_path = find_beside(path, CLASS_NAMES_FILE)
    if names_path is None:
        return None
    names = _names_in_json(names_path, names_path.read_text(encoding="utf-8"))
    _check_count(names, classes, names_path)
    return tuple(names)


def _check_count(names: Sequence[str], classes: int, path: Path | str) -> None:
    if len(names) != classes:
        raise ModelFileError(
            f"Expected {classes} class names, as many as the model has classes. "
            f"Received: {len(names)} in {path}"
        )


def _names_in_json(path: Path, text: str) -> list[str]:
    try:
        names = json.loads(text)
    # RecursionError: ten thousand opening brackets.
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"Expected a JSON list of class names in {path}: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelFileError(f"Expected a list of class names in {path}")
    return names


def _batches(images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    images = iter(images)
    while batch := list(islice(images, _BATCH_SIZE)):
        yield np.stack(batch).astype(np.float32)


def _probabilities(classifier: Classifier, batch: np.ndarray) -> np.ndarray:
    probabilities = np.asarray(classifier.predict(batch)).astype(np.float32)
    # A NaN fails both comparisons.
    fine = (probabilities >= -_PROBABILITY_SLACK) & (probabilities <= 1 + _PROBABILITY_SLACK)
    if not fine.all():
        raise ModelFileError(
            "Expected a model whose outputs are probabilities, from 0 to 1. "
            f"Received: {probabilities[~fine][0]} from {classifier.path}"
        )
    return probabilities
