"""A .sqz file gives its network back bit for bit, and its bytes are as `docs/sqz.md` says."""

import re
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_squeezenet import sqz
from keras_squeezenet.errors import InputError
from keras_squeezenet.network.architecture import PRESETS, Architecture, FireFilters
from keras_squeezenet.sqz import SqzError, container, context_model, huffman, numbers, reading
from keras_squeezenet.sqz.network import SharedValues
from keras_squeezenet.sqz.reading import pack_bits, unpack_bits
from tests.sqz_networks import (
    TINY,
    alike,
    assert_same,
    counted,
    imagenet_names,
    made_by,
    network_of,
    published,
)

MODES = ("faithful", "best")
GOLDEN = Path(__file__).parent / "golden"

GOLDEN_NETWORKS = {
    "grid-best": (lambda: counted(class_names=("ä", "b", "c", "d", "e")), "best"),
    "grid-faithful": (lambda: counted(resize="stretch", preprocessing=None), "faithful"),
    "float32-best": (lambda: counted(np.pi, period=41, dropout_rate=0.25), "best"),
    "float16-faithful": (lambda: counted(0.1, np.float16, resize=None), "faithful"),
    "alike-best": (alike, "best"),
}

bypasses = st.sampled_from([None, "complex"])
fires = st.builds(
    FireFilters, st.integers(1, 5), st.integers(1, 70), st.integers(0, 5), bypass=bypasses
)
architectures = st.builds(
    Architecture,
    name=st.text(max_size=8),
    conv1_filters=st.integers(1, 6),
    conv1_kernel_size=st.sampled_from([1, 2, 3, 5]),
    fires=st.lists(fires, min_size=1, max_size=3).map(tuple),
    pool_after=st.sampled_from([(), (1,), (1, 2)]),
)


@st.composite
def networks(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    density = draw(st.sampled_from([0.0, 0.02, 0.3, 1.0]))
    spread = draw(st.sampled_from([1e-38, 0.7, 4.0, 60.0, 3e5]))
    kind = draw(st.sampled_from(["grid", "float16", "float32", "two values"]))
    step = np.float32(rng.uniform(1e-3, 1))

    def array_of_shape(shape):
        noise = rng.laplace(size=shape) * spread
        if kind == "grid":
            array = np.rint(np.clip(noise, -1e4, 1e4)).astype(np.float32) * step
        elif kind == "two values":
            array = np.where(noise > 0, step, -3 * step)
        else:
            array = np.clip(noise, -6e4, 6e4).astype(kind).astype(np.float32)
        return np.where(rng.random(shape) < density, array, 0).astype(np.float32)

    return made_by(
        array_of_shape,
        draw(architectures),
        classes=draw(st.integers(1, 80)),
        input_size=draw(st.integers(64, 300)),
        preprocessing=draw(st.sampled_from([None, "caffe", "torch"])),
        resize=draw(st.sampled_from([None, "stretch", 256])),
        dropout_rate=draw(st.floats(0, 0.9)),
    )


@given(networks(), st.sampled_from(MODES))
@settings(max_examples=60)
def test_every_network_comes_back_bit_for_bit(network, mode):
    data = sqz.encode(network, mode)
    assert_same(sqz.decode(data), network)
    assert sqz.encode(sqz.decode(data), mode) == data


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("names", [None, ("a", "b", "", "日本", "\ud800")])
def test_class_names_come_back(mode, names):
    network = counted(class_names=names)
    assert sqz.decode(sqz.encode(network, mode)).class_names == names


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [0.0, 0.1, -3e38, 1e-45])
def test_a_network_of_one_value_comes_back(mode, value):
    network = made_by(lambda shape: np.full(shape, value, np.float32))
    data = sqz.encode(network, mode)
    assert_same(sqz.decode(data), network)
    assert len(data) < 700


