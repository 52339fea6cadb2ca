"""Dense-sparse-dense training (DSD): pruning as a regularizer, and a dense network in the end.

Han et al., arXiv 1607.04381: a trained network loses its smallest weights, learns to do without
them, gets them back as zeros, and trains on with a tenth of the rate. The paper's SqueezeNet goes
from 57.5 to 61.8 percent of top-1 on ImageNet by that.
"""

from dataclasses import replace

import keras

from keras_squeezenet.compression.fitting import compressed, fit
from keras_squeezenet.compression.pruning.prune import learning_copy, prune
from keras_squeezenet.compression.pruning.schedules import ConstantSparsity
from keras_squeezenet.compression.pruning.sparsities import Sparsity
from keras_squeezenet.compression.retraining import (
    Compressed,
    Retraining,
    RetrainingError,
    checked_retraining,
)
from keras_squeezenet.compression.training_data import Data, batches_of

DEFAULT_SPARSITY = 0.3  # the paper takes 30 to 50 percent
LEARNING_RATE_DROP = 10


def dense_sparse_dense(
    model: keras.Model,
    train_data: Data,
    *,
    retraining: Retraining | None = None,
    sparsity: Sparsity = DEFAULT_SPARSITY,
    dense_retraining: Retraining | None = None,
    validation_data: Data | None = None,
    batch_size: int | None = None,
) -> Compressed:
    """Train a classifier sparse, then dense again.

    Args:
        model: a trained Keras 3 classifier, the first "dense", as in `prune`. It is not changed.
        train_data, validation_data, batch_size: as in `prune`.
        retraining: the `Retraining` of the sparse phase; None: one epoch. The smallest weights are
            left out from its first step to its last.
        sparsity: share of zeros in the sparse phase, as in `prune`.
        dense_retraining: the `Retraining` of the dense phase. None: as long as the sparse one,
            with a tenth of its learning rate; needed where that one brings an optimizer or schedule
            of its own.

    Returns:
        A `Compressed` whose model is dense.

    Raises:
        RetrainingError: for arguments that do not go together.
    """
    retraining = checked_retraining(retraining)
    if dense_retraining is None:
        if retraining.has_own_rate:
            raise RetrainingError(
                "`dense_retraining` must be given where `retraining` has an optimizer or schedule "
                f"of its own. Received: retraining={retraining}"
            )
        rate = retraining.learning_rate / LEARNING_RATE_DROP
        dense_retraining = replace(retraining, learning_rate=rate)
    checked_retraining(dense_retraining, "dense_retraining")
    sparse = prune(
        model,
        train_data,
        retraining=retraining,
        sparsity=sparsity,
        schedule=ConstantSparsity(),
        validation_data=validation_data,
        batch_size=batch_size,
    )
    trained = learning_copy(sparse.model)
    fit(trained, batches_of(train_data, batch_size), dense_retraining)
    return compressed(trained, model, sparse.before, validation_data, batch_size)
