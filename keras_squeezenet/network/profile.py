"""What a model costs, layer by layer: parameters, multiply-adds and activation memory.

Everything is read off symbolic shapes; no image goes through the model and no memory is taken.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import keras

from keras_squeezenet.network.data_formats import Shape
from keras_squeezenet.network.graph import graph_of, has_graph
from keras_squeezenet.network.layer_costs import LayerCosts, ModelCosts, costs_of
from keras_squeezenet.network.live_memory import MemoryStep, live_bytes

FLOAT32_BYTES = 4
# Of a weight: as trained; two as LiteRT files have; the index of Deep Compression's codebooks, as
# the SqueezeNet paper ends with (Table 2).
WIDTHS = (32, 16, 8, 6)


@dataclass(frozen=True)
class LayerProfile:
    """One row: one layer, executed once, on one image.

    Attributes:
        name: the layer's name, after the names of the layers and models that hold it.
        kind: the layer's class.
        output_shape: without batch; a tuple of shapes where a layer has several outputs.
        parameters: the layer's own, trainable or not; 0 where a shared layer comes again.
        trainable_parameters: of these.
        multiply_adds: see `profile_model`; None where it is not known.
        input_bytes: the layer's inputs for one image as float32.
        activation_bytes: the layer's output for one image as float32.
        live_bytes: all tensors that are alive while the layer runs; see `ModelProfile`.
        live_bytes_in_place: the same where layers work in place.
    """

    name: str
    kind: str
    output_shape: tuple
    parameters: int
    trainable_parameters: int
    multiply_adds: int | None
    input_bytes: int
    activation_bytes: int
    live_bytes: int
    live_bytes_in_place: int

    def weight_bytes(self, bits: int) -> int:
        """Bytes of the row's parameters with so many bits each, rounded up."""
        return _bytes_at(self.parameters, bits)


@dataclass(frozen=True)
class ModelProfile:
    """The rows of a model in the order in which Keras runs them. See `profile_model`.

    Memory is that of the tensors between the rows, for one image. A tensor takes it from the row
    that makes it to the last one that reads it, so that the input of a bypass counts in all rows
    between; the model's inputs from the start, its outputs to the end. What a row needs inside,
    such as a SeparableConv2D between its two convolutions, does not count.

    Attributes:
        name: the model's.
        input_shapes: of its inputs, without batch.
        layers: a `LayerProfile` for each row.
    """

    name: str
    input_shapes: tuple[Shape, ...]
    layers: tuple[LayerProfile, ...]

    @property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @property
    def trainable_parameters(self) -> int:
        """Those that have a gradient; the statistics of a batch normalization have none."""
        return sum(layer.trainable_parameters for layer in self.layers)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all parameters as float32."""
        return FLOAT32_BYTES * self.parameters

    def weight_bytes_at(self, bits: int) -> int:
        """Bytes of all parameters with so many bits each, without a codebook, rounded up."""
        return _bytes_at(self.parameters, bits)

    @property
    def multiply_adds(self) -> int:
        """Of all rows of which they are known."""
        return sum(layer.multiply_adds or 0 for layer in self.layers)

    @property
    def not_counted(self) -> tuple[str, ...]:
        """Names of the rows whose multiply-adds are not known."""
        return tuple(layer.name for layer in self.layers if layer.multiply_adds is None)

    @property
    def activation_bytes(self) -> int:
        """Bytes of every row's output together, about what training keeps for one image."""
        return sum(layer.activation_bytes for layer in self.layers)

    @property
    def peak_activation_bytes(self) -> int:
        """The most that is alive at once where every row writes into memory of its own."""
        return max((layer.live_bytes for layer in self.layers), default=0)

    @property
    def peak_activation_bytes_in_place(self) -> int:
        """The most that is alive at once where rows work in place, as in runtimes for inference.

        Batch normalization and activations but softmax write over their input, if nothing reads it
        later; Dropout, Flatten and Reshape take no memory, nor does padding for a convolution.
        """
        return max((layer.live_bytes_in_place for layer in self.layers), default=0)

    def to_dict(self) -> dict[str, Any]:
        """Totals and rows as plain numbers, strings, lists and dicts."""
        return {
            "name": self.name,
            "input_shapes": _as_lists(self.input_shapes),
            "parameters": self.parameters,
            "trainable_parameters": self.trainable_parameters,
            "weight_bytes": self.weight_bytes,
            "weight_bytes_at": {str(bits): self.weight_bytes_at(bits) for bits in WIDTHS},
            "multiply_adds": self.multiply_adds,
            "not_counted": list(self.not_counted),
            "activation_bytes": self.activation_bytes,
            "peak_activation_bytes": self.peak_activation_bytes,
            "peak_activation_bytes_in_place": self.peak_activation_bytes_in_place,
            "layers": [self._row(layer) for layer in self.layers],
        }

    def _row(self, layer: LayerProfile) -> dict[str, Any]:
        counted = layer.multiply_adds
        return {
            **asdict(layer),
            "output_shape": _as_lists(layer.output_shape),
            "parameter_share": _share(layer.parameters, self.parameters),
            "multiply_add_share": None if counted is None else _share(counted, self.multiply_adds),
            "weight_bytes_at": {str(bits): layer.weight_bytes(bits) for bits in WIDTHS},
        }


