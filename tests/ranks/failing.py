"""Started by horovodrun: rank 1 fails in the middle of an epoch."""

import keras_squeezenet.startup.quick_start  # noqa: F401

# isort: split
import keras
import numpy as np
from cases import make_loss, make_model

from keras_squeezenet import distributed


class FailOnRankOne(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 2 and distributed.rank() == 1:
            raise RuntimeError("the disk of rank 1 is full")


distributed.start()
model = make_model(seed=0)
model.compile(
    distributed.DistributedOptimizer(keras.optimizers.SGD(0.1)), make_loss(), jit_compile=False
)
model.fit(
    np.zeros((64, 6), "float32"),
    np.zeros(64, int),
    batch_size=4,
    verbose=0,
    callbacks=[FailOnRankOne()],
)
print("this rank finished")
