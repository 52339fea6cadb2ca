"""A network of the user's own code: `module:function`, called and checked.

Code is imported of a `TrustedFunctionSection` alone, whose function a person named.
"""

import contextlib
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import keras
import numpy as np

from keras_squeezenet.errors import one_line
from keras_squeezenet.network.constructors import free_name, with_softmax
from keras_squeezenet.network.data_formats import Shape
from keras_squeezenet.network.graph import (
    every_layer,
    follow,
    graph_of,
    maker_of,
    settle_normalizations,
)
from keras_squeezenet.network.layers import ImagePreprocessing
from keras_squeezenet.network.preprocessing import Mode
from keras_squeezenet.settings import RecipeError
from keras_squeezenet.training.model_section import TrustedFunctionSection

# Room for the rounding of a softmax, in whichever precision it was computed.
SLACK = 1e-2
# Keras's activations after which scores are logits or probabilities.
_OF_SCORES = ("linear", "softmax", "sparsemax")


def find_function(section: TrustedFunctionSection) -> Callable[..., Any]:
    """Import a section's function, and see that it takes what it will be given.

    Raises:
        RecipeError: it cannot be imported, or takes other arguments.
    """
    module_name, _, name = section.function.partition(":")
    with _working_directory(), _told(section.function, "importing"):
        module = importlib.import_module(module_name)
    function = getattr(module, name, None)
    if not callable(function):
        raise RecipeError(
            f"model.function: there is no function {name} in {getattr(module, '__file__', module)}."
            f" Received: {section.function}"
        )
    try:
        signature = inspect.signature(function)
    except ValueError:  # of some that are written in C
        return function
    try:
        signature.bind(input_shape=None, classes=None, **section.arguments)
    except TypeError as error:
        raise RecipeError(
            f"model.function: {section.function}{signature} is called with input_shape, classes "
            f"and the other keys of the section, by keyword: {error}"
        ) from None
    return function


def build_own(section: TrustedFunctionSection, input_shape: Shape, classes: int) -> keras.Model:
    """The network of a section's function; it takes RGB 0…255 and gives probabilities.

    Args:
        section: a `TrustedFunctionSection`.
        input_shape: `(height, width, 3)`.
        classes: number of classes.

    Returns:
        A functional `keras.Model` whose output `(batch, classes)` are probabilities.

    Raises:
        RecipeError: one line: the function cannot be had or raised, or returned something else.
    """
    function = find_function(section)
    with _working_directory(), _told(section.function, "calling"):
        network = function(input_shape=input_shape, classes=classes, **section.arguments)
    if not isinstance(network, keras.Model):
        raise _not_as_expected(section, f"{network!r:.100} of type {type(network).__name__}")
    try:
        graph = graph_of(network)
    except ValueError:
        raise _not_as_expected(
            section, f"{network.name}, a {type(network).__name__} without known inputs"
        ) from None
    _check_shapes(section, graph, input_shape, classes)
    # Flat and of one input, not of a list with one, whatever came: what a Sequential runs through
    # has another name.
    graph = keras.Model(graph.inputs[0], graph.outputs[0], name=network.name)
    _check_layers(section, graph)
    if section.preprocessing is not None:
        graph = _prepared(graph, input_shape, section.preprocessing)
    return graph if _gives_probabilities(section, graph, input_shape) else with_softmax(graph)


def _not_as_expected(section: TrustedFunctionSection, received: str) -> RecipeError:
    return RecipeError(
        f"model.function: {section.function} must return a functional or Sequential keras.Model "
        f"with one image input and one output of a score per class. Received: {received}"
    )


def _check_shapes(
    section: TrustedFunctionSection, graph: keras.Model, input_shape: Shape, classes: int
) -> None:
    taken = [tuple(tensor.shape) for tensor in graph.inputs]
    given = [tuple(tensor.shape) for tensor in graph.outputs]
    takes_images = len(taken) == 1 and len(taken[0]) == 4
    fits = takes_images and all(
        side in (None, asked) for side, asked in zip(taken[0][1:], input_shape, strict=True)
    )
    if not fits or [shape[1:] for shape in given] != [(classes,)]:
        shapes = f"{', '.join(map(str, taken))} to {', '.join(map(str, given))}"
        expected = f"{(None, *input_shape)} to {(None, classes)}"
        raise _not_as_expected(section, f"{graph.name}, {shapes}; expected {expected}")


