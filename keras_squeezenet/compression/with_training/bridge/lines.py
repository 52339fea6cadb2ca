"""Layers along a line, Conv1D and its kin: in the twin those of images of height 1.

tfmot has no 8 bits for layers of one axis. A line (batch, length, channels) becomes an image
(batch, 1, length, channels) and a line again. What follows takes that image itself, where it does
the same there: tfmot then sees a convolution, its normalization and its activation in a row.
"""

from collections.abc import Callable
from typing import Any

from keras import layers

from keras_squeezenet.compression.with_training.bridge import activations
from keras_squeezenet.compression.with_training.bridge.place import Place

# They do with an image of height 1 what they do with the line: each number by itself, or channels.
_ALIKE = (
    *(layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Identity),
    *(layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum),
)


def are_alike(place: Place, inputs: Any) -> bool:
    """Whether a layer takes lines that were images just before, and does the same with those."""
    given, layer = inputs if isinstance(inputs, list | tuple) else [inputs], place.operation
    if not all(_was_image(place, line) for line in given):
        return False
    if isinstance(layer, layers.BatchNormalization | layers.Concatenate):
        return layer.axis == -1
    if isinstance(layer, layers.Dropout):
        return layer.noise_shape is None
    return type(layer) in _ALIKE


def on_images(place: Place, inputs: Any, build: Callable[[Place, Any], Any]) -> Any:
    """What a layer of which `are_alike` is true makes of lines."""
    is_list = isinstance(inputs, list | tuple)
    images = [_image_before(line) for line in inputs] if is_list else _image_before(inputs)
    return _line(place, build(place, images))


def pooled(place: Place, kind: str, line: Any, keepdims: bool) -> Any:
    """A line through global pooling, `kind` of images."""
    outputs = place.layer(kind, _image(place, line), keepdims=keepdims)
    return _line(place, outputs) if keepdims else outputs


def is_depthwise(layer: layers.Layer) -> bool:
    """Whether a Conv1D has a group for each channel."""
    return type(layer) is layers.Conv1D and layer.groups > 1 and layer.kernel.shape[1] == 1


def _was_image(place: Place, line: Any) -> bool:
    return line.node.layer.name in place.twin.lines


def _image_before(line: Any) -> Any:
    (image,) = line.node.keras_inputs
    return image


def _image(place: Place, line: Any) -> Any:
    if _was_image(place, line):
        return _image_before(line)
    channels = line.shape[-1]
    if len(line.shape) != 3 or channels is None:
        raise place.refusal("an input (batch, length, channels) of known channels", line.shape)
    return place.layer("Reshape", line, "image", target_shape=(1, -1, channels))


def _line(place: Place, image: Any) -> Any:
    place.twin.lines.add(place.named("line"))
    return place.layer("Reshape", image, "line", target_shape=(-1, image.shape[-1]))


