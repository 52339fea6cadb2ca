"""One-dimensional k-means against scikit-learn and against the exact optimum."""

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.cluster import KMeans

from keras_squeezenet.compression.without_training.codebooks import (
    k_means,
    nearest_values,
    share_values,
)
from keras_squeezenet.errors import InputError
from keras_squeezenet.sqz.network import SharedValues

RNG = np.random.default_rng(7)
WEIGHTS = RNG.normal(size=(3, 3, 8, 16)).astype(np.float32)

floats = st.floats(-100, 100, width=32)
weight_arrays = arrays.arrays(np.float32, st.integers(1, 60), elements=floats)


def squared_error(values, centroids, importance):
    return (importance * np.abs(values[:, None] - centroids).min(axis=1) ** 2).sum()


def least_squared_error(values, clusters, importance):
    """Of all ways to cut the ordered values into intervals, by dynamic programming."""
    order = np.argsort(values)
    values, importance = values[order], importance[order]

    @functools.cache
    def spread(start, stop):
        part, mass = values[start:stop], importance[start:stop]
        return (mass * (part - np.average(part, weights=mass)) ** 2).sum()

    @functools.cache
    def least(stop, intervals):
        if intervals == 1:
            return spread(0, stop)
        starts = range(intervals - 1, stop)
        return min(least(start, intervals - 1) + spread(start, stop) for start in starts)

    return least(len(values), clusters)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("clusters", [2, 7, 16])
def test_k_means_finds_what_scikit_learn_finds_from_the_same_start(clusters, weighted):
    values = RNG.uniform(-1, 2, 800)
    importance = RNG.uniform(0.1, 5, values.size) if weighted else np.ones(values.size)
    start = np.linspace(values.min(), values.max(), clusters)[:, None]
    theirs = KMeans(clusters, init=start, n_init=1, tol=0, max_iter=300, algorithm="lloyd")
    theirs.fit(values[:, None], sample_weight=importance)
    ours = k_means(values, clusters, importance)
    np.testing.assert_allclose(ours, np.sort(theirs.cluster_centers_[:, 0]), rtol=1e-9)


@pytest.mark.parametrize("clusters", [2, 3, 5])
def test_k_means_comes_near_the_exact_optimum_on_bell_shaped_values(clusters):
    rng = np.random.default_rng(clusters)
    ratios = []
    for _ in range(10):
        values, importance = rng.normal(size=40), rng.uniform(0.5, 2, 40)
        found = squared_error(values, k_means(values, clusters, importance), importance)
        ratios.append(found / least_squared_error(values, clusters, importance))
    assert min(ratios) >= 1 - 1e-9
    assert np.median(ratios) < 1.1
    assert max(ratios) < 2


