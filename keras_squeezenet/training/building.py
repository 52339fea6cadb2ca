"""From a recipe to data and a compiled model: network, optimizer, learning-rate schedule, loss."""

import math
from dataclasses import dataclass

import keras
import numpy as np
from keras.optimizers import schedules

from keras_squeezenet import distributed
from keras_squeezenet.data import load_dataset
from keras_squeezenet.network.architecture import Architecture
from keras_squeezenet.network.models import SqueezeNet
from keras_squeezenet.training.fine_tuning import last_layer, scale_rates
from keras_squeezenet.training.losses import SmoothedCrossentropy
from keras_squeezenet.training.recipe import Recipe, RecipeError
from keras_squeezenet.training.schedules import WarmUp


def load_data(recipe):
    """The `Dataset` of a recipe's `data` section.

    Raises:
        DataError: one line; see `load_dataset`.
    """
    section = recipe.data
    return load_dataset(
        section.source,
        image_size=section.image_size,
        train_image_size=section.train_image_size,
        resize=section.resize,
        val_fraction=section.val_fraction,
        seed=section.split_seed,
        max_broken_share=section.max_broken_share,
    )


def build_model(section, image_size, classes):
    """The network of a recipe's `model` section; it takes RGB 0…255.

    Args:
        section: a `ModelSection`.
        image_size: side of the images in pixels.
        classes: number of classes.

    Returns:
        A `keras.Model`, not compiled.

    Raises:
        RecipeError: names the value that makes no network.
    """
    try:
        if section.metaparameters is None:
            network = {"version": section.version, "bypass": section.bypass}
        else:
            network = {"architecture": Architecture.from_metaparameters(**section.metaparameters)}
        return SqueezeNet(
            weights=section.weights,
            input_shape=(image_size, image_size, 3),
            classes=classes,
            dropout_rate=section.dropout_rate,
            include_preprocessing=section.preprocessing,
            kernel_initializer=section.kernel_initializer,
            last_activation=section.last_activation,
            batch_normalization=section.batch_normalization,
            **network,
        )
    except (TypeError, ValueError) as error:
        raise RecipeError(f"model: {' '.join(str(error).split())}") from error


@dataclass(frozen=True)
class Stage:
    """Consecutive epochs in which the same layers learn with one optimizer.

    Attributes:
        recipe: the run's, with the number of epochs of this stage.
        start: epochs that are behind its beginning.
        end: epochs that are behind its end.
        head_only: whether the last convolution alone learns, by `fine_tuning.LastLayer`.
    """

    recipe: Recipe
    start: int
    end: int
    head_only: bool = False


def stages(recipe):
    """The stages of a run: with `fine_tuning` an epoch of the last layer, then all; else all."""
    epochs = recipe.training.epochs
    if recipe.fine_tuning is None:
        return [Stage(recipe, 0, epochs)]
    rest = recipe.training.model_copy(update={"epochs": epochs - 1})
    return [
        Stage(recipe, 0, 1, head_only=True),
        Stage(recipe.model_copy(update={"training": rest}), 1, epochs),
    ]


def compile_model(model, stage, steps_per_epoch):
    """Prepare a model for a stage: what learns, the optimizer over all ranks, loss and accuracy.

    Raises:
        RecipeError: XLA was asked for on several ranks; Horovod is built without its operations.
    """
    recipe = stage.recipe
    if recipe.training.jit_compile and distributed.communicates():
        raise RecipeError(
            "training.jit_compile works on one rank only, and not in an elastic run. "
            f"Received: training.jit_compile=true on {distributed.size()} ranks"
        )
    head = last_layer(model)
    for layer in model.layers:
        layer.trainable = layer is head or not stage.head_only
    optimizer = build_optimizer(recipe, steps_per_epoch, distributed.size())
    if recipe.fine_tuning:
        scale_rates(optimizer, model, recipe.fine_tuning.depth_decay)
    if model.dtype_policy.name == "mixed_float16":
        # Keras would do it too, but save the optimizer without it, and not load its state then.
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(
        optimizer=distributed.DistributedOptimizer(
            optimizer,
            compression=recipe.training.compression,
            accumulation_steps=recipe.training.accumulation_steps,
        ),
        loss=SmoothedCrossentropy(recipe.training.label_smoothing),
        metrics=["accuracy"],
        # Never "auto": Horovod's operations do not compile with XLA, and on CPUs it is slower.
        jit_compile=recipe.training.jit_compile,
    )


def restore_state(model, state, stage, steps_per_epoch, examples_per_step):
    """Give a model that was compiled for a stage the weights and the optimizer of a state.

    At the beginning of a stage the optimizer is new. On another number of ranks than before, its
    count of updates, which the learning rate follows, becomes that of the same share of training.

    Args:
        model: of the run.
        state: a `TrainingState`.
        stage: a `Stage` in which the state is, or at its beginning.
        steps_per_epoch: steps of each rank in a whole epoch.
        examples_per_step: of all ranks together.
    """
    model.set_weights(state.weights)
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    if state.epoch < stage.start or (state.epoch, state.examples) == (stage.start, 0):
        return
    for variable, value in zip(model.optimizer.variables, state.optimizer, strict=True):
        variable.assign(value)
    if state.ranks != distributed.size():
        group = stage.recipe.training.accumulation_steps
        updates = (state.epoch - stage.start) * updates_per_epoch(stage.recipe, steps_per_epoch)
        updates += state.examples / examples_per_step / group
        model.optimizer.iterations.assign(round(updates))


def updates_per_epoch(recipe, steps_per_epoch):
    """How often an epoch changes the weights: once for each group of steps, the last one included,
    whole or not."""
    return math.ceil(steps_per_epoch / recipe.training.accumulation_steps)


def seed_layers(model, seed, step=0):
    """Have layers that draw at random, such as dropout, draw what a seed says.

    Args:
        model: each of its layers draws once in a step.
        seed: a tuple of non-negative integers.
        step: steps that have drawn from this seed already.
    """
    weights = {id(variable) for variable in model.weights}
    states = [
        variable
        for variable in model.variables
        if id(variable) not in weights and variable.path.endswith("seed_generator_state")
    ]
    for number, state in enumerate(states):
        # Keras's state: a seed, and how often it was drawn from.
        drawn = np.random.SeedSequence((*seed, number)).generate_state(1)[0]
        state.assign(np.array([drawn, step], "int64"))


def compile_for_validation(model, recipe):
    """Let a model measure the recipe's loss and the accuracy; it learns nothing."""
    model.compile(
        loss=SmoothedCrossentropy(recipe.training.label_smoothing),
        metrics=["accuracy"],
        jit_compile=False,
    )


def build_optimizer(recipe, steps_per_epoch, ranks):
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


def learning_rate_schedule(section, updates_per_epoch, epochs, ranks):
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
