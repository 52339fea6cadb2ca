"""Layers that become several in the twin, or one of another kind."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_squeezenet.compression.with_training.bridge import activations
from keras_squeezenet.compression.with_training.bridge.place import Place
from keras_squeezenet.compression.with_training.bridge.same_layers import layer_like
from keras_squeezenet.network.families.layers import (
    ChannelSelection,
    GroupedConv2D,
    LocalResponseNormalization,
)
from keras_squeezenet.network.graph import class_beside
from keras_squeezenet.network.layers import CeilMaxPooling2D, Fire

# Of keras.applications, which keeps them to itself. None where a version of Keras has none.
LayerScale = class_beside(keras.applications.ConvNeXtTiny, "LayerScale")
StochasticDepth = class_beside(keras.applications.ConvNeXtTiny, "StochasticDepth")
CustomScaleLayer = class_beside(keras.applications.InceptionResNetV2, "CustomScaleLayer")


def _fire(place: Place, image: Any) -> Any:
    fire = place.operation
    if fire.batch_normalization:
        expected = "the network without batch normalization, see folded_weights"
        raise place.refusal(expected, "batch_normalization=True")

    def convolve(part: layers.Conv2D, inputs: Any) -> Any:
        return layer_like(place, part, inputs, part.name)

    squeezed = convolve(fire.squeeze1x1, image)
    expands = [part for part in (fire.expand1x1, fire.expand3x3) if part is not None]
    expanded = [convolve(part, squeezed) for part in expands]
    outputs = place.layer("Concatenate", expanded, "concat") if expanded[1:] else expanded[0]
    if fire.bypass is None:
        return outputs
    bypass = image if fire.bypass == "simple" else convolve(fire.bypass1x1, image)
    return place.layer("Add", [outputs, bypass], "add")


def _ceil_max_pooling(place: Place, inputs: Any) -> Any:
    pooling = place.operation
    paddings = [pooling.padding_of(side) for side in inputs.shape[1:3]]
    if "explicit" in paddings:
        expected = "known sides, and a last window at most one pixel over the edge"
        raise place.refusal(expected, tuple(inputs.shape))
    size, step = pooling.pool_size, pooling.strides

    def pool(inputs: Any, part: str | None, size: Any, strides: Any, padding: str) -> Any:
        return place.layer(
            "MaxPooling2D", inputs, part, pool_size=size, strides=strides, padding=padding
        )

    if paddings[0] == paddings[1]:
        return pool(inputs, None, size, step, paddings[0])
    # As the layer itself does: a maximum over the rows, then one over the columns.
    rows = pool(inputs, "rows", (size, 1), (step, 1), paddings[0])
    return pool(rows, "columns", (1, size), (1, step), paddings[1])


def _separable(place: Place, inputs: Any) -> Any:
    layer = place.operation
    activations.check(place, layer.get_config()["activation"])
    activation = layer.get_config()["activation"]
    x = place.layer(
        "DepthwiseConv2D",
        inputs,
        "depthwise",
        kernel_size=layer.kernel_size,
        strides=layer.strides,
        padding=layer.padding,
        depth_multiplier=layer.depth_multiplier,
        dilation_rate=layer.dilation_rate,
        use_bias=False,
    )
    inside = activations.is_inside(place, activation)
    x = place.layer(
        "Conv2D",
        x,
        "pointwise",
        filters=layer.filters,
        kernel_size=1,
        use_bias=layer.use_bias,
        activation=activation if inside else "linear",
    )
    return x if inside else activations.activate(place, x, activation, f"pointwise_{activation}")


def depthwise(place: Place, inputs: Any) -> Any:
    """A Conv2D with a group for each channel.

    TensorFlow has no gradients of grouped convolutions on CPUs, tfmot and LiteRT have depthwise
    ones.
    """
    layer = place.operation
    config = layer.get_config()
    activation = config["activation"]
    activations.check(place, activation)
    inside = activations.is_inside(place, activation)
    x = place.layer(
        "DepthwiseConv2D",
        inputs,
        kernel_size=layer.kernel_size,
        strides=layer.strides,
        padding=layer.padding,
        depth_multiplier=layer.filters // layer.groups,
        dilation_rate=layer.dilation_rate,
        use_bias=layer.use_bias,
        activation=activation if inside else "linear",
    )
    return x if inside else activations.activate(place, x, activation, activation)


def _grouped(place: Place, inputs: Any) -> Any:
    """A convolution for each group.

    A group's channels are got by layers that tfmot and LiteRT know. All groups' channels of a pixel
    are put side by side along the width; of that every g-th pixel is one group's.
    """
    layer = place.operation
    config = layer.get_config()
    activation, groups = config["activation"], layer.groups
    activations.check(place, activation)
    inside = activations.is_inside(place, activation)
    _, _, width, channels = inputs.shape
    if width is None:
        raise place.refusal("an input of known width", tuple(inputs.shape))
    apart = (-1, width * groups, channels // groups)
    apart = place.layer("Reshape", inputs, "apart", target_shape=apart)
    same = ("kernel_size", "strides", "padding", "dilation_rate", "use_bias")
    outputs = []
    for number in range(groups):
        margins = ((0, 0), (number, groups - 1 - number))
        x = place.layer("Cropping2D", apart, f"from{number}", cropping=margins)
        x = place.layer("MaxPooling2D", x, f"of{number}", pool_size=1, strides=(1, groups))
        convolution = {name: config[name] for name in same}
        convolution["filters"] = layer.filters // groups
        convolution["activation"] = activation if inside else "linear"
        outputs.append(place.layer("Conv2D", x, group_name(number), **convolution))
    x = place.layer("Concatenate", outputs)
    return x if inside else activations.activate(place, x, activation, activation)


def group_name(number: int) -> str:
    """The part of a layer's name that one of its groups has in the twin."""
    return f"group{number}"


