"""A run of a network with learned group convolutions: condensed while it trains, and kept so.

See `keras_squeezenet.network.families.condensing`.
"""

import keras

from keras_squeezenet.network.families.condensing import CondensingStages, condensed_model
from keras_squeezenet.network.families.learned_groups import LearnedGroupConv2D
from keras_squeezenet.network.graph import every_layer
from keras_squeezenet.settings import RecipeError
from keras_squeezenet.training.recipe import Recipe


def condensing_callbacks(model: keras.Model, recipe: Recipe) -> list[keras.callbacks.Callback]:
    """What has a run's network condense; nothing for a network without learned groups.

    Raises:
        RecipeError: the run may keep a network, or end with one, that is not condensed.
    """
    if not _condenses(model):
        return []
    for key, value, expected in (
        ("training.early_stopping", recipe.training.early_stopping, None),
        ("training.keep", "best" if recipe.keeps_best else "last", "last"),
    ):
        if value != expected:
            raise RecipeError(
                f"{model.name} is condensed in the first half of its training and kept as it ends: "
                f"{key} must be {expected or 'null'}. Received: {key}={value}"
            )
    return [CondensingStages()]


def for_inference(model: keras.Model) -> keras.Model:
    """The network as a run leaves it: of standard layers, with equal outputs."""
    return condensed_model(model) if _condenses(model) else model


def _condenses(model: keras.Model) -> bool:
    return any(isinstance(layer, LearnedGroupConv2D) for layer in every_layer(model))
