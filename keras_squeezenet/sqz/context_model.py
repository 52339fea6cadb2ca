"""What the best mode expects of a weight: contexts from the weights before it, adaptive counts.

Encoder and decoder must come to the same counts on any machine. So everything here is integers, or
IEEE operations element by element on integers and quotients; sums and matrix products are of
integers only, small enough to be exact in any order. `docs/sqz.md` has the formulas.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from keras_squeezenet.network.architecture import KernelShape
from keras_squeezenet.sqz.numbers import Alphabet
from keras_squeezenet.sqz.reading import Integers, SqzError

MAX_CLASS = 12  # magnitude of a class of values
UNIT = 32  # a prediction counts in 1/32 classes

MAX_PLACES = 121  # of a kernel whose places predict each other
MAX_SOURCES = 8  # places that predict a place
GROUPS = 8  # of the filters of a 1×1 convolution with at least MIN_FILTERS
MIN_FILTERS = 64
FIRST_ROWS, ROWS, MAX_BLOCKS = 16, 64, 16  # rows that are coded together
MAX_FILTERS_COMPARED = 2048
MAX_ROWS_COMPARED = 2**16
CHANCE = 2.5  # standard deviations of the likeness of filters that are not alike
LIKENESS_ONE = 256

FIRST_CHUNK = 128  # symbols, until the counts are brought up to date
INHERITED = 32  # symbols of the kernel before that a context starts with
STRENGTHS = (4, 48, 48)  # symbols that each prior counts for

# Lower ends of all bins but the first: of a prediction in 1/32 classes, and of the activity around
# a weight in 1/16 of the kernel's mean.
PREDICTION_ENDS = (1, 2, 4, 6, 9, 13, 18, 25, 34, 46, 64, 96, 144)
ACTIVITY_ENDS = (3, 6, 10, 16, 25, 40, 64)
PREDICTION_BIN = np.searchsorted(PREDICTION_ENDS, np.arange(256), "right").astype(np.uint8)
ACTIVITY_BIN = np.searchsorted(ACTIVITY_ENDS, np.arange(256), "right").astype(np.uint8)
ACTIVITIES = len(ACTIVITY_ENDS) + 1
CONTEXTS = (len(PREDICTION_ENDS) + 1) * ACTIVITIES


Floats = NDArray[np.float64]
Symbols = NDArray[np.int32]


class Coder(Protocol):
    """An entropy coder: an encoder takes symbols and gives them back, a decoder finds them."""

    def code(self, weights: Floats, count: int, symbols: Symbols | None = None) -> Symbols:
        """`count` symbols, each as probable as its weight says."""


class AdaptiveCounts:
    """How often each symbol -highest … highest has come in each context.

    Args:
        highest: at most `MAX_CLASS`.
        inherited: `counts()` of a kernel before, or None.
    """

    def __init__(self, highest: int, inherited: Floats | None = None) -> None:
        self._highest = highest
        self._symbols = 2 * highest + 1
        self._counts = np.zeros((CONTEXTS, self._symbols))
        if inherited is not None:
            known = inherited[:, MAX_CLASS - highest : MAX_CLASS + highest + 1]
            weight = np.minimum(1, INHERITED / (known.sum(axis=1, keepdims=True) + 1))
            # Sixteenths, so that sums stay exact.
            self._counts = np.floor(known * weight * 16) / 16
        # Exact: a power with a fraction of one half is the C library's business.
        self._prior = np.ldexp(1.0, -np.minimum(np.abs(np.arange(self._symbols) - highest), 8))
        self._coded = 0

    def counts(self) -> Floats:
        """The counts of all symbols -MAX_CLASS … MAX_CLASS: float64 `[contexts, symbols]`."""
        margin = MAX_CLASS - self._highest
        return np.pad(self._counts, ((0, 0), (margin, margin)))

    def code(self, coder: Coder, contexts: Integers, symbols: Integers | None = None) -> Integers:
        """Symbols in their contexts, through an encoder, or out of a decoder; int64 `[n]`.

        They are coded in chunks, between which the counts are brought up to date.
        """
        if self._symbols == 1:
            return np.zeros(len(contexts), np.int64)
        coded, start = np.empty(len(contexts), np.int64), 0
        while start < len(contexts):
            end = min(start + max(FIRST_CHUNK, self._coded // 4), len(contexts))
            given = None if symbols is None else symbols[start:end] + self._highest
            coded[start:end] = self._code_chunk(coder, contexts[start:end], given)
            start = end
        return coded - self._highest

    def _code_chunk(self, coder: Coder, contexts: Integers, symbols: Integers | None) -> Integers:
        """All symbols of the first context, of the second, …: each takes one model, one call."""
        weights = self._weights()
        order = np.argsort(contexts, kind="stable")
        sizes = np.bincount(contexts, minlength=CONTEXTS)
        ends = np.cumsum(sizes)
        ordered = None if symbols is None else symbols[order].astype(np.int32)
        parts = []
        for context in np.flatnonzero(sizes).tolist():
            end, size = int(ends[context]), int(sizes[context])
            given = None if ordered is None else ordered[end - size : end]
            parts.append(coder.code(weights[context], size, given))
        coded = np.empty(len(contexts), np.int64)
        coded[order] = np.concatenate(parts)
        pairs = contexts.astype(np.int64) * self._symbols + coded
        self._counts += np.bincount(pairs, minlength=self._counts.size).reshape(self._counts.shape)
        self._coded += len(contexts)
        return coded

    def _weights(self) -> Floats:
        """Weights of the symbols; wider contexts are the prior of the narrower ones in them."""
        counts = self._counts.reshape(-1, ACTIVITIES, self._symbols)
        by_prediction = counts.sum(axis=1)
        kernel_strength, prediction_strength, activity_strength = STRENGTHS
        share = _shares(by_prediction.sum(axis=0), self._prior / self._prior.sum(), kernel_strength)
        share = _shares(by_prediction, share, prediction_strength)
        share = _shares(counts, share[:, None], activity_strength)
        # Whole numbers, so that the coder's sums are exact as well.
        return np.floor(share * 2.0**20).reshape(CONTEXTS, -1) + 1


def _shares(counts: Floats, prior: Floats, strength: int) -> Floats:
    return (counts + prior * strength) / (counts.sum(axis=-1, keepdims=True) + strength)


class CodedKernel:
    """The classes of a kernel coded so far, and the contexts that they give the next.

    A row is a place and an input channel; a column is a filter. The filters of a 1×1 convolution,
    where they are many, are taken in groups, every eighth to a group, so that each is predicted
    from the groups before.

    Args:
        shape: of the kernel: height, width, channels, filters.
        coefficients: int64 `coefficients_shape(shape)`, in 1/32.
    """

    def __init__(self, shape: KernelShape, coefficients: Integers) -> None:
        height, width, self._channels, self._filters = places_apart(shape)
        self._sources = sources(height, width)
        self._coefficients = coefficients
        self._groups = GROUPS if height * width == 1 and self._filters >= MIN_FILTERS else 1
        self._order = np.concatenate(
            [np.arange(group, self._filters, self._groups) for group in range(self._groups)]
        )
        rows = height * width * self._channels
        self._classes = np.zeros((rows, self._filters), np.float32)
        self._by_filter = np.zeros(self._filters)
        self._rows_of_filter = np.zeros(self._filters)
        self._by_channel = np.zeros(self._channels)
        self._filters_of_channel = np.zeros(self._channels)
        self._by_pair = np.zeros((self._channels, self._filters), np.float32)
        self._compared = (
            self._groups > 1 and self._filters <= MAX_FILTERS_COMPARED and rows <= MAX_ROWS_COMPARED
        )
        if self._compared:
            self._products = np.zeros((self._filters, self._filters), np.float32)
        self._likeness: NDArray[np.float32] | None = None

    def ordered(self, classes: NDArray[np.int8]) -> NDArray[np.int8]:
        """Classes of a whole kernel as rows and columns in the order of coding."""
        return classes.reshape(self._classes.shape)[:, self._order]

    def classes(self) -> NDArray[np.int8]:
        """What `ordered` was given, int8 `[rows, filters]`."""
        classes = np.empty(self._classes.shape, np.int8)
        classes[:, self._order] = self._classes
        return classes

    def blocks(self) -> Iterator[tuple[slice, slice]]:
        """Slices of rows and of columns; each is to be added before the next is asked for."""
        sizes = [len(range(group, self._filters, self._groups)) for group in range(self._groups)]
        ends = np.cumsum(sizes).tolist()
        for place in range(len(self._sources)):
            offset, start = place * self._channels, 0
            while start < self._channels:
                # The first rows have no others to learn from: few of them at a time.
                most = max(ROWS, -(-self._channels // MAX_BLOCKS))
                end = min(start + min(max(FIRST_ROWS, start), most), self._channels)
                for size, column in zip(sizes, ends, strict=True):
                    yield slice(offset + start, offset + end), slice(column - size, column)
                if self._compared and end < self._channels:
                    self._compare(slice(start, end))
                start = end

    def contexts(self, rows: slice, columns: slice) -> tuple[Integers, Integers]:
        """Context of each weight of a block, int64, and where a class is to be taken negative."""
        prediction = self._prediction(rows, columns)
        bins = PREDICTION_BIN[np.minimum(np.abs(prediction), 255).astype(np.uint8)]
        contexts = bins * np.uint8(ACTIVITIES) + self._activity(rows, columns)
        return contexts.ravel(), np.where(prediction < 0, -1, 1).ravel()

    def add(self, rows: slice, columns: slice, classes: Integers) -> None:
        classes = classes.reshape(-1, columns.stop - columns.start)
        self._classes[rows, columns] = classes
        channels = self._channels_of(rows)
        sizes = np.abs(classes)
        self._by_filter[columns] += sizes.sum(axis=0)
        self._rows_of_filter[columns] += len(sizes)
        self._by_channel[channels] += sizes.sum(axis=1)
        self._filters_of_channel[channels] += sizes.shape[1]
        self._by_pair[channels, columns] += sizes

    def _channels_of(self, rows: slice) -> slice:
        first = rows.start % self._channels
        return slice(first, first + rows.stop - rows.start)

    def _prediction(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """In 1/32 classes: float32, whole, `[rows, columns]`."""
        prediction = np.zeros_like(self._classes[rows, columns])
        place = rows.start // self._channels
        for source, coefficient in zip(
            self._sources[place], self._coefficients[place].tolist(), strict=False
        ):
            if coefficient:
                shift = (place - source) * self._channels
                before = self._classes[rows.start - shift : rows.stop - shift, columns]
                prediction += before * np.float32(coefficient)
        if self._likeness is not None and columns.start:
            known = self._classes[rows, : columns.start]
            alike = known @ self._likeness[: columns.start, columns]
            prediction += np.rint(alike / np.float32(LIKENESS_ONE // UNIT))
        return prediction

    def _activity(self, rows: slice, columns: slice) -> NDArray[np.uint8]:
        """Bins of how large weights have been for the filter, the channel, and both."""
        channels = self._channels_of(rows)
        mean = (self._by_channel.sum() + 0.5) / (self._filters_of_channel.sum() + 1)
        filters = (self._by_filter[columns] / mean + 4) / (self._rows_of_filter[columns] + 4)
        inputs = (self._by_channel[channels] / mean + 4) / (self._filters_of_channel[channels] + 4)
        activity = filters * inputs[:, None]
        place = rows.start // self._channels
        if place:
            activity *= (self._by_pair[channels, columns] / mean + 1) / (place + 1)
        return ACTIVITY_BIN[np.minimum(activity * 16, 255).astype(np.uint8)]

    def _compare(self, rows: slice) -> None:
        """How alike the filters have been: cosines, less what chance makes of them, in 1/256."""
        new = self._classes[rows]
        self._products += new.T @ new
        norms = np.float32(1) / np.sqrt(np.diag(self._products) + np.float32(1))
        cosines = self._products * norms
        cosines *= norms[:, None]
        surplus = np.abs(cosines)
        surplus -= np.float32(CHANCE) / np.sqrt(np.float32(rows.stop))
        np.maximum(surplus, 0, out=surplus)
        surplus *= LIKENESS_ONE
        np.rint(surplus, out=surplus)
        self._likeness = np.copysign(surplus, cosines, out=surplus)


def places_apart(shape: KernelShape) -> KernelShape:
    """The kernel's shape; one of very many places is taken as having one, and more channels."""
    height, width, channels, filters = shape
    if height * width <= MAX_PLACES:
        return shape
    return 1, 1, height * width * channels, filters


def coefficients_shape(shape: KernelShape) -> tuple[int, int]:
    """Numbers that the file has for a kernel: for each place, and each place that predicts it."""
    height, width, _, _ = places_apart(shape)
    return height * width, min(MAX_SOURCES, height * width - 1)


def sources(height: int, width: int) -> list[list[int]]:
    """For each place of a kernel the places before it that predict it, the nearest first."""
    places = [divmod(place, width) for place in range(height * width)]
    return [
        sorted(range(place), key=lambda p: ((places[p][0] - y) ** 2 + (places[p][1] - x) ** 2, p))[
            :MAX_SOURCES
        ]
        for place, (y, x) in enumerate(places)
    ]


def class_of_values(alphabet: Alphabet, quantum: int) -> Integers:
    """The class of each value of an alphabet, int64: value / (quantum · unit), rounded, clipped."""
    step = np.float32(quantum) * alphabet.unit
    if not (np.isfinite(step) and step > 0):
        raise SqzError(f"classes of values cannot be {step} wide")
    with np.errstate(over="ignore"):
        quotients = alphabet.codebook / step
    return np.rint(np.clip(quotients, -MAX_CLASS, MAX_CLASS)).astype(np.int64)
