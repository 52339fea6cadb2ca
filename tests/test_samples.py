"""Images to measure, calibrate and compress with are of all classes."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from keras_squeezenet.compression import samples
from keras_squeezenet.data import load_dataset, sample_images
from keras_squeezenet.data.examples import evenly_spread

CLASSES, EACH = 13, 3  # sorted by class, as folders are


@given(st.integers(0, 5000), st.integers(1, 3000))
def test_positions_cover_the_whole_range_at_even_distances(count, most):
    positions = evenly_spread(count, most)
    assert len(positions) == min(count, most)
    ends = [*positions, count]
    if count:
        assert ends[0] == 0
        distances = np.diff(ends)
        assert distances.min() >= 1
        assert distances.max() - distances.min() <= 1


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(1, 300))
def test_every_class_that_is_large_enough_gets_one(sizes, most):
    count = sum(sizes)
    taken = np.repeat(np.arange(len(sizes)), sizes)[evenly_spread(count, most)]
    share = Fraction(count, min(count, most))
    for label, size in enumerate(sizes):
        if size >= share:
            assert label in taken


def write(folder, number):
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (number, number, number)).save(folder / f"{number:03}.png")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """train/ and val/ of 13 classes of 3 images, the number of the image its grey; and one
    folder of the same images, and one with a labels.csv.
    """
    root = tmp_path_factory.mktemp("photos")
    rows = ["file,class_index"]
    for number in range(CLASSES * EACH):
        for split in ("train", "val"):
            write(root / "split" / split / f"{number // EACH:02}", number)
        write(root / "flat", number)
        for copy in range(2):  # every second image is held out
            image = 2 * number + copy
            write(root / "labelled", image)
            rows.append(f"{image:03}.png,{number // EACH}")
    (root / "labelled" / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.mark.parametrize("kind", ["split", "flat"])
@pytest.mark.parametrize("count", [20, 38])
def test_images_of_all_classes_are_sampled(photos, kind, count):
    images = list(sample_images(str(photos / kind), image_size=8, count=count))
    assert len(images) == count
    assert {int(image[0, 0, 0, 0]) // EACH for image in images} == set(range(CLASSES))


def test_images_that_a_division_holds_out_are_not_sampled(photos):
    folder = str(photos / "split" / "train")  # class folders without a division of their own
    for division in ({}, {"val_fraction": 0.5, "seed": 3}):
        images = sample_images(folder, image_size=8, count=CLASSES * EACH, **division)
        train = load_dataset(folder, image_size=8, **division).train
        assert sorted(int(image[0, 0, 0, 0]) for image in images) == sorted(
            int(train.example(index)[0][0, 0, 0]) for index in range(train.count)
        )


@pytest.mark.parametrize("kind", ["split", "labelled"])
@pytest.mark.parametrize("count", [20, 38])
def test_images_of_all_classes_are_drawn_and_held_out(photos, kind, count, monkeypatch):
    monkeypatch.setattr(samples, "MOST_HELD_OUT", count)
    drawn = samples.draw_samples(
        str(photos / kind),
        class_names=None,
        classes=CLASSES,
        image_size=8,
        resize=None,
        max_broken_share=0,
        count=count,
    )
    assert len(drawn.calibration) == len(drawn.held_out) == count
    number = drawn.calibration[:, 0, 0, 0].astype(int)
    each = EACH if kind == "split" else 2 * EACH
    assert set(number // each) == set(range(CLASSES))
    assert set(drawn.held_out.labels) == set(range(CLASSES))
    np.testing.assert_array_equal(drawn.held_out.images[:, 0, 0, 0] // each, drawn.held_out.labels)
