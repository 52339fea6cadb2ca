"""Copies of models, so that what is given to a function stays as it was."""

import keras

from keras_squeezenet.network.graph import settle_normalizations


def copy_of(model: keras.Model) -> keras.Model:
    """A copy of a Keras 3 model that shares nothing with it, not compiled."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    settle_normalizations(copy)
    return copy
