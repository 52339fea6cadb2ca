"""The examples in docstrings give what they say."""

import doctest
import importlib

import keras
import numpy as np

import keras_squeezenet
from tests.test_rooms import PACKAGE, module_name
from tests.tiers import parametrize

MODULES = [
    module_name(path, PACKAGE)
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


def test_there_are_examples():
    assert "keras_squeezenet.network.models" in MODULES


# Their examples train or search for seconds; they come last.
LONG = ("keras_squeezenet.compression.saving", "keras_squeezenet.network.families.condensing")


@parametrize("name", sorted(MODULES, key=LONG.__contains__), quick=len(MODULES) - len(LONG))
def test_an_example_gives_what_it_says(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some write files
    keras.utils.set_random_seed(0)
    names = (*keras_squeezenet.__all__, *keras_squeezenet._PACKAGES)
    public = {name: getattr(keras_squeezenet, name) for name in names}
    found = doctest.testmod(
        importlib.import_module(name),
        extraglobs={"keras": keras, "np": np, **public},
        optionflags=doctest.ELLIPSIS,
    )
    assert found.attempted
    assert not found.failed
