"""The layers that a .sqz file of version 2 holds: a fixed table. No Keras.

Of each kind: its arguments, what else it has to be told to know the shapes of its weights, its
arrays, and how many tensors it takes. Arguments have Keras's names and meanings. What initializes,
regularizes or constrains weights in training is not kept.

`sizes` are arguments of our own, which say what Keras learns from a layer's input: with them the
shapes of all arrays are known, and limits checked, before memory is taken.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from keras_squeezenet.checks import is_int
from keras_squeezenet.network.preprocessing import PREPROCESSINGS
from keras_squeezenet.sqz import array_shapes
from keras_squeezenet.sqz.arguments import (
    ANY_NUMBER,
    AXES,
    AXIS,
    COUNT,
    FLAG,
    MAX_AXES,
    MAX_COUNT,
    MAX_SIDE,
    NUMBERS,
    POSITIVE,
    RATE,
    SHAPE,
    SIDE,
    Argument,
    choice,
    either,
    integer,
    sequence,
)
from keras_squeezenet.sqz.array_shapes import Arguments, Shape

InputShape = tuple[int | None, ...]

ACTIVATIONS = (
    *("linear", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish"),
    *("hard_silu", "hard_sigmoid", "hard_tanh", "sigmoid", "log_sigmoid", "tanh", "tanh_shrink"),
    *("softmax", "log_softmax", "softplus", "softsign", "exponential", "squareplus"),
)
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos3", "lanczos5")
DTYPES = ("float32", "float16", "bfloat16", "mixed_float16", "mixed_bfloat16")
INPUT_DTYPES = ("float32", "float16", "bfloat16", "uint8", "int8", "int32", "bool")
MANY = 2**12  # tensors that an addition or a concatenation may take
MAX_CHANNELS = 2**16  # of a selection

FORMAT = choice("channels_last", "channels_first").or_else("channels_last")
ACTIVATION = choice(*ACTIVATIONS).or_else("linear")
PADDING = choice("valid", "same").or_else("valid")
BIAS = FLAG.or_else(True)
EPSILON = POSITIVE.or_else(1e-3)
MOMENTUM = POSITIVE.or_else(0.99)


def _none(arguments: Arguments) -> dict[str, Shape]:
    return {}


def _no_sizes(arguments: Arguments, shape: InputShape) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Kind:
    """A kind of layer.

    Attributes:
        arguments: by name; those that Keras's constructor takes.
        arrays: a function from all arguments to the shapes of the weights, by name and in order.
        sizes: arguments that say what the input has, by name.
        sizes_of: a function from the other arguments and the shape of the input, batch included, to
            the values of `sizes`.
        inputs: the fewest and the most tensors that it takes.
    """

    arguments: Mapping[str, Argument] = field(default_factory=dict)
    arrays: Callable[[Arguments], dict[str, Shape]] = _none
    sizes: Mapping[str, Argument] = field(default_factory=dict)
    sizes_of: Callable[[Arguments, InputShape], dict[str, Any]] = _no_sizes
    inputs: tuple[int, int] = (1, 1)

    @property
    def every_argument(self) -> dict[str, Argument]:
        return {**self.arguments, **self.sizes, **COMMON}


# Of every layer: the name of its dtype policy.
COMMON = {"dtype": choice(*DTYPES).or_else("float32")}
CHANNELS = {"channels": COUNT}


def _channels(arguments: Arguments, shape: InputShape) -> dict[str, Any]:
    first = arguments["data_format"] == "channels_first"
    return {"channels": shape[1 if first else -1]}


def _axis_size(arguments: Arguments, shape: InputShape) -> dict[str, Any]:
    return {"channels": shape[arguments["axis"]]}


def _normalization_sizes(arguments: Arguments, shape: InputShape) -> dict[str, Any]:
    axes = sorted(axis % len(shape) for axis in arguments["axis"])
    return {"shape": tuple(shape[axis] for axis in axes)}


def _layer_normalization_sizes(arguments: Arguments, shape: InputShape) -> dict[str, Any]:
    axes = arguments["axis"]
    # In the order in which Keras takes them: that of the numbers, whatever their sign.
    return {"shape": tuple(shape[axis] for axis in sorted([axes] if is_int(axes) else axes))}


def _prelu_sizes(arguments: Arguments, shape: InputShape) -> dict[str, Any]:
    shared = arguments["shared_axes"] or ()
    return {"shape": tuple(1 if i in shared else n for i, n in enumerate(shape) if i)}


MERGE = Kind(inputs=(2, MANY))
MARGIN = sequence(integer(0, MAX_SIDE), 2, 2)  # before and after


def _convolutions(axes: int, *paddings: str) -> dict[str, Kind]:
    """Of lines, which have one axis, or of images, which have two."""
    size = sequence(SIDE, axes, axes)
    shared = {
        "kernel_size": size,
        "strides": size.or_else((1,) * axes),
        "padding": PADDING,
        "data_format": FORMAT,
        "dilation_rate": size.or_else((1,) * axes),
        "activation": ACTIVATION,
        "use_bias": BIAS,
    }
    filters, multiplier = {"filters": COUNT}, {"depth_multiplier": COUNT.or_else(1)}
    of_conv = {**shared, "padding": choice("valid", "same", *paddings).or_else("valid")}
    output_padding = sequence(integer(0, MAX_SIDE), axes, axes).or_else(None)
    kinds = {
        f"Conv{axes}D": (
            {**filters, **of_conv, "groups": COUNT.or_else(1)},
            array_shapes.conv,
        ),
        f"DepthwiseConv{axes}D": ({**multiplier, **shared}, array_shapes.depthwise),
        f"SeparableConv{axes}D": ({**filters, **multiplier, **shared}, array_shapes.separable),
        f"Conv{axes}DTranspose": (
            {**filters, **shared, "output_padding": output_padding},
            array_shapes.transposed,
        ),
    }
    return {
        name: Kind(arguments, arrays, CHANNELS, _channels)
        for name, (arguments, arrays) in kinds.items()
    }


def _poolings(axes: int) -> dict[str, Kind]:
    size = sequence(SIDE, axes, axes)
    window = Kind({"pool_size": size, "strides": size, "padding": PADDING, "data_format": FORMAT})
    whole = Kind({"data_format": FORMAT, "keepdims": FLAG.or_else(False)})
    return {
        f"MaxPooling{axes}D": window,
        f"AveragePooling{axes}D": window,
        f"GlobalMaxPooling{axes}D": whole,
        f"GlobalAveragePooling{axes}D": whole,
    }


OF_LINES = _convolutions(1, "causal") | _poolings(1)
OF_IMAGES = _convolutions(2) | _poolings(2)

KINDS: dict[str, Kind] = {
    **OF_LINES,
    **OF_IMAGES,
    "GroupedConv2D": OF_IMAGES["Conv2D"],
    "Dense": Kind(
        {"units": COUNT, "activation": ACTIVATION, "use_bias": BIAS},
        array_shapes.dense,
        CHANNELS,
        lambda arguments, shape: {"channels": shape[-1]},
    ),
    "BatchNormalization": Kind(
        {
            "axis": AXIS.or_else(-1),
            "momentum": MOMENTUM,
            "epsilon": EPSILON,
            "center": FLAG.or_else(True),
            "scale": FLAG.or_else(True),
        },
        array_shapes.batch_normalization,
        CHANNELS,
        _axis_size,
    ),
    "LayerNormalization": Kind(
        {
            "axis": either(AXIS, AXES).or_else(-1),
            "epsilon": EPSILON,
            "center": FLAG.or_else(True),
            "scale": FLAG.or_else(True),
            "rms_scaling": FLAG.or_else(False),
        },
        array_shapes.layer_normalization,
        {"shape": SHAPE},
        _layer_normalization_sizes,
    ),
    "GroupNormalization": Kind(
        {
            "groups": integer(-1, MAX_COUNT).or_else(32),
            "axis": AXIS.or_else(-1),
            "epsilon": EPSILON,
            "center": FLAG.or_else(True),
            "scale": FLAG.or_else(True),
        },
        lambda arguments: array_shapes.scaled(arguments, (arguments["channels"],)),
        CHANNELS,
        _axis_size,
    ),
    "RMSNormalization": Kind(
        {"axis": either(AXIS, AXES).or_else(-1), "epsilon": POSITIVE.or_else(1e-6)},
        lambda arguments: {"scale": arguments["shape"]},
        {"shape": SHAPE},
        _layer_normalization_sizes,
    ),
    "UnitNormalization": Kind({"axis": either(AXIS, AXES).or_else(-1)}),
    "Normalization": Kind(
        {"axis": sequence(AXIS, 0, MAX_AXES).or_else((-1,)), "invert": FLAG.or_else(False)},
        lambda arguments: {"mean": arguments["shape"], "variance": arguments["shape"]},
        {"shape": SHAPE, "adapted": FLAG.or_else(False)},
        _normalization_sizes,
    ),
    "Rescaling": Kind({"scale": NUMBERS, "offset": NUMBERS.or_else(0.0)}),
    "ZeroPadding1D": Kind({"padding": MARGIN, "data_format": FORMAT}),
    "ZeroPadding2D": Kind({"padding": sequence(MARGIN, 2, 2), "data_format": FORMAT}),
    "Cropping1D": Kind({"cropping": MARGIN}),
    "Cropping2D": Kind({"cropping": sequence(MARGIN, 2, 2), "data_format": FORMAT}),
    "UpSampling1D": Kind({"size": SIDE}),
    "UpSampling2D": Kind(
        {
            "size": sequence(SIDE, 2, 2),
            "interpolation": choice(*INTERPOLATIONS).or_else("nearest"),
            "data_format": FORMAT,
        }
    ),
    "Activation": Kind({"activation": choice(*ACTIVATIONS)}),
    "ReLU": Kind(
        {
            "max_value": POSITIVE.or_else(None),
            "negative_slope": POSITIVE.or_else(0.0),
            "threshold": POSITIVE.or_else(0.0),
        }
    ),
    "LeakyReLU": Kind({"negative_slope": POSITIVE.or_else(0.3)}),
    "PReLU": Kind(
        {"shared_axes": sequence(integer(1, MAX_AXES), 0, MAX_AXES).or_else(None)},
        lambda arguments: {"alpha": arguments["shape"]},
        {"shape": SHAPE},
        _prelu_sizes,
    ),
    "ELU": Kind({"alpha": ANY_NUMBER.or_else(1.0)}),
    "Softmax": Kind({"axis": either(AXIS, AXES).or_else(-1)}),
    **dict.fromkeys(("Add", "Multiply", "Average", "Maximum", "Minimum"), MERGE),
    "Subtract": Kind(inputs=(2, 2)),
    "Concatenate": Kind({"axis": AXIS.or_else(-1)}, inputs=(1, MANY)),
    **dict.fromkeys(
        ("Dropout", "AlphaDropout"),
        Kind(
            {"rate": RATE, "noise_shape": sequence(COUNT.or_else(None), 1, MAX_AXES).or_else(None)}
        ),
    ),
    "GaussianDropout": Kind({"rate": RATE}),
    "SpatialDropout1D": Kind({"rate": RATE}),
    "SpatialDropout2D": Kind({"rate": RATE, "data_format": FORMAT}),
    "GaussianNoise": Kind({"stddev": RATE}),
    "Identity": Kind(),
    "Flatten": Kind({"data_format": FORMAT}),
    "Reshape": Kind(
        {"target_shape": sequence(either(integer(-1, -1), integer(1, MAX_COUNT)), 0, MAX_AXES)}
    ),
    "Permute": Kind({"dims": sequence(integer(1, MAX_AXES), 1, MAX_AXES)}),
    "Fire": Kind(
        {
            "squeeze_filters": COUNT,
            "expand1x1_filters": integer(0, MAX_COUNT),
            "expand3x3_filters": integer(0, MAX_COUNT),
            "bypass": choice("simple", "complex").or_else(None),
            "activation": choice(*ACTIVATIONS).or_else("relu"),
            "batch_normalization": FLAG.or_else(False),
            "data_format": FORMAT,
        },
        array_shapes.fire,
        CHANNELS,
        _channels,
    ),
    # Of keras.applications: ConvNeXt, and InceptionResNetV2.
    "LayerScale": Kind(
        {"init_values": ANY_NUMBER.or_else(1e-6), "projection_dim": COUNT},
        lambda arguments: {"gamma": (arguments["projection_dim"],)},
    ),
    "StochasticDepth": Kind({"drop_path_rate": RATE}),
    "CustomScaleLayer": Kind({"scale": ANY_NUMBER}, inputs=(2, 2)),
    "CeilMaxPooling2D": Kind(
        {"pool_size": SIDE.or_else(3), "strides": SIDE.or_else(2), "data_format": FORMAT}
    ),
    "ChannelSelection": Kind(
        {"indices": sequence(integer(0, MAX_COUNT), 1, MAX_CHANNELS), "data_format": FORMAT}
    ),
    "LocalResponseNormalization": Kind(
        {
            "radius": integer(0, MAX_SIDE).or_else(2),
            "k": POSITIVE.or_else(2.0),
            "alpha": POSITIVE.or_else(1e-4),
            "beta": POSITIVE.or_else(0.75),
            "data_format": FORMAT,
        }
    ),
    "ImagePreprocessing": Kind(
        {"mode": choice(*PREPROCESSINGS).or_else("caffe"), "data_format": FORMAT}
    ),
}
