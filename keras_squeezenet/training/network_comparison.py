"""Networks side by side: what each costs, whether it fits, and how accurate it was measured."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from keras_squeezenet.checks import is_number
from keras_squeezenet.communication.cost_model import payload_bytes
from keras_squeezenet.errors import InputError
from keras_squeezenet.litert.latency import Latency
from keras_squeezenet.network.catalogue import ListedModel
from keras_squeezenet.network.profile import FLOAT32_BYTES, WIDTHS, ModelProfile

# Activations take no less: Deep Compression's 6 bits are an index into a codebook.
_LEAST_ACTIVATION_BITS = 8


@dataclass(frozen=True)
class MeasuredAccuracy:
    """A share of images that somebody measured.

    Attributes:
        top1: 0 to 1.
        source: on which images, and where that is written.
    """

    top1: float
    source: str


@dataclass(frozen=True)
class Fit:
    """Whether a network fits into so much memory, with so many bits for each weight.

    Attributes:
        bits: of a weight.
        weights: whether the weights alone fit.
        with_activations: whether they fit beside the most activations that are alive at once, of
            as many bits, and at least 8; layers work in place (`ModelProfile`).
    """

    bits: int
    weights: bool
    with_activations: bool


@dataclass(frozen=True)
class ComparedNetwork:
    """A line of the comparison.

    Attributes:
        name: as it was asked for.
        profile: its `ModelProfile`.
        accuracy: None where none is written down. It is never made up.
        latency: None where it was not measured; a text where it could not be.
    """

    name: str
    profile: ModelProfile
    accuracy: MeasuredAccuracy | None = None
    latency: Latency | str | None = None

    @property
    def gradient_bytes(self) -> int:
        """What one exchange of gradients takes into a rank, as float32."""
        return payload_bytes(self.profile.trainable_parameters, None)

    def fits(self, memory: int) -> list[Fit]:
        """For each width of a weight, from 32 to 6 bits, whether so many bytes are enough."""
        peak = self.profile.peak_activation_bytes_in_place // FLOAT32_BYTES
        found = []
        for bits in WIDTHS:
            weights = self.profile.weight_bytes_at(bits)
            activations = peak * max(bits, _LEAST_ACTIVATION_BITS) // 8
            found.append(Fit(bits, weights <= memory, weights + activations <= memory))
        return found

    def to_dict(self, memory: int | None = None) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts; of `memory` bytes also whether it fits."""
        profile = self.profile
        costs = {
            "network": self.name,
            "parameters": profile.parameters,
            "trainable_parameters": profile.trainable_parameters,
            "multiply_adds": profile.multiply_adds,
            "not_counted": list(profile.not_counted),
            "weight_bytes": profile.weight_bytes,
            "weight_bytes_at": {str(bits): profile.weight_bytes_at(bits) for bits in WIDTHS},
            "peak_activation_bytes": profile.peak_activation_bytes,
            "peak_activation_bytes_in_place": profile.peak_activation_bytes_in_place,
            "gradient_bytes": self.gradient_bytes,
        }
        if memory is not None:
            costs["fits"] = [asdict(fit) for fit in self.fits(memory)]
        if isinstance(self.latency, Latency):
            costs["latency_ms"] = asdict(self.latency)
        elif self.latency is not None:
            costs["latency_ms"], costs["no_latency"] = None, self.latency
        costs["top1"] = self.accuracy and self.accuracy.top1
        costs["accuracy_source"] = self.accuracy and self.accuracy.source
        return costs


def accuracy_of_listed(listed: ListedModel) -> MeasuredAccuracy | None:
    """Of published weights, as the catalogue has it; None of a network without."""
    weights = listed.weights
    if weights is None:
        return None
    source = (
        f"{weights.images} photos of {weights.photos}, ± {weights.top1_standard_error:.4f}; "
        "results/imagenet.csv"
    )
    return MeasuredAccuracy(weights.top1, source)


def accuracy_of_run(model: Path) -> MeasuredAccuracy | None:
    """Of the model that a run ended with, as its metrics.json says; None of another file.

    Raises:
        InputError: the metrics.json beside it cannot be read; the text names it.
    """
    path = model.with_name("metrics.json")
    if model.name != "model.keras" or not path.is_file():
        return None
    try:
        metrics = json.loads(path.read_bytes())
        measured, data = metrics["evaluation"], metrics["dataset"]
        top1, images = measured["top1"], measured["count"]
        if not (is_number(top1) and 0 <= top1 <= 1):
            raise ValueError(f"top1={top1}")
        return MeasuredAccuracy(top1, f"{images} validation images of {data['name']}; {path}")
    # RecursionError: ten thousand opening brackets.
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise InputError(f"Expected the metrics.json of a run: {path}: {error!r}") from error


def flat(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `ComparedNetwork.to_dict` for a file of lines and columns."""
    return [_flat(row) for row in rows]


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in row.items():
        if key == "weight_bytes_at":
            found |= {f"weight_bytes_at_{bits}_bits": size for bits, size in value.items()}
        elif key == "fits":
            for fit in value:
                found[f"weights_fit_at_{fit['bits']}_bits"] = fit["weights"]
                found[f"all_fits_at_{fit['bits']}_bits"] = fit["with_activations"]
        elif key == "latency_ms" and value:
            found |= {f"latency_ms_{name}": number for name, number in value.items()}
        elif key == "not_counted":
            found[key] = " ".join(value)
        else:
            found[key] = value
    return found
