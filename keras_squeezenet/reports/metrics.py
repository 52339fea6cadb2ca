"""What a run left about itself, read with a clear error where it has another form than expected."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_squeezenet.checks import is_number


def read_history(path: str | Path) -> list[dict[str, float]]:
    """Read a `history.csv`: a line of names, then one line of numbers per epoch.

    Returns:
        One dict per line; an empty cell is left out.

    Raises:
        ValueError: a cell is not a number, or a line has more cells than there are names.
    """
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        try:
            return [_history_row(path, reader.line_num, cells) for cells in reader]
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: expected a CSV file. Received: {error}") from None


def _history_row(path: str | Path, line: int, cells: dict[str | None, str]) -> dict[str, float]:
    if None in cells:
        raise ValueError(f"{path}, line {line}: expected a cell per name. Received: more")
    row = {}
    for name, cell in cells.items():
        if name is not None and cell:
            try:
                row[name] = float(cell)
            except ValueError:
                raise ValueError(
                    f"{path}, line {line}: expected a number. Received: {name}={cell}"
                ) from None
    return row


@dataclass(frozen=True)
class Metrics:
    """`metrics.json`, with a clear error where a part has another form than the page can show."""

    values: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Metrics:
        if not path.is_file():
            raise FileNotFoundError(
                f"{path.parent}: expected a run's folder with metrics.json. Received: none there"
            )
        try:
            values = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: expected JSON. Received: {error}") from None
        if not isinstance(values, dict):
            raise ValueError(f"{path}: expected an object. Received: {type(values).__name__}")
        return cls(values)

    def section(self, name: str) -> Mapping[str, Any]:
        return self._expect(name, self.values.get(name), dict)

    def entries(self, name: str) -> list[Any]:
        return self._expect(name, self.values.get(name), list)

    def objects(self, name: str) -> list[Mapping[str, Any]]:
        return [self._expect(name, entry, dict) for entry in self.entries(name)]

    def list_of(self, section: str, key: str) -> list[Any]:
        return self._expect(key, self.section(section).get(key), list)

    def number(self, section: str, key: str) -> float | None:
        return number_or_none(self.section(section).get(key))

    def text(self, section: str, key: str) -> str | None:
        value = self.section(section).get(key)
        if isinstance(value, list):
            return " × ".join(map(str, value))
        return None if value is None else str(value)

    @staticmethod
    def _expect(name: str, value: Any, kind: type) -> Any:
        if value is None:
            return kind()
        if not isinstance(value, kind):
            raise ValueError(
                f"metrics.json: expected {name} to be made of {kind.__name__}. "
                f"Received: {type(value).__name__}"
            )
        return value


def number_or_none(value: Any) -> float | None:
    if not is_number(value):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # An integer beyond float64, which no number on the page is.
        return None
