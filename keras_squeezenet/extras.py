"""What an installation may do without, and the one line that says what to install.

The core is what `install_requires` of setup.cfg names. A module of an extra is imported

    with from_extra("litert"):
        from ai_edge_litert.interpreter import Interpreter

or in a room whose `__init__` calls `require`. Keras itself needs one of its backends, which none of
the extras chooses but those of parts that take TensorFlow.
"""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from keras_squeezenet.errors import InputError

DISTRIBUTION = "squeezenet-keras"


class NotInstalledError(ModuleNotFoundError, InputError):
    """Something asked for takes a package that is not installed; the text is one line."""


@dataclass(frozen=True)
class Extra:
    """An extra of setup.cfg.

    Attributes:
        purpose: what it is for, a plural that begins a sentence.
        packages: of each top-level module the distribution that it comes with.
    """

    purpose: str
    packages: dict[str, str]


# A test holds it against setup.cfg.
EXTRAS = {
    "train": Extra(
        "Training, recipes and labelled data sets",
        {
            "pydantic": "pydantic",
            "sklearn": "scikit-learn",
            "tensorboard": "tensorboard",
            "tensorflow": "tensorflow",
            "yaml": "pyyaml",
        },
    ),
    "report": Extra(
        "Reports and figures",
        {"jinja2": "jinja2", "matplotlib": "matplotlib", "scipy": "scipy"},
    ),
    "litert": Extra(
        "LiteRT files",
        {
            "ai_edge_litert": "ai-edge-litert",
            "flatbuffers": "flatbuffers",
            "tensorflow": "tensorflow",
        },
    ),
    "compression": Extra(
        "Clustering and quantization-aware training",
        {
            "tensorflow_model_optimization": "tensorflow-model-optimization",
            "tf_keras": "tf_keras",
        },
    ),
    "tfds": Extra(
        "Data sets of TensorFlow Datasets", {"tensorflow_datasets": "tensorflow-datasets"}
    ),
}

# What Keras computes with; each is a module of the distribution of its name.
BACKENDS = ("tensorflow", "torch", "jax", "openvino")


@contextmanager
def from_extra(name: str) -> Iterator[None]:
    """Import modules of an extra in a block.

    Raises:
        NotInstalledError: one of them is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if isinstance(error, NotInstalledError) or module not in EXTRAS[name].packages:
            raise
        raise _not_installed(name, [module]) from error


def require(name: str) -> None:
    """Refuse to go on without the modules of an extra. They are not imported.

    Raises:
        NotInstalledError: names all that are missing.
    """
    missing = [module for module in EXTRAS[name].packages if not is_installed(module)]
    if missing:
        raise _not_installed(name, missing)


def is_installed(module: str) -> bool:
    """Whether a top-level module can be found; it is not imported."""
    return importlib.util.find_spec(module) is not None


@contextmanager
def a_backend() -> Iterator[None]:
    """Import Keras in a block.

    Raises:
        NotInstalledError: the backend that Keras is to compute with is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        backend = (error.name or "").partition(".")[0]
        if backend not in BACKENDS or is_installed(backend):
            raise
        raise NotInstalledError(_without_backend(backend), name=backend) from error


def _not_installed(name: str, missing: list[str]) -> NotInstalledError:
    extra = EXTRAS[name]
    packages = " and ".join(extra.packages[module] for module in missing)
    return NotInstalledError(
        f"{extra.purpose} need {packages}: pip install '{DISTRIBUTION}[{name}]'", name=missing[0]
    )


def _without_backend(backend: str) -> str:
    asked = "KERAS_BACKEND" if "KERAS_BACKEND" in os.environ else "its configuration"
    missing = f"Keras's backend {backend}, by {asked}, is not installed"
    other = next((name for name in BACKENDS if is_installed(name)), None)
    if other:
        return f"{missing}, but {other} is: set KERAS_BACKEND={other}"
    return (
        f"{missing}: pip install {backend}, or one of {', '.join(BACKENDS)} and set KERAS_BACKEND"
    )
