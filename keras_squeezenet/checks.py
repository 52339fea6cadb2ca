"""What kind of value somebody gave."""

import numpy as np


def is_integer(value) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
