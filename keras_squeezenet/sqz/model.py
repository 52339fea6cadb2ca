"""A model of a fixed list of layers, as data: what a .sqz file of version 2 holds. No Keras."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from keras_squeezenet.checks import is_int
from keras_squeezenet.errors import InputError
from keras_squeezenet.sqz.arguments import MAX_SIDE
from keras_squeezenet.sqz.graph import Graph, check_name
from keras_squeezenet.sqz.network import MAX_CODEBOOK, SharedValues, Values, check_class_names

# An array of few distinct values, or float32 of any.
Stored = SharedValues | Values

# Shared values pay where an array has so many weights for each of them: a value takes a float's
# place in the codebook, and every weight a code.
WEIGHTS_PER_VALUE = 3
LEAST_SHARED = 64  # weights; a shorter array is not worth a codebook of its own


@dataclass(frozen=True, eq=False)
class CompressedModel:
    """A functional or Sequential model, and all that is needed to build it and to feed it.

    Attributes:
        name: of the model.
        graph: a `Graph`.
        arrays: the weights, with names, order and shapes of `graph.array_shapes()`: each is
            `SharedValues`, or a float32 array, finite.
        class_names: one per class; or None.
        resize: how pictures are framed for it: their shorter side in pixels, "stretch", or None.

    Raises:
        InputError: names the attribute that makes no model.
    """

    name: str
    graph: Graph
    arrays: Mapping[str, Stored]
    class_names: tuple[str, ...] | None = None
    resize: int | str | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        check_resize(self.resize)
        if self.class_names is not None:
            check_class_names(self.class_names)
        shapes = self.graph.array_shapes()
        if list(self.arrays) != list(shapes):
            names = [*self.arrays, "nothing"], [*shapes, "nothing"]
            found, expected = next(pair for pair in zip(*names, strict=False) if len(set(pair)) > 1)
            raise InputError(
                "`arrays` must be those of the graph, in its order: "
                f"{expected} in place of {found}. Received: {len(self.arrays)} of {len(shapes)}"
            )
        for name, shape in shapes.items():
            _check_array(name, self.arrays[name], shape)

    def values(self, name: str) -> Values:
        """An array as float32, whichever way it is stored."""
        array = self.arrays[name]
        return np.asarray(array.values if isinstance(array, SharedValues) else array)


def stored(array: ArrayLike) -> Stored:
    """An array as `SharedValues` where it has few distinct ones for its size, else as float32.

    -0.0 becomes 0.0.

    Raises:
        InputError: it is not finite.
    """
    values = np.asarray(np.asarray(array, np.float32) + np.float32(0))  # a scalar is one, too
    if not np.isfinite(values).all():
        raise InputError("`array` must be finite")
    if values.size < LEAST_SHARED:
        return values
    distinct = np.unique(values).size
    if distinct > MAX_CODEBOOK or WEIGHTS_PER_VALUE * distinct > values.size:
        return values
    return SharedValues.of(values)


def is_kernel(name: str) -> bool:
    """Whether an array by its name multiplies inputs: those in which values are shared."""
    return name.endswith("kernel")


def check_resize(resize: Any) -> None:
    if resize not in (None, "stretch") and not is_int(resize, 1, MAX_SIDE):
        raise InputError(
            f"`resize` must be an integer from 1 to {MAX_SIDE}, 'stretch' or None. "
            f"Received: resize={resize!r:.80}"
        )


def _check_array(name: str, array: Any, shape: tuple[int, ...]) -> None:
    if isinstance(array, SharedValues):
        found = array.codes.shape
    elif isinstance(array, np.ndarray) and array.dtype == np.float32:
        found = array.shape
        if not np.isfinite(array).all():
            raise InputError(f"`arrays` must be finite. Received: {name}, which is not")
    else:
        raise InputError(
            f"`arrays` must be SharedValues or float32. Received: {name} of type {type(array)}"
        )
    if found != shape:
        raise InputError(f"`arrays`: {name} must have shape {shape}. Received: {found}")
