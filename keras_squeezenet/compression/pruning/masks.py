"""Which weights of a kernel stay: the greatest, as tfmot chooses them."""

import numpy as np
from numpy.typing import NDArray

# Structure "2:4": of so many neighbours so many stay.
BLOCK, KEPT = 4, 2

Mask = NDArray[np.bool_]


def greatest(kernel: np.ndarray, share: float, alive: Mask) -> Mask:
    """The mask of the greatest magnitudes; those that equal the smallest of them stay as well.

    Args:
        kernel: floats of any shape.
        share: of zeros, from 0 to below 1; one weight stays at least.
        alive: what may stay at all.
    """
    magnitudes = np.where(alive, np.abs(kernel), 0).ravel()
    # In float32, as tfmot counts.
    stay = np.round(np.float32(kernel.size) * (np.float32(1) - np.float32(share)))
    position = kernel.size - max(int(stay), 1)
    return alive & (np.abs(kernel) >= np.partition(magnitudes, position)[position])


def two_of_four(kernel: np.ndarray, axes: tuple[int, ...], alive: Mask) -> Mask:
    """The mask of the two greatest magnitudes of every four neighbours, of equal ones the first.

    Args:
        kernel: floats of any shape.
        axes: those along which inputs are summed up. Four neighbours are on the last of them, or go
            on with the next step of the one before. Neighbours beyond the last block of four are a
            block of their own.
        alive: what may stay at all.
    """
    others = [axis for axis in range(kernel.ndim) if axis not in axes]
    order = (*others, *axes)
    magnitudes = np.where(alive, np.abs(kernel), 0).transpose(order)
    shape = magnitudes.shape
    rows = magnitudes.reshape(-1, int(np.prod(shape[len(others) :])))
    blocks = np.pad(rows, ((0, 0), (0, -rows.shape[1] % BLOCK))).reshape(-1, BLOCK)
    chosen = np.argsort(-blocks, axis=1, kind="stable")[:, :KEPT]
    kept = np.zeros(blocks.shape, bool)
    np.put_along_axis(kept, chosen, True, axis=1)
    mask = kept.reshape(len(rows), -1)[:, : rows.shape[1]].reshape(shape)
    return alive & mask.transpose(np.argsort(order))
