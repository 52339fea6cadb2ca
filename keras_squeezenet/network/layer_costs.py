"""What each layer of a model takes, makes and computes, read off symbolic tensors."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import keras
from keras import layers

from keras_squeezenet.network.graph import follow, graph_inside, graph_of, has_graph, layers_within
from keras_squeezenet.network.layers import Fire
from keras_squeezenet.network.live_memory import Effect
from keras_squeezenet.network.multiply_adds import is_keras_or_ours, multiply_adds_of

# Keras's layers that are made of layers and operations which are counted.
_COMPOSITES = (
    *(layers.MultiHeadAttention, layers.GroupQueryAttention),
    *(layers.Attention, layers.AdditiveAttention, layers.Dot),
    *(layers.Bidirectional,),
)
# In inference they leave values as they are, or give them another shape.
_VIEWS = (
    *(layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D),
    *(layers.AlphaDropout, layers.GaussianDropout, layers.GaussianNoise),
    *(layers.ActivityRegularization, layers.Identity, layers.Flatten, layers.Reshape),
)
# They look at one value at a time. A softmax does not.
_OVERWRITING = (
    *(layers.BatchNormalization, layers.ReLU, layers.LeakyReLU, layers.PReLU, layers.ELU),
)
_EFFECTS_OF_ACTIVATIONS: dict[Callable, Effect] = {
    keras.activations.linear: "views",
    keras.activations.softmax: "writes",
    keras.activations.log_softmax: "writes",
}
_PADDINGS = ("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D")
_PADDING_THEMSELVES = {
    *("Conv1D", "Conv2D", "Conv3D", "DepthwiseConv1D", "DepthwiseConv2D"),
    *("SeparableConv1D", "SeparableConv2D"),
}
_OVERWRITING_OPERATIONS = {
    *("Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Gelu", "Silu", "Sigmoid", "Tanh"),
    *("HardSigmoid", "HardSilu", "HardTanh", "Softplus", "Softsign", "Swish"),
}


@dataclass(frozen=True, eq=False)
class LayerCosts:
    """One call of one layer, on one image.

    Attributes:
        name: the layer's name, after the names of the layers and models that hold it.
        kind: the layer's class.
        inputs, outputs: symbolic tensors; the batch is 1.
        parameters: the layer's own; 0 where a shared one comes again.
        trainable_parameters: of these.
        multiply_adds: None where it is not known.
        effect: an `Effect` on memory.
    """

    name: str
    kind: str
    inputs: tuple[keras.KerasTensor, ...]
    outputs: tuple[keras.KerasTensor, ...]
    parameters: int
    trainable_parameters: int
    multiply_adds: int | None
    effect: Effect


@dataclass(frozen=True, eq=False)
class ModelCosts:
    """The `LayerCosts` of a model in the order of execution, and its symbolic tensors."""

    layers: tuple[LayerCosts, ...]
    inputs: tuple[keras.KerasTensor, ...]
    outputs: tuple[keras.KerasTensor, ...]


def costs_of(model: keras.Model, inputs: Sequence[keras.KerasTensor]) -> ModelCosts:
    """Follow symbolic tensors through a model, which is left as it was.

    A model in the model is expanded into its layers. So are a `Fire`, Keras's attention, and a
    user's own layer that holds layers.

    Args:
        model: a functional or Sequential model whose inputs are known, or any other that is built.
        inputs: in the order of the model's; the batch is 1.

    Raises:
        ValueError: an output has no known size; the text names the layer.
    """
    walk = _Walk()
    if has_graph(model):
        outputs = walk.through(graph_of(model), inputs, "")
        walk.add_rest("", model)
    else:
        taken = inputs[0] if len(inputs) == 1 else list(inputs)
        outputs = walk.inside(model, "", (taken,), {})
    return ModelCosts(_with_padding_folded(walk.rows), tuple(inputs), tuple(tensors_in(outputs)))


def tensors_in(structure: Any) -> list[keras.KerasTensor]:
    """The symbolic tensors in nested arguments or outputs, each once."""
    found = [item for item in keras.tree.flatten(structure) if isinstance(item, keras.KerasTensor)]
    return list({id(tensor): tensor for tensor in found}.values())


def _with_padding_folded(rows: Sequence[LayerCosts]) -> tuple[LayerCosts, ...]:
    """Where only convolutions read what was padded, they pad themselves in inference."""
    readers: dict[int, set[str]] = {}
    for row in rows:
        for tensor in row.inputs:
            readers.setdefault(id(tensor), set()).add(row.kind)
    return tuple(
        replace(row, effect="views")
        if row.kind in _PADDINGS and readers.get(id(row.outputs[0]), {""}) <= _PADDING_THEMSELVES
        else row
        for row in rows
    )


class _Walk:
    """Collects rows. A weight is counted where it is met first."""

    def __init__(self) -> None:
        self.rows: list[LayerCosts] = []
        self._counted: set[int] = set()

    def through(self, graph: keras.Model, inputs: Any, prefix: str) -> Any:
        return follow(graph, inputs, partial(self._visit, prefix=prefix))

    def inside(self, layer: keras.Layer, name: str, args: Any, kwargs: Any) -> Any:
        """Through what a layer's `call` does; see `graph_inside` for what is raised."""
        prefix = f"{name}/" if name else ""
        with graph_inside(layer, args, kwargs) as graph:
            outputs = self.through(graph, tensors_in((args, kwargs)), prefix)
        self.add_rest(name, layer)
        return outputs

    def add_rest(self, name: str, layer: keras.Layer) -> None:
        """A row for weights that are in no layer within."""
        parameters, trainable = self._count_once(layer)
        if parameters:
            kind = type(layer).__name__
            row = LayerCosts(name or layer.name, kind, (), (), parameters, trainable, 0, "writes")
            self.rows.append(row)

    def _visit(self, operation: keras.Operation, *args: Any, prefix: str, **kwargs: Any) -> Any:
        name = prefix + operation.name
        if isinstance(operation, keras.Model) and has_graph(operation):
            inputs = args[0] if args else kwargs["inputs"]
            outputs = self.through(graph_of(operation), inputs, f"{name}/")
            self.add_rest(name, operation)
            return outputs
        if isinstance(operation, Fire):
            return self._visit_fire(operation, tensors_in((args, kwargs))[0], name)
        if _is_composite(operation):
            before = len(self.rows), set(self._counted)
            try:
                return self.inside(operation, name, args, kwargs)
            except Exception:  # a user's code raises anything for tensors without values
                self.rows, self._counted = self.rows[: before[0]], before[1]
        return self._add(name, operation, args, kwargs)

    def _visit_fire(self, fire: Fire, image: keras.KerasTensor, name: str) -> keras.KerasTensor:
        def convolve(convolution: layers.Conv2D, image: keras.KerasTensor) -> keras.KerasTensor:
            outputs = self._visit(convolution, image, prefix=f"{name}/")
            if not fire.batch_normalization:
                return outputs
            normalization = fire.normalizations[convolution.name]
            return self._visit(normalization, outputs, prefix=f"{name}/")

        squeezed = convolve(fire.squeeze1x1, image)
        expands = (fire.expand1x1, fire.expand3x3)
        joined = [convolve(expand, squeezed) for expand in expands if expand is not None]
        if fire.bypass == "complex":
            joined.append(convolve(fire.bypass1x1, image))
        elif fire.bypass == "simple":
            joined.append(image)
        output = fire.compute_output_spec(image)
        row = LayerCosts(name, type(fire).__name__, tuple(joined), (output,), 0, 0, 0, "writes")
        self.rows.append(row)
        return output

    def _add(self, name: str, operation: keras.Operation, args: Any, kwargs: Any) -> Any:
        """One row for an operation as a whole."""
        outputs = _output_spec(operation, args, kwargs)
        made = tuple(tensors_in(outputs))
        for tensor in made:
            if None in tensor.shape:
                raise ValueError(
                    f"The output of layer {name} ({type(operation).__name__}) must have known "
                    "sizes to be counted; more of `input_shape` may settle them. "
                    f"Received: output shape {tensor.shape}"
                )
        inputs = tuple(tensors_in((args, kwargs)))
        parameters, trainable = self._count_once(operation)
        self.rows.append(
            LayerCosts(
                name,
                type(operation).__name__,
                inputs,
                made,
                parameters,
                trainable,
                self._multiply_adds(operation, args, kwargs, made),
                _effect(operation, inputs, made),
            )
        )
        return outputs

    def _multiply_adds(
        self,
        operation: keras.Operation,
        args: Any,
        kwargs: Any,
        made: Sequence[keras.KerasTensor],
    ) -> int | None:
        if isinstance(operation, layers.TimeDistributed):
            return _at_every_step(operation, *args)
        if isinstance(operation, keras.Layer) and not is_keras_or_ours(operation):
            return _of_users_layer(operation, args, kwargs)
        taken = [
            item.shape for item in keras.tree.flatten((args, kwargs)) if hasattr(item, "shape")
        ]
        return multiply_adds_of(operation, taken, made[0].shape if made else None)

    def _count_once(self, operation: keras.Operation) -> tuple[int, int]:
        """Parameters, and trainable ones, of an operation's weights that were not counted yet."""
        weights = [
            weight
            for weight in getattr(operation, "weights", ())
            if id(weight) not in self._counted
        ]
        self._counted.update(map(id, weights))
        return _sizes(weights), _sizes(weight for weight in weights if weight.trainable)


