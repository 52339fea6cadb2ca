"""Ranks that come and go while train/train.py --elastic runs, on this machine's own addresses."""

import itertools
import math
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from keras_squeezenet import distributed
from keras_squeezenet.distributed.termination import Terminated
from tests import preloaded
from tests.interrupted_runs import (
    EXAMPLES,
    TRAIN,
    commits,
    evaluation,
    examples_by_epoch,
    history,
    in_midst_of,
    launcher,
    started,
    write_recipe,
)
from tests.launching import needs_horovod

TRAINING = Path(__file__).parent / "ranks" / "training.py"
EPOCHS = 30
BATCH = 16
HOSTS = ("localhost", "127.0.0.1")


def write_hosts(path, *hosts):
    # Renamed, so that the launcher never reads half a list.
    path.with_suffix(".new").write_text("".join(f"{host}:1\n" for host in hosts))
    path.with_suffix(".new").replace(path)


def elastic_launcher(folder, *command):
    """horovodrun that finds the hosts that `folder`/hosts names."""
    script = folder / "hosts.sh"
    script.write_text(f"#!/bin/sh\ncat {folder}/hosts\n")
    script.chmod(0o755)
    return launcher(
        *("-np", 2, "--min-np", 1, "--max-np", 4, "--host-discovery-script", script),
        *("--blacklist-cooldown-range", 1, 2, "--reset-limit", 20, *command),
    )


@pytest.fixture(scope="module")
def elastic_run(tmp_path_factory):
    """A run whose rank 0 was killed in an epoch's midst, and that another rank joined later.

    Then it was asked to end, and resumed.
    """
    folder = tmp_path_factory.mktemp("elastic")
    write_hosts(folder / "hosts", *HOSTS)
    command = elastic_launcher(
        folder,
        *preloaded.command(TRAINING, folder),
        *("--recipe", write_recipe(folder, epochs=EPOCHS), "--output", folder / "run"),
        *("--elastic", "--commit-steps", 4, "--journal"),
    )
    run = folder / "run"
    with started(command, folder / "output.txt") as job:
        job.wait_until(lambda: in_midst_of(run, 3))
        victim = job.ranks()[0]
        host = victim.environ()["HOROVOD_HOSTNAME"]
        write_hosts(folder / "hosts", *(name for name in HOSTS if name != host))
        victim.send_signal(signal.SIGKILL)
        job.wait_until(lambda: history(run) and history(run)[-1]["ranks"] == 1)
        write_hosts(folder / "hosts", *HOSTS)
        job.wait_until(lambda: history(run)[-1]["ranks"] == 2)
        job.process.terminate()
        # Not its status: Horovod's elastic driver loses the ranks' now and then, and ends with 0.
        job.wait()
        assert "asked to end; what was trained is saved" in job.text
        assert not (run / "metrics.json").exists()
    with started([*command, "--resume"], folder / "output2.txt") as job:
        assert job.wait() == 0, job.text[-3000:]
    return folder


@pytest.fixture(scope="module")
def undisturbed_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    command = launcher(
        *("-np", 2, *preloaded.command(TRAINING, folder)),
        *("--recipe", write_recipe(folder, epochs=EPOCHS), "--output", folder / "run"),
    )
    with started(command, folder / "output.txt") as job:
        assert job.wait() == 0, job.text[-3000:]
    return folder


