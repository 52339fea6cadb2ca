"""Updates: what turns one .sqz file into another of the same architecture.

Each weight is coded in the context of what it was; a weight that did not change takes a small part
of a bit. What an update gives is checked against the file that it was made for, byte for byte.
"""

import hashlib

import numpy as np

from keras_squeezenet.compression.sqz import container, numbers
from keras_squeezenet.compression.sqz.coding import CODERS, SECTIONS, Contents
from keras_squeezenet.compression.sqz.context_coding import Decoder, Encoder, code_frequencies
from keras_squeezenet.compression.sqz.context_model import (
    ACTIVITIES,
    CONTEXTS,
    MAX_CLASS,
    AdaptiveCounts,
)
from keras_squeezenet.compression.sqz.reading import Reader, SqzError

KINDS = ("whole file", "changes")
HASH_BYTES = 32
TEXT_SECTIONS = ("header", "class names", "predictors")
UPDATE_SECTIONS = ("kept", *TEXT_SECTIONS, "codebooks", "biases", "codes")

FIRST_ROWS = 16
LARGEST_DISTANCE = CONTEXTS // ACTIVITIES - 1
# Share of a filter's weights that have changed so far, in 1/1000: lower ends of the bins.
CHANGE_ENDS = (1, 10, 30, 100, 200, 400, 700)


def diff(old, new):
    """The bytes of an update: `patch(old, diff(old, new)) == new`.

    Where the files have little in common, it holds the new one as it is.

    Raises:
        SqzError: one of them is no .sqz file.
    """
    before, after = Contents.read(old), Contents.read(new)
    updates = [_framed(old, new, "whole file", bytes(new))]
    if before.shapes == after.shapes:
        changes = _framed(old, new, "changes", _changes(before, after))
        # Another version's encoder may have made other bytes of the same network.
        if _result(before, Reader(_body(changes), ".sqz update")) == new:
            updates.append(changes)
    return min(updates, key=len)


def patch(old, delta):
    """The new file.

    Args:
        old: bytes of the .sqz file that the update was made from.
        delta: bytes of an update, from `diff`.

    Raises:
        SqzError: the update is damaged, or was made from another file.
    """
    reader = container.checked(delta, container.UPDATE_MAGIC, ".sqz update")
    kind = KINDS[reader.varint(len(KINDS) - 1)]
    base, result = bytes(reader.take(HASH_BYTES)), bytes(reader.take(HASH_BYTES))
    if _hash(old) != base:
        raise SqzError(
            f"the update is for the file with SHA-256 {base.hex()}. Received: {_hash(old).hex()}"
        )
    new = bytes(reader.rest()) if kind == "whole file" else _result(Contents.read(old), reader)
    if _hash(new) != result:
        raise SqzError(
            f"the update should give the file with SHA-256 {result.hex()}. "
            f"Received: {_hash(new).hex()}"
        )
    return new


def _hash(data):
    return hashlib.sha256(data).digest()


def _framed(old, new, kind, body):
    head = container.UPDATE_MAGIC + bytes([container.VERSION, KINDS.index(kind)])
    return container.with_checksum(head + _hash(old) + _hash(new) + body)


def _body(delta):
    return delta[len(container.UPDATE_MAGIC) + 2 + 2 * HASH_BYTES : -container.CHECKSUM_BYTES]


def _changes(before, after):
    """The body of an update from one `Contents` to another."""
    kept, sections = [list(CODERS).index(after.mode)], {}
    for name in TEXT_SECTIONS:
        section = after.sections.get(name, b"")
        kept.append(section == before.sections.get(name, b""))
        sections[name] = b"" if kept[-1] else bytes(section)
    alphabets = [alphabet for alphabet, _ in after.layers]
    same_alphabets = [
        np.array_equal(alphabet.codebook, old.codebook) and alphabet.step == old.step
        for alphabet, (old, _) in zip(alphabets, before.layers, strict=True)
    ]
    same_biases = list(map(np.array_equal, after.biases, before.biases))
    sections["codebooks"] = numbers.encode_codebooks(_where(same_alphabets, alphabets))
    sections["biases"] = numbers.encode_biases(_where(same_biases, after.biases))
    by_rank, sections["codes"] = _encode_codes(before.layers, after.layers)
    sections["kept"] = bytes(map(int, [*kept, *same_alphabets, *same_biases, *by_rank]))
    return container.joined([sections[name] for name in UPDATE_SECTIONS])


