"""What layers with kernels multiply: patches of their inputs, as matrices. Keras only.

A convolution, grouped, depthwise or transposed, and a dense layer are the same thing to a kernel:
x·W, with x the patch of the inputs that an output sees. A grouped one is several of them, each with
inputs and outputs of its own; a depthwise one has a group for each channel. A convolution along a
line is one of images of height 1.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from keras_squeezenet.network.data_formats import Tensor
from keras_squeezenet.network.kernel_layers import DEPTHWISE, SEPARABLE, TRANSPOSED
from keras_squeezenet.network.layers import Fire


@dataclass(frozen=True, eq=False)
class LinearMap:
    """A kernel, its bias, and what they do.

    Attributes:
        name: of the kernel within its layer, as in `sqz.layer_kinds`: "kernel",
            "squeeze1x1/kernel", ….
        layer: that has it: Conv2D, DepthwiseConv2D, SeparableConv2D, Conv2DTranspose, those of one
            axis, or Dense.
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
            return shape[-1]
        return shape[-2 if self._is_transposed else -1] // self.groups

    @property
    def _is_depthwise(self) -> bool:
        return self.name.endswith("depthwise_kernel")

    @property
    def _is_transposed(self) -> bool:
        return isinstance(self.layer, TRANSPOSED)

    def grouped(self, kernel: np.ndarray) -> np.ndarray:
        """A kernel as `[groups, inputs, outputs]`."""
        if self._is_depthwise:
            return kernel.reshape(-1, *kernel.shape[-2:]).transpose(1, 0, 2)
        if self._is_transposed:
            flipped = np.flip(kernel, _places(kernel)).swapaxes(-1, -2)
            return flipped.reshape(1, -1, flipped.shape[-1])
        return kernel.reshape(self.inputs, self.groups, -1).transpose(1, 0, 2)

    def ungrouped(self, grouped: np.ndarray) -> np.ndarray:
        """The inverse of `grouped`."""
        shape = tuple(self.kernel.shape)
        if self._is_transposed:
            *size, filters, channels = shape
            flipped = grouped.reshape(*size, channels, filters).swapaxes(-1, -2)
            return np.flip(flipped, _places(flipped))
        return grouped.transpose(1, 0, 2).reshape(shape)

    def assign(self, kernel: np.ndarray, bias: np.ndarray | None) -> None:
        """Give the variables values; a bias unless that is None."""
        self.kernel.assign(kernel)
        if self.bias is not None and bias is not None:
            self.bias.assign(bias)

    def patches(self, inputs: Tensor, *, with_one: bool = False) -> Iterator[NDArray[np.float32]]:
        """What the kernel is multiplied with, group after group.

        Args:
            inputs: a batch, as the map takes it.
            with_one: whether a 1 follows each patch, for the bias.

        Yields:
            float32 `[positions, inputs]`, of all images of the batch; with a 1
            `[positions, inputs + 1]`. The next group overwrites it.
        """
        found = ops.convert_to_numpy(ops.cast(inputs, "float32"))
        layer = self.layer
        if isinstance(layer, layers.Dense):
            return _windows(found.reshape(-1, 1, 1, found.shape[-1]), with_one=with_one)
        if layer.data_format == "channels_first":
            found = np.moveaxis(found, 1, -1)
        axes = found.ndim - 2
        size = tuple(self.kernel.shape[:axes])
        rates = tuple(layer.dilation_rate)
        if self._is_transposed:
            found, strides, rates = self._spread(found), (1,) * axes, (1,) * axes
        else:
            # A pointwise kernel takes what the depthwise one has made of strides and margins.
            is_pointwise = self.name.endswith("pointwise_kernel")
            strides = (1,) * axes if is_pointwise else tuple(layer.strides)
            if layer.padding != "valid":
                pairs = zip(size, rates, strict=True)
                reaches = [(length - 1) * rate + 1 for length, rate in pairs]
                margins = (
                    [(reach - 1, 0) for reach in reaches]
                    if layer.padding == "causal"
                    else _same(found.shape[1:-1], reaches, strides)
                )
                found = _with_margins(found, margins)
        if axes == 1:
            found = found[:, None]
            size, strides, rates = (1, *size), (1, *strides), (1, *rates)
        return _windows(found, size, strides, rates, self.groups, with_one=with_one)

    def _spread(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the ordinary convolution takes that a transposed one is: zeros between inputs."""
        images, *sides, channels = inputs.shape
        strides = self.layer.strides
        lengths = [(side - 1) * s + 1 for side, s in zip(sides, strides, strict=True)]
        spread = np.zeros((images, *lengths, channels), np.float32)
        spread[:, *(slice(None, None, stride) for stride in strides)] = inputs
        return _with_margins(spread, self._margins(sides))

    def _margins(self, sides: Sequence[int]) -> list[tuple[int, int]]:
        """Zeros before and after each axis, so that an ordinary convolution gives all outputs."""
        layer = self.layer
        shape = layer.compute_output_shape(self._input_shape(sides))
        outputs = shape[2:] if layer.data_format == "channels_first" else shape[1:-1]
        margins = []
        for side, out, kernel, stride in zip(
            sides, outputs, layer.kernel_size, layer.strides, strict=True
        ):
            spread = (side - 1) * stride + 1  # with the zeros between its inputs
            cut = max(spread - 1 + kernel - out, 0) if layer.padding == "same" else 0
            before = kernel - 1 - cut // 2
            margins.append((before, out + kernel - 1 - spread - before))
        return margins

    def _input_shape(self, sides: Sequence[int]) -> tuple[int, ...]:
        channels = self.kernel.shape[-1]
        first = self.layer.data_format == "channels_first"
        return (1, channels, *sides) if first else (1, *sides, channels)


def linear_maps_of(layer: keras.Operation) -> list[LinearMap]:
    """The linear maps in a layer, in the order in which they work; those in a model not."""
    return list(_maps(layer, ""))


def why_no_patches(linear: LinearMap) -> str | None:
    """Why the inputs of a map cannot be looked at; None where they can."""
    layer = linear.layer
    if isinstance(layer, TRANSPOSED) and max(layer.dilation_rate) > 1:
        return "its transposed convolution is dilated"
    return None


def _places(kernel: np.ndarray) -> tuple[int, ...]:
    """The axes of a kernel that are places."""
    return tuple(range(kernel.ndim - 2))


def _same(
    sides: Sequence[int], reaches: Sequence[int], strides: Sequence[int]
) -> list[tuple[int, int]]:
    """Zeros before and after each axis of `padding="same"`, by what a kernel reaches over."""
    margins = []
    for side, reach, stride in zip(sides, reaches, strides, strict=True):
        missing = max((-(-side // stride) - 1) * stride + reach - side, 0)
        margins.append((missing // 2, missing - missing // 2))
    return margins


def _with_margins(
    inputs: NDArray[np.float32], margins: Sequence[tuple[int, int]]
) -> NDArray[np.float32]:
    return np.pad(inputs, [(0, 0), *margins, (0, 0)]) if np.any(margins) else inputs


def _windows(
    inputs: NDArray[np.float32],
    size: Sequence[int] = (1, 1),
    strides: Sequence[int] = (1, 1),
    rates: Sequence[int] = (1, 1),
    groups: int = 1,
    *,
    with_one: bool,
) -> Iterator[NDArray[np.float32]]:
    """Patches of images `[n, height, width, channels]`, as `LinearMap.patches` gives them.

    They are copied, place by place. `keras.ops.image.extract_patches` is a convolution with an
    identity matrix, whose time grows with the square of the channels.
    """
    images, height, width, channels = inputs.shape
    rows = (height - (size[0] - 1) * rates[0] - 1) // strides[0] + 1
    columns = (width - (size[1] - 1) * rates[1] - 1) // strides[1] + 1
    count = channels // groups
    grouped = inputs.reshape(images, height, width, groups, count).transpose(3, 0, 1, 2, 4)
    length = size[0] * size[1] * count
    # One for all groups: if these have few channels, it stays in the processor's cache.
    found = np.ones((images, rows, columns, length + with_one), np.float32)
    for group in np.ascontiguousarray(grouped):
        for place, (row, column) in enumerate(np.ndindex(*size)):
            top, left = row * rates[0], column * rates[1]
            found[..., place * count : (place + 1) * count] = group[
                :,
                top : top + (rows - 1) * strides[0] + 1 : strides[0],
                left : left + (columns - 1) * strides[1] + 1 : strides[1],
            ]
        yield found.reshape(images * rows * columns, -1)


def _maps(layer: keras.Operation, prefix: str) -> Iterator[LinearMap]:
    if isinstance(layer, Fire):
        for part in layer.convolutions:
            yield from _maps(part, f"{part.name}/")
    elif isinstance(layer, SEPARABLE):
        channels = layer.depthwise_kernel.shape[-2]
        yield LinearMap("depthwise_kernel", layer, layer.depthwise_kernel, None, channels)
        yield LinearMap("pointwise_kernel", layer, layer.pointwise_kernel, layer.bias)
    elif isinstance(layer, DEPTHWISE):
        channels = layer.kernel.shape[-2]
        yield LinearMap("depthwise_kernel", layer, layer.kernel, layer.bias, channels)
    elif isinstance(layer, layers.Conv1D | layers.Conv2D):
        yield LinearMap(f"{prefix}kernel", layer, layer.kernel, layer.bias, layer.groups)
    elif isinstance(layer, layers.Dense | layers.Conv1DTranspose | layers.Conv2DTranspose):
        yield LinearMap("kernel", layer, layer.kernel, layer.bias)
