"""Broken .sqz files of version 2 end in one clear line or in a sound model; memory is bounded.

Half of the changes mend the checksum afterwards, so that what is behind it is reached.
"""

import contextlib
import json
import random
import re
import zlib

import numpy as np
import pytest

from keras_squeezenet import sqz
from keras_squeezenet.compression.graph_building import model_of_graph
from keras_squeezenet.errors import InputError
from keras_squeezenet.sqz import (
    SqzError,
    container,
    graph_text,
    model_coding,
    model_delta,
    numbers,
)
from keras_squeezenet.sqz.graph import MAX_DEPTH, MAX_NODES, Graph, Node
from keras_squeezenet.sqz.model import CompressedModel, stored
from keras_squeezenet.sqz.reading import Reader
from tests.sqz_models import UPDATES, counted, node, with_head_of
from tests.test_sqz_fuzz import HOSTILE_JSON, TENTHS, mended, peak_of
from tests.test_weight_files_fuzz import IN_PLACE, RESIZING, mutate, random_changes
from tests.tiers import parametrize

MUTATIONS = 25_000  # of each file
BUILT = 40  # models that Keras makes of changed headers, for each tenth


def files():
    return {
        f"{kind}-{mode}": sqz.encode(model, mode)
        for mode in ("faithful", "best")
        for kind, model in (("grid", counted()), ("float32", counted(np.pi, period=999)))
    }


def read_or_refused(read, *data):
    """What a function makes of bytes; None where it refuses them in one line."""
    try:
        result, complaint = read(*data), ""
    except SqzError as error:
        result, complaint = None, str(error)
    if result is None:
        assert len(complaint.splitlines()) == 1, repr(complaint)
        assert len(complaint) < 1000
    return result


def is_sound(data):
    model = read_or_refused(sqz.decode, data)
    if model is None:
        return False
    # What was read is checked as any model is; and it can be written again.
    assert sqz.decode(sqz.encode(model)).name == model.name
    return True


@pytest.mark.parametrize("tenths", TENTHS)
@parametrize("name", files(), quick=2)
def test_mutated_files_are_refused_or_sound(name, tenths):
    data, rng = files()[name], random.Random(f"{name} {tenths}")
    outcomes = set()
    for number in range(tenths * MUTATIONS // 10):
        changed = mutate(data, random_changes(rng, [0, 10, 60, 200], IN_PLACE + RESIZING))
        outcomes.add(is_sound(mended(changed) if number % 2 else changed))
    assert False in outcomes


def header_of(data):
    _, sections = container.read_file(data, model_coding.SECTIONS, 2)
    return zlib.decompressobj(-15, graph_text.DICTIONARY).decompress(sections["header"])


def with_header(data, header):
    """The file with another JSON text as its header, deflated and with the right checksum."""
    mode, sections = container.read_file(data, model_coding.SECTIONS, 2)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=graph_text.DICTIONARY)
    sections["header"] = deflate.compress(header) + deflate.flush()
    return container.write_file(mode, list(sections.values()), 2)


def changed_headers(data, seed, count):
    """Headers with one hostile value in place of each value, and with random changes."""
    header, rng = header_of(data), random.Random(seed)
    tokens = [match.span() for match in re.finditer(rb'"[^"]*"|[\d.e-]+|null|true|false', header)]
    for start, end in tokens:
        for value in (*HOSTILE_JSON, '"Lambda"', '"Model"', '"Input"', '"linear"', "7", "64"):
            yield header[:start] + value.encode() + header[end:]
    for _ in range(count):
        yield mutate(header, random_changes(rng, [0, 10, 60, 300], IN_PLACE + RESIZING))


