"""The machine that a process runs on."""

import contextlib
import os
import platform
from pathlib import Path

# Ranks on this machine, as launchers tell: horovodrun with Gloo, Open MPI, MPICH.
LOCAL_SIZE_VARIABLES = ("HOROVOD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")


def usable_cores():
    """Cores that this process may run on; fewer than the machine's in a container."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def own_cores():
    """This process's share of the usable cores where several ranks run on one machine."""
    sizes = [os.environ[name] for name in LOCAL_SIZE_VARIABLES if name in os.environ]
    return max(1, usable_cores() // int(sizes[0])) if sizes else usable_cores()


def describe():
    """The processor's name and the usable cores, for the record beside a measurement."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        name = names[0] if names else name
    return f"{name}, {usable_cores()} cores"
