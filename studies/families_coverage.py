"""Which training-time compression each family of keras.applications goes through.

    python studies/families_coverage.py --output results/coverage.csv

A small network of each family, at the smallest images it takes, learns to tell made-up pictures
of four colours apart, and then goes through each scheme for two steps: it is whether a scheme
runs, not what it is worth on photos. The networks are made by Keras's own code; where that allows
it, of few blocks with few filters, because what runs or not is a matter of the layers and how they
are joined.

A row says:

- `ok`: yes; no, and `reason` is the error's line; or not tried: the network did not learn.
- `accuracy_before`, `accuracy`: of the network, and of what the scheme made of it, the 8-bit file
  where it gives one, on 64 pictures that nothing was trained on.
- `agreement`: the share of images of which the first class is the same, and
  `largest_difference` that of a probability: of a Keras model against its tf_keras twin, of an
  8-bit file against the network that was trained in 8 bits.
- `bytes`: of the LiteRT file, where the scheme gives one.
- `seconds`: of the scheme, file included, on this machine. What a scheme starts from (a pruned
  network for PQAT) is made once, and not among them.

Trained networks are kept in the folder `--networks`. Rows that are in the file already are not
measured again: an interrupted study goes on. Delete the rows that a change of the code concerns.
"""

import argparse
import csv
import datetime
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

# First of all: TensorFlow's greetings are not for the reader of the progress.
import keras_squeezenet.startup.quiet  # noqa: F401

# isort: split
import keras
import numpy as np
from keras import layers
from small_applications import CLASSES, FAMILIES, Member

from keras_squeezenet import (
    ConstantSparsity,
    Retraining,
    cluster,
    dense_sparse_dense,
    distill,
    prune,
    quantize_aware,
)
from keras_squeezenet.compression.with_training.bridge import to_tf_keras
from keras_squeezenet.errors import InputError
from keras_squeezenet.files import write_csv
from keras_squeezenet.litert.comparison import ExportError
from keras_squeezenet.litert.model import LiteRTModel

TRAINED_ON, TESTED_ON = 128, 64  # images
BATCH_SIZE = 32
MOST_EPOCHS = 60
LEARNED = 0.05  # a loss below which a network has learned
LEAST_ACCURACY = 0.9  # of a network that decides clearly enough to be compared by its decisions
MOST_DIFFERENCE = 1e-4  # of probabilities in float32
COLOURS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
RETRAINING = Retraining(epochs=1, steps_per_epoch=2, learning_rate=1e-4)
ROW_NAMES = ("family", "scheme")

Row = dict[str, object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="the CSV file to write")
    parser.add_argument("--only", action="append", metavar="FAMILY", choices=FAMILIES)
    parser.add_argument("--networks", type=Path, default=Path("runs/coverage"), metavar="FOLDER")
    asked = parser.parse_args()
    rows = read_rows(asked.output)
    for family in asked.only or FAMILIES:
        missing = [scheme for scheme in SCHEMES if (family, scheme) not in rows]
        if not missing:
            continue
        subject = Subject(family, FAMILIES[family], asked.networks)
        for scheme in missing:
            say(f"{family}, {scheme}")
            rows[family, scheme] = row = measured(subject, scheme)
            write_csv(asked.output, in_order(rows))
            say(f"{family}, {scheme}: {row['ok']} in {row['seconds']} s {row['reason']}")
        keras.backend.clear_session()


def say(text: str) -> None:
    print(f"{datetime.datetime.now():%H:%M:%S} {text}", file=sys.stderr, flush=True)


def read_rows(path: Path) -> dict[tuple[str, ...], Row]:
    """The rows of a table that was begun, by what they are about."""
    if not path.exists():
        return {}
    with open(path, encoding="utf-8", newline="") as file:
        return {tuple(row[name] for name in ROW_NAMES): row for row in csv.DictReader(file)}