@pytest.mark.parametrize("tenths", TENTHS)
@parametrize("name", ["grid-faithful", "float32-best"], quick=1)
def test_mutated_headers_are_refused_or_sound(name, tenths):
    """What deflate would hide from changes of the file's bytes."""
    data = files()[name]
    assert is_sound(with_header(data, header_of(data)))
    headers = list(changed_headers(data, name, 1000))
    headers = headers[:: 10 if tenths == 1 else 1]
    outcomes = {is_sound(with_header(data, header)) for header in headers}
    assert outcomes == {True, False}


@pytest.mark.parametrize("tenths", TENTHS)
def test_keras_makes_a_model_of_a_changed_header_or_it_is_refused_in_a_line(tenths):
    """Arguments in their ranges may make no model all the same: weights fit, layers do not."""
    data = files()["grid-faithful"]
    headers = list(changed_headers(data, 1, 0))
    random.Random(tenths).shuffle(headers)
    complaints = []
    for header in headers:
        if len(complaints) == tenths * BUILT:
            break
        with contextlib.suppress(SqzError):
            complaints.append(complaint_of_keras(sqz.decode(with_header(data, header))))
    assert "" in complaints
    assert set(complaints) > {""}
    assert all(len(complaint.splitlines()) <= 1 for complaint in complaints)


def complaint_of_keras(model):
    try:
        model_of_graph(model)
    except SqzError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", ["grid-faithful", "float32-best"])
def test_files_cut_short_are_refused(name):
    data = files()[name]
    for length in range(len(data)):
        assert not is_sound(data[:length])
        assert not is_sound(mended(data[:length]))


@pytest.mark.parametrize("mode", [b"\x00", b"\x01"])
def test_random_bytes_are_refused(mode):
    rng = random.Random(0)
    for _ in range(500):
        assert not is_sound(mended(b"\x89SQZ\x02" + mode + rng.randbytes(rng.randrange(300))))


def dense(units, channels):
    graph = Graph(
        (
            node("Input", "in", {"shape": (None, channels)}),
            node("Dense", "dense", {"units": units, "channels": channels, "use_bias": False}, (0,)),
        ),
        0,
        1,
    )
    arrays = {"dense/kernel": np.zeros((channels, units), np.float32)}
    return CompressedModel("dense", graph, arrays)


@pytest.mark.parametrize("form", [stored, np.asarray])
@parametrize("mode", ["faithful", "best"], quick=1)
@pytest.mark.parametrize("channels", [2**10, pytest.param(2**14, marks=pytest.mark.slow)])
def test_a_small_file_takes_bounded_memory(mode, form, channels):
    """The largest kernel that there may be, in some hundred bytes; and a sixteenth of it."""
    model = dense(2**10, channels)
    arrays = {name: form(array) for name, array in model.arrays.items()}
    data = sqz.encode(CompressedModel("dense", model.graph, arrays), mode)
    assert len(data) < 200
    assert peak_of(sqz.decode, data) < 50 * 2**10 * channels + 10_000_000


def test_more_weights_than_a_small_file_may_hold_are_refused_before_they_take_memory():
    data = sqz.encode(dense(2**10, 2**10))
    header = header_of(data).replace(b'"units":1024', b'"units":16777216')

    def decode():
        with pytest.raises(SqzError, match=r"may hold 16777216 weights\. Received: 17179869184 up"):
            sqz.decode(with_header(data, header))

    assert peak_of(decode) < 1_000_000


def test_a_file_may_hold_more_weights_the_more_bytes_it_has():
    most = model_coding.most_weights
    assert most(200) == most(2**18) == 2**24
    assert most(1_000_000) == 64_000_000
    assert most(2**27) == 2**28


def nested(depth):
    graph = Graph((node("Input", "in", {"shape": (None, 4)}),), 0, 0)
    for _ in range(depth - 1):
        inside = Node("Model", "inside", inputs=(0,), graph=graph)
        graph = Graph((node("Input", "in", {"shape": (None, 4)}), inside), 0, 1)
    return CompressedModel("nested", graph, {})


