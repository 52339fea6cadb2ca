"""CIFAR, from a server of our own."""

import hashlib
import io
import tarfile

import numpy as np
import pytest

from keras_squeezenet.data import DataError, load_dataset
from keras_squeezenet.data import cifar as cifar_module
from keras_squeezenet.data.sources import is_at_hand


@pytest.fixture
def cifar_server(tmp_path, monkeypatch):
    """Archives of two training pictures per file and one test picture, fetched by file: URLs."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    archives = {}
    for name, archive in cifar_module.CIFAR_ARCHIVES.items():
        path = tmp_path / archive.url.rsplit("/", 1)[-1]
        pixels = bytes([250] * 1024 + [100] * 1024 + list(range(32)) * 32)
        coarse = b"\x63" * (archive.label_bytes - 1)
        files = {member: (coarse + b"\x01" + pixels) * 2 for member in archive.train_members}
        files[archive.test_member] = coarse + b"\x00" + pixels
        files[archive.names_member] = b"apple\nbear\n\n"
        with tarfile.open(path, "w:gz") as tar:
            for member, content in files.items():
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        archives[name] = type(archive)(**(vars(archive) | {"url": path.as_uri(), "sha256": digest}))
    monkeypatch.setattr(cifar_module, "CIFAR_ARCHIVES", archives)
    return tmp_path


@pytest.mark.parametrize(("name", "count"), [("cifar10", 10), ("cifar100", 2)])
def test_cifar_is_downloaded_once_and_its_planes_become_rgb(cifar_server, name, count):
    dataset = load_dataset(name, image_size=32)
    assert dataset.class_names == ("apple", "bear")
    assert dataset.train.labels.tolist() == [1] * count
    assert dataset.val.labels.tolist() == [0]
    pixels, _ = dataset.val.example(0)
    np.testing.assert_array_equal(pixels[..., 0], np.full((32, 32), 250))
    np.testing.assert_array_equal(pixels[..., 1], np.full((32, 32), 100))
    np.testing.assert_array_equal(pixels[..., 2], np.tile(np.arange(32), (32, 1)))

    for archive in cifar_server.glob("*.tar.gz"):
        archive.unlink()
    assert load_dataset(name, image_size=32).train.count == count


def test_cifar_that_cannot_be_downloaded_names_the_place_of_a_copy(cifar_server):
    (cifar_server / "cifar-10-binary.tar.gz").unlink()
    expected = cifar_server / "keras" / "datasets" / "cifar-10-binary.tar.gz"
    with pytest.raises(DataError, match=f"Put the file at {expected}"):
        load_dataset("cifar10", image_size=32)


def test_cifar_is_at_hand_once_it_was_downloaded(cifar_server):
    assert not is_at_hand("cifar10")
    load_dataset("cifar10", image_size=32)
    assert is_at_hand("cifar10")
    assert not is_at_hand("cifar100")
    [archive] = (cifar_server / "keras" / "datasets").iterdir()
    archive.write_bytes(archive.read_bytes()[:-1])
    assert not is_at_hand("cifar10")


def test_an_archive_with_a_folder_in_the_place_of_cifars_files_is_refused(tmp_path):
    archive = cifar_module.CIFAR_ARCHIVES["cifar10"]
    path = tmp_path / "folders.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for member in (*archive.train_members, archive.test_member, archive.names_member):
            info = tarfile.TarInfo(member)
            info.type = tarfile.DIRTYPE
            tar.addfile(info)
    with pytest.raises(DataError, match="not the cifar10 archive"):
        cifar_module.read_cifar("cifar10", str(path))


def test_a_wrong_cifar_download_is_not_kept(cifar_server):
    with (cifar_server / "cifar-100-binary.tar.gz").open("ab") as file:
        file.write(b"more")
    with pytest.raises(DataError, match=r"cifar100: Expected the CIFAR archive with SHA-256"):
        load_dataset("cifar100", image_size=32)
    assert list((cifar_server / "keras" / "datasets").iterdir()) == []


def test_a_file_that_is_not_cifar_is_refused(tmp_path):
    path = tmp_path / "cifar.tar.gz"
    path.write_bytes(b"no archive")
    with pytest.raises(DataError, match="not the cifar10 archive"):
        cifar_module.read_cifar("cifar10", str(path))
