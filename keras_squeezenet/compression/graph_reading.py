"""From a Keras model to its graph and arrays as data. Keras only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_squeezenet.compression.graph_arithmetic import as_layer
from keras_squeezenet.compression.layer_arrays import array_of
from keras_squeezenet.compression.layer_classes import AUGMENTATION, KIND_OF
from keras_squeezenet.errors import InputError, one_line
from keras_squeezenet.network.graph import first_inputs_of, follow, graph_of, maker_of
from keras_squeezenet.sqz.graph import (
    INPUT,
    MODEL,
    Graph,
    Node,
    as_tuple,
    checked_arguments,
    input_arguments,
)
from keras_squeezenet.sqz.layer_kinds import KINDS, Kind

# Of a layer's configuration, what a file does not keep: what starts and restrains training, and
# what depends on other arguments that it does not keep either.
_NOT_KEPT = ("initializer", "regularizer", "constraint")
_NOT_KEPT_NAMES = ("name", "trainable", "dtype", "seed", "renorm_momentum")
# What `Normalization` has as an argument or as weights is an array in a file.
_ARRAYS = {"Normalization": ("mean", "variance")}


class UnsupportedModelError(InputError):
    """A model that no .sqz file holds; the text is one line and names the layer and its class."""


def graph_and_arrays(model: keras.Model) -> tuple[Graph, dict[str, np.ndarray]]:
    """A functional or Sequential model as data.

    Returns:
        Its `Graph`, and its weights as float32 by the names of `Graph.array_shapes`.

    Raises:
        UnsupportedModelError: one line names the layer, its class and what would be needed.
        InputError: a weight is not finite.
    """
    graph, called = _graph(model)
    arrays = {}
    for path, node in graph.every_node():
        for name, shape in node.arrays.items():
            array = array_of(called[path], name, shape)
            if array.shape != shape:
                raise UnsupportedModelError(
                    f"`model` must have {path}/{name} of shape {shape}. Received: {array.shape}"
                )
            check_finite(f"{path}/{name}", array)
            arrays[f"{path}/{name}"] = array
    return graph, arrays


def check_finite(name: str, array: np.ndarray) -> None:
    """Refuse weights of a model that are not finite, by their name.

    Raises:
        InputError: one line.
    """
    if not np.isfinite(array).all():
        raise InputError(f"`model` must have finite weights. Received: {name}, not finite")


@dataclass(frozen=True)
class _Tensor:
    number: int


def _graph(model: keras.Model) -> tuple[Graph, dict[str, keras.layers.Layer]]:
    """The graph, and the layers by the paths of its nodes, those of the models within included."""
    try:
        functional = graph_of(model)
    except ValueError as error:
        raise UnsupportedModelError(one_line(error)) from error
    walk = _Walk()
    inputs = functional.input
    for tensor in _listed(inputs, model, "inputs"):
        walk.add_input(tensor)
    tokens = [_Tensor(number) for number in range(len(walk.nodes))]
    outputs = follow(
        functional, tokens, lambda operation, *args, **kwargs: walk.call(operation, args, kwargs)
    )
    graph = Graph(
        tuple(walk.nodes),
        tuple(range(len(tokens))) if isinstance(inputs, list | tuple) else 0,
        _numbers(outputs, model),
        isinstance(model, keras.Sequential),
    )
    return graph, walk.called


def _listed(tensors: Any, model: keras.Model, what: str) -> Sequence[Any]:
    listed = tensors if isinstance(tensors, list | tuple) else [tensors]
    if isinstance(tensors, dict):
        raise UnsupportedModelError(
            f"`model` must have as {what} one tensor or a list of them, for a .sqz file to hold "
            f"it. Received: {model.name} with a dict of {', '.join(map(str, tensors))}"
        )
    if any(isinstance(t, list | tuple | dict) for t in listed):
        raise UnsupportedModelError(
            f"`model` must have as {what} one tensor or a list of them, for a .sqz file to hold "
            f"it. Received: {model.name} with {type(tensors).__name__} of {type(listed).__name__}"
        )
    return listed


def _numbers(outputs: Any, model: keras.Model) -> int | tuple[int, ...]:
    numbers = tuple(token.number for token in _listed(outputs, model, "outputs"))
    return numbers if isinstance(outputs, list | tuple) else numbers[0]


class _Walk:
    """Turns the calls of a model, as they come, into nodes."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.called: dict[str, keras.layers.Layer] = {}
        self._first: dict[int, int] = {}  # number of the node that called a layer first
        self._tensors = 0

    def add_input(self, tensor: keras.KerasTensor) -> None:
        name = maker_of(tensor).name
        given = {"shape": tuple(tensor.shape), "dtype": tensor.dtype}
        self._add(Node(INPUT, name, input_arguments(given, f"layer {name} (InputLayer)")), 1)

    def _add(self, node: Node, outputs: int) -> list[_Tensor]:
        self.nodes.append(node)
        self._tensors += outputs
        return [_Tensor(number) for number in range(self._tensors - outputs, self._tensors)]

    def call(
        self, operation: keras.Operation, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """The tensors that a call gives."""
        arithmetic = as_layer(operation, args, kwargs, _Tensor)
        if arithmetic is not None:
            kind, given, taken = arithmetic
            arguments = checked_arguments(KINDS[kind], given, f"`model`: {_named(operation)}")
            inputs = tuple(tensor.number for tensor in taken)
            return self._add(Node(kind, operation.name, arguments, inputs), 1)[0]
        is_known = type(operation) in KIND_OF or type(operation) in AUGMENTATION
        if not isinstance(operation, keras.Model) and not is_known:
            raise UnsupportedModelError(
                "`model` must be of layers that a .sqz file holds (docs/sqz.md lists them). "
                f"Received: {_named(operation)}; put layers of the list in its place, or keep a "
                ".keras file"
            )
        inputs = _taken(operation, args, kwargs)
        first = self._first.setdefault(id(operation), len(self.nodes))
        if first < len(self.nodes):
            node = Node(None, inputs=inputs, again=first)
            graph = self.nodes[first].graph
        elif isinstance(operation, keras.Model):
            graph, called = _graph(operation)
            self.called |= {f"{operation.name}/{below}": layer for below, layer in called.items()}
            node = Node(MODEL, operation.name, {}, inputs, graph)
        else:
            node, graph = _layer_node(operation, inputs), None
            self.called[operation.name] = operation
        if graph is None:
            return self._add(node, 1)[0]
        tensors = self._add(node, len(as_tuple(graph.outputs)))
        return tensors if isinstance(graph.outputs, tuple) else tensors[0]


def _named(operation: keras.Operation) -> str:
    what = "layer" if isinstance(operation, keras.layers.Layer) else "operation of keras.ops"
    return f"{what} {operation.name} ({type(operation).__name__})"


def _taken(
    operation: keras.Operation, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[int, ...]:
    """Numbers of the tensors that a call takes."""
    kwargs = dict(kwargs)
    training = kwargs.pop("training", None)
    if all(mask is None for mask in keras.tree.flatten(kwargs.get("mask"))):
        kwargs.pop("mask", None)
    given = [*args, *kwargs.values()]
    tensors = given[0] if given else ()
    tensors = tensors if isinstance(tensors, list | tuple) else [tensors]
    if len(given) > 1 or not all(isinstance(tensor, _Tensor) for tensor in tensors):
        raise UnsupportedModelError(
            f"`model` must call its layers with tensors alone, for a .sqz file to hold it. "
            f"Received: {_named(operation)} called with other arguments"
        )
    # False is what inference is; a call of the whole model says otherwise for training.
    # What augments images has True as its default, and a model's prediction says False to it, too.
    trains = training is not None and training is not False
    if trains and type(operation) not in AUGMENTATION:
        raise UnsupportedModelError(
            f"`model` must not call its layers with training={training}, for a .sqz file to hold "
            f"it. Received: {_named(operation)}"
        )
    return tuple(tensor.number for tensor in tensors)


def _augmentation_node(layer: keras.layers.Layer, inputs: tuple[int, ...]) -> Node:
    """What a layer is in inference that alters images in training alone."""
    given: dict[str, Any] = {"dtype": layer.dtype_policy.name}
    kind = "Identity"
    if "float" not in first_inputs_of(layer)[0].dtype:
        kind, given["scale"] = "Rescaling", 1.0  # of pixels it makes floats, as the layer does
    where = f"`model`: {_named(layer)}"
    try:
        arguments = checked_arguments(KINDS[kind], given, where)
    except InputError as error:
        raise UnsupportedModelError(one_line(error)) from error
    return Node(kind, layer.name, arguments, inputs)


def _layer_node(layer: keras.layers.Layer, inputs: tuple[int, ...]) -> Node:
    if type(layer) in AUGMENTATION:
        return _augmentation_node(layer, inputs)
    name = KIND_OF[type(layer)]
    kind, config = KINDS[name], layer.get_config()
    for key, value in config.items():
        if key in kind.arguments or key in _ARRAYS.get(name, ()):
            continue
        if key in _NOT_KEPT_NAMES or any(word in key for word in _NOT_KEPT):
            continue
        if value not in (None, False):
            raise UnsupportedModelError(
                f"`model` must have layers without what a .sqz file does not keep. "
                f"Received: {_named(layer)} with {key}={value!r:.80}"
            )
    given = {key: _plain(config[key]) for key in kind.arguments if key in config}
    if "activation" in given:
        given["activation"] = _activation_name(layer)
    if isinstance(layer, layers.Rescaling):  # whose configuration has arrays as more than numbers
        given |= {"scale": _plain(layer.scale), "offset": _plain(layer.offset)}
    given["dtype"] = layer.dtype_policy.name
    where = f"`model`: {_named(layer)}"
    try:
        # The sizes come from what the layer takes; until they are known any will do.
        some = checked_arguments(kind, {**given, **_some_sizes(kind)}, where)
        shape = first_inputs_of(layer)[0].shape
        sizes = {**kind.sizes_of(some, tuple(shape)), **_adapted(layer)}
        arguments = checked_arguments(kind, {**given, **sizes}, where)
    except InputError as error:
        raise UnsupportedModelError(one_line(error)) from error
    node = Node(name, layer.name, arguments, inputs)
    known = len(node.arrays)
    # A Normalization has its values as weights, or not, and counts.
    if name != "Normalization" and len(layer.weights) != known:
        raise UnsupportedModelError(
            f"`model` must have layers of the weights that Keras gives them. Received: "
            f"{_named(layer)} with {len(layer.weights)} in place of {known}"
        )
    return node


def _some_sizes(kind: Kind) -> dict[str, Any]:
    return {name: (1,) if name == "shape" else 1 for name in kind.sizes if name != "adapted"}


def _adapted(layer: keras.layers.Layer) -> dict[str, bool]:
    if not isinstance(layer, layers.Normalization):
        return {}
    return {"adapted": True} if layer.input_mean is None else {}


def _plain(value: Any) -> Any:
    """A value of a configuration without numpy's numbers."""
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value


def _activation_name(layer: keras.layers.Layer) -> Any:
    """The name of Keras's function; of another, what names it in an error."""
    activation = layer.activation
    name = getattr(activation, "__name__", type(activation).__name__)
    is_keras = getattr(keras.activations, name, None) is activation
    return name if is_keras else f"{name} of {type(activation).__name__}"
