"""What layers with kernels multiply: patches of their inputs, as matrices. Keras only.

A convolution, grouped, depthwise or transposed, and a dense layer are the same thing to a kernel:
x·W, with x the patch of the inputs that an output sees. A grouped one is several of them, each with
inputs and outputs of its own; a depthwise one has a group for each channel.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers, ops

from keras_squeezenet.network.data_formats import Tensor
from keras_squeezenet.network.layers import Fire


@dataclass(frozen=True, eq=False)
class LinearMap:
    """A kernel, its bias, and what they do.

    Attributes:
        name: of the kernel within its layer, as in `sqz.layer_kinds`: "kernel",
            "squeeze1x1/kernel", ….
        layer: the Conv2D, DepthwiseConv2D, SeparableConv2D, Conv2DTranspose or Dense that has it.
        kernel: a variable.
        bias: a variable, or None.
        groups: how many maps it is.
    """

    name: str
    layer: layers.Layer
    kernel: keras.Variable
    bias: keras.Variable | None
    groups: int = 1

    @property
    def inputs(self) -> int:
        """How many numbers an output of one group is made of."""
        return math.prod(self.kernel.shape) // (self._outputs * self.groups)

    @property
    def _outputs(self) -> int:
        """Of a group."""
        shape = self.kernel.shape
        if self._is_depthwise:
            return shape[3]
        return (shape[2] if self._is_transposed else shape[-1]) // self.groups

    @property
    def _is_depthwise(self) -> bool:
        return self.name.endswith("depthwise_kernel")

    @property
    def _is_transposed(self) -> bool:
        return isinstance(self.layer, layers.Conv2DTranspose)

    def grouped(self, kernel: np.ndarray) -> np.ndarray:
        """A kernel as `[groups, inputs, outputs]`."""
        if self._is_depthwise:
            height, width, channels, multiplier = kernel.shape
            return kernel.reshape(height * width, channels, multiplier).transpose(1, 0, 2)
        if self._is_transposed:
            flipped = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
            return flipped.reshape(1, -1, flipped.shape[-1])
        return kernel.reshape(self.inputs, self.groups, -1).transpose(1, 0, 2)

    def ungrouped(self, grouped: np.ndarray) -> np.ndarray:
        """The inverse of `grouped`."""
        shape = tuple(self.kernel.shape)
        if self._is_transposed:
            height, width, filters, channels = shape
            flipped = grouped.reshape(height, width, channels, filters)
            return flipped.transpose(0, 1, 3, 2)[::-1, ::-1]
        return grouped.transpose(1, 0, 2).reshape(shape)

    def assign(self, kernel: np.ndarray, bias: np.ndarray | None) -> None:
        """Give the variables values; a bias unless that is None."""
        self.kernel.assign(kernel)
        if self.bias is not None and bias is not None:
            self.bias.assign(bias)

    def patches(self, inputs: Tensor) -> Tensor:
        """What the kernel is multiplied with.

        Args:
            inputs: a batch, as the map takes it.

        Returns:
            float32 `[groups, positions, inputs]`, of all images of the batch.
        """
        inputs = ops.cast(inputs, "float32")
        layer = self.layer
        if isinstance(layer, layers.Dense):
            return ops.reshape(inputs, (1, -1, inputs.shape[-1]))
        if layer.data_format == "channels_first":
            inputs = ops.transpose(inputs, (0, 2, 3, 1))
        if self._is_transposed:
            return self._transposed_patches(inputs)
        size = tuple(self.kernel.shape[:2])
        # A pointwise kernel takes what the depthwise one has made of strides and margins.
        pointwise = self.name.endswith("pointwise_kernel")
        strides = (1, 1) if pointwise else layer.strides
        if size != (1, 1):
            inputs = ops.image.extract_patches(
                inputs,
                size,
                strides if max(layer.dilation_rate) == 1 else 1,
                dilation_rate=max(layer.dilation_rate),
                padding=layer.padding,
                data_format="channels_last",
            )
        elif strides != (1, 1):
            inputs = inputs[:, :: strides[0], :: strides[1]]
        places = math.prod(size)
        patches = ops.reshape(inputs, (-1, places, self.groups, self.inputs // places))
        patches = ops.transpose(patches, (2, 0, 1, 3))
        return ops.reshape(patches, (self.groups, -1, self.inputs))

    def _transposed_patches(self, inputs: Tensor) -> Tensor:
        """Those of the ordinary convolution that a transposed one is: zeros between its inputs."""
        layer, sides = self.layer, inputs.shape[1:3]
        for axis, stride in enumerate(layer.strides, 1):
            shape = list(inputs.shape)
            zeros = ops.zeros((*shape[: axis + 1], stride - 1, *shape[axis + 1 :]))
            spread = ops.concatenate([ops.expand_dims(inputs, axis + 1), zeros], axis + 1)
            shape[axis] *= stride
            inputs = ops.reshape(spread, shape)
        # The zeros after the last input are among the margins.
        inputs = inputs[:, : inputs.shape[1] - layer.strides[0] + 1]
        inputs = inputs[:, :, : inputs.shape[2] - layer.strides[1] + 1]
        inputs = ops.pad(inputs, [(0, 0), *self._margins(sides), (0, 0)])
        patches = ops.image.extract_patches(
            inputs, layer.kernel_size, 1, padding="valid", data_format="channels_last"
        )
        return ops.reshape(patches, (1, -1, self.inputs))

    def _margins(self, sides: tuple[int, int]) -> list[tuple[int, int]]:
        """Zeros before and after each axis, so that an ordinary convolution gives all outputs."""
        layer = self.layer
        shape = layer.compute_output_shape(self._input_shape(sides))
        outputs = shape[2:] if layer.data_format == "channels_first" else shape[1:3]
        margins = []
        for side, out, kernel, stride in zip(
            sides, outputs, layer.kernel_size, layer.strides, strict=True
        ):
            spread = (side - 1) * stride + 1  # with the zeros between its inputs
            cut = max(spread - 1 + kernel - out, 0) if layer.padding == "same" else 0
            before = kernel - 1 - cut // 2
            margins.append((before, out + kernel - 1 - spread - before))
        return margins

    def _input_shape(self, sides: tuple[int, int]) -> tuple[int, ...]:
        channels = self.kernel.shape[3]
        first = self.layer.data_format == "channels_first"
        return (1, channels, *sides) if first else (1, *sides, channels)


def linear_maps_of(layer: keras.Operation) -> list[LinearMap]:
    """The linear maps in a layer, in the order in which they work; those in a model not."""
    return list(_maps(layer, ""))


def why_no_patches(linear: LinearMap) -> str | None:
    """Why the inputs of a map cannot be looked at; None where they can."""
    rates = getattr(linear.layer, "dilation_rate", (1, 1))
    if isinstance(linear.layer, layers.Conv2DTranspose) and max(rates) > 1:
        return "its transposed convolution is dilated"
    if len(set(rates)) > 1:
        return "it is dilated by another rate in rows than in columns"
    return None


def _maps(layer: keras.Operation, prefix: str) -> Iterator[LinearMap]:
    if isinstance(layer, Fire):
        for part in layer.convolutions:
            yield from _maps(part, f"{part.name}/")
    elif isinstance(layer, layers.SeparableConv2D):
        channels = layer.depthwise_kernel.shape[2]
        yield LinearMap("depthwise_kernel", layer, layer.depthwise_kernel, None, channels)
        yield LinearMap("pointwise_kernel", layer, layer.pointwise_kernel, layer.bias)
    elif isinstance(layer, layers.DepthwiseConv2D):
        channels = layer.kernel.shape[2]
        yield LinearMap("depthwise_kernel", layer, layer.kernel, layer.bias, channels)
    elif isinstance(layer, layers.Conv2D):
        yield LinearMap(f"{prefix}kernel", layer, layer.kernel, layer.bias, layer.groups)
    elif isinstance(layer, layers.Conv2DTranspose | layers.Dense):
        yield LinearMap("kernel", layer, layer.kernel, layer.bias)
