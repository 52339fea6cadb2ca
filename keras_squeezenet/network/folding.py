"""Batch normalization as a matter of training alone: its part in kernels and biases.

In inference a batch normalization multiplies each channel by a number and adds another, and so does
a convolution with other weights (Jacob et al., arXiv 1712.05877, section 3.2): the kernel times
gamma / sqrt(variance + epsilon), and the bias beta - mean · gamma / sqrt(variance + epsilon).
"""

from collections.abc import Mapping, Sequence

import keras
import numpy as np

from keras_squeezenet.network.layers import Fire


def folded_weights(
    model: keras.Model, weights: Sequence[np.ndarray] | None = None
) -> list[np.ndarray]:
    """The weights of the network without batch normalization that computes the same in inference.

    Args:
        model: of `SqueezeNet`; without batch normalization the weights are what they are.
        weights: arrays in the order of `model.get_weights()`, to be taken instead of the model's.

    Returns:
        Arrays in the order of the `get_weights` of a `SqueezeNet` with `batch_normalization=False`
        and else the same arguments.

    Raises:
        ValueError: `weights` has another length than `model.weights`.

    Example:

    >>> normalized = SqueezeNet(weights=None, classes=10, batch_normalization=True)
    >>> plain = SqueezeNet(weights=None, classes=10)
    >>> plain.set_weights(folded_weights(normalized))
    """
    weights = model.get_weights() if weights is None else weights
    values = {id(variable): value for variable, value in zip(model.weights, weights, strict=True)}
    names = {layer.name: layer for layer in model.layers}
    first_normalization = names.get("conv1_normalization")
    folded = []
    for layer in model.layers:
        if layer is first_normalization:
            continue
        if layer.name == "conv1" and first_normalization is not None:
            folded += _folded(layer, first_normalization, values)
        elif isinstance(layer, Fire) and layer.batch_normalization:
            for part in layer.convolutions:
                folded += _folded(part, layer.normalizations[part.name], values)
        else:
            folded += [values[id(variable)] for variable in layer.weights]
    return folded


def _folded(
    convolution: keras.layers.Conv2D,
    normalization: keras.layers.BatchNormalization,
    values: Mapping[int, np.ndarray],
) -> list[np.ndarray]:
    """Kernel and bias."""
    kernel, gamma, beta, mean, variance = (
        np.asarray(values[id(variable)], "float64")
        for variable in (
            convolution.kernel,
            normalization.gamma,
            normalization.beta,
            normalization.moving_mean,
            normalization.moving_variance,
        )
    )
    scale = gamma / np.sqrt(variance + normalization.epsilon)
    return [(kernel * scale).astype("float32"), (beta - mean * scale).astype("float32")]
