"""The page of a training run: report.html.

Names of classes and files come from folders that anybody may have made: the page shows them as they
are, never as HTML.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_squeezenet.inference.evaluation import Evaluation, Predictions
from keras_squeezenet.litert.ranges import MOST_CONFIDENCE_LOST
from keras_squeezenet.numerals import byte_size, duration, percent, scaled
from keras_squeezenet.reports import figures
from keras_squeezenet.reports.figures import PHOTO_DPI
from keras_squeezenet.reports.metrics import Metrics, number_or_none, read_history
from keras_squeezenet.reports.page import (
    RUN,
    WARNINGS,
    Card,
    PageFigure,
    PageSection,
    read_pictures,
    write_page,
)

WORST_MISTAKES = 20


@dataclass(frozen=True)
class ClassRow:
    """A line of the per-class table; `accuracy` is None for a class without an example."""

    name: str
    count: str
    accuracy: float | None
    confused_with: str


@dataclass(frozen=True, eq=False)
class RunResults:
    """What a run's figures are drawn of.

    Attributes:
        history: a row per epoch.
        measured: the `Evaluation`.
        predictions: its `Predictions`.
        split: the `Split` that was evaluated.
        files: name, bytes and top-1 of each file.
    """

    history: Sequence[Mapping[str, float]]
    measured: Evaluation
    predictions: Predictions
    split: Any
    files: Sequence[tuple[str, int, float | None]]


def _draw_learning_curves(run: RunResults, path: Path) -> None:
    figures.learning_curves(run.history, path, classes=len(run.measured.class_names))


def _draw_worst_mistakes(run: RunResults, path: Path) -> None:
    names, found = run.measured.class_names, run.predictions
    worst = Evaluation.worst_mistakes(found, WORST_MISTAKES)
    pictures = [run.split.example(int(found.index[i]))[0] for i in worst]
    captions = [
        figures.mistake_caption(
            names[found.labels[i]],
            names[found.top_classes[i, 0]],
            float(found.top_probabilities[i, 0]),
        )
        for i in worst
    ]
    figures.worst_mistakes(pictures, captions, path)


# The page, from top to bottom.
SECTIONS = (
    WARNINGS,
    PageSection(
        "learning-curves",
        "Learning curves",
        (
            PageFigure(
                "learning_curves",
                "Loss, accuracy and learning rate over the epochs",
                _draw_learning_curves,
            ),
        ),
        body="history",
        needs=("history",),
    ),
    PageSection("classes", "Accuracy by class, worst first", body="classes", needs=("classes",)),
    PageSection(
        "confusion",
        "What was taken for what",
        (
            PageFigure(
                "confusion_matrix",
                "Confusion matrix: a row per true class, a column per predicted class",
                lambda run, path: figures.confusion_matrix(run.measured, path),
            ),
        ),
    ),
    PageSection(
        "mistakes",
        "The most confident mistakes",
        (
            PageFigure(
                "worst_mistakes",
                "Images that were classified wrongly with the highest probability",
                _draw_worst_mistakes,
                dpi=PHOTO_DPI,
            ),
        ),
    ),
    PageSection(
        "files",
        "Files",
        (
            PageFigure(
                "file_sizes",
                "Sizes of the files as bars",
                lambda run, path: figures.file_sizes(run.files, path),
            ),
        ),
        body="files",
        needs=("files",),
    ),
    PageSection(
        "broken-images",
        lambda values: f"Images that were left out ({len(values['broken_images'])})",
        body="broken_images",
        needs=("broken_images",),
    ),
    RUN,
)


def write_report(folder: str | Path) -> Path:
    """Write `report.html` from what a run left in `folder`: one file that opens offline.

    Reads `metrics.json` and, of these, what is there: `recipe.yaml`, `history.csv` and the pictures
    of `SECTIONS`, as `draw_figures` leaves them. What is missing is left out of the page; a picture
    that is not a PNG is left out and named.

    Every key of `metrics.json` is optional::

        {"dataset": {"name", "classes", "class_names", "train", "val", "image_size"},
         "model": {"name", "parameters", "multiply_adds", "activation_bytes"},
         "training": {"epochs", "ranks", "batch_size", "seconds", "images_per_second", "seed",
                      "command", "started", "resumed_from_epoch"},
         "evaluation": Evaluation.to_dict(),
         "files": [{"name", "bytes", "top1" or null, "confidence", "note"}],
         "broken_images": [{"file", "reason"}],
         "warnings": ["…"],
         "versions": {"python": "…", "keras": "…"}}

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: `folder` has no `metrics.json`.
        ValueError: `metrics.json` or `history.csv` is not what it should be.
    """
    folder = Path(folder)
    metrics = Metrics.read(folder / "metrics.json")
    pictures, refused = read_pictures(SECTIONS, filter(Path.is_file, folder.glob("*.png")))
    history = folder / "history.csv"
    recipe = folder / "recipe.yaml"
    return write_page(
        folder / "report.html",
        SECTIONS,
        title=_title(metrics),
        cards=_cards(metrics),
        warnings=[*map(str, metrics.entries("warnings")), *refused],
        pictures=pictures,
        history=_history_table(read_history(history)) if history.is_file() else None,
        classes=_class_rows(metrics),
        files=_file_rows(metrics),
        broken_images=[
            (str(entry.get("file", "?")), str(entry.get("reason", "")))
            for entry in metrics.objects("broken_images")
        ],
        recipe=recipe.read_text("utf-8", errors="replace") if recipe.is_file() else None,
        facts=_facts(metrics),
        command=metrics.text("training", "command"),
        versions=[(str(name), str(value)) for name, value in metrics.section("versions").items()],
    )


def _title(metrics: Metrics) -> str:
    model = metrics.text("model", "name") or "Training run"
    dataset = metrics.text("dataset", "name")
    return f"{model} on {dataset}" if dataset else model


def _cards(metrics: Metrics) -> list[Card]:
    """The headline numbers that are known."""
    number = metrics.number
    count = number("evaluation", "count")
    measured = f"on {count:,} images" if count else ""
    error = number("evaluation", "top1_standard_error")
    spread = f"± {100 * error:.1f} standard error, " if error is not None else ""
    # With five classes or fewer everything is among the first five.
    all_in_top5 = 0 < len(metrics.list_of("evaluation", "class_names")) <= 5
    top5 = None if all_in_top5 else number("evaluation", "top5")
    parameters = number("model", "parameters")
    epochs = number("training", "epochs")
    batch_size = number("training", "batch_size")
    wanted: list[tuple[str, float | None, Callable[[float], str], str]] = [
        ("Top-1 accuracy", number("evaluation", "top1"), percent, spread + measured),
        ("Top-5 accuracy", top5, percent, measured),
        ("Parameters", parameters, _compact, f"{parameters:,}" if parameters else ""),
        ("Multiply-adds", number("model", "multiply_adds"), _compact, "for one image"),
        ("Activations", number("model", "activation_bytes"), byte_size, "for one image"),
        *((label, size, byte_size, name) for label, size, name in _headline_files(metrics)),
        (
            "Training time",
            number("training", "seconds"),
            duration,
            f"{epochs:,} epochs" if epochs else "",
        ),
        ("Speed", number("training", "images_per_second"), _rate, "images per second"),
        (
            "Ranks",
            number("training", "ranks"),
            "{:,}".format,
            f"batches of {batch_size:,}" if batch_size else "",
        ),
    ]
    return [
        Card(label, form(value), note) for label, value, form, note in wanted if value is not None
    ]


def _headline_files(metrics: Metrics) -> Iterator[tuple[str, float, str]]:
    """The first file, which is the model as trained, and the smallest one made of it."""
    files = [
        (size, str(entry.get("name", "")))
        for entry in metrics.objects("files")
        if (size := number_or_none(entry.get("bytes"))) is not None
    ]
    if files:
        yield "Model size", *files[0]
        if min(files)[0] < files[0][0]:
            yield "Smallest file", *min(files)


def _rate(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _compact(number: float) -> str:
    return scaled(number, ("", "k", "M", "G", "T"))


def _class_rows(metrics: Metrics) -> list[ClassRow]:
    """The classes, the least accurate first and those without an example last."""
    names = [str(name) for name in metrics.list_of("evaluation", "class_names")]
    accuracies = metrics.list_of("evaluation", "per_class_accuracy")
    counts = metrics.list_of("evaluation", "per_class_count") or [""] * len(names)
    if not accuracies:
        return []
    if not len(names) == len(accuracies) == len(counts):
        raise ValueError(
            "metrics.json: expected as many accuracies and counts as class_names. "
            f"Received: {len(accuracies)}, {len(counts)} and {len(names)}"
        )
    mistakes = _most_frequent_mistakes(metrics.list_of("evaluation", "confusion"), names)
    rows = [
        ClassRow(name, str(count), number_or_none(accuracy), mistake)
        for name, accuracy, count, mistake in zip(names, accuracies, counts, mistakes, strict=True)
    ]
    return sorted(rows, key=lambda row: math.inf if row.accuracy is None else row.accuracy)


def _most_frequent_mistakes(confusion: list[Any], names: Sequence[str]) -> list[str]:
    """For each class the one that it was most often taken for, as "name (times)"."""
    if not confusion:
        return [""] * len(names)
    try:
        matrix = np.array(confusion, np.int64)
    except (ValueError, TypeError, OverflowError):
        matrix = np.zeros(0, np.int64)
    if matrix.shape != (len(names), len(names)):
        raise ValueError(
            f"metrics.json: expected a confusion of {len(names)} rows and columns of whole numbers"
        )
    np.fill_diagonal(matrix, 0)
    return [
        f"{names[predicted]} ({row[predicted]:,})" if row[predicted] > 0 else ""
        for row, predicted in zip(matrix, matrix.argmax(axis=1), strict=True)
    ]


def _file_rows(metrics: Metrics) -> list[tuple[str, str, str, str, str, str]]:
    entries = metrics.objects("files")
    rows = []
    for entry in entries:
        size, top1, confidence = (
            number_or_none(entry.get(key)) for key in ("bytes", "top1", "confidence")
        )
        notes = (str(entry.get("note") or ""), _lost_confidence(entry, entries[0]))
        rows.append(
            (
                str(entry.get("name", "?")),
                "" if size is None else f"{size:,}",
                "" if size is None else byte_size(size),
                "not measured" if top1 is None else percent(top1),
                "not measured" if confidence is None else percent(confidence),
                "; ".join(filter(None, notes)),
            )
        )
    return rows


def _lost_confidence(entry: Mapping[str, Any], trained: Mapping[str, Any]) -> str:
    """A note on a LiteRT file that is much less sure than the model as trained, or nothing."""
    before, after = (number_or_none(file.get("confidence")) for file in (trained, entry))
    if not str(entry.get("name")).endswith(".tflite") or before is None or after is None:
        return ""
    if before - after <= MOST_CONFIDENCE_LOST:
        return ""
    return (
        f"{100 * (before - after):.1f} points less sure than {trained.get('name')}, "
        "as where 8-bit ranges cut values off"
    )


def _facts(metrics: Metrics) -> list[tuple[str, str]]:
    """What was run, as (label, value)."""
    wanted = (
        ("Data set", "dataset", "name"),
        ("Classes", "dataset", "classes"),
        ("Training images", "dataset", "train"),
        ("Validation images", "dataset", "val"),
        ("Image size", "dataset", "image_size"),
        ("Model", "model", "name"),
        ("Started", "training", "started"),
        ("Epochs", "training", "epochs"),
        ("Resumed from epoch", "training", "resumed_from_epoch"),
        ("Ranks", "training", "ranks"),
        ("Batch size", "training", "batch_size"),
        ("Seed", "training", "seed"),
    )
    facts = ((label, metrics.text(section, key)) for label, section, key in wanted)
    return [(label, value) for label, value in facts if value is not None]


def _history_table(history: list[dict[str, float]]) -> tuple[list[str], list[list[str]]]:
    """The names of the columns, and a line of cells per epoch."""
    names = list(dict.fromkeys(name for row in history for name in row))
    return names, [[f"{row[name]:.5g}" if name in row else "" for name in names] for row in history]
