"""Calls of keras.ops in a model's graph, `x + 1` and `x * y` among them, as layers of the twin.

Each function takes the place and the arguments of the call, and gives the outputs. What the twin
has no exact layers for is refused.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_squeezenet.compression.with_training.bridge import lines
from keras_squeezenet.compression.with_training.bridge.activations import activate, clipped
from keras_squeezenet.compression.with_training.bridge.place import Place
from keras_squeezenet.network.graph import class_beside

Handler = Callable[..., Any]


def is_tensor(value: Any) -> bool:
    """Whether an argument is a tensor of the twin, not a constant."""
    return hasattr(value, "shape") and not isinstance(value, np.ndarray | np.generic | _ARRAYS)


_ARRAYS = type(ops.convert_to_tensor(0.0))


@cache
def table() -> dict[type, Handler]:
    """What carries the operations, by their classes."""
    named: dict[Callable, dict[str, Handler]] = {
        ops.add: {
            "Add": _add,
            "Clip": _clip,
            "Concatenate": _concatenate,
            "Divide": _divide,
            "ExpandDims": _reshape,
            "Max": _over_the_image("GlobalMaxPooling2D"),
            "Maximum": _maximum,
            "Mean": _over_the_image("GlobalAveragePooling2D"),
            "Minimum": _minimum,
            "Multiply": _multiply,
            "Negative": _negative,
            "Pad": _pad,
            "Power": _power,
            "Reshape": _reshape,
            "Square": _square,
            "Squeeze": _reshape,
            "Subtract": _subtract,
            "Tanh": _activation("tanh"),
            "Transpose": _transpose,
            "TrueDivide": _divide,
        },
        ops.relu: {
            "Elu": _elu,
            "Gelu": _gelu,
            "HardSigmoid": _activation("hard_sigmoid"),
            "HardSilu": _activation("hard_silu"),
            "HardTanh": _activation("hard_tanh"),
            "LeakyRelu": _leaky_relu,
            "LogSigmoid": _activation("log_sigmoid"),
            "Relu": _activation("relu"),
            "Relu6": _activation("relu6"),
            "Selu": _activation("selu"),
            "Sigmoid": _activation("sigmoid"),
            "Silu": _activation("silu"),
            "Softmax": _softmax,
            "Softplus": _activation("softplus"),
            "Softsign": _activation("softsign"),
            "TanhShrink": _activation("tanh_shrink"),
        },
        keras.activations.relu: {"ReLU": _relu},
        ops.cast: {"Cast": _cast},
    }
    found = {
        class_beside(function, name): handler
        for function, handlers in named.items()
        for name, handler in handlers.items()
    }
    return {kind: handler for kind, handler in found.items() if kind is not None}


def names() -> str:
    return ", ".join(sorted({kind.__name__ for kind in table()}))


def _activation(name: str) -> Handler:
    return lambda place, x: activate(place, x, name)


def _part(own: str | None) -> str | None:
    return own


def _constant(place: Place, value: Any, x: Any) -> NDArray[np.float64]:
    """A constant argument, one number or one for each channel of `x`."""
    array = np.asarray(value, np.float64)
    channels = x.shape[-1]
    if array.size == 1:
        return array.reshape(())
    if array.shape[-1] != channels or array.size != channels or array.ndim > len(x.shape):
        raise place.refusal(f"one number or {channels}, one for each channel", array.shape)
    return array.ravel()


def _both(place: Place, kind: str, x: Any, y: Any) -> Any:
    """A layer of two tensors. Of different ranks, tf_keras adds sizes elsewhere than keras.ops."""
    if len(x.shape) != len(y.shape):
        raise place.refusal("tensors of one rank", f"{tuple(x.shape)} and {tuple(y.shape)}")
    return place.layer(kind, [x, y])


def _add(place: Place, x: Any, y: Any) -> Any:
    if is_tensor(x) and is_tensor(y):
        return _both(place, "Add", x, y)
    if not is_tensor(x):
        x, y = y, x
    return place.affine(x, 1.0, _constant(place, y, x))


def _subtract(place: Place, x: Any, y: Any) -> Any:
    if is_tensor(x) and is_tensor(y):
        return _both(place, "Subtract", x, y)
    if is_tensor(x):
        return place.affine(x, 1.0, -_constant(place, y, x))
    return place.affine(y, -1.0, _constant(place, x, y))


def _multiply(place: Place, x: Any, y: Any) -> Any:
    if is_tensor(x) and is_tensor(y):
        return _both(place, "Multiply", x, y)
    if not is_tensor(x):
        x, y = y, x
    return place.affine(x, _constant(place, y, x))


def _divide(place: Place, x: Any, y: Any) -> Any:
    if is_tensor(y):
        raise place.refusal("a division by a constant", "one by a tensor")
    return place.affine(x, 1 / _constant(place, y, x))


def _negative(place: Place, x: Any) -> Any:
    return place.affine(x, -1.0)


def _square(place: Place, x: Any) -> Any:
    return place.layer("Multiply", [x, x])


def _power(place: Place, x: Any, y: Any) -> Any:
    if not is_tensor(x) or is_tensor(y) or np.size(y) != 1 or float(np.ravel(y)[0]) != 2:
        raise place.refusal("the second power", "another one")
    return _square(place, x)


def _maximum(place: Place, x: Any, y: Any) -> Any:
    if is_tensor(x) and is_tensor(y):
        return _both(place, "Maximum", x, y)
    if not is_tensor(x):
        x, y = y, x
    bound = _constant(place, y, x)
    if not bound.any():
        return activate(place, x, "relu")
    x = place.affine(x, 1.0, -bound, "shift")
    x = place.layer("ReLU", x, "relu")
    return place.affine(x, 1.0, bound)


def _minimum(place: Place, x: Any, y: Any) -> Any:
    """Of a constant: bound - relu(bound - x)."""
    if is_tensor(x) and is_tensor(y):
        return _both(place, "Minimum", x, y)
    if not is_tensor(x):
        x, y = y, x
    bound = _constant(place, y, x)
    x = place.affine(x, -1.0, bound, "shift")
    x = place.layer("ReLU", x, "relu")
    return place.affine(x, -1.0, bound)


def _clip(place: Place, x: Any) -> Any:
    least, most = place.operation.x_min, place.operation.x_max
    if np.size(least) != 1 or np.size(most) != 1 or not least < most:
        raise place.refusal("numbers x_min < x_max", f"x_min={least}, x_max={most}")
    return clipped(place, x, float(least), float(most), _part)


def _elu(place: Place, x: Any) -> Any:
    return place.layer("ELU", x, alpha=place.operation.alpha)


def _gelu(place: Place, x: Any) -> Any:
    if place.operation.approximate:
        raise place.refusal("gelu with approximate=False", "approximate=True")
    return activate(place, x, "gelu")


def _leaky_relu(place: Place, x: Any) -> Any:
    return place.layer("LeakyReLU", x, alpha=place.operation.negative_slope)


def _relu(place: Place, x: Any) -> Any:
    own = place.operation
    config = {name: getattr(own, name) for name in ("max_value", "negative_slope", "threshold")}
    return place.layer("ReLU", x, **config)


def _softmax(place: Place, x: Any) -> Any:
    return place.layer("Softmax", x, axis=place.operation.axis)


def _cast(place: Place, x: Any) -> Any:
    if not keras.backend.is_float_dtype(place.operation.dtype):
        raise place.refusal("a cast to float", place.operation.dtype)
    return x


def _concatenate(place: Place, xs: Sequence[Any]) -> Any:
    axis = place.operation.axis
    if axis in (0, -len(xs[0].shape)):
        raise place.refusal("an axis that is not the batch's", f"axis={axis}")
    return place.layer("Concatenate", xs, axis=axis)


def _over_the_image(kind: str) -> Handler:
    """Pooling over height and width, whatever the order of the axes, or over a line."""

    def pool(place: Place, x: Any) -> Any:
        own, rank = place.operation, len(x.shape)
        axes = own.axis if isinstance(own.axis, Sequence) else (own.axis,)
        places = {axis % rank for axis in axes if axis is not None}
        if rank not in (3, 4) or None in axes or places != set(range(1, rank - 1)):
            expected = "axis=(1, 2) of (batch, height, width, channels), or 1 of a line"
            raise place.refusal(expected, f"axis={own.axis} of {tuple(x.shape)}")
        if getattr(own, "initial", None) is not None:
            raise place.refusal("no initial value", f"initial={own.initial}")
        if rank == 3:
            return lines.pooled(place, kind, x, own.keepdims)
        return place.layer(kind, x, keepdims=own.keepdims)

    return pool


def _reshape(place: Place, x: Any) -> Any:
    """Reshape, Squeeze and ExpandDims, of everything but the batch."""
    before = tuple(x.shape[1:])
    spec = place.operation.compute_output_spec(keras.KerasTensor((None, *before)))
    batch, *sizes = spec.shape
    known = None not in before
    if batch is not None or sizes.count(None) > 1:
        raise place.refusal("a batch that stays as it is", f"sizes {spec.shape}")
    if known and (None in sizes or math.prod(sizes) != math.prod(before)):
        raise place.refusal(f"the {math.prod(before)} numbers of each example", f"sizes {sizes}")
    if not known and type(place.operation) is class_beside(ops.add, "Reshape"):
        raise place.refusal("an input of known sizes", tuple(x.shape))
    return place.layer(
        "Reshape", x, target_shape=tuple(-1 if size is None else size for size in sizes)
    )


def _transpose(place: Place, x: Any) -> Any:
    axes = place.operation.axes
    if axes is None or axes[0] != 0:
        raise place.refusal("axes that begin with 0, the batch's", f"axes={axes}")
    rank = len(x.shape)
    return place.layer("Permute", x, dims=tuple(axis % rank for axis in axes[1:]))


def _pad(place: Place, x: Any, constant_values: Any = None) -> Any:
    own = place.operation
    widths = tuple(map(tuple, np.broadcast_to(own.pad_width, (len(x.shape), 2)).tolist()))
    nothing = (0, 0)
    if own.mode != "constant" or np.any(constant_values) or len(widths) != 4:
        raise place.refusal("zeros around an image", f"mode={own.mode}, values {constant_values}")
    if widths[0] != nothing or widths[3] != nothing:
        raise place.refusal("zeros around height and width alone", f"pad_width={widths}")
    return place.layer("ZeroPadding2D", x, padding=widths[1:3])
