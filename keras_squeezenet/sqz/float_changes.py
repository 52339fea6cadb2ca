"""What arrays of numbers become in an update: differences of floats, as integers.

A float32 has the key that its bits without the sign are as an integer, with its sign: keys ascend
as the floats do, and close floats have close keys. Numbers of few significant bits, as 11 of them
are, end in zeros that all keys have in common; those are left out.
"""

from __future__ import annotations

import numpy as np

from keras_squeezenet.sqz.network import Values
from keras_squeezenet.sqz.reading import Integers, SqzError

MANTISSA = 23  # bits of a float32; so many low bits of the keys may be left out
LARGEST_KEY = 0x7F7FFFFF  # of a finite number


def differences(old: Values, new: Values) -> tuple[int, Integers]:
    """How many low bits are zero in the keys of all new numbers, and how far the rest has moved."""
    wanted = _keys(new)
    ones = int(np.bitwise_or.reduce(np.abs(wanted), axis=None, initial=0)) | 1 << MANTISSA
    shift = (ones & -ones).bit_length() - 1
    return shift, (wanted >> shift) - (_keys(old) >> shift)


def moved(old: Values, shift: int, by: Integers) -> Values:
    """The inverse of `differences`: the new numbers, of the shape of the old ones.

    Raises:
        SqzError: some are not finite.
    """
    keys = ((_keys(old) >> shift) + by.reshape(old.shape)) << shift
    magnitudes = np.abs(keys)
    if magnitudes.size and magnitudes.max() > LARGEST_KEY:
        raise SqzError("the update makes a number that is not finite")
    values = magnitudes.astype(np.uint32).view(np.float32)
    return np.where(keys < 0, -values, values)


def rounded(values: Values, bits: int) -> Values:
    """The nearest numbers of so many significant bits, 1 to 24; those below 2**-126 have fewer."""
    shift = MANTISSA + 1 - bits
    magnitudes = np.abs(_keys(values)) + (1 << shift >> 1) >> shift
    magnitudes = np.minimum(magnitudes, LARGEST_KEY >> shift) << shift
    return np.copysign(magnitudes.astype(np.uint32).view(np.float32), values) + np.float32(0)


def _keys(values: Values) -> Integers:
    patterns = values.view(np.uint32).astype(np.int64)
    return np.where(patterns >> 31, -(patterns & 0x7FFFFFFF), patterns)
