"""Started by horovodrun: trains in every precision of a recipe; rank 1 alone overflows in float16.

python overflowing.py FOLDER  writes FOLDER/rank0.npz, FOLDER/rank1.npz, …

Model and optimizer are made as train/train.py makes them: the global policy is float32 again when
the model is compiled.
"""

import sys
from pathlib import Path
from typing import get_args

import keras_squeezenet.quick_start  # noqa: F401

# isort: split
import keras
import numpy as np

from keras_squeezenet import distributed, training
from keras_squeezenet.recipe import Recipe, TrainingSection

STEPS, BATCH, CLASSES = 6, 4, 3
OVERFLOWS_AT = 1
PRECISIONS = get_args(TrainingSection.model_fields["precision"].annotation)
CASES = [(precision, steps) for precision in PRECISIONS for steps in (1, 2)]


def recipe(precision, accumulation_steps):
    return Recipe.model_validate(
        {
            "name": "overflow",
            "data": {"source": "digits", "image_size": 32},
            "model": {
                "metaparameters": {"base_e": 8, "incr_e": 8, "fires": 2, "pool_after": [1]},
                "dropout_rate": 0.0,
                "last_activation": None,
            },
            "optimizer": {"name": "sgd", "learning_rate": 0.01, "schedule": "constant"},
            "training": {
                "epochs": 1,
                "batch_size": BATCH,
                "precision": precision,
                "accumulation_steps": accumulation_steps,
            },
        }
    )


def train(asked):
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(asked.training.precision)
    model = training.build_model(asked.model, asked.data.image_size, CLASSES)
    keras.config.set_dtype_policy("float32")
    (stage,) = training.stages(asked)
    training.compile_model(model, stage, steps_per_epoch=STEPS)
    rng = np.random.default_rng(distributed.rank())
    for step in range(STEPS):
        images = rng.uniform(0, 255, (BATCH, 32, 32, 3)).astype("float32")
        if step == OVERFLOWS_AT and distributed.rank() == 1:
            images *= 1e6  # beyond float16, harmless to the others
        model.train_on_batch(images, rng.integers(0, CLASSES, BATCH))
    flat = np.concatenate([weight.ravel() for weight in model.get_weights()])
    return flat, int(model.optimizer.iterations)


def main():
    distributed.start()
    results = {}
    for precision, accumulation_steps in CASES:
        weights, applied = train(recipe(precision, accumulation_steps))
        results[f"{precision}/{accumulation_steps}/weights"] = weights
        results[f"{precision}/{accumulation_steps}/applied"] = applied
    np.savez(Path(sys.argv[1]) / f"rank{distributed.rank()}.npz", **results)


if __name__ == "__main__":
    main()
