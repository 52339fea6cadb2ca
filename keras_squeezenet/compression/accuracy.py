"""How often a classifier is right, over the data of all ranks."""

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_squeezenet.compression.retraining import RetrainingError
from keras_squeezenet.compression.training_data import Data, measured_on, pair
from keras_squeezenet.extras import from_extra


def top1(
    predict: Callable[..., Any], validation_data: Data | None, batch_size: int | None = None
) -> float | None:
    """Top-1 accuracy over the validation data of all ranks; None without.

    Args:
        predict: a `keras.Model`, or a function of images and `training`.
        validation_data: of (images, integer labels), this rank's shard, with an end; or None. See
            `batches_of`.
        batch_size: of arrays.

    Raises:
        RetrainingError: as `batches_of`; or there is no example on any rank.
    """
    if validation_data is None:
        return None
    from keras_squeezenet import distributed

    with from_extra("train"):
        import tensorflow as tf

    # Not Model.predict: on CPUs it compiles with XLA for every shape of a batch.
    predict_in_graph = tf.function(lambda images: predict(images, training=False))
    correct = count = 0
    for batch in measured_on(validation_data, batch_size):
        images, labels = pair(batch, predict, "validation_data")
        predicted = np.asarray(predict_in_graph(tf.convert_to_tensor(images))).argmax(axis=1)
        correct += int(np.sum(predicted == np.asarray(labels)))
        count += len(predicted)
    correct, count = distributed.total([correct, count])
    if count == 0:
        raise RetrainingError("`validation_data` must hold an example. Received: none")
    return float(correct / count)
