"""Importing Keras without what nothing here uses, in processes that have not imported it yet."""

import subprocess
import sys

import pytest

from keras_squeezenet.startup.quick_start import NOT_NEEDED


def printed(program):
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split()


@pytest.mark.parametrize("first", ["keras", pytest.param("tensorflow", marks=pytest.mark.slow)])
def test_keras_does_not_import_them_and_others_do(first):
    program = f"""
import sys
import keras_squeezenet.startup.quick_start
import {first}
print("keras" in sys.modules, *[name in sys.modules for name in {NOT_NEEDED}])
import gc
print(gc.isenabled(), gc.get_freeze_count() > 100_000)
import sklearn.linear_model, matplotlib.pyplot
import keras
from keras_squeezenet import SqueezeNet
print(SqueezeNet(weights=None, classes=3).count_params())
"""
    assert printed(program) == ["True", "False", "False", "True", "True", "724035"]


def test_what_is_imported_already_stays():
    program = """
import matplotlib
before = matplotlib
import keras_squeezenet.startup.quick_start
import keras, sys
print(sys.modules["matplotlib"] is before, "sklearn" in sys.modules)
"""
    assert printed(program) == ["True", "False"]


def test_an_import_that_fails_leaves_the_others_importable():
    program = """
import sys
import keras_squeezenet.startup.quick_start
sys.modules["absl"] = None  # which Keras does need
try:
    import keras
except ImportError:
    print("failed")
import matplotlib, sklearn
print("imported")
"""
    assert printed(program) == ["failed", "imported"]
