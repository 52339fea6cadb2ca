"""A run's folder that fills, turns read-only, vanishes or is taken: what goes on, and what ends."""

import logging
import re
import shutil

import keras
import numpy as np
import pytest

from keras_squeezenet.errors import RunError
from keras_squeezenet.training import checkpoints
from keras_squeezenet.training.callbacks import History
from keras_squeezenet.training.folder_callbacks import Checkpoint, FolderWatch
from keras_squeezenet.training.locks import FolderLock
from keras_squeezenet.training.recipe import Recipe
from keras_squeezenet.training.runs import Run
from keras_squeezenet.training.state import TrainingState
from tests.disks import fill, mount, unmount

EPOCHS = 6
RECIPE = Recipe.model_validate(
    {
        "name": "disks",
        "data": {"source": "digits", "image_size": 8},
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
        "training": {"epochs": EPOCHS, "batch_size": 4},
    }
)
CLASSES = ["a", "b"]


@pytest.fixture
def model():
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, "softmax")])
    loss = "sparse_categorical_crossentropy"
    # Eagerly: to trace a graph would take longer than all its epochs.
    model.compile("adam", loss, metrics=["accuracy"], run_eagerly=True)
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.fixture
def warnings_said(caplog):
    caplog.set_level(logging.WARNING)
    return caplog


def fit(folder, model, events, epochs=EPOCHS):
    """Train with the callbacks of train.py; `events` says what happens in which epoch.

    Returns the epochs that the last whole checkpoint had behind it, epoch by epoch.
    """
    images, labels = np.ones((4, 3), "float32"), np.array([0, 1, 0, 1])
    saved = []

    def note(epoch, logs):
        folder_of_checkpoints = folder / "checkpoints"
        is_there = checkpoints.exist(folder_of_checkpoints)
        saved.append(checkpoints.read(folder_of_checkpoints)["epoch"] if is_there else None)

    with FolderLock(folder) as lock:
        lock.hold()
        run = Run(folder, RECIPE, CLASSES)
        history = History(folder / "history.csv")
        model.fit(
            images,
            labels,
            epochs=epochs,
            validation_data=(images, labels),
            verbose=0,
            callbacks=[
                keras.callbacks.LambdaCallback(
                    on_epoch_begin=lambda epoch, logs: events.get(epoch + 1, lambda: None)()
                ),
                FolderWatch(run, lock),
                history,
                Checkpoint(run.checkpoints, history, CLASSES),
                keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False),
                keras.callbacks.LambdaCallback(on_epoch_end=note),
            ],
        )
    return saved


def epochs_in_history(folder):
    lines = (folder / "history.csv").read_text().splitlines()
    return [int(line.split(",")[0]) for line in lines[1:]]


class TestTheFolderFails:
    """Two lines when it begins, history and checkpoint; two when it ends; training goes on."""

    def check(self, folder, warnings_said, reason):
        assert epochs_in_history(folder) == [1, 2, 3, 4, 5, 6]
        said = warnings_said.messages
        assert len(said) == 4
        begins = rf"cannot be written: ({reason})\. Training goes on"
        assert all(re.search(begins, line) for line in said[:2])
        assert all("is written again" in line for line in said[2:])
        assert not [line for line in said if "\n" in line]
        assert not list(folder.rglob(".*.keras"))
        again = Run(folder, RECIPE, CLASSES, resume=True)
        assert again.epoch == EPOCHS

    def test_it_fills(self, small_disk, model, warnings_said):
        folder = small_disk / "run"
        events = {3: lambda: fill(folder), 5: (folder / "ballast").unlink}
        saved = fit(folder, model, events)
        assert saved == [1, 2, 2, 2, 5, 6]
        self.check(folder, warnings_said, "No space left on device")

    def test_it_turns_read_only(self, small_disk, model, warnings_said):
        folder = small_disk / "run"

        def read_only():
            mount("--bind", folder, folder)
            mount("-o", "remount,ro,bind", folder)

        saved = fit(folder, model, {3: read_only, 5: lambda: unmount(folder)})
        assert saved == [1, 2, 2, 2, 5, 6]
        self.check(folder, warnings_said, "Read-only file system")

    @pytest.mark.slow
    def test_something_else_takes_its_name(self, tmp_path, model, warnings_said):
        folder, aside = tmp_path / "run", tmp_path / "aside"

        def away():
            folder.rename(aside)
            folder.write_text("a file")

        def back():
            folder.unlink()
            aside.rename(folder)

        saved = fit(folder, model, {3: away, 5: back})
        assert saved == [1, 2, None, None, 5, 6]
        self.check(folder, warnings_said, "Not a directory|File exists")


