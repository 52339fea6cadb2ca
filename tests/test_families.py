"""The contract of the families: one set of tests for all of them."""

from functools import cache

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

from keras_squeezenet import (
    VGG,
    AlexNet,
    CondenseNet,
    CondensingStages,
    ImagePreprocessing,
    ShuffleNet,
    condensed_model,
    export_litert,
    load_compressed,
    save_compressed,
)
from keras_squeezenet.compression.with_training import bridge
from keras_squeezenet.network.families.layers import LocalResponseNormalization
from keras_squeezenet.network.graph import every_layer
from tests.tiers import parametrize

# Arguments of a small one, and its input.
SMALL = {
    "AlexNet": (AlexNet, {"classes": 4}, (67, 67, 3)),
    "VGG": (VGG, {"width": 0.125, "units": 16, "classes": 4}, (32, 48, 3)),
    "ShuffleNet": (ShuffleNet, {"groups": 2, "scale": 0.25, "classes": 4}, (32, 40, 3)),
    "CondenseNet": (
        CondenseNet,
        {"blocks": (2, 2), "growth_rate": 4, "strides": 1, "classes": 4},
        (16, 24, 3),
    ),
}
# AlexNet's top has 59 million weights: where the top is not what is asked, it is without.
QUICK = [name for name in SMALL if name != "AlexNet"]
every_family = pytest.mark.parametrize("family", SMALL)
quick_family = pytest.mark.parametrize("family", QUICK)
few_families = parametrize("family", [*QUICK, "AlexNet"], quick=2)
vgg_first = parametrize("family", ["VGG", *(name for name in QUICK if name != "VGG")], quick=1)


def small(family, **options):
    constructor, arguments, shape = SMALL[family]
    if keras.config.image_data_format() == "channels_first":
        shape = (shape[2], *shape[:2])
    if "input_tensor" not in options:
        options = {"input_shape": shape, **options}
    if family == "AlexNet":
        options = {"include_top": False, **options}
    return constructor(**{**arguments, **options})


@cache
def built(family):
    """One for all tests that change nothing of it but weights."""
    return with_statistics(small(family))


def pictures(family, count=4, scale=1.0, seed=0):
    shape = SMALL[family][2]
    return np.random.default_rng(seed).normal(0, scale, (count, *shape)).astype("float32")


