"""Updates between models of any kind give the new model, and are small where little changed."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_squeezenet import sqz
from keras_squeezenet.sqz import SqzError, container, float_changes, graph_text, numbers
from keras_squeezenet.sqz.graph import Graph
from keras_squeezenet.sqz.graph_text import decode_header, encode_header, listed
from keras_squeezenet.sqz.model import CompressedModel, is_kernel, stored
from keras_squeezenet.sqz.model_delta import CHANGED, KEPT, MOVED, NUMBERS, SECTIONS, SHARED
from keras_squeezenet.sqz.reading import Reader
from tests import sqz_networks
from tests.sqz_models import UPDATES, counted, node, with_head_of
from tests.sqz_networks import another_encoder
from tests.sqz_second_reader_updates import patched

GOLDEN = Path(__file__).parent / "golden" / "version2"
MODES = ("faithful", "best")
KINDS = ("whole file", "changes")


def with_arrays(model, change):
    """The model with `change(name, values)` instead of each array's values."""
    arrays = {name: stored(change(name, model.values(name))) for name in model.arrays}
    return replace(model, arrays=arrays)


def every(number, change):
    """`change(values)` at each so many-th place."""

    def changed(_, values):
        places = np.arange(values.size).reshape(values.shape) % number == 0
        return np.where(places, change(values), values).astype(np.float32)

    return changed


CHANGES = {
    "nothing": lambda name, values: values,
    "all a half larger": lambda name, values: values * np.float32(1.5),
    "a few": every(50, lambda values: 0.125),
    "to new values": every(9, lambda values: values + 0.0625),
    "far ones": every(7, lambda values: -values),
    "zeros": lambda name, values: np.zeros_like(values),
    "kernels alone": lambda name, values: values * (2 if is_kernel(name) else 1),
    "to many values": lambda name, values: values + np.arange(values.size).reshape(values.shape),
}


def assert_same(found, expected):
    assert sqz.digest(found) == sqz.digest(expected)
    for name in expected.arrays:
        np.testing.assert_array_equal(found.values(name), expected.values(name))


@pytest.mark.parametrize("modes", [("best", "best"), ("best", "faithful"), ("faithful", "best")])
@pytest.mark.parametrize("name", CHANGES)
def test_an_update_gives_the_new_file(name, modes):
    old = sqz.encode(counted(), modes[0])
    new = sqz.encode(with_arrays(counted(resize=None), CHANGES[name]), modes[1])
    delta = sqz.diff(old, new)
    assert delta[9] == 3
    assert sqz.patch(old, delta) == new
    assert len(delta) < len(new) + 100


def test_an_update_to_the_same_file_is_little_more_than_its_two_checksums():
    old = sqz.encode(counted())
    assert len(sqz.diff(old, old)) < 2 * 32 + 40


@st.composite
def models(draw):
    """Of the counted graph, with a head of some classes, and any numbers."""
    seed = draw(st.integers(0, 2**32 - 1))
    model = with_head_of(draw(st.sampled_from([5, 5, 7])), counted())
    rng = np.random.default_rng(seed)
    scale = draw(st.sampled_from([1e-30, 0.1, 1.0, 1e30]))
    levels = draw(st.sampled_from([1, 2, 9, 400]))

    def change(name, values):
        kinds = [np.round(rng.normal(size=values.shape) * levels) / levels, values]
        return (scale * kinds[rng.integers(2)]).astype(np.float32)

    return with_arrays(model, change)


@given(models(), models(), st.sampled_from(MODES))
@settings(max_examples=15, deadline=None)
def test_any_two_models_have_an_update_which_the_second_reader_reads(model, other, mode):
    old, new = sqz.encode(model, mode), sqz.encode(other, mode)
    delta = sqz.diff(old, new)
    assert sqz.patch(old, delta) == new
    read_mode, read = patched(old, delta)
    assert MODES[read_mode] == mode
    assert_read_alike(read, other)


