"""A model's weights in the values of the one that it was trained on from. Numpy only.

So the update from one to the other is small: what moved little takes the old values, and what is
new gets as many values of its own as the old model has.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from keras_squeezenet.compression.without_training.codebooks import (
    MAX_CHANGE_BY_BASE,
    nearest_values,
    relative_change,
    share_values,
)
from keras_squeezenet.errors import InputError
from keras_squeezenet.sqz.float_changes import rounded
from keras_squeezenet.sqz.model import CompressedModel, Stored, is_kernel, stored
from keras_squeezenet.sqz.network import SharedValues, Values

# Of numbers that moved, as many as float16 has: biases, statistics and factors of normalization
# change by 1/2048 of themselves at most, and their update is half as long.
SIGNIFICANT_BITS = 11


def in_values_of(base: CompressedModel, arrays: Mapping[str, Values]) -> dict[str, Stored]:
    """The arrays of a model that was trained on from another, few of them far from its own.

    An array that did not change is kept. Shared values take the nearest of the base's, unless that
    changes the array by more than `MAX_CHANGE_BY_BASE`, as that of a new head: such a one, and a
    kernel that the base does not have, gets its own, by k-means, as many as the base's. Numbers
    are rounded to `SIGNIFICANT_BITS`.

    Raises:
        InputError: no kernel is near the base's.
    """
    given = {name: _in_values_of(base, name, array) for name, array in arrays.items()}
    near = [is_near for _, is_near in given.values()]
    if not any(near):
        raise InputError(
            "`base` must be a network that the model was trained on from: some kernels must be "
            f"within {MAX_CHANGE_BY_BASE:.0%} of its values. Received: {base.name}, where none is"
        )
    return {name: array for name, (array, _) in given.items()}


def _in_values_of(base: CompressedModel, name: str, array: Values) -> tuple[Stored, bool]:
    """An array as it is to be stored, and whether it is a kernel that is near the base's."""
    old = base.arrays.get(name)
    old = None if old is None or base.values(name).shape != array.shape else old
    if old is not None and np.array_equal(base.values(name), array):
        return old, is_kernel(name)
    if isinstance(old, SharedValues):
        near = nearest_values(array, old)
        if relative_change(array, near.values) <= MAX_CHANGE_BY_BASE:
            return near, is_kernel(name)
        return share_values(array, _bits_of(old)), False
    if old is not None:
        new = rounded(array, SIGNIFICANT_BITS)
        is_near = relative_change(array, base.values(name)) <= MAX_CHANGE_BY_BASE
        return new, is_near and is_kernel(name)
    kernels = [each for kernel, each in base.arrays.items() if is_kernel(kernel)]
    bits = [_bits_of(each) for each in kernels if isinstance(each, SharedValues)]
    if is_kernel(name) and bits:
        return stored(share_values(array, max(bits)).values), False
    return stored(rounded(array, SIGNIFICANT_BITS)), False


def _bits_of(shared: SharedValues) -> int:
    """So many that its values have different codes."""
    used = np.unique(shared.codes).size
    return max(1, (used - 1).bit_length())
