"""Fine-tuning with one recipe on folders of different size and kind, beside a logistic regression.

    python studies/finetuning_study.py --data PATH --work PATH/finetuning \
        --output results/finetuning.csv

PATH holds the unpacked grocery, imagenette and unlabelled_photos. Folders of links are made of
them in --work, then each is trained on, for each number of ranks and seed, as users do it; a row
is written as soon as it is there, and a repeated call makes only what is missing.

The epoch that is kept is chosen by the validation photos. So where a set has enough photos, others
("test") have no part in anything but the last measurement. A logistic regression on the network's
mean features of the same training photos is measured on both.

`lowest` is the lowest validation accuracy of any epoch; `frozen` that of the first, in which the
last layer alone is fitted.
"""

import argparse
import csv
import json
import math
import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# First of all: TensorFlow's greetings are not for the reader of the progress.
import keras_squeezenet.startup.quiet  # noqa: F401

# isort: split
import keras
import numpy as np
from sklearn.linear_model import LogisticRegression

from keras_squeezenet import SqueezeNet
from keras_squeezenet.data import Dataset, Split, load_dataset, load_labelled
from keras_squeezenet.files import write_csv
from keras_squeezenet.training.recipe import load_recipe

TRAIN = Path(__file__).parents[1] / "train"
RECIPE = TRAIN / "recipes" / "finetune.yaml"
BATCH = 32
ITERATIONS = 1000
MILK = ("Milk",)
YOGHURT = ("Yoghurt", "Soyghurt", "Oatghurt")
APPLES = ("Golden-Delicious", "Granny-Smith", "Pink-Lady", "Red-Delicious", "Royal-Gala")
PEARS = ("Anjou", "Conference", "Kaiser")
IMAGENETTE_VALIDATION = 5  # every fifth of its validation photos chooses the epoch

Photos = dict[str, list[Path]]  # the files of each class
Parts = tuple[Photos, Photos, Photos]


@dataclass(frozen=True)
class PhotoSet:
    """Photos in three parts.

    Attributes:
        tuned_on: whether the recipe's numbers were chosen with this set in sight.
        parts: called with the folder of the data sets: train, val and test, which may be empty.
    """

    tuned_on: bool
    parts: Callable[[Path], Parts]


def grocery(data: Path, most: int | None = None) -> Parts:
    train = files_of(data / "grocery" / "train")
    if most is not None:
        train = {name: sample(files, most) for name, files in train.items()}
    return train, files_of(data / "grocery" / "val"), {}


def kinds_of_groceries(
    data: Path, kinds: Mapping[str, tuple[str, ...]], train: int = 50, val: int = 120
) -> Parts:
    """So many photos of groups of kinds, by the ends of their names."""
    photos = {
        group: [
            file
            for split in ("train", "val")
            for name, files in files_of(data / "grocery" / split).items()
            if name.endswith(ends)
            for file in files
        ]
        for group, ends in kinds.items()
    }
    shuffled = {name: sample(files, len(files)) for name, files in photos.items()}
    return (
        {name: files[:train] for name, files in shuffled.items()},
        {name: files[train : train + val] for name, files in shuffled.items()},
        {name: files[train + val :] for name, files in shuffled.items()},
    )


def caltech(data: Path) -> Parts:
    """Of each of the 101 kinds 11 photos: five to train with, three to validate, three to test."""
    folder = data / "unlabelled_photos"
    photos: Photos = {}
    with (folder / "sources.csv").open(newline="") as lines:
        for row in csv.DictReader(lines):
            if row["source"] == "caltech101":
                kind = row["original"].split("/")[-2]
                photos.setdefault(kind, []).append(folder / row["file"])
    shuffled = {name: sample(sorted(files), len(files)) for name, files in photos.items()}
    train, val, test = (
        {name: files[low:high] for name, files in shuffled.items()}
        for low, high in ((0, 5), (5, 8), (8, None))
    )
    return train, val, test


