"""What the package shows: its names, and the arguments of its functions."""

import ast
import inspect
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import keras_squeezenet
from keras_squeezenet.data import Split

PACKAGE = Path(keras_squeezenet.__file__).parent

# Keras's layers and losses take name, dtype and trainable that way; `write_page` takes what its
# template names; what starts a process takes what `subprocess` takes.
MAY_TAKE_ANY_ARGUMENT = {
    "compression/with_training/bridge/place.py:layer",  # those of a layer of tf_keras
    "network/layers.py:__init__",
    "network/families/layers.py:__init__",
    "network/families/learned_groups.py:__init__",
    "training/losses.py:__init__",
    "reports/page.py:write_page",
    "cli/horovod_build.py:pip",
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


def stub(package):
    """(module, name) of each import of a package's `__init__.pyi`, from the package on."""
    path = Path(package.__file__).with_suffix(".pyi")
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                assert alias.asname == alias.name, "only so is it public to a type checker"
                module = node.module.removeprefix(package.__name__).removeprefix(".")
                found.add((module, alias.name))
    return found


def test_the_stub_says_what_is_imported_on_first_use():
    names = {(module, name) for name, module in keras_squeezenet._MODULE_OF.items()}
    packages = {("", name) for name in keras_squeezenet._PACKAGES}
    assert stub(keras_squeezenet) == names | packages | {("_version", "__version__")}
    data = keras_squeezenet.data
    assert stub(data) == {(module, name) for name, module in data._MODULE_OF.items()}


def test_a_name_is_where_it_is_said_to_be():
    for name, module in keras_squeezenet._MODULE_OF.items():
        assert getattr(keras_squeezenet, name).__module__ == f"keras_squeezenet.{module}", name


@pytest.mark.slow
def test_a_type_checker_sees_the_names(tmp_path):
    pytest.importorskip("mypy", reason="mypy is not installed")
    script = tmp_path / "script.py"
    script.write_text(
        "import keras_squeezenet\n"
        "from keras_squeezenet import open_classifier, preset\n"
        "reveal_type(preset)\n"
        "reveal_type(open_classifier('model.sqz').classes)\n"
        "keras_squeezenet.data.load_dataset('digits', image_size='large')\n"
        "keras_squeezenet.no_such_name\n"
    )
    options = ("--follow-imports=silent", "--ignore-missing-imports", "--no-error-summary")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "--cache-dir", tmp_path / "cache", script],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
    )
    preset, classes, size, missing = done.stdout.splitlines()
    assert 'Revealed type is "def (version' in preset
    assert classes.endswith('Revealed type is "int"')
    assert 'expected "int"' in size
    assert 'Module has no attribute "no_such_name"' in missing


def test_rooms_with_names_of_their_own_are_imported_on_first_use():
    code = (
        "import sys, keras_squeezenet as k\n"
        "assert 'keras_squeezenet.sqz' not in sys.modules\n"
        "print(k.sqz.SqzError, k.data.Split, k.distributed.start)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        keras_squeezenet.no_such_name  # noqa: B018
