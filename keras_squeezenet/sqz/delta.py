"""Updates: what turns one .sqz file into another of the same architecture.

Each weight is coded in the context of what it was; a weight that did not change takes a small part
of a bit. An update is bound to the networks, not to the bytes of their files: it fits every file
of the old network, and gives a file of the new one, whichever versions of the encoder wrote and
write them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from keras_squeezenet.errors import InputError, one_line
from keras_squeezenet.sqz import container, numbers
from keras_squeezenet.sqz.coding import CODERS, SECTIONS, Contents, encode, network_of
from keras_squeezenet.sqz.container import Header
from keras_squeezenet.sqz.content import DIGEST_BYTES, digest
from keras_squeezenet.sqz.context_coding import Decoder, Encoder, code_frequencies
from keras_squeezenet.sqz.context_model import (
    ACTIVITIES,
    CONTEXTS,
    MAX_CLASS,
    AdaptiveCounts,
    Coder,
    Floats,
)
from keras_squeezenet.sqz.network import Codes, Values
from keras_squeezenet.sqz.numbers import Alphabet, Layer
from keras_squeezenet.sqz.reading import Bytes, Integers, Reader, SqzError

KINDS = ("whole file", "changes")
TEXT_SECTIONS = ("header", "class names", "predictors")
UPDATE_SECTIONS = ("kept", *TEXT_SECTIONS, "codebooks", "biases", "codes")

FIRST_ROWS = 16
LARGEST_DISTANCE = CONTEXTS // ACTIVITIES - 1
# Share of a filter's weights that have changed so far, in 1/1000: lower ends of the bins.
CHANGE_ENDS = (1, 10, 30, 100, 200, 400, 700)

Item = TypeVar("Item")
Inherited = dict[str, Floats]  # of the kernels before: their "counts", once there are any


def diff(old: Bytes, new: Bytes) -> bytes:
    """The bytes of an update: `patch` makes of it, and of any file of the old network, the new one.

    Where the files have little in common, it holds the new one as it is.

    Raises:
        SqzError: one of them is no .sqz file.
    """
    before, after = Contents.read(old), Contents.read(new)
    digests = _hash_of_network(old, before) + _hash_of_network(new, after)
    updates = [_framed("whole file", digests, bytes(new))]
    if before.shapes == after.shapes:
        updates.append(_framed("changes", digests, _changes(before, after)))
    return min(updates, key=len)


def patch(old: Bytes, delta: Bytes) -> bytes:
    """A file of the new network.

    Args:
        old: bytes of a .sqz file of the network that the update was made for.
        delta: bytes of an update, from `diff`.

    Raises:
        SqzError: the update is damaged, or was made for another network.
    """
    version, reader = container.checked(
        delta, container.UPDATE_MAGIC, ".sqz update", container.UPDATE_VERSIONS
    )
    kind = KINDS[reader.varint(len(KINDS) - 1)]
    base, result = bytes(reader.take(DIGEST_BYTES)), bytes(reader.take(DIGEST_BYTES))
    named, hash_of, rewritten = VERSIONS[version]
    before = Contents.read(old)
    _check_hash(f"is for the {named}", base, hash_of(old, before))
    new = bytes(reader.rest()) if kind == "whole file" else rewritten(before, reader)
    # Of what a reader will find in the bytes, not of what was meant to be written.
    _check_hash(f"should give the {named}", result, hash_of(new, Contents.read(new)))
    return new


def _check_hash(what: str, expected: bytes, found: bytes) -> None:
    if found != expected:
        raise SqzError(f"the update {what} with SHA-256 {expected.hex()}. Received: {found.hex()}")


def _hash_of_file(data: Bytes, contents: Contents) -> bytes:
    return hashlib.sha256(data).digest()


def _hash_of_network(data: Bytes, contents: Contents) -> bytes:
    return digest(contents.network())


def _framed(kind: str, digests: bytes, body: bytes) -> bytes:
    head = container.UPDATE_MAGIC + bytes([container.UPDATE_VERSION, KINDS.index(kind)])
    return container.with_checksum(head + digests + body)


def _changes(before: Contents, after: Contents) -> bytes:
    """The body of an update from the contents of one file to those of another."""
    old_layers = _used(before.layers)
    layers = _carried_layers(old_layers, _used(after.layers))
    same_alphabets = [
        alphabet is old for (alphabet, _), (old, _) in zip(layers, old_layers, strict=True)
    ]
    same_texts = [
        before.header == after.header,
        before.class_names == after.class_names,
        after.sections.get("predictors", b"") == before.sections.get("predictors", b""),
    ]
    same_biases = list(map(np.array_equal, after.biases, before.biases))
    by_rank, codes = _encode_codes(old_layers, layers)
    mode = list(CODERS).index(after.mode)
    texts = {
        name: b"" if same else bytes(after.sections.get(name, b""))
        for name, same in zip(TEXT_SECTIONS, same_texts, strict=True)
    }
    sections = {
        "kept": bytes(map(int, [mode, *same_texts, *same_alphabets, *same_biases, *by_rank])),
        **texts,
        "codebooks": numbers.encode_codebooks(_where(same_alphabets, [a for a, _ in layers])),
        "biases": numbers.encode_biases(_where(same_biases, after.biases)),
        "codes": codes,
    }
    return container.joined([sections[name] for name in UPDATE_SECTIONS])


def _used(layers: Iterable[Layer]) -> list[Layer]:
    """The same kernels in codes of the values in use: those are the same for every encoder."""
    result = []
    for alphabet, codes in layers:
        used = np.bincount(codes.ravel(), minlength=len(alphabet.codebook)) > 0
        ranks = (np.cumsum(used) - 1).astype(np.uint16)
        result.append((Alphabet(alphabet.codebook[used]), ranks[codes]))
    return result


def _carried_layers(old_layers: Sequence[Layer], layers: Sequence[Layer]) -> list[Layer]:
    """Kernels in codes of the old codebook, where it has all of their values, or of their own."""
    result = []
    for (old, _), (used, codes) in zip(old_layers, layers, strict=True):
        has_all = np.isin(used.codebook, old.codebook).all()
        alphabet = old if has_all else Alphabet.of(used.codebook)
        places = np.searchsorted(alphabet.codebook, used.codebook).astype(np.uint16)
        result.append((alphabet, places[codes]))
    return result


@dataclass(frozen=True, eq=False)
class _Updated:
    """What an update makes of the contents of an old file: mode, text sections, arrays."""

    mode: str
    texts: dict[str, Bytes]
    layers: list[Layer]
    biases: list[Values]

    @classmethod
    def of(cls, before: Contents, old_layers: Sequence[Layer], reader: Reader) -> _Updated:
        parts = reader.sections(UPDATE_SECTIONS)
        kept, count = bytes(parts["kept"]), len(old_layers)
        if len(kept) != 1 + len(TEXT_SECTIONS) + 3 * count or max(kept) > 1:
            raise SqzError("the update is for another architecture")
        parts_kept = np.split(
            np.array(list(kept[1:]), bool), len(TEXT_SECTIONS) + count * np.arange(3)
        )
        kept_texts, same_alphabets, same_biases, by_rank = (part.tolist() for part in parts_kept)
        texts: dict[str, Bytes] = {
            name: before.sections.get(name, b"") if same else parts[name]
            for name, same in zip(TEXT_SECTIONS, kept_texts, strict=True)
        }
        with np.errstate(over="ignore", invalid="ignore"):
            new = numbers.decode_codebooks(parts["codebooks"], same_alphabets.count(False))
            alphabets = _filled(same_alphabets, [alphabet for alphabet, _ in old_layers], new)
            sizes = [len(bias) for bias in _where(same_biases, before.biases)]
            changed = numbers.decode_biases(parts["biases"], sizes)
            biases = _filled(same_biases, before.biases, changed)
        layers = _decode_codes(parts["codes"], old_layers, alphabets, by_rank)
        return cls(list(CODERS)[kept[0]], texts, layers, biases)


def _rewritten(before: Contents, reader: Reader) -> bytes:
    """The new file, in the bytes of this version's encoder."""
    updated = _Updated.of(before, _used(before.layers), reader)
    try:
        header = Header.decode(updated.texts["header"])
        names = container.decode_class_names(updated.texts["class names"])
        network = network_of(header, names, updated.layers, updated.biases)
    except SqzError:
        raise
    except InputError as error:
        raise SqzError(f"the update gives no network: {one_line(error, 200)}") from error
    # A hint, which saves the time of fitting them: they may be of an encoder with other codebooks,
    # in units of which their classes are wide, and an old file in faithful mode has none.
    predictors = bytes(updated.texts["predictors"]) or None
    try:
        with np.errstate(over="ignore"):  # what comes of it is refused
            return encode(network, updated.mode, predictors)
    except SqzError:
        return encode(network, updated.mode)


