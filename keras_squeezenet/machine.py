"""The machine that a process runs on."""

import contextlib
import os
import platform
from pathlib import Path

# Ranks on this machine, as launchers tell: horovodrun with Gloo, Open MPI, MPICH.
LOCAL_SIZE_VARIABLES = ("HOROVOD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")
LOCAL_RANK_VARIABLES = ("HOROVOD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID")

# Of all ranks on this machine together, before `keep_to_own_cores`.
_usable_cores = None


def usable_cores():
    """Cores that this process and the other ranks here may run on; fewer in a container."""
    if _usable_cores is not None:
        return _usable_cores
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def own_cores():
    """This process's share of the usable cores where several ranks run on one machine."""
    return max(1, usable_cores() // _told(LOCAL_SIZE_VARIABLES, 1))


def keep_to_own_cores():
    """Run on this rank's share of the cores alone, with all threads that are started from now on.

    Left to the scheduler, a rank's communication displaces the other ranks' computing. Nothing is
    done where there are more ranks than cores.
    """
    global _usable_cores
    size, rank = _told(LOCAL_SIZE_VARIABLES, 1), _told(LOCAL_RANK_VARIABLES, 0)
    if size == 1 or usable_cores() < size or not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    share = own_cores()
    os.sched_setaffinity(0, cores[rank * share : (rank + 1) * share])
    _usable_cores = len(cores)


def _told(variables, default):
    return next((int(os.environ[name]) for name in variables if name in os.environ), default)


def describe():
    """The processor's name and the usable cores, for the record beside a measurement."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        name = names[0] if names else name
    return f"{name}, {usable_cores()} cores"
