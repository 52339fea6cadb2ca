"""The page that people look at after a compression."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from keras_squeezenet.compression.stages import Stage
from keras_squeezenet.numerals import byte_size, percent
from keras_squeezenet.reports import figures
from keras_squeezenet.reports.report import Card, read_picture, write_page


def write_compression_report(
    folder: str | Path,
    stages: Sequence[Stage],
    *,
    title: str,
    parameters: int,
    sharing: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    spent: Mapping[str, Mapping[str, int]] | None = None,
    facts: Sequence[tuple[str, str]] = (),
    command: str | None = None,
    versions: Mapping[str, str] | None = None,
    recipe: str | None = None,
) -> Path:
    """Draw pictures in `folder` and write `report.html` there: one file that opens offline.

    Args:
        folder: of the files; made if missing.
        stages: in order; the first one is what was compressed.
        title: of the page.
        parameters: number of weights and biases, whose float32 bytes sizes are compared with.
        sharing: of each kernel its weights before they shared values, and those values.
        spent: of each .sqz file the bytes by purpose.
        facts: labels with values, to be shown under "the run".
        command, versions, recipe: what was run.

    Returns:
        The path of the page.

    Raises:
        ValueError: there is no stage.
    """
    folder = Path(folder)
    spent = spent or {}
    exported = [stage for stage in stages if stage.exported]
    drawn: dict[str, tuple[Callable[..., Figure], Any]] = {
        "size_and_accuracy": (figures.size_and_accuracy, stages)
    }
    coded = [stage for stage in stages if stage.bits is not None or (stage.density or 1) < 1]
    if coded:
        drawn["density_and_bits"] = (figures.density_and_bits, coded[-1].layers)
    if sharing:
        drawn["weight_histograms"] = (figures.weight_histograms, sharing)
    if spent:
        drawn["bytes_spent"] = (figures.bytes_spent, spent)
    pictures = {}
    for name, (draw, values) in drawn.items():
        path = folder / f"{name}.png"
        draw(values, path)
        pictures[name] = read_picture(path, figures.DPI)
    return write_page(
        folder / "report.html",
        "compression.html.jinja",
        title=title,
        cards=_cards(stages, parameters),
        warnings=[
            f"{stage.path.name}: {stage.exported.warning}"
            for stage in stages
            if stage.exported and stage.exported.warning
        ],
        stages=stages,
        exported=exported,
        float32_bytes=4 * parameters,
        spent=spent,
        purposes=list(dict.fromkeys(name for parts in spent.values() for name in parts)),
        pictures=pictures,
        facts=list(facts),
        command=command,
        versions=list((versions or {}).items()),
        recipe=recipe,
    )


def _cards(stages: Sequence[Stage], parameters: int) -> list[Card]:
    first, smallest = stages[0], min(stages, key=lambda stage: stage.bytes)
    lost = 100 * (first.top1 - smallest.top1)
    cards = [
        Card("Smallest file", byte_size(smallest.bytes), smallest.path.name),
        Card(
            "Smaller than float32",
            f"{4 * parameters / smallest.bytes:.1f}×",
            f"{parameters:,} parameters of 4 bytes",
        ),
        Card("Bits per parameter", f"{8 * smallest.bytes / parameters:.2f}", "everything included"),
        Card(
            "Top-1 accuracy",
            percent(smallest.top1),
            f"± {100 * smallest.standard_error:.1f} standard error, on {smallest.count:,} images",
        ),
        Card("Points lost", f"{lost:.1f}", f"of {percent(first.top1)} before"),
    ]
    densities = [stage.density for stage in stages if stage.density is not None]
    if densities and densities[-1] < 1:
        cards.append(Card("Weights left", percent(densities[-1]), "not 0, of all kernels"))
    cards += [
        Card(
            "Mean highest probability",
            percent(found.confidence),
            f"of {found.path.name}; {percent(found.model_confidence)} of its network in float32",
        )
        for found in (stage.exported for stage in stages)
        if found and found.confidence is not None and found.model_confidence is not None
    ]
    return cards