def _result(before, reader):
    """The new file: the old one's contents, changed and written again."""
    parts = reader.sections(UPDATE_SECTIONS)
    kept, count = bytes(parts["kept"]), len(before.layers)
    if len(kept) != 1 + len(TEXT_SECTIONS) + 3 * count or max(kept) > 1:
        raise SqzError("the update is for another architecture")
    mode = list(CODERS)[kept[0]]
    kept_texts, same_alphabets, same_biases, by_rank = np.split(
        np.array(list(kept[1:]), bool), len(TEXT_SECTIONS) + count * np.arange(3)
    )
    sections = {
        name: before.sections.get(name, b"") if same else parts[name]
        for name, same in zip(TEXT_SECTIONS, kept_texts, strict=True)
    }
    with np.errstate(over="ignore", invalid="ignore"):
        changed = numbers.decode_codebooks(parts["codebooks"], np.count_nonzero(~same_alphabets))
        alphabets = _filled(same_alphabets, [alphabet for alphabet, _ in before.layers], changed)
        sizes = [len(bias) for bias in _where(same_biases, before.biases)]
        changed = numbers.decode_biases(parts["biases"], sizes)
        biases = _filled(same_biases, before.biases, changed)
    layers = _decode_codes(parts["codes"], before.layers, alphabets, by_rank)
    # The fit of predictors is not the same on every machine; the rest is.
    given = {"predictors": sections["predictors"]} if mode == "best" else {}
    sections |= {
        "codebooks": numbers.encode_codebooks(alphabets),
        "biases": numbers.encode_biases(biases),
        **CODERS[mode].encode(layers, **given),
    }
    return container.write_file(mode, [bytes(sections[name]) for name in SECTIONS[mode]])


def _encode_codes(old_layers, new_layers):
    """For each kernel whether codes are carried over by rank; and the bytes of all changes."""
    coder, inherited, by_rank = Encoder(), {}, []
    for (old_alphabet, old_codes), (alphabet, codes) in zip(old_layers, new_layers, strict=True):
        predicted = [_carried_over(old_alphabet, old_codes, alphabet, rank) for rank in (0, 1)]
        same = [np.count_nonzero(carried == codes) for carried in predicted]
        by_rank.append(bool(same[1] > same[0]))
        _code_changes(coder, inherited, alphabet, predicted[by_rank[-1]], codes)
    return by_rank, coder.data()


def _decode_codes(data, old_layers, alphabets, by_rank):
    coder, inherited, layers = Decoder(data), {}, []
    for (old_alphabet, old_codes), alphabet, rank in zip(
        old_layers, alphabets, by_rank, strict=True
    ):
        predicted = _carried_over(old_alphabet, old_codes, alphabet, rank)
        layers.append((alphabet, _code_changes(coder, inherited, alphabet, predicted)))
    coder.finish()
    return layers


def _where(same, items):
    return [item for kept, item in zip(same, items, strict=True) if not kept]


def _filled(same, old, new):
    new = iter(new)
    return [item if kept else next(new) for kept, item in zip(same, old, strict=True)]


def _carried_over(old_alphabet, old_codes, alphabet, by_rank):
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


def _code_changes(coder, inherited, alphabet, predicted, codes=None):
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
        result[far] = code_frequencies(coder, len(alphabet.codebook), far.sum(), symbols)
    if result.min() < 0 or result.max() >= len(alphabet.codebook):
        raise SqzError("the update changes a weight to a value that is not in its codebook")
    return result.astype(np.uint16)


def _steps(changes, signs):
    return np.clip(changes.reshape(signs.shape) * signs, -MAX_CLASS, MAX_CLASS)
