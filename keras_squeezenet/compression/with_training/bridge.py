"""From a Keras 3 model to a flat tf_keras twin with equal outputs, and back with its weights.

The TensorFlow Model Optimization Toolkit (tfmot) refuses Keras 3 models, and layers with layers
inside. The twin has neither: a `Fire` becomes its convolutions, concatenation and addition, named
as in `Architecture.kernel_shapes`, and a model within the model becomes its layers. Everything
in the twin is a layer that tfmot and LiteRT's converter know.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from keras_squeezenet.errors import InputError
from keras_squeezenet.network.graph import follow, graph_of, maker_of
from keras_squeezenet.network.layers import (
    BatchNormalization,
    CeilMaxPooling2D,
    Fire,
    ImagePreprocessing,
)
from keras_squeezenet.network.preprocessing import PREPROCESSINGS, fold

if TYPE_CHECKING:  # imported on use
    import tf_keras

# What decides about the outputs of layers that both libraries have under one name.
CARRIED = {
    layers.Conv2D: (
        "filters",
        "kernel_size",
        "strides",
        "padding",
        "dilation_rate",
        "groups",
        "activation",
        "use_bias",
    ),
    layers.DepthwiseConv2D: (
        "kernel_size",
        "strides",
        "padding",
        "depth_multiplier",
        "dilation_rate",
        "activation",
        "use_bias",
    ),
    layers.Dense: ("units", "activation", "use_bias"),
    layers.BatchNormalization: ("axis", "momentum", "epsilon", "center", "scale"),
    layers.MaxPooling2D: ("pool_size", "strides", "padding"),
    layers.AveragePooling2D: ("pool_size", "strides", "padding"),
    layers.GlobalMaxPooling2D: ("keepdims",),
    layers.GlobalAveragePooling2D: ("keepdims",),
    layers.ZeroPadding2D: ("padding",),
    layers.Cropping2D: ("cropping",),
    layers.Activation: ("activation",),
    layers.ReLU: ("max_value", "negative_slope", "threshold"),
    layers.Softmax: ("axis",),
    layers.Add: (),
    layers.Concatenate: ("axis",),
    layers.Dropout: ("rate",),
    layers.SpatialDropout2D: ("rate",),
    layers.Flatten: (),
    layers.Reshape: ("target_shape",),
    layers.Permute: ("dims",),
}

# The layers whose kernels are compressed; the kernel is the first of their weights.
WITH_KERNEL = (layers.Conv2D, layers.Dense)

# Kernel and bias, of arithmetic on pixels.
Affine = tuple[NDArray[np.float64], NDArray[np.float64]]

# Not hard_sigmoid and its kin, which are other functions in tf_keras.
_ACTIVATIONS = (
    "elu",
    "exponential",
    "gelu",
    "linear",
    "relu",
    "selu",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "softsign",
    "tanh",
)


class BridgeError(InputError):
    """A model that has no tf_keras twin; the text names the layer and its class."""


def to_tf_keras(model: keras.Model) -> "tf_keras.Model":
    """The flat tf_keras twin of a Keras 3 model, with its weights and equal outputs.

    The twin computes in float32 whatever the model's policy. Its convolutions and dense layers
    learn, whatever `trainable` says, because that is what a twin is made for; a batch
    normalization that is frozen, or called with `training=False`, stays as it is. Regularizers,
    constraints and seeds stay behind.

    Args:
        model: a functional or Sequential `keras.Model` of this package's layers and ordinary ones
            (`CARRIED`, Rescaling, Normalization, LeakyReLU, Identity), models within it included.
            Data format "channels_last".

    Returns:
        A `tf_keras.Model`. `Fire` fire2 is there as fire2_squeeze1x1, fire2_expand1x1, …. Other
        layers keep their names; one of a model within the model takes that model's name before
        its own where the name is taken. Fixed arithmetic on pixels (`ImagePreprocessing`,
        Rescaling, Normalization) is a 1×1 convolution that does not learn.

    Raises:
        BridgeError: names a layer that cannot be carried, and its class.
    """
    import tf_keras

    graph = _graph_of(model)
    names = _names(graph)
    inputs = [
        tf_keras.Input(
            tensor.shape[1:],
            batch_size=tensor.shape[0],
            name=maker_of(tensor).name,
            dtype="float32",
        )
        for tensor in graph.inputs
    ]
    outputs = _Walk(tf_keras.layers, names).through(graph, inputs)
    twin = tf_keras.Model(inputs, outputs, name=model.name)
    for name, layer in _sources(names).items():
        weights = [np.asarray(weight, "float32") for weight in layer.get_weights()]
        twin.get_layer(name).set_weights(weights)
    return twin


def copy_weights_back(twin: "tf_keras.Model", model: keras.Model) -> None:
    """Give a Keras 3 model the weights of its twin, layer by layer, by name.

    Args:
        twin: what `to_tf_keras(model)` gave, or a `tf_keras.Model` with layers of the same names.
        model: the Keras 3 model, changed in place.

    Raises:
        BridgeError: a layer is missing in the twin or has other shapes there. Nothing is changed.
    """
    taken = [(layer, _weights_in(twin, name, layer)) for name, layer in sources(model).items()]
    for layer, weights in taken:
        # tfmot's masks make -0.0 of negative weights; adding 0 makes them 0.0.
        layer.set_weights([weight + np.float32(0) for weight in weights])


def sources(model: keras.Model) -> dict[str, layers.Layer]:
    """The layers of a Keras 3 model whose weights its twin shares, by their names in the twin.

    They come in the order of execution, as in `Architecture.kernel_shapes`.

    Raises:
        BridgeError: `model` is no graph of layers.
    """
    return _sources(_names(_graph_of(model)))


def kernels(model: keras.Model) -> dict[str, NDArray[np.float32]]:
    """The kernels of a Keras 3 model by their layers' names in the twin: float32 arrays.

    Those of depthwise convolutions are not among them: they are few, and tfmot neither prunes nor
    clusters them.

    Raises:
        BridgeError: `model` is no graph of layers.
    """
    return {
        name: np.asarray(layer.get_weights()[0], "float32")
        for name, layer in sources(model).items()
        if type(layer) in WITH_KERNEL
    }


def _graph_of(model: keras.Model) -> keras.Model:
    try:
        return graph_of(model)
    except ValueError as error:
        raise BridgeError(str(error)) from error


def _names(graph: keras.Model) -> dict[keras.Operation, str]:
    """The name in the twin of every operation, those of models within the model included."""
    names: dict[keras.Operation, str] = {}
    taken: set[str] = set()

    def visit(graph: keras.Model, owner: str | None) -> None:
        for operation in graph.operations:
            inner_input = owner is not None and isinstance(operation, layers.InputLayer)
            if isinstance(operation, keras.Model):
                visit(_graph_of(operation), operation.name)
            elif operation not in names and not inner_input:
                name = operation.name
                names[operation] = f"{owner}_{name}" if name in taken else name
                taken.add(names[operation])

    visit(graph, None)
    return names


def _sources(names: Mapping[keras.Operation, str]) -> dict[str, layers.Layer]:
    found: dict[str, layers.Layer] = {}
    for operation, name in names.items():
        if type(operation) is Fire:
            found |= {f"{name}_{part.name}": part for part in operation.convolutions}
        elif type(operation) in CARRIED and operation.weights:
            found[name] = operation
    return found


def _weights_in(twin: "tf_keras.Model", name: str, layer: layers.Layer) -> list[np.ndarray]:
    try:
        weights = twin.get_layer(name).get_weights()
    except ValueError as error:
        raise BridgeError(f"The twin must have a layer {name}. Received: none") from error
    expected = [tuple(variable.shape) for variable in layer.weights]
    received = [weight.shape for weight in weights]
    if received != expected:
        raise BridgeError(
            f"Layer {name} of the twin must have weights of shapes {expected}. Received: {received}"
        )
    return weights


class _Walk:
    """Follows a Keras 3 graph with tensors of the twin, and makes the twin's layers on the way."""

    def __init__(self, tf_layers: ModuleType, names: Mapping[keras.Operation, str]) -> None:
        self._tf_layers = tf_layers
        self._names = names
        self._made: dict[str, tf_keras.layers.Layer] = {}

    def through(self, graph: keras.Model, inputs: Any, inference: bool = False) -> Any:
        """The twin's outputs; `inference`: everything in `graph` is called with training=False."""
        return follow(graph, inputs, partial(self._call, inference))

    def _call(
        self,
        inference: bool,
        operation: keras.Operation,
        *args: Any,
        training: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        inference = inference or training is False
        name = self._names.get(operation, operation.name)
        kwargs = {key: value for key, value in kwargs.items() if value is not None}
        if len(args) != 1 or kwargs or training is True:
            raise _refusal(
                operation,
                name,
                "a call with its inputs, and training=False at most",
                f"{len(args)} arguments, {', '.join(kwargs) or f'training={training}'}",
            )
        if getattr(operation, "data_format", "channels_last") != "channels_last":
            raise _refusal(operation, name, "data_format=channels_last", operation.data_format)
        inputs = args[0]
        if isinstance(operation, keras.Model):
            return self.through(_graph_of(operation), inputs, inference)
        if type(operation) is BatchNormalization or getattr(
            operation, "batch_normalization", False
        ):
            expected = "the network without batch normalization, see folded_weights"
            raise _refusal(operation, name, expected, "batch_normalization=True")
        if type(operation) is Fire:
            return self._fire(operation, name, inputs)
        if type(operation) is CeilMaxPooling2D:
            return self._ceil_max_pooling(operation, name, inputs)
        if type(operation) in _AFFINES:
            return self._affine(operation, name, inputs)
        if type(operation) is layers.Identity:
            return inputs
        if type(operation) is layers.LeakyReLU:
            return self._layer("LeakyReLU", name, inputs, alpha=operation.negative_slope)
        if type(operation) not in CARRIED:
            raise _refusal(operation, name, "a layer of `CARRIED`", type(operation).__name__)
        return self._ordinary(operation, name, inputs, inference)

    def _layer(self, kind: str, name: str, inputs: Any, **config: Any) -> Any:
        """Call the layer of that name, made the first time: a layer may be called often."""
        if name not in self._made:
            self._made[name] = getattr(self._tf_layers, kind)(name=name, **config)
        return self._made[name](inputs)

    def _ordinary(
        self, operation: layers.Layer, name: str, inputs: Any, inference: bool = False
    ) -> Any:
        kind, config = type(operation).__name__, operation.get_config()
        config = {key: config[key] for key in CARRIED[type(operation)]}
        if isinstance(operation, layers.BatchNormalization):
            config["trainable"] = operation.trainable and not inference
        activation = config.get("activation", "linear")
        if activation == "relu6":
            # An activation of LiteRT and of tfmot as a layer, and of tf_keras as nothing else.
            if kind == "Activation":
                return self._layer("ReLU", name, inputs, max_value=6.0)
            outputs = self._layer(kind, name, inputs, **{**config, "activation": "linear"})
            return self._layer("ReLU", f"{name}_relu6", outputs, max_value=6.0)
        if activation not in _ACTIVATIONS:
            expected = f"an activation of {', '.join(_ACTIVATIONS)}, relu6"
            raise _refusal(operation, name, expected, activation)
        return self._layer(kind, name, inputs, **config)

    def _fire(self, fire: Fire, name: str, image: Any) -> Any:
        def convolve(part: layers.Conv2D, inputs: Any) -> Any:
            return self._ordinary(part, f"{name}_{part.name}", inputs)

        squeezed = convolve(fire.squeeze1x1, image)
        expands = [part for part in (fire.expand1x1, fire.expand3x3) if part is not None]
        expanded = [convolve(part, squeezed) for part in expands]
        outputs = (
            self._layer("Concatenate", f"{name}_concat", expanded) if expanded[1:] else expanded[0]
        )
        if fire.bypass is None:
            return outputs
        bypass = image if fire.bypass == "simple" else convolve(fire.bypass1x1, image)
        return self._layer("Add", f"{name}_add", [outputs, bypass])

    def _ceil_max_pooling(self, pooling: CeilMaxPooling2D, name: str, inputs: Any) -> Any:
        paddings = [pooling.padding_of(side) for side in inputs.shape[1:3]]
        if "explicit" in paddings:
            expected = "known sides, and a last window at most one pixel over the edge"
            raise _refusal(pooling, name, expected, tuple(inputs.shape))
        size, step = pooling.pool_size, pooling.strides
        if paddings[0] == paddings[1]:
            return self._layer(
                "MaxPooling2D", name, inputs, pool_size=size, strides=step, padding=paddings[0]
            )
        # As the layer itself does: a maximum over the rows, then one over the columns.
        rows = self._layer(
            "MaxPooling2D",
            f"{name}_rows",
            inputs,
            pool_size=(size, 1),
            strides=(step, 1),
            padding=paddings[0],
        )
        return self._layer(
            "MaxPooling2D",
            f"{name}_columns",
            rows,
            pool_size=(1, size),
            strides=(1, step),
            padding=paddings[1],
        )

    def _affine(self, operation: layers.Layer, name: str, inputs: Any) -> Any:
        """Arithmetic on pixels as a convolution, which tfmot and LiteRT quantize as any other."""
        channels = inputs.shape[-1]
        if len(inputs.shape) != 4 or channels is None:
            expected = "an input (batch, height, width, channels)"
            raise _refusal(operation, name, expected, tuple(inputs.shape))
        kernel, bias = _AFFINES[type(operation)](operation, channels)
        if kernel.ndim == 2:
            outputs = self._layer("Conv2D", name, inputs, filters=channels, kernel_size=1)
            weights = kernel[None, None]
        else:
            outputs = self._layer("DepthwiseConv2D", name, inputs, kernel_size=1)
            weights = kernel[None, None, :, None]
        self._made[name].set_weights([weights, bias])
        self._made[name].trainable = False
        return outputs


def _preprocessing_as_affine(operation: ImagePreprocessing, channels: int) -> Affine:
    """Kernel `[channels, channels]`: it may reverse the channels."""
    unchanged = np.eye(channels)[None, None]
    kernel, bias = fold(unchanged, np.zeros(channels), PREPROCESSINGS[operation.mode])
    return kernel[0, 0], bias


def _rescaling_as_affine(operation: layers.Rescaling, channels: int) -> Affine:
    return _per_channel(operation.scale, channels), _per_channel(operation.offset, channels)


def _normalization_as_affine(operation: layers.Normalization, channels: int) -> Affine:
    mean, variance = (
        _per_channel(operation.mean, channels),
        _per_channel(operation.variance, channels),
    )
    deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
    if operation.invert:
        return deviation, mean
    return 1 / deviation, -mean / deviation


def _per_channel(values: Any, channels: int) -> NDArray[np.float64]:
    return np.broadcast_to(np.ravel(np.asarray(values, np.float64)), channels)


_AFFINES: dict[type, Callable[[Any, int], Affine]] = {
    ImagePreprocessing: _preprocessing_as_affine,
    layers.Rescaling: _rescaling_as_affine,
    layers.Normalization: _normalization_as_affine,
}


def _refusal(operation: keras.Operation, name: str, expected: str, received: object) -> BridgeError:
    return BridgeError(
        f"Layer {name} of class {type(operation).__name__} has no twin in tf_keras: expected "
        f"{expected}. Received: {received}"
    )
