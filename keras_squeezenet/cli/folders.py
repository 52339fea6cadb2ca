"""The commands about folders of runs: report, compare."""

from pathlib import Path
from typing import Annotated

import typer

from keras_squeezenet.cli.options import AsJson, say
from keras_squeezenet.cli.tables import print_files
from keras_squeezenet.errors import InputError
from keras_squeezenet.extras import require
from keras_squeezenet.printing import print_json, print_table

COMMUNICATION_TABLE = "communication.csv"


def report(
    run: Annotated[Path, typer.Argument(help="The folder of a run, or a communication.csv.")],
    csv: Annotated[Path | None, typer.Option(help="Write the table to this file too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure every model file in a run's folder and renew its report.html.

    Of the table of studies/communication.py, or a folder with one: its page.
    """
    require("report")
    from keras_squeezenet.files import write_csv
    from keras_squeezenet.training.results import renew_report

    table = communication_table(run)
    if table:
        report_communication(table, csv, as_json)
        return
    page, rows = renew_report(run, say=say)
    if csv:
        write_csv(csv, rows)
    if as_json:
        print_json({"report": str(page), "files": rows})
    else:
        print_files(rows)
        print(f"report: {page}")


def communication_table(path: Path) -> Path | None:
    """The table of a communication study that a path names, itself or as its folder; or None."""
    if path.is_dir() and not (path / "metrics.json").exists():
        path = path / COMMUNICATION_TABLE
    return path if path.is_file() and path.suffix == ".csv" else None


def report_communication(table: Path, csv: Path | None, as_json: bool) -> None:
    from keras_squeezenet.reports.communication_page import write_communication_report

    if csv:
        raise InputError(f"--csv goes with a run's folder. Received: --csv {csv} with {table}")
    page = write_communication_report(table)
    if as_json:
        print_json({"report": str(page)})
    else:
        print(f"report: {page}")


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs.")],
    csv: Annotated[Path | None, typer.Option(help="Write the table to this file too.")] = None,
    as_json: AsJson = False,
) -> None:
    """What several runs reached and what they cost, a line each."""
    from keras_squeezenet.files import write_csv
    from keras_squeezenet.training.comparison import compare_runs

    rows = compare_runs(runs)
    if csv:
        write_csv(csv, rows)
    if as_json:
        print_json({"runs": rows})
    else:
        columns = ("run", "data", "ranks", "epochs", "top1", "top5", "images_per_second", "minutes")
        print_table(columns, [[str(row[column]) for column in columns] for row in rows])
