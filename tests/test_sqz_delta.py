"""An update gives the new network, is small where little changed, and fits one old network only.

Which bytes the old and the new network have as files does not matter: other versions of the encoder
may have written them, or may write them.
"""

import hashlib
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_squeezenet import sqz
from keras_squeezenet.sqz import SqzError
from keras_squeezenet.sqz.network import SharedValues
from tests.sqz_networks import another_encoder, assert_same, counted, published
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
    wanted = sqz.digest(counted()).hex()
    with pytest.raises(SqzError, match=f"for the network with SHA-256 {wanted}. Received: "):
        sqz.patch(new, sqz.diff(old, new))


@pytest.mark.parametrize("old_mode", MODES)
@pytest.mark.parametrize("new_mode", MODES)
@pytest.mark.parametrize("kind", ["changes", "whole file"])
def test_a_device_with_another_encoder_comes_to_the_same_network(old_mode, new_mode, kind):
    network = delta_target() if kind == "changes" else counted(np.pi, period=9, classes=9)
    old, new = sqz.encode(golden_base(), old_mode), sqz.encode(network, new_mode)
    delta = sqz.diff(old, new)
    assert delta[10] == ["whole file", "changes"].index(kind)
    with another_encoder():
        old_there = sqz.encode(golden_base(), old_mode)
        new_there = sqz.patch(old_there, delta)
    assert old_there != old
    assert_same(sqz.decode(new_there), network)
    assert (new_there == new) == (kind == "whole file")


@pytest.mark.parametrize("first_mode", MODES)
def test_the_next_update_fits_what_the_one_before_gave(first_mode):
    networks = [golden_base(), delta_target(), counted(0.25)]
    old, middle, new = (sqz.encode(network) for network in networks)
    with another_encoder():
        held = sqz.encode(networks[0], first_mode)
        for delta in (sqz.diff(old, middle), sqz.diff(middle, new)):
            held = sqz.patch(held, delta)
    assert_same(sqz.decode(held), networks[2])


def test_an_update_fits_the_old_network_in_the_other_mode():
    old, new = sqz.encode(golden_base(), "best"), sqz.encode(delta_target(), "best")
    held = sqz.encode(golden_base(), "faithful")
    assert sqz.patch(held, sqz.diff(old, new)) == new


def test_predictors_that_the_device_cannot_use_are_fitted_there():
    """Its classes are as many grid steps wide as the writer's are 4096ths of the largest value."""
    huge = with_arrays(counted(), lambda values: values * np.float32(2e38))
    old = sqz.encode(counted())
    with another_encoder():
        delta = sqz.diff(old, sqz.encode(huge))
    assert delta[10] == 1
    assert_same(sqz.decode(sqz.patch(old, delta)), huge)


def slow_digest(network):
    """After docs/sqz.md alone."""
    architecture = network.architecture
    data = b"l" + struct.pack("<q", 9)
    data += b"l" + struct.pack("<q", 7) + text_field(architecture.name)
    for number in (architecture.conv1_filters, architecture.conv1_kernel_size):
        data += b"i" + struct.pack("<q", number)
    data += b"l" + struct.pack("<q", len(architecture.fires))
    for fire in architecture.fires:
        data += b"l" + struct.pack("<q", 4 if fire.bypass else 3)
        for number in (fire.squeeze, fire.expand1x1, fire.expand3x3):
            data += b"i" + struct.pack("<q", number)
        data += text_field(fire.bypass) if fire.bypass else b""
    data += b"l" + struct.pack("<q", len(architecture.pool_after))
    for number in (
        *architecture.pool_after,
        architecture.input_size,
        architecture.last_conv_padding,
        network.classes,
        network.input_size,
    ):
        data += b"i" + struct.pack("<q", number)
    for value in (
        network.preprocessing,
        network.last_activation,
        network.classifier_activation,
        network.resize,
    ):
        data += b"i" + struct.pack("<q", value) if isinstance(value, int) else text_field(value)
    data += b"f" + struct.pack("<d", network.dropout_rate)
    names = network.class_names
    data += b"n" if names is None else b"l" + struct.pack("<q", len(names))
    data += b"".join(map(text_field, names or ()))
    for name in architecture.kernel_shapes(network.classes):
        for array in (network.kernels[name].values, network.biases[name].values):
            data += b"".join(struct.pack("<f", value) for value in array.ravel().tolist())
    return hashlib.sha256(data).digest()


