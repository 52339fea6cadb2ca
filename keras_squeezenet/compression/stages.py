"""What each stage of a compression left behind, measured on its file. numpy only."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_squeezenet.checks import is_int
from keras_squeezenet.errors import InputError

if TYPE_CHECKING:  # it imports Keras
    from keras_squeezenet.litert.comparison import ExportResult


@dataclass(frozen=True)
class LayerCoding:
    """How the kernel of a layer can be written down.

    Attributes:
        name: as in `Architecture.kernel_shapes`.
        weights: number of weights.
        nonzero: how many of them are not 0.
        bits: of the index into the kernel's codebook; None where the weights are float32 as they
            are, of more than 65,536 different values or as good as no two alike.
    """

    name: str
    weights: int
    nonzero: int
    bits: int | None

    @property
    def density(self) -> float:
        """Share of the weights that are not 0."""
        return self.nonzero / self.weights

    @classmethod
    def of(cls, name: str, kernel: np.ndarray) -> "LayerCoding":
        nonzero = kernel[kernel != 0]
        distinct = np.unique(nonzero).size + (nonzero.size < kernel.size)
        # Two weights to a value are no codebook: it would be half as long as the kernel.
        shared = 2 * distinct <= nonzero.size and distinct <= 1 << 16
        bits = math.ceil(math.log2(distinct)) if shared else None
        return cls(name, kernel.size, nonzero.size, bits)


@dataclass(frozen=True)
class Stage:
    """A file, what it weighs and what it knows.

    Attributes:
        name: of the stage: "pruned", for example.
        path: the file.
        bytes: its size.
        top1, top5: share (0 to 1) of images whose class is the most probable one, and among the
            five most probable.
        standard_error: of `top1`, binomial.
        count: images measured.
        layers: of the kernels in the file; None where they are not asked for, as in LiteRT files.
        confidence: mean over the images of the highest probability (0 to 1); None if not measured.
        exported: of an int8 file, the `ExportResult` of its writing.

    Raises:
        InputError: names the attribute that is out of its range.
    """

    name: str
    path: Path
    bytes: int
    top1: float
    standard_error: float
    top5: float
    count: int
    layers: tuple[LayerCoding, ...] | None = None
    confidence: float | None = None
    exported: "ExportResult | None" = None

    def __post_init__(self) -> None:
        for name, least in (("bytes", 0), ("count", 1)):
            value = getattr(self, name)
            if not is_int(value, least):
                raise InputError(f"`{name}` must be an integer ≥ {least}. Received: {name}={value}")
        for name in ("top1", "standard_error", "top5"):
            value = getattr(self, name)
            # A NaN fails the comparison.
            if not 0 <= value <= 1:
                raise InputError(f"`{name}` must be from 0 to 1. Received: {name}={value}")

    @property
    def density(self) -> float | None:
        """Share of all kernels' weights that are not 0."""
        if not self.layers:
            return None
        return sum(layer.nonzero for layer in self.layers) / sum(
            layer.weights for layer in self.layers
        )

    @property
    def bits(self) -> float | None:
        """Mean over the weights of their kernels' bits; None where one has no codebook."""
        if not self.layers or any(layer.bits is None for layer in self.layers):
            return None
        # No `bits` is None here, which mypy does not see.
        return sum(layer.bits * layer.weights for layer in self.layers) / sum(  # type: ignore[operator, misc]
            layer.weights for layer in self.layers
        )

    @classmethod
    def measured(
        cls,
        name: str,
        path: str | os.PathLike[str],
        evaluation: Any,  # an `Evaluation`, of a room that imports from this one
        kernels: Mapping[str, np.ndarray] | None = None,
        exported: "ExportResult | None" = None,
    ) -> "Stage":
        """Of a file and its `Evaluation`; `kernels` are arrays by their layers' names."""
        return cls(
            name=name,
            path=Path(path),
            bytes=Path(path).stat().st_size,
            top1=evaluation.top1,
            standard_error=evaluation.top1_standard_error,
            top5=evaluation.top5,
            count=evaluation.count,
            layers=None
            if kernels is None
            else tuple(LayerCoding.of(*item) for item in kernels.items()),
            confidence=evaluation.confidence,
            exported=exported,
        )

    def row(self, float32_bytes: int) -> dict[str, Any]:
        """A line of `compression.csv`; `float32_bytes` are those of the weights alone."""
        return {
            "stage": self.name,
            "file": self.path.name,
            "bytes": self.bytes,
            "times_smaller": round(float32_bytes / self.bytes, 2),
            "top1": round(self.top1, 4),
            "standard_error": round(self.standard_error, 4),
            "top5": round(self.top5, 4),
            "confidence": "" if self.confidence is None else round(self.confidence, 4),
            "images": self.count,
            "density": "" if self.density is None else round(self.density, 4),
            "bits": "" if self.bits is None else round(self.bits, 2),
        }
