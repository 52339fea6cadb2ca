"""Shared values for the weights of a layer: one-dimensional k-means. Numpy only.

Source: Han et al., "Deep Compression", arXiv 1510.00149, section 3.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_squeezenet.checks import is_int
from keras_squeezenet.errors import InputError
from keras_squeezenet.sqz.network import SharedValues

MAX_BITS = 16
MAX_ITERATIONS = 300

# Of a kernel's norm, that taking the values of a base may change. Codebooks of 4 bits change 0.10
# to 0.17 of the published 1.1's; a network that was trained on from its base starts on the values.
MAX_CHANGE_BY_BASE = 0.25


def share_values(array: ArrayLike, bits: int, importance: ArrayLike | None = None) -> SharedValues:
    """The nearest array of at most 2**bits distinct values. Zeros stay zero.

    Args:
        array: float32 of any shape, finite. Where it holds zeros, they are taken as pruned: one of
            the values is 0 and the others are shared among the rest.
        bits: 1 to 16.
        importance: weights of the squared errors, positive, of the array's shape; None: all alike.

    Returns:
        `SharedValues`.

    Raises:
        InputError: an argument is none of these.
    """
    if not is_int(bits, 1, MAX_BITS):
        raise InputError(f"`bits` must be an integer from 1 to {MAX_BITS}. Received: bits={bits}")
    array = np.asarray(array, np.float32)
    if not np.isfinite(array).all():
        raise InputError("`array` must be finite")
    nonzero = array != 0
    values = array[nonzero]
    has_zeros = values.size < array.size
    clusters = 2**bits - has_zeros
    if np.unique(values).size <= clusters:
        return SharedValues.of(array)
    importance = np.ones(array.shape) if importance is None else np.asarray(importance)
    if importance.shape != array.shape or not (importance > 0).all():
        raise InputError("`importance` must be positive and of the shape of `array`")
    centroids = k_means(values, clusters, importance[nonzero]).astype(np.float32)
    shared = np.zeros_like(array)
    shared[nonzero] = centroids[_nearest(values, centroids)]
    return SharedValues.of(shared)


def nearest_values(array: np.ndarray, shared: SharedValues) -> SharedValues:
    """An array in the values of another of its shape; what is 0 there stays 0 where 0 is a value.

    Args:
        array: float32.
        shared: `SharedValues`.

    Returns:
        `SharedValues` with the codebook of `shared`.
    """
    codes = _nearest(array, shared.codebook).astype(np.uint16)
    pruned = shared.values == 0 if array.ndim > 1 else np.zeros(array.shape, bool)
    return SharedValues(np.where(pruned, shared.codes, codes), shared.codebook)


def relative_change(array: np.ndarray, values: np.ndarray) -> float:
    """How far values are from an array, in norms of the array."""
    norm = max(float(np.linalg.norm(array)), float(np.finfo(float).tiny))
    return float(np.linalg.norm(array - values)) / norm


def k_means(values: np.ndarray, clusters: int, importance: np.ndarray) -> NDArray[np.float64]:
    """Lloyd's algorithm on a line, from evenly spaced centroids ("linear" in section 3.2).

    Args:
        values: floats `[n]`.
        clusters: at most as many as there are distinct values.
        importance: positive floats `[n]`.

    Returns:
        float64 `[k]`, ascending; k is smaller than `clusters` where some of them remain empty.
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order].astype(np.float64)
    mass = importance[order].astype(np.float64)
    moment = mass * ordered
    centroids = np.linspace(ordered[0], ordered[-1], clusters)
    for _ in range(MAX_ITERATIONS):
        # On a line a cluster is an interval. Those that begin at the same value or at the end are
        # empty but for one.
        starts = np.append(0, np.searchsorted(ordered, (centroids[1:] + centroids[:-1]) / 2))
        starts = np.unique(starts[starts < ordered.size])
        moved = np.add.reduceat(moment, starts) / np.add.reduceat(mass, starts)
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    return np.unique(centroids)


def _nearest(values: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    return np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values)
