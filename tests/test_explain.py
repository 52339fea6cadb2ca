"""Grad-CAM, against hand calculations and finite differences."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_squeezenet import SqueezeNet
from keras_squeezenet.inference.explain import ExplanationError, grad_cam
from keras_squeezenet.network.architecture import Architecture
from tests.tiers import parametrize

SMALL = Architecture.from_metaparameters(
    base_e=8,
    incr_e=8,
    squeeze_ratio=0.25,
    freq=1,
    fires=4,
    pool_after=(1,),
    conv1_filters=8,
    conv1_kernel_size=3,
)


def images_of(model, count=3, seed=0):
    shape = (count, *model.input_shape[1:])
    return np.random.default_rng(seed).uniform(0, 255, shape).astype(np.float32)


def squeezenet(**options):
    keras.utils.set_random_seed(1)
    options = {
        "input_shape": (33, 33, 3),
        "classes": 5,
        "include_preprocessing": "tf",
        "kernel_initializer": "he_normal",
        "weights": None,
        **options,
    }
    return SqueezeNet(architecture=SMALL.with_bypass(options.pop("bypass", None)), **options)


def two_channels(tail, weights=((1.0, -3.0), (2.0, 0.5))):
    """Red and green as feature maps, and a dense layer with known weights on their means."""
    inputs = keras.Input((4, 6, 3))
    x = layers.Conv2D(2, 1, name="features")(inputs)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, tail(x))
    model.get_layer("features").set_weights([np.eye(3, 2)[None, None], np.zeros(2)])
    model.get_layer("dense").set_weights([np.array(weights), np.zeros(2)])
    return model


def dense_with_softmax(x):
    return layers.Dense(2, "softmax", name="dense")(x)


def dense_then_softmax_layer(x):
    return layers.Softmax()(layers.Dense(2, name="dense")(x))


def dense_then_activation(x):
    return layers.Activation("softmax")(layers.Dense(2, name="dense")(x))


def logits(x):
    return layers.Dense(2, name="dense")(x)


@pytest.mark.parametrize(
    "tail", [dense_with_softmax, dense_then_softmax_layer, dense_then_activation, logits]
)
def test_the_map_is_the_one_that_a_hand_calculates(tail):
    model = two_channels(tail)
    images = images_of(model, 2)
    red, green = images[..., 0], images[..., 1]

    # The score of class c is the mean over 24 places of w0c·red + w1c·green.
    of_class_0 = np.maximum(1.0 * red + 2.0 * green, 0) / 24
    of_class_1 = np.maximum(-3.0 * red + 0.5 * green, 0) / 24
    np.testing.assert_allclose(grad_cam(model, images, [0, 0]), of_class_0, rtol=1e-5)
    np.testing.assert_allclose(
        grad_cam(model, images, [1, 0]), [of_class_1[0], of_class_0[1]], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("last_activation", ["relu", None])
@parametrize("bypass", [None, "simple", "complex"], quick=1)
def test_channel_weights_of_a_squeezenet_are_finite_differences(bypass, last_activation):
    model = squeezenet(bypass=bypass, last_activation=last_activation)
    images, classes = images_of(model), [4, 0, 2]
    features = keras.Model(model.input, model.get_layer("fire5").output)(images).numpy()
    scores_of = keras.Model(model.get_layer("fire5").output, model.get_layer("pool6").output)

    step = 1e-3
    weights = np.empty((len(images), features.shape[-1]))
    for channel in range(features.shape[-1]):
        raised = features.copy()
        raised[..., channel] += step
        change = (scores_of(raised) - scores_of(features)).numpy()
        weights[:, channel] = change[range(len(images)), classes] / step
    weights /= features.shape[1] * features.shape[2]
    expected = np.maximum(np.einsum("nrck,nk->nrc", features, weights), 0)

    found = grad_cam(model, images, classes)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=0.02 * expected.max())
    assert expected.max() > 0


@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_bright_corner_lights_that_corner(corner):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3, strides=2, activation="relu", kernel_initializer="ones"),
            layers.Conv2D(2, 1, activation="relu", kernel_initializer="ones"),
            layers.GlobalAveragePooling2D(),
            layers.Softmax(),
        ]
    )
    image = np.zeros((1, 32, 32, 3), np.float32)
    rows, columns = (slice(24, 32) if side else slice(0, 8) for side in corner)
    image[0, rows, columns] = 255

    heat = grad_cam(model, image, [0])[0]

    assert heat.shape == (15, 15)
    lit = heat[(slice(10, 15) if corner[0] else slice(0, 5)), :]
    lit = lit[:, (slice(10, 15) if corner[1] else slice(0, 5))]
    assert lit.sum() == pytest.approx(heat.sum())
    assert heat.sum() > 0


@pytest.mark.filterwarnings("error")
def test_where_nothing_raised_the_score_the_map_is_zero():
    model = two_channels(dense_with_softmax, weights=((-1.0, -1.0), (-2.0, -2.0)))
    assert not grad_cam(model, images_of(model), [0, 1, 0]).any()


def test_a_model_inside_a_model_is_followed():
    inner = squeezenet()
    inputs = keras.Input((33, 33, 3))
    outer = keras.Model(inputs, inner(layers.Rescaling(1.0)(inputs)))
    images = images_of(inner)
    np.testing.assert_allclose(
        grad_cam(outer, images, [0, 1, 2]), grad_cam(inner, images, [0, 1, 2]), rtol=1e-5
    )


def test_a_base_with_a_head_of_its_own_is_looked_at_before_its_pooling():
    base = squeezenet(include_top=False)
    model = keras.Sequential([base, layers.GlobalAveragePooling2D(), layers.Dense(2, "softmax")])
    images = images_of(base)
    features = base(images).numpy()
    channel_weights = model.layers[-1].kernel.numpy()[:, 1] / np.prod(features.shape[1:3])
    np.testing.assert_allclose(
        grad_cam(model, images, [1, 1, 1]),
        np.maximum(features @ channel_weights, 0),
        rtol=1e-3,
        atol=1e-6,
    )


def test_a_classifier_of_1x1_convolutions_on_one_place_is_looked_at_before_its_pooling():
    # As MobileNet ends.
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="relu")(inputs)
    x = layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = layers.Reshape((3,))(layers.Conv2D(3, 1)(x))
    model = keras.Model(inputs, layers.Activation("softmax")(x))
    assert grad_cam(model, images_of(model), [0, 1, 2]).shape == (3, 6, 6)


def test_frozen_layers_and_the_size_of_a_batch_change_nothing():
    model = squeezenet()
    images, classes = images_of(model, 11), np.arange(11) % 5
    maps = grad_cam(model, images, classes)
    model.trainable = False
    np.testing.assert_allclose(grad_cam(model, images, classes), maps)
    one_by_one = [grad_cam(model, images[i : i + 1], classes[i : i + 1])[0] for i in range(11)]
    np.testing.assert_allclose(one_by_one, maps, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("policy", "error"), [("mixed_bfloat16", 0.1), ("mixed_float16", 0.02)])
def test_half_precision_shows_the_same(policy, error):
    model = squeezenet(last_activation=None)
    keras.config.set_dtype_policy(policy)
    half = squeezenet(last_activation=None)
    half.set_weights(model.get_weights())
    images = images_of(model)
    maps, expected = (grad_cam(each, images, [0, 1, 2]) for each in (half, model))
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps, expected, atol=error * expected.max())


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


def test_a_model_that_cannot_be_explained_is_refused_in_one_line():
    flat = keras.Sequential([keras.Input((4, 4, 3)), layers.Flatten(), layers.Dense(2, "softmax")])
    with pytest.raises(ExplanationError, match=r"a feature map, .* Received: sequential"):
        grad_cam(flat, images_of(flat), [0, 0, 0])
    with pytest.raises(ExplanationError, match=r"functional or Sequential.* of type .*Subclassed"):
        grad_cam(Subclassed(), np.zeros((1, 4, 4, 3)), [0])
    with pytest.raises(ValueError, match=r"each of 3 images\. Received: 1"):
        grad_cam(flat, images_of(flat), [0])
