"""Trains a CondenseNet with `fit` on Keras's backend of the moment, for the comparison of backends.

python backend_condensing.py FOLDER  reads FOLDER/start.npz, writes FOLDER/BACKEND.npz
"""

import sys
from pathlib import Path

import keras
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from keras_squeezenet import CondenseNet, CondensingStages, condensed_model

BATCH, STEPS, EPOCHS, CLASSES = 8, 4, 2, 3


def network():
    return CondenseNet(
        blocks=(1, 2),
        growth_rate=2,
        groups=2,
        strides=1,
        group_lasso=1e-3,
        input_shape=(8, 8, 3),
        classes=CLASSES,
    )


def save_start(folder):
    """Data, and weights to begin with."""
    rng = np.random.default_rng(3)
    images = rng.normal(size=(BATCH * STEPS, 8, 8, 3)).astype("float32")
    labels = rng.integers(0, CLASSES, BATCH * STEPS)
    keras.utils.set_random_seed(0)
    weights = {str(n): value for n, value in enumerate(network().get_weights())}
    np.savez(folder / "start.npz", images=images, labels=labels, **weights)


def main(folder):
    start = np.load(folder / "start.npz")
    model = network()
    model.set_weights([start[str(n)] for n in range(len(model.weights))])
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        "sparse_categorical_crossentropy",
        jit_compile=keras.backend.backend() == "jax",  # as it does without being told
    )
    history = model.fit(
        start["images"],
        start["labels"],
        batch_size=BATCH,
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
        callbacks=[CondensingStages()],
    )
    weights = {str(n): value for n, value in enumerate(model.get_weights())}
    np.savez(
        folder / f"{keras.backend.backend()}.npz",
        losses=history.history["loss"],
        trained=model.predict(start["images"], verbose=0),
        condensed=condensed_model(model).predict(start["images"], verbose=0),
        **weights,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
