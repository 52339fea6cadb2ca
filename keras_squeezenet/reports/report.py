"""The page that people look at after a run.

Names of classes and files come from folders that anybody may have made: the page shows them as they
are, never as HTML.
"""

from __future__ import annotations

import base64
import csv
import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from keras_squeezenet.checks import is_number
from keras_squeezenet.files import replacing
from keras_squeezenet.litert.ranges import MOST_CONFIDENCE_LOST
from keras_squeezenet.numerals import byte_size, duration, percent, scaled
from keras_squeezenet.reports.figures import CSS_PIXELS_PER_INCH, DPI, PHOTO_DPI


@dataclass(frozen=True)
class Card:
    """A headline number."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class ClassRow:
    """A line of the per-class table; `accuracy` is None for a class without an example."""

    name: str
    count: str
    accuracy: float | None
    confused_with: str


@dataclass(frozen=True)
class Picture:
    """A PNG inside the page, `width` CSS pixels wide."""

    source: str
    width: int


# What is inlined must be readable in a browser; ours are far smaller.
MAX_PICTURE_BYTES = 32_000_000
_PICTURE_DPI = {
    "learning_curves": DPI,
    "confusion_matrix": DPI,
    "worst_mistakes": PHOTO_DPI,
    "file_sizes": DPI,
}


def read_history(path: str | Path) -> list[dict[str, float]]:
    """Read a `history.csv`: a line of names, then one line of numbers per epoch.

    Returns:
        One dict per line; an empty cell is left out.

    Raises:
        ValueError: a cell is not a number, or a line has more cells than there are names.
    """
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        try:
            return [_history_row(path, reader.line_num, cells) for cells in reader]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: expected a CSV file. Received: {error}") from None


def _history_row(path: str | Path, line: int, cells: dict[str | None, str]) -> dict[str, float]:
    if None in cells:
        raise ValueError(f"{path}, line {line}: expected a cell per name. Received: more")
    row = {}
    for name, cell in cells.items():
        if name is not None and cell:
            try:
                row[name] = float(cell)
            except ValueError:
                raise ValueError(
                    f"{path}, line {line}: expected a number. Received: {name}={cell}"
                ) from None
    return row


def write_report(folder: str | Path) -> Path:
    """Write `report.html` from what a run left in `folder`: one file that opens offline.

    Reads `metrics.json` and, of these, what is there: `recipe.yaml`, `history.csv` and the pictures
    `learning_curves.png`, `confusion_matrix.png`, `worst_mistakes.png` and `file_sizes.png`. What
    is missing is left out of the page; a picture that is not a PNG is left out and named.

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
    metrics = _Metrics.read(folder / "metrics.json")
    pictures, refused = _read_pictures(folder)
    history = folder / "history.csv"
    recipe = folder / "recipe.yaml"
    return write_page(
        folder / "report.html",
        "report.html.jinja",
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


def write_page(path: str | Path, template: str, **values: Any) -> Path:
    """Write a page of one of the package's templates; the values are shown as text, not as HTML.

    Returns:
        `path`.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("keras_squeezenet.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    page = environment.get_template(template).render(values)
    path = Path(path)
    with replacing(path) as temporary:
        # "replace": a file name that is not UTF-8 reaches us with lone surrogates.
        temporary.write_text(page, "utf-8", errors="replace")
    return path


@dataclass(frozen=True)
class _Metrics:
    """`metrics.json`, with a clear error where a part has another form than the page can show."""

    values: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> _Metrics:
        if not path.is_file():
            raise FileNotFoundError(
                f"{path.parent}: expected a run's folder with metrics.json. Received: none there"
            )
        try:
            values = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: expected JSON. Received: {error}") from None
        if not isinstance(values, dict):
            raise ValueError(f"{path}: expected an object. Received: {type(values).__name__}")
        return cls(values)

    def section(self, name: str) -> Mapping[str, Any]:
        return self._expect(name, self.values.get(name), dict)

    def entries(self, name: str) -> list[Any]:
        return self._expect(name, self.values.get(name), list)

    def objects(self, name: str) -> list[Mapping[str, Any]]:
        return [self._expect(name, entry, dict) for entry in self.entries(name)]

    def list_of(self, section: str, key: str) -> list[Any]:
        return self._expect(key, self.section(section).get(key), list)

    def number(self, section: str, key: str) -> float | None:
        return _number_or_none(self.section(section).get(key))

    def text(self, section: str, key: str) -> str | None:
        value = self.section(section).get(key)
        if isinstance(value, list):
            return " × ".join(map(str, value))
        return None if value is None else str(value)

    @staticmethod
    def _expect(name: str, value: Any, kind: type) -> Any:
        if value is None:
            return kind()
        if not isinstance(value, kind):
            raise ValueError(
                f"metrics.json: expected {name} to be made of {kind.__name__}. "
                f"Received: {type(value).__name__}"
            )
        return value


def _number_or_none(value: Any) -> float | None:
    if not is_number(value):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # An integer beyond float64, which no number on the page is.
        return None


def _title(metrics: _Metrics) -> str:
    model = metrics.text("model", "name") or "Training run"
    dataset = metrics.text("dataset", "name")
    return f"{model} on {dataset}" if dataset else model


def _cards(metrics: _Metrics) -> list[Card]:
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


def _headline_files(metrics: _Metrics) -> Iterator[tuple[str, float, str]]:
    """The first file, which is the model as trained, and the smallest one made of it."""
    files = [
        (size, str(entry.get("name", "")))
        for entry in metrics.objects("files")
        if (size := _number_or_none(entry.get("bytes"))) is not None
    ]
    if files:
        yield "Model size", *files[0]
        if min(files)[0] < files[0][0]:
            yield "Smallest file", *min(files)


def _rate(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _compact(number: float) -> str:
    return scaled(number, ("", "k", "M", "G", "T"))


def _class_rows(metrics: _Metrics) -> list[ClassRow]:
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
        ClassRow(name, str(count), _number_or_none(accuracy), mistake)
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


def _file_rows(metrics: _Metrics) -> list[tuple[str, str, str, str, str, str]]:
    entries = metrics.objects("files")
    rows = []
    for entry in entries:
        size, top1, confidence = (
            _number_or_none(entry.get(key)) for key in ("bytes", "top1", "confidence")
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
    before, after = (_number_or_none(file.get("confidence")) for file in (trained, entry))
    if not str(entry.get("name")).endswith(".tflite") or before is None or after is None:
        return ""
    if before - after <= MOST_CONFIDENCE_LOST:
        return ""
    return (
        f"{100 * (before - after):.1f} points less sure than {trained.get('name')}, "
        "as where 8-bit ranges cut values off"
    )


def _facts(metrics: _Metrics) -> list[tuple[str, str]]:
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


def _read_pictures(folder: Path) -> tuple[dict[str, Picture], list[str]]:
    """The pictures that are there, by name, and a sentence for each that cannot be shown."""
    pictures, refused = {}, []
    for name, dpi in _PICTURE_DPI.items():
        path = folder / f"{name}.png"
        if path.is_file():
            try:
                pictures[name] = read_picture(path, dpi)
            except ValueError as error:
                refused.append(str(error))
    return pictures, refused


def read_picture(path: Path, dpi: int) -> Picture:
    """A PNG that was drawn with `dpi` dots to the inch, for a page.

    Raises:
        ValueError: one sentence: it is no PNG, or too large.
    """
    with open(path, "rb") as file:
        content = file.read(MAX_PICTURE_BYTES + 1)
    if len(content) > MAX_PICTURE_BYTES:
        raise ValueError(
            f"{path.name} was left out: it is larger than {byte_size(MAX_PICTURE_BYTES)}."
        )
    # The signature, then IHDR with the width (PNG specification, sections 5.2 and 11.2.1).
    if content[:8] != b"\x89PNG\r\n\x1a\n" or content[12:16] != b"IHDR" or len(content) < 33:
        raise ValueError(f"{path.name} was left out: it is not a PNG.")
    (width,) = struct.unpack_from(">I", content, 16)
    return Picture(
        source="data:image/png;base64," + base64.b64encode(content).decode("ascii"),
        width=width * CSS_PIXELS_PER_INCH // dpi,
    )
