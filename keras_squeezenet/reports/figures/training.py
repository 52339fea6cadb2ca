"""Loss, accuracy and learning rate over a training run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from keras_squeezenet.numerals import percent
from keras_squeezenet.reports.figures.drawing import (
    DPI,
    MARK,
    MUTED,
    TRAINING,
    VALIDATION,
    new_figure,
    save,
    style,
)


@style()
def learning_curves(
    history: Sequence[Mapping[str, float]], path: str | Path, classes: int | None = None
) -> Figure:
    """Draw loss, accuracy and learning rate over the epochs.

    Args:
        history: one mapping per epoch with any of `epoch`, `loss`, `val_loss` (nats), `accuracy`,
            `val_accuracy` (0 to 1), `learning_rate`. Without `epoch`, the rows count from 1. Where
            an epoch comes twice, because a run was resumed, the later row counts.
        path: the PNG to write.
        classes: dots the line ln(classes), the loss of a network that has learned nothing.

    Returns:
        The figure, already written.

    Raises:
        ValueError: `history` holds neither losses nor accuracies.
    """
    rows = _latest_of_each_epoch(history)
    epochs = np.array([row["epoch"] for row in rows])
    curves = {
        name: np.array([_finite_or_nan(row.get(name)) for row in rows])
        for name in ("loss", "val_loss", "accuracy", "val_accuracy", "learning_rate")
    }
    recorded = {name: values for name, values in curves.items() if not np.isnan(values).all()}
    panels = [
        (title, quantity)
        for title, quantity in (("Loss", "loss"), ("Accuracy", "accuracy"))
        if quantity in recorded or f"val_{quantity}" in recorded
    ]
    if not panels:
        raise ValueError(
            "history: expected rows with loss, val_loss, accuracy or val_accuracy. "
            f"Received: {len(rows)} rows with {sorted({key for row in rows for key in row})}"
        )

    has_rate = "learning_rate" in recorded
    figure = new_figure(10, 5.2 if has_rate else 4.2)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.08)
    grid = figure.add_gridspec(1 + has_rate, len(panels), height_ratios=[5, 1][: 1 + has_rate])
    for column, (title, quantity) in enumerate(panels):
        axes = figure.add_subplot(grid[0, column])
        axes.set_title(title, pad=38)
        _draw_curves(axes, epochs, recorded, quantity)
        if quantity == "loss" and classes is not None:
            _draw_chance(axes, classes)
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(-0.02, 1.0),
            ncols=2,
            borderaxespad=0,
            handlelength=1.6,
        )
        _epoch_axis(axes, epochs)
    if has_rate:
        _draw_learning_rate(figure.add_subplot(grid[1, :]), epochs, recorded["learning_rate"])
    save(figure, path, DPI)
    return figure


def _latest_of_each_epoch(history: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    rows = {row.get("epoch", number): row for number, row in enumerate(history, start=1)}
    return [{**rows[epoch], "epoch": epoch} for epoch in sorted(rows)]


def _finite_or_nan(value: float | None) -> float:
    """A gap in a curve stands for what is missing, and for a loss that has diverged."""
    return float(value) if value is not None and math.isfinite(value) else math.nan


def _draw_curves(
    axes: Axes, epochs: np.ndarray, recorded: Mapping[str, np.ndarray], quantity: str
) -> None:
    """The training and the validation curve of `quantity`, and the best validation epoch."""
    line = _line(epochs)
    if quantity in recorded:
        axes.plot(epochs, recorded[quantity], color=TRAINING, label="training", **line)
    validation = recorded.get(f"val_{quantity}")
    accuracy = quantity == "accuracy"
    if validation is not None:
        axes.plot(epochs, validation, color=VALIDATION, label="validation", **line)
        best = int(np.nanargmax(validation) if accuracy else np.nanargmin(validation))
        value = percent(validation[best]) if accuracy else f"{validation[best]:.3g}"
        axes.plot(
            epochs[best],
            validation[best],
            linestyle="none",
            marker="o",
            markersize=9,
            markeredgewidth=1.8,
            markerfacecolor="none",
            color=MARK,
            clip_on=False,
            label=f"best {value}, epoch {epochs[best]:g}",
        )
    if accuracy:
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol="\u00a0%"))
    else:
        axes.set_ylim(bottom=0)


def _draw_chance(axes: Axes, classes: int) -> None:
    """The loss of equal probabilities, where a network that is stuck stays."""
    chance = math.log(classes)
    label = f"chance, ln {classes} = {chance:.2f}"
    axes.axhline(chance, color=MUTED, linestyle=":", label=label)
    axes.set_ylim(0, max(axes.get_ylim()[1], 1.05 * chance))


def _draw_learning_rate(axes: Axes, epochs: np.ndarray, rates: np.ndarray) -> None:
    highest = np.nanmax(rates)
    axes.plot(epochs, rates, color=MARK, **_line(epochs))
    axes.set_title("Learning rate")
    axes.set_ylim(0, 1.15 * highest or 1)
    axes.set_yticks([0, highest], ["0", f"{highest:.3g}"])
    _epoch_axis(axes, epochs)


def _line(epochs: np.ndarray) -> dict[str, Any]:
    # A single epoch has no line, and a few are easier to read as points.
    return {"linewidth": 1.8, "marker": "o" if len(epochs) <= 15 else "", "markersize": 4}


def _epoch_axis(axes: Axes, epochs: np.ndarray) -> None:
    margin = max(0.02 * (epochs[-1] - epochs[0]), 0.3)
    axes.set_xlim(epochs[0] - margin, epochs[-1] + margin)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.set_xlabel("epoch")
