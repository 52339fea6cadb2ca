"""`keras-squeezenet train` and `optimize`: the scripts of train/ as commands."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from keras_squeezenet import cli
from keras_squeezenet.cli import training
from keras_squeezenet.errors import InputError
from keras_squeezenet.settings import RecipeError
from keras_squeezenet.training.recipe import load_recipe
from tests.launching import horovodrun, needs_horovod
from tests.test_train_script import RECIPE

TRAIN = Path(__file__).parents[1] / "train"
RECIPES = TRAIN / "recipes"


def run(*arguments):
    result = CliRunner().invoke(cli.app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def asked_by(script, *arguments, monkeypatch):
    """What a script of train/ is asked by a command line of its own."""
    asked = []
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *arguments])
    with pytest.raises(SystemExit) as end:
        training.run_script(getattr(training, script), asked.append)
    assert end.value.code in (None, 0)
    return asked[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a short run, and what `train --json` printed."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = {**RECIPE, "data": {**RECIPE["data"], "source": "photos"}}
    (folder / "short.yaml").write_text(yaml.safe_dump(recipe))
    out = run(
        *("train", "--recipe", folder / "short.yaml", "--data", "digits"),
        *("--set", "training.epochs=1", "--output", folder / "run", "--json"),
    )
    return folder / "run", json.loads(out)


def test_train_prints_what_the_run_measured_and_nothing_else(trained):
    folder, printed = trained
    assert printed == json.loads((folder / "metrics.json").read_text())
    assert printed["dataset"]["source"] == "digits", "--data comes before the recipe's"
    assert printed["training"]["epochs"] == 1


def test_optimize_prints_a_row_for_each_file_it_wrote(trained):
    folder, _ = trained
    printed = json.loads(run("optimize", folder, "--stages", "pack", "--json"))
    assert Path(printed["report"]).is_file()
    for row in printed["stages"]:
        assert row["bytes"] == next(folder.rglob(row["file"])).stat().st_size
    assert len(printed["stages"]) == 3  # as it was, and both modes


def test_bad_input_is_refused_as_by_the_scripts(tmp_path):
    for arguments, message in (
        (("train", "--recipe", "digit"), "one of .*digits, .*Received: digit$"),
        (("optimize", tmp_path), "finished run"),
    ):
        with pytest.raises(InputError, match=message):
            CliRunner().invoke(cli.app, list(map(str, arguments)), catch_exceptions=False)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_of_ours_goes_by_its_name(path):
    assert load_recipe(path.stem, folder=RECIPES) == load_recipe(path)
    assert path.stem in run("train", "--help")


def test_a_file_comes_before_a_recipe_of_ours_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("digits").write_text(yaml.safe_dump({**RECIPE, "name": "mine"}))
    assert load_recipe("digits", folder=RECIPES).name == "mine"
    Path("digits").unlink()
    Path("digits").mkdir()  # of photos, for example
    assert load_recipe("digits", folder=RECIPES).name == "digits"


def test_without_a_folder_a_name_is_no_recipe():
    with pytest.raises(RecipeError, match="cannot be read: digits"):
        load_recipe("digits")


def test_a_folder_of_photos_may_have_any_name(monkeypatch):
    name = "my: photos #1"
    asked = asked_by("train", "--recipe", "digits", "--data", name, monkeypatch=monkeypatch)
    assert load_recipe(asked.recipe, asked.settings, RECIPES).data.source == name


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
@pytest.mark.parametrize("command", [("train", "--recipe", "digits"), ("optimize", "run")])
def test_a_time_until_a_rank_is_named_is_above_zero(command, seconds):
    result = CliRunner().invoke(cli.app, [*command, f"--stall-seconds={seconds}"])
    assert result.exit_code == 2
    assert "above 0" in result.stderr


@pytest.mark.parametrize("script", ["train", "optimize"])
def test_a_script_has_the_options_of_its_command(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{script}.py", "--help"])
    with pytest.raises(SystemExit):
        training.run_script(getattr(training, script), None)
    theirs, ours = (
        text.partition("[OPTIONS]")[2].split()  # whatever the program's name, wherever lines end
        for text in (capsys.readouterr().out, run(script, "--help"))
    )
    assert "--stall-seconds" in theirs
    assert theirs == ours


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=needs_horovod)])
def test_the_installed_command_trains_from_any_folder(ranks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = (
        *(Path(sys.executable).parent / "keras-squeezenet", "train", "--recipe", "digits"),
        *("--set", "training.epochs=1"),
        *("--set", "model={metaparameters: {base_e: 16, incr_e: 16, fires: 2, pool_after: [1]}}"),
    )
    if ranks == 1:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    else:
        done = horovodrun(*command, ranks=ranks, preload=False)
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = json.loads(Path("runs/digits/metrics.json").read_text())
    assert metrics["training"]["ranks"] == ranks
    assert Path("runs/digits/report.html").is_file()
