"""A .keras file that holds what is not read from files is refused by that layer's name."""

import zipfile

import keras
import pytest
from keras import layers

from keras_squeezenet import open_classifier
from keras_squeezenet.inference.classifiers import ModelFileError
from keras_squeezenet.inference.layers_in_files import odd_layer


class Unregistered(layers.Layer):
    def call(self, inputs):
        return inputs


def saved(layer, path):
    """A file of a model with this layer in a model within the model."""
    image = keras.Input((8, 8, 3))
    inner = keras.Sequential([keras.Input((8, 8, 3)), layers.ReLU(), layer], name="inner")
    x = layers.GlobalAveragePooling2D()(inner(image))
    keras.Model(image, layers.Dense(2, activation="softmax")(x)).save(path)
    return path


@pytest.mark.parametrize(
    ("layer", "found", "message"),
    [
        (Unregistered(name="own"), ("own", "Unregistered"), "own of class Unregistered"),
        (layers.Lambda(abs, name="odd"), ("odd", "Lambda"), "own code .*odd of class Lambda"),
    ],
)
def test_the_layer_is_named(layer, found, message, tmp_path):
    path = saved(layer, tmp_path / "model.keras")
    assert odd_layer(path) == found
    with pytest.raises(ModelFileError, match=message) as refused:
        open_classifier(path)
    assert "\n" not in str(refused.value)


def test_a_file_of_keras_s_layers_has_none(tmp_path):
    assert odd_layer(saved(layers.Softmax(), tmp_path / "model.keras")) is None


@pytest.mark.parametrize(
    "text", ["", "[", "7", "[" * 100_000, '{"class_name": "Lambda", "config": []}']
)
def test_a_broken_configuration_has_none(text, tmp_path):
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("config.json", text)
    assert odd_layer(tmp_path / "model.keras") is None
    (tmp_path / "model.keras").write_bytes(b"no archive")
    assert odd_layer(tmp_path / "model.keras") is None
