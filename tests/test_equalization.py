import keras
import numpy as np
import pytest

from keras_squeezenet.litert.equalization import equalize_squeezes
from keras_squeezenet.network.layers import Fire

IMAGES = np.random.default_rng(0).normal(size=(6, 7, 9, 5)).astype("float32")


def network(images=IMAGES, bypass=None, **options):
    """A Fire with uneven squeeze channels, the last of which never answers."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input(images.shape[1:])
    fire = Fire(4, 6, 3, bypass, name="fire", bias_initializer="normal", **options)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(fire(inputs)))
    kernel = fire.squeeze1x1.kernel.numpy() * [1, 9, 0.1, 1]
    kernel[..., 3] = 0
    fire.squeeze1x1.kernel.assign(kernel)
    fire.squeeze1x1.bias.assign([0.1, 0.2, 0.0, -1.0])
    return model


def ranges(model, images=IMAGES):
    squeeze = model.get_layer("fire").squeeze1x1
    kernel = squeeze.kernel.numpy()[0, 0]
    return np.maximum(images @ kernel + squeeze.bias.numpy(), 0).max(axis=(0, 1, 2))


@pytest.mark.parametrize("bypass", [None, "complex"])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_the_outputs_stay(bypass, activation):
    model = network(bypass=bypass, activation=activation)
    before = model.predict_on_batch(IMAGES)
    equalize_squeezes(model, [IMAGES])
    np.testing.assert_allclose(model.predict_on_batch(IMAGES), before, rtol=1e-5, atol=1e-6)


def test_a_fire_with_batch_normalization_is_left_alone():
    inputs = keras.Input(IMAGES.shape[1:])
    model = keras.Model(inputs, Fire(4, 6, 3, batch_normalization=True)(inputs))
    before = model.get_weights()
    equalize_squeezes(model, [IMAGES])
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_outputs_stay_in_channels_first():
    images = np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2))
    keras.config.set_image_data_format("channels_first")
    model = network(images)
    before = model.predict_on_batch(images)
    weights = model.get_weights()
    equalize_squeezes(model, [images])
    assert any((old != new).any() for old, new in zip(weights, model.get_weights(), strict=True))
    np.testing.assert_allclose(model.predict_on_batch(images), before, rtol=1e-5, atol=1e-6)


def test_channels_differ_by_the_root_of_what_they_did():
    model = network()
    before = ranges(model)
    assert before[3] == 0
    assert before[:3].max() / before[:3].min() > 50
    equalize_squeezes(model, [IMAGES[:3], IMAGES[3:]])
    after = ranges(model)
    expected = before.max() ** 0.5 * before**0.5
    np.testing.assert_allclose(after, expected, rtol=1e-5)


def test_a_model_inside_a_model_is_equalized_too():
    inner = network()
    outer = keras.Sequential([keras.Input(IMAGES.shape[1:]), inner])
    before = ranges(inner)
    equalize_squeezes(outer, [IMAGES])
    assert np.ptp(np.log(ranges(inner)[:3])) < 0.51 * np.ptp(np.log(before[:3]))


def test_other_activations_than_relu_are_left_alone():
    model = network(activation="tanh")
    before = model.get_weights()
    equalize_squeezes(model, [IMAGES])
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_layers_work_as_before_when_measuring_fails():
    model = network()
    with pytest.raises(ValueError):  # noqa: PT011 - Keras words it
        equalize_squeezes(model, [IMAGES[:, :, :, :2]])
    assert model.get_layer("fire").squeeze1x1.activation is keras.activations.relu
