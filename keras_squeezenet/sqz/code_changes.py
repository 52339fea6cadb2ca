"""What the codes of a kernel become in an update: each weight in the context of what it was.

A weight that did not change takes a small part of a bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from keras_squeezenet.sqz.context_coding import Decoder, Encoder, code_frequencies
from keras_squeezenet.sqz.context_model import (
    ACTIVITIES,
    CONTEXTS,
    MAX_CLASS,
    AdaptiveCounts,
    Coder,
    Floats,
)
from keras_squeezenet.sqz.network import Codes
from keras_squeezenet.sqz.numbers import Alphabet, Layer
from keras_squeezenet.sqz.reading import Bytes, Integers, SqzError

FIRST_ROWS = 16
LARGEST_DISTANCE = CONTEXTS // ACTIVITIES - 1
# Share of a filter's weights that have changed so far, in 1/1000: lower ends of the bins.
CHANGE_ENDS = (1, 10, 30, 100, 200, 400, 700)

Inherited = dict[str, Floats]  # of the kernels before: their "counts", once there are any


def of_used_values(layers: Iterable[Layer]) -> list[Layer]:
    """The same kernels in codes of the values in use: those are the same for every encoder."""
    result = []
    for alphabet, codes in layers:
        used = np.bincount(codes.ravel(), minlength=len(alphabet.codebook)) > 0
        ranks = (np.cumsum(used) - 1).astype(np.uint16)
        result.append((Alphabet(alphabet.codebook[used]), ranks[codes]))
    return result


def carried_layers(old_layers: Sequence[Layer], layers: Sequence[Layer]) -> list[Layer]:
    """Kernels in codes of the old codebook, where it has all of their values, or of their own."""
    result = []
    for (old, _), (used, codes) in zip(old_layers, layers, strict=True):
        has_all = np.isin(used.codebook, old.codebook).all()
        alphabet = old if has_all else Alphabet.of(used.codebook)
        places = np.searchsorted(alphabet.codebook, used.codebook).astype(np.uint16)
        result.append((alphabet, places[codes]))
    return result


def encode_changes(
    old_layers: Sequence[Layer], new_layers: Sequence[Layer]
) -> tuple[list[bool], bytes]:
    """For each kernel whether codes are carried over by rank; and the bytes of all changes."""
    coder, inherited, by_rank = Encoder(), Inherited(), list[bool]()
    for (old_alphabet, old_codes), (alphabet, codes) in zip(old_layers, new_layers, strict=True):
        predicted = [
            _carried_over(old_alphabet, old_codes, alphabet, rank) for rank in (False, True)
        ]
        same = [np.count_nonzero(carried == codes) for carried in predicted]
        by_rank.append(bool(same[1] > same[0]))
        _code_changes(coder, inherited, alphabet, predicted[by_rank[-1]], codes)
    return by_rank, coder.data()


def decode_changes(
    data: Bytes, old_layers: Sequence[Layer], alphabets: Sequence[Alphabet], by_rank: Sequence[bool]
) -> list[Layer]:
    coder, inherited, layers = Decoder(data), Inherited(), list[Layer]()
    for (old_alphabet, old_codes), alphabet, rank in zip(
        old_layers, alphabets, by_rank, strict=True
    ):
        predicted = _carried_over(old_alphabet, old_codes, alphabet, rank)
        layers.append((alphabet, _code_changes(coder, inherited, alphabet, predicted)))
    coder.finish()
    return layers


def _carried_over(
    old_alphabet: Alphabet, old_codes: Codes, alphabet: Alphabet, by_rank: bool
) -> Integers:
    """What the codes would be if nothing had changed: int64.

    Args:
        by_rank: whether an entry of the old codebook is the one of the same rank in the new; or
            else the one nearest in value.
    """
    if by_rank:
        codes = np.minimum(np.arange(len(old_alphabet.codebook)), len(alphabet.codebook) - 1)
    else:
        middles = alphabet.codebook[:-1] / 2 + alphabet.codebook[1:] / 2
        codes = np.searchsorted(middles, old_alphabet.codebook)
    return codes[old_codes]


def _code_changes(
    coder: Coder,
    inherited: Inherited,
    alphabet: Alphabet,
    predicted: Integers,
    codes: Codes | None = None,
) -> Codes:
    """Codes of a kernel, uint16, through the encoder or out of the decoder.

    A context is the distance of the predicted code from that of zero, and how many weights of the
    filter have changed in the rows before.
    """
    offsets = (predicted - int(np.searchsorted(alphabet.codebook, 0))).reshape(
        -1, predicted.shape[-1]
    )
    distances = np.minimum(np.abs(offsets), LARGEST_DISTANCE)
    signs = np.where(offsets < 0, -1, 1)
    given = None if codes is None else _steps(codes.astype(np.int64) - predicted, signs)
    counts = AdaptiveCounts(MAX_CLASS, inherited.get("counts"))
    changes = np.zeros(offsets.shape[1], np.int64)
    steps, start = np.empty_like(offsets), 0
    while start < len(offsets):
        rows = slice(start, min(max(FIRST_ROWS, 2 * start), len(offsets)))
        rates = np.searchsorted(CHANGE_ENDS, 1000 * changes // max(start, 1), "right")
        contexts = (distances[rows] * ACTIVITIES + rates).astype(np.uint8).ravel()
        symbols = None if given is None else given[rows].ravel()
        steps[rows] = counts.code(coder, contexts, symbols).reshape(-1, offsets.shape[1])
        changes += np.count_nonzero(steps[rows], axis=0)
        start = rows.stop
    inherited["counts"] = counts.counts()
    result = predicted + (steps * signs).reshape(predicted.shape)
    far = np.abs(steps).reshape(predicted.shape) == MAX_CLASS
    if far.any():
        symbols = None if codes is None else codes[far].astype(np.int32)
        result[far] = code_frequencies(coder, len(alphabet.codebook), int(far.sum()), symbols)
    if result.min() < 0 or result.max() >= len(alphabet.codebook):
        raise SqzError("the update changes a weight to a value that is not in its codebook")
    return result.astype(np.uint16)


def _steps(changes: Integers, signs: Integers) -> Integers:
    return np.clip(changes.reshape(signs.shape) * signs, -MAX_CLASS, MAX_CLASS)
