"""Runs of a network of the user's own: training to its end and on, and all that is done with it."""

import csv
import json
import os
import shutil
import sys

import keras
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from keras_squeezenet import cli, load_compressed
from keras_squeezenet.errors import InputError
from keras_squeezenet.inference.classifiers import open_classifier
from keras_squeezenet.litert.quantizations import QUANTIZATIONS
from tests.interrupted_runs import TRAIN, history, started
from tests.launching import horovodrun, needs_horovod
from tests.scripts import run_script
from tests.test_own_networks import CODE, VALUES
from tests.tiers import parametrize

OPTIMIZE = TRAIN.with_name("optimize.py")
NAME = "networks_of_a_person"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A person's folder: their code, and a recipe that names it."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / f"{NAME}.py").write_text(CODE.replace("MODULE", NAME))
    recipe = {**VALUES, "model": {"function": f"{NAME}:tiny", "filters": 8}}
    (folder / "mine.yaml").write_text(yaml.safe_dump(recipe))
    return folder


@pytest.fixture(autouse=True)
def working_directory(folder, monkeypatch):
    monkeypatch.chdir(folder)
    yield
    sys.modules.pop(NAME, None)


@pytest.fixture(scope="module")
def run(folder):
    """A finished run of two epochs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = train("--output", folder / "run")
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "run"


def train(*arguments):
    return run_script(TRAIN, "--recipe", "mine.yaml", *arguments)


def command(*arguments):
    arguments = list(map(str, arguments))
    result = CliRunner().invoke(cli.app, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def weights(path):
    return keras.saving.load_model(path, compile=False).get_weights()


def assert_equal_weights(one, other):
    for ours, its in zip(weights(one), weights(other), strict=True):
        np.testing.assert_array_equal(ours, its)


def without_code():
    """From here on, whoever imports the person's module fails."""
    sys.modules[NAME] = None


@pytest.mark.slow
def test_a_run_that_is_resumed_ends_with_the_same_bits(run, tmp_path):
    other = tmp_path / "run"
    assert train("--output", other, "--set", "training.epochs=1").returncode == 0
    done = train("--output", other, "--resume")
    assert done.returncode == 0, done.stderr[-3000:]
    assert_equal_weights(run / "model.keras", other / "model.keras")


def test_the_run_has_learned_and_says_what_it_was(run):
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["model"]["name"] == "tiny"
    assert metrics["evaluation"]["top1"] > 0.2
    assert yaml.safe_load((run / "recipe.yaml").read_text())["model"] == {
        "function": f"{NAME}:tiny",
        "preprocessing": None,
        "filters": 8,
    }


@parametrize(
    ("setting", "message"),
    [
        ("model.filters=4", "model.filters was 8. Received: model.filters=4"),
        ("model.preprocessing=tf", "model.preprocessing was None. Received: model.preprocessing"),
        (f"model.function={NAME}:scores", f"model.function was {NAME}:tiny. Received"),
        ("model={version: '1.1'}", "A run is resumed with the recipe that it began with: model."),
    ],
    quick=2,
)
def test_a_run_of_another_network_is_not_resumed(run, setting, message):
    done = train("--output", run, "--resume", "--set", setting)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_run_is_not_resumed_with_a_function_that_was_changed(run, folder, tmp_path):
    other = shutil.copytree(run, tmp_path / "run")
    code = (folder / f"{NAME}.py").read_text()
    try:
        # As many weights of the same shapes.
        (folder / f"{NAME}.py").write_text(code.replace('1, activation="relu"', "1"))
        sys.modules.pop(NAME, None)
        done = train("--output", other, "--resume", "--set", "training.epochs=3")
    finally:
        (folder / f"{NAME}.py").write_text(code)
    assert done.returncode == 2
    assert "it holds another network: conv2d" in done.stderr
    assert "with activation=relu where linear is expected" in done.stderr


@pytest.mark.slow
def test_nothing_but_training_needs_the_code(run, tmp_path):
    """Every command on a run's folder works where the code is not, and does not ask for it."""
    copy = shutil.copytree(run, tmp_path / "run")
    without_code()
    model = copy / "model.keras"
    top1 = json.loads((run / "metrics.json").read_text())["evaluation"]["top1"]
    assert command("evaluate", model, "digits")["top1"] == pytest.approx(top1, abs=1e-6)
    for name in QUANTIZATIONS:
        written = command("export", model, copy / f"{name}.tflite", "--quantize", name)
        assert written["decisions_equal"] > 0.9, written
    files = {row["name"]: row["top1"] for row in command("report", copy)["files"]}
    assert set(files) == {"model.keras", *(f"{name}.tflite" for name in QUANTIZATIONS)}
    assert max(files.values()) - min(files.values()) < 0.1
    assert command("compare", copy)["runs"][0]["model"] == "tiny"
    command("compress", model, copy / "model.sqz", "--bits", 6)
    images = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype("float32")
    said = open_classifier(copy / "model.sqz").predict(images)
    np.testing.assert_allclose(said, load_compressed(copy / "model.sqz")(images), atol=1e-6)


