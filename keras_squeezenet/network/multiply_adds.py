"""Multiply-adds of a layer or of an operation of `keras.ops`, from the shapes of its tensors.

What counts: products that are summed, one per weight and output position, also where the weight
meets padding.

- Conv1D, Conv2D, Conv3D, with groups; DepthwiseConv1D, DepthwiseConv2D; SeparableConv1D,
  SeparableConv2D; the transposed convolutions, of which every weight meets every input position.
- LearnedGroupConv2D, with all of its inputs, as in training.
- Dense, on maps too, and EinsumDense; SimpleRNN, LSTM and GRU, at each step of the sequence.
- Of `keras.ops`: matmul, dot, inner, vdot, tensordot, einsum of two tensors, conv, depthwise_conv,
  separable_conv, conv_transpose and dot_product_attention.
- Layers that are made of such: Keras's attention, Bidirectional, TimeDistributed, and layers of
  one's own, whose `call` is followed (`layer_costs`).

What does not count, and is 0: biases, activations, softmax, pooling, normalization (batch
normalization too), additions, products of two maps, resizing, lookups in an Embedding. One
multiply-add is 1; where papers say FLOPs and count 2, the number is half of theirs.

What is not known: other layers with matrices (ConvLSTM2D), decompositions, Fourier transforms and
loops of `keras.ops`, code that is not Keras's. They are named and never taken for 0.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import layers, ops

from keras_squeezenet.network.families.learned_groups import LearnedGroupConv2D
from keras_squeezenet.network.graph import class_beside
from keras_squeezenet.network.kernel_layers import (
    CONVOLUTIONS,
    DEPTHWISE,
    SEPARABLE,
    TRANSPOSED,
)

Shape = tuple[int, ...]  # every size is known here
Shapes = Sequence[Shape]
# Of an operation, the shapes that it takes, and that of its first output; the batch is 1.
Count = Callable[[Any, Shapes, Shape], int | None]

_CONVOLVING = (*CONVOLUTIONS, *DEPTHWISE, *SEPARABLE, *TRANSPOSED)
_RECURRENT = (layers.SimpleRNN, layers.LSTM, layers.GRU)

# They have arrays of several axes, and multiply no sum by them.
_WITHOUT = (
    *(layers.Embedding, layers.PReLU, layers.Normalization),
    *(layers.BatchNormalization, layers.LayerNormalization, layers.GroupNormalization),
    *(layers.RMSNormalization, layers.UnitNormalization),
)
# They hold a function or a network of another kind.
_FOREIGN = (layers.Lambda, layers.TFSMLayer, layers.TorchModuleWrapper, layers.JaxLayer)
_UNKNOWN_OPERATIONS = {
    *("FFT", "FFT2", "FFTN", "IFFT", "IFFT2", "IFFTN", "RFFT", "IRFFT", "STFT", "ISTFT"),
    *("Map", "Scan", "AssociativeScan", "WhileLoop", "ForiLoop", "VectorizedMap", "Cond", "Switch"),
    *("CDist", "Correlate", "Logdet"),
}


def multiply_adds_of(operation: keras.Operation, taken: Shapes, output: Shape | None) -> int | None:
    """The multiply-adds of one call of an operation.

    Args:
        operation: a layer, or an operation of `keras.ops`; no model.
        taken: shapes of all tensors, variables and arrays that it takes, in their order.
        output: shape of its first output.

    Returns:
        Their number; None where it is not known.
    """
    if output is None:
        return None
    for kind, count in _COUNTS:
        if isinstance(operation, kind):
            return count(operation, taken, output)
    return 0 if _has_none(operation) else None


def is_keras_or_ours(operation: keras.Operation) -> bool:
    """Whether an operation's class is one that this module knows, not a user's own."""
    package = type(operation).__module__.partition(".")[0]
    return package in ("keras", "keras_squeezenet") and not isinstance(operation, _FOREIGN)


def _has_none(operation: keras.Operation) -> bool:
    if not is_keras_or_ours(operation):
        return False
    kind = type(operation)
    if kind.__module__.endswith(".ops.linalg") and kind.__name__ != "Norm":
        return False
    if kind.__name__ in _UNKNOWN_OPERATIONS:
        return False
    if isinstance(operation, layers.Wrapper | layers.RNN):
        return False
    matrices = (len(weight.shape) > 1 for weight in getattr(operation, "weights", ()))
    return isinstance(operation, _WITHOUT) or not any(matrices)


def _convolution(layer: Any, taken: Shapes, output: Shape) -> int:
    channels_axis = -1 if layer.data_format == "channels_last" else 1
    channels = taken[0][channels_axis]
    positions = math.prod(output) // output[channels_axis]
    window = math.prod(layer.kernel_size)
    if isinstance(layer, TRANSPOSED):
        return math.prod(taken[0]) * window * layer.filters
    if isinstance(layer, DEPTHWISE):
        return math.prod(output) * window
    if isinstance(layer, SEPARABLE):
        between = channels * layer.depth_multiplier
        return positions * between * (window + layer.filters)
    return positions * window * (channels // layer.groups) * layer.filters


def _all_inputs(layer: LearnedGroupConv2D, taken: Shapes, output: Shape) -> int:
    return math.prod(output) * int(layer.kernel.shape[2])


def _dense(layer: layers.Dense, taken: Shapes, output: Shape) -> int:
    return math.prod(output) * taken[0][-1]


def _einsum_dense(layer: layers.EinsumDense, taken: Shapes, output: Shape) -> int | None:
    return _einsum(layer.equation, [taken[0], layer.kernel.shape])


def _recurrent(layer: Any, taken: Shapes, output: Shape) -> int:
    steps, features = taken[0][1:]
    gates = {layers.SimpleRNN: 1, layers.GRU: 3, layers.LSTM: 4}
    (times,) = (number for kind, number in gates.items() if isinstance(layer, kind))
    return taken[0][0] * steps * times * layer.units * (features + layer.units)


def _matmul(operation: Any, taken: Shapes, output: Shape) -> int:
    return math.prod(output) * taken[0][-1]


def _contraction(operation: Any, taken: Shapes, output: Shape) -> int:
    """Of two tensors whose axes are either summed or in the output, as those of tensordot.

    The sizes of the two multiply to the output's, times that of the summed axes squared.
    """
    one, other = taken[:2]
    return math.isqrt(math.prod(one) * math.prod(other) * math.prod(output))


def _dot(operation: Any, taken: Shapes, output: Shape) -> int:
    return _contraction(operation, taken, output) if all(taken[:2]) else 0


def _einsum_of(operation: Any, taken: Shapes, output: Shape) -> int | None:
    return _einsum(operation.subscripts, taken)


def _einsum(equation: str, shapes: Shapes) -> int | None:
    """Of two tensors: as many as there are combinations of all indices."""
    operands = equation.replace(" ", "").partition("->")[0].split(",")
    if len(operands) == 1:
        return 0
    if len(operands) > 2:
        return None  # it depends on which two are multiplied first
    sizes: dict[str, int] = {}
    for letters, shape in zip(operands, shapes, strict=True):
        before, dots, after = letters.partition("...")
        middle = len(shape) - len(before) - len(after)
        # Axes of an ellipsis are matched from the last.
        unnamed = [f"...{axis}" for axis in reversed(range(middle))] if dots else []
        for letter, size in zip((*before, *unnamed, *after), shape, strict=True):
            sizes[letter] = max(sizes.get(letter, 1), size)
    return math.prod(sizes.values())


def _by_kernel(operation: Any, taken: Shapes, output: Shape) -> int:
    """A convolution of `keras.ops`, whose kernel is `(…, input channels of a group, filters)`."""
    return math.prod(output) * math.prod(taken[1][:-1])


def _depthwise_by_kernel(operation: Any, taken: Shapes, output: Shape) -> int:
    return math.prod(output) * math.prod(taken[1][:-2])


def _separable_by_kernels(operation: Any, taken: Shapes, output: Shape) -> int:
    _, depthwise, pointwise = taken[:3]
    positions = math.prod(output) // pointwise[-1]
    return positions * (math.prod(depthwise) + math.prod(pointwise))


def _transposed_by_kernel(operation: Any, taken: Shapes, output: Shape) -> int:
    # Its kernel is (…, filters, input channels).
    return math.prod(taken[0]) * math.prod(taken[1][:-1])


def _attention(operation: Any, taken: Shapes, output: Shape) -> int:
    """Queries `(batch, n, heads, size)` with keys `(batch, m, heads, size)`, then with values."""
    query, key, value = taken[:3]
    batch, queries, heads, size = query
    return batch * heads * queries * key[1] * (size + value[-1])


_OPERATIONS: tuple[tuple[Callable, str, Count], ...] = (
    (ops.matmul, "Matmul", _matmul),
    (ops.dot, "Dot", _dot),
    (ops.inner, "Inner", _dot),
    (ops.vdot, "Vdot", _dot),
    (ops.tensordot, "Tensordot", _contraction),
    (ops.einsum, "Einsum", _einsum_of),
    (ops.conv, "Conv", _by_kernel),
    (ops.depthwise_conv, "DepthwiseConv", _depthwise_by_kernel),
    (ops.separable_conv, "SeparableConv", _separable_by_kernels),
    (ops.conv_transpose, "ConvTranspose", _transposed_by_kernel),
    (ops.dot_product_attention, "DotProductAttention", _attention),
)
_COUNTS: tuple[tuple[type | tuple[type, ...], Count], ...] = (
    (_CONVOLVING, _convolution),
    (LearnedGroupConv2D, _all_inputs),
    (layers.Dense, _dense),
    (layers.EinsumDense, _einsum_dense),
    (_RECURRENT, _recurrent),
    *(
        (kind, count)
        for function, name, count in _OPERATIONS
        if (kind := class_beside(function, name)) is not None
    ),
)
