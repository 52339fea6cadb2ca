"""What the core does without, and how a part that is not installed is named."""

import ast
import configparser
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from keras_squeezenet.extras import (
    DISTRIBUTION,
    EXTRAS,
    NotInstalledError,
    a_backend,
    from_extra,
    require,
)

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"
PHOTO = ROOT / "docs" / "report.png"

# Of `install_requires`, what a distribution is imported as where that is another name.
IMPORTED_AS = {"pillow": "PIL"}
# Taken where they are there, with a line of their own where they are not.
WITH_LINES_OF_THEIR_OWN = {"horovod", "torch"}

needs_torch = pytest.mark.skipif(not find_spec("torch"), reason="PyTorch is not installed")


@pytest.fixture(scope="module")
def configuration():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def requirements(text):
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return [Requirement(line) for line in lines]


class TestTable:
    def test_it_names_the_distribution(self, configuration):
        assert configuration["metadata"]["name"] == DISTRIBUTION

    @pytest.mark.parametrize("name", EXTRAS)
    def test_an_extra_brings_what_the_table_says(self, configuration, name):
        asked = requirements(configuration["options.extras_require"][name])
        brought = {canonicalize_name(each.name) for each in asked} - {DISTRIBUTION}
        # What tensorflow-datasets forgets to ask for is ours to bring, and not ours to import.
        brought.discard("importlib-resources")
        assert brought == {canonicalize_name(each) for each in EXTRAS[name].packages.values()}

    def test_a_package_has_the_same_bounds_in_all_extras(self, configuration):
        bounds = {}
        for text in configuration["options.extras_require"].values():
            for asked in requirements(text):
                if asked.name != DISTRIBUTION:
                    bounds.setdefault(asked.name, set()).add(str(asked.specifier))
        assert {name: each for name, each in bounds.items() if len(each) > 1} == {}

    def test_the_page_of_the_installation_names_the_oldest_versions(self, configuration):
        extras = configuration["options.extras_require"]
        texts = [configuration["options"]["install_requires"], *map(extras.get, EXTRAS)]
        oldest = {
            asked.name: next(each.version for each in asked.specifier if each.operator == ">=")
            for text in texts
            for asked in requirements(text)
            if asked.name not in (DISTRIBUTION, "tensorflow-datasets", "importlib-resources")
        }
        page = (ROOT / "docs" / "installation.md").read_text(encoding="utf-8")
        rows = re.findall(r"^\| ([\w-]+) \| ([\d.]+) \| [\d.]+ \|$", page, re.MULTILINE)
        assert dict(rows) == oldest

    def test_all_is_all(self, configuration):
        (everything,) = requirements(configuration["options.extras_require"]["all"])
        assert everything.name == DISTRIBUTION
        assert everything.extras == set(EXTRAS) - {"tfds"}


class Imports(ast.NodeVisitor):
    """The modules that are imported, each with the extras whose `with` blocks it is in."""

    def __init__(self, tree):
        self.found, self._extras = [], ()
        self.visit(tree)

    def visit_With(self, node):
        calls = (item.context_expr for item in node.items)
        named = [
            call.args[0].value
            for call in calls
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "from_extra"
        ]
        before, self._extras = self._extras, (*self._extras, *named)
        self.generic_visit(node)
        self._extras = before

    def visit_Import(self, node):
        self.found += [(node.lineno, alias.name, self._extras) for alias in node.names]

    def visit_ImportFrom(self, node):
        self.found.append((node.lineno, node.module, self._extras))