@pytest.mark.parametrize("mode", MODES)
def test_a_codebook_of_65536_values_comes_back(mode):
    architecture = Architecture("wide", 1, 1, (FireFilters(256, 1, 0),), ())
    rng = np.random.default_rng(0)
    shapes = architecture.kernel_shapes(2**16)
    kernels = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    biases = {name: np.zeros(shape[-1], np.float32) for name, shape in shapes.items()}
    distinct = np.unique(rng.normal(size=2**17).astype(np.float32))[: 2**16]
    kernels["conv3"] = rng.permutation(distinct).reshape(shapes["conv3"])
    network = network_of(kernels, biases, architecture)
    assert len(network.kernels["conv3"].codebook) == 2**16
    assert_same(sqz.decode(sqz.encode(network, mode)), network)


@pytest.mark.parametrize("mode", MODES)
def test_values_that_no_weight_has_are_not_kept(mode):
    network = counted(np.pi)
    wide = {
        name: SharedValues(
            (shared.codes + 1).astype(np.uint16),
            np.concatenate([[-1e9], shared.codebook, [1e9]]).astype(np.float32),
        )
        for name, shared in network.kernels.items()
    }
    assert sqz.encode(replace(network, kernels=wide), mode) == sqz.encode(network, mode)


def test_a_uniform_grid_is_a_step_and_a_range():
    grid = np.float32(0.013) * np.array([-7, -6, -2, 0, 1, 2, 5], np.float32)
    alphabet = numbers.Alphabet.of(grid)
    assert alphabet.step == np.float32(0.013)
    np.testing.assert_array_equal(
        alphabet.codebook, np.float32(0.013) * np.arange(-7, 6, dtype=np.float32)
    )
    assert len(numbers.encode_codebooks([alphabet])) == 8


@pytest.mark.parametrize("step", [0.013, 1.7e-5, 3.3e3])
@pytest.mark.parametrize("smallest", [1, 2, 3, 5, 7])
def test_a_grid_is_found_though_its_first_steps_are_not_used(step, smallest):
    levels = np.array([-11, -smallest, 0, smallest, 12, 13], np.float32)
    alphabet = numbers.Alphabet.of(np.unique(np.float32(step) * levels))
    np.testing.assert_array_equal(
        alphabet.codebook, np.float32(alphabet.step) * np.arange(-11, 14, dtype=np.float32)
    )


@pytest.mark.parametrize("bits", [4, 8, 10, 12])
def test_biases_on_a_grid_take_about_their_bits(bits):
    rng = np.random.default_rng(bits)
    step = np.float32(0.0123)
    biases = [step * rng.integers(-(2**bits), 2**bits, 64).astype(np.float32) for _ in range(20)]
    data = numbers.encode_biases(biases)
    for bias, decoded in zip(biases, numbers.decode_biases(data, [64] * 20), strict=True):
        np.testing.assert_array_equal(decoded, bias)
    assert len(data) < 20 * 64 * (bits + 2) / 8 + 150


def test_float16_biases_have_13_bits_less_of_mantissa():
    rng = np.random.default_rng(0)
    halves = [rng.uniform(1, 2, 800).astype(np.float16).astype(np.float32)]
    floats = [rng.uniform(1, 2, 800).astype(np.float32)]
    assert len(numbers.encode_biases(floats)) - len(numbers.encode_biases(halves)) == 1300


@pytest.mark.parametrize("mode", MODES)
def test_bytes_spent_add_up_to_the_file(mode):
    data = sqz.encode(counted(class_names=tuple("abcde")), mode)
    spent = sqz.bytes_spent(data)
    assert sum(spent.values()) == len(data)
    assert {"header", "class names", "codebooks", "biases", "codes"} <= set(spent)
    assert ("positions" in spent) == (mode == "faithful")


