"""What launchers tell the processes that they start: which of how many each one is."""

import os
from typing import NamedTuple

# The variable of a process's rank, and the one of the number of processes. The nearest launcher
# comes first: mpirun and horovodrun may themselves run in a job step of srun's.
VARIABLES = {
    "HOROVOD_RANK": "HOROVOD_SIZE",  # horovodrun with Gloo
    "OMPI_COMM_WORLD_RANK": "OMPI_COMM_WORLD_SIZE",  # Open MPI
    "PMI_RANK": "PMI_SIZE",  # MPICH
    "MV2_COMM_WORLD_RANK": "MV2_COMM_WORLD_SIZE",  # MVAPICH2
    "JSM_NAMESPACE_RANK": "JSM_NAMESPACE_SIZE",  # jsrun
    "PMIX_RANK": "SLURM_STEP_NUM_TASKS",  # srun --mpi=pmix; others with PMIx tell no number
    "SLURM_PROCID": "SLURM_STEP_NUM_TASKS",  # srun
}
LAUNCHER_VARIABLES = tuple(VARIABLES)
# Those of clusters' managers. They start single programs and shells in the same way.
MANAGERS_VARIABLES = ("JSM_NAMESPACE_RANK", "PMIX_RANK", "SLURM_PROCID")


class Launch(NamedTuple):
    """What a launcher told this process.

    Attributes:
        rank: its number, from 0.
        size: how many were started; None where the launcher does not tell.
        managed: whether a cluster's manager started it, which may show each process GPUs of its
            own.
    """

    rank: int
    size: int | None
    managed: bool


def launch() -> Launch | None:
    """The `Launch` of this process, or None if no launcher started it.

    A single process of a cluster's manager counts as started by hand, and so does Slurm's batch
    script: it has a SLURM_PROCID too, and the job's SLURM_NTASKS, but no job step of several tasks.
    """
    for rank, size in VARIABLES.items():
        if rank in os.environ:
            found = Launch(
                rank=int(os.environ[rank]),
                size=int(os.environ[size]) if size in os.environ else None,
                managed=rank in MANAGERS_VARIABLES,
            )
            is_batch_script = rank == "SLURM_PROCID" and found.size is None
            if not is_batch_script and not (found.managed and found.size == 1):
                return found
    return None
