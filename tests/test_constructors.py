"""Networks by the names of their constructors: what they take, and how wrong names are refused."""

import sys

import keras
import numpy as np
import pytest

from keras_squeezenet.network import constructors
from keras_squeezenet.network.layers import ImagePreprocessing

NAMES = sorted(
    name
    for name, thing in vars(keras.applications).items()
    if name[0].isupper() and callable(thing)
)
# The smallest of each module, at about the least size that it takes.
SMALLEST = {
    "ConvNeXtTiny": 32,
    "DenseNet121": 32,
    "EfficientNetB0": 32,
    "EfficientNetV2B0": 32,
    "EfficientNetV2S": 32,
    "InceptionResNetV2": 75,
    "InceptionV3": 75,
    "MobileNet": 32,
    "MobileNetV2": 32,
    "MobileNetV3Small": 32,
    "NASNetMobile": 32,
    "ResNet50": 32,
    "ResNet50V2": 32,
    "VGG16": 32,
    "VGG19": 32,
    "Xception": 71,
}


def pixels(*shape):
    """RGB 0…255 in whole numbers, as of image files."""
    return np.random.default_rng(0).integers(0, 256, shape).astype("float32")


def stub_of(name):
    """A constructor that says it is one of `keras.applications`, and has the images as scores."""
    module = constructors.application(name).__module__

    def stub(
        weights=None,
        input_tensor=None,
        input_shape=None,
        classes=1000,
        classifier_activation="softmax",
        include_preprocessing=True,
    ):
        x = keras.layers.Flatten(name="flat")(input_tensor)
        return keras.Model(keras.utils.get_source_inputs(input_tensor), x)

    stub.__module__ = module
    return stub, sys.modules[module].preprocess_input


@pytest.mark.parametrize("name", NAMES)
def test_each_application_takes_what_its_own_preprocess_input_makes(name):
    stub, preprocess_input = stub_of(name)
    network = constructors.build_application(stub, (3, 3, 3), 27)
    taken = keras.Model(network.inputs[0], network.get_layer("flat").output)
    images = pixels(2, 3, 3, 3)
    wanted = preprocess_input(images.copy()).reshape(2, -1)
    np.testing.assert_allclose(taken(images), wanted, rtol=0, atol=2e-5)


def test_every_module_of_keras_applications_is_known():
    modules = {constructors.application(name).__module__.rpartition(".")[-1] for name in NAMES}
    assert modules == set(constructors.PREPARED_AS)
    assert {constructors.application(name).__module__.rpartition(".")[-1] for name in SMALLEST} == (
        modules
    )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side"), SMALLEST.items())
def test_each_application_computes_what_keras_computes_of_prepared_images(name, side):
    constructor = constructors.application(name)
    keras.utils.set_random_seed(0)
    ours = constructors.build_application(constructor, (side, side, 3), 5)
    theirs = constructor(weights=None, input_shape=(side, side, 3), classes=5)
    theirs.set_weights(ours.get_weights())
    images = pixels(2, side, side, 3)
    prepared = sys.modules[constructor.__module__].preprocess_input(images.copy())
    np.testing.assert_allclose(
        ours(images, training=False), theirs(prepared, training=False), rtol=0, atol=2e-6
    )


def test_an_application_of_a_module_that_is_not_known_is_given_a_preprocessing():
    stub, _ = stub_of("MobileNet")
    stub.__module__ = "keras.src.applications.tomorrow"
    with pytest.raises(ValueError, match="how stub wants its images is not known here; give"):
        constructors.build_application(stub, (3, 3, 3), 27)
    network = constructors.build_application(stub, (3, 3, 3), 27, preprocessing="tf")
    assert network.get_layer("preprocessing").mode == "tf"


def test_another_preprocessing_takes_the_place_of_the_layers_inside():
    arguments = {"alpha": 0.35, "minimalistic": True}
    build = constructors.build_application
    constructor = keras.applications.MobileNetV3Small
    network = build(constructor, (32, 32, 3), 4, preprocessing="torch", arguments=arguments)
    kinds = [type(layer) for layer in network.layers]
    assert ImagePreprocessing in kinds
    assert keras.layers.Rescaling not in kinds
    assert "include_preprocessing" not in arguments
    own = build(constructor, (32, 32, 3), 4, arguments=arguments)
    assert keras.layers.Rescaling in [type(layer) for layer in own.layers]
    with pytest.raises(ValueError, match=r"EfficientNetB0 prepares images inside.*Received: prep"):
        build(keras.applications.EfficientNetB0, (32, 32, 3), 4, preprocessing="tf")


