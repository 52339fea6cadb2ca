"""Shared values for the weights of a layer: one-dimensional k-means. Numpy only.

Source: Han et al., "Deep Compression", arXiv 1510.00149, section 3.
"""

import numpy as np

from keras_squeezenet.compression.network import SharedValues
from keras_squeezenet.errors import InputError

MAX_BITS = 16
MAX_ITERATIONS = 300


def share_values(array, bits, importance=None):
    """The nearest array of at most 2**bits distinct values. Zeros stay zero.

    Args:
        array: float32 of any shape, finite. Where it holds zeros, they are taken as pruned: one of
            the values is 0 and the others are shared among the rest.
        bits: 1 to 16.
        importance: weights of the squared errors, of the array's shape; None: all alike.

    Returns:
        `SharedValues`.

    Raises:
        InputError: an argument is none of these.
    """
    if type(bits) is not int or not 1 <= bits <= MAX_BITS:
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
    importance = np.ones(values.size) if importance is None else importance[nonzero]
    centroids = k_means(values, clusters, importance).astype(np.float32)
    shared = np.zeros_like(array)
    shared[nonzero] = centroids[_nearest(values, centroids)]
    return SharedValues.of(shared)


def k_means(values, clusters, importance):
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
    mass = _running_sum(importance[order])
    moment = _running_sum(importance[order] * ordered)
    centroids = np.linspace(ordered[0], ordered[-1], clusters)
    for _ in range(MAX_ITERATIONS):
        # On a line a cluster is an interval, and its sums are differences of running sums.
        borders = np.searchsorted(ordered, (centroids[1:] + centroids[:-1]) / 2)
        starts, stops = np.append(0, borders), np.append(borders, ordered.size)
        filled = stops > starts
        weight = (mass[stops] - mass[starts])[filled]
        moved = (moment[stops] - moment[starts])[filled] / weight
        if np.array_equal(moved, centroids):
            break
        centroids = moved
    return np.unique(centroids)


def _running_sum(values):
    return np.append(0, np.cumsum(values, dtype=np.float64))


def _nearest(values, centroids):
    return np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values)
