"""Cross-layer equalization: squeeze layers whose channels are alike, so that 8 bits serve them all.

An 8-bit tensor has one step for all of its channels: the channel with the greatest values sets it,
and one with small values is left with few levels. Between a squeeze layer and its expand layers
stands a ReLU alone, for which relu(s·x) = s·relu(x): the squeeze filter can be made s times larger
and the expand kernels that take its channel s times smaller, and the Fire computes what it did
(Nagel et al., arXiv 1906.04721, section 4.1).
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import keras
import numpy as np
from numpy.typing import NDArray

from keras_squeezenet.network.data_formats import Tensor
from keras_squeezenet.network.graph import every_layer
from keras_squeezenet.network.layers import Fire

# How far the ranges of the channels are evened out: 0 leaves them, 1 makes them equal, which moves
# the differences into the expand kernels altogether. Half is shared evenly, as in the paper's (11).
EXPONENT = 0.5


def equalize_squeezes(model: keras.Model, batches: Iterable[np.ndarray]) -> None:
    """Even out the channels between the squeeze and the expand layers of all Fires.

    Args:
        model: a float32 `keras.Model`, changed in place to one of the same outputs. Fires with
            another activation than ReLU, or with batch normalization, are left as they are.
        batches: iterable of images, as the model takes them, from which the ranges are learned.
    """
    fires = [
        layer
        for layer in every_layer(model)
        if isinstance(layer, Fire)
        and layer.activation is keras.activations.relu
        and not layer.batch_normalization
    ]
    with ExitStack() as stack:
        ranges = [stack.enter_context(_greatest_outputs(fire.squeeze1x1)) for fire in fires]
        for batch in batches:
            model(batch, training=False)
    for fire, greatest in zip(fires, ranges, strict=True):
        _rescale(fire, greatest)


@contextmanager
def _greatest_outputs(convolution: keras.layers.Conv2D) -> Iterator[NDArray[np.float64]]:
    """float64 `[filters]` that holds the greatest outputs while the context lasts."""
    activation = convolution.activation
    greatest = np.zeros(convolution.filters)
    channels_last = convolution.data_format == "channels_last"
    axes = (0, 1, 2) if channels_last else (0, 2, 3)

    def watched(outputs: Tensor) -> Tensor:
        activated = activation(outputs)
        found = keras.ops.convert_to_numpy(keras.ops.max(activated, axis=axes))
        np.maximum(greatest, found, out=greatest)
        return activated

    convolution.activation = watched
    try:
        yield greatest
    finally:
        convolution.activation = activation


def _rescale(fire: Fire, greatest: NDArray[np.float64]) -> None:
    # A channel that was never seen at work has no range; it keeps its scale.
    seen = greatest > 0
    if not seen.any():
        return
    scale = np.ones_like(greatest)
    scale[seen] = (greatest[seen].max() / greatest[seen]) ** EXPONENT
    squeeze = fire.squeeze1x1
    squeeze.kernel.assign(keras.ops.convert_to_numpy(squeeze.kernel) * scale)
    squeeze.bias.assign(keras.ops.convert_to_numpy(squeeze.bias) * scale)
    for expand in (fire.expand1x1, fire.expand3x3):
        if expand is not None:
            kernel = keras.ops.convert_to_numpy(expand.kernel)
            expand.kernel.assign(kernel / scale[:, None])
