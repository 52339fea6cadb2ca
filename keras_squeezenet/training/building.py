"""From a recipe to its data and its network."""

from typing import Any

import keras

from keras_squeezenet.data import load_dataset
from keras_squeezenet.data.dataset import Dataset
from keras_squeezenet.errors import one_line
from keras_squeezenet.network.architecture import Architecture
from keras_squeezenet.network.models import SqueezeNet
from keras_squeezenet.settings import RecipeError
from keras_squeezenet.training.recipe import ModelSection, Recipe


def load_data(recipe: Recipe) -> Dataset:
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


def build_model(section: ModelSection, image_size: int, classes: int) -> keras.Model:
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
            network: dict[str, Any] = {"version": section.version, "bypass": section.bypass}
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
        raise RecipeError(f"model: {one_line(error)}") from error
