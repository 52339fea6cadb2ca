"""What kind of value somebody gave."""

import math
from typing import TypeGuard

import numpy as np


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