def assert_read_alike(read, model):
    assert read["graph"] == json.loads(json.dumps(listed(model.graph)))
    assert (read["name"], read["resize"]) == (model.name, model.resize)
    assert read["class names"] == (model.class_names and list(model.class_names))
    for name, values in read["arrays"].items():
        assert values == model.values(name).ravel().tolist(), name


def test_a_head_of_other_classes_leaves_the_rest_as_it_was():
    old, new = counted(), with_head_of(7, counted())
    files = sqz.encode(old), sqz.encode(new)
    delta = sqz.diff(*files)
    assert sqz.patch(files[0], delta) == files[1]
    head = sum(a.size for n, a in new.arrays.items() if isinstance(a, np.ndarray) and "head" in n)
    assert len(delta) < len(files[1]) / 2 + 4 * head
    assert KINDS[delta[10]] == "changes"


def test_nodes_of_the_old_graph_are_named():
    old, new = counted().graph, with_head_of(7, counted()).graph
    whole, short = (encode_header("m", new, None, base) for base in (None, old))
    assert len(short) < len(whole) / 3
    assert listed(decode_header(short, old)[1]) == listed(new)
    assert listed(decode_header(encode_header("m", new, None, new), new)[1]) == listed(new)


@pytest.mark.parametrize("runs", ["[[0,9]]", "[[0,2],[1,1]]", "[[-1,2]]", "[[0,0]]", "[[7,2]]"])
def test_runs_of_old_nodes_that_are_none_are_refused(runs):
    old = counted().graph
    with pytest.raises(SqzError, match="nodes of the old graph must be from"):
        decode_header(deflated(f'["m",[false,{runs},[0],0],null]'), old)


def deflated(text):
    return container.deflate_json(json.loads(text), graph_text.DICTIONARY)


def test_an_update_fits_the_old_model_however_its_arrays_are_held():
    """As shared values or as numbers, in either mode, written by another encoder."""
    old, new = counted(), with_arrays(counted(), CHANGES["a few"])
    delta = sqz.diff(sqz.encode(old), sqz.encode(new))
    assert KINDS[delta[10]] == "changes"
    as_numbers = replace(old, arrays={name: old.values(name) for name in old.arrays})
    for base in (sqz.encode(as_numbers), sqz.encode(old, "faithful")):
        assert_same(sqz.decode(sqz.patch(base, delta)), new)
    with another_encoder():
        base = sqz.encode(old)
        given = sqz.patch(base, delta)
    assert base != sqz.encode(old)
    assert_same(sqz.decode(given), new)


def test_a_wrong_base_is_refused():
    old, new = sqz.encode(counted()), sqz.encode(counted(0.25))
    delta = sqz.diff(old, new)
    squeezenet = sqz.encode(sqz_networks.counted())
    wanted = sqz.digest(counted()).hex()
    for wrong in (new, squeezenet):
        with pytest.raises(SqzError, match=f"for the network with SHA-256 {wanted}. Received: "):
            sqz.patch(wrong, delta)
    between_squeezenets = sqz.diff(squeezenet, squeezenet)
    with pytest.raises(SqzError, match="for the network with SHA-256"):
        sqz.patch(old, between_squeezenets)


def test_a_squeezenet_may_become_a_model_of_another_kind_and_back():
    files = sqz.encode(sqz_networks.counted()), sqz.encode(counted())
    for old, new in (files, files[::-1]):
        delta = sqz.diff(old, new)
        assert (delta[9], KINDS[delta[10]]) == (3, "whole file")
        assert sqz.patch(old, delta) == new


def test_models_that_differ_in_anything_have_other_digests():
    moved = {**counted().arrays, "norm/beta": counted(0.25).arrays["norm/beta"]}
    others = [
        *(counted(), counted(0.25), counted(resize=None), counted(resize="stretch")),
        *(counted(class_names=None), counted(class_names=tuple("abcdf")), counted(name="other")),
        *(replace(counted(), arrays=moved), with_head_of(7, counted())),
        *(with_activation(activation) for activation in ("linear", "sigmoid")),
    ]
    assert len({sqz.digest(model) for model in others}) == len(others)