def required_by_room(path, package):
    """The extras that the rooms around a module require."""
    for folder in path.relative_to(package).parents:
        for node in ast.walk(ast.parse((package / folder / "__init__.py").read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require":
                yield node.args[0].value


def undeclared_imports(package, core):
    """A line for each import of what neither the core nor an extra that is asked for brings."""
    found = []
    for path in sorted(package.rglob("*.py")):
        of_room = set(required_by_room(path, package))
        for line, name, extras in Imports(ast.parse(path.read_text())).found:
            module = name.partition(".")[0]
            brought = {each for extra in {*extras, *of_room} for each in EXTRAS[extra].packages}
            if "compression" in of_room:  # it brings "train"
                brought |= set(EXTRAS["train"].packages)
            known = {*sys.stdlib_module_names, *core, *WITH_LINES_OF_THEIR_OWN, package.name}
            if module not in known | brought:
                found.append(f"{path.relative_to(package.parent)}:{line}: {module}")
    return found


class TestImports:
    def test_every_import_is_of_the_core_or_of_an_extra_that_is_asked_for(self, configuration):
        asked = requirements(configuration["options"]["install_requires"])
        core = {IMPORTED_AS.get(each.name, each.name) for each in asked}
        # Where Keras computes with TensorFlow, or where Horovod is, TensorFlow is.
        on_tensorflow = (
            "inference/explain.py",
            "network/layers.py",
            "compression/without_training/ends.py",
            "distributed/elastic.py",
        )
        found = undeclared_imports(ROOT / "keras_squeezenet", core)
        assert [
            line
            for line in found
            if not (line.endswith(": tensorflow") and line.split(":")[0].endswith(on_tensorflow))
        ] == []

    @pytest.mark.parametrize(
        ("room", "text", "found"),
        [
            ("", "import yaml", ["p/a/m.py:1: yaml"]),
            ("", "def f():\n    from yaml import load", ["p/a/m.py:2: yaml"]),
            ("", "with from_extra('report'):\n    import yaml", ["p/a/m.py:2: yaml"]),
            ("", "with from_extra('train'):\n    import yaml\nimport numpy, json", []),
            ("require('train')", "import yaml", []),
        ],
    )
    def test_an_import_that_nothing_brings_is_named(self, tmp_path, room, text, found):
        package = tmp_path / "p"
        (package / "a").mkdir(parents=True)
        for name, content in (("__init__", ""), ("a/__init__", room), ("a/m", text)):
            (package / f"{name}.py").write_text(content)
        assert undeclared_imports(package, {"numpy"}) == found


class TestOneLine:
    def test_what_is_missing_of_an_extra_is_named(self, monkeypatch):
        for name in ("tf_keras", "tensorflow_model_optimization"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(NotInstalledError) as caught:
            require("compression")
        assert str(caught.value) == (
            "Clustering and quantization-aware training need tensorflow-model-optimization"
            " and tf_keras: pip install 'squeezenet-keras[compression]'"
        )
        assert caught.value.name == "tensorflow_model_optimization"

    def test_an_import_that_fails_says_which_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "yaml", None)
        with pytest.raises(ModuleNotFoundError) as caught, from_extra("train"):
            import yaml  # noqa: F401
        assert str(caught.value) == (
            "Training, recipes and labelled data sets need pyyaml: "
            "pip install 'squeezenet-keras[train]'"
        )

    def test_what_an_extra_does_not_bring_is_another_error(self):
        for context in (from_extra("train"), a_backend()):
            with pytest.raises(ModuleNotFoundError, match="No module named") as caught, context:
                import a_module_that_nobody_has  # noqa: F401
            assert not isinstance(caught.value, NotInstalledError)

    def test_the_innermost_line_is_kept(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "tf_keras", None)
        with pytest.raises(NotInstalledError, match=r"\[compression\]"), from_extra("train"):
            require("compression")


def without_extras(code, *arguments, backend="torch", hidden=()):
    """The lines that Python code prints where nothing but the core and a backend is installed."""
    names = {module for extra in EXTRAS.values() for module in extra.packages}
    names -= {"jinja2", "pydantic"}  # which PyTorch and typer bring
    names -= {"scipy"} if backend == "jax" else set()
    names |= {"horovod", *hidden}
    hide = f"import sys\nfor name in {sorted(names)}: sys.modules[name] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", hide + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": backend},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


CORE = """
import numpy as np
import keras_squeezenet
from keras_squeezenet import SqueezeNet, load_compressed, profile_model, save_compressed

folder = sys.argv[1]
model = SqueezeNet(weights=None, classes=3, input_shape=(32, 32, 3), include_preprocessing=True)
image = np.full((1, 32, 32, 3), 100, "float32")
outputs = model.predict_on_batch(image)
model.save_weights(folder + "/a.weights.h5")
again = SqueezeNet(weights=folder + "/a.weights.h5", classes=3, input_shape=(32, 32, 3),
                   include_preprocessing=True)
np.testing.assert_array_equal(again.predict_on_batch(image), outputs)
save_compressed(model, folder + "/a.sqz", bits=4)
packed = load_compressed(folder + "/a.sqz")
save_compressed(packed, folder + "/b.sqz")
again = load_compressed(folder + "/b.sqz")
np.testing.assert_array_equal(again.predict_on_batch(image), packed.predict_on_batch(image))
print(profile_model(model).parameters)
"""

# Of parts that are not in the core the first line that each says.
PARTS = """
def line_of(action):
    try:
        action()
    except ImportError as error:
        print(f"{type(error).__name__}: {error}")

def name(text):
    return lambda: getattr(keras_squeezenet, text)

for text in sys.argv[2:]:
    line_of(name(text))
from keras_squeezenet.litert.model import LiteRTModel
with open(folder + "/a.tflite", "wb") as file:
    file.write(bytes(4) + b"TFL3" + bytes(64))
line_of(lambda: LiteRTModel(folder + "/a.tflite"))
line_of(lambda: keras_squeezenet.export_litert(model, folder + "/b.tflite"))
"""

TRAIN = "Training, recipes and labelled data sets need tensorflow: "
COMPRESSION = "Clustering and quantization-aware training need "


@pytest.mark.slow
@needs_torch
def test_the_core_works_on_another_backend_and_names_what_it_lacks(tmp_path):
    parts = ("load_dataset", "DistributedOptimizer", "cluster")
    parameters, *lines = without_extras(CORE + PARTS, tmp_path, *parts)
    assert int(parameters) > 700_000
    install = f"pip install '{DISTRIBUTION}"
    assert lines == [
        f"NotInstalledError: {TRAIN}{install}[train]'",
        f"NotInstalledError: {TRAIN}{install}[train]'",
        f"NotInstalledError: {COMPRESSION}tensorflow-model-optimization and tf_keras: "
        f"{install}[compression]'",
        f"NotInstalledError: LiteRT files need ai-edge-litert: {install}[litert]'",
        "NotInstalledError: LiteRT files need ai-edge-litert and flatbuffers and tensorflow: "
        f"{install}[litert]'",
    ]


# What each command ends with, and its lines.
COMMANDS = """
import contextlib, io, json
from keras_squeezenet.cli import main

for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    out, lines = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(lines):
        try:
            main()
        except SystemExit as end:
            status = end.code
    print(json.dumps([status, lines.getvalue().splitlines(), bool(out.getvalue())]))
"""


def ends(*commands, **options):
    """(status, lines on standard error, whether it printed a result) of each command."""
    asked = json.dumps([list(map(str, command)) for command in commands])
    return [tuple(json.loads(line)) for line in without_extras(COMMANDS, asked, **options)]


@pytest.mark.slow
@needs_torch
def test_the_commands_of_the_core_do_their_work(tmp_path):
    network, unpacked = GOLDEN / "grid-best.sqz", tmp_path / "a.keras"
    done = ends(
        ("profile", network),
        ("compare-networks", network, "--fits", "10MB"),
        ("classify", PHOTO, "--model", network),
        ("decompress", network, unpacked),
        ("compress", unpacked, tmp_path / "b.sqz"),
        ("diff", network, tmp_path / "b.sqz", tmp_path / "c.sqzdelta"),
        ("patch", network, tmp_path / "c.sqzdelta", tmp_path / "d.sqz"),
    )
    assert done == [(0, [], True)] * len(done)


@needs_torch
def test_a_command_names_in_one_line_what_it_lacks(tmp_path):
    network = GOLDEN / "grid-best.sqz"
    run = GOLDEN / "runs" / "plain"
    litert = tmp_path / "a.tflite"
    litert.write_bytes(bytes(4) + b"TFL3" + bytes(64))
    keras_file = tmp_path / "a.keras"
    expected = {
        ("classify", PHOTO, "--model", litert): "litert",
        ("classify", PHOTO, "--model", network, "--explain", tmp_path / "a.png"): "report",
        ("classify", PHOTO, "--model", run / "model.keras"): "train",
        ("evaluate", network, "digits"): "train",
        ("export", network, tmp_path / "b.tflite"): "litert",
        ("prune", network, keras_file): "train",
        ("cluster", network, keras_file): "compression",
        ("quantize", network, litert): "compression",
        ("report", run): "report",
        ("compare", run): "train",
    }
    for command, (status, lines, printed) in zip(expected, ends(*expected), strict=True):
        assert (status, len(lines), printed) == (2, 1, False), (command, lines)
        assert f"pip install 'squeezenet-keras[{expected[command]}]'" in lines[0], command


def test_without_a_backend_a_line_says_so():
    backends = ("torch", "jax", "openvino")
    code = "import keras_squeezenet\ntry: keras_squeezenet.SqueezeNet()\n"
    code += "except ImportError as error: print(error)"
    assert without_extras(code, backend="torch", hidden=backends) == [
        "Keras's backend torch, by KERAS_BACKEND, is not installed: pip install torch, or one of "
        "tensorflow, torch, jax, openvino and set KERAS_BACKEND"
    ]
    ((status, (line,), _),) = ends(("summary",), backend="torch", hidden=backends)
    assert status == 2
    assert line.startswith("keras-squeezenet: Keras's backend torch")
    # Where more is missing, the extra that brings all of it is named.
    run = GOLDEN / "runs" / "plain"
    commands = (("train", "--recipe", "digits", "--output", run), ("report", run))
    for extra, (status, (line,), _) in zip(
        ("train", "report"), ends(*commands, backend="torch", hidden=backends), strict=True
    ):
        assert status == 2
        assert f"pip install 'squeezenet-keras[{extra}]'" in line


@needs_torch
def test_another_backend_that_is_there_is_named():
    code = "import keras_squeezenet\ntry: keras_squeezenet.SqueezeNet()\n"
    code += "except ImportError as error: print(error)"
    assert without_extras(code, backend="tensorflow", hidden=("jax", "openvino")) == [
        "Keras's backend tensorflow, by KERAS_BACKEND, is not installed, but torch is: "
        "set KERAS_BACKEND=torch"
    ]
