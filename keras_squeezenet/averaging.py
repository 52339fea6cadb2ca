"""The moving average of a model's weights that its optimizer keeps, if it does."""

import keras


def averaged_weights(model):
    """The weights that a model in training is judged by and will be kept with.

    Args:
        model: compiled, perhaps with an optimizer of `use_ema=True`.

    Returns:
        Arrays in the order of `model.get_weights()`: of what learns, the optimizer's average; the
        weights as they are before its first update, or if it keeps no average.
    """
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if optimizer is None or not optimizer.use_ema or int(optimizer.iterations) == 0:
        return model.get_weights()
    averages = dict(
        zip(
            map(id, model.trainable_variables),
            optimizer._model_variables_moving_average,
            strict=True,
        )
    )
    return [
        keras.ops.convert_to_numpy(averages.get(id(variable), variable))
        for variable in model.weights
    ]