def _convolution(place: Place, line: Any) -> Any:
    image = _padded(place, _image(place, line))
    layer = place.operation
    if is_depthwise(layer):
        return _line(place, _depthwise(place, image, None, layer.filters // layer.groups))
    return _line(
        place,
        _activated(
            place, "Conv2D", image, filters=layer.filters, groups=layer.groups, **_window(layer)
        ),
    )


def _padded(place: Place, image: Any) -> Any:
    """With the zeros of a causal convolution, which are all before the line."""
    layer = place.operation
    if layer.padding != "causal":
        return image
    before = (layer.kernel_size[0] - 1) * layer.dilation_rate[0]
    return place.layer("ZeroPadding2D", image, "margin", padding=((0, 0), (before, 0)))


def _window(layer: layers.Layer) -> dict[str, Any]:
    return {
        "kernel_size": (1, *layer.kernel_size),
        "strides": (1, *layer.strides),
        "padding": "valid" if layer.padding == "causal" else layer.padding,
        "dilation_rate": (1, *layer.dilation_rate),
        "use_bias": layer.use_bias,
    }


def _activated(place: Place, kind: str, image: Any, part: str | None = None, **config: Any) -> Any:
    """A layer with the activation of the place's own."""
    activation = place.operation.get_config()["activation"]
    activations.check(place, activation)
    inside = activation in activations.SAME
    own = activation if inside else "linear"
    image = place.layer(kind, image, part, activation=own, **config)
    prefix = "_".join(filter(None, (part, activation)))
    return image if inside else activations.activate(place, image, activation, prefix)


def _depthwise(place: Place, image: Any, part: str | None, multiplier: int, **config: Any) -> Any:
    layer = place.operation
    # TensorFlow has depthwise convolutions of equal steps only. An image of height 1 has one row
    # whatever the step.
    config = {**_window(layer), "strides": layer.strides * 2, **config}
    return _activated(place, "DepthwiseConv2D", image, part, depth_multiplier=multiplier, **config)


def _of_channels(place: Place, line: Any) -> Any:
    image = _image(place, line)
    return _line(place, _depthwise(place, image, None, place.operation.depth_multiplier))


def _separable(place: Place, line: Any) -> Any:
    layer = place.operation
    window = {**_window(layer), "strides": layer.strides * 2, "use_bias": False}
    image = place.layer(
        "DepthwiseConv2D",
        _image(place, line),
        "depthwise",
        depth_multiplier=layer.depth_multiplier,
        **window,
    )
    config = {"filters": layer.filters, "kernel_size": 1, "use_bias": layer.use_bias}
    return _line(place, _activated(place, "Conv2D", image, "pointwise", **config))


def _transposed(place: Place, line: Any) -> Any:
    layer = place.operation
    padding = None if layer.output_padding is None else (0, *layer.output_padding)
    config = {"filters": layer.filters, "output_padding": padding, **_window(layer)}
    return _line(place, _activated(place, "Conv2DTranspose", _image(place, line), **config))


def _pooling(kind: str) -> Callable[[Place, Any], Any]:
    def pool(place: Place, line: Any) -> Any:
        layer = place.operation
        image = place.layer(
            kind,
            _image(place, line),
            pool_size=(1, *layer.pool_size),
            strides=(1, *layer.strides),
            padding=layer.padding,
        )
        return _line(place, image)

    return pool


def _global_pooling(kind: str) -> Callable[[Place, Any], Any]:
    return lambda place, line: pooled(place, kind, line, place.operation.keepdims)


def _with(kind: str, config: Callable[[Any], dict[str, Any]]) -> Callable[[Place, Any], Any]:
    def build(place: Place, line: Any) -> Any:
        image = place.layer(kind, _image(place, line), **config(place.operation))
        return _line(place, image)

    return build


ALONG_LINES: dict[type, Callable[[Place, Any], Any]] = {
    layers.Conv1D: _convolution,
    layers.DepthwiseConv1D: _of_channels,
    layers.SeparableConv1D: _separable,
    layers.Conv1DTranspose: _transposed,
    layers.MaxPooling1D: _pooling("MaxPooling2D"),
    layers.AveragePooling1D: _pooling("AveragePooling2D"),
    layers.GlobalMaxPooling1D: _global_pooling("GlobalMaxPooling2D"),
    layers.GlobalAveragePooling1D: _global_pooling("GlobalAveragePooling2D"),
    layers.ZeroPadding1D: _with(
        "ZeroPadding2D", lambda layer: {"padding": ((0, 0), tuple(layer.padding))}
    ),
    layers.Cropping1D: _with(
        "Cropping2D", lambda layer: {"cropping": ((0, 0), tuple(layer.cropping))}
    ),
    layers.UpSampling1D: _with("UpSampling2D", lambda layer: {"size": (1, layer.size)}),
    layers.SpatialDropout1D: _with("SpatialDropout2D", lambda layer: {"rate": layer.rate}),
}
