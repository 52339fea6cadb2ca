"""AlexNet, as it was published."""

import keras
from keras import layers

from keras_squeezenet.network.data_formats import Shape, Tensor
from keras_squeezenet.network.families.contract import (
    Pooling,
    Weights,
    check_pooling,
    finished,
    image_input,
    pooled,
    predictions,
    preprocessed,
)
from keras_squeezenet.network.families.layers import GroupedConv2D, LocalResponseNormalization
from keras_squeezenet.network.layers import Activation
from keras_squeezenet.network.preprocessing import Mode

INPUT_SIZE = 227
MIN_INPUT_SIZE = 67  # smaller ones leave nothing for the last pooling
DEVIATION = 0.01  # of the Gaussian that all weights start from (section 5)


def AlexNet(
    include_top: bool = True,
    weights: Weights = None,
    input_tensor: keras.KerasTensor | None = None,
    input_shape: Shape | None = None,
    pooling: Pooling = None,
    classes: int = 1000,
    classifier_activation: Activation = "softmax",
    name: str = "alexnet",
    *,
    include_preprocessing: bool | Mode = False,
) -> keras.Model:
    """AlexNet (Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional
    Neural Networks", 2012): 60,965,224 parameters.

    As in the paper: two groups in conv2, conv4 and conv5, which are its two GPUs, overlapping
    pooling, local response normalization, dropout, initial values. Of the input it says 224 pixels
    and 55×55 positions of conv1, which do not go together; 227 pixels do, as in Caffe's definition.
    Caffe's normalization has k = 1 instead of 2 and divides α by n.

    Args:
        include_top: whether the three fully connected layers are included.
        weights: None, random values, or the path of a .weights.h5 file of the same network.
        input_tensor: output of `keras.layers.Input()` or of other layers, to be the input.
        input_shape: `(height, width, channels)`, or `(channels, height, width)` with
            "channels_first". Default: 227×227 pixels, three channels. 67 pixels are the least.
        pooling: without top: None, the last feature map is the output; "avg" or "max", its global
            average or maximum.
        classes: number of classes, with top.
        classifier_activation: of the top: "softmax"; or None, the output is the logits.
        name: the model's name.
        include_preprocessing: whether the model takes RGB 0…255, as image files hold it: True, as
            the paper does, less the mean of the training images ("caffe"); or a mode of
            `ImagePreprocessing`.

    Returns:
        A `keras.Model`. With top its output is `(batch, classes)`.

    Raises:
        ValueError: for arguments outside these; the text names them.

    Example:

    >>> AlexNet(include_top=False).output_shape
    (None, 6, 6, 256)
    """
    check_pooling(pooling)
    image = image_input(input_tensor, input_shape, size=INPUT_SIZE, least=MIN_INPUT_SIZE)
    x = preprocessed(image, include_preprocessing, "caffe")
    x = _convolution(x, "conv1", 96, 11, strides=4, padding="valid")
    x = LocalResponseNormalization(name="norm1")(x)
    x = layers.MaxPooling2D(3, 2, name="pool1")(x)
    x = _convolution(x, "conv2", 256, 5, groups=2, bias=1)
    x = LocalResponseNormalization(name="norm2")(x)
    x = layers.MaxPooling2D(3, 2, name="pool2")(x)
    x = _convolution(x, "conv3", 384, 3)
    x = _convolution(x, "conv4", 384, 3, groups=2, bias=1)
    x = _convolution(x, "conv5", 256, 3, groups=2, bias=1)
    x = layers.MaxPooling2D(3, 2, name="pool5")(x)
    if include_top:
        x = layers.Flatten(name="flatten")(x)
        for number in (6, 7):
            x = _dense(x, f"fc{number}", 4096, activation="relu", bias=1)
            x = layers.Dropout(0.5, name=f"drop{number}")(x)
        x = _dense(x, "fc8", classes)
        x = predictions(x, classifier_activation)
    else:
        x = pooled(x, pooling)
    return finished(image, x, input_tensor=input_tensor, weights=weights, name=name)


def _convolution(
    x: Tensor,
    name: str,
    filters: int,
    kernel_size: int,
    *,
    strides: int = 1,
    padding: str = "same",
    groups: int = 1,
    bias: float = 0,
) -> Tensor:
    layer = layers.Conv2D if groups == 1 else GroupedConv2D
    return layer(
        filters,
        kernel_size,
        strides,
        padding,
        groups=groups,
        activation="relu",
        name=name,
        **_initial_values(bias),
    )(x)


def _dense(
    x: Tensor, name: str, units: int, activation: str | None = None, bias: float = 0
) -> Tensor:
    return layers.Dense(units, activation, name=name, **_initial_values(bias))(x)


def _initial_values(bias: float) -> dict[str, keras.initializers.Initializer]:
    """A narrow Gaussian; biases of 1 where ReLUs are to start with positive input (section 5)."""
    return {
        "kernel_initializer": keras.initializers.RandomNormal(stddev=DEVIATION),
        "bias_initializer": keras.initializers.Constant(bias),
    }
