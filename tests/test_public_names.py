"""What the package shows: its names, and the arguments of its functions."""

import ast
import inspect
from collections import Counter
from pathlib import Path

import keras_squeezenet
from keras_squeezenet.data import Split

PACKAGE = Path(keras_squeezenet.__file__).parent

# Keras's layers and losses take name, dtype and trainable that way; `write_page` takes what its
# template names; what starts a process takes what `subprocess` takes.
MAY_TAKE_ANY_ARGUMENT = {
    "network/layers.py:__init__",
    "network/baselines.py:__init__",
    "training/losses.py:__init__",
    "reports/report.py:write_page",
    "cli/horovod_build.py:pip",
    "communication/hosts.py:popen",
    "communication/hosts.py:run",
}


def definitions(kind):
    """(path in the package, definition) of each public one, of methods too."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for parent in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(parent, ast.Module | ast.ClassDef):
                continue  # what a function defines within is its own
            for node in parent.body:
                if isinstance(node, kind) and (
                    not node.name.startswith("_") or node.name == "__init__"
                ):
                    yield path.relative_to(PACKAGE).as_posix(), node


def test_public_functions_show_their_arguments():
    hiding = {
        f"{path}:{function.name}"
        for path, function in definitions(ast.FunctionDef)
        if function.args.kwarg
    }
    assert hiding == MAY_TAKE_ANY_ARGUMENT


def test_batches_show_their_arguments():
    shown = {
        name: str(inspect.signature(getattr(Split, name)))
        for name in ("train_batches", "indexed_train_batches", "val_batches", "indexed_val_batches")
    }
    for_training = (
        "(self, batch_size: int, *, "
        "augmentation: keras_squeezenet.data.augmentation.Augmentation | None = None, "
        "seed: int = 0, rank: int = 0, ranks: int = 1, start_epoch: int = 0, "
        "trained: numpy.ndarray | None = None, done: int | None = None)"
    )
    for_validation = "(self, batch_size: int, *, rank: int = 0, ranks: int = 1)"
    assert {name: text.split(" -> ")[0] for name, text in shown.items()} == {
        "train_batches": for_training,
        "indexed_train_batches": for_training,
        "val_batches": for_validation,
        "indexed_val_batches": for_validation,
    }


def test_no_two_public_classes_have_one_name():
    names = Counter(node.name for _, node in definitions(ast.ClassDef))
    assert [name for name, count in names.items() if count > 1] == []
