"""Runs of train/train.py, killed at random moments and resumed: they end as if nothing had been.

    make test-slow PYTEST_ARGS="-k killed_again"
    KERAS_SQUEEZENET_KILLS=30 make test-slow PYTEST_ARGS="-k killed_again"

The first kills 30 times on one rank, which takes some five minutes of one core, and on two ranks,
where a kill takes longer, a few times; the second 30 times on both. KERAS_SQUEEZENET_KILLS_SEED
takes other moments.
"""

import json
import os
import random
import signal
import time

import keras
import numpy as np
import psutil
import pytest
import yaml

from tests import preloaded
from tests.interrupted_runs import TINY, TRAIN, history, launcher, started
from tests.launching import needs_horovod

pytestmark = pytest.mark.slow

KILLS_BY_RANKS = {1: 30, 2: 6}
SEED = int(os.environ.get("KERAS_SQUEEZENET_KILLS_SEED", "0"))
LONGEST_WAIT_SECONDS = 0.7


def kills_on(ranks):
    return int(os.environ.get("KERAS_SQUEEZENET_KILLS", KILLS_BY_RANKS[ranks]))


def epochs_for(kills):
    """So many that there is something left to do at each kill.

    One lasts a quarter of a second or more, with a validation and a checkpoint; only the third of
    the kills that come at any moment leave several behind.
    """
    return 5 + kills * 3 // 2


def write_recipe(folder, epochs):
    """How the digits' recipe trains, with a smaller network and smaller pictures."""
    recipe = yaml.safe_load((TRAIN.parent / "recipes" / "digits.yaml").read_text())
    recipe["data"]["image_size"] = TINY["data"]["image_size"]
    dropout_rate = recipe["model"]["dropout_rate"]
    recipe["model"] = TINY["model"] | {"dropout_rate": dropout_rate}
    recipe["training"]["epochs"] = epochs
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def command(folder, ranks):
    recipe = write_recipe(folder, epochs_for(kills_on(ranks)))
    training = preloaded.command(
        *(TRAIN, "--recipe", recipe, "--output", folder / "run"),
        *("--resume", "--journal"),
    )
    return training if ranks == 1 else launcher("-np", ranks, *training)


def train_to_the_end(folder, ranks):
    with started(command(folder, ranks), folder / "end.txt") as job:
        assert job.wait(600) == 0, job.text[-3000:]
    model = keras.saving.load_model(folder / "run" / "model.keras")
    return model.get_weights(), json.loads((folder / "run" / "metrics.json").read_text())


def epochs_trained(folder):
    """How often an epoch of training ended, those that were lost included; validation follows."""
    path = folder / "run" / "commits.jsonl"
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def half_written(folder):
    return set((folder / "run" / "checkpoints").glob(".*.keras"))


def kill_at_random(folder, ranks, rng, number):
    """Kill a rank of a run, or its launcher: in turn at any moment, in validation, in a write.

    Returns:
        "validation" or "write", if what the killed process left shows that it was in it.
    """
    rows, trained, halves = history(folder / "run"), epochs_trained(folder), half_written(folder)
    with started(command(folder, ranks), folder / f"{number}.txt") as job:
        if number % 3 == 0:
            # It trains when the first epoch of this process is behind.
            job.wait_until(lambda: len(history(folder / "run")) > len(rows), timeout=180)
            time.sleep(rng.uniform(0, LONGEST_WAIT_SECONDS))
        elif number % 3 == 1:
            job.wait_until(lambda: epochs_trained(folder) > trained, timeout=180)
        else:
            job.wait_until(lambda: half_written(folder) - halves, timeout=180)
        family = [psutil.Process(job.process.pid), *job.ranks().values()]
        victim = rng.choice(family)
        victim.send_signal(signal.SIGKILL)
        # One rank's death ends the others, and so does the launcher's.
        _, alive = psutil.wait_procs(family, timeout=60)
        assert not alive, f"{alive} went on alone:\n{job.text[-3000:]}"
    if half_written(folder) - halves:
        return "write"
    in_validation = epochs_trained(folder) > trained and history(folder / "run") == rows
    return "validation" if in_validation else None


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=needs_horovod)])
def test_a_run_that_is_killed_again_and_again_ends_with_the_bits_of_an_undisturbed_one(
    ranks, tmp_path
):
    rng = random.Random(SEED)
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    undisturbed.mkdir()
    disturbed.mkdir()
    expected, _ = train_to_the_end(undisturbed, ranks)
    kills = kills_on(ranks)
    hit = {kill_at_random(disturbed, ranks, rng, number) for number in range(kills)}
    if ranks == 1 and kills >= 15:  # a launcher's death, or a few kills, may miss them
        assert {"validation", "write"} <= hit
    found, metrics = train_to_the_end(disturbed, ranks)
    rows = history(disturbed / "run")
    assert [row["epoch"] for row in rows] == list(range(1, epochs_for(kills) + 1))
    assert metrics["training"]["ranks_with_equal_weights"] == ranks
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
