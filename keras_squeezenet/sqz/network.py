"""A network of few distinct weights, as data: what a .sqz file holds. No Keras.

Source: Han et al., "Deep Compression", arXiv 1510.00149, section 3: the weights of a layer are
indices into a codebook of shared values.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from keras_squeezenet.checks import check_integer
from keras_squeezenet.errors import InputError
from keras_squeezenet.network.architecture import Architecture
from keras_squeezenet.network.preprocessing import PREPROCESSINGS

MAX_CODEBOOK = 2**16

Codes = NDArray[np.uint16]
Values = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class SharedValues:
    """An array of few distinct values.

    Attributes:
        codes: uint16, the array's shape (kernels: height, width, channels, filters); each below the
            length of the codebook.
        codebook: float32 `[k]`, k from 1 to 65,536, finite and strictly ascending. Pruned weights
            have the value 0.0; there is no -0.0.

    Raises:
        InputError: names the attribute that is not so.
    """

    codes: Codes
    codebook: Values

    def __post_init__(self) -> None:
        codes, codebook = self.codes, self.codebook
        _check_array("codes", codes, np.uint16)
        _check_array("codebook", codebook, np.float32)
        if codebook.ndim != 1 or not 1 <= codebook.size <= MAX_CODEBOOK:
            raise InputError(
                f"`codebook` must have shape [k], k from 1 to {MAX_CODEBOOK}. "
                f"Received: codebook of shape {codebook.shape}"
            )
        if not np.isfinite(codebook).all() or not (codebook[1:] > codebook[:-1]).all():
            raise InputError("`codebook` must be finite and strictly ascending")
        if (np.signbit(codebook) & (codebook == 0)).any():
            raise InputError("`codebook` must hold 0.0 for zero. Received: -0.0")
        if codes.size and codes.max() >= codebook.size:
            raise InputError(
                f"`codes` must be below {codebook.size}, the length of the codebook. "
                f"Received: {codes.max()}"
            )

    @property
    def values(self) -> Values:
        """The array, float32."""
        return self.codebook[self.codes]

    @classmethod
    def of(cls, array: ArrayLike) -> "SharedValues":
        """An array of at most 65,536 distinct values, which become the codebook. -0.0 becomes 0.0.

        Raises:
            InputError: there are more, or some are not finite.
        """
        array = np.asarray(array, np.float32) + np.float32(0)
        codebook, codes = np.unique(array, return_inverse=True)
        if codebook.size > MAX_CODEBOOK:
            raise InputError(
                f"`array` may have {MAX_CODEBOOK} distinct values. Received: {codebook.size}"
            )
        return cls(codes.reshape(array.shape).astype(np.uint16), codebook)


@dataclass(frozen=True, eq=False)
class CompressedNetwork:
    """A classifier of shared values, and all that is needed to build it and to feed it.

    Attributes:
        architecture: an `Architecture`.
        classes: number of classes.
        input_size: side in pixels of the square images that it takes.
        preprocessing: what it does inside, a name in `PREPROCESSINGS`; or None.
        last_activation: what follows the last convolution, "relu" or None.
        classifier_activation: "softmax" or None.
        class_names: one per class; or None.
        resize: how pictures are framed for it: their shorter side in pixels, "stretch", or None.
        dropout_rate: of the dropout before the last convolution, for further training.
        kernels: `SharedValues` with names, order and shapes of `architecture.kernel_shapes`.
        biases: `SharedValues` of the same names, shape `[filters]`.

    Raises:
        InputError: names the attribute that makes no network.
    """

    architecture: Architecture
    classes: int
    input_size: int
    preprocessing: str | None
    last_activation: str | None
    classifier_activation: str | None
    class_names: tuple[str, ...] | None
    resize: int | str | None
    dropout_rate: float
    kernels: dict[str, SharedValues]
    biases: dict[str, SharedValues]

    def __post_init__(self) -> None:
        if not isinstance(self.architecture, Architecture):
            raise InputError(
                f"`architecture` must be an Architecture. Received: {type(self.architecture)}"
            )
        check_integer("classes", self.classes, 1)
        check_integer("input_size", self.input_size, self.architecture.min_input_size)
        _check_choice("preprocessing", self.preprocessing, (None, *PREPROCESSINGS))
        _check_choice("last_activation", self.last_activation, (None, "relu"))
        _check_choice("classifier_activation", self.classifier_activation, (None, "softmax"))
        if self.resize not in (None, "stretch"):
            check_integer("resize", self.resize, 1, otherwise=", 'stretch' or None")
        if type(self.dropout_rate) not in (int, float) or not 0 <= self.dropout_rate < 1:
            raise InputError(
                "`dropout_rate` must be a number from 0 to below 1. "
                f"Received: dropout_rate={self.dropout_rate}"
            )
        if self.class_names is not None:
            check_class_names(self.class_names, self.classes)
        shapes = self.architecture.kernel_shapes(self.classes)
        _check_arrays("kernels", self.kernels, shapes)
        _check_arrays("biases", self.biases, {name: s[-1:] for name, s in shapes.items()})


def check_class_names(names: Any, classes: int | None = None) -> None:
    """Refuse class names that are no strings, or not as many as there are classes.

    Args:
        names: what was given.
        classes: how many there are; None where that is not known.
    """
    if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
        raise InputError("`class_names` must be a tuple of strings, or None")
    if classes is not None and len(names) != classes:
        raise InputError(
            f"`class_names` must have one name for each of {classes} classes. "
            f"Received: {len(names)}"
        )


def _check_array(name: str, array: Any, dtype: DTypeLike) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        received = array.dtype if isinstance(array, np.ndarray) else type(array)
        raise InputError(f"`{name}` must be an array of {np.dtype(dtype)}. Received: {received}")


def _check_arrays(
    name: str, arrays: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    if list(arrays) != list(shapes):
        raise InputError(
            f"`{name}` must be those of the architecture, in its order: {', '.join(shapes)}. "
            f"Received: {', '.join(map(str, arrays))}"
        )
    for layer, shape in shapes.items():
        array = arrays[layer]
        if not isinstance(array, SharedValues):
            raise InputError(f"`{name}` must be SharedValues. Received: {layer}={type(array)}")
        if array.codes.shape != shape:
            raise InputError(
                f"`{name}`: {layer} must have shape {shape}. Received: {array.codes.shape}"
            )


def _check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    if value not in choices:
        raise InputError(
            f"`{name}` must be one of {', '.join(map(str, choices))}. Received: {name}={value}"
        )
