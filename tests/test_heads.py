"""A trained classifier with a new last layer."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers

from keras_squeezenet import SqueezeNet, SqueezeNet1_0, with_new_head
from keras_squeezenet.compression.saving import load_compressed, save_compressed
from keras_squeezenet.network.architecture import preset
from keras_squeezenet.network.families.alexnet import AlexNet
from keras_squeezenet.network.layers import Fire
from tests.tiers import parametrize
from tests.weight_file_writers import TINY

SIDE = 65
CLASSES = 11


def images(side=SIDE, seed=0):
    return np.random.default_rng(seed).uniform(0, 255, (2, side, side, 3)).astype("float32")


def outputs_of(model, taken):
    """Called, and not by `predict`: a few images take less time than the tracing of a network."""
    return keras.ops.convert_to_numpy(model(taken, training=False))


def squeezenet(**options):
    keras.utils.set_random_seed(1)
    options = {"include_preprocessing": True, "input_shape": (SIDE, SIDE, 3), **options}
    return SqueezeNet(weights=None, classes=CLASSES, **options)


def layer_configs(model):
    """Settings of the layers above the input, whose name counts up."""
    return [layer.get_config() for layer in model.layers[1:]]


def small_cnn(*head):
    keras.utils.set_random_seed(2)
    return keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(8, 3, activation="relu", name="first"),
            layers.BatchNormalization(name="normalized"),
            *head,
        ],
        name="small",
    )


# -- SqueezeNets ------------------------------------------------------------------------------


@parametrize(
    "options",
    [
        {},
        {"version": "1.0", "bypass": "complex"},
        {"classifier_activation": None, "dropout_rate": 0.2},
        {"last_activation": None, "kernel_initializer": "he_normal"},
        {"batch_normalization": True, "name": "mine"},
    ],
    quick=2,
)
def test_a_squeezenet_is_the_one_that_the_constructor_builds_with_the_features_kept(options):
    model = squeezenet(**options)
    found = with_new_head(model, 3)
    expected = SqueezeNet(
        weights=None,
        classes=3,
        include_preprocessing=True,
        input_shape=(SIDE, SIDE, 3),
        **options,
    )
    assert layer_configs(found) == layer_configs(expected)
    assert found.name == expected.name
    assert found.output_shape == (None, 3)
    old, new = model.get_weights(), found.get_weights()
    for one, other in zip(old[:-2], new[:-2], strict=True):
        np.testing.assert_array_equal(one, other)
    assert new[-2].shape[-1] == 3
    assert np.std(new[-2]) > 0


def test_training_the_new_model_leaves_the_old_one_as_it_was():
    model = squeezenet()
    before, outputs = model.get_weights(), outputs_of(model, images())
    new = with_new_head(model, 3, last_activation=None)
    new.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    new.optimizer.build(new.trainable_variables)  # else the step is traced twice
    new.fit(images(), np.array([0, 2]), verbose=0)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(outputs_of(model, images()), outputs)
    assert not np.array_equal(new.get_weights()[0], before[0])


def test_without_classes_it_gives_the_features_of_the_network_without_top():
    model = squeezenet()
    expected = SqueezeNet(
        weights=None,
        include_top=False,
        pooling="avg",
        include_preprocessing=True,
        input_shape=(SIDE, SIDE, 3),
    )
    expected.set_weights(model.get_weights()[:-2])
    for classes in (None, 0):
        found = with_new_head(model, classes)
        assert found.output_shape == (None, 512)
        np.testing.assert_array_equal(outputs_of(found, images()), outputs_of(expected, images()))


def test_activations_dropout_and_initial_values_can_be_others():
    found = with_new_head(
        squeezenet(),
        3,
        classifier_activation="sigmoid",
        last_activation=None,
        dropout_rate=0.1,
        kernel_initializer=keras.initializers.Constant(0.25),
        name="flowers",
    )
    assert found.name == "flowers"
    assert found.get_layer("predictions").activation is keras.activations.sigmoid
    assert found.get_layer("conv10").activation is keras.activations.linear
    assert found.get_layer("drop9").rate == 0.1
    assert np.unique(found.get_layer("conv10").kernel) == 0.25


def test_a_dropout_of_0_can_become_one_that_drops():
    found = with_new_head(squeezenet(dropout_rate=0.0), 3, dropout_rate=0.9)
    outputs = [np.asarray(found(images(), training=True)) for _ in range(2)]
    assert not np.array_equal(*outputs)


def test_precision_and_what_is_frozen_are_kept_and_the_head_learns():
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = squeezenet()
    keras.config.set_dtype_policy("float32")
    for layer in model.layers:
        layer.trainable = False
    found = with_new_head(model, 3)
    assert {layer.dtype_policy.name for layer in found.layers if isinstance(layer, Fire)} == {
        "mixed_bfloat16"
    }
    assert found.get_layer("conv10").dtype_policy.name == "mixed_bfloat16"
    assert found.get_layer("predictions").dtype_policy.name == "float32"
    assert found.trainable_variables == list(found.get_layer("conv10").trainable_variables)


def test_channels_first_is_kept():
    keras.config.set_image_data_format("channels_first")
    model = squeezenet(input_shape=(3, SIDE, SIDE))
    keras.config.set_image_data_format("channels_last")
    assert with_new_head(model, 3).get_layer("conv10").output.shape == (None, 3, 4, 4)
    assert with_new_head(model, None).output_shape == (None, 512)


def test_it_is_saved_in_every_file_that_a_squeezenet_is(tmp_path):
    found = with_new_head(squeezenet(architecture=TINY), 3, last_activation=None)
    outputs = outputs_of(found, images())
    found.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        outputs_of(keras.saving.load_model(tmp_path / "model.keras"), images()), outputs
    )
    save_compressed(found, tmp_path / "model.sqz", class_names=["rose", "tulip", "aster"])
    np.testing.assert_array_equal(
        outputs_of(load_compressed(tmp_path / "model.sqz"), images()), outputs
    )


def test_the_padding_of_the_published_weights_is_left_out_as_in_the_constructor():
    padded = replace(preset("1.0"), last_conv_padding=1)
    model = SqueezeNet(weights=None, architecture=padded, classes=5)
    assert "pad10" in [layer.name for layer in model.layers]
    found = with_new_head(model, 3)
    assert layer_configs(found) == layer_configs(SqueezeNet1_0(weights=None, classes=3))


@pytest.mark.shared
def test_published_weights_come_along(shared, monkeypatch):
    monkeypatch.setenv("KERAS_SQUEEZENET_WEIGHTS", str(shared / "weights"))
    model = SqueezeNet1_0(include_preprocessing=True)
    found = with_new_head(model, 3)
    expected = SqueezeNet1_0(include_preprocessing=True, classes=3)
    for one, other in zip(found.get_weights()[:-2], expected.get_weights()[:-2], strict=True):
        np.testing.assert_array_equal(one, other)


# -- others -----------------------------------------------------------------------------------

GAP = layers.GlobalAveragePooling2D

HEADS = {
    "dense with softmax": lambda: [GAP(), layers.Dense(CLASSES, "softmax", name="head")],
    "dense, then an activation": lambda: [
        layers.Flatten(),
        layers.Dense(12, "relu", name="hidden"),
        layers.Dropout(0.3),
        layers.Dense(CLASSES, name="head"),
        layers.Softmax(name="probabilities"),
    ],
    "logits": lambda: [GAP(), layers.Dense(CLASSES, name="head")],
    "convolution, then pooling": lambda: [
        layers.Conv2D(CLASSES, 1, name="head"),
        GAP(name="pooled"),
        layers.Activation("softmax", name="probabilities"),
    ],
    "pooling, convolution, reshape": lambda: [
        GAP(keepdims=True),
        layers.Dropout(0.3),
        layers.Conv2D(CLASSES, 1, name="head"),
        layers.Reshape((CLASSES,), name="flat"),
        layers.Activation("softmax", name="probabilities"),
    ],
}


@pytest.mark.parametrize("head", HEADS)
def test_a_users_cnn_keeps_its_features_and_the_form_of_its_end(head):
    model = small_cnn(*HEADS[head]())
    model.compile("sgd", "sparse_categorical_crossentropy" if head != "logits" else "mse")
    found = with_new_head(model, 3)
    assert [layer.name for layer in found.layers[1:]] == [layer.name for layer in model.layers]
    assert found.output_shape == (None, 3)
    # With the old head's first three columns the outputs are a softmax of the old logits' first
    # three: nothing else is new.
    kernel, bias = model.get_layer("head").get_weights()
    found.get_layer("head").set_weights([kernel[..., :3], bias[:3]])
    outputs = outputs_of(model, images(16))
    if head == "logits":
        expected = outputs[:, :3]
    else:
        expected = outputs[:, :3] / outputs[:, :3].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(outputs_of(found, images(16)), expected, rtol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_a_users_cnn_gives_the_features_that_its_last_layer_took(head):
    model = small_cnn(*HEADS[head]())
    taken = outputs_of(keras.Model(model.inputs, model.get_layer("head").input), images(16))
    expected = taken if taken.ndim == 2 else taken.mean(axis=(1, 2))
    np.testing.assert_allclose(
        outputs_of(with_new_head(model, None), images(16)), expected, rtol=1e-5
    )


@parametrize("head", HEADS, quick=2)
@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_the_outputs_activation_can_be_another(head, activation):
    found = with_new_head(small_cnn(*HEADS[head]()), 3, classifier_activation=activation)
    logits = with_new_head(small_cnn(*HEADS[head]()), 3, classifier_activation=None)
    found.set_weights(logits.get_weights())
    expected = outputs_of(logits, images(16))
    if activation:
        expected = 1 / (1 + np.exp(-expected))
    np.testing.assert_allclose(outputs_of(found, images(16)), expected, rtol=1e-4)


@parametrize(
    ("build", "side"),
    [
        (
            lambda: keras.applications.MobileNet(weights=None, input_shape=(32, 32, 3), alpha=0.25),
            32,
        ),
        (
            lambda: keras.applications.MobileNetV2(
                weights=None, input_shape=(32, 32, 3), alpha=0.35
            ),
            32,
        ),
        (lambda: AlexNet(input_shape=(67, 67, 3), classes=CLASSES), 67),
    ],
    ids=["MobileNet", "MobileNetV2", "AlexNet"],
    quick=1,
)
def test_networks_that_others_built(build, side, tmp_path):
    keras.utils.set_random_seed(1)
    model = build()
    found = with_new_head(model, 3)
    assert found.output_shape == (None, 3)
    np.testing.assert_allclose(outputs_of(found, images(side)).sum(axis=1), 1, rtol=1e-5)
    assert [layer.name for layer in found.layers] == [layer.name for layer in model.layers]
    for one, other in zip(model.get_weights()[:-2], found.get_weights()[:-2], strict=True):
        np.testing.assert_array_equal(one, other)
    found.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        outputs_of(keras.saving.load_model(tmp_path / "model.keras"), images(side)),
        outputs_of(found, images(side)),
    )


def test_a_classifier_within_a_model_gets_the_head():
    model = keras.Sequential(
        [keras.Input((SIDE, SIDE, 3)), layers.RandomFlip(), squeezenet()], name="outer"
    )
    found = with_new_head(model, 3, last_activation=None, dropout_rate=0.1)
    inner = found.get_layer("squeezenet1_1")
    assert (inner.output_shape, inner.get_layer("drop9").rate) == ((None, 3), 0.1)
    features = outputs_of(with_new_head(model, None), images())
    np.testing.assert_array_equal(
        features, outputs_of(with_new_head(model.layers[-1], None), images())
    )


def test_a_layer_that_comes_twice_stays_one_layer():
    shared = layers.Conv2D(4, 3, padding="same", name="shared")
    image = keras.Input((8, 8, 4))
    x = GAP()(shared(shared(image) / 2))
    model = keras.Model(image, layers.Dense(5)(x))
    found = with_new_head(model, 2)
    assert len(found.get_weights()) == 4
    taken = np.ones((1, 8, 8, 4), "float32")
    np.testing.assert_allclose(
        outputs_of(with_new_head(model, None), taken),
        outputs_of(keras.Model(image, x), taken),
        rtol=1e-6,
    )


def test_a_layer_that_was_called_elsewhere_afterwards_is_followed_in_the_model():
    model = small_cnn(*HEADS["dense with softmax"]())
    head = model.get_layer("head")
    head(keras.Input((8,)))
    model = keras.Model(model.inputs, head(model.layers[-2].output))
    assert with_new_head(model, 3).output_shape == (None, 3)


def test_the_last_layer_may_be_the_only_one():
    model = keras.Sequential([keras.Input((5,)), layers.Dense(4, "softmax")])
    assert with_new_head(model, 2).output_shape == (None, 2)


# -- refused ----------------------------------------------------------------------------------


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (squeezenet, dict(classes=-1), r"`classes` must be.*Received: classes=-1"),
        (squeezenet, dict(classes=2.0), r"`classes` must be.*Received: classes=2.0"),
        (squeezenet, dict(classes=True), r"`classes` must be.*Received: classes=True"),
        (
            squeezenet,
            dict(classes=None, classifier_activation="softmax"),
            "`classifier_activation` is of a new last layer.*softmax, no classes",
        ),
        (
            lambda: small_cnn(*HEADS["logits"]()),
            dict(classes=2, last_activation="relu"),
            "`last_activation` is of.*Received: last_activation=relu, with head the output",
        ),
        (
            lambda: small_cnn(*HEADS["logits"]()),
            dict(classes=2, dropout_rate=0.5),
            "`dropout_rate` is of a Dropout layer.*Received",
        ),
        (
            lambda: small_cnn(GAP(), layers.BatchNormalization(name="after")),
            dict(classes=2),
            "must end in a Dense layer.*small, where after, a BatchNormalization",
        ),
        (
            lambda: small_cnn(layers.Flatten(), layers.Dense(6), layers.Reshape((6, 1)), GAP1()),
            dict(classes=2),
            "must end in a Dense layer.*",
        ),
        (lambda: small_cnn(), dict(classes=2), r"one output \(batch, classes\).*14, 14, 8\)"),
        (
            lambda: SqueezeNet(
                weights=None, include_top=False, out_indices=(0, 1), input_shape=(SIDE, SIDE, 3)
            ),
            dict(classes=2),
            r"one output \(batch, classes\).*64\), \(",
        ),
        (lambda: Subclassed(), dict(classes=2), "functional or Sequential"),
        (lambda: keras.Sequential([layers.Dense(2)]), dict(classes=2), "functional or Sequential"),
    ],
)
def test_what_has_no_such_end_is_refused_in_one_line(model, options, message):
    classes = options.pop("classes")
    with pytest.raises(ValueError, match=message) as caught:
        with_new_head(model(), classes, **options)
    assert "\n" not in str(caught.value)


def GAP1():
    return layers.GlobalAveragePooling1D()
