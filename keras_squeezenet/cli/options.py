"""What the commands are asked: options that several have, which model, which images, which file."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from keras_squeezenet.errors import InputError, one_line
from keras_squeezenet.files import find_beside, write_json
from keras_squeezenet.printing import printable

if TYPE_CHECKING:
    import keras

    from keras_squeezenet.data import Split
    from keras_squeezenet.inference.classifiers import Classifier
    from keras_squeezenet.training.recipe import DataSection, Recipe

Item = TypeVar("Item")
Read = TypeVar("Read")
ShortSide = int | Literal["stretch"]  # as `Framing.resize`

DEFAULT_BROKEN_SHARE = 0.05

Resize = Annotated[
    str | None,
    typer.Option(
        help="Short side before the centre crop, or stretch. Default: as in the model's run or "
        "as its file says, else the model's size; stretch for the published networks."
    ),
]
PUBLISHED = "1.0 or 1.1, the published ImageNet networks, or a"
KERAS_MODEL = f"{PUBLISHED} .keras or .sqz file."
ANY_MODEL = f"{PUBLISHED} .keras, .sqz or .tflite file."
MaxBrokenShare = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Share of images that may be unreadable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


class NumberType(StrEnum):
    float32 = "float32"
    uint8 = "uint8"
    int8 = "int8"


@contextlib.contextmanager
def bad_input(*kinds: type[Exception], of: str | None = None) -> Iterator[None]:
    """As an InputError, what the functions that a command hands its options to say of them.

    Args:
        kinds: of exceptions, beside ValueError.
        of: which of several things a command was given is meant; the line begins with it.
    """
    expected: tuple[type[Exception], ...] = (ValueError, *kinds)
    try:
        yield
    except expected as error:
        line = one_line(error)
        raise InputError(line if of is None else f"{of}: {line}") from error


def model_path(model: str | Path) -> Path | None:
    """The path of a model file, which is there; None of a published network."""
    from keras_squeezenet.inference.classifiers import PUBLISHED_VERSIONS, check_model_path

    return None if model in PUBLISHED_VERSIONS else check_model_path(model)


def keras_model_path(model: str) -> Path | None:
    """As `model_path`, but not of a .tflite file, which holds no Keras model."""
    path = model_path(model)
    if path and path.suffix == ".tflite":
        raise InputError(f"Expected 1.0, 1.1, a .keras or .sqz file. Received: {model}")
    return path


def open_model(model: str) -> Classifier:
    from keras_squeezenet.inference.classifiers import open_classifier, open_published

    path = model_path(model)
    if path:
        return open_classifier(path)
    with bad_input():
        return open_published(model)


def run_recipe(model: Path | None) -> Recipe | None:
    """The recipe beside a model; None where the model is of no run."""
    recipe_path = _recipe_path(model)
    if not recipe_path:
        return None
    from keras_squeezenet.training.recipe import load_recipe_of_run

    return load_recipe_of_run(recipe_path)


def _recipe_path(model: Path | None) -> Path | None:
    return model and find_beside(model, "recipe.yaml")


def trained_on(model: Path | None, images: Split) -> int:
    """How many of these images a model's run was trained on, as far as its data are at hand.

    Where these cannot be read, a line says so: what is measured are other images.

    Args:
        model: path of the file, or None of a published network.
        images: a `Split`.
    """
    from keras_squeezenet.data import DataError, load_dataset
    from keras_squeezenet.data.measuring import count_shared
    from keras_squeezenet.data.sources import is_folder

    recipe = run_recipe(model)
    source = recipe and _source_of_run(model, recipe.data)
    # Only files can be known again, and a data set by name has none: it is not even downloaded.
    if not recipe or not source or not is_folder(source) or images.file_name(0) is None:
        return 0
    section = recipe.data
    try:
        dataset = load_dataset(
            source,
            image_size=section.image_size,
            val_fraction=section.val_fraction,
            seed=section.split_seed,
        )
    except (DataError, OSError) as error:
        say(f"how many of these images the model was trained on is not known: {printable(error)}")
        return 0
    return count_shared(images, dataset.train)


def resize_of(model: Path | None) -> ShortSide | None:
    """As a file itself says, or as in the model's run; the published networks take it whole."""
    if model is None:
        return "stretch"
    said = _resize_inside(model)
    if said:
        return said
    recipe = run_recipe(model)
    return recipe.data.resize if recipe else None


def _resize_inside(model: Path) -> Any:  # a `ShortSide` or None; reading checks it
    if model.suffix == ".tflite":
        from keras_squeezenet.litert.model import read_resize

        with bad_input():
            return read_resize(model)
    if model.suffix == ".sqz":
        from keras_squeezenet.sqz.files import read_network

        return read_network(model).resize
    return None