@pytest.mark.slow
@pytest.mark.alone
class TestARankIsKilledAndAnotherOneJoins:
    pytestmark = needs_horovod

    def test_there_were_two_ranks_then_one_then_two(self, elastic_run):
        counts = [row["ranks"] for row in history(elastic_run / "run")]
        changes = [count for count, _ in itertools.groupby(counts)]
        assert changes == [2, 1, 2]
        assert len(counts) == EPOCHS

    def test_an_epoch_that_two_ranks_began_was_ended_by_one(self, elastic_run):
        ranks = {}
        for commit in commits(elastic_run / "run"):
            ranks.setdefault(commit["epoch"], []).append(commit["ranks"])
        assert any(counts[0] == 2 and counts[-1] == 1 for counts in ranks.values())

    def test_each_example_was_trained_on_once_in_each_epoch(self, elastic_run):
        epochs = examples_by_epoch(elastic_run / "run")
        assert sorted(epochs) == list(range(1, EPOCHS + 1))
        for examples in epochs.values():
            assert len(set(examples)) == len(examples)
            # All but those that fill no step of two ranks.
            assert EXAMPLES - len(examples) < 2 * BATCH

    def test_the_learning_rate_follows_the_number_of_ranks(self, elastic_run):
        for row in history(elastic_run / "run"):
            assert row["learning_rate"] == pytest.approx(0.0015 * row["ranks"])

    def test_all_ranks_end_with_the_same_weights(self, elastic_run):
        one, other = (np.load(elastic_run / f"rank{rank}.npz") for rank in range(2))
        assert one.files == other.files
        assert len(one.files) > 10
        for name in one.files:
            np.testing.assert_array_equal(one[name], other[name])

    def test_it_learns_as_much_as_an_undisturbed_run(self, elastic_run, undisturbed_run):
        ours, theirs = evaluation(elastic_run / "run"), evaluation(undisturbed_run / "run")
        assert theirs["top1"] > 0.9
        error = math.hypot(ours["top1_standard_error"], theirs["top1_standard_error"])
        assert abs(ours["top1"] - theirs["top1"]) <= 2 * error


@pytest.mark.slow
@pytest.mark.alone
class TestOtherWaysToTrain:
    """A rank is lost in the first epoch, and one joins later."""

    EPOCHS = 16

    pytestmark = needs_horovod

    @pytest.fixture(scope="class")
    def trained(self, tmp_path_factory):
        """A model that knows the digits a little."""
        folder = tmp_path_factory.mktemp("trained")
        recipe = write_recipe(folder, epochs=2)
        command = preloaded.command(TRAIN, "--recipe", recipe, "--output", folder / "run")
        with started(command, folder / "output.txt") as job:
            assert job.wait() == 0, job.text[-3000:]
        return folder / "run" / "model.keras"

    @pytest.mark.parametrize("way", ["fine-tuning", "batch normalization"])
    def test_all_ranks_end_with_the_same_weights(self, way, trained, tmp_path):
        write_hosts(tmp_path / "hosts", *HOSTS)
        settings = {
            # Its first epoch fits the last layer.
            "fine-tuning": [
                f"model.weights={trained}",
                "fine_tuning={depth_decay: 0.8}",
                "optimizer.averaging=0.1",
            ],
            "batch normalization": ["model.batch_normalization=true"],
        }[way]
        command = elastic_launcher(
            tmp_path,
            *preloaded.command(TRAINING, tmp_path),
            *("--recipe", write_recipe(tmp_path, epochs=self.EPOCHS), "--output", tmp_path / "run"),
            *("--elastic", "--commit-steps", 4, "--journal"),
            *(part for setting in settings for part in ("--set", setting)),
        )
        with started(command, tmp_path / "output.txt") as job:
            job.wait_until(lambda: f"Epoch 1/{self.EPOCHS}" in job.text and len(job.ranks()) == 2)
            victim = job.ranks()[1]
            host = victim.environ()["HOROVOD_HOSTNAME"]
            write_hosts(tmp_path / "hosts", *(name for name in HOSTS if name != host))
            victim.send_signal(signal.SIGKILL)
            job.wait_until(lambda: history(tmp_path / "run"))
            write_hosts(tmp_path / "hosts", *HOSTS)
            assert job.wait() == 0, job.text[-3000:]
        counts = [row["ranks"] for row in history(tmp_path / "run")]
        assert [count for count, _ in itertools.groupby(counts)] == [1, 2]
        assert len(counts) == self.EPOCHS
        one, other = (np.load(tmp_path / f"rank{rank}.npz") for rank in range(2))
        for name in one.files:
            np.testing.assert_array_equal(one[name], other[name])
        assert evaluation(tmp_path / "run")["top1"] > 0.9


@pytest.mark.slow
@pytest.mark.alone
class TestTrainingDiverges:
    pytestmark = needs_horovod

    def test_all_ranks_end_with_one_clear_line_and_no_broken_checkpoint(self, tmp_path):
        write_hosts(tmp_path / "hosts", *HOSTS)
        command = elastic_launcher(
            tmp_path,
            *preloaded.command(TRAINING, tmp_path),
            *("--recipe", write_recipe(tmp_path), "--output", tmp_path / "run", "--elastic"),
            *("--set", "optimizer={name: sgd, learning_rate: 1.0e+9}"),
        )
        with started(command, tmp_path / "output.txt") as job:
            assert job.wait() != 0
        own = [line for line in job.text.splitlines() if line.startswith(("[0]", "[1]"))]
        assert not [line for line in own if "Traceback" in line]
        said = [line for line in own if "train.py: " in line]
        assert len(said) == 2
        assert all("training diverged. Lower optimizer.learning_rate" in line for line in said)
        assert not list((tmp_path / "run").rglob("*.keras"))


