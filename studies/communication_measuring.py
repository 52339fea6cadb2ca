"""What one data-parallel training step costs: seconds, and bytes that leave each rank.

Every rank runs on a host of its own (`hosts`), joined by links whose speed is set with tc. All
cells of one network on one number of ranks are measured by one start of `horovodrun`, because
starting TensorFlow takes longer than most cells: `communication_rank` runs on every rank and asks,
through files in a folder, for each cell's link. No TensorFlow here.
"""

import json
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import groupby, product
from pathlib import Path
from typing import Any, Literal

from hosts import HOSTFILE, INTERFACE, Hosts, interface_bytes

from keras_squeezenet.communication.cost_model import Compression, payload_bytes
from keras_squeezenet.files import write_json
from keras_squeezenet.machine import describe, usable_cores

COMPRESSIONS: tuple[Compression, ...] = (None, "fp16")
REPOSITORY = Path(__file__).parents[1]  # that the hosts import the package from
RANK = Path(__file__).with_name("communication_rank.py")
PATIENCE_SECONDS = 300  # for one answer of the ranks; the slowest cell takes two minutes
END_SECONDS = 30
POLL_SECONDS = 0.05
# What rank 0 and the process that sets the links tell each other.
Word = Literal["ready", "go", "measured"]
Row = dict[str, object]


@dataclass(frozen=True)
class Workload:
    """What one rank computes in a step: so many images of so many pixels to a side."""

    image_size: int
    batch: int


# Small images, so that a step is short; AlexNet has its 61 million parameters at its own size only.
WORKLOADS = {
    "SqueezeNet 1.0": Workload(128, 4),
    "SqueezeNet 1.1": Workload(128, 4),
    "AlexNet": Workload(227, 4),
    "MobileNetV2": Workload(128, 4),
    "ResNet-50": Workload(128, 4),
}
LINKS = (None, 1e9, 100e6)  # bits per second; None: as fast as the machine copies
RANKS = (1, 2, 3)


class MeasuringError(RuntimeError):
    """The ranks ended or fell silent before they had measured everything; one line."""


@dataclass(frozen=True)
class Cell:
    """One case of the study.

    Attributes:
        network: a key of `WORKLOADS`.
        ranks: hosts, one rank each.
        link: bits per second that may leave a host; None without a limit.
        compression: None, or "fp16".
        accumulation: steps whose gradients travel together.

    Raises:
        ValueError: for values outside these.
    """

    network: str
    ranks: int
    link: float | None
    compression: Compression
    accumulation: int

    def __post_init__(self) -> None:
        if self.network not in WORKLOADS:
            names = ", ".join(WORKLOADS)
            raise ValueError(f"`network` must be one of {names}. Received: network={self.network}")
        if self.compression not in COMPRESSIONS:
            raise ValueError(
                f"`compression` must be None or 'fp16'. Received: compression={self.compression}"
            )
        if self.ranks < 1 or self.accumulation < 1 or (self.link is not None and self.link <= 0):
            raise ValueError(
                "`ranks`, `accumulation` and `link` must be positive. Received: "
                f"ranks={self.ranks}, accumulation={self.accumulation}, link={self.link}"
            )

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """As the cells of the table that say which case a row is of."""
        return (
            self.network,
            str(self.ranks),
            link_text(self.link),
            self.compression or "none",
            str(self.accumulation),
        )


KEY_COLUMNS = ("network", "ranks", "link_mbit_per_second", "compression", "accumulation")


def link_text(link: float | None) -> str:
    return "unlimited" if link is None else f"{link / 1e6:g}"


def study_cells(
    networks: Iterable[str] = tuple(WORKLOADS),
    ranks: Iterable[int] = RANKS,
    links: Sequence[float | None] = LINKS,
    compressions: Iterable[Compression] = COMPRESSIONS,
    accumulations: Iterable[int] = (1, 4),
) -> list[Cell]:
    """All combinations, in an order that starts and compiles each network as seldom as possible.

    One rank sends nothing: it has no links and no compression.
    """
    cells = []
    for network, count in product(networks, ranks):
        for compression, accumulation in product(
            compressions if count > 1 else [None], accumulations
        ):
            for link in links if count > 1 else [None]:
                cells.append(Cell(network, count, link, compression, accumulation))
    return cells


