"""The commands about folders of runs: report, compare."""

from pathlib import Path
from typing import Annotated

import typer

from keras_squeezenet.cli.options import AsJson, say
from keras_squeezenet.printing import print_files, print_json, print_table


def report(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    csv: Annotated[Path | None, typer.Option(help="Write the table to this file too.")] = None,
    as_json: AsJson = False,
):
    """Measure every model file in a run's folder and renew its report.html."""
    from keras_squeezenet.files import write_csv
    from keras_squeezenet.runs import renew_report

    page, rows = renew_report(run, say=say)
    if csv:
        write_csv(csv, rows)
    if as_json:
        print_json({"report": str(page), "files": rows})
    else:
        print_files(rows)
        print(f"report: {page}")


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs.")],
    csv: Annotated[Path | None, typer.Option(help="Write the table to this file too.")] = None,
    as_json: AsJson = False,
):
    """What several runs reached and what they cost, a line each."""
    from keras_squeezenet.comparison import compare_runs
    from keras_squeezenet.files import write_csv

    rows = compare_runs(runs)
    if csv:
        write_csv(csv, rows)
    if as_json:
        print_json({"runs": rows})
    else:
        columns = ("run", "data", "ranks", "epochs", "top1", "top5", "images_per_second", "minutes")
        print_table(columns, [[str(row[column]) for column in columns] for row in rows])
