"""VGG against the paper's networks as Keras has them, and torchvision's counts."""

import keras
import numpy as np
import pytest

from keras_squeezenet import VGG
from tests.tiers import parametrize

# Parameters of torchvision's vgg11, vgg13, vgg16 and vgg19, 1000 classes.
PUBLISHED = {11: 132_863_336, 13: 133_047_848, 16: 138_357_544, 19: 143_667_240}


def convolution_filters(model):
    return sum(x.filters for x in model.layers if isinstance(x, keras.layers.Conv2D))


def parameters(depth, **options):
    """Of a network that is too large to be made: without top, and the last layers by hand."""
    features = VGG(include_top=False, depth=depth, input_shape=(32, 32, 3), **options)
    top = (7 * 7 * 512 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 1000
    return features.count_params() + top, convolution_filters(features)


@parametrize("depth", PUBLISHED, quick=2)
def test_it_has_the_published_parameters(depth):
    plain, filters = parameters(depth, batch_normalization=False)
    assert plain == PUBLISHED[depth]
    # Four numbers of a normalization in place of a bias.
    assert parameters(depth)[0] == PUBLISHED[depth] + 3 * filters


@parametrize(("depth", "theirs"), [(16, "VGG16"), (19, "VGG19")], quick=1)
def test_without_normalization_it_computes_what_keras_does(depth, theirs):
    keras.utils.set_random_seed(0)
    shape = (32, 40, 3)
    ours = VGG(include_top=False, depth=depth, input_shape=shape, batch_normalization=False)
    other = getattr(keras.applications, theirs)(False, None, input_shape=shape)
    ours.set_weights(other.get_weights())
    images = np.random.default_rng(0).normal(size=(1, *shape)).astype("float32")
    np.testing.assert_allclose(ours(images), other(images), rtol=1e-5)


def test_the_top_is_that_of_keras():
    shape = (32, 32, 3)
    model = VGG(depth=16, width=1 / 64, units=7, classes=3, input_shape=shape)
    kinds = [type(layer).__name__ for layer in model.layers[-7:]]
    assert kinds == ["Flatten", "Dense", "Dropout", "Dense", "Dropout", "Dense", "Activation"]
    assert [model.get_layer(f"fc{n}").units for n in (1, 2, 3)] == [7, 7, 3]


def test_width_is_a_factor_of_the_filters():
    model = VGG(include_top=False, width=0.25, input_shape=(32, 32, 3))
    filters = [x.filters for x in model.layers if isinstance(x, keras.layers.Conv2D)]
    assert filters == [16, 32, 64, 64, 128, 128, 128, 128]


def test_one_for_ten_classes_of_128_pixels_has_what_its_docstring_says():
    model = VGG(width=0.5, units=512, input_shape=(128, 128, 3), classes=10)
    top = sum(model.get_layer(f"fc{n}").count_params() for n in (1, 2, 3))
    assert model.count_params() == 4_675_818
    assert top / model.count_params() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 12}, "`depth` must be one of 11, 13, 16, 19. Received: depth=12"),
        ({"width": 0}, "`width` must be a number above 0 and up to 16. Received: width=0"),
        ({"units": 0}, "`units` must be an integer ≥ 1. Received: units=0"),
        ({"input_shape": (31, 64, 3)}, "32 or more pixels, which are known, and"),
        ({"weights": "imagenet"}, "`weights` must be None .* Received: weights=imagenet"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        VGG(**{"units": 2, "width": 0.1, "input_shape": (32, 32, 3), **arguments})