def ring_bytes(payload: float, ranks: int) -> float:
    """Bytes that each rank of a ring all-reduce sends: 2(N-1)/N × payload.

    Source: Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of
    workstations", 2009.
    """
    return 2 * (ranks - 1) / ranks * payload


def sent_bytes(interface: str = INTERFACE, path: str | Path = "/proc/self/net/dev") -> int:
    """Bytes that left an interface of this process's network namespace, with all headers.

    Raises:
        ValueError: there is no such interface.
    """
    return interface_bytes(path, interface)[1]


def allreduce_seconds(timeline: str | Path, begin: float, end: float) -> float:
    """Time between two moments in which rank 0 was carrying out an all-reduce.

    Copying into and out of the fusion buffer is part of it; waiting until all ranks have their
    gradients (NEGOTIATE_ALLREDUCE) is not. Tensors that travel together are counted once.

    Args:
        timeline: a file of Horovod's timeline (Chrome's trace event format).
        begin, end: seconds since the epoch.

    Raises:
        ValueError: the file is no such timeline.
    """
    intervals = (
        (max(begin, start), min(end, stop)) for start, stop in activities(timeline, "ALLREDUCE")
    )
    return _length_of_union((start, stop) for start, stop in intervals if stop > start)


def activities(timeline: str | Path, name: str) -> list[tuple[float, float]]:
    """When an activity of Horovod's timeline began and ended, in seconds since the epoch.

    Args:
        timeline: as for `allreduce_seconds`.
        name: of the activity; GLOO_ALLREDUCE is the sending alone.

    Raises:
        ValueError: the file is no such timeline.
    """
    try:
        events = json.loads(Path(timeline).read_text(encoding="utf-8"))
        epoch = next(
            event["args"]["start_time_since_epoch_in_micros"]
            for event in events
            if "start_time_since_epoch_in_micros" in event.get("args", {})
        )
        found: list[tuple[float, float]] = []
        open_events: dict[Any, list[tuple[str, float]]] = {}
        for event in events:
            # Activities of one tensor are nested, and an end does not say which it ends.
            stack = open_events.setdefault(event["pid"], [])
            if event["ph"] == "B":
                stack.append((event["name"], event["ts"]))
            elif event["ph"] == "E" and stack:
                began, start = stack.pop()
                if began == name:
                    found.append(((epoch + start) / 1e6, (epoch + event["ts"]) / 1e6))
    except (AttributeError, KeyError, StopIteration, TypeError, ValueError) as error:
        raise ValueError(f"{timeline}: expected Horovod's timeline. Received: {error!r}") from None
    return found


def _length_of_union(intervals: Iterable[tuple[float, float]]) -> float:
    length, reached = 0.0, -math.inf
    for start, stop in sorted(intervals):
        length += max(0.0, stop - max(start, reached))
        reached = max(reached, stop)
    return length


@dataclass(frozen=True)
class Exchange:
    """The folder through which the ranks and the process that sets the links keep in step.

    Each cell has three files, by its number in `cells.json`: rank 0 says that all ranks are ready,
    is told to go when the link is set, and leaves what was measured.
    """

    folder: Path

    def write_cells(self, cells: Iterable[Cell]) -> None:
        write_json(self.folder / "cells.json", [asdict(cell) for cell in cells])

    def read_cells(self) -> list[Cell]:
        cells = json.loads((self.folder / "cells.json").read_text(encoding="utf-8"))
        return [Cell(**cell) for cell in cells]

    def say(self, number: int, word: Word, value: object = None) -> None:
        write_json(self._path(number, word), value)

    def wait(self, number: int, word: Word, ended: Callable[[], None] = lambda: None) -> Any:
        """The value that comes with the word.

        Args:
            ended: called while waiting; raises where nobody is left to answer.

        Raises:
            MeasuringError: no answer within `PATIENCE_SECONDS`.
        """
        path = self._path(number, word)
        until = time.monotonic() + PATIENCE_SECONDS
        while not path.exists():
            ended()
            if time.monotonic() > until:
                raise MeasuringError(f"Waited {PATIENCE_SECONDS} s for {path.name} in vain")
            time.sleep(POLL_SECONDS)
        return json.loads(path.read_text(encoding="utf-8"))

    def _path(self, number: int, word: Word) -> Path:
        return self.folder / f"{number:03}.{word}.json"


