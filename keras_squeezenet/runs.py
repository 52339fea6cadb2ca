"""A run's folder: what it was asked, its checkpoints, its model, and what was measured.

recipe.yaml        what was asked, every default written out
checkpoints/       the last epoch's and the best epoch's model, while it trains
history.csv        a row per epoch
model.keras        the trained model, without the optimizer
class_names.json   its classes, in the order of its outputs
metrics.json       what was measured, on the files named in it
*.png, report.html for people
"""

import contextlib
import importlib.metadata
import json
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

import keras
import numpy as np
import yaml

from keras_squeezenet import distributed, evaluation, figures, files, machine, report
from keras_squeezenet.classifiers import CLASS_NAMES_FILE, open_classifier
from keras_squeezenet.errors import InputError
from keras_squeezenet.profile import profile_model
from keras_squeezenet.recipe import load_recipe
from keras_squeezenet.training import load_data

MODEL_FILE = "model.keras"
CHECKPOINT_FILE = "checkpoint.json"
VERSIONED_PACKAGES = ("keras-squeezenet", "keras", "tensorflow", "numpy", "horovod")
# A resumed run may go on for longer; everything else has to be what it was.
MAY_CHANGE_ON_RESUME = {("training", "epochs")}


class RunError(InputError):
    """A run's folder that cannot be used as asked; the text is one line."""


