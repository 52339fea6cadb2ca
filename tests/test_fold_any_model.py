"""Batch normalization folded into the layers of any model."""

import importlib
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from keras_squeezenet import SqueezeNet, fold_batch_normalization
from keras_squeezenet.network.families.layers import GroupedConv2D
from keras_squeezenet.network.graph import every_layer
from keras_squeezenet.network.layers import Fire
from tests.compression_digits import TINY
from tests.sqz_models import chain, with_weights
from tests.twins import outputs_differ_by, pictures, same_numbers, train_statistics

sys.path.append(str(Path(__file__).parents[1] / "studies"))
FAMILIES = importlib.import_module("small_applications").FAMILIES
# How many normalizations have a convolution without activation before them. DenseNet
# and ResNetV2 normalize before the activation, so that not all have one.
QUICK = {"MobileNet": 27}
SLOW = {
    "VGG": 0,
    "ResNet": 53,
    "ResNetV2": 32,
    "EfficientNet": 49,
    "EfficientNetV2": 59,
    "Xception": 40,
    "ConvNeXt": 0,
    "DenseNet": 59,
    "Inception": 94,
    "NASNet": 188,
    "MobileNetV2": 52,
    "MobileNetV3": 34,
    "InceptionResNet": 204,
}
IMAGES = np.random.default_rng(1).uniform(-1, 1, (3, 16, 16, 3)).astype(np.float32)


@pytest.fixture(autouse=True)
def the_same_numbers():
    same_numbers()


def normalizations(model):
    for layer in every_layer(model):
        if isinstance(layer, layers.BatchNormalization):
            yield layer.name
        elif isinstance(layer, Fire):
            yield from layer.normalizations


@pytest.mark.parametrize(
    ("family", "count"),
    [*QUICK.items(), *(pytest.param(*item, marks=pytest.mark.slow) for item in SLOW.items())],
)
def test_a_family_without_its_normalizations_computes_the_same(family, count):
    model = FAMILIES[family].model(classifier_activation=None)
    images = pictures(4, model.input_shape[1])
    train_statistics(model, images)
    before = model.get_weights()
    result = fold_batch_normalization(model)
    assert outputs_differ_by(model, result.model, images[:2]) < 1e-5
    left = set(normalizations(result.model))
    assert left | set(result.folded) == set(normalizations(model))
    assert not left & set(result.folded)
    assert len(result.folded) == count
    for weight, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, expected)
    keras.backend.clear_session()


# A layer before a normalization, with and without bias.
BEFORE = {
    "Conv2D": lambda **o: layers.Conv2D(6, 3, strides=2, padding="same", **o),
    "Conv2D of groups": lambda **o: layers.Conv2D(6, 3, groups=3, **o),
    "GroupedConv2D": lambda **o: GroupedConv2D(6, 3, groups=3, **o),
    "DepthwiseConv2D": lambda **o: layers.DepthwiseConv2D(3, depth_multiplier=2, **o),
    "SeparableConv2D": lambda **o: layers.SeparableConv2D(5, 3, depth_multiplier=2, **o),
    "Conv2DTranspose": lambda **o: layers.Conv2DTranspose(4, 3, strides=2, **o),
    "Dense": lambda **o: layers.Dense(4, **o),
}


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("kind", BEFORE)
def test_each_kind_takes_up_the_normalization_after_it(kind, use_bias):
    norm = layers.BatchNormalization(name="norm", scale=use_bias, center=not use_bias)
    model = with_weights(
        chain(BEFORE[kind](use_bias=use_bias, name="layer"), norm, layers.Activation("tanh"))
    )
    result = fold_batch_normalization(model)
    assert result.folded == {"norm": "layer"}
    assert [layer.name for layer in result.model.layers[1:]] == ["layer"]
    assert outputs_differ_by(model, result.model, IMAGES) < 1e-5


AFTER = {
    "Conv2D": lambda **o: layers.Conv2D(6, 3, strides=2, **o),
    "Conv2D of groups": lambda **o: layers.Conv2D(6, 3, groups=3, **o),
    "GroupedConv2D": lambda **o: GroupedConv2D(6, 3, groups=3, **o),
    "a padding Conv2D of one place": lambda **o: layers.Conv2D(6, 1, padding="same", **o),
    "DepthwiseConv2D": lambda **o: layers.DepthwiseConv2D(3, depth_multiplier=2, **o),
    "SeparableConv2D": lambda **o: layers.SeparableConv2D(5, 3, depth_multiplier=2, **o),
    "Dense": lambda **o: layers.Dense(4, **o),
}


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("kind", AFTER)
def test_each_kind_takes_up_the_normalization_before_it(kind, use_bias):
    layer = AFTER[kind](use_bias=use_bias, activation="relu", name="layer")
    model = with_weights(chain(layers.BatchNormalization(name="norm"), layer))
    result = fold_batch_normalization(model)
    assert result.folded == {"norm": "layer"}
    assert outputs_differ_by(model, result.model, IMAGES) < 1e-5


