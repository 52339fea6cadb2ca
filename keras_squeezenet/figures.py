"""The pictures that people look at after a run.

Each figure is drawn on its own canvas (Agg), without pyplot and its state, and shown on the page at
100 CSS pixels to the inch, so that its text is as large as the page's. Names of classes and files
come from folders that anybody may have made: they are shown as they are, never as mathematics.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from keras_squeezenet.evaluation import Evaluation
from keras_squeezenet.files import replacing
from keras_squeezenet.numerals import byte_size, percent
from keras_squeezenet.printing import printable

# Okabe and Ito's colours for all kinds of colour vision (jfly.uni-koeln.de/color).
TRAINING = "#0072B2"
VALIDATION = "#D55E00"
MARK = "#009E73"
INK = "#1f2933"
MUTED = "#66717d"
FAINT = "#dfe4e8"
SHARES = LinearSegmentedColormap.from_list(
    "shares", ["#f6f9fb", "#7fb8dd", TRAINING, "#06263b"], bad=FAINT
)

CSS_PIXELS_PER_INCH = 100
DPI = 200
# Photographs hardly shrink as PNG, and are seldom larger than 224 pixels.
PHOTO_DPI = 120

ANNOTATED_CLASSES = 20
LABELLED_CLASSES = 100
LISTED_PAIRS = 22
MISTAKE_COLUMNS = 5
MISTAKE_ROWS = 4

# Bright where it is high, with any colour vision and in print.
HEAT = matplotlib.colormaps["viridis"]
HEAT_OPACITY = 0.6
EXPLAINED_PICTURES = 40
EXPLAINED_CLASSES = 10
# Of a picture in `explanations`, in pixels: twice what is drawn.
EXPLAINED_SIDE = 720

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


# Figures ----------------------------------------------------------------------------------------


@contextmanager
def _style() -> Iterator[None]:
    """Our look, whatever the user's matplotlibrc says, and no warning for each unknown letter."""
    installed = set(fontManager.get_font_names())
    fonts = {"font.family": [name for name in _FONTS if name in installed]}
    with warnings.catch_warnings(), matplotlib.style.context(["default", _STYLE, fonts]):
        # A letter without a glyph is drawn as a box; the page has the name in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


@_style()
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
    figure = _figure(10, 5.2 if has_rate else 4.2)
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
    _save(figure, path, DPI)
    return figure


@_style()
def confusion_matrix(evaluation: Evaluation, path: str | Path) -> Figure:
    """Draw which class was taken for which, each row coloured by its shares.

    Up to 20 classes carry their counts, up to 100 their names; with more, a list of the most
    frequent confusions stands beside the matrix. A class without an example is a grey row.

    Returns:
        The figure, already written to `path` as PNG.
    """
    if len(evaluation.class_names) <= LABELLED_CLASSES:
        figure = _labelled_confusion(evaluation)
    else:
        figure = _listed_confusion(evaluation)
    _save(figure, path, DPI)
    return figure


def mistake_caption(true: str, said: str, probability: float) -> str:
    """The two lines under a picture in `worst_mistakes`."""
    return f"true: {printable(true)}\nsaid: {printable(said)} {percent(probability, 0)}"


@_style()
def worst_mistakes(
    images: Sequence[np.ndarray], captions: Sequence[str], path: str | Path
) -> Figure:
    """Draw pictures with what they show and what was said, at most 5 × 4 of them.

    Args:
        images: uint8[h, w, 3] each, RGB; the sizes may differ. The first 20 are drawn; none at all
            gives a picture that says so, and replaces that of an earlier run.
        captions: for each image two lines, from `mistake_caption`. A line that is too long loses
            its middle, so that the probability at its end stays.
        path: the PNG to write.

    Returns:
        The figure, already written.

    Raises:
        ValueError: not as many captions as images, or an image of another shape or type.
    """
    if len(images) != len(captions):
        raise ValueError(
            f"captions: expected one for each of {len(images)} images. Received: {len(captions)}"
        )
    for position, image in enumerate(images):
        _check_photo(f"images[{position}]", image)
    if len(images) == 0:
        figure = _figure(5, 0.8)
        figure.text(0.5, 0.5, "No mistakes to show.", ha="center", va="center", fontsize=11)
    else:
        shown = MISTAKE_COLUMNS * MISTAKE_ROWS
        figure = _mistake_grid(images[:shown], captions[:shown])
    _save(figure, path, PHOTO_DPI)
    return figure


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
        _check_photo("photo", self.photo)
        if self.heat.ndim != 2 or not self.heat.size or not (self.heat >= 0).all():
            raise ValueError(
                "heat: expected numbers of 0 or more, (rows, columns). "
                f"Received: shape {self.heat.shape}"
            )
        if not self.predictions:
            raise ValueError("predictions: expected at least one. Received: none")


