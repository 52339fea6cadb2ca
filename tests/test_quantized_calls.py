"""Quantization-aware training of networks whose layers are called in unusual ways."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_squeezenet import Retraining, quantize_aware
from keras_squeezenet.compression.with_training.bridge import BridgeError
from keras_squeezenet.errors import InputError
from keras_squeezenet.litert.model import LiteRTModel

RUN = Retraining(epochs=2, learning_rate=1e-3)


def colours(count=96):
    """Pictures of three colours with noise, and which."""
    rng, labels = np.random.default_rng(0), np.arange(count) % 3
    pictures = rng.uniform(0, 0.6, (count, 10, 10, 3))
    pictures[np.arange(count), :, :, labels] += 0.4
    return pictures.astype("float32"), labels


def trained(function):
    keras.utils.set_random_seed(3)
    image = keras.Input((10, 10, 3))
    x = layers.GlobalAveragePooling2D()(function(layers.Conv2D(6, 3, name="first")(image)))
    model = keras.Model(image, layers.Dense(3, activation="softmax", name="head")(x))
    model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(*colours(), batch_size=16, epochs=12, verbose=0)
    return model


def a_shared_convolution(x):
    conv = layers.Conv2D(6, 3, padding="same", activation="relu")
    return conv(conv(x))


def one_activation_and_one_pooling_for_all(x):
    relu, pool = layers.ReLU(), layers.MaxPooling2D(2)
    x = pool(relu(x))
    return pool(relu(layers.Conv2D(6, 3, padding="same")(x)))


def a_convolution_that_another_takes_too(x):
    x = layers.Conv2D(6, 3, padding="same", name="conv")(x)
    return layers.Add()([x, layers.BatchNormalization(momentum=0.8, name="norm")(x)])


def a_normalized_vector(x):
    x = layers.Dense(8, name="narrow")(layers.GlobalAveragePooling2D()(x))
    x = layers.BatchNormalization(momentum=0.8, name="norm")(x)
    return layers.Reshape((1, 1, 8))(layers.ReLU()(x))


def flipped_in_training(x):
    return layers.RandomFlip(seed=1)(x)


@pytest.mark.parametrize(
    "function",
    [
        a_shared_convolution,
        one_activation_and_one_pooling_for_all,
        a_convolution_that_another_takes_too,
        a_normalized_vector,
        flipped_in_training,
    ],
)
def test_the_file_decides_as_the_network_did(function, tmp_path):
    model, (pictures, labels) = trained(function), colours()
    assert np.mean(model.predict(pictures, verbose=0).argmax(1) == labels) > 0.95
    result = quantize_aware(
        model,
        (pictures, labels),
        retraining=RUN,
        batch_size=16,
        validation_data=(pictures, labels),
    )
    assert result.after > 0.95
    result.write_litert(tmp_path / "model.tflite")
    decided = LiteRTModel(tmp_path / "model.tflite").predict(pictures).argmax(1)
    assert np.mean(decided == labels) > 0.95


def classifier(function):
    image = keras.Input((10, 10, 3))
    x = layers.GlobalAveragePooling2D()(function(image))
    return keras.Model(image, layers.Dense(3, activation="softmax")(x))


def a_block_twice(x):
    conv, norm = layers.Conv2D(3, 3, padding="same"), layers.BatchNormalization(name="norm")
    return norm(conv(norm(conv(x))))


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (a_block_twice, BridgeError, "norm of class BatchNormalization .*called once.* 2 calls"),
        (layers.Lambda(lambda x: x + 1, name="odd"), InputError, "Layer odd of class Lambda"),
        (
            lambda x: layers.MultiHeadAttention(1, 2, name="attention")(x, x),
            BridgeError,
            "Layer attention of class MultiHeadAttention .*a layer that the bridge knows",
        ),
    ],
)
def test_what_cannot_be_trained_in_8_bits_is_named(function, error, message):
    with pytest.raises(error, match=message) as refused:
        quantize_aware(classifier(function), colours(), retraining=RUN)
    assert "\n" not in str(refused.value)
