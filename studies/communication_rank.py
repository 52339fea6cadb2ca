"""The program that runs on every rank of a study; `communication_measuring` starts it.

horovodrun … python studies/communication_rank.py FOLDER
"""

import math
import os
import statistics
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import keras_squeezenet.startup.quick_start  # noqa: F401

# isort: split
import keras
import numpy as np
import tensorflow as tf
from communication_measuring import (
    WORKLOADS,
    Cell,
    Exchange,
    activities,
    allreduce_seconds,
    sent_bytes,
)

from keras_squeezenet import distributed
from keras_squeezenet.network.families.alexnet import AlexNet
from keras_squeezenet.network.models import SqueezeNet

BUILDERS = {
    "SqueezeNet 1.0": lambda shape: SqueezeNet(weights=None, version="1.0", input_shape=shape),
    "SqueezeNet 1.1": lambda shape: SqueezeNet(weights=None, version="1.1", input_shape=shape),
    "AlexNet": lambda shape: AlexNet(weights=None, input_shape=shape),
    "MobileNetV2": lambda shape: keras.applications.MobileNetV2(weights=None, input_shape=shape),
    "ResNet-50": lambda shape: keras.applications.ResNet50(weights=None, input_shape=shape),
}
LEARNING_RATE = 1e-4
SECONDS_PER_CELL = 4
MOST_UPDATES = 25
LATENCY_SUMS = 200
IDLE_SECONDS = 1
WRITER_SECONDS = 10  # at most, to tell the timeline's writer from threads that wait
# A first update that takes as long as this is not warm-up: what is cold takes a fraction of it.
LONG_UPDATE_SECONDS = 5


def main(folder: str) -> None:
    take_one_core()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    distributed.start()
    make_timeline_writer_idle()
    exchange = Exchange(Path(folder))
    cells = exchange.read_cells()
    if distributed.size() != cells[0].ranks:
        raise SystemExit(f"Expected {cells[0].ranks} ranks. Received: {distributed.size()}")
    between_steps = {
        "message_seconds": latency(exchange.folder / "latency.json"),
        "idle_bytes_per_second": idle_bytes_per_second(),
    }
    trainer = Trainer(cells[0].network)
    for number, cell in enumerate(cells):
        trainer.prepare(cell)
        if distributed.rank() == 0:
            exchange.say(number, "ready")
            exchange.wait(number, "go")
        together()
        measured = measure(trainer, exchange.folder / f"timeline-{number}.json")
        if distributed.rank() == 0:
            exchange.say(number, "measured", {**measured, **between_steps})


def take_one_core() -> None:
    """Stay on one core, before any thread starts; ranks beyond the cores share them in turn.

    Without it the scheduler moves ranks between cores as Horovod's threads wake up every ms, and a
    step takes up to twice as long.
    """
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ["HOROVOD_RANK"]) % len(cores)]})


def make_timeline_writer_idle() -> None:
    """Let the writer of Horovod's timeline run only where nothing else wants to.

    On rank 0 it polls without a pause from the start to the end, timeline or not (Horovod 0.28.1,
    timeline.cc), and would take half of the core. It is the one thread that is busy while the
    others wait.

    Raises:
        RuntimeError: there is no such thread.
    """
    if distributed.rank() > 0:
        return
    before = _processor_seconds()
    until = time.monotonic() + WRITER_SECONDS
    while time.monotonic() < until:
        time.sleep(0.2)
        used = sorted(
            (seconds - before.get(thread, 0), thread)
            for thread, seconds in _processor_seconds().items()
        )
        (second, _), (most, busiest) = used[-2:]
        if most > max(0.1, 3 * second):
            os.sched_setscheduler(busiest, os.SCHED_IDLE, os.sched_param(0))
            return
    raise RuntimeError("Expected one busy thread, the writer of Horovod's timeline. Received: none")


def _processor_seconds() -> dict[int, float]:
    """Of each of this process's threads, by its number."""
    ticks = os.sysconf("SC_CLK_TCK")
    seconds = {}
    for folder in Path("/proc/self/task").iterdir():
        # After the name in brackets: state is the first field, utime and stime 12th and 13th.
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        seconds[int(folder.name)] = (int(fields[11]) + int(fields[12])) / ticks
    return seconds


