"""Keras 3 models against their tf_keras twins, which are run side by side."""

import os

import keras
import numpy as np
import pytest
from keras import layers

from keras_squeezenet import CeilMaxPooling2D, Fire, SqueezeNet
from keras_squeezenet.compression.copies import copy_of
from keras_squeezenet.compression.with_training import bridge, tfmot
from keras_squeezenet.compression.with_training.bridge import BridgeError
from keras_squeezenet.network.architecture import preset
from tests.compression_digits import tiny_net
from tests.tiers import parametrize
from tests.twins import RNG, outputs_differ_by, randomize, same_numbers


@pytest.fixture(autouse=True)
def the_same_numbers():
    same_numbers()


# Every two of a version, a bypass and a preprocessing meet.
@parametrize(
    ("version", "sides", "bypass", "preprocessing"),
    [
        ("1.0", (64, 67), None, False),
        ("1.1", (45, 48), None, "caffe"),
        ("1.0", (64, 67), None, "torch"),
        ("1.1", (45, 48), "simple", False),
        ("1.0", (64, 67), "simple", "caffe"),
        ("1.1", (45, 48), "simple", "torch"),
        ("1.0", (64, 67), "complex", False),
        ("1.1", (45, 48), "complex", "caffe"),
        ("1.1", (45, 48), "complex", "torch"),
    ],
    quick=4,
)
def test_every_squeezenet_has_a_twin_of_equal_outputs_and_names(
    version, sides, bypass, preprocessing
):
    model = SqueezeNet(
        weights=None,
        input_shape=(*sides, 3),
        classes=5,
        version=version,
        bypass=bypass,
        include_preprocessing=preprocessing,
        kernel_initializer="he_normal",
        classifier_activation=None,
        last_activation=None,
    )
    randomize(model)
    twin = bridge.to_tf_keras(model)
    images = RNG.uniform(0, 255 if preprocessing else 1, (3, *sides, 3)).astype("float32")
    assert outputs_differ_by(model, twin, images) < 1e-5
    shapes = preset(version).with_bypass(bypass).kernel_shapes(5)
    assert {name: kernel.shape for name, kernel in bridge.kernels(model).items()} == shapes
    assert list(bridge.kernels(model)) == list(shapes)
    for name, shape in shapes.items():
        assert tuple(twin.get_layer(name).kernel.shape) == shape


def ordinary_model():
    """Every kind of layer that is carried, with settings that are not the defaults."""
    image = keras.Input((12, 14, 3), name="photo")
    normalization = layers.Normalization(name="normalized")
    normalization.adapt(RNG.normal(3, 2, (50, 12, 14, 3)).astype("float32"))
    x = layers.Rescaling([0.5, 1.0, 2.0], offset=[0.1, 0.2, 0.3])(normalization(image))
    x = layers.ZeroPadding2D(((1, 0), (2, 1)))(x)
    x = layers.Conv2D(8, (3, 2), strides=(1, 2), activation="tanh", name="first")(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same", activation="relu6")(x)
    x = layers.BatchNormalization(epsilon=0.01, scale=False)(x)
    y = layers.Conv2D(16, 3, dilation_rate=2, groups=2, padding="same", use_bias=False)(x)
    x = layers.Add()([layers.LeakyReLU(negative_slope=0.2)(x), layers.ReLU(4.0, 0.1)(y)])
    x = layers.Concatenate()(
        [layers.MaxPooling2D(3, 2, "same")(x), layers.AveragePooling2D(2, 2, "same")(x)]
    )
    x = layers.Cropping2D(((1, 0), (0, 1)))(layers.SpatialDropout2D(0.3)(x))
    z = layers.GlobalAveragePooling2D()(x)
    z = layers.Concatenate()([z, layers.GlobalMaxPooling2D()(layers.Permute((2, 1, 3))(x))])
    x = layers.Flatten()(layers.Reshape((8, 8))(layers.Identity()(z)))
    x = layers.Dense(6, activation="silu")(layers.Dropout(0.5)(x))
    return keras.Model(image, layers.Softmax()(layers.Activation("elu")(x)))


def test_ordinary_layers_have_a_twin_of_equal_outputs():
    model = randomize(ordinary_model())
    images = RNG.normal(3, 2, (6, 12, 14, 3)).astype("float32")
    twin = bridge.to_tf_keras(model)
    assert outputs_differ_by(model, twin, images) < 1e-5
    assert twin.get_layer("normalized").trainable is False


def test_for_8_bits_each_batch_normalization_follows_a_convolution():
    model = randomize(
        on_image(
            layers.BatchNormalization(name="first"),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(name="second"),
            layers.Flatten(),
            layers.BatchNormalization(name="flat"),
        )
    )
    twin = bridge.to_tf_keras(model, for_8_bits=True)
    assert outputs_differ_by(model, twin, RNG.normal(size=(3, 8, 8, 3)).astype("float32")) < 1e-5
    before = {
        name: twin.get_layer(name).input.node.layer.name for name in ("first", "second", "flat")
    }
    assert before["first"] == "first_channels"
    assert before["second"].startswith("conv2d")
    assert "second_channels" not in {layer.name for layer in twin.layers}


def test_a_model_in_the_model_becomes_its_layers_and_frozen_statistics_stay():
    inner = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, name="features"),
            layers.BatchNormalization(name="statistics"),
        ],
        name="base",
    )
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(3, 1, name="features")(image)
    x = layers.GlobalAveragePooling2D()(inner(x, training=False))
    model = randomize(keras.Model(image, layers.Dense(3)(x)))
    twin = bridge.to_tf_keras(model)
    images = RNG.normal(size=(4, 8, 8, 3)).astype("float32")
    assert outputs_differ_by(model, twin, images) < 1e-5
    assert tuple(twin.get_layer("base_features").kernel.shape) == (3, 3, 3, 4)
    # An output near 0 is a difference of numbers near 1, which float32 rounds at 1e-7.
    np.testing.assert_allclose(
        np.asarray(twin(images, training=True)),
        model(images, training=False),
        rtol=1e-5,
        atol=1e-7,
    )


