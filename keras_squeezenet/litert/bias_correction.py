"""Bias correction: 8-bit kernels that do not shift what their filters compute.

Rounding a kernel W to Q changes its filter's output by (Q − W)·x. Behind a ReLU no x is negative,
so over many images this does not average out: each filter is left with a shift of its own, and its
bias can take it back (Nagel et al., arXiv 1906.04721, section 4.2). Together with `equalization` it
took the points of top-1 that int8 files of the published SqueezeNet 1.0 lose from 2.1 to 0.9, of
its float32 weights from 2.3 to 1.3, and left 1.1 at none (means of three; results/int8.csv).
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import keras
import numpy as np
from numpy.typing import NDArray

from keras_squeezenet.network.data_formats import Tensor
from keras_squeezenet.network.graph import every_layer, named_convolutions


def correct_biases(model: keras.Model, batches: Iterable[np.ndarray]) -> None:
    """Prepare a model for 8-bit kernels: its biases take back the mean effect of rounding them.

    Args:
        model: a float32 `keras.Model`, changed in place. Convolutions in it and in its Fires are
            corrected; those without bias are left as they are.
        batches: iterable of images, as the model takes them.
    """
    shifts = [_Shift(layer) for _, layer in named_convolutions(every_layer(model))]
    with ExitStack() as stack:
        for shift in shifts:
            stack.enter_context(shift.measured())
        for batch in batches:
            model(batch, training=False)
    for shift in shifts:
        shift.take_back()


def rounded(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """A kernel as LiteRT's converter rounds it: codes -127…127 times a scale for each filter.

    Args:
        kernel: float32 `[height, width, channels, filters]`.

    Returns:
        The same kind and shape.
    """
    scale = np.abs(kernel).max(axis=(0, 1, 2)) / np.float32(127)
    return np.rint(kernel / np.where(scale > 0, scale, 1)) * scale


class _Shift:
    """What rounding its kernel adds to each filter's output, averaged over positions and images."""

    def __init__(self, convolution: keras.layers.Conv2D) -> None:
        self._convolution = convolution
        kernel = convolution.kernel.numpy()
        self._change = keras.ops.convert_to_tensor(rounded(kernel) - kernel)
        self._sum = np.zeros(convolution.filters)
        self._images = 0

    @contextmanager
    def measured(self) -> Iterator[None]:
        """While the context lasts, each run of the convolution counts."""
        convolve = self._convolution.convolution_op
        filters_axis = 3 if self._convolution.data_format == "channels_last" else 1
        others = tuple(axis for axis in range(4) if axis != filters_axis)

        def measure_and_convolve(inputs: Tensor, kernel: Tensor) -> Tensor:
            shift = keras.ops.mean(convolve(inputs, self._change), axis=others)
            self._sum += len(inputs) * keras.ops.convert_to_numpy(shift)
            self._images += len(inputs)
            return convolve(inputs, kernel)

        self._convolution.convolution_op = measure_and_convolve
        try:
            yield
        finally:
            del self._convolution.convolution_op

    def take_back(self) -> None:
        if self._convolution.use_bias and self._images:
            self._convolution.bias.assign_sub(self._sum / self._images)
