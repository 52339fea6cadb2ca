import hashlib
import io
import itertools
import logging
import os
import struct
import sys
import tarfile
import threading
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from sklearn.datasets import load_digits

from keras_squeezenet.data import Augmentation, DataError, Framing, load_dataset, load_labelled
from keras_squeezenet.data import cifar as cifar_module
from keras_squeezenet.data.augmentation import translate
from keras_squeezenet.data.examples import FileExamples, stratified_split
from keras_squeezenet.data.images import decode_rgb, decode_square, open_image, read_thumbnail
from keras_squeezenet.data.sources import is_at_hand
from keras_squeezenet.extras import NotInstalledError
from keras_squeezenet.training.callbacks import BrokenPictures


def solid(value: int, size: tuple[int, int] = (9, 8)) -> Image.Image:
    return Image.new("RGB", size, (value, value, value))


def write(image: Image.Image, path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def write_class(folder: Path, count: int) -> None:
    for number in range(count):
        write(solid(number), folder / f"{number:03}.png")


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def scene(height: int, width: int) -> Image.Image:
    """Something smooth and without symmetry, as photos are."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    channels = (np.sin(9 * x + 4 * y), np.cos(5 * y * x + x), np.sin(7 * y) * x)
    return Image.fromarray((127 + 127 * np.stack(channels, -1)).astype(np.uint8))


def stored(image: Image.Image, kind: str, **options) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    buffer.seek(0)
    return open_image(buffer)


@pytest.fixture
def numbered(tmp_path):
    """Training images 0…19 whose grey value, and whose class, is their number; four to validate."""
    for number in range(20):
        write(solid(number), tmp_path / "set" / "train" / f"class{number:02}" / "one.png")
    for number in (3, 7, 11, 15):
        write(solid(number), tmp_path / "set" / "val" / f"class{number:02}" / "one.png")
    return tmp_path / "set"


def labels_of(batches) -> list[int]:
    return [int(label) for _, labels in batches for label in labels.numpy()]


def epochs_of(dataset, count: int, *, batch_size: int = 4, ranks: int = 1, **options):
    """Labels in the order of the stream, epoch by epoch."""
    steps = dataset.train.steps_per_epoch(batch_size, ranks)
    batches = dataset.train.train_batches(batch_size, ranks=ranks, **options).take(count * steps)
    return np.reshape(labels_of(batches), (count, steps * batch_size)).tolist()


# Framing and decoding


def test_evaluation_takes_the_centre_of_the_resized_picture():
    assert Framing(10).box(20, 10) == (5, 0, 15, 10)
    assert Framing(224, resize=256).box(256, 512) == (16, 144, 240, 368)
    assert Framing(10, resize="stretch").box(20, 10) == (0, 0, 20, 10)


def test_evaluation_agrees_with_pillows_own_crop_and_resize():
    image = noise(40, 61)
    expected = ImageOps.fit(image, (16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(decode_square(image, Framing(16)), expected)


@pytest.mark.parametrize("arguments", [(0,), (True,), (8.0,), (8, 7), (8, "squash")])
def test_framing_refuses_impossible_sizes(arguments):
    with pytest.raises(DataError, match="Received: "):
        Framing(*arguments)


RED = (200, 10, 30)


def sixteen_bit_png(value: int) -> Image.Image:
    return stored(Image.fromarray(np.full((8, 8), value, np.uint16)), "PNG")


@pytest.mark.parametrize(
    ("image", "expected", "tolerance"),
    [
        (stored(Image.new("L", (8, 8), 90), "PNG"), (90, 90, 90), 0),
        (stored(Image.new("1", (8, 8), 1), "PNG"), (255, 255, 255), 0),
        (stored(Image.new("RGB", (8, 8), RED).quantize(8), "PNG"), RED, 0),
        (stored(Image.new("RGBA", (8, 8), (*RED, 0)), "PNG"), (255, 255, 255), 0),
        # Half covered: (200 + 255) / 2, (10 + 255) / 2, (30 + 255) / 2.
        (stored(Image.new("RGBA", (8, 8), (*RED, 128)), "PNG"), (227, 132, 142), 1),
        (stored(Image.new("LA", (8, 8), (0, 128)), "PNG"), (127, 127, 127), 1),
        (stored(Image.new("RGB", (8, 8), RED), "PNG", transparency=RED), (255, 255, 255), 0),
        (sixteen_bit_png(65535), (255, 255, 255), 0),
        (sixteen_bit_png(257 * 77), (77, 77, 77), 0),
        (stored(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG"), (0, 255, 255), 2),
        (stored(Image.new("RGB", (8, 8), RED), "BMP"), RED, 0),
        (stored(Image.new("RGBA", (8, 8), (*RED, 0)), "WEBP", lossless=True), (255,) * 3, 0),
        (
            stored(solid(9), "GIF", save_all=True, append_images=[solid(200)]),
            (9, 9, 9),
            0,
        ),
    ],
    ids=[
        *("grey", "bilevel", "palette", "transparent", "half transparent", "grey with alpha"),
        *("transparent colour", "16-bit white", "16-bit grey", "CMYK", "BMP", "WebP", "animation"),
    ],
)
def test_every_kind_of_pixel_becomes_rgb(image, expected, tolerance):
    pixels = decode_square(image, Framing(4))
    assert pixels.shape == (4, 4, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels.astype(int), np.full((4, 4, 3), expected), atol=tolerance)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright_whichever_way_the_camera_was_held(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = stored(scene(48, 32), "JPEG", exif=exif, quality=95)
    expected = ImageOps.exif_transpose(photo)
    np.testing.assert_array_equal(decode_rgb(photo), expected)
    cropped = ImageOps.fit(expected, (16, 16), Image.Resampling.BILINEAR)
    # Pillow resizes across first and rounds in between: turned by 90 degrees, a level may differ.
    difference = decode_square(photo, Framing(16)).astype(int) - np.asarray(cropped, int)
    assert np.abs(difference).max() <= (1 if orientation >= 5 else 0)


def test_a_garbled_exif_block_does_not_spoil_the_picture():
    photo = stored(scene(16, 16), "JPEG", exif=b"Exif\0\0no such thing")
    assert decode_square(photo, Framing(8)).std() > 10


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_thumbnail_is_the_whole_picture_upright_and_small(orientation, tmp_path):
    image = scene(600, 400)
    exif = Image.Exif()
    exif[274] = orientation
    write(image, tmp_path / "photo.jpg", exif=exif, quality=95)
    expected = np.asarray(
        ImageOps.exif_transpose(Image.open(tmp_path / "photo.jpg")).resize(
            (60, 40) if orientation > 4 else (40, 60), Image.Resampling.BOX
        )
    )

    thumbnail = read_thumbnail(tmp_path / "photo.jpg", 60)

    assert thumbnail.shape == expected.shape
    assert np.abs(thumbnail.astype(int) - expected).mean() < 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_decoding_large_jpegs_at_reduced_size_shows_the_same_part(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = stored(scene(1203, 901), "JPEG", exif=exif, quality=95)
    upright = ImageOps.exif_transpose(photo)
    expected = ImageOps.fit(upright, (64, 64), Image.Resampling.BILINEAR)
    fresh = stored(scene(1203, 901), "JPEG", exif=exif, quality=95)
    reduced = decode_square(fresh, Framing(64))
    assert fresh.size != photo.size
    difference = np.abs(reduced.astype(int) - np.asarray(expected, int))
    assert difference.mean() < 0.5
    assert difference.max() <= 4


# Augmentation


def rngs(count: int):
    return map(np.random.default_rng, range(count))


def test_random_crops_keep_to_their_area_and_shape():
    augmentation = Augmentation(crop_scale=(0.3, 0.9), crop_ratio=(0.5, 2))
    boxes = [augmentation.box(80, 60, Framing(8), rng) for rng in rngs(300)]
    left, upper, right, lower = np.transpose(boxes)
    assert min(left) >= 0
    assert min(upper) >= 0
    assert max(right) <= 80
    assert max(lower) <= 60
    share = (right - left) * (lower - upper) / (80 * 60)
    ratio = (right - left) / (lower - upper)
    fitting = ~np.isclose(share, 60 * 60 / (80 * 60))
    assert fitting.mean() > 0.95
    assert 0.3 <= share.min() < 0.4
    assert 0.7 < share.max() <= 0.9
    assert 0.5 <= ratio.min() < 0.7
    assert 1.5 < ratio.max() <= 2


def test_a_panorama_that_no_crop_fits_is_cropped_as_in_evaluation():
    augmentation = Augmentation(crop_scale=(0.9, 1.0))
    assert augmentation.box(400, 20, Framing(8), np.random.default_rng(0)) == (190, 0, 210, 20)


def test_flip_mirrors_about_half_of_the_pictures():
    image = noise(8, 8)
    mirrored = np.asarray(ImageOps.mirror(image)).tolist()
    results = [
        decode_square(image, Framing(8), Augmentation(flip=True), rng).tolist() for rng in rngs(200)
    ]
    assert 70 <= results.count(mirrored) <= 130
    assert results.count(mirrored) + results.count(np.asarray(image).tolist()) == 200


def test_translation_moves_right_and_down_and_repeats_the_border():
    image = Image.fromarray(np.arange(9, dtype=np.uint8).reshape(3, 3))
    assert np.asarray(translate(image, 1, 0)).tolist() == [[0, 0, 1], [3, 3, 4], [6, 6, 7]]
    assert np.asarray(translate(image, 0, -2)).tolist() == [[6, 7, 8]] * 3


def test_shift_reaches_every_step_up_to_its_share_of_the_side():
    image = Image.fromarray(
        np.repeat(np.arange(10, dtype=np.uint8)[None, :, None], 10, 0).repeat(3, 2)
    )
    found = {
        int(decode_square(image, Framing(10), Augmentation(shift=0.2), rng)[0, 5, 0])
        for rng in rngs(100)
    }
    assert found == {3, 4, 5, 6, 7}


def test_color_scales_grey_by_a_factor_within_its_strength():
    # Neither contrast nor saturation changes a uniform grey; brightness multiplies it.
    values = [
        int(decode_square(solid(100), Framing(4), Augmentation(color=0.4), rng)[0, 0, 0])
        for rng in rngs(200)
    ]
    assert 60 <= min(values) < 70
    assert 130 < max(values) <= 140


def test_color_changes_saturation_and_contrast_too():
    image = Image.fromarray(np.array([[[200, 40, 40], [20, 60, 90]]] * 2, np.uint8))
    results = np.array(
        [decode_square(image, Framing(2), Augmentation(color=0.5), rng) for rng in rngs(50)], float
    )
    saturation = results[:, 0, 0, 0] / results[:, 0, 0, 1]
    contrast = results[:, 0, 0].mean(-1) / results[:, 0, 1].mean(-1)
    assert saturation.std() > 0.5
    assert contrast.std() > 0.1


def test_an_augmentation_is_read_from_a_recipes_mapping():
    settings = {"flip": True, "crop_scale": [0.3, 1], "color": 0.2}
    assert Augmentation.from_mapping(settings) == Augmentation(
        flip=True, crop_scale=(0.3, 1.0), color=0.2
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flop": True, "flip": True}, "knows the keys flip, crop_scale, .* Received: flop"),
        ({"flip": "yes"}, "Received: flip=yes"),
        ({"crop_scale": [0, 1]}, r"`crop_scale` .* Received: crop_scale=\[0, 1\]"),
        ({"crop_scale": [0.5, 1.5]}, "greatest <= 1"),
        ({"crop_scale": 0.5}, "two numbers"),
        ({"crop_ratio": [2, 1]}, "crop_ratio"),
        ({"color": 1.5}, "Received: color=1.5"),
        ({"shift": float("nan")}, "Received: shift=nan"),
        (["flip"], "must be a mapping"),
    ],
)
def test_a_wrong_augmentation_is_refused_by_name(settings, message):
    with pytest.raises(DataError, match=message):
        Augmentation.from_mapping(settings)


# The division into training and validation


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


# Folders


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


# labels.csv


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


# Batches


def test_batches_have_a_static_shape_and_pixels_from_0_to_255(numbered):
    batches = load_dataset(str(numbered), image_size=8).train.train_batches(4)
    images, labels = batches.element_spec
    assert images == tf.TensorSpec((4, 8, 8, 3), tf.float32)
    assert labels == tf.TensorSpec((4,), tf.int32)
    images, labels = next(iter(batches))
    np.testing.assert_array_equal(
        images, np.broadcast_to(labels[:, None, None, None], (4, 8, 8, 3))
    )


def test_each_epoch_is_another_permutation_and_a_seed_repeats_them(numbered):
    dataset = load_dataset(str(numbered), image_size=8)
    epochs = epochs_of(dataset, 3)
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs_of(dataset, 3) == epochs
    assert epochs_of(dataset, 3, seed=1) != epochs
    assert epochs_of(dataset, 2, start_epoch=1) == epochs[1:]


def test_ranks_share_an_epoch_without_overlap(numbered):
    dataset = load_dataset(str(numbered), image_size=8)
    together = np.hstack([epochs_of(dataset, 2, batch_size=2, rank=r, ranks=2) for r in range(2)])
    assert [sorted(epoch) for epoch in together.tolist()] == [list(range(20))] * 2
    # Three ranks of two batches of three leave two examples out, and repeat none.
    thirds = [epochs_of(dataset, 2, batch_size=3, rank=r, ranks=3) for r in range(3)]
    assert [len(set(epoch)) for epoch in np.hstack(thirds).tolist()] == [18, 18]


def test_augmentation_depends_on_seed_epoch_and_example_alone(tmp_path):
    for number in range(6):
        write(noise(9, 9, number), tmp_path / "train" / f"class{number}" / "one.png")
        write(noise(9, 9, number), tmp_path / "val" / f"class{number}" / "one.png")
    split = load_dataset(str(tmp_path), image_size=8).train
    augmentation = Augmentation(flip=True, crop_scale=(0.3, 1), color=0.3, shift=0.1)

    def pictures(epoch, batch_size, ranks=1, seed=0):
        found = {}
        for rank in range(ranks):
            batches = split.train_batches(
                batch_size,
                augmentation=augmentation,
                seed=seed,
                rank=rank,
                ranks=ranks,
                start_epoch=epoch,
            )
            for images, labels in batches.take(split.steps_per_epoch(batch_size, ranks)):
                found |= dict(zip(labels.numpy().tolist(), images.numpy(), strict=True))
        return np.stack([found[number] for number in range(6)])

    reference = pictures(1, 6)
    np.testing.assert_array_equal(pictures(1, 3), reference)
    np.testing.assert_array_equal(pictures(1, 1, ranks=2), reference)
    assert all((pictures(2, 6) != reference).any(axis=(1, 2, 3)))
    assert all((pictures(1, 6, seed=1) != reference).any(axis=(1, 2, 3)))


def test_without_augmentation_training_sees_what_evaluation_sees(tmp_path):
    for part in ("train", "val"):
        for number in range(4):
            write(noise(20, 31, number), tmp_path / part / f"class{number}" / "one.png")
    dataset = load_dataset(str(tmp_path), image_size=8, resize=10)
    (seen, labels), *_ = dataset.train.train_batches(4).take(1)
    (validated, _), *_ = dataset.val.val_batches(4)
    np.testing.assert_array_equal(seen, tf.gather(validated, labels))


@pytest.mark.parametrize("ranks", [1, 2, 3, 6])
def test_validation_covers_every_example_once_over_all_ranks(numbered, ranks):
    split = load_dataset(str(numbered), image_size=8).val
    parts = [
        [
            (int(label), int(index), int(image[0, 0, 0]))
            for images, labels, indices in split.indexed_val_batches(3, rank=rank, ranks=ranks)
            for image, label, index in zip(images, labels, indices, strict=True)
        ]
        for rank in range(ranks)
    ]
    assert [len(part) for part in parts] == [
        split.local_count(rank, ranks) for rank in range(ranks)
    ]
    assert sorted(itertools.chain(*parts)) == [(3, 0, 3), (7, 1, 7), (11, 2, 11), (15, 3, 15)]


def test_the_last_validation_batch_may_be_smaller(numbered):
    split = load_dataset(str(numbered), image_size=8).val
    assert [len(labels) for _, labels in split.val_batches(3)] == [3, 1]


class Readers:
    """Counts the readers of pictures at one time; each waits for `expected`, then for one more."""

    def __init__(self, expected: int):
        self.expected = expected
        self.most = self._reading = 0
        self._changed = threading.Condition()

    def __enter__(self):
        with self._changed:
            self._reading += 1
            self.most = max(self.most, self._reading)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.most >= self.expected, timeout=10)
            self._changed.wait_for(lambda: self.most > self.expected, timeout=0.2)

    def __exit__(self, *error):
        with self._changed:
            self._reading -= 1


# Two numbers, so that the machine's number of cores is another than one of them.
@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("kind", ["train_batches", "val_batches"])
def test_as_many_pictures_are_read_at_once_as_the_process_has_threads(
    numbered, monkeypatch, threads, kind
):
    monkeypatch.setattr("keras_squeezenet.data.split.own_threads", lambda: threads)
    split = load_dataset(str(numbered), image_size=8).train
    readers, read = Readers(threads), FileExamples.read

    def counted_read(self, index):
        with readers:
            return read(self, index)

    monkeypatch.setattr(FileExamples, "read", counted_read)
    # TensorFlow's own pool has no more threads than the machine has cores.
    options = tf.data.Options()
    options.threading.private_threadpool_size = 8
    next(iter(getattr(split, kind)(4).with_options(options)))
    assert readers.most == threads


def test_an_example_is_shown_as_it_is(numbered):
    split = load_dataset(str(numbered), image_size=8).val
    pixels, label = split.example(2)
    np.testing.assert_array_equal(pixels, np.full((8, 9, 3), 11, np.uint8))
    assert (label, split.class_names[label]) == (11, "class11")


def test_impossible_batches_are_refused(numbered):
    split = load_dataset(str(numbered), image_size=8).train
    assert split.steps_per_epoch(4, ranks=2) == 2
    with pytest.raises(DataError, match=r"20 examples .* 2 rank.* Received: batch_size=11"):
        split.steps_per_epoch(11, ranks=2)
    with pytest.raises(DataError, match="Received: batch_size=0"):
        split.val_batches(0)
    with pytest.raises(DataError, match=r"`rank` must be from 0 to 1. Received: rank=2"):
        split.train_batches(4, rank=2, ranks=2)
    with pytest.raises(DataError, match="Received: start_epoch=-1"):
        split.train_batches(4, start_epoch=-1)


# Broken images


def png_header(width: int, height: int) -> bytes:
    """A PNG file that promises `width` x `height` pixels in under a hundred bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def truncated_jpeg() -> bytes:
    buffer = io.BytesIO()
    noise(64, 64).save(buffer, "JPEG")
    return buffer.getvalue()[:-1000]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot identify image file"),
        (b"<html>not found</html>", "cannot identify image file"),
        (truncated_jpeg(), "truncated"),
        (png_header(9_400, 9_600), "pixels"),
        (png_header(60_000, 60_000), "decompression bomb"),
        (png_header(1, 1), "1 x 1 pixels; expected at least 8 on each side"),
        (png_header(7, 200), "7 x 200 pixels; expected at least 8"),
    ],
    ids=["empty", "no image", "truncated", "large", "bomb", "pixel", "sliver"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_broken_image_is_left_out_named_and_logged_once(numbered, content, reason, caplog):
    broken = numbered / "val" / "class07" / "one.png"
    broken.write_bytes(content)
    dataset = load_dataset(str(numbered), image_size=8, max_broken_share=0.25)
    with caplog.at_level(logging.WARNING, "keras_squeezenet"):
        assert labels_of(dataset.val.val_batches(2)) == [3, 11, 15]
        assert labels_of(dataset.val.val_batches(2)) == [3, 11, 15]
    [(name, why)] = dataset.broken
    assert name == str(broken)
    assert reason in why
    assert len(caplog.records) == 1
    assert str(broken) in caplog.text
    assert dataset.failure is None
    with pytest.raises(DataError, match=r"class07/one.png: "):
        dataset.val.example(1)


def test_of_an_animation_training_takes_the_first_frame(numbered):
    path = numbered / "val" / "class07" / "one.png"
    path.unlink()
    solid(7).save(path.with_suffix(".gif"), save_all=True, append_images=[solid(90), solid(200)])
    dataset = load_dataset(str(numbered), image_size=8)
    pixels, label = dataset.val.example(1)
    assert label == 7
    np.testing.assert_array_equal(pixels, np.full((8, 9, 3), 7, np.uint8))
    assert labels_of(dataset.val.val_batches(2)) == [3, 7, 11, 15]


def test_a_class_of_which_nothing_can_be_read_is_named_once(numbered, caplog):
    train = numbered / "train"
    write(solid(8), train / "class08" / "two.png")
    dataset = load_dataset(str(numbered), image_size=8, max_broken_share=0.5)
    assert dataset.train.classes_all_broken() == ()
    for name in ("class07/one.png", "class08/one.png"):
        dataset.train.broken_images.add(str(train / name), "no picture")
    assert dataset.train.classes_all_broken() == ("class07",)
    callback = BrokenPictures(dataset)
    caplog.clear()
    for epoch in range(2):
        callback.on_epoch_end(epoch)
    [line] = caplog.messages
    assert "No picture of the class 'class07' can be read" in line


def test_in_training_a_spare_example_takes_the_place_of_a_broken_one(numbered):
    for number in (4, 9):
        (numbered / "train" / f"class{number:02}" / "one.png").write_bytes(b"")
    dataset = load_dataset(str(numbered), image_size=8, max_broken_share=0.1)
    whole = set(range(20)) - {4, 9}
    # Two steps of nine: the eighteen readable examples, each once.
    assert [set(epoch) for epoch in epochs_of(dataset, 3, batch_size=9)] == [whole] * 3
    # Twenty wanted, eighteen there: two come twice, and the epochs do not drift.
    epochs = epochs_of(dataset, 3)
    assert [(len(epoch), set(epoch)) for epoch in epochs] == [(20, whole)] * 3
    assert epochs_of(dataset, 1, start_epoch=2) == epochs[2:]
    assert {Path(name).parent.name for name, _ in dataset.broken} == {"class04", "class09"}


@pytest.mark.parametrize("ranks", [1, 2])
def test_too_many_broken_images_end_the_stream_with_one_clear_line(numbered, ranks):
    for number in (4, 9):
        (numbered / "train" / f"class{number:02}" / "one.png").write_bytes(b"")
    dataset = load_dataset(str(numbered), image_size=8, max_broken_share=0.09)
    with pytest.raises(tf.errors.OpError, match="images of the train split are broken"):
        for _ in dataset.train.train_batches(2, ranks=ranks).take(100):
            pass
    assert dataset.failure.startswith("2 of 20 images of the train split are broken (max_broken_")
    assert "\n" not in dataset.failure


def test_clear_errors_turns_tensorflows_error_into_that_line_and_lets_others_pass(numbered):
    dataset = load_dataset(str(numbered), image_size=8, max_broken_share=0)
    with pytest.raises(tf.errors.InvalidArgumentError), dataset.clear_errors():
        raise tf.errors.InvalidArgumentError(None, None, "of another kind")
    (numbered / "val" / "class07" / "one.png").write_bytes(b"")
    with pytest.raises(DataError) as caught, dataset.clear_errors():
        list(dataset.val.val_batches(2))
    assert str(caught.value) == dataset.failure


def test_no_readable_image_at_all_is_an_error_whatever_share_is_allowed(numbered):
    for path in numbered.glob("train/*/one.png"):
        path.write_bytes(b"")
    dataset = load_dataset(str(numbered), image_size=8, max_broken_share=1)
    with pytest.raises(tf.errors.OpError, match="20 of 20 images"):
        next(iter(dataset.train.train_batches(4)))
    assert "20 of 20 images" in dataset.failure


def test_a_lone_readable_image_fills_every_batch(numbered):
    for path in numbered.glob("train/*/one.png"):
        if path.parent.name != "class05":
            path.write_bytes(b"")
    dataset = load_dataset(str(numbered), image_size=8, max_broken_share=1)
    assert epochs_of(dataset, 2) == [[5] * 20] * 2
    assert len(dataset.broken) == 19


# CIFAR


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


# tensorflow_datasets


def test_tfds_says_what_to_install_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(NotInstalledError, match=r"pip install 'squeezenet-keras\[tfds\]'"):
        load_dataset("tfds:imagenette", image_size=8)


@pytest.fixture(scope="module")
def tfds_builders(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("tfds")))
        tfds = pytest.importorskip(
            "tensorflow_datasets", reason="tensorflow-datasets is not installed"
        )

        class Grey(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                features = {
                    "image": tfds.features.Image(shape=(None, None, 1)),
                    "label": tfds.features.ClassLabel(names=["even", "odd"]),
                }
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features)
                )

            def _split_generators(self, dl_manager):
                return {name: self._generate_examples(*at) for name, at in self.splits_at.items()}

            def _generate_examples(self, start, stop):
                for number in range(start, stop):
                    image = np.full((11, 9, 1), number, np.uint8)
                    yield number, {"image": image, "label": number % 2}

        class GreyBothSplits(Grey):
            splits_at = MappingProxyType({"train": (0, 8), "test": (8, 13)})

        class GreyTrainOnly(Grey):
            splits_at = MappingProxyType({"train": (0, 10)})

        class GreyTestOnly(Grey):
            splits_at = MappingProxyType({"test": (0, 3)})

        yield tfds


