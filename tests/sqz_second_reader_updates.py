"""A second reader of updates between .sqz files of version 2, written after docs/sqz.md alone.

It shares no code with the package. `patched` gives what `model_in` gives of the new file.
"""

import hashlib
import json
import math
import struct
import zlib
from bisect import bisect_right
from itertools import count, pairwise

import numpy as np

from tests.sqz_second_reader import (
    Counts,
    RangeDecoder,
    by_frequency,
    integers,
    read_best,
    read_codebooks,
    read_sections,
    signed,
)
from tests.sqz_second_reader_models import (
    arrays_of,
    dictionary,
    inflated,
    kernel_of,
    model_in,
    numbers,
)

CHANGES = (1, 10, 30, 100, 200, 400, 700)


def patched(data, update):
    """The new model, as `model_in` has it, and the mode of its file."""
    assert update[:10] == b"\x89SQZDELTA\x03"
    assert zlib.crc32(update[:-4]) == int.from_bytes(update[-4:], "little")
    kind, digests, body = update[10], (update[11:43], update[43:75]), update[75:-4]
    old = model_in(data)
    assert digests[0] == digest(old)
    mode, new = (body[5], model_in(body)) if kind == 0 else changed(old, body)
    assert digests[1] == digest(new)
    return mode, new


def changed(old, body):
    kept, header, names, ways, books, floats, moves, *own, changes = read_sections(body, 10)
    mode, has_names, has_header = kept
    new = {key: old[key] for key in ("name", "graph", "resize", "class names")}
    if not has_names:
        new["class names"] = json.loads(inflated(names, b"")) if names else None
    if not has_header:
        new["name"], graph, new["resize"] = json.loads(inflated(header, dictionary()))
        new["graph"] = [graph[0], with_old_nodes(graph[1], old["graph"][1]), *graph[2:]]
    shapes = dict(arrays_of(new["graph"], ""))
    listed, at = integers(ways, 0, len(shapes))
    assert at == len(ways)
    way = dict(zip(shapes, listed, strict=True))
    arrays = {name: old["arrays"][name] for name in shapes if way[name] == 0}

    by_itself = [name for name in shapes if way[name] == 5]
    read = numbers(floats, [shapes[name] for name in by_itself])
    arrays |= dict(zip(by_itself, read, strict=True))

    further = [name for name in shapes if way[name] >= 6]
    run, at = integers(moves, 0, sum(math.prod(shapes[name]) for name in further))
    assert at == len(moves)
    for name in further:
        values = old["arrays"][name]
        steps, run = run[: len(values)], run[len(values) :]
        pairs = zip(values, map(signed, steps), strict=True)
        arrays[name] = [moved(value, way[name] - 6, step) for value, step in pairs]

    given = [name for name in shapes if way[name] in (2, 3, 4)]
    codebooks = dict(zip(given, read_codebooks(books, len(given)), strict=True))
    shared = [name for name in shapes if way[name] == 4]
    if shared:
        kernels = [kernel_of(name, shapes[name]) for name in shared]
        codes = read_best(own, [codebooks[name] for name in shared], kernels)
        for name, kernel in zip(shared, codes, strict=True):
            arrays[name] = [float(codebooks[name][0][code]) for code in kernel]
    else:
        assert not any(own)
    coder, counts = RangeDecoder(changes), None
    for name in shapes:
        if way[name] in (1, 2, 3):
            values = sorted(set(old["arrays"][name]))
            places = [values.index(value) for value in old["arrays"][name]]
            book = [float(v) for v in codebooks[name][0]] if name in codebooks else values
            carried = [carry(values, book, place, way[name] == 3) for place in places]
            filters = kernel_of(name, shapes[name])[-1]
            codes, counts = changed_codes(coder, counts, book, carried, filters)
            arrays[name] = [book[code] for code in codes]
    assert not coder.words
    new["arrays"] = {name: arrays[name] for name in shapes}
    return mode, new


def with_old_nodes(nodes, old):
    result, end = [], 0
    for node in nodes:
        if len(node) == 2 and isinstance(node[0], int) and isinstance(node[1], int):
            assert node[0] >= end
            end = node[0] + node[1]
            result += old[node[0] : end]
        else:
            result.append(node)
    return result


def moved(value, shift, step):
    key = ((key_of(value) >> shift) + step) << shift
    size = struct.unpack("<f", struct.pack("<I", abs(key)))[0]
    return -size if key < 0 else size


def key_of(value):
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    return -(bits - 2**31) if bits >= 2**31 else bits


def carry(values, book, place, by_rank):
    if by_rank:
        return min(place, len(book) - 1)
    single = np.float32
    middles = [
        single(single(a) / single(2)) + single(single(b) / single(2)) for a, b in pairwise(book)
    ]
    return sum(bool(middle < single(values[place])) for middle in middles)


def changed_codes(coder, before, book, carried, filters):
    """The codes, and the counts afterwards."""
    zero = sum(value < 0 for value in book)
    counts = Counts(12, before)
    steps, changes = [], [0] * filters
    rows, start = len(carried) // filters, 0
    while start < rows:
        end = min(max(16, 2 * start), rows)
        contexts = []
        for i in range(start * filters, end * filters):
            rate = bisect_right(CHANGES, 1000 * changes[i % filters] // max(start, 1))
            contexts.append(8 * min(abs(carried[i] - zero), 13) + rate)
        for step in counts.read_symbols(coder, contexts):
            changes[len(steps) % filters] += step != 0
            steps.append(step)
        start = end
    far = by_frequency(coder, len(book), sum(abs(step) == 12 for step in steps))
    codes, numbers_of_far = [], count()
    for code, step in zip(carried, steps, strict=True):
        if abs(step) == 12:
            codes.append(far[next(numbers_of_far)])
        else:
            codes.append(code - step if code < zero else code + step)
    return codes, counts.widened()


def digest(model):
    described = [model["name"], model["graph"], model["resize"], model["class names"]]
    hashed = hashlib.sha256(field(described))
    for values in model["arrays"].values():
        hashed.update(struct.pack(f"<{len(values)}f", *values))
    return hashed.digest()


def field(value):
    if value is None:
        return b"n"
    if isinstance(value, bool):
        return b"b" + bytes([value])
    if isinstance(value, int):
        return b"i" + struct.pack("<q", value)
    if isinstance(value, float):
        return b"f" + struct.pack("<d", value)
    if isinstance(value, str):
        text = value.encode(errors="surrogatepass")
        return b"s" + struct.pack("<q", len(text)) + text
    if isinstance(value, dict):
        fields = (field(part) for name in sorted(value) for part in (name, value[name]))
        return b"m" + struct.pack("<q", len(value)) + b"".join(fields)
    return b"l" + struct.pack("<q", len(value)) + b"".join(map(field, value))
