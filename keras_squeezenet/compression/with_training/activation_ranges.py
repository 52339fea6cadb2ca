"""The ranges of activations in a network that tfmot quantizes in training: found from images.

`keras_squeezenet.litert.ranges` does the same for a file that is calibrated after training, and
says how much room a range needs.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_squeezenet.litert.ranges import first_late, range_with_room

if TYPE_CHECKING:  # imported on use
    import tensorflow as tf
    import tf_keras

KERNEL_ATTRIBUTES = {
    "Conv2D": "kernel",
    "Conv2DTranspose": "kernel",
    "Dense": "kernel",
    "DepthwiseConv2D": "depthwise_kernel",
}

# The variables min and max of an activation.
Range = tuple["tf.Variable", "tf.Variable"]

_SETTLING_IMAGES = 32

# Names of tf_keras's layers and functions, see `ranges` for the same in a file.
_PASSING = {
    "AveragePooling2D",
    "Concatenate",
    "Cropping2D",
    "Dropout",
    "Flatten",
    "GlobalAveragePooling2D",
    "GlobalMaxPooling2D",
    "MaxPooling2D",
    "Permute",
    "Reshape",
    "SpatialDropout2D",
    "ZeroPadding2D",
}
_ACTIVATIONS = {"Activation", "Softmax"}
_BOUNDING = {"hard_sigmoid", "log_softmax", "relu6", "sigmoid", "softmax", "tanh"}


def set_input_range(quantized: "tf_keras.Model", least: float, greatest: float) -> None:
    for layer in quantized.layers:
        if type(layer).__name__ == "QuantizeLayer":
            for variable in layer.weights:
                if variable.name.endswith("_min:0"):
                    variable.assign(least)
                elif variable.name.endswith("_max:0"):
                    variable.assign(greatest)


def calibrate(quantized: "tf_keras.Model", images: np.ndarray) -> None:
    """Set the ranges of all activations to what the images need, as `export_litert` does.

    A tensor's range is right only once those before it are, so some images go through until
    nothing moves. Then each goes through alone: the range of what decides has room for more than
    was seen, and how much tell the extremes of single images. Meanwhile ranges are twice as wide,
    so that none cuts off what a later one has to be found for.
    """
    import tensorflow as tf

    ranges = _activation_ranges(quantized)
    variables = [variable for pair in ranges for variable in pair]
    with _as_in_use(quantized), _with_fixed_kernels(quantized):
        # One graph for any number of images: the time goes into tracing it, and into what Python
        # asks of TensorFlow for each range of each image.
        signature = tf.TensorSpec((None, *quantized.input_shape[1:]), tf.float32)
        extremes = tf.function(lambda images: _extremes(quantized, variables, images), [signature])
        for _ in range(len(ranges)):
            found = 2 * np.array(extremes(images[:_SETTLING_IMAGES]))
            settled = np.allclose(found, [v.numpy() for v in variables], rtol=0.02, atol=1e-3)
            _assign(variables, found)
            if settled:
                break
        each = np.array([extremes(images[i : i + 1]) for i in range(len(images))])
    deciding = {id(least) for least, _ in _deciding_ranges(quantized)}
    late = {id(least) for least, _ in _late_ranges(quantized)}
    for pair, least, greatest in zip(ranges, each.T[::2], each.T[1::2], strict=True):
        places = {"decides": id(pair[0]) in deciding, "late": id(pair[0]) in late}
        _assign(pair, range_with_room(least, greatest, **places))


def _activation_ranges(quantized: "tf_keras.Model") -> list[Range]:
    """The variables min and max of every activation, but for the model's input."""
    return [
        pair
        for layer in quantized.layers
        if type(layer).__name__ == "QuantizeWrapperV2"
        for pair in ranges_of(layer).values()
    ]


def ranges_of(wrapper: "tf_keras.layers.Layer") -> dict[str, Range]:
    """Of a layer's activations: "pre_activation", "post_activation" or "output" -> (min, max)."""
    named = {variable.name.split("/")[-1]: variable for variable in wrapper.weights}
    return {
        name.removesuffix("_min:0"): (least, named[name.replace("_min:0", "_max:0")])
        for name, least in named.items()
        if name.endswith("_min:0") and "kernel_" not in name
    }


def _deciding_ranges(quantized: "tf_keras.Model") -> Iterator[Range]:
    """Those that nothing bounds of outputs, and of what passing and bounding layers make them of.

    The same of a file finds `ranges`.
    """
    wanted = {id(layer) for layer in quantized.layers if not layer.outbound_nodes}
    for layer in reversed(quantized.layers):
        if id(layer) not in wanted or type(layer).__name__ != "QuantizeWrapperV2":
            continue
        yield from _unbounded_ranges(layer)
        kind = type(layer.layer).__name__
        if kind in _PASSING or (kind in _ACTIVATIONS and _is_bounded(layer.layer)):
            wanted |= {id(node.layer) for node in layer.inbound_nodes[0].parent_nodes}


