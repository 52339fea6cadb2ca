"""The package's .sqz files, read by a second reader that was written after docs/sqz.md alone.

What depends on floating point is computed there one number at a time, and the range coder is
integers: where the two agree, nothing depends on how numpy or constriction compute.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from constriction import stream
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_squeezenet import sqz
from keras_squeezenet.network.architecture import Architecture, FireFilters
from keras_squeezenet.sqz.graph_text import listed
from tests import sqz_second_reader
from tests.sqz_networks import TINY, alike, counted
from tests.sqz_second_reader import RangeDecoder, division, weights_in
from tests.sqz_second_reader_models import model_in
from tests.test_sqz import networks

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.sqz"))
VERSION_2 = sorted((Path(__file__).parent / "golden" / "version2").glob("*.sqz"))
MODES = ("faithful", "best")

SPECIAL = {
    "filters that are alike": alike(),
    "places that count as one": counted(architecture=replace(TINY, conv1_kernel_size=12)),
    "spans of a 16th of the channels": counted(
        architecture=Architecture(
            "wide", 2, 1, (FireFilters(1, 1100, 0), FireFilters(2, 3, 0)), (), 24
        )
    ),
    "a kernel of zeros between others": replace(
        counted(),
        kernels={**counted().kernels, "fire3_squeeze1x1": counted(0).kernels["fire3_squeeze1x1"]},
    ),
}


def assert_both_read_the_same(data):
    network = sqz.decode(data)
    weights = weights_in(data, network.architecture.kernel_shapes(network.classes))
    for name, kernel in network.kernels.items():
        assert weights[name] == kernel.values.ravel().tolist(), name


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_golden_files(path):
    assert_both_read_the_same(path.read_bytes())


@given(networks(), st.sampled_from(MODES))
@settings(max_examples=25)
def test_any_file(network, mode):
    assert_both_read_the_same(sqz.encode(network, mode))


@pytest.mark.parametrize("name", SPECIAL)
def test_files_in_the_best_mode_that_are_special(name):
    assert_both_read_the_same(sqz.encode(SPECIAL[name]))


def test_the_file_of_alike_filters_needs_their_likeness(monkeypatch):
    data = sqz.encode(alike())
    monkeypatch.setattr(sqz_second_reader.Kernel, "compare", lambda kernel, rows: None)
    with pytest.raises((AssertionError, IndexError, ValueError)):
        assert_both_read_the_same(data)


@given(
    st.lists(st.one_of(st.integers(1, 9), st.integers(1, 2**20 + 1)), min_size=2, max_size=300),
    st.sampled_from([0, 0.5]),
    st.integers(0, 2**32 - 1),
)
def test_constriction_divides_and_codes_as_the_page_on_the_format_says(whole, more, seed):
    """Any change of it would show here, before it made files that others cannot read."""
    weights = np.array(whole, np.float64) + more
    symbols = np.random.default_rng(seed).integers(0, len(weights), 100).astype(np.int32)
    encoder = stream.queue.RangeEncoder()
    encoder.encode(symbols, stream.model.Categorical(weights, perfect=False))
    decoder = RangeDecoder(encoder.get_compressed().astype("<u4").tobytes())
    begins = division(weights.tolist())
    assert [decoder.symbol(begins) for _ in symbols] == symbols.tolist()


@pytest.mark.parametrize("path", VERSION_2, ids=lambda path: path.name)
def test_golden_files_of_version_2(path):
    data = path.read_bytes()
    model, found = sqz.decode(data), model_in(data)
    assert found["name"] == model.name
    assert found["graph"] == json.loads(json.dumps(listed(model.graph)))
    assert found["resize"] == model.resize
    names = found["class names"]
    assert (names and tuple(names)) == model.class_names
    assert list(found["arrays"]) == list(model.arrays)
    for name, values in found["arrays"].items():
        assert values == model.values(name).ravel().tolist(), name
