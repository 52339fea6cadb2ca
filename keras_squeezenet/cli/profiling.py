"""What networks cost: the commands profile, compare-networks, and summary, profile's past."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_squeezenet.cli.network_tables import (
    print_comparison,
    print_profile,
    profile_in_markdown,
    profile_rows,
)
from keras_squeezenet.cli.networks import (
    ANY_NETWORK,
    Classes,
    InputShapes,
    accuracy_of,
    open_network,
    parse_shapes,
)
from keras_squeezenet.cli.options import AsJson, bad_input, check_output, say
from keras_squeezenet.errors import InputError
from keras_squeezenet.extras import NotInstalledError, require
from keras_squeezenet.numerals import parse_bytes
from keras_squeezenet.printing import print_json

if TYPE_CHECKING:
    from keras_squeezenet.network.data_formats import Shape
    from keras_squeezenet.network.profile import ModelProfile

Markdown = Annotated[bool, typer.Option("--markdown", help="Print Markdown.")]
CsvFile = Annotated[
    Path | None,
    typer.Option("--csv", help="Write the table in exact numbers to this file too."),
]


class Version(StrEnum):
    v1_0 = "1.0"
    v1_1 = "1.1"


class Bypass(StrEnum):
    none = "none"
    simple = "simple"
    complex = "complex"


def profile(
    models: Annotated[list[str], typer.Argument(metavar="MODEL", help=ANY_NETWORK)],
    input_shape: InputShapes = None,
    classes: Classes = None,
    csv: CsvFile = None,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the layers of one MODEL into this PNG.")
    ] = None,
    markdown: Markdown = False,
    as_json: AsJson = False,
) -> None:
    """What each layer of a network costs: parameters, multiply-adds, memory, bytes.

    One multiply-add is 1, where some papers count 2 FLOPs. Memory is that of one image in float32:
    a layer's output, and all that is in use while it runs, in the order of execution.
    """
    check_form(markdown, as_json)
    if picture:
        require("report")
        check_output(picture, (".png",))
        if len(models) > 1:
            raise InputError(f"--picture is of one MODEL. Received: {len(models)}")
    shapes = parse_shapes(input_shape)
    from keras_squeezenet.files import write_csv

    found = [_profile(name, shapes, classes) for name in models]
    if csv:
        tables = [profile_rows(name, each) for name, each in zip(models, found, strict=True)]
        write_csv(csv, [row for rows in tables for row in rows])
    if picture:
        from keras_squeezenet.reports import figures

        with bad_input():
            figures.layer_costs(found[0], picture)
    if as_json:
        networks = zip(models, found, strict=True)
        print_json({"networks": [{"network": name, **each.to_dict()} for name, each in networks]})
        return
    for number, each in enumerate(found):
        if number:
            print()
        if markdown:
            print(profile_in_markdown(each))
        else:
            print_profile(each)


def compare_networks(
    models: Annotated[list[str], typer.Argument(metavar="MODEL", help=ANY_NETWORK)],
    fits: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Memory on a chip, such as 10MB: the most bits for each weight with which the "
            "weights fit, alone and beside the activations of one image.",
        ),
    ] = None,
    latency: Annotated[
        bool,
        typer.Option(
            "--latency", help="Time float32 LiteRT files of them on this machine, in turns."
        ),
    ] = False,
    calls: Annotated[int, typer.Option(min=1, help="Of each network, with --latency.")] = 30,
    input_shape: InputShapes = None,
    classes: Classes = None,
    csv: CsvFile = None,
    markdown: Markdown = False,
    as_json: AsJson = False,
) -> None:
    """Networks side by side: what they cost, whether they fit, and how accurate they were measured.

    Accuracy is what the catalogue has of published weights, or the metrics.json of a run. Without
    either there is none.
    """
    check_form(markdown, as_json)
    memory = None if fits is None else parse_bytes(fits)
    shapes = parse_shapes(input_shape)
    from keras_squeezenet.files import write_csv
    from keras_squeezenet.network.profile import profile_model
    from keras_squeezenet.training.network_comparison import ComparedNetwork, flat

    as_published = not shapes and classes is None
    accuracies = [accuracy_of(name, as_published=as_published) for name in models]
    timing = latency and _can_time()
    profiles, kept = [], []
    for name in models:
        network = open_network(name, shapes, classes)
        with bad_input(of=name):
            profiles.append(profile_model(network, _given(shapes)))
        if timing:
            kept.append(network)
    latencies: list[Any] = [None] * len(models)
    if timing:
        from keras_squeezenet.litert.latency import measure_latencies
        from keras_squeezenet.machine import own_threads

        say(f"timing {len(models)} networks, {calls} calls each")
        latencies[:] = measure_latencies(kept, calls=calls, threads=own_threads())
    found = list(map(ComparedNetwork, models, profiles, accuracies, latencies))
    rows = [each.to_dict(memory) for each in found]
    if csv:
        write_csv(csv, flat(rows))
    if as_json:
        print_json({"networks": rows})
    else:
        print_comparison(found, memory, markdown=markdown)


def summary(
    model: Annotated[
        str | None, typer.Argument(help="As for profile; default: a new SqueezeNet.")
    ] = None,
    version: Annotated[Version, typer.Option(help="Of a new SqueezeNet.")] = Version.v1_1,
    bypass: Annotated[Bypass, typer.Option(help="Of a new SqueezeNet.")] = Bypass.none,
    input_size: Annotated[
        int | None, typer.Option(min=1, help="Side of the image in pixels.")
    ] = None,
    classes: Annotated[int, typer.Option(min=1, help="Of a new SqueezeNet.")] = 1000,
    as_json: AsJson = False,
) -> None:
    """What profile was before: of one network, or of a new SqueezeNet by its options."""
    shape = (input_size, input_size, 3) if input_size else None
    if model is not None:
        found = _profile(model, [shape] if shape else [], None)
    else:
        from keras_squeezenet.network.models import SqueezeNet
        from keras_squeezenet.network.profile import profile_model

        with bad_input():
            network = SqueezeNet(
                weights=None,
                version=version.value,
                bypass=None if bypass is Bypass.none else bypass.value,  # type: ignore[arg-type]  # mypy: a str
                input_shape=shape,
                classes=classes,
            )
        found = profile_model(network)
    if as_json:
        print_json(found.to_dict())
    else:
        print_profile(found)


def check_form(markdown: bool, as_json: bool) -> None:
    if markdown and as_json:
        raise InputError("Expected one form. Received: --markdown and --json")


def _profile(name: str, shapes: list[Shape], classes: int | None) -> ModelProfile:
    network = open_network(name, shapes, classes)
    from keras_squeezenet.network.profile import profile_model

    with bad_input(of=name):
        return profile_model(network, _given(shapes))


def _given(shapes: list[Shape]) -> Shape | list[Shape] | None:
    """As `profile_model` takes shapes: none, one, or one for each input."""
    return shapes[0] if len(shapes) == 1 else shapes or None


def _can_time() -> bool:
    """Whether LiteRT is installed; where it is not, a line says so."""
    try:
        require("litert")
    except NotInstalledError as error:
        say(f"latency is left out. {error}")
        return False
    return True
