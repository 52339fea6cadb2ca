"""What happens between the epochs of a training run.

Whether to stop rests on metrics that the `Loop` and `ShardedValidation` have made equal on all
ranks, so that the ranks decide alike. Their order is that of `train/train.py`: first the
metrics, then what reads them, then what saves.
"""

import logging
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import keras
import numpy as np

from keras_squeezenet import distributed, files
from keras_squeezenet.data import DataError
from keras_squeezenet.data.dataset import Dataset
from keras_squeezenet.distributed.callbacks import Logs
from keras_squeezenet.extras import from_extra
from keras_squeezenet.training.averaging import keep_weights
from keras_squeezenet.training.diagnosis import Diagnosis, Observer
from keras_squeezenet.training.state import Row

with from_extra("train"):
    import tensorflow as tf

log = logging.getLogger(__name__)


class ShardedValidation(keras.callbacks.Callback):
    """Adds `val_loss` and `val_accuracy`: each rank evaluates its shard, every example counts once.

    Args:
        twin: a compiled model, which `keep_weights` gives the weights of the one in training;
            perhaps of another precision and image size: what is kept is measured as it will be
            used.
        batches: this rank's finite `tf.data.Dataset` of images and labels; it may be empty.
        empty: whether it is.
        after_batch: called after each batch, and at the end for those that others have more, so
            that it is called `steps` times on every rank. It may have collective operations.
        steps: the number of batches of the rank that has the most.
    """

    METRICS = ("loss", "accuracy")

    def __init__(
        self,
        twin: keras.Model,
        batches: tf.data.Dataset,
        empty: bool = False,
        after_batch: Callable[[], None] | None = None,
        steps: int = 0,
    ) -> None:
        super().__init__()
        self.twin = twin
        self.batches = batches
        self.empty = empty
        self.after_batch = after_batch or (lambda: None)
        self.steps = steps

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        sums, count = [0.0] * len(self.METRICS), 0.0
        counted = _AfterBatch(self.after_batch)
        if not self.empty:
            keep_weights(self.model, self.twin)
            with warnings.catch_warnings():
                # Broken pictures are left out on the way, so the batches have no known number.
                warnings.filterwarnings("ignore", message="Your input ran out of data")
                means = self.twin.evaluate(
                    self.batches, verbose=0, return_dict=True, callbacks=[counted]
                )
            # Keras weighs the mean loss by batch sizes: its weight is the number of examples.
            count = float(self.twin.metrics[0].count)
            sums = [means[name] * count for name in self.METRICS]
        for _ in range(counted.batches, self.steps):
            self.after_batch()
        *sums, count = distributed.total([*sums, count]).tolist()
        for name, value in zip(self.METRICS, sums, strict=True):
            logs[f"val_{name}"] = value / count if count else math.nan


class _AfterBatch(keras.callbacks.Callback):
    def __init__(self, call: Callable[[], None]) -> None:
        super().__init__()
        self.call = call
        self.batches = 0

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self.batches += 1
        self.call()


class BrokenPictures(keras.callbacks.Callback):
    """Tells every rank what the others could not read; too many of them end the run on all.

    A class of which nothing can be read is named once.

    Args:
        dataset: the `Dataset`.
        found: a dict to which each picture is added, its file or example and the reason.
    """

    def __init__(self, dataset: Dataset, found: dict[str, str] | None = None) -> None:
        super().__init__()
        self.dataset = dataset
        self.found = {} if found is None else found
        self._named: set[str] = set()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        for split in (self.dataset.train, self.dataset.val):
            for found in distributed.gather(split.broken):
                split.broken_images.include(found)
        if self.dataset.failure:
            raise DataError(self.dataset.failure)
        self.found.update(self.dataset.broken)
        for name in self.dataset.train.classes_all_broken():
            if name not in self._named and distributed.rank() == 0:
                log.warning("No picture of the class %r can be read: it is not learned", name)
            self._named.add(name)


class History(keras.callbacks.Callback):
    """Keeps a row per epoch, over resumptions too, and writes them to a CSV file on rank 0.

    All rows are written each time, so a file that could not be written lacks nothing later.

    Args:
        path: the file.
        rows: what was kept before a resumption.
    """

    def __init__(self, path: Path, rows: Iterable[Row] = ()) -> None:
        super().__init__()
        self.path = path
        self.rows = list(rows)
        self._attempts = files.Attempts("Training goes on, and its rows are kept in memory")

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        # A last layer that is fitted has no rate, and says so itself.
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        logs = {**logs, "learning_rate": logs.get("learning_rate", rate)}
        self.rows.append({"epoch": epoch + 1, **logs, "ranks": distributed.size()})
        if distributed.rank() == 0:
            with self._attempts.write(self.path):
                files.write_csv(self.path, self.rows)


def best_epoch(rows: Iterable[Row]) -> int:
    """Number of the epoch with the highest validation accuracy; of several, the lowest loss's."""
    return max(rows, key=lambda row: (row["val_accuracy"], -row.get("val_loss", 0.0)))["epoch"]


class StopEarly(keras.callbacks.Callback):
    """Ends training when the validation accuracy has not risen for some epochs.

    Args:
        history: the `History`.
        patience: number of epochs.
        after: epochs that do not count, such as those in which the last layer alone learned.
    """

    def __init__(self, history: History, patience: int, after: int = 0) -> None:
        super().__init__()
        self.history = history
        self.patience = patience
        self.after = after

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if has_waited(self.history.rows, self.patience, self.after):
            self.model.stop_training = True


