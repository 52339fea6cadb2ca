"""From a `CompressedModel` to the bytes of a .sqz file of version 2, and back.

Arrays of shared values are coded as the kernels of version 1 are, all others as its biases.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np

from keras_squeezenet.errors import InputError, one_line
from keras_squeezenet.network.architecture import KernelShape
from keras_squeezenet.sqz import container, graph_text, numbers
from keras_squeezenet.sqz.coding import CODERS, alphabet_and_codes, check_mode
from keras_squeezenet.sqz.graph import check_limits
from keras_squeezenet.sqz.layer_kinds import Shape
from keras_squeezenet.sqz.model import CompressedModel, Stored
from keras_squeezenet.sqz.network import SharedValues
from keras_squeezenet.sqz.numbers import Alphabet, Layer
from keras_squeezenet.sqz.reading import Bytes, SqzError, pack_bits, unpack_bits

COMMON_SECTIONS = ("header", "class names", "forms", "codebooks", "numbers")
SECTIONS = {mode: (*COMMON_SECTIONS, *coder.SECTIONS) for mode, coder in CODERS.items()}

# A file holds so many weights, or so many for each of its bytes if that is more: what one byte can
# make a reader take is bounded, and a large network is a large file.
LEAST_MOST_WEIGHTS = container.MAX_WEIGHTS
WEIGHTS_PER_BYTE = 64
MAX_WEIGHTS = 2**28


def encode(model: CompressedModel, mode: str = "best") -> bytes:
    """The bytes of a .sqz file of version 2.

    Args:
        model: what to write.
        mode: "faithful" or "best".

    Raises:
        InputError: for another mode, and for a model beyond the limits in `docs/sqz.md`.
    """
    check_mode(mode)
    check_limits(model.graph, MAX_WEIGHTS)
    shared = {name: a for name, a in model.arrays.items() if isinstance(a, SharedValues)}
    layers = [coded(name, array) for name, array in shared.items()]
    sections = {
        "header": graph_text.encode_header(model.name, model.graph, model.resize),
        "class names": container.encode_class_names(model.class_names),
        "forms": pack_bits([name in shared for name in model.arrays], [1] * len(model.arrays)),
        "codebooks": numbers.encode_codebooks([alphabet for alphabet, _ in layers]),
        "numbers": numbers.encode_biases(
            [array.ravel() for array in model.arrays.values() if isinstance(array, np.ndarray)]
        ),
        **(CODERS[mode].encode(layers) if layers else dict.fromkeys(CODERS[mode].SECTIONS, b"")),
    }
    data = container.write_file(
        mode, [sections[name] for name in SECTIONS[mode]], container.MODEL_VERSION
    )
    check_limits(model.graph, most_weights(len(data)))
    return data


def decode(data: Bytes) -> CompressedModel:
    """The model in the bytes of a .sqz file of version 2.

    Raises:
        SqzError: the bytes are not such a file.
    """
    mode, sections = container.read_file(data, SECTIONS, container.MODEL_VERSION)
    try:
        # What is not finite is refused where it would become a value.
        with np.errstate(over="ignore", invalid="ignore"):
            return _of_sections(mode, sections, most_weights(len(data)))
    except SqzError:
        raise
    except InputError as error:
        raise SqzError(f"the file holds no model: {one_line(error, 300)}") from error


def most_weights(file_bytes: int) -> int:
    """How many weights a file, or an update, of so many bytes may bring."""
    return min(max(LEAST_MOST_WEIGHTS, WEIGHTS_PER_BYTE * file_bytes), MAX_WEIGHTS)


def _of_sections(mode: str, sections: Mapping[str, memoryview], limit: int) -> CompressedModel:
    name, graph, resize = graph_text.decode_header(sections["header"])
    check_limits(graph, limit)
    shapes = graph.array_shapes()
    are_shared = unpack_bits(sections["forms"], [1] * len(shapes)).astype(bool)
    shared = [each for each, is_shared in zip(shapes, are_shared, strict=True) if is_shared]
    others = [each for each, is_shared in zip(shapes, are_shared, strict=True) if not is_shared]
    alphabets = numbers.decode_codebooks(sections["codebooks"], len(shared))
    values = numbers.decode_biases(sections["numbers"], [prod(shapes[each]) for each in others])
    codes = _codes(mode, sections, alphabets, [kernel_shape(s, shapes[s]) for s in shared])
    arrays: dict[str, Stored] = {
        # As SharedValues of version 1 have no -0.0, so have these not.
        each: (array + np.float32(0)).reshape(shapes[each])
        for each, array in zip(others, values, strict=True)
    }
    for each, alphabet, coded in zip(shared, alphabets, codes, strict=True):
        arrays[each] = SharedValues(coded.reshape(shapes[each]), alphabet.codebook)
    return CompressedModel(
        name=name,
        graph=graph,
        arrays={each: arrays[each] for each in shapes},
        class_names=container.decode_class_names(sections["class names"]),
        resize=resize,
    )


def _codes(
    mode: str,
    sections: Mapping[str, Bytes],
    alphabets: list[Alphabet],
    shapes: list[KernelShape],
) -> list[np.ndarray]:
    if shapes:
        return CODERS[mode].decode(sections, alphabets, shapes)
    if any(len(sections[name]) for name in CODERS[mode].SECTIONS):
        raise SqzError("a file without shared values must have no codes")
    return []


def coded(name: str, array: SharedValues) -> Layer:
    """An array as the kernel as which the coders take it."""
    alphabet, codes = alphabet_and_codes(array)
    return alphabet, codes.reshape(kernel_shape(name, codes.shape))


def kernel_shape(name: str, shape: Shape) -> KernelShape:
    """The kernel as which the coders take an array: height, width, channels, filters.

    A depthwise kernel is one of a single channel, whose filters are those of all its channels. One
    of a convolution along a line has height 1. What is no kernel of a convolution has one place,
    and its last axis is that of the filters.
    """
    kind = name.rpartition("/")[2]
    if kind in ("kernel", "depthwise_kernel", "pointwise_kernel") and len(shape) == 3:
        shape = (1, *shape)
    if kind == "depthwise_kernel":
        height, width, channels, multiplier = shape
        return height, width, 1, channels * multiplier
    if kind in ("kernel", "pointwise_kernel") and len(shape) == 4:
        height, width, channels, filters = shape
        return height, width, channels, filters
    return 1, 1, prod(shape[:-1]), shape[-1] if shape else 1
