"""A communication study: its table, read, and what the model makes of it.

Measured are the rows of the table, on processors. For many workers the model speaks, with a rate of
computing that is an assumption and is named as one.
"""

import csv
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from keras_squeezenet.communication.cost_model import (
    BURST_BYTES,
    AllReduce,
    Case,
    Costs,
    Group,
    PredictedTime,
    efficiency,
    fit,
    leave_one_out,
    ring_seconds,
    step_seconds,
)
from keras_squeezenet.errors import InputError

# A test holds what a fit to all other rows predicts of this case to 15 %. It was named before
# results/communication.csv was measured. The model was then changed once: before, it hid the copies
# behind the whole all-reduce, and was 18 % off in one of this case's four rows.
LEFT_OUT = ("ResNet-50", 3, 1e9)

# Multiply-adds of an image of the size that each is published for.
MULTIPLY_ADDS = {
    "SqueezeNet 1.0": 0.86e9,  # 1.72 GFLOP, github.com/forresti/SqueezeNet
    "SqueezeNet 1.1": 0.36e9,  # 0.72 GFLOP, the same
    "AlexNet": 0.724e9,  # of the layers of Krizhevsky et al. 2012, summed
    "MobileNetV2": 0.300e9,  # arXiv 1801.04381, table 4
    "ResNet-50": 3.8e9,  # arXiv 1512.03385, table 1
}
IMAGE_SIZES = {"SqueezeNet 1.0": 227, "AlexNet": 227}  # that they are published for; 224 else
# Forward pass, gradient by the input, gradient by the weights; a multiply-add is two operations.
OPERATIONS_PER_MULTIPLY_ADD = 3 * 2
WORKER_BATCH = 32
ACCELERATOR_FLOPS = 8e12  # sustained by a worker: an assumption, of the order of a GPU in float32


@dataclass(frozen=True)
class Published:
    """A figure that others have measured: how much faster `workers` were than one, by share.

    `of`: what was faster. Of a whole training with a batch that all share, less is left for each.
    """

    what: str
    workers: int
    efficiency: float
    network_link: str
    source: str
    of: str = "images per second"


_FIRECAFFE = ("Cray network", "FireCaffe, arXiv 1511.00175", "the whole training")
PUBLISHED = (
    Published("GoogLeNet", 128, 47 / 128, *_FIRECAFFE),
    Published("Network in Network", 128, 39 / 128, *_FIRECAFFE),
    Published("Inception V3", 512, 0.90, "25 Gbit/s RoCE", "Horovod, docs/benchmarks.rst"),
    Published("ResNet-101", 512, 0.90, "25 Gbit/s RoCE", "Horovod, docs/benchmarks.rst"),
    Published("VGG-16", 512, 0.68, "25 Gbit/s RoCE", "Horovod, docs/benchmarks.rst"),
)


@dataclass(frozen=True)
class Row:
    """A line of the table: a case, and what was measured of it, per step."""

    case: Case
    image_size: int
    batch: int
    updates: int
    seconds: float
    least_seconds: float
    greatest_seconds: float
    allreduce_seconds: float
    allreduce_share: float
    ring_bytes: int
    sent_bytes: int
    message_seconds: float
    idle_bytes_per_second: float
    machine: str

    @property
    def sent_over_ring(self) -> float | None:
        return self.sent_bytes / self.ring_bytes if self.ring_bytes else None

    @property
    def negotiation_bytes(self) -> float:
        """What a rank that has nothing to sum sends in the time that a step does not sum."""
        return self.idle_bytes_per_second * (self.seconds - self.allreduce_seconds)


def read_table(path: str | Path) -> list[dict[str, str]]:
    """The lines of a CSV file as they are; none where there is no file yet."""
    if not Path(path).exists():
        return []
    with open(path, newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def read_rows(path: str | Path) -> list[Row]:
    """Read a communication.csv.

    Raises:
        InputError: one line: it is no such table.
        OSError: it cannot be read.
    """
    try:
        rows = [_row(cells) for cells in read_table(path)]
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: expected the table of studies/communication.py. Received: {error!r}"
        ) from None
    if not rows:
        raise InputError(f"{path}: expected measured rows. Received: none")
    alone = {row.case.network for row in rows if row.case.ranks == 1}
    unknown = sorted({row.case.network for row in rows} - alone)
    if unknown:
        raise InputError(f"{path}: expected each network on one rank too. Received: {unknown}")
    return rows


def link_name(link: float | None) -> str:
    """A link's speed as people read it."""
    if link is None:
        return "no limit"
    return f"{link / 1e9:g}\u00a0Gbit/s" if link >= 1e9 else f"{link / 1e6:g}\u00a0Mbit/s"