def test_models_may_lie_in_models_to_some_depth():
    assert is_sound(sqz.encode(nested(MAX_DEPTH)))
    with pytest.raises(InputError, match=rf"{MAX_DEPTH} deep"):
        sqz.encode(nested(MAX_DEPTH + 1))


def test_too_many_nodes_are_refused():
    data = sqz.encode(nested(1))
    name, (is_sequential, nodes, inputs, _), resize = json.loads(header_of(data))
    for count, complaint in ((MAX_NODES, "at most"), (MAX_NODES - 1, None)):
        more = [["Identity", f"i{number}"] for number in range(count)]
        changed = [name, [is_sequential, [*nodes, *more], inputs, count], resize]
        file = with_header(data, json.dumps(changed).encode())
        assert is_sound(file) == (complaint is None)


def test_a_layer_that_leads_to_no_output_is_refused():
    """Keras would leave it out, and its weights would have no place."""
    nodes = [
        node("Input", "in", {"shape": (None, 4)}),
        node("Dense", "lost", {"units": 2, "channels": 4}, (0,)),
        node("Dense", "found", {"units": 2, "channels": 4}, (0,)),
    ]
    Graph((nodes[0], nodes[2]), 0, 1)
    with pytest.raises(
        InputError, match=r"must lead to an output\. Received: layer lost \(Dense\)"
    ):
        Graph(tuple(nodes), 0, 2)
    with pytest.raises(
        InputError, match=r"must lead to an output\. Received: layer lost \(Dense\)"
    ):
        Graph((*nodes, Node(None, inputs=(1,), again=1)), 0, 2)


def test_a_graph_of_graphs_that_grow_is_refused_without_taking_memory():
    """Few nodes, each of which calls the same model: Keras goes through it at each call."""
    graph = nested(1).graph
    for _ in range(MAX_DEPTH - 1):
        nodes = [node("Input", "in", {"shape": (None, 4)})]
        nodes.append(Node("Model", "m", inputs=(0,), graph=graph))
        nodes += [Node(None, inputs=(number,), again=1) for number in range(1, 60)]
        graph = Graph(tuple(nodes), 0, 60)
    with pytest.raises(InputError, match=r"as often as it is called. Received: 5693613559321"):
        sqz.encode(CompressedModel("growing", graph, {}))


def test_a_model_within_the_model_of_many_outputs_is_refused_without_taking_memory():
    """Few bytes, as many tensors as there are outputs at each call."""
    data = sqz.encode(nested(1))
    inside = [False, [["Input", "in", {"shape": [None, 4]}]], 0, [0] * 200_000]
    nodes = [["Input", "in", {"shape": [None, 4]}], ["Model", "m", inside], *[[1, [0]]] * 50]
    for graph in ([False, nodes, 0, 1], inside, [*inside[:2], [0] * 200_000, 0]):
        file = with_header(data, json.dumps(["m", graph, None]).encode())

        def decode(file=file):
            with pytest.raises(SqzError, match=r"at most 65536 (inputs|outputs)"):
                sqz.decode(file)

        assert peak_of(decode) < 30_000_000
    inside[3] = [0] * 60_000
    file = with_header(data, json.dumps(["m", [False, nodes, 0, 1], None]).encode())

    def decode_calls():
        with pytest.raises(SqzError, match=r"give at most 65536 tensors in all"):
            sqz.decode(file)

    assert peak_of(decode_calls) < 10_000_000


# Updates


def updates():
    """Bodies of updates that are changes of the counted model, by their names."""
    old = sqz.encode(counted())
    made = {name: sqz.diff(old, sqz.encode(new())) for name, (_, new) in UPDATES.items()}
    return {name: data[75:-4] for name, data in made.items() if data[10] == 1}


def is_sound_body(body):
    """Whether an update's body gives a file; what stands around it is held by two digests."""
    reader = Reader(body, ".sqz update")
    new = read_or_refused(model_delta.rewritten, counted(), reader)
    return new is not None and sqz.decode(new) is not None


