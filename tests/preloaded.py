"""Scripts that start in processes which have imported TensorFlow, Keras and Horovod already.

    python tests/preloaded.py SOCKET SCRIPT ARGUMENTS…

The imports take some five seconds of a core, and tests start many processes. So one process,
`serve`, imports once, and forks for each script: a process of its own, with the environment,
folder, arguments and streams of the one above, which ends as the script does. By the fork
TensorFlow has computed nothing and Horovod has joined nobody. A signal to the one above reaches
the script; its death, also by SIGKILL, kills the script.

What depends on a start from nothing is tested with one: what is said while TensorFlow is imported,
what is imported at all, and in which order; the README's lines. So is what reads the environment
while it is imported (TF_CPP_MIN_LOG_LEVEL, TF_ENABLE_ONEDNN_OPTS, KERAS_BACKEND): a fork has these
as the tests had them when they began. Python's hashes of texts are the same in all forks.
"""

import atexit
import contextlib
import functools
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

LONGEST_MESSAGE = 1 << 20
# Not what the test that happens to be the first has set.
ENVIRONMENT = dict(os.environ)
# Python, of Linux alone, can wait for a process and for a connection at once.
AVAILABLE = hasattr(os, "pidfd_open")


def command(script, *arguments):
    """The command that starts a Python script, preloaded where this machine can."""
    if not AVAILABLE:
        return command_from_nothing(script, *arguments)
    return [sys.executable, __file__, server(), str(script), *map(str, arguments)]


def command_from_nothing(script, *arguments):
    return [sys.executable, str(script), *map(str, arguments)]


@functools.cache
def server():
    """The socket of the process that preloads, which ends with this one."""
    folder = tempfile.TemporaryDirectory(prefix="preloaded")
    path = str(Path(folder.name) / "socket")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.preloaded", path],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        env=ENVIRONMENT,
    )

    def end():
        process.stdin.close()
        process.wait()
        folder.cleanup()

    atexit.register(end)
    assert process.stdout.read() == b"listening"  # it closes it then
    return path


def start(path, script, *arguments):
    """Be what the process that preloads starts for a script."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(path)
    asked = {"argv": [script, *arguments], "folder": os.getcwd(), "environment": dict(os.environ)}
    socket.send_fds(connection, [json.dumps(asked).encode()], [0, 1, 2])
    process = int(connection.recv(LONGEST_MESSAGE))

    def pass_on(number, _frame):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, pass_on)
    status = int(connection.recv(LONGEST_MESSAGE))
    if status < 0:  # a signal ended it
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


def serve(path):
    """Fork for each script that is asked for. Returns in the fork, with what was asked."""
    running = {}  # by a descriptor that is readable when the script has ended
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind(path)
    listening.listen()
    os.write(1, b"listening")
    os.close(1)
    events = selectors.DefaultSelector()
    events.register(sys.stdin.fileno(), selectors.EVENT_READ)
    events.register(listening, selectors.EVENT_READ)
    while True:
        for event, _ in events.select():
            if event.fileobj is listening:
                connection, _ = listening.accept()
                data, streams, _, _ = socket.recv_fds(connection, LONGEST_MESSAGE, 3)
                process = os.fork()
                if process == 0:
                    events.close()
                    listening.close()
                    for number, stream in enumerate(streams):
                        os.dup2(stream, number)
                        os.close(stream)
                    return json.loads(data)
                for stream in streams:
                    os.close(stream)
                _tell(connection, process)
                ended = os.pidfd_open(process)
                running[ended] = process, connection
                events.register(ended, selectors.EVENT_READ)
                events.register(connection, selectors.EVENT_READ, ended)
            elif event.fileobj in running:
                process, connection = running.pop(event.fileobj)
                events.unregister(event.fileobj)
                events.unregister(connection)
                os.close(event.fileobj)
                status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
                _tell(connection, status)
                connection.close()
            elif event.data in running:  # whoever started it is gone
                os.kill(running[event.data][0], signal.SIGKILL)
            elif event.fileobj == sys.stdin.fileno():  # and the tests are
                for process, _ in running.values():
                    os.kill(process, signal.SIGKILL)
                sys.exit()


def _tell(connection, number):
    with contextlib.suppress(OSError):  # whoever started it is gone
        connection.send(b"%d" % number)


def preload():
    """Import what the scripts import, as they do."""
    runpy.run_path(str(Path(__file__).parents[1] / "train" / "train.py"), run_name="preloaded")
    for name in ("keras_squeezenet.training.results", "sklearn.datasets", "horovod.tensorflow"):
        with contextlib.suppress(ImportError):  # Horovod where there is one
            importlib.import_module(name)


def become(argv, folder, environment):
    """Run a script as Python runs it."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = argv
    np.random.seed()  # else every fork would have the same numbers
    sys.path[0] = str(Path(argv[0]).resolve().parent)
    runpy.run_path(argv[0], run_name="__main__")


if __name__ == "__main__":
    if sys.argv[2:]:
        start(*sys.argv[1:])
    preload()
    become(**serve(sys.argv[1]))
