"""A run's folder: what it was asked, its checkpoints, its model, and what was measured.

recipe.yaml        what was asked, every default written out
checkpoints/       while it trains: models of the last two checkpoints and of the best epoch
commits.jsonl      if asked for: which examples were trained on, commit by commit
history.csv        a row per epoch
model.keras        the trained model, without the optimizer
class_names.json   its classes, in the order of its outputs
metrics.json       what was measured, on the files named in it
*.png, report.html for people
.lock              held while it trains

What cannot be written, such as on a full disk, costs no more than it has to. A run does not begin
without its folder. Training goes on without history.csv and checkpoints and writes them when it
can, for what it learns is in memory. It ends where memory is about to be lost: when it was asked to
end within an epoch, or at the end without its result; a line says so, and --resume goes on from
the last checkpoint that was written.
"""

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_squeezenet import distributed, files
from keras_squeezenet.data.sources import is_same_source, resolved
from keras_squeezenet.errors import RunError, one_line
from keras_squeezenet.inference.classifiers import CLASS_NAMES_FILE
from keras_squeezenet.network.keras_files import save_and_read_back
from keras_squeezenet.training import checkpoints
from keras_squeezenet.training.averaging import averaged_weights, keep_weights
from keras_squeezenet.training.callbacks import has_waited
from keras_squeezenet.training.checkpoints import CheckpointFields
from keras_squeezenet.training.recipe import Recipe, has_retired_keys, load_recipe_of_run
from keras_squeezenet.training.stages import stages_of
from keras_squeezenet.training.state import Part, TrainingState

MODEL_FILE = "model.keras"
RECIPE_FILE = "recipe.yaml"
METRICS_FILE = "metrics.json"
REPORT_FILE = "report.html"
RESULTS = (MODEL_FILE, METRICS_FILE, REPORT_FILE)  # in the order in which they are written
HISTORY_FILE = "history.csv"
JOURNAL_FILE = "commits.jsonl"
# A resumed run may go on for longer; everything else has to be what it was.
MAY_CHANGE_ON_RESUME = {"training.epochs"}

log = logging.getLogger(__name__)


