"""Started by horovodrun: retrains, and the loss of rank 1 alone is no number, in the last step.

python diverging.py FOLDER  writes what ended each rank to FOLDER/rank0.txt, FOLDER/rank1.txt, …
"""

import sys
from itertools import islice
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from keras_squeezenet import distributed
from keras_squeezenet.compression.with_training.bridge import to_tf_keras
from keras_squeezenet.compression.with_training.retraining import (
    Retraining,
    RetrainingError,
    retrain,
)
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


def main():
    distributed.start()
    rank = distributed.rank()
    try:
        # Two epochs: a rank that went on would wait for the other in the second.
        twin = to_tf_keras(tiny_net())
        retrain(twin, Batches(rank, twin), Retraining(2, STEPS))
        ended = "it went on"
    except RetrainingError as error:
        ended = str(error)
    (Path(sys.argv[1]) / f"rank{rank}.txt").write_text(ended)


main()
