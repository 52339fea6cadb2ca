"""The site's pages are those of the program as it is."""

import csv
import inspect
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from typer.main import get_command

import keras_squeezenet
from docs._extensions import generated, rooms
from keras_squeezenet.cli import app
from keras_squeezenet.training.recipe import Recipe

DOCS = Path(__file__).parents[1] / "docs"


def test_every_public_name_is_in_the_reference():
    page = generated.public_names()
    for name in set(keras_squeezenet.__all__) - {"__version__"}:
        assert re.search(rf"^\.\. auto(class|function):: keras_squeezenet\.{name}$", page, re.M), (
            name
        )
        assert getattr(keras_squeezenet, name).__doc__


def test_what_public_functions_give_is_in_the_reference():
    page = generated.public_names()
    documented = set(
        re.findall(r"^\.\. autoclass:: keras_squeezenet\.(?:\w+\.)*(\w+)$", page, re.M)
    )
    for name in keras_squeezenet.__all__:
        thing = getattr(keras_squeezenet, name)
        if inspect.isfunction(thing):
            given = get_type_hints(thing).get("return")
            for kind in (given, *get_args(given)):
                if getattr(kind, "__module__", "").startswith("keras_squeezenet"):
                    assert kind.__name__ in documented, name


def test_what_scripts_take_from_a_package_is_in_the_reference():
    assert set(generated.PACKAGES) == set(keras_squeezenet._PACKAGES)
    page = generated.public_names()
    for name in ("data.Split", "distributed.start", "distributed.rank", "sqz.encode", "sqz.diff"):
        assert f":: keras_squeezenet.{name}\n" in page


def test_every_command_and_option_is_in_the_reference():
    page = generated.commands()
    parts = dict(re.findall(r"^## (\S+)\n\n```text\n(.*?)^```$", page, re.M | re.S))
    group = get_command(app)
    assert set(parts) == set(group.commands)
    for name, command in group.commands.items():
        assert parts[name].startswith(f"Usage: keras-squeezenet {name} ")
        for parameter in command.params:
            for option in parameter.opts:
                assert option.lower() in parts[name].lower()  # some of typer's versions shout


def test_every_key_of_a_recipe_is_in_the_reference():
    page = generated.recipe_keys()
    for name, field in Recipe.model_fields.items():
        assert f"| `{name}` |" in page
        for section in generated.sections_of(field.annotation):
            for key in section.model_fields:
                assert re.search(rf"^## {name}\b.*^\| `{key}` \|", page, re.M | re.S)
    assert "| `learning_rate` | a number above 0 | **needed** |" in page


def test_the_table_of_families_is_what_was_measured():
    table = generated.coverage()
    with generated.COVERAGE.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    lines = table.splitlines()
    heads = lines[0].removesuffix(" |").split(" | ")
    for row in rows:
        (line,) = [one for one in lines if one.startswith(f"| {row['family']} |")]
        cell = line.split(" | ")[heads.index(row["scheme"])]
        assert cell.removesuffix(" |") == row["ok"]
        assert (row["ok"] == "no") == bool(row["reason"])
        if row["ok"] == "no":
            pattern = rf"^- {row['family']}, .*{row['scheme']}.*: {re.escape(row['reason'])}$"
            assert re.search(pattern, table, re.M)


@pytest.mark.parametrize("page", ["python", "command_line", "recipe"])
def test_a_page_of_the_reference_has_a_place_for_what_is_generated(page):
    text = (DOCS / "reference" / f"{page}.md").read_text(encoding="utf-8")
    assert sum(f"<!-- {part} -->" in text for part in generated.PARTS) == 1


def test_the_drawing_of_the_rooms_is_of_the_code():
    """`python -m docs._extensions.rooms` draws it anew."""
    drawn = rooms.DRAWING.read_text(encoding="utf-8")
    assert drawn == rooms.drawing()
    texts = [element.text for element in ElementTree.fromstring(drawn).iter() if element.text]
    assert {text for text in texts if text.strip()} == set(rooms.rooms())


def test_the_arrows_of_the_drawing_point_to_rooms_above():
    order = rooms.rooms()
    for here, there in rooms.arrows():
        assert order.index(there) < order.index(here)
        assert rooms.middle(*rooms.PLACES[there])[1] < rooms.middle(*rooms.PLACES[here])[1]
