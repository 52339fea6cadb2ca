"""The command horovod: what `make setup` does for a checkout, for any environment."""

import importlib.util
import os
import subprocess
import sys
from typing import Annotated

import typer

from keras_squeezenet.cli import horovod_build
from keras_squeezenet.cli.options import AsJson
from keras_squeezenet.errors import InputError
from keras_squeezenet.printing import print_json


def horovod(
    mpi: Annotated[
        bool, typer.Option("--mpi", help="With MPI beside Gloo; mpicxx is then needed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Build Horovod for the TensorFlow of this environment, once per machine, and install it.

    The build takes setuptools below 81 and cmake below 4, and leaves them in the environment.
    Where it is built for GPUs, NCCL is asked for with HOROVOD_GPU_OPERATIONS=NCCL.
    """
    if sys.platform == "win32":
        raise InputError(f"Horovod is for Linux and macOS. Received: {sys.platform}")
    if importlib.util.find_spec("pip") is None:
        raise InputError(
            "Horovod's build needs pip, which this environment has not: python -m ensurepip"
        )
    if mpi:
        os.environ["HOROVOD_WITH_MPI"] = "1"
    try:
        wheel = horovod_build.install()
    except horovod_build.MissingToolError as error:
        raise InputError(str(error)) from error
    except subprocess.CalledProcessError as error:
        raise InputError(f"A step failed: {' '.join(error.cmd)}") from error
    if as_json:
        print_json({"horovod": horovod_build.HOROVOD_VERSION, "wheel": str(wheel)})
