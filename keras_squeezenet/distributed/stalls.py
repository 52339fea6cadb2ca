"""Ranks that no longer answer, by name.

Where one rank stands still, the others wait in a collective operation and say nothing: Horovod's
own look-out needs an answer of every rank too. Here each rank leaves a beat, every few seconds,
in the store through which horovodrun had the ranks meet; ranks that have waited for long look
whose beats have stopped. Without that store (a launch with MPI) there is no such look-out.
"""

import logging
import os
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Self, TypeVar

from keras_squeezenet.distributed.ranks import rank, size

SECONDS_UNTIL_NAMED = 60.0
SECONDS_BETWEEN_BEATS = 2.0
# Beats that a rank may miss, by a slow network or a busy machine, before it counts as silent.
MISSED_BEATS = 4
SCOPE = "keras_squeezenet_beats"

log = logging.getLogger(__name__)

Item = TypeVar("Item")


class StallWatch:
    """A look-out that names ranks that keep the others waiting in the log, once each.

    One line says it, on the first rank that still answers. Training waits on, as it has to: a
    rank that was merely stopped for a while goes on, and one that is gone is Horovod's to notice.

    It is on between `start` and `stop`, or within the context. Start it as soon as the ranks have
    joined. Stop it on all ranks before one of them works on for long and the others end: who has
    stopped looks silent.

    Args:
        seconds: how long a step, a batch of validation or what comes before them may take.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = SECONDS_UNTIL_NAMED if seconds is None else seconds
        self._left = threading.Event()
        self._steps = 0
        self._since = time.monotonic()
        self._said = False
        self._without_look_out = False  # and that was said

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Look out among the ranks that there are now; all of them begin to count steps anew."""
        self.stop()
        self._left = threading.Event()
        self._steps, self._since, self._said = 0, time.monotonic(), False
        self._rank, self._ranks = rank(), size()
        self._store = _Store.of_the_launcher() if self._ranks > 1 else None
        if self._ranks > 1 and not self._store and self._rank == 0 and not self._without_look_out:
            self._without_look_out = True
            log.warning(
                "The ranks were started by way of MPI: one that stands still will not be named. "
                "horovodrun --gloo has a look-out."
            )
        if self._store:
            beat = threading.Thread(
                target=self._beat, args=[self._left, self._store], name="stall-watch", daemon=True
            )
            beat.start()

    def stop(self) -> None:
        self._left.set()

    def step(self) -> None:
        """Note that a step has its data, or is done: a rank that has fewer of them is behind."""
        self._steps += 1
        self._since = time.monotonic()
        if self._said:
            self._said = False
            log.warning("The ranks go on.")

    def each(self, items: Iterable[Item]) -> Iterable[Item]:
        """The items of an iterable, each a step when it has come, and another when it is done with.

        They can be gone through as often as the iterable can.
        """
        return _Each(items, self.step)

    def _beat(self, left: threading.Event, store: "_Store") -> None:
        beats = 0
        while not left.is_set():
            beats += 1
            store.put(self._rank, f"{beats} {self._steps} {_host()}")
            if time.monotonic() - self._since > self.seconds and not self._said:
                self._look(left, store)
            left.wait(SECONDS_BETWEEN_BEATS)

    def _look(self, left: threading.Event, store: "_Store") -> None:
        """Say who keeps the others waiting, if this is the rank to say it."""
        steps = self._steps
        before = self._beats(store)
        for beat in range(MISSED_BEATS):
            if left.wait(SECONDS_BETWEEN_BEATS):
                return
            store.put(self._rank, f"look-{beat} {self._steps} {_host()}")
        after = self._beats(store)
        if self._steps != steps or self._rank not in after:
            return  # they went on, or the store does not answer
        silent = [n for n in range(self._ranks) if after.get(n) == before.get(n)]
        self._said = True
        if self._rank != min((number for number in after if number not in silent), default=-1):
            return
        if silent:
            late = [number for number in silent if number != self._rank]
            reason = (
                "nothing has been heard of them"
                if any(number in after for number in late)
                else "never heard of since they joined"
            )
        else:
            done = {number: int(beat.split()[1]) for number, beat in after.items()}
            late = [number for number in done if done[number] < max(done.values())]
            reason = "they still answer and are behind"
        seconds = time.monotonic() - self._since
        if not late:
            log.warning(
                "Training stands still since %.0f s. All ranks answer and none is behind: a step "
                "takes long, such as reading a large data set or fitting a large last layer, or "
                "the network between them does not answer.",
                seconds,
            )
            return
        names = ", ".join(
            f"{number} on {after[number].split()[2]}" if number in after else f"{number}"
            for number in late
        )
        log.warning(
            "Training stands still since %.0f s. The others wait for: rank %s; %s.",
            seconds,
            names,
            reason,
        )

    def _beats(self, store: "_Store") -> dict[int, str]:
        """{rank: its last beat} of the ranks that have left one."""
        beats = {number: store.get(number) for number in range(self._ranks)}
        return {number: beat for number, beat in beats.items() if beat}


class _Each(Generic[Item]):
    def __init__(self, items: Iterable[Item], step: Callable[[], None]) -> None:
        self._items = items
        self._step = step

    def __iter__(self) -> Iterator[Item]:
        for item in self._items:
            self._step()
            yield item
            self._step()


class _Store:
    """The launcher's store of texts by name."""

    TIMEOUT_SECONDS = 2.0

    def __init__(self, address: str) -> None:
        self._address = address

    @classmethod
    def of_the_launcher(cls) -> Self | None:
        host = os.environ.get("HOROVOD_GLOO_RENDEZVOUS_ADDR")
        port = os.environ.get("HOROVOD_GLOO_RENDEZVOUS_PORT")
        return cls(f"http://{host}:{port}/{SCOPE}") if host and port else None

    def put(self, name: int, text: str) -> None:
        self._ask(urllib.request.Request(f"{self._address}/{name}", text.encode(), method="PUT"))

    def get(self, name: int) -> str | None:
        return self._ask(urllib.request.Request(f"{self._address}/{name}"))

    def _ask(self, request: urllib.request.Request) -> str | None:
        # Never through a proxy: it is a process of this very job.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=self.TIMEOUT_SECONDS) as answer:
                return answer.read(1000).decode("ascii", errors="replace")
        except (OSError, urllib.error.URLError):  # not there yet, or the launcher is gone
            return None


def _host() -> str:
    return os.environ.get("HOROVOD_HOSTNAME") or socket.gethostname()