def test_a_picture_is_classified(run, tmp_path):
    from PIL import Image

    Image.fromarray(np.full((40, 40, 3), 128, "uint8")).save(tmp_path / "grey.png")
    without_code()
    told = command("classify", tmp_path / "grey.png", "--model", run / "model.keras")
    assert str(tmp_path / "grey.png") in json.dumps(told)


@parametrize("function", ["os:system", "trap:spring"], quick=1)
def test_a_foreign_run_that_names_code_is_measured_and_nothing_is_called(
    run, folder, tmp_path, monkeypatch, function
):
    foreign = shutil.copytree(run, tmp_path / "foreign")
    values = yaml.safe_load((foreign / "recipe.yaml").read_text())
    values["model"] = {"function": function, "command": "true"}
    (foreign / "recipe.yaml").write_text(yaml.safe_dump(values))
    # Whoever imports this module, or calls the command, leaves a trace.
    sprung = folder / "sprung"
    (folder / "trap.py").write_text(f"open({str(sprung)!r}, 'w')\ndef spring(**_): pass\n")
    monkeypatch.setattr(os, "system", lambda *_, **__: sprung.touch())
    command("evaluate", foreign / "model.keras", "digits")
    command("report", foreign)
    command("compare", foreign)
    command("export", foreign / "model.keras", foreign / "a.tflite", "--images", 20)
    done = run_script(TRAIN, "--recipe", foreign / "recipe.yaml", "--output", tmp_path / "new")
    assert done.returncode == 2
    assert "names no code to run" in done.stderr
    done = train("--output", foreign, "--resume")
    assert done.returncode == 2
    assert f"model.function was {function}. Received: model.function={NAME}:tiny" in done.stderr
    assert not sprung.exists()


@pytest.mark.slow
def test_a_layer_of_one_s_own_is_imported_by_an_option(folder, tmp_path):
    function = f"{NAME}:of_layer"
    settings = ["--set", f"model={{function: '{function}', registered: true}}"]
    done = train("--output", tmp_path / "run", *settings, "--set", "training.epochs=1")
    assert done.returncode == 0, done.stderr[-3000:]
    model = tmp_path / "run" / "model.keras"
    registered = f"{NAME}>Registered"
    kind = keras.saving.get_custom_objects().pop(registered)
    try:
        with pytest.raises(InputError, match=r"keras-squeezenet --import MODULE .*Received: "):
            command("evaluate", model, "digits")
        sys.modules.pop(NAME, None)
        assert command("--import", NAME, "evaluate", model, "digits")["count"] == 359
        with pytest.raises(InputError, match="--import not_there: ModuleNotFoundError"):
            command("--import", "not_there", "evaluate", model, "digits")
    finally:
        keras.saving.get_custom_objects()[registered] = kind


