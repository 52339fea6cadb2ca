"""Elastic runs: ranks come and go; those that stay go back to the last commit.

    horovodrun --gloo -np 2 --min-np 1 --max-np 4 --host-discovery-script ./hosts.sh \\
        --blacklist-cooldown-range 10 100 --reset-limit 100 \\
        python train/train.py --elastic --recipe …

When a rank is lost, the collective operations of the others fail. They go back to the last commit,
which each of them keeps in memory, meet the ranks that are there now, agree on the newest commit
among them and train on from it. A new rank starts from that commit too. Horovod's own states for
Keras do not fit Keras 3; what is agreed on here is a `Run` with its `TrainingState`.

A rank that ends by an error of its own, such as a disk that fails, is a lost rank to the others.
Its host is used again after the cool-down; `--reset-limit` bounds how often.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, NoReturn, Protocol, TypeVar

import horovod.tensorflow as hvd
import tensorflow as tf
from horovod.common.elastic import State, run_fn
from horovod.common.exceptions import HorovodInternalError, HostsUpdatedInterrupt

from keras_squeezenet import distributed
from keras_squeezenet.distributed.stalls import StallWatch
from keras_squeezenet.distributed.termination import Terminated, TerminationRequest

# The text alone tells the loss of a rank from other errors of the same classes.
SIGNS_OF_A_LOST_RANK = ("horovod", "gloo", "nccl", "mpi_")
LONGEST_REJOINING_SECONDS = 300.0
SECONDS_BETWEEN_TRIES = 1.0

log = logging.getLogger(__name__)


class Committed(Protocol):
    """A moment of training."""

    @property
    def commits(self) -> int:
        """How many there were: of two states of a run the one with more is the newer."""


class AgreedRun(Protocol):
    """What the ranks agree on: `training.runs.Run` is one."""

    @property
    def state(self) -> Committed:
        """The last commit."""


RunT = TypeVar("RunT", bound=AgreedRun)
Result = TypeVar("Result")


def run(
    open_run: Callable[[], RunT],
    train: Callable[[RunT, "Membership[RunT]"], Result],
    save: Callable[[RunT], None],
    request: TerminationRequest,
    look_out: StallWatch | None = None,
) -> Result:
    """Train on whatever ranks there are, until training is done.

    Args:
        open_run: gives the `Run`. Called on all ranks at once, when none of them has one.
        train: called with the `Run`, which says where it stands, and with the `Membership`, to be
            looked at now and then; called again whenever ranks have come or gone.
        save: called with the `Run` on rank 0, to save its `state`, when it was asked to end and
            loses others before they agree on it.
        request: the `TerminationRequest`. Who was asked to end and loses the others does not look
            for them again.
        look_out: the `StallWatch`, which is started whenever ranks have met.

    Returns:
        What `train` returns.

    Raises:
        Terminated: this rank was asked to end. If it is rank 0, the run is saved.
    """

    def attempt(membership: Membership[RunT]) -> Result:
        agreed = membership.run
        assert agreed is not None  # `run_fn` has the ranks agree before each attempt
        try:
            with _told_as_horovods():
                return train(agreed, membership)
        except HorovodInternalError as error:
            if request.received:
                if distributed.rank() == 0:
                    save(agreed)
                raise Terminated from error
            log.warning("Rank %d lost another one: %s", distributed.rank(), _reason(error))
            raise

    look_out = look_out or StallWatch()
    membership = Membership(open_run, look_out)

    def reset() -> None:
        look_out.stop()
        membership.forget_changes()
        _rejoin()

    return run_fn(attempt, reset)(membership)


class Membership(State, Generic[RunT]):
    """Who trains, and the run that they agree on.

    Attributes:
        run: the `Run`; None before the first agreement.
    """

    def __init__(self, open_run: Callable[[], RunT], look_out: StallWatch | None = None) -> None:
        super().__init__(bcast_object=distributed.broadcast, get_rank=distributed.rank)
        self._open_run = open_run
        self._look_out = look_out or StallWatch()
        self.run: RunT | None = None

    @property
    def changed(self) -> bool:
        """Whether the launcher told this process that hosts have come or gone; it tells rank 0."""
        return not self._host_messages.empty()

    def renew(self) -> NoReturn:
        """Leave `train`, on all ranks at the same step, to be called again with those there are."""
        # Horovod spares remaining ranks the agreement when hosts have only gone. But a host that
        # comes at that very moment waits for it.
        raise HostsUpdatedInterrupt(skip_sync=False)

    def sync(self) -> None:
        """Take over the newest of the ranks' runs."""
        with _told_as_horovods():
            distributed.take_place()
            self._look_out.start()
            commits = distributed.gather(self.run.state.commits if self.run else -1)
            newest = commits.index(max(commits))
            if commits[newest] < 0:
                self.run = self._open_run()
            self.run = distributed.broadcast(self.run, newest)

    def restore(self) -> None:
        """`Run.state` is the last commit at any time: nothing to undo."""

    def on_reset(self) -> None:
        """What was told while ranks were meeting may be new to them: it is not forgotten."""

    def forget_changes(self) -> None:
        """Before ranks meet: the launcher counts all changes that it has told of."""
        while self.changed:
            self._host_messages.get()


def _rejoin() -> None:
    """Meet the ranks that are there now. One more may be lost on the way: try again."""
    hvd.shutdown()
    end = time.monotonic() + LONGEST_REJOINING_SECONDS
    while True:
        try:
            distributed.join(elastic=True)
            return
        except (HorovodInternalError, ValueError) as error:
            if time.monotonic() > end:
                raise
            log.warning("The ranks did not meet, another try: %s", _reason(error))
            hvd.shutdown()
            time.sleep(SECONDS_BETWEEN_TRIES)


@contextmanager
def _told_as_horovods() -> Iterator[None]:
    """TensorFlow's errors of a collective operation that failed, as Horovod's own error.

    Raises:
        HorovodInternalError: instead.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if any(sign in error.message.lower() for sign in SIGNS_OF_A_LOST_RANK):
            raise HorovodInternalError(error.message) from error
        raise


def _reason(error: Exception) -> str:
    """The line that says it, out of all that TensorFlow says."""
    lines = [line.strip() for line in str(error).splitlines()]
    signs = [line for line in lines if any(sign in line.lower() for sign in SIGNS_OF_A_LOST_RANK)]
    return (signs or lines or [""])[0][:300]
