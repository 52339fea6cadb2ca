"""The stages of a run, and a model made ready for one: what learns, how, from which state."""

from dataclasses import dataclass

import keras
import numpy as np

from keras_squeezenet import distributed
from keras_squeezenet.network.graph import last_layer
from keras_squeezenet.settings import RecipeError
from keras_squeezenet.training.fine_tuning import scale_rates
from keras_squeezenet.training.losses import SmoothedCrossentropy
from keras_squeezenet.training.optimizers import build_optimizer, updates_per_epoch
from keras_squeezenet.training.recipe import Recipe
from keras_squeezenet.training.state import TrainingState


@dataclass(frozen=True)
class TrainingStage:
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


def stages_of(recipe: Recipe) -> list[TrainingStage]:
    """The stages of a run: with `fine_tuning` an epoch of the last layer, then all; else all."""
    epochs = recipe.training.epochs
    if recipe.fine_tuning is None:
        return [TrainingStage(recipe, 0, epochs)]
    rest = recipe.training.model_copy(update={"epochs": epochs - 1})
    return [
        TrainingStage(recipe, 0, 1, head_only=True),
        TrainingStage(recipe.model_copy(update={"training": rest}), 1, epochs),
    ]


def compile_model(model: keras.Model, stage: TrainingStage, steps_per_epoch: int) -> None:
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
    if recipe.fine_tuning:
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
    _build_metrics(model)


def restore_state(
    model: keras.Model,
    state: TrainingState,
    stage: TrainingStage,
    steps_per_epoch: int,
    examples_per_step: int,
) -> None:
    """Give a model that was compiled for a stage the weights and the optimizer of a state.

    At the beginning of a stage the optimizer is new. On another number of ranks than before, its
    count of updates, which the learning rate follows, becomes that of the same share of training.

    Args:
        model: of the run.
        state: a `TrainingState`.
        stage: a `TrainingStage` in which the state is, or at its beginning.
        steps_per_epoch: steps of each rank in a whole epoch.
        examples_per_step: of all ranks together.
    """
    model.set_weights(state.weights)
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    if state.epoch < stage.start or (state.epoch, state.examples) == (stage.start, 0):
        return
    for variable, value in zip(model.optimizer.variables, state.optimizer or (), strict=True):
        variable.assign(value)
    if state.ranks != distributed.size():
        group = stage.recipe.training.accumulation_steps
        updates: float = (state.epoch - stage.start) * updates_per_epoch(
            stage.recipe, steps_per_epoch
        )
        updates += state.examples / examples_per_step / group
        model.optimizer.iterations.assign(round(updates))


def seed_layers(model: keras.Model, seed: tuple[int, ...], step: int = 0) -> None:
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


def compile_for_validation(model: keras.Model, recipe: Recipe) -> None:
    """Let a model measure the recipe's loss and the accuracy; it learns nothing."""
    model.compile(
        loss=SmoothedCrossentropy(recipe.training.label_smoothing),
        metrics=["accuracy"],
        jit_compile=False,
    )
    _build_metrics(model)


def _build_metrics(model: keras.Model) -> None:
    """Make the variables of the metrics now: TensorFlow traces a step that makes any twice."""
    probabilities = np.full((1, *model.output_shape[1:]), 0.5, "float32")
    model.compute_metrics(None, np.zeros(1, "int64"), probabilities)
    model.reset_metrics()
