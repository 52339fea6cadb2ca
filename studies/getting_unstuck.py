"""Why training a SqueezeNet from nothing gets stuck, and what cures it: one thing varied at a time.

    python studies/getting_unstuck.py --data digits --seeds 20
    python studies/getting_unstuck.py --data PATH/imagenette --seeds 2
    python studies/getting_unstuck.py --draw

Each row of results/getting_unstuck.csv is a short training of SqueezeNet 1.1 from random values:
a case (what is set how), a seed, and how it ended. results/getting_unstuck_looks.csv has what
`keras_squeezenet.training.diagnosis` sees after each epoch of it, and
results/getting_unstuck_layers.csv, for the first seeds, what each layer looked like on the way.

A row that is there already is not computed again, so the command may be ended and started at any
time; other settings of a case make its old rows void. The same case and seed give the same row, bit
for bit, on the same machine with the same number of threads. --cases takes some cases only. --draw
computes nothing and renews the figures and tables of docs/getting_unstuck.md from these files.

Outcomes, in the column `outcome`; all but the last two count as stuck:

- diverged: the loss is not a number.
- chance: the mean loss of the last tenth of the steps is above 97 % of ln(classes), that of equal
  probabilities.
- dead: the last convolution's ReLU gives 0 for at least one class on every validation image.
- slow: as chance, but twice as many validation images as by chance are right.
- learns: none of these.

A digits row takes 20 to 30 seconds on one core (AMD EPYC, 2026-11-27), an Imagenette row 1 to 10
minutes.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, Self

# First of all: TensorFlow's greetings are not for the reader of the progress.
import keras_squeezenet.startup.quiet  # noqa: F401

# isort: split
import keras
import numpy as np
import tensorflow as tf
from keras import layers

from keras_squeezenet import SqueezeNet, load_dataset
from keras_squeezenet.data import Split
from keras_squeezenet.files import write_csv
from keras_squeezenet.network.architecture import Architecture, preset
from keras_squeezenet.network.layers import Fire
from keras_squeezenet.network.models import AUTHORS_LAST_DEVIATION
from keras_squeezenet.network.preprocessing import Mode
from keras_squeezenet.training.diagnosis import Diagnosis, Look, Observer
from keras_squeezenet.training.model_section import SqueezeNetSection
from keras_squeezenet.training.recipe import load_recipe

RESULTS = Path(__file__).parents[1] / "results"
RECIPES = Path(__file__).parents[1] / "train" / "recipes"
PUBLISHED = ("1.0", "1.1")
BATCH_SIZE = 32
EPOCH = {"digits": 44, "imagenette": 295}  # steps
MOMENTUM = 0.9  # of sgd; rmsprop has none
SAMPLE = 128  # images on which layers are looked at
VALIDATED = 1000  # images at most on which a run is judged
LAYER_SEEDS = 3  # seeds whose layers are written
WINDOWS = 20  # parts of a run whose mean losses are written
AT_CHANCE = 0.97  # of ln(classes)
RESCALED: Final = "0 to 1"  # beside the package's modes of preprocessing

Row = dict[str, str]  # of a CSV file
Measured = dict[str, object]  # a row before it is written
Labelled = tuple[np.ndarray, np.ndarray]  # images and their labels
LayerLook = dict[str, Any]  # see `Training.look`
Outputs = Callable[[tf.Tensor], list[tf.Tensor]]


@dataclass(frozen=True)
class Case:
    """A way to train; the default is the paper's network as most users would first try it.

    Attributes:
        name: in the tables.
        preprocessing: a mode of `ImagePreprocessing`, or RESCALED, pixels divided by 255.
        kernel_initializer: of all convolutions; None is the authors' own.
        last_initializer: of the last convolution, where it differs.
        last_activation, bypass, dropout_rate: as `SqueezeNet` takes them.
        batch_normalization: after each convolution but the last, before its ReLU.
        network: a version of PUBLISHED, or metaparameters as JSON, with a bypass of their own.
        optimizer: "adam", "adamw", "rmsprop" or "sgd", with momentum 0.9.
        learning_rate: constant after `warmup_steps` on a line from 0.
        nesterov: of sgd.
        weight_decay: as `keras.optimizers` have it; not of biases and normalizations.
        epsilon: of adam, which divides gradients by their mean size plus this; and of rmsprop,
            where Keras adds it under the root: 1e-14 there is 1e-7 in adam.
        clip_norm: of all gradients together.
        steps: of 32 images.
    """

    name: str
    preprocessing: Mode | Literal["0 to 1"] = "tf"
    kernel_initializer: str | None = None
    last_initializer: str | None = None
    last_activation: str | None = "relu"
    bypass: str | None = None
    dropout_rate: float = 0.5
    batch_normalization: bool = False
    network: str = "1.1"
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    nesterov: bool = False
    weight_decay: float | None = None
    epsilon: float = 1e-7  # Keras's own
    warmup_steps: int = 0
    clip_norm: float | None = None
    steps: int = 300

    @property
    def structure(self) -> Self:
        """What the compiled step depends on; all other settings are values."""
        return replace(
            self,
            name="",
            kernel_initializer=None,
            last_initializer=None,
            learning_rate=0.0,
            warmup_steps=0,
            steps=0,
        )


PAPER = Case("paper, adam 1e-3")
HE = {"kernel_initializer": "he_normal"}
XAVIER = {"kernel_initializer": "lecun_uniform", "last_initializer": "authors"}
CURED = {**HE, "last_activation": None}
DIGITS_RECIPE = {
    **CURED,
    "bypass": "simple",
    "dropout_rate": 0.3,
    "warmup_steps": 90,
    "clip_norm": 1.0,
}
GROCERY_RECIPE = {
    **CURED,
    "bypass": "simple",
    "optimizer": "adamw",
    "weight_decay": 0.05,
    "warmup_steps": 135,  # three epochs, as on the groceries
    "clip_norm": 1.0,
}
IMAGENET_RECIPE = {
    **CURED,
    "network": "1.0",
    "preprocessing": "torch",
    "optimizer": "sgd",
    "learning_rate": 0.04,
    "weight_decay": 2e-3,
    "warmup_steps": 90,
    "clip_norm": 1.0,
}
NORMALIZED_RECIPES = {
    **CURED,
    "batch_normalization": True,
    "bypass": "complex",
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "nesterov": True,
    "warmup_steps": 90,
}


def varied(base: Case, name: str, **settings: Any) -> Case:
    return replace(base, name=name, **settings)


def network_of(recipe: str) -> str:
    """A recipe's metaparameters as they are now, so that rows of another network do not count."""
    section = load_recipe(RECIPES / f"{recipe}.yaml").model
    assert isinstance(section, SqueezeNetSection)
    return json.dumps(section.metaparameters, sort_keys=True)