def has_waited(rows: Sequence[Row], patience: int, after: int = 0) -> bool:
    """Whether `StopEarly` stops after the last of these epochs; its arguments are as there."""
    epoch = rows[-1]["epoch"]
    return epoch > after and epoch - max(best_epoch(rows), after) >= patience


class DivergedError(RuntimeError):
    """The loss, or a weight, is no longer a number."""


def check_finite(epoch: int, loss: float, weights: Iterable[np.ndarray] = ()) -> None:
    """Refuse what training cannot recover from.

    Args:
        epoch: its number, from 1.
        loss: mean over examples of it.
        weights: arrays.

    Raises:
        DivergedError: the loss or one of the weights is infinite or not a number.
    """
    if not math.isfinite(loss):
        found = f"The loss in epoch {epoch} is {loss}"
    elif not all(np.isfinite(weight).all() for weight in weights):
        found = f"Weights in epoch {epoch} are not finite"
    else:
        return
    raise DivergedError(
        f"{found}: training diverged. Lower optimizer.learning_rate, or set "
        "optimizer.clip_norm or optimizer.warmup_epochs."
    )


class LossWatch(keras.callbacks.Callback):
    """Notices the two ways in which training a SqueezeNet fails.

    Stuck: the loss stays at ln(classes), that of equal probabilities, the classic failure; or it
    falls, but some classes are never learned. With `images` the network is looked at, and the first
    look that finds a cause says it, with what helps against it (`diagnosis`). Without, or where no
    cause is seen, a loss that stays is said after some looks. Only the first warning is given, and
    training goes on.

    Diverged: the loss is not a number, and training ends with a `DivergedError`. Put it before
    what saves, so that the last checkpoint is from before. Within an epoch several ranks find it
    out together, in the `Loop`: were one to end by itself, those of an elastic run would take it
    for lost and go on without it.

    Args:
        classes: number of classes.
        warmup_epochs: epochs in which a high loss means nothing yet.
        patience: looks in a row that must find the loss stuck; there is one after each epoch
            and after each thousand steps.
        images: of the training set, of many classes, as the model takes them; 64 are enough. A
            look at them costs about as much as a step. The model must be functional.
        labels: the classes of these images; None if they are of every class.
        squeezenet: whether the network is one of a recipe's settings of a SqueezeNet, so that some
            of them are advice.

    Attributes:
        warnings: what was said.
        causes: names of the causes that were said, see `diagnosis.Diagnosis`.
    """

    STEPS_BETWEEN_LOOKS = 1000
    MARGIN = 0.02  # share of ln(classes)

    def __init__(
        self,
        classes: int,
        warmup_epochs: float = 0,
        patience: int = 3,
        images: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        squeezenet: bool = True,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.squeezenet = squeezenet
        self.chance = math.log(classes)
        self.warmup_epochs = warmup_epochs
        self.patience = patience
        self.images = images
        self.labels = labels
        self._observer: Observer | None = None
        self.stuck_looks = 0
        self.warnings: list[str] = []
        self.causes: list[str] = []

    def on_train_begin(self, logs: Logs | None = None) -> None:
        # Ranks have equal weights: it is enough that one of them looks, the one that speaks.
        if self.images is not None and distributed.rank() == 0:
            self._observer = Observer(self.model, self.images, self.labels)
            self._diagnosis = Diagnosis(self.classes)
            self._diagnosis.add(self._observer.look())

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self.epoch = epoch
        self.warm = epoch >= self.warmup_epochs

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        if distributed.size() == 1:
            check_finite(self.epoch + 1, logs["loss"])
        if (batch + 1) % self.STEPS_BETWEEN_LOOKS == 0:
            self._look(logs["loss"])

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        check_finite(self.epoch + 1, logs["loss"])
        check_finite(self.epoch + 1, logs.get("val_loss", 0.0))
        self._look(logs["loss"])

    def _look(self, loss: float) -> None:
        found = self._diagnosis.add(self._observer.look(), loss) if self._observer else []
        stays = abs(loss - self.chance) < self.MARGIN * self.chance
        self.stuck_looks = self.stuck_looks + 1 if self.warm and stays else 0
        if not self.warm or self.warnings:
            return
        if found:
            self.causes = [finding.cause for finding in found]
            advice = list(dict.fromkeys(text for finding in found for text in finding.advice))
            if not self.squeezenet:
                advice = self._without_settings(advice)
            self._warn(
                f"Training is stuck: {'; '.join(finding.seen for finding in found)}. The loss is "
                f"{loss:.3f}, and equal probabilities for all classes give {self.chance:.3f}. "
                f"Try: {', '.join(advice)}."
            )
        elif self.stuck_looks >= self.patience:
            of_the_model = "model.kernel_initializer=he_normal, model.last_activation=null, "
            self._warn(
                f"Training is stuck: the loss stays at {loss:.3f}, and equal probabilities for "
                f"all classes give {self.chance:.3f}. Try, in this order: a longer "
                "optimizer.warmup_epochs, a lower optimizer.learning_rate, "
                f"{of_the_model * self.squeezenet}another seed."
            )

    @staticmethod
    def _without_settings(advice: Iterable[str]) -> list[str]:
        """Advice for a network whose recipe has no settings of a SqueezeNet."""
        others = [text for text in advice if not text.startswith("model.")]
        return others or ["other initial values, batch normalization"]

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        if distributed.rank() == 0:
            log.warning(text)
