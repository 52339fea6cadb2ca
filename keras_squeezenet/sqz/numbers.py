"""Codebooks and biases: few numbers, each of which counts.

Both are written as a uniform grid (one float32 step times integers), as float16 or as float32,
whichever is exact and small. A number becomes a class, which a Huffman code of the whole section
writes, and the low bits that its class leaves open, which are written as they are.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from keras_squeezenet.sqz import huffman
from keras_squeezenet.sqz.network import MAX_CODEBOOK, Codes, Values
from keras_squeezenet.sqz.reading import (
    Bytes,
    Integers,
    Reader,
    SqzError,
    block,
    pack_bits,
    signed,
    unpack_bits,
    varint,
)

GRID, FLOAT16, FLOAT32 = range(3)
FLOATS: dict[int, np.dtype[Any]] = {FLOAT16: np.dtype("<f2"), FLOAT32: np.dtype("<f4")}
MAX_LEVEL = MAX_CODEBOOK - 1  # of a grid, either sign
MAX_ENTRIES = 2**22  # of all codebooks
STEP_DIVISORS = 16  # so many steps may lie between the nearest values in use
UNITS_PER_MAXIMUM = 4096
GRID_SLACK = 64  # of a codebook: so many unused values at most, and four times those in use


@dataclass(frozen=True, eq=False)
class Alphabet:
    """The values that the weights of a kernel can have.

    Attributes:
        codebook: float32, strictly ascending.
        step: float32, of a uniform grid; or None.
        first: the smallest value of a grid, in steps.
    """

    codebook: Values
    step: np.float32 | None = None
    first: int = 0

    @classmethod
    def of(cls, values: Values) -> "Alphabet":
        """The alphabet of ascending values that are all in use."""
        grid = _grid(values, min(GRID_SLACK + 4 * len(values), MAX_LEVEL))
        if grid:
            step, levels = grid
            return cls.of_grid(step, int(levels[0]), int(levels[-1]))
        return cls(values)

    @classmethod
    def of_grid(cls, step: np.float32, first: int, last: int) -> "Alphabet":
        return cls(step * np.arange(first, last + 1, dtype=np.float32), step, first)

    @property
    def code_of_zero(self) -> int | None:
        """The index of 0.0 in the codebook, or None."""
        code = int(np.searchsorted(self.codebook, 0))
        return code if code < len(self.codebook) and self.codebook[code] == 0 else None

    @property
    def unit(self) -> np.float32:
        """What widths are measured in: the step of a grid, or 1/4096 of the largest magnitude."""
        if self.step is not None:
            return self.step
        unit = np.abs(self.codebook).max() / np.float32(UNITS_PER_MAXIMUM)
        return np.maximum(unit, np.finfo(np.float32).smallest_subnormal)


Layer = tuple[Alphabet, Codes]


def encode_codebooks(alphabets: Iterable[Alphabet]) -> bytes:
    forms, integers = bytearray(), []
    for alphabet in alphabets:
        if alphabet.step is not None:
            forms += bytes([GRID]) + _step_bytes(alphabet.step)
            forms += signed(alphabet.first) + varint(len(alphabet.codebook) - 1)
            continue
        form = _float_form(alphabet.codebook)
        forms += bytes([form]) + varint(len(alphabet.codebook) - 1)
        integers.append(np.diff(_ordered(alphabet.codebook, FLOATS[form]), prepend=0))
    return block(bytes(forms)) + encode_integers(_joined(integers))


def decode_codebooks(data: Bytes, count: int) -> list[Alphabet]:
    reader = Reader(data, "section of codebooks")
    forms = Reader(reader.block(), "forms of codebooks")
    shapes = [_read_codebook_form(forms) for _ in range(count)]
    forms.finish()
    sizes = [shape for _, shape in shapes if isinstance(shape, int)]
    grids = (shape for _, shape in shapes if isinstance(shape, Alphabet))
    total = sum(sizes) + sum(len(grid.codebook) for grid in grids)
    if total > MAX_ENTRIES:
        raise SqzError(f"codebooks have at most {MAX_ENTRIES} values in all. Received: {total}")
    integers = iter(np.split(decode_integers(reader, sum(sizes)), np.cumsum(sizes)[:-1]))
    reader.finish()
    return [
        shape if isinstance(shape, Alphabet) else _alphabet_of_floats(next(integers), FLOATS[form])
        for form, shape in shapes
    ]


def encode_biases(arrays: Iterable[Values]) -> bytes:
    """Biases: float32 `[filters]` each."""
    forms, integers = bytearray(), []
    floats: dict[int, list[NDArray[Any]]] = {form: [] for form in FLOATS}
    for values in arrays:
        form = _float_form(values)
        grid = _grid(values)
        if grid:
            step, levels = grid[0], zigzag(grid[1])
            if _low_bits(levels) < np.finfo(FLOATS[form]).nmant * len(values):
                forms += bytes([GRID]) + _step_bytes(step)
                integers.append(levels)
                continue
        forms.append(form)
        floats[form].append(values.astype(FLOATS[form]))
    parts = [_encode_floats(_joined(floats[form], FLOATS[form])) for form in FLOATS]
    return block(bytes(forms)) + encode_integers(_joined(integers)) + b"".join(parts)


def decode_biases(data: Bytes, sizes: Sequence[int]) -> list[Values]:
    reader = Reader(data, "section of biases")
    forms = Reader(reader.block(), "forms of biases")
    steps = [_read_bias_form(forms) for _ in sizes]
    forms.finish()
    totals = dict.fromkeys((GRID, FLOAT16, FLOAT32), 0)
    for (form, _), size in zip(steps, sizes, strict=True):
        totals[form] += size
    numbers = {GRID: unzigzag(decode_integers(reader, totals[GRID]))}
    for form, dtype in FLOATS.items():
        numbers[form] = _decode_floats(reader, totals[form], dtype)
    reader.finish()
    arrays, used = [], dict.fromkeys(numbers, 0)
    for (form, step), size in zip(steps, sizes, strict=True):
        values = numbers[form][used[form] : used[form] + size].astype(np.float32)
        used[form] += size
        arrays.append(values if step is None else values * step)
    return arrays


def _grid(values: Values, highest: int = MAX_LEVEL) -> tuple[np.float32, Integers] | None:
    """A step, and integers up to `highest` with step * integers == values; or None.

    The product is float32's, rounded.
    """
    distinct = np.unique(np.abs(values)).astype(np.float64)
    magnitudes = distinct[distinct > 0]
    if not len(magnitudes):
        return np.float32(1), np.zeros(len(values), np.int64)
    smallest = min(magnitudes[0], np.diff(magnitudes).min(initial=np.inf))
    for divisor in range(1, STEP_DIVISORS + 1):
        guess = smallest / divisor
        if guess < np.finfo(np.float32).tiny or magnitudes[-1] > highest * guess:
            break
        guess = _refined(guess, magnitudes)
        # Rounding has moved the largest value, and so the guess, by one unit in the last place.
        for toward in (guess, 0, np.inf):
            step = np.nextafter(np.float32(guess), np.float32(toward))
            levels = np.rint(values / step)
            if np.array_equal(step * levels, values):
                return step, levels.astype(np.int64)
    return None


def _refined(step: float, magnitudes: NDArray[np.float64]) -> float:
    """The step by which the largest magnitude is a multiple, found by way of the smaller ones."""
    for magnitude in magnitudes.tolist():
        step = magnitude / max(round(magnitude / step), 1)
    return step


def _float_form(values: Values) -> int:
    with np.errstate(over="ignore"):
        return FLOAT16 if np.array_equal(values.astype(np.float16), values) else FLOAT32


def _step_bytes(step: np.float32) -> bytes:
    return np.array(step, "<f4").tobytes()


def _read_step(reader: Reader) -> np.float32:
    step = np.frombuffer(reader.take(4), "<f4")[0]
    if not (np.isfinite(step) and step >= np.finfo(np.float32).tiny):
        raise SqzError(f"the step of a grid must be a positive normal number. Received: {step}")
    return np.float32(step)


def _read_codebook_form(reader: Reader) -> tuple[int, Alphabet | int]:
    """(GRID, alphabet) or (another form, number of values)."""
    form = reader.varint(FLOAT32)
    if form != GRID:
        return form, reader.varint(MAX_CODEBOOK - 1) + 1
    step = _read_step(reader)
    first = reader.signed(MAX_LEVEL)
    last = first + reader.varint(MAX_CODEBOOK - 1)
    if last > MAX_LEVEL or not np.isfinite(step * np.float32(max(last, -first))):
        raise SqzError(f"a grid must be finite. Received: step {step}, {first} to {last}")
    return form, Alphabet.of_grid(step, first, last)


def _read_bias_form(reader: Reader) -> tuple[int, np.float32 | None]:
    form = reader.varint(FLOAT32)
    return form, _read_step(reader) if form == GRID else None


def _alphabet_of_floats(differences: Integers, dtype: np.dtype[Any]) -> Alphabet:
    keys = np.cumsum(differences)
    bits = 8 * dtype.itemsize
    if (keys >> bits).any() or (differences[1:] == 0).any():
        raise SqzError("a codebook must ascend, within the range of its numbers")
    sign = 1 << bits - 1
    patterns = np.where(keys >= sign, keys - sign, 2 * sign - 1 - keys)
    codebook = patterns.astype(f"<u{dtype.itemsize}").view(dtype).astype(np.float32)
    if not np.isfinite(codebook).all() or (np.signbit(codebook) & (codebook == 0)).any():
        raise SqzError("a codebook must be finite, and without -0.0")
    return Alphabet(codebook)


def _ordered(values: Values, dtype: np.dtype[Any]) -> Integers:
    """Integers that order floats as the floats do."""
    sign = 1 << 8 * dtype.itemsize - 1
    patterns = values.astype(dtype).view(f"<u{dtype.itemsize}").astype(np.int64)
    return np.where(patterns < sign, patterns + sign, 2 * sign - 1 - patterns)


def zigzag(levels: Integers) -> Integers:
    """0, -1, 1, -2, … as 0, 1, 2, 3, …"""
    return np.where(levels < 0, -2 * levels - 1, 2 * levels)


def unzigzag(numbers: Integers) -> Integers:
    return np.where(numbers & 1, -(numbers + 1 >> 1), numbers >> 1)


INTEGER_CLASSES = 34  # bit lengths from 0 to 33: zigzagged levels and differences of 32-bit keys


def encode_integers(integers: Integers) -> bytes:
    """A run of integers from 0 to 2**33 - 1."""
    classes = _bit_lengths(integers)
    widths = np.maximum(classes - 1, 0)
    return _encode_classes(classes, INTEGER_CLASSES) + _encode_low_bits(integers, widths)


def _bit_lengths(integers: Integers) -> Integers:
    return np.frexp(integers.astype(np.float64))[1]  # exact: there are 33 bits at most


def _low_bits(integers: Integers) -> int:
    """How many bits of the integers are written as they are."""
    return np.maximum(_bit_lengths(integers) - 1, 0).sum()


def decode_integers(reader: Reader, count: int) -> Integers:
    classes = _decode_classes(reader, INTEGER_CLASSES, count)
    widths = np.maximum(classes - 1, 0)
    low = _decode_low_bits(reader, widths)
    return low + np.where(classes, np.int64(1) << widths, 0)


def _encode_floats(floats: NDArray[np.floating[Any]]) -> bytes:
    mantissa = np.finfo(floats.dtype).nmant
    patterns = floats.view(f"<u{floats.itemsize}").astype(np.int64)
    classes = 1 << 8 * floats.itemsize - mantissa
    return _encode_classes(patterns >> mantissa, classes) + _encode_low_bits(
        patterns, np.full(len(patterns), mantissa)
    )


def _decode_floats(reader: Reader, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    mantissa = np.finfo(dtype).nmant
    classes = _decode_classes(reader, 1 << 8 * dtype.itemsize - mantissa, count)
    low = _decode_low_bits(reader, np.full(count, mantissa))
    return (classes << mantissa | low).astype(f"<u{dtype.itemsize}").view(dtype)


def _encode_classes(classes: Integers, alphabet: int) -> bytes:
    """Nothing where there are no numbers; else the lengths of the code in use, and its words."""
    if not len(classes):
        return b""
    lengths = huffman.code_lengths(np.bincount(classes, minlength=alphabet))
    used = np.flatnonzero(lengths)
    table = lengths[used[0] : used[-1] + 1]
    head = varint(int(used[0])) + varint(len(table) - 1) + pack_bits(table, [5] * len(table))
    return head + block(huffman.encode(classes, lengths))


def _decode_classes(reader: Reader, alphabet: int, count: int) -> Integers:
    if not count:
        return np.zeros(0, np.int64)
    first = reader.varint(alphabet - 1)
    used = reader.varint(alphabet - 1 - first) + 1
    lengths = np.zeros(alphabet, np.uint8)
    lengths[first : first + used] = unpack_bits(reader.take(-(-5 * used // 8)), [5] * used)
    return huffman.decode(reader.block(), lengths, count)


def _encode_low_bits(numbers: Integers, widths: Integers) -> bytes:
    return pack_bits(numbers & (np.int64(1) << widths) - 1, widths)


def _decode_low_bits(reader: Reader, widths: Integers) -> Integers:
    return unpack_bits(reader.take(-(-int(widths.sum()) // 8)), widths)


def _joined(arrays: Sequence[NDArray[Any]], dtype: DTypeLike = np.int64) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *arrays])