def test_dropout_drops_in_the_twin_as_in_the_model():
    """Keras records `training=False`, its default, and heeds it in no training step."""
    model = tiny_net(dropout_rate=0.25)
    twin = bridge.to_tf_keras(model)
    [ours], [theirs] = (
        [layer for layer in network.layers if "Dropout" in type(layer).__name__]
        for network in (model, twin)
    )
    assert theirs.rate == ours.rate == 0.25
    vector = np.ones((1, 8, 8, 64), "float32")
    assert np.mean(np.asarray(theirs(vector, training=True)) == 0) == pytest.approx(0.25, abs=0.05)


def test_a_layer_called_twice_is_one_layer_in_the_twin():
    vector = keras.Input((4,))
    shared = layers.Dense(4, name="shared")
    model = keras.Model(vector, shared(shared(vector)))
    twin = bridge.to_tf_keras(model)
    assert outputs_differ_by(model, twin, RNG.normal(size=(3, 4)).astype("float32")) < 1e-5
    assert [layer.name for layer in twin.layers].count("shared") == 1


def test_half_precision_models_have_a_float32_twin():
    keras.config.set_dtype_policy("mixed_bfloat16")
    half = tiny_net(classifier_activation=None)
    keras.config.set_dtype_policy("float32")
    full = tiny_net(classifier_activation=None)
    full.set_weights(half.get_weights())
    images = RNG.uniform(0, 255, (3, 16, 16, 3)).astype("float32")
    assert outputs_differ_by(full, bridge.to_tf_keras(half), images) < 1e-5


@pytest.mark.parametrize(
    ("make_model", "brightest"),
    [(lambda: tiny_net(classifier_activation=None), 255), (ordinary_model, 5)],
)
def test_what_the_twin_learned_comes_back_by_name(make_model, brightest):
    model = make_model()
    twin = bridge.to_tf_keras(model)
    for layer in twin.layers:
        if layer.trainable:
            layer.set_weights([RNG.uniform(0.1, 0.3, w.shape) for w in layer.get_weights()])
    images = RNG.uniform(0, brightest, (3, *model.input_shape[1:])).astype("float32")
    bridge.copy_weights_back(twin, model)
    assert outputs_differ_by(model, twin, images) < 1e-5


