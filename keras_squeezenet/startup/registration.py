"""The classes of this package in saved models, known to Keras whatever is imported first."""

import contextlib
import importlib
import sys
from collections.abc import Iterator

from keras_squeezenet.extras import a_backend
from keras_squeezenet.startup.imports import around_import

SAVED_AS = "keras_squeezenet"  # the package part of the registered names in saved models

# Where all classes are that Keras has to know. These modules import Keras, and nothing of ours that
# does: they are imported while the thread that imports Keras holds its lock, and another thread may
# be in the midst of one of them and wait for Keras.
MODULES = (
    "network.layers",
    "network.families.layers",
    "network.families.learned_groups",
    "training.losses",
    "training.schedules",
)


def register_with_keras() -> None:
    """Register the classes now, if Keras is imported already, or else as soon as it is."""
    around_import("keras", _then_registered)
    if "keras" in sys.modules:
        _import_modules()


@contextlib.contextmanager
def _then_registered() -> Iterator[None]:
    with a_backend():
        yield
    _import_modules()


def _import_modules() -> None:
    for name in MODULES:
        importlib.import_module(f"keras_squeezenet.{name}")
