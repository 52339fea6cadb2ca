"""What every weight file comes down to."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from types import MappingProxyType

import numpy as np

from keras_squeezenet.errors import InputError
from keras_squeezenet.network.architecture import PRESETS, Architecture
from keras_squeezenet.network.preprocessing import Mode

PUBLISHED_CLASSES = 1000
MAX_CLASSES = 32_768  # ImageNet-21k, the largest set in use, has 21,843
MAX_LAST_CONV_PADDING = 8  # the map itself is about 13 pixels wide


class WeightFileError(InputError):
    """A weight file cannot be used. The message is one line."""


@dataclass(frozen=True, eq=False)
class WeightFile:
    """The weights of one network, checked.

    Attributes:
        kernels: float32 `[height, width, channels, filters]` by name, in the order of
            `Architecture.kernel_shapes`; the last convolution comes last.
        biases: float32 `[filters]` by the same names.
        preprocessing: what the images went through that conv1 was trained on, a name of
            `preprocessing.PREPROCESSINGS`; None where a file does not say it.
        last_conv_padding: zeros around the map that the last convolution takes, in pixels.
        last_activation: of the last convolution, as Keras names it; "relu" in every foreign file.

    Raises:
        WeightFileError: values that are not finite, or a padding that makes no network.
    """

    kernels: dict[str, np.ndarray]
    biases: dict[str, np.ndarray]
    preprocessing: Mode | None
    last_conv_padding: int
    last_activation: str = "relu"

    def __post_init__(self) -> None:
        for part, arrays in (("kernel", self.kernels), ("bias", self.biases)):
            for name, array in arrays.items():
                if not np.isfinite(array).all():
                    raise WeightFileError(f"the {part} of {name} holds values that are not finite")
        if not 0 <= self.last_conv_padding <= MAX_LAST_CONV_PADDING:
            raise WeightFileError(
                f"the last convolution can be padded by 0 to {MAX_LAST_CONV_PADDING} pixels. "
                f"Received: {self.last_conv_padding}"
            )

    @property
    def classes(self) -> int:
        return len(next(reversed(self.biases.values())))


@lru_cache(maxsize=8)
def expected_shapes(architecture: Architecture) -> Mapping[str, tuple[int, ...]]:
    """`kernel_shapes` with the published number of classes. Not to be changed by the caller."""
    return MappingProxyType(architecture.kernel_shapes(PUBLISHED_CLASSES))


def with_classes(shape: tuple[int, ...], classes: int) -> tuple[int, ...]:
    """The shape of a last convolution with so many classes, if there can be so many."""
    if not 1 <= classes <= MAX_CLASSES:
        raise WeightFileError(
            f"a network has from 1 to {MAX_CLASSES} classes. Received: {classes} classes"
        )
    return (*shape[:-1], classes)


def check_names(
    kind: str, found: Collection[str], needed: Collection[str], optional: Collection[str] = ()
) -> None:
    """Raises unless the names found are those needed, and perhaps some of the optional ones."""
    missing = [name for name in needed if name not in found]
    if missing:
        raise WeightFileError(f"the {kind} {missing[0]!r} is missing ({len(missing)} in all)")
    unknown = [name for name in found if name not in needed and name not in optional]
    if unknown:
        raise WeightFileError(f"the {kind} {unknown[0]!r:.100} belongs to another architecture")


def max_parameters(architecture: Architecture) -> int:
    """Weights and biases of the architecture with as many classes as a file may have."""
    return sum(
        prod(shape) + shape[-1] for shape in architecture.kernel_shapes(MAX_CLASSES).values()
    )


def published_last_conv_padding(architecture: Architecture) -> int:
    """The padding that goes with weights of Caffe's lineage whose file does not state it.

    The authors' definition of 1.0, and of no other network, pads conv10 by 1
    (forresti/SqueezeNet issue 14).
    """
    return int(architecture.takes_weights_of(PRESETS["1.0"]))


def from_oihw(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A flat float32 kernel in the order of Caffe and PyTorch, as `[h, w, channels, filters]`."""
    height, width, channels, filters = shape
    return values.reshape(filters, channels, height, width).transpose(2, 3, 1, 0)
