"""The list of what exists says what the networks, the files and the measurements say."""

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import keras_squeezenet
from keras_squeezenet import list_models, profile_model
from keras_squeezenet.cli import app
from keras_squeezenet.network.architecture import preset
from keras_squeezenet.network.layers import ImagePreprocessing
from keras_squeezenet.network.published import WEIGHTS
from keras_squeezenet.network.weight_files.contents import published_last_conv_padding
from tests.tiers import parametrize

RESULTS = Path(__file__).parents[1] / "results" / "imagenet.csv"
# What each set of weights is called in the table.
ROW_OF = {"squeezenet1_0": "1.0 deep-compressed", "squeezenet1_1": "1.1"}

every_model = pytest.mark.parametrize("listed", list_models(), ids=lambda listed: listed.name)
every_pretrained = pytest.mark.parametrize(
    "listed", list_models(pretrained=True), ids=lambda listed: listed.name
)


def build(constructor):
    names = ("AlexNet", "CondenseNet", "ShuffleNet", "SqueezeNet1_0", "SqueezeNet1_1", "VGG")
    return eval(constructor, {name: getattr(keras_squeezenet, name) for name in names})


@parametrize("listed", list_models(), quick=6, ids=lambda listed: listed.name)
def test_costs_are_those_of_the_network(listed):
    if listed.weights:
        # Without the file: the network that it makes.
        architecture = preset(listed.name.removeprefix("squeezenet").replace("_", "."))
        padding = published_last_conv_padding(architecture)
        model = keras_squeezenet.SqueezeNet(
            weights=None, architecture=replace(architecture, last_conv_padding=padding)
        )
    else:
        model = build(listed.constructor)
    profile = profile_model(model)
    assert (listed.parameters, listed.multiply_adds) == (profile.parameters, profile.multiply_adds)
    assert model.input_shape == (None, listed.input_size, listed.input_size, 3)


@pytest.mark.shared
@every_pretrained
def test_weights_are_those_of_the_constructor_and_its_file(listed, shared, monkeypatch):
    monkeypatch.setenv("KERAS_SQUEEZENET_WEIGHTS", str(shared / "weights"))
    weights = listed.weights
    assert (shared / "weights" / weights.file).stat().st_size == weights.bytes
    model = build(listed.constructor.replace("()", "(include_preprocessing=True)"))
    profile = profile_model(model)
    assert (listed.parameters, listed.multiply_adds) == (profile.parameters, profile.multiply_adds)
    (preprocessing,) = [layer for layer in model.layers if isinstance(layer, ImagePreprocessing)]
    assert preprocessing.mode == weights.preprocessing


def test_those_with_weights_are_the_published_ones():
    listed = [model.weights for model in list_models(pretrained=True)]
    published = [(file.name, file.url) for file in WEIGHTS.values()]
    assert [(weights.file, weights.url) for weights in listed] == published


@every_pretrained
def test_accuracy_is_what_was_measured(listed):
    weights = listed.weights
    with RESULTS.open(encoding="utf-8") as lines:
        (row,) = [
            row
            for row in csv.DictReader(lines)
            if row["weights"] == ROW_OF[listed.name]
            and row["form"] == "Keras, include_preprocessing"
            and row["framing"] == weights.resize
        ]
    numbers = ("image_size", "images", "top1", "top1_standard_error", "top5", "bytes")
    assert {name: getattr(weights, name) for name in numbers} == {
        name: float(row[name]) for name in numbers
    }


def test_names_are_filtered_by_a_pattern():
    names = [listed.name for listed in list_models()]
    assert len(set(names)) == len(names) == 10
    assert [listed.name for listed in list_models("*simple")] == [
        "squeezenet1_0_simple",
        "squeezenet1_1_simple",
    ]
    assert [listed.name for listed in list_models("*1_?", pretrained=True)] == list(ROW_OF)
    assert list_models("resnet*") == ()
    with pytest.raises(ValueError, match=r"`filter` must be a pattern.*Received: filter=3"):
        list_models(3)


class TestCommand:
    def test_it_prints_a_table_and_where_the_weights_come_from(self):
        done = CliRunner().invoke(app, ["models"], env={"COLUMNS": "80"})
        assert done.exit_code == 0, done.output
        for listed in list_models():
            assert f" {listed.name} " in done.output
            assert f" {listed.parameters / 1e6:.2f} M " in done.output
            if listed.weights:
                assert f"weights: {listed.weights.url}" in done.output
                assert f"licence: {listed.weights.licence} there" in done.output
        assert "…" not in done.output

    def test_json_is_the_rows(self):
        done = CliRunner().invoke(app, ["models", "--pretrained", "--json"])
        found = json.loads(done.stdout)["models"]
        assert [row["name"] for row in found] == list(ROW_OF)
        assert found[0]["weights"]["mean"] == [104, 117, 123]
        assert found[0]["weights"]["licence"] == "not stated"

    def test_a_pattern_that_fits_none_says_what_there_is(self):
        command = Path(sys.executable).with_name("keras-squeezenet")
        done = subprocess.run([command, "models", "resnet*"], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("keras-squeezenet: No model has such a name; there are squ")
        assert done.stderr.endswith("Received: resnet*\n")
