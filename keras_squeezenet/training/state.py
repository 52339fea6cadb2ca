"""What a training run goes on from: agreed by all ranks at a commit, and outliving any of them."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

# Of the history, an epoch: its number and the number of ranks, and metrics by name.
Row = dict[str, Any]
# What a rank trained on: the indices of the examples, and the sums of its metrics over them.
Part = tuple[np.ndarray, dict[str, float]]


@dataclass(frozen=True, eq=False)
class TrainingState:
    """A moment between two steps of a training run, in host memory. It is never changed.

    Attributes:
        trained: bool `[examples]`: which of them the epoch at hand was trained on, by any rank.
        weights: the model's, in Keras's order.
        optimizer: the values of the optimizer's variables; None before the first step.
        ranks: how many counted `optimizer`'s updates; the count follows their number.
        epoch: number of epochs that are wholly behind.
        examples: number of examples trained on in the epoch at hand. More than `trained` holds
            where readable pictures came again in place of broken ones.
        metric_sums: the epoch's training metrics, each summed over `examples`.
        seconds: training time of the epoch so far, as rank 0 measured it.
        history: a row per epoch behind.
        stopped: whether training ended early.
        commits: how many there were; of two states of a run the one with more is the newer.
    """

    trained: np.ndarray = field(repr=False)
    weights: tuple[np.ndarray, ...] = field(repr=False)
    optimizer: tuple[np.ndarray, ...] | None = field(default=None, repr=False)
    ranks: int = 1
    epoch: int = 0
    examples: int = 0
    metric_sums: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    history: tuple[Row, ...] = field(default=(), repr=False)
    stopped: bool = False
    commits: int = 0

    @property
    def metrics(self) -> dict[str, float]:
        """Mean of each training metric over the epoch's examples so far."""
        return {name: value / self.examples for name, value in self.metric_sums.items()}

    def after_steps(
        self,
        parts: Iterable[Part],
        weights: Iterable[np.ndarray],
        optimizer: Iterable[np.ndarray],
        ranks: int,
        seconds: float,
    ) -> Self:
        """The state after more steps of the epoch.

        Args:
            parts: from each rank the indices of the examples that it trained on since the last
                commit, and the sums of its metrics over them.
            weights, optimizer, ranks: as the attributes.
            seconds: since the last commit.
        """
        trained, sums, examples = self.trained.copy(), dict(self.metric_sums), self.examples
        for indices, part_sums in parts:
            trained[indices] = True
            examples += len(indices)
            for name, value in part_sums.items():
                sums[name] = sums.get(name, 0.0) + value
        return replace(
            self,
            trained=trained,
            weights=tuple(weights),
            optimizer=tuple(optimizer),
            ranks=ranks,
            examples=examples,
            metric_sums=sums,
            seconds=self.seconds + seconds,
            commits=self.commits + 1,
        )

    def after_epoch(
        self,
        history: Iterable[Row],
        weights: Iterable[np.ndarray],
        optimizer: Iterable[np.ndarray],
        stopped: bool = False,
    ) -> Self:
        """The state at the beginning of the next epoch; `history` has a row more."""
        return replace(
            self,
            trained=np.zeros_like(self.trained),
            epoch=self.epoch + 1,
            examples=0,
            metric_sums={},
            seconds=0.0,
            weights=tuple(weights),
            optimizer=tuple(optimizer),
            history=tuple(history),
            stopped=stopped,
            commits=self.commits + 1,
        )
