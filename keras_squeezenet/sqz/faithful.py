"""The faithful mode: codes and positions in Huffman codes, layer by layer.

Source: Han et al., arXiv 1510.00149, sections 2 (positions as gaps, with filler zeros where a gap
does not fit its bits; Figure 2) and 4 (Huffman coding).
"""

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from keras_squeezenet.network.architecture import KernelShape
from keras_squeezenet.sqz import huffman
from keras_squeezenet.sqz.huffman import Lengths
from keras_squeezenet.sqz.network import Codes
from keras_squeezenet.sqz.numbers import Alphabet, Layer
from keras_squeezenet.sqz.reading import (
    Bytes,
    Integers,
    Reader,
    SqzError,
    block,
    pack_bits,
    unpack_bits,
    varint,
)

MAX_GAP_BITS = 8
SECTIONS = ("code lengths", "codes", "positions")


def encode(layers: Sequence[Layer]) -> dict[str, bytes]:
    """Three sections.

    Args:
        layers: pairs of an `Alphabet` and codes, uint16 with the kernel's shape.

    Returns:
        A dict from the names in `SECTIONS` to bytes.
    """
    tables, codes, positions = [], bytearray(), bytearray()
    for alphabet, array in layers:
        gap_bits, entries, gaps = _smallest(array.ravel(), alphabet.code_of_zero)
        for symbols, size, stream in (
            (entries, len(alphabet.codebook), codes),
            (gaps, 1 << gap_bits, positions),
        ):
            lengths = huffman.code_lengths(np.bincount(symbols, minlength=size))
            if stream is positions:
                stream += varint(gap_bits)
                if not gap_bits:
                    continue
                stream += varint(len(gaps))
            tables.append(lengths)
            stream += block(huffman.encode(symbols, lengths))
    return dict(
        zip(SECTIONS, (_encode_lengths(tables), bytes(codes), bytes(positions)), strict=True)
    )


def decode(
    sections: Mapping[str, Bytes], alphabets: Sequence[Alphabet], shapes: Sequence[KernelShape]
) -> list[Codes]:
    """Codes of the kernels, uint16: the inverse of `encode`."""
    positions = Reader(sections["positions"], "section of positions")
    heads = [_read_head(positions, prod(shape)) for shape in shapes]
    positions.finish()
    sizes = []
    for alphabet, (gap_bits, _, _) in zip(alphabets, heads, strict=True):
        sizes += [len(alphabet.codebook), *([1 << gap_bits] if gap_bits else [])]
    tables = iter(_decode_lengths(sections["code lengths"], sizes))
    codes = Reader(sections["codes"], "section of codes")
    layers = []
    for alphabet, shape, (gap_bits, count, stream) in zip(alphabets, shapes, heads, strict=True):
        entries = huffman.decode(codes.block(), next(tables), count)
        if gap_bits:
            gaps = huffman.decode(stream, next(tables), count)
            entries = _placed(entries, gaps, alphabet.code_of_zero, prod(shape))
        layers.append(entries.astype(np.uint16).reshape(shape))
    codes.finish()
    return layers


def _smallest(codes: Integers, zero: int | None) -> tuple[int, Integers, Integers]:
    """Bits of a gap, entries and gaps of the form that packs smallest; 0 bits store all weights."""
    forms: list[tuple[int, Integers, Integers]] = [(0, codes, np.zeros(0, np.int64))]
    if zero is not None and (codes == zero).any():
        forms += [(bits, *_entries(codes, zero, bits)) for bits in range(1, MAX_GAP_BITS + 1)]
    return min(forms, key=lambda form: _cost(form[1], form[2]))


def _cost(*streams: Integers) -> int:
    bits = 0
    for symbols in streams:
        counts = np.bincount(symbols)
        lengths = huffman.code_lengths(counts)
        if np.count_nonzero(lengths) > 1:
            bits += int(counts @ lengths)
        bits += 2 * len(lengths)  # about what the lengths take
    return bits


def _entries(codes: Integers, zero: int, gap_bits: int) -> tuple[Integers, Integers]:
    """The weights that are stored, and how many are skipped before each."""
    positions = np.flatnonzero(codes != zero)
    gaps = np.diff(positions, prepend=-1) - 1
    fillers = gaps >> gap_bits
    last = np.cumsum(fillers + 1) - 1
    entries = np.full(int(last[-1]) + 1 if len(last) else 0, zero)
    skipped = np.full(len(entries), (1 << gap_bits) - 1)
    entries[last] = codes[positions]
    skipped[last] = gaps & (1 << gap_bits) - 1
    return entries, skipped


def _placed(entries: Integers, gaps: Integers, zero: int | None, size: int) -> Codes:
    positions = np.cumsum(gaps + 1) - 1
    if len(positions) and positions[-1] >= size:
        raise SqzError(f"positions go on beyond the {size} weights of a kernel")
    if zero is None:
        raise SqzError("a kernel with positions must have 0 in its codebook")
    codes = np.full(size, zero, np.uint16)
    codes[positions] = entries
    return codes


def _read_head(reader: Reader, size: int) -> tuple[int, int, Bytes]:
    gap_bits = reader.varint(MAX_GAP_BITS)
    if not gap_bits:
        return 0, size, b""
    return gap_bits, reader.varint(size), reader.block()


def _encode_lengths(tables: Sequence[Lengths]) -> bytes:
    """Code lengths, each less the one before it in its table, in a Huffman code of their own."""
    changes = np.concatenate([_changes(table) for table in tables])
    own = huffman.code_lengths(np.bincount(changes, minlength=huffman.MAX_LENGTH + 1))
    return pack_bits(own, [5] * len(own)) + huffman.encode(changes, own)


def _changes(table: Lengths) -> Integers:
    changes = table.astype(np.int64)
    changes[1:] -= table[:-1]
    return changes % (huffman.MAX_LENGTH + 1)


def _decode_lengths(data: Bytes, sizes: Sequence[int]) -> list[Lengths]:
    reader = Reader(data, "section of code lengths")
    count = huffman.MAX_LENGTH + 1
    own = unpack_bits(reader.take(-(-5 * count // 8)), [5] * count).astype(np.uint8)
    changes = huffman.decode(reader.rest(), own, sum(sizes))
    return [
        (np.cumsum(part) % count).astype(np.uint8)
        for part in np.split(changes, np.cumsum(sizes)[:-1])
    ]
