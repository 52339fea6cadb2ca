"""The twin of a model, its weights there and back, and what of them is compressed."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from keras_squeezenet.compression.with_training.bridge.lines import ALONG_LINES
from keras_squeezenet.compression.with_training.bridge.place import BridgeError, Twin
from keras_squeezenet.compression.with_training.bridge.shared_weights import (
    SharedWeights,
    sources_by_name,
)
from keras_squeezenet.compression.with_training.bridge.walk import Walk, checked_graph
from keras_squeezenet.network.graph import maker_of

if TYPE_CHECKING:  # imported on use
    import tf_keras


def to_tf_keras(model: keras.Model, *, for_8_bits: bool = False) -> "tf_keras.Model":
    """The flat tf_keras twin of a Keras 3 model, with its weights and equal outputs.

    The twin computes in float32 whatever the model's policy. Its convolutions and dense layers
    learn, whatever `trainable` says, because that is what a twin is made for; a batch
    normalization that is frozen, or called with `training=False`, stays as it is. Regularizers,
    constraints and seeds stay behind.

    Args:
        model: a functional or Sequential `keras.Model` of this package's layers, those of
            keras.applications and ordinary ones (`same_layers.CARRIED`,
            `composed_layers.COMPOSED`, `arithmetic.AFFINES`, `lines.ALONG_LINES`), calls of
            keras.ops (`operations.table`), and models within it. Data format "channels_last".
        for_8_bits: whether tfmot's 8-bit scheme will take the twin. A batch normalization, which it
            has folded into a convolution only, then follows one: NAME_channels multiplies with 1
            where there is none.

    Returns:
        A `tf_keras.Model`. `Fire` fire2 is there as fire2_squeeze1x1, fire2_expand1x1, …, and a
        SeparableConv2D as NAME_depthwise and NAME_pointwise. Other layers keep their names; one of
        a model within the model takes that model's name before its own where the name is taken. An
        activation that tf_keras does not have is NAME_ACTIVATION and what that is made of. Fixed
        arithmetic (`ImagePreprocessing`, Rescaling, Normalization, constants) is a 1×1
        convolution that does not learn. A Conv2D with a group for each channel is a
        DepthwiseConv2D, and a `GroupedConv2D` the convolutions NAME_group0, NAME_group1, ….
        Conv1D and its kin are Conv2D and its kin of images of height 1, with the layers NAME_image,
        NAME_line and NAME_margin around them.

    Raises:
        BridgeError: names a layer that cannot be carried, and its class.
    """
    import tf_keras

    graph = checked_graph(model)
    names = _names(graph)
    has_lines = any(type(operation) in ALONG_LINES for operation in names)

    def built(apart: frozenset[str]) -> "tf_keras.Model":
        inputs = [
            tf_keras.Input(
                tensor.shape[1:],
                batch_size=tensor.shape[0],
                name=maker_of(tensor).name,
                dtype="float32",
            )
            for tensor in graph.inputs
        ]
        taken = frozenset(names.values()) | {tensor.name for tensor in inputs}
        made = Twin(tf_keras.layers, for_8_bits, apart, has_lines, taken)
        outputs = Walk(made, names).through(graph, inputs)
        packed = keras.tree.pack_sequence_as(graph.input, inputs)
        return tf_keras.Model(packed, outputs, name=model.name)

    twin = built(frozenset())
    # Who else takes what a convolution gives is known when all is built.
    if for_8_bits and (apart := _with_company(twin)):
        twin = built(apart)
    for name, source in sources_by_name(names).items():
        twin.get_layer(name).set_weights(source.arrays())
    return twin


def _with_company(twin: "tf_keras.Model") -> frozenset[str]:
    """Normalizations of what something else takes, too: tfmot folds those that are alone."""
    layers_of_twin, found = set(twin.layers), set()
    for layer in twin.layers:
        if type(layer).__name__ != "BatchNormalization":
            continue
        nodes = [node for node in layer.inbound_nodes if _leads_to(node, layers_of_twin)]
        if len(nodes) > 1:
            raise BridgeError(
                f"Layer {layer.name} of class BatchNormalization cannot be trained in 8 bits: "
                f"expected a normalization that is called once. Received: {len(nodes)} calls"
            )
        before = nodes[0].parent_nodes[0].layer
        takers = [node for node in before.outbound_nodes if node.layer in layers_of_twin]
        if len(takers) > 1:
            found.add(layer.name)
    return frozenset(found)


def _leads_to(node: Any, layers_of_twin: set[Any]) -> bool:
    return all(parent.layer in layers_of_twin for parent in node.parent_nodes)


def copy_weights_back(twin: "tf_keras.Model", model: keras.Model) -> None:
    """Give a Keras 3 model the weights of its twin, layer by layer, by name.

    Args:
        twin: what `to_tf_keras(model)` gave, or a `tf_keras.Model` with layers of the same names.
        model: the Keras 3 model, changed in place.

    Raises:
        BridgeError: a layer is missing in the twin or has other shapes there. Nothing is changed.
    """
    taken = [(source, _weights_in(twin, name, source)) for name, source in sources(model).items()]
    for source, weights in taken:
        # tfmot's masks make -0.0 of negative weights; adding 0 makes them 0.0.
        source.assign([weight + np.float32(0) for weight in weights])


def sources(model: keras.Model) -> dict[str, SharedWeights]:
    """The variables of a Keras 3 model that its twin shares, by the names of the twin's layers.

    They come in the order of execution, as in `Architecture.kernel_shapes`.

    Raises:
        BridgeError: `model` is no graph of layers.
    """
    return sources_by_name(_names(checked_graph(model)))


def kernels(model: keras.Model) -> dict[str, NDArray[np.float32]]:
    """The kernels of a Keras 3 model by their layers' names in the twin: float32 arrays.

    The pointwise kernel of a SeparableConv2D is among them. A kernel along a line is that of an
    image of height 1, `[1, length, channels, filters]`. Those of depthwise convolutions are
    not: they are few, and tfmot neither prunes nor clusters them.

    Raises:
        BridgeError: `model` is no graph of layers.
    """
    return {
        name: source.arrays()[0] for name, source in sources(model).items() if source.has_kernel
    }


def kernels_of_layers(model: keras.Model) -> dict[str, list[str]]:
    """The names that `kernels` has for those of each layer of a model.

    They are several of a `Fire` and of a `GroupedConv2D`, and none of a layer without kernel.
    """
    return {
        own_name: [
            name for name, s in sources_by_name({operation: own_name}).items() if s.has_kernel
        ]
        for operation, own_name in _names(checked_graph(model)).items()
    }


def _names(graph: keras.Model) -> dict[keras.Operation, str]:
    """The name in the twin of every operation, those of models within the model included."""
    names: dict[keras.Operation, str] = {}
    taken: set[str] = set()

    def visit(graph: keras.Model, owners: Sequence[str]) -> None:
        for operation in graph.operations:
            inner_input = owners and isinstance(operation, layers.InputLayer)
            if isinstance(operation, keras.Model):
                visit(checked_graph(operation), [*owners, operation.name])
            elif operation not in names and not inner_input:
                names[operation] = next(
                    name for name in _candidates(operation.name, owners) if name not in taken
                )
                taken.add(names[operation])

    visit(graph, [])
    return names


def _candidates(name: str, owners: Sequence[str]) -> Iterator[str]:
    """Its own name, then with those of the models around it, the nearest first; then numbers."""
    yield name
    for owner in reversed(owners):
        name = f"{owner}_{name}"
        yield name
    number = 2
    while True:
        yield f"{name}_{number}"
        number += 1


def _weights_in(twin: "tf_keras.Model", name: str, source: SharedWeights) -> list[np.ndarray]:
    try:
        weights = twin.get_layer(name).get_weights()
    except ValueError as error:
        raise BridgeError(f"The twin must have a layer {name}. Received: none") from error
    expected = list(source.shapes)
    received = [weight.shape for weight in weights]
    if received != expected:
        raise BridgeError(
            f"Layer {name} of the twin must have weights of shapes {expected}. Received: {received}"
        )
    return weights
