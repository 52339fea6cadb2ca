"""The commands that train: train and optimize. What they do is in train/train.py and optimize.py.

Those two files are read and started where they are, in a checkout, and are installed as the package
`keras_squeezenet.scripts`. Either way their options are the ones here.
"""

import contextlib
import importlib
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_squeezenet.cli.ending import one_line_for_bad_input
from keras_squeezenet.cli.options import AsJson
from keras_squeezenet.errors import InputError
from keras_squeezenet.extras import require
from keras_squeezenet.printing import log_lines, print_json


# Typer hands them the default as well, which is no text.
def _above_zero(given: object) -> float:
    text = str(given)
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise typer.BadParameter(f"expected a number above 0. Received: {text}")


def _at_least_one(given: object) -> int:
    text = str(given)
    if not text.isdecimal() or int(text) < 1:
        raise typer.BadParameter(f"expected a number of 1 or more. Received: {text}")
    return int(text)


StallSeconds = Annotated[
    float | None,
    typer.Option(
        metavar="N",
        parser=_above_zero,
        help="Name a rank that keeps the others waiting. Default: 60.",
    ),
]


@dataclass(frozen=True)
class TrainingRequest:
    """What a training is asked besides its recipe; the fields are the options of `train`.

    Attributes:
        settings: strings `section.key=value` that replace values of the recipe.
    """

    recipe: str
    settings: tuple[str, ...] = ()
    output: Path | None = None
    resume: bool = False
    elastic: bool = False
    commit_steps: int = 20
    stall_seconds: float | None = None
    journal: bool = False


@dataclass(frozen=True)
class CompressionRequest:
    """What a compression is asked; the fields are the options of `optimize`."""

    run: Path
    stages: tuple[str, ...]
    settings: tuple[str, ...] = ()
    output: Path | None = None
    stall_seconds: float | None = None


def train(
    context: typer.Context,
    recipe: Annotated[
        str,
        typer.Option(
            help="A YAML file, or the name of a recipe of ours: finetune, grocery, imagenette, "
            "imagenet, cifar10, digits, application; of networks to compare imagenette_squeezenet, "
            "imagenette_alexnet, imagenette_vgg, imagenette_mobilenetv2, imagenette_shufflenet. "
            "Its model section may name another network than SqueezeNet, or a function of yours."
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(help="A folder of class folders, or a data set's name: data.source."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SECTION.KEY=VALUE",
            help="Replaces a value of the recipe. May be repeated.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The run's folder. Default: runs/NAME of the recipe.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the folder's last checkpoint, if any.")
    ] = False,
    elastic: Annotated[
        bool,
        typer.Option(
            "--elastic",
            help="Ranks may come and go; with horovodrun --host-discovery-script.",
        ),
    ] = False,
    commit_steps: Annotated[
        int,
        typer.Option(
            metavar="N",
            parser=_at_least_one,
            help="Elastic: steps between commits, which are what a lost rank costs.",
        ),
    ] = 20,
    stall_seconds: StallSeconds = None,
    journal: Annotated[
        bool,
        typer.Option(
            "--journal",
            help="Write to commits.jsonl which examples were trained on, commit by commit.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a network as a recipe says, alone or, after horovodrun, on several ranks."""
    settings = [*(settings or ()), *([f"data.source={json.dumps(data)}"] if data else [])]
    asked = TrainingRequest(
        recipe,
        tuple(settings),
        output,
        resume,
        elastic,
        commit_steps,
        stall_seconds,
        journal,
    )
    _follow(context, "train", asked, as_json)


def optimize(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(help="The folder of a finished run of train.")],
    stages: Annotated[
        str, typer.Option(help="Any of them, with commas.")
    ] = "prune,cluster,pack,quantize",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SECTION.KEY=VALUE",
            help="Such as prune.sparsity=0.8, cluster.bits=4, quantize.epochs=5. May be repeated.",
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Default: RUN/compressed.")] = None,
    stall_seconds: StallSeconds = None,
    as_json: AsJson = False,
) -> None:
    """Compress a run's network with its training data: prune, share weights, pack, quantize."""
    asked = CompressionRequest(
        run,
        tuple(stage.strip() for stage in stages.split(",")),
        tuple(settings or ()),
        output,
        stall_seconds,
    )
    _follow(context, "optimize", asked, as_json)


def run_script(command: Callable[..., None], main: Callable[[Any], Any]) -> None:
    """Run a file of train/ as a script: the options are those of its command, the `main` its own.

    Args:
        command: `train` or `optimize`.
        main: takes the request and returns what --json prints, on rank 0.
    """
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(command)
    with one_line_for_bad_input(Path(sys.argv[0]).name):
        app(obj=main)


def _follow(
    context: typer.Context,
    name: str,
    asked: TrainingRequest | CompressionRequest,
    as_json: bool,
) -> None:
    """Have a script do what was asked: the one that is running, else the installed one."""
    require("train")  # before Keras says that its backend is missing, and names but that
    log_lines()
    main = context.obj or importlib.import_module(f"keras_squeezenet.scripts.{name}").main
    from keras_squeezenet import distributed
    from keras_squeezenet.distributed.termination import STATUS, Terminated
    from keras_squeezenet.litert.comparison import ExportError
    from keras_squeezenet.training.callbacks import DivergedError

    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        try:
            result = main(asked)
        except Terminated:
            if distributed.rank() == 0:
                program = context.find_root().info_name
                print(f"{program}: asked to end; what was trained is saved. Go on with --resume")
            raise typer.Exit(STATUS) from None
        except (DivergedError, ExportError, distributed.RankError) as error:
            raise InputError(str(error)) from error
    if as_json and distributed.rank() == 0:
        print_json(result)
