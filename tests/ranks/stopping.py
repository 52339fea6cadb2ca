"""On two ranks: a clustering that a callback of rank 1 alone ends within the second epoch."""

import keras

from keras_squeezenet.compression.retraining import Retraining
from keras_squeezenet.compression.with_training.clustering import cluster
from tests.compression_digits import training_batches


class StopsInSecondEpoch(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = self.epoch == 1


def stopped(model, rank):
    """The network, and how many batches this rank trained on; without a stop it would be nine."""
    taken = 0

    def counted():
        nonlocal taken
        for batch in training_batches(seed=rank):
            taken += 1
            yield batch

    callbacks = [StopsInSecondEpoch()] if rank == 1 else []
    retraining = Retraining(3, 3, learning_rate=0.02, callbacks=callbacks)
    return cluster(model, counted(), bits=3, retraining=retraining).model, taken
