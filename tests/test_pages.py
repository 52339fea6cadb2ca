"""Every code block of the pages is run as it stands there, or is named with the reason."""

import ast
import os
import re
import subprocess

import pytest
import typer
import yaml

from keras_squeezenet.cli import app
from keras_squeezenet.training.recipe import load_recipe
from tests.pages import (
    LANGUAGES,
    NOT_RUN,
    PAGES,
    PROJECT,
    blocks,
    make_checkout,
    make_grocery_store_dataset,
    marks_of,
    recipe_path,
    run,
    run_block,
    training_of,
    words_of_program,
)

# tests/test_readme.py runs those of the README.
RUN = [
    block
    for block in blocks("sh", "python", "yaml")
    if block.page != "README.md" and block.reason is None
]
COMMANDS = [
    pytest.param(command, id=f"{block}: {command}"[:100])
    for block in blocks("sh")
    for command in block.commands
]


def ids(block):
    return str(block)


def test_every_block_says_its_language():
    for block in blocks():
        assert block.language in LANGUAGES, block
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\n\n {4}\w.*\n\n", text), f"{path}: an indented block"


def test_what_is_not_run_is_there():
    for page, part, reason in NOT_RUN:
        assert reason
        found = [b for b in blocks() if page in ("", b.page) and re.search(part, b.text, re.M)]
        assert found, f"{page} {part}: no such block"


@pytest.mark.parametrize("block", blocks("sh"), ids=ids)
def test_a_shell_understands_a_block(block):
    done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("block", blocks("python"), ids=ids)
def test_python_understands_a_block(block):
    ast.parse(block.text)


@pytest.mark.parametrize("block", blocks("yaml"), ids=ids)
def test_a_recipe_of_a_page_is_one(block, tmp_path):
    assert yaml.safe_load(block.text)
    (tmp_path / "recipe.yaml").write_text(block.text, encoding="utf-8")
    load_recipe(tmp_path / "recipe.yaml")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_the_options_of_the_pages(command):
    words = words_of_program(command)
    if words[:1] == ["make"]:
        run([*words, "--dry-run"], PROJECT)
    if words[:1] == ["python"]:
        assert (PROJECT / words[1]).exists()
    if "studies/" in command:
        script = (PROJECT / next(w for w in words if w.startswith("studies/"))).read_text()
        for option in re.findall(r" (--[\w-]+)", command):
            assert f'"{option}"' in script, option
    if words[:1] == ["keras-squeezenet"]:
        check_options(words[1:])
    if words[:2] in (["python", "train/train.py"], ["python", "train/optimize.py"]):
        check_options([words[1].removeprefix("train/").removesuffix(".py"), *words[2:]])


def check_options(arguments):
    group = typer.main.get_command(app)
    name, command, rest = group.resolve_command(group.make_context("", [*arguments]), arguments)
    command.make_context(name, rest)


@pytest.mark.parametrize("block", [b for b in blocks("sh") if "train" in b.text], ids=ids)
def test_a_recipe_has_the_settings_of_the_pages(block, tmp_path):
    for recipe in blocks("yaml"):
        if recipe.page == block.page:
            run_block(recipe, tmp_path)
    for recipe, settings in filter(None, map(training_of, block.commands)):
        in_checkout = PROJECT if recipe.startswith("train/") else tmp_path
        load_recipe(recipe_path(recipe, in_checkout), settings)


@pytest.mark.parametrize("block", [b for b in blocks("sh") if "kubectl" in b.text], ids=ids)
def test_a_folder_for_kubectl_is_there(block):
    for folder in re.findall(r" -k (\S+)", block.text):
        assert (PROJECT / folder / "kustomization.yaml").exists()


@pytest.fixture(scope="module")
def checkouts(tmp_path_factory):
    """A folder for each page: its blocks find what those before them wrote."""
    made = {}

    def checkout_of(page):
        if page not in made:
            made[page] = tmp_path_factory.mktemp("checkout")
            make_checkout(made[page])
            if page == "docs/tutorial.md":
                photos = f"{os.environ['KERAS_SQUEEZENET_SHARED']}/data/grocery.zip"
                make_grocery_store_dataset(made[page], photos)
        return made[page]

    return checkout_of


# What is asked of a block beside running to its end: of what it printed, and wrote into the folder.
def three_names(out, folder):
    lines = [line for line in out.splitlines() if re.fullmatch(r"\w+ [01]\.\d{3}", line)]
    assert len(lines) == 3


def tells_colours_apart(out, folder):
    assert float(re.findall(r"accuracy: ([0-9.]+)", out)[-1]) == 1.0


def learns(out, folder):
    assert float(re.findall(r"accuracy: ([0-9.]+)", out)[-1]) > 0.8
    assert (folder / "digits.keras").exists()


def one_rank_shows_progress(out, folder):
    assert out.count("10/10") == 1


def is_small(out, folder):
    assert 300_000 < (folder / "six_bits.sqz").stat().st_size < 600_000


ASKED_OF = {
    "decode_predictions": three_names,
    "LogisticRegression": tells_colours_apart,
    'model.save("digits.keras")': learns,
    "DistributedOptimizer(": one_rank_shows_progress,
    "six_bits.sqz": is_small,
}


@pytest.mark.parametrize(
    "block", [pytest.param(block, id=str(block), marks=list(marks_of(block))) for block in RUN]
)
@pytest.mark.usefixtures("published")
def test_a_block_runs_where_it_stands(block, checkouts):
    folder = checkouts(block.page)
    out = run_block(block, folder)
    for part, ask in ASKED_OF.items():
        if block.language == "python" and part in block.text:
            ask(out, folder)


def example(part):
    """The Python block that has this in it."""
    (found,) = [block for block in blocks("python") if part in block.text]
    return found.text


@pytest.mark.horovod
@pytest.mark.slow
def test_the_horovod_example_runs_on_two_ranks(tmp_path):
    pytest.importorskip("horovod")
    (tmp_path / "example.py").write_text(example("DistributedOptimizer("))
    out = run(["horovodrun", "-np", "2", "python", "example.py"], tmp_path)
    assert out.count("10/10") == 1, "one rank shows progress"


def test_the_folding_example_gives_the_same_network():
    import numpy as np

    names = {}
    exec(compile(example("folded_weights"), "example.py", "exec"), names)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 224, 224, 3)).astype("float32")
    np.testing.assert_allclose(
        names["plain"].predict(images), names["trained"].predict(images), atol=1e-5
    )
