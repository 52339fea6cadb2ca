"""A model's graph as data: what a .sqz file of version 2 says of it, checked. No Keras.

A graph is a list of nodes in the order in which they can be computed. Tensors are numbered from 0
as the nodes give them: one each, a model within the model as many as it has outputs. A layer that
is called again is a node of its own, which names the node that called it first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from keras_squeezenet.checks import is_int
from keras_squeezenet.errors import InputError
from keras_squeezenet.sqz.arguments import MAX_AXES, MAX_COUNT, REQUIRED
from keras_squeezenet.sqz.layer_kinds import INPUT_DTYPES, KINDS, Kind, Shape

MAX_NODES = 2**13  # of a graph with the graphs in it, as often as they are called
MAX_DEPTH = 8  # graphs within each other
MAX_NAME = 256  # characters
MAX_TENSORS = 2**16  # that all nodes of a graph take, and that they and the graph give

INPUT, MODEL = "Input", "Model"


@dataclass(frozen=True, eq=False)
class Node:
    """A call of a layer, of a model within the model, or an input.

    Attributes:
        kind: "Input", "Model", or a name in `KINDS`; None of a layer that an earlier node called.
        name: of the layer; "" where `kind` is None.
        arguments: all of the kind, by name, sizes included.
        inputs: numbers of the tensors that it takes, in order.
        graph: of a "Model".
        again: number of the node that first called the layer, where `kind` is None.
    """

    kind: str | None
    name: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[int, ...] = ()
    graph: Graph | None = None
    again: int | None = None

    @property
    def arrays(self) -> dict[str, Shape]:
        """Shapes of the weights by their names, without those of a model within the model."""
        if self.kind in (None, INPUT, MODEL):
            return {}
        return KINDS[self.kind].arrays(self.arguments)


@dataclass(frozen=True, eq=False)
class Graph:
    """The graph of a functional or Sequential model.

    Attributes:
        nodes: `Node`s, each after those whose tensors it takes.
        inputs: the number of a tensor, or several of them, all of "Input" nodes.
        outputs: the same of any tensors.
        is_sequential: whether it is a `keras.Sequential`: a chain without shared layers.

    Raises:
        InputError: names the node, what was expected and what came.
    """

    nodes: tuple[Node, ...]
    inputs: int | tuple[int, ...]
    outputs: int | tuple[int, ...]
    is_sequential: bool = False

    def __post_init__(self) -> None:
        owners: list[Node] = []  # of each tensor, the node
        names: set[str] = set()
        for number, node in enumerate(self.nodes):
            _check_node(node, number, self.nodes, len(owners))
            if node.kind is not None:
                if node.name in names:
                    raise InputError(f"Layers must have names of their own. Received: {node.name}")
                names.add(node.name)
            given = self._tensors_of(node)
            if len(owners) + given > MAX_TENSORS:
                raise InputError(f"The layers of a model give at most {MAX_TENSORS} tensors in all")
            owners += [node] * given
        if sum(len(node.inputs) for node in self.nodes) > MAX_TENSORS:
            raise InputError(f"The layers of a model take at most {MAX_TENSORS} tensors in all")
        for what, numbers in (("inputs", self.inputs), ("outputs", self.outputs)):
            _check_ends(what, numbers, len(owners))
        starts = [owners[number] for number in as_tuple(self.inputs)]
        if sorted(map(id, starts)) != sorted(id(n) for n in self.nodes if n.kind == INPUT):
            raise InputError("The inputs of a model must be its Input nodes, each once")
        self._check_every_layer_leads_to_an_output()
        if self.is_sequential:
            self._check_chain()

    def _check_every_layer_leads_to_an_output(self) -> None:
        """Keras leaves the others out of a model: their weights would belong to no layer."""
        needed = set(as_tuple(self.outputs))
        end = sum(map(self._tensors_of, self.nodes))
        for node in reversed(self.nodes):
            begin = end - self._tensors_of(node)
            if node.kind != INPUT and needed.isdisjoint(range(begin, end)):
                called = node if node.again is None else self.nodes[node.again]
                raise InputError(
                    f"Every layer must lead to an output. Received: {described(called)}"
                )
            needed.update(node.inputs)
            end = begin

    def _tensors_of(self, node: Node) -> int:
        called = node if node.again is None else self.nodes[node.again]
        return len(as_tuple(called.graph.outputs)) if called.graph else 1

    @property
    def calls(self) -> int:
        """How many nodes there are, those of a model within the model at each of its calls."""
        counts: list[int] = []
        for node in self.nodes:
            again = None if node.again is None else counts[node.again]
            counts.append(again or 1 + (node.graph.calls if node.graph else 0))
        return sum(counts)

    def _check_chain(self) -> None:
        chained = self.nodes[:1] and self.nodes[0].kind == INPUT
        for number, node in enumerate(self.nodes):
            chained = chained and node.again is None and self._tensors_of(node) == 1
            chained = chained and (number == 0 or node.inputs == (number - 1,))
        if not chained or (self.inputs, self.outputs) != (0, len(self.nodes) - 1):
            raise InputError("A sequence must be layers that each take what the one before gives")

    def every_node(self, path: str = "") -> Iterator[tuple[str, Node]]:
        """The nodes, and after a model those within it, with "model/" before their names."""
        for node in self.nodes:
            yield path + node.name, node
            if node.graph is not None:
                yield from node.graph.every_node(f"{path}{node.name}/")

    def array_shapes(self) -> dict[str, Shape]:
        """Shapes of all weights by name, "layer/kernel" or "model/layer/kernel", in order."""
        return {
            f"{path}/{name}": shape
            for path, node in self.every_node()
            for name, shape in node.arrays.items()
        }


def check_limits(graph: Graph, most_weights: int) -> None:
    """Refuse a graph of too many nodes, levels or weights, by its arguments alone.

    Raises:
        InputError: one line.
    """
    count = graph.calls
    if count > MAX_NODES:
        raise InputError(
            f"A .sqz file holds at most {MAX_NODES} nodes, those of a model within the model as "
            f"often as it is called. Received: {count}"
        )
    weights = 0
    for path, node in graph.every_node():
        if path.count("/") >= MAX_DEPTH:
            raise InputError(f"Models may lie {MAX_DEPTH} deep within each other. Received: {path}")
        for name, shape in node.arrays.items():
            weights += prod(shape)
            if weights > most_weights:
                raise InputError(
                    f"The file may hold {most_weights} weights. Received: {weights} up to "
                    f"{path}/{name}"
                )


def checked_arguments(kind: Kind, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """All arguments of a layer, those that are not given with their defaults.

    Raises:
        InputError: one is none of the kind, misses, or is out of its range; `where` names the
            layer.
    """
    known = kind.every_argument
    if unknown := [name for name in given if name not in known]:
        raise InputError(f"{where} must have no argument {unknown[0]!r}")
    arguments = {}
    for name, argument in known.items():
        value = argument.taken(given[name]) if name in given else argument.default
        if value is REQUIRED:
            raise InputError(f"{where} must have an argument {name}")
        if name in given and not argument.accepts(value):
            raise InputError(
                f"{where} must have as {name} {argument.expected}. Received: {value!r:.80}"
            )
        arguments[name] = value
    return arguments


def without_defaults(kind: Kind, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: arguments[name]
        for name, argument in kind.every_argument.items()
        if argument.default is REQUIRED or arguments[name] != argument.default
    }


def input_arguments(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The batch shape and the number type of an Input, checked as those of layers are."""
    shape, dtype = given.get("shape"), given.get("dtype", "float32")
    if set(given) - {"shape", "dtype"} or dtype not in INPUT_DTYPES:
        raise InputError(f"{where} must have a shape and a dtype, one of {', '.join(INPUT_DTYPES)}")
    if not (
        isinstance(shape, list | tuple)
        and 1 <= len(shape) <= MAX_AXES
        and all(size is None or is_int(size, 1, MAX_COUNT) for size in shape)
    ):
        raise InputError(f"{where} must have a shape of sizes or nulls. Received: {shape!r:.80}")
    return {"shape": tuple(shape), "dtype": dtype}