def in_order(rows: Mapping[tuple[str, ...], Row]) -> list[Row]:
    return [
        rows[family, scheme]
        for family in FAMILIES
        for scheme in SCHEMES
        if (family, scheme) in rows
    ]


class Subject:
    """A trained network of a family, and what schemes start from."""

    def __init__(self, family: str, member: Member, folder: Path) -> None:
        self.family, self.member = family, member
        self.path = folder / f"{family}.weights.h5"
        keras.utils.set_random_seed(0)
        self._new_model = member.short_model()
        self.images, self.labels = self._pictures(TRAINED_ON, seed=0)
        self.other_images, self.other_labels = self._pictures(TESTED_ON, seed=1)

    @property
    def batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for first in range(0, TRAINED_ON, BATCH_SIZE):
            some = slice(first, first + BATCH_SIZE)
            yield self.images[some], self.labels[some]

    @cached_property
    def model(self) -> keras.Model:
        """Trained: the outputs of a random deep network change with any rounding."""
        model = self._new_model
        if self.path.exists():
            model.load_weights(self.path)
        else:
            self._train(model)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Keras insists on the ending.
            unfinished = self.path.with_name(f"unfinished.{self.path.name}")
            model.save_weights(unfinished)
            unfinished.replace(self.path)
        return model

    @cached_property
    def pruned(self) -> keras.Model:
        schedule = ConstantSparsity()
        data = list(self.batches)
        return prune(self.model, data, retraining=RETRAINING, sparsity=0.5, schedule=schedule).model

    @cached_property
    def clustered(self) -> keras.Model:
        return clustered(self.model, self)

    @cached_property
    def pruned_and_clustered(self) -> keras.Model:
        return clustered(self.pruned, self)

    def accuracy(self, network: Callable[[np.ndarray], Any]) -> float:
        """Of what takes images and gives an output for each class."""
        outputs = np.asarray(network(self.other_images))
        return round(float(np.mean(outputs.argmax(1) == self.other_labels)), 3)

    def _pictures(self, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Light and dark places of four colours."""
        side, labels = self.member.side, np.arange(count) % CLASSES
        coarse = np.random.default_rng(seed).uniform(100, 255, (count, 3, 3, 3))
        coarse *= COLOURS[labels][:, None, None]
        pixels = np.asarray(keras.ops.image.resize(coarse, (side, side)), np.float32)
        first = (layers.Rescaling, layers.Normalization)
        takes_pixels = any(isinstance(layer, first) for layer in self._new_model.layers)
        return (pixels if takes_pixels else pixels / 127.5 - 1), labels

    def _train(self, model: keras.Model) -> None:
        begin = time.perf_counter()
        optimizer = keras.optimizers.Adam(self.member.learning_rate)
        model.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=False)
        history = model.fit(
            self.images,
            self.labels,
            batch_size=BATCH_SIZE,
            epochs=MOST_EPOCHS,
            verbose=0,
            callbacks=[_UntilLearned()],
        ).history["loss"]
        set_statistics(model, self.images)
        say(
            f"{self.family}: learned in {len(history)} epochs and "
            f"{time.perf_counter() - begin:.0f} s to a loss of {history[-1]:.3f}, "
            f"accuracy on other pictures {self.accuracy(model):.3f}"
        )


# Makes something of a network, and gives the columns that say what.
Scheme = Callable[[keras.Model, Subject], Row]


class _UntilLearned(keras.callbacks.Callback):
    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        assert logs is not None  # `fit` gives them
        self.model.stop_training = logs["loss"] < LEARNED


def set_statistics(model: keras.Model, images: np.ndarray) -> None:
    """Those of batch normalizations to what images give: their averages need hundreds of steps."""
    found = [each for each in model.layers if isinstance(each, layers.BatchNormalization)]
    momenta = [each.momentum for each in found]
    for each in found:
        each.momentum = 0.0
    model(images, training=True)
    for each, momentum in zip(found, momenta, strict=True):
        each.momentum = momentum


def measured(subject: Subject, scheme: str) -> Row:
    row: Row = {"family": subject.family, "model": subject.member.description, "scheme": scheme}
    today: Row = {"date": f"{datetime.date.today():%Y-%m-%d}"}
    names = ("accuracy_before", "accuracy", "agreement", "largest_difference", "bytes", "seconds")
    found: Row = dict.fromkeys(names, "")
    try:
        found["accuracy_before"] = before = subject.accuracy(subject.model)
        if before < LEAST_ACCURACY:
            return row | {"ok": "not tried", "reason": ""} | found | today
        start, run = SCHEMES[scheme]
        network = getattr(subject, start)
        begin = time.perf_counter()
        try:
            found |= run(network, subject)
        finally:
            found["seconds"] = round(time.perf_counter() - begin, 1)
        verdict: Row = {"ok": "yes", "reason": ""}
    except (InputError, ExportError) as error:
        verdict = {"ok": "no", "reason": str(error)}
    # What TensorFlow and tfmot raise on their own is what the study is after, too.
    except Exception as error:
        line = (str(error).strip() or "no text").splitlines()[0]
        verdict = {"ok": "no", "reason": f"{type(error).__name__}: {line}"}
    return row | verdict | found | today


def against_twin(model: keras.Model, subject: Subject) -> Row:
    few = subject.images[:8]
    twin = np.asarray(to_tf_keras(model)(few, training=False))
    own = np.asarray(model(few, training=False))
    difference = float(f"{np.abs(own - twin).max():.1e}")
    if not difference < MOST_DIFFERENCE:
        raise InputError(f"the twin's probabilities differ by {difference} from the model's")
    return {
        "accuracy": subject.accuracy(model),
        "agreement": round(float(np.mean(own.argmax(1) == twin.argmax(1))), 3),
        "largest_difference": difference,
    }


def clustered(model: keras.Model, subject: Subject) -> keras.Model:
    return cluster(model, list(subject.batches), retraining=RETRAINING, bits=4).model


def dense_again(model: keras.Model, subject: Subject) -> keras.Model:
    return dense_sparse_dense(model, list(subject.batches), retraining=RETRAINING).model


def distilled(model: keras.Model, subject: Subject) -> keras.Model:
    return distill(model, model, list(subject.batches), retraining=RETRAINING).model


def in_float(scheme: Callable[[keras.Model, Subject], keras.Model]) -> Scheme:
    return lambda model, subject: against_twin(scheme(model, subject), subject)


def in_8_bits(preserve: str | None) -> Scheme:
    """A scheme that trains in 8 bits and writes the file."""

    def scheme(model: keras.Model, subject: Subject) -> Row:
        data = list(subject.batches)
        trained = quantize_aware(model, data, retraining=RETRAINING, preserve=preserve)
        with tempfile.TemporaryDirectory() as folder:
            try:
                result = trained.write_litert(Path(folder) / "model.tflite")
            except ExportError as error:
                raise ExportError(str(error).replace(f"{folder}/", "")) from error
            assert result.decisions_equal is not None  # of a classifier
            return {
                "accuracy": subject.accuracy(LiteRTModel(result.path).predict),
                "agreement": round(float(result.decisions_equal), 3),
                "largest_difference": round(float(result.max_difference), 4),
                "bytes": result.bytes,
            }

    return scheme


# What it starts from, an attribute of `Subject`, and what it does.
SCHEMES: dict[str, tuple[str, Scheme]] = {
    "prune": ("model", lambda model, subject: against_twin(subject.pruned, subject)),
    "cluster": ("model", lambda model, subject: against_twin(subject.clustered, subject)),
    "dense_sparse_dense": ("model", in_float(dense_again)),
    "distill": ("model", in_float(distilled)),
    "QAT": ("model", in_8_bits(None)),
    "PQAT": ("pruned", in_8_bits("sparsity")),
    "CQAT": ("clustered", in_8_bits("clusters")),
    "PCQAT": ("pruned_and_clustered", in_8_bits("clusters")),
}


if __name__ == "__main__":
    main()
