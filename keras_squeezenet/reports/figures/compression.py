"""What compression costs and brings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter

from keras_squeezenet.compression.stages import LayerCoding, Stage
from keras_squeezenet.numerals import byte_size, percent
from keras_squeezenet.printing import printable
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

MOST_HISTOGRAMS = 28
HISTOGRAM_COLUMNS = 4

# Okabe and Ito's others.
_PURPLE, _SKY, _AMBER = "#CC79A7", "#56B4E9", "#E69F00"
_RINGS = (
    (INK, "o"),
    (_SKY, "o"),
    (TRAINING, "o"),
    (_AMBER, "o"),
    (VALIDATION, "o"),
    (MARK, "D"),
    (_PURPLE, "s"),
    (MUTED, "^"),
)
_PURPOSES = (TRAINING, VALIDATION, MARK, _AMBER, _PURPLE, _SKY, INK, MUTED)


@style()
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
    labels = [fitted(label, font, 3.0) for label, _, _ in rows]
    measured = any(top1 is not None for _, _, top1 in rows)
    columns = 2.0 if measured else 1.1
    left = 0.35 + max(width_of(label, font) for label in labels)
    height = 0.36 * len(rows)
    figure = new_figure(10, height + 1.1)
    axes = axes_at(figure, left, 0.65, 10 - left - columns, height)

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
    save(figure, path, DPI)
    return figure


@style()
def size_and_accuracy(stages: Sequence[Stage], path: str | Path) -> Figure:
    """Draw the accuracy of files over their sizes, with a legend that has the numbers.

    Each mark is hollow and smaller than the one before, so that files of one size and one accuracy
    are seen as rings. The whiskers are one standard error to each side.

    Returns:
        The figure, already written to `path` as PNG.

    Raises:
        ValueError: there is no stage, or too many to tell apart.
    """
    if not 1 <= len(stages) <= len(_RINGS):
        raise ValueError(f"stages: expected 1 to {len(_RINGS)}. Received: {len(stages)}")
    figure = new_figure(10, 4.2)
    axes = axes_at(figure, 0.95, 0.65, 5.6, 3.1)
    axes.set_title("Accuracy over size", pad=8)
    axes.set_xscale("log")
    for number, (stage, (colour, marker)) in enumerate(zip(stages, _RINGS, strict=False)):
        axes.errorbar(
            stage.bytes,
            stage.top1,
            stage.standard_error,
            color=colour,
            marker=marker,
            markersize=15 - 1.5 * number,
            markerfacecolor="none",
            markeredgewidth=1.8,
            elinewidth=1,
            capsize=3,
            linestyle="none",
            label=_fitted_label(stage),
        )
    _byte_axis(axes, [stage.bytes for stage in stages])
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1, symbol="\u00a0%"))
    axes.set(xlabel="file size (logarithmic)", ylabel="top-1 on validation images")
    axes.margins(y=0.12)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles=[each.lines[0] for each in handles if isinstance(each, ErrorbarContainer)],
        labels=labels,
        loc="center left",
        bbox_to_anchor=(0.7, 0.53),
        labelspacing=1.3,
        handletextpad=1,
    )
    save(figure, path, DPI)
    return figure


@style()
def density_and_bits(layers: Sequence[LayerCoding], path: str | Path) -> Figure:
    """Draw for each kernel how many weights are not 0, and the bits of its codebook's indices.

    Args:
        layers: from top to bottom; a kernel without a codebook has an empty place.
        path: the PNG to write.

    Returns:
        The figure, already written.

    Raises:
        ValueError: there is no layer.
    """
    if not layers:
        raise ValueError("layers: expected at least one. Received: none")
    font, step = 8.5, 0.235
    names = [fitted(layer.name, font, 2.2) for layer in layers]
    left = 0.3 + max(width_of(name, font) for name in names)
    height = step * len(layers)
    figure = new_figure(10, height + 1.15)
    width = (10 - left - 2.3) / 2
    positions = range(len(layers))
    densities = axes_at(figure, left, 0.65, width, height)
    densities.barh(positions, [layer.density for layer in layers], height=0.7, color=TRAINING)
    densities.set_title("Weights that are not 0", pad=8)
    densities.set_yticks(positions, names, fontsize=font)
    densities.set_xlim(0, 1)
    densities.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol="\u00a0%"))
    densities.set_xlabel("share of the kernel's weights")

    bits = axes_at(figure, left + width + 1.25, 0.65, width, height)
    known = [layer.bits or 0 for layer in layers]
    bits.barh(positions, known, height=0.7, color=MARK)
    bits.set_title("Bits of a weight's index", pad=8)
    bits.set_yticks([])
    bits.set_xlim(0, max(8, *known))
    bits.set_xlabel("bits (before entropy coding)")
    for y, layer in enumerate(layers):
        number = f"{layer.nonzero:,} of {layer.weights:,}"
        _beside(densities, 1.02, y, number, transform=densities.get_yaxis_transform())
        _beside(bits, known[y] + 0.1, y, "float32" if layer.bits is None else f"{layer.bits}")
    for axes in (densities, bits):
        axes.set_ylim(len(layers) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
    save(figure, path, DPI)
    return figure


@style()
def weight_histograms(
    kernels: Mapping[str, tuple[np.ndarray, np.ndarray]], path: str | Path
) -> Figure:
    """Draw the weights of kernels before they shared values, with the values that they share.

    Args:
        kernels: by name, (weights before, codebook), float32; weights of 0 are not drawn. Of more
            than 28, the largest are.
        path: the PNG to write.

    Returns:
        The figure, already written.

    Raises:
        ValueError: there is no kernel.
    """
    if not kernels:
        raise ValueError("kernels: expected at least one. Received: none")
    largest = sorted(kernels, key=lambda name: kernels[name][0].size, reverse=True)
    shown = [name for name in kernels if name in largest[:MOST_HISTOGRAMS]]
    columns = min(HISTOGRAM_COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    cell, high, gap = 2.2, 0.85, 0.22
    top = 0.75
    figure = new_figure(10, top + rows * (high + 0.62))
    figure.text(
        0.02,
        1 - 0.2 / figure.get_figheight(),
        "Weights before sharing (blue) and the values they share (orange)",
        va="top",
        fontsize=11,
        weight="bold",
    )
    for position, name in enumerate(shown):
        row, column = divmod(position, columns)
        bottom = figure.get_figheight() - top - row * (high + 0.62) - high
        axes = axes_at(figure, 0.3 + column * (cell + gap), bottom, cell, high)
        _draw_histogram(axes, *kernels[name])
        axes.set_title(fitted(name, 8.5, cell), fontsize=8.5, pad=3)
    save(figure, path, DPI)
    return figure


@style()
def bytes_spent(files: Mapping[str, Mapping[str, int]], path: str | Path) -> Figure:
    """Draw files as bars, divided into what their bytes are spent on.

    Args:
        files: by name, bytes by purpose, as `sqz.bytes_spent` gives them. A purpose has one colour
            in all files; of more than eight the smallest are drawn together.
        path: the PNG to write.

    Returns:
        The figure, already written.

    Raises:
        ValueError: there is no file, or one without a byte.
    """
    if not files or not all(sum(parts.values()) > 0 for parts in files.values()):
        raise ValueError("files: expected at least one, none empty. Received: none or an empty one")
    totals: Counter[str] = Counter()
    for parts in files.values():
        totals.update(parts)
    purposes = [name for name, total in totals.most_common() if total]
    if len(purposes) <= len(_PURPOSES):
        groups = {name: [name] for name in purposes}
    else:
        most = len(_PURPOSES) - 1
        groups = {name: [name] for name in purposes[:most]}
        groups["everything else"] = purposes[most:]
    font = 9.5
    labels = [fitted(name, font, 2.6) for name in files]
    left = 0.35 + max(width_of(label, font) for label in labels)
    height = 0.5 * len(files)
    figure = new_figure(10, height + 1.3)
    axes = axes_at(figure, left, 0.65, 10 - left - 1.2, height)
    ends = np.zeros(len(files))
    for (purpose, names), colour in zip(groups.items(), _PURPOSES, strict=False):
        sizes = np.array([sum(parts.get(name, 0) for name in names) for parts in files.values()])
        axes.barh(
            range(len(files)),
            sizes / 1e3,
            left=ends / 1e3,
            height=0.62,
            color=colour,
            label=printable(purpose),
            edgecolor="white",
            linewidth=0.6,
        )
        ends += sizes
    for y, end in enumerate(ends):
        _beside(axes, end / 1e3, y, f" {byte_size(end)}")
    axes.set_yticks(range(len(files)), labels, fontsize=font)
    axes.set(ylim=(len(files) - 0.5, -0.5), xlim=(0, 1.01 * ends.max() / 1e3))
    axes.set_xlabel("kB (1 kB = 1,000 bytes)")
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=4, borderaxespad=0.2)
    save(figure, path, DPI)
    return figure


def _fitted_label(stage: Stage) -> str:
    name = fitted(stage.name, 9, 1.4)
    return (
        f"{name}\n{byte_size(stage.bytes)}, {percent(stage.top1)} ± "
        f"{100 * stage.standard_error:.1f}"
    )


def _byte_axis(axes: Axes, sizes: Sequence[int]) -> None:
    """Ticks at 1, 2 and 5 times powers of ten; of files alike in size, at theirs."""
    low, high = 0.8 * max(1, min(sizes)), 1.25 * max(1, *sizes)
    steps = (1, 2, 5) if high / low < 300 else (1,)
    ticks = [step * 10**power for power in range(13) for step in steps]
    ticks = [tick for tick in ticks if low <= tick <= high] or [max(1, *sizes)]
    axes.set_xlim(low, high)
    axes.set_xticks(ticks, [byte_size(tick) for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def _beside(axes: Axes, x: float, y: float, text: str, **options: Any) -> None:
    axes.text(x, y, text, va="center", fontsize=8, color=MUTED, **options)


def _draw_histogram(axes: Axes, weights: np.ndarray, codebook: np.ndarray) -> None:
    weights = weights[weights != 0]
    # One bin to a value would be a comb where weights are shared already.
    counts = np.asarray(axes.hist(weights, bins=40, color=TRAINING, alpha=0.75)[0])
    most = counts.max() if len(counts) and counts.max() else 1
    axes.vlines(codebook, -0.2 * most, -0.04 * most, color=VALIDATION, linewidth=0.9)
    axes.set_ylim(-0.22 * most, 1.05 * most)
    axes.set_yticks([])
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="x", labelsize=7, pad=1)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.text(
        1,
        0.98,
        f"{np.unique(codebook).size} values",
        transform=axes.transAxes,
        ha="right",
        va="top",
        fontsize=7.5,
        color=MUTED,
    )