def asked_of_data(
    model: Path | None,
    source: str | None,
    resize: str | None,
    max_broken_share: float | None,
    option: str = "--calibration",
) -> dict[str, Any]:
    """Arguments for reading data: what was asked for, then the recipe of the model's run.

    Raises:
        InputError: neither `option`, which `source` comes from, nor a recipe says which data.
    """
    from keras_squeezenet.data.sources import is_same_source

    recipe = run_recipe(model)
    section = recipe.data if recipe else None
    if source is None and section is None:
        raise InputError(
            f"{option} is needed: real images to run the file on. Without it those of the "
            "training are taken, by the recipe.yaml beside the model. "
            f"Received: {model or 'a published network'} without {option}"
        )
    if section is None:
        defaults = {"source": source, "max_broken_share": DEFAULT_BROKEN_SHARE}
        of_the_run = False
    else:
        defaults = section.model_dump(include={"source", "max_broken_share", "val_fraction"})
        trained_on = _source_of_run(model, section)
        of_the_run = source is None or is_same_source(source, trained_on)
        defaults |= {"source": source or trained_on, "seed": section.split_seed}
    return {
        **defaults,
        "resize": parse_resize(resize) or resize_of(model),
        "max_broken_share": (
            defaults["max_broken_share"] if max_broken_share is None else max_broken_share
        ),
        "held_out": of_the_run,
    }


def read_if_usable(source: str, read: Callable[[], Read], otherwise: str) -> Read | None:
    """What `read` makes of the data of a run, of a command that goes without them as well.

    Args:
        source: of the run.
        read: called without arguments, unless that would download something.
        otherwise: how the command goes on without them, for a line that says so and why.

    Returns:
        None where they are not at hand, or cannot be used.
    """
    from keras_squeezenet.data.sources import is_at_hand

    try:
        if is_at_hand(source):
            return read()
        reason: object = f"{source} is not at hand"
    except (InputError, OSError) as error:
        reason = error
    say(f"{otherwise}, because the data of the model's run cannot be used: {printable(reason)}")
    return None


def check_resize(resize: str | None, image_size: int) -> None:
    """Refuse a --resize that is smaller than the images that a model takes.

    Raises:
        DataError: one line.
    """
    from keras_squeezenet.data import Framing

    Framing(image_size, parse_resize(resize))


def _source_of_run(model: Path | None, section: DataSection) -> str:
    """Where a run found its data: as it noted, if that is there, or else as it was asked.

    A recipe may have a relative path; a run that came from another machine, a path of that one.
    """
    recipe_path = _recipe_path(model)
    assert recipe_path is not None  # the section comes from it
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        metrics_path = recipe_path.with_name("metrics.json")
        metrics = json.loads(metrics_path.read_text(encoding="utf-8"))
        source = metrics["dataset"]["source"]
        if os.path.exists(source):
            return source
    return section.source


def parse_resize(text: str | None) -> ShortSide | None:
    if text is None:
        return None
    if text == "stretch":
        return "stretch"
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"--resize takes a number of pixels or stretch. Received: {text}")
    return int(text)


def track(items: Iterable[Item], task: str, total: int) -> Iterable[Item]:
    """The same items, with a bar on standard error where that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(
        items, task, total, console=console, transient=True, disable=not console.is_terminal
    )


def check_output(out: Path, endings: Sequence[str], *inputs: Path | None) -> None:
    """Refuse a name for a file to be written.

    Args:
        out: the path.
        endings: those that it may have.
        inputs: paths that it must not be; None of what is no file.

    Raises:
        InputError: one line.
    """
    if out.suffix not in endings:
        raise InputError(f"The output must end in {', '.join(endings)}. Received: {out}")
    if out.is_dir():
        raise InputError(f"The output must be a file. Received: {out}, a folder")
    if any(path and os.path.realpath(path) == os.path.realpath(out) for path in inputs):
        raise InputError(f"The output must be another file than the input. Received: {out}")


def check_names_beside(path: Path, class_names: tuple[str, ...] | None) -> None:
    """Refuse a folder for a .keras file whose class_names.json is of other classes.

    Raises:
        InputError: one line that names both.
    """
    from keras_squeezenet.inference.classifiers import CLASS_NAMES_FILE, read_class_names

    names_path = path.with_name(CLASS_NAMES_FILE)
    if names_path.exists() and read_class_names(names_path) != class_names:
        raise InputError(
            "A .keras file has the classes in the class_names.json beside it, and there are others "
            f"in {names_path}: choose another folder. Received: {path}"
        )


def save_keras(model: keras.Model, path: Path, class_names: tuple[str, ...] | None) -> None:
    """Write a .keras file, once it was read back and is the same, and its class names beside it.

    Raises:
        InputError: see `check_names_beside`. Nothing is written then.
        OSError: a file cannot be written.
    """
    from keras_squeezenet.inference.classifiers import CLASS_NAMES_FILE
    from keras_squeezenet.network.keras_files import save_and_read_back

    check_names_beside(path, class_names)
    save_and_read_back(model, path, include_optimizer=False)
    if class_names is not None:
        write_json(path.with_name(CLASS_NAMES_FILE), list(class_names))


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
