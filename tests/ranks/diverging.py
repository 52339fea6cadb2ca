"""Started by horovodrun: retrains, and the loss of rank 1 alone is no number, in the last step.

python diverging.py FOLDER  writes what ended each rank to FOLDER/rank0.txt, FOLDER/rank1.txt, …
"""

import sys
from itertools import islice
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from keras_squeezenet import distributed
from keras_squeezenet.compression.bridge import to_tf_keras
from keras_squeezenet.compression.retraining import Retraining, RetrainingError, retrain
from tests.compression_digits import tiny_net, training_batches

STEPS = 3


def batches(rank):
    for number, (images, labels) in enumerate(islice(training_batches(seed=rank), STEPS), start=1):
        overflows = rank == 1 and number == STEPS
        yield images * np.float32(np.inf if overflows else 1), labels


def main():
    distributed.start()
    rank = distributed.rank()
    try:
        # Two epochs: a rank that went on would wait for the other in the second.
        retrain(to_tf_keras(tiny_net()), list(batches(rank)), Retraining(2, STEPS))
        ended = "it went on"
    except RetrainingError as error:
        ended = str(error)
    (Path(sys.argv[1]) / f"rank{rank}.txt").write_text(ended)


main()
