"""The study of int8 files on photos unlike their calibration's: its arithmetic and its photos."""

import importlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "studies"))
study = importlib.import_module("int8_kinds")


def judgement(classes, highest, saturated=None):
    return study.Judgement(np.array(classes), np.array(highest), saturated)


def test_a_row_compares_with_the_model_and_with_the_file_of_the_same_kind():
    reference = judgement([0, 1, 2, 3], [0.9, 0.8, 0.7, 0.6])
    same = judgement([0, 1, 2, 0], [0.9] * 4, 0.0)
    file = judgement([0, 0, 1, 3], [0.5, 0.5, 0.5, 0.9], 0.25)
    row = study.compare(reference, same, file, np.array([0, 1, 1, 3]))
    assert (row["photos"], row["changed"], row["more_changed"]) == (4, 50.0, 25.0)
    # Of the differences 0, 1, 1, -1, in percent.
    expected = 100 * np.std([0, 1, 1, -1]) / math.sqrt(4)
    assert row["more_changed_standard_error"] == pytest.approx(expected, abs=0.01)
    # The second photo is lost, the third won.
    assert (row["float32_top1"], row["top1"], row["lost"]) == (0.75, 0.75, 0.0)
    assert row["lost_standard_error"] == pytest.approx(100 * math.sqrt(0.5 / 4), abs=0.01)
    assert (row["float32_confidence"], row["confidence"]) == (0.75, 0.6)
    assert row["saturated"] == 25.0


def test_kinds_without_labels_have_no_accuracy():
    judged = judgement([0, 1], [0.5, 0.5], 0.0)
    row = study.compare(judged, judged, judged, None)
    assert row["changed"] == 0
    assert row["lost"] == row["top1"] == ""


def test_no_photo_both_calibrates_and_judges(tmp_path):
    names = [f"{number}.png" for number in range(150)]
    (tmp_path / "images").mkdir()
    for number, name in enumerate(names):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / "images" / name)
    lines = "\n".join(f"{name},{number}" for number, name in enumerate(names))
    (tmp_path / "labels.csv").write_text(f"file,class_index\n{lines}\n")
    kind = study.one_kind("squares", tmp_path, 30)
    calibrating, judging = kind.calibration[:, 0, 0, 0], kind.judged[:, 0, 0, 0]
    assert (len(calibrating), len(judging)) == (100, 30)
    assert not set(calibrating) & set(judging)
    np.testing.assert_array_equal(judging, kind.judged_labels)


def test_each_source_is_a_kind(tmp_path):
    lines = "\n".join(f"{number}.png,{'ab'[number % 2]}" for number in range(220))
    (tmp_path / "sources.csv").write_text(f"file,source\n{lines}\n")
    kinds = list(study.kinds_by_source(tmp_path, 5))
    assert [kind.name for kind in kinds] == ["a", "b"]
    assert {int(file.stem) % 2 for file in kinds[1].files} == {1}


def test_rows_that_are_there_are_known(tmp_path):
    path = tmp_path / "table.csv"
    assert study.read_rows(path) == {}
    path.write_text("weights,calibrated_with,judged_on,changed\n1.1,a,b,2.0\n")
    assert study.read_rows(path)["1.1", "a", "b"]["changed"] == "2.0"
