"""A file of a network or of an update takes its place only once it was read back."""

import hashlib

import pytest

from keras_squeezenet import sqz
from keras_squeezenet.errors import InputError
from keras_squeezenet.sqz import SqzError, container
from keras_squeezenet.sqz import files as sqz_files
from keras_squeezenet.sqz.files import apply_update, read_network, write_network
from tests.sqz_networks import assert_same, counted


def update_to(old, new, version=1):
    """An update whose checksums are right, in version 1 whatever `new` is."""
    head = container.UPDATE_MAGIC + bytes([version, 0])
    hashes = [hashlib.sha256(data).digest() for data in (old, new)]
    if version == 2:
        hashes[0] = sqz.digest(sqz.decode(old))
    return container.with_checksum(head + b"".join(hashes) + new)


@pytest.mark.parametrize("mode", ["faithful", "best"])
def test_a_network_comes_back_from_its_file(tmp_path, mode):
    written = write_network(counted(), tmp_path / "net.sqz", mode)
    assert_same(written, counted())
    assert_same(read_network(tmp_path / "net.sqz"), counted())


@pytest.mark.parametrize(("part", "scale"), [("kernels", 0.25), ("biases", 0.125)])
def test_a_file_that_gives_other_weights_is_not_put_in_place(tmp_path, monkeypatch, part, scale):
    path = tmp_path / "net.sqz"
    path.write_bytes(b"as before")
    other = counted(scale)
    if part == "biases":
        last = next(reversed(other.biases))
        other.biases[last] = counted(0.25).biases[last]
    content = sqz.encode(other)
    monkeypatch.setattr(sqz, "encode", lambda network, mode: content)
    with pytest.raises(InputError, match=f"does not give back the {part} of conv"):
        write_network(counted(), path)
    assert path.read_bytes() == b"as before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("new", [b"no network", b"", b"\x89SQZ and more"])
@pytest.mark.parametrize("version", [1, 2])
def test_an_update_to_what_is_no_network_replaces_nothing(tmp_path, new, version):
    old, update, path = (tmp_path / name for name in ("old.sqz", "update.sqzdelta", "new.sqz"))
    old.write_bytes(sqz.encode(counted()))
    update.write_bytes(update_to(old.read_bytes(), new, version))
    path.write_bytes(b"as before")
    with pytest.raises(SqzError, match=r"update\.sqzdelta: (a|the) \.sqz file"):
        apply_update(old, update, path)
    assert path.read_bytes() == b"as before"


def test_an_update_that_gives_a_network_is_applied(tmp_path):
    old, update, path = (tmp_path / name for name in ("old.sqz", "update.sqzdelta", "new.sqz"))
    old.write_bytes(sqz.encode(counted()))
    new = sqz.encode(counted(0.25))
    update.write_bytes(update_to(old.read_bytes(), new))
    assert apply_update(old, update, path) == len(new)
    assert path.read_bytes() == new


def test_an_update_of_another_version_is_refused_by_its_number(tmp_path):
    old, update = (tmp_path / name for name in ("old.sqz", "update.sqzdelta"))
    old.write_bytes(sqz.encode(counted()))
    update.write_bytes(update_to(old.read_bytes(), b"", version=4))
    with pytest.raises(SqzError, match=r"must be of version 1 or 2 or 3\. Received: version 4"):
        apply_update(old, update, tmp_path / "new.sqz")


def test_an_update_in_place_of_a_network_is_named(tmp_path):
    path = tmp_path / "new.sqz"
    path.write_bytes(sqz.diff(sqz.encode(counted()), sqz.encode(counted(0.25))))
    with pytest.raises(SqzError, match=r"new\.sqz: expected a \.sqz file. Received: an update"):
        read_network(path)


def test_a_file_beyond_any_network_is_refused_by_its_size(tmp_path, monkeypatch):
    path = tmp_path / "net.sqz"
    path.write_bytes(sqz.encode(counted()))
    monkeypatch.setattr(sqz_files, "MAX_FILE_BYTES", path.stat().st_size)
    assert_same(read_network(path), counted())
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(SqzError, match=rf"net\.sqz: .* at most {path.stat().st_size - 1} bytes"):
        read_network(path)


def test_of_a_file_with_another_start_only_the_start_is_read(tmp_path):
    """Four gigabytes, of which none is on disk."""
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(2**32)
    with pytest.raises(SqzError, match=r"disk\.img: a \.sqz file starts with .*Received: b'.{16}'"):
        read_network(path)
