"""When kernels are pruned, and how far: the schedules of a run.

Steps are counted from 1, as tfmot counts them. What the schedules give for a step is computed in
float32 as tfmot does, so that the same number of weights stays.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from keras_squeezenet.checks import is_number
from keras_squeezenet.compression.pruning.sparsities import check_share
from keras_squeezenet.compression.retraining import RetrainingError, RunLength

UNITS = ("epochs", "steps")

# Of such steps a polynomial decay has about this many where it is not told how often to prune.
_DEFAULT_PRUNINGS = 20


class Prunings(NamedTuple):
    """The steps of a run at which it prunes: the first, the last, and how far they are apart.

    The last is a multiple of `every` behind the first. Where the first is 0, which is before the
    run, the next is the first to come.
    """

    first: int
    last: int
    every: int

    def include(self, step: int) -> bool:
        return self.first <= step <= self.last and (step - self.first) % self.every == 0


@dataclass(frozen=True)
class PolynomialDecay:
    """Prune more and more: a steep beginning, a flat end (arXiv 1710.01878, equation 1).

    Attributes:
        begin: when it starts.
        end: when the sparsity asked for is reached, and training goes on. None: after two thirds
            of the run.
        every: between one pruning and the next. None: a twentieth of the way from begin to end.
        unit: "epochs", fractions allowed, or "steps", of the three before.
        initial_sparsity: share of zeros at `begin`.
        power: of the polynomial.

    Raises:
        RetrainingError: names the attribute that makes no schedule.
    """

    begin: float = 0
    end: float | None = None
    every: float | None = None
    unit: str = "epochs"
    initial_sparsity: float = 0.0
    power: float = 3

    def __post_init__(self) -> None:
        _check_times(self)
        check_share("initial_sparsity", self.initial_sparsity)
        if not is_number(self.power) or not 0 < self.power < math.inf:
            raise RetrainingError(f"`power` must be a number above 0. Received: power={self.power}")

    def steps(self, run: RunLength) -> Prunings:
        """At which steps of a run it prunes; at the last of them to the sparsity asked for.

        Raises:
            RetrainingError: in so few steps it would not reach its sparsity.
        """
        begin = _steps(self, self.begin, run)
        end = run.steps * 2 // 3 if self.end is None else _steps(self, self.end, run)
        every = self.every and max(1, _steps(self, self.every, run))
        every = every or max(1, (end - begin) // _DEFAULT_PRUNINGS)
        last = begin + (end - begin) // every * every
        if end > run.steps or last <= begin:
            raise RetrainingError(
                "The pruning schedule must prune twice or more and end within the run of "
                f"{run.steps} steps, or it never reaches its sparsity. Received: "
                f"begin={begin}, end={end}, every={every} in steps"
            )
        return Prunings(begin, last, every)

    def share(self, step: int, prunings: Prunings, sparsity: float, present: float) -> float:
        """What share of a kernel is 0 from a step on, while that is one of the `prunings`.

        Args:
            step: of the run, from 1.
            prunings: of the run.
            sparsity: the share asked for in the end.
            present: the share that is 0 before the first pruning and stays 0.
        """
        first, final = max(min(self.initial_sparsity, sparsity), present), max(sparsity, present)
        way = np.float32(step - prunings.first) / np.float32(prunings.last - prunings.first)
        left = (1 - way) ** np.float32(self.power)
        return float(np.float32(first - final) * left + np.float32(final))


@dataclass(frozen=True)
class ConstantSparsity:
    """Prune to the sparsity asked for at once; which weights these are may change later.

    Attributes:
        begin: when it prunes first; the first step of the run where that is 0.
        end: when it prunes last, and training goes on with those zeros. None: with `begin`.
        every: between one pruning and the next. None: one epoch.
        unit: "epochs", fractions allowed, or "steps", of the three before.

    Raises:
        RetrainingError: names the attribute that makes no schedule.
    """

    begin: float = 0
    end: float | None = None
    every: float | None = None
    unit: str = "epochs"

    def __post_init__(self) -> None:
        _check_times(self)

    def steps(self, run: RunLength) -> Prunings:
        """As `PolynomialDecay.steps`.

        Raises:
            RetrainingError: it would never prune in so few steps.
        """
        begin = max(1, _steps(self, self.begin, run))
        end = begin if self.end is None else max(begin, _steps(self, self.end, run))
        every = run.steps_per_epoch
        if self.every is not None:
            every = max(1, _steps(self, self.every, run))
        if end > run.steps:
            raise RetrainingError(
                f"The pruning schedule must prune within the run of {run.steps} steps. "
                f"Received: begin={begin}, end={end} in steps"
            )
        return Prunings(begin, begin + (end - begin) // every * every, every)

    def share(self, step: int, prunings: Prunings, sparsity: float, present: float) -> float:
        """As `PolynomialDecay.share`, always the same."""
        return max(sparsity, present)


Schedule = PolynomialDecay | ConstantSparsity


def _check_times(schedule: Schedule) -> None:
    for name in ("begin", "end", "every"):
        value = getattr(schedule, name)
        if value is None and name != "begin":
            continue
        if not is_number(value) or not 0 <= value < math.inf:
            raise RetrainingError(f"`{name}` must be a number ≥ 0. Received: {name}={value}")
    if schedule.unit not in UNITS:
        raise RetrainingError(f"`unit` must be 'epochs' or 'steps'. Received: unit={schedule.unit}")
    if schedule.end is not None and schedule.end < schedule.begin:
        raise RetrainingError(
            f"`end` must not be before `begin`. Received: begin={schedule.begin}, "
            f"end={schedule.end}"
        )


def _steps(schedule: Schedule, time: float, run: RunLength) -> int:
    return round(time * (run.steps_per_epoch if schedule.unit == "epochs" else 1))


def checked_schedule(schedule: Schedule | None) -> Schedule:
    """The schedule, or the default one.

    Raises:
        RetrainingError: it is none.
    """
    schedule = PolynomialDecay() if schedule is None else schedule
    if not isinstance(schedule, PolynomialDecay | ConstantSparsity):
        raise RetrainingError(
            "`schedule` must be a PolynomialDecay or a ConstantSparsity. "
            f"Received: schedule={schedule}"
        )
    return schedule
