"""Starting real Horovod ranks in tests."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from keras_squeezenet.distributed import LAUNCHER_VARIABLES
from tests import preloaded

LAUNCHER = (sys.executable, Path(__file__).with_name("horovodrun.py"))

# The variables with which launchers tell a process that it is rank 1 of 2.
SECOND_OF_TWO = {
    "horovodrun": {"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2"},
    "Open MPI": {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"},
    "MPICH": {"PMI_RANK": "1", "PMI_SIZE": "2"},
    "MVAPICH2": {"MV2_COMM_WORLD_RANK": "1", "MV2_COMM_WORLD_SIZE": "2"},
    "jsrun": {"JSM_NAMESPACE_RANK": "1", "JSM_NAMESPACE_SIZE": "2", "PMIX_RANK": "1"},
    "srun": {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "4"},
    "srun --mpi=pmix": {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "PMIX_RANK": "1"},
    "PMIx": {"PMIX_RANK": "1"},
}

needs_horovod = [
    pytest.mark.horovod,
    pytest.mark.skipif(
        importlib.util.find_spec("horovod") is None,
        reason="Horovod is not installed: keras-squeezenet horovod",
    ),
]


def greetings(stderr, ranks=1):
    """What TensorFlow's log wrote to standard error; of several ranks, not what horovodrun says."""
    lines = [line for line in stderr.splitlines() if ranks == 1 or line.startswith("[")]
    return [line for line in lines if ".cc:" in line or "absl::" in line]


def horovodrun(*command, ranks=2, timeout=300, launcher_arguments=("--gloo",), preload=True):
    """Run a Python script on real ranks; returns the finished process with its output as text.

    The controller is named, because horovodrun takes MPI by itself where Horovod has it.

    Args:
        preload: whether the ranks are forks of a process that has imported TensorFlow already.
    """
    start = preloaded.command if preload else preloaded.command_from_nothing
    environment = {k: v for k, v in os.environ.items() if k not in LAUNCHER_VARIABLES}
    return subprocess.run(
        [
            *(*LAUNCHER, "-np", str(ranks), *map(str, launcher_arguments)),
            *start(*command),
        ],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**environment, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
