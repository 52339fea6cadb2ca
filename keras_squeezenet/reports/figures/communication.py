"""What data-parallel training sends, what that costs, and where it stops to pay."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    NullFormatter,
    NullLocator,
    PercentFormatter,
)

from keras_squeezenet.communication.cost_model import (
    Case,
    PredictedTime,
    halving_seconds,
    ring_seconds,
    step_seconds,
)
from keras_squeezenet.communication.study import Published, Row, Study, Workers, link_name
from keras_squeezenet.reports.figures.drawing import (
    DPI,
    FAINT,
    INK,
    MARK,
    MUTED,
    TRAINING,
    VALIDATION,
    axes_at,
    new_figure,
    save,
    style,
)

# Okabe and Ito's colours, and a mark of its own for each network.
_LOOKS = (
    (VALIDATION, "o"),
    (TRAINING, "D"),
    (MARK, "s"),
    ("#CC79A7", "^"),
    (INK, "v"),
    ("#56B4E9", "P"),
    ("#E69F00", "X"),
)
Looks = dict[str, tuple[str, str]]  # of each network its colour and its mark

_UNLIMITED_AT = 4e10  # where links without a limit stand, beyond the axis of speeds
_SPEEDS = np.geomspace(6e7, 1e10, 60)
_WORKERS = np.unique(np.geomspace(1, 1024, 40).round()).astype(int)


@style()
def step_times(study: Study, path: str | Path, ranks: int = 2) -> Figure:
    """Draw seconds per step over the speed of the links: measured marks, and the model's lines.

    Args:
        study: with rows on that many ranks.
        path: the PNG to write.
        ranks: of the rows to draw.

    Returns:
        The figure, already written.

    Raises:
        ValueError: there is no such row.
    """
    looks = _looks_of(study.networks)
    rows = [row for row in study.rows if row.case.ranks == ranks]
    if not rows:
        raise ValueError(f"ranks: expected a number that was measured. Received: ranks={ranks}")
    figure = new_figure(10, 4.6)
    panels = {
        "float32 gradients, every step": (4, 1),
        "16-bit gradients, every fourth step": (2, 4),
    }
    shared = None
    for number, (title, (wire_bytes, accumulation)) in enumerate(panels.items()):
        left = 0.75 + 4.7 * number
        axes = axes_at(figure, left, 1.15, 4.3, 3.0)
        axes.set_title(title, pad=8)
        axes.set(xscale="log", yscale="log")
        chosen = [
            row
            for row in rows
            if (row.case.wire_bytes, row.case.accumulation) == (wire_bytes, accumulation)
        ]
        _draw_step_times(axes, study, chosen, looks)
        _link_axis(axes)
        _plain_numbers(axes.yaxis)
        if shared is None:
            axes.set_ylabel("seconds per step (logarithmic)")
            shared = axes
        else:
            low, high = zip(shared.get_ylim(), axes.get_ylim(), strict=True)
            for each in (shared, axes):
                each.set_ylim(min(low), max(high))
    handles = _handles(looks)
    handles.append(Line2D([], [], color=MUTED, linewidth=1.2, label="line: the model"))
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), columnspacing=1.4)
    save(figure, path, DPI)
    return figure


def _draw_step_times(axes: Axes, study: Study, rows: Sequence[Row], looks: Looks) -> None:
    for network, (colour, marker) in looks.items():
        of_network = [row for row in rows if row.case.network == network]
        if not of_network:
            continue
        seconds = np.array([row.seconds for row in of_network])
        spread = [
            seconds - [row.least_seconds for row in of_network],
            [row.greatest_seconds for row in of_network] - seconds,
        ]
        axes.errorbar(
            [row.case.link or _UNLIMITED_AT for row in of_network],
            seconds,
            spread,
            color=colour,
            marker=marker,
            markersize=6,
            elinewidth=1,
            capsize=2,
            linestyle="none",
        )
        case = of_network[0].case
        modelled = [step_seconds(study.costs, replace(case, link=speed)) for speed in _SPEEDS]
        axes.plot(_SPEEDS, modelled, color=colour, linewidth=1.2)
        fastest = step_seconds(study.costs, replace(case, link=None))
        axes.plot([_UNLIMITED_AT / 1.5, _UNLIMITED_AT * 1.5], [fastest] * 2, color=colour, lw=1.2)


def _link_axis(axes: Axes) -> None:
    ticks = {link: link_name(link) for link in (1e8, 1e9, 1e10)}
    ticks[_UNLIMITED_AT] = link_name(None)
    axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.set_xlim(_SPEEDS[0], _UNLIMITED_AT * 2)
    axes.axvspan(_SPEEDS[-1] * 1.25, _UNLIMITED_AT * 2, color=FAINT, alpha=0.35, linewidth=0)
    axes.set_xlabel("limit of what leaves a host")


@style()
def scaling(
    networks: Mapping[str, int],
    workers: Workers,
    published: Sequence[Published],
    path: str | Path,
    links: Sequence[float] = (1e9, 1e10, 1e11),
) -> Figure:
    """Draw modelled scaling efficiency over the number of workers, a panel per link speed.

    Solid lines are a ring, dashed ones recursive halving and doubling, with fewer messages. The
    last panel has the figures that others have published, on networks of their own.

    Args:
        networks: trainable parameters of each.
        workers: what each worker is taken to be.
        published: marks of the last panel.
        path: the PNG to write.
        links: bits per second.

    Returns:
        The figure, already written.
    """
    looks = _looks_of(networks)
    figure = new_figure(10, 6.7)
    titles = [f"Modelled: {link_name(link)}" for link in links]
    places = [(0.75, 3.95), (5.65, 3.95), (0.75, 0.95), (5.65, 0.95)]
    for (left, bottom), title, link in zip(places, titles, links, strict=False):
        axes = axes_at(figure, left, bottom, 4.15, 2.35)
        _efficiency_axes(axes, title)
        for network, (colour, marker) in looks.items():
            cases = [Case(network, networks[network], int(n), link) for n in _WORKERS]
            look: dict[str, Any] = {
                "color": colour,
                "marker": marker,
                "markevery": [-1],
                "markersize": 6,
            }
            for allreduce, line in ((ring_seconds, "solid"), (halving_seconds, (0, (4, 2)))):
                shares = [workers.efficiency(case, allreduce=allreduce) for case in cases]
                axes.plot(_WORKERS, shares, linestyle=line, linewidth=1.5, **look)
    axes = axes_at(figure, *places[-1], 4.15, 2.35)
    _efficiency_axes(axes, "Published, with the authors' own clusters")
    _draw_published(axes, published)
    for axes in figure.axes[2:]:
        axes.set_xlabel("workers (logarithmic)")
    for axes in figure.axes[::2]:
        axes.set_ylabel("throughput ÷ (workers × one)")
    handles = _handles(looks)
    handles.append(Line2D([], [], color=MUTED, label="ring"))
    handles.append(Line2D([], [], color=MUTED, linestyle=(0, (4, 2)), label="halving and doubling"))
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), columnspacing=1.2)
    save(figure, path, DPI)
    return figure


def _draw_published(axes: Axes, published: Sequence[Published]) -> None:
    together: dict[tuple[int, float], list[str]] = {}
    for figure in published:
        together.setdefault((figure.workers, figure.efficiency), []).append(figure.what)
        axes.plot(
            figure.workers,
            figure.efficiency,
            linestyle="none",
            color=INK,
            marker="*",
            markersize=10,
            markerfacecolor=INK if figure.of == "images per second" else "none",
        )
    for (count, share), names in together.items():
        axes.annotate(
            " and ".join(names),
            (count, share),
            (-9, 0),
            textcoords="offset points",
            ha="right",
            va="center",
        )
    sources = dict.fromkeys((each.source, each.network_link, each.of) for each in published)
    for number, (source, link, of) in enumerate(sources):
        text = f"{source}; {link}; {of}"
        at = 0.03 + 0.075 * (len(sources) - 1 - number)
        axes.text(0.02, at, text, transform=axes.transAxes, color=MUTED, fontsize=8)


def _efficiency_axes(axes: Axes, title: str) -> None:
    axes.set_title(title, pad=8)
    axes.set_xscale("log", base=2)
    axes.set_xlim(0.9, 1300)
    axes.set_xticks([1, 4, 16, 64, 256, 1024], ["1", "4", "16", "64", "256", "1,024"])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(0, 1.04)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol="\u00a0%"))


@style()
def predictions(found: Sequence[PredictedTime], path: str | Path, band: float = 0.15) -> Figure:
    """Draw predicted over measured seconds of cases that the fit had not seen.

    Args:
        found: the cases.
        path: the PNG to write.
        band: relative error to each side that is shaded.

    Returns:
        The figure, already written.

    Raises:
        ValueError: there is no case.
    """
    if not found:
        raise ValueError("found: expected at least one prediction. Received: none")
    looks = _looks_of(dict.fromkeys(each.case.network for each in found))
    figure = new_figure(10, 4.6)
    axes = axes_at(figure, 0.9, 0.65, 5.6, 3.5)
    axes.set_title("Cases left out of the fit", pad=8)
    axes.set(xscale="log", yscale="log")
    values = [value for each in found for value in (each.predicted, each.measured)]
    ends = np.array([min(values) / 1.3, max(values) * 1.3])
    axes.fill_between(ends, ends * (1 - band), ends * (1 + band), color=FAINT, alpha=0.6, lw=0)
    axes.plot(ends, ends, color=MUTED, linewidth=1)
    for network, (colour, marker) in looks.items():
        of_network = [each for each in found if each.case.network == network]
        for ranks in dict.fromkeys(each.case.ranks for each in of_network):
            chosen = [each for each in of_network if each.case.ranks == ranks]
            axes.plot(
                [each.measured for each in chosen],
                [each.predicted for each in chosen],
                color=colour,
                marker=marker,
                markerfacecolor=colour if ranks == 2 else "none",
                markersize=6,
                linestyle="none",
            )
    axes.set(xlim=ends, ylim=ends, xlabel="measured seconds per step", ylabel="predicted")
    for axis in (axes.xaxis, axes.yaxis):
        _plain_numbers(axis)
    handles = _handles(looks)
    full: dict[str, Any] = {"color": MUTED, "marker": "o", "linestyle": "none"}
    handles.append(Line2D([], [], **full, label="filled: 2 ranks"))
    handles.append(Line2D([], [], **full, markerfacecolor="none", label="hollow: 3 ranks"))
    figure.legend(handles=handles, loc="center left", bbox_to_anchor=(0.7, 0.53), labelspacing=1)
    save(figure, path, DPI)
    return figure


def _plain_numbers(axis: Axis) -> None:
    axis.set_major_locator(LogLocator(subs=(1, 3)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _looks_of(networks: Collection[str]) -> Looks:
    if len(networks) > len(_LOOKS):
        raise ValueError(f"networks: expected at most {len(_LOOKS)}. Received: {len(networks)}")
    return dict(zip(networks, _LOOKS, strict=False))


def _handles(looks: Looks) -> list[Line2D]:
    return [
        Line2D([], [], color=colour, marker=marker, linestyle="none", label=network)
        for network, (colour, marker) in looks.items()
    ]
