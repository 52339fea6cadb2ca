"""An update gives the new file byte for byte, is small where little changed, and fits one base."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_squeezenet.compression import sqz
from keras_squeezenet.compression.network import SharedValues
from keras_squeezenet.compression.sqz import SqzError
from tests.sqz_networks import assert_same, counted, published
from tests.test_sqz import networks

GOLDEN = Path(__file__).parent / "golden"
MODES = ("faithful", "best")


def with_arrays(network, change):
    """The network with `change(values)` instead of every array's values."""
    arrays = {
        part: {name: SharedValues.of(change(shared.values)) for name, shared in array.items()}
        for part, array in (("kernels", network.kernels), ("biases", network.biases))
    }
    return replace(network, **arrays)


@pytest.mark.parametrize("old_mode", MODES)
@pytest.mark.parametrize("new_mode", MODES)
@pytest.mark.parametrize(
    "change",
    [
        lambda values: values,
        lambda values: values * np.float32(1.5),
        lambda values: np.where(np.arange(values.size).reshape(values.shape) % 50, values, 0.125),
        lambda values: -values[::-1],
        np.zeros_like,
        lambda values: np.arange(values.size, dtype=np.float32).reshape(values.shape) ** 1.1,
    ],
)
def test_an_update_gives_the_new_file(change, old_mode, new_mode):
    old = sqz.encode(counted(), old_mode)
    new = sqz.encode(with_arrays(counted(resize=None), change), new_mode)
    delta = sqz.diff(old, new)
    assert sqz.patch(old, delta) == new
    assert len(delta) < len(new) + 100


@given(networks(), networks(), st.sampled_from(MODES))
@settings(max_examples=15)
def test_any_two_files_have_an_update(network, other, mode):
    old, new = sqz.encode(network, mode), sqz.encode(other, mode)
    assert sqz.patch(old, sqz.diff(old, new)) == new


def test_an_update_to_the_same_file_is_little_more_than_its_two_checksums():
    old = sqz.encode(counted())
    assert len(sqz.diff(old, old)) < 2 * 32 + 80


def test_a_wrong_base_is_refused():
    old, new = sqz.encode(counted()), sqz.encode(counted(0.25))
    wanted = hashlib.sha256(old).hexdigest()
    with pytest.raises(SqzError, match=f"for the file with SHA-256 {wanted}. Received: "):
        sqz.patch(new, sqz.diff(old, new))


def test_a_network_is_no_update_and_an_update_no_network():
    old = sqz.encode(counted())
    delta = sqz.diff(old, old)
    with pytest.raises(SqzError, match=r"a \.sqz update starts with"):
        sqz.patch(old, old)
    for read in (sqz.decode, sqz.bytes_spent):
        with pytest.raises(SqzError, match=r"expected a \.sqz file. Received: an update from"):
            read(delta)


def test_updates_of_version_1_stay_applicable():
    old, new = (GOLDEN / f"{name}.sqz" for name in ("grid-best", "delta-target"))
    delta = (GOLDEN / "grid-best-to-target.sqz").read_bytes()
    assert sqz.patch(old.read_bytes(), delta) == new.read_bytes()
    assert_same(sqz.decode(new.read_bytes()), delta_target())


def delta_target():
    """The network that the golden update leads to."""
    return with_arrays(
        counted(class_names=("ä", "b", "c", "d", "e")),
        lambda values: np.where(np.arange(values.size).reshape(values.shape) % 31, values, 0.25),
    )


@pytest.mark.shared
def test_an_update_of_a_hundredth_of_the_weights_is_a_tenth_of_the_file(shared):
    network = published(shared)
    rng = np.random.default_rng(0)

    def retrained(shared_values):
        codebook = shared_values.codebook
        moves = rng.integers(-1, 2, shared_values.codes.shape)
        moves[rng.random(moves.shape) > 0.015] = 0
        codes = np.clip(shared_values.codes + moves, 0, len(codebook) - 1)
        return SharedValues(codes.astype(np.uint16), codebook)

    kernels = {name: retrained(kernel) for name, kernel in network.kernels.items()}
    old, new = sqz.encode(network), sqz.encode(replace(network, kernels=kernels))
    delta = sqz.diff(old, new)
    assert sqz.patch(old, delta) == new
    assert len(delta) < len(new) / 10
