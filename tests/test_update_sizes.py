"""studies/update_sizes.py: its rows, of networks of some hundred weights."""

import csv
import importlib
import sys
from pathlib import Path

import keras
from keras import layers

sys.path.append(str(Path(__file__).parents[1] / "studies"))
study = importlib.import_module("update_sizes")


def network():
    parts = [layers.Conv2D(8, 3), layers.BatchNormalization(), layers.ReLU(), layers.Conv2D(8, 3)]
    parts += [layers.GlobalAveragePooling2D(), layers.Dense(10, name="head")]
    inputs = tensor = layers.Input((12, 12, 3))
    for part in parts:
        tensor = part(tensor)
    return keras.Model(inputs, tensor)


def test_it_writes_a_row_for_each_change(tmp_path, monkeypatch):
    changes = study.CASES["MobileNetV2 0.35"][1]
    monkeypatch.setattr(study, "CASES", {"small": (network, changes)})
    table = tmp_path / "updates.csv"
    monkeypatch.setattr(sys, "argv", ["update_sizes.py", "--output", str(table)])
    study.main()
    with table.open() as lines:
        rows = list(csv.DictReader(lines))
    assert [row["changed"] for row in rows] == list(changes)
    sizes = [int(row["update"]) for row in rows]
    assert sizes == sorted(set(sizes))
    assert all(int(row["update"]) < int(row["file"]) for row in rows[:-1])
