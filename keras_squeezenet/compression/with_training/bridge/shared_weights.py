"""Which variables of a Keras 3 model are those of which layer in the twin."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from keras_squeezenet.compression.with_training.bridge import lines
from keras_squeezenet.compression.with_training.bridge.composed_layers import (
    LayerScale,
    group_name,
)
from keras_squeezenet.compression.with_training.bridge.same_layers import CARRIED, WITH_KERNEL
from keras_squeezenet.network.families.layers import GroupedConv2D
from keras_squeezenet.network.kernel_layers import SEPARABLE
from keras_squeezenet.network.layers import Fire


@dataclass(frozen=True, eq=False)
class SharedWeights:
    """What a layer of the twin has its weights from.

    Attributes:
        variables: of the Keras 3 model, in the order of the layer's weights.
        shapes: theirs in the twin. The numbers come in the same order.
        has_kernel: whether the first of them is a kernel that is pruned and clustered.
        part: of the last axis of each variable, that the layer has.
    """

    variables: tuple[keras.Variable, ...]
    shapes: tuple[tuple[int, ...], ...]
    has_kernel: bool = False
    part: slice = field(default_factory=lambda: slice(None))

    @classmethod
    def of(
        cls,
        variables: Sequence[keras.Variable],
        first_shape: tuple[int, ...] | None = None,
        has_kernel: bool = False,
    ) -> "SharedWeights":
        """Of variables, all but the first in their own shapes."""
        shapes = [tuple(variable.shape) for variable in variables]
        if first_shape is not None:
            shapes[0] = first_shape
        return cls(tuple(variables), tuple(shapes), has_kernel)

    def arrays(self) -> list[NDArray[np.float32]]:
        """float32 values in the twin's shapes."""
        return [
            np.asarray(variable, np.float32)[..., self.part].reshape(shape)
            for variable, shape in zip(self.variables, self.shapes, strict=True)
        ]

    def assign(self, arrays: Sequence[np.ndarray]) -> None:
        """Give the variables values in the twin's shapes."""
        for variable, array in zip(self.variables, arrays, strict=True):
            values = np.asarray(variable).copy()
            values[..., self.part] = np.reshape(array, values[..., self.part].shape)
            variable.assign(values)


def sources_by_name(names: Mapping[keras.Operation, str]) -> dict[str, SharedWeights]:
    """By the names of the twin's layers, in the order of execution.

    Args:
        names: of every operation of the model in the twin.
    """
    return {
        name: source
        for operation, own_name in names.items()
        for name, source in _of_operation(operation, own_name)
    }


def _of_operation(operation: Any, name: str) -> Iterator[tuple[str, SharedWeights]]:
    kind = type(operation)
    if kind is Fire:
        for part in operation.convolutions:
            yield from _of_operation(part, f"{name}_{part.name}")
    elif kind in SEPARABLE:
        depthwise, *others = operation.weights
        of_images = [_of_an_image(kernel) for kernel in (depthwise, others[0])]
        yield f"{name}_depthwise", SharedWeights.of([depthwise], of_images[0])
        yield f"{name}_pointwise", SharedWeights.of(others, of_images[1], has_kernel=True)
    elif kind is GroupedConv2D:
        filters = operation.filters // operation.groups
        variables = tuple(operation.weights)
        shapes = tuple((*variable.shape[:-1], filters) for variable in variables)
        for number in range(operation.groups):
            part = slice(number * filters, (number + 1) * filters)
            yield f"{name}_{group_name(number)}", SharedWeights(variables, shapes, True, part)
    elif LayerScale is not None and kind is LayerScale:
        (gamma,) = operation.weights
        yield name, SharedWeights.of([gamma], (1, 1, *gamma.shape, 1))
    elif lines.is_depthwise(operation):
        *sides, _, filters = _of_an_image(operation.kernel)
        shape = (*sides, operation.groups, filters // operation.groups)
        yield name, SharedWeights.of(operation.weights, shape)
    elif kind in (layers.Conv1D, layers.Conv1DTranspose, layers.DepthwiseConv1D):
        has_kernel = kind is not layers.DepthwiseConv1D
        yield name, SharedWeights.of(operation.weights, _of_an_image(operation.kernel), has_kernel)
    elif kind in CARRIED and operation.weights:
        yield name, SharedWeights.of(operation.weights, has_kernel=kind in WITH_KERNEL)


def _of_an_image(kernel: keras.Variable) -> tuple[int, ...]:
    """The shape of a kernel of images, also of one along a line."""
    shape = tuple(kernel.shape)
    return shape if len(shape) == 4 else (1, *shape)
