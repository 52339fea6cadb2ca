"""train/train.py as a user starts it: alone, on two ranks, resumed, and with bad input."""

import csv
import json
import os
import re
import shutil
import subprocess

import keras
import numpy as np
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_digits
from typer.testing import CliRunner

from keras_squeezenet.cli import app
from keras_squeezenet.data import load_dataset
from keras_squeezenet.distributed import LAUNCHER_VARIABLES
from keras_squeezenet.errors import InputError
from keras_squeezenet.training.building import build_model
from keras_squeezenet.training.locks import FolderLock
from keras_squeezenet.training.recipe import Recipe, load_recipe
from keras_squeezenet.training.results import renew_report
from keras_squeezenet.training.runs import Run, RunError
from tests import preloaded
from tests.disks import fill
from tests.interrupted_runs import TINY, TRAIN
from tests.launching import greetings, horovodrun, needs_horovod
from tests.scripts import run_script

RECIPE = {
    **TINY,
    "optimizer": {
        "name": "adam",
        "learning_rate": 0.003,
        "schedule": "constant",
        "scale_by_ranks": None,
    },
    "training": {"epochs": 2, "batch_size": 32},
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def train(*arguments):
    return run_script(TRAIN, *arguments)


def train_in_a_process_of_its_own(*arguments, start=preloaded.command):
    environment = {k: v for k, v in os.environ.items() if k not in LAUNCHER_VARIABLES}
    return subprocess.run(
        start(TRAIN, *arguments),
        capture_output=True,
        text=True,
        timeout=150,
        env={**environment, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )


def history(folder):
    with (folder / "history.csv").open() as lines:
        return [{name: float(cell) for name, cell in row.items()} for row in csv.DictReader(lines)]


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def accuracy_by_hand(folder):
    """Top-1 of model.keras on the digits' validation split, with Keras and numpy alone."""
    dataset = load_dataset("digits", image_size=32)
    model = keras.saving.load_model(folder / "model.keras")
    batches = list(dataset.val.val_batches(64))
    labels = np.concatenate([labels for _, labels in batches])
    said = np.concatenate([model.predict_on_batch(images).argmax(axis=1) for images, _ in batches])
    return (said == labels).mean(), len(labels)


@pytest.fixture(scope="module")
def alone(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "run"
    start = preloaded.command_from_nothing
    done = train_in_a_process_of_its_own("--recipe", recipe, "--output", folder, start=start)
    assert done.returncode == 0, done.stderr[-3000:]
    assert greetings(done.stderr) == []
    return folder


@pytest.fixture(scope="module")
def two_ranks(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two") / "run"
    done = horovodrun(TRAIN, "--recipe", recipe, "--output", folder, preload=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert greetings(done.stderr, ranks=2) == []
    return folder


NORMALIZED = [
    *("--set", "model.batch_normalization=true"),
    *("--set", "optimizer.averaging=0.1"),
    *("--set", "training.keep=best"),
]


def kinds_of_layers(path):
    """Names of the classes of a saved model's layers, those inside of a Fire included."""
    return {type(layer).__name__ for layer in keras.saving.load_model(path)._flatten_layers()}


def check_normalized(folder):
    """Of a run with batch normalization: what is left has none, and is what was measured."""
    checkpoint = folder / "checkpoints" / "epoch-0002.keras"
    assert "BatchNormalization" in kinds_of_layers(checkpoint)
    assert "BatchNormalization" not in kinds_of_layers(folder / "model.keras")
    plain = build_model(load_recipe(folder / "recipe.yaml").model.kept, 32, 10)
    assert metrics(folder)["model"]["parameters"] == plain.count_params()
    accuracy, _ = accuracy_by_hand(folder)
    assert metrics(folder)["evaluation"]["top1"] == pytest.approx(accuracy)
    best = max(row["val_accuracy"] for row in history(folder))
    assert best == pytest.approx(accuracy, abs=1e-6)
    assert accuracy > 0.5


class TestAlone:
    @pytest.mark.slow
    def test_batch_normalization_is_in_training_alone(self, recipe, tmp_path):
        done = train("--recipe", recipe, "--output", tmp_path / "run", *NORMALIZED)
        assert done.returncode == 0, done.stderr[-3000:]
        check_normalized(tmp_path / "run")

    @pytest.mark.slow
    def test_batch_normalization_is_resumed(self, recipe, tmp_path):
        folder = tmp_path / "run"
        half = ("--recipe", recipe, "--output", folder, *NORMALIZED)
        first = train(*half, "--set", "training.epochs=1")
        assert first.returncode == 0, first.stderr[-3000:]
        second = train_in_a_process_of_its_own(*half, "--resume")
        assert second.returncode == 0, second.stderr[-3000:]
        assert [row["epoch"] for row in history(folder)] == [1, 2]
        check_normalized(folder)

    def test_the_folder_holds_what_was_asked_and_what_came_out(self, alone):
        assert {path.name for path in alone.iterdir()} >= {
            "recipe.yaml",
            "history.csv",
            "metrics.json",
            "model.keras",
            "class_names.json",
            "report.html",
            "learning_curves.png",
            "confusion_matrix.png",
            "file_sizes.png",
            "tensorboard",
        }
        assert json.loads((alone / "class_names.json").read_text()) == list("0123456789")
        assert metrics(alone)["training"]["seed"] == 3
        assert "keras" in metrics(alone)["versions"]

    def test_the_saved_model_comes_without_an_optimizer(self, alone):
        assert not keras.saving.load_model(alone / "model.keras").compiled

    def test_the_reported_accuracy_is_that_of_the_saved_file(self, alone):
        accuracy, count = accuracy_by_hand(alone)
        measured = metrics(alone)["evaluation"]
        assert measured["count"] == count
        assert measured["top1"] == pytest.approx(accuracy)
        assert history(alone)[-1]["val_accuracy"] == pytest.approx(accuracy, abs=1e-6)
        assert metrics(alone)["files"][0]["bytes"] == (alone / "model.keras").stat().st_size

    def test_it_learns(self, alone):
        first, last = history(alone)[0], history(alone)[-1]
        assert last["loss"] < 0.8 * first["loss"]
        assert last["val_accuracy"] > 0.5

    def test_a_run_is_not_overwritten(self, alone, recipe):
        before = (alone / "model.keras").read_bytes()
        done = train("--recipe", recipe, "--output", alone)
        assert done.returncode == 2
        assert "holds a run already" in done.stderr.splitlines()[-1]
        assert (alone / "model.keras").read_bytes() == before

    def test_a_run_is_not_resumed_with_another_recipe(self, alone, recipe):
        done = train(
            "--recipe", recipe, "--output", alone, "--resume", "--set", "optimizer.name=sgd"
        )
        assert done.returncode == 2
        assert "optimizer.name was adam. Received: optimizer.name=sgd" in done.stderr

    def test_a_finished_run_is_not_touched(self, alone, recipe):
        before = {path: path.stat().st_mtime_ns for path in alone.rglob("*")}
        done = train("--recipe", recipe, "--output", alone, "--resume")
        assert (done.returncode, "finished already" in done.stdout) == (0, True)
        after = {path: path.stat().st_mtime_ns for path in alone.rglob("*")}
        changed = {path.name for path in before if before[path] != after[path]}
        assert changed <= {"run", "recipe.yaml", ".lock"}

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda run: [path.write_text("{") for path in run.glob("checkpoints/*.json")], "read"),
            (lambda run: [path.unlink() for path in run.glob("checkpoints/*.keras")], "is missing"),
            (lambda run: (run / "recipe.yaml").unlink(), "cannot be read"),
        ],
    )
    def test_a_damaged_run_that_has_to_go_on_is_refused(self, alone, tmp_path, damage, message):
        folder = tmp_path / "run"
        shutil.copytree(alone, folder)
        recipe = load_recipe(folder / "recipe.yaml")
        (folder / "report.html").unlink()  # a finished run needs no checkpoint any more
        damage(folder)
        with pytest.raises(InputError, match=message):
            Run(folder, recipe, list("0123456789"), resume=True)

    def test_a_run_that_ended_before_its_report_is_not_finished(self, alone, tmp_path):
        folder = tmp_path / "run"
        shutil.copytree(alone, folder)
        recipe, class_names = load_recipe(folder / "recipe.yaml"), list("0123456789")
        assert Run(folder, recipe, class_names, resume=True).finished
        (folder / "report.html").unlink()
        assert not Run(folder, recipe, class_names, resume=True).finished

    def test_a_result_that_cannot_be_written_ends_in_one_line_and_keeps_the_checkpoint(
        self, alone, recipe, small_disk
    ):
        folder = small_disk / "run"
        shutil.copytree(alone / "checkpoints", folder / "checkpoints")
        for name in ("recipe.yaml", "history.csv"):
            shutil.copy(alone / name, folder)
        fill(small_disk, leave=5 * 4096)  # of model.keras a part
        done = train("--recipe", recipe, "--output", folder, "--resume")
        assert done.returncode == 2, done.stderr[-3000:]
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("train.py: ")]
        assert "The result cannot be written" in line
        assert f"No space left on device: '{folder}/model.keras'" in line
        assert Run(folder, load_recipe(recipe), list("0123456789"), resume=True).epoch == 2

    def test_a_folder_in_which_another_training_runs_is_refused_in_one_line(self, recipe, tmp_path):
        with FolderLock(tmp_path / "run") as lock:
            lock.hold()
            done = train("--recipe", recipe, "--output", tmp_path / "run")
        assert done.returncode == 2
        assert (
            f"Another run is using the folder {tmp_path / 'run'}: process {os.getpid()}"
            in (done.stderr.splitlines()[-1])
        )
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]

    def test_a_run_that_is_to_go_on_for_longer_has_no_result_yet(self, alone, tmp_path):
        folder = tmp_path / "run"
        shutil.copytree(alone, folder)
        recipe = load_recipe(folder / "recipe.yaml", ["training.epochs=3"])
        assert not Run(folder, recipe, list("0123456789"), resume=True).finished
        assert not (folder / "report.html").exists()
        assert not (folder / "metrics.json").exists()

    def test_a_run_is_not_resumed_with_other_classes(self, alone):
        recipe = load_recipe(alone / "recipe.yaml")
        with pytest.raises(RunError, match="classes that it began with"):
            Run(alone, recipe, list("012345678x"), resume=True)

    @pytest.mark.slow
    def test_a_resumed_run_ends_where_an_unbroken_one_does(self, alone, recipe, tmp_path):
        folder = tmp_path / "run"
        first = train("--recipe", recipe, "--output", folder, "--set", "training.epochs=1")
        assert first.returncode == 0, first.stderr[-3000:]
        second = train_in_a_process_of_its_own("--recipe", recipe, "--output", folder, "--resume")
        assert second.returncode == 0, second.stderr[-3000:]
        assert [row["epoch"] for row in history(folder)] == [1, 2]
        assert metrics(folder)["training"]["resumed_from_epoch"] == 1
        # The same weights, optimizer state and order of images: only float rounding differs.
        for name in ("loss", "val_loss"):
            assert history(folder)[1][name] == pytest.approx(history(alone)[1][name], rel=0.02)
        # What a forgotten optimizer state would do is larger: Adam's first steps are at full rate.
        resumed = keras.saving.load_model(folder / "checkpoints" / "epoch-0002.keras")
        assert int(resumed.optimizer.iterations) == 2 * (1438 // 32)

    @pytest.mark.slow
    def test_the_report_is_renewed_with_every_file_that_was_exported(self, alone):
        cli = CliRunner()
        exported = cli.invoke(
            app, ["export", str(alone / "model.keras"), str(alone / "a.tflite"), "--json"]
        )
        assert exported.exit_code == 0, exported.output
        renewed = cli.invoke(app, ["report", str(alone), "--json"])
        assert renewed.exit_code == 0, renewed.output
        rows = {row["name"]: row for row in json.loads(renewed.stdout)["files"]}
        assert rows["a.tflite"]["bytes"] == (alone / "a.tflite").stat().st_size
        assert rows["a.tflite"]["top1"] == pytest.approx(accuracy_by_hand(alone)[0])
        sure = metrics(alone)["evaluation"]["confidence"]
        assert [row["confidence"] for row in rows.values()] == pytest.approx([sure] * 2, abs=1e-4)
        assert metrics(alone)["files"] == list(rows.values())
        assert "a.tflite" in (alone / "report.html").read_text()

    @pytest.mark.parametrize("content", ["{", "[1]", "\xff", "[" * 100_000])
    def test_a_report_of_damaged_metrics_is_refused_in_one_line(self, alone, tmp_path, content):
        folder = tmp_path / "run"
        shutil.copytree(alone, folder)
        (folder / "metrics.json").write_bytes(content.encode("latin-1"))
        with pytest.raises(RunError, match=r"metrics\.json: expected") as error:
            renew_report(folder)
        assert "\n" not in str(error.value)
        assert (folder / "report.html").read_bytes() == (alone / "report.html").read_bytes()

    def test_runs_are_compared_in_a_table(self, alone, tmp_path):
        done = CliRunner().invoke(
            app, ["compare", str(alone), str(alone), "--csv", str(tmp_path / "runs.csv"), "--json"]
        )
        (row, same) = json.loads(done.stdout)["runs"]
        assert row == same
        assert row["top1"] == pytest.approx(metrics(alone)["evaluation"]["top1"], abs=1e-4)
        assert (row["ranks"], row["epochs"]) == (1, 2)
        assert row["recipe"] == Recipe.model_validate({**RECIPE, "name": "another"}).digest
        with (tmp_path / "runs.csv").open() as lines:
            assert [line["top1"] for line in csv.DictReader(lines)] == [str(row["top1"])] * 2

    @pytest.mark.parametrize("command", ["report", "compare"])
    def test_a_folder_without_a_run_is_refused(self, command, tmp_path):
        with pytest.raises(InputError, match="finished run"):
            CliRunner().invoke(app, [command, str(tmp_path)], catch_exceptions=False)


@pytest.mark.slow
class TestTwoRanks:
    pytestmark = needs_horovod

    def test_every_validation_image_is_counted_once(self, two_ranks):
        accuracy, count = accuracy_by_hand(two_ranks)
        measured = metrics(two_ranks)["evaluation"]
        assert measured["count"] == count
        assert measured["top1"] == pytest.approx(accuracy)
        # Averaged over ranks during training: the weights of the last epoch on all images.
        assert history(two_ranks)[-1]["val_accuracy"] == pytest.approx(accuracy, abs=1e-6)
        assert history(two_ranks)[-1]["val_loss"] == pytest.approx(measured["loss"], rel=1e-4)

    @pytest.mark.slow
    def test_ranks_agree_on_what_batch_normalization_counts(self, recipe, tmp_path):
        folder = tmp_path / "run"
        done = horovodrun(TRAIN, "--recipe", recipe, "--output", folder, *NORMALIZED)
        assert done.returncode == 0, done.stderr[-3000:]
        assert metrics(folder)["training"]["ranks_with_equal_weights"] == 2
        check_normalized(folder)

    def test_the_run_says_how_many_ranks_it_had(self, two_ranks):
        assert metrics(two_ranks)["training"]["ranks"] == 2

    @pytest.mark.slow
    def test_bad_data_ends_all_ranks_with_one_clear_line(self, recipe, tmp_path):
        done = horovodrun(
            TRAIN, "--recipe", recipe, "--output", tmp_path / "run", "--set", "data.source=/nowhere"
        )
        assert done.returncode != 0
        own = [line for line in done.stderr.splitlines() if line.startswith(("[0]", "[1]"))]
        assert not [line for line in own if "Traceback" in line]
        said = [line for line in own if "train.py: " in line]
        assert said
        assert all("Received: source=/nowhere" in line for line in said)

    @pytest.mark.slow
    def test_all_ranks_say_alike_where_training_diverged(self, recipe, tmp_path):
        done = horovodrun(
            *(TRAIN, "--recipe", recipe, "--output", tmp_path / "run"),
            *("--set", "optimizer={name: sgd, learning_rate: 1.0e+9}"),
        )
        assert done.returncode != 0
        own = [line for line in done.stderr.splitlines() if line.startswith(("[0]", "[1]"))]
        assert not [line for line in own if "Traceback" in line]
        said = {line.partition("train.py: ")[2] for line in own if "train.py: " in line}
        assert len(said) == 1
        where = (
            r"It began at step \d+ of 22 of the epoch, in layer \w+\. No checkpoint was kept yet\."
        )
        assert re.search(where, said.pop())
        assert not list((tmp_path / "run").rglob("*.keras"))

    @pytest.mark.slow
    def test_a_run_is_resumed_on_another_number_of_ranks(self, alone, recipe, tmp_path):
        folder = tmp_path / "run"
        shutil.copytree(alone, folder)
        decaying = ("--set", "training.epochs=4")
        done = horovodrun(TRAIN, "--recipe", recipe, "--output", folder, "--resume", *decaying)
        assert done.returncode == 0, done.stderr[-3000:]
        rows = history(folder)
        assert [row["ranks"] for row in rows] == [1, 1, 2, 2]
        assert rows[-1]["loss"] < rows[1]["loss"]
        resumed = keras.saving.load_model(folder / "checkpoints" / "epoch-0004.keras")
        # two ranks take half the steps: as many updates as four epochs of theirs
        assert int(resumed.optimizer.iterations) == 4 * (1438 // 64)


class TestBadInput:
    @pytest.mark.slow
    def test_a_run_that_diverges_ends_in_one_line_and_keeps_no_broken_checkpoint(
        self, recipe, tmp_path
    ):
        done = train(
            *("--recipe", recipe, "--output", tmp_path / "run"),
            *("--set", "optimizer={name: sgd, learning_rate: 1.0e+9}"),
        )
        assert done.returncode == 2
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("train.py: ")]
        assert "training diverged. Lower optimizer.learning_rate" in line
        assert not list((tmp_path / "run").rglob("*.keras"))

    def test_a_folder_that_cannot_be_written_ends_in_one_line(self, recipe, tmp_path):
        (tmp_path / "file").write_text("")
        done = train("--recipe", recipe, "--output", tmp_path / "file")
        assert done.returncode == 2
        assert str(tmp_path / "file") in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr

    def test_a_wrong_setting_ends_in_one_line(self, recipe):
        done = train_in_a_process_of_its_own("--recipe", recipe, "--set", "training.epoch=3")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.splitlines()[-1].endswith(
            "unknown key training.epoch; did you mean epochs?"
        )
        assert "Traceback" not in done.stderr

    def test_metaparameters_that_make_no_network_end_in_one_line(self, recipe, tmp_path):
        done = train(
            *("--recipe", recipe, "--output", tmp_path / "run"),
            *("--set", "model.metaparameters.squeeze_ratio=0"),
        )
        assert done.returncode == 2
        assert "squeeze_ratio=0" in done.stderr.splitlines()[-1]

    def test_too_many_broken_images_end_the_run(self, recipe, tmp_path):
        rng = np.random.default_rng(0)
        for label in ("cat", "dog"):
            folder = tmp_path / "photos" / label
            folder.mkdir(parents=True)
            for number in range(40):
                pixels = rng.integers(0, 255, (40, 40, 3), "uint8")
                Image.fromarray(pixels).save(folder / f"{number}.png")
            for number in range(5):
                (folder / f"broken{number}.jpg").write_bytes(b"no picture")
        done = train(
            *("--recipe", recipe, "--output", tmp_path / "run"),
            *("--set", f"data.source={tmp_path / 'photos'}", "--set", "training.batch_size=8"),
        )
        assert done.returncode == 2
        # Other threads may still name a broken picture after the line that ends the run.
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("train.py: ")]
        assert "images of the train split are broken (max_broken_share=0.05)" in line
        assert not (tmp_path / "run" / "model.keras").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--commit-steps", "0"),
        ("--commit-steps", "x"),
        ("--stall-seconds", "0"),
        ("--stall-seconds", "nan"),
    ],
)
def test_numbers_that_cannot_be_are_refused_in_one_line(recipe, option, value):
    done = train("--recipe", recipe, option, value)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert option in last
    assert last.endswith(f"Received: {value}")


