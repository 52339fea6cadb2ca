"""Which shared value each weight takes while tfmot trains them: found by search."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from keras_squeezenet.compression.with_training.tfmot import load_tfmot


@contextmanager
def found_by_search() -> Iterator[None]:
    """Within it, layers that tfmot wraps look for a weight's nearest value by binary search.

    tfmot itself compares every weight with every value in every step: of 256 values in 1 KB of
    memory and 256 differences a weight, where a search takes eight steps.
    """
    load_tfmot()
    from tensorflow_model_optimization.python.core.clustering.keras.clustering_registry import (
        ClusteringLookupRegistry,
    )

    original = ClusteringLookupRegistry.__dict__["get_clustering_impl"]
    compares, by_search = _classes()

    def implementation(*arguments: Any, **options: Any) -> Any:
        found = original.__func__(*arguments, **options)
        return by_search if found is compares else found  # another has values for each channel

    ClusteringLookupRegistry.get_clustering_impl = classmethod(implementation)
    try:
        yield
    finally:
        ClusteringLookupRegistry.get_clustering_impl = original


@functools.cache
def _classes() -> tuple[Any, Any]:
    """tfmot's algorithm, and ours: the same indices, but for a weight midway between values."""
    import tensorflow as tf
    from tensorflow_model_optimization.python.core.clustering.keras.clustering_algorithm import (
        ClusteringAlgorithm,
    )

    class BySearch(ClusteringAlgorithm):
        def get_pulling_indices(self, weight: Any, centroids: Any = None) -> Any:
            """int64 of the weight's shape: where in the centroids the nearest one is."""
            centroids = tf.convert_to_tensor(
                self.cluster_centroids if centroids is None else centroids
            )
            order = tf.argsort(centroids, stable=True)
            ascending = tf.gather(centroids, order)
            borders = (ascending[1:] + ascending[:-1]) / 2
            places = tf.searchsorted(borders, tf.reshape(weight, [-1]))
            first = tf.searchsorted(ascending, ascending)  # of equal values tfmot takes the first
            places = tf.gather(first, places)
            return tf.reshape(tf.gather(tf.cast(order, tf.int64), places), tf.shape(weight))

    return ClusteringAlgorithm, BySearch
