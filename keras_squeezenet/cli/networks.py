"""Any network that a command is asked about: a name, a file, a run's folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keras_squeezenet.cli.options import bad_input
from keras_squeezenet.errors import InputError

if TYPE_CHECKING:
    import keras

    from keras_squeezenet.network.data_formats import Shape
    from keras_squeezenet.training.network_comparison import MeasuredAccuracy

ANY_NETWORK = (
    "A .keras or .sqz file, a run's folder, a name of `keras-squeezenet models`, 1.0 or 1.1, or "
    "application:NAME, such as application:MobileNetV2, of keras.applications. By name a network "
    "has new weights: nothing is downloaded."
)
InputShapes = Annotated[
    list[str] | None,
    typer.Option(
        "--input-shape",
        metavar="SIZES",
        help="Of one image, without batch: 224,224,3. Of a network by name, the size to build it "
        "for; of a file, sizes that it leaves open. Once for each input of a model of several.",
    ),
]
Classes = Annotated[
    int | None,
    typer.Option(min=1, help="Of networks by name; default 1000."),
]


def parse_shapes(texts: list[str] | None) -> list[Shape]:
    """Shapes such as 224,224,3.

    Raises:
        InputError: a text is none.
    """
    return [_shape(text) for text in texts or []]


def _shape(text: str) -> Shape:
    sizes = tuple(int(size) for size in re.findall(r"\d{1,9}", text))
    if not re.fullmatch(r"\d{1,9}( ?, ?\d{1,9})*", text, re.ASCII) or 0 in sizes:
        raise InputError(
            "--input-shape takes sizes from 1 with commas between, such as 224,224,3. "
            f"Received: {text}"
        )
    return sizes


def open_network(name: str, shapes: list[Shape], classes: int | None) -> keras.Model:
    """The model of a name, a file or a run's folder.

    Args:
        name: see `ANY_NETWORK`.
        shapes: of its inputs; none: its own.
        classes: of a network by name.

    Raises:
        InputError: one line.
    """
    path = None if _is_name(name) else network_path(name)
    if path is None:
        from keras_squeezenet.network.by_name import network_by_name

        if len(shapes) > 1:
            raise InputError(f"A network by name has one input. Received: {name}, shapes {shapes}")
        with bad_input(of=name):
            return network_by_name(name, input_shape=shapes[0] if shapes else None, classes=classes)
    if classes is not None:
        raise InputError(f"--classes is for networks by name. Received: {name}")
    from keras_squeezenet.inference.classifiers import read_model

    return read_model(path)


def network_path(name: str) -> Path:
    """The file of a model, by itself or as its run's folder.

    Raises:
        InputError: there is none; one line.
    """
    from keras_squeezenet.inference.classifiers import check_model_path

    path = Path(name)
    if path.is_dir():
        path = path / "model.keras"
        if not path.is_file():
            raise InputError(f"Expected a run's folder, with a model.keras. Received: {name}")
    elif not path.is_file():
        raise InputError(f"Expected {ANY_NETWORK.partition('. By')[0]}. Received: {name}")
    return check_model_path(path)


def _is_name(name: str) -> bool:
    from keras_squeezenet.network.names import is_name

    return is_name(name)


def accuracy_of(name: str, *, as_published: bool) -> MeasuredAccuracy | None:
    """What was measured of exactly this network, with its source; None where nothing was.

    Args:
        name: see `ANY_NETWORK`.
        as_published: whether a network by name has the size and the classes it was designed for.
    """
    from keras_squeezenet.network.names import listed_as
    from keras_squeezenet.training import network_comparison

    if _is_name(name):
        listed = listed_as(name)
        published = listed if as_published else None
        return network_comparison.accuracy_of_listed(published) if published else None
    return network_comparison.accuracy_of_run(network_path(name))
