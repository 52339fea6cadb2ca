"""The machine that a process runs on."""

import contextlib
import math
import os
import platform
from collections.abc import Sequence
from pathlib import Path

# Ranks on this machine, as launchers tell: horovodrun with Gloo, Open MPI, MPICH, MVAPICH2, jsrun.
# srun tells nothing of the kind that is a number, and as a rule binds tasks to cores itself.
LOCAL_SIZE_VARIABLES = (
    "HOROVOD_LOCAL_SIZE",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MPI_LOCALNRANKS",
    "MV2_COMM_WORLD_LOCAL_SIZE",
    "JSM_NAMESPACE_LOCAL_SIZE",
)
LOCAL_RANK_VARIABLES = (
    "HOROVOD_LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
    "MV2_COMM_WORLD_LOCAL_RANK",
    "JSM_NAMESPACE_LOCAL_RANK",
)

# What all ranks on this machine might run on together, before `keep_to_own_cores`.
_undivided: set[int] | None = None


def usable_cores() -> int:
    """Cores that this process and the other ranks here may run on together.

    Fewer than the machine has where a launcher's or a container's set of cores is smaller, or
    where the processor time of a container is limited (a limit of 1.5 cores counts as 2).
    """
    cores = _undivided or _launchers_cores() or _cores_of(0)
    count = len(cores) if cores else os.cpu_count() or 1
    quota = cpu_quota()
    return count if quota is None else min(count, math.ceil(quota))


def schedulable_cores() -> int:
    """Cores that the system would run this process on, whatever its share of them is."""
    cores = _cores_of(0)
    return len(cores) if cores else os.cpu_count() or 1


def own_cores() -> int:
    """This process's share of the usable cores where several ranks run on one machine."""
    share = max(1, usable_cores() // _told(LOCAL_SIZE_VARIABLES, 1))
    cores = _cores_of(0)  # a launcher may have bound this rank to fewer
    return min(share, len(cores)) if cores else share


def own_threads() -> int:
    """Threads for this process to compute with, or to decode pictures.

    As TF_NUM_INTRAOP_THREADS says, where it does; else the process's cores.
    """
    return told_threads() or own_cores()


def told_threads() -> int | None:
    """What TF_NUM_INTRAOP_THREADS says, as TensorFlow reads it; None where it says nothing."""
    told = os.environ.get("TF_NUM_INTRAOP_THREADS", "").strip()
    return int(told) if told.isdecimal() and int(told) > 0 else None


def cpu_quota(
    proc: Path = Path("/proc/self"), mounted: Path = Path("/sys/fs/cgroup")
) -> float | None:
    """The cores' worth of time that control groups allow this process; None where none is set.

    `os.sched_getaffinity` does not know of it: in a pod with a limit of 4 cores on a node of 64
    it names 64. Version 1 and version 2 of Linux's control groups are read, and of nested groups
    the tightest holds.

    Args:
        proc: the folder of the process.
        mounted: where control groups are mounted.
    """
    try:
        lines = (proc / "cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return None
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            # A machine with both versions mounts the second one a folder deeper.
            roots, read = [mounted, mounted / "unified"], _quota_of_version_2
        elif "cpu" in controllers.split(","):
            roots, read = [mounted / controllers, mounted / "cpu"], _quota_of_version_1
        else:
            continue
        for root in roots:
            group = root / path.strip("/")
            # A container may see its own group as the root, whatever its path is called outside.
            for folder in (group, *group.parents):
                if folder == mounted.parent:
                    break
                with contextlib.suppress(OSError, ValueError):
                    quotas.append(read(folder))
    return min((quota for quota in quotas if quota is not None and quota > 0), default=None)


def _quota_of_version_2(folder: Path) -> float | None:
    quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
    return None if quota == "max" else int(quota) / int(period)


def _quota_of_version_1(folder: Path) -> float | None:
    quota = int((folder / "cpu.cfs_quota_us").read_text(encoding="ascii"))
    period = int((folder / "cpu.cfs_period_us").read_text(encoding="ascii"))
    return quota / period if quota > 0 and period > 0 else None


def keep_to_own_cores() -> None:
    """Run on this rank's share of the cores alone, with all threads that are started from now on.

    Left to the scheduler, a rank's communication displaces the other ranks' computing. Nothing is
    done where there are more ranks than cores, and where the launcher has bound this rank to
    cores of its own (`mpirun --bind-to core`). A second call changes nothing.
    """
    global _undivided
    size, rank = _told(LOCAL_SIZE_VARIABLES, 1), _told(LOCAL_RANK_VARIABLES, 0)
    mine, launchers = _cores_of(0), _launchers_cores()
    if _undivided or size == 1 or not mine or len(mine) < size:
        return
    if launchers and mine < launchers:
        return
    share = len(mine) // size
    os.sched_setaffinity(0, sorted(mine)[rank * share : (rank + 1) * share])
    _undivided = mine


def _launchers_cores() -> set[int] | None:
    """The set of cores of the process that started the ranks, or None if there is no such process.

    It is the nearest ancestor that does not have the variables which ranks are given: scripts may
    stand between it and a rank.
    """
    if not any(name in os.environ for name in LOCAL_SIZE_VARIABLES):
        return None
    process = os.getppid()
    while process > 0:
        folder = Path("/proc") / str(process)
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            parent = int(
                (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]
            )
        except PermissionError:  # a daemon of another user's, which no rank is
            return _cores_of(process)
        except (OSError, ValueError, IndexError):  # not Linux, or it has ended
            return None
        names = {variable.partition(b"=")[0].decode(errors="replace") for variable in variables}
        if names.isdisjoint(LOCAL_SIZE_VARIABLES):
            return _cores_of(process)
        process = parent
    return None


def _cores_of(process: int) -> set[int] | None:
    """The set of cores on which a process may run (0 for this one), or None if none is known."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    try:
        return os.sched_getaffinity(process)
    except OSError:
        return None


def _told(variables: Sequence[str], default: int) -> int:
    return next((int(os.environ[name]) for name in variables if name in os.environ), default)


def describe() -> str:
    """The processor's name and the usable cores, for the record beside a measurement."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        name = names[0] if names else name
    return f"{name}, {usable_cores()} cores"
