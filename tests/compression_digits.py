"""A small trained classifier of real digits, for the tests of training-time compression."""

import functools

import keras
import numpy as np
from sklearn.datasets import load_digits

from keras_squeezenet import Architecture, SqueezeNet

SIDE = 16
BATCH = 32
TRAINING = 1500  # examples; the other 297 are for validation
TINY = Architecture.from_metaparameters(
    name="tiny",
    base_e=16,
    incr_e=16,
    freq=1,
    squeeze_ratio=0.5,
    fires=2,
    pool_after=(1,),
    conv1_filters=16,
    conv1_kernel_size=3,
    input_size=SIDE,
)


@functools.cache
def digits():
    """Images [n, 16, 16, 3] of RGB 0 to 255, and labels."""
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).repeat(2, axis=1).repeat(2, axis=2).repeat(3, axis=3)
    return (images * (255 / 16)).astype(np.float32), labels.astype(np.int64)


def training_batches(seed=0):
    images, labels = digits()
    rng = np.random.default_rng(seed)
    while True:
        chosen = rng.integers(0, TRAINING, BATCH)
        yield images[chosen], labels[chosen]


def validation_batches():
    images, labels = digits()
    return [
        (images[start : start + 99], labels[start : start + 99])
        for start in range(TRAINING, len(images), 99)
    ]


def tiny_net(**kwargs):
    options = {
        "weights": None,
        "input_shape": (SIDE, SIDE, 3),
        "classes": 10,
        "architecture": TINY,
        "include_preprocessing": "tf",
        "kernel_initializer": "he_normal",
        "last_activation": None,
        "dropout_rate": 0.0,
    }
    return SqueezeNet(**{**options, **kwargs})


def trained_net():
    """A new copy, each time, of a network that a process trains once for all of its test files."""
    weights = _trained_weights()
    keras.utils.set_random_seed(3)
    model = _compiled_net()
    model.optimizer.build(model.trainable_variables)
    model.set_weights(weights)
    return model


@functools.cache
def _trained_weights():
    keras.utils.set_random_seed(3)
    model = _compiled_net()
    images, labels = digits()
    model.fit(images[:TRAINING], labels[:TRAINING], batch_size=BATCH, epochs=6, verbose=0)
    return model.get_weights()


def _compiled_net():
    model = tiny_net()
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", jit_compile=False)
    return model


def accuracy(predict):
    """Share of right answers on the validation images, worked out by hand."""
    images, labels = digits()
    return np.mean(np.argmax(predict(images[TRAINING:]), axis=1) == labels[TRAINING:])