def test_tfds_is_permuted_and_sharded_like_a_folder(tfds_builders):
    dataset = load_dataset("tfds:grey_both_splits", image_size=8)
    assert dataset.class_names == ("even", "odd")
    assert (dataset.train.count, dataset.val.count) == (8, 5)
    assert dataset.train.labels is None
    assert dataset.train.class_counts is None
    for split, numbers in ((dataset.train, range(8)), (dataset.val, range(8, 13))):
        shards = [
            (int(image[0, 0, 0]), int(label))
            for rank in range(2)
            for images, labels in split.val_batches(2, rank=rank, ranks=2)
            for image, label in zip(images, labels, strict=True)
        ]
        assert sorted(shards) == [(number, number % 2) for number in numbers]
    first, second = (
        [
            int(image[0, 0, 0])
            for images, _ in dataset.train.train_batches(4, start_epoch=epoch).take(2)
            for image in images
        ]
        for epoch in (0, 1)
    )
    assert sorted(first) == sorted(second) == list(range(8))
    assert first != second


def test_tfds_is_at_hand_once_it_was_prepared(tfds_builders, monkeypatch, tmp_path):
    make = tfds_builders.builder
    monkeypatch.setattr(
        tfds_builders, "builder", lambda name, **options: make(name, data_dir=tmp_path, **options)
    )
    assert not is_at_hand("tfds:grey_train_only")
    load_dataset("tfds:grey_train_only", image_size=8)
    assert is_at_hand("tfds:grey_train_only")
    assert not is_at_hand("tfds:no_such_set_of_pictures")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    assert not is_at_hand("tfds:grey_train_only")


