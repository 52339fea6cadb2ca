"""The rows of studies/compression_study.py, on networks of a few thousand weights."""

import importlib
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from keras_squeezenet import files, sqz
from keras_squeezenet.compression.saving import network_of
from keras_squeezenet.compression.stages import Stage
from keras_squeezenet.inference.evaluation import Predictions, evaluate_predictions
from tests.compression_digits import tiny_net

sys.path.append(str(Path(__file__).parents[1] / "studies"))
compression_study = importlib.import_module("compression_study")


@pytest.fixture
def network():
    return network_of(tiny_net(), bits=3)


@pytest.fixture
def evaluation():
    """Three of four right."""
    probabilities = np.eye(2, dtype=np.float32)[[0, 1, 1, 0]]
    predictions = Predictions.from_probabilities(np.arange(4), [0, 1, 1, 1], probabilities)
    return evaluate_predictions(predictions, ("a", "b"))


def test_the_stages_of_optimize_become_rows(tmp_path, evaluation):
    model = tmp_path / "model.keras"
    model.write_bytes(b"0" * 1000)
    packed = tmp_path / "model.sqz"
    packed.write_bytes(b"0" * 100)
    stages = [
        Stage.measured("float32", model, evaluation),
        Stage.measured("best", packed, evaluation),
    ]
    (tmp_path / "compressed").mkdir()
    rows = [stage.row(1000) for stage in stages]
    files.write_csv(tmp_path / "compressed" / "compression.csv", rows)
    (row,) = compression_study.optimized(tmp_path, evaluation)
    assert (row["form"], row["bytes"], row["times_smaller"]) == ("trained: best", 100, 10)
    assert (row["top1"], row["lost_top1"], row["images"]) == (0.75, 0, 4)


def test_a_run_without_stages_has_no_rows(tmp_path, evaluation):
    assert list(compression_study.optimized(tmp_path, evaluation)) == []


def test_compressors_get_the_codes_and_all_values(network):
    rows = {row["form"]: row for row in compression_study.general_purpose("tiny", network, 10_000)}
    codes = b"".join(kernel.codes.astype(np.uint8).tobytes() for kernel in network.kernels.values())
    values = b"".join(kernel.codebook.tobytes() for kernel in network.kernels.values())
    values += b"".join(bias.values.tobytes() for bias in network.biases.values())
    size = len(zlib.compress(codes + values, 9))
    assert rows["tiny, codes under zlib"]["bytes"] == size
    assert rows["tiny, codes under zlib"]["times_smaller"] == round(10_000 / size, 1)
    assert rows["tiny, float32 under zlib"]["bytes"] > size


def test_what_was_made_is_kept_and_not_made_again(network, tmp_path):
    path = tmp_path / "network.sqz"
    made = compression_study.kept(path, lambda: network)
    assert path.read_bytes() == sqz.encode(made)
    again = compression_study.kept(path, lambda: pytest.fail("made again"))
    assert sqz.encode(again) == sqz.encode(network)


def test_rows_of_any_kind_have_equal_columns():
    rows = [{"form": "a", "bytes": 1}, {"form": "b"}]
    assert compression_study.with_equal_keys(rows)[1] == {"form": "b", "bytes": ""}
