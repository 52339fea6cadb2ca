"""Which tests are quick: what `make test` runs. The others have the mark `slow`."""

from collections.abc import Iterable
from typing import Any

import pytest


def parametrize(
    names: str | tuple[str, ...], values: Iterable[Any], *, quick: int, **options: Any
) -> pytest.MarkDecorator:
    """`pytest.mark.parametrize`, of whose values all but the first `quick` are slow."""
    rows = []
    for number, value in enumerate(values):
        if not isinstance(value, type(pytest.param())):
            value = pytest.param(value) if isinstance(names, str) else pytest.param(*value)
        if number >= quick:
            value = value._replace(marks=(*value.marks, pytest.mark.slow))
        rows.append(value)
    return pytest.mark.parametrize(names, rows, **options)