def with_statistics(model):
    """Normalizations that do something."""
    rng = np.random.default_rng(1)
    for layer in every_layer(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.gamma.shape
            values = rng.normal(0, 0.2, (3, *shape))
            layer.set_weights([1 + values[0], values[1], values[2], rng.uniform(0.5, 2, shape)])
    return model


@every_family
def test_without_top_it_gives_features(family):
    features = small(family, include_top=False)
    batch, *sides, channels = features.output_shape
    assert (batch, None in sides) == (None, False)
    for pooling in ("avg", "max"):
        pooled = small(family, include_top=False, pooling=pooling)
        assert pooled.output_shape == (None, channels)
        pooled.set_weights(features.get_weights())
        reduce = {"avg": np.mean, "max": np.max}[pooling]
        expected = reduce(features(pictures(family)), axis=(1, 2))
        np.testing.assert_allclose(pooled(pictures(family)), expected, rtol=1e-4, atol=1e-5)


@quick_family
def test_with_top_it_gives_probabilities_or_logits(family):
    model = built(family)
    logits = small(family, classifier_activation=None)
    logits.set_weights(model.get_weights())
    probabilities = np.asarray(model(pictures(family)))
    assert probabilities.shape == (4, 4)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(
        keras.ops.softmax(logits(pictures(family))), probabilities, rtol=1e-4, atol=1e-6
    )


@every_family
def test_it_is_built_on_a_tensor_of_ones_own(family):
    image = keras.Input(SMALL[family][2])
    model = small(family, input_tensor=image * 2.0, include_top=False, pooling="avg")
    alone = small(family, include_top=False, pooling="avg")
    alone.set_weights(model.get_weights())
    np.testing.assert_allclose(
        model(pictures(family)), alone(2 * pictures(family)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
@every_family
def test_channels_first_computes_the_same(family):
    model = built(family)
    expected = model(pictures(family))
    keras.config.set_image_data_format("channels_first")
    first = small(family)
    first.set_weights(model.get_weights())
    found = np.asarray(first(pictures(family).transpose(0, 3, 1, 2)))
    if found.ndim == 4:
        found = found.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@every_family
def test_it_takes_images_as_files_hold_them(family):
    model = small(family, include_preprocessing=True, include_top=False)
    assert isinstance(model.layers[1], ImagePreprocessing)
    assert model.layers[1].mode == ("caffe" if family == "AlexNet" else "torch")
    assert small(family, include_preprocessing="tf").layers[1].mode == "tf"
    plain = small(family, include_top=False)
    plain.set_weights(model.get_weights())
    images = np.random.default_rng(0).uniform(0, 255, (2, *SMALL[family][2])).astype("float32")
    expected = plain(ImagePreprocessing(model.layers[1].mode)(images))
    np.testing.assert_allclose(model(images), expected, rtol=1e-4, atol=1e-4)


@every_family
def test_it_is_saved_and_loaded_whole(family, tmp_path):
    model = built(family)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(pictures(family)), model(pictures(family)))


@quick_family
def test_weights_come_from_a_file_of_the_same_network(family, tmp_path):
    model = built(family)
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = small(family, weights=tmp_path / "model.weights.h5")
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
@quick_family
def test_in_half_precision_the_probabilities_are_whole(family):
    keras.config.set_dtype_policy("mixed_bfloat16")
    assert small(family)(pictures(family)).dtype == "float32"


@every_family
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pooling": "median"}, "Received: pooling=median"),
        ({"weights": "imagenet"}, "Received: weights=imagenet"),
        ({"input_shape": (64, 64)}, r"Received: input_shape=\(64, 64\)"),
        ({"input_shape": (None, 64, 3), "include_top": True}, r"input_shape=\(None, 64, 3\)"),
        ({"input_tensor": np.zeros((1, 64, 64, 3))}, "must be a Keras tensor"),
        ({"include_preprocessing": "vgg"}, "Received: mode=vgg"),
    ],
)
def test_wrong_arguments_are_named(family, arguments, message):
    with pytest.raises(ValueError, match=message):
        small(family, **arguments)


@cache
def for_inference(family):
    model = built(family)
    if family == "CondenseNet":
        for layer in model.layers:
            if hasattr(layer, "condense"):
                layer.condense(layer.condensation_factor - 1)
        model = condensed_model(model)
    return model


@few_families
def test_it_comes_back_from_a_sqz_file(family, tmp_path):
    model = for_inference(family)
    save_compressed(model, tmp_path / "model.sqz")
    loaded = load_compressed(tmp_path / "model.sqz")
    kinds = [type(layer).__name__ for layer in model.layers]
    assert [type(layer).__name__ for layer in loaded.layers] == kinds
    np.testing.assert_array_equal(loaded(pictures(family)), model(pictures(family)))


def test_local_response_normalization_has_a_twin_with_all_its_constants():
    image = keras.Input((4, 5, 6))
    layer = LocalResponseNormalization(radius=1, k=1.5, alpha=0.5, beta=0.6)
    model = keras.Model(image, layer(image))
    pictures = np.random.default_rng(0).normal(0, 3, (2, 4, 5, 6)).astype("float32")
    squares = np.pad(pictures**2, [(0, 0)] * 3 + [(1, 1)])
    by_hand = (
        pictures / (1.5 + 0.5 * (squares[..., :-2] + squares[..., 1:-1] + squares[..., 2:])) ** 0.6
    )
    np.testing.assert_allclose(bridge.to_tf_keras(model)(pictures), by_hand, rtol=1e-5)
    np.testing.assert_allclose(model(pictures), by_hand, rtol=1e-5)


