"""The training of learned group convolutions, and the network that is left for inference.

Huang et al., arXiv 1711.09224, sections 3.1 and 4.1.
"""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_squeezenet.checks import is_number
from keras_squeezenet.network.data_formats import Tensor
from keras_squeezenet.network.families.blocks import shuffled
from keras_squeezenet.network.families.layers import ChannelSelection, GroupedConv2D
from keras_squeezenet.network.families.learned_groups import LearnedGroupConv2D
from keras_squeezenet.network.graph import every_layer, follow, graph_of, settle_normalizations


class CondensingStages(keras.callbacks.Callback):
    """Have the learned group convolutions of a model condense while `fit` trains it.

    Of a training the first half is condensing, in C - 1 stages of one length, and the rest is
    optimization of what is left (section 3.1). Each layer has its own C. The loss rises where a
    stage ends, most of all at the last one, and recovers.

    What is left is in the model's weights. A run that goes on with a saved model at `initial_epoch`
    and the same number of epochs goes on with the stage it was in.

    Args:
        share: of the training's steps, after which the last stage has ended; above 0, 1 at most.

    Raises:
        ValueError: for another share; in `fit`, for data without a length where `steps_per_epoch`
            is not given, and for a model without a `LearnedGroupConv2D`.

    Example, of a training that would be longer:

    >>> model = CondenseNet(
    ...     blocks=(2, 2), strides=1, input_shape=(16, 16, 3), classes=10,
    ...     classifier_condensation_factor=1,
    ... )
    >>> model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    >>> images, labels = np.random.rand(32, 16, 16, 3), np.arange(32) % 10
    >>> stages = [CondensingStages()]
    >>> _ = model.fit(images, labels, batch_size=4, epochs=1, verbose=0, callbacks=stages)
    >>> small = condensed_model(model)
    >>> bool(np.allclose(small(images), model(images), atol=1e-5))
    True
    """

    def __init__(self, share: float = 0.5) -> None:
        super().__init__()
        if not is_number(share) or not 0 < share <= 1:
            raise ValueError(
                f"`share` must be a number above 0 and up to 1. Received: share={share}"
            )
        self.share = share
        self._epoch = 0

    def on_train_begin(self, logs: Any = None) -> None:
        if self.params.get("steps") is None:
            raise ValueError(
                "Condensing needs `steps_per_epoch` of fit where the data has no length, because "
                "its stages are shares of a whole training. Received: steps_per_epoch=None"
            )
        if not any(_learned(self.model)):
            raise ValueError(
                "`model` must have a layer LearnedGroupConv2D, as those of CondenseNet have. "
                f"Received: {self.model.name} without one"
            )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        model = self.model  # this also gives the variables of a model that JAX trains their values
        done = self._epoch * self.params["steps"] + batch
        progress = done / (self.params["epochs"] * self.params["steps"] * self.share)
        for layer in _learned(model):
            last = layer.condensation_factor - 1
            layer.condense(min(int(progress * last), last))


def condensed_model(model: keras.Model) -> keras.Model:
    """The network that computes the same as a trained one, without the inputs it no longer has.

    Each learned group convolution becomes a `ChannelSelection`, which is the paper's index layer,
    a standard grouped convolution and a channel shuffle (figure 1, right). The other layers are
    copied with their weights.

    Args:
        model: functional or Sequential, whose condensing stages have all ended.

    Returns:
        A functional `keras.Model` of the same inputs and outputs, equal but for rounding.

    Raises:
        ValueError: a stage is still to come; the text names the layer.

    Example: see `CondensingStages`.
    """
    graph = graph_of(model)
    inputs = [
        keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name)
        for tensor in graph.inputs
    ]
    made: dict[keras.Operation, Any] = {}

    def call(operation: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        if isinstance(operation, LearnedGroupConv2D):
            if operation not in made:
                made[operation] = _Condensed(operation)
            return made[operation](*args)
        if operation not in made:
            made[operation] = _copy(operation)
        return made[operation](*args, **kwargs)

    packed = keras.tree.pack_sequence_as(graph.input, inputs)
    condensed = keras.Model(packed, follow(graph, packed, call), name=model.name)
    for operation, twin in made.items():
        if isinstance(twin, keras.Layer) and not isinstance(twin, keras.Model):
            twin.set_weights(operation.get_weights())
    settle_normalizations(condensed)
    return condensed


def _copy(operation: keras.Operation) -> keras.Operation:
    if isinstance(operation, keras.Model):
        return condensed_model(operation)
    return type(operation).from_config(operation.get_config())


def _learned(model: keras.Model) -> Iterator[LearnedGroupConv2D]:
    return (layer for layer in every_layer(model) if isinstance(layer, LearnedGroupConv2D))


class _Condensed:
    """The standard layers of one learned group convolution."""

    def __init__(self, layer: LearnedGroupConv2D) -> None:
        wanted = layer.condensation_factor - 1
        if layer.stages_ended < wanted:
            raise ValueError(
                f"`model` must have all its condensing stages behind it, see `CondensingStages`. "
                f"Received: layer {layer.name} (LearnedGroupConv2D) after {layer.stages_ended} of "
                f"{wanted}"
            )
        self.layer = layer
        self.inputs = layer.kept_inputs()
        common = {"data_format": layer.data_format, "dtype": layer.dtype_policy}
        self.selection = ChannelSelection(
            self.inputs.ravel().tolist(), name=f"{layer.name}_index", **common
        )
        kind = layers.Conv2D if layer.groups == 1 else GroupedConv2D
        self.convolution = kind(
            layer.filters,
            1,
            groups=layer.groups,
            use_bias=layer.use_bias,
            name=layer.name,
            **common,
        )

    def __call__(self, x: Tensor) -> Tensor:
        x = self.convolution(self.selection(x))
        self._set_weights()
        return x if self.layer.groups == 1 else self._permuted(x)

    def _permuted(self, x: Tensor) -> Tensor:
        name, groups = f"{self.layer.name}_permute", self.layer.groups
        if None not in x.shape[1:]:
            return shuffled(x, name, groups, self.layer.data_format)
        order = np.arange(self.layer.filters).reshape(groups, -1).T.ravel()
        return ChannelSelection(order.tolist(), name=name, data_format=self.layer.data_format)(x)

    def _set_weights(self) -> None:
        kernel = self.layer.grouped_kernel()
        parts = [kernel[kept, :, group] for group, kept in enumerate(self.inputs)]
        weights = [np.concatenate(parts, axis=-1)[None, None]]
        if self.layer.use_bias:
            bias = keras.ops.convert_to_numpy(self.layer.bias)
            weights.append(bias.reshape(-1, self.layer.groups).T.ravel())
        self.convolution.set_weights(weights)