ALONG_LINES = {
    "Conv1D": lambda **o: layers.Conv1D(6, 3, strides=2, **o),
    "Conv1D of groups": lambda **o: layers.Conv1D(6, 3, groups=3, **o),
    "DepthwiseConv1D": lambda **o: layers.DepthwiseConv1D(3, depth_multiplier=2, **o),
    "SeparableConv1D": lambda **o: layers.SeparableConv1D(5, 3, depth_multiplier=2, **o),
    "Conv1DTranspose": lambda **o: layers.Conv1DTranspose(4, 3, strides=2, **o),
    "a causal Conv1D": lambda **o: layers.Conv1D(6, 3, padding="causal", **o),
}
PADDED = {"Conv1DTranspose", "a causal Conv1D"}  # what is before them cannot be folded into them


@pytest.mark.parametrize("kind", ALONG_LINES)
def test_convolutions_along_a_line_take_up_normalizations_on_both_sides(kind):
    norms = [layers.BatchNormalization(name=name) for name in ("before", "after")]
    layer = ALONG_LINES[kind](name="layer")
    model = with_weights(chain(layers.Reshape((-1, 3)), norms[0], layer, norms[1]))
    result = fold_batch_normalization(model)
    assert set(result.folded) == ({"after"} if kind in PADDED else {"before", "after"})
    assert outputs_differ_by(model, result.model, IMAGES) < 1e-5


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.Conv3D(6, 2, groups=3, name="layer"),
        lambda: layers.Conv3DTranspose(4, 2, strides=2, name="layer"),
    ],
)
def test_so_do_those_of_volumes(layer):
    norm = layers.BatchNormalization(name="norm")
    model = with_weights(chain(layers.Reshape((4, 4, 16, 3)), layer(), norm))
    result = fold_batch_normalization(model)
    assert result.folded == {"norm": "layer"}
    assert outputs_differ_by(model, result.model, IMAGES) < 1e-5


def test_a_layer_between_two_normalizations_takes_up_both():
    conv = layers.Conv2D(6, 3, groups=3, use_bias=False, name="conv")
    model = with_weights(
        chain(layers.BatchNormalization(name="a"), conv, layers.BatchNormalization(name="b"))
    )
    result = fold_batch_normalization(model)
    assert result.folded == {"a": "conv", "b": "conv"}
    assert outputs_differ_by(model, result.model, IMAGES) < 1e-5


def test_a_hand_calculated_layer():
    """y = 2·x + 1, then (y - 3) / sqrt(0.75 + 0.25) · 4 + 5 = 8·x - 3."""
    model = keras.Sequential(
        [
            layers.Input((1,)),
            layers.Dense(1, name="dense"),
            layers.BatchNormalization(epsilon=0.25, name="norm"),
        ]
    )
    model.set_weights([np.float32(x) for x in ([[2]], [1], [4], [5], [3], [0.75])])
    result = fold_batch_normalization(model)
    assert isinstance(result.model, keras.Sequential)
    kernel, bias = result.model.get_weights()
    assert (kernel.item(), bias.item()) == (8, -3)


def test_channels_first_has_its_channels_on_the_first_axis():
    inputs = layers.Input((3, 8, 8))
    conv = layers.Conv2D(4, 3, data_format="channels_first", name="conv")
    model = keras.Model(inputs, layers.BatchNormalization(axis=1, name="norm")(conv(inputs)))
    result = fold_batch_normalization(with_weights(model))
    assert result.folded == {"norm": "conv"}
    images = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    assert outputs_differ_by(model, result.model, images) < 1e-5
    wrong = keras.Model(inputs, layers.BatchNormalization()(conv(inputs)))
    assert fold_batch_normalization(wrong).model is wrong


def _taken_twice():
    inputs = layers.Input((16, 16, 3))
    x = layers.Conv2D(3, 1, name="conv")(inputs)
    return keras.Model(inputs, layers.Add()([layers.BatchNormalization()(x), x]))


def _is_an_output():
    inputs = layers.Input((16, 16, 3))
    x = layers.Conv2D(3, 1)(inputs)
    return keras.Model(inputs, [x, layers.BatchNormalization()(x)])


def _called_twice():
    inputs = layers.Input((16, 16, 3))
    conv = layers.Conv2D(3, 1)
    return keras.Model(inputs, conv(layers.BatchNormalization()(conv(inputs))))


def _normalization_called_twice():
    inputs = layers.Input((16, 16, 3))
    norm = layers.BatchNormalization()
    one, other = (norm(layers.Conv2D(3, 1)(inputs)) for _ in range(2))
    return keras.Model(inputs, layers.Add()([one, other]))


