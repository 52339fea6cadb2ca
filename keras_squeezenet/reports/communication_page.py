"""The page that people look at after a communication study."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Self

from keras_squeezenet.communication.cost_model import (
    Costs,
    PredictedTime,
    halving_seconds,
    parameter_server_seconds,
    payload_bytes,
    ring_seconds,
    tree_seconds,
)
from keras_squeezenet.communication.study import (
    ACCELERATOR_FLOPS,
    LEFT_OUT,
    MULTIPLY_ADDS,
    PUBLISHED,
    WORKER_BATCH,
    Row,
    Study,
    accelerators,
    link_name,
    processors,
    read_rows,
)
from keras_squeezenet.numerals import byte_size, percent, scaled
from keras_squeezenet.reports.figures import communication as drawing
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

LINKS = (1e9, 1e10, 1e11)
WORKERS = (1, 8, 64, 256, 1024)
FAR_FROM_RING = 0.1
COMPARED_WORKERS, COMPARED_LINK = 128, 1e10  # of the three ways to sum gradients
WAYS = {
    "Ring": ring_seconds,
    "Halving and doubling": halving_seconds,
    "Tree": tree_seconds,
    "One parameter server": parameter_server_seconds,
}
COMMAND = (
    "sudo -E python studies/communication.py --output results/communication.csv --figures docs"
)


@dataclass(frozen=True, eq=False)
class StudyResults:
    """What the figures of a study are drawn of."""

    study: Study
    predictions: Sequence[PredictedTime]

    @classmethod
    def of(cls, study: Study) -> Self:
        return cls(study, study.predictions())


def _draw_step_times(found: StudyResults, path: Path) -> None:
    drawing.step_times(found.study, path, most_ranks_with_own_core(found.study))


def _draw_scaling(found: StudyResults, path: Path) -> None:
    workers = accelerators(found.study)
    drawing.scaling(parameters_of(found.study), workers, PUBLISHED, path, LINKS)


# Those whose figures are in docs, too.
IN_DOCS = (
    PageSection(
        "step-time",
        "Measured: seconds per step against the speed of the links",
        (
            PageFigure(
                "communication_step_time",
                "Seconds per step over the links' speed, a mark for each measured case and a line "
                "for the model",
                _draw_step_times,
            ),
        ),
        body="step_time",
    ),
    PageSection(
        "scaling",
        "Modelled: how far workers scale",
        (
            PageFigure(
                "communication_scaling",
                "Modelled scaling efficiency over the number of workers for three link speeds, and "
                "published figures",
                _draw_scaling,
            ),
        ),
        body="scaling",
    ),
)
# The page, from top to bottom.
SECTIONS = (
    WARNINGS,
    PageSection("kinds", "What is measured, modelled and published", body="kinds_of_figures"),
    *IN_DOCS,
    PageSection(
        "model",
        "How far the model can be trusted",
        (
            PageFigure(
                "communication_predictions",
                "Predicted over measured seconds of cases that were left out of the fit",
                lambda found, path: drawing.predictions(found.predictions, path),
                applies=lambda found: found.predictions,
            ),
        ),
        body="cost_model",
        needs=("predictions",),
    ),
    PageSection("measured", "Measured: every case", body="measured_cases"),
    RUN,
)


def write_figures(csv: str | Path, folder: str | Path) -> list[Path]:
    """Draw `communication_step_time.png` and `communication_scaling.png` into a folder.

    Returns:
        The paths of the pictures.

    Raises:
        InputError: `csv` is not a table of a study.
    """
    return draw_figures(IN_DOCS, StudyResults.of(Study.of(read_rows(csv))), folder)


def write_communication_report(csv: str | Path) -> Path:
    """Write a page from a communication.csv, beside it: one file that opens offline.

    Returns:
        The path of the page, with the suffix .html.

    Raises:
        InputError: `csv` is not a table of a study.
    """
    csv = Path(csv)
    study = Study.of(read_rows(csv))
    found = StudyResults.of(study)
    predictions = found.predictions
    with tempfile.TemporaryDirectory() as folder:
        pictures, refused = read_pictures(SECTIONS, draw_figures(SECTIONS, found, folder))
    return write_page(
        csv.with_suffix(".html"),
        SECTIONS,
        title="What the size of a network costs on many machines",
        cards=_cards(study, predictions),
        pictures=pictures,
        warnings=refused,
        rows=[_measured(row) for row in study.rows],
        far=sum(abs((row.sent_over_ring or 1) - 1) > FAR_FROM_RING for row in study.rows),
        constants=_constants(study.costs),
        computing=[(name, f"{study.costs.computing[name]:.4f}") for name in study.networks],
        predictions=[_predicted(each) for each in predictions],
        within=sum(abs(each.error) <= 0.15 for each in predictions),
        left_out=(LEFT_OUT[0], LEFT_OUT[1], link_name(LEFT_OUT[2])),
        workers=[f"{count:,}" for count in WORKERS],
        throughput=_throughput(study),
        ways=(list(WAYS), _ways(study)),
        compared=(COMPARED_WORKERS, link_name(COMPARED_LINK)),
        published=PUBLISHED,
        assumptions=(WORKER_BATCH, f"{ACCELERATOR_FLOPS / 1e12:g}"),
        multiply_adds=[
            (name, scaled(MULTIPLY_ADDS[name], ("", "k", "M", "G"))) for name in study.networks
        ],
        facts=[("Machine", study.rows[0].machine), ("Table", csv.name)],
        command=COMMAND,
        versions=[],
        recipe=None,
    )


def most_ranks_with_own_core(study: Study) -> int:
    counts = {row.case.ranks for row in study.rows}
    cores = study.rows[0].case.cores
    return max((count for count in counts if cores is None or count <= cores), default=1)


def parameters_of(study: Study) -> dict[str, int]:
    return {name: study.case(name).parameters for name in study.networks}


def _cards(study: Study, predictions: Sequence[PredictedTime]) -> list[Card]:
    cards = []
    parameters = parameters_of(study)
    smallest, largest = (pick(parameters, key=parameters.__getitem__) for pick in (min, max))
    cards.append(
        Card(
            "A gradient's bytes",
            byte_size(payload_bytes(parameters[smallest], None)),
            f"{smallest}; {byte_size(payload_bytes(parameters[largest], None))} for {largest}",
        )
    )
    ratios = [row.sent_over_ring for row in study.rows if row.sent_over_ring]
    if ratios:
        cards.append(
            Card(
                "Bytes sent ÷ ring's",
                f"{median(ratios):.3f}",
                f"median of {len(ratios)} cells, {min(ratios):.3f} to {max(ratios):.3f}",
            )
        )
    if predictions:
        errors = sorted(abs(each.error) for each in predictions)
        cards.append(
            Card(
                "Model's error",
                percent(median(errors)),
                f"median of {len(errors)} unseen cells, at most {percent(errors[-1])}",
            )
        )
    workers = accelerators(study)
    for name in (smallest, largest):
        case = study.case(name, ranks=WORKERS[-1], link=LINKS[0])
        cards.append(
            Card(
                f"{name}, {WORKERS[-1]:,} workers",
                percent(workers.efficiency(case), 0),
                f"of perfect scaling at {link_name(LINKS[0])}, modelled",
            )
        )
    return cards


def _measured(row: Row) -> dict[str, Any]:
    case = row.case
    ratio = row.sent_over_ring
    return {
        "network": case.network,
        "ranks": case.ranks,
        "link": link_name(case.link),
        "compression": "16 bit" if case.wire_bytes == 2 else "none",
        "accumulation": case.accumulation,
        "seconds": f"{row.seconds:.3f}",
        "spread": f"{row.least_seconds:.3f} to {row.greatest_seconds:.3f}",
        "updates": row.updates,
        "share": percent(row.allreduce_share) if case.ranks > 1 else "–",
        "sent": f"{row.sent_bytes:,}",
        "ring": f"{row.ring_bytes:,}",
        "negotiation": f"{row.negotiation_bytes:,.0f}",
        "ratio": "–" if ratio is None else f"{ratio:.3f}",
        "far": ratio is not None and abs(ratio - 1) > FAR_FROM_RING,
    }


def _predicted(each: PredictedTime) -> dict[str, Any]:
    return {
        "network": each.case.network,
        "ranks": each.case.ranks,
        "link": link_name(each.case.link),
        "compression": "16 bit" if each.case.wire_bytes == 2 else "none",
        "accumulation": each.case.accumulation,
        "measured": f"{each.measured:.3f}",
        "predicted": f"{each.predicted:.3f}",
        "error": f"{100 * each.error:+.1f}\u00a0%",
        "far": abs(each.error) > 0.15,
    }


def _constants(costs: Costs) -> list[tuple[str, str]]:
    return [
        ("Latency of a message", f"{1e6 * costs.message:.0f}\u00a0µs"),
        ("Horovod's negotiation", f"{1e3 * costs.negotiating:.1f}\u00a0ms"),
        ("Share of a link's bits that is payload", percent(costs.link_efficiency)),
        ("TCP and summing", _per_byte(costs.copying, "sent")),
        ("The same for 16-bit numbers", _per_byte(costs.copying_halves, "sent")),
        ("Fusion buffer, averaging", _per_byte(costs.buffering)),
        ("Conversion to 16 bits and back", _per_byte(costs.converting)),
        ("Optimizer", _per_byte(costs.updating)),
        ("Computing on two cores at once", f"{1 + costs.crowding:.2f} times as long"),
    ]


def _per_byte(seconds: float, of: str = "of gradient") -> str:
    return f"{1e9 * seconds:.2f}\u00a0ns per byte {of}"


def _throughput(study: Study) -> list[tuple[str, list[tuple[str, str, list[str]]]]]:
    """For each kind of worker, link and network: images per second, with the efficiency."""
    tables = []
    for workers in (accelerators(study), processors(study)):
        lines = []
        for link in LINKS:
            for name in study.networks:
                cases = [study.case(name, ranks=count, link=link) for count in WORKERS]
                cells = [
                    f"{scaled(workers.images_per_second(case), ('', 'k', 'M'))} "
                    f"({percent(workers.efficiency(case), 0)})"
                    for case in cases
                ]
                lines.append((link_name(link), name, cells))
        tables.append((workers.name, lines))
    return tables


def _ways(study: Study) -> list[tuple[str, list[str]]]:
    """Efficiency of each network, by the way gradients are summed."""
    workers = accelerators(study)
    return [
        (
            name,
            [
                percent(
                    workers.efficiency(
                        study.case(name, ranks=COMPARED_WORKERS, link=COMPARED_LINK), allreduce=way
                    )
                )
                for way in WAYS.values()
            ],
        )
        for name in study.networks
    ]
