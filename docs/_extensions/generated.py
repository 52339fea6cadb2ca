"""Pages that are made from the program: every public name, and every command with its options.

A page says where by a line of its own: `<!-- public names -->`, `<!-- commands -->`,
`<!-- recipe keys -->`, `<!-- coverage of families -->`.
"""

import csv
import importlib
import inspect
import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from unittest import mock

import keras_squeezenet
from keras_squeezenet.settings import sections_of

# What a reader looks for, in the order of the rooms; see docs/explanation/rooms.md.
TITLES = {
    "network": "Networks",
    "data": "Data",
    "distributed": "Several ranks",
    "sqz": "The .sqz file",
    "litert": "LiteRT",
    "compression": "Compression",
    "inference": "Inference",
    "training": "Training",
    "errors": "Errors",
}

# What public functions give, and nobody makes himself.
RESULTS = (
    "compression.retraining.Compressed",
    "compression.with_training.quantization_aware.QuantizationAware",
    "litert.comparison.ExportResult",
    "network.catalogue.PublishedWeights",
    "sqz.network.SharedValues",
)

# What scripts import by name as well: `from keras_squeezenet import distributed`.
PACKAGES = ("data", "distributed", "sqz")


def public_names():
    """Autodoc directives for every name of the package, by room."""
    by_room = {}
    for name in keras_squeezenet.__all__:
        thing = getattr(keras_squeezenet, name)
        if inspect.isclass(thing) or callable(thing):
            by_room.setdefault(thing.__module__.split(".")[1], []).append((name, thing))
    lines = []
    for room in sorted(by_room, key=list(TITLES).index):
        lines += [f"## {TITLES[room]}", ""]
        for name, thing in by_room[room]:
            lines += documented(f"keras_squeezenet.{name}", thing)
    lines += ["## What they give", ""]
    for path in RESULTS:
        module, name = f"keras_squeezenet.{path}".rsplit(".", 1)
        lines += documented(f"{module}.{name}", getattr(importlib.import_module(module), name))
    for package in PACKAGES:
        lines += [f"## In `keras_squeezenet.{package}`", ""]
        for name, thing in names_of_package(package):
            lines += documented(f"keras_squeezenet.{package}.{name}", thing)
    return "\n".join(lines)


def names_of_package(name):
    """(name, thing) of the functions and classes that scripts take from a package of ours."""
    package = importlib.import_module(f"keras_squeezenet.{name}")
    for public in sorted(set(dir(package)) - set(keras_squeezenet.__all__)):
        thing = getattr(package, public)
        of_the_package = getattr(thing, "__module__", "").startswith(package.__name__)
        if not public.startswith("_") and callable(thing) and of_the_package:
            yield public, thing


def documented(path, thing):
    kind = "class" if inspect.isclass(thing) else "function"
    members = ["   :members:"] if kind == "class" else []
    return ["```{eval-rst}", f".. auto{kind}:: {path}", *members, "```", ""]


def commands():
    """What `--help` says of every command."""
    from typer.main import get_command

    from keras_squeezenet.cli import app

    group = get_command(app)
    context = group.make_context("keras-squeezenet", ["--help"], resilient_parsing=True)
    lines = []
    for name in group.list_commands(context):
        lines += [f"## {name}", "", "```text", help_of(group, name), "```", ""]
    return "\n".join(lines)


def help_of(group, name):
    out = io.StringIO()
    # As wide as the page: typer asks the terminal.
    with redirect_stdout(out), mock.patch.dict("os.environ", {"COLUMNS": "88", "NO_COLOR": "1"}):
        group.main([name, "--help"], prog_name="keras-squeezenet", standalone_mode=False)
    return out.getvalue().strip()


def recipe_keys():
    """A table for each section of a recipe, from the schema that a recipe is checked by."""
    from keras_squeezenet.training.recipe import Recipe

    schema = Recipe.model_json_schema()
    sections = schema["$defs"]
    lines = ["## At the top", "", *keys_of(Recipe, schema, sections)]
    for name, field in Recipe.model_fields.items():
        kinds = sections_of(field.annotation)
        for kind in kinds:
            # The key that makes it a section of this kind, where there are several.
            own = [key for key, of_it in kind.model_fields.items() if of_it.is_required()]
            title = f"{name} with {own[0]}" if len(kinds) > 1 and own else name
            lines += [f"## {title}", "", inspect.getdoc(kind), ""]
            lines += keys_of(kind, sections[kind.__name__], sections)
    return "\n".join(lines)


def keys_of(section, schema, sections):
    lines = ["| key | takes | default |", "|---|---|---|"]
    for name, field in section.model_fields.items():
        if sections_of(field.annotation):
            takes, default = "a section, below", ""
        else:
            takes = taken(schema["properties"][name], sections)
            default = "" if field.is_required() else f"`{json.dumps(field.default)}`"
        lines.append(f"| `{name}` | {takes} | {'**needed**' if field.is_required() else default} |")
    return [*lines, ""]


BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}
KINDS = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "an integer",
    "null": "`null`",
    "number": "a number",
    "object": "keys and values",
    "string": "text",
}


def taken(schema, sections):
    """What a key takes, in words."""
    if "anyOf" in schema:
        return ", or ".join(taken(one, sections) for one in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ", ".join(f"`{json.dumps(value)}`" for value in values)
    # Some versions of pydantic write 0.0 where others write 0.
    bounds = [f"{text} {schema[name]:.12g}" for name, text in BOUNDS.items() if name in schema]
    return " ".join([KINDS[schema["type"]], " and ".join(bounds)]).strip()


COVERAGE = Path(__file__).parents[2] / "results/coverage.csv"


def coverage():
    """What each family goes through, and why where it does not."""
    with COVERAGE.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    schemes = dict.fromkeys(row["scheme"] for row in rows)
    verdicts = {(row["family"], row["scheme"]): row["ok"] for row in rows}
    lines = [f"| family | network | {' | '.join(schemes)} |", "|---" * (len(schemes) + 2) + "|"]
    reasons = {}
    for family, network in dict.fromkeys((row["family"], row["model"]) for row in rows):
        cells = [verdicts.get((family, scheme), "not tried") for scheme in schemes]
        lines.append(f"| {family} | {network} | {' | '.join(cells)} |")
    for row in rows:
        if row["ok"] == "no":
            reasons.setdefault((row["family"], row["reason"]), []).append(row["scheme"])
    lines += ["", *(f"- {family}, {', '.join(of)}: {why}" for (family, why), of in reasons.items())]
    dates = [row["date"] for row in rows]
    if dates:
        lines += ["", f"Measured from {min(dates)} to {max(dates)}."]
    return "\n".join(lines)


PARTS = {
    "public names": public_names,
    "commands": commands,
    "recipe keys": recipe_keys,
    "coverage of families": coverage,
}


def fill(app, page, source):
    for name, make in PARTS.items():
        place = f"<!-- {name} -->"
        if place in source[0]:
            source[0] = source[0].replace(place, make())


def setup(app):
    app.connect("source-read", fill)
    return {"parallel_read_safe": True}
