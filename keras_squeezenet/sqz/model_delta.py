"""The body of an update between two models of any kind, files of version 2.

The arrays of the new model are told by their names from those of the old one: where the old has one
of the same name and shape, they may be kept, or coded as what has changed; all others are coded as
in a file. So a graph may change, too: a head of other classes leaves the rest as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from keras_squeezenet.errors import InputError, one_line
from keras_squeezenet.network.architecture import KernelShape
from keras_squeezenet.sqz import container, context_coding, graph_text, model_coding, numbers
from keras_squeezenet.sqz.code_changes import (
    carried_layers,
    decode_changes,
    encode_changes,
    of_used_values,
)
from keras_squeezenet.sqz.float_changes import MANTISSA, differences, moved
from keras_squeezenet.sqz.graph import Graph, check_limits
from keras_squeezenet.sqz.model import CompressedModel, Stored
from keras_squeezenet.sqz.model_coding import kernel_shape
from keras_squeezenet.sqz.network import MAX_CODEBOOK, SharedValues, Values
from keras_squeezenet.sqz.numbers import Alphabet, Layer
from keras_squeezenet.sqz.reading import Bytes, Integers, Reader, SqzError

SECTIONS = (
    *("kept", "header", "class names", "ways", "codebooks", "numbers", "differences"),
    *context_coding.SECTIONS,
    "changes",
)

# How an array of the new model is given.
KEPT = 0  # it is as in the old model
# Shared values, by what their codes have become: with the old values; with others, carried over to
# the nearest one; with others, by rank.
OLD_VALUES, NEAREST, BY_RANK = CHANGED = range(1, 4)
SHARED = 4  # shared values, as in a file
NUMBERS = 5  # numbers, as in a file
# Numbers by how far they have moved, with so many low bits that are zero.
MOVED = range(6, 6 + MANTISSA + 1)

SAME_ENOUGH = 0.5  # of all weights, to spare the time of coding the array by itself, too


@dataclass(frozen=True, eq=False)
class _Arrays:
    """The arrays of a new model, each in one of the ways; the lists are in the arrays' order."""

    ways: list[int]
    alphabets: list[Alphabet]  # those that are not of the old model
    numbers: list[Values]
    moves: list[Integers]
    shared: list[Layer]
    old_layers: list[Layer]  # of the changed ones, in codes of the values in use
    new_layers: list[Layer]  # the same in the codes of the new model


def changes(before: CompressedModel, after: CompressedModel, mode: str) -> bytes:
    """The body of an update from one model to another, in a file of a mode."""
    found, shapes = _Arrays([], [], [], [], [], [], []), after.graph.array_shapes()
    for name, array in after.arrays.items():
        old = _old_values(before, name, shapes[name])
        found.ways.append(_add(found, name, array, old))
    by_rank, coded = encode_changes(found.old_layers, found.new_layers)
    ranks = iter(by_rank)
    ways = [BY_RANK if way in CHANGED and next(ranks) else way for way in found.ways]
    kept = (
        before.class_names == after.class_names,
        _described(before) == _described(after),
    )
    header = graph_text.encode_header(after.name, after.graph, after.resize, before.graph)
    moves = [numbers.zigzag(each.ravel()) for each in found.moves]
    sections = {
        "kept": bytes([container.MODES.index(mode), *map(int, kept)]),
        "header": b"" if kept[1] else header,
        "class names": b"" if kept[0] else container.encode_class_names(after.class_names),
        "ways": numbers.encode_integers(np.array(ways, np.int64)),
        "codebooks": numbers.encode_codebooks(found.alphabets),
        "numbers": numbers.encode_biases(found.numbers),
        "differences": numbers.encode_integers(np.concatenate([np.zeros(0, np.int64), *moves])),
        **_encoded(found.shared),
        "changes": coded,
    }
    return container.joined([sections[name] for name in SECTIONS])


def _described(model: CompressedModel) -> list[object]:
    return [model.name, graph_text.listed(model.graph), model.resize]


def _old_values(before: CompressedModel, name: str, shape: tuple[int, ...]) -> Values | None:
    """The old array of a name, where it has the shape of the new one."""
    values = before.values(name) if name in before.arrays else None
    return values if values is not None and values.shape == shape else None


