"""Folders of pictures, their labels, and how they are divided."""

import hashlib
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from keras_squeezenet.data import DataError, load_dataset, load_labelled
from keras_squeezenet.data.examples import stratified_split
from tests.pictures import solid, write, write_class


@settings(deadline=None, max_examples=50)
@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    val_fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 9),
)
def test_every_class_keeps_a_training_example_and_gives_one_if_it_can(labels, val_fraction, seed):
    names = [f"{index}.jpg" for index in range(len(labels))]
    labels = np.array(labels)
    train, val = stratified_split(names, labels, val_fraction=val_fraction, seed=seed)
    assert sorted([*train, *val]) == list(range(len(labels)))
    for label, count in Counter(labels.tolist()).items():
        held_out = int((labels[val] == label).sum())
        assert count - held_out >= 1
        assert held_out >= min(1, count - 1)
        assert abs(held_out - count * val_fraction) <= 1


def test_the_division_follows_the_seed_and_ignores_other_examples():
    names = [f"{index}.jpg" for index in range(40)]
    labels = np.repeat([0, 1], 20)
    _, val = stratified_split(names, labels, val_fraction=0.25, seed=0)
    _, again = stratified_split(names, labels, val_fraction=0.25, seed=0)
    _, other = stratified_split(names, labels, val_fraction=0.25, seed=1)
    _, alone = stratified_split(names[:20], labels[:20], val_fraction=0.25, seed=0)
    assert val.tolist() == again.tolist()
    assert val.tolist() != other.tolist()
    assert val[:5].tolist() == alone.tolist()


DIGITS_VAL_SHA256 = "a7e3777fde99b5627ba7055b193e2c3149b241ae23d8b42c016326598f770fee"


def test_the_division_of_the_digits_is_the_one_of_all_versions():
    digits = load_dataset("digits", image_size=8)
    pixels = np.stack([digits.val.example(index)[0] for index in range(digits.val.count)])
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == DIGITS_VAL_SHA256


def test_digits_are_sklearns_pictures_in_grey():
    digits = load_dataset("digits", image_size=8)
    (images, labels), *_ = digits.val.val_batches(512)
    reference = load_digits()
    keys = {
        tuple(image.ravel()): int(label)
        for image, label in zip(reference.images, reference.target, strict=True)
    }
    assert digits.class_names == tuple("0123456789")
    assert digits.train.count + digits.val.count == 1797
    assert (digits.train.class_counts + digits.val.class_counts).tolist() == np.bincount(
        reference.target
    ).tolist()
    for image, label in zip(images.numpy(), labels.numpy(), strict=True):
        assert (image[..., 0] == image[..., 2]).all()
        assert keys[tuple(np.rint(image[..., 0] * 16 / 255).ravel())] == label


def test_a_folder_with_both_splits_is_taken_as_it_is(tmp_path):
    write_class(tmp_path / "train" / "b", 3)
    write_class(tmp_path / "train" / "a", 2)
    write_class(tmp_path / "validation" / "b", 4)
    dataset = load_dataset(str(tmp_path), image_size=8)
    assert dataset.name == tmp_path.name
    assert dataset.class_names == ("a", "b")
    assert dataset.train.labels.tolist() == [0, 0, 1, 1, 1]
    assert dataset.train.labels.dtype == np.int32
    assert dataset.val.class_counts.tolist() == [0, 4]
    assert dataset.val.file_name(1) == str(tmp_path / "validation" / "b" / "001.png")


def test_a_folder_of_classes_is_divided_the_same_wherever_it_lies(tmp_path):
    for root in (tmp_path / "one", tmp_path / "two" / "train"):
        write_class(root / "a", 10)
        write_class(root / "b", 5)
    one = load_dataset(str(tmp_path / "one"), image_size=8)
    two = load_dataset(str(tmp_path / "two"), image_size=8)
    assert one.train.class_counts.tolist() == [8, 4]
    assert one.val.class_counts.tolist() == [2, 1]
    names = [
        [Path(part.file_name(index)).name for index in range(part.count)]
        for part in (one.train, two.train, one.val, two.val)
    ]
    assert names[0] == names[1]
    assert names[2] == names[3]


