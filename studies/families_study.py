"""Small networks side by side: trained from nothing, pruned, clustered, packed, in 8 bits.

    python studies/families_study.py --data imagenette2-160 --output results/families.csv \
        --picture docs/small_networks.png

Each network is trained by its recipe and compressed by `keras-squeezenet optimize` with the
settings below. `export` makes the int8 file of the network as it was trained, `compress` the .sqz
file of the pruned network whose weights share values without training. A row is a file: its bytes,
and its accuracy on all validation images. `lost_points` are percentage points of top-1 against the
network in float32, its standard error is that of the paired difference. What was chosen
in sight of these images docs/small_networks.md says; `compress` searches for the smallest file that
loses half a point on some of them.

Runs are kept in the folder `--runs`. What is there is not made again, and a training that was
interrupted goes on: an interrupted study goes on, too. With `--only` the others have the rows that
they have already.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# First of all: TensorFlow's greetings are not for the reader of the progress.
import keras_squeezenet.startup.quiet  # noqa: F401

# isort: split
import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter
from pages import renew_tables

from keras_squeezenet.files import write_csv
from keras_squeezenet.inference import evaluation
from keras_squeezenet.inference.classifiers import open_classifier
from keras_squeezenet.network.profile import profile_model
from keras_squeezenet.numerals import byte_size
from keras_squeezenet.reports.figures.drawing import (
    DPI,
    INK,
    MARK,
    MUTED,
    TRAINING,
    VALIDATION,
    new_figure,
    save,
    style,
)
from keras_squeezenet.reports.metrics import read_history
from keras_squeezenet.training.building import load_data
from keras_squeezenet.training.recipe import load_recipe_of_run

COMMAND = (sys.executable, "-m", "keras_squeezenet")
SHORT = (
    *("prune.epochs=4", "cluster.epochs=1", "quantize.epochs=1"),
    "quantize.learning_rate=0.00003",  # of shared values, as in clustering
)
ALL_STAGES = "prune,cluster,pack,quantize"

Row = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """A network of the study.

    Attributes:
        name: in the table and the picture.
        recipe: of train/recipes.
        settings: of `optimize`, beside `SHORT`.
        stages: of `optimize`.
        pqat: whether the pruned network is also trained in 8 bits without shared values.
        shared: whether it also shares values without training; 23 million weights are too many
            for that search.
    """

    name: str
    recipe: str
    settings: tuple[str, ...] = ()
    stages: str = ALL_STAGES
    pqat: bool = False
    shared: bool = True


# Sparsities in the order of Deep Compression's Tables 4 and 5: most in the fully connected layers,
# least in the first.
SUBJECTS = (
    Subject("SqueezeNet 1.1, simple bypass", "imagenette_squeezenet", ("prune.sparsity=0.5",)),
    Subject("MobileNetV2 0.5", "imagenette_mobilenetv2", ("prune.sparsity=0.5",), pqat=True),
    Subject("ShuffleNet 0.5, 3 groups", "imagenette_shufflenet", ("prune.sparsity=0.5",)),
    Subject(
        "VGG-11, a quarter as wide",
        "imagenette_vgg",
        (
            "prune.sparsity={block1_conv1: 0.3, block2_conv1: 0.5, block3_conv1: 0.5, "
            "block3_conv2: 0.5, block4_conv1: 0.5, block4_conv2: 0.5, block5_conv1: 0.5, "
            "block5_conv2: 0.5, fc1: 0.9, fc2: 0.9, fc3: 0.5}",
        ),
    ),
    Subject(
        "AlexNet",
        "imagenette_alexnet",
        (
            "prune.epochs=3",
            "prune.sparsity={conv1: 0.16, conv2: 0.62, conv3: 0.65, conv4: 0.63, conv5: 0.63, "
            "fc6: 0.95, fc7: 0.97, fc8: 0.75}",
            "cluster.bits={conv1: 8, conv2: 8, conv3: 8, conv4: 8, conv5: 8, fc6: 4, fc7: 4, "
            "fc8: 5}",
        ),
        "prune,cluster,pack",
        shared=False,
    ),
)

# Files of a run by what they are called in the table.
FILES = {
    "float32": "model.keras",
    "int8": "model-int8.tflite",
    "pruned": "compressed/pruned.keras",
    "pruned, shared without training": "compressed/reconstructed.sqz",
    "pruned, int8": "compressed/pqat.tflite",
    "pruned, clustered": "compressed/clustered.keras",
    "pruned, clustered, faithful .sqz": "compressed/model-faithful.sqz",
    "pruned, clustered, best .sqz": "compressed/model-best.sqz",
    "pruned, clustered, int8": "compressed/model-int8.tflite",
}


# What is drawn of them, and how; the files of Keras weigh what the float32 ones do.
MARKERS = {
    "float32": "o",
    "int8": "s",
    "pruned, shared without training": "v",
    "pruned, int8": "X",
    "pruned, clustered, faithful .sqz": "D",
    "pruned, clustered, best .sqz": "*",
    "pruned, clustered, int8": "P",
}
COLOURS = (TRAINING, VALIDATION, MARK, "#CC79A7", INK)  # of the networks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="the folder imagenette2-160")
    parser.add_argument("--runs", type=Path, default=Path("runs/families"))
    parser.add_argument("--output", type=Path, required=True, help="the CSV file to write")
    parser.add_argument(
        "--picture", type=Path, help="the PNG to write, and tables of a page beside"
    )
    known = [subject.recipe for subject in SUBJECTS]
    parser.add_argument("--only", action="append", metavar="RECIPE", choices=known)
    asked = parser.parse_args()
    rows: list[Row] = []
    for subject in SUBJECTS:
        run = asked.runs / subject.recipe.removeprefix("imagenette_")
        if asked.only is None or subject.recipe in asked.only:
            make_files(subject, run, asked.data)
        elif not (run / "families.json").exists():
            continue
        rows += measured(subject, run)
        write_csv(asked.output, rows)
    if asked.picture:
        draw(rows, asked.picture)
        page = asked.picture.with_suffix(".md")
        if page.exists():
            renew_tables(page, lambda name: TABLES[name](rows))


def make_files(subject: Subject, run: Path, data: str) -> None:
    """All files of `FILES` that the network can have."""
    if not (run / "metrics.json").exists():
        words: tuple[str | Path, ...]
        words = ("--recipe", subject.recipe, "--data", data, "--output", run, "--resume")
        command("train", *words, log=run.with_suffix(".train.log"))
    compressed = run / "compressed"
    if not (compressed / "compression.csv").exists():
        settings = [word for each in (*SHORT, *subject.settings) for word in ("--set", each)]
        words = ("--stages", subject.stages, *settings)
        command("optimize", run, *words, log=run.with_suffix(".optimize.log"))
    pruned = compressed / "pruned.keras"
    int8, pqat = run / "model-int8.tflite", compressed / "pqat.tflite"
    packed = compressed / "reconstructed.sqz"
    log = run.with_suffix(".others.log")
    if not int8.exists():
        command("export", run / "model.keras", int8, "--quantize", "int8", log=log)
    if subject.pqat and not pqat.exists():
        words = (pruned, pqat, "--preserve", "sparsity", "--epochs", "1")
        command("quantize", *words, log=log)
    if subject.shared and not packed.exists():
        command("compress", pruned, packed, "--max-drop", "0.5", "--images", "400", log=log)


def command(*words: str | Path, log: Path) -> None:
    """Run `keras-squeezenet WORDS`, its lines into a file."""
    say(f"keras-squeezenet {' '.join(map(str, words))}, see {log}")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as lines:
        done = subprocess.run([*COMMAND, *map(str, words)], stdout=lines, stderr=lines)
    if done.returncode:
        raise SystemExit(f"it failed, see {log}")


def measured(subject: Subject, run: Path) -> list[Row]:
    """A row for each file of a run, kept in the run's folder."""
    kept = run / "families.json"
    if kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))
    dataset = load_data(load_recipe_of_run(run / "recipe.yaml"))
    profile = profile_model(open_classifier(run / "model.keras").model)
    seconds = sum(row["seconds"] for row in read_history(run / "history.csv"))
    float32 = 4 * profile.parameters
    rows: list[Row] = []
    right: dict[str, np.ndarray] = {}
    for name, file in FILES.items():
        path = run / file
        if not path.exists():
            say(f"{subject.name}: no {file}")
            continue
        predictions = evaluation.predict_batches(
            open_classifier(path).predict, dataset.val.indexed_val_batches(32)
        )
        assert predictions is not None  # there are images
        right[name] = predictions.top_classes[:, 0] == predictions.labels
        lost = right["float32"].astype(int) - right[name]
        size = float32 if path.suffix == ".keras" else path.stat().st_size  # of the weights alone
        rows.append(
            {
                "network": subject.name,
                "parameters": profile.parameters,
                "multiply_adds": profile.multiply_adds,
                "epochs_minutes": round(seconds / 60, 1),
                "file": name,
                "bytes": size,
                "times_smaller": round(float32 / size, 1),
                "top1": round(float(right[name].mean()), 4),
                "lost_points": round(100 * float(lost.mean()), 2),
                "standard_error": round(100 * float(lost.std()) / len(lost) ** 0.5, 2),
                "images": len(lost),
            }
        )
        say(", ".join(str(value) for value in rows[-1].values()))
    kept.write_text(json.dumps(rows), encoding="utf-8")
    return rows