def _add(found: _Arrays, name: str, array: Stored, old: Values | None) -> int:
    """The way in which an array is given, once it stands in the lists of that way."""
    values = array.values if isinstance(array, SharedValues) else array
    if old is not None and np.array_equal(old.view(np.uint32), values.view(np.uint32)):
        return KEPT
    if isinstance(array, np.ndarray):
        return _add_numbers(found, values, old)
    layer = model_coding.coded(name, array)
    old_layer = None if old is None else _old_layer(name, old)
    if old_layer is not None:
        [carried] = carried_layers([old_layer], of_used_values([layer]))
        if _is_shorter_by_its_changes(old_layer, carried, layer):
            found.old_layers.append(old_layer)
            found.new_layers.append(carried)
            if carried[0] is old_layer[0]:
                return OLD_VALUES
            found.alphabets.append(carried[0])
            return NEAREST
    found.alphabets.append(layer[0])
    found.shared.append(layer)
    return SHARED


def _add_numbers(found: _Arrays, values: Values, old: Values | None) -> int:
    if old is not None:
        shift, moves = differences(old, values)
        coded = numbers.encode_integers(numbers.zigzag(moves.ravel()))
        if len(coded) < len(numbers.encode_biases([values.ravel()])):
            found.moves.append(moves)
            return MOVED[shift]
    found.numbers.append(values.ravel())
    return NUMBERS


def _old_layer(name: str, values: Values) -> Layer | None:
    """An old array in codes of the values in use, whichever way its file holds it."""
    codebook, codes = np.unique(values, return_inverse=True)
    if len(codebook) > MAX_CODEBOOK:
        return None
    return Alphabet(codebook), codes.astype(np.uint16).reshape(kernel_shape(name, values.shape))


def _is_shorter_by_its_changes(old: Layer, carried: Layer, layer: Layer) -> bool:
    if carried[0] is old[0] and np.mean(old[1] == carried[1]) >= SAME_ENOUGH:
        return True
    _, coded = encode_changes([old], [carried])
    alone = _encoded([layer])
    codebooks = [
        len(numbers.encode_codebooks([alphabet] if alphabet is not old[0] else []))
        for alphabet in (carried[0], layer[0])
    ]
    return len(coded) + codebooks[0] < sum(map(len, alone.values())) + codebooks[1]


def _encoded(layers: Sequence[Layer]) -> dict[str, bytes]:
    if not layers:
        return dict.fromkeys(context_coding.SECTIONS, b"")
    return context_coding.encode(layers)


def rewritten(before: CompressedModel, reader: Reader) -> bytes:
    """The new file, in the bytes of this version's encoder, from the body of an update."""
    size = reader.left
    parts = reader.sections(SECTIONS)
    try:
        # What is not finite is refused where it would become a value.
        with np.errstate(over="ignore", invalid="ignore"):
            mode, model = _updated(before, parts, size)
            return model_coding.encode(model, mode)
    except SqzError:
        raise
    except InputError as error:
        raise SqzError(f"the update gives no model: {one_line(error, 300)}") from error


def _updated(
    before: CompressedModel, parts: Mapping[str, Bytes], size: int
) -> tuple[str, CompressedModel]:
    kept = bytes(parts["kept"])
    if len(kept) != 3 or max(kept) > 1:
        raise SqzError("an update must have three flags of what is kept")
    names, described = before.class_names, (before.name, before.graph, before.resize)
    if not kept[1]:
        names = container.decode_class_names(parts["class names"])
    if not kept[2]:
        described = graph_text.decode_header(parts["header"], before.graph)
    if any(len(parts[name]) for name, flag in (("class names", 1), ("header", 2)) if kept[flag]):
        raise SqzError("an update must not have what it says is kept")
    name, graph, resize = described
    check_limits(graph, model_coding.MAX_WEIGHTS)
    arrays = _arrays(before, graph, parts, size)
    model = CompressedModel(name, graph, arrays, names, resize)
    return container.MODES[kept[0]], model