class Run:
    """The folder of one training run. Rank 0 alone reads and writes it.

    Args:
        folder: made if missing.
        recipe: the `Recipe`.
        resume: whether to go on from the folder's last checkpoint, if it has one.

    Attributes:
        history: rows of the epochs that are behind the checkpoint.
        epoch: number of epochs that are behind it.

    Raises:
        RunError: the folder holds a run and `resume` is false, or holds one of another recipe.
    """

    def __init__(self, folder, recipe, resume=False):
        self.folder = Path(folder)
        self.checkpoints = self.folder / "checkpoints"
        self.recipe = recipe
        self.started = datetime.now(UTC)
        checkpoint = None
        with distributed.together():
            if distributed.rank() == 0:
                checkpoint = self._open(resume)
        self._checkpoint = distributed.gather(checkpoint)[0]
        self.history = self._checkpoint["history"] if self._checkpoint else []
        self.epoch = self._checkpoint["epoch"] if self._checkpoint else 0
        self.resumed_from_epoch = self.epoch or None

    def _open(self, resume):
        path = self.checkpoints / CHECKPOINT_FILE
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            files.write_text(self.folder / "recipe.yaml", self.recipe.to_yaml())
            return None
        if not resume:
            raise RunError(
                "The output folder holds a run already. Go on with it: --resume; or choose "
                f"another: --output. Received: output={self.folder}"
            )
        self._check_same_recipe()
        files.write_text(self.folder / "recipe.yaml", self.recipe.to_yaml())
        return json.loads(path.read_text(encoding="utf-8"))

    def _check_same_recipe(self):
        before = yaml.safe_load((self.folder / "recipe.yaml").read_text(encoding="utf-8"))
        now = self.recipe.model_dump()
        for section, values in now.items():
            old = before.get(section)
            keys = values if isinstance(values, dict) else {None: None}
            for key in keys:
                was, is_now = (old, values) if key is None else (old.get(key), values[key])
                if was != is_now and (section, key) not in MAY_CHANGE_ON_RESUME:
                    name = section if key is None else f"{section}.{key}"
                    raise RunError(
                        f"A run is resumed with the recipe that it began with: {name} was {was}. "
                        f"Received: {name}={is_now}"
                    )

    def restore(self, model):
        """Give a compiled model the weights and the optimizer state of the last checkpoint.

        On rank 0 only; `BroadcastState` hands them on when training starts.
        """
        if self._checkpoint is None or distributed.rank() != 0:
            return
        saved = keras.saving.load_model(self.checkpoints / self._checkpoint["last"])
        model.set_weights(saved.get_weights())
        model.optimizer.build(model.trainable_variables)
        for variable, value in zip(
            model.optimizer.variables, saved.optimizer.variables, strict=True
        ):
            variable.assign(value)

    def restore_best(self, model):
        """Give the model the weights of the best epoch. On rank 0 only."""
        if distributed.rank() == 0:
            path = self.checkpoints / CHECKPOINT_FILE
            best = json.loads(path.read_text(encoding="utf-8"))["best"]
            model.set_weights(keras.saving.load_model(self.checkpoints / best).get_weights())

    def save_model(self, model, class_names):
        """Write a model, and read it back to see that it is the same."""
        path = self.folder / MODEL_FILE
        with files.replacing(path) as temporary:
            model.save(temporary)
            saved = keras.saving.load_model(temporary)
            for ours, theirs in zip(model.get_weights(), saved.get_weights(), strict=True):
                np.testing.assert_array_equal(ours, theirs)
        files.write_json(self.folder / CLASS_NAMES_FILE, list(class_names))
        return path

    def write_metrics(self, model, dataset, measured, history, warnings=(), broken=()):
        """Write metrics.json.

        Args:
            model: what `save_model` saved.
            dataset: the `Dataset`.
            measured: the `Evaluation` of the model.
            history: rows of all epochs.
            warnings: what the user should know, a sentence each.
            broken: (file, reason) of pictures that were left out.
        """
        profile = profile_model(model)
        # The first epoch traces and warms up; it is not the pace of a run.
        paces = [row["images_per_second"] for row in history[1:] or history]
        path = self.folder / MODEL_FILE
        metrics = {
            "dataset": {
                "name": dataset.name,
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
                "ranks": distributed.size(),
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
            "broken_images": [{"file": file, "reason": reason} for file, reason in broken],
            "warnings": list(warnings),
            "versions": versions(),
        }
        files.write_json(self.folder / "metrics.json", metrics)


class Checkpoint(keras.callbacks.Callback):
    """Saves model and optimizer after each epoch, on rank 0; keeps the last and the best epoch's.

    checkpoint.json is written last and names the files, so a run that is killed at any moment
    resumes from a whole checkpoint.

    Args:
        folder: for the files.
        history: the `History`; put it before this callback.
    """

    def __init__(self, folder, history):
        super().__init__()
        self.folder = folder
        self.history = history

    def on_epoch_end(self, epoch, logs=None):
        if distributed.rank() != 0:
            return
        names = {
            "last": _checkpoint_name(epoch + 1),
            "best": _checkpoint_name(self.history.best_epoch),
        }
        with files.replacing(self.folder / names["last"]) as temporary:
            self.model.save(temporary)
        files.write_json(
            self.folder / CHECKPOINT_FILE,
            {"epoch": epoch + 1, **names, "history": self.history.rows},
        )
        for path in self.folder.glob("epoch-*.keras"):
            if path.name not in names.values():
                path.unlink()


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
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
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
    for name in ("recipe.yaml", "history.csv", "metrics.json", MODEL_FILE):
        if not (folder / name).is_file():
            raise RunError(f"Expected the folder of a finished run: {name} is missing in {folder}")
    dataset = load_data(load_recipe(folder / "recipe.yaml"))
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
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    metrics |= {"files": rows, "evaluation": of_the_model[0].to_dict()}
    files.write_json(folder / "metrics.json", metrics)
    history = report.read_history(folder / "history.csv")
    return draw(folder, history, *of_the_model, dataset.val), rows


def versions():
    """Versions of what the numbers depend on."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in VERSIONED_PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _file_row(path, measured):
    return {
        "name": path.name,
        "bytes": path.stat().st_size,
        "top1": measured.top1,
        "top5": measured.top5,
    }


def _checkpoint_name(epoch):
    return f"epoch-{epoch:04d}.keras"
