"""What the constructors of all families share: input, preprocessing, the end, weights.

The contract is that of `keras.applications`, as `SqueezeNet` keeps it.
"""

import os
from typing import Literal

import keras
from keras import layers

from keras_squeezenet.errors import one_line
from keras_squeezenet.network.data_formats import Shape, Tensor
from keras_squeezenet.network.layers import Activation, ImagePreprocessing
from keras_squeezenet.network.preprocessing import Mode

# The path of a .weights.h5 file; None for random values.
Weights = str | os.PathLike[str] | None
Pooling = Literal["avg", "max"] | None


def channel_axis() -> int:
    return 1 if keras.config.image_data_format() == "channels_first" else -1


def image_input(
    input_tensor: keras.KerasTensor | None,
    input_shape: Shape | None,
    *,
    size: int,
    least: int,
    open_sides: bool = False,
) -> keras.KerasTensor:
    """The tensor that a network takes.

    Args:
        input_tensor: the caller's own; None makes one.
        input_shape: of it without batch.
        size: side in pixels where neither is given.
        least: side in pixels below which nothing is left for the last layer.
        open_sides: whether sides may be None, any number of pixels.

    Raises:
        ValueError: for what is no such tensor, or a shape that the network cannot take.
    """
    if input_tensor is not None and not keras.utils.is_keras_tensor(input_tensor):
        raise ValueError(
            "`input_tensor` must be a Keras tensor, the output of `keras.layers.Input()` or of "
            f"other layers. Received: input_tensor={input_tensor} of type {type(input_tensor)}"
        )
    channels_first = keras.config.image_data_format() == "channels_first"
    if input_tensor is not None:
        shape = tuple(input_tensor.shape[1:])
        if input_shape is not None and shape != tuple(input_shape):
            raise ValueError(
                "`input_shape` must equal the shape of `input_tensor` without its batch. "
                f"Received: input_shape={input_shape}, input_tensor.shape={input_tensor.shape}"
            )
    elif input_shape is None:
        shape = (3, size, size) if channels_first else (size, size, 3)
    else:
        shape = tuple(input_shape)
    sides = shape[1:] if channels_first else shape[:2]
    unfit = any((not open_sides) if side is None else side < least for side in sides)
    if len(shape) != 3 or shape[channel_axis()] is None or unfit:
        known = "" if open_sides else ", which are known,"
        raise ValueError(
            f"`input_shape` must have two sides of {least} or more pixels{known} and channels. "
            f"Received: input_shape={shape}"
        )
    return layers.Input(shape=shape) if input_tensor is None else input_tensor


def preprocessed(image: Tensor, include_preprocessing: bool | Mode, usual: Mode) -> Tensor:
    """The image as the first convolution takes it.

    Args:
        image: the network's input.
        include_preprocessing: the constructor's argument.
        usual: the mode that True stands for.
    """
    mode = usual if include_preprocessing is True else include_preprocessing
    return ImagePreprocessing(mode, name="preprocessing")(image) if mode else image


def check_pooling(pooling: Pooling) -> None:
    if pooling not in (None, "avg", "max"):
        raise ValueError(f"`pooling` must be None, 'avg' or 'max'. Received: pooling={pooling}")


def pooled(x: Tensor, pooling: Pooling) -> Tensor:
    """The output of a network without top."""
    if pooling == "avg":
        return layers.GlobalAveragePooling2D(name="avg_pool")(x)
    if pooling == "max":
        return layers.GlobalMaxPooling2D(name="max_pool")(x)
    return x


def predictions(x: Tensor, classifier_activation: Activation) -> Tensor:
    """The output of a network with top, from its logits."""
    # float32 whatever the policy: a softmax in half precision loses small probabilities.
    return layers.Activation(classifier_activation, name="predictions", dtype="float32")(x)


def finished(
    image: keras.KerasTensor,
    outputs: Tensor,
    *,
    input_tensor: keras.KerasTensor | None,
    weights: Weights,
    name: str,
) -> keras.Model:
    """The model, with the weights of a file where one is named.

    Raises:
        ValueError: `weights` names no file, or one that is not of this network.
    """
    if weights is not None and not os.path.isfile(weights):
        raise ValueError(
            "`weights` must be None (random values) or the path of a .weights.h5 file of the same "
            f"network. Received: weights={weights}"
        )
    inputs = image if input_tensor is None else keras.utils.get_source_inputs(input_tensor)
    model = keras.Model(inputs, outputs, name=name)
    if weights is not None:
        try:
            model.load_weights(weights)
        except Exception as error:  # Keras and h5py raise nearly anything for hostile bytes
            raise ValueError(
                "`weights` must be a .weights.h5 file of the same network. "
                f"Received: weights={weights}: {one_line(error, 200)}"
            ) from error
    return model