def _arrays(
    before: CompressedModel, graph: Graph, parts: Mapping[str, Bytes], size: int
) -> dict[str, Stored]:
    shapes = graph.array_shapes()
    reader = Reader(parts["ways"], "section of ways")
    listed = numbers.decode_integers(reader, len(shapes)).tolist()
    reader.finish()
    ways = dict(zip(shapes, listed, strict=True))
    old = _checked_old_values(before, shapes, ways, size)
    arrays: dict[str, Stored] = {}

    by_itself = [name for name in ways if ways[name] == NUMBERS]
    found = numbers.decode_biases(parts["numbers"], [prod(shapes[name]) for name in by_itself])
    for name, values in zip(by_itself, found, strict=True):
        arrays[name] = (values + np.float32(0)).reshape(shapes[name])
    arrays |= _moved(parts["differences"], ways, old)
    arrays |= _shared(parts, shapes, ways, old)
    return {name: arrays[name] if name in arrays else before.arrays[name] for name in shapes}


def _checked_old_values(
    before: CompressedModel,
    shapes: Mapping[str, tuple[int, ...]],
    ways: Mapping[str, int],
    size: int,
) -> dict[str, Values]:
    """The old arrays that the new ones follow from. What does not is as much as a file may hold."""
    old: dict[str, Values] = {}
    weights, most = 0, model_coding.most_weights(size)
    for name, way in ways.items():
        if way not in (SHARED, NUMBERS):
            values = _old_values(before, name, shapes[name])
            if way >= MOVED.stop or values is None:
                raise SqzError(f"the update follows from no array {name} of the old network")
            old[name] = values
            continue
        weights += prod(shapes[name])
        if weights > most:
            raise SqzError(f"the update may bring {most} weights. Received: {weights} up to {name}")
    return old


def _moved(
    data: Bytes, ways: Mapping[str, int], old: Mapping[str, Values]
) -> dict[str, np.ndarray]:
    names = [name for name, way in ways.items() if way in MOVED]
    sizes = [old[name].size for name in names]
    reader = Reader(data, "section of differences")
    moves = numbers.unzigzag(numbers.decode_integers(reader, sum(sizes)))
    reader.finish()
    return {
        name: moved(old[name], ways[name] - MOVED.start, by)
        for name, by in zip(names, np.split(moves, np.cumsum(sizes)[:-1]), strict=False)
    }


def _shared(
    parts: Mapping[str, Bytes],
    shapes: Mapping[str, tuple[int, ...]],
    ways: Mapping[str, int],
    old: Mapping[str, Values],
) -> dict[str, SharedValues]:
    coded = [name for name, way in ways.items() if way in CHANGED or way == SHARED]
    old_layers = {name: _layer_of(name, old[name]) for name in coded if ways[name] != SHARED}
    with_codebook = [name for name in coded if ways[name] != OLD_VALUES]
    given = numbers.decode_codebooks(parts["codebooks"], len(with_codebook))
    alphabets = {name: alphabet for name, (alphabet, _) in old_layers.items()}
    alphabets |= dict(zip(with_codebook, given, strict=True))

    by_itself = [name for name in coded if ways[name] == SHARED]
    kernels = [kernel_shape(name, shapes[name]) for name in by_itself]
    decoded = _decoded(parts, [alphabets[name] for name in by_itself], kernels)
    codes = dict(zip(by_itself, decoded, strict=True))
    by_rank = [ways[name] == BY_RANK for name in old_layers]
    changed = decode_changes(
        parts["changes"],
        list(old_layers.values()),
        [alphabets[name] for name in old_layers],
        by_rank,
    )
    codes |= {name: layer[1] for name, layer in zip(old_layers, changed, strict=True)}
    return {
        name: SharedValues(codes[name].reshape(shapes[name]), alphabets[name].codebook)
        for name in coded
    }


def _layer_of(name: str, values: Values) -> Layer:
    layer = _old_layer(name, values)
    if layer is None:
        raise SqzError(f"the update follows from no shared values of the old network's {name}")
    return layer


def _decoded(
    parts: Mapping[str, Bytes], alphabets: Sequence[Alphabet], shapes: Sequence[KernelShape]
) -> list[np.ndarray]:
    if shapes:
        return context_coding.decode(parts, alphabets, shapes)
    if any(len(parts[name]) for name in context_coding.SECTIONS):
        raise SqzError("an update without shared values of its own must have no codes of such")
    return []
