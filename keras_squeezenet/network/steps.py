"""A functional or Sequential model as a list of calls, to be run one by one.

Keras runs a graph as a whole. What stops between two layers, runs only the end of a graph, or asks
who takes a tensor works on this list.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from keras_squeezenet.network.data_formats import Tensor
from keras_squeezenet.network.graph import follow, graph_of, infer, outputs_of


@dataclass(frozen=True)
class Slot:
    """The place of a tensor in a list of calls."""

    number: int


@dataclass(frozen=True, eq=False)
class Step:
    """A call of a layer or an operation.

    Attributes:
        operation: what is called.
        path: its name, after "model/" for each model around it.
        arguments: a tuple and a dict that it is called with, `Slot`s in place of tensors.
        given: slots of its outputs.
    """

    operation: keras.Operation
    path: str
    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    given: tuple[Slot, ...]

    @property
    def taken(self) -> tuple[Slot, ...]:
        """Slots of what it takes, in order."""
        return tuple(each for each in keras.tree.flatten(self.arguments) if isinstance(each, Slot))

    def run(self, tensors: Mapping[Slot, Tensor]) -> dict[Slot, Tensor]:
        """Its outputs in inference, by their slots."""
        args, kwargs = keras.tree.map_structure(
            lambda each: tensors[each] if isinstance(each, Slot) else each, self.arguments
        )
        if isinstance(self.operation, keras.layers.Layer):
            outputs = infer(self.operation, *args, options=kwargs)
        else:
            outputs = self.operation(*args, **kwargs)
        return dict(zip(self.given, keras.tree.flatten(outputs), strict=True))


@dataclass(frozen=True, eq=False)
class Steps:
    """The calls of a model, each after those whose outputs it takes.

    Attributes:
        inputs: slots of the model's inputs.
        calls: `Step`s.
        outputs: slots of the model's outputs.
    """

    inputs: tuple[Slot, ...]
    calls: tuple[Step, ...]
    outputs: tuple[Slot, ...]

    def last_uses(self) -> dict[Slot, int]:
        """By slot the number of the last call that takes it; of outputs that of no call."""
        last = {slot: number for number, step in enumerate(self.calls) for slot in step.given}
        last |= {slot: number for number, step in enumerate(self.calls) for slot in step.taken}
        return last | dict.fromkeys(self.outputs, len(self.calls))

    def takers(self) -> dict[Slot, list[Step | None]]:
        """By slot the calls that take it, each as often as it does; None for an output."""
        found: dict[Slot, list[Step | None]] = {slot: [] for slot in self.inputs}
        for step in self.calls:
            found |= {slot: [] for slot in step.given}
            for slot in step.taken:
                found[slot].append(step)
        for slot in self.outputs:
            found[slot].append(None)
        return found

    def times_called(self) -> dict[keras.Operation, int]:
        """How often each operation is called."""
        counts: dict[keras.Operation, int] = {}
        for step in self.calls:
            counts[step.operation] = counts.get(step.operation, 0) + 1
        return counts

    def run(self, start: int, stop: int, tensors: dict[Slot, Tensor]) -> None:
        """Run calls.

        Args:
            start, stop: numbers of the first call, and of that before which it ends.
            tensors: by slot, those that the calls from `start` on take. Those that are given are
                added, and those that no call from `stop` on takes are removed.
        """
        last = self.last_uses()
        for number, step in enumerate(self.calls[start:stop], start):
            tensors.update(step.run(tensors))
            for slot in {*step.taken, *step.given}:
                if last[slot] <= number:
                    del tensors[slot]


def steps_of(model: keras.Model, *, nested: bool = True) -> Steps:
    """The calls of a model.

    Args:
        model: functional or Sequential.
        nested: whether the calls of a model within the model stand in place of its own.

    Raises:
        ValueError: the model is of another kind.
    """
    calls: list[Step] = []
    numbers = _numbers()

    def through(graph: keras.Model, taken: Any, path: str) -> Any:
        def call(operation: keras.Operation, *args: Any, **kwargs: Any) -> Any:
            if nested and isinstance(operation, keras.Model):
                return through(graph_of(operation), args[0], f"{path}{operation.name}/")
            given = tuple(next(numbers) for _ in outputs_of(operation))
            calls.append(Step(operation, path + operation.name, (args, kwargs), given))
            return list(given)

        return follow(graph, taken, call)

    graph = graph_of(model)
    inputs = [next(numbers) for _ in graph.inputs]
    outputs = through(graph, inputs, "")
    return Steps(tuple(inputs), tuple(calls), tuple(keras.tree.flatten(outputs)))


def _numbers() -> Iterator[Slot]:
    number = 0
    while True:
        yield Slot(number)
        number += 1
