"""From a recipe to its data and its network."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from keras_squeezenet.data import Augmentation, load_dataset
from keras_squeezenet.data.dataset import Dataset
from keras_squeezenet.errors import one_line
from keras_squeezenet.network import constructors
from keras_squeezenet.network.architecture import Architecture
from keras_squeezenet.network.data_formats import Shape
from keras_squeezenet.network.models import SqueezeNet
from keras_squeezenet.settings import RecipeError
from keras_squeezenet.training import own_code
from keras_squeezenet.training.averaging import keep_weights
from keras_squeezenet.training.model_section import (
    ApplicationSection,
    FamilySection,
    FunctionSection,
    ModelSection,
    SqueezeNetSection,
    TrustedFunctionSection,
)
from keras_squeezenet.training.recipe import DataSection, Recipe


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


def augmentation_at_image_size(section: DataSection) -> Augmentation:
    """That of a recipe's `data` section for training on at `image_size`.

    The recipe may have chosen it for the smaller images of `train_image_size`.
    """
    augmentation = Augmentation.from_mapping(section.augmentation)
    size = section.image_size
    return augmentation.for_size(size, meant_for=section.train_image_size or size)


def check_network(section: ModelSection) -> None:
    """See that a `model` section names a network and arguments of it; nothing is built yet.

    Of a section with `function` the function is imported.

    Raises:
        RecipeError: one line that says what there is.
    """
    with _as_recipe_error():
        if isinstance(section, FamilySection):
            constructors.check_arguments(constructors.family(section.family), section.arguments)
        elif isinstance(section, ApplicationSection):
            constructors.check_arguments(
                constructors.application(section.application), section.arguments
            )
        elif isinstance(section, FunctionSection):
            own_code.find_function(_trusted(section))


def build_model(section: ModelSection, image_size: int, classes: int) -> keras.Model:
    """The network of a recipe's `model` section; it takes RGB 0…255 and gives probabilities.

    Args:
        section: a `ModelSection`.
        image_size: side of the images in pixels.
        classes: number of classes.

    Returns:
        A `keras.Model`, not compiled.

    Raises:
        RecipeError: names the value that makes no network.
    """
    check_network(section)
    input_shape = (image_size, image_size, 3)
    with _as_recipe_error(_told(section)):
        if isinstance(section, SqueezeNetSection):
            return _squeezenet(section, input_shape, classes)
        if isinstance(section, FunctionSection):
            return own_code.build_own(_trusted(section), input_shape, classes)
        if isinstance(section, FamilySection):
            return constructors.build_family(
                constructors.family(section.family),
                input_shape,
                classes,
                weights=section.weights,
                preprocessing=section.preprocessing,
                arguments=section.arguments,
            )
        return constructors.build_application(
            constructors.application(section.application),
            input_shape,
            classes,
            weights=section.weights,
            preprocessing=section.preprocessing,
            normalization_momentum=section.normalization_momentum,
            arguments=section.arguments,
        )


def build_twins(recipe: Recipe, dataset: Dataset) -> tuple[keras.Model, keras.Model]:
    """The network that is trained, and its twin that is validated like what is kept.

    The first is as the recipe says. The twin is in float32, at the image size of evaluation, with
    batch normalization folded away where the network that is kept has none.

    Raises:
        RecipeError: as `build_model`; or weights follow the image size, which are two sizes here.
    """
    classes, size = len(dataset.class_names), dataset.train.framing.image_size
    keras.config.set_dtype_policy(recipe.training.precision)
    model = build_model(recipe.model, size, classes)
    keras.config.set_dtype_policy("float32")
    twin = build_model(recipe.model.kept, dataset.image_size, classes)
    try:
        keep_weights(model, twin)
    except ValueError as error:
        if size == dataset.image_size:
            raise
        raise RecipeError(
            f"The weights of {model.name} follow the image size, so data.train_image_size must be "
            f"data.image_size, {dataset.image_size}. Received: data.train_image_size={size}"
        ) from error
    return model, twin


def _trusted(section: FunctionSection) -> TrustedFunctionSection:
    if isinstance(section, TrustedFunctionSection):
        return section
    raise RecipeError(
        "model.function is taken from --set or from a recipe that is given on the command line, "
        f"and from no file that came with a model. Received: {section.function}"
    )


def _squeezenet(section: SqueezeNetSection, input_shape: Shape, classes: int) -> keras.Model:
    if section.metaparameters is None:
        network: dict[str, Any] = {"version": section.version, "bypass": section.bypass}
    else:
        network = {"architecture": Architecture.from_metaparameters(**section.metaparameters)}
    return SqueezeNet(
        weights=section.weights,
        input_shape=input_shape,
        classes=classes,
        dropout_rate=section.dropout_rate,
        include_preprocessing=section.preprocessing,
        kernel_initializer=section.kernel_initializer,
        last_activation=section.last_activation,
        batch_normalization=section.batch_normalization,
        **network,
    )


def _told(section: ModelSection) -> str:
    """What was asked for, where a constructor's own words may name nothing: "VGG, depth=[1]: "."""
    if isinstance(section, SqueezeNetSection | FunctionSection):
        return ""
    name = section.family if isinstance(section, FamilySection) else section.application
    return ", ".join([name, *(f"{key}={value}" for key, value in section.arguments.items())]) + ": "


@contextlib.contextmanager
def _as_recipe_error(told: str = "") -> Iterator[None]:
    """What a constructor says of its arguments, as a line."""
    try:
        yield
    except RecipeError:
        raise
    except Exception as error:  # constructors look at few of their arguments, and fail anywhere
        raise RecipeError(f"model: {told}{one_line(error, 500)}") from error