def test_only_visible_image_files_count(tmp_path):
    for name in ("a.JPG", "b.jpeg", "c.Png", "d.gif", "e.bmp", "f.webp"):
        write(solid(1), tmp_path / "x" / name)
        write(solid(1), tmp_path / "y" / name)
    for name in ("notes.txt", ".hidden.png", "jpg", "picture.tiff"):
        (tmp_path / "x" / name).write_bytes(b"no picture")
    (tmp_path / "x" / "folder.png").mkdir()
    (tmp_path / ".cache").mkdir()
    (tmp_path / "labels.csv").write_text("a,b")
    dataset = load_dataset(str(tmp_path), image_size=8, val_fraction=0.5)
    assert dataset.train.count == dataset.val.count == 6
    list(dataset.val.val_batches(2))
    assert dataset.broken == ()


def test_listing_a_folder_opens_no_picture(tmp_path, monkeypatch):
    write_class(tmp_path / "a", 4)
    write_class(tmp_path / "b", 4)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    assert load_dataset(str(tmp_path), image_size=8).train.count == 6


def a_file(root):
    (root / "set").write_text("")


def nothing_inside(root):
    (root / "set").mkdir()


def one_class(root):
    write_class(root / "set" / "only", 3)


def class_without_image(root):
    write_class(root / "set" / "train" / "full", 3)
    (root / "set" / "train" / "hollow").mkdir()


def foreign_class(root):
    for name in ("a", "b"):
        write_class(root / "set" / "train" / name, 2)
    write_class(root / "set" / "val" / "stranger", 2)


def hollow_val(root):
    for name in ("train/a", "train/b"):
        write_class(root / "set" / name, 2)
    (root / "set" / "val" / "a").mkdir(parents=True)


def val_only(root):
    write_class(root / "set" / "val" / "a", 2)


