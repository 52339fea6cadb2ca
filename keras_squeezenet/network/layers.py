"""The layers of SqueezeNet. Keras 3 only, on any backend, in both data formats."""

import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import keras
from keras import layers, ops

from keras_squeezenet.checks import is_int
from keras_squeezenet.network.architecture import Bypass, FireFilters
from keras_squeezenet.network.data_formats import Shape, Tensor, standardize_data_format
from keras_squeezenet.network.preprocessing import PREPROCESSINGS, Mode
from keras_squeezenet.startup.registration import SAVED_AS

# Of the moving mean and variance of a batch normalization. Keras's 0.99 lags behind weights that
# change fast, as those of short trainings do.
NORMALIZATION_MOMENTUM = 0.9

# As arguments of Keras's layers.
Activation = str | Callable | None
Initializer: TypeAlias = str | keras.initializers.Initializer


@keras.saving.register_keras_serializable(package=SAVED_AS)
class BatchNormalization(layers.BatchNormalization):
    """Keras's layer, in training by TensorFlow's kernel for it where channels come last.

    Keras makes it of some ten operations, each of which goes through the whole feature map. Other
    backends, the other data format and inference are Keras's own. The results are the same.
    """

    def call(
        self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None
    ) -> Tensor:
        channels_last = self.axis in (-1, len(inputs.shape) - 1) and len(inputs.shape) == 4
        ordinary = self.center and self.scale and not self.renorm and not self.synchronized
        learns = training and self.trainable
        if not (learns and channels_last and ordinary and mask is None and _on_tensorflow()):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            tf.cast(inputs, "float32"),
            tf.cast(self.gamma, "float32"),
            tf.cast(self.beta, "float32"),
            epsilon=self.epsilon,
            is_training=True,
        )
        # Its variance is over n - 1, Keras's over n.
        count = tf.cast(tf.size(outputs) // mean.shape[0], "float32")
        for moving, value in (
            (self.moving_mean, mean),
            (self.moving_variance, variance * (count - 1) / count),
        ):
            moving.assign(moving * self.momentum + value * (1 - self.momentum))
        return tf.cast(outputs, self.compute_dtype)


def _on_tensorflow() -> bool:
    return keras.backend.backend() == "tensorflow"


@keras.saving.register_keras_serializable(package=SAVED_AS)
class Fire(layers.Layer):
    """Squeeze to few channels, then expand with 1×1 and 3×3 filters (section 3.2).

    The output's channels are those of the 1×1 filters, then those of the 3×3 filters. Every
    convolution but the bypass's is followed by `activation`; nothing follows the addition.

    With `batch_normalization`, which the paper has not, each convolution is followed by one (Ioffe
    and Szegedy, arXiv 1502.03167), then by its activation. It has no bias then: the normalization
    takes any away, and has one of its own. `folding` turns it into kernels and biases.

    Args:
        squeeze_filters: 1×1 filters of the squeeze layer.
        expand1x1_filters: 1×1 filters of the expand layer; 0 leaves that branch out.
        expand3x3_filters: 3×3 filters of the expand layer; 0 leaves that branch out.
        bypass: None; "simple", the input is added to the output (section 6), which needs as
            many channels in as out; "complex", a 1×1 convolution of the input is added.
        activation: after squeeze and expand.
        kernel_initializer: of every convolution.
        bias_initializer: of every convolution with a bias.
        kernel_regularizer: of every convolution.
        batch_normalization: whether there is one after each convolution.
        data_format: "channels_last", "channels_first" or None for Keras's own setting.

    Input shape: `(batch, height, width, channels)`, or `(batch, channels, height, width)` with
    "channels_first". Output shape: the same with `expand1x1_filters + expand3x3_filters`
    channels.

    Raises:
        ValueError: for counts that make no layer, an unknown bypass, or a simple bypass between
            different numbers of channels.

    Example:

    >>> Fire(16, 64, 64)(keras.ops.ones((1, 55, 55, 96))).shape
    TensorShape([1, 55, 55, 128])
    """

    def __init__(
        self,
        squeeze_filters: int,
        expand1x1_filters: int,
        expand3x3_filters: int,
        bypass: Bypass = None,
        *,
        activation: Activation = "relu",
        kernel_initializer: Initializer = "glorot_uniform",
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: str | keras.regularizers.Regularizer | None = None,
        batch_normalization: bool = False,
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # FireFilters holds the rules for the counts and the bypass.
        filters = FireFilters(squeeze_filters, expand1x1_filters, expand3x3_filters, bypass)
        self.squeeze_filters = squeeze_filters
        self.expand1x1_filters = expand1x1_filters
        self.expand3x3_filters = expand3x3_filters
        self.out_channels = filters.out_channels
        self.bypass = bypass
        self.activation = keras.activations.get(activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.batch_normalization = bool(batch_normalization)
        self.data_format = standardize_data_format(data_format)
        self._channel_axis = -1 if self.data_format == "channels_last" else 1

        bypass_filters = self.out_channels if bypass == "complex" else 0
        # What a convolution's output goes through is its own activation, or comes after the
        # normalization.
        own = None if self.batch_normalization else self.activation
        self.squeeze1x1: layers.Conv2D = self._convolution("squeeze1x1", squeeze_filters, 1, own)
        self.expand1x1 = self._convolution("expand1x1", expand1x1_filters, 1, own)
        self.expand3x3 = self._convolution("expand3x3", expand3x3_filters, 3, own)
        self.bypass1x1 = self._convolution("bypass1x1", bypass_filters, 1, None)
        self.normalizations = {
            part.name: self._normalization(part.name)
            for part in self.convolutions
            if self.batch_normalization
        }

    def _convolution(
        self, name: str, filters: int, kernel_size: int, activation: Callable | None
    ) -> layers.Conv2D | None:
        if filters == 0:
            return None
        return layers.Conv2D(
            filters,
            kernel_size,
            padding="same",
            activation=activation,
            use_bias=not self.batch_normalization,
            kernel_initializer=fresh_initializer(self.kernel_initializer),
            bias_initializer=fresh_initializer(self.bias_initializer),
            kernel_regularizer=self.kernel_regularizer,
            data_format=self.data_format,
            dtype=self.dtype_policy,
            # Keras hands a layer's own setting down when it is assigned, not when it is loaded.
            trainable=self.trainable,
            name=name,
        )

    def _normalization(self, part: str) -> BatchNormalization:
        return BatchNormalization(
            axis=self._channel_axis,
            momentum=NORMALIZATION_MOMENTUM,
            dtype=self.dtype_policy,
            trainable=self.trainable,
            name=f"{part}_normalization",
        )

    @property
    def convolutions(self) -> tuple[layers.Conv2D, ...]:
        """Those of squeeze, expand 1×1, expand 3×3 and bypass that the layer has."""
        every = (self.squeeze1x1, self.expand1x1, self.expand3x3, self.bypass1x1)
        return tuple(convolution for convolution in every if convolution is not None)

    def build(self, input_shape: Shape) -> None:
        channels = input_shape[self._channel_axis]
        if self.bypass == "simple" and channels != self.out_channels:
            raise ValueError(
                "A simple bypass needs as many output as input channels. Received: "
                f"{channels} channels in, {self.out_channels} out (layer {self.name})"
            )
        squeezed_shape = self.squeeze1x1.compute_output_shape(input_shape)
        for convolution in self.convolutions:
            takes_input = convolution in (self.squeeze1x1, self.bypass1x1)
            shape = input_shape if takes_input else squeezed_shape
            convolution.build(shape)
            if self.batch_normalization:
                outputs_shape = convolution.compute_output_shape(shape)
                self.normalizations[convolution.name].build(outputs_shape)
        super().build(input_shape)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        squeezed = self.convolve(self.squeeze1x1, inputs, training)
        expanded = [
            self.convolve(expand, squeezed, training)
            for expand in (self.expand1x1, self.expand3x3)
            if expand is not None
        ]
        outputs = (
            ops.concatenate(expanded, axis=self._channel_axis) if expanded[1:] else expanded[0]
        )
        if self.bypass == "simple":
            return outputs + inputs
        if self.bypass == "complex":
            return outputs + self.convolve(self.bypass1x1, inputs, training)
        return outputs

    def convolve(
        self, convolution: layers.Conv2D, inputs: Tensor, training: bool | None = None
    ) -> Tensor:
        """What one of the `convolutions` makes of its inputs, normalized and activated."""
        outputs = convolution(inputs)
        if not self.batch_normalization:
            return outputs
        outputs = self.normalizations[convolution.name](outputs, training=training)
        return outputs if convolution is self.bypass1x1 else self.activation(outputs)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        output_shape = list(input_shape)
        output_shape[self._channel_axis] = self.out_channels
        return tuple(output_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "squeeze_filters": self.squeeze_filters,
            "expand1x1_filters": self.expand1x1_filters,
            "expand3x3_filters": self.expand3x3_filters,
            "bypass": self.bypass,
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "batch_normalization": self.batch_normalization,
            "data_format": self.data_format,
        }


@keras.saving.register_keras_serializable(package=SAVED_AS)
class CeilMaxPooling2D(layers.Layer):
    """Max pooling whose last window may reach over the edge, as in Caffe and PyTorch's `ceil_mode`.

    Keras's own "valid" pooling drops what does not fill a window. On real images that costs
    the published SqueezeNets 0.6 to 2 points of top-1 accuracy where the sizes differ. What lies
    over the edge never wins, whatever the input's sign: the complex bypass gives negative values.

    Args:
        pool_size: side of the window in pixels.
        strides: step of the window in pixels, at most `pool_size`.
        data_format: "channels_last", "channels_first" or None for Keras's own setting.

    Input shape: `(batch, height, width, channels)`, or `(batch, channels, height, width)` with
    "channels_first". Output: each side n becomes `ceil((n - pool_size) / strides) + 1`.

    Raises:
        ValueError: for sides that are no integers, a stride above the window, or an input smaller
            than one output pixel.

    Example:

    >>> CeilMaxPooling2D()(keras.ops.ones((1, 56, 56, 64))).shape
    TensorShape([1, 28, 28, 64])
    """

    def __init__(
        self, pool_size: int = 3, strides: int = 2, data_format: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        sides = (pool_size, strides)
        if not all(map(is_int, sides)) or not 1 <= strides <= pool_size:
            raise ValueError(
                "`strides` must be an integer from 1 to `pool_size`, an integer too. "
                f"Received: strides={strides}, pool_size={pool_size}"
            )
        self.pool_size = pool_size
        self.strides = strides
        self.data_format = standardize_data_format(data_format)
        self._spatial_axes = (1, 2) if self.data_format == "channels_last" else (2, 3)

    def call(self, inputs: Tensor) -> Tensor:
        paddings = [self.padding_of(inputs.shape[axis]) for axis in self._spatial_axes]
        if paddings[0] == paddings[1] != "explicit":
            return self._max_pool(inputs, (True, True), paddings[0])
        if "explicit" not in paddings:
            # A maximum over a rectangle is one over its rows, then one over its columns.
            rows = self._max_pool(inputs, (True, False), paddings[0])
            return self._max_pool(rows, (False, True), paddings[1])
        return self._max_pool(self._pad_over_the_edge(inputs), (True, True), "valid")

    def padding_of(self, size: int | None) -> Literal["valid", "same", "explicit"]:
        """How one axis reaches ceil mode: "valid", "same", or padding of our own.

        Pooling operations with a padding of their own are quicker, and a quantized model needs
        no representation of the padding's value.
        """
        if size is None:
            return "explicit"
        self._out_size(size)
        over_the_edge = -(size - self.pool_size) % self.strides
        if over_the_edge == 0:
            return "valid"
        same_padding = (math.ceil(size / self.strides) - 1) * self.strides + self.pool_size - size
        # "same" puts half of its padding, rounded down, before the first pixel.
        if same_padding == over_the_edge == 1:
            return "same"
        return "explicit"

    def _pad_over_the_edge(self, inputs: Tensor) -> Tensor:
        # With stride - 1 more pixels at the end, floor((n + s - 1 - k) / s) is ceil((n - k) / s).
        widths = [(0, 0)] * 4
        for axis in self._spatial_axes:
            widths[axis] = (0, self.strides - 1)
        return ops.pad(inputs, widths, constant_values=-math.inf)

    def _max_pool(self, inputs: Tensor, axes: tuple[bool, bool], padding: str) -> Tensor:
        return ops.max_pool(
            inputs,
            pool_size=tuple(self.pool_size if pooled else 1 for pooled in axes),
            strides=tuple(self.strides if pooled else 1 for pooled in axes),
            padding=padding,
            data_format=self.data_format,
        )

    def _out_size(self, size: int | None) -> int | None:
        if size is None:
            return None
        out_size = -((self.pool_size - size) // self.strides) + 1
        if out_size < 1:
            raise ValueError(
                f"An input side must give at least one output pixel. Received: {size} pixels for "
                f"pool_size={self.pool_size}, strides={self.strides} (layer {self.name})"
            )
        return out_size

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        output_shape = list(input_shape)
        for axis in self._spatial_axes:
            output_shape[axis] = self._out_size(input_shape[axis])
        return tuple(output_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "pool_size": self.pool_size,
            "strides": self.strides,
            "data_format": self.data_format,
        }


@keras.saving.register_keras_serializable(package=SAVED_AS)
class ImagePreprocessing(layers.Layer):
    """From RGB 0…255, as an image file holds it, to what a network was trained on.

    Args:
        mode: "caffe", blue-green-red minus (104, 117, 123), which the published SqueezeNets
            take; "tf", -1…1; or "torch", 0…1 normalised by ImageNet's mean and deviation.
        data_format: "channels_last", "channels_first" or None for Keras's own setting.

    Input and output shape: `(batch, height, width, 3)`, or `(batch, 3, height, width)`; "tf"
    takes any number of channels.

    Raises:
        ValueError: for another mode, and for other than 3 channels where the mode needs them.

    Example:

    >>> np.unique(ImagePreprocessing("tf")(255 * keras.ops.ones((1, 8, 8, 3))))
    array([1.], dtype=float32)
    """

    def __init__(self, mode: Mode = "caffe", data_format: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if mode not in PREPROCESSINGS:
            raise ValueError(
                f"`mode` must be one of {', '.join(map(repr, PREPROCESSINGS))}. "
                f"Received: mode={mode}"
            )
        self.mode = mode
        self.data_format = standardize_data_format(data_format)
        self._channel_axis = -1 if self.data_format == "channels_last" else 1

    def build(self, input_shape: Shape) -> None:
        channels = input_shape[self._channel_axis]
        if self.mode != "tf" and channels != 3:
            raise ValueError(
                f"Preprocessing with mode {self.mode!r} needs 3 channels. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        super().build(input_shape)

    def call(self, inputs: Tensor) -> Tensor:
        preprocessing = PREPROCESSINGS[self.mode]
        images = ops.cast(inputs, self.compute_dtype)
        if preprocessing.reverse:
            images = ops.flip(images, axis=self._channel_axis)
        shape = [1, 1, 1, 1]
        shape[self._channel_axis] = len(preprocessing.offset)
        offset, scale = (
            ops.cast(ops.reshape(ops.convert_to_tensor(values), shape), self.compute_dtype)
            for values in (preprocessing.offset, preprocessing.scale)
        )
        images = images - offset
        return images if set(preprocessing.scale) == {1.0} else images / scale

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mode": self.mode, "data_format": self.data_format}


def fresh_initializer(initializer: Initializer) -> Initializer:
    """A seedless initializer repeats its values when it is used twice: give each layer its own."""
    if not isinstance(initializer, keras.initializers.Initializer):
        return initializer
    if isinstance(getattr(initializer, "seed", None), keras.random.SeedGenerator):
        return initializer  # moves on by itself; a copy would start anew
    return initializer.clone()
