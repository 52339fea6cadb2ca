"""How much memory a LiteRT file takes on a microcontroller.

LiteRT for Microcontrollers (TFLM) has no heap: it works in one array, the tensor arena, whose size
the program fixes. From one end grow the activations, whose places are planned when it starts; from
the other what it keeps for good: a description of each tensor and operation, and two numbers for
each filter.
"""

import math
import os
from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from keras_squeezenet.errors import InputError
from keras_squeezenet.extras import from_extra
from keras_squeezenet.litert.model import LiteRTModel

# Of every buffer in the arena (TFLM, micro_arena_constants.h).
ALIGNMENT = 16

# Bytes of TFLM's structures on a 64-bit machine, where they were measured with its recording
# allocator (tflite_micro 0.dev20261023). On 32 bits, where pointers are half as long, they are
# smaller: the estimate is then on the safe side.
TENSOR_BYTES = 24  # TfLiteEvalTensor
OPERATION_BYTES = 64 + 112  # NodeAndRegistration; what its kernel keeps, and its options
FILTER_BYTES = 8  # the multiplier and the shift that take a filter's sums to 8 bits
INTERPRETER_BYTES = 1024

# A column of the input as int16, twice (CMSIS-NN, arm_convolve_s8_get_buffer_size).
_COLUMNS_BYTES = 2 * 2

_SIZES = {
    "FLOAT32": 4,
    "FLOAT16": 2,
    "INT32": 4,
    "UINT8": 1,
    "INT64": 8,
    "BOOL": 1,
    "INT16": 2,
    "INT8": 1,
    "FLOAT64": 8,
    "UINT16": 2,
    "UINT32": 4,
    "UINT64": 8,
}
_OF_FILTERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


@dataclass(frozen=True)
class TensorArena:
    """The bytes that a file needs besides its own.

    Attributes:
        activations: of the inputs, outputs and everything between, where they share memory as
            TFLM's greedy planner lets them.
        scratch: the largest that CMSIS-NN, the kernels for Arm Cortex-M, take for one convolution.
            TFLM's reference kernels take none.
        persistent: an estimate, from above, of what TFLM keeps about tensors, operations and
            filters.
    """

    activations: int
    scratch: int
    persistent: int

    @property
    def bytes(self) -> int:
        """All of it: what `kTensorArenaSize` in a program has to be."""
        return aligned(self.activations) + aligned(self.scratch) + aligned(self.persistent)


@dataclass(frozen=True)
class Buffer:
    """What takes memory from one moment to another, both included."""

    size: int
    first: int
    last: int


def estimate_arena(path: str | os.PathLike) -> TensorArena:
    """The tensor arena of a LiteRT file, which is not run for that.

    For int8 files of SqueezeNet 1.0 and 1.1 and of the digits' network, TFLM plans `activations` to
    the byte, starts with `bytes`, and takes 0.1 to 3 % less on a 64-bit machine. The file itself is
    no part of it and stays in flash memory.

    Raises:
        InputError: the file is no LiteRT model, holds control flow, or a type of tensors that
            TFLM does not plan.
        OSError: the file cannot be read.
    """
    graph, operations = _read_graph(path)
    tensors = graph.tensors
    sizes = [_tensor_bytes(path, tensor) for tensor in tensors]
    activations = plan_greedily(_lifetimes(graph, sizes))
    filters = scratch = 0
    for name, operation in operations:
        if name in _OF_FILTERS:
            kernel, output = tensors[operation.inputs[1]], tensors[operation.outputs[0]]
            filters += int(output.shape[-1])
            scratch = max(scratch, _COLUMNS_BYTES * math.prod(map(int, kernel.shape[1:])))
    persistent = (
        INTERPRETER_BYTES
        + TENSOR_BYTES * len(tensors)
        + OPERATION_BYTES * len(operations)
        + FILTER_BYTES * filters
    )
    return TensorArena(activations, scratch, persistent)


def plan_greedily(buffers: Iterable[Buffer]) -> int:
    """The bytes that `buffers` take where those that are never alive together share memory.

    From the largest to the smallest, each goes to the lowest place where it fits between those
    that are alive with it (TFLM, greedy_memory_planner.cc).
    """
    # Of equals TFLM places the last one first.
    order = sorted(reversed(list(buffers)), key=lambda buffer: -buffer.size)
    placed: list[tuple[int, Buffer]] = []
    for buffer in order:
        offset = 0
        for start, other in placed:
            if other.first > buffer.last or buffer.first > other.last:
                continue
            if start - offset >= buffer.size:
                break
            offset = max(offset, start + other.size)
        insort(placed, (offset, buffer), key=itemgetter(0))
    return max((offset + buffer.size for offset, buffer in placed), default=0)


def aligned(size: int) -> int:
    """`size` rounded up to whole units of the arena."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _read_graph(path: str | os.PathLike) -> tuple[Any, list[tuple[str, Any]]]:
    """The file's only graph, and its operations as (name, operation)."""
    with from_extra("litert"):
        from ai_edge_litert import schema_py_generated as schema

    try:
        LiteRTModel(path)  # verifies the bytes, which the reader below trusts
    except ValueError as error:
        raise InputError(str(error)) from error
    model = schema.ModelT.InitFromPackedBuf(Path(path).read_bytes(), 0)
    if len(model.subgraphs) != 1:
        raise InputError(f"{path}: expected one graph. Received: {len(model.subgraphs)}")
    graph = model.subgraphs[0]
    names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    codes = model.operatorCodes
    operations = []
    for operation in graph.operators:
        code = codes[operation.opcodeIndex]
        # Codes below 127 stand in the older field too, and in files of old only there.
        operations.append((names[max(code.builtinCode, code.deprecatedBuiltinCode)], operation))
    # A constant has bytes in the file; what is to be computed has none.
    for tensor in graph.tensors:
        data = model.buffers[tensor.buffer].data
        tensor.is_constant = data is not None and len(data) > 0
    return graph, operations


def _tensor_bytes(path: str | os.PathLike, tensor: Any) -> int:
    """Of the activation, rounded up; 0 of a constant, which stays in the file."""
    with from_extra("litert"):
        from ai_edge_litert import schema_py_generated as schema

    if tensor.is_constant or tensor.isVariable:
        return 0
    names = {code: name for name, code in vars(schema.TensorType).items()}
    if names[tensor.type] not in _SIZES:
        raise InputError(
            f"{path}: expected tensors of numbers of whole bytes. Received: {names[tensor.type]}"
        )
    shape = () if tensor.shape is None else tensor.shape
    return aligned(_SIZES[names[tensor.type]] * math.prod(map(int, shape)))


def _lifetimes(graph: Any, sizes: Sequence[int]) -> list[Buffer]:
    """A `Buffer` of each activation, in the order of the tensors (TFLM, micro_allocation_info.cc).

    Moment 0 is before the first operation, which runs at moment 1.
    """
    first = dict.fromkeys(map(int, graph.inputs), 0)
    last = dict(first)
    for moment, operation in enumerate(graph.operators, start=1):
        for tensor in map(int, operation.outputs):
            first[tensor] = moment
        for tensor in (*map(int, operation.inputs), *map(int, operation.outputs)):
            last[tensor] = moment
    for tensor in map(int, graph.outputs):
        first.setdefault(tensor, 0)
        last[tensor] = len(graph.operators)
    return [
        Buffer(size, first[tensor], last[tensor])
        for tensor, size in enumerate(sizes)
        if size and tensor in first
    ]