def _local_response_normalization(place: Place, inputs: Any) -> Any:
    """TensorFlow's own function, which neither tfmot nor LiteRT has in 8 bits."""
    layer = place.operation
    if place.twin.for_8_bits:
        raise place.refusal("a layer that LiteRT has in 8 bits", "local response normalization")
    if len(inputs.shape) != 4:
        raise place.refusal("an input (batch, height, width, channels)", tuple(inputs.shape))
    constants = {
        "depth_radius": layer.radius,
        "bias": layer.k,
        "alpha": layer.alpha,
        "beta": layer.beta,
    }
    return place.layer("Lambda", inputs, function=_normalized_by_neighbours, arguments=constants)


def _normalized_by_neighbours(inputs: Any, **constants: float) -> Any:
    import tensorflow as tf

    return tf.nn.local_response_normalization(inputs, **constants)


def _selection(place: Place, inputs: Any) -> Any:
    """A 1×1 convolution of zeros and ones, which does not learn."""
    channels = inputs.shape[-1]
    if channels is None:
        raise place.refusal("an input of known channels", tuple(inputs.shape))
    return place.affine(inputs, np.eye(channels)[:, list(place.operation.indices)])


def _leaky_relu(place: Place, inputs: Any) -> Any:
    return place.layer("LeakyReLU", inputs, alpha=place.operation.negative_slope)


def _identity(place: Place, inputs: Any) -> Any:
    return inputs


def _layer_scale(place: Place, inputs: Any) -> Any:
    """A scale for each channel that learns: a depthwise 1×1 convolution."""
    if len(inputs.shape) != 4:
        raise place.refusal("an input (batch, height, width, channels)", tuple(inputs.shape))
    return place.layer("DepthwiseConv2D", inputs, kernel_size=1, use_bias=False)


def _stochastic_depth(place: Place, inputs: Any) -> Any:
    """Whole images are dropped, and the others grow by the same factor."""
    noise_shape = (None,) + (1,) * (len(inputs.shape) - 1)
    rate = place.operation.drop_path_rate
    return place.layer("Dropout", inputs, rate=rate, noise_shape=noise_shape)


def _average(place: Place, inputs: Any) -> Any:
    """The sum by the number: tfmot and LiteRT have no average of tensors in 8 bits."""
    return place.affine(place.layer("Add", inputs, "sum"), 1 / len(inputs))


def _custom_scale(place: Place, inputs: Any) -> Any:
    shortcut, residual = inputs
    scaled = place.affine(residual, place.operation.scale, 0.0, "scale")
    return place.layer("Add", [shortcut, scaled])


COMPOSED: dict[type | None, Callable[[Place, Any], Any]] = {
    CeilMaxPooling2D: _ceil_max_pooling,
    ChannelSelection: _selection,
    CustomScaleLayer: _custom_scale,
    Fire: _fire,
    GroupedConv2D: _grouped,
    LayerScale: _layer_scale,
    LocalResponseNormalization: _local_response_normalization,
    StochasticDepth: _stochastic_depth,
    layers.Average: _average,
    layers.Identity: _identity,
    layers.LeakyReLU: _leaky_relu,
    layers.SeparableConv2D: _separable,
}
