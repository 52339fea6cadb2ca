"""Dense-sparse-dense training (DSD): pruning as a regularizer, and a dense network in the end.

Han et al., arXiv 1607.04381: a trained network loses its smallest weights, learns to do without
them, gets them back as zeros, and trains on with a tenth of the rate. The paper's SqueezeNet goes
from 57.5 to 61.8 percent of top-1 on ImageNet by that.
"""

from dataclasses import replace

import keras

from keras_squeezenet.compression.pruning.schedules import ConstantSparsity
from keras_squeezenet.compression.pruning.sparsities import Sparsity
from keras_squeezenet.compression.with_training.bridge import to_tf_keras
from keras_squeezenet.compression.with_training.pruning import prune
from keras_squeezenet.compression.with_training.retraining import (
    Batches,
    Compressed,
    Retraining,
    retrain,
)

DEFAULT_SPARSITY = 0.3  # the paper takes 30 to 50 percent
LEARNING_RATE_DROP = 10


def dense_sparse_dense(
    model: keras.Model,
    train_data: Batches,
    *,
    retraining: Retraining,
    sparsity: Sparsity = DEFAULT_SPARSITY,
    dense_retraining: Retraining | None = None,
    validation_data: Batches | None = None,
) -> Compressed:
    """Train a classifier sparse, then dense again.

    Args:
        model: a trained Keras 3 classifier, the first "dense"; see `bridge.to_tf_keras`. It is not
            changed.
        train_data: iterable of (images, integer labels), as the model takes them; endless or not.
        retraining: the `Retraining` of the sparse phase. The smallest weights are left out from
            its first step to its last.
        sparsity: share of zeros in the sparse phase, as of `prune`.
        dense_retraining: the `Retraining` of the dense phase. None: as long as the sparse one,
            with a tenth of its learning rate.
        validation_data: finite iterable of (images, integer labels) to measure top-1 on.

    Returns:
        A `Compressed` whose model is dense.

    Raises:
        RetrainingError: for arguments that do not go together.
        BridgeError: the model cannot be carried to tf_keras.
    """
    sparse = prune(
        model,
        train_data,
        retraining=retraining,
        sparsity=sparsity,
        schedule=ConstantSparsity(),
        validation_data=validation_data,
    )
    twin = to_tf_keras(sparse.model)
    if dense_retraining is None:
        rate = retraining.learning_rate / LEARNING_RATE_DROP
        dense_retraining = replace(retraining, learning_rate=rate)
    retrain(twin, train_data, dense_retraining)
    return Compressed.from_twin(twin, model, sparse.before, validation_data)
