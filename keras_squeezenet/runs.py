"""A run's folder: what it was asked, its checkpoints, its model, and what was measured.

recipe.yaml        what was asked, every default written out
checkpoints/       the last epoch's and the best epoch's model, while it trains, and what an epoch
                   that was left in its midst goes on from
commits.jsonl      if asked for: which examples were trained on, commit by commit
history.csv        a row per epoch
model.keras        the trained model, without the optimizer
class_names.json   its classes, in the order of its outputs
metrics.json       what was measured, on the files named in it
*.png, report.html for people
"""

import base64
import contextlib
import importlib.metadata
import json
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

import keras
import numpy as np

from keras_squeezenet import distributed, evaluation, figures, files, machine, report
from keras_squeezenet.callbacks import best_epoch
from keras_squeezenet.classifiers import CLASS_NAMES_FILE, open_classifier
from keras_squeezenet.data.sources import resolved
from keras_squeezenet.errors import InputError
from keras_squeezenet.profile import profile_model
from keras_squeezenet.recipe import load_recipe
from keras_squeezenet.state import TrainingState
from keras_squeezenet.training import load_data

MODEL_FILE = "model.keras"
RECIPE_FILE = "recipe.yaml"
METRICS_FILE = "metrics.json"
REPORT_FILE = "report.html"  # written last
CHECKPOINT_FILE = "checkpoint.json"
VERSIONED_PACKAGES = ("keras-squeezenet", "keras", "tensorflow", "numpy", "horovod")
# A resumed run may go on for longer; everything else has to be what it was.
MAY_CHANGE_ON_RESUME = {"training.epochs"}


