"""The shapes of the weights of a layer in a .sqz file of version 2, from its arguments. No Keras.

Convolutions of one and of two axes are alike: `kernel_size` has a number for each axis.
"""

from collections.abc import Mapping
from typing import Any

Arguments = Mapping[str, Any]
Shape = tuple[int, ...]


def _with_bias(kernels: dict[str, Shape], arguments: Arguments, size: int) -> dict[str, Shape]:
    return {**kernels, "bias": (size,)} if arguments["use_bias"] else kernels


def conv(arguments: Arguments) -> dict[str, Shape]:
    filters, channels, groups = (arguments[key] for key in ("filters", "channels", "groups"))
    # Where groups do not divide the channels Keras refuses the layer.
    kernel = (*arguments["kernel_size"], max(channels // groups, 1), filters)
    return _with_bias({"kernel": kernel}, arguments, filters)


def depthwise(arguments: Arguments) -> dict[str, Shape]:
    channels, multiplier = arguments["channels"], arguments["depth_multiplier"]
    kernel = (*arguments["kernel_size"], channels, multiplier)
    return _with_bias({"depthwise_kernel": kernel}, arguments, channels * multiplier)


def separable(arguments: Arguments) -> dict[str, Shape]:
    channels, multiplier = arguments["channels"], arguments["depth_multiplier"]
    pixel = (1,) * len(arguments["kernel_size"])
    kernels = {
        "depthwise_kernel": (*arguments["kernel_size"], channels, multiplier),
        "pointwise_kernel": (*pixel, channels * multiplier, arguments["filters"]),
    }
    return _with_bias(kernels, arguments, arguments["filters"])


def transposed(arguments: Arguments) -> dict[str, Shape]:
    filters = arguments["filters"]
    kernel = (*arguments["kernel_size"], filters, arguments["channels"])
    return _with_bias({"kernel": kernel}, arguments, filters)


def dense(arguments: Arguments) -> dict[str, Shape]:
    units = arguments["units"]
    return _with_bias({"kernel": (arguments["channels"], units)}, arguments, units)


def scaled(arguments: Arguments, shape: Shape) -> dict[str, Shape]:
    wanted = {"gamma": arguments["scale"], "beta": arguments["center"]}
    return {name: shape for name, is_there in wanted.items() if is_there}


def batch_normalization(arguments: Arguments) -> dict[str, Shape]:
    shape = (arguments["channels"],)
    return {**scaled(arguments, shape), "moving_mean": shape, "moving_variance": shape}


def layer_normalization(arguments: Arguments) -> dict[str, Shape]:
    if arguments["rms_scaling"]:  # Keras makes no other weights then
        return {"gamma": arguments["shape"]}
    return scaled(arguments, arguments["shape"])


def fire(arguments: Arguments) -> dict[str, Shape]:
    squeeze, one, three = (
        arguments[f"{part}_filters"] for part in ("squeeze", "expand1x1", "expand3x3")
    )
    channels = arguments["channels"]
    parts = {
        "squeeze1x1": (1, 1, channels, squeeze),
        "expand1x1": (1, 1, squeeze, one),
        "expand3x3": (3, 3, squeeze, three),
        "bypass1x1": (1, 1, channels, one + three if arguments["bypass"] == "complex" else 0),
    }
    arrays: dict[str, Shape] = {}
    for part, shape in parts.items():
        if not shape[-1]:
            continue
        arrays[f"{part}/kernel"] = shape
        if arguments["batch_normalization"]:
            for name in ("gamma", "beta", "moving_mean", "moving_variance"):
                arrays[f"{part}_normalization/{name}"] = shape[-1:]
        else:
            arrays[f"{part}/bias"] = shape[-1:]
    return arrays