NEW_CLASSES = {"four": 4, "one": 1, "seven": 7}


@pytest.fixture(scope="module")
def tuning(alone, tmp_path_factory):
    """Settings to tune the digits' network to three classes, with 20 pictures of each."""
    folder = tmp_path_factory.mktemp("few")
    digits = load_digits()
    for name, digit in NEW_CLASSES.items():
        images = digits.images[digits.target == digit]
        for split, chosen in (("train", images[:20]), ("val", images[20:50])):
            (folder / split / name).mkdir(parents=True)
            for number, pixels in enumerate(chosen):
                picture = Image.fromarray((pixels * 15.9).astype("uint8")).resize((32, 32))
                picture.save(folder / split / name / f"{number}.png")
    return [
        *("--set", f"data.source={folder}", "--set", "data.image_size=40"),
        *("--set", "data.train_image_size=32", "--set", f"model.weights={alone}/model.keras"),
        *("--set", "fine_tuning={depth_decay: 0.8}", "--set", "optimizer.averaging=0.2"),
        *("--set", "training.epochs=12", "--set", "training.batch_size=null"),
        *("--set", "training.global_batch_size=10", "--set", "optimizer.learning_rate=0.0002"),
    ]


class TestFineTuning:
    RANKS = (1, pytest.param(2, marks=[*needs_horovod, pytest.mark.slow]))

    @pytest.mark.slow
    @pytest.mark.parametrize("ranks", RANKS)
    def test_twenty_pictures_of_a_class_are_enough(self, recipe, tuning, tmp_path, ranks):
        arguments = ["--recipe", recipe, "--output", tmp_path / "run", *tuning]
        done = train(*arguments) if ranks == 1 else horovodrun(TRAIN, *arguments)
        assert done.returncode == 0, done.stderr[-3000:]
        found = metrics(tmp_path / "run")
        assert found["dataset"]["class_names"] == list(NEW_CLASSES)
        assert f"data.source={found['dataset']['source']}" == tuning[1]
        assert found["evaluation"]["top1"] > 0.9
        rows = history(tmp_path / "run")
        assert [row["epoch"] for row in rows] == list(range(1, 13))
        # Of 60 images an eighth, over all ranks.
        assert found["training"]["batch_size"] == 7 // ranks
        # The best epoch is kept, with the averaged weights: never worse than the last layer's fit,
        # whose loss is never lost on the way. The twin that is validated is what is kept: float32,
        # at the size of evaluation.
        assert rows[0]["learning_rate"] == 0
        assert max(row["val_accuracy"] for row in rows) == pytest.approx(
            found["evaluation"]["top1"]
        )
        assert max(row["val_loss"] for row in rows) < 1.05 * rows[0]["val_loss"]
        saved = keras.saving.load_model(tmp_path / "run" / "model.keras")
        assert saved.input_shape == (None, 40, 40, 3)
        assert all(layer.trainable for layer in saved.layers)

    @pytest.mark.slow
    @pytest.mark.parametrize("ranks", RANKS)
    def test_a_rate_at_which_it_forgets_is_lowered_on_all_ranks(
        self, recipe, tuning, tmp_path, ranks
    ):
        arguments = ["--recipe", recipe, "--output", tmp_path / "run", *tuning]
        arguments += ["--set", "optimizer.learning_rate=1", "--set", "optimizer.clip_norm=1"]
        done = train(*arguments) if ranks == 1 else horovodrun(TRAIN, *arguments)
        assert done.returncode == 0, done.stderr[-3000:]
        rows = history(tmp_path / "run")
        assert sum(row["went_back"] for row in rows) > 0
        assert f"Epoch {[row['went_back'] for row in rows].index(1) + 1} is worse" in done.stderr
        assert metrics(tmp_path / "run")["training"]["ranks_with_equal_weights"] == ranks
        assert metrics(tmp_path / "run")["evaluation"]["top1"] >= rows[0]["val_accuracy"] - 1e-6

    def test_weights_of_another_network_are_refused_in_one_line(self, recipe, tuning, tmp_path):
        other = ["--set", "model.metaparameters.base_e=16"]
        done = train("--recipe", recipe, "--output", tmp_path / "run", *tuning, *other)
        assert done.returncode == 2
        assert "Expected the kernel fire2_squeeze1x1" in done.stderr
        assert not (tmp_path / "run").exists()
