"""Runs of train/train.py, killed at random moments and resumed: they end as if nothing had been.

KERAS_SQUEEZENET_KILLS says how often each is killed.
"""

import json
import os
import random
import signal
import sys
import time

import keras
import numpy as np
import psutil
import pytest

from tests.interrupted_runs import TRAIN, history, launcher, started, write_recipe
from tests.launching import needs_horovod

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("KERAS_SQUEEZENET_KILLS", "4"))
SEED = int(os.environ.get("KERAS_SQUEEZENET_KILLS_SEED", "0"))
LONGEST_WAIT_SECONDS = 2.0
# Epochs of half a second or more, each with a validation and a checkpoint: there is something left
# to do whenever a kill comes.
EPOCHS = 3 * KILLS


def command(folder, ranks):
    recipe = write_recipe(folder, epochs=EPOCHS, dropout_rate=0.3)
    training = [sys.executable, TRAIN, "--recipe", recipe, "--output", folder / "run", "--resume"]
    return training if ranks == 1 else launcher("-np", ranks, *training)


def train_to_the_end(folder, ranks):
    with started(command(folder, ranks), folder / "end.txt") as job:
        assert job.wait(600) == 0, job.text[-3000:]
    model = keras.saving.load_model(folder / "run" / "model.keras")
    return model.get_weights(), json.loads((folder / "run" / "metrics.json").read_text())


def is_writing_a_checkpoint(folder):
    return any((folder / "run" / "checkpoints").glob(".*.keras"))


def kill_at_random(folder, ranks, rng, number):
    """Kill a rank of a run, or its launcher; every third time while a checkpoint is written."""
    with started(command(folder, ranks), folder / f"{number}.txt") as job:
        before = len(history(folder / "run"))
        in_a_write = number % 3 == 2
        # It trains when the first epoch of this process is behind.
        job.wait_until(lambda: len(history(folder / "run")) > before or in_a_write, timeout=180)
        if in_a_write:
            job.wait_until(lambda: is_writing_a_checkpoint(folder), timeout=180)
        else:
            time.sleep(rng.uniform(0, LONGEST_WAIT_SECONDS))
        family = [psutil.Process(job.process.pid), *job.ranks().values()]
        victim = rng.choice(family)
        victim.send_signal(signal.SIGKILL)
        # One rank's death ends the others, and so does the launcher's.
        _, alive = psutil.wait_procs(family, timeout=60)
        assert not alive, f"{alive} went on alone:\n{job.text[-3000:]}"


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=needs_horovod)])
def test_a_run_that_is_killed_again_and_again_ends_with_the_bits_of_an_undisturbed_one(
    ranks, tmp_path
):
    rng = random.Random(SEED)
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    undisturbed.mkdir()
    disturbed.mkdir()
    expected, _ = train_to_the_end(undisturbed, ranks)
    for number in range(KILLS):
        kill_at_random(disturbed, ranks, rng, number)
    found, metrics = train_to_the_end(disturbed, ranks)
    rows = history(disturbed / "run")
    assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1))
    assert metrics["training"]["ranks_with_equal_weights"] == ranks
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
