"""The way through a Keras 3 graph with tensors of the twin, which makes the twin's layers."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import keras

from keras_squeezenet.compression.layer_classes import AUGMENTATION
from keras_squeezenet.compression.with_training.bridge import lines, operations
from keras_squeezenet.compression.with_training.bridge.arithmetic import AFFINES, affine
from keras_squeezenet.compression.with_training.bridge.composed_layers import (
    COMPOSED,
    depthwise,
)
from keras_squeezenet.compression.with_training.bridge.place import BridgeError, Place, Twin
from keras_squeezenet.compression.with_training.bridge.same_layers import CARRIED, same
from keras_squeezenet.network.graph import follow, graph_of


def checked_graph(model: keras.Model) -> keras.Model:
    try:
        return graph_of(model)
    except ValueError as error:
        raise BridgeError(str(error)) from error


def _is_known(layer: keras.Layer) -> bool:
    tables = (lines.ALONG_LINES, COMPOSED, AFFINES, CARRIED)
    return isinstance(layer, keras.Model) or any(type(layer) in table for table in tables)


class Walk:
    """Follows a graph and builds.

    Args:
        twin: what the layers are added to.
        names: of every operation of the model and of the models in it.
    """

    def __init__(self, twin: Twin, names: Mapping[keras.Operation, str]) -> None:
        self._twin = twin
        self._names = names

    def through(self, graph: keras.Model, inputs: Any, inference: bool = False) -> Any:
        """The twin's outputs; `inference`: everything in `graph` is called with training=False."""
        return follow(graph, inputs, partial(self._call, inference))

    def _call(
        self,
        inference: bool,
        operation: keras.Operation,
        *args: Any,
        training: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        inference = inference or training is False
        name = self._names.get(operation, operation.name)
        place = Place(self._twin, operation, name, inference)
        # Keras records a mask of every input, None in the structure of the inputs.
        kwargs = {
            key: value
            for key, value in kwargs.items()
            if any(leaf is not None for leaf in keras.tree.flatten(value))
        }
        carry = operations.table().get(type(operation))
        if carry is not None:
            try:
                return carry(place, *args, **kwargs)
            except TypeError as error:
                raise place.refusal("its arguments in their order", error) from error
        if type(operation) in AUGMENTATION and len(args) == 1:
            return args[0]  # without weights, and none of inference's
        if isinstance(operation, keras.Layer) and not _is_known(operation):
            raise place.refusal("a layer that the bridge knows", type(operation).__name__)
        if len(args) != 1 or kwargs or training is True:
            raise place.refusal(
                "a call with its inputs, and training=False at most",
                f"{len(args)} arguments, {', '.join(kwargs) or f'training={training}'}",
            )
        if getattr(operation, "data_format", "channels_last") != "channels_last":
            raise place.refusal("data_format=channels_last", operation.data_format)
        if isinstance(operation, keras.Model):
            return self.through(checked_graph(operation), args[0], inference)
        return self._layer(place, args[0])

    def _layer(self, place: Place, inputs: Any) -> Any:
        layer = place.operation
        if type(layer) in lines.ALONG_LINES:
            return lines.ALONG_LINES[type(layer)](place, inputs)
        if lines.are_alike(place, inputs):
            return lines.on_images(place, inputs, self._layer)
        if lines.is_depthwise(layer):
            return depthwise(place, inputs)
        if type(layer) in COMPOSED:
            return COMPOSED[type(layer)](place, inputs)
        if type(layer) in AFFINES:
            return affine(place, inputs)
        if type(layer) in CARRIED:
            return same(place, inputs)
        raise place.refusal(f"of keras.ops one of {operations.names()}", type(layer).__name__)
