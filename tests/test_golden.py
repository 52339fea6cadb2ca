"""What earlier versions wrote: models and runs are read, go on and give what they gave."""

import csv
import json
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

from keras_squeezenet.cli import app
from tests.golden_models import BUILDERS, IMAGES, built
from tests.interrupted_runs import TRAIN
from tests.scripts import run_script

GOLDEN = Path(__file__).parent / "golden"
RUNS = ("plain", "rich")


def names(model):
    """Without the numbers that Keras gives layers without a name: it counts over the process."""
    return [re.sub(r"_\d+$", "", layer.name) for layer in model.layers[1:]]


@pytest.mark.parametrize("name", BUILDERS)
class TestModels:
    @pytest.fixture
    def model(self, name):
        return keras.saving.load_model(GOLDEN / "models" / f"{name}.keras")

    def test_it_gives_what_it_gave(self, name, model):
        with np.load(GOLDEN / "models" / "outputs.npz") as outputs:
            expected = outputs[name]
        assert np.ptp(expected) > 1e-3
        np.testing.assert_allclose(model.predict_on_batch(IMAGES), expected, rtol=1e-5, atol=1e-5)

    def test_it_is_what_is_built_today(self, name, model):
        now = built(name)
        assert names(model) == names(now)
        assert [type(layer) for layer in model.layers] == [type(layer) for layer in now.layers]
        for ours, theirs in zip(model.get_weights(), now.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)

    def test_it_is_written_and_read_again(self, name, model, tmp_path):
        model.save(tmp_path / "model.keras")
        again = keras.saving.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(again(IMAGES), model(IMAGES))


def rows(folder):
    with (folder / "history.csv").open() as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize("name", [pytest.param("plain", marks=pytest.mark.slow), "rich"])
class TestInterruptedRuns:
    @pytest.mark.slow
    def test_an_interrupted_run_goes_on_and_ends_as_it_did(self, name, tmp_path):
        run, ended = tmp_path / "run", GOLDEN / "runs" / name
        shutil.copytree(GOLDEN / "runs" / f"{name}-interrupted", run)
        done = run_script(
            TRAIN, "--recipe", run / "recipe.yaml", "--output", run, "--journal", "--resume"
        )
        assert done.returncode == 0, done.stderr
        # Not the bits: processors differ. The same examples in the same order, and their marks.
        trained = [(path / "commits.jsonl").read_text().splitlines() for path in (run, ended)]
        assert [json.loads(line) for line in trained[0]] == [
            json.loads(line) for line in trained[1]
        ]
        assert len(rows(run)) == len(rows(ended)) == 4
        for row, before in zip(rows(run), rows(ended), strict=True):
            assert float(row["learning_rate"]) == pytest.approx(float(before["learning_rate"]))
            assert float(row["loss"]) == pytest.approx(float(before["loss"]), rel=0.02)
        assert (run / "model.keras").exists()


@pytest.mark.parametrize("name", RUNS)
class TestRuns:
    def test_a_finished_run_is_measured_as_it_was(self, name, tmp_path):
        shutil.copytree(GOLDEN / "runs" / name, tmp_path / "run")
        result = CliRunner().invoke(
            app,
            ["evaluate", str(tmp_path / "run" / "model.keras"), "digits", "--json"],
            catch_exceptions=False,
        )
        assert result.exit_code == 0, result.stderr
        before = json.loads((tmp_path / "run" / "metrics.json").read_text())
        assert json.loads(result.stdout)["top1"] == pytest.approx(
            before["evaluation"]["top1"], abs=0.006
        )

    @pytest.mark.slow
    def test_a_finished_run_is_finished_and_has_its_report_drawn_anew(self, name, tmp_path):
        run = tmp_path / "run"
        shutil.copytree(GOLDEN / "runs" / name, run)
        model = (run / "model.keras").read_bytes()
        drawn = CliRunner().invoke(app, ["report", str(run)], catch_exceptions=False)
        assert drawn.exit_code == 0, drawn.stderr
        done = run_script(TRAIN, "--recipe", run / "recipe.yaml", "--output", run, "--resume")
        assert done.returncode == 0, done.stderr
        assert "finished already" in done.stdout
        assert (run / "model.keras").read_bytes() == model