class Run:
    """The folder of one training run. Rank 0 alone reads and writes it.

    Args:
        folder: made if missing.
        recipe: the `Recipe`.
        class_names: of the data, in the order of the model's outputs.
        resume: whether to go on from the folder's last checkpoint, if it has one.
        journal: whether to write commits.jsonl.

    Attributes:
        state: the `TrainingState` at the last commit; `begin` makes the first.
        epoch: number of epochs that are behind the checkpoint.
        finished: whether nothing of what was asked is left to do.
        warnings: what the user was told, a sentence each, before the checkpoint and since.
        broken_images: what could not be read, {file or example: reason}, likewise.

    Raises:
        RunError: the folder holds a run and `resume` is false, or holds one of another recipe or
            other classes, or what it holds is damaged.
    """

    state: TrainingState

    def __init__(
        self,
        folder: str | Path,
        recipe: Recipe,
        class_names: Iterable[str],
        resume: bool = False,
        journal: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.checkpoints = self.folder / "checkpoints"
        self.recipe = recipe
        self.class_names = list(class_names)
        self.journal = journal
        self.started = datetime.now(UTC)
        checkpoint, finished = None, False
        with distributed.together():
            if distributed.rank() == 0:
                checkpoint, finished = self._open(resume)
        checkpoint, self.finished = distributed.gather((checkpoint, finished))[0]
        self._take(checkpoint)

    def _take(self, checkpoint: CheckpointFields | None) -> None:
        """Stand where a checkpoint says, or at the beginning if it is None."""
        self._checkpoint = checkpoint
        self.epoch = checkpoint["epoch"] if checkpoint else 0
        self.resumed_from_epoch = checkpoint and self.epoch
        self.warnings = list((checkpoint or {}).get("warnings", ()))
        self.broken_images = dict((checkpoint or {}).get("broken_images", {}))

    def _open(self, resume: bool) -> tuple[CheckpointFields | None, bool]:
        """(checkpoint or None, whether the run is finished)."""
        checkpoint, finished = None, False
        results = [self.folder / name for name in RESULTS]
        has_results = any(path.exists() for path in results)
        if not has_results and checkpoints.has_lost_its_place(self.checkpoints):
            raise RunError(
                "The folder holds checkpoints of a run, and checkpoint.json, which says where it "
                f"stands, is missing. Choose another folder: --output. Received: {self.folder}"
            )
        if checkpoints.exist(self.checkpoints) or has_results:
            if not resume:
                raise RunError(
                    "The output folder holds a run already. Go on with it: --resume; or choose "
                    f"another: --output. Received: output={self.folder}"
                )
            has_other_length = self._check_same_recipe()
            finished = all(path.exists() for path in results) and not has_other_length
            try:
                checkpoint = checkpoints.read(self.checkpoints)
            except RunError:
                if not finished:  # a finished run needs none; its user may have deleted the files
                    raise
            self._check_length(checkpoint)
            if checkpoint is None and not finished:
                raise RunError(
                    "The run has results and no checkpoint to go on from; trained anew, it would "
                    f"write over them. Choose another folder: --output. Received: {self.folder}"
                )
            if checkpoint is not None:
                self._check_same_classes(checkpoint)
            if not finished:
                for path in (self.folder / REPORT_FILE, self.folder / METRICS_FILE):
                    path.unlink(missing_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in (*RESULTS, RECIPE_FILE, HISTORY_FILE, CLASS_NAMES_FILE):
            files.remove_left_behind(self.folder / name)
        self._write_recipe()
        return checkpoint, finished

    def _write_recipe(self) -> None:
        # With its data in a spelling that holds in every working directory.
        source = resolved(self.recipe.data.source)
        data = self.recipe.data.model_copy(update={"source": source})
        recipe = self.recipe.model_copy(update={"data": data})
        files.write_text(self.folder / RECIPE_FILE, recipe.to_yaml())

    def _check_same_recipe(self) -> bool:
        """Whether the recipe asks for another length than before; anything else has to be equal."""
        path = self.folder / RECIPE_FILE
        if has_retired_keys(path):
            raise RunError(
                "The run began with an earlier release, whose fine-tuning was another one. It "
                f"cannot go on; choose another folder: --output. Received: {self.folder}"
            )
        before = load_recipe_of_run(path).model_dump()
        now = self.recipe.model_dump()
        changed = False
        for name, old, new in _differences(before, now):
            if name == "data.source" and self._is_same_source(old, new):
                continue
            if name not in MAY_CHANGE_ON_RESUME:
                raise RunError(
                    f"A run is resumed with the recipe that it began with: {name} was {old}. "
                    f"Received: {name}={new}"
                )
            changed = True
        return changed

    def _is_same_source(self, old: str, new: str) -> bool:
        """Whether both are one data set, or the first was moved; its classes are compared later."""
        if is_same_source(old, new):
            return True
        is_gone = os.path.isabs(old) and not os.path.exists(old)
        if is_gone:
            log.warning("The run's data, %s, are no longer there. It goes on with %s", old, new)
        return is_gone

    def _check_length(self, checkpoint: CheckpointFields | None) -> None:
        if checkpoint is None:
            return
        begun = checkpoint["epoch"] + ("within_epoch" in checkpoint)
        if begun > self.recipe.training.epochs:
            raise RunError(
                f"A run is resumed with at least as many epochs as it has begun, {begun}. "
                f"Received: training.epochs={self.recipe.training.epochs}"
            )

    def _check_same_classes(self, checkpoint: CheckpointFields) -> None:
        before = checkpoint.get("class_names")
        if before != self.class_names:
            raise RunError(
                f"A run is resumed with the classes that it began with: {before}. "
                f"Received: {self.class_names}"
            )

    def begin(self, model: keras.Model, examples: int) -> None:
        """Set `state` to the last checkpoint's, or to a beginning with the model's weights.

        On rank 0 alone it is what training goes on from; hand it on to the others.

        Args:
            model: the network.
            examples: number of training examples.

        Raises:
            RunError: the checkpoint was left within an epoch of another number of examples, or its
                model and that of the one before cannot be loaded.
        """
        if self._checkpoint is None or distributed.rank() != 0:
            self.state = TrainingState(np.zeros(examples, bool), tuple(model.get_weights()))
            return
        checkpoint, state = checkpoints.load_state(
            self.checkpoints, self._checkpoint, model, examples
        )
        self._take(checkpoint)  # perhaps the one before
        self.state = replace(state, stopped=self._has_stopped(checkpoint))

    def _has_stopped(self, checkpoint: CheckpointFields) -> bool:
        """Whether training ended early before the checkpoint; the oldest ones do not say so."""
        patience = self.recipe.training.early_stopping
        if "stopped" in checkpoint or "within_epoch" in checkpoint or not patience:
            return bool(checkpoint.get("stopped", False))
        return has_waited(checkpoint["history"], patience, stages_of(self.recipe)[-1].start)

    def last_checkpoint(self) -> Path | None:
        """Path of the last whole checkpoint's model, or None; rank 0 says it to all."""
        path = None
        if distributed.rank() == 0:
            with contextlib.suppress(RunError):  # none of them is whole
                if checkpoint := checkpoints.read(self.checkpoints):
                    path = self.checkpoints / checkpoint["last"]
        return distributed.broadcast(path)

    def save_within_epoch(self, model: keras.Model, ending: bool = True) -> None:
        """Save `state` by way of a model of its stage, which is set back to it. On rank 0 only.

        At the beginning of an epoch there is nothing to save that `Checkpoint` has not.

        Args:
            model: the network.
            ending: whether nothing can be saved later. Otherwise a failure is a line in the log.

        Raises:
            RunError: it cannot be written, and `ending` is true.
        """
        if not self.state.examples:
            return
        try:
            checkpoints.write_state(
                self.checkpoints,
                model,
                self.state,
                self.class_names,
                self.warnings,
                self.broken_images,
            )
        except OSError as error:
            message = (
                f"The run cannot be saved where it stands, within epoch {self.state.epoch + 1}: "
                f"{self.checkpoints}: {error.strerror or error}"
            )
            if ending:
                raise RunError(
                    f"{message}. The checkpoints before it stay: --resume goes on from there"
                ) from None
            log.warning("%s. Training goes on", message)

    def made_anew(self) -> None:
        """Write what only a beginning writes, should the folder have been removed. On rank 0."""
        if not (self.folder / RECIPE_FILE).exists():
            self._write_recipe()

    def keep_journal(self, parts: Sequence[Part]) -> None:
        """Note a commit, if a journal was asked for; rank 0 writes it.

        A run that goes back writes on from there: a line takes the place of all earlier ones that
        begin where it begins, or later.

        Args:
            parts: as in `TrainingState.after_steps`.
        """
        if not self.journal or distributed.rank() != 0:
            return
        line = {
            "epoch": self.state.epoch + 1,
            "after": self.state.examples - sum(len(indices) for indices, _ in parts),
            "ranks": self.state.ranks,
            "examples": [indices.tolist() for indices, _ in parts],
        }
        path = self.folder / JOURNAL_FILE
        try:
            with path.open("a", encoding="utf-8") as journal:
                journal.write(json.dumps(line) + "\n")
        except OSError as error:  # one with a gap would say nothing
            log.warning("%s ends here: %s. Training goes on", path, error.strerror or error)
            self.journal = False

    def restore_best(self, model: keras.Model) -> None:
        """Give a model the weights that are kept of the best epoch that was saved. On rank 0 only.

        If none can be read, it keeps those that it has.

        Args:
            model: of the recipe's `model.kept` section.
        """
        best = self._model_in_training(
            lambda: checkpoints.best_model(self.checkpoints), "The last epoch's weights are kept"
        )
        if best is not None:
            keep_weights(best, model)

    def averaged_weights_of(self, epoch: int) -> list[np.ndarray] | None:
        """The `averaged_weights` after an epoch, or None if they cannot be read.

        None also on other ranks than 0.
        """
        model = self._model_in_training(
            lambda: checkpoints.model_of(self.checkpoints, epoch),
            "Training does not go back to the best epoch",
        )
        return None if model is None else averaged_weights(model)

    def _model_in_training(self, find: Callable[[], Path], otherwise: str) -> keras.Model | None:
        """The model of a path; None, and a line that says what happens, if it is gone."""
        if distributed.rank() != 0:
            return None
        try:
            return keras.saving.load_model(find())
        except (RunError, *checkpoints.UNREADABLE) as error:
            log.warning("%s, for the best one's are gone: %s", otherwise, one_line(error))
            return None

    def save_model(self, model: keras.Model) -> Path:
        """Write a model, and read it back to see that it is the same."""
        path = self.folder / MODEL_FILE
        save_and_read_back(model, path)
        files.write_json(self.folder / CLASS_NAMES_FILE, self.class_names)
        return path


def _differences(
    before: Mapping[str, Any], now: Mapping[str, Any], section: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """(name as `--set` gives it, old value, new value) of what differs in two recipes.

    A section or a key that one of them has not is None there.
    """
    for key in {**before, **now}:
        name, old, new = f"{section}{key}", before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{name}.")
        elif old != new:
            yield name, old, new
