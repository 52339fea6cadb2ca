"""Bytes that may be hostile, read with their bounds checked; and the same bytes, written."""

import numpy as np

from keras_squeezenet.errors import InputError

MAX_VARINT_BYTES = 5


class SqzError(InputError):
    """Bytes that are no .sqz file, or no update of this one. The message is one line."""


class Reader:
    """Takes bytes from the front; `what` names them in errors."""

    def __init__(self, data, what):
        self._data = memoryview(data)
        self._what = what

    def take(self, count):
        if count > len(self._data):
            raise SqzError(
                f"the {self._what} ends early: expected {count} bytes more. "
                f"Received: {len(self._data)}"
            )
        taken, self._data = self._data[:count], self._data[count:]
        return taken

    def varint(self, maximum):
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

    def signed(self, maximum):
        """An integer from -maximum to maximum: 0, -1, 1, -2, … as varints."""
        value = self.varint(2 * maximum)
        return -(value + 1 >> 1) if value & 1 else value >> 1

    def block(self):
        """Bytes after their number."""
        return self.take(self.varint(len(self._data)))

    def rest(self):
        return self.take(len(self._data))

    def sections(self, names):
        """The rest: the lengths of sections, then the sections. A dict from names to bytes."""
        lengths = [self.varint(len(self._data)) for _ in names]
        sections = {name: self.take(size) for name, size in zip(names, lengths, strict=True)}
        self.finish()
        return sections

    def finish(self):
        if len(self._data):
            raise SqzError(f"the {self._what} goes on for {len(self._data)} bytes after its end")


def varint(value):
    data = bytearray()
    while value >= 128:
        data.append(value & 127 | 128)
        value >>= 7
    return bytes([*data, value])


def signed(value):
    return varint(2 * value if value >= 0 else -2 * value - 1)


def block(data):
    return varint(len(data)) + data


def pack_bits(values, widths):
    """Integers below 2**width one after the other, high bits first, filled up with zero bits.

    Args:
        values: integers `[n]`.
        widths: integers `[n]` from 0 to 32.
    """
    widths = np.asarray(widths, np.int64)
    ends = np.cumsum(widths)
    total = int(ends[-1]) if len(ends) else 0
    # How many bits of the same number come after each bit.
    after = np.repeat(ends, widths) - np.arange(1, total + 1)
    bits = np.repeat(np.asarray(values, np.int64), widths) >> after & 1
    return np.packbits(bits.astype(np.uint8)).tobytes()


def unpack_bits(data, widths):
    """The inverse of `pack_bits`: int64 `[n]`."""
    widths = np.asarray(widths, np.int64)
    ends = np.cumsum(widths)
    total = int(ends[-1]) if len(ends) else 0
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    if len(data) != -(-total // 8) or bits[total:].any():
        raise SqzError(f"expected {total} bits and zeros after them. Received: {len(data)} bytes")
    after = np.repeat(ends, widths) - np.arange(1, total + 1)
    sums = np.concatenate([[0], np.cumsum(bits[:total].astype(np.int64) << after)])
    return sums[ends] - sums[ends - widths]
