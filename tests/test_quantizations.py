"""A kind of LiteRT file is one row of a table."""

import json
import subprocess
import sys

import numpy as np
import pytest
from keras.saving import load_model

from keras_squeezenet import Architecture, SqueezeNet
from keras_squeezenet.litert.export import export_litert

IMAGES = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype("float32")

# In a process of its own: the command's options are made of the table when it is imported.
WITH_ANOTHER_ROW = """
import sys
from dataclasses import replace
from keras_squeezenet.litert.quantizations import QUANTIZATIONS
QUANTIZATIONS["half"] = replace(
    QUANTIZATIONS["float16"], name="half", what="the row of a test", tolerance=0.2
)
from keras_squeezenet.cli import main
sys.argv[0] = "keras-squeezenet"
main()
"""


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.keras"
    # Its weights are nearly all of its file.
    architecture = Architecture.from_metaparameters(
        base_e=128, incr_e=128, fires=2, pool_after=(1,)
    )
    SqueezeNet(
        weights=None,
        architecture=architecture,
        input_shape=(32, 32, 3),
        classes=4,
        include_preprocessing="tf",
    ).save(path)
    return path


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-c", WITH_ANOTHER_ROW, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.slow
def test_a_row_arrives_in_the_command_and_in_the_file(model_path, tmp_path):
    assert "half: the row of a test" in " ".join(run("export", "--help").split())
    path = tmp_path / "half.tflite"
    whole = export_litert(load_model(model_path), tmp_path / "whole.tflite", check_images=IMAGES)
    few = ("--images", 10)
    measured = json.loads(run("export", model_path, path, "--quantize", "half", *few, "--json"))
    assert (measured["quantize"], measured["tolerance"]) == ("half", 0.2)
    assert path.stat().st_size < 0.55 * whole.bytes
