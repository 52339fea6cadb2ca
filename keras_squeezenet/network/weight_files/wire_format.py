"""The wire format of protocol buffers, read without taking memory for what it declares.

A protobuf library makes an object of every submessage, and two bytes are enough for one. Here a
message stays bytes until somebody asks for its fields, and asking has a limit.
https://protobuf.dev/programming-guides/encoding
"""

import re
from collections.abc import Iterator
from enum import IntEnum
from typing import Any

from keras_squeezenet.network.weight_files.contents import WeightFileError


class WireType(IntEnum):
    VARINT = 0
    FIXED64 = 1
    LENGTH_DELIMITED = 2
    FIXED32 = 5


FIXED_BYTES: dict[int, int] = {WireType.FIXED64: 8, WireType.FIXED32: 4}
MAX_VARINT_BYTES = 10

# How many fields may still be read: as many as it has items.
Budget = Iterator[int]


def field_budget(fields: int) -> Budget:
    """What `read_fields` may spend, on one message or on many together."""
    return iter(range(fields))


def read_fields(message: memoryview, budget: Budget) -> Iterator[tuple[int, int, Any]]:
    """The fields of a message, in their order.

    Args:
        message: a memoryview.
        budget: of `field_budget`; without a limit a file of two-byte fields takes minutes.

    Yields:
        Field number, `WireType` and value: an integer for a varint, else a memoryview. Fixed
        fields of one number that follow each other, as an unpacked list of numbers does, come at
        once, as a memoryview of the records one after the other: a byte of tag and the value.

    Raises:
        WeightFileError: the bytes are no message, or have more fields than the budget.
    """
    position = 0
    while position < len(message):
        if next(budget, None) is None:
            raise WeightFileError("it has more fields than a network could need")
        start = position
        value: Any
        tag, position = read_varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == WireType.VARINT:
            value, position = read_varint(message, position)
        elif wire_type == WireType.LENGTH_DELIMITED:
            length, position = read_varint(message, position)
            value, position = message[position : position + length], position + length
        elif wire_type in FIXED_BYTES and position == start + 1:
            position = _end_of_run(message, start, FIXED_BYTES[wire_type])
            value = message[start:position]
        elif wire_type in FIXED_BYTES:
            position += FIXED_BYTES[wire_type]
            value = message[position - 1 - FIXED_BYTES[wire_type] : position]
        else:
            raise WeightFileError(f"byte {start} of a message starts no field (type {wire_type})")
        if position > len(message):
            raise WeightFileError("a field goes on beyond the end of its message")
        yield number, wire_type, value


def read_varint(message: memoryview, position: int) -> tuple[int, int]:
    """An unsigned number of at most 64 bits, and the position after it."""
    value = 0
    for index, byte in enumerate(message[position : position + MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position + index + 1
    raise WeightFileError("a number in the file has no end")


def read_varints(packed: memoryview, limit: int) -> list[int]:
    """The numbers of a packed list of at most `limit`."""
    values: list[int] = []
    position = 0
    while position < len(packed):
        if len(values) == limit:
            raise WeightFileError(f"a list has more than {limit} numbers")
        value, position = read_varint(packed, position)
        values.append(value)
    return values


def _end_of_run(message: memoryview, start: int, value_bytes: int) -> int:
    """Where the records end that begin with the same tag; at least one of them is assumed."""
    record = b"%s.{%d}" % (re.escape(bytes(message[start : start + 1])), value_bytes)
    # Possessive, so that the matcher keeps no way back for each of a million records.
    run = re.compile(b"(?s:%s)*+" % record).match(message, start)
    assert run is not None  # without a record it is an empty one
    return max(run.end(), start + 1 + value_bytes)
