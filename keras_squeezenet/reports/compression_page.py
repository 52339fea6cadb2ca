"""The page that people look at after a compression."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_squeezenet.compression.stages import Stage
from keras_squeezenet.numerals import byte_size, percent
from keras_squeezenet.reports import figures
from keras_squeezenet.reports.page import (
    RUN,
    WARNINGS,
    Card,
    PageFigure,
    PageSection,
    draw_figures,
    read_pictures,
    write_page,
)


@dataclass(frozen=True, eq=False)
class CompressionResults:
    """What the figures of a compression are drawn of; see `write_compression_report`."""

    stages: Sequence[Stage]
    sharing: Mapping[str, tuple[np.ndarray, np.ndarray]]
    spent: Mapping[str, Mapping[str, int]]

    @property
    def coded(self) -> list[Stage]:
        """The stages whose kernels are sparse, or have few values."""
        return [each for each in self.stages if each.bits is not None or (each.density or 1) < 1]


# The page, from top to bottom.
SECTIONS = (
    WARNINGS,
    PageSection(
        "stages",
        "Size and accuracy after each stage",
        (
            PageFigure(
                "size_and_accuracy",
                "Top-1 accuracy over file size, a mark for each file",
                lambda found, path: figures.size_and_accuracy(found.stages, path),
            ),
        ),
        body="stages",
        needs=("stages",),
    ),
    PageSection("ranges", "What 8 bits cut off", body="ranges", needs=("exported",)),
    PageSection(
        "bytes",
        "What the bytes are spent on",
        (
            PageFigure(
                "bytes_spent",
                "Bytes of each .sqz file by purpose, as bars",
                lambda found, path: figures.bytes_spent(found.spent, path),
                applies=lambda found: found.spent,
            ),
        ),
        body="bytes",
        needs=("spent",),
    ),
    PageSection(
        "layers",
        "Density and bits, layer by layer",
        (
            PageFigure(
                "density_and_bits",
                "Share of weights that are not 0, and bits of an index, for each kernel",
                lambda found, path: figures.density_and_bits(found.coded[-1].layers, path),
                applies=lambda found: found.coded,
            ),
        ),
    ),
    PageSection(
        "weights",
        "Weights and their codebooks",
        (
            PageFigure(
                "weight_histograms",
                "A histogram of the weights of each kernel, with the values that they share",
                lambda found, path: figures.weight_histograms(found.sharing, path),
                applies=lambda found: found.sharing,
            ),
        ),
    ),
    RUN,
)


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
    drawn = draw_figures(SECTIONS, CompressionResults(stages, sharing or {}, spent), folder)
    pictures, refused = read_pictures(SECTIONS, drawn)
    return write_page(
        folder / "report.html",
        SECTIONS,
        title=title,
        cards=_cards(stages, parameters),
        warnings=[
            f"{stage.path.name}: {stage.exported.warning}"
            for stage in stages
            if stage.exported and stage.exported.warning
        ]
        + refused,
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