def imagenette(data: Path, count: int) -> Parts:
    train = files_of(data / "imagenette" / "train")
    rest = files_of(data / "imagenette" / "val")
    return (
        {name: sample(files, count) for name, files in train.items()},
        {name: files[::IMAGENETTE_VALIDATION] for name, files in rest.items()},
        {
            name: [file for i, file in enumerate(files) if i % IMAGENETTE_VALIDATION]
            for name, files in rest.items()
        },
    )


SETS = {
    "milk or yoghurt, 100 photos": PhotoSet(
        True, lambda data: kinds_of_groceries(data, {"milk": MILK, "yoghurt": YOGHURT})
    ),
    "apple or pear, 100 photos": PhotoSet(
        False, lambda data: kinds_of_groceries(data, {"apple": APPLES, "pear": PEARS}, val=80)
    ),
    "imagenette, 10 a class": PhotoSet(True, lambda data: imagenette(data, 10)),
    "imagenette, 50 a class": PhotoSet(False, lambda data: imagenette(data, 50)),
    "caltech101, 5 a class": PhotoSet(True, caltech),
    "grocery, 20 a class": PhotoSet(True, lambda data: grocery(data, 20)),
    "grocery": PhotoSet(True, grocery),
}


def files_of(folder: Path) -> Photos:
    return {
        kind.name: sorted(file for file in kind.iterdir() if file.is_file())
        for kind in sorted(folder.iterdir())
        if kind.is_dir()
    }


