"""Recipes as such: sections of checked keys, read from YAML, changed by `--set`. No framework."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from keras_squeezenet.errors import InputError, one_line
from keras_squeezenet.extras import from_extra

with from_extra("train"):
    import yaml
    from pydantic import BaseModel, ConfigDict, Field, ValidationError

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]


# Of a problem, as pydantic says it: names of keys, and numbers within lists.
Location = Sequence[str | int]


class RecipeError(InputError):
    """A recipe that cannot be followed; the text is one line and names the key."""


class Section(BaseModel):
    """Keys with checked values; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Kind = TypeVar("Kind", bound=Section)


def check_recipe(
    kind: type[Kind],
    values: dict[str, Any],
    settings: Iterable[str] = (),
    source: Path | str = "--set",
) -> Kind:
    """Values as a recipe of a kind.

    Args:
        kind: `Recipe` or another `Section`.
        values: a dict of keys and sections; it is changed.
        settings: as in `load_recipe`.
        source: where the values come from, for errors.

    Raises:
        RecipeError: as `load_recipe`.
    """
    for setting in settings:
        _set(values, setting)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"{source}: {_first_problem(error, kind)}") from None


def read_values(path: Path | str) -> dict[str, Any]:
    """The recipe's values, not checked yet."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"The recipe cannot be read: {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"The recipe is not YAML: {path}: {one_line(error)}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"The recipe must hold keys with values. Received: {path}")
    return values


def _set(values: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals:
        raise RecipeError(f"--set takes section.key=value. Received: {setting}")
    *sections, last = key.strip().split(".")
    for section in sections:
        if not isinstance(values.get(section), dict):
            values[section] = {}
        values = values[section]
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {key}: {one_line(error)}. Received: {text}") from None


def _first_problem(error: ValidationError, kind: type[Section]) -> str:
    problem = error.errors(include_url=False)[0]
    location = problem["loc"]
    key = ".".join(_key_parts(location, kind))
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key}{_similar(location, kind)}"
    if problem["type"] == "missing":
        return f"the key {key} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "model_type":
        message = "a section with keys and values is expected"
    received = problem["input"]
    if isinstance(received, dict):  # a rule between keys: the message names them
        return f"{key}: {message}" if key else message
    return f"{key}: {message}. Received: {key}={received}"


def _key_parts(location: Location, section: type[Section]) -> Iterator[str]:
    """The part of pydantic's location that a reader of the YAML knows: sections and keys."""
    parts = iter(location)
    for part in parts:
        yield str(part)
        inner = _section_within(section, part, parts)
        if inner is None:
            return
        section = inner


def _section_within(
    section: type[Section], key: str | int, rest: Iterator[str | int]
) -> type[Section] | None:
    """The section that a key of a section holds; of several kinds the one that comes next."""
    field = section.model_fields.get(str(key))
    kinds = sections_of(field.annotation) if field else []
    if len(kinds) < 2:
        return next(iter(kinds), None)
    name = next(rest, None)  # pydantic names the kind by its tag, here the name of the class
    return next((kind for kind in kinds if kind.__name__ == name), None)


def sections_of(annotation: Any) -> list[type[Section]]:
    """The kinds of sections that a field holds, be it optional or not."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [kind for part in get_args(annotation) for kind in sections_of(part)]


def _similar(location: Location, section: type[Section]) -> str:
    parts = iter(location[:-1])
    others: list[str] = []
    for part in parts:
        kinds = sections_of(section.model_fields[str(part)].annotation)
        section = _section_within(section, part, parts) or section
        # The keys that would have made it a section of another kind.
        others = [
            name
            for kind in kinds
            for name, field in kind.model_fields.items()
            if field.is_required() and name not in section.model_fields
        ]
    names = list(section.model_fields)
    close = difflib.get_close_matches(str(location[-1]), [*names, *others], n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known here: {', '.join(names)}" + (f"; or {', '.join(others)}" if others else "")
