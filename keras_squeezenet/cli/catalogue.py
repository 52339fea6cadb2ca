"""The command about what exists: models."""

from typing import Annotated

import typer

from keras_squeezenet.cli.options import AsJson
from keras_squeezenet.cli.tables import print_models
from keras_squeezenet.errors import InputError
from keras_squeezenet.network.catalogue import list_models
from keras_squeezenet.printing import print_json


def models(
    filter: Annotated[str, typer.Argument(help="A pattern of names, such as '*1_1*'.")] = "*",
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="Only those with published ImageNet weights.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """What exists: each network, what it costs, its weights, their accuracy and licence."""
    found = list_models(filter, pretrained=pretrained)
    if not found:
        names = ", ".join(model.name for model in list_models(pretrained=pretrained))
        raise InputError(f"No model has such a name; there are {names}. Received: {filter}")
    if as_json:
        print_json({"models": [model.to_dict() for model in found]})
    else:
        print_models(found)