def test_an_unknown_mode_is_named():
    with pytest.raises(InputError, match=r"faithful, best. Received: mode=zip"):
        sqz.encode(counted(), "zip")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"architecture": replace(TINY, fires=TINY.fires * 150)}, "256 fires. Received: 300"),
        ({"classes": 2**18}, "16777216 weights. Received: 18351353"),
        (
            {"architecture": replace(TINY, fires=(FireFilters(1, 1, 0),)), "classes": 2**18},
            "biases",
        ),
        ({"input_size": 10**6}, "65536 pixels on a side. Received: 1000000"),
        ({"architecture": replace(TINY, input_size=65537)}, "65536 pixels on .* Received: 65537"),
        ({"architecture": replace(TINY, last_conv_padding=65537)}, "65536 pixels of padding"),
        ({"resize": 65537}, "65536 pixels to resize to. Received: 65537"),
    ],
)
def test_a_network_beyond_the_limits_is_refused(changes, complaint):
    header = container.Header.of(counted())
    with pytest.raises(SqzError, match=f"holds at most .*{complaint}"):
        replace(header, **changes)


@pytest.mark.parametrize("number", ["16777217", "9" * 4200, "9" * 60_000])
def test_a_number_beyond_all_limits_is_refused_as_it_is_read(number):
    header = zlib.decompressobj(-15, container.DICTIONARY).decompress(
        container.Header.of(counted()).encode()
    )
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=container.DICTIONARY)
    data = deflate.compress(header.replace(b"6", number.encode(), 1)) + deflate.flush()
    with pytest.raises(SqzError, match=r"must be at most 16777216\. Received: [0-9]{8,20}$"):
        container.Header.decode(data)


@given(st.lists(st.integers(0, 10), min_size=1, max_size=400), st.integers(1, 9), st.integers(0, 7))
def test_huffman_codes_come_back_across_segments(symbols, segment, spare):
    lengths = huffman.code_lengths(np.bincount([*symbols, *range(spare)]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huffman, "SEGMENT", segment)
        decoded = huffman.decode(huffman.encode(np.array(symbols), lengths), lengths, len(symbols))
    assert decoded.tolist() == symbols


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"codebook": np.array([1, 0], np.float32)}, "strictly ascending"),
        ({"codebook": np.array([0, np.inf], np.float32)}, "finite"),
        ({"codebook": np.array([-0.0, 1], np.float32)}, "-0.0"),
        ({"codebook": np.array([0], np.float32)}, "below 1, the length.*Received: 1"),
        ({"codebook": np.array([0, 1], np.float64)}, "float32. Received: float64"),
        ({"codes": np.array([0, 1], np.int64)}, "uint16. Received: int64"),
    ],
)
def test_shared_values_are_checked(changes, complaint):
    fields = {"codes": np.array([0, 1], np.uint16), "codebook": np.array([0, 1], np.float32)}
    with pytest.raises(InputError, match=complaint):
        SharedValues(**{**fields, **changes})


def test_shared_values_of_an_array_are_its_distinct_values():
    shared = SharedValues.of([[0.5, -0.0], [0.0, -2.0]])
    np.testing.assert_array_equal(shared.codebook, np.array([-2, 0, 0.5], np.float32))
    np.testing.assert_array_equal(shared.codes, [[2, 1], [1, 0]])
    assert not np.signbit(shared.codebook[1])


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"classes": 6}, "conv4 must have shape"),
        ({"input_size": 3}, "input_size"),
        ({"preprocessing": "bgr"}, "preprocessing=bgr"),
        ({"last_activation": "elu"}, "last_activation=elu"),
        ({"resize": 0}, "resize=0"),
        ({"dropout_rate": 1}, "dropout_rate=1"),
        ({"class_names": ("a",)}, "one name for each of 5 classes. Received: 1"),
        ({"kernels": {}}, "those of the architecture"),
    ],
)
def test_a_compressed_network_is_checked(changes, complaint):
    with pytest.raises(InputError, match=complaint):
        replace(counted(), **changes)


@pytest.mark.parametrize("name", GOLDEN_NETWORKS)
def test_files_of_version_1_stay_readable(name):
    network, _ = GOLDEN_NETWORKS[name]
    assert_same(sqz.decode((GOLDEN / f"{name}.sqz").read_bytes()), network())


