"""The options of the program itself, before the name of a command."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Annotated

import typer

from keras_squeezenet._version import __version__
from keras_squeezenet.errors import InputError, one_line


def program_options(
    modules: Annotated[
        list[str] | None,
        typer.Option(
            "--import",
            metavar="MODULE",
            help="Before the command: a module of yours with the layers of a model, in the working "
            "directory or where Python looks. May be repeated.",
        ),
    ] = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=lambda asked: _print_version() if asked else None,
            help="Print the version and end.",
        ),
    ] = False,
) -> None:
    # No docstring: it would take the place of the program's help.
    _import_modules(modules or [])


def _print_version() -> None:
    print(f"keras-squeezenet {__version__}")
    raise typer.Exit


def _import_modules(names: list[str]) -> None:
    """Import what has a user's own classes, for the commands that open models with such layers."""
    if names and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:
            raise InputError(
                f"--import {name}: {type(error).__name__}: {one_line(error, 300)}"
            ) from error
