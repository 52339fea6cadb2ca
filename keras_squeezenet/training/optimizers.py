"""The optimizer of a recipe, and its learning-rate schedule."""

import math

import keras
from keras.optimizers import schedules

from keras_squeezenet.training.recipe import OptimizerSection, Recipe
from keras_squeezenet.training.schedules import WarmUp


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


def learning_rate_schedule(
    section: OptimizerSection, updates_per_epoch: int, epochs: int, ranks: int
) -> schedules.LearningRateSchedule:
    """The rate as a function of the number of updates, scaled by ranks, after a warm-up.

    The schedule spans all epochs and the warm-up multiplies its beginning by a line from 0 to 1
    (Goyal et al., arXiv 1706.02677, section 2.2: a rate scaled by ranks needs one).

    Returns:
        A `keras.optimizers.schedules.LearningRateSchedule`.
    """
    peak = (
        section.learning_rate
        * {"linear": ranks, "sqrt": ranks**0.5, None: 1}[section.scale_by_ranks]
    )
    updates = max(1, round(updates_per_epoch * epochs))
    if section.schedule == "polynomial":
        schedule = schedules.PolynomialDecay(peak, updates, 0.0, power=section.power)
    elif section.schedule == "cosine":
        schedule = schedules.CosineDecay(peak, updates)
    elif section.schedule == "step":
        boundaries = [round(epoch * updates_per_epoch) for epoch in section.step_epochs]
        values = [peak * section.step_factor**drops for drops in range(len(boundaries) + 1)]
        schedule = schedules.PiecewiseConstantDecay(boundaries, values)
    else:
        schedule = schedules.PolynomialDecay(peak, updates, peak)  # constant
    return WarmUp(schedule, round(section.warmup_epochs * updates_per_epoch))


def updates_per_epoch(recipe: Recipe, steps_per_epoch: int) -> int:
    """How often an epoch changes the weights: once for each group of steps, the last one included,
    whole or not."""
    return math.ceil(steps_per_epoch / recipe.training.accumulation_steps)
