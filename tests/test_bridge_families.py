"""Every family of keras.applications through the bridge and back."""

import importlib
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_squeezenet.compression.with_training import bridge
from tests.twins import RNG, outputs_differ_by, pictures, same_numbers, train_statistics

sys.path.append(str(Path(__file__).parents[1] / "studies"))
study = importlib.import_module("small_applications")

# The others take more than some seconds together.
QUICK = {"MobileNet"}


@pytest.fixture(autouse=True)
def the_same_numbers():
    same_numbers()


@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=() if f in QUICK else pytest.mark.slow) for f in study.FAMILIES],
)
def test_a_family_has_a_twin_of_equal_outputs_and_gets_its_weights_back(family):
    model = study.FAMILIES[family].model(classifier_activation=None)
    images = pictures(8, model.input_shape[1])
    few = images[:2]
    ours = np.asarray(model(few, training=False))
    theirs = np.asarray(bridge.to_tf_keras(model)(few, training=False))
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5 * np.abs(ours).max())

    train_statistics(model, images)
    twin = bridge.to_tf_keras(model)
    assert outputs_differ_by(model, twin, few) < 1e-5

    for name, source in bridge.sources(model).items():
        learned = [array * RNG.uniform(0.9, 1.1, array.shape) for array in source.arrays()]
        twin.get_layer(name).set_weights(learned)
    before = np.asarray(model(few, training=False))
    bridge.copy_weights_back(twin, model)
    assert outputs_differ_by(model, twin, few) < 1e-5
    after = np.asarray(model(few, training=False))
    assert np.abs(before - after).max() > 1e-3 * np.abs(before).max()
    keras.backend.clear_session()
