"""Calls of keras.ops between layers, + − × among them, as layers of the same bits. Keras only.

`x + y` in a functional model is an operation of `keras.ops` and no layer. `Add`, `Subtract`,
`Multiply`, `Maximum` and `Minimum` do the same with tensors of as many axes, and `Rescaling` adds a
number after multiplying by 1, which is exact, or multiplies before adding 0: but for the sign of
zeros the bits are the same. Activations, `concatenate`, `reshape` of all but the batch, and `mean`
and `max` over height and width are what some layers call. What has no such layer is refused: a
division, whose bits are not those of a product, a power, a cast, a transposition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import keras

from keras_squeezenet.checks import is_int, is_number
from keras_squeezenet.network.graph import first_inputs_of
from keras_squeezenet.sqz.layer_kinds import DTYPES

_MERGES = ("Add", "Subtract", "Multiply", "Maximum", "Minimum")
# Operations without arguments of their own, by their classes, and Keras's functions that do them.
_ACTIVATIONS = {
    "HardSigmoid": "hard_sigmoid",
    "HardSilu": "hard_silu",
    "HardTanh": "hard_tanh",
    "LogSigmoid": "log_sigmoid",
    "Relu": "relu",
    "Relu6": "relu6",
    "Selu": "selu",
    "Sigmoid": "sigmoid",
    "Silu": "silu",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Tanh": "tanh",
    "TanhShrink": "tanh_shrink",
}
_OVER_ALL_PLACES = {"Mean": "GlobalAveragePooling", "Max": "GlobalMaxPooling"}


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
    is_keras_s = type(operation).__module__.split(".")[0] == "keras"
    given = (*args, *kwargs.values())
    if isinstance(operation, keras.layers.Layer) or not is_keras_s:
        return None
    dtype = getattr(operation.output, "dtype", None)  # of several outputs there is none
    taken = first_inputs_of(operation)
    if dtype not in DTYPES or any(each.dtype != dtype for each in taken):
        return None
    if len(given) == 2 and type(operation).__name__ in _MERGES:
        return _arithmetic(operation, given, dtype, tensor)
    if len(given) != 1:
        return None
    tensors = tuple(given[0]) if isinstance(given[0], list | tuple) else given
    if not all(isinstance(each, tensor) for each in tensors):
        return None
    found = _of_tensors_alone(operation, taken)
    return None if found is None else (found[0], {**found[1], "dtype": dtype}, tensors)


def _of_tensors_alone(
    operation: keras.Operation, taken: Sequence[keras.KerasTensor]
) -> tuple[str, dict[str, Any]] | None:
    """The kind and the arguments of a layer that takes the same tensors and nothing else."""
    kind, shape = type(operation).__name__, taken[0].shape
    if kind in _ACTIVATIONS:
        return "Activation", {"activation": _ACTIVATIONS[kind]}
    if kind == "Concatenate":
        axis = operation.axis
        return None if axis in (0, -len(shape)) else (kind, {"axis": axis})
    if kind in _OVER_ALL_PLACES:
        axes = operation.axis if isinstance(operation.axis, list | tuple) else (operation.axis,)
        rank = len(shape)
        if rank not in (3, 4) or None in axes:
            return None
        if {axis % rank for axis in axes} != set(range(1, rank - 1)):
            return None
        if getattr(operation, "initial", None) is not None:  # a maximum begins with it
            return None
        # Which axes they are is said here; the default is the reader's.
        arguments = {"data_format": "channels_last", "keepdims": operation.keepdims}
        return f"{_OVER_ALL_PLACES[kind]}{rank - 2}D", arguments
    if kind == "Reshape":
        batch, *sizes = operation.newshape
        known = None not in shape[1:] and all(is_int(size, 1) for size in sizes)
        if batch == -1 and known and prod(sizes) == prod(shape[1:]):
            return kind, {"target_shape": tuple(sizes)}
    return None


def _arithmetic(
    operation: keras.Operation, given: tuple[Any, ...], dtype: str, tensor: type
) -> tuple[str, dict[str, Any], tuple[Any, ...]] | None:
    kind, taken = type(operation).__name__, first_inputs_of(operation)
    tensors = tuple(each for each in given if isinstance(each, tensor))
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
