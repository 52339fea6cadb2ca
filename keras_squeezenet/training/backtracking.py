"""Training that goes back to its best epoch, and on at a lower rate, when it has begun to forget.

How far weights may move depends on the images: thousands of groceries ask for rates at which a
hundred photos of what ImageNet knows already unlearn it. The validation images tell which is which.
Alone, the accuracy of some dozens of them jumps about, and the loss rises at times although the
accuracy still does; when both are worse than they were, training does harm.
"""

import logging
from collections.abc import Sequence

import keras

from keras_squeezenet import distributed
from keras_squeezenet.distributed.callbacks import Logs
from keras_squeezenet.training import fine_tuning
from keras_squeezenet.training.averaging import average_from_here
from keras_squeezenet.training.callbacks import History, best_epoch
from keras_squeezenet.training.runs import Run
from keras_squeezenet.training.state import Row

# By so much the accuracy is below the best epoch's, and the loss above the lowest, when it falls.
ACCURACY_LOST = 0.01
LOSS_RISEN = 1.01

# Of the rate that was too high.
SHARE_OF_RATE = 0.3

# With the last one training ends: at a hundredth of the rate it would only stand still.
MOST_TIMES = 4

log = logging.getLogger(__name__)


class Backtracking(keras.callbacks.Callback):
    """Goes back to the best epoch's weights when what is validated falls; see `falls`.

    The averaged weights of the best epoch become those in training, and all rates are multiplied
    by SHARE_OF_RATE. After MOST_TIMES training ends. Each epoch's row has `went_back`, 1 or 0, from
    which `Loop.restore` knows the rates. Put it behind what measures and before what keeps rows.

    Args:
        run: the `Run`, which keeps the best epoch's weights.
        history: the `History`.
    """

    def __init__(self, run: Run, history: History) -> None:
        super().__init__()
        self.run = run
        self.history = history

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        share = rate_share(self.history.rows)
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        logs.setdefault("learning_rate", rate * share)
        logs["went_back"] = 0
        rows = [*self.history.rows, {**logs, "epoch": epoch + 1}]
        if not falls(rows):
            return
        # Rank 0 has the files, and says whether it could read them.
        best = best_epoch(self.history.rows)
        weights = distributed.broadcast(self.run.averaged_weights_of(best))
        if weights is None:
            return
        logs["went_back"] = 1
        self.model.set_weights(weights)
        average_from_here(self.model)
        fine_tuning.set_rate_share(self.model, share * SHARE_OF_RATE)
        if times_back(rows) + 1 == MOST_TIMES:
            self.model.stop_training = True
            then = "training ends"
        else:
            then = f"training goes on from there at {SHARE_OF_RATE} times the rate"
        if distributed.rank() == 0:
            log.warning("Epoch %d is worse than epoch %d: %s", epoch + 1, best, then)


def falls(rows: Sequence[Row]) -> bool:
    """Whether the last of these epochs is worse than those before it, in accuracy and in loss.

    Args:
        rows: of the history, dicts with `val_accuracy` and `val_loss`.
    """
    *before, last = rows
    if not before:
        return False
    best = max(row["val_accuracy"] for row in before)
    lowest = min(row["val_loss"] for row in before)
    return last["val_accuracy"] < best - ACCURACY_LOST and last["val_loss"] > lowest * LOSS_RISEN


def times_back(rows: Sequence[Row]) -> int:
    """How often training went back in these epochs."""
    return sum(row.get("went_back", 0) for row in rows)


def rate_share(rows: Sequence[Row]) -> float:
    """Of the schedule's rate, what training goes on at after these epochs."""
    return SHARE_OF_RATE ** times_back(rows)
