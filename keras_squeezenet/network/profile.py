"""What a model costs, layer by layer: parameters, multiply-adds and activation memory.

Everything is read off symbolic shapes; no image goes through the model and no memory is taken.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import keras
from keras import layers

from keras_squeezenet.network.data_formats import Shape
from keras_squeezenet.network.families.learned_groups import LearnedGroupConv2D
from keras_squeezenet.network.graph import follow, graph_of
from keras_squeezenet.network.layers import Fire

FLOAT32_BYTES = 4


@dataclass(frozen=True)
class LayerProfile:
    """One row: one layer, executed once, on one image.

    Attributes:
        name: the layer's name, after the names of the layers and models that hold it.
        kind: the layer's class.
        output_shape: without batch; a tuple of shapes where a layer has several outputs.
        parameters: the layer's own, trainable or not; 0 where a shared layer comes again.
        multiply_adds: see `profile_model`.
        input_bytes: the layer's inputs for one image as float32.
        activation_bytes: the layer's output for one image as float32.
    """

    name: str
    kind: str
    output_shape: tuple
    parameters: int
    multiply_adds: int
    input_bytes: int
    activation_bytes: int


@dataclass(frozen=True)
class ModelProfile:
    """The rows of a model in the order of execution. See `profile_model`."""

    name: str
    layers: tuple[LayerProfile, ...]

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all parameters as float32."""
        return FLOAT32_BYTES * self.parameters

    @property
    def multiply_adds(self) -> int:
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def activation_bytes(self) -> int:
        """Bytes of every row's output together: about what training keeps for one image."""
        return sum(layer.activation_bytes for layer in self.layers)

    @property
    def peak_activation_bytes(self) -> int:
        """The largest sum of inputs and output of one row: what inference needs at least.

        Rows run one after the other and none works in place. A tensor that waits for a later
        row, as the input of a bypass does, counts in the rows that read it only.
        """
        return max((layer.input_bytes + layer.activation_bytes for layer in self.layers), default=0)

    def to_dict(self) -> dict[str, Any]:
        """Totals and rows as plain numbers, strings, lists and dicts."""
        return {
            "name": self.name,
            "parameters": self.parameters,
            "weight_bytes": self.weight_bytes,
            "multiply_adds": self.multiply_adds,
            "activation_bytes": self.activation_bytes,
            "peak_activation_bytes": self.peak_activation_bytes,
            "layers": [
                {**asdict(layer), "output_shape": _as_lists(layer.output_shape)}
                for layer in self.layers
            ],
        }


AddRow = Callable[[LayerProfile], None]


def profile_model(
    model: keras.Model, input_shape: Shape | Sequence[Shape] | None = None
) -> ModelProfile:
    """Counts a model without running it.

    Multiply-adds are those of Conv2D, DepthwiseConv2D, SeparableConv2D, LearnedGroupConv2D (all of
    its inputs, as in training) and Dense, one per weight and output position, also where the weight
    meets padding. Every other layer counts 0: biases,
    activations, pooling, normalisation, additions. One multiply-add is 1; the authors'
    "1.72 GFLOPS/image" of SqueezeNet 1.0 counts it as 2, and conv10 with the padding of their
    Caffe network.

    A model within the model is expanded into its layers. So is a `Fire`: fire2/squeeze1x1,
    fire2/expand1x1, …, then fire2 for what joins them (concatenation and bypass addition).

    Args:
        model: a functional or Sequential `keras.Model` whose inputs are known.
        input_shape: of one image, without batch, where the model leaves sizes open; one such
            shape per input for a model of several.

    Returns:
        A `ModelProfile`.

    Raises:
        ValueError: for a model without a graph of layers, for a size that stays unknown, and for
            an `input_shape` that contradicts the model's.

    Example:

    >>> profile = profile_model(SqueezeNet(weights=None))
    >>> profile.parameters, profile.multiply_adds, profile.layers[0].name
    (1235496, 349151936, 'conv1')
    """
    graph = graph_of(model)
    rows: list[LayerProfile] = []
    _walk(graph, _symbolic_inputs(graph, input_shape), "", rows.append, set())
    return ModelProfile(model.name, tuple(rows))


def _symbolic_inputs(
    graph: keras.Model, input_shape: Shape | Sequence[Shape] | None
) -> list[keras.KerasTensor]:
    inputs = graph.inputs
    shapes: Sequence[Any]
    if input_shape is None:
        shapes = [tensor.shape[1:] for tensor in inputs]
    else:
        shapes = (input_shape,) if len(inputs) == 1 else tuple(input_shape)
    own_shapes = [tuple(tensor.shape[1:]) for tensor in inputs]
    if len(shapes) != len(inputs) or not all(map(_agree, shapes, own_shapes)):
        raise ValueError(
            f"`input_shape` must agree with the model's, {_one_or_all(own_shapes)}. "
            f"Received: input_shape={input_shape}"
        )
    if any(size is None for shape in shapes for size in shape):
        raise ValueError(
            f"`input_shape` must give the sizes that {_one_or_all(own_shapes)}, the model's own, "
            f"leaves open. Received: input_shape={input_shape}"
        )
    return [
        keras.KerasTensor((tensor.shape[0], *shape), dtype=tensor.dtype)
        for tensor, shape in zip(inputs, shapes, strict=True)
    ]


