"""What several families are made of: convolution, batch normalization, ReLU."""

import math

from keras import layers

from keras_squeezenet.network.data_formats import Tensor, standardize_data_format
from keras_squeezenet.network.families.contract import channel_axis
from keras_squeezenet.network.families.layers import GroupedConv2D
from keras_squeezenet.network.layers import NORMALIZATION_MOMENTUM, BatchNormalization

# For the ReLUs that follow (He et al., arXiv 1502.01852).
INITIALIZER = "he_normal"


def convolution(
    x: Tensor,
    name: str,
    filters: int,
    kernel_size: int = 1,
    *,
    strides: int = 1,
    padding: str = "valid",
    groups: int = 1,
) -> Tensor:
    """A convolution without bias; with groups one that processors train quickly, too."""
    kind = layers.Conv2D if groups == 1 else GroupedConv2D
    return kind(
        filters,
        kernel_size,
        strides,
        padding,
        groups=groups,
        use_bias=False,
        kernel_initializer=INITIALIZER,
        name=name,
    )(x)


def normalization(x: Tensor, name: str) -> Tensor:
    return BatchNormalization(axis=channel_axis(), momentum=NORMALIZATION_MOMENTUM, name=name)(x)


def relu(x: Tensor, name: str) -> Tensor:
    return layers.Activation("relu", name=name)(x)


def padded(x: Tensor, name: str, pixels: int = 1) -> Tensor:
    """Zeros on all four sides, as in PyTorch: Keras's "same" pads an even side at its end alone."""
    return layers.ZeroPadding2D(pixels, name=name)(x)


def shuffled(x: Tensor, name: str, groups: int, data_format: str | None = None) -> Tensor:
    """Channel shuffle: channel i·n + j, the j-th of n in group i, goes to j·groups + i.

    It is made of Keras's own layers. They have no weights, and what reads models knows them:
    .sqz files, the twin in tf_keras, LiteRT, any Keras without this package. Height and width are
    one axis meanwhile, so that no tensor has more than four: small devices have no more.

    Args:
        x: a feature map of known sides.
        name: of the layers: NAME_groups, NAME_transpose, NAME.
        groups: how many groups the channels are in now.
        data_format: of the feature map; None for Keras's own setting.
    """
    sizes = x.shape[1:]
    first = standardize_data_format(data_format) == "channels_first"
    channels = sizes[0 if first else -1]
    split = (groups, channels // groups)
    pixels = math.prod(sizes) // channels
    if first:
        shape, order = (*split, pixels), (2, 1, 3)
    else:
        shape, order = (pixels, *split), (1, 3, 2)
    x = layers.Reshape(shape, name=f"{name}_groups")(x)
    x = layers.Permute(order, name=f"{name}_transpose")(x)
    return layers.Reshape(sizes, name=name)(x)
