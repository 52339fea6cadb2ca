"""The body of an update between two SqueezeNets of ours, files of version 1."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from keras_squeezenet.errors import InputError, one_line
from keras_squeezenet.sqz import container, numbers
from keras_squeezenet.sqz.code_changes import (
    carried_layers,
    decode_changes,
    encode_changes,
    of_used_values,
)
from keras_squeezenet.sqz.coding import CODERS, SECTIONS, Contents, encode, network_of
from keras_squeezenet.sqz.container import Header
from keras_squeezenet.sqz.network import Values
from keras_squeezenet.sqz.numbers import Layer
from keras_squeezenet.sqz.reading import Bytes, Reader, SqzError

TEXT_SECTIONS = ("header", "class names", "predictors")
UPDATE_SECTIONS = ("kept", *TEXT_SECTIONS, "codebooks", "biases", "codes")

Item = TypeVar("Item")


def changes(before: Contents, after: Contents) -> bytes:
    """The body of an update from the contents of one file to those of another."""
    old_layers = of_used_values(before.layers)
    layers = carried_layers(old_layers, of_used_values(after.layers))
    same_alphabets = [
        alphabet is old for (alphabet, _), (old, _) in zip(layers, old_layers, strict=True)
    ]
    same_texts = [
        before.header == after.header,
        before.class_names == after.class_names,
        after.sections.get("predictors", b"") == before.sections.get("predictors", b""),
    ]
    same_biases = list(map(np.array_equal, after.biases, before.biases))
    by_rank, codes = encode_changes(old_layers, layers)
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
        layers = decode_changes(parts["codes"], old_layers, alphabets, by_rank)
        return cls(list(CODERS)[kept[0]], texts, layers, biases)


def rewritten(before: Contents, reader: Reader) -> bytes:
    """The new file, in the bytes of this version's encoder."""
    updated = _Updated.of(before, of_used_values(before.layers), reader)
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


def rewritten_1(before: Contents, reader: Reader) -> bytes:
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


def _where(same: Sequence[bool], items: Sequence[Item]) -> list[Item]:
    return [item for kept, item in zip(same, items, strict=True) if not kept]


def _filled(same: Sequence[bool], old: Sequence[Item], new: Iterable[Item]) -> list[Item]:
    rest = iter(new)
    return [item if kept else next(rest) for kept, item in zip(same, old, strict=True)]
