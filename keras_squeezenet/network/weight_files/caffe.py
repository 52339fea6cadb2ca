"""Caffe's `.caffemodel`: a NetParameter of caffe.proto, in its present and its older (V1) form.

https://github.com/BVLC/caffe/blob/master/src/caffe/proto/caffe.proto. A layer has two blobs, the
kernel `[filters, channels, height, width]` and the bias; its name is `fire2/squeeze1x1` where ours
is `fire2_squeeze1x1`. The file holds layers without weights as well, which are passed over.
"""

from dataclasses import dataclass
from math import prod

import numpy as np

from keras_squeezenet.network.architecture import Architecture
from keras_squeezenet.network.weight_files.contents import (
    WeightFile,
    WeightFileError,
    check_names,
    expected_shapes,
    from_oihw,
    max_parameters,
    published_last_conv_padding,
    with_classes,
)
from keras_squeezenet.network.weight_files.wire_format import (
    Budget,
    WireType,
    field_budget,
    read_fields,
    read_varints,
)

MAX_FIELDS = 100_000  # of the whole file; SqueezeNet has 67 layers of about a dozen each
MAX_AXES = 32  # Caffe's own limit
MAX_NAME_BYTES = 256


@dataclass(frozen=True)
class LayerFields:
    """Field numbers of a message that describes a layer."""

    name: int
    blobs: int
    convolution_param: int


# By the number of the field in NetParameter: LayerParameter, and V1LayerParameter before it.
LAYER_FIELDS = {
    100: LayerFields(name=1, blobs=7, convolution_param=106),
    2: LayerFields(name=4, blobs=6, convolution_param=10),
}
# Of BlobProto. The shape was once num, channels, height, width.
BLOB_OLD_SHAPE = (1, 2, 3, 4)
BLOB_SHAPE = 7
BLOB_DATA: dict[int, tuple[np.dtype, WireType]] = {
    5: (np.dtype("<f4"), WireType.FIXED32),
    8: (np.dtype("<f8"), WireType.FIXED64),
}
SHAPE_DIM = 1
# Of ConvolutionParameter.
PAD = 3
PAD_H_W = (9, 10)


@dataclass(frozen=True)
class CaffeLayer:
    """What is needed of a layer, its parts still as bytes."""

    name: str
    blobs: tuple[memoryview, ...]
    convolution_param: memoryview | None


def read(data: bytes, architecture: Architecture) -> WeightFile:
    """A `WeightFile`. The padding of the last convolution is what the file gives it, if it does.

    Raises:
        WeightFileError: the bytes are not the weights of this architecture.
    """
    budget = field_budget(MAX_FIELDS)
    layers = _layers_with_weights(memoryview(data), budget)
    shapes = expected_shapes(architecture)
    check_names("layer", layers, shapes)
    kernels, biases = {}, {}
    for name, shape in shapes.items():
        kernels[name], biases[name] = _read_blobs(
            layers[name], shape, budget, any_classes=name == architecture.last_conv_name
        )
    padding = _padding(layers[architecture.last_conv_name], budget)
    if padding is None:
        padding = published_last_conv_padding(architecture)
    return WeightFile(kernels, biases, "caffe", padding)


def max_bytes(architecture: Architecture) -> int:
    """The length of a file of float64 with gradients and as many classes as there may be."""
    return 2 * 8 * max_parameters(architecture) + 2**20


def _layers_with_weights(net: memoryview, budget: Budget) -> dict[str, CaffeLayer]:
    layers = {}
    for number, wire_type, message in read_fields(net, budget):
        if number not in LAYER_FIELDS or wire_type != WireType.LENGTH_DELIMITED:
            continue
        layer = _read_layer(message, LAYER_FIELDS[number], budget)
        if not layer.blobs:
            continue
        if layer.name in layers:
            raise WeightFileError(f"it has two layers of the name {layer.name!r} with weights")
        layers[layer.name] = layer
    return layers


def _read_layer(message: memoryview, fields: LayerFields, budget: Budget) -> CaffeLayer:
    name, blobs, convolution_param = "", [], None
    for number, wire_type, value in read_fields(message, budget):
        if wire_type != WireType.LENGTH_DELIMITED:
            continue
        if number == fields.name:
            name = bytes(value[:MAX_NAME_BYTES]).decode("utf-8", "replace").replace("/", "_")
        elif number == fields.blobs:
            blobs.append(value)
        elif number == fields.convolution_param:
            convolution_param = value
    return CaffeLayer(name, tuple(blobs), convolution_param)