def test_tfds_without_a_validation_split_is_divided(tfds_builders):
    dataset = load_dataset("tfds:grey_train_only", image_size=8, val_fraction=0.3)
    # Of each class of five 30 %, rounded.
    assert (dataset.train.count, dataset.val.count) == (6, 4)


class FakeRecords(list):
    """Tells how often it was read, as a data source of tensorflow_datasets."""

    reads = 0

    def __getitem__(self, index):
        self.reads += 1
        return super().__getitem__(index)


@pytest.fixture
def fake_tfds(monkeypatch):
    """What is used of tensorflow_datasets, with 40 pictures of two classes, one after the other."""

    class ClassLabel:
        names = ("dark", "bright")

    records = FakeRecords(
        {"image": png(np.full((8, 8, 3), number, np.uint8)), "label": int(number >= 30)}
        for number in range(40)
    )
    info = SimpleNamespace(
        file_format=SimpleNamespace(value="array_record"),
        features={"image": None, "label": ClassLabel()},
        splits={"train": None},
    )
    builder = SimpleNamespace(
        info=info,
        is_prepared=lambda: True,
        as_data_source=lambda split, decoders: records,
    )
    module = SimpleNamespace(
        builder=lambda name: builder,
        features=SimpleNamespace(ClassLabel=ClassLabel),
        decode=SimpleNamespace(SkipDecoding=lambda: None),
    )
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", module)
    return SimpleNamespace(info=info, records=records)


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def numbers_of(split):
    return [
        int(image[0, 0, 0]) for images, _ in split.val_batches(8) for image in np.asarray(images)
    ]


