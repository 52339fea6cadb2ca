"""What was taken for what, and the mistakes themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from keras_squeezenet.inference.evaluation import Evaluation
from keras_squeezenet.numerals import percent
from keras_squeezenet.printing import printable
from keras_squeezenet.reports.figures.drawing import (
    DPI,
    FAINT,
    INK,
    PHOTO_DPI,
    TRAINING,
    VALIDATION,
    axes_at,
    check_photo,
    fitted,
    new_figure,
    save,
    style,
    width_of,
)

SHARES = LinearSegmentedColormap.from_list(
    "shares", ["#f6f9fb", "#7fb8dd", TRAINING, "#06263b"]
).with_extremes(bad=FAINT)

ANNOTATED_CLASSES = 20
LABELLED_CLASSES = 100
LISTED_PAIRS = 22
MISTAKE_COLUMNS = 5
MISTAKE_ROWS = 4


@style()
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
    save(figure, path, DPI)
    return figure


def mistake_caption(true: str, said: str, probability: float) -> str:
    """The two lines under a picture in `worst_mistakes`."""
    return f"true: {printable(true)}\nsaid: {printable(said)} {percent(probability, 0)}"


@style()
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
        check_photo(f"images[{position}]", image)
    if len(images) == 0:
        figure = new_figure(5, 0.8)
        figure.text(0.5, 0.5, "No mistakes to show.", ha="center", va="center", fontsize=11)
    else:
        shown = MISTAKE_COLUMNS * MISTAKE_ROWS
        figure = _mistake_grid(images[:shown], captions[:shown])
    save(figure, path, PHOTO_DPI)
    return figure


def _labelled_confusion(evaluation: Evaluation) -> Figure:
    """A figure around a matrix with the names on both axes, laid out in inches."""
    classes = len(evaluation.class_names)
    annotated = classes <= ANNOTATED_CLASSES
    side = min(max(0.62 * classes, 3.2), 7.6) if annotated else min(max(0.12 * classes, 7.4), 9.3)
    font = 9.0 if annotated else min(9.0, 0.95 * 72 * side / classes)
    room = 2.4 if classes <= 12 else 1.7
    names = [fitted(name, font, room) for name in evaluation.class_names]
    widest = max(width_of(name, font) for name in names)
    slope = 45 if annotated else 90
    left = widest + 0.6
    bottom = widest * math.sin(math.radians(slope)) + 0.6
    figure = new_figure(left + side + 1.0, bottom + side + 0.5)
    axes = axes_at(figure, left, bottom, side, side)
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
    figure = new_figure(10, bottom + side + 0.5)
    axes = axes_at(figure, left, bottom, side, side)
    _draw_shares(figure, axes, evaluation, left + side + 0.12)
    axes.set(xticks=[], yticks=[])

    width = 10 - left - side - 1.15
    table = axes_at(figure, left + side + 1.0, bottom, width, side)
    _list_most_confused(table, evaluation, width)
    return figure


def _list_most_confused(axes: Axes, evaluation: Evaluation, width: float) -> None:
    """Lines of "count true → predicted" in axes `width` inches wide."""
    axes.axis("off")
    axes.set_title("Taken most often for another", pad=8)
    pairs = most_confused(evaluation.confusion, LISTED_PAIRS)
    arrow = " → "
    room = 0.88 * width - width_of(arrow, 9)
    for line, (label, predicted, count) in enumerate(pairs):
        true, said = evaluation.class_names[label], evaluation.class_names[predicted]
        # What the other name leaves over of its half goes to this one.
        true = fitted(true, 9, max(room / 2, room - width_of(printable(said), 9)))
        said = fitted(said, 9, room - width_of(true, 9))
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
    figure = new_figure(gap + columns * (cell + gap), gap + rows * (cell + text + gap))
    for position, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(position, columns)
        bottom = figure.get_figheight() - (row + 1) * (cell + text + gap) + text
        axes = axes_at(figure, gap + column * (cell + gap), bottom, cell, cell)
        axes.imshow(image)
        axes.set_anchor("SW")
        axes.axis("off")
        for number, line in enumerate(caption.split("\n")[:2]):
            figure.text(
                (gap + column * (cell + gap)) / figure.get_figwidth(),
                (bottom - 0.05 - 0.17 * number) / figure.get_figheight(),
                fitted(line, 8.5, cell),
                va="top",
                fontsize=8.5,
                color=VALIDATION if number else INK,
            )
    return figure
