"""Asked to end in an epoch's midst: what is saved, how soon, and what goes on from there."""

import base64
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests import preloaded
from tests.interrupted_runs import (
    EXAMPLES,
    TRAIN,
    commits,
    evaluation,
    examples_by_epoch,
    history,
    launcher,
    started,
    write_recipe,
)
from tests.launching import needs_horovod

WAITING = Path(__file__).parent / "ranks" / "waiting.py"
EPOCHS = 12
BATCH = 16
SECONDS = 30.0  # Kubernetes' patience between SIGTERM and SIGKILL


def checkpoint(folder):
    return json.loads((folder / "checkpoints" / "checkpoint.json").read_text())


def within_an_epoch(folder, epoch):
    """Whether the epoch before is behind, so that a signal now comes within this one."""
    return len(history(folder)) >= epoch - 1


def told_to_end(job, signal_processes):
    """Seconds and status of a job between a signal and its end."""
    began = time.monotonic()
    signal_processes()
    status = job.wait(timeout=60)
    return time.monotonic() - began, status


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run on two ranks that is ended twice, and then ended by its launcher's death; ends alone.

    Returns the folder, and what was seen at each interruption: (seconds, checkpoint, status),
    without a status where there was no launcher to give one.
    """
    folder = tmp_path_factory.mktemp("interrupted")
    run = folder / "run"
    training = [
        *preloaded.command(TRAIN, "--recipe", write_recipe(folder, epochs=EPOCHS)),
        *("--output", run, "--journal", "--resume"),
    ]
    seen = {}
    with started(launcher("-np", 2, *training), folder / "0.txt") as job:
        job.wait_until(lambda: within_an_epoch(run, 2))
        seconds, status = told_to_end(job, job.process.terminate)
        seen["launcher"] = seconds, checkpoint(run), status
    with started(launcher("-np", 3, *training), folder / "1.txt") as job:
        done = len(history(run))
        job.wait_until(lambda: within_an_epoch(run, done + 2))
        rank = job.ranks()[1]
        seconds, status = told_to_end(job, rank.terminate)
        seen["rank"] = seconds, checkpoint(run), status
    with started(launcher("-np", 2, *training), folder / "2.txt") as job:
        done = len(history(run))
        job.wait_until(lambda: within_an_epoch(run, done + 2))
        ranks = list(job.ranks().values())
        time.sleep(0.2)  # nothing stands between this and the ranks: the checkpoint is to be behind
        began = time.monotonic()
        job.process.kill()
        job.process.wait()
        _, alive = psutil.wait_procs(ranks, timeout=60)
        assert not alive
        seen["launcher's death"] = time.monotonic() - began, checkpoint(run)
    with started(training, folder / "3.txt") as job:
        assert job.wait() == 0, job.text[-3000:]
    return folder, seen


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    recipe = write_recipe(folder, epochs=EPOCHS)
    with started(
        preloaded.command(TRAIN, "--recipe", recipe, "--output", folder / "run"),
        folder / "output.txt",
    ) as job:
        assert job.wait() == 0, job.text[-3000:]
    return folder


@pytest.mark.slow
def test_a_rank_whose_standard_output_is_closed_is_asked_like_others():
    code = """
import os, signal, sys, time
from keras_squeezenet.distributed.termination import TerminationRequest
assert sys.__stdout__ is None
with TerminationRequest() as request:
    os.kill(os.getpid(), signal.SIGTERM)
    end = time.monotonic() + 20
    while not request.received and time.monotonic() < end:
        time.sleep(0.01)
    os._exit(0 if request.received else 1)
