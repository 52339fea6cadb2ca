"""Being asked to end: SIGTERM, or the death of the launcher that started this process.

Kubernetes sends SIGTERM and, 30 seconds later, SIGKILL; horovodrun sends SIGTERM to the ranks on
its own machine and SIGKILL 5 seconds later. Ranks on other machines hear of its end by nothing but
the closed connection: without a look at it they would train on for ever.
"""

import os
import select
import signal
import sys
import threading
import time
from typing import Self

from keras_squeezenet.distributed.launchers import launch

STATUS = 128 + signal.SIGTERM  # what a shell reports of a process that SIGTERM ended
# A rank that waits for others in a collective operation may never come to an agreement.
SECONDS_TO_AGREE = 25.0
# Linux and macOS hear of a signal, and of a reader that is gone, while they are busy; Windows not.
CAN_BE_ASKED = hasattr(select, "poll")


class Terminated(Exception):
    """Training ended because it was asked to; what was learned is saved. Not an error."""


class TerminationRequest:
    """Whether this process was asked to end; a context in which SIGTERM does nothing but ask.

    It also asks when the reader of standard output, which is the launcher, is gone. If the
    process has not ended some seconds later, it is ended as it stands.

    Enter it in the main thread. On Windows, where SIGTERM ends a process at once and no launcher of
    ranks runs, nobody asks.

    Attributes:
        received: whether it was asked.
    """

    def __init__(self, seconds_to_agree: float = SECONDS_TO_AGREE) -> None:
        self.seconds_to_agree = seconds_to_agree
        self._received = threading.Event()

    @property
    def received(self) -> bool:
        return self._received.is_set()

    def __enter__(self) -> Self:
        if not CAN_BE_ASKED:
            return self
        # The main thread may be in TensorFlow for long, where Python handles no signal; but the
        # number of each is written to this pipe at once.
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._earlier_pipe = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._earlier_handler = signal.signal(signal.SIGTERM, lambda number, frame: None)
        threading.Thread(target=self._watch, name="termination", daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        if not CAN_BE_ASKED:
            return
        if not self.received:  # else a second SIGTERM must not end what is being saved
            signal.signal(signal.SIGTERM, self._earlier_handler)
        signal.set_wakeup_fd(self._earlier_pipe)
        os.close(self._writing)

    def _watch(self) -> None:
        asked = False
        poll = select.poll()
        poll.register(self._reading, select.POLLIN)
        if launch() is not None and sys.__stdout__ is not None:  # None where it was closed
            poll.register(sys.__stdout__.fileno(), 0)  # errors and hang-ups are told unasked
        while not asked:
            for descriptor, _ in poll.poll():
                if descriptor != self._reading:
                    _discard_output()
                    asked = True
                    continue
                numbers = os.read(self._reading, 64)
                if not numbers:  # left
                    os.close(self._reading)
                    return
                asked = asked or signal.SIGTERM in numbers
        self._received.set()
        time.sleep(self.seconds_to_agree)
        os._exit(STATUS)


def _discard_output() -> None:
    """Nobody reads it any more, and writing to a closed pipe would be an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
