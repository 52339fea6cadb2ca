"""studies/own_model.py: what its figures are made of."""

import importlib

import keras
import numpy as np

from keras_squeezenet import SqueezeNet, load_compressed, load_dataset, save_compressed

study = importlib.import_module("own_model")


def test_a_new_process_predicts_from_the_file_alone(tmp_path):
    features = SqueezeNet(False, None, input_shape=(32, 32, 3), pooling="avg")
    outputs = keras.layers.Dense(4, activation="softmax")(features.output)
    path = tmp_path / "model.sqz"
    save_compressed(keras.Model(features.inputs, outputs), path, bits=4)
    images = np.random.default_rng(0).normal(size=(5, 32, 32, 3)).astype("float32")
    found = study.read_alone(path, images)
    np.testing.assert_array_equal(found, load_compressed(path).predict(images, batch_size=32))


def test_images_are_all_or_some_spread_over_the_split():
    split = load_dataset("digits", image_size=8).val
    images, labels = study.arrays_of(split)
    assert (images.shape, labels.shape) == ((359, 8, 8, 3), (359,))
    some, of_some = study.arrays_of(split, 3)
    np.testing.assert_array_equal(some, images[[0, 179, 358]])
    np.testing.assert_array_equal(of_some, labels[[0, 179, 358]])
