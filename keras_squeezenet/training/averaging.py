"""What a training run judges and keeps of the weights of the model that it trains."""

import keras
import numpy as np

from keras_squeezenet.distributed.optimizer import plain_optimizer
from keras_squeezenet.network.folding import folded_weights
from keras_squeezenet.network.graph import moving_averages


def keep_weights(model: keras.Model, kept: keras.Model) -> None:
    """Give a network the weights that one in training is judged by and will be kept with.

    These are the `averaged_weights`, with batch normalization folded into them where only the
    network in training has it.

    Args:
        model: as `training.build_model` made it of a recipe's `model` section.
        kept: of the section's `kept`. Its weights are overwritten.

    Raises:
        ValueError: the two are not networks of one section, or their weights follow the image size.
    """
    weights = averaged_weights(model)
    folds = len(kept.weights) != len(model.weights)
    kept.set_weights(folded_weights(model, weights) if folds else weights)


def averaged_weights(model: keras.Model) -> list[np.ndarray]:
    """The moving average of a model's weights that its optimizer keeps, if it does.

    Args:
        model: perhaps compiled, and with an optimizer of `use_ema=True`.

    Returns:
        Arrays in the order of `model.get_weights()`: of what learns, the optimizer's average; the
        weights as they are before its first update, or if it keeps no average. What does not learn,
        such as the statistics of batch normalization, is as it is: they are averages already.
    """
    averages = _averages(model)
    return [
        keras.ops.convert_to_numpy(averages.get(id(variable), variable))
        for variable in model.weights
    ]


def average_from_here(model: keras.Model) -> None:
    """Have the moving average begin anew with the weights as they are, if there is one.

    Args:
        model: as `averaged_weights` takes it.
    """
    averages = _averages(model)
    for variable in model.trainable_variables:
        if id(variable) in averages:
            averages[id(variable)].assign(variable)


def _averages(model: keras.Model) -> dict[int, keras.Variable]:
    """The average of each variable that has one, by the variable's id."""
    optimizer = plain_optimizer(getattr(model, "optimizer", None))
    if optimizer is None or not optimizer.use_ema or int(optimizer.iterations) == 0:
        return {}
    averages = moving_averages(optimizer)
    return dict(zip(map(id, model.trainable_variables), averages, strict=True))
