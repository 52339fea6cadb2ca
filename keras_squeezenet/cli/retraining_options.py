"""The options that prune, cluster and quantize take alike, written once."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any

import typer

from keras_squeezenet.cli.options import AsJson, MaxBrokenShare, Resize

Command = Callable[..., None]


@dataclass(frozen=True)
class RetrainingOptions:
    """What `prune`, `cluster` and `quantize` take alike."""

    data: Annotated[
        str | None,
        typer.Option(
            help="What to train on, and to validate with: digits, cifar10, cifar100, tfds:NAME, or "
            "a folder with train/ and val/ or of class folders. Default: the data of the model's "
            "run."
        ),
    ] = None
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Default: 10 to prune, 3 to cluster and to quantize.")
    ] = None
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Of the first step; falls to 0. Default: 0.003 to prune, 0.00003 to "
            "cluster, 0.0003 to quantize."
        ),
    ] = None
    momentum: Annotated[float, typer.Option(min=0, help="Of SGD, below 1.")] = 0.9
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Per rank. Default: that of the model's run, or 32."),
    ] = None
    resize: Resize = None
    max_broken_share: MaxBrokenShare = None
    as_json: AsJson = False


def taking(kind: type) -> Callable[[Command], Command]:
    """Have a command take the options of a data class, after its own.

    Args:
        kind: a data class whose fields are annotated as Typer's options are.

    Returns:
        A decorator of a function with a parameter `shared`, which gets an object of that class.
        The signature that Typer reads has the class's fields in its place.
    """

    def decorate(command: Command) -> Command:
        own = inspect.signature(command).parameters
        kept = [parameter for name, parameter in own.items() if name != "shared"]
        shared = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=field.type,
            )
            for field in fields(kind)
        ]

        @functools.wraps(command)
        def with_options(*args: Any, **given: Any) -> None:
            options = kind(**{field.name: given.pop(field.name) for field in fields(kind)})
            return command(*args, **given, shared=options)

        parameters = [*kept, *shared]
        with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # for inspect
        with_options.__annotations__ = {each.name: each.annotation for each in parameters}
        return with_options

    return decorate
