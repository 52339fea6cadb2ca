"""Networks as LiteRT files, timed in turns."""

import keras
from keras import layers

from keras_squeezenet.litert.latency import Latency, measure_latencies
from keras_squeezenet.litert.model import LiteRTModel


def network(inputs=1):
    images = [keras.Input((8, 8, 3)) for _ in range(inputs)]
    x = layers.Add()(images) if inputs > 1 else images[0]
    x = layers.Conv2D(4, 3, activation="relu")(x)
    return keras.Model(images, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))


class Subclassed(keras.Model):
    def call(self, images):
        return images


def test_networks_are_called_in_turns_and_one_that_makes_no_file_says_why(monkeypatch):
    order, predict = [], LiteRTModel.predict

    def noting(self, images):
        order.append(self.path.name)
        return predict(self, images)

    monkeypatch.setattr(LiteRTModel, "predict", noting)
    models = network(), network(inputs=2), network(), Subclassed()
    first, other, last, subclassed = measure_latencies(models, calls=3, threads=1)
    # Two calls before, which are not measured. Files that are compared have names of their own.
    assert [name for name in order if name[0] in "02"] == ["0.tflite", "2.tflite"] * 5
    for measured in (first, last):
        assert isinstance(measured, Latency)
        assert 0 < measured.low <= measured.median <= measured.high
        assert (measured.calls, measured.threads) == (3, 1)
    assert other.startswith("`model` must have one input and one output")
    assert subclassed.startswith("a functional or Sequential model is wanted")
