"""Networks by the names of their constructors: ours, and those of `keras.applications`.

Whatever the family, what is built takes RGB 0…255 and gives probabilities.
"""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras

from keras_squeezenet.errors import one_line
from keras_squeezenet.network.data_formats import Shape
from keras_squeezenet.network.families.alexnet import AlexNet
from keras_squeezenet.network.families.condensenet import CondenseNet
from keras_squeezenet.network.families.shufflenet import ShuffleNet
from keras_squeezenet.network.families.vgg import VGG
from keras_squeezenet.network.graph import every_layer
from keras_squeezenet.network.layers import ImagePreprocessing
from keras_squeezenet.network.preprocessing import PREPROCESSINGS, Mode

Constructor = Callable[..., keras.Model]

# Ours, beside SqueezeNet. A constructor has the arguments of keras.applications, in their order.
FAMILIES: dict[str, Constructor] = {
    "AlexNet": AlexNet,
    "CondenseNet": CondenseNet,
    "ShuffleNet": ShuffleNet,
    "VGG": VGG,
}

# What each module of keras.applications does to images in its `preprocess_input`. None: nothing,
# because the networks have layers for it inside.
PREPARED_AS: dict[str, Mode | None] = {
    "convnext": None,
    "densenet": "torch",
    "efficientnet": None,
    "efficientnet_v2": None,
    "inception_resnet_v2": "tf",
    "inception_v3": "tf",
    "mobilenet": "tf",
    "mobilenet_v2": "tf",
    "mobilenet_v3": None,
    "nasnet": "tf",
    "resnet": "caffe",
    "resnet_v2": "tf",
    "vgg16": "caffe",
    "vgg19": "caffe",
    "xception": "tf",
}

# Keras subtracts, in its "caffe", means of more digits than those of the authors' network have.
KERAS_MEANS = (103.939, 116.779, 123.68)

# What the caller of a constructor decides, and nobody who names it in a recipe.
DECIDED = {
    *("include_top", "weights", "input_tensor", "input_shape", "pooling", "classes"),
    *("classifier_activation", "include_preprocessing"),
}


def family(name: str) -> Constructor:
    """A constructor of ours by its name.

    Raises:
        ValueError: there is none; the text lists those that there are.
    """
    if name == "SqueezeNet":
        raise ValueError(
            "a SqueezeNet is a model section without `family`, with version or metaparameters. "
            "Received: family=SqueezeNet"
        )
    return _known(FAMILIES, name, "family")


def application(name: str) -> Constructor:
    """A constructor of `keras.applications` by its name.

    Raises:
        ValueError: there is none; the text names those that are called like it, or all.
    """
    found = {
        each: thing
        for each, thing in vars(keras.applications).items()
        if each[0].isupper() and callable(thing)
    }
    return _known(found, name, "application")


def check_arguments(constructor: Constructor, arguments: Iterable[str]) -> None:
    """Compare names with the arguments of a constructor that its callers may choose.

    Raises:
        ValueError: one of them is none; the text says which there are.
    """
    known = [name for name in inspect.signature(constructor).parameters if name not in DECIDED]
    for name in arguments:
        if name in DECIDED:
            raise ValueError(
                f"{constructor.__name__} is given {name} by the run itself; its own arguments are "
                f"{', '.join(known)}. Received: {name}"
            )
        if name not in known:
            raise ValueError(
                f"{constructor.__name__} has no argument {name}{_near(name, known)} "
                f"Received: {name}"
            )


def build_family(
    constructor: Constructor,
    input_shape: Shape,
    classes: int,
    *,
    weights: str | None = None,
    preprocessing: Mode = "tf",
    arguments: Mapping[str, Any] | None = None,
) -> keras.Model:
    """A network of `FAMILIES` that takes RGB 0…255.

    Args:
        constructor: one of `FAMILIES`.
        input_shape: `(height, width, 3)`.
        classes: number of classes.
        weights: path of a .weights.h5 file of the same network; None for random values.
        preprocessing: a mode of `ImagePreprocessing`.
        arguments: a dict of others of the constructor.

    Returns:
        A `keras.Model` whose output `(batch, classes)` are probabilities.
    """
    image = keras.Input(input_shape)
    network = constructor(
        weights=weights,
        input_tensor=ImagePreprocessing(preprocessing, name="preprocessing")(image),
        classes=classes,
        **(arguments or {}),
    )
    # Of one input, where constructors of this kind take a list with one.
    return keras.Model(image, network.outputs[0], name=network.name)


