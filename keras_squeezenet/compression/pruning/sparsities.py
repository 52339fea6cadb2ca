"""How sparse each kernel is to become: one number, one by layer, or the published network's."""

import math
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from keras_squeezenet.checks import is_number
from keras_squeezenet.compression.retraining import RetrainingError
from keras_squeezenet.network.architecture import preset

DEFAULT_SPARSITY = 0.67  # Deep Compression's SqueezeNet keeps a third of its weights

# One for every kernel, each one's by layer name, a function of name and kernel shape, or
# "deep_compression".
Sparsity = float | dict[str, float] | Callable[[str, tuple[int, ...]], float] | str | None
Number = TypeVar("Number", int, float)

# The weights that are not 0 in compressed_SqueezeNet.net, SqueezeNet 1.0 deep-compressed by the
# paper's authors: github.com/songhan/SqueezeNet-Deep-Compression at fb13faa2. They pruned to 33,
# 50, 30 and 20 percent; in the other layers, what is missing was rounded to 0 by the codebook.
DEEP_COMPRESSION_NONZERO = {
    "conv1": 13902,
    "fire2_squeeze1x1": 1528,
    "fire2_expand1x1": 1020,
    "fire2_expand3x3": 3039,
    "fire3_squeeze1x1": 2038,
    "fire3_expand1x1": 1023,
    "fire3_expand3x3": 3039,
    "fire4_squeeze1x1": 4085,
    "fire4_expand1x1": 4071,
    "fire4_expand3x3": 12156,
    "fire5_squeeze1x1": 8160,
    "fire5_expand1x1": 4067,
    "fire5_expand3x3": 12147,
    "fire6_squeeze1x1": 12161,
    "fire6_expand1x1": 4602,
    "fire6_expand3x3": 27325,
    "fire7_squeeze1x1": 9205,
    "fire7_expand1x1": 9129,
    "fire7_expand3x3": 27336,
    "fire8_squeeze1x1": 24388,
    "fire8_expand1x1": 8187,
    "fire8_expand3x3": 44144,
    "fire9_squeeze1x1": 16370,
    "fire9_expand1x1": 16303,
    "fire9_expand3x3": 44173,
    "conv10": 102323,
}


class Shaped(Protocol):
    @property
    def shape(self) -> tuple[int, ...]: ...


def layer_sparsities(sparsity: Sparsity, kernel_by_name: Mapping[str, Shaped]) -> dict[str, float]:
    """What share of each kernel is to be 0, by name; see `MagnitudePruning`.

    Raises:
        RetrainingError: a share is outside 0 to below 1, a name is no kernel's, or none is pruned.
    """
    shapes = {name: kernel.shape for name, kernel in kernel_by_name.items()}
    if sparsity is None:
        sparsity = DEFAULT_SPARSITY
    if isinstance(sparsity, str):
        if sparsity != "deep_compression":
            raise RetrainingError(
                f"`sparsity` must be numbers or 'deep_compression'. Received: sparsity={sparsity}"
            )
        sparsities = deep_compression_sparsity(shapes)
    else:
        sparsities = by_layer("sparsity", sparsity, shapes)
    for name, share in sparsities.items():
        check_share(f"sparsity of {name}", share)
    if not any(sparsities.values()):
        raise RetrainingError(
            f"`sparsity` must be above 0 for some kernel. Received: sparsity={sparsity}"
        )
    return sparsities


def by_layer(
    argument: str,
    value: Number | dict[str, Number] | Callable[[str, tuple[int, ...]], Number],
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, Number]:
    """A number, a dict by layer names, or a function of name and shape, as a dict by names.

    Raises:
        RetrainingError: a name is no kernel's.
    """
    if callable(value):
        return {name: value(name, shape) for name, shape in shapes.items()}
    if not isinstance(value, dict):
        return dict.fromkeys(shapes, value)
    unknown = [name for name in value if name not in shapes]
    if unknown:
        raise RetrainingError(
            f"`{argument}` must name kernels of the model: {', '.join(shapes)}. "
            f"Received: {argument} for {unknown[0]}"
        )
    return dict(value)


def deep_compression_sparsity(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, float]:
    """The sparsities of the deep-compressed SqueezeNet, layer by layer.

    A layer of another name has that of its kind: the first kernel that of conv1; the last one, or
    a Dense layer's, that of conv10; a 1×1 kernel that of all expand 1×1 layers together, a larger
    one that of all expand 3×3 layers.

    Args:
        shapes: of the kernels, by names, in the order of execution.

    Returns:
        A dict from each of the names to a number from 0 to below 1.
    """
    names = list(shapes)
    sparsities = {}
    for name, shape in shapes.items():
        if name == names[-1] or len(shape) == 2:
            like = "conv10"
        elif name in DEEP_COMPRESSION_NONZERO and name != "conv10":
            like = name
        elif name == names[0]:
            like = "conv1"
        else:
            like = "expand1x1" if set(shape[:-2]) == {1} else "expand3x3"
        sparsities[name] = 1 - _published_density(like)
    return sparsities


def _published_density(layers: str) -> float:
    """Share of non-zero weights in the published layers whose names end so."""
    shapes = preset("1.0").kernel_shapes(1000)
    matching = [name for name in shapes if name.endswith(layers)]
    nonzero = sum(DEEP_COMPRESSION_NONZERO[name] for name in matching)
    return nonzero / sum(math.prod(shapes[name]) for name in matching)


def check_share(name: str, value: object) -> None:
    """Refuse what is no share of zeros.

    Raises:
        RetrainingError: names the argument.
    """
    if not is_number(value) or not 0 <= value < 1:
        raise RetrainingError(
            f"`{name}` must be a number from 0 to below 1. Received: {name}={value}"
        )