class TestAgreement:
    """What needs no second process: stand-ins for the collective operations of the others."""

    pytestmark = needs_horovod

    @pytest.fixture
    def elastic(self):
        return pytest.importorskip("keras_squeezenet.distributed.elastic")

    @pytest.fixture
    def saved(self):
        """The runs that were saved on the loss of a rank."""
        return []

    @pytest.fixture
    def request_to_end(self):
        return SimpleNamespace(received=False)

    def lost_rank(self):
        return tf.errors.UnknownError(
            None, None, "Graph execution error:\n[gloo/transport/tcp/pair.cc] Connection closed"
        )

    def test_training_begins_again_after_the_loss_of_a_rank(
        self, elastic, saved, request_to_end, monkeypatch
    ):
        rejoined, attempts = [], []
        monkeypatch.setattr(elastic, "_rejoin", lambda: rejoined.append(1))
        monkeypatch.setattr(distributed, "take_place", lambda: None)

        def train(run, membership):
            attempts.append(run)
            if len(attempts) == 1:
                raise self.lost_rank()
            return "done"

        run = SimpleNamespace(state=SimpleNamespace(commits=0))
        assert elastic.run(lambda: run, train, saved.append, request_to_end) == "done"
        assert (attempts, rejoined, saved) == ([run, run], [1], [])

    def test_ranks_are_looked_after_from_when_they_have_met_until_one_is_lost(
        self, elastic, saved, request_to_end, monkeypatch
    ):
        seen = []
        monkeypatch.setattr(elastic, "_rejoin", lambda: seen.append("rejoin"))
        monkeypatch.setattr(distributed, "take_place", lambda: seen.append("met"))
        monkeypatch.setattr(distributed, "gather", lambda mine: seen.append("gather") or [mine])
        look_out = SimpleNamespace(
            start=lambda: seen.append("start"), stop=lambda: seen.append("stop")
        )

        def train(run, membership):
            if "rejoin" not in seen:
                raise self.lost_rank()

        run = SimpleNamespace(state=SimpleNamespace(commits=0))
        elastic.run(lambda: run, train, saved.append, request_to_end, look_out)
        meeting = ["met", "start", "gather"]
        assert seen == [*meeting, "stop", "rejoin", *meeting]

    @pytest.mark.parametrize("rank", [0, 1])
    def test_who_was_asked_to_end_saves_as_rank_0_and_does_not_look_for_the_others(
        self, elastic, saved, request_to_end, monkeypatch, rank
    ):
        monkeypatch.setattr(distributed, "take_place", lambda: None)
        request_to_end.received = True

        def train(run, membership):
            monkeypatch.setattr(distributed.ranks, "_place", (rank, 2))
            raise self.lost_rank()

        run = SimpleNamespace(state=None)
        with pytest.raises(Terminated):
            elastic.run(lambda: run, train, saved.append, request_to_end)
        assert saved == ([run] if rank == 0 else [])

    def test_other_errors_of_tensorflow_go_on(self, elastic, saved, request_to_end, monkeypatch):
        monkeypatch.setattr(distributed, "take_place", lambda: None)

        def train(run, membership):
            raise tf.errors.UnknownError(None, None, "the disk is full")

        with pytest.raises(tf.errors.UnknownError, match="disk"):
            elastic.run(lambda: SimpleNamespace(state=None), train, saved.append, request_to_end)

    def test_the_newest_commit_counts_wherever_it_is(self, elastic, monkeypatch):
        monkeypatch.setattr(distributed, "take_place", lambda: None)
        monkeypatch.setattr(distributed, "gather", lambda mine: [-1, mine, 9, 9])
        asked = []
        monkeypatch.setattr(distributed, "broadcast", lambda run, root: asked.append(root) or run)
        membership = elastic.Membership(open_run=None)
        membership.run = SimpleNamespace(state=SimpleNamespace(commits=8))
        membership.sync()
        assert asked == [2]