def build_application(
    constructor: Constructor,
    input_shape: Shape,
    classes: int,
    *,
    weights: str | None = None,
    preprocessing: Mode | None = None,
    normalization_momentum: float | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> keras.Model:
    """A network of `keras.applications` that takes RGB 0…255.

    Args:
        constructor: of `keras.applications`.
        input_shape: `(height, width, 3)`.
        classes: number of classes.
        weights: None, random values; the path of a .weights.h5 file of the same network; or
            "imagenet": the published features, downloaded once, below a new last layer.
        preprocessing: None, what the family's `preprocess_input` does, or the layers that it has
            inside; or a mode of `ImagePreprocessing` in place of that.
        normalization_momentum: of every batch normalization; None: as the family has it.
        arguments: a dict of others of the constructor.

    Returns:
        A `keras.Model` whose output `(batch, classes)` are probabilities, computed in float32.

    Raises:
        ValueError: the family's preprocessing is not known, or cannot be replaced; or the published
            weights cannot be had.
    """
    arguments = dict(arguments or {})
    image = keras.Input(input_shape)
    given: dict[str, Any] = {
        "input_tensor": _prepared(image, constructor, preprocessing, arguments),
        "input_shape": input_shape,
        **arguments,
    }
    if weights == "imagenet":
        network = _new_top(_published_features(constructor, given), classes, constructor, arguments)
    else:
        network = constructor(weights=weights, classes=classes, classifier_activation=None, **given)
    if normalization_momentum is not None:
        for layer in every_layer(network):
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = normalization_momentum
    return with_softmax(network)


def with_softmax(network: keras.Model) -> keras.Model:
    """A network of logits, and a softmax in float32 after them: the same layers."""
    # A softmax in half precision loses small probabilities.
    name = free_name("probabilities", network)
    softmax = keras.layers.Activation("softmax", dtype="float32", name=name)
    return keras.Model(network.inputs[0], softmax(network.outputs[0]), name=network.name)


def free_name(wanted: str, network: keras.Model) -> str:
    """A name for a layer that joins those of a network, as it is wanted or with a number."""
    taken = {operation.name for operation in network.operations}
    names = (wanted, *(f"{wanted}_{number}" for number in range(1, len(taken) + 1)))
    return next(name for name in names if name not in taken)


def _known(found: Mapping[str, Constructor], name: str, key: str) -> Constructor:
    if name not in found:
        raise ValueError(f"there is no {key} {name}{_near(name, list(found))} Received: {name}")
    return found[name]


def _near(name: str, names: Sequence[str]) -> str:
    """What was meant, perhaps; or else all names. It ends a sentence."""
    folded = {each.casefold(): each for each in names}
    close = difflib.get_close_matches(name.casefold(), folded, n=3)
    if close:
        return f"; did you mean {' or '.join(folded[each] for each in close)}?"
    return f"; there is {', '.join(names)}." if names else "; it has none of its own."


def _prepared(
    image: keras.KerasTensor,
    constructor: Constructor,
    preprocessing: Mode | None,
    arguments: dict[str, Any],
) -> keras.KerasTensor:
    """What a network of `keras.applications` takes, of RGB 0…255.

    `arguments` of the constructor get what leaves out the layers that the network has inside.
    """
    module = constructor.__module__.rpartition(".")[-1]
    if preprocessing is None:
        if module not in PREPARED_AS:
            raise ValueError(
                f"how {constructor.__name__} wants its images is not known here; give "
                f"preprocessing: {', '.join(PREPROCESSINGS)}. Received: preprocessing=None"
            )
        mode = PREPARED_AS[module]
        if mode is None:
            return image
        x = ImagePreprocessing(mode, name="preprocessing")(image)
        return x if mode != "caffe" else _with_the_means_of_keras(x)
    if PREPARED_AS.get(module, preprocessing) is None:
        if "include_preprocessing" not in inspect.signature(constructor).parameters:
            raise ValueError(
                f"{constructor.__name__} prepares images inside, and goes with preprocessing: "
                f"null. Received: preprocessing={preprocessing}"
            )
        arguments["include_preprocessing"] = False
    return ImagePreprocessing(preprocessing, name="preprocessing")(image)


def _with_the_means_of_keras(x: keras.KerasTensor) -> keras.KerasTensor:
    """From our "caffe" to that of Keras, which subtracts other means."""
    ours = PREPROCESSINGS["caffe"].offset
    offset = [round(our - keras_s, 3) for our, keras_s in zip(ours, KERAS_MEANS, strict=True)]
    return keras.layers.Rescaling(1.0, offset, name="means_of_keras")(x)


def _published_features(constructor: Constructor, given: Mapping[str, Any]) -> keras.Model:
    """The network without its top, averaged over all positions, with ImageNet's weights."""
    try:
        return constructor(weights="imagenet", include_top=False, pooling="avg", **given)
    except ValueError:
        raise
    except Exception as error:  # the kind that Keras raises of a failed download
        raise ValueError(
            f"the published weights of {constructor.__name__} cannot be had. Keras downloads them "
            f"once, to ~/.keras/models: {one_line(error, 200)}"
        ) from error


def _new_top(
    features: keras.Model, classes: int, constructor: Constructor, arguments: Mapping[str, Any]
) -> keras.Model:
    """Logits of the features: dropout, if the constructor has an argument for it, and Dense."""
    x = features.outputs[0]
    signature = inspect.signature(constructor).parameters
    for name in ("dropout_rate", "dropout"):
        if name in signature:
            x = keras.layers.Dropout(
                arguments.get(name, signature[name].default), name="top_dropout"
            )(x)
    x = keras.layers.Dense(classes, name="predictions")(x)
    return keras.Model(features.inputs[0], x, name=features.name)
