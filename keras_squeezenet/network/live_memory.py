"""Memory of the tensors that are alive while a network runs, step by step.

A tensor is alive from the step that makes it to the last one that reads it: one that waits for a
bypass takes memory all the while. The network's inputs are alive from the beginning to their last
reader, its outputs to the end.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

# What a step does where memory is saved: it writes its output into memory of its own; over its
# input, value by value, if nothing reads that later; or its input takes the place of its output.
Effect = Literal["writes", "overwrites", "views"]


@dataclass(frozen=True)
class MemoryStep:
    """One operation.

    Attributes:
        inputs: keys of the tensors that it reads.
        outputs: keys of the tensors that it makes.
        effect: an `Effect`; other than "writes" for a step of one input and one output.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    effect: Effect = "writes"


def live_bytes(
    steps: Sequence[MemoryStep],
    sizes: Mapping[int, int],
    inputs: Iterable[int],
    outputs: Iterable[int],
    *,
    in_place: bool,
) -> list[int]:
    """Bytes of all tensors that are alive during each step, its inputs and outputs included.

    Args:
        steps: in the order in which they run.
        sizes: bytes of each tensor, by its key.
        inputs, outputs: keys of the network's.
        in_place: whether the effects of the steps save memory; else every step writes its output
            into memory of its own.

    Returns:
        A number for each step.
    """
    inputs, outputs = list(inputs), list(outputs)
    place = {key: key for key in inputs}
    for step in steps:
        shares = in_place and step.effect == "views"
        for key in step.outputs:
            place.setdefault(key, place[step.inputs[0]] if shares else key)
    last = dict.fromkeys(inputs, 0)
    last |= {place[key]: number for number, step in enumerate(steps) for key in step.outputs}
    last |= {place[key]: number for number, step in enumerate(steps) for key in step.inputs}
    last |= {place[key]: len(steps) for key in outputs}
    # The memory of a place may be another's that was overwritten.
    alive = {place[key]: sizes[key] for key in inputs}
    found = []
    for number, step in enumerate(steps):
        if in_place and step.effect == "overwrites" and last[place[step.inputs[0]]] == number:
            alive.pop(place[step.inputs[0]])
        for key in step.outputs:
            alive.setdefault(place[key], sizes[key])
        found.append(sum(alive.values()))
        alive = {key: size for key, size in alive.items() if last[key] > number}
    return found
