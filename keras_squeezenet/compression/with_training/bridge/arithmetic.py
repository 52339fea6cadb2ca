"""Layers of fixed arithmetic on channels: a scale and an offset, or a matrix and an offset."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from keras_squeezenet.compression.with_training.bridge.place import Place, per_channel
from keras_squeezenet.network.layers import ImagePreprocessing
from keras_squeezenet.network.preprocessing import PREPROCESSINGS, fold

# Scale and offset of each channel, or a matrix in the scale's place.
Affine = tuple[NDArray[np.float64], NDArray[np.float64]]


def affine(place: Place, inputs: Any) -> Any:
    channels = inputs.shape[-1]
    if channels is None:
        raise place.refusal("an input (batch, …, channels) of known channels", tuple(inputs.shape))
    return place.affine(inputs, *AFFINES[type(place.operation)](place.operation, channels))


def _preprocessing(operation: ImagePreprocessing, channels: int) -> Affine:
    """A matrix: it may reverse the channels."""
    unchanged = np.eye(channels)[None, None]
    kernel, bias = fold(unchanged, np.zeros(channels), PREPROCESSINGS[operation.mode])
    return kernel[0, 0], bias


def _rescaling(operation: layers.Rescaling, channels: int) -> Affine:
    return per_channel(operation.scale, channels), per_channel(operation.offset, channels)


def _normalization(operation: layers.Normalization, channels: int) -> Affine:
    mean, variance = (
        per_channel(operation.mean, channels),
        per_channel(operation.variance, channels),
    )
    deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
    if operation.invert:
        return deviation, mean
    return 1 / deviation, -mean / deviation


AFFINES: dict[type, Callable[[Any, int], Affine]] = {
    ImagePreprocessing: _preprocessing,
    layers.Rescaling: _rescaling,
    layers.Normalization: _normalization,
}