def profile_model(
    model: keras.Model, input_shape: Shape | Sequence[Shape] | None = None
) -> ModelProfile:
    """Counts a model without running it.

    Multiply-adds are those of convolutions of any kind, Dense and EinsumDense, attention, recurrent
    layers and matrix products of `keras.ops`: one per weight and output position, also where the
    weight meets padding. Biases, activations, pooling, normalization and additions count 0. What
    cannot be counted is named in `not_counted`. One multiply-add is 1; the authors' "1.72
    GFLOPS/image" of SqueezeNet 1.0 counts it as 2, and conv10 with the padding of their Caffe
    network.

    A model within the model is expanded into its layers. So is a `Fire`: fire2/squeeze1x1,
    fire2/expand1x1, …, then fire2 for what joins them (concatenation and bypass addition); and so
    are attention, and layers of your own that hold layers.

    Args:
        model: a functional or Sequential `keras.Model` whose inputs are known; or one of another
            kind that is built, with `input_shape`.
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
    if not has_graph(model) and getattr(model, "built", False) and input_shape is not None:
        return _profile(model.name, _costs_inside(model, input_shape))
    graph = graph_of(model)
    return _profile(model.name, costs_of(model, _symbolic_inputs(graph, input_shape)))


def _profile(name: str, costs: ModelCosts) -> ModelProfile:
    tensors = {id(tensor): tensor for tensor in costs.inputs}
    for layer in costs.layers:
        tensors |= {id(tensor): tensor for tensor in (*layer.inputs, *layer.outputs)}
    sizes = {key: _float32_bytes([tensor]) for key, tensor in tensors.items()}
    steps = [
        MemoryStep(tuple(map(id, layer.inputs)), tuple(map(id, layer.outputs)), layer.effect)
        for layer in costs.layers
    ]
    ends = list(map(id, costs.inputs)), list(map(id, costs.outputs))
    live = live_bytes(steps, sizes, *ends, in_place=False)
    live_in_place = live_bytes(steps, sizes, *ends, in_place=True)
    rows = map(_row, costs.layers, live, live_in_place)
    return ModelProfile(name, tuple(map(_of_one, costs.inputs)), tuple(rows))


def _row(layer: LayerCosts, live: int, live_in_place: int) -> LayerProfile:
    shapes = tuple(_of_one(tensor) for tensor in layer.outputs)
    return LayerProfile(
        name=layer.name,
        kind=layer.kind,
        output_shape=shapes[0] if len(shapes) == 1 else shapes,
        parameters=layer.parameters,
        trainable_parameters=layer.trainable_parameters,
        multiply_adds=layer.multiply_adds,
        input_bytes=_float32_bytes(layer.inputs),
        activation_bytes=_float32_bytes(layer.outputs),
        live_bytes=live,
        live_bytes_in_place=live_in_place,
    )


def _costs_inside(model: keras.Model, input_shape: Shape | Sequence[Shape]) -> ModelCosts:
    several = all(isinstance(shape, tuple | list) for shape in input_shape)
    shapes: Any = input_shape if several else [input_shape]
    try:
        return costs_of(model, [keras.KerasTensor((1, *shape)) for shape in shapes])
    except Exception as error:  # a user's code raises anything for tensors without values
        raise ValueError(
            "`model` must be a functional or Sequential keras.Model, or one whose `call` is made "
            f"of Keras's layers and operations. Received: model={model!r}, which ends in: {error}"
        ) from error


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
    # One image: of an open batch not every operation would know the size of what it makes.
    return [
        keras.KerasTensor((1, *shape), dtype=tensor.dtype)
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


def _of_one(tensor: keras.KerasTensor) -> Shape:
    """A shape without the batch of one."""
    shape = tuple(tensor.shape)
    return shape[1:] if shape and shape[0] == 1 else shape


def _float32_bytes(tensors: Iterable[keras.KerasTensor]) -> int:
    return FLOAT32_BYTES * sum(math.prod(tensor.shape) for tensor in tensors)


def _bytes_at(parameters: int, bits: int) -> int:
    return -(-parameters * bits // 8)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _as_lists(shape: tuple) -> list:
    return [_as_lists(item) if isinstance(item, tuple) else item for item in shape]
