"""From a `CompressedNetwork` to the bytes of a .sqz file of version 1, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_squeezenet.errors import InputError, one_line
from keras_squeezenet.network.architecture import KernelShape
from keras_squeezenet.sqz import container, context_coding, faithful, numbers
from keras_squeezenet.sqz.container import Header
from keras_squeezenet.sqz.network import CompressedNetwork, SharedValues, Values
from keras_squeezenet.sqz.numbers import Alphabet, Layer
from keras_squeezenet.sqz.reading import Bytes, SqzError

CODERS = {"faithful": faithful, "best": context_coding}
COMMON_SECTIONS = ("header", "class names", "codebooks", "biases")
SECTIONS = {mode: (*COMMON_SECTIONS, *coder.SECTIONS) for mode, coder in CODERS.items()}


def encode(
    network: CompressedNetwork, mode: str = "best", predictors: Bytes | None = None
) -> bytes:
    """The bytes of a .sqz file of version 1.

    They depend on the network's `values` only: entries of a codebook that no weight uses are not
    kept, beside those of a uniform grid.

    Args:
        network: what to write.
        mode: "faithful" or "best".
        predictors: for the best mode, the section of a file of about the same weights, which
            saves the time of fitting them; None: they are fitted.

    Raises:
        InputError: for another mode, and for a network beyond the limits in `docs/sqz.md`.
    """
    check_mode(mode)
    layers = [alphabet_and_codes(kernel) for kernel in network.kernels.values()]
    given = {"predictors": predictors} if mode == "best" else {}
    sections = {
        "header": Header.of(network).encode(),
        "class names": container.encode_class_names(network.class_names),
        "codebooks": numbers.encode_codebooks([alphabet for alphabet, _ in layers]),
        "biases": numbers.encode_biases([bias.values for bias in network.biases.values()]),
        **CODERS[mode].encode(layers, **given),
    }
    return container.write_file(mode, [sections[name] for name in SECTIONS[mode]])


def check_mode(mode: str) -> None:
    if mode not in CODERS:
        raise InputError(f"`mode` must be one of {', '.join(CODERS)}. Received: mode={mode}")


def decode(data: Bytes) -> CompressedNetwork:
    """The network in the bytes of a .sqz file.

    Raises:
        SqzError: the bytes are not such a file.
    """
    return Contents.read(data).network()


@dataclass(frozen=True, eq=False)
class Contents:
    """A .sqz file with its arrays decoded.

    Attributes:
        mode: "faithful" or "best".
        sections: bytes by name.
        header: all of the network but its class names and its arrays.
        shapes: of the kernels, by name.
        layers: pairs of an `Alphabet` and codes, uint16, in the order of `shapes`.
        biases: float32 `[filters]`, in the same order.
    """

    mode: str
    sections: dict[str, memoryview]
    header: Header
    shapes: dict[str, KernelShape]
    layers: list[Layer]
    biases: list[Values]

    @classmethod
    def read(cls, data: Bytes) -> Contents:
        mode, sections = container.read_file(data, SECTIONS)
        try:
            # What is not finite is refused where it would become a value.
            with np.errstate(over="ignore", invalid="ignore"):
                return cls._of_sections(mode, sections)
        except SqzError:
            raise
        except InputError as error:
            raise SqzError(f"the file holds no network: {one_line(error, 200)}") from error

    @classmethod
    def _of_sections(cls, mode: str, sections: dict[str, memoryview]) -> Contents:
        header = Header.decode(sections["header"])
        shapes = header.architecture.kernel_shapes(header.classes)
        alphabets = numbers.decode_codebooks(sections["codebooks"], len(shapes))
        biases = numbers.decode_biases(sections["biases"], [s[-1] for s in shapes.values()])
        codes = CODERS[mode].decode(sections, alphabets, list(shapes.values()))
        layers = list(zip(alphabets, codes, strict=True))
        return cls(mode, sections, header, shapes, layers, biases)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return container.decode_class_names(self.sections["class names"])

    def network(self) -> CompressedNetwork:
        """Raises `SqzError` where the header and the arrays make none."""
        try:
            return network_of(self.header, self.class_names, self.layers, self.biases)
        except SqzError:
            raise
        except InputError as error:
            raise SqzError(f"the file holds no network: {one_line(error, 200)}") from error


def network_of(
    header: Header,
    class_names: tuple[str, ...] | None,
    layers: Sequence[Layer],
    biases: Sequence[Values],
) -> CompressedNetwork:
    """The `CompressedNetwork` of decoded parts; see `Contents`."""
    shapes = header.architecture.kernel_shapes(header.classes)
    kernels = [SharedValues(codes, alphabet.codebook) for alphabet, codes in layers]
    return CompressedNetwork(
        **{name: getattr(header, name) for name in Header.__dataclass_fields__},
        class_names=class_names,
        kernels=dict(zip(shapes, kernels, strict=True)),
        biases=dict(zip(shapes, map(SharedValues.of, biases), strict=True)),
    )


def alphabet_and_codes(shared: SharedValues) -> Layer:
    """The alphabet of the values in use, and the array as codes of it."""
    used = np.bincount(shared.codes.ravel(), minlength=len(shared.codebook)) > 0
    alphabet = Alphabet.of(shared.codebook[used])
    codes = np.searchsorted(alphabet.codebook, shared.codebook).astype(np.uint16)
    return alphabet, codes[shared.codes]