def _rewritten_1(before: Contents, reader: Reader) -> bytes:
    """Of an update of version 1, which names the new file by its bytes.

    They are those of the encoder as it was then: codebooks in the form in which they came.
    """
    updated = _Updated.of(before, before.layers, reader)
    # The fit of predictors is not the same on every machine; the rest is.
    given = {"predictors": updated.texts["predictors"]} if updated.mode == "best" else {}
    sections = {
        **updated.texts,
        "codebooks": numbers.encode_codebooks([alphabet for alphabet, _ in updated.layers]),
        "biases": numbers.encode_biases(updated.biases),
        **CODERS[updated.mode].encode(updated.layers, **given),
    }
    names = SECTIONS[updated.mode]
    return container.write_file(updated.mode, [bytes(sections[name]) for name in names])


# What the two hashes are of, the function of bytes and `Contents` that makes them, and the writer.
VERSIONS = {
    1: ("file", _hash_of_file, _rewritten_1),
    2: ("network", _hash_of_network, _rewritten),
}


def _encode_codes(
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


def _decode_codes(
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


def _where(same: Sequence[bool], items: Sequence[Item]) -> list[Item]:
    return [item for kept, item in zip(same, items, strict=True) if not kept]


def _filled(same: Sequence[bool], old: Sequence[Item], new: Iterable[Item]) -> list[Item]:
    rest = iter(new)
    return [item if kept else next(rest) for kept, item in zip(same, old, strict=True)]


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