def with_activation(activation):
    graph = counted().graph
    arguments = {"units": 5, "activation": activation, "channels": 70}
    head = node("Dense", "head", arguments, (6,))
    return replace(counted(), graph=Graph((*graph.nodes[:-1], head), graph.inputs, graph.outputs))


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=30), st.integers(1, 24))
def test_differences_of_floats_lead_back(pairs, bits):
    old, new = (np.array(part, np.float32) + np.float32(0) for part in zip(*pairs, strict=True))
    new = float_changes.rounded(new, bits)
    shift, by = float_changes.differences(old, new)
    assert shift >= 24 - bits
    assert np.abs(by).max() < 2**32
    np.testing.assert_array_equal(float_changes.moved(old, shift, by), new)


@given(FLOATS, st.integers(1, 24))
def test_numbers_are_rounded_to_significant_bits(value, bits):
    rounded = float(float_changes.rounded(np.array([value], np.float32), bits)[0])
    mantissa, _ = np.frexp(rounded)
    if abs(value) >= 2**-126:
        assert float(mantissa) * 2**bits == round(float(mantissa) * 2**bits)
        assert abs(rounded - value) <= abs(value) * 2.0**-bits or abs(value) > 3.3e38
    assert np.isfinite(rounded)


def test_numbers_that_would_not_be_finite_are_refused():
    old = np.array([3e38], np.float32)
    with pytest.raises(SqzError, match="not finite"):
        float_changes.moved(old, 23, np.array([2]))


def test_numbers_that_moved_take_a_part_of_their_bytes():
    """As statistics of normalization do in training."""
    rng = np.random.default_rng(0)
    old = rng.normal(size=5000).astype(np.float32)
    new = old * rng.normal(1, 0.01, old.size).astype(np.float32)
    graph = Graph(
        (
            node("Input", "in", {"shape": (None, 4, 4, 5000)}),
            node(
                "BatchNormalization",
                "n",
                {"channels": 5000, "scale": False, "center": False},
                (0,),
            ),
        ),
        0,
        1,
    )

    def model(mean):
        ones = np.ones(5000, np.float32)
        arrays = {"n/moving_mean": mean, "n/moving_variance": ones}
        return sqz.encode(CompressedModel("m", graph, arrays))

    sizes = [
        len(sqz.diff(model(old), model(mean))) for mean in (new, float_changes.rounded(new, 11))
    ]
    assert sizes[0] < 0.75 * 4 * old.size
    assert sizes[1] < 0.3 * 4 * old.size


@pytest.mark.parametrize("name", UPDATES)
class TestGoldenUpdates:
    def test_updates_stay_applicable(self, name):
        old, new = (make() for make in UPDATES[name])
        base = (GOLDEN / "grid-best.sqz").read_bytes()
        delta = (GOLDEN / f"{name}.3.sqzdelta").read_bytes()
        assert_same(sqz.decode(base), old)
        assert_same(sqz.decode(sqz.patch(base, delta)), new)

    def test_this_version_writes_them(self, name):
        old, new = (sqz.encode(make()) for make in UPDATES[name])
        assert sqz.diff(old, new) == (GOLDEN / f"{name}.3.sqzdelta").read_bytes()

    def test_the_second_reader_reads_them(self, name):
        delta = (GOLDEN / f"{name}.3.sqzdelta").read_bytes()
        _, read = patched((GOLDEN / "grid-best.sqz").read_bytes(), delta)
        assert_read_alike(read, UPDATES[name][1]())


def test_the_golden_updates_have_every_way():
    ways, kinds = set(), set()
    for name, (_, make) in UPDATES.items():
        delta = (GOLDEN / f"{name}.3.sqzdelta").read_bytes()
        kinds.add(KINDS[delta[10]])
        if KINDS[delta[10]] == "changes":
            section = Reader(delta[75:-4], "body").sections(SECTIONS)["ways"]
            run = numbers.decode_integers(Reader(section, "ways"), len(make().arrays))
            ways.update(run.tolist())
    assert kinds == set(KINDS)
    assert {KEPT, SHARED, NUMBERS, *CHANGED} < ways
    assert any(way in MOVED for way in ways)
