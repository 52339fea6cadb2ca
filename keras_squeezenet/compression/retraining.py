"""How a network is trained while it is compressed, and what came out of it."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from keras_squeezenet.checks import is_int, is_number
from keras_squeezenet.errors import InputError


class RetrainingError(InputError):
    """What was asked for cannot be trained; the text is one line."""


@dataclass(frozen=True)
class Retraining:
    """How a network is trained while and after it is compressed: SGD with momentum.

    Attributes:
        epochs: rounds of `steps_per_epoch` steps.
        steps_per_epoch: steps of each rank in an epoch.
        learning_rate: of the first step; it falls to 0 along half a cosine. It is not scaled by
            the number of ranks.
        momentum: from 0 to below 1.

    Raises:
        RetrainingError: names the attribute that is out of its range.
    """

    epochs: int
    steps_per_epoch: int
    learning_rate: float = 1e-3
    momentum: float = 0.9

    def __post_init__(self) -> None:
        for name in ("epochs", "steps_per_epoch"):
            value = getattr(self, name)
            if not is_int(value, 1):
                raise RetrainingError(f"`{name}` must be an integer ≥ 1. Received: {name}={value}")
        rate, momentum = self.learning_rate, self.momentum
        if not is_number(rate) or not 0 < rate < math.inf:
            raise RetrainingError(
                f"`learning_rate` must be a number above 0. Received: learning_rate={rate}"
            )
        if not is_number(momentum) or not 0 <= momentum < 1:
            raise RetrainingError(
                f"`momentum` must be a number from 0 to below 1. Received: momentum={momentum}"
            )

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch


@dataclass(frozen=True)
class LayerStatistics:
    """The kernel of one layer after compression.

    Attributes:
        name: as in `Architecture.kernel_shapes`, fire2_squeeze1x1 for example.
        weights: number of weights.
        nonzero: how many of them are not 0.
        distinct: number of different values, 0 among them where it occurs.
    """

    name: str
    weights: int
    nonzero: int
    distinct: int

    @property
    def density(self) -> float:
        """Share of the weights that are not 0."""
        return self.nonzero / self.weights

    @classmethod
    def of(cls, name: str, kernel: np.ndarray) -> Self:
        return cls(name, kernel.size, int(np.count_nonzero(kernel)), len(np.unique(kernel)))