@_style()
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
    figure = _figure(10, legend + sum(heights) + gap * len(rows))
    _draw_heat_legend(figure)
    top = figure.get_figheight() - legend
    for row, height in zip(rows, heights, strict=True):
        _draw_explanation(figure, row, top)
        top -= height + gap
    _save(figure, path, PHOTO_DPI)
    return figure


@_style()
def file_sizes(rows: Sequence[tuple[str, int, float | None]], path: str | Path) -> Figure:
    """Draw files as bars, with their bytes (1 kB = 1000 bytes) and measured top-1.

    Args:
        rows: (label, bytes, top-1 from 0 to 1 or None if not measured), from top to bottom.
        path: the PNG to write.

    Returns:
        The figure, already written.

    Raises:
        ValueError: `rows` is empty, or a size is negative.
    """
    if not rows:
        raise ValueError("rows: expected at least one (label, bytes, top1). Received: none")
    for label, size, _ in rows:
        if size < 0:
            raise ValueError(f"rows: expected bytes of 0 or more for {label}. Received: {size}")
    font = 9.5
    labels = [_fit(label, font, 3.0) for label, _, _ in rows]
    measured = any(top1 is not None for _, _, top1 in rows)
    columns = 2.0 if measured else 1.1
    left = 0.35 + max(_width(label, font) for label in labels)
    height = 0.36 * len(rows)
    figure = _figure(10, height + 1.1)
    axes = _axes(figure, left, 0.65, 10 - left - columns, height)

    largest = max(size for _, size, _ in rows)
    unit, divisor = ("MB", 1e6) if largest >= 1e6 else ("kB", 1e3)
    positions = range(len(rows))
    axes.barh(positions, [size / divisor for _, size, _ in rows], height=0.62, color=TRAINING)
    axes.set_yticks(positions, labels, fontsize=font)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 1.02 * largest / divisor or 1)
    axes.set_xlabel(f"file size in {unit} (1 {unit} = {divisor:,.0f} bytes)")
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)

    def column(inches: float, header: str, cells: Sequence[str]) -> None:
        x = 1 + inches / (10 - left - columns)
        for y, text in enumerate(cells):
            axes.text(x, y, text, transform=axes.get_yaxis_transform(), ha="right", va="center")
        axes.text(x, 1.0, header, transform=axes.transAxes, ha="right", va="bottom", weight="bold")

    column(0.9, "size", [byte_size(size) for _, size, _ in rows])
    if measured:
        column(1.7, "top-1", ["–" if top1 is None else percent(top1) for _, _, top1 in rows])
    _save(figure, path, DPI)
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


def _labelled_confusion(evaluation: Evaluation) -> Figure:
    """A figure around a matrix with the names on both axes, laid out in inches."""
    classes = len(evaluation.class_names)
    annotated = classes <= ANNOTATED_CLASSES
    side = min(max(0.62 * classes, 3.2), 7.6) if annotated else min(max(0.12 * classes, 7.4), 9.3)
    font = 9.0 if annotated else min(9.0, 0.95 * 72 * side / classes)
    room = 2.4 if classes <= 12 else 1.7
    names = [_fit(name, font, room) for name in evaluation.class_names]
    widest = max(_width(name, font) for name in names)
    slope = 45 if annotated else 90
    left = widest + 0.6
    bottom = widest * math.sin(math.radians(slope)) + 0.6
    figure = _figure(left + side + 1.0, bottom + side + 0.5)
    axes = _axes(figure, left, bottom, side, side)
    _draw_shares(figure, axes, evaluation, left + side + 0.15)

    axes.set_yticks(range(classes), names, fontsize=font)
    axes.set_xticks(range(classes), names, fontsize=font, rotation=slope)
    for label in axes.get_xticklabels():
        label.set(ha="right" if annotated else "center", va="top", rotation_mode="default")
        if annotated:
            label.set(rotation_mode="anchor", va="center")
    axes.yaxis.set_label_coords(-(left - 0.22) / side, 0.5)
    axes.xaxis.set_label_coords(0.5, -(bottom - 0.22) / side)
    if annotated:
        _annotate_counts(axes, evaluation.confusion)
    return figure


