"""Which of the ranks this process is, and what ranks tell each other.

Horovod is asked, whoever initialized it. Outside of a launcher every function does what is right
for a single process, so that training code has one path.
"""

import importlib
import logging
import os
import pickle
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_squeezenet.distributed.connections import noticing_dead_peers
from keras_squeezenet.distributed.launchers import launch
from keras_squeezenet.errors import InputError
from keras_squeezenet.extras import from_extra
from keras_squeezenet.machine import keep_to_own_cores, own_cores, schedulable_cores, told_threads

with from_extra("train"):
    import tensorflow as tf

# How long ranks wait for one that is starting, TensorFlow's import on a cold disk included. Gloo
# ends the whole process after it, so it is no way to notice that a rank is gone.
GLOO_TIMEOUT_SECONDS = 120

# (rank, size) as Horovod told last. After the loss of a rank it knows neither, and no rank may
# then take itself for the only one.
_place: tuple[int, int] | None = None
# Whether this process is one of an elastic run that has not met the others yet.
_waiting = False

log = logging.getLogger(__name__)

Value = TypeVar("Value")


class LauncherError(InputError):
    """What the launcher asked for cannot be, or a rank was about to work by itself."""


class RankError(RuntimeError):
    """Another rank failed; its message is in the text."""


def start(elastic: bool = False) -> None:
    """Join the other ranks, if a launcher started this process, and share the machine with them.

    Call it before TensorFlow does any work: it sets threads and visible GPUs. Each rank takes
    one GPU, or keeps to its share of the cores; TF_NUM_INTRAOP_THREADS, where it is set, says how
    many threads compute instead. srun and jsrun divide GPUs themselves: of those that a rank sees
    it takes one. Where Horovod is initialized already, by `hvd.init()`, its ranks
    are taken as they are.

    Args:
        elastic: whether ranks come and go. The others may then be anywhere in their training, so
            that this process stands alone, as rank 0 of 1, until `elastic.run` has it join.

    Raises:
        LauncherError: a launcher started this process and Horovod is not installed, or it started
            more ranks on this machine than there are GPUs, or TensorFlow has taken all GPUs
            already; or there is no launcher, and `elastic` is true.
    """
    global _waiting
    launched = launch()
    if launched is None:
        if elastic:
            raise LauncherError(
                "An elastic run is started by: horovodrun --min-np … --max-np … "
                "--host-discovery-script …. Received: elastic without a launcher"
            )
        _limit_threads()
        return
    os.environ.setdefault("HOROVOD_GLOO_TIMEOUT_SECONDS", str(GLOO_TIMEOUT_SECONDS))
    try:
        hvd = importlib.import_module("horovod.tensorflow")
    except ImportError as error:
        raise LauncherError(
            "This process was started by a launcher (horovodrun, mpirun, srun, …), and Horovod "
            f"cannot be imported ({error}). Build it with: keras-squeezenet horovod"
        ) from error
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus and not elastic:  # where ranks come and go, so would their cores
        keep_to_own_cores()
    _waiting = elastic
    if not hvd.is_initialized():
        join(elastic)
    if gpus:
        _take_gpu(gpus, hvd, launched.managed)
    else:
        _limit_threads()


def join(elastic: bool = False) -> None:
    """Initialize Horovod.

    Args:
        elastic: whether the loss of a rank is to be noticed soon, because the others go on.
            Without it a network that is down for a while ends nothing.
    """
    hvd = _horovod()
    if elastic:
        with noticing_dead_peers():
            hvd.init()
    else:
        hvd.init()


def take_place() -> None:
    """In an elastic run: work with the ranks that Horovod has joined, from now on."""
    global _waiting
    _waiting = False


def launched_rank() -> int:
    """The rank that the launcher gave this process; in an elastic run it may change later."""
    found = launch()
    return 0 if found is None else found.rank


def rank() -> int:
    """This process's number, from 0. Rank 0 alone writes files and shows progress.

    Raises:
        LauncherError: as `size`.
    """
    return _current_place()[0]


def size() -> int:
    """Number of ranks that train together; 1 without a launcher.

    Raises:
        LauncherError: a launcher started this process as one of several and it has joined none.
    """
    return _current_place()[1]


def communicates() -> bool:
    """Whether what this process learns has to travel: to other ranks, or to those that may come.

    Raises:
        LauncherError: as `size`, and where an elastic run's rank has not met the others.
    """
    if _waiting:
        raise LauncherError(
            "A rank of an elastic run trains within keras_squeezenet.distributed.elastic.run. "
            "Received: gradients of a rank that has not met the others"
        )
    return size() > 1 or (_place is not None and _ranks_may_change())


def gather(value: Value) -> list[Value]:
    """The list of what each rank passed, in rank order, on every rank. Picklable values only.

    The values come from our own ranks over Horovod's connections, not from files.
    """
    return _horovod().allgather_object(value) if size() > 1 else [value]


