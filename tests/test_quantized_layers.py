"""Depthwise and transposed convolutions, clustered and in the 8-bit file."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import layers

from keras_squeezenet.compression.retraining import Retraining
from keras_squeezenet.compression.with_training.clustering import cluster
from keras_squeezenet.compression.with_training.quantization_aware import quantize_aware
from keras_squeezenet.litert.model import LiteRTModel
from tests.tiers import parametrize
from tests.twins import RNG, same_numbers

STILL = Retraining(epochs=1, steps_per_epoch=1, learning_rate=1e-12)
CHANNELS = 4


@pytest.fixture(autouse=True)
def the_same_numbers():
    same_numbers()


def images(count=40, side=8, channels=3):
    return RNG.uniform(-1, 1, (count, side, side, channels)).astype("float32")


def labels(count=40):
    return np.arange(count) % CHANNELS


def classifier(*body, channels=3):
    return keras.Sequential(
        [
            keras.Input((8, 8, channels)),
            *body,
            layers.GlobalMaxPooling2D(),
            layers.Dense(CHANNELS, name="head", kernel_initializer="identity"),
        ]
    )


def tensors_of(path):
    """Name, codes and scales of each constant of 8 bits in a file."""
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    for details in interpreter.get_tensor_details():
        scales = details["quantization_parameters"]["scales"]
        if details["dtype"] is np.int8 and len(scales):
            try:
                yield details["name"], interpreter.get_tensor(details["index"]), scales
            except ValueError:  # of an activation, which is not kept
                continue


@parametrize("multiplier", [1, 2], quick=1)
def test_each_channel_of_a_depthwise_kernel_has_its_own_8_bits(multiplier, tmp_path):
    """Batch normalization takes away what kernels of channels differ by, a ten thousandth here."""
    depthwise = layers.DepthwiseConv2D(3, depth_multiplier=multiplier, use_bias=False, name="dw")
    normalization = layers.BatchNormalization(name="bn", trainable=False)
    model = classifier(depthwise, normalization, layers.ReLU(), channels=CHANNELS)
    sizes = np.logspace(-3, 1, CHANNELS * multiplier).reshape(CHANNELS, multiplier)
    depthwise.kernel.assign(RNG.uniform(-1, 1, (3, 3, CHANNELS, multiplier)) * sizes)
    normalization.gamma.assign(1 / sizes.ravel())

    found = quantize_aware(model, (images(channels=CHANNELS), labels()), retraining=STILL)
    result = found.write_litert(tmp_path / "model.tflite")
    few = found.check_images
    exact = np.asarray(model(few, training=False))
    differences = np.abs(exact - LiteRTModel(result.path).predict(few))
    assert differences.mean() < 0.01 * np.abs(exact).max()
    (codes,) = (codes for _, codes, scales in tensors_of(result.path) if codes.shape[1:3] == (3, 3))
    assert np.abs(codes).max(axis=(0, 1, 2)).tolist() == [127] * CHANNELS * multiplier


@pytest.mark.slow
def test_a_depthwise_channel_of_zeros_becomes_integers(tmp_path):
    depthwise = layers.DepthwiseConv2D(3, name="dw")
    model = classifier(depthwise, channels=CHANNELS)
    kernel = RNG.uniform(-1, 1, (3, 3, CHANNELS, 1))
    kernel[:, :, 1] = 0
    depthwise.kernel.assign(kernel)
    found = quantize_aware(model, (images(channels=CHANNELS), labels()), retraining=STILL)
    result = found.write_litert(tmp_path / "model.tflite")
    assert result.decisions_equal > 0.9


def upsampling():
    return classifier(
        layers.Conv2D(6, 3, strides=2, padding="same", activation="relu", name="down"),
        layers.Conv2DTranspose(5, 3, strides=2, padding="same", name="up"),
        layers.ReLU(),
        layers.Conv2D(CHANNELS, 1, name="last"),
    )


def test_a_transposed_convolution_is_clustered():
    model = upsampling()
    retraining = Retraining(epochs=1, steps_per_epoch=2, learning_rate=1e-2)
    found = cluster(model, (images(), labels()), retraining=retraining, bits=3)
    kernel = np.asarray(found.model.get_layer("up").kernel)
    assert len(np.unique(kernel)) <= 8
    (statistics,) = (layer for layer in found.layers if layer.name == "up")
    assert (statistics.weights, statistics.distinct) == (3 * 3 * 5 * 6, len(np.unique(kernel)))
    before = np.asarray(model.get_layer("up").kernel)
    # Eight values stand for weights that are spread evenly over a range: a sixteenth of it each.
    assert np.abs(kernel - before).max() < 0.25 * np.ptp(before)


@pytest.mark.slow
def test_zeros_of_a_transposed_convolution_stay_zeros_in_the_file(tmp_path):
    model = upsampling()
    kernel = model.get_layer("up").kernel
    kernel.assign(np.where(RNG.random(kernel.shape) < 0.5, 0, kernel))
    zeros = np.asarray(kernel) == 0
    retraining = Retraining(epochs=1, steps_per_epoch=3, learning_rate=0.1)
    data = (images(), labels())
    found = quantize_aware(model, data, retraining=retraining, preserve="sparsity")
    result = found.write_litert(tmp_path / "model.tflite")
    (codes,) = (codes for _, codes, _ in tensors_of(result.path) if codes.shape == (5, 3, 3, 6))
    # LiteRT has the outputs first.
    assert not codes[zeros.transpose(2, 0, 1, 3)].any()
    assert np.count_nonzero(codes) > 0.9 * np.count_nonzero(~zeros)


def test_a_transposed_convolution_becomes_integers(tmp_path):
    model = upsampling()
    found = quantize_aware(model, (images(), labels()), retraining=STILL)
    result = found.write_litert(tmp_path / "model.tflite")
    few = found.check_images
    exact = np.asarray(model(few, training=False))
    differences = np.abs(exact - LiteRTModel(result.path).predict(few))
    assert differences.mean() < 0.01 * np.abs(exact).max()
    kernels = [codes for _, codes, _ in tensors_of(result.path) if codes.shape == (5, 3, 3, 6)]
    assert len(kernels) == 1
    assert np.abs(kernels[0]).max() == 127
