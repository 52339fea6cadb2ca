"""How every figure looks, is laid out and written: in inches, on its own canvas (Agg)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager

from keras_squeezenet.files import replacing
from keras_squeezenet.printing import printable

# Okabe and Ito's colours for all kinds of colour vision (jfly.uni-koeln.de/color).
TRAINING = "#0072B2"
VALIDATION = "#D55E00"
MARK = "#009E73"
INK = "#1f2933"
MUTED = "#66717d"
FAINT = "#dfe4e8"

CSS_PIXELS_PER_INCH = 100
DPI = 200
# Photographs hardly shrink as PNG, and are seldom larger than 224 pixels.
PHOTO_DPI = 120

_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "font.size": 9,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "text.color": INK,
    # A class named "$5" is no formula.
    "text.parse_math": False,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
}

# DejaVu comes with matplotlib; the others serve scripts that it lacks, where they are installed.
_FONTS = (
    "DejaVu Sans",
    "Noto Sans CJK SC",
    "PingFang SC",
    "Microsoft YaHei",
    "Arial Unicode MS",
    "Noto Sans Devanagari",
)


@contextmanager
def style() -> Iterator[None]:
    """Our look, whatever the user's matplotlibrc says, and no warning for each unknown letter."""
    installed = set(fontManager.get_font_names())
    fonts = {"font.family": [name for name in _FONTS if name in installed]}
    with warnings.catch_warnings(), matplotlib.style.context(["default", _STYLE, fonts]):
        # A letter without a glyph is drawn as a box; the page has the name in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def new_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def axes_at(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes placed in inches from the lower left corner."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def fitted(text: str, size: float, inches: float) -> str:
    """`text` in `size` points, without so much of its middle that it is at most `inches` wide."""
    text = printable(text)
    if width_of(text, size) <= inches:
        return text
    fits, too_many = 0, len(text)
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if width_of(_without_middle(text, middle), size) <= inches:
            fits = middle
        else:
            too_many = middle
    return _without_middle(text, fits)


def _without_middle(text: str, kept: int) -> str:
    tail = kept // 3
    return text[: kept - tail].rstrip() + "…" + text[len(text) - tail :].lstrip()


def width_of(text: str, size: float) -> float:
    """Width of `text` in `size` points, in inches."""
    width, _, _ = _ruler().get_text_width_height_descent(text, FontProperties(size=size), False)
    return width / DPI


@lru_cache(maxsize=1)
def _ruler() -> RendererAgg:
    return RendererAgg(8, 8, DPI)


def save(figure: Figure, path: str | Path, dpi: int) -> None:
    with replacing(path) as temporary:
        # No Software entry: the same numbers give the same bytes.
        figure.savefig(temporary, format="png", dpi=dpi, metadata={"Software": None})


def check_photo(name: str, image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(
            f"{name}: expected uint8 of shape (h, w, 3). "
            f"Received: {image.dtype} of shape {image.shape}"
        )