def test_probabilities_are_computed_in_float32_whatever_the_policy():
    keras.config.set_dtype_policy("mixed_bfloat16")
    network = constructors.build_application(
        keras.applications.MobileNet, (32, 32, 3), 4, arguments={"alpha": 0.25}
    )
    scores = network(pixels(2, 32, 32, 3))
    assert keras.backend.standardize_dtype(scores.dtype) == "float32"
    np.testing.assert_allclose(np.sum(scores, axis=1), 1, atol=1e-6)
    assert {str(layer.compute_dtype) for layer in network.layers} >= {"bfloat16", "float32"}


def test_the_momentum_of_every_batch_normalization_is_set():
    network = constructors.build_application(
        keras.applications.MobileNetV2,
        (32, 32, 3),
        4,
        normalization_momentum=0.9,
        arguments={"alpha": 0.35},
    )
    momenta = [
        layer.momentum
        for layer in network.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    assert len(momenta) == 52
    assert set(momenta) == {0.9}


def test_the_published_features_are_below_a_new_last_layer(monkeypatch):
    """Without the download: what Keras would load is given when it is asked for."""
    made = []
    constructor = keras.applications.MobileNetV3Small

    def published(weights=None, **arguments):
        assert weights == "imagenet"
        network = constructor(weights=None, **arguments)
        made.append(keras.Model(network.inputs[0], network.outputs[0]))
        return network

    published.__signature__ = constructors.inspect.signature(constructor)
    published.__module__ = constructor.__module__
    network = constructors.build_application(
        published, (32, 32, 3), 7, weights="imagenet", arguments={"alpha": 0.75, "dropout_rate": 0}
    )
    (features,) = made
    images = pixels(2, 32, 32, 3)
    pooled = np.asarray(features(images, training=False))
    assert pooled.shape == (2, 432)
    kernel, bias = network.get_layer("predictions").get_weights()
    logits = pooled @ kernel + bias
    wanted = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(network(images, training=False), wanted, atol=1e-5)
    assert network.get_layer("top_dropout").rate == 0


@pytest.mark.filterwarnings("ignore:`input_shape` is undefined")
def test_a_download_that_fails_is_a_line(monkeypatch):
    def unreachable(*arguments, **keywords):
        raise Exception("URL fetch failure on https://storage.googleapis.com: None")  # as Keras

    monkeypatch.setattr(
        sys.modules[keras.applications.MobileNet.__module__].file_utils, "get_file", unreachable
    )
    with pytest.raises(ValueError, match=r"the published weights of MobileNet cannot be had.*URL"):
        constructors.build_application(
            keras.applications.MobileNet, (32, 32, 3), 7, weights="imagenet"
        )


@pytest.mark.parametrize(
    ("find", "name", "message"),
    [
        (
            constructors.application,
            "MobilNetV2",
            "there is no application MobilNetV2; did you mean MobileNetV2",
        ),
        (constructors.application, "mobilenetv2", "did you mean MobileNetV2"),
        (constructors.application, "preprocess_input", "there is ConvNeXtBase, ConvNeXtLarge"),
        (constructors.application, "keras", "there is no application keras; there is ConvNeXtBase"),
        (constructors.family, "AlexNt", "there is no family AlexNt; did you mean AlexNet"),
        (constructors.family, "Inception", "there is no family Inception; there is AlexNet"),
        (constructors.family, "SqueezeNet", "a SqueezeNet is a model section without `family`"),
    ],
)
def test_a_wrong_name_is_told_what_there_is(find, name, message):
    with pytest.raises(ValueError, match=message) as error:
        find(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        ("MobileNetV2", "alfa", r"MobileNetV2 has no argument alfa; did you mean alpha\?"),
        ("MobileNetV2", "zzz", r"no argument zzz; there is alpha, name. Received: zzz"),
        ("VGG16", "classes", r"is given classes by the run itself; .* are name. Received: classes"),
        ("ConvNeXtTiny", "include_preprocessing", "is given include_preprocessing by the run"),
        ("VGG16", "classifier_activation", "is given classifier_activation by the run itself"),
    ],
)
def test_arguments_are_those_of_the_constructor(name, argument, message):
    with pytest.raises(ValueError, match=message):
        constructors.check_arguments(constructors.application(name), [argument])


@pytest.mark.slow
@pytest.mark.parametrize("name", constructors.FAMILIES)
def test_each_family_of_ours_is_one_that_the_package_exports(name):
    import keras_squeezenet

    constructor = constructors.family(name)
    assert getattr(keras_squeezenet, name) is constructor
    network = constructors.build_family(constructor, (96, 96, 3), 3, preprocessing="tf")
    scores = np.asarray(network(pixels(2, 96, 96, 3), training=False))
    assert scores.shape == (2, 3)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)
    again = constructor(weights=None, input_shape=(96, 96, 3), classes=3)
    again.set_weights(network.get_weights())
    prepared = pixels(2, 96, 96, 3) / 127.5 - 1
    np.testing.assert_allclose(again(prepared, training=False), scores, atol=1e-5)
