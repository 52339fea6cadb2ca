"""A LiteRT file beside its network: run on images, and refused if it does something else."""

import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_squeezenet.litert.model import LiteRTModel, TensorDetails, chunks
from keras_squeezenet.litert.quantizations import QUANTIZATIONS
from keras_squeezenet.litert.ranges import (
    MOST_CONFIDENCE_LOST,
    MOST_IMAGES_AT_END,
    Saturation,
    measure_saturation,
)
from keras_squeezenet.machine import own_threads


class ExportError(RuntimeError):
    """The converter failed, or its file does not do what the Keras model does."""


@dataclass(frozen=True)
class ExportResult:
    """What was written, and how far it is from the Keras model, measured on the file.

    Attributes:
        path: the file.
        bytes: its size, class names included.
        quantize: a name of `QUANTIZATIONS`.
        input: of the file.
        output: of the file.
        max_difference: largest absolute difference of any output of any image.
        mean_difference: mean over the images of each image's largest absolute difference.
        decisions_equal: share (0 to 1) of images with the same top-1 class; None where the output
            is not `(batch, classes)`.
        images_checked: images compared.
        tolerance: what the difference was held to; see `export_litert`.
        confidence: mean over the images of the file's highest output; None where the output is not
            `(batch, classes)`.
        model_confidence: the same of the model.
        saturation: of an int8 file, a `Saturation` of each activation that nothing bounds.
    """

    path: Path
    bytes: int
    quantize: str
    input: TensorDetails
    output: TensorDetails
    max_difference: float
    mean_difference: float
    decisions_equal: float | None
    images_checked: int
    tolerance: float
    confidence: float | None = None
    model_confidence: float | None = None
    saturation: tuple[Saturation, ...] = ()

    @property
    def saturated_decision(self) -> Saturation | None:
        """Of what decides, the activation whose end most images reach; None if none is known."""
        deciding = (found for found in self.saturation if found.decides)
        return max(deciding, key=lambda found: found.images, default=None)

    @property
    def most_saturated(self) -> Saturation | None:
        """The activation of which most values are at an end; None if none is known."""
        return max(self.saturation, key=lambda found: found.values, default=None)

    @property
    def warning(self) -> str | None:
        """One line about ranges that are too narrow for the images; None where they are not."""
        signs = []
        worst = self.saturated_decision
        if worst and worst.images > MOST_IMAGES_AT_END:
            signs.append(f"{worst.images:.0%} of the images reach the end of {worst.name}'s range")
        now, before = self.confidence, self.model_confidence
        if self.saturation and now is not None and before is not None:
            scale = max(1.0, abs(before))
            if before - now > MOST_CONFIDENCE_LOST * scale:
                signs.append(f"the mean of the highest output falls from {before:.3f} to {now:.3f}")
        if not signs:
            return None
        return (
            f"8-bit ranges cut values off: {', and '.join(signs)}. "
            "Take the ranges from such images too"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts, for `json.dumps`. No tolerance is None."""
        tolerance = self.tolerance if math.isfinite(self.tolerance) else None
        found = {"path": str(self.path), "tolerance": tolerance, "warning": self.warning}
        return {**asdict(self), **found}


def outputs_of(network: Callable, images: np.ndarray) -> np.ndarray:
    """What a Keras or tf_keras model gives for images, a few at a time, as in inference.

    `Model.predict` would compile a graph for a few batches.
    """
    return np.concatenate(
        [np.asarray(network(chunk, training=False)) for chunk, _ in chunks(images, None)]
    )


def compare(
    written: Path,
    path: Path,
    quantize: str,
    images: np.ndarray,
    reference: np.ndarray,
    *,
    tolerance: float | None = None,
    model_confidence: float | None = None,
) -> ExportResult:
    """Run a file beside what its network gives.

    Args:
        written: the file.
        path: where it is going to be.
        quantize: a name of `QUANTIZATIONS`.
        images: float32 `[n, height, width, channels]`, as the network takes them.
        reference: the network's outputs for them.
        tolerance: see `export_litert`.
        model_confidence: of the network, where it is another than that of `reference`.
    """
    kind = QUANTIZATIONS[quantize]
    litert = LiteRTModel(written, num_threads=own_threads())
    outputs = litert.predict(images)
    differences = np.abs(outputs - reference).reshape(len(images), -1).max(axis=1)
    decisions_equal = confidence = None
    if reference.ndim == 2:
        decisions_equal = float(np.mean(outputs.argmax(axis=1) == reference.argmax(axis=1)))
        confidence = float(outputs.max(axis=1).mean())
        if model_confidence is None:
            model_confidence = float(reference.max(axis=1).mean())
    largest_output = max(1.0, float(np.abs(reference).max()))
    return ExportResult(
        path=path,
        bytes=os.path.getsize(written),
        quantize=quantize,
        input=litert.input,
        output=litert.output,
        max_difference=float(differences.max()),
        mean_difference=float(differences.mean()),
        decisions_equal=decisions_equal,
        images_checked=len(images),
        tolerance=(kind.tolerance if tolerance is None else tolerance) * largest_output,
        confidence=confidence,
        model_confidence=model_confidence,
        saturation=measure_saturation(written, images) if kind.calibrated else (),
    )


def check_agreement(
    result: ExportResult, *, is_classifier: bool, network: str = "Keras model"
) -> None:
    """Refuse a file that does something else than its network.

    Args:
        is_classifier: whether the shares of equal decisions count.
        network: what to call it.

    Raises:
        ExportError: it is further off than its tolerance, or decides too many images otherwise.
    """
    kind = QUANTIZATIONS[result.quantize]
    difference = {"largest": result.max_difference, "mean": result.mean_difference}[kind.held_to]
    least_equal = kind.least_equal_decisions if is_classifier else 0.0
    equal = 1.0 if result.decisions_equal is None else result.decisions_equal
    # A NaN fails the comparison.
    if not difference <= result.tolerance or (
        math.isfinite(result.tolerance) and equal < least_equal
    ):
        raise ExportError(
            f"{result.path}: the {result.quantize} file does not do what the {network} does on "
            f"{result.images_checked} images: {kind.held_to} difference {difference:.3g} "
            f"(tolerance {result.tolerance:.3g}), share of equal decisions {equal:.3f} (at least "
            f"{least_equal:.2f}). Nothing was written"
        )
