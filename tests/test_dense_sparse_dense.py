"""Dense-sparse-dense training, phase by phase."""

import numpy as np
import pytest

from keras_squeezenet.compression.with_training import dense_sparse_dense as module
from keras_squeezenet.compression.with_training.bridge import kernels
from keras_squeezenet.compression.with_training.dense_sparse_dense import dense_sparse_dense
from keras_squeezenet.compression.with_training.retraining import Retraining, RetrainingError
from tests.compression_digits import accuracy, trained_net, training_batches, validation_batches

RUN = Retraining(epochs=1, steps_per_epoch=20, learning_rate=0.02)


@pytest.fixture(scope="module")
def trained():
    return trained_net()


@pytest.fixture
def phases(monkeypatch):
    """The twins as each phase found them, and how it trained them."""
    seen = []
    retrain = module.retrain

    def watched(twin, train_data, retraining, **kwargs):
        names = [layer.name for layer in twin.layers]
        kernel = twin.get_layer("fire2_expand3x3").get_weights()[0]
        seen.append((kernel, retraining, names))
        retrain(twin, train_data, retraining, **kwargs)

    monkeypatch.setattr(module, "retrain", watched)
    return seen


def test_the_network_ends_dense_and_as_accurate(trained):
    result = dense_sparse_dense(
        trained,
        training_batches(),
        retraining=RUN,
        sparsity=0.4,
        validation_data=validation_batches(),
    )
    assert result.density > 0.99
    assert result.before == pytest.approx(accuracy(lambda images: trained(images)))
    assert result.after == pytest.approx(accuracy(lambda images: result.model(images)))
    assert result.after > result.before - 0.05


def test_the_dense_phase_starts_from_zeros_with_a_tenth_of_the_rate(trained, phases):
    dense_sparse_dense(trained, training_batches(), retraining=RUN, sparsity=0.4)
    ((kernel, retraining, _),) = phases
    assert np.mean(kernel == 0) == pytest.approx(0.4, abs=0.001)
    assert retraining == Retraining(1, 20, learning_rate=0.002)
    smallest = np.abs(kernels(trained)["fire2_expand3x3"])
    gone = kernel == 0
    assert smallest[gone].max() <= smallest[~gone].min(), "the smallest of the trained weights"


def test_the_dense_phase_may_be_told_how_to_train(trained, phases):
    dense = Retraining(epochs=2, steps_per_epoch=3, learning_rate=1e-4)
    dense_sparse_dense(trained, training_batches(), retraining=RUN, dense_retraining=dense)
    assert phases[0][1] is dense


def test_a_sparsity_out_of_range_is_named(trained):
    with pytest.raises(RetrainingError, match=r"Received: sparsity of conv1=1\.5"):
        dense_sparse_dense(trained, [], retraining=RUN, sparsity=1.5)