@given(st.lists(st.tuples(st.integers(0, 32), st.integers(0, 2**32 - 1)), max_size=40))
def test_bits_come_back(pairs):
    widths = [width for width, _ in pairs]
    values = [value % 2**width for width, value in pairs]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "NUMBERS_AT_ONCE", 7)
        data = pack_bits(values, widths)
        unpacked = unpack_bits(data, widths).tolist()
    text = "".join(f"{value:0{w}b}" if w else "" for w, value in zip(widths, values, strict=True))
    assert data == bytes(int(text[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(text), 8))
    assert unpacked == values


@given(st.lists(st.integers(0, 2000), min_size=2, max_size=60))
def test_huffman_codes_are_as_short_as_any_prefix_code(counts):
    lengths = huffman.code_lengths(counts)
    assert ((lengths > 0) == (np.array(counts) > 0)).all()
    if np.count_nonzero(counts) > 1:
        assert sum(2.0 ** -int(length) for length in lengths if length) == 1
        assert int(np.dot(counts, lengths)) == _inner_nodes([count for count in counts if count])


def _inner_nodes(weights):
    """The sum of all inner nodes' weights in a Huffman tree: the length of what it codes."""
    cost, weights = 0, sorted(weights)
    while len(weights) > 1:
        merged = weights[0] + weights[1]
        cost += merged
        weights = sorted([merged, *weights[2:]])
    return cost


def test_huffman_codes_of_steep_counts_stay_within_20_bits():
    fibonacci = [1, 1]
    while len(fibonacci) < 40:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    lengths = huffman.code_lengths(fibonacci)
    assert lengths.max() <= 20
    assert sum(2.0 ** -int(length) for length in lengths) == 1


def test_the_page_on_the_format_has_the_numbers_of_the_code():
    page = (Path(__file__).parents[1] / "docs/sqz.md").read_text(encoding="utf-8")
    for ends in (context_model.PREDICTION_ENDS, context_model.ACTIVITY_ENDS):
        assert re.search(r"\s".join(map(str, ends)), page)
    assert f"{container.MAX_FIRES} fires" in page
    assert container.DICTIONARY.decode() in page.replace("\n", "")


def test_prediction_from_places_pays_for_smooth_kernels():
    """The same weights with their places shuffled take more bytes, in the best mode only."""
    rng = np.random.default_rng(0)
    architecture = Architecture("smooth", 4, 3, (FireFilters(32, 0, 64),), ())
    shapes = architecture.kernel_shapes(5)
    kernels = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    biases = {name: np.zeros(shape[-1], np.float32) for name, shape in shapes.items()}
    common = rng.normal(size=(1, 1, 32, 64)) + rng.normal(size=(3, 3, 32, 64)) * 0.4
    kernels["fire2_expand3x3"] = np.rint(common * 2).astype(np.float32)
    sizes = {
        mode: len(sqz.encode(network_of(kernels, biases, architecture), mode)) for mode in MODES
    }
    flat = rng.permutation(kernels["fire2_expand3x3"].ravel())
    kernels["fire2_expand3x3"] = flat.reshape(shapes["fire2_expand3x3"])
    shuffled = {
        mode: len(sqz.encode(network_of(kernels, biases, architecture), mode)) for mode in MODES
    }
    assert sizes["best"] < 0.8 * shuffled["best"]
    assert sizes["faithful"] > 0.98 * shuffled["faithful"]


@pytest.mark.shared
def test_the_published_network_packs_as_small_as_the_paper_and_smaller(shared):
    network = published(shared)
    sizes = {}
    for mode in MODES:
        data = sqz.encode(network, mode)
        assert_same(sqz.decode(data), network)
        sizes[mode] = len(data)
    assert sizes["faithful"] <= 535_000  # Huffman codes of codes and gaps: 556 KB
    assert sizes["best"] <= 525_000


@pytest.mark.shared
def test_the_names_of_imagenet_take_less_than_6_kilobytes(shared):
    names = imagenet_names(shared)
    architecture = PRESETS["1.1"]
    network = made_by(
        lambda shape: np.zeros(shape, np.float32),
        architecture,
        1000,
        class_names=names,
        input_size=224,
    )
    data = sqz.encode(network)
    assert sqz.decode(data).class_names == names
    assert sqz.bytes_spent(data)["class names"] < 6000
