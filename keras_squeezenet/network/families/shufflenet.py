"""ShuffleNet, version 1 (Zhang et al., arXiv 1707.01083)."""

import math

import keras
from keras import layers

from keras_squeezenet.checks import is_number
from keras_squeezenet.network.data_formats import Shape, Tensor
from keras_squeezenet.network.families.blocks import (
    INITIALIZER,
    convolution,
    normalization,
    padded,
    relu,
    shuffled,
)
from keras_squeezenet.network.families.contract import (
    Pooling,
    Weights,
    channel_axis,
    check_pooling,
    finished,
    image_input,
    pooled,
    predictions,
    preprocessed,
)
from keras_squeezenet.network.layers import Activation
from keras_squeezenet.network.preprocessing import Mode

INPUT_SIZE = 224
# Output channels of stage 2 by the number of groups (Table 1); each later stage has twice as many.
STAGE2_CHANNELS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
UNITS = (4, 8, 4)  # of stages 2, 3, 4 (Table 1)
STEM_FILTERS = 24
MAX_SCALE = 8


def ShuffleNet(
    include_top: bool = True,
    weights: Weights = None,
    input_tensor: keras.KerasTensor | None = None,
    input_shape: Shape | None = None,
    pooling: Pooling = None,
    classes: int = 1000,
    classifier_activation: Activation = "softmax",
    name: str | None = None,
    *,
    groups: int = 3,
    scale: float = 1.0,
    include_preprocessing: bool | Mode = False,
) -> keras.Model:
    """ShuffleNet, version 1 (Zhang, Zhou, Lin and Sun, arXiv 1707.01083).

    Its units are bottlenecks of a quarter of the channels (section 3.2): a pointwise convolution in
    groups, channel shuffle, a depthwise 3×3 convolution, another pointwise one in groups, then the
    addition of the unit's input. The first unit of a stage halves the sides, and its input, average
    pooled, is concatenated instead. Each convolution is followed by batch normalization, and all
    but the depthwise and the last pointwise one by ReLU. The first pointwise convolution of stage
    2 is not in groups: it takes few channels.

    ====== ======= ======= ======= ====================== ==========
    groups stage 2 stage 3 stage 4 multiply-adds, Table 1 parameters
    ====== ======= ======= ======= ====================== ==========
    1      144     288     576     143 M                  1,546,624
    2      200     400     800     140 M                  1,754,248
    3      240     480     960     137 M                  1,890,208
    4      272     544     1088    133 M                  1,996,088
    8      384     768     1536    137 M                  2,473,936
    ====== ======= ======= ======= ====================== ==========

    Table 1 leaves out the fully connected layer, at most 1.5 M of `profile_model`'s sum.

    `scale` multiplies the stages' channels. What the paper leaves open is done as in its authors'
    repository (megvii-model/ShuffleNet-Series), whose counts these are with their layer at the
    end: 524 M (groups=3, scale=2), 292 M (3, 1.5), 38 M (3, 0.5), 522, 290 and 40 M (8). conv1 has
    24 filters at scales 1 and 1.5, 48 at 2, 12 at 0.5; here 12 at 0.25, which is not there, because
    with them the count is the 13 M of the paper's Table 2. All numbers of channels are multiples of
    `groups`: conv1's is raised to one, a bottleneck's takes the nearest, which changes that of
    stage 2 with 2 and 4 groups at some scales. With 8 groups at 0.25 it is 15 M.

    Padding is zeros on all four sides, average pooling counts them.

    Args:
        include_top: whether global average pooling and the fully connected layer are included.
        weights: None, random values, or the path of a .weights.h5 file of the same network.
        input_tensor: output of `keras.layers.Input()` or of other layers, to be the input.
        input_shape: `(height, width, channels)`, or `(channels, height, width)` with
            "channels_first". Default: 224×224 pixels, three channels. Sides must be known, because
            the channel shuffle is a reshape.
        pooling: without top: None, the last feature map is the output; "avg" or "max", its global
            average or maximum.
        classes: number of classes, with top.
        classifier_activation: of the top: "softmax"; or None, the output is the logits.
        name: the model's name. Default: as "shufflenet_g3_1x".
        groups: of the pointwise convolutions: 1, 2, 3, 4 or 8.
        scale: of the numbers of channels: 0.25, 0.5, 1, 1.5 and 2 in the paper; any number above 0
            and up to 8.
        include_preprocessing: whether the model takes RGB 0…255, as image files hold it: True, for
            "torch"; or a mode of `ImagePreprocessing`.

    Returns:
        A `keras.Model`. With top its output is `(batch, classes)`.

    Raises:
        ValueError: for arguments outside these; the text names them.

    Example:

    >>> profile_model(ShuffleNet(groups=3)).multiply_adds - 960 * 1000
    136500672
    """
    check_pooling(pooling)
    _check(groups, scale)
    image = image_input(input_tensor, input_shape, size=INPUT_SIZE, least=1)
    x = preprocessed(image, include_preprocessing, "torch")
    x = convolution(padded(x, "conv1_pad"), "conv1", _stem_filters(groups, scale), 3, strides=2)
    x = relu(normalization(x, "conv1_bn"), "conv1_relu")
    x = layers.MaxPooling2D(3, 2, name="pool1")(padded(x, "pool1_pad"))
    for number, units in enumerate(UNITS):
        channels = _nearest(STAGE2_CHANNELS[groups] * scale * 2**number, groups)
        for unit in range(units):
            first_groups = 1 if number == unit == 0 else groups
            name_of_unit = f"stage{number + 2}_unit{unit + 1}"
            x = _unit(x, name_of_unit, channels, groups, first_groups, halves=unit == 0)
    if include_top:
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
        x = predictions(layers.Dense(classes, name="fc")(x), classifier_activation)
    else:
        x = pooled(x, pooling)
    name = name or f"shufflenet_g{groups}_{scale:g}x".replace(".", "_")
    return finished(image, x, input_tensor=input_tensor, weights=weights, name=name)


