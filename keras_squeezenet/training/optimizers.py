"""The optimizers that a recipe may name."""

import math

import keras

from keras_squeezenet.training.recipe import Recipe
from keras_squeezenet.training.schedules import learning_rate_schedule


def build_optimizer(recipe: Recipe, steps_per_epoch: int, ranks: int) -> keras.optimizers.Optimizer:
    """The optimizer of a recipe, with its schedule and with weight decay on kernels only.

    Args:
        recipe: a `Recipe`.
        steps_per_epoch: training steps of each rank per epoch.
        ranks: number of ranks; the rate is scaled by it as the recipe says.

    Returns:
        A `keras.optimizers.Optimizer`, not yet distributed.
    """
    section = recipe.optimizer
    updates = updates_per_epoch(recipe, steps_per_epoch)
    settings = {
        "learning_rate": learning_rate_schedule(
            section,
            updates,
            recipe.training.epochs,
            1 if recipe.training.global_batch_size else ranks,
        ),
        "weight_decay": section.weight_decay or None,
        "global_clipnorm": section.clip_norm,
    }
    if section.averaging:
        memory = section.averaging * updates * recipe.training.epochs
        settings |= {"use_ema": True, "ema_momentum": max(0.0, 1 - 1 / max(1.0, memory))}
    if section.name == "sgd":
        optimizer = keras.optimizers.SGD(
            momentum=section.momentum, nesterov=section.nesterov, **settings
        )
    elif section.name == "rmsprop":
        optimizer = keras.optimizers.RMSprop(momentum=section.momentum, **settings)
    elif section.name == "adam":
        optimizer = keras.optimizers.Adam(**settings)
    else:
        # AdamW insists on a number, where the others take None for no decay.
        optimizer = keras.optimizers.AdamW(**{**settings, "weight_decay": section.weight_decay})
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def updates_per_epoch(recipe: Recipe, steps_per_epoch: int) -> int:
    """How often an epoch changes the weights: once for each group of steps, the last one included,
    whole or not."""
    return math.ceil(steps_per_epoch / recipe.training.accumulation_steps)
