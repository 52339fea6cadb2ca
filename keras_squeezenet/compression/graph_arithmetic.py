"""What is written with + − × between layers, as layers that compute the same bits. Keras only.

`x + y` in a functional model is an operation of `keras.ops` and no layer. `Add`, `Subtract`,
`Multiply`, `Maximum` and `Minimum` do the same with tensors of as many axes, and `Rescaling` adds a
number after multiplying by 1, which is exact, or multiplies before adding 0: but for the sign of
zeros the bits are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from keras_squeezenet.checks import is_number
from keras_squeezenet.network.graph import first_inputs_of
from keras_squeezenet.sqz.layer_kinds import DTYPES

_MERGES = ("Add", "Subtract", "Multiply", "Maximum", "Minimum")


def as_layer(
    operation: keras.Operation, args: tuple[Any, ...], kwargs: Mapping[str, Any], tensor: type
) -> tuple[str, dict[str, Any], tuple[Any, ...]] | None:
    """The kind, the arguments and the tensors of a layer that does what an operation does.

    Args:
        operation: of a functional model.
        args, kwargs: what it is called with.
        tensor: the class of what stands for tensors among them.

    Returns:
        None where there is no such layer.
    """
    kind = type(operation).__name__
    is_keras_s = type(operation).__module__.split(".")[0] == "keras"
    given = (*args, *kwargs.values())
    if isinstance(operation, keras.layers.Layer) or not is_keras_s or len(given) != 2:
        return None
    dtype = operation.output.dtype
    if kind not in _MERGES or dtype not in DTYPES:
        return None
    tensors = tuple(each for each in given if isinstance(each, tensor))
    taken = first_inputs_of(operation)
    if any(each.dtype != dtype for each in taken):
        return None
    if len(tensors) == 2:
        same_axes = len({len(each.shape) for each in taken}) == 1
        return (kind, {"dtype": dtype}, tensors) if same_axes else None
    if len(tensors) != 1 or not all(is_number(n) for n in given if not isinstance(n, tensor)):
        return None
    number = float(given[1] if given[0] is tensors[0] else given[0])
    if kind == "Add" or (kind == "Subtract" and given[0] is tensors[0]):
        offset = number if kind == "Add" else -number
        return "Rescaling", {"scale": 1.0, "offset": offset, "dtype": dtype}, tensors
    if kind == "Multiply":
        return "Rescaling", {"scale": number, "dtype": dtype}, tensors
    return None