@parametrize("family", ["AlexNet", *QUICK], quick=2)
@pytest.mark.parametrize("for_8_bits", [False, True])
def test_it_has_a_twin_in_tf_keras_and_gets_its_weights_back(family, for_8_bits):
    model = for_inference(family)
    if family == "AlexNet" and for_8_bits:
        message = "Layer norm1 of class LocalResponseNormalization .*: expected .* in 8 bits"
        with pytest.raises(bridge.BridgeError, match=message):
            bridge.to_tf_keras(model, for_8_bits=True)
        return
    twin = bridge.to_tf_keras(model, for_8_bits=for_8_bits)
    expected = model(pictures(family), training=False)
    np.testing.assert_allclose(twin(pictures(family)), expected, rtol=1e-3, atol=1e-5)
    rng = np.random.default_rng(2)
    for name, source in bridge.sources(model).items():
        learned = [array * rng.uniform(0.9, 1.1, array.shape) for array in source.arrays()]
        twin.get_layer(name).set_weights(learned)
    bridge.copy_weights_back(twin, model)
    found = np.asarray(model(pictures(family), training=False))
    np.testing.assert_allclose(twin(pictures(family)), found, rtol=1e-3, atol=1e-5)
    assert np.abs(found - expected).max() > 1e-4


@vgg_first
@parametrize("quantize", ["none", "int8"], quick=1)
def test_it_is_exported_to_litert(family, quantize, tmp_path):
    model = for_inference(family)
    images = pictures(family, count=32)
    written = export_litert(
        model, tmp_path / "model.tflite", quantize=quantize, calibration=images, tolerance=np.inf
    )
    assert written.images_checked == 32
    limit = {"none": 1e-5, "int8": 0.1}[quantize]
    assert written.mean_difference < limit


def digits(count, size):
    """Real handwritten digits 0 to 3 as colour images."""
    images, labels = load_digits(n_class=4, return_X_y=True)
    factor = size // 8
    images = images.reshape(-1, 8, 8, 1)[:count].repeat(factor, 1).repeat(factor, 2).repeat(3, 3)
    return (images * 255 / 16).astype("float32"), labels[:count]


# (size of the digits, learning rate, epochs) with 256 of 384 digits to learn from.
TRAININGS = {"VGG": (32, 1e-3, 3), "ShuffleNet": (32, 3e-3, 5), "CondenseNet": (16, 1e-2, 4)}


def accuracy_after(model, size, rate, epochs, callbacks=(), count=384):
    model.compile(
        keras.optimizers.Adam(rate),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,
    )
    images, labels = digits(count, size)
    learned = count * 2 // 3
    model.fit(
        images[:learned],
        labels[:learned],
        batch_size=16,
        epochs=epochs,
        verbose=0,
        callbacks=[*callbacks],
    )
    predicted = model.predict(images[learned:], batch_size=64, verbose=0).argmax(axis=1)
    return (predicted == labels[learned:]).mean()


@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=() if f == "VGG" else pytest.mark.slow) for f in TRAININGS],
)
def test_it_learns_digits_with_fit(family):
    keras.utils.set_random_seed(1)
    size, rate, epochs = TRAININGS[family]
    shape = (size, size, 3)
    model = small(family, input_shape=shape, include_preprocessing=True)
    callbacks = [CondensingStages()] if family == "CondenseNet" else []
    assert accuracy_after(model, size, rate, epochs, callbacks) > 0.7  # chance: 0.25


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "size", "rate", "epochs"),
    [
        (lambda **o: AlexNet(**o), 72, 1e-4, 6),
        (lambda **o: VGG(width=0.5, units=256, **o), 32, 5e-4, 10),
        (lambda **o: ShuffleNet(groups=3, scale=0.5, **o), 64, 2e-3, 10),
        (lambda **o: CondenseNet(blocks=(6, 6, 6), strides=1, **o), 32, 3e-3, 10),
    ],
    ids=list(SMALL),
)
def test_one_of_usual_width_learns_for_minutes(model, size, rate, epochs):
    keras.utils.set_random_seed(1)
    network = model(input_shape=(size, size, 3), classes=4, include_preprocessing=True)
    callbacks = [CondensingStages()] if network.name.startswith("condensenet") else []
    assert accuracy_after(network, size, rate, epochs, callbacks, count=720) > 0.9
