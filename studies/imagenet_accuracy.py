"""How accurate the published SqueezeNets are in every form that this package gives them.

    python studies/imagenet_accuracy.py --images PATH/imagenet_dev --output results/imagenet.csv \
        --v1-0-float32 PATH/squeezenet_v1.0_fp32.npz

Each network is measured on labelled ImageNet photos (a folder with labels.csv): its images squeezed
into the square by Pillow alone and prepared by `preprocess_input`, which is the reference; then
prepared inside of the model, in the other data format, through this package's own pipeline, and as
LiteRT files. `decisions_changed` counts the images whose first class differs from the reference's.
The int8 file is calibrated with 100 of the images and measured on the others, on which the
reference gets a row of its own to compare with. About 10 minutes on 2 cores.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

# First of all: TensorFlow's greetings are not for the reader of the progress.
import keras_squeezenet.startup.quiet  # noqa: F401

# isort: split
import keras
import numpy as np
from PIL import Image

from keras_squeezenet import SqueezeNet
from keras_squeezenet.data import load_labelled
from keras_squeezenet.files import write_csv
from keras_squeezenet.inference.evaluation import Predictions, evaluate_predictions, predict_batches
from keras_squeezenet.litert.export import export_litert
from keras_squeezenet.litert.model import LiteRTModel
from keras_squeezenet.litert.quantizations import QUANTIZATIONS
from keras_squeezenet.network import imagenet

IMAGE_SIZE = 227
SHORT_SIDE = 256  # of which the usual evaluation crops the centre
BATCH_SIZE = 32
CALIBRATION_IMAGES = 100
CLASS_NAMES = tuple(map(str, range(imagenet.CLASSES)))

Row = dict[str, object]
Resize = int | Literal["stretch"]


@dataclass(frozen=True)
class Photos:
    """Labelled images: those of the folder, and the same in squares by Pillow alone.

    Attributes:
        folder: with a labels.csv.
        pixels: float32 `[n, IMAGE_SIZE, IMAGE_SIZE, 3]`, RGB 0…255.
        labels: int32 `[n]`.
    """

    folder: str
    pixels: np.ndarray
    labels: np.ndarray

    def predictions(self, probabilities: np.ndarray) -> Predictions:
        return Predictions.from_probabilities(
            np.arange(len(self.labels)), self.labels, probabilities
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", required=True, help="a folder with labels.csv")
    parser.add_argument("--output", type=Path, required=True, help="the CSV file to write")
    parser.add_argument("--v1-0-float32", type=Path, help="float32 weights of 1.0, to measure too")
    asked = parser.parse_args()

    rows: list[Row] = []
    photos = read_photos(asked.images)
    for name, version, weights in published_weights(asked.v1_0_float32):
        for row in measure_network(photos, version, weights):
            rows.append({"weights": name, **row})
            print(rows[-1], file=sys.stderr, flush=True)
    write_csv(asked.output, rows)


def published_weights(
    v1_0_float32: Path | None = None,
) -> Iterator[tuple[str, str, str | Path]]:
    """(name, version, argument `weights`) of each set of weights."""
    yield "1.0 deep-compressed", "1.0", "imagenet"
    if v1_0_float32:
        yield "1.0 float32", "1.0", v1_0_float32
    yield "1.1", "1.1", "imagenet"


def read_photos(folder: str) -> Photos:
    """The photos of a folder with a labels.csv, squeezed by Pillow whatever our pipeline does."""
    listed = load_labelled(
        folder, class_names=None, classes=imagenet.CLASSES, image_size=IMAGE_SIZE
    )
    assert listed.labels is not None  # the file says them
    pixels = np.empty((listed.count, IMAGE_SIZE, IMAGE_SIZE, 3), np.float32)
    for index in range(listed.count):
        path = listed.file_name(index)
        assert path is not None  # in a folder each has one
        pixels[index] = read_square(path)
    return Photos(folder, pixels, listed.labels)


def read_square(path: str | Path) -> np.ndarray:
    """uint8 `[IMAGE_SIZE, IMAGE_SIZE, 3]`."""
    with Image.open(path) as image:
        size = (IMAGE_SIZE, IMAGE_SIZE)
        return np.asarray(image.convert("RGB").resize(size, Image.Resampling.BILINEAR))


def measure_network(photos: Photos, version: str, weights: str | Path) -> Iterator[Row]:
    """A row for each form of one network."""
    network = build(version, weights)
    reference = photos.predictions(predict(network, imagenet.preprocess_input(photos.pixels)))
    weights_file = imagenet.weights_path(version) if weights == "imagenet" else weights
    size = os.path.getsize(weights_file)
    yield row("Keras", "stretch, Pillow", reference, reference, size)

    includes = build(version, weights, include_preprocessing=True)
    inside = photos.predictions(predict(includes, photos.pixels))
    yield row("Keras, include_preprocessing", "stretch, Pillow", inside, reference, size)
    moved = photos.predictions(predict_channels_first(version, weights, photos.pixels))
    yield row("Keras, channels_first", "stretch, Pillow", moved, reference, size)
    framings: dict[str, Resize]
    framings = {"stretch": "stretch", f"centre of {SHORT_SIDE}": SHORT_SIDE}
    for framing, resize in framings.items():
        ours = predict_folder(includes, photos.folder, resize)
        yield row("Keras, include_preprocessing", framing, ours, reference, size)
    yield from measure_files(includes, photos, reference)


def build(version: str, weights: str | Path, **options: Any) -> keras.Model:
    shape = (IMAGE_SIZE, IMAGE_SIZE, 3)
    if keras.config.image_data_format() == "channels_first":
        shape = shape[::-1]
    return SqueezeNet(version=version, weights=weights, input_shape=shape, **options)


def predict(network: keras.Model, images: np.ndarray) -> np.ndarray:
    return network.predict(images, batch_size=BATCH_SIZE, verbose=0)


def predict_channels_first(version: str, weights: str | Path, pixels: np.ndarray) -> np.ndarray:
    data_format = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        network = build(version, weights, include_preprocessing=True)
        return predict(network, pixels.transpose(0, 3, 1, 2))
    finally:
        keras.config.set_image_data_format(data_format)


def predict_folder(network: keras.Model, folder: str, resize: Resize) -> Predictions:
    """Predictions on what this package's own pipeline makes of the folder."""
    images = load_labelled(
        folder,
        class_names=None,
        classes=imagenet.CLASSES,
        image_size=IMAGE_SIZE,
        resize=resize,
        max_broken_share=0.0,
    )
    with images.clear_errors():
        batches = images.indexed_val_batches(BATCH_SIZE)
        predictions = predict_batches(network.predict_on_batch, batches)
    assert predictions is not None  # there are images
    return predictions


