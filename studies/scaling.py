"""What a second rank brings: two ranks of one thread each against one rank of one thread.

    python studies/scaling.py --recipe train/recipes/grocery.yaml --set data.source=PATH/grocery \
        --output results/scaling.csv

Four processes train as the recipe says, with its input pipeline, network and optimizer, but only
one of three cases at a time; the processes of the others stand still (SIGSTOP):

- `one`: one process on one core, without Horovod;
- `two apart`: two such processes on two cores, which is what the machine gives when nothing is
  exchanged: cores share memory and clock;
- `two averaging`: two ranks under horovodrun, one thread each, gradients averaged in every step.

A machine's speed drifts, by more than what is measured here. So cases take turns of a few seconds,
each round in one order and back again, and are compared within rounds. The table has the medians
of the rounds and their quartiles. About 5 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Self

# First of all: TensorFlow's greetings are not for the reader of the progress.
import keras_squeezenet.startup.quiet  # noqa: F401

# isort: split
import numpy as np

from keras_squeezenet.distributed.termination import STATUS
from keras_squeezenet.errors import InputError
from keras_squeezenet.files import write_csv
from keras_squeezenet.machine import describe, usable_cores
from keras_squeezenet.training.recipe import load_recipe

CASES = ("one", "two apart", "two averaging")
RANKS = 2
WARM_UP_STEPS = 5
LEAST_STEPS = 3  # of a turn, however slow the machine
PATIENCE_SECONDS = 300
# Ranks stand still for four turns in a row, and the kernel takes a connection on which a rank reads
# nothing for distributed.connections.DEAD_PEER_SECONDS for dead.
LONGEST_TURN_SECONDS = 7
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    asked = parse_arguments()
    if sys.platform != "linux":
        raise InputError(f"the study needs Linux. Received: {sys.platform}")
    if asked.train_into:
        train(asked)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(STATUS))
    recipe = load_recipe(asked.recipe, asked.set)
    batch_size = recipe.training.local_batch_size(ranks=1)
    if usable_cores() < RANKS:
        raise InputError(f"two ranks need {RANKS} cores. Received: {usable_cores()}")
    cores = sorted(os.sched_getaffinity(0))[:RANKS]
    os.sched_setaffinity(0, cores)  # the launcher's ranks share these as well: one for each

    arguments = ["--recipe", asked.recipe, *(f"--set={setting}" for setting in asked.set)]
    with tempfile.TemporaryDirectory(prefix="scaling-") as folder:
        alone = [
            Trainer(Path(folder) / f"alone{core}", 1, [*arguments, f"--core={core}"])
            for core in cores
        ]
        averaging = Trainer(Path(folder) / "averaging", RANKS, arguments)
        cases = dict(zip(CASES, (alone[:1], alone, [averaging]), strict=True))
        try:
            for trainer in (*alone, averaging):
                trainer.start()
            rounds = measure(cases, asked.rounds, asked.seconds, batch_size)
        finally:
            for trainer in (*alone, averaging):
                trainer.end()
    setting = {
        "batch_size": batch_size,
        "image_size": recipe.data.image_size,
        "precision": recipe.training.precision,
        "machine": describe(),
    }
    write_csv(asked.output, [{**row, **setting} for row in summary(rounds)])


@dataclass(frozen=True)
class Turn:
    """What one case did while it alone ran.

    Attributes:
        images_per_second: of all its processes together.
        step_seconds: mean time of a step, waiting for data included.
        busy_seconds: mean processor time of a step, of all threads of its process.
        waiting: share of that time spent waiting for data.
    """

    images_per_second: float
    step_seconds: float
    busy_seconds: float
    waiting: float

    @classmethod
    def from_steps(cls, steps_of_processes: Sequence[np.ndarray], batch_size: int) -> Self:
        """Of the steps `[steps, 4]` of each process, as `train` writes them."""
        rates = [len(steps) / (steps[-1, 2] - steps[0, 0]) for steps in steps_of_processes]
        begin, ready, end, busy = np.concatenate(steps_of_processes).T
        return cls(
            images_per_second=float(batch_size * sum(rates)),
            step_seconds=float(np.mean(end - begin)),
            busy_seconds=float(np.mean(busy)),
            waiting=float(np.sum(ready - begin) / np.sum(end - begin)),
        )


def measure(
    cases: dict[str, list[Trainer]], rounds: int, seconds: float, batch_size: int
) -> dict[str, list[list[Turn]]]:
    """The turns of each case, of each round: {case: [[Turn, Turn], …]}."""
    result: dict[str, list[list[Turn]]] = {case: [] for case in cases}
    for number in range(rounds):
        for turns in result.values():
            turns.append([])
        for case in (*cases, *reversed(cases)):
            steps = take_turn(cases[case], seconds)
            result[case][number].append(Turn.from_steps(steps, batch_size))
        speeds = "; ".join(
            f"{case} {np.mean([turn.images_per_second for turn in turns[number]]):.0f}"
            for case, turns in result.items()
        )
        print(f"round {number + 1} of {rounds}, images/s: {speeds}", file=sys.stderr, flush=True)
    return result


def take_turn(trainers: Sequence[Trainer], seconds: float) -> list[np.ndarray]:
    """Let some trainers run, all others standing still; the steps of each of their processes."""
    for trainer in trainers:
        trainer.signal(signal.SIGCONT)
    begin = time.monotonic()
    time.sleep(seconds)
    for trainer in trainers:
        trainer.wait(LEAST_STEPS, begin)
    end = time.monotonic()
    for trainer in trainers:
        trainer.signal(signal.SIGSTOP)
    return [steps for trainer in trainers for steps in trainer.steps(begin, end)]


def summary(rounds: Mapping[str, Sequence[Sequence[Turn]]]) -> list[dict[str, object]]:
    """A row for each case; see `main` for what is added to it."""
    speeds = {
        case: np.array([np.mean([turn.images_per_second for turn in turns]) for turns in of_case])
        for case, of_case in rounds.items()
    }
    rows: list[dict[str, object]] = []
    for case, of_case in rounds.items():
        turns = [turn for pair in of_case for turn in pair]
        lower, median, upper = np.percentile(speeds[case] / speeds["one"], [25, 50, 75])
        rows.append(
            {
                "case": case,
                "rounds": len(of_case),
                "images_per_second": round(float(np.median(speeds[case])), 1),
                "step_ms": round(1000 * float(np.median([turn.step_seconds for turn in turns])), 1),
                "busy_ms": round(1000 * float(np.median([turn.busy_seconds for turn in turns])), 1),
                "waiting_percent": round(100 * float(np.mean([turn.waiting for turn in turns])), 2),
                "times_one": round(float(median), 3),
                "lower_quartile": round(float(lower), 3),
                "upper_quartile": round(float(upper), 3),
            }
        )
    return rows


class Trainer:
    """Processes that train without end, each writing down when its steps began and ended.

    Args:
        folder: where they write; made here.
        ranks: 1 for one process, more for ranks under horovodrun.
        arguments: of this script.
    """

    def __init__(self, folder: Path, ranks: int, arguments: Sequence[str]) -> None:
        folder.mkdir()
        self._output = folder / "output"
        self._logs = [folder / f"rank{rank}.steps" for rank in range(ranks)]
        launcher = [str(Path(sys.executable).with_name("horovodrun")), "--gloo", "-np", str(ranks)]
        self._command = [
            *(launcher if ranks > 1 else []),
            *(sys.executable, __file__, *arguments, f"--train-into={folder}"),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._pids: list[int] = []

    def start(self) -> None:
        """Start, wait until the first steps are done, and stand still; raises as `wait`."""
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                self._command,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
                # Who stands still in the middle of an all-reduce is not lost.
                env={**os.environ, "HOROVOD_GLOO_TIMEOUT_SECONDS": str(PATIENCE_SECONDS)},
            )
        self.wait(WARM_UP_STEPS, since=0)
        self._pids = [int(log.with_suffix(".pid").read_text()) for log in self._logs]
        self.signal(signal.SIGSTOP)

    def wait(self, count: int, since: float) -> None:
        """Until each process has done some steps since a time.

        Raises:
            InputError: the processes ended or take too long; with the end of what they said.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while min(map(len, self.steps(since, time.monotonic()))) < count:
            assert self._process is not None  # it was started
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = self._output.read_text(errors="replace").splitlines()[-5:]
                raise InputError("the training did not go on: " + " ".join(said))
            time.sleep(0.05)

    def signal(self, number: int) -> None:
        """Send a signal to the processes that train, not to their launcher."""
        for pid in self._pids:
            os.kill(pid, number)

    def steps(self, begin: float, end: float) -> list[np.ndarray]:
        """Of each process, the steps that began and ended between these times."""
        of_each = [read_steps(log) for log in self._logs]
        return [log[(log[:, 0] >= begin) & (log[:, 2] <= end)] for log in of_each]

    def end(self) -> None:
        """Kill what is left."""
        if self._process is None:
            return
        for pid in (self._process.pid, *self._pids):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait()


