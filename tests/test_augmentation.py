"""Augmentation: what it does to pictures, and how a recipe asks for it."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from keras_squeezenet.data import Augmentation, DataError, Framing
from keras_squeezenet.data.augmentation import translate
from keras_squeezenet.data.images import decode_square
from tests.pictures import noise, solid


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


def test_larger_pictures_take_larger_crops_so_that_objects_stay_as_large():
    augmentation = Augmentation(flip=True, crop_scale=(0.25, 0.5))
    # A crop of a quarter of the area makes 96 pixels of half a side: as one of a side does 192.
    assert augmentation.for_size(192, meant_for=96).crop_scale == (1.0, 1.0)
    assert augmentation.for_size(120, meant_for=96).crop_scale == pytest.approx((0.390625, 0.78125))
    assert augmentation.for_size(96, meant_for=96) == augmentation
    assert Augmentation(flip=True).for_size(192, meant_for=96) == Augmentation(flip=True)