def _agree(shape: object, own_shape: Shape) -> bool:
    return (
        isinstance(shape, tuple | list)
        and len(shape) == len(own_shape)
        and all(own in (None, size) for size, own in zip(shape, own_shape, strict=True))
    )


def _one_or_all(shapes: Sequence[Shape]) -> Shape | Sequence[Shape]:
    return shapes[0] if len(shapes) == 1 else shapes


def _walk(
    graph: keras.Model,
    inputs: Sequence[keras.KerasTensor],
    prefix: str,
    add_row: AddRow,
    counted: set[int],
) -> Any:
    """Follows symbolic tensors through a graph, adds a row per layer, returns the outputs."""

    visit = partial(_visit, prefix=prefix, add_row=add_row, counted=counted)
    # Unlike calling the layers, this leaves the model as it was.
    return follow(graph, inputs, visit)


def _visit(
    operation: keras.Operation,
    *args: Any,
    prefix: str,
    add_row: AddRow,
    counted: set[int],
    **kwargs: Any,
) -> Any:
    inputs = _tensors((args, kwargs))
    name = prefix + operation.name
    if isinstance(operation, keras.Model):
        return _walk(graph_of(operation), inputs, f"{name}/", add_row, counted)
    if isinstance(operation, Fire):
        return _visit_fire(operation, inputs[0], name, add_row, counted)
    outputs = operation.compute_output_spec(*args, **kwargs)
    parameters = _count_once(operation, counted)
    add_row(_row(name, operation, inputs, _tensors(outputs), parameters))
    return outputs


def _visit_fire(
    fire: Fire, image: keras.KerasTensor, name: str, add_row: AddRow, counted: set[int]
) -> keras.KerasTensor:
    def convolve(convolution: layers.Conv2D, image: keras.KerasTensor) -> keras.KerasTensor:
        visit = partial(_visit, prefix=f"{name}/", add_row=add_row, counted=counted)
        outputs = visit(convolution, image)
        if not fire.batch_normalization:
            return outputs
        return visit(fire.normalizations[convolution.name], outputs)

    squeezed = convolve(fire.squeeze1x1, image)
    expands = (fire.expand1x1, fire.expand3x3)
    joined = [convolve(expand, squeezed) for expand in expands if expand is not None]
    if fire.bypass == "complex":
        joined.append(convolve(fire.bypass1x1, image))
    elif fire.bypass == "simple":
        joined.append(image)
    output = fire.compute_output_spec(image)
    add_row(_row(name, fire, joined, [output], parameters=0))
    return output


def _row(
    name: str,
    operation: keras.Operation,
    inputs: Sequence[keras.KerasTensor],
    outputs: Sequence[keras.KerasTensor],
    parameters: int,
) -> LayerProfile:
    for tensor in outputs:
        if None in tensor.shape[1:]:
            raise ValueError(
                f"The output of layer {name} must have known sizes to be counted; more of "
                f"`input_shape` may settle them. Received: output shape {tensor.shape}"
            )
    shapes = tuple(tuple(tensor.shape[1:]) for tensor in outputs)
    return LayerProfile(
        name=name,
        kind=type(operation).__name__,
        output_shape=shapes[0] if len(shapes) == 1 else shapes,
        parameters=parameters,
        multiply_adds=_multiply_adds(operation, inputs, outputs),
        input_bytes=_float32_bytes(inputs),
        activation_bytes=_float32_bytes(outputs),
    )


def _multiply_adds(
    operation: keras.Operation,
    inputs: Sequence[keras.KerasTensor],
    outputs: Sequence[keras.KerasTensor],
) -> int:
    if isinstance(operation, layers.Dense):
        return math.prod(outputs[0].shape[1:]) * inputs[0].shape[-1]
    if isinstance(operation, LearnedGroupConv2D):
        return math.prod(outputs[0].shape[1:]) * operation.kernel.shape[2]
    if not isinstance(operation, layers.Conv2D | layers.DepthwiseConv2D | layers.SeparableConv2D):
        return 0
    window = math.prod(operation.kernel_size)
    output_values = math.prod(outputs[0].shape[1:])
    if isinstance(operation, layers.DepthwiseConv2D):
        return output_values * window
    channels = inputs[0].shape[-1 if operation.data_format == "channels_last" else 1]
    if isinstance(operation, layers.Conv2D):
        return output_values * window * (channels // operation.groups)
    depthwise_channels = channels * operation.depth_multiplier
    positions = output_values // operation.filters
    return positions * window * depthwise_channels + output_values * depthwise_channels


def _count_once(operation: keras.Operation, counted: set[int]) -> int:
    """The operation's parameters; 0 for a shared layer that was counted already."""
    if not isinstance(operation, keras.Layer) or id(operation) in counted:
        return 0
    counted.add(id(operation))
    return operation.count_params()


def _tensors(structure: Any) -> list[keras.KerasTensor]:
    """The symbolic tensors in nested arguments or outputs, each once."""
    found = [item for item in keras.tree.flatten(structure) if keras.utils.is_keras_tensor(item)]
    return list({id(tensor): tensor for tensor in found}.values())


def _float32_bytes(tensors: Iterable[keras.KerasTensor]) -> int:
    return FLOAT32_BYTES * sum(math.prod(tensor.shape[1:]) for tensor in tensors)


def _as_lists(shape: tuple) -> list:
    return [_as_lists(item) if isinstance(item, tuple) else item for item in shape]