def _listed_confusion(evaluation: Evaluation) -> Figure:
    """A matrix without names, and a list of the most frequent confusions beside it."""
    side, left, bottom = 5.0, 0.45, 0.45
    figure = _figure(10, bottom + side + 0.5)
    axes = _axes(figure, left, bottom, side, side)
    _draw_shares(figure, axes, evaluation, left + side + 0.12)
    axes.set(xticks=[], yticks=[])

    width = 10 - left - side - 1.15
    table = _axes(figure, left + side + 1.0, bottom, width, side)
    _list_most_confused(table, evaluation, width)
    return figure


def _list_most_confused(axes: Axes, evaluation: Evaluation, width: float) -> None:
    """Lines of "count true → predicted" in axes `width` inches wide."""
    axes.axis("off")
    axes.set_title("Taken most often for another", pad=8)
    pairs = most_confused(evaluation.confusion, LISTED_PAIRS)
    arrow = " → "
    room = 0.88 * width - _width(arrow, 9)
    for line, (label, predicted, count) in enumerate(pairs):
        true, said = evaluation.class_names[label], evaluation.class_names[predicted]
        # What the other name leaves over of its half goes to this one.
        true = _fit(true, 9, max(room / 2, room - _width(printable(said), 9)))
        said = _fit(said, 9, room - _width(true, 9))
        y = 1 - (line + 0.7) / LISTED_PAIRS
        axes.text(0.06, y, f"{count:,}", ha="right", va="center", weight="bold")
        axes.text(0.09, y, true + arrow + said, ha="left", va="center")
    if not pairs:
        axes.text(0, 0.97, "No mistakes.", va="center")


def most_confused(confusion: np.ndarray, count: int) -> list[tuple[int, int, int]]:
    """The `count` most frequent mistakes as (label, predicted class, examples), most first."""
    mistakes = confusion.copy()
    np.fill_diagonal(mistakes, 0)
    labels, predicted = np.nonzero(mistakes)
    counts = mistakes[labels, predicted]
    order = np.argsort(-counts, kind="stable")[:count]
    return [(int(labels[i]), int(predicted[i]), int(counts[i])) for i in order]


def _draw_shares(figure: Figure, axes: Axes, evaluation: Evaluation, bar_left: float) -> None:
    """The matrix as shares of its rows, and the colour bar `bar_left` inches from the left."""
    totals = evaluation.confusion.sum(axis=1, keepdims=True)
    shares = np.ma.masked_invalid(
        np.divide(
            evaluation.confusion,
            totals,
            where=totals > 0,
            out=np.full(evaluation.confusion.shape, math.nan),
        )
    )
    # The square root shows a confusion of 2 % and leaves the diagonal its place.
    picture = axes.imshow(shares, cmap=SHARES, norm=PowerNorm(0.5, 0, 1))
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title("Confusion matrix", pad=8)

    box = axes.get_position()
    height = min(box.height, 2.6 / figure.get_figheight())
    bar_axes = figure.add_axes(
        (bar_left / figure.get_figwidth(), box.y1 - height, 0.13 / figure.get_figwidth(), height)
    )
    bar = figure.colorbar(picture, cax=bar_axes, ticks=[0, 0.02, 0.1, 0.25, 0.5, 0.75, 1])
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol="\u00a0%"))
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8)
    if not totals.all():
        bar_axes.text(
            0, -0.06, "grey: no\nexample", transform=bar_axes.transAxes, va="top", fontsize=8
        )


