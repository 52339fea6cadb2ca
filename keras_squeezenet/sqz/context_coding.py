"""The weights of the best mode: range coding, each weight in the context of those before it.

A weight is a class, coarse enough to be predicted, and one of the values of its class. Classes are
predicted from the same filter and channel at the places before (kernels are smooth), or, in 1×1
convolutions, from the filters that have been like it so far (object classes are alike); how large
weights have been around tells how far off that may be. See `context_model.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from constriction import stream
from numpy.typing import ArrayLike

from keras_squeezenet.network.architecture import KernelShape
from keras_squeezenet.sqz import numbers
from keras_squeezenet.sqz.context_model import (
    UNIT,
    AdaptiveCounts,
    CodedKernel,
    Coder,
    Floats,
    Symbols,
    class_of_values,
    coefficients_shape,
    places_apart,
    sources,
)
from keras_squeezenet.sqz.network import Codes
from keras_squeezenet.sqz.numbers import Alphabet, Layer
from keras_squeezenet.sqz.reading import Bytes, Integers, Reader, SqzError

SECTIONS = ("predictors", "codes")

MAX_QUANTUM = 2**16 - 1
MAX_COEFFICIENT = 127
# Widths of a class in root mean squares of the weights: fine enough to be predicted, coarse enough
# to be learnt. The better one is kept. A grid's step may be wider.
CLASS_WIDTHS = (0.4, 0.8)
FIRST_MEMBERS = 64  # values, until their counts are brought up to date


@dataclass(frozen=True, eq=False)
class Predictor:
    """What the file says of a kernel beside its weights.

    Attributes:
        quantum: width of a class, in `Alphabet.unit`.
        coefficients: int64 `coefficients_shape(shape)`, in 1/32.
    """

    quantum: int
    coefficients: Integers


# Of the last kernel of one place, and of several, the counts to begin with.
Inherited = dict[bool, Floats]


def encode(layers: Sequence[Layer], predictors: Bytes | None = None) -> dict[str, bytes]:
    """Two sections.

    Args:
        layers: pairs of an `Alphabet` and codes, uint16 with the kernel's shape.
        predictors: the section of another encoding of the same layers, for the same bytes on
            every machine; None: they are fitted, by floating point.

    Returns:
        A dict from the names in `SECTIONS` to bytes.
    """
    if predictors is None:
        predictors = _encode_predictors([_fitted(*layer) for layer in layers])
    fitted = _decode_predictors(predictors, [codes.shape for _, codes in layers])
    coder, inherited = Encoder(), Inherited()
    for (alphabet, codes), predictor in zip(layers, fitted, strict=True):
        _code(coder, inherited, alphabet, predictor, codes.shape, codes)
    return {"predictors": bytes(predictors), "codes": coder.data()}


def decode(
    sections: Mapping[str, Bytes], alphabets: Sequence[Alphabet], shapes: Sequence[KernelShape]
) -> list[Codes]:
    """Codes of the kernels, uint16: the inverse of `encode`."""
    fitted = _decode_predictors(sections["predictors"], shapes)
    coder, inherited = Decoder(sections["codes"]), Inherited()
    layers = [
        _code(coder, inherited, *layer) for layer in zip(alphabets, fitted, shapes, strict=True)
    ]
    coder.finish()
    return layers


class Encoder:
    """`code` takes symbols, int32, and the weights that say how probable each symbol is."""

    def __init__(self) -> None:
        self._coder = stream.queue.RangeEncoder()

    def code(self, weights: Floats, count: int, symbols: Symbols | None = None) -> Symbols:
        assert symbols is not None  # nothing to decode from
        self._coder.encode(symbols, stream.model.Categorical(weights, perfect=False))
        return symbols

    def data(self) -> bytes:
        return self._coder.get_compressed().astype("<u4").tobytes()


class Decoder:
    """`code` gives symbols back where the encoder's took them."""

    def __init__(self, data: Bytes) -> None:
        if len(data) % 4:
            raise SqzError(f"a section of codes has 32-bit words. Received: {len(data)} bytes")
        self._coder = stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))

    def code(self, weights: Floats, count: int, symbols: Symbols | None = None) -> Symbols:
        try:
            return self._coder.decode(stream.model.Categorical(weights, perfect=False), count)
        except (AssertionError, ValueError) as error:
            raise SqzError("a section of codes is damaged") from error

    def finish(self) -> None:
        if not self._coder.maybe_exhausted():
            raise SqzError("a section of codes goes on after its end")


