"""Started by horovodrun: what batch normalization counts on ranks that see other images.

python statistics.py FOLDER  writes FOLDER/rank0.npz, FOLDER/rank1.npz, …
"""

import sys
from pathlib import Path

import keras_squeezenet.startup.quick_start  # noqa: F401

# isort: split
import keras
import numpy as np

from keras_squeezenet import distributed
from keras_squeezenet.network.layers import Fire


def make_model():
    return keras.Sequential(
        [
            keras.Input((4, 4, 3)),
            Fire(2, 2, 2, batch_normalization=True),
            keras.layers.BatchNormalization(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3),
        ]
    )


class Own(keras.callbacks.Callback):
    """This rank's statistics before it agrees with the others."""

    def on_epoch_end(self, epoch, logs=None):
        self.values = [np.array(weight) for weight in self.model.non_trainable_weights]


def main():
    distributed.start()
    rank = distributed.rank()
    rng = np.random.default_rng(rank)
    keras.utils.set_random_seed(0)
    model = make_model()
    model.compile(
        distributed.DistributedOptimizer(keras.optimizers.SGD(0.1)), "mse", jit_compile=False
    )
    own = Own()
    images, targets = rng.normal(rank, 1, (24, 4, 4, 3)), rng.normal(size=(24, 3))
    callbacks = [own, distributed.BroadcastState()]
    model.fit(images, targets, batch_size=4, epochs=2, verbose=0, callbacks=callbacks)
    results = {f"weights/{i}": value for i, value in enumerate(model.get_weights())}
    for number, value in enumerate(own.values):
        results[f"own/{number}"] = value
    agreed = [np.array(weight) for weight in model.non_trainable_weights]
    for number, value in enumerate(agreed):
        results[f"agreed/{number}"] = value
    # What is equal has nothing to agree on.
    distributed.average_statistics(model)
    again = [np.array(weight) for weight in model.non_trainable_weights]
    results["unchanged"] = np.array(all(map(np.array_equal, agreed, again)))
    np.savez(Path(sys.argv[1]) / f"rank{rank}.npz", **results)


main()