def test_tfds_is_divided_by_the_seed_class_by_class(fake_tfds):
    one, again, other = (
        load_dataset("tfds:made", image_size=8, val_fraction=0.2, seed=seed) for seed in (1, 1, 2)
    )
    for dataset in (one, again, other):
        train, val = numbers_of(dataset.train), numbers_of(dataset.val)
        assert sorted(train + val) == list(range(40))
        assert sorted(number >= 30 for number in val) == [False] * 6 + [True] * 2
        assert dataset.val.labels.tolist() == [int(number >= 30) for number in val]
        assert dataset.train.class_counts.tolist() == [24, 8]
    assert numbers_of(one.val) == numbers_of(again.val) != numbers_of(other.val)
    # By hand: who goes where must not change from version to version.
    drawn = sorted(range(40), key=lambda n: hashlib.sha256(f"1/{n}".encode()).digest())
    dark, bright = ([n for n in drawn if (n >= 30) == bright] for bright in (False, True))
    assert numbers_of(one.val) == sorted(dark[:6] + bright[:2])


def test_tfds_with_a_record_that_has_no_label_is_refused_in_one_line(fake_tfds):
    del fake_tfds.records[3]["label"]
    with pytest.raises(DataError, match=r"^tfds:made/train: record 3: 'label'$"):
        load_dataset("tfds:made", image_size=8)


