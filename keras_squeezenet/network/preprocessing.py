"""What networks take, as data: from the pixels of an image file to what was trained on. No Keras.

A first convolution without padding can do the work of the preprocessing before it, exactly:
k·(x - offset)/scale + b = (k/scale)·x + (b - k·offset/scale), and reversed channels are a reversed
kernel. `fold` and `unfold` move that work into the convolution and out of it.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Preprocessing:
    """From RGB 0…255 to (x - offset) / scale.

    Attributes:
        reverse: whether the channels are blue, green, red afterwards.
        offset: per channel, in the order afterwards; or one number for all.
        scale: the same.
    """

    reverse: bool
    offset: tuple[float, ...]
    scale: tuple[float, ...]


# The names are those of `keras.applications`; its own "caffe" has other digits after the decimal
# point (103.939, 116.779, 123.68). The published SqueezeNets take "caffe", torchvision's "torch".
Mode = Literal["caffe", "tf", "torch"]
PREPROCESSINGS: dict[Mode, Preprocessing] = {
    "caffe": Preprocessing(True, (104.0, 117.0, 123.0), (1.0, 1.0, 1.0)),
    "tf": Preprocessing(False, (127.5,), (127.5,)),
    "torch": Preprocessing(False, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}


def fold(
    kernel: np.ndarray, bias: np.ndarray, preprocessing: Preprocessing
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The convolution on RGB 0…255 that does what this one does on preprocessed images.

    Args:
        kernel: numbers `[height, width, channels, filters]` of a convolution without padding.
        bias: numbers `[filters]`.
        preprocessing: a `Preprocessing`.

    Returns:
        Kernel and bias, float64, shapes as they came.
    """
    kernel = np.asarray(kernel, np.float64) / np.reshape(preprocessing.scale, (-1, 1))
    bias = bias - (kernel * np.reshape(preprocessing.offset, (-1, 1))).sum(axis=(0, 1, 2))
    return (kernel[:, :, ::-1] if preprocessing.reverse else kernel), bias


def unfold(
    kernel: np.ndarray, bias: np.ndarray, preprocessing: Preprocessing
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The inverse of `fold`: from a convolution on RGB 0…255 to one on preprocessed images."""
    kernel = np.asarray(kernel, np.float64)
    kernel = kernel[:, :, ::-1] if preprocessing.reverse else kernel
    bias = bias + (kernel * np.reshape(preprocessing.offset, (-1, 1))).sum(axis=(0, 1, 2))
    return kernel * np.reshape(preprocessing.scale, (-1, 1)), bias
