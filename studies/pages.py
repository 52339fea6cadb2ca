"""Tables within a page of docs/, made again from the rows of a study."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from keras_squeezenet.files import write_text

DOCS = Path(__file__).parents[1] / "docs"
TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def renew_tables(page: Path, lines_of: Callable[[str], Iterable[str]]) -> None:
    """Write what stands between `<!-- table: NAME -->` and `<!-- end of table -->` again.

    Args:
        page: path of the page.
        lines_of: called with a NAME; the lines of its table.
    """
    text = page.read_text(encoding="utf-8")
    write_text(page, TABLE.sub(lambda found: _renewed(lines_of, *found.groups()), text))


def _renewed(
    lines_of: Callable[[str], Iterable[str]], opening: str, name: str, closing: str
) -> str:
    return opening + "\n".join(lines_of(name)) + "\n" + closing
