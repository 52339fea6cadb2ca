"""The weights of a layer by the names that a .sqz file of version 2 has for them. Keras only."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from keras_squeezenet.network.kernel_layers import DEPTHWISE
from keras_squeezenet.network.layers import Fire


def array_of(layer: keras.layers.Layer, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A weight of a layer, as in the arrays of `sqz.layer_kinds`.

    Args:
        layer: of a kind that a file holds.
        name: "kernel", "squeeze1x1/kernel", …
        shape: of the array, to which constants are spread.
    """
    if isinstance(layer, layers.Normalization) and layer.input_mean is not None:
        constant = layer.input_mean if name == "mean" else layer.input_variance
        return np.array(np.broadcast_to(np.asarray(constant, np.float32), shape))
    return keras.ops.convert_to_numpy(_variable(layer, name)).astype(np.float32)


def set_arrays(layer: keras.layers.Layer, arrays: Mapping[str, NDArray[np.float32]]) -> None:
    """Give a layer its weights, by the names that `array_of` takes."""
    if isinstance(layer, layers.Normalization):
        if layer.input_mean is None:  # else it was made with them
            layer.adapt_mean.assign(arrays["mean"])
            layer.adapt_variance.assign(arrays["variance"])
            layer.finalize_state()
        return
    for name, values in arrays.items():
        _variable(layer, name).assign(values)


def _variable(layer: keras.layers.Layer, name: str) -> keras.Variable:
    if isinstance(layer, Fire):
        part, _, name = name.partition("/")
        if part.endswith("_normalization"):
            return getattr(layer.normalizations[part.removesuffix("_normalization")], name)
        return getattr(getattr(layer, part), name)
    if isinstance(layer, layers.Normalization):
        return getattr(layer, f"adapt_{name}")
    if isinstance(layer, DEPTHWISE) and name == "depthwise_kernel":
        return layer.kernel
    return getattr(layer, name)