class TestTheFolderVanishes:
    def test_it_is_made_anew_with_all_that_a_resumption_needs(self, tmp_path, model, warnings_said):
        folder = tmp_path / "run"
        assert fit(folder, model, {3: lambda: shutil.rmtree(folder)}) == [1, 2, 3, 4, 5, 6]
        assert epochs_in_history(folder) == [1, 2, 3, 4, 5, 6]
        assert warnings_said.messages == [f"The folder {folder} had vanished and was made anew"]
        assert Run(folder, RECIPE, CLASSES, resume=True).epoch == EPOCHS

    def test_if_another_training_has_taken_it_this_one_ends_and_touches_nothing(
        self, tmp_path, model
    ):
        folder = tmp_path / "run"
        with FolderLock(folder) as other:

            def take():
                shutil.rmtree(folder)
                other.hold()

            with pytest.raises(RunError, match="Another run is using the folder"):
                fit(folder, model, {3: take})
            assert [path.name for path in folder.iterdir()] == [".lock"]


class TestANewRank0:
    """Of a run whose first one was lost; it is to take the lock."""

    def test_on_a_full_disk_it_holds_the_lock(self, small_disk):
        with FolderLock(small_disk / "run") as lost:
            lost.hold()
        fill(small_disk)
        with FolderLock(small_disk / "run") as lock:
            lock.hold()
            with pytest.raises(RunError, match="Another run"):
                FolderLock(small_disk / "run").hold()

    def test_without_a_folder_it_goes_on(self, tmp_path):
        with FolderLock(tmp_path / "run") as lock:
            lock.hold()
            shutil.rmtree(tmp_path / "run")
            (tmp_path / "run").touch()
            lock.hold()

    def test_but_nothing_begins_without_one(self, tmp_path):
        (tmp_path / "run").touch()
        with pytest.raises(RunError, match=r"cannot be used: File exists: .*run"):
            FolderLock(tmp_path / "run").hold()


class TestWithinAnEpoch:
    @pytest.fixture
    def run(self, small_disk, model):
        """A run on a full disk, with a checkpoint of its first epoch."""
        fit(small_disk / "run", model, {}, epochs=1)
        run = Run(small_disk / "run", RECIPE, CLASSES, resume=True)
        run.state = TrainingState(
            np.arange(8) < 4,
            tuple(model.get_weights()),
            tuple(variable.numpy() for variable in model.optimizer.variables),
            epoch=1,
            examples=4,
            history=checkpoints.read(run.checkpoints)["history"],
        )
        fill(small_disk)
        return run

    def test_a_process_that_ends_says_that_it_is_not_saved(self, run, model):
        with pytest.raises(RunError, match=r"within epoch 2: .*No space left.*checkpoints before"):
            run.save_within_epoch(model)
        assert checkpoints.read(run.checkpoints)["epoch"] == 1
        assert not list(run.folder.rglob(".*.keras"))

    def test_one_that_goes_on_says_it_and_goes_on(self, run, model, warnings_said):
        run.save_within_epoch(model, ending=False)
        [line] = warnings_said.messages
        assert "No space left on device. Training goes on" in line

    def test_the_journal_ends_and_says_so(self, run, warnings_said):
        run.journal = True
        for _ in range(2):
            run.keep_journal([(np.arange(2000), {})])
        [line] = warnings_said.messages
        assert "commits.jsonl ends here: No space left on device" in line

    def test_the_best_epoch_of_a_folder_that_is_gone_is_not_missed(self, run, model, warnings_said):
        shutil.rmtree(run.checkpoints)
        weights = model.get_weights()
        run.restore_best(model)
        for ours, theirs in zip(model.get_weights(), weights, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert "The last epoch's weights are kept" in warnings_said.text