def die_with_parent() -> None:
    """Have the kernel kill this process, even one that stands still, when its parent ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def read_steps(log: Path) -> np.ndarray:
    """Seconds `[steps, 4]`: a step's begin, its data are there, its end; processor time it took."""
    if not log.exists():
        return np.empty((0, 4))
    contents = log.read_bytes()
    return np.frombuffer(contents[: len(contents) // 32 * 32]).reshape(-1, 4)


def train(asked: argparse.Namespace) -> NoReturn:
    """Train without end, each step as `loop.Loop` takes it, and write down when it was taken."""
    if asked.core is not None:
        os.sched_setaffinity(0, {asked.core})  # before TensorFlow counts the cores

    import keras

    from keras_squeezenet import distributed
    from keras_squeezenet.data import Augmentation
    from keras_squeezenet.training.building import build_model, load_data
    from keras_squeezenet.training.loop import Meetings
    from keras_squeezenet.training.stages import compile_model, stages_of

    recipe = load_recipe(asked.recipe, asked.set)
    distributed.start()
    rank, ranks = distributed.rank(), distributed.size()
    keras.utils.set_random_seed(recipe.seed + rank)
    dataset = load_data(recipe)
    batch_size = recipe.training.local_batch_size(1)
    steps_per_epoch = dataset.train.steps_per_epoch(batch_size, ranks)

    keras.config.set_dtype_policy(recipe.training.precision)
    image_size = dataset.train.framing.image_size
    model = build_model(recipe.model, image_size, len(dataset.class_names))
    keras.config.set_dtype_policy("float32")
    compile_model(model, stages_of(recipe)[-1], steps_per_epoch)
    distributed.broadcast_weights(model)

    batches = dataset.train.train_batches(
        batch_size,
        augmentation=Augmentation.from_mapping(recipe.data.augmentation),
        seed=recipe.seed,
        rank=rank,
        ranks=ranks,
    )
    log = asked.train_into / f"rank{rank}.steps"
    log.with_suffix(".pid").write_text(str(os.getpid()))
    with log.open("wb", buffering=0) as output:
        iterator, meetings = iter(batches), Meetings()
        model.make_train_function()
        while True:
            begin, busy = time.monotonic(), time.process_time()
            images, labels = next(iterator)
            ready = time.monotonic()
            model.train_function([(images, labels)])
            meetings.step(False)
            end = time.monotonic()
            output.write(np.array([begin, ready, end, time.process_time() - busy]).tobytes())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipe", required=True, help="a YAML file, see train/recipes")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="replaces a value of the recipe; may be repeated",
    )
    parser.add_argument("--output", type=Path, help="the CSV file to write")
    parser.add_argument("--rounds", type=int, default=16, help="how many (default: %(default)s)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=2.5,
        help=f"of a case's turn, up to {LONGEST_TURN_SECONDS} (default: %(default)s)",
    )
    # How the script starts itself as a process that trains, on one core.
    parser.add_argument("--train-into", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if not asked.train_into and not asked.output:
        parser.error("the following arguments are required: --output")
    if not 0 < asked.seconds <= LONGEST_TURN_SECONDS:
        parser.error(f"--seconds must be in (0, {LONGEST_TURN_SECONDS}]. Received: {asked.seconds}")
    return asked


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"scaling.py: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
