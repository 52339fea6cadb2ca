"""Runs of train/train.py that are interrupted while they run, and what they leave behind."""

import csv
import json
import os
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil
import yaml

from keras_squeezenet.distributed import LAUNCHER_VARIABLES
from tests.launching import LAUNCHER

TRAIN = Path(__file__).parents[1] / "train" / "train.py"
# A network and data that learn in seconds.
TINY = {
    "name": "tiny",
    "seed": 3,
    "data": {"source": "digits", "image_size": 32},
    "model": {
        "metaparameters": {
            "base_e": 32,
            "incr_e": 32,
            "squeeze_ratio": 0.25,
            "fires": 3,
            "pool_after": [1, 3],
            "conv1_filters": 32,
            "conv1_kernel_size": 3,
        },
        "dropout_rate": 0.0,
        "kernel_initializer": "he_normal",
        "last_activation": None,
    },
}
RECIPE = {
    **TINY,
    "optimizer": {
        "name": "adam",
        "learning_rate": 0.0015,
        "schedule": "constant",
        "scale_by_ranks": "linear",
    },
    "training": {"epochs": 12, "batch_size": 16},
}
EXAMPLES = 1438  # of the digits' training split


def write_recipe(folder, dropout_rate=0.0, **training):
    path = folder / "recipe.yaml"
    recipe = {
        **RECIPE,
        "model": {**RECIPE["model"], "dropout_rate": dropout_rate},
        "training": {**RECIPE["training"], **training},
    }
    path.write_text(yaml.safe_dump(recipe))
    return path


class Started:
    """A command that runs, in a session of its own, and what it has said so far."""

    def __init__(self, command, output):
        environment = {k: v for k, v in os.environ.items() if k not in LAUNCHER_VARIABLES}
        self.output = output
        with output.open("w") as file:
            self.process = subprocess.Popen(
                list(map(str, command)),
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**environment, "TF_CPP_MIN_LOG_LEVEL": "3"},
                start_new_session=True,
            )

    @property
    def text(self):
        return self.output.read_text(errors="replace")

    def ranks(self):
        """The processes that run a script, by the rank that they were started as."""
        found = {}
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                is_script = any(word.endswith(".py") for word in process.cmdline()[1:2])
                if process.name().startswith("python") and is_script:
                    rank = process.environ().get("HOROVOD_RANK")
                    if rank is not None:
                        found[int(rank)] = process
            except psutil.Error:  # it has just ended
                continue
        return found

    def wait_until(self, condition, timeout=120):
        end = time.monotonic() + timeout
        while not condition():
            assert self.process.poll() is None, f"it ended:\n{self.text[-3000:]}"
            assert time.monotonic() < end, f"waited in vain:\n{self.text[-3000:]}"
            time.sleep(0.02)

    def wait(self, timeout=240):
        status = self.process.wait(timeout)
        return status


@contextmanager
def started(command, output):
    run = Started(command, output)
    try:
        yield run
    finally:
        family = []
        if run.process.poll() is None:
            family = psutil.Process(run.process.pid).children(recursive=True)
            run.process.kill()
        for process in family:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        run.process.wait()


def launcher(*arguments):
    return [*LAUNCHER, "--gloo", *arguments]


def commits(folder):
    """The lines of a run's journal that count: going back takes back what came after."""
    path = folder / "commits.jsonl"
    if not path.exists():
        return []
    kept = []
    for line in map(json.loads, path.read_text().rpartition("\n")[0].splitlines()):
        while kept and (kept[-1]["epoch"], kept[-1]["after"]) >= (line["epoch"], line["after"]):
            kept.pop()
        kept.append(line)
    return kept


def examples_by_epoch(folder):
    """{epoch: the indices of examples that it was trained on, as often as it was}."""
    found = {}
    for commit in commits(folder):
        for examples in commit["examples"]:
            found.setdefault(commit["epoch"], []).extend(examples)
    return found


def in_midst_of(folder, epoch, least=64):
    """Whether the last commit is in this epoch, with some of its examples and not with all."""
    done = len(examples_by_epoch(folder).get(epoch, []))
    return least <= done <= EXAMPLES - 400


def history(folder):
    try:
        with (folder / "history.csv").open() as lines:
            return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(lines)]
    except FileNotFoundError:
        return []


def evaluation(folder):
    return json.loads((folder / "metrics.json").read_text())["evaluation"]


class Request(SimpleNamespace):
    """Asked to end after a number of looks."""

    looks = 0

    @property
    def received(self):
        self.looks += 1
        return self.looks > self.after