def _output_spec(operation: keras.Operation, args: Any, kwargs: Any) -> Any:
    if isinstance(operation, layers.EinsumDense):
        # It says what it was told, None for any length; what it does has a size.
        return keras.Operation.compute_output_spec(operation, *args, **kwargs)
    return operation.compute_output_spec(*args, **kwargs)


def _is_composite(operation: keras.Operation) -> bool:
    """Whether it is shown as what is within, not as a whole."""
    if isinstance(operation, _COMPOSITES):
        return True
    if not isinstance(operation, keras.Layer) or is_keras_or_ours(operation):
        return False
    return bool(layers_within(operation))


def _of_users_layer(operation: keras.Layer, args: Any, kwargs: Any) -> int | None:
    """What the operations in its `call` take; None where that cannot be followed."""
    walk = _Walk()
    try:
        walk.inside(operation, "", args, kwargs)
    except Exception:  # see `_Walk._visit`
        return None
    return _sum_or_none(row.multiply_adds for row in walk.rows)


def _at_every_step(wrapper: layers.TimeDistributed, *args: Any) -> int | None:
    """Of the wrapped layer on one step of `(batch, steps, …)`, times the steps."""
    batch, steps, *shape = args[0].shape
    walk = _Walk()
    walk._visit(wrapper.layer, keras.KerasTensor((batch, *shape), args[0].dtype), prefix="")
    once = _sum_or_none(row.multiply_adds for row in walk.rows)
    return None if once is None else steps * once


def _sum_or_none(numbers: Iterable[int | None]) -> int | None:
    found = list(numbers)
    return None if None in found else sum(number or 0 for number in found)


def _effect(
    operation: keras.Operation,
    inputs: Sequence[keras.KerasTensor],
    outputs: Sequence[keras.KerasTensor],
) -> Effect:
    if len(inputs) != 1 or len(outputs) != 1:
        return "writes"
    if math.prod(inputs[0].shape) != math.prod(outputs[0].shape):
        return "writes"
    if isinstance(operation, layers.Activation):
        return _EFFECTS_OF_ACTIVATIONS.get(operation.activation, "overwrites")
    if isinstance(operation, _VIEWS):
        return "views"
    named = type(operation).__name__ in _OVERWRITING_OPERATIONS
    return "overwrites" if named or isinstance(operation, _OVERWRITING) else "writes"


def _sizes(weights: Iterable[Any]) -> int:
    return sum(math.prod(weight.shape) for weight in weights)
