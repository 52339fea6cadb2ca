"""What `include_preprocessing=True` costs: the published SqueezeNet 1.1 with and without it.

    python studies/preprocessing_cost.py --output results/preprocessing_cost.csv

Both networks run in turn, so that what else the machine does touches both alike. A round's time is
the median of its runs; the table has the median of the rounds and the range of their ratios. In
LiteRT files the preprocessing is folded into the first convolution, so both have the same
operators. About 3 minutes on 2 cores.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

# First of all: TensorFlow's greetings are not for the reader of the progress.
import keras_squeezenet.startup.quiet  # noqa: F401

# isort: split
import keras
import numpy as np

from keras_squeezenet import SqueezeNet
from keras_squeezenet.files import write_csv
from keras_squeezenet.litert.export import export_litert
from keras_squeezenet.litert.model import LiteRTModel
from keras_squeezenet.machine import describe
from keras_squeezenet.network import imagenet

IMAGE_SIZE = 227
BATCH_SIZES = (1, 32)
SECONDS_PER_ROUND = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="the CSV file to write")
    parser.add_argument("--rounds", type=int, default=7, help="how many (default: %(default)s)")
    asked = parser.parse_args()

    rows: list[dict[str, object]] = []
    shape = (IMAGE_SIZE, IMAGE_SIZE, 3)
    pixels = np.random.default_rng(0).integers(0, 256, (max(BATCH_SIZES), *shape))
    pixels = pixels.astype(np.float32)
    prepared = imagenet.preprocess_input(pixels)
    without, including = (
        SqueezeNet(input_shape=shape, weights="imagenet", include_preprocessing=included)
        for included in (False, True)
    )
    forms = {
        "Keras": (without.predict_on_batch, including.predict_on_batch),
        "LiteRT none": (predict_in_litert(without, prepared), predict_in_litert(including, pixels)),
    }
    for form, (predict_without, predict_with) in forms.items():
        for batch in BATCH_SIZES:
            calls = (
                partial(predict_without, prepared[:batch]),
                partial(predict_with, pixels[:batch]),
            )
            pairs = np.array([one_round(*calls) for _ in range(asked.rounds)])
            rows.append({"form": form, "batch": batch, **summary(pairs), "machine": describe()})
            print(rows[-1], file=sys.stderr, flush=True)
    write_csv(asked.output, rows)


def predict_in_litert(
    network: keras.Model, images: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.tflite"
        export_litert(network, path, check_images=images, batch_size=None)
        return LiteRTModel(path).predict


def one_round(*calls: Callable[[], object]) -> np.ndarray:
    """The median seconds of each of the calls."""
    for call in calls:
        call()  # builds its graph, fills the caches
    runs = []
    end = time.perf_counter() + SECONDS_PER_ROUND
    while time.perf_counter() < end:
        runs.append([seconds(call) for call in calls])
    return np.median(runs, axis=0)


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def summary(pairs: np.ndarray) -> dict[str, float]:
    """Of seconds [rounds, 2], without preprocessing and with it."""
    without, including = 1000 * np.median(pairs, axis=0)
    ratios = pairs[:, 1] / pairs[:, 0]
    return {
        "rounds": len(pairs),
        "without_ms": round(float(without), 2),
        "with_ms": round(float(including), 2),
        "ratio": round(float(np.median(ratios)), 3),
        "least_ratio": round(float(ratios.min()), 3),
        "greatest_ratio": round(float(ratios.max()), 3),
    }


if __name__ == "__main__":
    main()
