"""Copies of models, so that what is given to a function stays as it was."""

import keras
from keras import layers

from keras_squeezenet.network.graph import every_layer


def copy_of(model: keras.Model) -> keras.Model:
    """A copy of a Keras 3 model that shares nothing with it, not compiled."""
    # Recursive, else a layer of two models within the model would become two layers.
    copy = keras.models.clone_model(model, recursive=True)
    copy.set_weights(model.get_weights())
    for layer in every_layer(copy):
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()  # what it computes with, from the weights just set
    return copy