@style()
def draw(rows: Sequence[Row], path: Path) -> None:
    """Accuracy over bytes: a line for each network, a marker for each file."""
    figure = new_figure(11, 5.5)
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    axes = figure.subplots()
    names = list(dict.fromkeys(row["network"] for row in rows))
    networks = []
    for name, colour in zip(names, COLOURS, strict=False):
        drawn = [row for row in rows if row["network"] == name and row["file"] in MARKERS]
        drawn.sort(key=lambda row: row["bytes"])
        sizes, top1 = zip(*((row["bytes"], row["top1"]) for row in drawn), strict=True)
        networks += axes.plot(sizes, top1, color=colour, linewidth=1, alpha=0.6, label=name)
        for row in drawn:
            axes.errorbar(
                row["bytes"],
                row["top1"],
                (row["top1"] * (1 - row["top1"]) / row["images"]) ** 0.5,
                color=colour,
                marker=MARKERS[row["file"]],
                markersize=11 if MARKERS[row["file"]] == "*" else 7,
                elinewidth=0.8,
            )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: byte_size(round(size))))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(PercentFormatter(1, 0))
    axes.set_xlabel("bytes of the file, or of the weights in float32")
    axes.set_ylabel("top-1 on all validation photos, ± standard error")
    axes.set_title("Imagenette, 128 pixels: accuracy over bytes")
    kinds = [
        axes.plot([], [], MARKERS[file], color=MUTED, linestyle="none", label=file)[0]
        for file in MARKERS
    ]
    figure.legend(handles=networks, loc="outside right upper", title="network", alignment="left")
    figure.legend(handles=kinds, loc="outside right lower", title="file", alignment="left")
    save(figure, path, DPI)


def lines_of_networks(rows: Iterable[Row]) -> Iterator[str]:
    yield "| network | parameters | multiply-adds | float32 | minutes | top-1 |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        if row["file"] != "float32":
            continue
        cells = (
            row["network"],
            f"{row['parameters']:,}",
            f"{row['multiply_adds'] / 1e6:.0f} M",
            byte_size(row["bytes"]),
            f"{row['epochs_minutes']:.0f}",
            f"{row['top1']:.4f}",
        )
        yield f"| {' | '.join(cells)} |"


def lines_of_files(rows: Iterable[Row]) -> Iterator[str]:
    yield "| network | file | bytes | times smaller | top-1 | points lost |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        yield (
            f"| {row['network']} | {row['file']} | {row['bytes']:,} | {row['times_smaller']:.1f} | "
            f"{row['top1']:.4f} | {row['lost_points']:.2f} ± {row['standard_error']:.2f} |"
        )


TABLES = {"networks": lines_of_networks, "files": lines_of_files}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
