"""Ranges of 8-bit activations: wider than what calibration saw, and how often images leave them.

Calibration sees the greatest value of each activation on some photos, and LiteRT takes exactly
that as the end of the activation's range. A photo that excites a layer more is cut off there.
In early layers this does little. In late ones it does much where the photos are of another kind
(results/int8_kinds.csv), and most in the outputs and in what a softmax takes: the probabilities
become flat and classes equal, on just the photos that the network is surest of. So late ranges end
beyond what was seen, and those that decide where extreme values are expected.
"""

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from keras_squeezenet.extras import from_extra
from keras_squeezenet.litert.model import LiteRTModel

# Share of images that are expected to exceed a range.
EXCEEDED = 1e-4

# Of photos like the calibration's hardly any leaves the outputs' range, and 8-bit files of the
# published SqueezeNet 1.1 were as sure of themselves as the network, to a hundredth.
MOST_IMAGES_AT_END = 0.05
MOST_CONFIDENCE_LOST = 0.05

# Late layers answer to kinds of things: one that calibration did not see takes them far beyond what
# it saw. More room than this costs steps where calibration saw much. In early layers, where photos
# of all kinds are alike, room only makes steps coarser. results/int8_kinds.csv has what is left.
LATE_SHARE = 0.4  # of the layers with kernels
LATE_ROOM = 1.5


@dataclass(frozen=True)
class Saturation:
    """How often one activation of an 8-bit file reaches the end of its range.

    Attributes:
        layer: the name of the tensor in the file.
        images: share (0 to 1) of the images with a value at the end.
        values: share (0 to 1) of all values that are at the end.
        decides: whether it is an output, or what a bounded function makes the output of. There it
            does harm; between layers a few values at the end do little.
    """

    layer: str
    images: float
    values: float
    decides: bool

    @property
    def name(self) -> str:
        """Out of the tensor's name, such as net/quant_conv1/Relu;net/quant_conv1/BiasAdd."""
        parts = self.layer.split(";")[0].split("/")
        return (parts[-2] if len(parts) > 1 else parts[0]).removeprefix("quant_")


def widen(path: str | os.PathLike, images: Iterable[np.ndarray]) -> None:
    """Give the last ranges of a calibrated file room for values that calibration did not see.

    Args:
        path: a float32 LiteRT file with ranges, as TFLiteConverter's `_experimental_calibrate_only`
            gives it; changed in place. The ranges of the late layers are widened, and those of
            the outputs, or of what a bounded function (softmax, sigmoid) makes the outputs of.
        images: those of the calibration.
    """
    with from_extra("litert"):
        import flatbuffers
        from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(Path(path).read_bytes(), 0)
    graph = model.subgraphs[0]
    litert = LiteRTModel(path, keep_activations=True)
    deciding = _deciding(model, graph, schema)
    greatest, least = [], []
    for image in images:
        litert.predict(image[None])
        values = [litert.activation(index) for index in deciding]
        greatest.append([value.max() for value in values])
        least.append([value.min() for value in values])
    of_images = dict(
        zip(deciding, zip(np.transpose(least), np.transpose(greatest), strict=True), strict=True)
    )
    for index in {**dict.fromkeys(_late(model, graph, schema)), **of_images}:
        found = graph.tensors[index].quantization
        if found is None or found.max is None or not len(found.max):
            continue  # integers have no range
        seen = of_images.get(index, (found.min, found.max))
        start, end = range_with_room(*seen, decides=index in of_images, late=True)
        found.min, found.max = [min(found.min[0], start)], [max(found.max[0], end)]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    Path(path).write_bytes(builder.Output())


def range_with_room(
    least: np.ndarray | Sequence[float],
    greatest: np.ndarray | Sequence[float],
    *,
    decides: bool,
    late: bool,
) -> tuple[float, float]:
    """The range of an activation, with room for what calibration did not see.

    Args:
        least, greatest: of each image of the calibration, float `[images]`.
        decides: whether it is an output, or what a bounded function makes an output of.
        late: whether a late layer gives it, see `first_late`.

    Returns:
        Start and end. A start that no image is below 0 at is the least value seen, such as the 0
        of a ReLU.
    """
    start, end = float(np.min(least)), float(np.max(greatest))
    if decides:
        end = max(end, expected_extreme(greatest))
        if start < 0:
            start = min(start, -expected_extreme(-np.asarray(least)))
    elif late:
        start, end = min(start, LATE_ROOM * start), max(end, LATE_ROOM * end)
    return start, end


def first_late(kernels: int) -> int:
    """The first late one of a network's layers with kernels, counted from 0 in their order."""
    return math.ceil((1 - LATE_SHARE) * kernels)


def expected_extreme(maxima: np.ndarray | Sequence[float]) -> float:
    """What the greatest value of an image exceeds in one of 10,000 images.

    Greatest values of many follow about a Gumbel distribution, here fitted by its two moments, of
    which no single image has a great part (Coles, An Introduction to Statistical Modeling of
    Extreme Values, chapter 3).

    Args:
        maxima: each image's greatest value, float `[images]`.
    """
    scale = np.std(maxima) * math.sqrt(6) / math.pi
    location = np.mean(maxima) - np.euler_gamma * scale
    return float(location - scale * math.log(-math.log1p(-EXCEEDED)))