def _annotate_counts(axes: Axes, confusion: np.ndarray) -> None:
    classes = len(confusion)
    axes.set_xticks(np.arange(classes + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(classes + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    totals = np.maximum(confusion.sum(axis=1), 1)
    for label, predicted in np.argwhere(confusion):
        count = confusion[label, predicted]
        axes.text(
            predicted,
            label,
            f"{count}" if count < 100_000 else f"{count / 1000:.0f}k",
            ha="center",
            va="center",
            fontsize=9 if classes <= 12 else 7.5,
            color="white" if count / totals[label] > 0.35 else INK,
        )


def _mistake_grid(images: Sequence[np.ndarray], captions: Sequence[str]) -> Figure:
    cell, gap, text = 1.85, 0.15, 0.42
    columns = min(MISTAKE_COLUMNS, len(images))
    rows = math.ceil(len(images) / columns)
    figure = _figure(gap + columns * (cell + gap), gap + rows * (cell + text + gap))
    for position, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(position, columns)
        bottom = figure.get_figheight() - (row + 1) * (cell + text + gap) + text
        axes = _axes(figure, gap + column * (cell + gap), bottom, cell, cell)
        axes.imshow(image)
        axes.set_anchor("SW")
        axes.axis("off")
        for number, line in enumerate(caption.split("\n")[:2]):
            figure.text(
                (gap + column * (cell + gap)) / figure.get_figwidth(),
                (bottom - 0.05 - 0.17 * number) / figure.get_figheight(),
                _fit(line, 8.5, cell),
                va="top",
                fontsize=8.5,
                color=VALIDATION if number else INK,
            )
    return figure


def _check_photo(name: str, image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(
            f"{name}: expected uint8 of shape (h, w, 3). "
            f"Received: {image.dtype} of shape {image.shape}"
        )


# Of `explanations`, in inches: where its columns begin, how wide they are, how high its lines.
_PHOTO_LEFT, _OVERLAY_LEFT, _BARS_LEFT = 0.2, 3.2, 6.2
_PHOTO_SIDE, _NAMES, _BARS = 2.8, 2.1, 0.9
_CAPTION_HEIGHT, _BAR_STEP = 0.24, 0.26


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
        _axes(figure, left, top - height, width, height) for left in (_PHOTO_LEFT, _OVERLAY_LEFT)
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
    _draw_bars(_axes(figure, _BARS_LEFT + _NAMES, top - bar_height, _BARS, bar_height), bars)


def _caption(figure: Figure, left: float, bottom: float, text: str) -> None:
    figure.text(
        left / figure.get_figwidth(),
        (bottom + 0.06) / figure.get_figheight(),
        _fit(text, 8.5, _PHOTO_SIDE),
        fontsize=8.5,
    )


def _draw_heat(axes: Axes, row: Explanation) -> None:
    """The map in colours over the picture in grey; what the model did not see stays pale."""
    grey = row.photo @ np.array([0.299, 0.587, 0.114])
    height, width = grey.shape
    left, upper, right, lower = np.multiply(row.seen, (width, height, width, height))
    shades = {"cmap": "gray", "norm": Normalize(0, 255), "extent": (0, width, height, 0)}
    colours = {"cmap": HEAT, "norm": Normalize(0, 1), "extent": (left, right, lower, upper)}
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
    axes.set_yticks(positions, [_fit(name, 9, _NAMES - 0.1) for name, _ in predictions])
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
        cax=_axes(figure, _OVERLAY_LEFT, top - 0.42, _PHOTO_SIDE, 0.13),
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


# Layout -----------------------------------------------------------------------------------------


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes placed in inches from the lower left corner."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def _fit(text: str, size: float, inches: float) -> str:
    """`text` in `size` points, without so much of its middle that it is at most `inches` wide."""
    text = printable(text)
    if _width(text, size) <= inches:
        return text
    fits, too_many = 0, len(text)
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if _width(_without_middle(text, middle), size) <= inches:
            fits = middle
        else:
            too_many = middle
    return _without_middle(text, fits)


def _without_middle(text: str, kept: int) -> str:
    tail = kept // 3
    return text[: kept - tail].rstrip() + "…" + text[len(text) - tail :].lstrip()


def _width(text: str, size: float) -> float:
    """Width of `text` in `size` points, in inches."""
    width, _, _ = _ruler().get_text_width_height_descent(text, FontProperties(size=size), False)
    return width / DPI


@lru_cache(maxsize=1)
def _ruler() -> RendererAgg:
    return RendererAgg(8, 8, DPI)


def _save(figure: Figure, path: str | Path, dpi: int) -> None:
    with replacing(path) as temporary:
        # No Software entry: the same numbers give the same bytes.
        figure.savefig(temporary, format="png", dpi=dpi, metadata={"Software": None})
