"""One training at a time in a folder: who holds it, who waits, and whose death frees it."""

import errno
import fcntl
import importlib.util
import os
import signal
import socket
import subprocess
import sys

import pytest

from keras_squeezenet import distributed
from keras_squeezenet.errors import RunError
from keras_squeezenet.training import locks
from keras_squeezenet.training.locks import FolderLock

HOLD = """
import sys, time
from keras_squeezenet.training.locks import FolderLock
lock = FolderLock(sys.argv[1])
lock.hold()
print("held", flush=True)
time.sleep(120)
"""


@pytest.fixture
def other_process(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture
def another(tmp_path):
    """Another run's lock on the folder, held."""
    with FolderLock(tmp_path / "run") as lock:
        lock.hold()
        yield lock


@pytest.fixture
def lock(tmp_path):
    with FolderLock(tmp_path / "run") as lock:
        yield lock


def is_free(tmp_path):
    with FolderLock(tmp_path / "run") as probe:
        try:
            probe.keep()
        except RunError:
            return False
        return True


def test_another_process_is_named_in_one_line_and_its_death_frees_the_folder(other_process, lock):
    with pytest.raises(RunError) as error:
        lock.hold()
    said = str(error.value)
    assert f"process {other_process.pid} on {socket.gethostname()}, since 2" in said
    assert "--output" in said
    assert "\n" not in said
    other_process.send_signal(signal.SIGKILL)
    other_process.wait()
    lock.hold()
    assert lock.path.read_text().startswith(f"process {os.getpid()} ")


def test_it_may_be_held_again_and_is_free_in_the_end(tmp_path):
    with FolderLock(tmp_path / "run") as lock:
        lock.hold()
        lock.hold()
        assert not is_free(tmp_path)
    assert is_free(tmp_path)


def test_with_patience_it_waits_for_a_run_that_is_about_to_end(
    tmp_path, another, monkeypatch, caplog
):
    monkeypatch.setattr(locks.time, "sleep", lambda seconds: another.__exit__())
    with FolderLock(tmp_path / "run", patience=60.0) as lock:
        lock.hold()
        assert not is_free(tmp_path)
    [line] = caplog.messages
    assert "Another run is using the folder" in line


class TestRanks:
    def test_rank_0_alone_holds_it(self, tmp_path, lock, monkeypatch):
        monkeypatch.setattr(distributed.ranks, "_place", (1, 2))
        for module in (distributed, distributed.ranks):
            monkeypatch.setattr(module, "gather", lambda mine: [set(), mine])
        monkeypatch.setattr(distributed, "broadcast", lambda mine: mine)
        lock.hold()
        assert is_free(tmp_path)

    def test_who_is_rank_0_no_more_lets_go(self, tmp_path, lock, monkeypatch):
        lock.hold()
        self.test_rank_0_alone_holds_it(tmp_path, lock, monkeypatch)

    def test_a_lost_rank_0_that_is_still_alive_does_not_end_its_own_run(
        self, tmp_path, lock, monkeypatch
    ):
        lost = FolderLock(tmp_path / "run")
        lost.hold()
        with monkeypatch.context() as they_meet:  # before that rank is lost
            they_meet.setattr(distributed, "rank", lambda: 1)
            they_meet.setattr(distributed, "broadcast", lambda mine: lost._holders)
            lock.hold()
        lock.hold()
        lost.__exit__()
        lock.keep()  # after the next epoch
        assert not is_free(tmp_path)
        with pytest.raises(RunError, match="Another run"):
            FolderLock(tmp_path / "run").keep()


@pytest.mark.parametrize("folder", ["file", "file/run"])
def test_a_folder_that_cannot_be_one_is_refused_in_one_line(tmp_path, folder):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=f"cannot be used: .*: {tmp_path / folder}. Choose another"):
        FolderLock(tmp_path / folder).hold()


def test_a_file_system_without_locks_is_used_without_one_and_that_is_said(
    lock, monkeypatch, caplog
):
    def no_locks(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    lock.hold()
    lock.keep()
    [line] = caplog.messages
    assert "has no locks" in line


def test_where_python_has_no_locks_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows
    spec = importlib.util.spec_from_file_location("locks_elsewhere", locks.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.FolderLock(tmp_path / "run") as first, module.FolderLock(tmp_path / "run") as other:
        first.hold()
        other.hold()
