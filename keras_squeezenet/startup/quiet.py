"""Importing this module withholds what TensorFlow says when it is imported.

A command or a script imports it first of all; `import keras_squeezenet` alone does not. TensorFlow
greets on standard error: that there is no GPU, which instructions it was built for. It heeds
TF_CPP_MIN_LOG_LEVEL only once absl's log is set up, so that no level silences that. Here the level
is 2 unless it is set, errors and worse; and while TensorFlow is imported, and looks for GPUs for
the first time, lines below the level are taken out of standard error. All else passes: Python's
tracebacks, errors, what a crash says. With level 0 everything does.

A process of its own reads the lines, this module run as a script. It outlives a crash of the
import, which a thread would not, and the import holds Python's lock where a thread had to read.
"""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import BinaryIO

LEVEL_VARIABLE = "TF_CPP_MIN_LOG_LEVEL"
DEFAULT_LEVEL = "2"
SEVERITIES = "IWEF"  # of level 0, 1, 2, 3
SECONDS_TO_END = 2  # for the last lines

# As absl writes, "I0000 00:00:1795556290.349209    9364 cudart_stub.cc:31] …", and as TensorFlow
# itself did, "2026-11-24 21:37:18.123456: I tensorflow/core/….cc:210] …".
LOG_LINE = re.compile(
    rb"(?:([IWEF])\d{4} [\d:.]+ +\d+ [\w./-]+:\d+\] "
    rb"|\d{4}-\d\d-\d\d [\d:.]+: ([IWEF]) [\w./-]+:\d+\] )"
)
# What has no severity, or says of a machine without NVIDIA's driver that there is none.
GREETINGS = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR$"
    rb"|To enable the following instructions: [\w .]+, in other operations, rebuild TensorFlow "
    rb"|(?:[\d:. -]+: )?E.* failed call to cuInit: .*UNKNOWN ERROR \(303\)$"
)


def is_greeting(line: bytes, level: int) -> bool:
    """Whether a line of standard error is withheld at a level, 0 to 3."""
    line = line.rstrip(b"\r\n")
    found = LOG_LINE.match(line)
    if found and SEVERITIES.index((found[1] or found[2]).decode()) < level:
        return True
    return level > 0 and GREETINGS.match(line) is not None


@contextlib.contextmanager
def without_greetings() -> Iterator[None]:
    """Take the greetings out of the process's standard error; as it was where that fails."""
    level = os.environ.get(LEVEL_VARIABLE, DEFAULT_LEVEL)
    if level not in ("1", "2", "3"):
        yield
        return
    try:
        own = os.dup(2)
    except OSError:  # closed, as a service's may be
        yield
        return
    try:
        reader = subprocess.Popen(
            [sys.executable, "-I", "-S", os.path.abspath(__file__), level],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
    except OSError:
        os.close(own)
        yield
        return
    assert reader.stdin is not None  # a pipe, as asked
    _flush()
    os.dup2(reader.stdin.fileno(), 2)
    reader.stdin.close()
    try:
        yield
    finally:
        _flush()
        os.dup2(own, 2)
        os.close(own)
        # It ends when nobody can write any more; a process that the import started still may.
        with contextlib.suppress(subprocess.TimeoutExpired):
            reader.wait(SECONDS_TO_END)


def _flush() -> None:
    if sys.stderr is not None:
        sys.stderr.flush()


@contextlib.contextmanager
def _quietly_imported() -> Iterator[None]:
    with without_greetings():
        yield
        # Without NVIDIA's driver this says so as an error, the first time.
        sys.modules["tensorflow"].config.list_physical_devices("GPU")


def pass_on(lines: Iterable[bytes], out: BinaryIO, level: int) -> None:
    """Copy the lines of standard error that are no greetings, until there are no more."""
    for line in lines:
        if not is_greeting(line, level):
            out.write(line)
            out.flush()


if __name__ == "__main__":
    import signal

    # What stops the process that writes must not stop its last words.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    pass_on(sys.stdin.buffer, sys.stderr.buffer, int(sys.argv[1]))
else:
    from keras_squeezenet.startup.imports import around_import

    os.environ.setdefault(LEVEL_VARIABLE, DEFAULT_LEVEL)
    around_import("tensorflow", _quietly_imported)