def _check_layers(section: TrustedFunctionSection, graph: keras.Model) -> None:
    """See that the layers can be read back from the files of the run."""
    for layer in every_layer(graph):
        kind = type(layer)
        if isinstance(layer, keras.layers.Lambda):
            raise _not_as_expected(
                section, f"{layer.name}, a Lambda, whose code Keras reads from no file"
            )
        keras_s_own = kind.__module__.partition(".")[0] == "keras"
        name = keras.saving.get_registered_name(kind)
        if not keras_s_own and keras.saving.get_registered_object(name) is not kind:
            raise _not_as_expected(
                section,
                f"{layer.name}, a {kind.__name__}, whose class is not decorated with "
                "keras.saving.register_keras_serializable",
            )


def _prepared(graph: keras.Model, input_shape: Shape, mode: Mode) -> keras.Model:
    """A copy of a network with a layer that prepares images before it."""
    image = keras.Input(input_shape)
    copies: dict[int, keras.Operation] = {}

    def call(operation: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        if isinstance(operation, keras.Layer) and id(operation) not in copies:
            # Anew, because a layer remembers every graph that it was called in.
            copies[id(operation)] = type(operation).from_config(operation.get_config())
        return copies.get(id(operation), operation)(*args, **kwargs)

    prepared = ImagePreprocessing(mode, name=free_name("preprocessing", graph))(image)
    inputs = keras.tree.pack_sequence_as(graph.input, [prepared])
    output = keras.tree.flatten(follow(graph, inputs, call))[0]
    network = keras.Model(image, output, name=graph.name)
    network.set_weights(graph.get_weights())
    settle_normalizations(network)
    return network


def _gives_probabilities(
    section: TrustedFunctionSection, graph: keras.Model, input_shape: Shape
) -> bool:
    """Whether the scores are probabilities already, as numbers show; else they are logits.

    Raises:
        RecipeError: the last layer has an activation that makes them neither.
    """
    layer = maker_of(graph.outputs[0])
    activation = getattr(layer, "activation", None)
    name = getattr(activation, "__name__", str(activation))
    neither = _not_as_expected(
        section, f"{graph.name}, whose last layer {layer.name} has activation {name}"
    )
    # Before any number: sigmoids of large logits are zeros and ones, and may be one 1 each time.
    if name not in _OF_SCORES and getattr(keras.activations, name, None) is activation is not None:
        raise neither
    images = (
        np.random.default_rng(0)
        .uniform(0, 255, (2, *(side or 1 for side in input_shape)))
        .astype("float32")
    )
    scores = keras.ops.convert_to_numpy(graph(images, training=False)).astype("float32")
    if (scores >= 0).all() and np.allclose(scores.sum(axis=1), 1, atol=SLACK):
        return True
    if activation is not None and name not in _OF_SCORES:
        raise neither
    return name not in ("linear", "None")  # of numbers that are none


@contextlib.contextmanager
def _working_directory() -> Iterator[None]:
    """Modules of the working directory can be imported within, after all others."""
    folder = os.getcwd()
    added = folder not in sys.path
    if added:
        sys.path.append(folder)
    try:
        yield
    finally:
        if added and folder in sys.path:
            sys.path.remove(folder)


@contextlib.contextmanager
def _told(function: str, doing: str) -> Iterator[None]:
    """What code of the user's raises, as a line that says where."""
    try:
        yield
    except Exception as error:
        raise RecipeError(
            f"model.function: {doing} {function}: {type(error).__name__}: "
            f"{one_line(error, 300)}{_place(error.__traceback__)}"
        ) from error


def _place(trace: TracebackType | None) -> str:
    """The last line of the user's own: neither ours nor of the libraries."""
    ours = os.path.dirname(os.path.dirname(__file__))
    for frame in reversed(traceback.extract_tb(trace)):
        name = frame.filename
        if "site-packages" not in name and not name.startswith((ours, "<", sys.base_prefix)):
            return f" ({name}, line {frame.lineno})"
    return ""
