"""Writers of the foreign weight files, independent of the readers: loops, libraries, PyTorch.

Weights are dicts from a layer's name to (kernel `[height, width, channels, filters]`, bias).
"""

import io
import struct

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from keras_squeezenet.network.architecture import Architecture

CLASSES = 7
# One Fire each without a 1×1 and without a 3×3 expand; names as of any other network.
TINY = Architecture.from_metaparameters(
    base_e=4,
    incr_e=4,
    freq=1,
    squeeze_ratio=0.5,
    fires=3,
    pool_after=(1, 3),
    conv1_filters=4,
    conv1_kernel_size=3,
)


def random_weights(architecture=TINY, classes=CLASSES, seed=0):
    """Small multiples of 1/8: exact in float16, and few enough for a codebook."""
    rng = np.random.default_rng(seed)
    return {
        name: (
            rng.integers(-60, 61, shape).astype(np.float32) / 8,
            rng.integers(-60, 61, shape[-1]).astype(np.float32) / 8,
        )
        for name, shape in architecture.kernel_shapes(classes).items()
    }


def pruned(weights, density, seed=1):
    rng = np.random.default_rng(seed)
    return {
        name: (kernel * (rng.random(kernel.shape) < density), bias)
        for name, (kernel, bias) in weights.items()
    }


def oihw(kernel):
    return np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))


def deep_compression_bytes(weights):
    layers = [_stored(oihw(kernel).ravel()) for kernel, _ in weights.values()]
    file = b"".join(struct.pack("<I", len(entries)) for _, entries in layers)
    for (codebook, entries), (_, bias) in zip(layers, weights.values(), strict=True):
        file += struct.pack("<256f", *codebook) + struct.pack(f"<{len(bias)}f", *bias)
        file += bytes(code for code, _ in entries)
        gaps = [gap for _, gap in entries] + [0] * (len(entries) % 2)
        file += bytes(low | high << 4 for low, high in zip(gaps[::2], gaps[1::2], strict=True))
    return file


def _stored(values):
    """Codebook and (code, gap) of a flat kernel, with fillers where 15 zeros are too few."""
    codebook = [0.0, *sorted({float(value) for value in values} - {0.0})]
    codes = {value: code for code, value in enumerate(codebook)}
    entries, zeros = [], 0
    for value in values:
        if value or zeros == 15:
            entries.append((codes[float(value)], zeros))
            zeros = 0
        else:
            zeros += 1
    return codebook + [0.0] * (256 - len(codebook)), entries


def ncnn_bytes(weights, float16_layers=()):
    file = b""
    for name, (kernel, bias) in weights.items():
        values = oihw(kernel).ravel().tolist()
        if name in float16_layers:
            body = b"\x47\x6b\x30\x01" + struct.pack(f"<{len(values)}e", *values)
        else:
            body = b"\x00\x00\x00\x00" + struct.pack(f"<{len(values)}f", *values)
        file += body + bytes(-len(body) % 4) + struct.pack(f"<{len(bias)}f", *bias.tolist())
    return file


def npz_bytes(weights, *, compressed=False, **options):
    arrays = {}
    for name, (kernel, bias) in weights.items():
        arrays |= {f"{name}/kernel": kernel, f"{name}/bias": bias}
    return npz_of(arrays | options, compressed)


def npz_of(arrays, compressed=False):
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


FLOAT, DOUBLE, INT64, UINT32, STRING, MESSAGE, ENUM = 2, 1, 3, 13, 9, 11, 5  # ENUM as int32
# What caffe.proto says of the messages that hold weights: field, type, number, repeated, message.
CAFFE_MESSAGES = {
    "BlobShape": [("dim", INT64, 1, True, None)],
    "BlobProto": [
        ("num", INT64, 1, False, None),
        ("channels", INT64, 2, False, None),
        ("height", INT64, 3, False, None),
        ("width", INT64, 4, False, None),
        ("data", FLOAT, 5, True, None),
        ("diff", FLOAT, 6, True, None),
        ("shape", MESSAGE, 7, False, "BlobShape"),
        ("double_data", DOUBLE, 8, True, None),
    ],
    "ConvolutionParameter": [
        ("num_output", UINT32, 1, False, None),
        ("pad", UINT32, 3, True, None),
        ("kernel_size", UINT32, 4, True, None),
        ("stride", UINT32, 6, True, None),
        ("pad_h", UINT32, 9, False, None),
        ("pad_w", UINT32, 10, False, None),
    ],
    "LayerParameter": [
        ("name", STRING, 1, False, None),
        ("type", STRING, 2, False, None),
        ("bottom", STRING, 3, True, None),
        ("loss_weight", FLOAT, 5, True, None),
        ("blobs", MESSAGE, 7, True, "BlobProto"),
        ("phase", ENUM, 10, False, None),
        ("convolution_param", MESSAGE, 106, False, "ConvolutionParameter"),
    ],
    "V1LayerParameter": [
        ("bottom", STRING, 2, True, None),
        ("name", STRING, 4, False, None),
        ("type", ENUM, 5, False, None),
        ("blobs", MESSAGE, 6, True, "BlobProto"),
        ("convolution_param", MESSAGE, 10, False, "ConvolutionParameter"),
    ],
    "NetParameter": [
        ("name", STRING, 1, False, None),
        ("layers", MESSAGE, 2, True, "V1LayerParameter"),
        ("input_dim", INT64, 4, True, None),
        ("layer", MESSAGE, 100, True, "LayerParameter"),
    ],
}


