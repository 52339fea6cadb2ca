"""What the size of a network costs where several machines train it: measured, then modelled.

    sudo -E python studies/communication.py --output results/communication.csv --figures docs

Makes three hosts with links of their own (network namespaces; root's privileges are needed), and
measures on them a training step of five networks: seconds, the share that the all-reduce takes,
and the bytes that leave every rank, on links of 100 Mbit/s, 1 Gbit/s and without a limit, with and
without 16-bit compression, each step alone and four together. The table is written after each row;
rows that are there already are kept. Then a cost model is fitted, and the page is written beside
the table (`keras-squeezenet report` writes it again), with --figures two pictures of it as well.
About 25 minutes on 2 cores; with --quick one network on one link, a minute.
"""

import argparse
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import communication_measuring as measuring
from hosts import why_not

from keras_squeezenet.communication.study import read_table
from keras_squeezenet.files import write_csv
from keras_squeezenet.reports.communication_page import write_communication_report, write_figures

QUICK: dict[str, Any] = {
    "networks": ["SqueezeNet 1.1"],
    "ranks": [1, 2],
    "links": [1e9],
    "compressions": [None],
    "accumulations": [1],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="the CSV file to write")
    parser.add_argument("--quick", action="store_true", help="one network on one link")
    parser.add_argument("--networks", nargs="+", choices=measuring.WORKLOADS, help="default: all")
    parser.add_argument("--figures", type=Path, help="folder for the two pictures")
    asked = parser.parse_args()

    chosen = dict(QUICK) if asked.quick else {}
    if asked.networks:
        chosen["networks"] = asked.networks
    cells = measuring.study_cells(**chosen)
    rows: list[Mapping[str, object]] = [*read_table(asked.output)]
    done = {tuple(row[name] for name in measuring.KEY_COLUMNS) for row in rows}
    missing = [cell for cell in cells if cell.key not in done]
    if missing:
        if why_not():
            sys.exit(f"{parser.prog}: {why_not()}")
        say(f"{len(missing)} of {len(cells)} cells to measure")
        for row in measuring.measure(missing):
            rows.append(row)
            write_csv(asked.output, rows)
            say(progress(row))
    say(f"report: {write_communication_report(asked.output)}")
    if asked.figures:
        write_figures(asked.output, asked.figures)


def progress(row: Mapping[str, object]) -> str:
    case = ", ".join(f"{row[name]}" for name in measuring.KEY_COLUMNS)
    return f"{case}: {row['seconds_per_step']} s, {row['sent_bytes']:,} bytes per step and rank"


def say(message: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