def test_tfds_with_a_validation_split_is_not_read_for_its_labels(fake_tfds):
    fake_tfds.info.splits["validation"] = None
    dataset = load_dataset("tfds:made", image_size=8)
    assert fake_tfds.records.reads == 0
    assert dataset.val.labels is None


def test_tfds_without_training_split_is_refused(tfds_builders):
    with pytest.raises(DataError, match=r"expected a train split. Received: splits=test"):
        load_dataset("tfds:grey_test_only", image_size=8)


def test_tfds_prepared_without_random_access_is_refused(tfds_builders, monkeypatch, tmp_path):
    tfds = tfds_builders
    make = tfds.builder
    monkeypatch.setattr(
        tfds, "builder", lambda name, **options: make(name, data_dir=tmp_path, **options)
    )
    tfds.builder("grey_both_splits").download_and_prepare()
    with pytest.raises(
        DataError, match=r"without random access; .* Received: file_format=tfrecord"
    ):
        load_dataset("tfds:grey_both_splits", image_size=8)


def test_tfds_of_an_unknown_name_is_refused_in_one_line(tfds_builders):
    with pytest.raises(DataError, match=r"tfds:no_such_set_of_pictures: ") as caught:
        load_dataset("tfds:no_such_set_of_pictures", image_size=8)
    assert "\n" not in str(caught.value)


