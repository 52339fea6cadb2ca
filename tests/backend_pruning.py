"""Prunes in `fit` on Keras's backend of the moment, for the comparison of backends.

python backend_pruning.py FOLDER  reads FOLDER/start.npz, writes FOLDER/BACKEND.npz
"""

import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers

sys.path.insert(0, str(Path(__file__).parents[1]))

from keras_squeezenet import ConstantSparsity, Fire, MagnitudePruning

BATCH, STEPS, EPOCHS, CLASSES = 8, 4, 3, 3


def network():
    return keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            layers.SeparableConv2D(8, 3, activation="relu", name="separable"),
            Fire(4, 4, 4, name="fire"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(CLASSES, name="head"),
        ]
    )


def save_start(folder):
    """Data, and weights to begin with."""
    rng = np.random.default_rng(3)
    images = rng.normal(size=(BATCH * STEPS, 6, 6, 4)).astype("float32")
    labels = rng.integers(0, CLASSES, BATCH * STEPS)
    keras.utils.set_random_seed(0)
    weights = {str(n): value for n, value in enumerate(network().get_weights())}
    np.savez(folder / "start.npz", images=images, labels=labels, **weights)


class Watching(keras.callbacks.Callback):
    """The weights after each step."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(self.model.get_weights())


def main(folder):
    start = np.load(folder / "start.npz")
    model = network()
    model.set_weights([start[str(n)] for n in range(len(model.weights))])
    model.compile(
        keras.optimizers.SGD(0.3, momentum=0.9, use_ema=True, ema_momentum=0.5),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=keras.backend.backend() == "jax",  # as it does without being told
    )
    watching = Watching()
    schedule = ConstantSparsity(begin=2, end=11, every=3, unit="steps")
    model.fit(
        start["images"],
        start["labels"],
        batch_size=BATCH,
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
        callbacks=[MagnitudePruning(0.6, schedule), watching],
    )
    steps = {
        f"{step}/{n}": value
        for step, weights in enumerate([*watching.seen, model.get_weights()])
        for n, value in enumerate(weights)
    }
    np.savez(folder / f"{keras.backend.backend()}.npz", **steps)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
