"""A trained classifier with a new last layer: the same features, other classes. Keras only."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_squeezenet.checks import is_integer
from keras_squeezenet.network.graph import graph_of, inputs_of, maker_of, settle_normalizations
from keras_squeezenet.network.layers import Activation, Initializer, fresh_initializer

# As the head that is replaced has it. No activation of Keras is called so.
SAME = "same"

_POOLINGS = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D)
_ACTIVATIONS = (keras.layers.Activation, keras.layers.Softmax)


def with_new_head(
    model: keras.Model,
    classes: int | None,
    *,
    classifier_activation: Activation = SAME,
    last_activation: Activation = SAME,
    dropout_rate: float | None = None,
    kernel_initializer: Initializer | None = None,
    name: str | None = None,
) -> keras.Model:
    """A new model with the trained layers of a classifier and a last layer for other classes.

    The classifier is a SqueezeNet, a network of `keras.applications`, or any functional or
    Sequential model of one image input whose output `(batch, classes)` comes from a `Dense` layer
    or a convolution, with nothing but layers without weights after it: global pooling, dropout,
    flattening, reshaping, an activation. That layer is new; everything before it is copied, weights
    included, and everything after it is made again for the new number of classes. Layers keep their
    names, their precision (dtype policy) and whether they are trainable, preprocessing within the
    model among them; the new layer is trainable. Zero padding that a convolution of ours had before
    it, a quirk of the published weights of 1.0, is left out as in `SqueezeNet(classes=…)`.

    The two models share nothing: training one leaves the other as it is. The new one is not
    compiled. Names of classes are kept beside a model or in a file that is made of it
    (`class_names` of `save_compressed` and `export_litert`), never in it.

    Args:
        model: the classifier, built. It stays as it was.
        classes: number of classes; None or 0 for none, the model then gives the features
            `(batch, features)` that the last layer took, as timm's `reset_classifier(0)`: feature
            maps are averaged over their positions.
        classifier_activation: of the output: "softmax", "sigmoid" for labels that do not exclude
            each other, None for logits; or "same", as `model` has it.
        last_activation: of the new layer itself, where pooling or an activation comes after it: a
            SqueezeNet's "relu", see `SqueezeNet`. None leaves it out, and no class gets lost behind
            it. "same": as `model` has it.
        dropout_rate: of the dropout nearest before the last layer. None: as `model` has it.
        kernel_initializer: of the new layer. None: the initializer that the replaced layer was made
            with.
        name: of the new model. Default: `model.name`.

    Returns:
        A functional `keras.Model` with the input of `model` and the output `(batch, classes)`, or
        `(batch, features)`.

    Raises:
        ValueError: the model ends otherwise, or an argument does not fit it. The text is one line.

    Example:

    >>> model = SqueezeNet(weights=None, input_shape=(64, 64, 3))
    >>> with_new_head(model, 7, last_activation=None).output_shape
    (None, 7)
    >>> with_new_head(model, None).output_shape
    (None, 512)
    """
    _check_classes(classes)
    classes = int(classes or 0)
    asked: dict[str, Any] = {
        "classifier_activation": classifier_activation,
        "last_activation": last_activation,
        "kernel_initializer": kernel_initializer,
    }
    head, tensor, tail = head_of(model)
    (taken,) = inputs_of(tensor)
    below = keras.Model(graph_of(model).input, _without_padding_of_ours(taken, head))
    if isinstance(head, keras.Model):
        features = _copy(below, None)
        output = with_new_head(head, classes, dropout_rate=dropout_rate, **asked)(features.output)
    else:
        features = _copy(below, dropout_rate)
        if classes:
            output = _classify(features.output, head, tail, classes, **asked)
        else:
            _check_unused(asked)
            output = _averaged(features.output, head)
    return keras.Model(features.input, output, name=name or model.name)


def _check_classes(classes: object) -> None:
    if classes is not None and not is_integer(classes, least=0):
        raise ValueError(
            "`classes` must be a number of classes, or None or 0 for features. "
            f"Received: classes={classes}"
        )


def head_of(
    model: keras.Model,
) -> tuple[keras.layers.Layer, keras.KerasTensor, list[keras.layers.Layer]]:
    """The last layer of a classifier that has weights, and what comes after it.

    Args:
        model: as `with_new_head` takes it.

    Returns:
        (layer, its output's tensor, the layers after it in order). The layer is a model where that
        gives the output `(batch, classes)` itself.

    Raises:
        ValueError: the model ends otherwise.
    """
    graph = graph_of(model)
    outputs = [tuple(output.shape) for output in graph.outputs]
    if len(outputs) != 1 or len(outputs[0]) != 2 or outputs[0][1] is None:
        raise ValueError(
            f"`model` must have one output (batch, classes). Received: {model.name} with outputs "
            f"{', '.join(map(str, outputs))}"
        )
    (tensor,) = graph.outputs
    tail: list[keras.layers.Layer] = []
    while not getattr(maker_of(tensor), "weights", None):
        layer, taken = maker_of(tensor), inputs_of(tensor)
        if not isinstance(layer, keras.Layer) or len(taken) != 1:
            raise _no_head(model, layer)
        tail.insert(0, layer)
        (tensor,) = taken
    head = maker_of(tensor)
    if isinstance(head, keras.Model) and not tail:
        return head, tensor, tail
    if _filters_of(head) != outputs[0][1] or getattr(head, "quantization_mode", None):
        raise _no_head(model, head)
    return head, tensor, tail


def _no_head(model: keras.Model, layer: keras.Operation) -> ValueError:
    return ValueError(
        "`model` must end in a Dense layer or a convolution with a filter per class, and layers of "
        f"one input without weights after it. Received: {model.name}, where {layer.name}, a "
        f"{type(layer).__name__}, comes first from the end that is neither"
    )


def _filters_of(layer: keras.layers.Layer) -> int | None:
    return getattr(layer, "units" if isinstance(layer, keras.layers.Dense) else "filters", None)


def _without_padding_of_ours(
    tensor: keras.KerasTensor, head: keras.layers.Layer
) -> keras.KerasTensor:
    """What `pad10` takes, where a tensor is its output and conv10 the head."""
    layer = maker_of(tensor)
    ours = isinstance(layer, keras.layers.ZeroPadding2D)
    if ours and layer.name == head.name.replace("conv", "pad", 1):
        (tensor,) = inputs_of(tensor)
    return tensor


def _copy(model: keras.Model, dropout_rate: float | None) -> keras.Model:
    """A functional model with layers and weights of its own, and perhaps another last dropout."""
    dropout = None if dropout_rate is None else _last_dropout(model)
    copies = {}

    def copied(layer: keras.Operation) -> keras.Operation:
        # Other operations of Keras have neither weights nor settings that change.
        if not isinstance(layer, keras.Layer):
            return layer
        if id(layer) not in copies:  # a shared layer stays one
            config = layer.get_config()
            if layer is dropout:
                config["rate"] = dropout_rate
            copies[id(layer)] = type(layer).from_config(config)
        return copies[id(layer)]

    inputs = keras.tree.map_structure(
        lambda tensor: keras.Input(
            batch_shape=tensor.shape, dtype=tensor.dtype, name=maker_of(tensor).name
        ),
        model.input,
    )
    copy = keras.models.clone_model(model, inputs, copied)
    copy.set_weights(model.get_weights())
    settle_normalizations(copy)
    return copy


def _last_dropout(model: keras.Model) -> keras.layers.Dropout:
    tensor = model.output
    while not isinstance(maker_of(tensor), keras.layers.Dropout):
        taken = inputs_of(tensor)
        if getattr(maker_of(tensor), "weights", None) or len(taken) != 1:
            raise ValueError(
                "`dropout_rate` is of a Dropout layer right before the last layer with weights. "
                "Received: a model without one"
            )
        (tensor,) = taken
    return maker_of(tensor)


def _check_unused(asked: Mapping[str, object]) -> None:
    unused = {"classifier_activation": SAME, "last_activation": SAME, "kernel_initializer": None}
    for name, value in asked.items():
        if value != unused[name]:
            raise ValueError(
                f"`{name}` is of a new last layer. Received: {name}={value}, no classes"
            )


def _averaged(features: keras.KerasTensor, head: keras.layers.Layer) -> keras.KerasTensor:
    """Features as a vector: of a feature map the mean over its positions."""
    if len(features.shape) == 2:
        return features
    if len(features.shape) != 4:
        raise ValueError(
            "`classes` None needs a last layer that takes (batch, features) or a feature map. "
            f"Received: {head.name}, which takes {tuple(features.shape)}"
        )
    return keras.layers.GlobalAveragePooling2D(
        data_format=getattr(head, "data_format", None), dtype=head.dtype_policy, name="avg_pool"
    )(features)


def _classify(
    x: keras.KerasTensor,
    head: keras.layers.Layer,
    tail: Sequence[keras.layers.Layer],
    classes: int,
    *,
    classifier_activation: Activation,
    last_activation: Activation,
    kernel_initializer: Initializer | None,
) -> keras.KerasTensor:
    """The head and the layers after it, made anew for so many classes."""
    activations = [layer for layer in tail if isinstance(layer, _ACTIVATIONS)]
    is_pooled = any(isinstance(layer, _POOLINGS) for layer in tail)
    if not activations and not is_pooled:  # the head's own activation is that of the output
        if last_activation != SAME:
            raise ValueError(
                "`last_activation` is of a last layer whose output is pooled, or activated once "
                f"more. Received: last_activation={last_activation}, with {head.name} the output"
            )
        last_activation = classifier_activation
    x = _new_head(head, classes, last_activation, kernel_initializer)(x)
    for layer in tail:
        activation = classifier_activation if activations and layer is activations[-1] else SAME
        x = _made_anew(layer, _filters_of(head), classes, activation)(x)
    if is_pooled and not activations and classifier_activation != SAME:
        # float32 whatever the policy: a softmax in half precision loses small probabilities.
        x = keras.layers.Activation(classifier_activation, dtype="float32", name="predictions")(x)
    return x


def _new_head(
    head: keras.layers.Layer,
    classes: int,
    activation: Activation,
    kernel_initializer: Initializer | None,
) -> keras.layers.Layer:
    count = "units" if isinstance(head, keras.layers.Dense) else "filters"
    config = {**head.get_config(), count: classes, "trainable": True}
    if activation != SAME:
        config["activation"] = activation
    if kernel_initializer is not None:
        config["kernel_initializer"] = fresh_initializer(kernel_initializer)
    return type(head).from_config(config)


def _made_anew(
    layer: keras.layers.Layer, old_classes: int | None, classes: int, activation: Activation
) -> keras.layers.Layer:
    if activation != SAME:
        return keras.layers.Activation(activation, dtype=layer.dtype_policy, name=layer.name)
    config = layer.get_config()
    if isinstance(layer, keras.layers.Reshape):
        config["target_shape"] = tuple(
            classes if side == old_classes else side for side in layer.target_shape
        )
    return type(layer).from_config(config)