def measure(cells: Iterable[Cell]) -> Iterator[Row]:
    """Measure cells; those of one network and number of ranks that follow each other together.

    Yields:
        A row for each cell, as it is done: see `row`.

    Raises:
        HostsError: the hosts cannot be made.
        MeasuringError: the ranks failed; the text ends with what they said.
    """
    for (_, ranks), group in groupby(cells, key=lambda cell: (cell.network, cell.ranks)):
        # As many hosts as ranks: horovodrun starts one on every slot of the host file.
        with Hosts(ranks, visible=[REPOSITORY]) as hosts, _exchange() as exchange:
            yield from _measure_together(list(group), hosts, exchange)


def _measure_together(cells: Sequence[Cell], hosts: Hosts, exchange: Exchange) -> Iterator[Row]:
    exchange.write_cells(cells)
    with _running(exchange, cells[0].ranks, hosts) as ended:
        for number, cell in enumerate(cells):
            exchange.wait(number, "ready", ended)
            hosts.limit(cell.link)
            exchange.say(number, "go")
            measured = exchange.wait(number, "measured", ended)
            hosts.limit(None)
            yield row(cell, **measured)


@contextmanager
def _exchange() -> Iterator[Exchange]:
    folder = Path(tempfile.mkdtemp(prefix="communication-"))
    folder.chmod(0o777)  # the ranks are another user's
    try:
        yield Exchange(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _running(exchange: Exchange, ranks: int, hosts: Hosts) -> Iterator[Callable[[], None]]:
    """The ranks, started as the launcher of an MPIJob does; gives the check that they still run."""
    log = exchange.folder / "log"
    with open(log, "w") as output:
        process = hosts.launcher.popen(
            [
                *("horovodrun", "--gloo", "-np", str(ranks), "--hostfile", HOSTFILE),
                *("--network-interfaces", INTERFACE),
                *(sys.executable, str(RANK), str(exchange.folder)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            environment={
                "HOROVOD_TIMELINE": "DYNAMIC",
                "PYTHONPATH": str(REPOSITORY),
                "TF_CPP_MIN_LOG_LEVEL": "3",
            },
        )

        def ended() -> None:
            if process.poll() is not None:
                said = log.read_text(errors="replace")[-2000:]
                raise MeasuringError(f"The ranks ended with status {process.returncode}: {said}")

        try:
            yield ended
            with suppress(subprocess.TimeoutExpired):  # everything is measured
                process.wait(END_SECONDS)
        finally:
            process.kill()
            process.wait()


def row(
    cell: Cell,
    parameters: int,
    seconds: Sequence[float],
    allreduce: Sequence[float],
    sent: Sequence[int],
    updates: int,
    message_seconds: float,
    idle_bytes_per_second: float,
) -> Row:
    """A line of the table, from what the ranks measured.

    Args:
        cell: which case.
        parameters: trainable ones.
        seconds: of each timed update of rank 0, all its steps together.
        allreduce: of each of them, how long an all-reduce was going on.
        sent: bytes that left each rank in all `updates`, the untimed ones included.
        updates: how many.
        message_seconds: latency of a message between two ranks.
        idle_bytes_per_second: that leave a rank while there is nothing to sum.

    Returns:
        Times and bytes are per step, which is a forward and backward pass over one batch.
    """
    steps = cell.accumulation
    expected = ring_bytes(payload_bytes(parameters, cell.compression), cell.ranks) / steps
    mean_sent = statistics.mean(sent) / (updates * steps)
    workload = WORKLOADS[cell.network]
    return {
        **dict(zip(KEY_COLUMNS, cell.key, strict=True)),
        "parameters": parameters,
        "image_size": workload.image_size,
        "batch": workload.batch,
        "updates": len(seconds),
        "seconds_per_step": _rounded(statistics.median(seconds) / steps),
        "least_seconds": _rounded(min(seconds) / steps),
        "greatest_seconds": _rounded(max(seconds) / steps),
        "allreduce_seconds": _rounded(statistics.median(allreduce) / steps),
        "allreduce_share": round(sum(allreduce) / sum(seconds), 4),
        "ring_bytes": round(expected),
        "sent_bytes": round(mean_sent),
        "most_sent_bytes": round(max(sent) / (updates * steps)),
        "sent_over_ring": round(mean_sent / expected, 4) if expected else "",
        "message_seconds": _rounded(message_seconds),
        "idle_bytes_per_second": round(idle_bytes_per_second),
        "cores": usable_cores(),
        "machine": describe(),
    }


def _rounded(seconds: float) -> float:
    return float(f"{seconds:.4g}")