def measure_files(network: keras.Model, photos: Photos, reference: Predictions) -> Iterator[Row]:
    """A row for each kind of LiteRT file."""
    calibration, others = divide(len(photos.labels))
    measured: np.ndarray | slice
    for quantize, kind in QUANTIZATIONS.items():
        measured = others if kind.calibrated else slice(None)
        known = subset(reference, measured)
        if kind.calibrated:
            yield row("Keras", "stretch, Pillow", known, known, "")
        with tempfile.TemporaryDirectory() as folder:
            result = export_litert(
                network,
                Path(folder) / "network.tflite",
                quantize=quantize,
                calibration=photos.pixels[calibration] if kind.calibrated else None,
                check_images=photos.pixels[others][:CALIBRATION_IMAGES],
            )
            probabilities = LiteRTModel(result.path).predict(photos.pixels)
        found = subset(photos.predictions(probabilities), measured)
        yield row(f"LiteRT {quantize}", "stretch, Pillow", found, known, result.bytes)


def divide(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of images to calibrate with, evenly spread, and of all others."""
    calibration = np.linspace(0, count, CALIBRATION_IMAGES, endpoint=False, dtype=int)
    return calibration, np.setdiff1d(np.arange(count), calibration)


def subset(predictions: Predictions, chosen: np.ndarray | slice) -> Predictions:
    return Predictions(
        predictions.index[chosen],
        predictions.labels[chosen],
        predictions.top_classes[chosen],
        predictions.top_probabilities[chosen],
        predictions.label_probability[chosen],
    )


def row(
    form: str, framing: str, predictions: Predictions, reference: Predictions, size: int | str
) -> Row:
    measured = evaluate_predictions(predictions, CLASS_NAMES)
    changed = predictions.top_classes[:, 0] != reference.top_classes[:, 0]
    return {
        "form": form,
        "framing": framing,
        "image_size": IMAGE_SIZE,
        "images": measured.count,
        "top1": round(measured.top1, 4),
        "top1_standard_error": round(measured.top1_standard_error, 4),
        "top5": round(measured.top5, 4),
        "decisions_changed": int(changed.sum()),
        "bytes": size,
    }


if __name__ == "__main__":
    main()
