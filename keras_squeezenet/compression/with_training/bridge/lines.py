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

# They do with an image of height 1 what they do with the line: each number by itself.
_ALIKE = (layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Identity)
_MERGING = (
    *(layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum),
)


def are_alike(place: Place, inputs: Any) -> bool:
    """Whether a layer takes lines, and does the same with images of height 1.

    A normalization and an activation always do, so that each is called alike wherever it is shared.
    """
    given, layer = inputs if isinstance(inputs, list | tuple) else [inputs], place.operation
    if _is_vector(place, inputs):
        return True
    if any(len(line.shape) != 3 or line.shape[-1] is None for line in given):
        return False
    if isinstance(layer, layers.BatchNormalization):
        return layer.axis in (-1, 2)
    if not any(_was_image(place, line) for line in given):
        return type(layer) in _ALIKE and place.twin.has_lines
    if isinstance(layer, layers.Concatenate):
        return layer.axis == -1
    if isinstance(layer, layers.Dropout):
        return layer.noise_shape is None
    return type(layer) in (*_ALIKE, *_MERGING)


def on_images(place: Place, inputs: Any, build: Callable[[Place, Any], Any]) -> Any:
    """What a layer of which `are_alike` is true makes of lines."""
    if _is_vector(place, inputs):
        shape = tuple(inputs.shape[1:])
        image = place.layer("Reshape", inputs, place.spare("image"), target_shape=(1, 1, *shape))
        return place.layer(
            "Reshape", build(place, image), place.spare("vector"), target_shape=shape
        )
    if not isinstance(inputs, list | tuple):
        return _line(place, build(place, _image(place, inputs)))
    parts = [f"image{number}" for number in range(len(inputs))]
    images = [_image(place, line, part) for line, part in zip(inputs, parts, strict=True)]
    return _line(place, build(place, images))


def _is_vector(place: Place, inputs: Any) -> bool:
    """Whether a vector is normalized in 8 bits, which are those of images for tfmot alone."""
    is_one = isinstance(place.operation, layers.BatchNormalization) and len(inputs.shape) == 2
    return is_one and place.twin.for_8_bits and inputs.shape[-1] is not None


def pooled(place: Place, kind: str, line: Any, keepdims: bool) -> Any:
    """A line through global pooling, `kind` of images."""
    outputs = place.layer(kind, _image(place, line), keepdims=keepdims)
    return _line(place, outputs) if keepdims else outputs


def is_depthwise(layer: layers.Layer) -> bool:
    """Whether a Conv1D or Conv2D has a group for each channel."""
    is_one = type(layer) in (layers.Conv1D, layers.Conv2D)
    return is_one and layer.groups > 1 and layer.kernel.shape[-2] == 1


def _was_image(place: Place, line: Any) -> bool:
    return line.node.layer in place.twin.lines


def _image(place: Place, line: Any, part: str = "image") -> Any:
    if _was_image(place, line):
        (image,) = line.node.keras_inputs
        return image
    channels = line.shape[-1]
    if len(line.shape) != 3 or channels is None:
        raise place.refusal("an input (batch, length, channels) of known channels", line.shape)
    return place.layer("Reshape", line, place.spare(part), target_shape=(1, -1, channels))


def _line(place: Place, image: Any) -> Any:
    line = place.layer("Reshape", image, place.spare("line"), target_shape=(-1, image.shape[-1]))
    place.twin.lines.add(line.node.layer)
    return line


def _convolution(place: Place, line: Any) -> Any:
    image = _padded(place, _image(place, line))
    layer = place.operation
    if is_depthwise(layer):
        return _line(place, _depthwise(place, image, layer.filters // layer.groups))
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
    return place.layer("ZeroPadding2D", image, place.spare("margin"), padding=((0, 0), (before, 0)))


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
    inside = activations.is_inside(place, activation)
    own = activation if inside else "linear"
    image = place.layer(kind, image, part, activation=own, **config)
    prefix = "_".join(filter(None, (part, activation)))
    return image if inside else activations.activate(place, image, activation, prefix)


def _window_of_channels(layer: layers.Layer) -> dict[str, Any]:
    """Of a depthwise convolution, of which TensorFlow has those of equal steps only.

    An image of height 1 has one row whatever the step.
    """
    return {**_window(layer), "strides": layer.strides * 2}


def _depthwise(place: Place, image: Any, multiplier: int) -> Any:
    window = _window_of_channels(place.operation)
    return _activated(place, "DepthwiseConv2D", image, depth_multiplier=multiplier, **window)


def _of_channels(place: Place, line: Any) -> Any:
    image = _image(place, line)
    return _line(place, _depthwise(place, image, place.operation.depth_multiplier))


def _separable(place: Place, line: Any) -> Any:
    layer = place.operation
    window = {**_window_of_channels(layer), "use_bias": False}
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
    # tf_keras takes equal rates alone; one row has nothing between its rows.
    window = {**_window(layer), "dilation_rate": layer.dilation_rate * 2}
    config = {"filters": layer.filters, "output_padding": padding, **window}
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
