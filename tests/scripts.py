"""Running a script in the process of the tests: as it is started, without the start.

TensorFlow takes seconds to import. What depends on a process of its own is tested in one: what is
said before anything is imported, which classes are known when a file is loaded, threads, signals.
"""

import contextlib
import io
import logging
import os
import runpy
import sys
from types import SimpleNamespace
from unittest import mock

import keras

from keras_squeezenet.distributed import LAUNCHER_VARIABLES


def run_script(path, *arguments):
    """What `python path arguments` gives: `returncode`, `stdout` and `stderr`."""
    out, err = io.StringIO(), io.StringIO()
    policy, root, status = keras.config.dtype_policy(), logging.getLogger(), 0
    with (
        mock.patch.object(sys, "argv", [str(path), *map(str, arguments)]),
        mock.patch.object(sys, "path", [str(path.parent), *sys.path]),
        mock.patch.object(root, "handlers", []),
        mock.patch.dict("os.environ"),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        for name in LAUNCHER_VARIABLES:
            os.environ.pop(name, None)
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as end:
            status = end.code or 0
        finally:
            keras.config.set_dtype_policy(policy)
    return SimpleNamespace(returncode=status, stdout=out.getvalue(), stderr=err.getvalue())