@pytest.mark.slow
def test_a_person_s_network_is_fine_tuned(run, tmp_path):
    """Its last layer is Dense: an epoch fits it to the features, then all layers learn."""
    done = train("--output", tmp_path / "run", "--set", "fine_tuning={}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "model.keras").exists()
    done = train(
        *("--output", tmp_path / "other", "--set", "fine_tuning={}"),
        *("--set", f"model={{function: '{NAME}:bent'}}"),
    )
    assert done.returncode == 2
    assert "fine_tuning needs a network whose last layer is Dense" in done.stderr


@pytest.mark.slow
def test_it_is_optimized(run):
    without_code()
    quickly = [
        word
        for stage in ("prune", "cluster", "quantize")
        for word in ("--set", f"{stage}.epochs=1", "--set", f"{stage}.learning_rate=1e-4")
    ]
    done = run_script(OPTIMIZE, run, *quickly)
    assert done.returncode == 0, done.stderr[-3000:]
    left = {path.name for path in (run / "compressed").iterdir()}
    assert left >= {
        *("pruned.keras", "clustered.keras", "model-faithful.sqz", "model-best.sqz"),
        *("model-int8.tflite", "compression.csv", "report.html"),
    }
    packed = load_compressed(run / "compressed" / "model-best.sqz")
    kinds = [type(layer).__name__ for layer in packed.layers]
    assert "BatchNormalization" not in kinds
    # 2**5 values that were trained; 2**8 without training in the depthwise kernel.
    values = {
        layer.name: len(np.unique(layer.weights[0])) for layer in packed.layers if layer.weights
    }
    (depthwise,) = (layer.name for layer in packed.layers if "depthwise" in layer.name)
    assert values.pop(depthwise) <= 256
    assert max(values.values()) <= 32


@pytest.mark.slow
class TestTwoRanks:
    pytestmark = needs_horovod

    def test_they_end_with_equal_weights(self, folder, tmp_path):
        done = horovodrun(
            *(TRAIN, "--recipe", folder / "mine.yaml", "--output", tmp_path / "two"),
            *("--set", "training.batch_size=16"),
        )
        assert done.returncode == 0, done.stderr[-3000:]
        metrics = json.loads((tmp_path / "two" / "metrics.json").read_text())
        assert metrics["training"]["ranks"] == metrics["training"]["ranks_with_equal_weights"] == 2


@pytest.mark.slow
def test_an_application_of_keras_is_trained_and_resumed(folder, tmp_path):
    network = "model={application: MobileNet, alpha: 0.25, normalization_momentum: 0.8}"
    asked = ("--output", tmp_path / "run", "--set", network)
    assert train(*asked, "--set", "training.epochs=1").returncode == 0
    done = train(*asked, "--resume")
    assert done.returncode == 0, done.stderr[-3000:]
    assert train("--output", tmp_path / "other", "--set", network).returncode == 0
    assert_equal_weights(tmp_path / "run/model.keras", tmp_path / "other/model.keras")
    refused = train(*asked, "--resume", "--set", "model.alpha=0.5")
    assert "model.alpha was 0.25. Received: model.alpha=0.5" in refused.stderr


CONDENSENET = {"family": "CondenseNet", "blocks": [2, 2], "strides": 1, "growth_rate": 4}
CONDENSENET["classifier_condensation_factor"] = 1


def write_condensing(folder):
    recipe = {**VALUES, "name": "condensing", "model": CONDENSENET}
    recipe["training"] = {"epochs": 4, "batch_size": 32}
    (folder / "condensing.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "condensing.yaml"


def condensing(folder, *arguments):
    words = ("--recipe", write_condensing(folder), "--output", folder / "run")
    return run_script(TRAIN, *words, *arguments)


@pytest.mark.slow
def test_a_condensenet_is_condensed_in_its_run_and_kept_in_standard_layers(tmp_path):
    done = condensing(tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    run = tmp_path / "run"
    model = keras.saving.load_model(run / "model.keras", compile=False)
    kinds = {type(layer).__name__ for layer in model.layers}
    assert "ChannelSelection" in kinds
    assert "GroupedConv2D" in kinds
    assert "LearnedGroupConv2D" not in kinds
    metrics = json.loads((run / "metrics.json").read_text())
    with (run / "history.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    # What was validated, not condensed yet, computes the same as what is kept.
    assert metrics["evaluation"]["top1"] == pytest.approx(float(rows[-1]["val_accuracy"]), abs=1e-6)
    assert metrics["evaluation"]["top1"] > 0.2
    written = command("export", run / "model.keras", run / "model.tflite")
    assert written["decisions_equal"] == 1
    command("compress", run / "model.keras", run / "model.sqz", "--bits", 6)


@pytest.mark.slow
def test_a_condensenet_that_is_stopped_while_it_condenses_ends_with_the_same_bits(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    assert condensing(whole).returncode == 0
    recipe = write_condensing(parts)
    command = (sys.executable, TRAIN, "--recipe", recipe, "--output", parts / "run")
    with started(command, parts / "log.txt") as run:
        run.wait_until(lambda: len(history(parts / "run")) == 1)
        run.process.terminate()
        assert run.wait() != 0
    assert len(history(parts / "run")) < 4
    done = condensing(parts, "--resume")
    assert done.returncode == 0, done.stderr[-3000:]
    assert_equal_weights(whole / "run" / "model.keras", parts / "run" / "model.keras")


@pytest.mark.parametrize("setting", ["training.keep=best", "training.early_stopping=2"])
def test_a_condensenet_is_kept_as_it_ends(setting, tmp_path):
    done = condensing(tmp_path, "--set", setting)
    assert done.returncode == 2
    assert "is condensed in the first half of its training" in done.stderr
    assert setting in done.stderr