def _row(cells: Mapping[str, str]) -> Row:
    link = cells["link_mbit_per_second"]
    cores = int(cells["cores"])
    case = Case(
        network=cells["network"],
        parameters=int(cells["parameters"]),
        ranks=int(cells["ranks"]),
        link=None if link == "unlimited" else float(link) * 1e6,
        wire_bytes={"none": 4, "fp16": 2}[cells["compression"]],
        accumulation=int(cells["accumulation"]),
        cores=cores,
        burst=BURST_BYTES,
    )
    row = Row(
        case=case,
        image_size=int(cells["image_size"]),
        batch=int(cells["batch"]),
        updates=int(cells["updates"]),
        seconds=float(cells["seconds_per_step"]),
        least_seconds=float(cells["least_seconds"]),
        greatest_seconds=float(cells["greatest_seconds"]),
        allreduce_seconds=float(cells["allreduce_seconds"]),
        allreduce_share=float(cells["allreduce_share"]),
        ring_bytes=int(cells["ring_bytes"]),
        sent_bytes=int(cells["sent_bytes"]),
        message_seconds=float(cells["message_seconds"]),
        idle_bytes_per_second=float(cells["idle_bytes_per_second"]),
        machine=cells["machine"],
    )
    counts = (case.parameters, case.ranks, case.accumulation, cores, row.image_size, row.batch)
    known = 0 < row.seconds < math.inf and (case.link is None or case.link > 0)
    if min(counts) < 1 or not known:
        raise ValueError(f"numbers must be positive: {dict(cells)}")
    return row


@dataclass(frozen=True)
class Study:
    """A table with the model that was fitted to it.

    Attributes:
        rows: what was measured.
        costs: the model's constants, fitted to all rows.
    """

    rows: Sequence[Row]
    costs: Costs

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Study":
        return cls(rows, fit(*_measured(rows)))

    @property
    def networks(self) -> list[str]:
        return list(dict.fromkeys(row.case.network for row in self.rows))

    def predictions(self, left_out: Iterable[Group] | None = None) -> list[PredictedTime]:
        """What `leave_one_out` makes of the rows."""
        return leave_one_out(*_measured(self.rows), left_out)

    def case(self, network: str, ranks: int = 1, link: float | None = None) -> Case:
        """A case of this network's, each rank with its own core."""
        first = next(row.case for row in self.rows if row.case.network == network)
        return Case(network, first.parameters, ranks, link)


def _measured(rows: Sequence[Row]) -> tuple[list[Case], list[float], float]:
    # Where ranks take turns on a core, a message also waits for its turn.
    latencies = [
        row.message_seconds
        for row in rows
        if 1 < row.case.ranks <= (row.case.cores or row.case.ranks)
    ]
    message = statistics.median(latencies) if latencies else 0.0
    return [row.case for row in rows], [row.seconds for row in rows], message


@dataclass(frozen=True)
class Workers:
    """What the workers of a cluster that is not here are taken to be: an assumption.

    Attributes:
        name: in words.
        batch: images that each takes in a step.
        costs: the model's constants.
    """

    name: str
    batch: int
    costs: Costs

    def images_per_second(self, case: Case) -> float:
        """Of all workers of a case together."""
        return case.ranks * case.accumulation * self.batch / self._update_seconds(case)

    def efficiency(self, case: Case, allreduce: AllReduce = ring_seconds) -> float:
        """See `cost_model.efficiency`."""
        return efficiency(self.costs, case, allreduce)

    def _update_seconds(self, case: Case) -> float:
        return case.accumulation * step_seconds(self.costs, case)


def accelerators(study: Study) -> Workers:
    """Workers that sustain `ACCELERATOR_FLOPS`, and whose copies and updates cost nothing.

    The latency of a message, the share of a link that is payload and the time of a negotiation are
    those of this machine, whatever the number of workers.
    """
    seconds = {
        name: WORKER_BATCH * OPERATIONS_PER_MULTIPLY_ADD * MULTIPLY_ADDS[name] / ACCELERATOR_FLOPS
        for name in study.networks
    }
    copies = ("copying", "copying_halves", "buffering", "converting", "updating")
    free = dict.fromkeys(copies, 0.0)
    costs = replace(study.costs, computing=seconds, **free)
    name = f"accelerators of {ACCELERATOR_FLOPS / 1e12:g} TFLOP/s"
    return Workers(name, WORKER_BATCH, costs)


def processors(study: Study) -> Workers:
    """Workers of one core each as here; time grows with the pixels of an image."""
    seconds = {}
    for name in study.networks:
        row = next(row for row in study.rows if row.case.network == name)
        pixels = (IMAGE_SIZES.get(name, 224) / row.image_size) ** 2
        seconds[name] = study.costs.computing[name] * pixels * WORKER_BATCH / row.batch
    return Workers("one core each", WORKER_BATCH, replace(study.costs, computing=seconds))
