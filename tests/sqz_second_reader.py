"""A second reader of .sqz files, written after docs/sqz.md alone: slow, one symbol at a time.

It shares no code with the package. `weights_in` gives every weight of every kernel.
"""

import math
import zlib
from bisect import bisect_right
from itertools import accumulate, pairwise

import numpy as np

WORDS = 2**64
TOTAL = 2**24  # of what a model divides among its symbols
PREDICTIONS = (1, 2, 4, 6, 9, 13, 18, 25, 34, 46, 64, 96, 144)
ACTIVITIES = (3, 6, 10, 16, 25, 40, 64)
float32 = np.float32


def weights_in(data, shapes):
    """Lists of floats by layer.

    Args:
        data: a .sqz file.
        shapes: of the kernels, by name, in the file's order.
    """
    mode, sections = read_frame(data)
    codebooks = read_codebooks(sections[2], len(shapes))
    read = (read_faithful, read_best)[mode]
    codes = read(sections[4:], codebooks, list(shapes.values()))
    return {
        name: [float(values[code]) for code in kernel]
        for name, (values, _), kernel in zip(shapes, codebooks, codes, strict=True)
    }


def read_frame(data, version=1):
    """The mode and its sections."""
    assert data[:5] == b"\x89SQZ" + bytes([version])
    assert zlib.crc32(data[:-4]) == int.from_bytes(data[-4:], "little")
    mode = data[5]
    return mode, read_sections(data[6:-4], (7, 6)[mode] + version - 1)


def read_sections(data, count):
    sizes, sections, at = [], [], 0
    for _ in range(count):
        size, at = varint(data, at)
        sizes.append(size)
    for size in sizes:
        sections.append(data[at : at + size])
        at += size
    assert at == len(data)
    return sections


def varint(data, at):
    value = place = 0
    while True:
        value |= (data[at] & 127) << place
        at, place = at + 1, place + 7
        if data[at - 1] < 128:
            return value, at


def signed(number):
    return -(number + 1) // 2 if number % 2 else number // 2


def block(data, at):
    size, at = varint(data, at)
    return data[at : at + size], at + size


def bits_of(data):
    return "".join(f"{byte:08b}" for byte in data)


def huffman_symbols(data, lengths, count):
    used = sorted((length, symbol) for symbol, length in enumerate(lengths) if length)
    if len(used) == 1:
        return [used[0][1]] * count
    words, code, before = {}, 0, used[0][0] if used else 0
    for length, symbol in used:
        code <<= length - before
        words[f"{code:0{length}b}"] = symbol
        code, before = code + 1, length
    symbols, word = [], ""
    for bit in bits_of(data):
        if len(symbols) == count:
            break
        word += bit
        if word in words:
            symbols.append(words[word])
            word = ""
    assert len(symbols) == count
    return symbols


