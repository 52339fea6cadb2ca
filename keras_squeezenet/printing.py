"""What commands and scripts write: tables and lines for people, JSON for programs."""

import io
import json
import logging
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any


def printable(text: object) -> str:
    """One line without control characters, which could break it, turn it or steer a terminal.

    Names of files and classes come from anywhere, and a file name need not be valid Unicode.
    """
    return "".join(_printable_character(character) for character in str(text))


def _printable_character(character: str) -> str:
    if character.isprintable():
        return character
    if character.isspace():
        return " "
    return "" if unicodedata.category(character) == "Cf" else "\ufffd"


def silent(line: str) -> None:
    """Takes a line of progress where nobody wants to read any."""


def write_anything() -> None:
    """Have standard output write a question mark for what its encoding lacks.

    In a pipe on Windows that is one of 256 characters, and class names come from anywhere. Standard
    error escapes such characters by itself.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


class LineFormatter(logging.Formatter):
    """Log records of a line each, whatever names are in them."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))


def log_lines() -> None:
    """Show warnings of all loggers on standard error, a line each."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler])


def print_json(value: Any) -> None:
    # Escaped: file names on Linux need not be valid Unicode, and JSON has to be.
    print(json.dumps(value, allow_nan=False))


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    total: Sequence[str] | None = None,
    *,
    width: int | None = None,
) -> None:
    """A rich table; the first column is text, the others are numbers.

    Args:
        columns: what stands above them.
        rows: a text for each column.
        total: the same, below the rows.
        width: characters of a line; None: the terminal's.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(show_footer=total is not None)
    for number, column in enumerate(columns):
        table.add_column(
            column,
            justify="right" if number else "left",
            footer=total[number] if total else "",
            overflow="fold" if number == 0 else "ellipsis",
        )
    for row in rows:
        table.add_row(*map(printable, row))
    # A class named "[red]" is no markup.
    Console(markup=False, emoji=False, highlight=False, width=width).print(table)


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; the first column is text, the others are numbers."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(_markdown_cell, line))} |" for line in lines)


def _markdown_cell(text: str) -> str:
    return printable(text).replace("\\", "\\\\").replace("|", "\\|")


def thousands(number: int) -> str:
    return f"{number:,}"
