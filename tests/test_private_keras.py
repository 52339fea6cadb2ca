"""What Keras keeps to itself is used in one module, so that a new Keras breaks one file alone."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOOR = "keras_squeezenet/network/graph.py"

# Private by their names and not Keras's: Python's documented way out of a process, what Horovod's
# own `State` subclasses read, and a list of tfmot's, which has no public way to it.
OTHERS = ("_exit", "_host_messages", "_weight_vars")


ATTRIBUTE_FUNCTIONS = ("getattr", "hasattr", "setattr", "delattr")


def own_names(tree):
    """What a module defines itself: functions, classes, and attributes of its objects."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Attribute(ast.Name("self" | "cls"), name, ast.Store()):
                yield name


def private_names(tree):
    """(line, name) of each attribute that is private by its name, and of Keras's inner modules."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name):
                yield node.lineno, name
            case ast.Call(ast.Name(function), [_, ast.Constant(str(name)), *_]):
                if function in ATTRIBUTE_FUNCTIONS:
                    yield node.lineno, name
            case ast.Import(names) if any("keras.src" in alias.name for alias in names):
                yield node.lineno, "_keras.src"
            case ast.ImportFrom(str(module)) if "keras.src" in module:
                yield node.lineno, "_keras.src"


def private_uses(path):
    tree = ast.parse(path.read_text())
    own = {*own_names(tree), *OTHERS}
    return [
        (line, name)
        for line, name in private_names(tree)
        if name.startswith("_") and not name.startswith("__") and name not in own
    ]


def test_what_is_private_to_keras_is_used_through_one_door():
    paths = [
        p for room in ("keras_squeezenet", "train", "studies") for p in ROOT.glob(f"{room}/**/*.py")
    ]
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sorted(paths)
        if path != ROOT / DOOR
        for line, name in private_uses(path)
    ]
    assert found == []


def test_the_door_is_one():
    assert private_uses(ROOT / DOOR) != []


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("layer._inbound_nodes", "_inbound_nodes"),
        ("model.layers[0]._keras_history.operation", "_keras_history"),
        ("optimizer._apply_weight_decay = None", "_apply_weight_decay"),
        ("getattr(model, '_functional', model)", "_functional"),
        ("from keras.src.models import Functional", "_keras.src"),
    ],
)
def test_another_line_is_named(tmp_path, line, name):
    path = tmp_path / "module.py"
    path.write_text(
        f"import os\nclass Own:\n    def _of(self):\n        os._exit(self._of)\n{line}\n"
    )
    assert private_uses(path) == [(5, name)]