def run(data, at, count, width_of):
    """A run of numbers: their classes, their low bits as text, and where it ends."""
    if not count:
        return [], [], at
    first, at = varint(data, at)
    more, at = varint(data, at)
    size = -(-5 * (more + 1) // 8)
    bits = bits_of(data[at : at + size])
    lengths = [0] * first + [int(bits[5 * i : 5 * i + 5], 2) for i in range(more + 1)]
    words, at = block(data, at + size)
    classes = huffman_symbols(words, lengths, count)
    ends = list(accumulate(map(width_of, classes), initial=0))
    size = -(-ends[-1] // 8)
    bits = bits_of(data[at : at + size])
    return classes, [bits[a:b] for a, b in pairwise(ends)], at + size


def integers(data, at, count):
    """A run of integers, and where it ends."""
    classes, bits, at = run(data, at, count, lambda length: max(length - 1, 0))
    return [
        int("1" + low, 2) if length else 0 for length, low in zip(classes, bits, strict=True)
    ], at


def read_codebooks(section, count):
    """For each layer its values, float32, and the unit of its classes."""
    forms, at = block(section, 0)
    heads, place = [], 0
    for _ in range(count):
        form, place = varint(forms, place)
        step = first = None
        if form == 0:
            step = np.frombuffer(forms[place : place + 4], "<f4")[0]
            first, place = varint(forms, place + 4)
        size, place = varint(forms, place)
        heads.append((form, step, first, size + 1))
    run, _ = integers(section, at, sum(size for form, _, _, size in heads if form))
    codebooks = []
    for form, step, first, size in heads:
        if form == 0:
            values = [step * float32(signed(first) + i) for i in range(size)]
            codebooks.append((values, step))
            continue
        differences, run = run[:size], run[size:]
        values = [float_of(key, (16, 32)[form - 1]) for key in accumulate(differences)]
        largest = max(map(abs, values)) / float32(4096)
        codebooks.append((values, max(largest, float32(2.0**-149))))
    return codebooks


def float_of(key, bits):
    top = 1 << bits - 1
    pattern = key - top if key >= top else 2 * top - 1 - key
    kind = {16: "<f2", 32: "<f4"}[bits]
    return np.frombuffer(pattern.to_bytes(bits // 8, "little"), kind)[0].astype(float32)


# Faithful mode


def read_faithful(sections, codebooks, shapes):
    lengths, codes, positions = sections
    heads, at = [], 0
    for _ in shapes:
        gap_bits, at = varint(positions, at)
        count = stream = None
        if gap_bits:
            count, at = varint(positions, at)
            stream, at = block(positions, at)
        heads.append((gap_bits, count, stream))
    tables = code_lengths(lengths, codebooks, heads)
    kernels, at = [], 0
    for shape, (values, _), (gap_bits, count, stream) in zip(shapes, codebooks, heads, strict=True):
        words, at = block(codes, at)
        total = math.prod(shape)
        entries = huffman_symbols(words, tables.pop(0), count if gap_bits else total)
        gaps = huffman_symbols(stream, tables.pop(0), count) if gap_bits else [0] * total
        kernel, position = [values.index(0) if gap_bits else None] * total, -1
        for entry, gap in zip(entries, gaps, strict=True):
            position += gap + 1
            kernel[position] = entry
        kernels.append(kernel)
    return kernels


def code_lengths(data, codebooks, heads):
    own = [int(bits_of(data)[5 * i : 5 * i + 5], 2) for i in range(21)]
    sizes = []
    for (values, _), (gap_bits, _, _) in zip(codebooks, heads, strict=True):
        sizes += [len(values)] + ([2**gap_bits] if gap_bits else [])
    changes = iter(huffman_symbols(data[14:], own, sum(sizes)))
    return [
        [length % 21 for length in accumulate(next(changes) for _ in range(size))] for size in sizes
    ]


# Best mode


def division(weights):
    """Where each symbol begins among 2^24, and 2^24."""
    sums = list(accumulate(weights, initial=0.0))
    scale = float(TOTAL - len(weights)) / sums[-1]
    return [math.floor(total * scale) + i for i, total in enumerate(sums[:-1])] + [TOTAL]


class RangeDecoder:
    def __init__(self, data):
        self.words = [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]
        self.lower, self.range = 0, WORDS - 1
        self.point = self.next_word() << 32 | self.next_word()

    def next_word(self):
        return self.words.pop(0) if self.words else 0

    def symbol(self, begins):
        unit = self.range // TOTAL
        quantile = (self.point - self.lower) % WORDS // unit
        assert quantile < TOTAL
        symbol = bisect_right(begins, quantile) - 1
        self.lower = (self.lower + unit * begins[symbol]) % WORDS
        self.range = unit * (begins[symbol + 1] - begins[symbol])
        if self.range < 2**32:
            self.lower, self.range = (self.lower << 32) % WORDS, self.range << 32
            self.point = (self.point << 32) % WORDS + self.next_word()
        return symbol


def read_best(sections, codebooks, shapes):
    predictors, codes = sections
    sizes = [coefficients_of(shape) for shape in shapes]
    run, _ = integers(predictors, 0, sum(1 + places * each for places, each in sizes))
    coder, counts, kernels = RangeDecoder(codes), {}, []
    for shape, (values, unit), (places, each) in zip(shapes, codebooks, sizes, strict=True):
        quantum, *numbers = run[: 1 + places * each]
        run = run[1 + places * each :]
        coefficients = [
            [signed(number) for number in numbers[each * place : each * (place + 1)]]
            for place in range(places)
        ]
        class_of = [class_in(value, float32(quantum) * unit) for value in values]
        kernel = Kernel(shape, coefficients, max(map(abs, class_of)))
        larger = shape[0] * shape[1] > 1
        counts[larger] = kernel.read(coder, counts.get(larger))
        kernels.append(read_members(coder, class_of, kernel.classes_in_order()))
    assert not coder.words
    return kernels


def class_in(value, width):
    with np.errstate(over="ignore"):
        return int(np.rint(min(max(value / width, float32(-12)), float32(12))))


def one_place_if_many(shape):
    height, width, channels, filters = shape
    return shape if height * width <= 121 else (1, 1, height * width * channels, filters)


def coefficients_of(shape):
    """Places, and coefficients of each."""
    height, width, *_ = one_place_if_many(shape)
    return height * width, min(8, height * width - 1)


class Kernel:
    """The classes of a kernel as they are decoded: `classes[place][channel][filter]`."""

    def __init__(self, shape, coefficients, highest):
        height, self.width, self.channels, self.filters = one_place_if_many(shape)
        self.places = height * self.width
        self.coefficients, self.highest = coefficients, highest
        self.classes = [
            [[0] * self.filters for _ in range(self.channels)] for _ in range(self.places)
        ]
        groups = 8 if self.places == 1 and self.filters >= 64 else 1
        self.groups = [range(group, self.filters, groups) for group in range(groups)]
        self.compared = groups == 8 and self.filters <= 2048 and self.channels <= 2**16
        self.likeness = None
        self.sizes = {"all": 0, "weights": 0}
        self.by_filter, self.rows_of_filter = [0] * self.filters, [0] * self.filters
        self.by_channel, self.filters_of_channel = [0] * self.channels, [0] * self.channels
        self.by_both = [[0] * self.filters for _ in range(self.channels)]

    def classes_in_order(self):
        return [c for place in self.classes for row in place for c in row]

    def read(self, coder, before):
        """The counts afterwards: `[contexts][symbols -12 … 12]`."""
        self.counts = Counts(self.highest, before)
        for place in range(self.places):
            start = 0
            while start < self.channels:
                longest = max(64, -(-self.channels // 16))
                end = min(start + min(max(16, start), longest), self.channels)
                for number in range(len(self.groups)):
                    self.read_block(coder, place, range(start, end), number)
                start = end
                if self.compared and start < self.channels:
                    self.compare(start)
        return self.counts.widened()

    def read_block(self, coder, place, channels, group):
        columns = self.groups[group]
        weights = [(channel, column) for channel in channels for column in columns]
        predictions = [self.prediction(place, *weight, group) for weight in weights]
        mean = (self.sizes["all"] + 0.5) / (self.sizes["weights"] + 1)
        contexts = [
            8 * bisect_right(PREDICTIONS, min(abs(prediction), 255))
            + bisect_right(ACTIVITIES, min(self.activity(place, *weight, mean), 255))
            for weight, prediction in zip(weights, predictions, strict=True)
        ]
        symbols = self.counts.read_symbols(coder, contexts)
        for (channel, column), prediction, symbol in zip(
            weights, predictions, symbols, strict=True
        ):
            size = abs(symbol)
            self.classes[place][channel][column] = -symbol if prediction < 0 else symbol
            self.sizes["all"] += size
            self.sizes["weights"] += 1
            self.by_filter[column] += size
            self.rows_of_filter[column] += 1
            self.by_channel[channel] += size
            self.filters_of_channel[channel] += 1
            self.by_both[channel][column] += size

    def prediction(self, place, channel, column, group):
        y, x = divmod(place, self.width)

        def nearness(source):
            v, u = divmod(source, self.width)
            return (v - y) ** 2 + (u - x) ** 2, source

        sources = sorted(range(place), key=nearness)[:8]
        prediction = sum(
            coefficient * self.classes[source][channel][column]
            for source, coefficient in zip(sources, self.coefficients[place], strict=False)
        )
        if self.likeness and group:
            alike = sum(
                self.classes[0][channel][other] * self.likeness[other][column]
                for earlier in self.groups[:group]
                for other in earlier
            )
            prediction += round(alike / 8)  # halves to even, as rint
        return prediction

    def activity(self, place, channel, column, mean):
        activity = (self.by_filter[column] / mean + 4) / (self.rows_of_filter[column] + 4)
        activity *= (self.by_channel[channel] / mean + 4) / (self.filters_of_channel[channel] + 4)
        if place:
            activity *= (self.by_both[channel][column] / mean + 1) / (place + 1)
        return math.floor(activity * 16)

    def compare(self, rows):
        known = np.array(self.classes[0][:rows], np.int64)
        products = (known.T @ known).astype(float32)
        norms = [float32(1) / np.sqrt(product + float32(1)) for product in np.diag(products)]
        chance = float32(2.5) / np.sqrt(float32(rows))
        self.likeness = [[0] * self.filters for _ in range(self.filters)]
        for one in range(self.filters):
            for other in range(self.filters):
                cosine = products[one, other] * norms[other] * norms[one]
                size = int(np.rint(max(abs(cosine) - chance, float32(0)) * float32(256)))
                self.likeness[one][other] = -size if cosine < 0 else size


class Counts:
    """How often each symbol has come in each context: `[contexts][symbols -highest … highest]`."""

    def __init__(self, highest, before=None):
        self.highest, self.coded = highest, 0
        if before is None:
            self.counts = [[0.0] * (2 * highest + 1) for _ in range(112)]
        else:
            self.counts = [inherited(row[12 - highest : 13 + highest]) for row in before]

    def widened(self):
        """The counts of the symbols -12 … 12."""
        margin = [0.0] * (12 - self.highest)
        return [margin + row + margin for row in self.counts]

    def read_symbols(self, coder, contexts):
        symbols = [0] * len(contexts)
        start = 0
        while self.highest and start < len(contexts):
            end = min(start + max(128, self.coded // 4), len(contexts))
            shares = self.shares()
            for context in sorted(set(contexts[start:end])):
                begins = division([math.floor(2**20 * s) + 1 for s in shares(context)])
                for i in range(start, end):
                    if contexts[i] == context:
                        symbols[i] = coder.symbol(begins) - self.highest
            for context, symbol in zip(contexts[start:end], symbols[start:end], strict=True):
                self.counts[context][symbol + self.highest] += 1
            self.coded += end - start
            start = end
        return symbols

    def shares(self):
        """A function from a context to its symbols' shares, by the counts as they are now."""
        prior = [2.0 ** -min(abs(s), 8) for s in range(-self.highest, self.highest + 1)]
        wide = [
            [sum(counts) for counts in zip(*self.counts[8 * b : 8 * b + 8], strict=True)]
            for b in range(14)
        ]
        everywhere = [sum(counts) for counts in zip(*wide, strict=True)]
        first = mixed(everywhere, [p / sum(prior) for p in prior], 4)
        return lambda context: mixed(self.counts[context], mixed(wide[context // 8], first, 48), 48)


def mixed(counts, prior, strength):
    total = sum(counts) + strength
    return [(n + p * strength) / total for n, p in zip(counts, prior, strict=True)]


def inherited(counts):
    weight = min(1, 32 / (sum(counts) + 1))
    return [math.floor(n * weight * 16) / 16 for n in counts]


def read_members(coder, class_of, classes):
    codes = [None] * len(classes)
    for value in range(min(classes), max(classes) + 1):
        members = [code for code, of in enumerate(class_of) if of == value]
        chosen = [i for i, of in enumerate(classes) if of == value]
        for i, symbol in zip(chosen, by_frequency(coder, len(members), len(chosen)), strict=True):
            codes[i] = members[symbol]
    return codes


def by_frequency(coder, size, count):
    """Symbols below a size that depend on nothing but how often they have come."""
    if size < 2:
        return [0] * count
    counts, due, symbols = [0.5] * size, 64, []
    begins = division(counts)
    for number in range(count):
        if number == due:
            begins, due = division(counts), 2 * due
        symbols.append(coder.symbol(begins))
        counts[symbols[-1]] += 1
    return symbols
