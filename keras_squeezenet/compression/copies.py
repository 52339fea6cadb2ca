"""Copies of models, so that what is given to a function stays as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras

from keras_squeezenet.errors import InputError
from keras_squeezenet.network.graph import every_layer, settle_normalizations


@contextmanager
def lambdas_named(model: keras.Model) -> Iterator[None]:
    """Whatever Keras raises while it copies a Lambda, as a line that names the layer.

    Raises:
        InputError: it has a Lambda, whose function Keras copies from no configuration.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        for layer in every_layer(model):
            if isinstance(layer, keras.layers.Lambda):
                raise InputError(
                    f"Layer {layer.name} of class Lambda cannot be copied: expected a layer of "
                    "your own, decorated with keras.saving.register_keras_serializable, or calls "
                    f"of keras.ops. Received: Lambda of {layer.function!r:.100}"
                ) from error
        raise


def copy_of(model: keras.Model) -> keras.Model:
    """A copy of a Keras 3 model that shares nothing with it, not compiled.

    Raises:
        InputError: it has a Lambda, whose function Keras copies from no configuration.
    """
    # Recursive, else a layer of two models within the model would become two layers.
    with lambdas_named(model):
        copy = keras.models.clone_model(model, recursive=True)
    copy.set_weights(model.get_weights())
    settle_normalizations(copy)
    return copy