@pytest.mark.parametrize("tenths", TENTHS)
@parametrize("name", updates(), quick=1)
def test_mutated_updates_are_refused_or_give_a_sound_model(name, tenths):
    body, rng = updates()[name], random.Random(f"{name} {tenths}")
    outcomes = {
        is_sound_body(mutate(body, random_changes(rng, [0, 8, 20, 60], IN_PLACE + RESIZING)))
        for _ in range(tenths * MUTATIONS // 10)
    }
    assert False in outcomes
    assert is_sound_body(body)


def test_mutated_updates_give_the_same_model_or_none():
    old, new = sqz.encode(counted()), sqz.encode(with_head_of(7, counted()))
    delta, rng = sqz.diff(old, new), random.Random(0)
    for number in range(100):
        changed = mutate(delta, random_changes(rng, [10, 80, 100], IN_PLACE + RESIZING))
        given = read_or_refused(sqz.patch, old, mended(changed) if number % 2 else changed)
        if given is not None:
            assert sqz.digest(sqz.decode(given)) == sqz.digest(sqz.decode(new))


@pytest.mark.parametrize("name", updates())
def test_updates_cut_short_are_refused(name):
    body = updates()[name]
    assert not any(is_sound_body(body[:length]) for length in range(len(body)))


def sections_of(name):
    return Reader(updates()[name], "update").sections(model_delta.SECTIONS)


def with_sections(name, **changes):
    sections = {key: bytes(data) for key, data in sections_of(name).items()} | changes
    return container.joined([sections[key] for key in model_delta.SECTIONS])


@pytest.mark.slow
@pytest.mark.parametrize("tenths", TENTHS)
def test_mutated_headers_of_updates_are_refused_or_sound(tenths):
    """What deflate would hide from changes of the update's bytes."""
    name = "grid-best-to-other-head"
    inflater = zlib.decompressobj(-15, graph_text.DICTIONARY)
    header, rng = inflater.decompress(sections_of(name)["header"]), random.Random(tenths)
    tokens = [match.span() for match in re.finditer(rb'"[^"]*"|[\d.e-]+|null|true|false', header)]
    values = (*HOSTILE_JSON, "7", "8", "64", "[0,1]", "[0,8192]", '[["Identity","i"]]')
    changed = [
        header[:start] + value.encode() + header[end:] for start, end in tokens for value in values
    ]
    changed += [
        mutate(header, random_changes(rng, [0, 10, 60], IN_PLACE + RESIZING)) for _ in range(1000)
    ]
    for each in changed[:: 10 if tenths == 1 else 1]:
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=graph_text.DICTIONARY)
        is_sound_body(with_sections(name, header=deflate.compress(each) + deflate.flush()))
    assert is_sound_body(with_sections(name))


@parametrize("way", range(model_delta.MOVED.stop + 1), quick=2)
def test_every_way_of_every_array_is_refused_or_sound(way):
    ways = [0] * len(counted().arrays)
    for place in range(way % 3, len(ways), 3):  # every way, and every array with ten of them
        changed = [*ways[:place], way, *ways[place + 1 :]]
        body = with_sections(
            "grid-best-to-updated", ways=numbers.encode_integers(np.array(changed))
        )
        is_sound_body(body)


def test_an_update_brings_no_more_weights_than_its_bytes_may():
    nodes = [[0, 7], ["Dense", "wide", {"units": 2**24, "channels": 70}, None]]
    header = container.deflate_json(["m", [False, nodes, [0], 7], None], graph_text.DICTIONARY)
    ways = [0] * 9 + [model_delta.NUMBERS, model_delta.NUMBERS]
    body = with_sections(
        "grid-best-to-other-head", header=header, ways=numbers.encode_integers(np.array(ways))
    )

    def apply():
        with pytest.raises(SqzError, match=r"Received: 1174405856 up to wide/kernel"):
            model_delta.rewritten(counted(), Reader(body, "update"))

    assert peak_of(apply) < 1_000_000
