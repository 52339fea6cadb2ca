"""What `MagnitudePruning` costs in a step: training without it, steps that mask, steps that prune.

    python studies/pruning_cost.py --output results/pruning_cost.csv

The same SqueezeNet 1.1 is trained three ways in turn, so that what else the machine does touches
all alike: `plain`, by `fit` alone; `masking`, where the callback pruned at the first step and only
keeps zeros after that; `pruning`, where it chooses new masks at each step. A step's time is that
from its beginning to the next one's, callbacks included; a round's is the median of its steps, and
the table has the medians of the rounds: `step_ms` by the clock, `processor_ms` of all threads,
which says more on a machine that does other work.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

# First of all: TensorFlow's greetings are not for the reader of the progress.
import keras_squeezenet.startup.quiet  # noqa: F401

# isort: split
import keras
import numpy as np

from keras_squeezenet import ConstantSparsity, MagnitudePruning, PolynomialDecay, SqueezeNet
from keras_squeezenet.files import write_csv
from keras_squeezenet.machine import describe

CLASSES = 10
IMAGE_SIZES = (32, 64)
BATCH_SIZE = 32
STEPS = 20  # of a round


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="the CSV file to write")
    parser.add_argument("--rounds", type=int, default=5, help="how many (default: %(default)s)")
    asked = parser.parse_args()
    rows: list[dict[str, object]] = []
    for image_size in IMAGE_SIZES:
        rows += compared(image_size, asked.rounds)
        write_csv(asked.output, rows)


def callbacks(kind: str, steps: int = STEPS) -> list[keras.callbacks.Callback]:
    """What a round of a kind is trained with."""
    schedule: ConstantSparsity | PolynomialDecay
    if kind == "masking":
        schedule = ConstantSparsity(unit="steps")
    elif kind == "pruning":
        schedule = PolynomialDecay(unit="steps", begin=0, end=steps, every=1)
    else:
        return []
    return [MagnitudePruning(0.67, schedule)]


KINDS = ("plain", "masking", "pruning")


def compared(image_size: int, rounds: int) -> list[dict[str, object]]:
    """A row for each kind."""
    model = SqueezeNet(
        version="1.1", weights=None, classes=CLASSES, input_shape=(image_size, image_size, 3)
    )
    model.compile(keras.optimizers.SGD(1e-3), "sparse_categorical_crossentropy", jit_compile=False)
    generator = np.random.default_rng(0)
    count = STEPS * BATCH_SIZE
    images = generator.uniform(-1, 1, (count, image_size, image_size, 3)).astype("float32")
    labels = np.arange(count) % CLASSES
    times: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    # The first round, in which TensorFlow traces the step, does not count.
    for number in range(rounds + 1):
        for kind in KINDS:
            found = round_of(model, images, labels, callbacks(kind))
            if number:
                times[kind].append(found)
        shown = {kind: np.round(of[-1], 1).tolist() for kind, of in times.items() if of}
        print(f"{image_size} pixels, round {number} of {rounds}: {shown}", file=sys.stderr)
    medians = {kind: np.median(of, axis=0) for kind, of in times.items()}
    return [
        {
            "network": "SqueezeNet 1.1",
            "backend": keras.backend.backend(),
            "image_size": image_size,
            "batch_size": BATCH_SIZE,
            "steps": kind,
            "rounds": rounds,
            "step_ms": round(float(step), 1),
            "processor_ms": round(float(processor), 1),
            "processor_more": round(float(processor / medians["plain"][1] - 1), 3),
            "machine": describe(),
        }
        for kind, (step, processor) in medians.items()
    ]


def round_of(
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    others: Sequence[keras.callbacks.Callback],
) -> np.ndarray:
    """(milliseconds by the clock, of the processor): medians of a round's steps."""
    stopwatch = Stopwatch()
    model.fit(images, labels, batch_size=BATCH_SIZE, verbose=0, callbacks=[stopwatch, *others])
    # The first step of a run also finds the kernels.
    return np.median(np.diff(stopwatch.begins, axis=0)[1:], axis=0) * 1000


class Stopwatch(keras.callbacks.Callback):
    """When each step began."""

    def __init__(self) -> None:
        super().__init__()
        self.begins: list[tuple[float, float]] = []

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.begins.append((time.perf_counter(), time.process_time()))


if __name__ == "__main__":
    main()
