"""Trained codebooks, counted value by value."""

import importlib

import keras
import numpy as np
import pytest

from keras_squeezenet.compression.pruning.prune import prune
from keras_squeezenet.compression.pruning.schedules import ConstantSparsity
from keras_squeezenet.compression.retraining import Retraining, RetrainingError
from keras_squeezenet.compression.with_training.bridge import kernels
from keras_squeezenet.compression.with_training.clustering import cluster, initial_codebook
from keras_squeezenet.compression.with_training.tfmot import load_tfmot
from keras_squeezenet.network.families.layers import GroupedConv2D
from tests.compression_digits import accuracy, trained_net, training_batches, validation_batches

RUN = Retraining(epochs=2, steps_per_epoch=15, learning_rate=1e-3)
SHORT = Retraining(epochs=1, steps_per_epoch=3, learning_rate=1e-3)
STILL = Retraining(epochs=1, steps_per_epoch=1, learning_rate=1e-12)


@pytest.fixture(scope="module")
def trained():
    return trained_net()


@pytest.fixture(scope="module")
def pruned(trained):
    return prune(
        trained, training_batches(), retraining=RUN, sparsity=0.5, schedule=ConstantSparsity()
    ).model


@pytest.fixture(scope="module")
def clustered(pruned):
    return cluster(
        pruned, training_batches(), retraining=RUN, bits=4, validation_data=validation_batches()
    )


def test_every_kernel_has_at_most_as_many_values_as_its_bits_choose_from(clustered):
    for statistics in clustered.layers:
        distinct = len(set(kernels(clustered.model)[statistics.name].ravel().tolist()))
        assert distinct == statistics.distinct <= 16
    assert max(statistics.distinct for statistics in clustered.layers) == 16


def test_zeros_of_a_pruned_kernel_stay_zeros(pruned, clustered):
    for name, kernel in kernels(pruned).items():
        after = kernels(clustered.model)[name]
        assert (kernel == 0).mean() == pytest.approx(0.5, abs=0.01)
        assert not after[kernel == 0].any()
        assert not np.signbit(after[kernel == 0]).any()


def test_accuracy_is_kept_and_is_that_of_the_models(pruned, clustered):
    assert clustered.before == pytest.approx(accuracy(lambda images: pruned(images)))
    assert clustered.after == pytest.approx(accuracy(lambda images: clustered.model(images)))
    assert clustered.after > clustered.before - 0.05


def test_without_training_a_weight_takes_the_value_nearest_to_it(trained):
    still = cluster(trained, training_batches(), retraining=STILL, bits=3)
    for name, kernel in kernels(trained).items():
        codebook = initial_codebook(kernel.ravel(), 8)
        nearest = codebook[np.abs(kernel[..., None] - codebook).argmin(axis=-1)]
        np.testing.assert_allclose(kernels(still.model)[name], nearest, atol=1e-6)


def test_the_shared_values_are_trained(trained):
    moved = cluster(trained, training_batches(), retraining=SHORT, bits=3)
    for name, kernel in kernels(trained).items():
        before = set(initial_codebook(kernel.ravel(), 8).tolist())
        assert not before & set(kernels(moved.model)[name].ravel().tolist())


def test_zeros_may_move_when_they_need_not_be_kept(pruned):
    result = cluster(pruned, training_batches(), retraining=SHORT, bits=4, preserve_sparsity=False)
    name = "fire3_expand3x3"
    assert np.count_nonzero(kernels(result.model)[name]) > np.count_nonzero(kernels(pruned)[name])


@pytest.mark.slow
def test_bits_are_given_layer_by_layer(trained):
    by_dict = cluster(
        trained, training_batches(), retraining=SHORT, bits={"conv4": 2, "fire2_expand3x3": 5}
    )
    distinct = {s.name: s.distinct for s in by_dict.layers if s.distinct <= 32}
    assert distinct.keys() == {"conv4", "fire2_expand3x3"}
    assert distinct["conv4"] == 4
    by_function = cluster(
        trained,
        training_batches(),
        retraining=SHORT,
        bits=lambda name, shape: 3 if shape[0] == 3 else 8,
    )
    distinct = {s.name: s.distinct for s in by_function.layers}
    assert distinct["fire3_expand3x3"] == 8
    # 16 × 16 weights choose from no fewer values than there are weights: the layer is left.
    assert distinct["fire2_squeeze1x1"] == len(
        np.unique(kernels(by_function.model)["fire2_squeeze1x1"])
    )


def test_bits_of_a_layer_are_those_of_all_its_kernels(monkeypatch):
    # On the way no weight is compared with all values.
    load_tfmot()
    clustering_algorithm = importlib.import_module(
        "tensorflow_model_optimization.python.core.clustering.keras.clustering_algorithm"
    )
    monkeypatch.delattr(clustering_algorithm.ClusteringAlgorithm, "get_pulling_indices")
    images = keras.Input((8, 8, 4))
    x = GroupedConv2D(8, 3, groups=2, name="two")(images)
    x = keras.layers.Conv2D(8, 3, name="one")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(images, keras.layers.Dense(3, activation="softmax", name="top")(x))
    data = [
        (np.random.default_rng(0).normal(size=(8, 8, 8, 4)).astype("float32"), np.arange(8) % 3)
    ]
    result = cluster(model, data, retraining=SHORT, bits={"two": 4, "two_group1": 2, "one": 3})
    distinct = {found.name: found.distinct for found in result.layers}
    assert distinct == {"two_group0": 16, "two_group1": 4, "one": 8, "top": 24}


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        (1, "from 2 to 8. Received: bits=1 for conv1"),
        (9, "Received: bits=9 for conv1"),
        (4.0, "Received: bits=4.0"),
        ({"pool1": 4}, "Received: bits for pool1"),
        ({}, "must be given for some kernel"),
    ],
)
def test_bits_out_of_range_are_named(trained, bits, message):
    with pytest.raises(RetrainingError, match=message):
        cluster(trained, training_batches(), retraining=SHORT, bits=bits)


def test_a_codebook_is_no_worse_than_evenly_spaced_values():
    values = np.random.default_rng(0).normal(size=2000).astype("float32")

    def error(codebook):
        return np.square(values - codebook[np.abs(values[:, None] - codebook).argmin(axis=1)]).sum()

    found = initial_codebook(values, 16)
    assert error(found) < 0.8 * error(np.linspace(values.min(), values.max(), 16))
    np.testing.assert_array_equal(np.sort(found), found)


def test_few_different_values_are_their_own_codebook():
    found = initial_codebook(np.array([2.0, -1.0, 2.0], np.float32), 4)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [-1, 2, 2, 2])
