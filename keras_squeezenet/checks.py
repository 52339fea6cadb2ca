"""What kind of value somebody gave."""

import math
from typing import TypeGuard

import numpy as np

from keras_squeezenet.errors import InputError, shown


def is_int(value: object, least: float = -math.inf, most: float = math.inf) -> TypeGuard[int]:
    """Whether a value is an integer of Python's, such as JSON can hold, and within bounds."""
    return type(value) is int and least <= value <= most


def is_integer(
    value: object, least: float = -math.inf, most: float = math.inf
) -> TypeGuard[int | np.integer]:
    """Whether a value is an integer of Python's or numpy's, no truth value, and within bounds."""
    return (
        isinstance(value, int | np.integer)
        and not isinstance(value, bool)
        and bool(least <= value <= most)
    )


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a real number of Python's or numpy's, no truth value."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def check_integer(name: str, value: object, least: int, otherwise: str = "") -> None:
    """Refuse a value of an argument that is no integer of Python's of this size.

    Args:
        name: of the argument.
        value: what was given.
        least: the smallest that may be.
        otherwise: what else may be, for the error.

    Raises:
        InputError: one line.
    """
    if not is_int(value, least):
        raise InputError(
            f"`{name}` must be an integer ≥ {least}{otherwise}. Received: {name}={shown(value)}"
        )
