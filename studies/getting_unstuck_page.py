"""The figures and tables of docs/getting_unstuck.md, from the rows of getting_unstuck.py."""

import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import getting_unstuck
import numpy as np
from getting_unstuck import Row, Table
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter
from pages import DOCS, renew_tables

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

CHANCE = math.log(10)
LOOKS = {  # colour and dashes of a case, in all figures
    "paper, adam 1e-3": (VALIDATION, "-"),
    "no last ReLU": (VALIDATION, "--"),
    "he_normal": (TRAINING, "-"),
    "he_normal, no last ReLU": (TRAINING, "--"),
    "bypass": (MARK, "-"),
    "batch normalization": ("#CC79A7", "-"),
    "input caffe": ("#E69F00", "-"),
    "digits' recipe": (INK, "-"),
}
CURVES = ("paper, adam 1e-3", "no last ReLU", "he_normal", "he_normal, no last ReLU")
PANELS = (
    ("Signal before the first step", "signal", "0"),
    ("Its gradient", "gradient_norm", "0"),
    ("Dead channels at the end", "dead_share", None),
)


def renew(results: Path, docs: Path = DOCS) -> None:
    """Write the figures again, and the tables within the page.

    Args:
        results: folder of the CSV files.
        docs: folder of the page and of its figures.
    """
    table = Table(results)
    digits = [run for run in table.runs if run["data"] == "digits"]
    draw_layers(table, digits, docs / "getting_unstuck_layers.png")
    draw_losses(digits, docs / "getting_unstuck_losses.png")
    renew_tables(docs / "getting_unstuck.md", lambda data: rows_of(table, data))


def rows_of(table: Table, data: str) -> Iterator[str]:
    """The lines of the table of a data set: each case, over its seeds."""
    yield (
        "| case | runs | learn | slowly | classes dead | at chance | top-1 | first gradient "
        "| warning |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for name in dict.fromkeys(run["name"] for run in table.runs if run["data"] == data):
        runs = [run for run in table.runs if (run["data"], run["name"]) == (data, name)]
        outcomes = [run["outcome"] for run in runs]
        cells = [
            name,
            len(runs),
            outcomes.count("learns") or "",
            outcomes.count("slow") or "",
            outcomes.count("dead") or "",
            outcomes.count("chance") + outcomes.count("diverged") or "",
            _range([float(run["top1"]) for run in runs]),
            f"{statistics.median(float(run['first_gradient']) for run in runs):.1g}",
            _named(table, runs),
        ]
        yield "| " + " | ".join(map(str, cells)) + " |"


def _range(values: Sequence[float]) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.2f}" if low == high else f"{middle:.2f} ({low:.2f} to {high:.2f})"


def _named(table: Table, runs: Sequence[Row]) -> str:
    """The causes that were named in most of the runs."""
    causes = [cause for run in runs for cause in getting_unstuck.noticed(table, run)[1]]
    often = [cause for cause in dict.fromkeys(causes) if 2 * causes.count(cause) > len(runs)]
    return ", ".join(often) or "none"


@style()
def draw_layers(table: Table, runs: Sequence[Row], path: Path) -> Figure:
    """How signal, gradient and dead channels go through the layers: medians over the seeds."""
    figure = new_figure(10, 4.4)
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08, rect=(0, 0.14, 1, 0.86))
    handles = []
    for axes, (title, column, step) in zip(figure.subplots(1, 3), PANELS, strict=True):
        axes.set_title(title)
        for name, (colour, dashes) in LOOKS.items():
            values = _by_layer(table, runs, name, column, step)
            # Before its first step a batch normalization has no averages to look at.
            if not values or (step == "0" and name == "batch normalization"):
                continue
            (line,) = axes.plot(
                list(values), list(values.values()), dashes, color=colour, label=name, linewidth=1.8
            )
            if step is None:
                handles.append(line)
        axes.tick_params("x", rotation=60)
        if column == "dead_share":
            axes.set_ylim(0, 1)
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        else:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    figure.legend(handles=handles, loc="lower center", ncols=4)
    save(figure, path, DPI)
    return figure


def _by_layer(
    table: Table, runs: Sequence[Row], name: str, column: str, step: str | None
) -> dict[str, float]:
    """Median of a column over the seeds of a case, layer by layer; `step` None is the last one."""
    found: dict[str, list[float]] = {}
    for run in runs:
        if run["name"] != name:
            continue
        for row in table.layers(run):
            if row["step"] == (run["steps"] if step is None else step):
                found.setdefault(row["layer"], []).append(float(row[column]))
    return {layer: statistics.median(values) for layer, values in found.items()}


@style()
def draw_losses(runs: Sequence[Row], path: Path) -> Figure:
    """Loss over the steps: a line for each seed, and the loss of equal probabilities."""
    figure = new_figure(10, 3.2)
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
    for axes, name in zip(figure.subplots(1, len(CURVES), sharey=True), CURVES, strict=True):
        colour, _ = LOOKS[name]
        axes.set_title(name)
        for run in runs:
            if run["name"] == name:
                losses = [float(loss) for loss in run["losses"].split()]
                ends = int(run["steps"]) * np.arange(1, len(losses) + 1) / len(losses)
                axes.plot(ends, losses, color=colour, linewidth=1.2, alpha=0.8)
        axes.axhline(CHANCE, color=MUTED, linestyle=":")
        axes.set(xlabel="step", ylim=(0, 2.6))
    figure.axes[0].set_ylabel("loss; dotted: ln(10)")
    save(figure, path, DPI)
    return figure
