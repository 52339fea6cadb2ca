"""Another field of `Architecture` reaches files and comparisons by itself, and old files stay."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from keras_squeezenet import sqz
from keras_squeezenet.network.architecture import Architecture, preset
from keras_squeezenet.sqz import container

GOLDEN = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class Wider(Architecture):
    """As a later version might have it."""

    groups: int = 1
    dilations: tuple[int, ...] = ()


@pytest.fixture
def later(monkeypatch):
    """The package with that version of `Architecture`."""
    monkeypatch.setattr(container, "Architecture", Wider)


def header(architecture):
    return container.Header(architecture, 10, 224, None, "relu", "softmax", None, 0.5)


def wider(architecture, **others):
    return Wider(**vars(architecture), **others)


@pytest.mark.parametrize(
    "others", [{"groups": 2}, {"dilations": (1, 2)}, {"groups": 4, "dilations": (3,)}]
)
def test_another_field_is_written_and_read(later, others):
    architecture = wider(preset("1.1").with_bypass("simple"), **others)
    assert container.Header.decode(header(architecture).encode()).architecture == architecture
    assert Wider.from_dict(architecture.to_dict()) == architecture


def test_a_network_that_does_without_it_has_the_bytes_that_it_had(later):
    plain = preset("1.0")
    assert header(wider(plain)).encode() == header(plain).encode()
    assert container.Header.decode(header(plain).encode()).architecture == wider(plain)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.sqz")), ids=lambda path: path.stem)
def test_files_of_before_have_its_default(later, path):
    data = path.read_bytes()
    network = sqz.decode(data)
    assert network.architecture.groups == 1
    as_before = replace(network, architecture=plain(network.architecture))
    assert sqz.digest(network) == sqz.digest(as_before)


def plain(architecture):
    values = {name: getattr(architecture, name) for name in Architecture.__dataclass_fields__}
    return Architecture(**values)


def test_networks_that_differ_in_it_alone_are_told_apart(later):
    one, other = wider(preset("1.0")), wider(preset("1.0"), groups=2)
    assert not other.takes_weights_of(one)
    assert one.takes_weights_of(replace(one, name="another", input_size=300, last_conv_padding=1))
    assert header(one).encode() != header(other).encode()


def test_a_header_with_more_fields_than_are_known_is_refused():
    data = header(wider(preset("1.0"), groups=2))
    with pytest.raises(sqz.SqzError, match="another number of fields"):
        container.Header.decode(data.encode())