def sample(files: Sequence[Path], most: int) -> list[Path]:
    """Some of the files, always the same."""
    return random.Random(0).sample(files, min(most, len(files)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--work", type=Path, help="folder for photo sets and runs")
    parser.add_argument("--output", type=Path, required=True, help="the CSV file to write")
    parser.add_argument("--weights", default="imagenet", help="of version 1.1")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS, metavar="NAME")
    parser.add_argument("--ranks", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--seeds", type=int, default=1, help="how many (default: %(default)s)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="as train.py takes"
    )
    parser.add_argument(
        "--draw", action="store_true", help="only renew docs/fine_tuning.md from the rows"
    )
    asked = parser.parse_args()

    if asked.draw:
        import finetuning_page

        return finetuning_page.renew(asked.output)
    if asked.data is None or asked.work is None:
        parser.error("--data and --work are needed, or --draw")
    rows = read_rows(asked.output)
    keys = ("photos", "ranks", "seed", "weights", "recipe")
    there = {tuple(row[key] for key in keys) for row in rows}
    weights, recipe = Path(asked.weights).name, digest(asked.set)
    for name in asked.sets:
        for seed in range(asked.seeds):
            if (name, str(asked.ranks), str(seed), weights, recipe) in there:
                continue
            folder = link_photos(name, asked.data, asked.work)
            row = measure(name, folder, seed, asked)
            # Another call may have written meanwhile.
            write_csv(asked.output, [*read_rows(asked.output), row])
            print(row, file=sys.stderr, flush=True)


def digest(settings: Iterable[str] = ()) -> str:
    """Of what the recipe says with these settings; rows of another recipe are made anew."""
    return load_recipe(RECIPE, settings).digest


def read_rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def link_photos(name: str, data: Path, work: Path) -> Path:
    """The folder of a set: train/ and val/, and test/ beside it."""
    folder = work / "photos" / name.replace(", ", "_").replace(" ", "_")
    links = {
        folder / where / kind / f"{number:04}{file.suffix}": file.resolve()
        for part, where in zip(
            SETS[name].parts(data), ("set/train", "set/val", "test"), strict=True
        )
        for kind, files in part.items()
        for number, file in enumerate(files)
    }
    # Links that are right stay: another call may be training on them.
    for link in folder.rglob("*"):
        if link.is_symlink() and link.resolve() != links.get(link):
            link.unlink()
    for link, file in links.items():
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(file)
    return folder


def measure(name: str, folder: Path, seed: int, asked: argparse.Namespace) -> dict[str, object]:
    """Train as users do, then look at what came of it."""
    settings = [f"data.source={folder / 'set'}", f"seed={seed}", f"model.weights={asked.weights}"]
    settings += asked.set
    of_settings = "".join(c if c.isalnum() else "-" for c in "".join(asked.set))
    run = asked.work / f"{folder.name}-ranks-{asked.ranks}-seed-{seed}{of_settings}"
    command: list[str | Path]
    command = [sys.executable, TRAIN / "train.py", "--recipe", RECIPE, "--output", run, "--resume"]
    for setting in settings:
        command += ["--set", setting]
    if asked.ranks > 1:
        launcher = Path(sys.executable).with_name("horovodrun")
        command = [launcher, "--gloo", "-np", str(asked.ranks), *command]
    subprocess.run(command, check=True)

    metrics = json.loads((run / "metrics.json").read_text())
    history = [
        {key: float(value) for key, value in row.items() if value}
        for row in read_rows(run / "history.csv")
    ]
    accuracies = [row["val_accuracy"] for row in history]
    recipe = load_recipe(RECIPE, settings)
    framing: dict[str, Any]
    framing = {"image_size": recipe.data.image_size, "resize": recipe.data.resize}
    photos = load_dataset(str(folder / "set"), **framing)
    features = mean_features(asked.weights, recipe.data.image_size)
    regression = LogisticRegression(max_iter=ITERATIONS)
    regression.fit(*looked_at(features, replace(photos.train, framing=photos.val.framing)))
    row = {
        "photos": name,
        "tuned_on": SETS[name].tuned_on,
        "classes": len(photos.class_names),
        "train": photos.train.count,
        "val": photos.val.count,
        "ranks": asked.ranks,
        "seed": seed,
        "frozen": accuracies[0],
        "lowest": min(accuracies),
        "top1": metrics["evaluation"]["top1"],
        "top1_logistic_regression": regression.score(*looked_at(features, photos.val)),
        **(measure_test(run, folder / "test", features, regression, photos, framing)),
        "epochs": metrics["training"]["epochs"],
        "images_per_second": metrics["training"]["images_per_second"],
        "minutes": metrics["training"]["seconds"] / 60,
        "machine": metrics["training"]["machine"],
        "date": metrics["training"]["started"][:10],
        "settings": " ".join(asked.set),
        "weights": Path(asked.weights).name,
        "recipe": digest(asked.set),
    }
    return {key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()}


def measure_test(
    run: Path,
    folder: Path,
    features: keras.Model,
    regression: LogisticRegression,
    photos: Dataset,
    framing: dict[str, Any],
) -> dict[str, float]:
    """Both on photos that had no part in training nor in choosing; nothing where there are none."""
    if not folder.exists():
        return {}
    names = photos.class_names
    test = load_labelled(str(folder), class_names=names, classes=len(names), **framing)
    outputs, labels = looked_at(keras.saving.load_model(run / "model.keras"), test)
    tuned = outputs.argmax(axis=1) == labels
    plain = regression.predict(looked_at(features, test)[0]) == labels
    difference = tuned.astype("float64") - plain
    return {
        "test": len(labels),
        "test_top1": float(tuned.mean()),
        "test_top1_logistic_regression": float(plain.mean()),
        "test_difference": float(difference.mean()),
        "test_difference_standard_error": float(difference.std()) / math.sqrt(len(labels)),
    }


def mean_features(weights: str, image_size: int) -> keras.Model:
    """The network that was loaded, without its last layer."""
    return SqueezeNet(
        include_top=False,
        weights=weights,
        pooling="avg",
        version="1.1",
        input_shape=(image_size, image_size, 3),
        include_preprocessing=True,
    )


def looked_at(network: keras.Model, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """(outputs, labels) of the readable photos of a split, in order."""
    outputs, labels = [], []
    for images, batch_labels in split.val_batches(BATCH):
        outputs.append(network.predict_on_batch(images))
        labels.append(batch_labels.numpy())
    return np.concatenate(outputs), np.concatenate(labels)


if __name__ == "__main__":
    main()
