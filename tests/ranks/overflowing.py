"""Started by horovodrun: trains in every precision of a recipe; rank 1 alone overflows in float16.

python overflowing.py FOLDER  writes FOLDER/rank0.npz, FOLDER/rank1.npz, …

Model and optimizer are made as train/train.py makes them, and as a script of a user's does, where
`Model.compile` alone knows of the model's precision: the global policy is float32 again by then.
"""

import sys
from pathlib import Path
from typing import get_args

import keras_squeezenet.startup.quick_start  # noqa: F401

# isort: split
import keras
import numpy as np

from keras_squeezenet import distributed
from keras_squeezenet.training.building import build_model
from keras_squeezenet.training.recipe import Recipe, TrainingSection
from keras_squeezenet.training.stages import compile_model, stages_of

STEPS, BATCH, CLASSES = 6, 4, 3
OVERFLOWS_AT = 1
PRECISIONS = get_args(TrainingSection.model_fields["precision"].annotation)
MAKERS = [*(("train.py", precision) for precision in PRECISIONS), ("script", "mixed_float16")]
CASES = [(maker, precision, steps) for maker, precision in MAKERS for steps in (1, 2)]


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


def compile_as_a_script(model, accumulation_steps):
    """Keras puts the loss scaling around an optimizer that averages already."""
    optimizer = distributed.DistributedOptimizer(
        keras.optimizers.SGD(0.01), accumulation_steps=accumulation_steps
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=False)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert model.optimizer.inner_optimizer is optimizer


def train(maker, asked):
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(asked.training.precision)
    model = build_model(asked.model, asked.data.image_size, CLASSES)
    keras.config.set_dtype_policy("float32")
    if maker == "script":
        compile_as_a_script(model, asked.training.accumulation_steps)
    else:
        (stage,) = stages_of(asked)
        compile_model(model, stage, steps_per_epoch=STEPS)
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
    for maker, precision, accumulation_steps in CASES:
        weights, applied = train(maker, recipe(precision, accumulation_steps))
        results[f"{maker}/{precision}/{accumulation_steps}/weights"] = weights
        results[f"{maker}/{precision}/{accumulation_steps}/applied"] = applied
    np.savez(Path(sys.argv[1]) / f"rank{distributed.rank()}.npz", **results)


if __name__ == "__main__":
    main()
