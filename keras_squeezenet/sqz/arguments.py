"""What an argument of a layer may be in a .sqz file of version 2: kinds of values with ranges.

Lists are tuples here, and numbers that are not whole by nature are floats, so that what was read is
equal to what was written.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras_squeezenet.checks import is_int, is_number

MAX_COUNT = 2**24  # of filters, units, channels: no array has more weights
MAX_SIDE = 2**16  # of a kernel, a window, a stride, padding, in pixels
MAX_AXES = 8  # of a tensor
MAX_LIST = 2**12  # numbers of a list

REQUIRED = object()


@dataclass(frozen=True)
class Argument:
    """An argument of a layer.

    Attributes:
        expected: what it may be, for errors.
        accepts: whether a value is such. Its lists are tuples.
        default: the value of a file that does not have it; `REQUIRED` where it must.
        whole: False where numbers are taken as floats.
    """

    expected: str
    accepts: Callable[[Any], bool]
    default: Any = REQUIRED
    whole: bool = True

    def or_else(self, default: Any) -> "Argument":
        """The same with a default. None is accepted where it is the default."""
        if default is None:
            return Argument(
                f"{self.expected}, or null",
                lambda v: v is None or self.accepts(v),
                None,
                self.whole,
            )
        return Argument(self.expected, self.accepts, default, self.whole)

    def taken(self, value: Any) -> Any:
        """A value as JSON or Keras has it, in the form that `accepts` is asked about."""
        if isinstance(value, list | tuple):
            return tuple(map(self.taken, value))
        if not self.whole and is_number(value):
            return float(value)
        return value


def integer(least: int, most: int) -> Argument:
    return Argument(f"an integer from {least} to {most}", lambda value: is_int(value, least, most))


def number(least: float, most: float) -> Argument:
    """Both ends belong to it."""
    return Argument(
        f"a number from {least:g} to {most:g}",
        lambda value: type(value) is float and least <= value <= most,
        whole=False,
    )


def choice(*names: Any) -> Argument:
    return Argument(
        f"one of {', '.join(map(str, names))}",
        # 1 and 1.0 are equal to True.
        lambda value: any(value == name and type(value) is type(name) for name in names),
    )


def sequence(item: Argument, least: int, most: int) -> Argument:
    length = str(least) if least == most else f"{least} to {most}"
    return Argument(
        f"a list of {length}, each {item.expected}",
        lambda value: (
            isinstance(value, tuple)
            and least <= len(value) <= most
            and all(map(item.accepts, value))
        ),
        whole=item.whole,
    )


def either(*kinds: Argument) -> Argument:
    return Argument(
        " or ".join(kind.expected for kind in kinds),
        lambda value: any(kind.accepts(value) for kind in kinds),
        whole=all(kind.whole for kind in kinds),
    )


COUNT = integer(1, MAX_COUNT)
SIDE = integer(1, MAX_SIDE)
FLAG = choice(False, True)
ANY_NUMBER = number(-math.ldexp(1, 100), math.ldexp(1, 100))
POSITIVE = number(0, math.ldexp(1, 100))
NUMBERS = either(ANY_NUMBER, sequence(ANY_NUMBER, 1, MAX_LIST))
AXIS = integer(-MAX_AXES, MAX_AXES - 1)
AXES = sequence(AXIS, 1, MAX_AXES)
SHAPE = sequence(integer(1, MAX_COUNT), 0, MAX_AXES)
RATE = number(0, 1)