def _late_ranges(quantized: "tf_keras.Model") -> Iterator[Range]:
    """Those that nothing bounds of the late layers and of all that follow them."""
    wrappers = [layer for layer in quantized.layers if hasattr(layer, "layer")]
    has_kernel = [type(wrapper.layer).__name__ in KERNEL_ATTRIBUTES for wrapper in wrappers]
    first = first_late(sum(has_kernel))
    for wrapper, kernels_so_far in zip(wrappers, np.cumsum(has_kernel), strict=True):
        if kernels_so_far > first:
            yield from _unbounded_ranges(wrapper)


def _unbounded_ranges(wrapper: "tf_keras.layers.Layer") -> Iterator[Range]:
    bounded = _is_bounded(wrapper.layer)
    for name, pair in ranges_of(wrapper).items():
        if name == "pre_activation" or not bounded:
            yield pair


def _is_bounded(layer: "tf_keras.layers.Layer") -> bool:
    if getattr(layer, "max_value", None) is not None:  # a ReLU's
        return True
    activation = getattr(layer, "activation", None)
    activation = getattr(activation, "activation", activation)  # inside of tfmot's
    return type(layer).__name__ == "Softmax" or getattr(activation, "__name__", "") in _BOUNDING


@contextmanager
def _with_fixed_kernels(quantized: "tf_keras.Model") -> Iterator[None]:
    """Kernels are rounded once, as a step of training does it, and not again while it lasts.

    The values that a clustered kernel shares are looked for in each step: seconds in a large one.
    """
    wrappers = [layer for layer in quantized.layers if getattr(layer, "_weight_vars", ())]
    before = [wrapper._weight_vars for wrapper in wrappers]
    fixed = [
        [
            (kernel, _Fixed(quantizer(kernel, training=True, weights=variables)), variables)
            for kernel, quantizer, variables in own
        ]
        for own in before
    ]
    try:
        _set_weight_vars(wrappers, fixed)
        yield
    finally:
        _set_weight_vars(wrappers, before)


def _set_weight_vars(wrappers: Iterable[Any], values: Iterable[Any]) -> None:
    for wrapper, value in zip(wrappers, values, strict=True):
        # Without Keras's tracking of what is set: in the end the attribute is what it was.
        object.__setattr__(wrapper, "_weight_vars", value)


class _Fixed:
    """A quantizer that gives what another has given."""

    def __init__(self, rounded: "tf.Tensor") -> None:
        self._rounded = rounded

    def __call__(self, *arguments: Any, **options: Any) -> "tf.Tensor":
        return self._rounded


@contextmanager
def _as_in_use(quantized: "tf_keras.Model") -> Iterator[None]:
    """Only the ranges are in training while it lasts: no dropout, no new statistics."""
    inner = [layer.layer for layer in quantized.layers if hasattr(layer, "layer")]
    rates = [(layer, layer.rate) for layer in inner if "Dropout" in type(layer).__name__]
    trainable = [
        (layer, layer.trainable) for layer in inner if type(layer).__name__ == "BatchNormalization"
    ]
    for layer, _ in rates:
        layer.rate = 0.0
    for layer, _ in trainable:
        layer.trainable = False
    try:
        yield
    finally:
        for layer, rate in rates:
            layer.rate = rate
        for layer, was in trainable:
            layer.trainable = was


def _extremes(
    quantized: "tf_keras.Model", ranges: Sequence["tf.Variable"], images: "tf.Tensor"
) -> list["tf.Tensor"]:
    """What each range, least and greatest in turn, has to reach in a step of training, in a graph.

    Over all calls of its layer; ranges stay as they are. 0 is always among the values.
    """
    import tensorflow as tf
    from tensorflow_model_optimization.python.core.quantization.keras.quantizers import (
        MovingAverageQuantizer,
    )

    reached: dict[object, list[tf.Tensor]] = {variable.ref(): [] for variable in ranges}
    original = MovingAverageQuantizer.__call__

    @tf.autograph.experimental.do_not_convert
    def look(self: Any, inputs: "tf.Tensor", training: Any, weights: Any, **options: Any) -> Any:
        reached[weights["min_var"].ref()].append(tf.minimum(tf.reduce_min(inputs), 0))
        reached[weights["max_var"].ref()].append(tf.maximum(tf.reduce_max(inputs), 0))
        return original(self, inputs, False, weights, **options)

    MovingAverageQuantizer.__call__ = look
    try:
        quantized(images, training=True)
    finally:
        MovingAverageQuantizer.__call__ = original
    least, greatest = ranges[::2], ranges[1::2]
    return [
        of_all
        for low, high in zip(least, greatest, strict=True)
        for of_all in (
            tf.reduce_min(tf.stack(reached[low.ref()])),
            tf.reduce_max(tf.stack(reached[high.ref()])),
        )
    ]


def _assign(variables: Iterable["tf.Variable"], values: Iterable[Any]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
