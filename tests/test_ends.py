"""compression/without_training/ends.py: a model from any of its calls on, in graphs."""

import logging

import keras
import numpy as np
import pytest

from keras_squeezenet.compression.without_training.ends import Ends
from keras_squeezenet.network.steps import steps_of


def test_a_long_model_runs_on_batches_of_any_size_without_a_word(caplog):
    images = x = keras.Input((4, 4, 3))
    for number in range(45):
        x = keras.layers.Rescaling(1.01, 0.01, name=f"scaling{number}")(x)
    model = keras.Model(images, x)
    steps = steps_of(model)
    ends = Ends(steps)
    with caplog.at_level(logging.WARNING):
        for count in (64, 64, 5):
            batch = np.random.default_rng(count).normal(size=(count, 4, 4, 3)).astype("float32")
            (found,) = ends.outputs(0, {steps.inputs[0]: batch})
            expected = np.asarray(model(batch))
            assert np.asarray(found) == pytest.approx(expected, rel=1e-5)
    assert not caplog.records
