"""Copies of models, so that what is given to a function stays as it was."""

import keras

from keras_squeezenet.errors import InputError
from keras_squeezenet.network.graph import every_layer, settle_normalizations


def copy_of(model: keras.Model) -> keras.Model:
    """A copy of a Keras 3 model that shares nothing with it, not compiled.

    Raises:
        InputError: it has a Lambda, whose function Keras copies from no configuration.
    """
    try:
        # Recursive, else a layer of two models within the model would become two layers.
        copy = keras.models.clone_model(model, recursive=True)
    except (TypeError, ValueError) as error:
        for layer in every_layer(model):
            if isinstance(layer, keras.layers.Lambda):
                raise InputError(
                    f"Layer {layer.name} of class Lambda cannot be copied: expected a layer of "
                    "your own, decorated with keras.saving.register_keras_serializable, or calls "
                    f"of keras.ops. Received: Lambda of {layer.function!r:.100}"
                ) from error
        raise
    copy.set_weights(model.get_weights())
    settle_normalizations(copy)
    return copy
