"""Pictures, and where a model looked in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from keras_squeezenet.numerals import percent
from keras_squeezenet.reports.figures.drawing import (
    MUTED,
    PHOTO_DPI,
    TRAINING,
    axes_at,
    check_photo,
    fitted,
    new_figure,
    save,
    style,
)

# Bright where it is high, with any colour vision and in print.
HEAT = matplotlib.colormaps["viridis"]
HEAT_OPACITY = 0.6
EXPLAINED_PICTURES = 40
EXPLAINED_CLASSES = 10
# Of a picture in `explanations`, in pixels: twice what is drawn.
EXPLAINED_SIDE = 720

# Of `explanations`, in inches: where its columns begin, how wide they are, how high its lines.
_PHOTO_LEFT, _OVERLAY_LEFT, _BARS_LEFT = 0.2, 3.2, 6.2
_PHOTO_SIDE, _NAMES, _BARS = 2.8, 2.1, 0.9
_CAPTION_HEIGHT, _BAR_STEP = 0.24, 0.26


@dataclass(frozen=True, eq=False)
class Explanation:
    """A row of `explanations`.

    Attributes:
        title: the picture's name.
        photo: uint8[h, w, 3], RGB, the whole picture. `EXPLAINED_SIDE` pixels are enough.
        seen: left, upper, right and lower edge of what the model saw of it, as shares of its width
            and height.
        heat: float[rows, columns], 0 or more, over what the model saw; as `grad_cam` gives it.
        predictions: (class name, probability), the most probable, which `heat` is for, first.

    Raises:
        ValueError: the shapes are others, `heat` has negative or no numbers, or there is no
            prediction.
    """

    title: str
    photo: np.ndarray
    seen: tuple[float, float, float, float]
    heat: np.ndarray
    predictions: Sequence[tuple[str, float]]

    def __post_init__(self) -> None:
        check_photo("photo", self.photo)
        if self.heat.ndim != 2 or not self.heat.size or not (self.heat >= 0).all():
            raise ValueError(
                "heat: expected numbers of 0 or more, (rows, columns). "
                f"Received: shape {self.heat.shape}"
            )
        if not self.predictions:
            raise ValueError("predictions: expected at least one. Received: none")


@style()
def explanations(rows: Sequence[Explanation], path: str | Path) -> Figure:
    """Draw pictures, where a model looked in them, and the classes it found most probable.

    Args:
        rows: at most 40, from top to bottom; of each the first 10 predictions are drawn.
        path: the PNG to write.

    Returns:
        The figure, already written.

    Raises:
        ValueError: no rows, or too many.
    """
    if not 1 <= len(rows) <= EXPLAINED_PICTURES:
        raise ValueError(f"rows: expected 1 to {EXPLAINED_PICTURES}. Received: {len(rows)}")
    heights = [_explanation_height(row) for row in rows]
    legend, gap = 0.95, 0.3
    figure = new_figure(10, legend + sum(heights) + gap * len(rows))
    _draw_heat_legend(figure)
    top = figure.get_figheight() - legend
    for row, height in zip(rows, heights, strict=True):
        _draw_explanation(figure, row, top)
        top -= height + gap
    save(figure, path, PHOTO_DPI)
    return figure


def _explanation_height(row: Explanation) -> float:
    bars = _BAR_STEP * len(row.predictions[:EXPLAINED_CLASSES])
    return _CAPTION_HEIGHT + max(_photo_size(row.photo)[1], bars)


def _photo_size(photo: np.ndarray) -> tuple[float, float]:
    """(width, height) in inches."""
    scale = _PHOTO_SIDE / max(photo.shape[:2])
    # A panorama stays visible.
    return max(scale * photo.shape[1], 0.03), max(scale * photo.shape[0], 0.03)


def _draw_explanation(figure: Figure, row: Explanation, top: float) -> None:
    """The row whose upper edge is `top` inches from the bottom."""
    width, height = _photo_size(row.photo)
    top -= _CAPTION_HEIGHT
    photo, overlay = (
        axes_at(figure, left, top - height, width, height) for left in (_PHOTO_LEFT, _OVERLAY_LEFT)
    )
    photo.imshow(row.photo, aspect="auto")
    _draw_heat(overlay, row)
    photo.axis("off")
    overlay.axis("off")
    name = row.predictions[0][0]
    found = row.heat.max() > 0
    _caption(figure, _PHOTO_LEFT, top, row.title)
    _caption(figure, _OVERLAY_LEFT, top, f"for {name}" if found else f"nothing spoke for {name}")
    bars = row.predictions[:EXPLAINED_CLASSES]
    bar_height = _BAR_STEP * len(bars)
    _draw_bars(axes_at(figure, _BARS_LEFT + _NAMES, top - bar_height, _BARS, bar_height), bars)


def _caption(figure: Figure, left: float, bottom: float, text: str) -> None:
    figure.text(
        left / figure.get_figwidth(),
        (bottom + 0.06) / figure.get_figheight(),
        fitted(text, 8.5, _PHOTO_SIDE),
        fontsize=8.5,
    )


def _draw_heat(axes: Axes, row: Explanation) -> None:
    """The map in colours over the picture in grey; what the model did not see stays pale."""
    grey = row.photo @ np.array([0.299, 0.587, 0.114])
    height, width = grey.shape
    left, upper, right, lower = np.multiply(row.seen, (width, height, width, height))
    shades: dict[str, Any] = {
        "cmap": "gray",
        "norm": Normalize(0, 255),
        "extent": (0, width, height, 0),
    }
    colours: dict[str, Any] = {
        "cmap": HEAT,
        "norm": Normalize(0, 1),
        "extent": (left, right, lower, upper),
    }
    shares = row.heat / (row.heat.max() or 1)
    seen = Rectangle((left, upper), right - left, lower - upper, transform=axes.transData)

    axes.imshow(grey, alpha=0.3, aspect="auto", **shades)
    axes.imshow(grey, aspect="auto", **shades).set_clip_path(seen)
    axes.imshow(
        shares, alpha=HEAT_OPACITY, aspect="auto", interpolation="bilinear", **colours
    ).set_clip_path(seen)
    axes.set(xlim=(0, width), ylim=(height, 0))


def _draw_bars(axes: Axes, predictions: Sequence[tuple[str, float]]) -> None:
    """Probabilities as bars from 0 to 1, the names to the left, the numbers to the right."""
    positions = range(len(predictions))
    shares = [share for _, share in predictions]
    # The first is the one that the map is for.
    colours = [TRAINING, *[MUTED] * (len(predictions) - 1)]
    axes.barh(positions, shares, height=0.62, color=colours)
    axes.set_yticks(positions, [fitted(name, 9, _NAMES - 0.1) for name, _ in predictions])
    axes.set(xlim=(0, 1), ylim=(len(predictions) - 0.5, -0.5), xticks=[])
    axes.grid(False)
    axes.tick_params(axis="y", length=0)
    axes.spines["bottom"].set_visible(False)
    for position, share in enumerate(shares):
        axes.text(share + 0.04, position, percent(share), va="center")


def _draw_heat_legend(figure: Figure) -> None:
    """What the colours say, at the upper edge."""
    top = figure.get_figheight()
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), HEAT),
        cax=axes_at(figure, _OVERLAY_LEFT, top - 0.42, _PHOTO_SIDE, 0.13),
        orientation="horizontal",
        ticks=[0, 0.5, 1],
    )
    bar.ax.set_xticklabels(["nothing", "half", "most"], fontsize=8)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    figure.text(
        _PHOTO_LEFT / 10,
        (top - 0.18) / top,
        "Where the model looked",
        va="top",
        fontsize=11,
        weight="bold",
    )
    figure.text(
        (_BARS_LEFT + 0.15) / 10,
        (top - 0.18) / top,
        "How much a place raised the score of the first class,\nas a share of the most in this "
        "picture (Grad-CAM).\nPale: not seen by the model.",
        va="top",
        fontsize=8,
        color=MUTED,
    )