# Real photos


@pytest.fixture(scope="module")
def grocery(shared, tmp_path_factory):
    """The folder of real photos of groceries."""
    folder = tmp_path_factory.mktemp("shared")
    with zipfile.ZipFile(shared / "data" / "grocery.zip") as archive:
        archive.extractall(folder)
    return folder / "grocery"


@pytest.mark.shared
def test_the_grocery_photos_are_all_read(grocery):
    dataset = load_dataset(str(grocery), image_size=64, max_broken_share=0)
    assert (len(dataset.class_names), dataset.train.count, dataset.val.count) == (81, 2640, 296)
    assert np.count_nonzero(dataset.val.class_counts) == 60
    labels = [labels_of(dataset.val.val_batches(32, rank=rank, ranks=2)) for rank in range(2)]
    assert (
        np.bincount(np.concatenate(labels), minlength=81).tolist()
        == dataset.val.class_counts.tolist()
    )


@pytest.mark.shared
def test_grocery_photos_look_as_tensorflow_decodes_them(grocery):
    split = load_dataset(str(grocery), image_size=64, resize="stretch").val
    images, _, indices = next(iter(split.indexed_val_batches(16)))
    for image, index in zip(images, indices.numpy(), strict=True):
        # TensorFlow's default DCT is a faster one that darkens photos by nearly one level.
        encoded = tf.io.read_file(split.file_name(index))
        decoded = tf.io.decode_jpeg(encoded, 3, dct_method="INTEGER_ACCURATE")
        expected = tf.image.resize(decoded, (64, 64), antialias=True)
        assert float(tf.reduce_mean(tf.abs(image - expected))) < 0.5
