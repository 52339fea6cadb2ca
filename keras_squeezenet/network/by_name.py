"""Networks by their names, without weights that anybody trained: the catalogue's, and Keras's."""

import ast
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import keras

import keras_squeezenet
from keras_squeezenet.errors import InputError, one_line
from keras_squeezenet.network.architecture import preset
from keras_squeezenet.network.constructors import application
from keras_squeezenet.network.data_formats import Shape
from keras_squeezenet.network.models import SqueezeNet
from keras_squeezenet.network.names import APPLICATION, LISTED, PUBLISHED, listed_as
from keras_squeezenet.network.weight_files.contents import published_last_conv_padding

# These constructors leave the size open where none is given.
_OF_ANY_SIZE = ("MobileNetV3",)
DESIGNED_SIZE = 224


def network_by_name(
    name: str, *, input_shape: Shape | None = None, classes: int | None = None
) -> keras.Model:
    """A network with new weights.

    Args:
        name: of `list_models`; "1.0" or "1.1", the published ones among these; or
            "application:MobileNetV2", any network of keras.applications.
        input_shape: of its images; None: as it was designed.
        classes: None: 1000.

    Raises:
        InputError: there is no such network.
        ValueError: its constructor refuses the shape or the number of classes.

    Example:

    >>> network_by_name("application:MobileNet", input_shape=(64, 64, 3)).output_shape
    (None, 1000)
    """
    arguments = {"input_shape": input_shape, "classes": classes}
    given: dict[str, Any] = {key: value for key, value in arguments.items() if value is not None}
    if name.startswith(APPLICATION):
        constructor = _constructor_of(name)
        if input_shape is not None and len(input_shape) != 3:
            raise InputError(
                f"A network of keras.applications takes images, of height, width and channels. "
                f"Received: {name}, input_shape={input_shape}"
            )
        if constructor.__name__.startswith(_OF_ANY_SIZE):
            given.setdefault("input_shape", (DESIGNED_SIZE, DESIGNED_SIZE, 3))
        return constructor(weights=None, **given)
    listed = listed_as(name)
    if listed is None:
        raise InputError(
            f"Expected {_names(LISTED)}, or {APPLICATION} and a name of keras.applications. "
            f"Received: {name}"
        )
    if listed.weights is None:
        call = ast.parse(listed.constructor, mode="eval").body
        assert isinstance(call, ast.Call)  # a test builds all of them
        assert isinstance(call.func, ast.Name)
        written = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
        return getattr(keras_squeezenet, call.func.id)(**(written | given))
    # Without the file, the network that it makes.
    version = next(version for version, name in PUBLISHED.items() if name == listed.name)
    architecture = preset(version)
    padding = published_last_conv_padding(architecture)
    return SqueezeNet(
        weights=None, architecture=replace(architecture, last_conv_padding=padding), **given
    )


def _constructor_of(name: str) -> Callable[..., keras.Model]:
    try:
        return application(name.removeprefix(APPLICATION).strip())
    except ValueError as error:
        raise InputError(one_line(error)) from None


def _names(names: Iterable[str]) -> str:
    return ", ".join(names)
