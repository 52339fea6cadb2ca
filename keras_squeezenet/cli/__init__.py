"""The command `keras-squeezenet`.

Every command takes --json: one JSON object on standard output and nothing else there. Progress
goes to standard error. Exit status: 0; 2 with one clear line for bad input.

Keras and TensorFlow take seconds to import: each command imports what it needs when it runs.
"""

import warnings

import typer

from keras_squeezenet.cli import catalogue
from keras_squeezenet.cli.compressing import compress
from keras_squeezenet.cli.ending import one_line_for_bad_input
from keras_squeezenet.cli.exporting import export
from keras_squeezenet.cli.folders import compare, report
from keras_squeezenet.cli.horovod import horovod
from keras_squeezenet.cli.models import classify, evaluate
from keras_squeezenet.cli.profiling import compare_networks, profile, summary
from keras_squeezenet.cli.program_options import program_options
from keras_squeezenet.cli.retraining import cluster, prune, quantize
from keras_squeezenet.cli.sqz_files import decompress, diff, patch
from keras_squeezenet.cli.training import optimize, train

app = typer.Typer(
    help="SqueezeNet for Keras 3: train, measure, compress, export and report.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.callback()(program_options)
for command in (
    # By its module: `models` is a module of this folder.
    *(catalogue.models, profile, compare_networks, classify, evaluate, export),
    *(train, optimize, horovod),
    *(prune, cluster, quantize),
    *(compress, decompress, diff, patch),
    *(report, compare),
):
    app.command()(command)
app.command(hidden=True)(summary)


def main() -> None:
    # Before a command imports Keras. TensorFlow's greetings are not for the reader of a table.
    import keras_squeezenet.startup.quick_start
    import keras_squeezenet.startup.quiet  # noqa: F401

    # Pillow's warning of a picture that is refused in a line of our own.
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")
    with one_line_for_bad_input("keras-squeezenet"):
        app()
