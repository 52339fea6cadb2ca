"""The network that a LiteRT file is made of: in float32, its preprocessing in a convolution."""

import keras
import numpy as np

from keras_squeezenet.network.graph import every_layer, settle_normalizations, takes
from keras_squeezenet.network.layers import ImagePreprocessing
from keras_squeezenet.network.preprocessing import PREPROCESSINGS, fold

_HALF_PRECISIONS = ("float16", "bfloat16")


def takes_pixels(model: keras.Model) -> bool:
    """Whether a model takes RGB 0…255, as image files hold it."""
    return any(isinstance(layer, ImagePreprocessing) for layer in every_layer(model))


def in_full_precision(model: keras.Model) -> keras.Model:
    """`model`, or where it computes in half precision a copy of it in float32."""
    if not _is_half_precision(model):
        return model
    twin = keras.models.clone_model(model, clone_function=_in_float32, recursive=True)
    twin.set_weights(model.get_weights())
    settle_normalizations(twin)
    return twin


def for_inference(model: keras.Model, *, copy: bool, reverses_channels: bool = True) -> keras.Model:
    """`model` in float32, its preprocessing folded into the convolution that takes it.

    Args:
        model: as it was trained.
        copy: whether it is copied also where nothing has to change.
        reverses_channels: whether preprocessing that cannot be folded may reverse channels.
            Otherwise it becomes a 1×1 convolution. With a REVERSE_V2 of the channels in the graph,
            TensorFlow 2.21 writes int8 files of which half of the decisions are wrong: the
            calibration gives its input and its output different scales, and the operation copies
            the codes.

    Returns:
        A copy, or `model` itself.
    """
    convolution_after = _foldable(model)
    reversing = (
        []
        if reverses_channels
        else [layer for layer in _reversing(model) if layer not in convolution_after]
    )
    if not (copy or convolution_after or reversing or _is_half_precision(model)):
        return model
    clones = {}

    def clone(operation: keras.Operation) -> keras.Operation:
        if operation in convolution_after:
            return keras.layers.Identity(name=operation.name)
        if operation in reversing:
            clones[operation] = keras.layers.Conv2D(
                3, 1, data_format=operation.data_format, dtype="float32", name=operation.name
            )
        else:
            clones[operation] = _in_float32(operation)
        return clones[operation]

    twin = keras.models.clone_model(model, clone_function=clone, recursive=True)
    for operation, copied in clones.items():
        if operation in reversing:
            copied.set_weights(_as_convolution(operation))
        elif getattr(operation, "weights", None):
            copied.set_weights(operation.get_weights())
    settle_normalizations(twin)
    for preprocessing, convolution in convolution_after.items():
        _fold(preprocessing, clones[convolution])
    return twin


def _is_half_precision(model: keras.Model) -> bool:
    return any(layer.compute_dtype in _HALF_PRECISIONS for layer in every_layer(model))


def _in_float32(operation: keras.Operation) -> keras.Operation:
    """A copy of a layer, or of an operation such as a `/` between tensors of the model."""
    config = operation.get_config()
    if getattr(operation, "compute_dtype", None) in _HALF_PRECISIONS:
        config["dtype"] = "float32"
    return type(operation).from_config(config)


def _foldable(model: keras.Model) -> dict[ImagePreprocessing, keras.layers.Conv2D]:
    """Preprocessing layers, and of each the one convolution that takes its output.

    A convolution that pads would see zeros that are not the preprocessing of any pixel.
    """
    layers = list(every_layer(model))
    convolution_after = {}
    for preprocessing in layers:
        if not isinstance(preprocessing, ImagePreprocessing):
            continue
        takers = [layer for layer in layers if takes(layer, preprocessing.output)]
        if (
            len(takers) == 1
            and type(takers[0]) is keras.layers.Conv2D
            and takers[0].padding == "valid"
            and takers[0].groups == 1
            and takers[0].use_bias
        ):
            convolution_after[preprocessing] = takers[0]
    return convolution_after


def _reversing(model: keras.Model) -> list[ImagePreprocessing]:
    """The preprocessing layers of a model that reverse channels."""
    return [
        layer
        for layer in every_layer(model)
        if isinstance(layer, ImagePreprocessing) and PREPROCESSINGS[layer.mode].reverse
    ]


def _as_convolution(preprocessing: ImagePreprocessing) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of the 1×1 convolution that does what the layer does."""
    unchanged = np.eye(3).reshape(1, 1, 3, 3)
    return fold(unchanged, np.zeros(3), PREPROCESSINGS[preprocessing.mode])


def _fold(preprocessing: ImagePreprocessing, convolution: keras.layers.Conv2D) -> None:
    """Make `convolution` do the work of the layer before it."""
    kernel, bias = fold(
        convolution.kernel.numpy(), convolution.bias.numpy(), PREPROCESSINGS[preprocessing.mode]
    )
    convolution.kernel.assign(kernel)
    convolution.bias.assign(bias)
