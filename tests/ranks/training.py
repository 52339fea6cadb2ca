"""Started by horovodrun: train/train.py, which also saves each rank's weights when training ends.

python training.py FOLDER …  writes FOLDER/rank0.npz, FOLDER/rank1.npz, …; then train.py's arguments
"""

import runpy
import sys
from pathlib import Path

import numpy as np

from keras_squeezenet import distributed

TRAIN = Path(__file__).parents[2] / "train" / "train.py"

_, folder, *arguments = sys.argv
hand_on = distributed.broadcast_weights


def save_and_hand_on(model):
    # Afterwards all ranks have rank 0's weights, whatever theirs were.
    np.savez(Path(folder) / f"rank{distributed.rank()}.npz", *model.get_weights())
    hand_on(model)


distributed.broadcast_weights = save_and_hand_on
sys.argv = [str(TRAIN), *arguments]
runpy.run_path(str(TRAIN), run_name="__main__")