def test_weights_that_come_back_hold_no_negative_zero():
    model = tiny_net()
    twin = bridge.to_tf_keras(model)
    kernel, bias = twin.get_layer("conv1").get_weights()
    twin.get_layer("conv1").set_weights([-0.0 * np.abs(kernel), bias])
    bridge.copy_weights_back(twin, model)
    assert not np.signbit(bridge.kernels(model)["conv1"]).any()


def test_a_twin_of_another_network_is_refused_and_changes_nothing():
    model, other = tiny_net(), tiny_net(classes=7)
    before = model.get_weights()
    with pytest.raises(BridgeError, match=r"Layer conv4 of the twin must have .*\(1, 1, 32, 10\)"):
        bridge.copy_weights_back(bridge.to_tf_keras(other), model)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def on_image(*chain, shape=(8, 8, 3)):
    image = x = keras.Input(shape)
    for layer in chain:
        x = layer(x)
    return keras.Model(image, x)


@pytest.mark.parametrize(
    ("make_model", "message"),
    [
        (lambda: on_image(layers.UnitNormalization(name="odd")), "Layer odd of class UnitNorm"),
        (
            lambda: on_image(Fire(2, 3, 4, batch_normalization=True, name="counting")),
            "Layer counting of class Fire .*see folded_weights",
        ),
        (
            lambda: SqueezeNet(
                weights=None, input_shape=(32, 32, 3), classes=3, batch_normalization=True
            ),
            "Layer fire2 .*see folded_weights",
        ),
        (
            lambda: on_image(layers.ZeroPadding2D(1, data_format="channels_first", name="cf")),
            "Layer cf of class ZeroPadding2D .* Received: channels_first",
        ),
        (
            lambda: on_image(CeilMaxPooling2D(name="open"), shape=(None, 8, 3)),
            "Layer open of class CeilMaxPooling2D .*known sides",
        ),
        (
            lambda: on_image(lambda x: layers.Dropout(0.5, name="always")(x, training=True)),
            "Layer always of class Dropout .* Received: .*training=True",
        ),
        (lambda: keras.Sequential([layers.Dense(3)]), "must be a functional or Sequential"),
    ],
)
def test_what_cannot_be_carried_is_named(make_model, message):
    with pytest.raises(BridgeError, match=message):
        bridge.to_tf_keras(make_model())


def test_a_copy_computes_the_same_and_shares_nothing():
    model = randomize(ordinary_model())
    copy = copy_of(model)
    images = RNG.normal(3, 2, (4, 12, 14, 3)).astype("float32")
    assert outputs_differ_by(model, copy, images) == 0
    copy.get_layer("first").kernel.assign_add(copy.get_layer("first").kernel)
    assert outputs_differ_by(model, copy, images) > 0


def test_keras_3_goes_on_as_before_after_tfmot_was_imported(tmp_path):
    before = os.environ.get("TF_USE_LEGACY_KERAS")
    tfmot.load_tfmot()
    assert os.environ.get("TF_USE_LEGACY_KERAS") == before
    assert keras.version().startswith("3.")
    model = on_image(Fire(2, 3, 4), layers.GlobalAveragePooling2D())
    model.compile("sgd", "mse", jit_compile=False)
    model.fit(np.ones((4, 8, 8, 3)), np.ones((4, 7)), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert outputs_differ_by(model, loaded, RNG.normal(size=(2, 8, 8, 3)).astype("float32")) == 0


def test_equal_activations_of_one_tensor_are_one_in_8_bits():
    """LiteRT's converter makes one of them, and would find two ranges for it."""
    image = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 1)(image)
    branches = [layers.ReLU(6, name="one")(x), layers.ReLU(6, name="same")(x)]
    branches += [layers.ReLU(name="other")(x), layers.ReLU(6, name="later")(branches[0])]
    model = keras.Model(image, layers.Add()(branches))
    names = {False: {"one", "same", "other", "later"}, True: {"one", "other", "later"}}
    pictures = np.random.default_rng(0).uniform(-9, 9, (2, 6, 6, 3)).astype("float32")
    for for_8_bits, expected in names.items():
        twin = bridge.to_tf_keras(model, for_8_bits=for_8_bits)
        assert {layer.name for layer in twin.layers} >= expected
        assert ("same" in [layer.name for layer in twin.layers]) == (not for_8_bits)
        np.testing.assert_allclose(twin(pictures), model(pictures), atol=1e-5)
