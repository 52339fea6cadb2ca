"""Started by horovodrun: distils on this rank's shard and saves what came out.

python distilling.py FOLDER  writes FOLDER/rank0.npz, FOLDER/rank1.npz, …
"""

import sys
from pathlib import Path

import keras_squeezenet.startup.quick_start  # noqa: F401

# isort: split
import keras
import numpy as np
from keras import layers

from keras_squeezenet import distributed
from keras_squeezenet.compression.distillation import distill
from keras_squeezenet.compression.retraining import Retraining

CLASSES, BATCH, STEPS = 3, 8, 5
RETRAINING = Retraining(epochs=2, steps_per_epoch=STEPS, learning_rate=0.05)


def network(seed, filters, normalized=False):
    keras.utils.set_random_seed(seed)
    image = keras.Input((6, 6, 3))
    x = layers.Conv2D(filters, 3, activation="relu")(image)
    if normalized:
        x = layers.BatchNormalization()(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(CLASSES, activation="softmax")(x))


def distill_shard(rank, ranks, normalized=False):
    """Batches that all ranks together make of the same BATCH images each."""
    rng = np.random.default_rng(7)
    images = rng.normal(size=(STEPS, BATCH, 6, 6, 3)).astype("float32")
    labels = rng.integers(0, CLASSES, (STEPS, BATCH))
    batches = [(images[i, rank::ranks], labels[i, rank::ranks]) for i in range(STEPS)]
    # A different start on each rank; that of rank 0 counts.
    return distill(
        network(rank, 4, normalized),
        network(100, 8),
        batches,
        retraining=RETRAINING,
        student_weight=0.5,
        validation_data=batches,
    )


def main():
    distributed.start()
    result = distill_shard(distributed.rank(), distributed.size())
    arrays = {str(number): array for number, array in enumerate(result.model.get_weights())}
    normalized = distill_shard(distributed.rank(), distributed.size(), normalized=True)
    for number, array in enumerate(normalized.model.get_weights()):
        arrays[f"normalized/{number}"] = array
    np.savez(
        Path(sys.argv[1]) / f"rank{distributed.rank()}.npz",
        after=result.after,
        **arrays,
    )


if __name__ == "__main__":
    main()
