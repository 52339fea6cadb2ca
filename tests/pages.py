"""The code blocks of the pages: found by their language, run in order in a folder like a user's."""

import atexit
import os
import re
import shlex
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_squeezenet.distributed import LAUNCHER_VARIABLES
from keras_squeezenet.training.recipe import load_recipe
from tests import preloaded
from tests.launching import needs_horovod
from tests.scripts import run_script

PROJECT = Path(__file__).parents[1]
BUILT = PROJECT / "docs" / "_build"
PAGES = [
    *(PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "k8s/README.md")),
    *(path for path in sorted(PROJECT.glob("docs/**/*.md")) if BUILT not in path.parents),
]
LANGUAGES = {"python", "sh", "text", "yaml"}

# What is not run, and why: a page, what the block has in it, the reason. It is parsed all the same.
NOT_RUN = (
    ("", "^kubectl |^docker ", "needs a cluster, a registry and Docker"),
    ("", "^make ", "takes minutes; checked by --dry-run"),
    ("", "^pip install", "changes the environment that the tests run in"),
    ("", "^git clone", "needs a network; the tests make the same folders of the photos at hand"),
    ("", r"^(sudo -E )?python studies/", "takes hours; each study has tests of its own"),
    ("", "^keras-squeezenet horovod$", "compiles for minutes; tests/test_horovod_build.py"),
    ("CONTRIBUTING.md", "-m pytest", "these are the tests"),
)

# A recipe is for an hour of photos; the example is the line, not the hour.
SHORT = "--set training.epochs=1 --set training.batch_size=8 --set training.precision=float32"
SMALL = "--set data.image_size=64"  # with weights of a size the recipe's own has to stay
SHORT_FINE_TUNING = "--set training.epochs=2 --set training.global_batch_size=null"
SHORT_OPTIMIZATION = "--stages prune,cluster,pack " + " ".join(
    f"--set {stage}.epochs=1 --set {stage}.learning_rate=1e-4" for stage in ("prune", "cluster")
)
SHORT_COMPRESSION = "--images 20"
APPLES = ("Golden-Delicious", "Granny-Smith", "Pink-Lady", "Red-Delicious", "Royal-Gala")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: path of the page below the project's folder.
        line: its first one, below the fence.
        language: as the fence says; "" where it says none.
        text: what stands in it.
    """

    page: str
    line: int
    language: str
    text: str

    def __str__(self):
        return f"{self.page}:{self.line}"

    @property
    def reason(self):
        """Why it is not run, or None."""
        for page, part, reason in NOT_RUN:
            if page in ("", self.page) and re.search(part, self.text, re.MULTILINE):
                return reason
        return None

    @property
    def commands(self):
        """Of a shell's block: the lines, with those that go on joined."""
        joined = self.text.replace("\\\n", " ")
        return [line.strip() for line in joined.splitlines() if line.strip()]


