"""The rooms of the package: imports point one way, and the plain modules need no framework."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import keras_squeezenet

PACKAGE = Path(__file__).parents[1] / "keras_squeezenet"

# A module imports from its own room and from those above it.
ROOMS = (
    "_version checks downloads errors extras files machine numerals printing settings",
    "startup",
    "network",
    "data",
    "distributed",
    "sqz",
    "litert",
    "compression",
    "inference",
    "communication",
    "reports",
    "training",
    "cli",
)
FLOOR_OF = {name: floor for floor, names in enumerate(ROOMS) for name in names.split()}
FLOOR_OF["__main__"] = len(ROOMS)  # it starts `cli`

# They read and write without Keras and TensorFlow, on a device as well.
PLAIN = (
    "keras_squeezenet",
    "keras_squeezenet.cli",
    "keras_squeezenet.communication.cost_model",
    "keras_squeezenet.compression.stages",
    "keras_squeezenet.files",
    "keras_squeezenet.litert.quantizations",
    "keras_squeezenet.litert.tensor_arena",
    "keras_squeezenet.machine",
    "keras_squeezenet.network.architecture",
    "keras_squeezenet.network.weight_files",
    "keras_squeezenet.printing",
    "keras_squeezenet.sqz",
    "keras_squeezenet.sqz.files",
    "keras_squeezenet.training.recipe",
)


# Their text names modules of rooms below, and what is imported then imports no room: see there.
IMPORTED_BY_NAME = {"keras_squeezenet.startup.registration"}
# The names that the package itself gives are found without an import of the room that has them.
LAZY = {name: f"keras_squeezenet.{of}" for name, of in keras_squeezenet._MODULE_OF.items()}


def imported(tree, modules, within):
    """(line, name of a module of the package) of each import, those within functions too.

    `within` is the package that the module is in, which relative imports start from.
    """
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = within.split(".")[: len(within.split(".")) + 1 - node.level]
            start = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            names = [f"{start}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names = [f"{node.value.id}.{node.attr}"]  # keras_squeezenet.training
        elif isinstance(node, ast.Call):
            texts = [a.value for a in node.args if isinstance(a, ast.Constant)]
            names = [text for text in texts if isinstance(text, str) and text in modules]
        for name in names:
            if name.startswith("keras_squeezenet."):
                yield node.lineno, _module_of(name, modules)


def _module_of(name, modules):
    """The module that a dotted name is, or is in; of a name of the package, where that is from."""
    first = name.split(".")[1]
    if first in LAZY:
        return LAZY[first]
    return name if name in modules else name.rpartition(".")[0]


def module_name(path, package):
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_of(module, path):
    return module if path.name == "__init__.py" else module.rpartition(".")[0]


def arrows_up(package):
    """A line for each import that points up, or leads nowhere."""
    paths = {module_name(path, package): path for path in sorted(package.rglob("*.py"))}
    found = []
    for module, path in paths.items():
        if module == "keras_squeezenet" or module in IMPORTED_BY_NAME:
            continue
        room = module.split(".")[1]
        for line, name in imported(ast.parse(path.read_text()), paths, package_of(module, path)):
            if name == "keras_squeezenet":  # its version, its docstring
                continue
            there = name.split(".")[1]
            if there not in FLOOR_OF or FLOOR_OF[there] > FLOOR_OF[room]:
                found.append(
                    f"{path.relative_to(package.parent)}:{line}: {room} imports from {there}"
                )
    return found


def test_every_module_has_its_room():
    # Not folders without modules: Python's caches stay behind where a module was moved away.
    names = {path.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*.py")}
    assert {name.removesuffix(".py") for name in names} - {"__init__"} == set(FLOOR_OF)


def test_imports_point_one_way():
    assert arrows_up(PACKAGE) == []


@pytest.mark.parametrize(
    "line",
    [
        "from keras_squeezenet.training.recipe import load_recipe",
        "import keras_squeezenet.training.recipe",
        "from keras_squeezenet import training",
        "def later():\n    from keras_squeezenet.training import recipe",
        "from ..training import recipe",
        "from .. import training",
        "import importlib\nimportlib.import_module('keras_squeezenet.training.recipe')",
        "import keras_squeezenet\nkeras_squeezenet.training",
    ],
)
def test_an_import_that_points_up_is_named(tmp_path, line):
    package = tmp_path / "keras_squeezenet"
    for name, text in (("training", ""), ("sqz", f"import json\n{line}\n")):
        (package / name).mkdir(parents=True)
        (package / name / "__init__.py").write_text(text)
    (package / "training" / "recipe.py").write_text("")
    (found,) = arrows_up(package)
    lines = 2 + line.count("\n")
    assert found == f"keras_squeezenet/sqz/__init__.py:{lines}: sqz imports from training"


@pytest.mark.parametrize("module", PLAIN)
def test_a_plain_module_needs_no_framework(module):
    code = (
        f"import sys, {module}; "
        "print(*sorted({'keras', 'tensorflow', 'horovod', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr
