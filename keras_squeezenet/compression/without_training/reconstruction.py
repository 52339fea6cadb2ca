"""Weights from a codebook that leave a layer's output as it was. Numpy only.

A layer computes x·W from patches x of its input. Rounding each weight to its nearest neighbour in a
codebook forgets that the inputs are correlated: an error in one weight can be taken back by those
that are still to be rounded. Optimal Brain Surgeon tells how (Hassibi and Stork, 1992), and for a
whole layer at once it needs one Cholesky factor of the inverse of E[x xᵀ] (Frantar et al., "GPTQ",
arXiv 2210.17323, section 3.3). The bias is the last to be changed and is not rounded with the
others: it takes up what they leave.

Which neighbour is chosen also depends on how many bits it takes: Lagrangian cost of distortion and
entropy, as in entropy-constrained quantization (Chou, Lookabaugh and Gray, 1989).
"""

from dataclasses import dataclass

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
        own: float64 `[n + 1, n + 1]`, E[x xᵀ] of the patches that the layer is going to take.
        cross: the same shape, E[x yᵀ] of the patches x that the original layer took and those, y,
            that this one is going to take in the same places; None where they are the same.
    """

    own: np.ndarray
    cross: np.ndarray | None = None


class Layer:
    """A kernel that is to be replaced by one of few distinct values.

    Args:
        kernel: `[…, filters]`; all axes but the last are flattened into n inputs.
        bias: `[filters]`.
        moments: of its inputs.

    Attributes:
        nonzero: bool of the kernel's shape: where the original is not 0.
    """

    def __init__(self, kernel: np.ndarray, bias: np.ndarray, moments: Moments) -> None:
        self.shape = kernel.shape
        self.nonzero = kernel != 0
        weights = np.concatenate([kernel.reshape(-1, kernel.shape[-1]), bias[None]])
        weights = weights.astype(np.float64)
        energies = np.diag(moments.own)
        damping = np.full(energies.shape, DAMPING * (energies[:-1].mean() or 1))
        damping[-1] = BIAS_DAMPING * energies[-1]
        damped = moments.own + np.diag(damping)
        if moments.cross is not None:
            # The least squares fit of the original's outputs to the inputs that there will be.
            target = moments.cross.T @ weights + damping[:, None] * weights
            weights = np.linalg.solve(damped, target)
        # Those whose errors cost most come first, while all the others can still take them up.
        self._order = np.append(np.argsort(-energies[:-1], kind="stable"), len(energies) - 1)
        self._weights = weights[self._order]
        inverse = np.linalg.inv(damped[np.ix_(self._order, self._order)])
        self._factor = np.linalg.cholesky((inverse + inverse.T) / 2).T
        # Where nothing was seen at all, what is left is the damping.
        self._live = energies[self._order] >= DEAD * energies[:-1].max()

    @property
    def kernel(self) -> NDArray[np.float64]:
        """The original kernel, or with cross moments its least squares fit; float64."""
        flat = np.empty_like(self._weights[:-1])
        flat[self._order[:-1]] = self._weights[:-1]
        return flat.reshape(self.shape)

    @property
    def bias(self) -> NDArray[np.float64]:
        """The bias that goes with `kernel`; float64."""
        return self._weights[-1].copy()

    @property
    def stiffness(self) -> float:
        """What an error of a weight costs after all others have answered it: geometric mean."""
        stiffness = 1 / np.diag(self._factor)[:-1] ** 2
        return float(np.exp(np.log(stiffness[self._live[:-1]]).mean()))

    @property
    def bias_stiffness(self) -> float:
        """The same of the bias, which nothing answers."""
        return float(1 / self._factor[-1, -1] ** 2)

    @property
    def saliency(self) -> NDArray[np.float64]:
        """What removing a weight costs, in the kernel's shape (Hassibi and Stork, equation 5)."""
        flat = np.empty_like(self._weights[:-1])
        flat[self._order[:-1]] = self._weights[:-1] ** 2 / (self._factor**2).sum(axis=0)[:-1, None]
        return flat.reshape(self.shape)

    def pruned(self, kept: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The kernel with only the weights that are `kept`, the others adapted to it.

        Args:
            kept: bool of the kernel's shape.

        Returns:
            (kernel float32, bias float32 `[filters]`).
        """
        kept = kept.reshape(-1, self.shape[-1])[self._order[:-1]]
        weights, values = self._weights.copy(), np.empty_like(self._weights[:-1])
        for start, stop in _blocks(len(values)):
            errors = np.empty((stop - start, weights.shape[1]))
            for row in range(start, stop):
                values[row] = np.where(kept[row], weights[row], 0)
                errors[row - start] = self._spread(weights, row, stop, values[row])
            self._spread_on(weights, start, stop, errors)
        return self._in_place(values).astype(np.float32), weights[-1].astype(np.float32)

    def assign(
        self, codebook: ArrayLike, rate_weight: float = 0.0, kept: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The codes that leave the layer's output nearest to what it was, at few bits.

        Args:
            codebook: float `[k]`, ascending, with a 0.
            rate_weight: what a bit costs, in units of E[(x·W − x·Q)²] summed over patches.
            kept: bool of the kernel's shape: all others become 0. None: those that were not 0 in
                the original, so that a pruned kernel stays pruned.

        Returns:
            (codes int64 of the kernel's shape, bias float32 `[filters]`).
        """
        codebook = np.asarray(codebook, np.float64)
        zero = int(np.searchsorted(codebook, 0))
        borders = (codebook[1:] + codebook[:-1]) / 2
        kept = self.nonzero if kept is None else kept
        kept = kept.reshape(-1, self.shape[-1])[self._order[:-1]]
        codes = np.searchsorted(borders, self._weights[:-1])
        for _ in range(ENTROPY_ROUNDS if rate_weight else 1):
            costs = rate_weight * _code_lengths(codes, len(codebook))
            codes, bias = self._assign_once(codebook, borders, zero, costs, kept)
        return self._in_place(codes), bias.astype(np.float32)

    def _assign_once(
        self,
        codebook: NDArray[np.float64],
        borders: NDArray[np.float64],
        zero: int,
        costs: NDArray[np.float64],
        kept: NDArray[np.bool_],
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        weights = self._weights.copy()
        codes = np.empty(weights[:-1].shape, np.int64)
        stiffness = 1 / np.diag(self._factor) ** 2
        for start, stop in _blocks(len(codes)):
            errors = np.empty((stop - start, weights.shape[1]))
            for row in range(start, stop):
                nearest = np.searchsorted(borders, weights[row])
                # Beside the nearest value, only smaller ones can cost fewer bits.
                candidates = np.stack([nearest, nearest - np.sign(nearest - zero)])
                candidates = np.concatenate([candidates, np.full_like(candidates[:1], zero)])
                cost = stiffness[row] * (weights[row] - codebook[candidates]) ** 2
                best = (cost + costs[candidates]).argmin(axis=0)
                chosen = np.take_along_axis(candidates, best[None], axis=0)[0]
                chosen = np.where(kept[row], chosen, zero)
                codes[row] = chosen
                errors[row - start] = self._spread(weights, row, stop, codebook[chosen])
            self._spread_on(weights, start, stop, errors)
        return codes, weights[-1]

    def _spread(
        self, weights: NDArray[np.float64], row: int, stop: int, values: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Let the rows up to `stop` answer the error of one row; its scaled error."""
        error = (weights[row] - values) / self._factor[row, row]
        weights[row + 1 : stop] -= self._factor[row, row + 1 : stop, None] * error
        return error

    def _spread_on(
        self, weights: NDArray[np.float64], start: int, stop: int, errors: NDArray[np.float64]
    ) -> None:
        """Let the rows after a block answer the errors of the block."""
        weights[stop:] -= self._factor[start:stop, stop:].T @ errors

    def _in_place(self, ordered: np.ndarray) -> np.ndarray:
        flat = np.empty_like(ordered)
        flat[self._order[:-1]] = ordered
        return flat.reshape(self.shape)


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