def single_images(root):
    for name in ("a", "b"):
        write_class(root / "set" / name, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "or an existing folder. Received: source=.*set$"),
        (a_file, "or an existing folder. Received: source=.*set$"),
        (nothing_inside, "one folder per class, found none"),
        (one_class, "at least two class folders, found only only"),
        (class_without_image, r"train/hollow: no image .*\.webp"),
        (foreign_class, "val: the class stranger is not in .*train$"),
        (hollow_val, "val: no image in any class folder"),
        (val_only, "val/ but no train/"),
        (single_images, "single image"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_in_one_line(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(str(tmp_path / "set"), image_size=8)
    assert "\n" not in str(caught.value)


def test_a_folder_that_may_not_be_listed_is_named(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=f"{tmp_path}: cannot be listed .Permission denied"):
        load_dataset(str(tmp_path), image_size=8)


def labelled(root, table, files=("a.png", "images/b.png")):
    for value, file in enumerate(files):
        write(solid(value), root / "photos" / file)
    (root / "photos" / "labels.csv").write_bytes(table)
    return str(root / "photos")


LABELS = b"author,file,class_index\nAnn,b.png,2\nBob,a.png,0\n"


def test_a_labels_file_says_the_class_of_images_beside_it_and_in_images(tmp_path):
    source = labelled(tmp_path, LABELS)
    images = load_labelled(source, class_names=None, classes=3, image_size=4)

    batches = images.indexed_val_batches(2)
    ((pixels, labels, indices),) = [[part.numpy() for part in batch] for batch in batches]
    assert pixels[:, 0, 0, 0].tolist() == [1.0, 0.0]  # b.png, then a.png
    assert labels.tolist() == [2, 0]
    assert indices.tolist() == [0, 1]
    assert images.class_names == ("0", "1", "2")
    assert images.file_name(0) == os.path.join(source, "images", "b.png")


def test_a_labels_file_counts_the_classifiers_classes_whatever_they_are_called(tmp_path):
    names = ("tench", "goldfish", "great white shark")
    images = load_labelled(
        labelled(tmp_path, LABELS), class_names=names, classes=3, image_size=4, held_out=True
    )
    assert images.class_names == names
    assert images.class_counts.tolist() == [1, 0, 1]


def test_a_spreadsheets_labels_file_is_read(tmp_path):
    table = b'\xef\xbb\xbffile,class_index\r\n"a.png",1\r\n\r\nimages/b.png,0\r\n'
    images = load_labelled(labelled(tmp_path, table), class_names=None, classes=2, image_size=4)
    assert images.labels.tolist() == [1, 0]


def test_a_split_folders_class_folders_count_and_not_a_labels_file_in_it(numbered):
    (numbered / "labels.csv").write_text("image,breed\n")
    images = load_labelled(str(numbered), class_names=None, classes=20, image_size=4)
    assert images.labels.tolist() == [3, 7, 11, 15]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"", "expected the columns file and class_index. Received: none"),
        (b"name,label\na.png,1\n", "expected the columns .* Received: 'name', 'label'"),
        (b"file,class_index\n", "lists no image"),
        (b"file,class_index\na.png,3\n", r"line 2: .* from 0 to 2\. Received: '3'"),
        (b"file,class_index\na.png,-1\n", r"line 2: .* from 0 to 2\. Received: '-1'"),
        (b"file,class_index\na.png,1.0\n", r"line 2: .* from 0 to 2\. Received: '1\.0'"),
        (b"file,class_index\na.png," + b"1" * 9999, "line 2: .* from 0 to 2. Received: '1{40}'"),
        (b"file,class_index\na.png\n", "line 2: .* from 0 to 2. Received: ''"),
        (b"file,class_index\nc.png,1\n", "line 2: 'c.png' is neither in .* nor in .*images"),
        (b"file,class_index\n,1\n", "line 2: expected a file in .* Received: ''"),
        (b"file,class_index\n../photos/a.png,1\n", r"line 2: expected a file in .*'\.\./photos"),
        (b"file,class_index\n/etc/hostname,1\n", "line 2: expected a file in .*'/etc/hostname'"),
        (b"file,class_index\na\0.png,1\n", "line 2: 'a.x00.png' is neither in"),
        (b"file,class_index\na.png,1\n./a.png,1\n", "line 3: './a.png' is listed a second time"),
        (b"file,class_index\nb.png,1\nimages/b.png,1\n", "line 3: .* a second time"),
        (b"file,class_index\n\xff.png,1\n", "cannot be read .*utf-8"),
        (b"file,class_index\n" + b"a" * 200_000, "cannot be read .*field larger"),
        (b"PK\x03\x04\xff\0\0", "cannot be read .*utf-8"),
    ],
)
def test_a_labels_file_that_cannot_be_used_is_refused_in_one_line(tmp_path, table, message):
    with pytest.raises(DataError, match=f"photos/labels.csv[:,] {message}") as refusal:
        load_labelled(labelled(tmp_path, table), class_names=None, classes=3, image_size=4)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"image_size": 0},
        {"image_size": 8, "resize": 7},
        {"image_size": 8, "val_fraction": 1},
        {"image_size": 8, "seed": -1},
        {"image_size": 8, "max_broken_share": 2},
    ],
)
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(DataError, match="Received: "):
        load_dataset("digits", **arguments)


@pytest.mark.parametrize("source", ["cifar", "", "no\0path", "~nobody-of-this-name/x"])
def test_a_source_that_is_neither_known_nor_a_folder_is_refused(source):
    with pytest.raises(DataError, match="must be digits, cifar10, cifar100, tfds:NAME or"):
        load_dataset(source, image_size=8)
