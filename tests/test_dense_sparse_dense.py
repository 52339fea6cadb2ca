"""Dense-sparse-dense training, phase by phase."""

from contextlib import contextmanager

import numpy as np
import pytest

from keras_squeezenet.compression.pruning import dense_sparse_dense as module
from keras_squeezenet.compression.pruning.dense_sparse_dense import dense_sparse_dense
from keras_squeezenet.compression.retraining import Retraining, RetrainingError
from keras_squeezenet.compression.with_training.bridge import kernels
from tests.compression_digits import accuracy, trained_net, training_batches, validation_batches

RUN = Retraining(epochs=1, steps_per_epoch=20, learning_rate=0.02)


@pytest.fixture(scope="module")
def trained():
    return trained_net()


@contextmanager
def watched_phases():
    """The networks as the dense phase found them, and how it trained them."""
    seen = []
    fit = module.fit

    def watched(model, batches, retraining):
        kernel = np.array(model.get_layer("fire2").expand3x3.get_weights()[0])
        seen.append((kernel, retraining))
        fit(model, batches, retraining)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "fit", watched)
        yield seen


@pytest.fixture(scope="module")
def result_and_phases(trained):
    with watched_phases() as phases:
        result = dense_sparse_dense(
            trained,
            training_batches(),
            retraining=RUN,
            sparsity=0.4,
            validation_data=validation_batches(),
        )
    return result, phases


@pytest.mark.slow
def test_the_network_ends_dense_and_as_accurate(trained, result_and_phases):
    result, _ = result_and_phases
    assert result.density > 0.99
    assert result.before == pytest.approx(accuracy(lambda images: trained(images)))
    assert result.after == pytest.approx(accuracy(lambda images: result.model(images)))
    assert result.after > result.before - 0.05


def test_the_dense_phase_starts_from_zeros_with_a_tenth_of_the_rate(trained, result_and_phases):
    _, ((kernel, retraining),) = result_and_phases
    assert np.mean(kernel == 0) == pytest.approx(0.4, abs=0.001)
    assert retraining == Retraining(1, 20, learning_rate=0.002)
    smallest = np.abs(kernels(trained)["fire2_expand3x3"])
    gone = kernel == 0
    assert smallest[gone].max() <= smallest[~gone].min(), "the smallest of the trained weights"


def test_the_dense_phase_may_be_told_how_to_train(trained):
    sparse = Retraining(epochs=1, steps_per_epoch=2, learning_rate=0.02)
    dense = Retraining(epochs=2, steps_per_epoch=3, learning_rate=1e-4)
    with watched_phases() as phases:
        dense_sparse_dense(trained, training_batches(), retraining=sparse, dense_retraining=dense)
    assert phases[0][1] is dense


def test_a_sparsity_out_of_range_is_named(trained):
    with pytest.raises(RetrainingError, match=r"Received: sparsity of conv1=1\.5"):
        dense_sparse_dense(trained, [], retraining=RUN, sparsity=1.5)