def _read_blobs(
    layer: CaffeLayer, shape: tuple[int, ...], budget: Budget, any_classes: bool
) -> tuple[np.ndarray, np.ndarray]:
    if len(layer.blobs) != 2:
        raise WeightFileError(
            f"{layer.name} must have a kernel and a bias. Received: {len(layer.blobs)} blobs"
        )
    height, width, channels, filters = shape
    kernel, found = _read_blob(layer, 0, budget)
    if any_classes and len(found) == 4:
        shape = with_classes(shape, found[0])
        filters = found[0]
    if found != (filters, channels, height, width):
        raise WeightFileError(
            f"the kernel of {layer.name} must have the shape "
            f"{(filters, channels, height, width)}. Received: {found}"
        )
    bias, found = _read_blob(layer, 1, budget)
    if found not in ((filters,), (1, 1, 1, filters)):  # the latter in files of the older form
        raise WeightFileError(
            f"the bias of {layer.name} must have the shape {(filters,)}. Received: {found}"
        )
    return from_oihw(kernel, shape), bias


def _read_blob(layer: CaffeLayer, index: int, budget: Budget) -> tuple[np.ndarray, tuple[int, ...]]:
    """Float32 values, flat, and the shape that the file gives them: they fit each other."""
    old_shape, shape, chunks = [0, 0, 0, 0], None, []
    for number, wire_type, value in read_fields(layer.blobs[index], budget):
        if number in BLOB_OLD_SHAPE and wire_type == WireType.VARINT:
            old_shape[number - 1] = value
        elif number == BLOB_SHAPE and wire_type == WireType.LENGTH_DELIMITED:
            shape = _read_shape(value, budget)
        elif number in BLOB_DATA:
            chunks.append(_read_floats(value, wire_type, *BLOB_DATA[number], layer.name))
    shape = tuple(old_shape) if shape is None else shape
    count = sum(map(len, chunks))
    if count != prod(shape):
        raise WeightFileError(f"a blob of {layer.name} of shape {shape} has {count} values")
    values = np.empty(count, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # WeightFile finds what is not finite
        np.concatenate([np.empty(0, np.float32), *chunks], out=values, casting="same_kind")
    return values, shape


def _read_shape(message: memoryview, budget: Budget) -> tuple[int, ...]:
    dims = []
    for number, wire_type, value in read_fields(message, budget):
        if number == SHAPE_DIM and wire_type == WireType.LENGTH_DELIMITED:
            dims += read_varints(value, MAX_AXES)
        elif number == SHAPE_DIM and wire_type == WireType.VARINT:
            dims.append(value)
        if len(dims) > MAX_AXES:
            raise WeightFileError(f"a blob has more than {MAX_AXES} axes")
    return tuple(dims)


def _read_floats(
    value: memoryview, wire_type: int, dtype: np.dtype, unpacked_type: WireType, name: str
) -> np.ndarray:
    if wire_type == WireType.LENGTH_DELIMITED and len(value) % dtype.itemsize == 0:
        return np.frombuffer(value, dtype)
    if wire_type == unpacked_type:
        return np.frombuffer(value, [("tag", "u1"), ("value", dtype)])["value"]
    raise WeightFileError(f"a blob of {name} holds something else than {dtype.name}")


def _padding(layer: CaffeLayer, budget: Budget) -> int | None:
    """The zeros around the layer's input in pixels, or None where the file does not describe it."""
    if layer.convolution_param is None:
        return None
    pads, pad_h_w = [], {}
    for number, wire_type, value in read_fields(layer.convolution_param, budget):
        if number == PAD and wire_type == WireType.VARINT:
            pads.append(value)
        elif number == PAD and wire_type == WireType.LENGTH_DELIMITED:
            pads += read_varints(value, MAX_AXES)
        elif number in PAD_H_W and wire_type == WireType.VARINT:
            pad_h_w[number] = value
    if pad_h_w:
        pads += [pad_h_w.get(number, 0) for number in PAD_H_W]
    if len(set(pads)) > 1:
        raise WeightFileError(f"{layer.name} must be padded alike on all sides. Received: {pads}")
    return pads[0] if pads else 0
