"""Python functions inside tf.data graphs, and how they end with the process.

The threads of a `tf.data` pipeline call Python functions ahead of need. When the interpreter shuts
down it gives its lock to no other thread any more, and a pipeline that is dropped then waits for
calls that can never end: the process hangs, and with it a training job whose rank has failed. So
once the process is about to exit, calls end with an error at once, which fills the pipeline's
buffers and lets its threads rest before the shutdown begins.
"""

import atexit
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from keras_squeezenet.extras import from_extra

with from_extra("train"):
    import tensorflow as tf

POLL_SECONDS = 0.01
RESTING_POLLS = 10  # polls in a row without a call, after which the threads are at rest
LONGEST_WAIT_SECONDS = 3.0

_exiting = threading.Event()
_lock = threading.Lock()
_calls = 0  # begun so far
_running = 0


def call_in_graph(
    function: Callable[..., Any], arguments: Sequence[tf.Tensor], output_types: Sequence[tf.DType]
) -> list[tf.Tensor]:
    """`tf.numpy_function` of a function that does not keep the process from ending."""

    def counted(*values: Any) -> Any:
        global _calls, _running
        with _lock:
            _calls += 1
            _running += 1
        try:
            if _exiting.is_set():
                raise InterruptedError("the process is exiting")
            return function(*values)
        finally:
            with _lock:
                _running -= 1

    return tf.numpy_function(counted, arguments, output_types)


@atexit.register
def _let_the_threads_rest() -> None:
    _exiting.set()
    if not _calls:
        return
    end = time.monotonic() + LONGEST_WAIT_SECONDS
    seen, resting = _calls, 0
    while resting < RESTING_POLLS and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
        with _lock:
            resting = resting + 1 if _calls == seen and not _running else 0
            seen = _calls
