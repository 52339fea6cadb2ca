"""Where in a network the first value that is no number came up."""

import keras
import numpy as np
from numpy.typing import ArrayLike


def first_layer_not_finite(model: keras.Model, images: ArrayLike) -> str | None:
    """Name of the first layer, from the input on, with a weight or an output that is not finite.

    Args:
        model: a functional model whose layers are its direct ones.
        images: a batch that it takes.

    Returns:
        The name, or None if all weights and all outputs are finite.
    """
    inside = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    probe = keras.Model(model.inputs, [layer.output for layer in inside])
    outputs = probe(images, training=False)
    for layer, output in zip(inside, outputs, strict=True):
        values = [*layer.get_weights(), keras.ops.convert_to_numpy(output)]
        if not all(np.isfinite(value).all() for value in values):
            return layer.name
    return None


def scales_loss(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether an optimizer skips steps whose gradients are not finite, and trains on."""
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


def has_given_up_scaling(optimizer: keras.optimizers.LossScaleOptimizer) -> bool:
    """Whether loss scaling has found no scale at which gradients are finite.

    It begins at 2^15 and halves after each step that was skipped. The scale is the same on all
    ranks, because they skip the same steps.
    """
    return bool(optimizer.built) and float(optimizer.dynamic_scale) < 1.0
