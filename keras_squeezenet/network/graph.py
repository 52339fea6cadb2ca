"""The one door to what Keras keeps to itself, and to all layers and kernels of a model.

Keras has no public way to follow a graph with tensors of one's own, to ask what a layer takes, or
to read the averages that an optimizer keeps. What the package needs of that is here and nowhere
else, a function for each need: a version of Keras that changes it breaks this file alone.
"""

import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import keras

from keras_squeezenet.network.layers import Fire


def every_layer(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """The layers of a model and of the models in it."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from every_layer(layer)
        else:
            yield layer


def settle_normalizations(model: keras.Model) -> None:
    """Have a model's `Normalization` layers compute with their weights, which were just set.

    They compute with constants that Keras makes of the weights when it adapts a layer or loads a
    file, and not in `set_weights`.
    """
    for layer in every_layer(model):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def layers_within(outer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers directly in a model, a wrapper or another layer; those within them are not."""
    if isinstance(outer, keras.Model):
        return outer.layers
    return list(outer._flatten_layers(include_self=False, recursive=False))


def last_layer(model: keras.Model) -> keras.layers.Layer:
    """The last layer with weights of a model whose layers are its direct ones."""
    return [layer for layer in model.layers if layer.weights][-1]


def named_convolutions(
    layers: Iterable[keras.layers.Layer],
) -> Iterator[tuple[str, keras.layers.Conv2D]]:
    """Each convolution of layers and of the Fires among them, after its name.

    The names are those of `Architecture.kernel_shapes`: conv1, fire2_squeeze1x1, ….
    """
    for layer in layers:
        if isinstance(layer, Fire):
            yield from ((f"{layer.name}_{part.name}", part) for part in layer.convolutions)
        elif isinstance(layer, keras.layers.Conv2D):
            yield layer.name, layer


def convolutions_of(layers: Iterable[keras.layers.Layer]) -> dict[str, keras.layers.Conv2D]:
    """Layers' convolutions by the names of `Architecture.kernel_shapes`."""
    return dict(named_convolutions(layers))


def graph_of(model: keras.Model) -> keras.Model:
    """What calling a functional or Sequential model runs through.

    Raises:
        ValueError: the model is of another kind, or a Sequential that does not know its input.
    """
    if not has_graph(model):
        raise ValueError(
            "`model` must be a functional or Sequential keras.Model whose inputs are known: start "
            f"a Sequential with keras.Input. Received: model={model!r} of type {type(model)}"
        )
    return _graph_or_model(model)


def has_graph(model: Any) -> bool:
    """Whether something is a functional model, or a Sequential whose input is known."""
    return hasattr(_graph_or_model(model), "_run_through_graph")


def _graph_or_model(model: Any) -> Any:
    # A Sequential keeps its functional twin here, None until its input is known.
    return getattr(model, "_functional", model)


def follow(graph: keras.Model, inputs: Any, call: Callable) -> Any:
    """Follow a graph with tensors of one's own, of another shape or another library.

    It is what calling a functional model is made of. The model stays as it was.

    Args:
        graph: as `graph_of` gives it.
        inputs: in place of the model's own, in their structure.
        call: called as `call(operation, *args, **kwargs)` in place of each operation of the graph,
            a model within the model among them; it gives the operation's outputs.

    Returns:
        The outputs of the graph, in the structure of the model's.
    """
    return graph._run_through_graph(inputs, operation_fn=lambda operation: partial(call, operation))


@contextmanager
def graph_inside(
    layer: keras.layers.Layer, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Iterator[keras.Model]:
    """The graph of what a layer's `call` does, as long as the block runs.

    `call` is run with symbolic tensors, as in a functional model: its layers and its operations of
    `keras.ops` make the graph. Layers inside are left as they were.

    Args:
        layer: one that is built.
        args, kwargs: what it is called with. Symbolic tensors among them become the graph's inputs,
            in their order, each once.

    Raises:
        Exception: `call` does something else with its inputs than Keras's layers and operations.
    """
    given = (list(args), dict(kwargs))
    outer = [each for each in keras.tree.flatten(given) if _is_symbolic(each)]
    inner = {id(each): keras.Input(batch_shape=each.shape, dtype=each.dtype) for each in outer}
    positional, named = keras.tree.map_structure(lambda each: inner.get(id(each), each), given)
    if layer._call_has_training_arg:
        named["training"] = False
    parts = list(layer._flatten_layers(include_self=False))
    nodes = [(part._inbound_nodes, len(part._inbound_nodes)) for part in parts]
    nodes += [(part._outbound_nodes, len(part._outbound_nodes)) for part in parts]
    try:
        yield keras.Model(list(inner.values()), layer.call(*positional, **named))
    finally:
        for known, count in nodes:
            del known[count:]


def _is_symbolic(value: Any) -> bool:
    return isinstance(value, keras.KerasTensor)


def maker_of(tensor: keras.KerasTensor) -> keras.Operation:
    """The operation, such as a layer, whose output a symbolic tensor is."""
    return tensor._keras_history.operation


def inputs_of(tensor: keras.KerasTensor) -> list:
    """The symbolic tensors from which the layer that made a symbolic tensor made it."""
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index].input_tensors


def ends_in_softmax(model: keras.Model) -> bool:
    """Whether a model's only output is one of probabilities, not of logits."""
    output = model.outputs[0]
    while True:
        layer = maker_of(output)
        if isinstance(layer, keras.Model):
            output = graph_of(layer).outputs[0]
        elif _keeps_scores(layer):
            (output,) = inputs_of(output)
        else:
            break
    # What a call of keras.ops.softmax becomes has no public name.
    of_ops = class_beside(keras.ops.softmax, "Softmax")
    if isinstance(layer, keras.layers.Softmax) or (of_ops and isinstance(layer, of_ops)):
        return True
    return getattr(layer, "activation", None) in (keras.activations.softmax, keras.ops.softmax)


def _keeps_scores(layer: keras.Operation) -> bool:
    """Whether what comes out are the numbers that went in, in another shape or precision."""
    if isinstance(layer, keras.layers.Activation):
        return layer.activation is keras.activations.linear
    kinds = (keras.layers.Identity, keras.layers.Reshape, keras.layers.Flatten)
    cast = class_beside(keras.ops.cast, "Cast")
    return isinstance(layer, kinds if cast is None else (*kinds, cast))


def first_inputs_of(layer: keras.layers.Layer) -> list:
    """The symbolic tensors that a layer takes where it was called first."""
    return layer._inbound_nodes[0].input_tensors


def is_called_once(layer: keras.layers.Layer) -> bool:
    """Whether a layer has one output in all graphs that it is in; a shared one has several."""
    return len(layer._inbound_nodes) == 1


def outputs_of(operation: keras.Operation) -> list:
    """The symbolic tensors that an operation gave where it was called first."""
    return operation._inbound_nodes[0].output_tensors


def takes(layer: keras.layers.Layer, tensor: keras.KerasTensor) -> bool:
    """Whether a layer takes a symbolic tensor in one of its calls."""
    return any(tensor is taken for node in layer._inbound_nodes for taken in node.input_tensors)


def infer(layer: keras.layers.Layer, *inputs: Any, options: Mapping[str, Any] | None = None) -> Any:
    """A layer's outputs as in inference; only some layers take an argument `training`.

    Args:
        layer: to be called.
        inputs: what it takes by position.
        options: what it takes by name.
    """
    training = {"training": False} if layer._call_has_training_arg else {}
    return layer(*inputs, **{**(options or {}), **training})


def moving_averages(optimizer: keras.optimizers.Optimizer) -> list:
    """The averages that an optimizer of `use_ema=True` keeps, in the order of its variables."""
    return optimizer._model_variables_moving_average


def moving_average_of(
    optimizer: keras.optimizers.Optimizer, variable: keras.Variable
) -> keras.Variable | None:
    """The average of a variable that an optimizer of `use_ema=True` keeps, if it has the variable.

    Args:
        optimizer: a plain one; see `plain_optimizers`.
        variable: one of a model's.
    """
    if not getattr(optimizer, "use_ema", False) or not optimizer.built:
        return None
    position = optimizer._trainable_variables_indices.get(optimizer._var_key(variable))
    return None if position is None else moving_averages(optimizer)[position]


def plain_optimizers(optimizer: Any) -> list[keras.optimizers.Optimizer]:
    """The optimizers that move variables: out of loss scaling, each of several; of None none."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    several = getattr(inner, "optimizers", [inner])
    return [each for each in several if each is not None]


def variable_key(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> Hashable:
    """What an optimizer knows a variable by, Keras's own and the backend's in it alike."""
    return optimizer._var_key(variable)


def weight_decay_of(optimizer: keras.optimizers.Optimizer) -> Callable:
    """The function of a list of variables by which an optimizer lets them decay."""
    return optimizer._apply_weight_decay


def set_weight_decay(optimizer: keras.optimizers.Optimizer, decay: Callable) -> None:
    """Have an optimizer call `decay` with its list of variables in place of its own function."""
    optimizer._apply_weight_decay = decay


def class_beside(function: Callable, name: str) -> type | None:
    """A class that Keras keeps to itself, from the module of one of its public functions.

    Such are the layers of some networks of keras.applications, and what a call of keras.ops on
    symbolic tensors becomes in a model's graph.

    Args:
        function: public, of Keras.
        name: of the class.

    Returns:
        The class; None where this version of Keras has none of that name there.
    """
    return getattr(sys.modules[function.__module__], name, None)
