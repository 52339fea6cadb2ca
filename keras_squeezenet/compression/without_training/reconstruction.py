"""Weights from a codebook that leave a layer's output as it was. Numpy only.

A layer computes x·W from patches x of its input. Rounding each weight to its nearest neighbour in a
codebook forgets that the inputs are correlated: an error in one weight can be taken back by those
that are still to be rounded. Optimal Brain Surgeon tells how (Hassibi and Stork, 1992), and for a
whole layer at once it needs one Cholesky factor of the inverse of E[x xᵀ] (Frantar et al., "GPTQ",
arXiv 2210.17323, section 3.3). The bias is the last to be changed and is not rounded with the
others: it takes up what they leave. A grouped or depthwise convolution is many such layers, which
share a codebook; all of them go through the same step at once.

Which neighbour is chosen also depends on how many bits it takes: Lagrangian cost of distortion and
entropy, as in entropy-constrained quantization (Chou, Lookabaugh and Gray, 1989).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

DAMPING = 0.01  # of the mean energy of an input, added to each: few images never show them all
BIAS_DAMPING = 1e-6  # of the constant's energy, against rounding only
DEAD = 1e-6  # of the greatest energy: an input below it was never seen at work
ENTROPY_ROUNDS = 3
BLOCK = 64  # rows that are updated at once
UNSEEN_COUNT = 0.1  # of a code that no weight has, so that its cost is finite


@dataclass(frozen=True, eq=False)
class Moments:
    """Second moments of what a layer takes: patches of its input, and the constant 1 of its bias.

    Attributes:
        own: float64 `[n + 1, n + 1]`, E[x xᵀ] of the patches that the layer is going to take; of a
            layer of groups `[groups, n + 1, n + 1]`; of one without bias n in place of n + 1.
        cross: the same shape, E[x yᵀ] of the patches x that the original layer took and those, y,
            that this one is going to take in the same places; None where they are the same.
    """

    own: np.ndarray
    cross: np.ndarray | None = None


class Layer:
    """A kernel that is to be replaced by one of few distinct values.

    Args:
        kernel: `[…, filters]`; all axes but the last are flattened into n inputs. Of a layer of
            groups `[groups, n, filters of a group]`.
        bias: `[filters]`, of all groups; None where there is none.
        moments: of its inputs.

    Attributes:
        nonzero: bool of the kernel's shape: where the original is not 0.
    """

    def __init__(self, kernel: np.ndarray, bias: np.ndarray | None, moments: Moments) -> None:
        self.shape = kernel.shape
        self.nonzero = kernel != 0
        self._has_bias = bias is not None
        own = _by_group(moments.own)
        weights: NDArray[Any] = kernel.reshape(len(own), -1, kernel.shape[-1]).astype(np.float64)
        self._inputs = inputs = weights.shape[1]
        if bias is not None:
            weights = np.concatenate([weights, bias.reshape(len(own), 1, -1)], axis=1)
        energies = np.diagonal(own, axis1=1, axis2=2)
        mean = energies[:, :inputs].mean(axis=1, keepdims=True)
        damping = np.repeat(DAMPING * np.where(mean > 0, mean, 1), weights.shape[1], axis=1)
        damping[:, inputs:] = BIAS_DAMPING * energies[:, inputs:]
        damped = own + damping[:, None] * np.eye(weights.shape[1])
        if moments.cross is not None:
            # The least squares fit of the original's outputs to the inputs that there will be.
            cross = _by_group(moments.cross).swapaxes(1, 2)
            weights = np.linalg.solve(damped, cross @ weights + damping[..., None] * weights)
        # Those whose errors cost most come first, while all the others can still take them up.
        order = np.argsort(-energies[:, :inputs], axis=1, kind="stable")
        last = np.full((len(own), weights.shape[1] - inputs), inputs)
        self._order = np.concatenate([order, last], axis=1)
        self._weights = np.take_along_axis(weights, self._order[..., None], axis=1)
        damped = np.take_along_axis(damped, self._order[..., None], axis=1)
        inverse = np.linalg.inv(np.take_along_axis(damped, self._order[:, None], axis=2))
        self._factor = np.linalg.cholesky((inverse + inverse.swapaxes(1, 2)) / 2).swapaxes(1, 2)
        # Where nothing was seen at all, what is left is the damping.
        energies = np.take_along_axis(energies, self._order, axis=1)
        self._live = energies[:, :inputs] >= DEAD * energies[:, :inputs].max()

    @classmethod
    def unseen(cls, kernel: np.ndarray) -> "Layer":
        """A kernel of which no inputs are known: as if they were all alike and had no relation."""
        inputs, filters = kernel.size // kernel.shape[-1], kernel.shape[-1]
        rows = next(size for size in range(min(inputs, BLOCK), 0, -1) if inputs % size == 0)
        groups = np.broadcast_to(np.eye(rows), (inputs // rows, rows, rows))
        layer = cls(kernel.reshape(-1, rows, filters), None, Moments(groups))
        layer.shape, layer.nonzero = kernel.shape, layer.nonzero.reshape(kernel.shape)
        return layer

    @property
    def kernel(self) -> NDArray[np.float64]:
        """The original kernel, or with cross moments its least squares fit; float64."""
        return self._in_place(self._weights[:, : self._inputs])

    @property
    def bias(self) -> NDArray[np.float64] | None:
        """The bias that goes with `kernel`; float64 `[filters]`."""
        return self._bias_in(self._weights)

    def _bias_in(self, weights: NDArray[np.float64]) -> NDArray[np.float64] | None:
        return weights[:, -1].reshape(-1) if self._has_bias else None

    @property
    def stiffness(self) -> float:
        """What an error of a weight costs after all others have answered it: geometric mean."""
        return _geometric_mean(self._stiffnesses[:, : self._inputs][self._live])

    @property
    def bias_stiffness(self) -> float:
        """The same of the bias, which nothing answers."""
        return _geometric_mean(self._stiffnesses[:, -1])

    @property
    def _stiffnesses(self) -> NDArray[np.float64]:
        return 1 / np.diagonal(self._factor, axis1=1, axis2=2) ** 2

    @property
    def saliency(self) -> NDArray[np.float64]:
        """What removing a weight costs, in the kernel's shape (Hassibi and Stork, equation 5)."""
        costs = (self._factor**2).sum(axis=1)[:, : self._inputs, None]
        return self._in_place(self._weights[:, : self._inputs] ** 2 / costs)

    def pruned(
        self, kept: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """The kernel with only the weights that are `kept`, the others adapted to it.

        Args:
            kept: bool of the kernel's shape.

        Returns:
            (kernel float32, bias float32 `[filters]` or None).
        """
        kept = self._ordered(kept)
        weights, values = self._weights.copy(), np.empty_like(self._weights[:, : self._inputs])
        for start, stop in _blocks(self._inputs):
            errors = np.empty((len(weights), stop - start, weights.shape[2]))
            for row in range(start, stop):
                values[:, row] = np.where(kept[:, row], weights[:, row], 0)
                errors[:, row - start] = self._spread(weights, row, stop, values[:, row])
            self._spread_on(weights, start, stop, errors)
        return self._in_place(values).astype(np.float32), _single(self._bias_in(weights))

    def assign(
        self, codebook: ArrayLike, rate_weight: float = 0.0, kept: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32] | None]:
        """The codes that leave the layer's output nearest to what it was, at few bits.

        Args:
            codebook: float `[k]`, ascending, with a 0.
            rate_weight: what a bit costs, in units of E[(x·W − x·Q)²] summed over patches.
            kept: bool of the kernel's shape: all others become 0. None: those that were not 0 in
                the original, so that a pruned kernel stays pruned.

        Returns:
            (codes int64 of the kernel's shape, bias float32 `[filters]` or None).
        """
        codebook = np.asarray(codebook, np.float64)
        zero = int(np.searchsorted(codebook, 0))
        borders = (codebook[1:] + codebook[:-1]) / 2
        kept = self._ordered(self.nonzero if kept is None else kept)
        codes = np.searchsorted(borders, self._weights[:, : self._inputs])
        for _ in range(ENTROPY_ROUNDS if rate_weight else 1):
            costs = rate_weight * _code_lengths(codes, len(codebook))
            codes, bias = self._assign_once(codebook, borders, zero, costs, kept)
        return self._in_place(codes), _single(bias)

    def _assign_once(
        self,
        codebook: NDArray[np.float64],
        borders: NDArray[np.float64],
        zero: int,
        costs: NDArray[np.float64],
        kept: NDArray[np.bool_],
    ) -> tuple[NDArray[np.int64], NDArray[np.float64] | None]:
        weights = self._weights.copy()
        codes = np.empty(kept.shape, np.int64)
        stiffness = self._stiffnesses
        for start, stop in _blocks(self._inputs):
            errors = np.empty((len(weights), stop - start, weights.shape[2]))
            for row in range(start, stop):
                nearest = np.searchsorted(borders, weights[:, row])
                # Beside the nearest value, only smaller ones can cost fewer bits.
                candidates = np.stack([nearest, nearest - np.sign(nearest - zero)])
                candidates = np.concatenate([candidates, np.full_like(candidates[:1], zero)])
                distortion = (weights[:, row] - codebook[candidates]) ** 2
                cost = stiffness[:, row, None] * distortion
                best = (cost + costs[candidates]).argmin(axis=0)
                chosen = np.take_along_axis(candidates, best[None], axis=0)[0]
                chosen = np.where(kept[:, row], chosen, zero)
                codes[:, row] = chosen
                errors[:, row - start] = self._spread(weights, row, stop, codebook[chosen])
            self._spread_on(weights, start, stop, errors)
        return codes, self._bias_in(weights)

    def _spread(
        self, weights: NDArray[np.float64], row: int, stop: int, values: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Let the rows up to `stop` answer the error of one row; its scaled error."""
        error = (weights[:, row] - values) / self._factor[:, row, row, None]
        weights[:, row + 1 : stop] -= self._factor[:, row, row + 1 : stop, None] * error[:, None]
        return error

    def _spread_on(
        self, weights: NDArray[np.float64], start: int, stop: int, errors: NDArray[np.float64]
    ) -> None:
        """Let the rows after a block answer the errors of the block."""
        weights[:, stop:] -= self._factor[:, start:stop, stop:].swapaxes(1, 2) @ errors

    def _ordered(self, kernel: np.ndarray) -> np.ndarray:
        """What has the kernel's shape, in the order in which rows are rounded."""
        grouped = kernel.reshape(len(self._order), self._inputs, -1)
        return np.take_along_axis(grouped, self._order[:, : self._inputs, None], axis=1)

    def _in_place(self, ordered: np.ndarray) -> np.ndarray:
        flat = np.empty_like(ordered)
        np.put_along_axis(flat, self._order[:, : self._inputs, None], ordered, axis=1)
        return flat.reshape(self.shape)


def _by_group(moments: np.ndarray) -> np.ndarray:
    return moments if moments.ndim == 3 else moments[None]


def _geometric_mean(values: NDArray[np.float64]) -> float:
    return float(np.exp(np.log(values).mean()))


def _single(bias: NDArray[np.float64] | None) -> NDArray[np.float32] | None:
    return None if bias is None else bias.astype(np.float32)


def _blocks(rows: int) -> list[tuple[int, int]]:
    return [(start, min(start + BLOCK, rows)) for start in range(0, rows, BLOCK)]


def _code_lengths(codes: np.ndarray, size: int) -> NDArray[np.float64]:
    """Bits of each code under an ideal coder of this histogram."""
    counts = np.bincount(codes.ravel(), minlength=size) + UNSEEN_COUNT
    return -np.log2(counts / counts.sum())


def entropy_bits(codes: np.ndarray) -> float:
    """Bits that an ideal coder of single codes takes for all of them."""
    counts = np.bincount(codes.ravel())
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / counts.sum())).sum())
