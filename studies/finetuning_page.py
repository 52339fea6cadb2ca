"""The figure and the table of docs/fine_tuning.md, from the rows of studies/finetuning_study.py."""

import csv
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path

from finetuning_study import digest
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from pages import DOCS, renew_tables

from keras_squeezenet.reports.figures.drawing import (
    DPI,
    INK,
    MUTED,
    TRAINING,
    VALIDATION,
    new_figure,
    save,
    style,
)

Row = dict[str, str]

HEADINGS = (
    "photos",
    "classes",
    "to train with",
    "ranks",
    "runs",
    "logistic regression",
    "first epoch",
    "lowest",
    "**kept**",
    "new photos",
    "logistic regression",
    "**kept**",
    "difference",
    "minutes",
    "settings",
)
MARKS = {  # column: (name, colour, marker)
    "top1_logistic_regression": ("logistic regression", MUTED, "D"),
    "lowest": ("lowest of all epochs", VALIDATION, "|"),
    "top1": ("what is kept", TRAINING, "o"),
}


def renew(results: Path, docs: Path = DOCS) -> None:
    """Write the figure again, and the table within the page.

    Args:
        results: the CSV file.
        docs: folder of the page and of its figure.
    """
    with results.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    draw(rows, docs / "fine_tuning.png")
    renew_tables(docs / "fine_tuning.md", lambda _: lines_of(rows))


def groups(rows: Iterable[Row]) -> dict[tuple[str, int, str], list[Row]]:
    """Rows of the same photos, ranks and settings, over the seeds; few photos first.

    Rows of an earlier recipe are left out.
    """
    found: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        if row["recipe"] != digest(row["settings"].split()):
            continue
        found.setdefault((row["photos"], int(row["ranks"]), row["settings"]), []).append(row)
    return dict(sorted(found.items(), key=lambda item: (int(item[1][0]["train"]), item[0])))


def lines_of(rows: Iterable[Row]) -> Iterator[str]:
    """The lines of the table: medians over the seeds, the standard error of a single run."""
    yield "| " + " | ".join(HEADINGS) + " |"
    yield "|" + "---|" * len(HEADINGS)
    for (photos, ranks, settings), runs in groups(rows).items():
        tested = bool(runs[0]["test"])
        cells = [
            photos + ("*" if runs[0]["tuned_on"] == "True" else ""),
            runs[0]["classes"],
            runs[0]["train"],
            ranks,
            len(runs),
            *(
                share(runs, column)
                for column in ("top1_logistic_regression", "frozen", "lowest", "top1")
            ),
            runs[0]["test"],
            *(
                share(runs, column) if tested else ""
                for column in ("test_top1_logistic_regression", "test_top1")
            ),
            f"{median(runs, 'test_difference'):+.3f} ± "
            f"{median(runs, 'test_difference_standard_error'):.3f}"
            if tested
            else "",
            f"{median(runs, 'minutes'):.0f}",
            settings,
        ]
        yield "| " + " | ".join(map(str, cells)) + " |"


def share(runs: Iterable[Row], column: str) -> str:
    return f"{median(runs, column):.3f}"


def median(runs: Iterable[Row], column: str) -> float:
    return statistics.median(float(run[column]) for run in runs)


@style()
def draw(rows: Iterable[Row], path: Path) -> Figure:
    """Validation top-1 of each set: a logistic regression, the lowest epoch, what is kept."""
    found = {
        photos: runs
        for (photos, ranks, settings), runs in groups(rows).items()
        if ranks == 1 and not settings  # the recipe as it is
    }
    figure = new_figure(8, 0.9 + 0.42 * len(found))
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
    axes = figure.subplots()
    for place, runs in enumerate(found.values()):
        ends = [median(runs, column) for column in ("top1_logistic_regression", "top1")]
        axes.plot(ends, [place, place], color=INK, linewidth=0.8, zorder=1)
        for column, (name, colour, marker) in MARKS.items():
            axes.scatter(
                median(runs, column),
                place,
                s=90 if marker == "|" else 40,
                color=colour,
                marker=marker,
                label=name if place == 0 else None,
                zorder=2,
            )
    names = [f"{photos} ({runs[0]['train']})" for photos, runs in found.items()]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_xlabel("top-1 of the validation photos")
    figure.legend(loc="outside lower center", ncols=3)
    save(figure, path, DPI)
    return figure