class RunError(InputError):
    """A run's folder that cannot be used as asked; the text is one line."""


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

    Raises:
        RunError: the folder holds a run and `resume` is false, or holds one of another recipe or
            other classes, or what it holds is damaged.
    """

    def __init__(self, folder, recipe, class_names, resume=False, journal=False):
        self.folder = Path(folder)
        self.checkpoints = self.folder / "checkpoints"
        self.recipe = recipe
        self.class_names = list(class_names)
        self.journal = journal
        self.state = None
        self.started = datetime.now(UTC)
        checkpoint, finished = None, False
        with distributed.together():
            if distributed.rank() == 0:
                checkpoint, finished = self._open(resume)
        self._checkpoint, self.finished = distributed.gather((checkpoint, finished))[0]
        self.epoch = self._checkpoint["epoch"] if self._checkpoint else 0
        self.resumed_from_epoch = self._checkpoint and self.epoch

    def _open(self, resume):
        """(checkpoint or None, whether the run is finished)."""
        checkpoint, finished = None, False
        if (self.checkpoints / CHECKPOINT_FILE).exists():
            if not resume:
                raise RunError(
                    "The output folder holds a run already. Go on with it: --resume; or choose "
                    f"another: --output. Received: output={self.folder}"
                )
            checkpoint = self._read_checkpoint()
            goes_on_for_longer = self._check_same_recipe()
            self._check_same_classes(checkpoint)
            results = [self.folder / name for name in (REPORT_FILE, METRICS_FILE)]
            finished = all(path.exists() for path in results) and not goes_on_for_longer
            if not finished:
                for path in results:
                    path.unlink(missing_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        files.write_text(self.folder / RECIPE_FILE, self.recipe.to_yaml())
        return checkpoint, finished

    def _read_checkpoint(self):
        path = self.checkpoints / CHECKPOINT_FILE
        try:
            checkpoint = json.loads(path.read_text(encoding="utf-8"))
            last, best = self.checkpoints / checkpoint["last"], checkpoint["best"]
            int(checkpoint["epoch"])
            best_is_there = best is not None and (self.checkpoints / best).is_file()
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"The checkpoint cannot be read: {path}: {error!r}") from None
        if not last.is_file():
            raise RunError(f"The checkpoint {path} names a file that is missing: {last.name}")
        # Training goes on from the last model; of the others the best that is there will be kept.
        return {**checkpoint, "best": best if best_is_there else None}

    def _check_same_recipe(self):
        """Whether the recipe asks for more epochs than before; anything else has to be equal."""
        before = _settings(load_recipe(self.folder / RECIPE_FILE))
        now = _settings(self.recipe)
        changed = [name for name in now if now[name] != before[name]]
        for name in changed:
            if name not in MAY_CHANGE_ON_RESUME:
                raise RunError(
                    f"A run is resumed with the recipe that it began with: {name} was "
                    f"{before[name]}. Received: {name}={now[name]}"
                )
        return bool(changed)

    def _check_same_classes(self, checkpoint):
        before = checkpoint.get("class_names")
        if before != self.class_names:
            raise RunError(
                f"A run is resumed with the classes that it began with: {before}. "
                f"Received: {self.class_names}"
            )

    def begin(self, model, examples):
        """Set `state` to the last checkpoint's, or to a beginning with the model's weights.

        On rank 0 alone it is what training goes on from; hand it on to the others.

        Args:
            model: the network.
            examples: number of training examples.

        Raises:
            RunError: the checkpoint was left within an epoch of another number of examples, or it
                is damaged.
        """
        checkpoint = self._checkpoint
        if checkpoint is None or distributed.rank() != 0:
            self.state = TrainingState(np.zeros(examples, bool), tuple(model.get_weights()))
            return
        saved = keras.saving.load_model(self.checkpoints / checkpoint["last"])
        try:
            within = checkpoint.get("within_epoch") or _start_of_epoch(checkpoint, examples)
            count = int(within["count"])
            packed = np.frombuffer(base64.b64decode(within["trained"]), "uint8")
            self.state = TrainingState(
                trained=np.unpackbits(packed)[:count].astype(bool),
                weights=tuple(saved.get_weights()),
                optimizer=tuple(variable.numpy() for variable in saved.optimizer.variables),
                ranks=int(within["ranks"]),
                epoch=self.epoch,
                examples=int(within["examples"]),
                metric_sums={name: float(value) for name, value in within["metric_sums"].items()},
                seconds=float(within["seconds"]),
                history=tuple(checkpoint["history"]),
                stopped=bool(checkpoint.get("stopped", False)),
            )
            if len(self.state.trained) != count:
                raise ValueError(f"trained: {len(self.state.trained)} of {count} examples")
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            path = self.checkpoints / CHECKPOINT_FILE
            raise RunError(f"The checkpoint cannot be read: {path}: {error!r}") from None
        if count != examples:
            raise RunError(
                f"A run that was left within an epoch is resumed with the {count} "
                f"training examples that it began with. Received: {examples}"
            )

    def save_within_epoch(self, model):
        """Save `state` by way of a model of its stage, which is set back to it. On rank 0 only.

        At the beginning of an epoch there is nothing to save that `Checkpoint` has not.
        """
        state = self.state
        if not state.examples:
            return
        model.set_weights(state.weights)
        for variable, value in zip(model.optimizer.variables, state.optimizer, strict=True):
            variable.assign(value)
        _write_checkpoint(
            self.checkpoints,
            model,
            {
                "epoch": state.epoch,
                "last": _checkpoint_name(state.epoch + 1, state.examples),
                "class_names": self.class_names,
                "history": state.history,
                "within_epoch": {
                    "count": len(state.trained),
                    "trained": base64.b64encode(np.packbits(state.trained)).decode("ascii"),
                    "examples": state.examples,
                    "metric_sums": state.metric_sums,
                    "seconds": state.seconds,
                    "ranks": state.ranks,
                },
            },
        )

    def keep_journal(self, parts):
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
        with (self.folder / "commits.jsonl").open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(line) + "\n")

    def restore_best(self, model):
        """Give the model the weights of the best epoch that was saved. On rank 0 only."""
        if distributed.rank() == 0:
            checkpoint = self._read_checkpoint()
            path = self.checkpoints / (checkpoint["best"] or checkpoint["last"])
            model.set_weights(keras.saving.load_model(path).get_weights())

    def save_model(self, model):
        """Write a model, and read it back to see that it is the same."""
        path = self.folder / MODEL_FILE
        with files.replacing(path) as temporary:
            model.save(temporary)
            saved = keras.saving.load_model(temporary)
            for ours, theirs in zip(model.get_weights(), saved.get_weights(), strict=True):
                np.testing.assert_array_equal(ours, theirs)
        files.write_json(self.folder / CLASS_NAMES_FILE, self.class_names)
        return path

    def write_metrics(self, model, dataset, measured, history, equal_ranks, warnings=()):
        """Write metrics.json.

        Args:
            model: what `save_model` saved.
            dataset: the `Dataset`.
            measured: the `Evaluation` of the model.
            history: rows of all epochs.
            equal_ranks: ranks that ended with the same weights.
            warnings: what the user should know, a sentence each.
        """
        profile = profile_model(model)
        # The first epoch traces and warms up; it is not the pace of a run.
        paces = [row["images_per_second"] for row in history[1:] or history]
        path = self.folder / MODEL_FILE
        metrics = {
            "dataset": {
                "name": dataset.name,
                "source": resolved(self.recipe.data.source),
                "classes": len(dataset.class_names),
                "class_names": list(dataset.class_names),
                "train": dataset.train.count,
                "val": dataset.val.count,
                "image_size": dataset.image_size,
            },
            "model": {
                "name": model.name,
                "parameters": profile.parameters,
                "multiply_adds": profile.multiply_adds,
                "activation_bytes": profile.activation_bytes,
            },
            "training": {
                "epochs": len(history),
                "ranks": history[-1]["ranks"],
                "ranks_with_equal_weights": equal_ranks,
                "batch_size": self.recipe.training.batch_size,
                "seconds": sum(row["seconds"] for row in history),
                "images_per_second": float(np.median(paces)),
                "seed": self.recipe.seed,
                "command": " ".join(sys.argv),
                "machine": machine.describe(),
                "started": self.started.isoformat(timespec="seconds"),
                "resumed_from_epoch": self.resumed_from_epoch,
            },
            "evaluation": measured.to_dict(),
            "files": [_file_row(path, measured)],
            "broken_images": [{"file": file, "reason": reason} for file, reason in dataset.broken],
            "warnings": list(warnings),
            "versions": versions(),
        }
        files.write_json(self.folder / METRICS_FILE, metrics)


class Checkpoint(keras.callbacks.Callback):
    """Saves model and optimizer after each epoch, on rank 0; keeps the last and the best epoch's.

    checkpoint.json is written last and names the files, so a run that is killed at any moment
    resumes from a whole checkpoint. Put it after the callbacks that may stop training.

    Args:
        folder: for the files.
        history: the `History`; put it before this callback.
        class_names: of the data; a run is resumed with the same.
    """

    def __init__(self, folder, history, class_names):
        super().__init__()
        self.folder = folder
        self.history = history
        self.class_names = list(class_names)

    def on_epoch_end(self, epoch, logs=None):
        if distributed.rank() != 0:
            return
        _write_checkpoint(
            self.folder,
            self.model,
            {
                "epoch": epoch + 1,
                "last": _checkpoint_name(epoch + 1),
                "class_names": self.class_names,
                "history": self.history.rows,
                "stopped": bool(self.model.stop_training),
            },
        )


def _write_checkpoint(folder, model, checkpoint):
    with files.replacing(folder / checkpoint["last"]) as temporary:
        model.save(temporary)
    # A rank 0 that was lost may not have saved an epoch that the other ranks ended.
    rows = checkpoint["history"]
    saved = [row for row in rows if (folder / _checkpoint_name(row["epoch"])).is_file()]
    best = _checkpoint_name(best_epoch(saved)) if saved else None
    files.write_json(folder / CHECKPOINT_FILE, {**checkpoint, "best": best})
    names = checkpoint["last"], best
    # Also what an earlier process was writing when it was killed.
    for path in (*folder.glob("epoch-*.keras"), *folder.glob(".epoch-*.keras")):
        if path.name not in names:
            path.unlink(missing_ok=True)


def draw(folder, history, measured, predictions, split):
    """Make the pictures and the page of a run from what was measured.

    Args:
        folder: the run's folder, with recipe.yaml, history.csv and metrics.json.
        history: rows of the history.
        measured: the `Evaluation`.
        predictions: its `Predictions`.
        split: the `Split` that was evaluated.

    Returns:
        The path of report.html.
    """
    folder = Path(folder)
    metrics = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
    names = measured.class_names
    figures.learning_curves(history, folder / "learning_curves.png", classes=len(names))
    figures.confusion_matrix(measured, folder / "confusion_matrix.png")
    worst = evaluation.Evaluation.worst_mistakes(predictions, 20)
    figures.worst_mistakes(
        [split.example(int(predictions.index[i]))[0] for i in worst],
        [
            figures.mistake_caption(
                names[predictions.labels[i]],
                names[predictions.top_classes[i, 0]],
                float(predictions.top_probabilities[i, 0]),
            )
            for i in worst
        ],
        folder / "worst_mistakes.png",
    )
    figures.file_sizes(
        [(file["name"], file["bytes"], file["top1"]) for file in metrics["files"]],
        folder / "file_sizes.png",
    )
    return report.write_report(folder)


def renew_report(folder, say=print):
    """Measure every model file in a run's folder on its validation images; renew the report.

    Args:
        folder: the run's folder: model.keras and any .tflite files beside it.
        say: called with a line per file.

    Returns:
        The path of report.html, and a row per file: name, bytes, top1, top5.

    Raises:
        RunError: the folder holds no finished run.
    """
    folder = Path(folder)
    for name in (RECIPE_FILE, "history.csv", METRICS_FILE, MODEL_FILE):
        if not (folder / name).is_file():
            raise RunError(f"Expected the folder of a finished run: {name} is missing in {folder}")
    dataset = load_data(load_recipe(folder / RECIPE_FILE))
    rows = []
    for path in [folder / MODEL_FILE, *sorted(folder.glob("*.tflite"))]:
        classifier = open_classifier(path)
        with dataset.clear_errors():
            predictions = evaluation.predict_batches(
                classifier.predict, dataset.val.indexed_val_batches(32)
            )
        measured = evaluation.evaluate_predictions(predictions, dataset.class_names)
        say(f"{path.name}: top-1 {measured.top1:.4f}")
        rows.append(_file_row(path, measured))
        if path.name == MODEL_FILE:
            of_the_model = measured, predictions
    metrics = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
    metrics |= {"files": rows, "evaluation": of_the_model[0].to_dict()}
    files.write_json(folder / METRICS_FILE, metrics)
    history = report.read_history(folder / "history.csv")
    return draw(folder, history, *of_the_model, dataset.val), rows


def versions():
    """Versions of what the numbers depend on."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in VERSIONED_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _settings(recipe):
    """A recipe's values by the names that `--set` gives them."""
    settings = {}
    for name, value in recipe.model_dump().items():
        if isinstance(value, dict):
            settings |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            settings[name] = value
    return settings


def _file_row(path, measured):
    return {
        "name": path.name,
        "bytes": path.stat().st_size,
        "top1": measured.top1,
        "top5": measured.top5,
    }


def _start_of_epoch(checkpoint, examples):
    """What `save_within_epoch` would have written when an epoch had just ended."""
    return {
        "count": examples,
        "trained": base64.b64encode(np.packbits(np.zeros(examples, bool))),
        "examples": 0,
        "metric_sums": {},
        "seconds": 0.0,
        "ranks": checkpoint["history"][-1]["ranks"],
    }


def _checkpoint_name(epoch, examples=None):
    """Of the model after an epoch, or after some of its examples."""
    return f"epoch-{epoch:04d}.keras" if examples is None else f"epoch-{epoch:04d}-{examples}.keras"
