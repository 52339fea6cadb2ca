"""The layers of the families that Keras does not have. Keras 3 only, on any backend."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_squeezenet.checks import is_int
from keras_squeezenet.network.data_formats import Shape, Tensor, standardize_data_format
from keras_squeezenet.startup.registration import SAVED_AS


@keras.saving.register_keras_serializable(package=SAVED_AS)
class LocalResponseNormalization(layers.Layer):
    """Divide each activation by a power of the energy of its neighbours among the channels.

    b_i = a_i / (k + α Σ a_j²)^β, over the channels j from i - radius to i + radius that exist
    (Krizhevsky et al. 2012, section 3.3, whose values are the defaults).

    Args:
        radius: channels to each side, n/2 in the paper.
        k, alpha, beta: the constants of the equation.
        data_format: "channels_last" or "channels_first"; None: Keras's setting, when the layer is
            made. A saved layer keeps it.

    Input and output: of one shape, `(batch, height, width, channels)`, or with channels first.
    """

    def __init__(
        self,
        radius: int = 2,
        k: float = 2.0,
        alpha: float = 1e-4,
        beta: float = 0.75,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.radius, self.k, self.alpha, self.beta = radius, k, alpha, beta
        self.data_format = standardize_data_format(data_format)
        self.axis = 1 if self.data_format == "channels_first" else -1

    def call(self, inputs: Tensor) -> Tensor:
        channels = inputs.shape[self.axis]
        ends = [(0, 0)] * len(inputs.shape)
        ends[self.axis] = (self.radius, self.radius)
        squares = ops.pad(ops.square(inputs), ends)
        neighbours = [
            self._channels(squares, start, channels) for start in range(2 * self.radius + 1)
        ]
        return inputs * ops.power(self.k + self.alpha * sum(neighbours), -self.beta)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        constants = {"radius": self.radius, "k": self.k, "alpha": self.alpha, "beta": self.beta}
        return {**super().get_config(), **constants, "data_format": self.data_format}

    def _channels(self, tensor: Tensor, start: int, count: int) -> Tensor:
        every = slice(None)
        wanted = slice(start, start + count)
        return tensor[(every, wanted) if self.axis == 1 else (..., wanted)]


@keras.saving.register_keras_serializable(package=SAVED_AS)
class GroupedConv2D(layers.Conv2D):
    """A `Conv2D` whose groups are convolutions of their own, side by side.

    The weights and the result are those of `Conv2D(groups=…)`, which TensorFlow trains on CPUs
    through XLA only: conv2 of AlexNet took 10 times as long that way.
    """

    def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        axis = 1 if self.data_format == "channels_first" else -1
        pairs = zip(
            ops.split(inputs, self.groups, axis), ops.split(kernel, self.groups, -1), strict=True
        )
        convolve = super().convolution_op
        return ops.concatenate([convolve(part, filters) for part, filters in pairs], axis)


@keras.saving.register_keras_serializable(package=SAVED_AS)
class ChannelSelection(layers.Layer):
    """Some of the channels, in an order of their own; one may come more than once.

    It is the index layer of a CondenseNet in inference (Huang et al., arXiv 1711.09224, section
    3.1).

    Args:
        indices: numbers of the channels, from 0.
        data_format: "channels_last", "channels_first" or None for Keras's own setting.

    Input shape: `(batch, height, width, channels)`, or with channels first. Output shape: the same
    with `len(indices)` channels.

    Raises:
        ValueError: no list of such numbers, or an input that has fewer channels.
    """

    def __init__(
        self, indices: Sequence[int], data_format: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not indices or not all(is_int(index, 0) for index in indices):
            raise ValueError(
                "`indices` must be a list of integers ≥ 0. "
                f"Received: indices={indices!r:.80} (layer {self.name})"
            )
        self.indices = tuple(indices)
        self.data_format = standardize_data_format(data_format)
        self.axis = 1 if self.data_format == "channels_first" else -1

    def build(self, input_shape: Shape) -> None:
        channels = input_shape[self.axis]
        if channels is None or max(self.indices) >= channels:
            raise ValueError(
                f"The input must have more than {max(self.indices)} channels, the largest of "
                f"`indices`. Received: {channels} channels (layer {self.name})"
            )
        super().build(input_shape)

    def call(self, inputs: Tensor) -> Tensor:
        return ops.take(inputs, np.array(self.indices, "int32"), axis=self.axis)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        output_shape = list(input_shape)
        output_shape[self.axis] = len(self.indices)
        return tuple(output_shape)

    def get_config(self) -> dict[str, Any]:
        own = {"indices": list(self.indices), "data_format": self.data_format}
        return {**super().get_config(), **own}