def quantize_calibrated(calibrated: bytes, input_type: str, output_type: str) -> bytes:
    """The 8-bit file of a calibrated float32 one.

    Args:
        calibrated: bytes, as `widen` leaves them.
        input_type, output_type: "float32", "uint8" or "int8".
    """
    with from_extra("litert"):
        import tensorflow as tf
        from tensorflow.lite.python.convert import mlir_quantize

    return mlir_quantize(
        calibrated,
        input_data_type=tf.as_dtype(input_type),
        output_data_type=tf.as_dtype(output_type),
    )


def measure_saturation(
    path: str | os.PathLike, images: Sequence[np.ndarray] | np.ndarray
) -> tuple[Saturation, ...]:
    """Run an 8-bit file and look where its activations are cut off.

    Args:
        path: the file.
        images: float32 `[n, height, width, channels]`, as the model takes them.

    Returns:
        A tuple of `Saturation`, in the order of execution. What has the fixed range of a bounded
        function (softmax, ReLU6), and values of 0 at the end of a ReLU, are not counted.
    """
    with from_extra("litert"):
        from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(Path(path).read_bytes(), 0)
    graph = model.subgraphs[0]
    watched = [
        index
        for index in _unbounded(model, graph, schema)
        if graph.tensors[index].type == schema.TensorType.INT8
    ]
    deciding = set(_deciding(model, graph, schema))
    litert = LiteRTModel(path, keep_activations=True)
    images_at_end, shares = np.zeros(len(watched)), np.zeros(len(watched))
    for image in images:
        litert.predict(image[None])
        for position, index in enumerate(watched):
            codes = litert.activation(index)
            at_end = codes == 127
            # At the other end a ReLU has its zeros.
            if graph.tensors[index].quantization.zeroPoint[0] > -128:
                at_end |= codes == -128
            images_at_end[position] += at_end.any()
            shares[position] += at_end.mean()
    return tuple(
        Saturation(
            graph.tensors[index].name.decode(),
            float(of_images),
            float(of_values),
            index in deciding,
        )
        for index, of_images, of_values in zip(
            watched, images_at_end / len(images), shares / len(images), strict=True
        )
    )


def _unbounded(model: Any, graph: Any, schema: ModuleType) -> list[int]:
    """Indices of the tensors that operations fill with values that nothing bounds, in order."""
    unbounded: dict[int, None] = {}  # a dict, for its order
    for step in graph.operators:
        passes = _kind(model, step) in _passing(schema)
        if _bounds(model, step, schema) or (passes and not unbounded.keys() & set(step.inputs)):
            continue
        unbounded.update(dict.fromkeys(step.outputs))
    return list(unbounded)


def _late(model: Any, graph: Any, schema: ModuleType) -> list[int]:
    """Those of the unbounded tensors that the late layers give, with all that follows them."""
    operator = schema.BuiltinOperator
    with_kernel = {
        operator.CONV_2D,
        operator.DEPTHWISE_CONV_2D,
        operator.FULLY_CONNECTED,
        operator.TRANSPOSE_CONV,
    }
    has_kernel = [_kind(model, step) in with_kernel for step in graph.operators]
    first = first_late(sum(has_kernel))
    late = set()
    for step, kernels_so_far in zip(graph.operators, np.cumsum(has_kernel), strict=True):
        if kernels_so_far > first:
            late |= set(step.outputs)
    return [index for index in _unbounded(model, graph, schema) if index in late]


def _deciding(model: Any, graph: Any, schema: ModuleType) -> list[int]:
    """Those of the unbounded tensors that are outputs, or that only passing and bounding operations
    part from an output."""
    wanted = set(graph.outputs)
    for step in reversed(graph.operators):
        follows = _kind(model, step) in _passing(schema) or _is_bounding(model, step, schema)
        if follows and wanted & set(step.outputs):
            wanted |= set(step.inputs)
    return [index for index in _unbounded(model, graph, schema) if index in wanted]


def _kind(model: Any, step: Any) -> int:
    code = model.operatorCodes[step.opcodeIndex]
    return max(code.builtinCode, code.deprecatedBuiltinCode)


def _passing(schema: ModuleType) -> set[int]:
    """Operations that give only what they take."""
    operator = schema.BuiltinOperator
    return {
        operator.MAX_POOL_2D,
        operator.AVERAGE_POOL_2D,
        operator.MEAN,
        operator.CONCATENATION,
        operator.RESHAPE,
        operator.PAD,
        operator.QUANTIZE,
        operator.DEQUANTIZE,
    }


def _is_bounding(model: Any, step: Any, schema: ModuleType) -> bool:
    operator = schema.BuiltinOperator
    return _kind(model, step) in {
        operator.SOFTMAX,
        operator.LOG_SOFTMAX,
        operator.LOGISTIC,
        operator.TANH,
        operator.RELU6,
        operator.RELU_N1_TO_1,
        operator.RELU_0_TO_1,
    }


def _bounds(model: Any, step: Any, schema: ModuleType) -> bool:
    fused = getattr(step.builtinOptions, "fusedActivationFunction", 0)
    kinds = schema.ActivationFunctionType
    return _is_bounding(model, step, schema) or fused not in (kinds.NONE, kinds.RELU)