@given(weight_arrays, st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_centroids_are_the_means_of_the_values_nearest_to_them(values, clusters, seed):
    importance = np.random.default_rng(seed).uniform(1e-3, 1e3, values.size)
    clusters = min(clusters, np.unique(values).size)
    centroids = k_means(values, clusters, importance)
    assert 1 <= centroids.size <= clusters
    assert (np.diff(centroids) > 0).all()
    nearest = np.abs(values[:, None].astype(np.float64) - centroids).argmin(axis=1)
    for index, centroid in enumerate(centroids):
        members = nearest == index
        mean = np.average(values[members].astype(np.float64), weights=importance[members])
        np.testing.assert_allclose(centroid, mean, rtol=1e-9, atol=1e-9)


@given(weight_arrays, st.integers(1, 5))
def test_a_shared_array_has_few_values_of_its_range_and_keeps_exactly_its_zeros(array, bits):
    shared = share_values(array, bits).values
    assert shared.dtype == np.float32
    assert shared.shape == array.shape
    assert np.unique(shared).size <= 2**bits
    assert (shared[array == 0] == 0).all()
    assert array.min() <= shared.min() <= shared.max() <= array.max()


@given(weight_arrays, st.integers(1, 5))
def test_sharing_twice_changes_nothing(array, bits):
    once = share_values(array, bits).values
    np.testing.assert_array_equal(share_values(once, bits).values, once)


@given(weight_arrays)
def test_an_array_of_few_distinct_values_is_kept_bit_by_bit(array):
    kept = share_values(array, 6).values
    np.testing.assert_array_equal(kept.view(np.uint32), (array + np.float32(0)).view(np.uint32))


def test_one_of_the_values_is_zero_where_weights_are_pruned():
    pruned = np.where(RNG.random(WEIGHTS.shape) < 0.6, 0, WEIGHTS)
    shared = share_values(pruned, 3)
    assert shared.codebook.size == 8
    np.testing.assert_array_equal(shared.values == 0, pruned == 0)


def test_every_weight_gets_its_nearest_value():
    shared = share_values(WEIGHTS, 4)
    differences = np.abs(WEIGHTS[..., None] - shared.codebook)
    np.testing.assert_allclose(np.abs(WEIGHTS - shared.values), differences.min(axis=-1))
    assert shared.codebook.size == 16


def test_more_bits_mean_a_smaller_error():
    errors = [
        np.square(WEIGHTS - share_values(WEIGHTS, bits).values).mean() for bits in (1, 2, 4, 6)
    ]
    assert errors == sorted(errors, reverse=True)
    # A fine codebook gains about 6 dB a bit.
    assert errors[2] / errors[3] == pytest.approx(16, rel=0.35)


def test_sixteen_bits_are_enough_for_any_layer_of_a_squeezenet():
    weights = RNG.normal(size=(1, 1, 512, 200)).astype(np.float32)
    shared = share_values(weights, 16)
    assert shared.codebook.size <= 2**16
    assert np.abs(shared.values - weights).max() < np.ptp(weights) / 2**16


def test_important_weights_get_values_nearer_to_them():
    importance = np.where(WEIGHTS > 0, 100.0, 1.0)

    def error(shared):
        return np.square(WEIGHTS - shared.values)[WEIGHTS > 0].mean()

    assert error(share_values(WEIGHTS, 3, importance)) < 0.9 * error(share_values(WEIGHTS, 3))


def test_importances_of_very_different_size_do_not_drown_each_other():
    array = np.float32([1, 2, 3, 98, 99, 100])
    importance = np.float64([1, 1, 1, 1e-18, 1e-18, 1e-18])
    np.testing.assert_allclose(
        share_values(array, 1, importance).values, [2, 2, 2, 99, 99, 99], rtol=1e-6
    )


def test_equal_weights_count_as_often_as_they_occur():
    array = np.float32([1] * 9 + [2] + [50, 51])
    np.testing.assert_allclose(share_values(array, 1).codebook, [1.1, 50.5], rtol=1e-6)


@pytest.mark.parametrize("bits", [0, 17, 4.0, "4", True, None])
def test_bits_out_of_range_are_refused(bits):
    with pytest.raises(InputError, match=r"`bits` .* Received: bits="):
        share_values(WEIGHTS, bits)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(bad):
    with pytest.raises(InputError, match="`array` must be finite"):
        share_values(np.float32([1, bad]), 4)


@pytest.mark.parametrize("bad", [np.zeros(6), -np.ones(6), np.full(6, np.nan), np.ones(5)])
def test_importances_that_are_not_positive_or_of_another_shape_are_refused(bad):
    with pytest.raises(InputError, match="`importance` must be positive and of the shape"):
        share_values(np.arange(6), 2, bad)


def test_pruned_weights_stay_pruned_however_far_they_have_moved():
    base = SharedValues.of(np.array([[0.0, 0.5], [1.0, 0.0]], np.float32))
    moved = nearest_values(np.array([[0.9, 0.9], [0.1, -3.0]], np.float32), base)
    np.testing.assert_array_equal(moved.values, [[0.0, 1.0], [0.0, 0.0]])
    assert moved.codebook is base.codebook


def test_biases_of_zero_were_not_pruned():
    base = SharedValues.of(np.array([0.0, 0.5, 1.0], np.float32))
    moved = nearest_values(np.array([0.9, 0.1, 1.0], np.float32), base)
    np.testing.assert_array_equal(moved.values, np.array([1.0, 0.0, 1.0], np.float32))
