"""From the graph and the arrays in a .sqz file to a Keras model. Keras only.

What a file says is checked before Keras sees it: kinds and arguments against the fixed table of
`sqz.layer_kinds`, sizes against what the layer before really gives, so that no layer takes memory
for weights that the file does not hold. Classes come from `layer_classes` alone, and nothing of
`keras.saving` is run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_squeezenet.compression.layer_arrays import set_arrays
from keras_squeezenet.compression.layer_classes import CLASSES
from keras_squeezenet.errors import one_line
from keras_squeezenet.sqz import SqzError
from keras_squeezenet.sqz.graph import INPUT, Graph, Node, described
from keras_squeezenet.sqz.layer_kinds import KINDS
from keras_squeezenet.sqz.model import CompressedModel


def model_of_graph(compressed: CompressedModel) -> keras.Model:
    """The `keras.Model` of a `CompressedModel`.

    Raises:
        SqzError: Keras makes no model of it; the text names the layer.
    """
    model = _Build(compressed).model(compressed.graph, compressed.name, "")
    assign(model, compressed)
    return model


def assign(model: keras.Model, compressed: CompressedModel) -> None:
    """Give a model of the same graph, such as a copy, the weights of a `CompressedModel`."""
    layers = dict(_by_path(model, ""))
    for path, node in compressed.graph.every_node():
        if names := node.arrays:
            arrays = {name: compressed.values(f"{path}/{name}") for name in names}
            set_arrays(layers[path], arrays)


def _by_path(model: keras.Model, path: str) -> Iterator[tuple[str, keras.layers.Layer]]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _by_path(layer, f"{path}{layer.name}/")
        else:
            yield path + layer.name, layer


class _Build:
    """Makes models of graphs; `layers` has those that were made, by the paths of their nodes."""

    def __init__(self, compressed: CompressedModel) -> None:
        self.layers: dict[str, keras.layers.Layer] = {}
        self._compressed = compressed

    def model(self, graph: Graph, name: str, path: str) -> keras.Model:
        """A model of fresh weights."""
        tensors: list[keras.KerasTensor] = []
        for number, node in enumerate(graph.nodes):
            with _named_errors(node if node.again is None else graph.nodes[node.again]):
                tensors += self._outputs(graph, number, tensors, path)
        with _named_errors(None):
            if graph.is_sequential:
                chain = [self.layers[path + node.name] for node in graph.nodes[1:]]
                return keras.Sequential([tensors[0], *chain], name=name)
            return keras.Model(
                _picked(tensors, graph.inputs), _picked(tensors, graph.outputs), name=name
            )

    def _outputs(
        self, graph: Graph, number: int, tensors: Sequence[keras.KerasTensor], path: str
    ) -> Sequence[keras.KerasTensor]:
        node = graph.nodes[number]
        if node.kind == INPUT:
            shape, dtype = node.arguments["shape"], node.arguments["dtype"]
            return [keras.Input(batch_shape=shape, dtype=dtype, name=node.name)]
        first = node if node.again is None else graph.nodes[node.again]
        if node is first:
            self.layers[path + node.name] = self._layer(node, path)
        layer = self.layers[path + first.name]
        taken = [tensors[number] for number in node.inputs]
        _check_sizes(first, taken)
        if graph.is_sequential:
            # `keras.Sequential` calls its layers itself: here only their shapes are followed.
            if not layer.built:
                layer.build(taken[0].shape)
            return [layer.compute_output_spec(taken[0])]
        outputs = layer(taken if _takes_a_list(first) else taken[0])
        return outputs if isinstance(outputs, list | tuple) else [outputs]

    def _layer(self, node: Node, path: str) -> keras.layers.Layer:
        if node.graph is not None:
            return self.model(node.graph, node.name, f"{path}{node.name}/")
        assert node.kind is not None
        if node.kind not in CLASSES:
            raise SqzError(
                f"no model can be made of the file: {described(node)} is of a class that this "
                f"version of Keras, {keras.__version__}, does not have"
            )
        arguments = {name: node.arguments[name] for name in KINDS[node.kind].arguments}
        if node.kind == "Normalization" and not node.arguments["adapted"]:
            for name in node.arrays:
                arguments[name] = self._compressed.values(f"{path}{node.name}/{name}")
        return CLASSES[node.kind](name=node.name, dtype=node.arguments["dtype"], **arguments)


@contextlib.contextmanager
def _named_errors(node: Node | None) -> Iterator[None]:
    """Whatever Keras raises for layers that do not fit, as one line about the file."""
    try:
        yield
    except SqzError:
        raise
    except Exception as error:
        where = f"{described(node)}: " if node else ""
        raise SqzError(
            f"no model can be made of the file: {where}{one_line(error, 200)}"
        ) from error


def _check_sizes(node: Node, taken: Sequence[keras.KerasTensor]) -> None:
    """Refuse a layer whose weights would not be those that the file holds, before they are made."""
    if node.kind not in KINDS:
        return
    found = KINDS[node.kind].sizes_of(node.arguments, tuple(taken[0].shape))
    for name, size in found.items():
        if size != node.arguments[name]:
            raise SqzError(
                f"no model can be made of the file: {described(node)} must have {name} "
                f"{size}, as the tensor that it takes. Received: {node.arguments[name]}"
            )


def _takes_a_list(node: Node) -> bool:
    if node.graph is not None:
        return isinstance(node.graph.inputs, tuple)
    return node.kind in KINDS and KINDS[node.kind].inputs != (1, 1)


def _picked(tensors: Sequence[keras.KerasTensor], ends: int | tuple[int, ...]) -> Any:
    return [tensors[i] for i in ends] if isinstance(ends, tuple) else tensors[ends]
