"""The user's own classes, for the commands that open models with layers of them."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Annotated

import typer

from keras_squeezenet.errors import InputError, one_line


def import_modules(
    modules: Annotated[
        list[str] | None,
        typer.Option(
            "--import",
            metavar="MODULE",
            help="Before the command: a module of yours with the layers of a model, in the working "
            "directory or where Python looks. May be repeated.",
        ),
    ] = None,
) -> None:
    # No docstring: it would take the place of the program's help.
    if modules and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for name in modules or ():
        try:
            importlib.import_module(name)
        except Exception as error:
            raise InputError(
                f"--import {name}: {type(error).__name__}: {one_line(error, 300)}"
            ) from error