def _training():
    inputs = layers.Input((16, 16, 3))
    return keras.Model(
        inputs, layers.BatchNormalization()(layers.Conv2D(3, 1)(inputs), training=True)
    )


def shared_by_models_within(*after):
    """A convolution in a model, and the same in another that has more after it."""
    inner = layers.Input((16, 16, 3))
    x = y = layers.Conv2D(3, 1, name="conv")(inner)
    for layer in after:
        y = layer(y)
    features, head = keras.Model(inner, x, name="features"), keras.Model(inner, y, name="head")
    inputs = layers.Input((16, 16, 3))
    return keras.Model(inputs, layers.Add()([features(inputs), head(inputs)]))


def _shared_with_a_model_within():
    inner = layers.Input((16, 16, 3))
    conv = layers.Conv2D(3, 1, name="conv")
    features = keras.Model(inner, conv(inner), name="features")
    inputs = layers.Input((16, 16, 3))
    x = layers.BatchNormalization()(conv(inputs))
    return keras.Model(inputs, layers.Add()([features(inputs), x]))


EXACT_NOWHERE = {
    "an activation before it": lambda: chain(
        layers.Conv2D(3, 1, activation="relu"), layers.BatchNormalization()
    ),
    "a layer before it": lambda: chain(
        layers.Conv2D(3, 1), layers.ReLU(), layers.BatchNormalization()
    ),
    "another taker": _taken_twice,
    "an output": _is_an_output,
    "a layer called twice": _called_twice,
    "a normalization called twice": _normalization_called_twice,
    "padding after it": lambda: chain(
        layers.BatchNormalization(), layers.Conv2D(3, 3, padding="same")
    ),
    "a transposed convolution after it": lambda: chain(
        layers.BatchNormalization(), layers.Conv2DTranspose(3, 3)
    ),
    "another axis": lambda: chain(layers.Conv2D(3, 1), layers.BatchNormalization(axis=1)),
    "another precision": lambda: chain(
        layers.Conv2D(3, 1, dtype="mixed_float16"), layers.BatchNormalization()
    ),
    "training": _training,
    "two models within": lambda: shared_by_models_within(layers.BatchNormalization()),
    "a model within that has the layer, too": _shared_with_a_model_within,
    "no normalization": lambda: chain(layers.Conv2D(3, 1)),
}


@pytest.mark.parametrize("what", EXACT_NOWHERE)
def test_nothing_is_folded_where_it_would_not_be_exact(what):
    model = EXACT_NOWHERE[what]()
    result = fold_batch_normalization(model)
    assert result.model is model
    assert result.folded == {}


def test_an_activation_of_another_precision_stays():
    """As it is often the last of a network in mixed precision."""
    inputs = layers.Input((16, 16, 3))
    x = layers.Conv2D(3, 1, dtype="mixed_float16", name="conv")(inputs)
    x = layers.BatchNormalization(dtype="mixed_float16", name="norm")(x)
    model = keras.Model(inputs, layers.Activation("softmax", dtype="float32")(x))
    result = fold_batch_normalization(with_weights(model))
    assert result.folded == {"norm": "conv"}
    assert result.model.outputs[0].dtype == "float32"
    assert outputs_differ_by(model, result.model, IMAGES) < 1e-2


def test_models_within_the_model_are_folded_and_shared_ones_once():
    inner_input = layers.Input((None, None, 3))
    x = layers.Conv2D(3, 3, name="conv")(inner_input)
    inner = keras.Model(inner_input, layers.BatchNormalization(name="norm")(x), name="inner")
    left, right = layers.Input((16, 16, 3)), layers.Input((16, 16, 3))
    model = keras.Model([left, right], layers.Add()([inner(left), inner(right) * 2.0]))
    with_weights(model)
    result = fold_batch_normalization(model)
    assert result.folded == {"inner/norm": "inner/conv"}
    assert outputs_differ_by(model, result.model, [IMAGES, IMAGES[::-1]]) < 1e-5


def test_a_squeezenet_becomes_the_one_without():
    keras.utils.set_random_seed(0)
    model = SqueezeNet(
        weights=None,
        architecture=TINY.with_bypass("complex"),
        input_shape=(33, 33, 3),
        classes=4,
        batch_normalization=True,
        last_activation=None,
        classifier_activation=None,
    )
    images = pictures(4, 33)
    train_statistics(model, images)
    result = fold_batch_normalization(model)
    assert result.folded["conv1_normalization"] == "conv1"
    assert result.folded["fire2/squeeze1x1_normalization"] == "fire2/squeeze1x1"
    plain = SqueezeNet(
        weights=None,
        architecture=TINY.with_bypass("complex"),
        input_shape=(33, 33, 3),
        classes=4,
    )
    names = [[layer.name for layer in each.layers[1:]] for each in (result.model, plain)]
    assert names[0] == names[1]
    assert outputs_differ_by(model, result.model, images) < 1e-5
