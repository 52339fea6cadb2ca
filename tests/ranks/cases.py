"""What the ranks train in tests/ranks/averaging.py, and what one process trains for comparison."""

from dataclasses import dataclass

import keras
import numpy as np

FEATURES, CLASSES = 6, 3
BATCH = 4  # per rank
STEPS = 6


@dataclass(frozen=True)
class Case:
    optimizer: str
    settings: tuple[tuple[str, object], ...] = ()
    compression: str | None = None
    accumulation_steps: int = 1
    through_fit: bool = True

    def make_optimizer(self):
        return getattr(keras.optimizers, self.optimizer)(**dict(self.settings))


CASES = {
    "sgd": Case("SGD", (("learning_rate", 0.1),)),
    "sgd_momentum": Case("SGD", (("learning_rate", 0.1), ("momentum", 0.9))),
    "sgd_nesterov": Case("SGD", (("learning_rate", 0.1), ("momentum", 0.9), ("nesterov", True))),
    "sgd_clipped": Case("SGD", (("learning_rate", 0.1), ("global_clipnorm", 0.1))),
    "rmsprop": Case("RMSprop", (("learning_rate", 0.01),)),
    "adam": Case("Adam", (("learning_rate", 0.01),)),
    "adamw": Case("AdamW", (("learning_rate", 0.01), ("weight_decay", 0.1))),
    "accumulated": Case("SGD", (("learning_rate", 0.1), ("momentum", 0.9)), accumulation_steps=3),
    "accumulated_adam": Case("Adam", (("learning_rate", 0.01),), accumulation_steps=2),
    "fp16": Case("SGD", (("learning_rate", 0.1), ("momentum", 0.9)), compression="fp16"),
    "own_loop": Case("SGD", (("learning_rate", 0.1), ("momentum", 0.9)), through_fit=False),
    "own_loop_accumulated": Case(
        "Adam", (("learning_rate", 0.01),), accumulation_steps=2, through_fit=False
    ),
}


def make_model(seed):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((FEATURES,)),
            keras.layers.Dense(8, activation="tanh"),
            keras.layers.Dense(CLASSES),
        ]
    )
    return model


def make_loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def joined_examples(ranks):
    """Examples whose consecutive groups of ranks·BATCH are the joined batches."""
    rng = np.random.default_rng(7)
    count = STEPS * BATCH * ranks
    features = rng.normal(size=(count, FEATURES)).astype("float32")
    return features, rng.integers(0, CLASSES, count)


def shard(examples, rank, ranks):
    """Rank's share of every joined batch."""
    return tuple(array[rank::ranks] for array in examples)
