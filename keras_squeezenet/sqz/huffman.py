"""Canonical Huffman codes. Decoding looks at all bits of a segment of the stream at once.

Source: Huffman 1952; canonical: codes of a length ascend with their symbols, and a longer code is
larger than the shorter ones before it (as in RFC 1951, section 3.2.2).
"""

import heapq

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_squeezenet.sqz.reading import Bytes, Integers, SqzError, pack_bits

MAX_LENGTH = 20  # bits; 65,536 symbols need at least 16
SEGMENT = 2**16  # bytes; decoding takes some 70 times this, whatever the stream has

Lengths = NDArray[np.uint8]  # in bits, of each symbol's code


def code_lengths(counts: ArrayLike) -> Lengths:
    """Bits per symbol: uint8 `[symbols]`, 0 for symbols that do not occur, at most `MAX_LENGTH`.

    A symbol that occurs alone has 1; a stream of it takes no bits all the same.
    """
    counts = np.asarray(counts, np.int64)
    lengths = np.zeros(len(counts), np.uint8)
    used = np.flatnonzero(counts)
    if len(used) < 2:
        lengths[used] = 1
        return lengths
    weights = counts[used]
    while True:
        depths = _tree_depths(weights.tolist())
        if max(depths) <= MAX_LENGTH:
            break
        weights = weights + 1 >> 1  # flatter, until the tree is
    lengths[used] = depths
    return lengths


def encode(symbols: Integers, lengths: Lengths) -> bytes:
    """The bits of the symbols, filled up to a byte with zeros."""
    if np.count_nonzero(lengths) < 2:
        return b""
    return pack_bits(_canonical_codes(lengths)[symbols], lengths[symbols])


def decode(data: Bytes, lengths: Lengths, count: int) -> Integers:
    """`count` symbols, int64. The inverse of `encode`.

    Raises:
        SqzError: the lengths make no complete code, or the data is not `count` of its words.
    """
    used = np.flatnonzero(lengths)
    if count == 0 or len(used) == 1:
        if len(data) or (count and lengths[used[0]] != 1):
            raise SqzError("a stream of a single symbol takes no bits, and its code length is 1")
        return np.repeat(used, count) if count else np.zeros(0, np.int64)
    longest = int(max(lengths, default=0))
    if longest > MAX_LENGTH:
        raise SqzError(f"a Huffman code has at most {MAX_LENGTH} bits. Received: {longest}")
    least, most = -(-count // 8), -(-count * longest // 8)
    if not least <= len(data) <= most:
        raise SqzError(
            f"{count} code words take from {least} to {most} bytes. Received: {len(data)}"
        )
    symbols, word_lengths = _lookup(lengths, used)
    decoded, done, position = np.empty(count, np.int64), 0, 0
    while done < count:
        first = position // 8
        if first >= len(data):
            raise SqzError(f"expected {count} code words. Received: {done}")
        windows = _windows(data, first, longest)
        starts, end = _word_starts(
            word_lengths[windows].tobytes(), position - 8 * first, count - done
        )
        decoded[done : done + len(starts)] = symbols[windows[starts]]
        done, position = done + len(starts), 8 * first + end
    spare = 8 * len(data) - position
    if not 0 <= spare < 8 or data[-1] & (1 << spare) - 1:
        raise SqzError(f"{count} code words end at bit {position} of {8 * len(data)}")
    return decoded


def _tree_depths(weights: list[int]) -> list[int]:
    """Depth of each leaf in the tree of two or more weights."""
    # Ties go to the earlier node: leaves in order of their symbols, then inner nodes.
    heap = [(weight, node) for node, weight in enumerate(weights)]
    heapq.heapify(heap)
    parents = [0] * (2 * len(weights) - 1)
    for node in range(len(weights), len(parents)):
        (first, left), (second, right) = heapq.heappop(heap), heapq.heappop(heap)
        parents[left] = parents[right] = node
        heapq.heappush(heap, (first + second, node))
    depths = [0] * len(parents)
    for node in range(len(parents) - 2, -1, -1):
        depths[node] = depths[parents[node]] + 1
    return depths[: len(weights)]


def _ranked(lengths: Lengths, used: Integers) -> tuple[Integers, Integers, int]:
    """The symbols in the order of their codes, and what share of 2**longest each takes."""
    order = used[np.argsort(lengths[used], kind="stable")]
    longest = int(lengths[order[-1]])
    return order, np.int64(1) << (longest - lengths[order].astype(np.int64)), longest


def _canonical_codes(lengths: Lengths) -> Integers:
    order, shares, longest = _ranked(lengths, np.flatnonzero(lengths))
    codes = np.zeros(len(lengths), np.int64)
    codes[order] = np.cumsum(shares) - shares >> longest - lengths[order].astype(np.int64)
    return codes


def _lookup(lengths: Lengths, used: Integers) -> tuple[Integers, Lengths]:
    """Symbol and length of the word at the start of each possible window of `longest` bits."""
    if not len(used):
        raise SqzError("a Huffman code must have a symbol")
    order, shares, longest = _ranked(lengths, used)
    if shares.sum() != 1 << longest:
        raise SqzError("the lengths of a Huffman code must make a complete code")
    return np.repeat(order, shares), np.repeat(lengths[order], shares)


def _windows(data: Bytes, first: int, width: int) -> NDArray[np.int32]:
    """The `width` bits that start at each bit of a segment from byte `first` on: int32.

    There are zeros after the end of the data.
    """
    size = min(SEGMENT, len(data) - first)
    segment = bytes(data[first : first + size + 3]).ljust(size + 3, b"\0")
    padded = np.frombuffer(segment, np.uint8).astype(np.uint32)
    words = padded[:-3] << 24 | padded[1:-2] << 16 | padded[2:-1] << 8 | padded[3:]
    shifted = words[:, None] << np.arange(8, dtype=np.uint32)
    return (shifted >> np.uint32(32 - width)).ravel().view(np.int32)


def _word_starts(lengths: bytes, position: int, count: int) -> tuple[list[int], int]:
    """Where up to `count` words of a segment start, and where the last one ends, in bits.

    Only this has to go from word to word.
    """
    starts = []
    try:
        for _ in range(count):
            length = lengths[position]
            starts.append(position)
            position += length
    except IndexError:  # the segment ends
        pass
    return starts, position
