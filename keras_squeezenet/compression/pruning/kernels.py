"""The kernels of any Keras 3 model that are pruned, after the names of their layers."""

import re
from collections.abc import Container, Iterator
from dataclasses import dataclass
from itertools import count

import keras
from keras import layers

from keras_squeezenet.compression.retraining import RetrainingError
from keras_squeezenet.network.graph import layers_within
from keras_squeezenet.network.kernel_layers import CONVOLUTIONS, SEPARABLE, TRANSPOSED

_DENSE = (*CONVOLUTIONS, *TRANSPOSED, layers.Dense, layers.EinsumDense)


@dataclass(frozen=True, eq=False)
class Kernel:
    """A kernel that may be pruned.

    Attributes:
        layer: whose kernel it is.
        variable: of floats.
        input_axes: those over which the layer sums up.
    """

    layer: layers.Layer
    variable: keras.Variable
    input_axes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.variable.shape)


def kernels_of(model: keras.Model) -> dict[str, Kernel]:
    """The kernels of dense layers and convolutions, and of separable ones the pointwise kernels.

    Depthwise kernels are not among them: they are few. Layers may be within models, wrappers and
    layers.

    Returns:
        Kernels by the names of their layers, in the order in which the model has them. A layer
        within a layer has that one's name before its own, fire2_squeeze1x1 for example; one of a
        model within the model where the name is taken. A pointwise kernel's ends in "_pointwise".

    Raises:
        RetrainingError: a layer is not built, or its kernel is of integers or has LoRA weights.
    """
    found: dict[str, Kernel] = {}
    seen: set[int] = set()  # a layer may be called often
    for owner, layer in _walk(model):
        if isinstance(layer, _DENSE + SEPARABLE) and id(layer) not in seen:
            seen.add(id(layer))
            name = _name(layer, owner, found)
            found[name] = Kernel(layer, _variable(layer, name), _input_axes(layer))
    return found


def _walk(outer: layers.Layer) -> Iterator[tuple[layers.Layer, layers.Layer]]:
    """(what it is directly in, layer) of each layer."""
    for layer in layers_within(outer):
        yield outer, layer
        yield from _walk(layer)


def _name(layer: layers.Layer, owner: layers.Layer, taken: Container[str]) -> str:
    name = f"{layer.name}_pointwise" if isinstance(layer, SEPARABLE) else layer.name
    if not isinstance(owner, keras.Model) or name in taken:
        name = f"{owner.name}_{name}"
    numbered = (f"{name}_{number}" for number in count(1))
    return name if name not in taken else next(each for each in numbered if each not in taken)


def _variable(layer: layers.Layer, name: str) -> keras.Variable:
    described = f"Layer {name} of class {type(layer).__name__}"
    if not layer.built:
        raise RetrainingError(
            f"{described} must be built to be pruned: call the model on a batch before. "
            "Received: a layer that is not built"
        )
    kernel = layer.pointwise_kernel if isinstance(layer, SEPARABLE) else layer.kernel
    if not isinstance(kernel, keras.Variable) or "float" not in kernel.dtype:
        with_lora = getattr(layer, "lora_enabled", False)
        received = "one with LoRA weights" if with_lora else "integers"
        raise RetrainingError(
            f"{described} must have a kernel of floats to be pruned. Received: {received}"
        )
    return kernel


def _input_axes(layer: layers.Layer) -> tuple[int, ...]:
    if isinstance(layer, layers.EinsumDense):
        _, kernel, outputs = re.split(r",|->", layer.equation.replace("...", "").replace(" ", ""))
        return tuple(axis for axis, label in enumerate(kernel) if label not in outputs)
    rank = len(layer.kernel.shape) if not isinstance(layer, SEPARABLE) else layer.rank + 2
    # A transposed convolution has its inputs last.
    return (rank - 1,) if isinstance(layer, TRANSPOSED) else (rank - 2,)
