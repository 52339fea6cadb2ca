"""Callbacks that keep a run's folder: a checkpoint after each epoch, and the folder itself."""

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import keras

from keras_squeezenet import distributed, files
from keras_squeezenet.distributed.callbacks import Logs
from keras_squeezenet.training import checkpoints
from keras_squeezenet.training.callbacks import History
from keras_squeezenet.training.locks import FolderLock
from keras_squeezenet.training.runs import Run


class Checkpoint(keras.callbacks.Callback):
    """Saves model and optimizer after each epoch, on rank 0; keeps the last and the best epoch's.

    See `checkpoints`. If one cannot be written, such as on a full disk, training goes on: those
    before it stay as they are, and the next epoch is saved as if nothing had been. Put it after the
    callbacks that may stop training.

    Args:
        folder: for the files.
        history: the `History`; put it before this callback.
        class_names: of the data; a run is resumed with the same.
        warnings: a list to which what the user was told is added, a sentence each.
        broken_images: a dict to which what cannot be read is added, with the reason.
    """

    def __init__(
        self,
        folder: Path,
        history: History,
        class_names: Iterable[str],
        warnings: Iterable[str] = (),
        broken_images: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.folder = folder
        self.history = history
        self.class_names = list(class_names)
        self.warnings = warnings
        self.broken_images = broken_images
        self._attempts = files.Attempts("Training goes on; the checkpoints before it stay")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if distributed.rank() != 0:
            return
        with self._attempts.write(f"{self.folder}: the checkpoint of epoch {epoch + 1}"):
            checkpoints.write_epoch(
                self.folder,
                self.model,
                epoch + 1,
                self.class_names,
                self.history.rows,
                stopped=bool(self.model.stop_training),
                warnings=self.warnings,
                broken_images=self.broken_images,
            )


class FolderWatch(keras.callbacks.Callback):
    """Sees after each epoch, on rank 0, that the folder is still the run's.

    One that was removed is made anew, and training goes on; one that another training has taken
    meanwhile ends this one with a `RunError`. Put it before what writes into the folder.

    Args:
        run: the `Run`.
        lock: the `FolderLock` of its folder.
    """

    def __init__(self, run: Run, lock: FolderLock) -> None:
        super().__init__()
        self.run = run
        self.lock = lock

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        # What cannot be written is said by those who write.
        with contextlib.suppress(OSError):
            if distributed.rank() == 0:
                self.lock.keep()
                self.run.made_anew()
