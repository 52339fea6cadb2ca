"""Layers that multiply their channels and add to them, besides what they do. In float64.

What a batch normalization does in inference is that; see `folding`.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from keras_squeezenet.network.families.layers import GroupedConv2D
from keras_squeezenet.network.kernel_layers import CONVOLUTIONS, DEPTHWISE, SEPARABLE, TRANSPOSED
from keras_squeezenet.network.layers import Fire

Arrays = dict[str, NDArray[np.float64]]
Channels = NDArray[np.float64]

KERNELS: dict[type[layers.Layer], tuple[str, ...]] = {
    **dict.fromkeys(
        (*CONVOLUTIONS, GroupedConv2D, *TRANSPOSED, *DEPTHWISE, layers.Dense), ("kernel",)
    ),
    **dict.fromkeys(SEPARABLE, ("depthwise_kernel", "pointwise_kernel")),
}

# Gives the values of a variable.
Read = Callable[[keras.Variable], Any]


def fire_weights(fire: Fire, read: Read) -> list[NDArray[np.float32]]:
    return [
        array
        for part in fire.convolutions
        for array in weights_with(part, fire.normalizations[part.name], read)
    ]


def weights_with(
    convolution: layers.Conv2D, normalization: layers.BatchNormalization, read: Read
) -> list[NDArray[np.float32]]:
    """Kernel and bias."""
    arrays = arrays_of(convolution, read)
    scale_outputs(convolution, arrays, *affine(normalization, read))
    return [array.astype(np.float32) for array in arrays.values()]


def affine(normalization: layers.BatchNormalization, read: Read) -> tuple[Channels, Channels]:
    """What a normalization multiplies each channel by, and what it adds then: `[channels]`."""
    mean, variance = (
        np.asarray(read(variable), np.float64)
        for variable in (normalization.moving_mean, normalization.moving_variance)
    )
    scale = 1 / np.sqrt(variance + normalization.epsilon)
    if normalization.scale:
        scale = scale * np.asarray(read(normalization.gamma), np.float64)
    shift = -mean * scale
    if normalization.center:
        shift = shift + np.asarray(read(normalization.beta), np.float64)
    return scale, shift


def arrays_of(layer: layers.Layer, read: Read) -> Arrays:
    """A layer's kernels and its bias, 0 where it has none, in the order of its weights."""
    names = KERNELS[type(layer)]
    arrays = {name: np.asarray(read(getattr(layer, name)), np.float64) for name in names}
    bias = read(layer.bias) if layer.use_bias else np.zeros(_channels_out(layer, arrays))
    return {**arrays, "bias": np.asarray(bias, np.float64)}


def _channels_out(layer: layers.Layer, arrays: Arrays) -> int:
    kernel = arrays[KERNELS[type(layer)][-1]]
    if isinstance(layer, DEPTHWISE):
        return kernel.shape[-2] * kernel.shape[-1]
    return kernel.shape[-2 if isinstance(layer, TRANSPOSED) else -1]


def scale_outputs(layer: layers.Layer, arrays: Arrays, scale: Channels, shift: Channels) -> None:
    """Have a layer multiply its output channels, and add to them."""
    last = KERNELS[type(layer)][-1]
    by_kernel = scale
    if isinstance(layer, DEPTHWISE):
        by_kernel = scale.reshape(arrays[last].shape[-2:])
    elif isinstance(layer, TRANSPOSED):
        by_kernel = scale[:, None]
    arrays[last] = arrays[last] * by_kernel
    arrays["bias"] = arrays["bias"] * scale + shift


def scale_inputs(layer: layers.Layer, arrays: Arrays, scale: Channels, shift: Channels) -> None:
    """Have a layer do what it does after its input channels were multiplied and added to."""
    first = KERNELS[type(layer)][0]
    kernel = arrays[first]
    places = tuple(range(kernel.ndim - 2))
    if isinstance(layer, layers.Dense):
        arrays["bias"] = arrays["bias"] + shift @ kernel
        arrays[first] = kernel * scale[:, None]
    elif isinstance(layer, CONVOLUTIONS):
        # [inputs of a group, filters]: of each filter those of its group.
        groups = np.repeat(np.arange(layer.groups), kernel.shape[-1] // layer.groups)
        per_filter = scale.reshape(layer.groups, -1)[groups].T
        added = shift.reshape(layer.groups, -1)[groups].T
        arrays["bias"] = arrays["bias"] + (kernel * added).sum(axis=(*places, -2))
        arrays[first] = kernel * per_filter
    else:  # depthwise, or a separable one's depthwise part
        added = (kernel * shift[:, None]).sum(axis=places).reshape(-1)
        if isinstance(layer, SEPARABLE):
            pointwise = arrays["pointwise_kernel"]
            added = added @ pointwise.reshape(pointwise.shape[-2:])
        arrays["bias"] = arrays["bias"] + added
        arrays[first] = kernel * scale[:, None]
