"""On two ranks: a retraining in which the loss of rank 1 alone is no number, in the last step."""

from itertools import islice

import numpy as np

from keras_squeezenet.compression.retraining import Retraining, RetrainingError
from keras_squeezenet.compression.with_training.bridge import to_tf_keras
from keras_squeezenet.compression.with_training.retraining import retrain
from tests.compression_digits import tiny_net, training_batches

STEPS = 3


class Batches:
    """Before the last one, on rank 1, the network's last bias is no number any more.

    Pictures that are none would not do: some kernels of a ReLU make 0 of what is no number.
    """

    def __init__(self, rank, twin):
        self.rank = rank
        self.twin = twin

    def __iter__(self):
        for number, batch in enumerate(islice(training_batches(seed=self.rank), STEPS), start=1):
            if self.rank == 1 and number == STEPS:
                bias = self.twin.trainable_variables[-1]
                bias.assign(np.full(bias.shape, np.nan, "float32"))
            yield batch


def what_ends_it(rank):
    """The text of the error that ends this rank's training."""
    try:
        # Two epochs: a rank that went on would wait for the other in the second.
        twin = to_tf_keras(tiny_net())
        retrain(twin, Batches(rank, twin), Retraining(2, STEPS))
    except RetrainingError as error:
        return str(error)
    return "it went on"
