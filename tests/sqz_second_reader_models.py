"""A second reader of .sqz files of version 2, written after docs/sqz.md alone.

It shares no code with the package. `model_in` gives the graph as JSON has it, and every array.
"""

import json
import math
import zlib
from pathlib import Path

import numpy as np

from tests.sqz_second_reader import (
    bits_of,
    block,
    float32,
    integers,
    read_best,
    read_codebooks,
    read_faithful,
    read_frame,
    run,
    signed,
    varint,
)

PAGE = Path(__file__).parents[1] / "docs" / "sqz.md"
PARTS = ("squeeze1x1", "expand1x1", "expand3x3", "bypass1x1")


def model_in(data):
    """A dict: "name", "graph", "resize", "class names", and "arrays", lists of floats by name."""
    mode, sections = read_frame(data, 2)
    name, graph, resize = json.loads(inflated(sections[0], dictionary()))
    shapes = dict(arrays_of(graph, ""))
    forms = bits_of(sections[2])
    assert len(sections[2]) == -(-len(shapes) // 8)
    assert "1" not in forms[len(shapes) :]
    shared = [n for n, form in zip(shapes, forms, strict=False) if form == "1"]
    others = [n for n, form in zip(shapes, forms, strict=False) if form == "0"]
    arrays = dict(zip(others, numbers(sections[4], [shapes[n] for n in others]), strict=True))
    if shared:
        codebooks = read_codebooks(sections[3], len(shared))
        kernels = [kernel_of(n, shapes[n]) for n in shared]
        codes = (read_faithful, read_best)[mode](sections[5:], codebooks, kernels)
        for n, (values, _), kernel in zip(shared, codebooks, codes, strict=True):
            arrays[n] = [float(values[code]) for code in kernel]
    else:
        assert not any(sections[5:])
    return {
        "name": name,
        "graph": graph,
        "resize": resize,
        "class names": json.loads(inflated(sections[1], b"")) if sections[1] else None,
        "arrays": {n: arrays[n] for n in shapes},
    }


def dictionary():
    *_, block_of_text = PAGE.read_text(encoding="utf-8").split("## Updates")[0].split("```text")
    return block_of_text.split("```")[0].replace("\n", "").encode()


def inflated(section, zdict):
    return zlib.decompressobj(-15, zdict).decompress(section)


def kernel_of(name, shape):
    kind = name.split("/")[-1]
    if len(shape) == 3 and kind.endswith("kernel"):
        shape = (1, *shape)
    if kind == "depthwise_kernel":
        height, width, channels, multiplier = shape
        return height, width, 1, channels * multiplier
    if kind in ("kernel", "pointwise_kernel") and len(shape) == 4:
        return shape
    return 1, 1, math.prod(shape[:-1]), shape[-1] if shape else 1


def numbers(section, shapes):
    forms, at = block(section, 0)
    heads, place = [], 0
    for _ in shapes:
        form, place = varint(forms, place)
        step = None
        if form == 0:
            step = np.frombuffer(forms[place : place + 4], "<f4")[0]
            place += 4
        heads.append((form, step))
    assert place == len(forms)
    sizes = [math.prod(shape) for shape in shapes]
    totals = [
        sum(s for s, (form, _) in zip(sizes, heads, strict=True) if form == f) for f in range(3)
    ]
    grid, at = integers(section, at, totals[0])
    half, at = floats(section, at, totals[1], "<f2", 10)
    full, at = floats(section, at, totals[2], "<f4", 23)
    assert at == len(section)
    runs = [iter(grid), iter(half), iter(full)]
    arrays = []
    for size, (form, step) in zip(sizes, heads, strict=True):
        values = [next(runs[form]) for _ in range(size)]
        if form == 0:
            values = [float(step * float32(signed(value))) for value in values]
        arrays.append([value + 0.0 for value in values])
    return arrays


def floats(section, at, count, kind, mantissa):
    """A run of floats, and where it ends: classes are sign and exponent, then the mantissas."""
    classes, bits, at = run(section, at, count, lambda _: mantissa)
    values = []
    for above, low in zip(classes, bits, strict=True):
        data = (above << mantissa | int(low, 2)).to_bytes(np.dtype(kind).itemsize, "little")
        values.append(float(np.frombuffer(data, kind)[0]))
    return values, at


def arrays_of(graph, path):
    """Names and shapes of the arrays of a graph, in order."""
    _, nodes, _, _ = graph
    for node in nodes:
        if isinstance(node[0], int) or node[0] == "Input":
            continue
        if node[0] == "Model":
            yield from arrays_of(node[2], f"{path}{node[1]}/")
            continue
        given = node[2] if len(node) > 2 and node[2] else {}
        for name, shape in arrays_of_layer(node[0], given):
            yield f"{path}{node[1]}/{name}", tuple(shape)


def arrays_of_layer(kind, given):
    channels, shape = given.get("channels"), given.get("shape")
    size = given.get("kernel_size")
    multiplier = given.get("depth_multiplier", 1)
    outputs = None
    if kind in ("Conv1D", "Conv2D", "GroupedConv2D"):
        outputs = given["filters"]
        yield "kernel", [*size, channels // given.get("groups", 1), outputs]
    elif kind in ("DepthwiseConv1D", "DepthwiseConv2D"):
        outputs = channels * multiplier
        yield "depthwise_kernel", [*size, channels, multiplier]
    elif kind in ("SeparableConv1D", "SeparableConv2D"):
        outputs = given["filters"]
        yield "depthwise_kernel", [*size, channels, multiplier]
        yield "pointwise_kernel", [*[1 for _ in size], channels * multiplier, outputs]
    elif kind in ("Conv1DTranspose", "Conv2DTranspose"):
        outputs = given["filters"]
        yield "kernel", [*size, outputs, channels]
    elif kind == "Dense":
        outputs = given["units"]
        yield "kernel", [channels, outputs]
    elif kind in ("BatchNormalization", "LayerNormalization", "GroupNormalization"):
        shape = shape if kind == "LayerNormalization" else [channels]
        only_scale = given.get("rms_scaling", False)
        if given.get("scale", True) or only_scale:
            yield "gamma", shape
        if given.get("center", True) and not only_scale:
            yield "beta", shape
        if kind == "BatchNormalization":
            yield "moving_mean", shape
            yield "moving_variance", shape
    elif kind == "Normalization":
        yield "mean", shape
        yield "variance", shape
    elif kind == "LayerScale":
        yield "gamma", [given["projection_dim"]]
    elif kind == "RMSNormalization":
        yield "scale", shape
    elif kind == "PReLU":
        yield "alpha", shape
    elif kind == "Fire":
        yield from arrays_of_fire(given)
    if outputs is not None and given.get("use_bias", True):
        yield "bias", [outputs]


def arrays_of_fire(given):
    channels, squeeze = given["channels"], given["squeeze_filters"]
    one, three = given["expand1x1_filters"], given["expand3x3_filters"]
    kernels = (
        (1, 1, channels, squeeze),
        (1, 1, squeeze, one),
        (3, 3, squeeze, three),
        (1, 1, channels, one + three if given.get("bypass") == "complex" else 0),
    )
    for part, kernel in zip(PARTS, kernels, strict=True):
        if not kernel[-1]:
            continue
        yield f"{part}/kernel", kernel
        if given.get("batch_normalization", False):
            for name in ("gamma", "beta", "moving_mean", "moving_variance"):
                yield f"{part}_normalization/{name}", kernel[-1:]
        else:
            yield f"{part}/bias", kernel[-1:]
