"""A person's own models through the bridge: heads, models in models, shared layers, two inputs."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_squeezenet import SqueezeNet
from keras_squeezenet.compression.retraining import (
    RetrainingError,
    check_classifier,
)
from keras_squeezenet.compression.with_training import bridge
from keras_squeezenet.compression.with_training.bridge import BridgeError
from tests.twins import RNG, outputs_differ_by, pictures, randomize, same_numbers


@pytest.fixture(autouse=True)
def the_same_numbers():
    same_numbers()


def features():
    return SqueezeNet(
        include_top=False,
        weights=None,
        pooling="avg",
        input_shape=(32, 32, 3),
        kernel_initializer="he_normal",
    )


def heads(x):
    x = layers.Dense(8, activation="relu", name="head_1")(x)
    x = layers.Dropout(0.2)(layers.BatchNormalization()(x))
    x = layers.Dense(6, activation="silu", name="head_2")(x)
    return layers.Dense(3, name="head_3")(x)


def heads_on_features():
    base = features()
    return keras.Model(base.input, heads(base.output))


def heads_on_a_model_within():
    image = keras.Input((32, 32, 3))
    return keras.Model(image, heads(features()(image, training=False)))


def a_sequential_around():
    return keras.Sequential(
        [keras.Input((32, 32, 3)), layers.Rescaling(0.5), features(), layers.Dense(3)]
    )


def nested_twice(name="outer"):
    image = keras.Input((8, 8, 3))
    conv = layers.Conv2D(4, 3, activation="relu", name="conv")
    innermost = keras.Sequential([keras.Input((8, 8, 3)), conv], name="inner")
    return keras.Model(image, layers.BatchNormalization(name="bn")(innermost(image)), name=name)


def of_the_same_names():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(3, 1, name="conv")(image)
    branches = [nested_twice("left")(x), nested_twice("right")(x), nested_twice("third")(x)]
    x = layers.GlobalAveragePooling2D()(layers.Concatenate()(branches))
    return keras.Model(image, layers.Dense(2)(x))


def a_model_called_twice():
    image = keras.Input((8, 8, 3))
    step = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.SeparableConv2D(3, 3, padding="same", activation="relu6"),
            layers.BatchNormalization(),
        ]
    )
    x = layers.Flatten()(step(step(image)))
    return keras.Model(image, layers.Dense(2)(x))


def shared_layers():
    image = keras.Input((8, 8, 3))
    conv, norm = layers.Conv2D(3, 3, padding="same"), layers.BatchNormalization()
    once = norm(conv(image))
    twice = norm(conv(once))
    return keras.Model(image, layers.Flatten()(layers.Multiply()([once, twice + 1])))


@pytest.mark.parametrize(
    "make_model",
    [
        heads_on_features,
        heads_on_a_model_within,
        a_sequential_around,
        nested_twice,
        of_the_same_names,
        a_model_called_twice,
        shared_layers,
    ],
)
def test_a_model_of_ones_own_has_a_twin_and_gets_its_weights_back(make_model):
    model = randomize(make_model())
    images = pictures(4, model.input_shape[1]) / 64
    twin = bridge.to_tf_keras(model)
    assert outputs_differ_by(model, twin, images) < 1e-5
    for name, source in bridge.sources(model).items():
        twin.get_layer(name).set_weights([0.9 * array for array in source.arrays()])
    bridge.copy_weights_back(twin, model)
    assert outputs_differ_by(model, twin, images) < 1e-5
    variables = sum(len(source.variables) for source in bridge.sources(model).values())
    fixed = sum(len(x.weights) for x in model.layers if isinstance(x, layers.Rescaling))
    assert variables == len(model.weights) - fixed, "each variable once"


def test_layers_of_one_name_take_those_of_the_models_around_them():
    names = [name for name in bridge.sources(of_the_same_names()) if name.endswith("conv")]
    assert sorted(names) == ["conv", "inner_conv", "right_inner_conv", "third_inner_conv"]


def two_inputs():
    image, vector = keras.Input((8, 8, 3), name="image"), keras.Input((5,), name="vector")
    x = layers.GlobalMaxPooling2D()(layers.Conv2D(4, 3)(image))
    y = layers.Dense(4, activation="relu")(vector)
    return image, vector, layers.Dense(2)(layers.Concatenate()([x, y]))


def test_two_inputs_are_carried_in_their_structure():
    image, vector, outputs = two_inputs()
    values = [RNG.normal(size=(3, 8, 8, 3)), RNG.normal(size=(3, 5))]
    values = [value.astype("float32") for value in values]
    by_name = {"image": image, "vector": vector}
    for inputs, fed in (
        ([image, vector], values),
        (by_name, dict(zip(by_name, values, strict=True))),
    ):
        model = randomize(keras.Model(inputs, outputs))
        twin = bridge.to_tf_keras(model)
        assert outputs_differ_by(model, twin, fed) < 1e-5


def test_a_model_of_two_inputs_within_a_model_is_carried():
    image, vector, outputs = two_inputs()
    inner = keras.Model({"image": image, "vector": vector}, outputs, name="two")
    outer_image = keras.Input((8, 8, 3))
    features = layers.Dense(5)(layers.Flatten()(outer_image))
    model = randomize(
        keras.Model(outer_image, inner({"image": outer_image, "vector": features}) * 2)
    )
    images = RNG.normal(size=(3, 8, 8, 3)).astype("float32")
    assert outputs_differ_by(model, bridge.to_tf_keras(model), images) < 1e-5


def test_several_outputs_are_carried():
    image = keras.Input((8, 8, 3))
    x = layers.GlobalMaxPooling2D()(layers.Conv2D(4, 3)(image))
    model = keras.Model(image, {"kind": layers.Dense(2)(x), "place": layers.Dense(4)(x)})
    images = RNG.normal(size=(3, 8, 8, 3)).astype("float32")
    ours, theirs = model(images), bridge.to_tf_keras(model)(images)
    for name in ("kind", "place"):
        np.testing.assert_allclose(np.asarray(theirs[name]), np.asarray(ours[name]), rtol=1e-5)


def test_what_is_no_classifier_of_one_image_is_refused_where_it_is_retrained():
    image, vector, outputs = two_inputs()
    message = r"one input and one output .* Received: 2 inputs, outputs \[\(None, 2\)\]"
    with pytest.raises(RetrainingError, match=message):
        check_classifier(keras.Model([image, vector], outputs))


def statistics_in_two_ways():
    image = keras.Input((8, 8, 3))
    norm = layers.BatchNormalization(name="norm")
    return keras.Model(image, norm(norm(image), training=False))


def a_name_that_is_made():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(3, 1, activation="relu6", name="a")(image)
    return keras.Model(image, layers.Conv2D(3, 1, name="a_relu6")(x))


@pytest.mark.parametrize(
    ("make_model", "message"),
    [
        (statistics_in_two_ways, "Layer norm of class BatchNormalization .*the same arguments"),
        (a_name_that_is_made, "Layer a_relu6 of class Conv2D .*name a_relu6. Received: a"),
    ],
)
def test_what_the_twin_would_get_wrong_is_refused_in_one_line(make_model, message):
    with pytest.raises(BridgeError, match=message) as error:
        bridge.to_tf_keras(make_model())
    assert "\n" not in str(error.value)
