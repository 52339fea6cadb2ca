"""What each layer of a network costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from keras_squeezenet.numerals import byte_size, scaled
from keras_squeezenet.reports.figures.drawing import (
    DPI,
    INK,
    MARK,
    MUTED,
    TRAINING,
    VALIDATION,
    axes_at,
    fitted,
    new_figure,
    save,
    style,
    width_of,
)

if TYPE_CHECKING:  # it imports Keras, which no figure needs
    from keras_squeezenet.network.profile import LayerProfile, ModelProfile

MOST_NAMED = 64  # rows with a name of their own
_LABELLED = 4  # of more rows, the largest

_OUTPUT = "#56B4E9"  # Okabe and Ito's sky blue


@dataclass(frozen=True)
class _Panel:
    title: str
    values: Sequence[int]
    colour: str
    is_bytes: bool = False
    inner: Sequence[int] | None = None  # drawn over it

    def text(self, value: float, position: object = None) -> str:
        if value == 0:
            return "0"
        return byte_size(value) if self.is_bytes else scaled(value, ("", "k", "M", "G"))


@style()
def layer_costs(profile: ModelProfile, path: str | Path) -> Figure:
    """Draw the parameters, the multiply-adds and the memory of each layer, in their order.

    Up to 64 rows have a bar each and their name; of more, the largest are named.

    Args:
        profile: as `profile_model` gives it.
        path: the PNG to write.

    Returns:
        The figure, already written.

    Raises:
        ValueError: there is no layer.
    """
    rows = profile.layers
    if not rows:
        raise ValueError("profile: expected at least one layer. Received: none")
    panels = (
        _Panel(
            f"Parameters, {scaled(profile.parameters, ('', 'k', 'M', 'G'))}",
            [row.parameters for row in rows],
            TRAINING,
        ),
        _Panel(
            f"Multiply-adds, {scaled(profile.multiply_adds, ('', 'k', 'M', 'G'))}",
            [row.multiply_adds or 0 for row in rows],
            VALIDATION,
        ),
        _Panel(
            f"Memory, at most {byte_size(profile.peak_activation_bytes)}",
            [row.live_bytes for row in rows],
            MARK,
            is_bytes=True,
            inner=[row.activation_bytes for row in rows],
        ),
    )
    draw = _with_names if len(rows) <= MOST_NAMED else _by_number
    figure = draw(profile, panels)
    save(figure, path, DPI)
    return figure


def _with_names(profile: ModelProfile, panels: Sequence[_Panel]) -> Figure:
    """A bar for each row, from top to bottom."""
    rows, font, step = profile.layers, 8.5, 0.19
    names = [fitted(row.name, font, 2.2) for row in rows]
    left = 0.3 + max(width_of(name, font) for name in names)
    height = step * len(rows)
    figure = new_figure(10, height + 1.3)
    gap = 0.72
    width = (10 - left - gap * len(panels)) / len(panels)
    for number, panel in enumerate(panels):
        axes = axes_at(figure, left + number * (width + gap), 0.75, width, height)
        axes.barh(range(len(rows)), panel.values, height=0.7, color=panel.colour)
        if panel.inner is not None:
            axes.barh(range(len(rows)), panel.inner, height=0.3, color=_OUTPUT)
        axes.set_title(panel.title, pad=8)
        axes.set_yticks(range(len(rows)), names if number == 0 else [], fontsize=font)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, max(1, *panel.values))
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.xaxis.set_major_formatter(FuncFormatter(panel.text))
        for y, value in enumerate(panel.values):
            if value:
                axes.text(
                    1.02 * value + 0.01 * max(panel.values),
                    y,
                    panel.text(value),
                    va="center",
                    fontsize=7.5,
                    color=MUTED,
                )
    _explain(figure, profile)
    return figure


def _by_number(profile: ModelProfile, panels: Sequence[_Panel]) -> Figure:
    """The rows side by side, as many as there are."""
    rows = profile.layers
    figure = new_figure(10, 8.1)
    for number, panel in enumerate(panels):
        axes = axes_at(figure, 0.95, 5.75 - 2.5 * number, 8.7, 1.6)
        axes.bar(range(1, len(rows) + 1), panel.values, width=1.0, color=panel.colour)
        if panel.inner is not None:
            axes.bar(range(1, len(rows) + 1), panel.inner, width=1.0, color=_OUTPUT)
        axes.set_title(panel.title, pad=22)
        axes.set_xlim(0.5, len(rows) + 0.5)
        axes.set_ylim(0, 1.05 * max(1, *panel.values))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(panel.text))
        axes.grid(axis="x", visible=False)
        _name_largest(axes, rows, panel)
        if number == len(panels) - 1:
            axes.set_xlabel("layer, in the order of execution")
    _explain(figure, profile)
    return figure


def _name_largest(axes: Axes, rows: Sequence[LayerProfile], panel: _Panel) -> None:
    """Names above the largest bars, beside each other from left to right."""
    largest = np.argsort(panel.values)[::-1][:_LABELLED]
    room = 1 / _LABELLED
    for place, index in enumerate(sorted(int(each) for each in largest if panel.values[each])):
        text = f"{fitted(rows[index].name, 7.5, 1.35)} {panel.text(panel.values[index])}"
        axes.annotate(
            text,
            xy=(index + 1, panel.values[index]),
            xytext=(place * room, 1.07),
            textcoords="axes fraction",
            fontsize=7.5,
            color=INK,
            va="bottom",
            arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.6, "shrinkB": 0},
        )


def _explain(figure: Figure, profile: ModelProfile) -> None:
    font = 8.5
    shapes = ", ".join("×".join(map(str, shape)) for shape in profile.input_shapes)
    rest = ". Memory of one image, float32: all tensors in use (green), the layer's output (blue)"
    network = fitted(f"{profile.name}, input {shapes}", font, 9.4 - width_of(rest, font))
    figure.text(0.03, 0.14 / figure.get_figheight(), network + rest, fontsize=font, color=MUTED)
