"""Bytes that may be hostile, read with their bounds checked; and the same bytes, written."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_squeezenet.errors import InputError

MAX_VARINT_BYTES = 5
NUMBERS_AT_ONCE = 2**14  # packed or unpacked: each of their bits takes some 40 bytes meanwhile


Bytes = bytes | bytearray | memoryview
Integers = NDArray[np.integer[Any]]


class SqzError(InputError):
    """Bytes that are no .sqz file, or no update of this one. The message is one line."""


class Reader:
    """Takes bytes from the front; `what` names them in errors."""

    def __init__(self, data: Bytes, what: str) -> None:
        self._data = memoryview(data)
        self._what = what

    def take(self, count: int) -> memoryview:
        if count > len(self._data):
            raise SqzError(
                f"the {self._what} ends early: expected {count} bytes more. "
                f"Received: {len(self._data)}"
            )
        taken, self._data = self._data[:count], self._data[count:]
        return taken

    def varint(self, maximum: int) -> int:
        """An integer from 0 to `maximum`, seven bits to a byte, the low ones first."""
        value = 0
        for place in range(MAX_VARINT_BYTES):
            byte = self.take(1)[0]
            value |= (byte & 127) << (7 * place)
            if byte < 128:
                break
        if byte >= 128 or (byte == 0 and place):
            raise SqzError(f"a number in the {self._what} takes more bytes than it needs")
        if value > maximum:
            raise SqzError(
                f"a number in the {self._what} must be at most {maximum}. Received: {value}"
            )
        return value

    def signed(self, maximum: int) -> int:
        """An integer from -maximum to maximum: 0, -1, 1, -2, … as varints."""
        value = self.varint(2 * maximum)
        return -(value + 1 >> 1) if value & 1 else value >> 1

    def block(self) -> memoryview:
        """Bytes after their number."""
        return self.take(self.varint(len(self._data)))

    @property
    def left(self) -> int:
        return len(self._data)

    def rest(self) -> memoryview:
        return self.take(len(self._data))

    def sections(self, names: Sequence[str]) -> dict[str, memoryview]:
        """The rest: the lengths of sections, then the sections. A dict from names to bytes."""
        lengths = [self.varint(len(self._data)) for _ in names]
        sections = {name: self.take(size) for name, size in zip(names, lengths, strict=True)}
        self.finish()
        return sections

    def finish(self) -> None:
        if len(self._data):
            raise SqzError(f"the {self._what} goes on for {len(self._data)} bytes after its end")


def varint(value: int) -> bytes:
    data = bytearray()
    while value >= 128:
        data.append(value & 127 | 128)
        value >>= 7
    return bytes([*data, value])


def signed(value: int) -> bytes:
    return varint(2 * value if value >= 0 else -2 * value - 1)


def block(data: bytes) -> bytes:
    return varint(len(data)) + data


def pack_bits(values: ArrayLike, widths: ArrayLike) -> bytes:
    """Integers below 2**width one after the other, high bits first, filled up with zero bits.

    Args:
        values: integers `[n]`.
        widths: integers `[n]` from 0 to 32.
    """
    values, widths = np.asarray(values, np.int64), np.asarray(widths, np.int64)
    bits = [np.zeros(0, np.uint8)]
    for some in _runs(len(widths)):
        shifts = _bits_after(widths[some])
        bits.append((np.repeat(values[some], widths[some]) >> shifts & 1).astype(np.uint8))
    return np.packbits(np.concatenate(bits)).tobytes()


def unpack_bits(data: Bytes, widths: ArrayLike) -> NDArray[np.int64]:
    """The inverse of `pack_bits`: int64 `[n]`."""
    widths = np.asarray(widths, np.int64)
    total = int(widths.sum())
    spare = -total % 8
    if len(data) != (total + spare) // 8 or (spare and data[-1] & (1 << spare) - 1):
        raise SqzError(f"expected {total} bits and zeros after them. Received: {len(data)} bytes")
    numbers, start = np.zeros(len(widths), np.int64), 0
    for some in _runs(len(widths)):
        end = start + int(widths[some].sum())
        octets = np.frombuffer(bytes(data[start // 8 : -(-end // 8)]), np.uint8)
        bits = np.unpackbits(octets)[start % 8 :][: end - start].astype(np.int64)
        sums = np.concatenate([[0], np.cumsum(bits << _bits_after(widths[some]))])
        ends = np.cumsum(widths[some])
        numbers[some] = sums[ends] - sums[ends - widths[some]]
        start = end
    return numbers


def _runs(count: int) -> list[slice]:
    return [slice(at, at + NUMBERS_AT_ONCE) for at in range(0, count, NUMBERS_AT_ONCE)]


def _bits_after(widths: Integers) -> Integers:
    """How many bits of the same number come after each bit."""
    ends = np.cumsum(widths)
    return np.repeat(ends, widths) - np.arange(1, ends[-1] + 1)