def text_field(text):
    if text is None:
        return b"n"
    return b"s" + struct.pack("<q", len(text.encode())) + text.encode()


@pytest.mark.parametrize("network", [counted(), counted(np.pi, class_names=tuple("äbcde"))])
def test_a_digest_is_as_the_page_on_the_format_says(network):
    assert sqz.digest(network) == slow_digest(network)


@given(networks(), st.sampled_from(MODES))
@settings(max_examples=15)
def test_a_digest_is_the_same_in_every_mode_and_for_every_encoder(network, mode):
    with another_encoder():
        assert sqz.digest(sqz.decode(sqz.encode(network, mode))) == sqz.digest(network)
    assert sqz.digest(sqz.decode(sqz.encode(network, mode))) == sqz.digest(network)


def test_networks_that_differ_in_anything_have_other_digests():
    moved = {**counted().kernels, "conv4": counted(0.25).kernels["conv4"]}
    others = [
        counted(),
        *(counted(0.25), counted(class_names=tuple("abcde")), counted(class_names=tuple("abcdf"))),
        *(counted(resize=None), counted(resize="stretch"), counted(dropout_rate=0.25)),
        *(counted(preprocessing=None), counted(last_activation=None), counted(input_size=33)),
        counted(classifier_activation=None),
        replace(counted(), kernels=moved),
        *(
            replace(counted(), architecture=replace(counted().architecture, **change))
            for change in ({"name": "other"}, {"input_size": 25}, {"pool_after": (2,)})
        ),
    ]
    assert len({sqz.digest(network) for network in others}) == len(others)


def test_a_digest_does_not_see_how_a_number_is_written():
    assert sqz.digest(counted(dropout_rate=0)) == sqz.digest(counted(dropout_rate=-0.0))


def test_a_network_is_no_update_and_an_update_no_network():
    old = sqz.encode(counted())
    delta = sqz.diff(old, old)
    with pytest.raises(SqzError, match=r"a \.sqz update starts with"):
        sqz.patch(old, old)
    for read in (sqz.decode, sqz.bytes_spent):
        with pytest.raises(SqzError, match=r"expected a \.sqz file. Received: an update from"):
            read(delta)


GOLDEN_UPDATES = sorted(GOLDEN.glob("*.sqzdelta"))


@pytest.mark.parametrize("path", GOLDEN_UPDATES, ids=lambda path: path.name)
def test_updates_of_all_versions_stay_applicable(path):
    pair, version = path.stem.rsplit(".", 1)
    old, new = ((GOLDEN / f"{name}.sqz").read_bytes() for name in pair.split("-to-"))
    delta = path.read_bytes()
    assert delta[9] == int(version)
    given = sqz.patch(old, delta)
    assert_same(sqz.decode(given), sqz.decode(new))
    if version == "1":
        assert given == new


@pytest.mark.parametrize("version", "12")
def test_there_are_golden_updates_of_both_kinds_and_modes(version):
    updates = [path.read_bytes() for path in GOLDEN.glob(f"*.{version}.sqzdelta")]
    assert {update[10] for update in updates} == {0, 1}
    assert len(updates) >= 4


def test_the_golden_file_of_another_encoder_is_of_the_same_network_in_other_bytes():
    ours, others = ((GOLDEN / f"{name}.sqz").read_bytes() for name in ("grid-best", "grid-other"))
    assert_same(sqz.decode(others), sqz.decode(ours))
    assert others != ours
    delta = (GOLDEN / "grid-best-to-delta-target.2.sqzdelta").read_bytes()
    assert_same(sqz.decode(sqz.patch(others, delta)), delta_target())
    delta = (GOLDEN / "grid-best-to-delta-target.1.sqzdelta").read_bytes()
    with pytest.raises(SqzError, match="is for the file with SHA-256"):
        sqz.patch(others, delta)


def golden_base():
    """The network that golden updates start from."""
    return counted(class_names=("ä", "b", "c", "d", "e"))


def delta_target():
    """The network that they lead to."""
    return with_arrays(
        golden_base(),
        lambda values: np.where(np.arange(values.size).reshape(values.shape) % 31, values, 0.25),
    )


def test_the_golden_networks_are_these():
    for name, network in (("grid-best", golden_base()), ("delta-target", delta_target())):
        assert_same(sqz.decode((GOLDEN / f"{name}.sqz").read_bytes()), network)


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
