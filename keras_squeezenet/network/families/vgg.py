"""VGG (Simonyan and Zisserman, arXiv 1409.1556), in any width."""

import keras
from keras import layers

from keras_squeezenet.checks import is_int, is_number
from keras_squeezenet.network.data_formats import Shape, Tensor
from keras_squeezenet.network.families.blocks import INITIALIZER, convolution, normalization, relu
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
from keras_squeezenet.network.layers import Activation
from keras_squeezenet.network.preprocessing import Mode

INPUT_SIZE = 224
FILTERS = (64, 128, 256, 512, 512)  # of each block (Table 1)
# 3×3 convolutions of each block (Table 1: A, B, D, E) by the number of layers with weights.
CONVOLUTIONS = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
MIN_INPUT_SIZE = 2 ** len(FILTERS)  # each block halves the sides
DROPOUT_RATE = 0.5


def VGG(
    include_top: bool = True,
    weights: Weights = None,
    input_tensor: keras.KerasTensor | None = None,
    input_shape: Shape | None = None,
    pooling: Pooling = None,
    classes: int = 1000,
    classifier_activation: Activation = "softmax",
    name: str | None = None,
    *,
    depth: int = 11,
    width: float = 1.0,
    units: int = 4096,
    batch_normalization: bool = True,
    include_preprocessing: bool | Mode = False,
) -> keras.Model:
    """A VGG (Simonyan and Zisserman, arXiv 1409.1556), of the paper's size or smaller.

    Five blocks of 3×3 convolutions, each with a pooling that halves the sides, then three fully
    connected layers (Table 1). The paper's own networks are those with `width=1`, `units=4096` and
    `batch_normalization=False`; depth 16 and 19 are then `VGG16` and `VGG19` of
    `keras.applications`, weight by weight. The paper has no batch normalization (Ioffe and Szegedy,
    arXiv 1502.03167), and had to train its deeper networks from its shallower ones.

    For pictures of 128 pixels and ten classes `VGG(width=0.5, units=512, input_shape=(128, 128, 3),
    classes=10)` has 4.7 million parameters, half of them in the fully connected layers.

    Args:
        include_top: whether the fully connected layers are included.
        weights: None, random values, or the path of a .weights.h5 file of the same network.
        input_tensor: output of `keras.layers.Input()` or of other layers, to be the input.
        input_shape: `(height, width, channels)`, or `(channels, height, width)` with
            "channels_first". Default: 224×224 pixels, three channels. 32 pixels are the least.
            Without top, sides may be None.
        pooling: without top: None, the last feature map is the output; "avg" or "max", its global
            average or maximum.
        classes: number of classes, with top.
        classifier_activation: of the top: "softmax"; or None, the output is the logits.
        name: the model's name. Default: as "vgg11_bn".
        depth: layers with weights: 11, 13, 16 or 19.
        width: factor of the number of filters of each convolution, above 0; 64 to 512 with 1.
        units: of each of the two hidden fully connected layers.
        batch_normalization: whether each convolution is followed by one, and has no bias.
        include_preprocessing: whether the model takes RGB 0…255, as image files hold it: True, for
            "torch"; or a mode of `ImagePreprocessing`. The paper subtracts the mean alone.

    Returns:
        A `keras.Model`. With top its output is `(batch, classes)`.

    Raises:
        ValueError: for arguments outside these; the text names them.

    Example:

    >>> VGG(width=0.5, units=512, input_shape=(128, 128, 3), classes=10).output_shape
    (None, 10)
    """
    check_pooling(pooling)
    _check(depth, width, units)
    image = image_input(
        input_tensor,
        input_shape,
        size=INPUT_SIZE,
        least=MIN_INPUT_SIZE,
        open_sides=not include_top,
    )
    x = preprocessed(image, include_preprocessing, "torch")
    for block, (filters, count) in enumerate(zip(FILTERS, CONVOLUTIONS[depth], strict=True), 1):
        for number in range(1, count + 1):
            name_of_layer = f"block{block}_conv{number}"
            x = _convolution(x, name_of_layer, max(round(filters * width), 1), batch_normalization)
        x = layers.MaxPooling2D(2, name=f"block{block}_pool")(x)
    if include_top:
        x = layers.Flatten(name="flatten")(x)
        for number in (1, 2):
            x = layers.Dense(
                units, activation="relu", kernel_initializer=INITIALIZER, name=f"fc{number}"
            )(x)
            x = layers.Dropout(DROPOUT_RATE, name=f"drop{number}")(x)
        x = predictions(layers.Dense(classes, name="fc3")(x), classifier_activation)
    else:
        x = pooled(x, pooling)
    name = name or f"vgg{depth}{'_bn' if batch_normalization else ''}"
    return finished(image, x, input_tensor=input_tensor, weights=weights, name=name)


def _convolution(x: Tensor, name: str, filters: int, batch_normalization: bool) -> Tensor:
    if batch_normalization:
        x = convolution(x, name, filters, 3, padding="same")
        return relu(normalization(x, f"{name}_bn"), f"{name}_relu")
    return layers.Conv2D(
        filters,
        3,
        padding="same",
        activation="relu",
        kernel_initializer=INITIALIZER,
        name=name,
    )(x)


def _check(depth: int, width: float, units: int) -> None:
    if depth not in CONVOLUTIONS:
        known = ", ".join(map(str, CONVOLUTIONS))
        raise ValueError(f"`depth` must be one of {known}. Received: depth={depth}")
    if not is_number(width) or not 0 < width <= 16:
        raise ValueError(f"`width` must be a number above 0 and up to 16. Received: width={width}")
    if not is_int(units, 1):
        raise ValueError(f"`units` must be an integer ≥ 1. Received: units={units}")
