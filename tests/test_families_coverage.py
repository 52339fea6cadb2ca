"""studies/families_coverage.py: its rows, of a network of some hundred weights."""

import csv
import importlib
import sys
from pathlib import Path

import keras
import pytest
from keras import layers

sys.path.append(str(Path(__file__).parents[1] / "studies"))
study = importlib.import_module("families_coverage")


class Tiny:
    description = "Tiny"
    side = 8
    learning_rate = 0.01

    def short_model(self):
        return keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                layers.Rescaling(1 / 255),
                layers.Conv2D(8, 3, use_bias=False),
                layers.BatchNormalization(),
                layers.Activation("hard_silu"),
                layers.GlobalAveragePooling2D(),
                layers.Dense(study.CLASSES, activation="softmax"),
            ]
        )


class Refused(Tiny):
    description = "Refused"

    def short_model(self):
        outputs = layers.UnitNormalization(name="odd")
        return keras.Sequential([keras.Input((8, 8, 3)), *super().short_model().layers, outputs])


@pytest.fixture
def families(monkeypatch):
    monkeypatch.setattr(study, "FAMILIES", {"Tiny": Tiny(), "Refused": Refused()})


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.slow
def test_a_row_says_what_ran_and_why_not(families, monkeypatch, tmp_path):
    table = tmp_path / "coverage.csv"
    few = {name: study.SCHEMES[name] for name in ("prune", "PCQAT")}
    monkeypatch.setattr(study, "SCHEMES", few)
    networks = tmp_path / "networks"
    arguments = ["--output", str(table), "--networks", str(networks)]
    monkeypatch.setattr(sys, "argv", ["families_coverage.py", *arguments])
    study.main()
    rows = rows_of(table)
    assert [(r["family"], r["scheme"], r["ok"]) for r in rows] == [
        ("Tiny", "prune", "yes"),
        ("Tiny", "PCQAT", "yes"),
        ("Refused", "prune", "no"),
        ("Refused", "PCQAT", "no"),
    ]
    assert float(rows[0]["agreement"]) == 1
    # A network that has not learned says nothing about an 8-bit file.
    assert all(float(row["accuracy_before"]) == 1 for row in rows[:2])
    assert float(rows[1]["accuracy"]) > 0.8
    assert float(rows[0]["largest_difference"]) < 1e-5
    assert int(rows[1]["bytes"]) > 1000
    assert "Layer odd of class UnitNormalization has no twin" in rows[2]["reason"]

    kept = study.Subject("Tiny", Tiny(), networks)
    assert kept.accuracy(kept.model) == 1

    def nothing(*_):
        raise AssertionError("rows that are there are not measured again")

    monkeypatch.setattr(study, "measured", nothing)
    study.main()
    assert rows_of(table) == rows
