"""CondenseNet (Huang et al., arXiv 1711.09224)."""

from collections.abc import Sequence

import keras
from keras import layers

from keras_squeezenet.checks import is_int
from keras_squeezenet.network.data_formats import Shape, Tensor
from keras_squeezenet.network.families.blocks import convolution, normalization, relu
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
from keras_squeezenet.network.families.learned_groups import LearnedGroupConv2D
from keras_squeezenet.network.layers import Activation
from keras_squeezenet.network.preprocessing import Mode

INPUT_SIZE = 224
BOTTLENECK = 4  # filters of a 1×1 convolution for each of the 3×3 one after it


def CondenseNet(
    include_top: bool = True,
    weights: Weights = None,
    input_tensor: keras.KerasTensor | None = None,
    input_shape: Shape | None = None,
    pooling: Pooling = None,
    classes: int = 1000,
    classifier_activation: Activation = "softmax",
    name: str | None = None,
    *,
    blocks: Sequence[int] = (4, 6, 8, 10, 8),
    growth_rate: int = 8,
    strides: int = 2,
    groups: int = 4,
    condensation_factor: int | None = None,
    classifier_condensation_factor: int = 2,
    group_lasso: float = 0.0,
    include_preprocessing: bool | Mode = False,
) -> keras.Model:
    """CondenseNet (Huang, Liu, van der Maaten and Weinberger, arXiv 1711.09224), to be trained.

    A DenseNet whose 1×1 convolutions learn in training which inputs they need. Each layer takes
    the outputs of all before it, those of other blocks too, average pooled (fully dense
    connectivity), and adds `growth_rate` channels, in each block twice as many as in the one
    before (section 3.2). Train it with `CondensingStages`, then take `condensed_model` for
    inference: standard layers with a fraction of the weights and equal outputs.

    ========================= =============== =========== ====== ========== ========
    network of the paper      blocks          growth_rate groups FLOPs      parameters
    ========================= =============== =========== ====== ========== ========
    CondenseNet, ImageNet     4, 6, 8, 10, 8  8           4      529 M      4.8 M
    CondenseNet, ImageNet     4, 6, 8, 10, 8  8           8      274 M      2.9 M
    CondenseNet-86, CIFAR     14, 14, 14      8           4      65.8 M     0.52 M
    CondenseNet-182, CIFAR    30, 30, 30      12          4      513 M      4.2 M
    ========================= =============== =========== ====== ========== ========

    Those for CIFAR have `strides=1`, pictures of 32 pixels and
    `classifier_condensation_factor=1`. The published numbers are those of the condensed network.
    Its FLOPs are the multiply-adds of `profile_model` and one for each number that a ReLU or an
    average pooling takes: 516.6 and 261.5 million multiply-adds for the first two. Parameters are
    those that learn.

    The authors' program takes half of the last layer's inputs away after the training, unasked.
    Here that layer condenses with the others, so that the outputs stay equal.

    Args:
        include_top: whether global average pooling and the last layer are included.
        weights: None, random values, or the path of a .weights.h5 file of the same network.
        input_tensor: output of `keras.layers.Input()` or of other layers, to be the input.
        input_shape: `(height, width, channels)`, or `(channels, height, width)` with
            "channels_first". Default: 224×224 pixels, three channels. Without top, sides may be
            None.
        pooling: without top: None, the last feature map is the output; "avg" or "max", its global
            average or maximum.
        classes: number of classes, with top.
        classifier_activation: of the top: "softmax"; or None, the output is the logits.
        name: the model's name. Default: as "condensenet74", by its layers with weights.
        blocks: number of layers of each dense block.
        growth_rate: channels that each layer of the first block adds; conv1 has twice as many.
        strides: of conv1.
        groups: G of all layers, a divisor of `growth_rate`.
        condensation_factor: C of the learned group convolutions. Default: `groups`.
        classifier_condensation_factor: C of the last layer, whose outputs are one group. 1: it is
            a Dense.
        group_lasso: factor of the group lasso of `LearnedGroupConv2D`; 1e-5 in the paper's ImageNet
            trainings.
        include_preprocessing: whether the model takes RGB 0…255, as image files hold it: True, for
            "torch"; or a mode of `ImagePreprocessing`.

    Returns:
        A `keras.Model`. With top its output is `(batch, classes)`.

    Raises:
        ValueError: for arguments outside these; the text names them.

    Example:

    >>> CondenseNet(include_top=False).output_shape
    (None, 7, 7, 2064)
    """
    check_pooling(pooling)
    _check(blocks, growth_rate, strides, groups)
    factor = groups if condensation_factor is None else condensation_factor
    least = strides * 2 ** (len(blocks) - 1)
    image = image_input(
        input_tensor, input_shape, size=INPUT_SIZE, least=least, open_sides=not include_top
    )
    x = preprocessed(image, include_preprocessing, "torch")
    x = convolution(x, "conv1", 2 * growth_rate, 3, strides=strides, padding="same")
    for block, count in enumerate(blocks):
        if block:
            x = layers.AveragePooling2D(2, name=f"transition{block}_pool")(x)
        for number in range(count):
            x = _dense_layer(
                x,
                f"block{block + 1}_layer{number + 1}",
                growth_rate * 2**block,
                groups,
                factor,
                group_lasso,
            )
    x = relu(normalization(x, "last_bn"), "last_relu")
    if include_top:
        x = _classifier(x, classes, classifier_condensation_factor, group_lasso)
        x = predictions(x, classifier_activation)
    else:
        x = pooled(x, pooling)
    name = name or f"condensenet{2 * sum(blocks) + 2}"
    return finished(image, x, input_tensor=input_tensor, weights=weights, name=name)


def _dense_layer(
    x: Tensor, name: str, growth_rate: int, groups: int, factor: int, group_lasso: float
) -> Tensor:
    """Figure 1, middle; the permutation is the order of the learned convolution's outputs."""
    y = relu(normalization(x, f"{name}_bn1"), f"{name}_relu1")
    y = LearnedGroupConv2D(
        BOTTLENECK * growth_rate, groups, factor, group_lasso, name=f"{name}_conv1"
    )(y)
    y = relu(normalization(y, f"{name}_bn2"), f"{name}_relu2")
    y = convolution(y, f"{name}_conv2", growth_rate, 3, groups=groups, padding="same")
    return layers.Concatenate(channel_axis(), name=f"{name}_concat")([x, y])


def _classifier(x: Tensor, classes: int, factor: int, group_lasso: float) -> Tensor:
    if factor == 1:
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
        return layers.Dense(classes, name="fc")(x)
    x = layers.GlobalAveragePooling2D(keepdims=True, name="avg_pool")(x)
    x = LearnedGroupConv2D(classes, 1, factor, group_lasso, use_bias=True, name="fc")(x)
    return layers.Flatten(name="flatten")(x)


def _check(blocks: Sequence[int], growth_rate: int, strides: int, groups: int) -> None:
    known = isinstance(blocks, tuple | list) and blocks
    if not known or not all(is_int(count, 1) for count in blocks):
        raise ValueError(
            f"`blocks` must be a tuple of integers ≥ 1, one for each. Received: blocks={blocks}"
        )
    if not is_int(strides, 1, 4):
        raise ValueError(f"`strides` must be an integer from 1 to 4. Received: strides={strides}")
    if not is_int(growth_rate, 1) or not is_int(groups, 1) or growth_rate % groups:
        raise ValueError(
            "`growth_rate` must be a multiple of `groups`, an integer ≥ 1. "
            f"Received: growth_rate={growth_rate}, groups={groups}"
        )