def _net_parameter(packed):
    """The class of NetParameter, made by the protobuf library."""
    package = f"caffe_{'packed' if packed else 'unpacked'}"
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{package}.proto", package=package, syntax="proto2"
    )
    for message_name, fields in CAFFE_MESSAGES.items():
        message = file.message_type.add(name=message_name)
        for name, kind, number, repeated, type_name in fields:
            field = message.field.add(
                name=name, type=kind, number=number, label=3 if repeated else 1
            )
            if type_name:
                field.type_name = f".{package}.{type_name}"
            if repeated and kind in (FLOAT, DOUBLE, INT64):
                field.options.packed = packed
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.NetParameter"))


NET_PARAMETER = {packed: _net_parameter(packed) for packed in (True, False)}


def caffe_name(name):
    return name.replace("_", "/")


def caffe_net(weights, *, packed=True, v1=False, old_shapes=False, double=False, pads=None):
    """A NetParameter, with the layers around the convolutions that a real file has.

    `pads` gives fields of the ConvolutionParameter by layer name; a layer without has no
    ConvolutionParameter.
    """
    net = NET_PARAMETER[packed](name="tiny")
    layers = net.layers if v1 else net.layer
    data = layers.add(name="data", type=5 if v1 else "Data")
    if not v1:
        data.phase = 1
    for name, (kernel, bias) in weights.items():
        layer = layers.add(name=caffe_name(name), type=4 if v1 else "Convolution", bottom=["x"])
        for fields in filter(None, [(pads or {}).get(name)]):
            for field, value in fields.items():
                target = layer.convolution_param
                if isinstance(value, list):
                    getattr(target, field).extend(value)
                else:
                    setattr(target, field, value)
        for values in (oihw(kernel), bias):
            blob = layer.blobs.add()
            (blob.double_data if double else blob.data).extend(values.ravel().tolist())
            if old_shapes:
                dims = (1,) * (4 - values.ndim) + values.shape
                blob.num, blob.channels, blob.height, blob.width = dims
            else:
                blob.shape.dim.extend(values.shape)
        layers.add(name=f"relu_{name}", type=18 if v1 else "ReLU")
    return net


def caffe_bytes(weights, **options):
    return caffe_net(weights, **options).SerializeToString()


def torchvision_network(architecture, classes):
    """The modules of torchvision/models/squeezenet.py, so that PyTorch gives the keys."""
    from torch import nn

    class TorchvisionFire(nn.Module):
        def __init__(self, channels, fire):
            super().__init__()
            self.squeeze = nn.Conv2d(channels, fire.squeeze, 1)
            self.squeeze_activation = nn.ReLU()
            self.expand1x1 = nn.Conv2d(fire.squeeze, fire.expand1x1, 1)
            self.expand1x1_activation = nn.ReLU()
            self.expand3x3 = nn.Conv2d(fire.squeeze, fire.expand3x3, 3, padding=1)
            self.expand3x3_activation = nn.ReLU()

    def pooling(number):
        pools = number in architecture.pool_after
        return [nn.MaxPool2d(3, 2, ceil_mode=True)] if pools else []

    channels = architecture.conv1_filters
    features = [nn.Conv2d(3, channels, architecture.conv1_kernel_size, 2), nn.ReLU(), *pooling(1)]
    for number, fire in zip(architecture.fire_numbers, architecture.fires, strict=True):
        features += [TorchvisionFire(channels, fire), *pooling(number)]
        channels = fire.out_channels
    classifier = nn.Sequential(nn.Dropout(), nn.Conv2d(channels, classes, 1), nn.ReLU())
    return nn.ModuleDict({"features": nn.Sequential(*features), "classifier": classifier})


def torchvision_state(weights, architecture=TINY, classes=CLASSES):
    """The state dict of a torchvision network with these weights, its convolutions in order."""
    import torch
    from torch import nn

    network = torchvision_network(architecture, classes)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    with torch.no_grad():
        for convolution, (kernel, bias) in zip(convolutions, weights.values(), strict=True):
            convolution.weight.copy_(torch.from_numpy(oihw(kernel)))
            convolution.bias.copy_(torch.from_numpy(bias))
    return network.state_dict()


def torch_bytes(state, **options):
    import torch

    file = io.BytesIO()
    torch.save(state, file, **options)
    return file.getvalue()
