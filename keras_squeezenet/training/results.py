"""What a run ends with: what was measured, its pictures and its page.

These are functions of a run's folder: a report can be drawn anew at any time.
"""

import contextlib
import importlib.metadata
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_squeezenet import files, machine
from keras_squeezenet._version import __version__
from keras_squeezenet.data.sources import resolved
from keras_squeezenet.errors import RunError
from keras_squeezenet.inference import evaluation
from keras_squeezenet.inference.classifiers import open_classifier
from keras_squeezenet.network.profile import profile_model
from keras_squeezenet.reports import training_page
from keras_squeezenet.reports.metrics import Metrics, read_history
from keras_squeezenet.reports.page import draw_figures
from keras_squeezenet.training.building import load_data
from keras_squeezenet.training.recipe import load_recipe_of_run
from keras_squeezenet.training.runs import (
    HISTORY_FILE,
    METRICS_FILE,
    MODEL_FILE,
    RECIPE_FILE,
    Run,
)
from keras_squeezenet.training.state import Row

if TYPE_CHECKING:
    from keras_squeezenet.data.dataset import Dataset, Split

VERSIONED_PACKAGES = ("keras", "tensorflow", "numpy", "horovod")


def write_metrics(
    run: Run,
    model: keras.Model,
    dataset: "Dataset",
    measured: evaluation.Evaluation,
    history: Sequence[Row],
    equal_ranks: int,
) -> None:
    """Write metrics.json.

    Args:
        run: the `Run`.
        model: what `save_model` saved.
        dataset: the `Dataset`.
        measured: the `Evaluation` of the model.
        history: rows of all epochs.
        equal_ranks: ranks that ended with the same weights.
    """
    profile = profile_model(model)
    broken = run.broken_images | dict(dataset.broken)
    # The first epoch traces and warms up; it is not the pace of a run.
    paces = [row["images_per_second"] for row in history[1:] or history]
    path = run.folder / MODEL_FILE
    metrics = {
        "dataset": {
            "name": dataset.name,
            "source": resolved(run.recipe.data.source),
            "classes": len(dataset.class_names),
            "class_names": list(dataset.class_names),
            "train": dataset.train.count,
            "val": dataset.val.count,
            "image_size": dataset.image_size,
        },
        "model": {
            "name": model.name,
            "parameters": profile.parameters,
            "multiply_adds": profile.multiply_adds,
            "activation_bytes": profile.activation_bytes,
        },
        "training": {
            "epochs": len(history),
            "ranks": history[-1]["ranks"],
            "ranks_with_equal_weights": equal_ranks,
            "batch_size": run.recipe.training.local_batch_size(history[-1]["ranks"]),
            "seconds": sum(row["seconds"] for row in history),
            "images_per_second": float(np.median(paces)),
            "seed": run.recipe.seed,
            "command": " ".join(sys.argv),
            "machine": machine.describe(),
            "started": run.started.isoformat(timespec="seconds"),
            "resumed_from_epoch": run.resumed_from_epoch,
        },
        "evaluation": measured.to_dict(),
        "files": [_file_row(path, measured)],
        "broken_images": [{"file": file, "reason": reason} for file, reason in broken.items()],
        "warnings": run.warnings,
        "versions": versions(),
    }
    files.write_json(run.folder / METRICS_FILE, metrics)


def read_metrics(folder: str | Path) -> dict[str, Any]:
    """What `write_metrics` wrote into a run's folder: a dict.

    Raises:
        RunError: there is no such file, or it is damaged.
    """
    try:
        return dict(Metrics.read(Path(folder) / METRICS_FILE).values)
    except (OSError, ValueError) as error:
        raise RunError(str(error)) from None


def draw(
    folder: str | Path,
    history: Sequence[Row],
    measured: evaluation.Evaluation,
    predictions: evaluation.Predictions,
    split: "Split",
) -> Path:
    """Make the pictures and the page of a run from what was measured.

    Args:
        folder: the run's folder, with recipe.yaml, history.csv and metrics.json.
        history: rows of the history.
        measured: the `Evaluation`.
        predictions: its `Predictions`.
        split: the `Split` that was evaluated.

    Returns:
        The path of report.html.
    """
    folder = Path(folder)
    rows = [(each["name"], each["bytes"], each["top1"]) for each in read_metrics(folder)["files"]]
    found = training_page.RunResults(history, measured, predictions, split, rows)
    draw_figures(training_page.SECTIONS, found, folder)
    return training_page.write_report(folder)


def renew_report(
    folder: str | Path, say: Callable[[str], object] = print
) -> tuple[Path, list[dict[str, Any]]]:
    """Measure every model file in a run's folder on its validation images; renew the report.

    Args:
        folder: the run's folder: model.keras and any .tflite files beside it.
        say: called with a line per file.

    Returns:
        The path of report.html, and a row per file: name, bytes, top1, top5, and confidence, the
        mean of the highest probability.

    Raises:
        RunError: the folder holds no finished run, or its metrics.json is damaged.
    """
    folder = Path(folder)
    for name in (RECIPE_FILE, HISTORY_FILE, METRICS_FILE, MODEL_FILE):
        if not (folder / name).is_file():
            raise RunError(f"Expected the folder of a finished run: {name} is missing in {folder}")
    metrics = read_metrics(folder)
    dataset = load_data(load_recipe_of_run(folder / RECIPE_FILE))
    rows = []
    for path in [folder / MODEL_FILE, *sorted(folder.glob("*.tflite"))]:
        classifier = open_classifier(path)
        with dataset.clear_errors():
            predictions = evaluation.predict_batches(
                classifier.predict, dataset.val.indexed_val_batches(32)
            )
        assert predictions is not None  # there are some; where none can be read is a DataError
        measured = evaluation.evaluate_predictions(predictions, dataset.class_names)
        say(f"{path.name}: top-1 {measured.top1:.4f}")
        rows.append(_file_row(path, measured))
        if path.name == MODEL_FILE:
            of_the_model = measured, predictions
    metrics |= {"files": rows, "evaluation": of_the_model[0].to_dict()}
    files.write_json(folder / METRICS_FILE, metrics)
    history = read_history(folder / HISTORY_FILE)
    return draw(folder, history, *of_the_model, dataset.val), rows


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "keras-squeezenet": __version__,
    }
    for package in VERSIONED_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _file_row(path: Path, measured: evaluation.Evaluation) -> dict[str, Any]:
    return {
        "name": path.name,
        "bytes": path.stat().st_size,
        "top1": measured.top1,
        "top5": measured.top5,
        "confidence": measured.confidence,
    }