def broadcast(value: Value, root_rank: int = 0) -> Value:
    """What one rank passed, on every rank. Picklable values only, as in `gather`."""
    if size() == 1:
        return value
    hvd = _horovod()
    mine = np.frombuffer(pickle.dumps(value) if rank() == root_rank else b"", "uint8")
    length = int(hvd.broadcast(tf.constant(len(mine), tf.int64), root_rank))
    if rank() != root_rank:
        mine = np.zeros(length, "uint8")
    return pickle.loads(hvd.broadcast(tf.constant(mine), root_rank).numpy().tobytes())


def total(values: ArrayLike) -> NDArray[np.float64]:
    """The sum over all ranks of an array of numbers, float64, the same shape."""
    # Horovod's sums in float64 are exact for counts up to 2^53.
    values = np.asarray(values, "float64")
    if size() == 1:
        return values
    return _horovod().allreduce(tf.constant(values), op=_horovod().Sum).numpy()


def mean(values: ArrayLike) -> NDArray[np.float64]:
    """The mean over all ranks of an array of numbers, float64, the same shape.

    Numbers that are float32 and equal on all ranks stay as they are, to the bit.
    """
    return total(values) / size()


@contextmanager
def together() -> Iterator[None]:
    """Run a block that may fail on some ranks; if it does, every rank fails, and none waits.

    For work without collective operations inside, such as reading data.

    Raises:
        RankError: on the ranks where the block went well, with the message of the first one
            where it did not. There, the block's own error goes on.
    """
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
        raise
    finally:
        messages = gather(failure and f"{type(failure).__name__}: {failure}")
        failed = [(number, text) for number, text in enumerate(messages) if text]
        if failed and failure is None:
            raise RankError(f"rank {failed[0][0]}: {failed[0][1]}")


def _current_place() -> tuple[int, int]:
    """(rank, size)."""
    global _place
    if _waiting:
        return 0, 1
    hvd = sys.modules.get("horovod.tensorflow")  # who initialized it has imported it
    # A module that is being imported has no such name yet.
    if hvd is not None and getattr(hvd, "is_initialized", bool)():
        try:
            _place = hvd.rank(), hvd.size()
        except ValueError:  # a rank was lost at this moment; the last place stands
            log.debug("Horovod has shut down")
        else:
            _check_not_alone(_place[1])
    if _place is None and _launched_with_others():
        raise LauncherError(
            "A launcher started this process as one of several, and it has not joined them: call "
            "hvd.init() of horovod.tensorflow, or keras_squeezenet.distributed.start(), before "
            "training. Received: a rank that would train by itself"
        )
    return _place or (0, 1)


def _check_not_alone(joined: int) -> None:
    """Where Horovod knows the launcher, it has met those that the launcher started.

    Built without MPI it knows horovodrun alone, and takes each process of another launcher for the
    only one. So does MPI under srun without the --mpi that belongs to it.
    """
    found = launch()
    if joined > 1 or found is None or _ranks_may_change():
        return
    # Where the number is not told, rank 0 alone cannot know.
    if (found.size or found.rank + 1) > 1:
        raise LauncherError(
            f"A launcher started {found.size or 'several'} processes, and Horovod has joined this "
            "one to none of the others. All launchers but horovodrun --gloo need a Horovod with "
            "MPI (keras-squeezenet horovod --mpi), and srun that MPI's --mpi. "
            "Received: a rank that would train by itself"
        )


def _launched_with_others() -> bool:
    found = launch()
    return found is not None and (found.size != 1 or _ranks_may_change())


def _ranks_may_change() -> bool:
    """Whether Horovod's elastic driver started this process."""
    return os.environ.get("HOROVOD_ELASTIC") == "1"


def _take_gpu(gpus: Sequence[tf.config.PhysicalDevice], hvd: ModuleType, managed: bool) -> None:
    if hvd.local_size() > len(gpus) and not managed:
        raise LauncherError(
            f"Each rank takes one GPU, and this machine has {len(gpus)}. "
            f"Received: {hvd.local_size()} ranks on it"
        )
    try:
        tf.config.set_visible_devices(gpus[hvd.local_rank() % len(gpus)], "GPU")
    except RuntimeError as error:
        raise LauncherError(
            "Call keras_squeezenet.distributed.start() before TensorFlow does any work: "
            f"it holds the machine's GPUs already ({error})"
        ) from error


def _limit_threads() -> None:
    """Have TensorFlow compute with this process's cores, where it would take more by itself."""
    if told_threads() or own_cores() >= schedulable_cores():
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(own_cores())
        tf.config.threading.set_inter_op_parallelism_threads(own_cores())
    except RuntimeError:
        log.warning(
            "TensorFlow computes with all cores that it sees, and %d are this process's: it was "
            "at work before keras_squeezenet.distributed.start()",
            own_cores(),
        )


def _horovod() -> ModuleType:
    return importlib.import_module("horovod.tensorflow")