def _code(
    coder: Coder,
    inherited: Inherited,
    alphabet: Alphabet,
    predictor: Predictor,
    shape: KernelShape,
    codes: Codes | None = None,
) -> Codes:
    """Codes of a kernel, through the encoder or out of the decoder."""
    values = class_of_values(alphabet, predictor.quantum)
    counts = AdaptiveCounts(int(np.abs(values).max()), inherited.get(shape[0] * shape[1] > 1))
    kernel = CodedKernel(shape, predictor.coefficients)
    given = None if codes is None else kernel.ordered(values.astype(np.int8)[codes])
    for rows, columns in kernel.blocks():
        contexts, signs = kernel.contexts(rows, columns)
        symbols = None if given is None else given[rows, columns].ravel() * signs
        kernel.add(rows, columns, counts.code(coder, contexts, symbols) * signs)
    inherited[shape[0] * shape[1] > 1] = counts.counts()
    return _code_members(coder, values, kernel.classes().reshape(shape), codes)


def _code_members(coder: Coder, values: Integers, classes: Integers, codes: Codes | None) -> Codes:
    """Which of the values of its class each weight has."""
    result = np.zeros(classes.shape, np.uint16)
    for value in range(int(classes.min()), int(classes.max()) + 1):
        chosen = classes == value
        count = int(np.count_nonzero(chosen))
        if not count:
            continue
        first, end = np.searchsorted(values, [value, value + 1]).tolist()
        if first == end:
            raise SqzError("a section of codes has a class without values")
        result[chosen] = first
        if end - first > 1:
            given = None if codes is None else codes[chosen].astype(np.int32) - np.int32(first)
            result[chosen] += code_frequencies(coder, end - first, count, given)
    return result


def code_frequencies(coder: Coder, alphabet: int, count: int, symbols: Symbols | None) -> Codes:
    """Symbols that depend on nothing but how often they have come."""
    if alphabet == 1:
        return np.zeros(count, np.uint16)
    counts = np.full(alphabet, 0.5)
    coded, start = np.empty(count, np.uint16), 0
    while start < count:
        end = min(max(FIRST_MEMBERS, start * 2), count)
        given = None if symbols is None else symbols[start:end]
        coded[start:end] = coder.code(counts, end - start, given)
        counts += np.bincount(coded[start:end], minlength=alphabet)
        start = end
    return coded


def _encode_predictors(predictors: Sequence[Predictor]) -> bytes:
    fields: list[ArrayLike] = []
    for predictor in predictors:
        fields += [[predictor.quantum], numbers.zigzag(predictor.coefficients.ravel())]
    return numbers.encode_integers(np.concatenate(fields))


def _decode_predictors(data: Bytes, shapes: Sequence[KernelShape]) -> list[Predictor]:
    reader = Reader(data, "section of predictors")
    sizes = [1 + prod(coefficients_shape(shape)) for shape in shapes]
    fields = numbers.decode_integers(reader, sum(sizes))
    reader.finish()
    parts = np.split(fields, np.cumsum(sizes)[:-1])
    return [_predictor(part, shape) for part, shape in zip(parts, shapes, strict=True)]


def _predictor(fields: Integers, shape: KernelShape) -> Predictor:
    quantum, coefficients = int(fields[0]), numbers.unzigzag(fields[1:])
    if not 1 <= quantum <= MAX_QUANTUM:
        raise SqzError(f"a class is from 1 to {MAX_QUANTUM} units wide. Received: {quantum}")
    if (np.abs(coefficients) > MAX_COEFFICIENT).any():
        raise SqzError(f"coefficients must be at most {MAX_COEFFICIENT}")
    return Predictor(quantum, coefficients.reshape(coefficients_shape(shape)))


def _fitted(alphabet: Alphabet, codes: Codes) -> Predictor:
    """Of some predictors the one with which the kernel, by itself, takes the fewest bytes."""
    values = alphabet.codebook[codes].astype(np.float64)
    rms = np.sqrt(np.mean(values**2)) / float(alphabet.unit)
    quanta = {int(np.clip(np.rint(width * rms), 1, MAX_QUANTUM)) for width in CLASS_WIDTHS}
    predictors = [_fitted_to_classes(alphabet, codes, quantum) for quantum in sorted(quanta)]
    if len(predictors) == 1:
        return predictors[0]
    return min(predictors, key=lambda predictor: _bytes_alone(alphabet, codes, predictor))


def _bytes_alone(alphabet: Alphabet, codes: Codes, predictor: Predictor) -> int:
    coder = Encoder()
    _code(coder, {}, alphabet, predictor, codes.shape, codes)
    return len(coder.data())


def _fitted_to_classes(alphabet: Alphabet, codes: Codes, quantum: int) -> Predictor:
    height, width, _, _ = places_apart(codes.shape)
    classes = class_of_values(alphabet, quantum).astype(np.float64)[codes]
    places = classes.reshape(height * width, -1)
    coefficients = np.zeros(coefficients_shape(codes.shape), np.int64)
    for place, before in enumerate(sources(height, width)):
        if before:
            coefficients[place, : len(before)] = _regression(places[before], places[place])
    return Predictor(quantum, coefficients)


def _regression(known: Floats, wanted: Floats) -> Floats:
    fit = np.linalg.solve(known @ known.T + np.eye(len(known)), known @ wanted)
    return np.clip(np.rint(fit * UNIT), -MAX_COEFFICIENT, MAX_COEFFICIENT)
