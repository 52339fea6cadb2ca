"""The ends of a model, from any of its calls on, run again and again."""

import functools
from collections.abc import Callable, Sequence

import keras

from keras_squeezenet.network.data_formats import Tensor
from keras_squeezenet.network.steps import Slot, Steps

CALLS = 8  # in a graph

Run = Callable[[Sequence[Tensor]], Sequence[Tensor]]


class Ends:
    """Runs a model from a call on. With TensorFlow most calls are in graphs of several.

    Called one by one, the layers of a small network take longer to be called than to compute. A
    graph reads variables anew each time it runs: values that are assigned in between count.

    Args:
        steps: of the model. It stays in use.
    """

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._last = steps.last_uses()
        self._graphs = [
            self._graph(start, min(start + CALLS, len(steps.calls)))
            for start in range(0, len(steps.calls), CALLS)
        ]

    def outputs(self, start: int, tensors: dict[Slot, Tensor]) -> list[Tensor]:
        """The model's outputs, from the call of this number on.

        Args:
            start: number of a call.
            tensors: by slot, those that the calls from there on take. Emptied on the way.
        """
        first = -(-start // CALLS)  # of the graphs that begin at this call or later
        self._steps.run(start, min(first * CALLS, len(self._steps.calls)), tensors)
        for graph in self._graphs[first:]:
            graph(tensors)
        return [tensors[slot] for slot in self._steps.outputs]

    def _graph(self, start: int, stop: int) -> Callable[[dict[Slot, Tensor]], None]:
        """The same as `Steps.run` from one call to another."""
        calls = self._steps.calls[start:stop]
        given = {slot: None for step in calls for slot in step.given}
        taken = {slot: None for step in calls for slot in step.taken if slot not in given}
        kept = [slot for slot in given if self._last[slot] >= stop]
        ended = [slot for slot in taken if self._last[slot] < stop]

        def run(inputs: Sequence[Tensor]) -> list[Tensor]:
            tensors = dict(zip(taken, inputs, strict=True))
            self._steps.run(start, stop, tensors)
            return [tensors[slot] for slot in kept]

        in_graph = _in_graph(run)

        def run_on(tensors: dict[Slot, Tensor]) -> None:
            outputs = in_graph([tensors[slot] for slot in taken])
            tensors.update(zip(kept, outputs, strict=True))
            for slot in ended:
                del tensors[slot]

        return run_on


def _in_graph(run: Run) -> Run:
    if keras.backend.backend() != "tensorflow":
        return run
    import tensorflow as tf

    # TensorFlow counts the graphs of a function by its code, which is the same for all ends of all
    # models, and would warn of too many; a partial has none.
    return tf.function(functools.partial(run), autograph=False)