"""
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" >&-', sys.executable, code],
        env={**os.environ, "HOROVOD_RANK": "0", "HOROVOD_SIZE": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.alone
class TestRanks:
    pytestmark = needs_horovod

    @pytest.mark.parametrize("who", ["launcher", "rank", "launcher's death"])
    def test_the_ranks_end_in_time(self, interrupted, who):
        assert interrupted[1][who][0] < SECONDS

    @pytest.mark.parametrize("who", ["launcher", "rank"])
    def test_the_launcher_ends_with_a_status_that_lets_the_job_be_restarted(self, interrupted, who):
        assert interrupted[1][who][2] != 0

    @pytest.mark.parametrize("number", [0, 1])
    def test_one_line_says_how_to_go_on(self, interrupted, number):
        said = (interrupted[0] / f"{number}.txt").read_text()
        assert said.count("Go on with --resume") == 1
        assert "Exit code: 143" in said

    @pytest.mark.parametrize("who", ["launcher", "rank", "launcher's death"])
    def test_what_is_saved_is_what_the_epoch_was_trained_on_so_far(self, interrupted, who):
        saved = interrupted[1][who][1]
        within = saved["within_epoch"]
        assert within["examples"] > 0
        mask = np.frombuffer(base64.b64decode(within["trained"]), "uint8")
        before = [
            example
            for commit in commits(interrupted[0] / "run")
            if commit["epoch"] == saved["epoch"] + 1 and commit["after"] < within["examples"]
            for examples in commit["examples"]
            for example in examples
        ]
        assert len(before) == within["examples"]
        assert np.flatnonzero(np.unpackbits(mask)).tolist() == sorted(before)

    def test_some_of_it_is_left_to_train_on(self, interrupted):
        saved = [saved["within_epoch"]["examples"] for _, saved, *_ in interrupted[1].values()]
        assert min(saved) <= EXAMPLES - 3 * BATCH

    def test_epochs_that_some_ranks_began_were_ended_by_others(self, interrupted):
        ranks = {}
        for commit in commits(interrupted[0] / "run"):
            ranks.setdefault(commit["epoch"], set()).add(commit["ranks"])
        assert {2, 3} in ranks.values()
        assert {row["ranks"] for row in history(interrupted[0] / "run")} == {1, 2, 3}

    def test_no_example_is_lost_or_repeated_whatever_the_number_of_ranks(self, interrupted):
        epochs = examples_by_epoch(interrupted[0] / "run")
        assert sorted(epochs) == list(range(1, EPOCHS + 1))
        for examples in epochs.values():
            assert len(set(examples)) == len(examples)
            assert EXAMPLES - len(examples) < 3 * BATCH

    def test_it_learns_as_much_as_an_uninterrupted_run(self, interrupted, uninterrupted):
        ours, theirs = evaluation(interrupted[0] / "run"), evaluation(uninterrupted / "run")
        assert theirs["top1"] > 0.9
        error = math.hypot(ours["top1_standard_error"], theirs["top1_standard_error"])
        assert abs(ours["top1"] - theirs["top1"]) <= 2 * error


@pytest.mark.slow
@pytest.mark.alone
class TestOneProcess:
    def test_it_is_saved_and_ends_where_an_uninterrupted_run_ends(self, uninterrupted, tmp_path):
        run = tmp_path / "run"
        command = [
            *preloaded.command(TRAIN, "--recipe", write_recipe(tmp_path, epochs=EPOCHS)),
            *("--output", run, "--resume"),
        ]
        with started(command, tmp_path / "0.txt") as job:
            job.wait_until(lambda: within_an_epoch(run, 2))
            seconds, status = told_to_end(job, job.process.terminate)
        assert seconds < SECONDS
        assert status == 143, job.text
        assert checkpoint(run)["within_epoch"]["examples"] > 0
        with started(command, tmp_path / "1.txt") as job:
            assert job.wait() == 0, job.text[-3000:]
        rows, whole = history(run), history(uninterrupted / "run")
        assert len(rows) == EPOCHS
        # The same examples in the same steps: only float rounding differs.
        assert rows[1]["loss"] == pytest.approx(whole[1]["loss"], rel=0.02)
        assert rows[1]["val_loss"] == pytest.approx(whole[1]["val_loss"], rel=0.05)

    def test_a_run_of_which_only_the_result_is_missing_gets_it(self, uninterrupted, tmp_path):
        run = tmp_path / "run"
        shutil.copytree(uninterrupted / "run", run)
        for name in ("metrics.json", "model.keras", "report.html"):
            (run / name).unlink()
        recipe = uninterrupted / "recipe.yaml"
        command = preloaded.command(TRAIN, "--recipe", recipe, "--output", run, "--resume")
        with started(command, tmp_path / "output.txt") as job:
            assert job.wait() == 0, job.text[-3000:]
        assert evaluation(run)["top1"] == evaluation(uninterrupted / "run")["top1"]
        assert (run / "report.html").is_file()
        assert len(history(run)) == EPOCHS


class TestRequest:
    def start(self, seconds_to_agree, **environment):
        process = subprocess.Popen(
            preloaded.command(WAITING, seconds_to_agree),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        )
        assert process.stdout.readline() == b"ready\n"
        return process

    def test_sigterm_asks_and_leaves_time_to_save(self):
        process = self.start(20)
        process.send_signal(signal.SIGTERM)
        assert process.stderr.read().endswith(b"saved")
        assert process.wait() == 143

    def test_a_process_that_cannot_agree_is_ended(self):
        process = self.start(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 143
        assert b"saved" not in process.stderr.read()

    def test_the_death_of_the_launcher_asks_too(self):
        process = self.start(20, HOROVOD_RANK="0")
        process.stdout.close()
        assert process.wait(10) == 143

    def test_a_closed_output_means_nothing_without_a_launcher(self):
        process = self.start(20)
        process.stdout.close()
        time.sleep(0.5)
        assert process.poll() is None
        process.kill()
        process.wait()
