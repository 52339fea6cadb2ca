"""Shared values that are found by search are those that tfmot finds by comparing."""

import numpy as np
import pytest

from keras_squeezenet.compression.with_training.shared_values import found_by_search
from keras_squeezenet.compression.with_training.tfmot import load_tfmot


def algorithm(centroids, of_channels=False):
    """What a layer gets from tfmot's registry for a kernel of these values."""
    import tensorflow as tf
    import tf_keras

    load_tfmot()
    from tensorflow_model_optimization.python.core.clustering.keras.clustering_registry import (
        ClusteringLookupRegistry,
    )

    layer = tf_keras.layers.Conv2D(4, 3)
    kind = ClusteringLookupRegistry().get_clustering_impl(
        layer, "kernel", cluster_per_channel=of_channels
    )
    return kind(tf.Variable(centroids))


@pytest.mark.parametrize("count", [2, 5, 256])
def test_each_weight_gets_the_value_that_tfmot_gives_it(count):
    rng = np.random.default_rng(count)
    weights = rng.normal(size=(3, 3, 8, 16)).astype("float32")
    weights[0] = 0
    centroids = rng.normal(size=count).astype("float32")  # in any order
    centroids[count // 2] = 0
    with found_by_search():
        ours = algorithm(centroids).get_pulling_indices(weights)
    theirs = algorithm(centroids).get_pulling_indices(weights)
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(ours, theirs)
    assert (centroids[ours[0]] == 0).all()


def test_of_values_that_are_there_twice_the_first_is_taken():
    centroids = np.array([0.5, -1, 0.5, 0.5, 0], np.float32)
    weights = np.linspace(-2, 2, 101, dtype=np.float32)
    with found_by_search():
        ours = algorithm(centroids).get_pulling_indices(weights)
    np.testing.assert_array_equal(ours, algorithm(centroids).get_pulling_indices(weights))


def test_tfmot_is_afterwards_as_it_was():
    with pytest.raises(ZeroDivisionError), found_by_search():
        raise ZeroDivisionError
    assert type(algorithm(np.zeros(2, np.float32))).__name__ == "ClusteringAlgorithm"


def test_values_of_each_channel_are_found_as_before():
    """As tfmot has them for convolutions in 8 bits."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(3, 3, 2, 4)).astype("float32")
    centroids = rng.normal(size=(4, 5)).astype("float32")
    with found_by_search():
        ours = algorithm(centroids, of_channels=True).get_pulling_indices(weights)
    theirs = algorithm(centroids, of_channels=True).get_pulling_indices(weights)
    np.testing.assert_array_equal(ours, theirs)