@cache
def blocks(*languages):
    """All blocks of these languages, page by page; those of Sphinx's directives are none."""
    found = []
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for fence in re.finditer(r"^```(\S*)[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            language = fence[1]
            if not language.startswith("{") and (not languages or language in languages):
                line = text.count("\n", 0, fence.start(2)) + 1
                page = str(path.relative_to(PROJECT))
                found.append(Block(page, line, language, fence[2]))
    return found


def words_of_program(command):
    """A command without the launcher before it: program and arguments."""
    words = shlex.split(command, comments=True)
    for program in ("keras-squeezenet", "python"):
        if words and words[0] in ("horovodrun", "sudo") and program in words:
            return words[words.index(program) :]
    return words


def training_of(command):
    """The recipe's path or name and the settings of a command that trains; None of others."""
    words = words_of_program(command)
    if words[:2] not in (["keras-squeezenet", "train"], ["python", "train/train.py"]):
        return None
    settings = [value for option, value in pairwise(words) if option == "--set"]
    if "--data" in words:
        settings.append(f"data.source={words[words.index('--data') + 1]}")
    return words[words.index("--recipe") + 1], settings


def recipe_path(name, folder=PROJECT):
    """Where a recipe is that a command names: a file, or one of the package's."""
    return folder / name if name.endswith(".yaml") else PROJECT / f"train/recipes/{name}.yaml"


def marks_of(block):
    """Marks of the test that runs a block."""
    # Commands, one after the other: each reads what those before it wrote. Examples that train.
    if block.language != "python" or ".fit(" in block.text or file_of_the_readers(block):
        yield pytest.mark.slow
        if block.reason is None and "horovodrun" in block.text:
            yield from needs_horovod
    if block.page == "docs/tutorial.md" or _needs_published_weights(block):
        yield pytest.mark.shared


def _needs_published_weights(block):
    if block.language == "python":
        return bool(re.search(r"SqueezeNet\(\s*+(?!weights=None)", block.text))
    if re.search(r"keras-squeezenet (classify|export 1\.)", block.text):
        return True
    recipes = [training[0] for training in map(training_of, block.commands) if training]
    return any("finetune" in recipe or "things" in recipe for recipe in recipes)


def shortened(command, folder):
    """The same command, of which the test does not wait for an hour."""
    training = training_of(command)
    if training:
        recipe = load_recipe(recipe_path(training[0], folder))
        of_all_ranks = recipe.training.global_batch_size is not None
        small = SMALL if recipe.model.weights is None else ""
        return f"{command} {SHORT} {small} {SHORT_FINE_TUNING if of_all_ranks else ''}"
    words = words_of_program(command)
    if words[:2] in (["keras-squeezenet", "optimize"], ["python", "train/optimize.py"]):
        return f"{command} {SHORT_OPTIMIZATION}"
    if words[:2] == ["keras-squeezenet", "compress"]:
        return f"{command} {SHORT_COMPRESSION}"
    return command


def file_of_the_readers(block):
    """The name of the file that an example is, by its first line; else None."""
    named = re.match(r"# (\w+\.py)\n", block.text) if block.language == "python" else None
    return named and named[1]


def run_block(block, folder):
    """Run a block in a page's folder; a file is what a block of YAML gives. Returns the output."""
    if block.language == "yaml":
        (name,) = re.findall(r"^name: (\w+)$", block.text, re.MULTILINE)
        (folder / f"{name}.yaml").write_text(block.text, encoding="utf-8")
        return ""
    if block.language == "python":
        module = file_of_the_readers(block)
        if module:
            (folder / module).write_text(block.text, encoding="utf-8")
        return run_python(block, folder)
    script = "\n".join(shortened(command, folder) for command in block.commands)
    return run(["bash", "-euo", "pipefail", "-c", script], folder)


def run_python(block, folder):
    """In this process, in the page's folder."""
    path = folder / "example.py"
    path.write_text(block.text, encoding="utf-8")
    here = Path.cwd()
    os.chdir(folder)
    try:
        done = run_script(path)
    finally:
        os.chdir(here)
    assert done.returncode == 0, f"{block}\n{done.stderr[-3000:]}"
    return done.stdout


@cache
def preloaded_programs():
    """A folder with a `keras-squeezenet` that does not import TensorFlow for each of 50 commands.

    The installed one from nothing: tests/test_training_cli.py, tests/test_wheel.py.
    """
    folder = tempfile.TemporaryDirectory(prefix="programs")
    atexit.register(folder.cleanup)
    program = Path(folder.name) / "keras-squeezenet"
    start = preloaded.command(Path(sys.executable).parent / program.name)
    program.write_text(f'#!/bin/sh\nexec {shlex.join(start)} "$@"\n')
    program.chmod(0o755)
    return folder.name


def run(command, folder):
    """Run a command with this environment's programs first."""
    environment = {k: v for k, v in os.environ.items() if k not in LAUNCHER_VARIABLES}
    programs = (preloaded_programs(), str(Path(sys.executable).parent))
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=900,
        env={
            **environment,
            "PATH": os.pathsep.join([*programs, environment["PATH"]]),
            "TF_CPP_MIN_LOG_LEVEL": "3",
        },
    )
    assert done.returncode == 0, f"{shlex.join(map(str, command))}\n{done.stderr[-3000:]}"
    return done.stdout


def make_checkout(folder):
    """Fill a folder: the scripts as in the repository, and photos as a user has them."""
    for name in ("train", "studies", "tools"):
        (folder / name).symlink_to(PROJECT / name)
    (folder / "results").mkdir()
    rng = np.random.default_rng(0)
    for colour in ("blue", "green", "red"):
        (folder / "photos" / colour).mkdir(parents=True)
        for number in range(36):
            pixels = rng.integers(0, 90, (150, 170, 3), "uint8")
            pixels[..., ("red", "green", "blue").index(colour)] += 160
            Image.fromarray(pixels).save(folder / "photos" / colour / f"{number}.jpg")
    Image.fromarray(pixels).save(folder / "photo.jpg")
    (folder / "hosts.sh").write_text("#!/bin/sh\necho localhost:1\necho 127.0.0.1:1\n")
    (folder / "hosts.sh").chmod(0o755)


def make_grocery_store_dataset(folder, photos, of_a_class=20):
    """As `git clone` gives it, with fewer photos.

    Args:
        folder: where the clone is to be.
        photos: grocery.zip of the shared images.
        of_a_class: photos of each class at most.
    """
    with zipfile.ZipFile(photos) as archive:
        for split in ("train", "val"):
            for apple in APPLES:
                names = [
                    n for n in archive.namelist() if f"/{split}/{apple}/" in n and n[-1] != "/"
                ]
                place = folder / f"GroceryStoreDataset/dataset/{split}/Fruit/Apple/{apple}"
                for name in sorted(names)[:of_a_class]:
                    place.mkdir(parents=True, exist_ok=True)
                    (place / Path(name).name).write_bytes(archive.read(name))
