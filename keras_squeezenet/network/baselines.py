"""The network that SqueezeNet is compared with: AlexNet, as it was published.

Keras 3, any backend.
"""

import os
from collections.abc import Callable
from typing import Any, Literal

import keras
from keras import layers, ops

from keras_squeezenet.network.data_formats import Shape, Tensor, standardize_data_format
from keras_squeezenet.startup.registration import SAVED_AS

INPUT_SIZE = 227
MIN_INPUT_SIZE = 67  # smaller ones leave nothing for the last pooling
DEVIATION = 0.01  # of the Gaussian that all weights start from (section 5)


def AlexNet(
    include_top: bool = True,
    weights: str | os.PathLike[str] | None = None,
    input_tensor: keras.KerasTensor | None = None,
    input_shape: Shape | None = None,
    pooling: Literal["avg", "max"] | None = None,
    classes: int = 1000,
    classifier_activation: str | Callable | None = "softmax",
    name: str = "alexnet",
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

    Returns:
        A `keras.Model`. With top its output is `(batch, classes)`.

    Raises:
        ValueError: for arguments outside these; the text names them.

    Example:

    >>> AlexNet(include_top=False).output_shape
    (None, 6, 6, 256)
    """
    if pooling not in (None, "avg", "max"):
        raise ValueError(f"`pooling` must be None, 'avg' or 'max'. Received: pooling={pooling}")
    image = _image_input(input_tensor, input_shape)
    x = _convolution(image, "conv1", 96, 11, strides=4, padding="valid")
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
        # float32 whatever the policy: a softmax in half precision loses small probabilities.
        x = layers.Activation(classifier_activation, name="predictions", dtype="float32")(x)
    elif pooling == "avg":
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    elif pooling == "max":
        x = layers.GlobalMaxPooling2D(name="max_pool")(x)
    inputs = image if input_tensor is None else keras.utils.get_source_inputs(input_tensor)
    model = keras.Model(inputs, x, name=name)
    if weights is not None:
        model.load_weights(weights)
    return model


@keras.saving.register_keras_serializable(package=SAVED_AS)
class LocalResponseNormalization(layers.Layer):
    """Divide each activation by a power of the energy of its neighbours among the channels.

    b_i = a_i / (k + α Σ a_j²)^β, over the channels j from i - radius to i + radius that exist
    (Krizhevsky et al. 2012, section 3.3, whose values are the defaults).

    Args:
        radius: channels to each side, n/2 in the paper.
        k, alpha, beta: the constants of the equation.
        data_format: "channels_last" or "channels_first"; None: Keras's setting, when the layer is
            made. A saved layer keeps it.

    Input and output: of one shape, `(batch, height, width, channels)`, or with channels first.
    """

    def __init__(
        self,
        radius: int = 2,
        k: float = 2.0,
        alpha: float = 1e-4,
        beta: float = 0.75,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.radius, self.k, self.alpha, self.beta = radius, k, alpha, beta
        self.data_format = standardize_data_format(data_format)
        self.axis = 1 if self.data_format == "channels_first" else -1

    def call(self, inputs: Tensor) -> Tensor:
        channels = inputs.shape[self.axis]
        ends = [(0, 0)] * len(inputs.shape)
        ends[self.axis] = (self.radius, self.radius)
        squares = ops.pad(ops.square(inputs), ends)
        neighbours = [
            self._channels(squares, start, channels) for start in range(2 * self.radius + 1)
        ]
        return inputs * ops.power(self.k + self.alpha * sum(neighbours), -self.beta)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        constants = {"radius": self.radius, "k": self.k, "alpha": self.alpha, "beta": self.beta}
        return {**super().get_config(), **constants, "data_format": self.data_format}

    def _channels(self, tensor: Tensor, start: int, count: int) -> Tensor:
        every = slice(None)
        wanted = slice(start, start + count)
        return tensor[(every, wanted) if self.axis == 1 else (..., wanted)]


@keras.saving.register_keras_serializable(package=SAVED_AS)
class GroupedConv2D(layers.Conv2D):
    """A `Conv2D` whose groups are convolutions of their own, side by side.

    The weights and the result are those of `Conv2D(groups=…)`, which TensorFlow trains on CPUs
    through XLA only: conv2 of AlexNet took 10 times as long that way.
    """

    def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        axis = 1 if self.data_format == "channels_first" else -1
        pairs = zip(
            ops.split(inputs, self.groups, axis), ops.split(kernel, self.groups, -1), strict=True
        )
        convolve = super().convolution_op
        return ops.concatenate([convolve(part, filters) for part, filters in pairs], axis)


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


def _image_input(
    input_tensor: keras.KerasTensor | None, input_shape: Shape | None
) -> keras.KerasTensor:
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
        shape = (INPUT_SIZE, INPUT_SIZE)
        shape = (3, *shape) if channels_first else (*shape, 3)
    else:
        shape = tuple(input_shape)
    sides = shape[1:] if channels_first else shape[:2]
    if len(shape) != 3 or None in sides or min(sides) < MIN_INPUT_SIZE:
        raise ValueError(
            f"`input_shape` must have two sides of {MIN_INPUT_SIZE} or more pixels, and channels. "
            f"Received: input_shape={shape}"
        )
    return layers.Input(shape=shape) if input_tensor is None else input_tensor
