"""What a model's rounded kernels are put into: the network that a .sqz file holds of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_squeezenet.compression import graph_building
from keras_squeezenet.compression.copies import copy_of
from keras_squeezenet.compression.graph_reading import graph_and_arrays
from keras_squeezenet.compression.squeezenet_settings import NotASqueezeNetError, settings_of
from keras_squeezenet.errors import InputError
from keras_squeezenet.sqz.model import LEAST_SHARED, CompressedModel, Stored, is_kernel
from keras_squeezenet.sqz.network import CompressedNetwork, SharedValues
from keras_squeezenet.sqz.versions import AnyCompressed

HALF_PRECISION = 2.0**-11  # of a value, that rounding to float16 may change


@dataclass(frozen=True, eq=False)
class Rounded:
    """A kernel in few values, and its bias, float32, where it has one that was rounded with it."""

    kernel: SharedValues
    bias: NDArray[np.float32] | None


class Packing:
    """A `CompressedNetwork` to be, or of any model but a SqueezeNet with its top a
    `CompressedModel`.

    Args:
        model: of layers that a .sqz file holds; it stays as it is.

    Attributes:
        kernels: names of the kernels, "layer/kernel" or "model/layer/depthwise_kernel", in order.

    Raises:
        UnsupportedModelError: no .sqz file holds the model.
    """

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._settings: dict[str, Any] | None
        try:
            self._settings = settings_of(model)
        except NotASqueezeNetError:
            self._settings = None
            self._graph, arrays = graph_and_arrays(model)
            self._arrays = {n: a if is_kernel(n) else _halved(a) for n, a in arrays.items()}
            self.kernels = [name for name in arrays if is_kernel(name)]
        else:
            names = self._settings["architecture"].kernel_shapes(self._settings["classes"])
            self.kernels = [_path_of(name) for name in names]

    def called(self, kernel: str) -> str:
        """A kernel as those who compress call it: of a SqueezeNet as in `kernel_shapes`."""
        return kernel if self._settings is None else _name_of(kernel)

    def of_kernels(self, argument: str, value: Any) -> dict[str, Any]:
        """A value for each kernel, of one value or a dict by what kernels are called.

        Raises:
            InputError: the dict, given as `argument`, does not name every kernel, or others.
        """
        if not isinstance(value, dict):
            return dict.fromkeys(self.kernels, value)
        called = [self.called(kernel) for kernel in self.kernels]
        for layer in called:
            if layer not in value:
                raise InputError(f"`{argument}` must name every kernel. Received: none for {layer}")
        if unknown := [name for name in value if name not in called]:
            raise InputError(
                f"`{argument}` must name kernels of the model, such as {called[0]}. "
                f"Received: {unknown[0]}"
            )
        return {kernel: value[self.called(kernel)] for kernel in self.kernels}

    def copy(self) -> keras.Model:
        """A copy of the model, all but its kernels and their biases as they will be in the file."""
        copy = copy_of(self._model)
        if self._settings is None:
            whole = CompressedModel(self._model.name, self._graph, self._arrays)
            graph_building.assign(copy, whole)
        return copy

    def pack(self, rounded: Mapping[str, Rounded]) -> AnyCompressed:
        """What a file holds, without class names.

        Args:
            rounded: by the names of all `kernels`.
        """
        if self._settings is not None:
            named = {_name_of(kernel): rounded[kernel] for kernel in self.kernels}
            return CompressedNetwork(
                **self._settings,
                class_names=None,
                resize=None,
                kernels={name: found.kernel for name, found in named.items()},
                biases={name: SharedValues.of(_bias(found)) for name, found in named.items()},
            )
        arrays: dict[str, Stored] = dict(self._arrays)
        for name, found in rounded.items():
            is_short = found.kernel.codes.size < LEAST_SHARED
            arrays[name] = found.kernel.values if is_short else found.kernel
            if found.bias is not None:
                arrays[_bias_path(name)] = found.bias
        return CompressedModel(self._model.name, self._graph, arrays)


def _halved(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """As float16 has it, or as it was where float16 has too few bits or too small a range."""
    with np.errstate(over="ignore"):
        half = array.astype(np.float16).astype(np.float32)
    fine = np.abs(half - array) <= HALF_PRECISION * np.abs(array)
    return half if fine.all() else array


def _bias(found: Rounded) -> NDArray[np.float32]:
    assert found.bias is not None  # every convolution of a SqueezeNet has one
    return found.bias


def _path_of(name: str) -> str:
    """From "fire2_squeeze1x1" to "fire2/squeeze1x1/kernel"."""
    return f"{name.replace('_', '/')}/kernel"


def _name_of(kernel: str) -> str:
    return kernel.removesuffix("/kernel").replace("/", "_")


def _bias_path(kernel: str) -> str:
    return f"{kernel.rpartition('/')[0]}/bias"
