"""Batch normalization as a matter of training alone: its part in kernels and biases.

In inference a batch normalization multiplies each channel by a number and adds another, and so does
a convolution with other weights (Jacob et al., arXiv 1712.05877, section 3.2): the kernel times
gamma / sqrt(variance + epsilon), and the bias beta - mean · gamma / sqrt(variance + epsilon). The
same numbers before a convolution that does not pad are a matter of its kernel's input channels.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_squeezenet.network.channel_scales import (
    KERNELS,
    affine,
    arrays_of,
    fire_weights,
    scale_inputs,
    scale_outputs,
    weights_with,
)
from keras_squeezenet.network.graph import follow, graph_of, maker_of
from keras_squeezenet.network.kernel_layers import TRANSPOSED
from keras_squeezenet.network.layers import BatchNormalization, Fire
from keras_squeezenet.network.steps import Slot, Step, Steps, steps_of

_NORMALIZATIONS = (layers.BatchNormalization, BatchNormalization)


@dataclass(frozen=True, eq=False)
class FoldedModel:
    """What `fold_batch_normalization` gives.

    Attributes:
        model: a `keras.Model` of the same outputs in inference.
        folded: by the path of each normalization that is gone ("block/norm", or of a `Fire`
            "fire2/squeeze1x1_normalization") the path of the layer that does its work.
    """

    model: keras.Model
    folded: dict[str, str]


def fold_batch_normalization(model: keras.Model) -> FoldedModel:
    """The network without the batch normalizations that its convolutions can do the work of.

    One is folded into the layer before it, where that is a Conv2D, DepthwiseConv2D,
    SeparableConv2D, Conv2DTranspose, one of those of one or three axes, or Dense without
    activation whose output nothing else takes; else into the layer after it, where that does not
    pad with zeros and nothing else takes the normalized tensor (a transposed one not). Layers that
    are called more than once, or in several of the models within the model, stay as they are. An
    `Activation` of the same dtype policy that alone takes what a folded normalization gave becomes
    that of the layer before. Fires with batch normalization become Fires without.

    Args:
        model: functional or Sequential; models within it are folded, too. It stays as it is.

    Returns:
        A `FoldedModel`; of a model without such normalizations the model itself. In inference it
        gives the same up to rounding in float32. It is not compiled.

    Raises:
        ValueError: the model is of another kind.

    Example:

    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((32, 32, 3)),
    ...         keras.layers.Conv2D(8, 3, use_bias=False, name="conv"),
    ...         keras.layers.BatchNormalization(name="norm"),
    ...         keras.layers.ReLU(name="relu"),
    ...     ]
    ... )
    >>> result = fold_batch_normalization(model)
    >>> result.folded
    {'norm': 'conv'}
    >>> [layer.name for layer in result.model.layers]
    ['conv', 'relu']
    """
    rebuilt = _Rebuilt()
    folded = rebuilt.of(model)
    return FoldedModel(folded, rebuilt.folded) if rebuilt.folded else FoldedModel(model, {})


def folded_weights(
    model: keras.Model, weights: Sequence[np.ndarray] | None = None
) -> list[np.ndarray]:
    """The weights of the network without batch normalization that computes the same in inference.

    Args:
        model: of `SqueezeNet`; without batch normalization the weights are what they are.
        weights: arrays in the order of `model.get_weights()`, to be taken instead of the model's.

    Returns:
        Arrays in the order of the `get_weights` of a `SqueezeNet` with `batch_normalization=False`
        and else the same arguments.

    Raises:
        ValueError: `weights` has another length than `model.weights`.

    Example:

    >>> normalized = SqueezeNet(weights=None, classes=10, batch_normalization=True)
    >>> plain = SqueezeNet(weights=None, classes=10)
    >>> plain.set_weights(folded_weights(normalized))
    """
    weights = model.get_weights() if weights is None else weights
    values = {id(variable): value for variable, value in zip(model.weights, weights, strict=True)}

    def read(variable: keras.Variable) -> np.ndarray:
        return values[id(variable)]

    names = {layer.name: layer for layer in model.layers}
    first_normalization = names.get("conv1_normalization")
    folded = []
    for layer in model.layers:
        if layer is first_normalization:
            continue
        if layer.name == "conv1" and first_normalization is not None:
            folded += weights_with(layer, first_normalization, read)
        elif isinstance(layer, Fire) and layer.batch_normalization:
            folded += fire_weights(layer, read)
        else:
            folded += [read(variable) for variable in layer.weights]
    return folded


@dataclass(frozen=True, eq=False)
class _Fold:
    """A normalization that goes, the layer that does its work, and what it was after or before."""

    normalization: layers.BatchNormalization
    layer: layers.Layer
    is_after: bool  # the normalization comes after the layer
    activation: layers.Activation | None = None  # that the layer takes over, too


def _times_called(model: keras.Model) -> Counter[keras.Operation]:
    """How often each operation is called, in a model and once in each of the models in it."""
    counts: Counter[keras.Operation] = Counter()
    met = [model]
    for each in met:
        called = steps_of(each, nested=False).times_called()
        counts.update(called)
        met += [inner for inner in called if isinstance(inner, keras.Model) and inner not in met]
    return counts


def _folds(steps: Steps, called: Mapping[keras.Operation, int]) -> Iterator[_Fold]:
    """What can be folded in the calls of one graph, with those of all graphs counted."""
    makers = {slot: step for step in steps.calls for slot in step.given}
    takers = steps.takers()

    def called_once(step: Step | None) -> Any:
        """The layer of a call, of which there is no other; else None."""
        return step.operation if step is not None and called[step.operation] == 1 else None

    def only_taker(slot: Slot) -> Step | None:
        found = takers[slot]
        return found[0] if len(found) == 1 else None

    for step in steps.calls:
        if not _is_normalization(step) or called[step.operation] > 1:
            continue
        normalization, taken, given = step.operation, step.taken[0], step.given[0]
        before, after = called_once(makers.get(taken)), called_once(only_taker(given))
        if only_taker(taken) is step and _can_follow(normalization, before):
            takes_over = type(after) is layers.Activation and _has_dtype_of(normalization, after)
            yield _Fold(normalization, before, True, after if takes_over else None)
        elif _can_lead(normalization, after):
            yield _Fold(normalization, after, False)


def _can_follow(normalization: layers.BatchNormalization, layer: Any) -> bool:
    """Whether a layer can do the work of a normalization of its outputs."""
    return (
        _can_take(normalization, layer)
        and layer.activation is keras.activations.linear
        and _is_on_axis(normalization, layer, layer.output.shape)
    )


def _can_lead(normalization: layers.BatchNormalization, layer: Any) -> bool:
    """Whether a layer can do the work of a normalization of its inputs."""
    return (
        _can_take(normalization, layer)
        and not isinstance(layer, TRANSPOSED)
        and _pads_nothing(layer)
        and _is_on_axis(normalization, layer, normalization.output.shape)
    )


def _can_take(normalization: layers.BatchNormalization, layer: Any) -> bool:
    return (
        type(layer) in KERNELS and _has_plain_weights(layer) and _has_dtype_of(normalization, layer)
    )


def _has_dtype_of(normalization: layers.BatchNormalization, layer: layers.Layer) -> bool:
    return layer.dtype_policy.name == normalization.dtype_policy.name


def _is_normalization(step: Step) -> bool:
    args, kwargs = step.arguments
    more = [each for name, each in kwargs.items() if name != "training" and each is not None]
    trains = kwargs.get("training") not in (None, False)
    return type(step.operation) in _NORMALIZATIONS and len(args) == 1 and not (more or trains)


def _has_plain_weights(layer: layers.Layer) -> bool:
    """Whether the kernel is a variable of floats: not quantized, and without LoRA weights."""
    kernels = [getattr(layer, name) for name in KERNELS[type(layer)]]
    return all(isinstance(each, keras.Variable) and "float" in each.dtype for each in kernels)


def _is_on_axis(
    normalization: layers.BatchNormalization, layer: layers.Layer, shape: Sequence[int | None]
) -> bool:
    first = getattr(layer, "data_format", None) == "channels_first"
    return normalization.axis % len(shape) == (1 if first else len(shape) - 1)


def _pads_nothing(layer: layers.Layer) -> bool:
    """What is padded is 0, and would have been something else after the normalization."""
    return (
        isinstance(layer, layers.Dense) or layer.padding == "valid" or set(layer.kernel_size) == {1}
    )


class _Rebuilt:
    """Makes models anew, without what is folded; `folded` has what was, by paths."""

    def __init__(self) -> None:
        self.folded: dict[str, str] = {}
        self._clones: dict[keras.Operation, keras.Operation] = {}
        self._changes: dict[keras.Operation, list[_Fold]] = {}
        self._called: Mapping[keras.Operation, int] = {}

    def of(self, model: keras.Model) -> keras.Model:
        self._called = _times_called(model)
        rebuilt = self._graph(model, "")
        for operation, clone in self._clones.items():
            if isinstance(clone, layers.Layer) and not isinstance(clone, keras.Model):
                clone.set_weights(_weights_of(operation, self._changes.get(operation, ())))
                if isinstance(clone, layers.Normalization) and clone.input_mean is None:
                    clone.finalize_state()
        return rebuilt

    def _graph(self, model: keras.Model, path: str) -> keras.Model:
        graph, gone = graph_of(model), set()
        for fold in _folds(steps_of(model, nested=False), self._called):
            self.folded[path + fold.normalization.name] = path + fold.layer.name
            self._changes.setdefault(fold.layer, []).append(fold)
            gone |= {fold.normalization, fold.activation}

        def call(operation: keras.Operation, *args: Any, **kwargs: Any) -> Any:
            return args[0] if operation in gone else self._clone(operation, path)(*args, **kwargs)

        inputs = [
            keras.Input(batch_shape=each.shape, dtype=each.dtype, name=maker_of(each).name)
            for each in graph.inputs
        ]
        if isinstance(model, keras.Sequential):
            chain = [self._clone(layer, path) for layer in model.layers if layer not in gone]
            return keras.Sequential([*inputs, *chain], name=model.name)
        packed = keras.tree.pack_sequence_as(graph.input, inputs)
        return keras.Model(packed, follow(graph, inputs, call), name=model.name)

    def _clone(self, operation: keras.Operation, path: str) -> keras.Operation:
        if operation not in self._clones:
            self._clones[operation] = self._new(operation, path)
        return self._clones[operation]

    def _new(self, operation: keras.Operation, path: str) -> keras.Operation:
        if isinstance(operation, keras.Model):
            return self._graph(operation, f"{path}{operation.name}/")
        config = operation.get_config()
        if isinstance(operation, Fire) and operation.batch_normalization:
            config["batch_normalization"] = False
            for part in operation.convolutions:
                of_part = f"{path}{operation.name}/{part.name}"
                self.folded[f"{of_part}_normalization"] = of_part
        for fold in self._changes.get(operation, ()):
            config["use_bias"] = True
            if fold.activation is not None:
                config["activation"] = fold.activation.get_config()["activation"]
        return type(operation).from_config(config)


def _weights_of(layer: layers.Layer, folds: Sequence[_Fold]) -> list[np.ndarray]:
    """The weights of a layer's clone."""
    read = keras.ops.convert_to_numpy
    if isinstance(layer, Fire) and layer.batch_normalization:
        return fire_weights(layer, read)
    if not folds:
        return layer.get_weights()
    arrays = arrays_of(layer, read)
    for fold in folds:
        change = scale_outputs if fold.is_after else scale_inputs
        change(layer, arrays, *affine(fold.normalization, read))
    return [array.astype(np.float32) for array in arrays.values()]
