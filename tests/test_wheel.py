"""The wheel and the sdist, as they are uploaded; the wheel, where nothing else is installed.

The environments of these tests are empty but for the wheel and what it asks for, and what that asks
for in turn. These are links to the packages that the tests run with, so that nothing is downloaded.
"""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from keras_squeezenet.distributed import LAUNCHER_VARIABLES
from keras_squeezenet.extras import DISTRIBUTION
from keras_squeezenet.network import imagenet

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden"
SOURCES = ("CHANGELOG.md", "LICENSE", "MANIFEST.in", "README.md", "keras_squeezenet")
SOURCES += ("pyproject.toml", "setup.cfg", "setup.py", "train")
BACKEND = "torch" if find_spec("torch") else "tensorflow"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with a wheel and an sdist."""
    sources, built = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("built")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, sources / name, ignore=ignored)
        else:
            shutil.copy2(ROOT / name, sources)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", built, sources]
    # The wheel is made of the sdist: it has what the sdist has.
    subprocess.run(list(map(str, build)), check=True, capture_output=True)
    return built


@pytest.fixture(scope="module")
def wheel(built):
    (path,) = built.glob("*.whl")
    return path


def asked_by(requirements, extras):
    """The names of installed distributions that requirements ask for, and those ask for in turn."""
    found, waiting = set(), [(Requirement(line), extras) for line in requirements or ()]
    while waiting:
        asked, of_extras = waiting.pop()
        environments = [{"extra": extra} for extra in of_extras or [""]]
        if asked.marker and not any(asked.marker.evaluate(each) for each in environments):
            continue
        name = canonicalize_name(asked.name)
        if (name, *sorted(asked.extras)) in found:
            continue
        found.add((name, *sorted(asked.extras)))
        lines = requirements if name == DISTRIBUTION else importlib.metadata.requires(name)
        waiting += [(Requirement(line), asked.extras) for line in lines or ()]
    return {name for name, *_ in found} - {DISTRIBUTION}


def environment(folder, wheel, *others, extras=()):
    """A new environment with the wheel, what it asks for with extras, and other packages."""
    venv.create(folder, with_pip=False, symlinks=True)
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        text = archive.read(metadata).decode()
    requirements = re.findall(r"^Requires-Dist: (.*)$", text, re.MULTILINE)
    names = asked_by([*requirements, *others], extras)
    (packages,) = folder.glob("lib/python*/site-packages")
    for name in names:
        distribution = importlib.metadata.distribution(name)
        for entry in {Path(file).parts[0] for file in distribution.files}:
            link = packages / entry
            if entry != ".." and not link.exists():
                link.symlink_to(distribution.locate_file(entry))
    # Only pip makes the command of an entry point, and it needs none of the above.
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install"]
    done = run(*pip, "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "bin"


def run(*command, cwd, **variables):
    left_out = {*LAUNCHER_VARIABLES, "PYTHONPATH"}
    inherited = {key: value for key, value in os.environ.items() if key not in left_out}
    return subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**inherited, "KERAS_BACKEND": BACKEND, **variables},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def core(wheel, tmp_path_factory):
    """The programs of an environment with the core and a backend."""
    return environment(tmp_path_factory.mktemp("core") / "venv", wheel, BACKEND)


@pytest.fixture(scope="module")
def everything(wheel, tmp_path_factory):
    return environment(tmp_path_factory.mktemp("all") / "venv", wheel, extras=["all"])


def test_what_is_uploaded_passes_the_check_of_the_index(built):
    files = sorted(built.iterdir())
    assert len(files) == 2
    done = run(sys.executable, "-m", "twine", "check", "--strict", *files, cwd=built)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_has_every_file_of_the_package_and_of_train(built, wheel):
    expected = {
        f"{target}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, target in (
            ("keras_squeezenet", "keras_squeezenet"),
            ("train", "keras_squeezenet/scripts"),
        )
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert found == expected
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        assert not [name for name in archive.getnames() if "/tests/" in name]


def test_the_environment_has_nothing_that_was_not_asked_for(core):
    hidden = ["yaml", "sklearn", "matplotlib", "scipy", "ai_edge_litert", "tf_keras", "horovod"]
    hidden += ["tensorflow"] if BACKEND != "tensorflow" else []
    code = f"import importlib.util as u; print([n for n in {hidden} if u.find_spec(n)])"
    done = run(core / "python", "-c", code, cwd=core)
    assert done.stdout == "[]\n", done.stderr


def test_the_command_answers_in_another_folder(core, tmp_path):
    done = run(core / "keras-squeezenet", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "classify" in done.stdout
    done = run(core / "keras-squeezenet", "summary", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1,235,496" in done.stdout


@pytest.mark.shared
def test_the_first_example_of_the_readme_runs(core, shared, tmp_path, monkeypatch):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    example = re.search(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)[1]
    Image.new("RGB", (300, 200), "orange").save(tmp_path / "photo.jpg")
    weights = {"KERAS_SQUEEZENET_WEIGHTS": str(shared / "weights")}
    done = run(core / "python", "-c", example, cwd=tmp_path, **weights)
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("KERAS_SQUEEZENET_WEIGHTS", weights["KERAS_SQUEEZENET_WEIGHTS"])
    words = set(re.findall(r"\w+", done.stdout))
    assert len(words.intersection(imagenet.class_names())) == 3


def test_a_network_is_built_packed_and_read(core, tmp_path):
    code = """
import numpy as np
from keras_squeezenet import SqueezeNet, load_compressed, save_compressed
model = SqueezeNet(weights=None, classes=3)
save_compressed(model, "a.sqz", bits=4)
print(load_compressed("a.sqz").predict_on_batch(np.zeros((1, 224, 224, 3), "float32")).shape)
"""
    done = run(core / "python", "-c", code, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "(1, 3)\n"), done.stderr


@pytest.mark.parametrize(
    ("extra", "command"),
    [
        ("report", ("classify", "photo.png", "--model", "net.sqz", "--explain", "a.png")),
        ("train", ("train", "--recipe", "digits")),
        ("litert", ("export", "net.sqz", "a.tflite")),
        ("train", ("prune", "net.sqz", "a.keras")),
        ("compression", ("cluster", "net.sqz", "a.keras")),
    ],
)
def test_an_extra_that_is_missing_is_named_in_one_line(core, tmp_path, extra, command):
    shutil.copy(GOLDEN / "grid-best.sqz", tmp_path / "net.sqz")
    Image.new("RGB", (30, 20), "orange").save(tmp_path / "photo.png")
    done = run(core / "keras-squeezenet", *command, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.endswith(f"pip install '{DISTRIBUTION}[{extra}]'")


def test_with_all_extras_it_trains_and_reports_in_another_folder(everything, tmp_path):
    command = everything / "keras-squeezenet"
    short = ("--set", "training.epochs=1", "--output", "run")
    tensorflow = {"KERAS_BACKEND": "tensorflow"}
    done = run(command, "train", "--recipe", "digits", *short, cwd=tmp_path, **tensorflow)
    assert done.returncode == 0, done.stderr
    done = run(command, "report", "run", cwd=tmp_path, **tensorflow)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.html").is_file()
