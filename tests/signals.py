"""Signals to learn from: waves of two lengths with noise, which a small network tells apart."""

from functools import cache

import keras
import numpy as np
from keras import layers

LENGTH, TRAINED_ON = 48, 96


@cache
def waves():
    """Signals and labels; the first `TRAINED_ON` to learn from, 32 others."""
    rng = np.random.default_rng(0)
    labels = np.arange(TRAINED_ON + 32) % 2
    places = np.arange(LENGTH) + rng.uniform(0, 24, (len(labels), 1))
    signals = np.sin(2 * np.pi * places / np.where(labels, 6, 12)[:, None])[..., None]
    return (signals + 0.1 * rng.normal(size=signals.shape)).astype(np.float32), labels


def network():
    return keras.Sequential(
        [
            layers.Input((LENGTH, 1), name="signal"),
            layers.Conv1D(16, 7, strides=2, use_bias=False, name="conv"),
            layers.BatchNormalization(momentum=0.8, name="norm"),
            layers.ReLU(name="relu"),
            layers.SeparableConv1D(16, 5, padding="same", activation="relu", name="separable"),
            layers.GlobalAveragePooling1D(name="means"),
            layers.Dense(2, activation="softmax", name="head"),
        ]
    )


@cache
def _trained_weights():
    keras.utils.set_random_seed(0)
    model, (signals, labels) = network(), waves()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(signals[:TRAINED_ON], labels[:TRAINED_ON], batch_size=16, epochs=12, verbose=0)
    return model.get_weights()


def trained_network():
    model = network()
    model.set_weights(_trained_weights())
    return model


def accuracy(predict):
    """Of a function from signals to probabilities, on those that nothing learned from."""
    signals, labels = waves()
    return float(np.mean(np.argmax(predict(signals[TRAINED_ON:]), 1) == labels[TRAINED_ON:]))