class Trainer:
    """One network with its batch, trained as users train it."""

    def __init__(self, network: str) -> None:
        size, batch = WORKLOADS[network].image_size, WORKLOADS[network].batch
        keras.utils.set_random_seed(distributed.rank())
        self.model = BUILDERS[network]((size, size, 3))
        distributed.broadcast_weights(self.model)
        rng = np.random.default_rng(distributed.rank())
        self.images = tf.constant(rng.uniform(-1, 1, (batch, size, size, 3)), tf.float32)
        self.labels = tf.constant(rng.integers(0, 1000, batch))
        self.accumulation = 1
        self._compiled_for: tuple[str | None, int] | None = None

    @property
    def parameters(self) -> int:
        return sum(math.prod(weight.shape) for weight in self.model.trainable_weights)

    def prepare(self, cell: Cell) -> None:
        """Compile for a cell, and take the first update, which traces the graph."""
        wanted = (cell.compression, cell.accumulation)
        if wanted == self._compiled_for:
            return
        optimizer = distributed.DistributedOptimizer(
            keras.optimizers.SGD(LEARNING_RATE, momentum=0.9),
            compression=cell.compression,
            accumulation_steps=cell.accumulation,
        )
        self.model.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=False)
        self._compiled_for = wanted
        self.accumulation = cell.accumulation
        self.update()

    def update(self) -> tuple[float, float]:
        """One update of the weights; the seconds since the epoch when it began and ended."""
        begin = time.time()
        for _ in range(self.accumulation):
            self.model.train_on_batch(self.images, self.labels)
        return begin, time.time()


def measure(trainer: Trainer, timeline: Path) -> dict[str, Any]:
    """Times of rank 0's updates, and bytes of all ranks."""
    record = Timeline(timeline)
    with record:
        together()
        sent_before = sent_bytes()
        moments = [trainer.update()]
        first = distributed.gather(moments[0][1] - moments[0][0])[0]
        long = first >= LONG_UPDATE_SECONDS
        more = 1 if long else min(MOST_UPDATES, max(3, math.ceil(SECONDS_PER_CELL / first)))
        moments += [trainer.update() for _ in range(more)]
        together()
    sent = distributed.gather(sent_bytes() - sent_before)
    timed = moments if long else moments[1:]
    return {
        "parameters": trainer.parameters,
        "seconds": [end - begin for begin, end in timed],
        "allreduce": [record.allreduce_seconds(begin, end) for begin, end in timed],
        "sent": sent,
        "updates": len(moments),
    }


def latency(timeline: Path) -> float:
    """Seconds of one message: a ring of N ranks sums one number with 2(N-1) after each other."""
    record = Timeline(timeline)
    together()
    with record:
        for _ in range(LATENCY_SUMS):
            together()
    if not record.recorded:
        return 0.0
    spans = activities(timeline, "GLOO_ALLREDUCE")
    return statistics.median(end - begin for begin, end in spans) / (2 * distributed.size() - 2)


def idle_bytes_per_second() -> float:
    """What Horovod sends while there is nothing to sum: ranks ask each other about every ms."""
    together()
    sent = sent_bytes()
    time.sleep(IDLE_SECONDS)
    return statistics.mean(distributed.gather(sent_bytes() - sent)) / IDLE_SECONDS


class Timeline:
    """Horovod's timeline of a block; rank 0 alone has one, and nobody where there is one rank."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recorded = distributed.size() > 1 and distributed.rank() == 0

    def __enter__(self) -> None:
        if distributed.size() > 1:
            _horovod().start_timeline(str(self.path))

    def __exit__(self, *error: object) -> None:
        if distributed.size() > 1:
            _horovod().stop_timeline()

    def allreduce_seconds(self, begin: float, end: float) -> float:
        return allreduce_seconds(self.path, begin, end) if self.recorded else 0.0


def _horovod() -> ModuleType:
    import horovod.tensorflow as hvd

    return hvd


def together() -> None:
    """Wait until every rank is here; all that was sent before has then arrived."""
    distributed.total([0])


if __name__ == "__main__":
    main(sys.argv[1])
