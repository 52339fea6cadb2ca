"""macOS and Windows: in processes without what Linux alone has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interrupted_runs import write_recipe

ROOT = Path(__file__).parents[1]

# What Python lacks there. Their own modules and the signals of Windows' Python are left.
MACOS = {
    "os": ("sched_getaffinity", "sched_setaffinity", "sched_setscheduler", "sched_param"),
    "socket": ("TCP_USER_TIMEOUT", "TCP_KEEPIDLE"),
}
WINDOWS = {
    "os": (
        *MACOS["os"],
        *("fork", "forkpty", "geteuid", "getuid", "getpgid", "killpg", "mkfifo", "set_blocking"),
        *("setsid", "sysconf", "uname", "wait4", "O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK"),
    ),
    "select": ("poll", "epoll"),
    "signal": ("SIGALRM", "SIGCONT", "SIGHUP", "SIGKILL", "SIGSTOP", "SIGUSR1", "pthread_sigmask"),
    "socket": (*MACOS["socket"], "AF_UNIX", "TCP_KEEPINTVL"),
}
MODULES = {"macOS": (), "Windows": ("fcntl", "grp", "pwd", "resource", "termios")}
FUNCTIONS = {"macOS": MACOS, "Windows": WINDOWS}

# Other packages know their platform when they are imported: they are, before anything is hidden.
HIDE = """
import asyncio, concurrent.futures, importlib, os, pathlib, pkgutil, runpy, shutil, sys, tempfile
import keras, matplotlib.figure, multiprocessing.pool, pydantic, sklearn.datasets, tensorflow, typer
import rich.console, rich.progress, rich.table

modules, functions = {modules!r}, {functions!r}
for name in modules:
    sys.modules[name] = None
for module, names in functions.items():
    for name in names:
        if hasattr(importlib.import_module(module), name):
            delattr(importlib.import_module(module), name)

# Neither Linux's files.
opened, listed, linked = os.open, os.scandir, os.readlink
def refuse(function):
    def call(path, *arguments, **options):
        if str(path).startswith(("/proc", "/sys")):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return function(path, *arguments, **options)
    return call
os.open, os.readlink, os.listdir = map(refuse, (os.open, os.readlink, os.listdir))
import io
io.open = pathlib.io.open = refuse(io.open)

import keras_squeezenet
"""

EVERY_MODULE = """
by_horovod = ("keras_squeezenet.distributed.elastic",)
for found in pkgutil.walk_packages(keras_squeezenet.__path__, "keras_squeezenet."):
    if found.name not in by_horovod:
        importlib.import_module(found.name)
from keras_squeezenet import machine
assert machine.own_threads() >= 1
assert machine.describe()
assert machine.cpu_quota() is None
"""

TRAIN = """
sys.argv[1:] = ["--recipe", sys.argv[1], "--output", sys.argv[2]]
from keras_squeezenet.training.locks import FolderLock
try:
    runpy.run_path({train!r}, run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
with FolderLock(sys.argv[4]) as lock:
    lock.hold()
"""

PRINT = """
from keras_squeezenet.cli import main
sys.argv[1:] = ["summary", sys.argv[4] + "/model.keras"]
main()
"""


# Windows lacks what macOS does, and more.
@pytest.mark.slow
@pytest.mark.parametrize("platform", [pytest.param("macOS", marks=pytest.mark.slow), "Windows"])
def test_every_module_is_imported_and_a_network_trains(platform, tmp_path):
    hide = HIDE.format(modules=MODULES[platform], functions=FUNCTIONS[platform])
    train = TRAIN.format(train=str(ROOT / "train" / "train.py"))
    recipe, output = write_recipe(tmp_path, epochs=1), tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", hide + EVERY_MODULE + train + PRINT, recipe, output],
        capture_output=True,
        # A pipe on Windows has 256 characters.
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    )
    assert done.returncode == 0, done.stderr.decode()
    assert (output / "model.keras").is_file()
    assert (output / "report.html").is_file()
    assert b"total" in done.stdout


def test_hosts_say_that_they_need_linux(monkeypatch):
    from hosts import Hosts, HostsError, why_not

    monkeypatch.setattr(sys, "platform", "darwin")
    assert why_not() == "network namespaces are Linux's. Received: darwin"
    with pytest.raises(HostsError, match="are Linux's"), Hosts(["a"]):
        pass


def test_horovod_is_not_built_on_windows(monkeypatch, capsys):
    from keras_squeezenet import cli

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(sys, "argv", ["keras-squeezenet", "horovod"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "keras-squeezenet: Horovod is for Linux and macOS. Received: win32\n"
    )