# One thing varied at a time: from PAPER, from the paper's network under SGD, and under SGD with the
# chapter's rate of 1e-4.
FROM_PAPER = (
    PAPER,
    varied(PAPER, "no last ReLU", last_activation=None),
    varied(PAPER, "he_normal", **HE),
    varied(PAPER, "he_normal, no last ReLU", **CURED),
    varied(PAPER, "digits' recipe", **DIGITS_RECIPE),
    varied(
        PAPER,
        "CIFAR-10's recipe",
        network=network_of("cifar10"),
        dropout_rate=0.0,
        weight_decay=2e-3,
        **NORMALIZED_RECIPES,
    ),
    varied(
        PAPER,
        "Imagenette's recipe",
        network=network_of("imagenette"),
        dropout_rate=0.1,
        weight_decay=5e-3,
        **NORMALIZED_RECIPES,
    ),
    varied(PAPER, "groceries' recipe", **GROCERY_RECIPE),
    varied(PAPER, "ImageNet's recipe", **IMAGENET_RECIPE),
    varied(PAPER, "ImageNet's recipe, no warm-up", **{**IMAGENET_RECIPE, "warmup_steps": 0}),
    varied(PAPER, "ImageNet's recipe, no clip_norm", **{**IMAGENET_RECIPE, "clip_norm": None}),
    varied(
        PAPER, "ImageNet's recipe, input caffe", **{**IMAGENET_RECIPE, "preprocessing": "caffe"}
    ),
    # Caffe's "xavier" looks at the inputs of a layer only, Keras's Glorot at its filters too.
    varied(PAPER, "xavier of Caffe", **XAVIER),
    varied(PAPER, "xavier of Caffe, input caffe", preprocessing="caffe", **XAVIER),
    varied(
        PAPER,
        "xavier of Caffe, input caffe, no last ReLU",
        preprocessing="caffe",
        last_activation=None,
        **XAVIER,
    ),
    varied(PAPER, "adam 1e-4", learning_rate=1e-4),
    varied(PAPER, "adam 1e-4, no last ReLU", learning_rate=1e-4, last_activation=None),
    varied(PAPER, "adam 1e-2", learning_rate=1e-2),
    varied(PAPER, "warm-up of 90 steps", warmup_steps=90),
    varied(PAPER, "clip_norm 1", clip_norm=1.0),
    varied(PAPER, "no dropout", dropout_rate=0.0),
    varied(PAPER, "bypass", bypass="simple"),
    varied(PAPER, "batch normalization", batch_normalization=True),
    varied(
        PAPER,
        "batch normalization, no last ReLU",
        batch_normalization=True,
        last_activation=None,
    ),
    varied(PAPER, "input caffe", preprocessing="caffe"),
    varied(PAPER, "input caffe, no last ReLU", preprocessing="caffe", last_activation=None),
    varied(PAPER, "input 0 to 1", preprocessing=RESCALED),
    varied(PAPER, "rmsprop 1e-3", optimizer="rmsprop"),
    varied(PAPER, "rmsprop 1e-4", optimizer="rmsprop", learning_rate=1e-4),
    varied(
        PAPER, "rmsprop 1e-4, epsilon 1e-14", optimizer="rmsprop", learning_rate=1e-4, epsilon=1e-14
    ),
)
SGD = varied(PAPER, "sgd 1e-2", optimizer="sgd", learning_rate=1e-2)
FROM_SGD = (
    SGD,
    varied(SGD, "sgd 1e-2, no last ReLU", last_activation=None),
    varied(SGD, "sgd 1e-2, he_normal", **HE),
    varied(SGD, "sgd 1e-2, he_normal but for conv10", **HE, last_initializer="authors"),
    varied(SGD, "sgd 1e-2, he_normal in conv10 only", last_initializer="he_normal"),
    varied(SGD, "sgd 1e-2, he_normal, no last ReLU", **CURED),
    varied(SGD, "sgd 1e-2, batch normalization", batch_normalization=True),
    varied(SGD, "sgd 1e-2, input caffe", preprocessing="caffe"),
    varied(SGD, "sgd 1e-2, no dropout", dropout_rate=0.0),
    varied(SGD, "sgd 1e-1", learning_rate=1e-1),
    varied(SGD, "sgd 1", learning_rate=1.0),
)
CHAPTER = varied(PAPER, "sgd 1e-4", optimizer="sgd", learning_rate=1e-4)
FROM_CHAPTER = (
    CHAPTER,
    varied(CHAPTER, "sgd 1e-4, he_normal, no last ReLU", **CURED),
    varied(CHAPTER, "sgd 1e-4, batch normalization", batch_normalization=True),
    varied(CHAPTER, "sgd 1e-4, input caffe", preprocessing="caffe"),
)
CASES = {
    "digits": FROM_PAPER + FROM_SGD + FROM_CHAPTER,
    # An epoch; two for what was trained for a hundred in the chapter.
    "imagenette": tuple(
        replace(case, steps=590 if case.learning_rate == 1e-4 else 295)
        for case in FROM_CHAPTER + FROM_SGD + FROM_PAPER
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", help="digits, or Imagenette's folder with train/ and val/")
    parser.add_argument("--seeds", type=int, default=2, help="how many (default: %(default)s)")
    parser.add_argument("--cases", nargs="+", metavar="NAME", help="some cases only, in that order")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV files")
    parser.add_argument("--threads", type=int, help="for each operation (default: all cores)")
    parser.add_argument("--draw", action="store_true", help="renew figures and tables, no training")
    asked = parser.parse_args()
    if asked.draw:
        import getting_unstuck_page

        return getting_unstuck_page.renew(asked.results)
    if not asked.data:
        parser.error("--data or --draw is needed")
    tf.config.experimental.enable_op_determinism()
    if asked.threads:
        tf.config.threading.set_intra_op_parallelism_threads(asked.threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    name = "digits" if asked.data == "digits" else "imagenette"
    known = {case.name: case for case in CASES[name]}
    if unknown := [case for case in asked.cases or () if case not in known]:
        parser.error(f"--cases: known are {'; '.join(known)}. Received: {unknown[0]}")
    cases = [known[case] for case in asked.cases or known]
    study(Table(asked.results), name, asked.data, cases, asked.seeds)


def study(table: Table, name: str, source: str, cases: Sequence[Case], seeds: int) -> None:
    """Train what the table lacks, all cases with one seed before the next seed."""
    data = None
    for seed in range(seeds):
        for case in cases:
            if table.has(name, case, seed):
                continue
            data = data or read_data(name, source)
            started = time.perf_counter()
            row, looks, layers = train(data, case, seed)
            table.add({"data": name, **asdict(case), "seed": seed, **row}, looks, layers)
            print(
                f"{name}, {case.name}, seed {seed}: {row['outcome']}, loss {row['loss']}, "
                f"top-1 {row['top1']} ({time.perf_counter() - started:.0f} s)",
                file=sys.stderr,
                flush=True,
            )


class Table:
    """The rows of all files, written after each run."""

    KEYS = ("data", "name", "seed")
    FILES = ("getting_unstuck.csv", "getting_unstuck_looks.csv", "getting_unstuck_layers.csv")

    def __init__(self, folder: Path) -> None:
        self.paths = [folder / name for name in self.FILES]
        self.parts = [read_csv(path) for path in self.paths]
        # Settings that are younger than a row had their defaults in it.
        defaults = _as_text(asdict(PAPER))
        self.parts[0] = [defaults | row for row in self.parts[0]]

    @property
    def runs(self) -> list[Row]:
        return self.parts[0]

    def looks(self, run: Row) -> list[Row]:
        """The rows of looks at a run."""
        return self._of(run, self.parts[1])

    def layers(self, run: Row) -> list[Row]:
        """The rows of layers of a run; none for later seeds."""
        return self._of(run, self.parts[2])

    def _of(self, run: Row, rows: Iterable[Row]) -> list[Row]:
        return [row for row in rows if all(row[key] == run[key] for key in self.KEYS)]

    def has(self, data: str, case: Case, seed: int) -> bool:
        settings = _as_text({"data": data, **asdict(case), "seed": seed})
        return any(settings.items() <= row.items() for row in self.runs)

    def add(self, row: Measured, looks: list[Measured], layers: list[Measured]) -> None:
        """Keep a run, with its looks and layers, in the place of an older one of its name."""
        named = {key: str(row[key]) for key in self.KEYS}
        for number, new in enumerate(([row], looks, layers)):
            kept = [row for row in self.parts[number] if not named.items() <= row.items()]
            added = [named | _as_text(row) for row in new]
            self.parts[number] = sorted(kept + added, key=_place)
            if self.parts[number]:
                write_csv(self.paths[number], self.parts[number])


def noticed(table: Table, run: Row) -> tuple[int, list[str]]:
    """When `diagnosis` first finds a cause in a run, after its warm-up, and which.

    Returns:
        The step and the list of the causes' names; the number of steps and an empty list where it
        finds none.
    """
    diagnosis = Diagnosis(classes=10)
    for row in table.looks(run):
        look = Look(
            dead_classes=tuple(map(int, row["dead_classes"].split())),
            dead_units=float(row["dead_units"]),
            dead_layers=tuple(row["dead_layers"].split()),
            signal=float(row["signal"]),
            change=float(row["change"]),
        )
        found = diagnosis.add(look, float(row["loss"]))
        if found and int(row["step"]) > int(run["warmup_steps"]):
            return int(row["step"]), [finding.cause for finding in found]
    return int(run["steps"]), []


def read_csv(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _as_text(row: Mapping[str, object]) -> Row:
    return {key: "" if value is None else str(value) for key, value in row.items()}


def _place(row: Row) -> tuple[str, int, str, int]:
    names = [case.name for case in CASES[row["data"]]]
    known = names.index(row["name"]) if row["name"] in names else len(names)
    return row["data"], known, row["name"], int(row["seed"])


@dataclass(frozen=True, eq=False)
class Data:
    """Images in memory.

    Attributes:
        classes: how many.
        train, val, sample: pairs of images, uint8 `[images, height, width, 3]`, and labels. The
            sample is a part of `val`.
    """

    classes: int
    train: Labelled
    val: Labelled
    sample: Labelled


def read_data(name: str, source: str) -> Data:
    if name == "digits":
        dataset = load_dataset("digits", image_size=32)
    else:
        dataset = load_dataset(source, image_size=112, resize=128)
    images, labels = _decoded(dataset.val)
    chosen = np.random.default_rng(0).permutation(len(labels))[:VALIDATED]
    images, labels = images[chosen], labels[chosen]
    return Data(
        classes=len(dataset.class_names),
        train=_decoded(dataset.train),
        val=(images, labels),
        sample=(images[:SAMPLE], labels[:SAMPLE]),
    )


def _decoded(split: Split) -> Labelled:
    """All of a split as it is validated: nothing random."""
    images, labels = zip(*split.val_batches(256), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def train(data: Data, case: Case, seed: int) -> tuple[Measured, list[Measured], list[Measured]]:
    """One run of a case.

    Returns:
        What was measured, a dict; what was seen after each epoch, a list of dicts; and for the
        first seeds, a list of dicts, what each layer was like before the first step, after 10
        steps, and at the end.
    """
    run = compiled(case.structure, data.classes, data.train[0].shape[1:])
    keras.utils.set_random_seed(seed)
    run.begin(network(case, data.classes, data.train[0].shape[1:]))
    observer = Observer(run.model, data.sample[0])
    order = batches(len(data.train[1]), seed)
    epoch = len(data.train[1]) // BATCH_SIZE
    losses, looks, layers = [], [_seen(0, math.nan, observer.look())], []
    first = run.look(*data.sample)
    for step in range(case.steps):
        if step in (0, 10) and seed < LAYER_SEEDS:
            layers += run.layers(step, data.sample)
        run.optimizer.learning_rate.assign(
            case.learning_rate * min(1.0, (step + 1) / max(1, case.warmup_steps))
        )
        chosen = next(order)
        losses.append(float(run.step(data.train[0][chosen], data.train[1][chosen])))
        if (step + 1) % epoch == 0:
            looks.append(_seen(step + 1, float(np.mean(losses[-epoch:])), observer.look()))
    if seed < LAYER_SEEDS:
        layers += run.layers(case.steps, data.sample)
    last = run.look(*data.sample)
    logits = np.concatenate([run.logits(part).numpy() for part in _in_parts(data.val[0])])
    parts = np.array_split(losses, min(WINDOWS, case.steps))
    measured = {
        "loss": round(float(np.mean(losses[-max(1, case.steps // 10) :])), 4),
        "top1": round(float((logits.argmax(axis=1) == data.val[1]).mean()), 4),
        "dead_classes": int((logits == 0).all(axis=0).sum()),
        "dead_units": round(_dead_share(last), 4),
        "first_gradient": f"{_norm(first):.3g}",
        "last_gradient": f"{_norm(last):.3g}",
        "highest_loss": round(max(losses), 3),
        "losses": " ".join(f"{np.mean(part):.3f}" for part in parts),
    }
    return {"outcome": outcome(measured, math.log(data.classes)), **measured}, looks, layers


def _seen(step: int, loss: float, look: Look) -> Measured:
    """A row of the file of looks; `loss` is the mean of the epoch."""
    return {
        "step": step,
        "loss": f"{loss:.4f}",
        "dead_classes": " ".join(map(str, look.dead_classes)),
        "dead_units": round(look.dead_units, 4),
        "dead_layers": " ".join(look.dead_layers),
        "signal": f"{look.signal:.3g}",
        "change": f"{look.change:.3g}",
    }


def outcome(measured: Mapping[str, Any], chance: float) -> str:
    """As the text at the top of this file defines it."""
    if not math.isfinite(measured["loss"]):
        return "diverged"
    if measured["loss"] > AT_CHANCE * chance:
        return "slow" if measured["top1"] >= 2 * math.exp(-chance) else "chance"
    return "dead" if measured["dead_classes"] else "learns"


def batches(count: int, seed: int) -> Iterator[np.ndarray]:
    """Positions of each step's images: every image once in an epoch, in another order in each."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(count)
        for start in range(0, count - BATCH_SIZE + 1, BATCH_SIZE):
            yield order[start : start + BATCH_SIZE]


def _in_parts(images: np.ndarray, size: int = 64) -> Iterator[np.ndarray]:
    return (images[start : start + size] for start in range(0, len(images), size))


def _dead_share(look: Mapping[str, LayerLook]) -> float:
    """Of all channels behind a ReLU but the classes."""
    highest = np.concatenate([found["highest"] for name, found in look.items() if found["hidden"]])
    return float((highest == 0).mean())


def _norm(look: Mapping[str, LayerLook]) -> float:
    return math.hypot(*(found["gradient"] for found in look.values()))


@cache
def compiled(structure: Case, classes: int, shape: tuple[int, ...]) -> Training:
    """Tracing takes longer than many a run: cases of one structure share what is compiled."""
    return Training(structure, network(structure, classes, shape))


class Training:
    """A network with its compiled step, which is begun anew for each run."""

    def __init__(self, structure: Case, model: keras.Model) -> None:
        self.model = model
        self.optimizer = _optimizer(structure)
        self.optimizer.build(model.trainable_variables)
        last = architecture(structure).last_conv_number
        self.last_name = f"conv{last}"
        self.watched = watched(model, self.last_name)
        tensors = [tensor for _, tensor, _ in self.watched]
        self._probe = keras.Model(
            model.inputs, [tensors, model.get_layer(f"pool{last}").output, model.output]
        )
        self._step = tf.function(self._train_on)
        self._look = tf.function(self._look_at)
        any_images = tf.TensorSpec((None, *model.input_shape[1:]), tf.uint8)
        self.logits = tf.function(
            lambda images: self._probe(_floats(images), training=False)[1],
            input_signature=[any_images],
        )

    def begin(self, fresh: keras.Model) -> None:
        """Take the variables, those of dropout's random numbers too, and forget the optimizer's."""
        for variable, value in zip(self.model.variables, fresh.variables, strict=True):
            variable.assign(value)
        for variable in self.optimizer.variables:
            variable.assign(keras.ops.zeros_like(variable))

    def step(self, images: np.ndarray, labels: np.ndarray) -> tf.Tensor:
        return self._step(tf.constant(images), tf.constant(labels))

    def _train_on(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = _loss(labels, self.model(_floats(images), training=True))
        gradients = tape.gradient(loss, self.model.trainable_variables)
        self.optimizer.apply(gradients, self.model.trainable_variables)
        return loss

    def look(self, images: np.ndarray, labels: np.ndarray) -> dict[str, LayerLook]:
        """The layers of Table 1 by name, on some images, without dropout.

        Returns:
            For each layer `highest`, each channel's highest value over all images and places;
            `signal`, the mean over images of the outputs' standard deviation about the mean image,
            which is what tells images apart; `gradient` and `kernel`, the norms of its kernels
            and of their gradients; and `hidden`, whether it comes before the last one.
        """
        found = self._look(tf.constant(images), tf.constant(labels))
        looks = {}
        for name, (highest, signal, gradient, kernel) in found.items():
            looks[name] = {
                "highest": highest.numpy(),
                "signal": float(signal),
                "gradient": float(gradient),
                "kernel": float(kernel),
                "hidden": name != self.last_name,
            }
        return looks

    def _look_at(self, images: tf.Tensor, labels: tf.Tensor) -> dict[str, tuple[tf.Tensor, ...]]:
        kernels: dict[str, list[keras.Variable]] = {name: [] for name, _, _ in self.watched}
        for variable in self.model.trainable_variables:
            if variable.name == "kernel":
                kernels[_layer_of(variable.path)].append(variable)
        with tf.GradientTape() as tape:
            tensors, _, probabilities = self._probe(_floats(images), training=False)
            loss = _loss(labels, probabilities)
        gradients = tape.gradient(loss, kernels)
        outputs: dict[str, list[tf.Tensor]] = {name: [] for name in kernels}
        looks = {}
        for (name, _, apply), tensor in zip(self.watched, tensors, strict=True):
            outputs[name] += apply(tensor)
        for name, found in outputs.items():
            highest = tf.concat([tf.reduce_max(output, (0, 1, 2)) for output in found], 0)
            spread = [tf.reduce_mean(tf.math.reduce_variance(output, 0)) for output in found]
            looks[name] = (
                highest,
                tf.sqrt(tf.reduce_mean(spread)),
                tf.linalg.global_norm(gradients[name]),
                tf.linalg.global_norm(kernels[name]),
            )
        return looks

    def layers(self, step: int, sample: Labelled) -> list[Measured]:
        """Rows of the file of layers."""
        return [
            {
                "step": step,
                "layer": name,
                "dead_share": round(float((found["highest"] == 0).mean()), 4),
                "signal": f"{found['signal']:.3g}",
                "gradient_norm": f"{found['gradient']:.3g}",
                "kernel_norm": f"{found['kernel']:.3g}",
            }
            for name, found in self.look(*sample).items()
        ]


def _floats(images: tf.Tensor) -> tf.Tensor:
    return tf.cast(images, tf.float32)


def _loss(labels: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, probabilities))


def _optimizer(case: Case) -> keras.optimizers.Optimizer:
    options = {"global_clipnorm": case.clip_norm, "weight_decay": case.weight_decay}
    if case.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(1.0, momentum=MOMENTUM, nesterov=case.nesterov, **options)
    else:
        kind = {
            "adam": keras.optimizers.Adam,
            "adamw": keras.optimizers.AdamW,
            "rmsprop": keras.optimizers.RMSprop,
        }[case.optimizer]
        optimizer = kind(1.0, epsilon=case.epsilon, **options)
    if case.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def network(case: Case, classes: int, shape: tuple[int, ...]) -> keras.Model:
    """The network of a case; it takes RGB 0…255."""
    image = x = keras.Input(shape)
    mode: bool | Mode = False
    if case.preprocessing == RESCALED:
        x = layers.Rescaling(1 / 255)(image)
    else:
        mode = case.preprocessing
    structure: dict[str, Any] = {"version": case.network, "bypass": case.bypass}
    if case.network not in PUBLISHED:
        structure = {"architecture": architecture(case)}
    model = SqueezeNet(
        weights=None,
        input_tensor=x,
        classes=classes,
        dropout_rate=case.dropout_rate,
        include_preprocessing=mode,
        kernel_initializer=case.kernel_initializer,
        last_activation=case.last_activation,
        batch_normalization=case.batch_normalization,
        **structure,
    )
    if case.last_initializer:
        kernel = model.get_layer(architecture(case).last_conv_name).kernel
        kernel.assign(_last_initializer(case.last_initializer)(kernel.shape))
    return model


def architecture(case: Case) -> Architecture:
    """Of the case's network; of a version of PUBLISHED without its bypass."""
    if case.network in PUBLISHED:
        return preset(case.network)
    return Architecture.from_metaparameters(**json.loads(case.network))


def _last_initializer(name: str) -> keras.initializers.Initializer:
    if name == "authors":
        return keras.initializers.RandomNormal(stddev=AUTHORS_LAST_DEVIATION)
    return keras.initializers.get(name)


def watched(model: keras.Model, last: str) -> list[tuple[str, keras.KerasTensor, Outputs]]:
    """Triples that tell what each layer of Table 1 gives after its ReLUs: the layer's name, a
    symbolic tensor of the model, and a function from it to a list of outputs. `last` is the name
    of the last one.
    """
    # With a batch normalization the ReLU is a layer of its own.
    first = "conv1_relu" if any(layer.name == "conv1_relu" for layer in model.layers) else "conv1"
    found = []
    for layer in model.layers:
        if isinstance(layer, Fire):
            found.append((layer.name, layer.input, _outputs_of(layer)))
        elif layer.name in (first, last):
            found.append((_layer_of(layer.name), layer.output, lambda output: [output]))
    return found


def _outputs_of(fire: Fire) -> Outputs:
    def outputs(taken: tf.Tensor) -> list[tf.Tensor]:
        squeezed = fire.convolve(fire.squeeze1x1, taken)
        return [
            squeezed,
            fire.convolve(fire.expand1x1, squeezed),
            fire.convolve(fire.expand3x3, squeezed),
        ]

    return outputs


def _layer_of(name: str) -> str:
    """Of a layer or a variable: the part of its name that Table 1 has."""
    return name.split("/")[0].split("_")[0]


if __name__ == "__main__":
    main()