def _unit(
    x: Tensor, name: str, channels: int, groups: int, first_groups: int, *, halves: bool
) -> Tensor:
    """Figure 2 (b), or with `halves` (c)."""
    bottleneck = _nearest(channels / 4, groups)
    y = convolution(x, f"{name}_compress", bottleneck, groups=first_groups)
    y = relu(normalization(y, f"{name}_compress_bn"), f"{name}_compress_relu")
    if groups > 1:
        y = shuffled(y, f"{name}_shuffle", groups)
    y = layers.DepthwiseConv2D(
        3,
        strides=2 if halves else 1,
        use_bias=False,
        depthwise_initializer=INITIALIZER,
        name=f"{name}_depthwise",
    )(padded(y, f"{name}_depthwise_pad"))
    y = normalization(y, f"{name}_depthwise_bn")
    added = channels - x.shape[channel_axis()] if halves else channels
    y = convolution(y, f"{name}_expand", added, groups=groups)
    y = normalization(y, f"{name}_expand_bn")
    if halves:
        x = layers.AveragePooling2D(3, 2, name=f"{name}_pool")(padded(x, f"{name}_pool_pad"))
        y = layers.Concatenate(channel_axis(), name=f"{name}_concat")([x, y])
    else:
        y = layers.Add(name=f"{name}_add")([x, y])
    return relu(y, f"{name}_relu")


def _stem_filters(groups: int, scale: float) -> int:
    """Of conv1: 24 times the power of two that is not above the scale, 12 at least."""
    halvings = max(math.floor(math.log2(scale)), -1)
    return math.ceil(STEM_FILTERS * 2.0**halvings / groups) * groups


def _nearest(channels: float, groups: int) -> int:
    """The multiple of `groups` next to a number of channels; of two as near the larger one."""
    return max(math.floor(channels / groups + 0.5), 1) * groups


def _check(groups: int, scale: float) -> None:
    if groups not in STAGE2_CHANNELS or isinstance(groups, bool):
        known = ", ".join(map(str, STAGE2_CHANNELS))
        raise ValueError(f"`groups` must be one of {known}. Received: groups={groups}")
    if not is_number(scale) or not 0 < scale <= MAX_SCALE:
        raise ValueError(
            f"`scale` must be a number above 0 and up to {MAX_SCALE}. Received: scale={scale}"
        )
    stem = _stem_filters(groups, scale)
    if _nearest(STAGE2_CHANNELS[groups] * scale, groups) <= stem:
        raise ValueError(
            f"`scale` must leave stage 2 more channels than the {stem} of conv1. "
            f"Received: scale={scale}"
        )