def as_tuple(numbers: int | tuple[int, ...]) -> tuple[int, ...]:
    return numbers if isinstance(numbers, tuple) else (numbers,)


def described(node: Node) -> str:
    """A node in errors: its layer's name and class."""
    return f"layer {node.name} ({node.kind})"


def check_name(name: Any) -> None:
    """Refuse a name that Keras does not take, or that cannot be shown in a line."""
    if not (
        isinstance(name, str)
        and 1 <= len(name) <= MAX_NAME
        and name.isprintable()
        and "/" not in name
    ):
        raise InputError(
            f"A layer's name must have 1 to {MAX_NAME} printable characters, and no slash. "
            f"Received: {name!r:.80}"
        )


def _check_node(node: Node, number: int, nodes: tuple[Node, ...], tensors: int) -> None:
    if not all(is_int(taken, 0, tensors - 1) for taken in node.inputs):
        raise InputError(
            f"Node {number} must take tensors before it, 0 to {tensors - 1}. "
            f"Received: {node.inputs!r:.80}"
        )
    called = node
    if node.kind is None:
        if not is_int(node.again, 0, number - 1) or nodes[node.again].kind in (None, INPUT):
            raise InputError(
                f"Node {number} must call a layer of an earlier node again. Received: {node.again}"
            )
        called = nodes[node.again]
    else:
        check_name(node.name)
    fewest, most = inputs_taken(called)
    if not fewest <= len(node.inputs) <= most:
        raise InputError(
            f"{described(called)} must take {_span(fewest, most)}. Received: {len(node.inputs)}"
        )


def inputs_taken(node: Node) -> tuple[int, int]:
    """The fewest and the most tensors that a node may take."""
    if node.kind == INPUT:
        return 0, 0
    if node.graph is not None:
        count = len(as_tuple(node.graph.inputs))
        return count, count
    if node.kind not in KINDS:
        raise InputError(f"{described(node)} must be of a kind that a .sqz file holds")
    return KINDS[node.kind].inputs


def _span(fewest: int, most: int) -> str:
    count = str(fewest) if fewest == most else f"{fewest} to {most}"
    return f"{count} tensor{'s' if count != '1' else ''}"


def _check_ends(what: str, numbers: Any, tensors: int) -> None:
    listed = as_tuple(numbers)
    if len(listed) > MAX_TENSORS:
        raise InputError(f"A model has at most {MAX_TENSORS} {what}. Received: {len(listed)}")
    if not listed or not all(is_int(number, 0, tensors - 1) for number in listed):
        raise InputError(
            f"The {what} of a model must be numbers of its tensors. Received: {listed!r:.80}"
        )
