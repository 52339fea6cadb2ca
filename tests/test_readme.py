"""The README is short, its examples run, its figures are those of the pages that it links to."""

import re

import pytest

from keras_squeezenet import list_models
from tests.pages import (
    PROJECT,
    blocks,
    make_checkout,
    marks_of,
    run,
    run_block,
)

README = (PROJECT / "README.md").read_text(encoding="utf-8")
BLOCKS = [block for block in blocks("sh", "python", "yaml") if block.page == "README.md"]


def test_it_is_read_in_a_few_minutes():
    assert len(README.splitlines()) <= 150


def test_the_two_commands_are_targets_of_the_makefile():
    (block,) = [block for block in BLOCKS if block.text.startswith("make ")]
    assert block.commands == ["make demo", "make test"]
    for command in block.commands:
        run([*command.split(), "--dry-run"], PROJECT)


def test_a_photo_is_classified_in_six_lines():
    (block,) = [block for block in BLOCKS if block.language == "python"]
    assert len(block.commands) <= 6


def test_every_file_it_points_to_exists():
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert len(links) > 20
    for link in links:
        assert (PROJECT / link).exists(), link


def test_ten_figures_are_those_of_the_pages_behind_them():
    rows = re.findall(r"^\| .* \| \[(.+)\]\((docs/\w+\.md)#([\w-]+)\) \|$", README, re.MULTILINE)
    assert len(rows) == 10
    for figure, page, anchor in rows:
        text = (PROJECT / page).read_text(encoding="utf-8")
        _, *parts = re.split(r"^#+ (.+)$", text, flags=re.MULTILINE)
        section = {
            re.sub(r"\W+", "-", name.lower()): body
            for name, body in zip(parts[::2], parts[1::2], strict=True)
        }[anchor]
        numbers = [part for part in re.split(r" and | bytes|top-1 ", figure) if part]
        assert numbers
        for number in numbers:
            assert number in section, figure


def test_the_licences_are_those_of_the_list():
    for model in list_models(pretrained=True):
        weights = model.weights
        source = re.match(r"https://raw.githubusercontent.com/([^/]+/[^/]+)/", weights.url)[1]
        original = weights.original.removeprefix("https://github.com/")
        (row,) = [line for line in README.splitlines() if line.startswith("|") and source in line]
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert source in cells[1]
        assert original in cells[3]
        assert [cells[2], cells[4]] == [weights.licence, weights.original_licence]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkout")
    make_checkout(folder)
    return folder


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=str(block), marks=list(marks_of(block)))
        for block in BLOCKS
        if block.reason is None
    ],
)
@pytest.mark.usefixtures("published")
def test_a_block_runs_where_it_stands(block, checkout):
    out = run_block(block, checkout)
    if "decode_predictions" in block.text:
        assert len(re.findall(r"^\w+ [01]\.\d{3}$", out, re.MULTILINE)) == 3
