"""A rank that stands still is named by the others."""

import http.server
import logging
import re
import signal
import sys
import threading
import time
from contextlib import ExitStack, contextmanager

import pytest

from keras_squeezenet.distributed import stalls
from keras_squeezenet.training.building import build_model
from keras_squeezenet.training.locks import LOCK_FILE
from keras_squeezenet.training.recipe import load_recipe
from tests.interrupted_runs import TRAIN, history, launcher, started, write_recipe
from tests.launching import needs_horovod


class Store(http.server.BaseHTTPRequestHandler):
    """What horovodrun's store answers: texts by path."""

    texts: dict

    def do_PUT(self):
        self.texts[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()

    def do_GET(self):
        text = self.texts.get(self.path)
        self.send_response(404 if text is None else 200)
        self.end_headers()
        self.wfile.write(text or b"")

    def log_message(self, *arguments):
        """Nothing: it is a test."""


@pytest.fixture
def launcher_store(monkeypatch):
    handler = type("Texts", (Store,), {"texts": {}})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HOROVOD_GLOO_RENDEZVOUS_ADDR", "127.0.0.1")
    monkeypatch.setenv("HOROVOD_GLOO_RENDEZVOUS_PORT", str(server.server_address[1]))
    monkeypatch.setattr(stalls, "SECONDS_BETWEEN_BEATS", 0.05)
    monkeypatch.setattr(stalls, "size", lambda: 3)
    yield handler.texts
    server.shutdown()
    server.server_close()


@contextmanager
def ranks(monkeypatch, seconds=0.3, numbers=range(3)):
    """Watches of three ranks in one process, each with a thread as in a process of its own."""
    with ExitStack() as stack:
        watches = []
        for number in numbers:
            monkeypatch.setattr(stalls, "rank", lambda number=number: number)
            monkeypatch.setenv("HOROVOD_HOSTNAME", f"host{number}")
            watches.append(stack.enter_context(stalls.StallWatch(seconds)))
        yield watches


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def everyone_has_a_beat(texts):
    return lambda: len(texts) == 3


class TestWatch:
    def test_a_silent_rank_is_named_once_by_the_first_that_answers(
        self, launcher_store, monkeypatch, caplog
    ):
        with ranks(monkeypatch) as watches:
            wait_for(everyone_has_a_beat(launcher_store))
            watches[0].__exit__()  # its thread stands still, as after SIGSTOP
            wait_for(lambda: caplog.messages)
            time.sleep(1)
        [message] = caplog.messages
        assert "wait for: rank 0 on " in message
        assert "nothing has been heard" in message

    def test_a_rank_that_answers_and_is_behind_is_named(self, launcher_store, monkeypatch, caplog):
        with ranks(monkeypatch) as watches:
            wait_for(everyone_has_a_beat(launcher_store))
            for watch in (watches[0], watches[2]):  # rank 1 has no data for this step
                watch.step()
            wait_for(lambda: caplog.messages)
        assert "wait for: rank 1 on " in caplog.messages[0]
        assert "are behind" in caplog.messages[0]

    def test_each_item_is_a_step(self, launcher_store, monkeypatch, caplog):
        with ranks(monkeypatch) as watches:
            wait_for(everyone_has_a_beat(launcher_store))
            for watch in (watches[0], watches[2]):
                assert list(watch.each("ab")) == ["a", "b"]
            wait_for(lambda: caplog.messages)
        assert "wait for: rank 1 on " in caplog.messages[0]

    def test_ranks_that_go_on_say_so_and_can_be_named_again(
        self, launcher_store, monkeypatch, caplog
    ):
        with ranks(monkeypatch) as watches:
            wait_for(everyone_has_a_beat(launcher_store))
            wait_for(lambda: any("none is behind" in message for message in caplog.messages))
            for watch in watches:
                watch.step()
            assert "go on" in caplog.text
            caplog.clear()
            wait_for(lambda: any("stands still" in message for message in caplog.messages))

    def test_nobody_is_named_while_steps_are_done(self, launcher_store, monkeypatch, caplog):
        with ranks(monkeypatch, seconds=0.5) as watches:
            wait_for(everyone_has_a_beat(launcher_store))
            for _ in range(20):
                for watch in watches:
                    watch.step()
                time.sleep(0.05)
        assert not caplog.messages

    def test_that_nobody_will_be_named_is_said_once_by_one_rank(self, monkeypatch, caplog):
        monkeypatch.delenv("HOROVOD_GLOO_RENDEZVOUS_ADDR", raising=False)
        monkeypatch.setattr(stalls, "size", lambda: 3)
        with ranks(monkeypatch) as watches, watches[0]:
            pass
        [line] = caplog.messages
        assert "started by way of MPI" in line

    def test_a_rank_that_never_left_a_beat_is_named(self, launcher_store, monkeypatch, caplog):
        with ranks(monkeypatch, numbers=(0, 2)):  # rank 1 stands still since it joined
            wait_for(lambda: caplog.messages)
            time.sleep(1)
        [message] = caplog.messages
        assert message.endswith("wait for: rank 1; never heard of since they joined.")

    def test_beside_one_that_was_heard_of(self, launcher_store, monkeypatch, caplog):
        with ranks(monkeypatch, seconds=1, numbers=(1, 2)) as watches:
            wait_for(lambda: len(launcher_store) == 2)
            watches[0].stop()
            wait_for(lambda: caplog.messages)
        [message] = caplog.messages
        assert re.search(r"rank 0, 1 on host\d; nothing has been heard of them\.$", message)

    def test_started_anew_it_counts_from_the_beginning_on_every_rank(
        self, launcher_store, monkeypatch, caplog
    ):
        with ranks(monkeypatch) as watches:
            for number, watch in enumerate(watches):  # rank 0 is there since long
                watch.step() if number == 0 else None
                monkeypatch.setattr(stalls, "rank", lambda number=number: number)
                watch.start()
            wait_for(lambda: caplog.messages)
        assert "none is behind" in caplog.messages[0]

    def test_what_is_looked_after_can_be_gone_through_again(self):
        items = stalls.StallWatch().each([1, 2])
        assert (list(items), list(items)) == ([1, 2], [1, 2])

    def test_a_store_that_does_not_answer_harms_nothing(self, monkeypatch, caplog):
        monkeypatch.setenv("HOROVOD_GLOO_RENDEZVOUS_ADDR", "127.0.0.1")
        monkeypatch.setenv("HOROVOD_GLOO_RENDEZVOUS_PORT", "9")
        monkeypatch.setattr(stalls, "SECONDS_BETWEEN_BEATS", 0.02)
        monkeypatch.setattr(stalls, "size", lambda: 3)
        with ranks(monkeypatch, seconds=0.05), caplog.at_level(logging.WARNING):
            time.sleep(0.5)
        assert not caplog.messages


def stop_until_named(job, stopped):
    """Stop a rank, let it go on when the other one has named it, and see both end well."""
    rank = job.ranks()[stopped]
    rank.send_signal(signal.SIGSTOP)
    job.wait_until(lambda: f"wait for: rank {stopped} on " in job.text)
    rank.send_signal(signal.SIGCONT)
    assert job.wait() == 0, job.text[-3000:]
    assert "The ranks go on." in job.text


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("stopped", [0, 1])
class TestTraining:
    pytestmark = needs_horovod

    @pytest.mark.parametrize("epochs_before", [0, 1])
    def test_a_stopped_rank_is_named_and_training_goes_on_with_it(
        self, stopped, epochs_before, tmp_path
    ):
        run = tmp_path / "run"
        command = [
            *(sys.executable, TRAIN, "--recipe", write_recipe(tmp_path, epochs=5)),
            *("--output", run, "--stall-seconds", 5),
        ]
        with started(launcher("-np", 2, *command), tmp_path / "output.txt") as job:
            # It opens the run's folder, or is in its second epoch or later.
            job.wait_until(lambda: (run / LOCK_FILE).exists())
            job.wait_until(lambda: len(history(run)) >= epochs_before)
            stop_until_named(job, stopped)
            assert len(history(run)) == 5


@pytest.mark.slow
@pytest.mark.alone
class TestCompressing:
    pytestmark = needs_horovod

    @pytest.fixture
    def run(self, tmp_path):
        """What optimize.py takes for a finished run."""
        folder = tmp_path / "run"
        folder.mkdir()
        recipe = load_recipe(write_recipe(folder))
        build_model(recipe.model, recipe.data.image_size, 10).save(folder / "model.keras")
        return folder

    def test_a_rank_that_stops_in_retraining_is_named_and_it_goes_on(self, run, tmp_path):
        command = [
            *(sys.executable, TRAIN.with_name("optimize.py"), run, "--stages", "prune,cluster"),
            *("--set", "prune.epochs=1", "--set", "cluster.epochs=3", "--stall-seconds", 5),
        ]
        with started(launcher("-np", 2, *command), tmp_path / "output.txt") as job:
            job.wait_until(lambda: (run / "compressed" / "pruned.keras").exists())
            stop_until_named(job, 1)
            assert (run / "compressed" / "clustered.keras").exists()
