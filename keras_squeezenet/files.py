"""Files that are either whole or not there."""

import csv
import io
import json
import os
import tempfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path


@contextmanager
def replacing(path):
    """A temporary path beside `path`, with its suffix, that takes its place when the block ends.

    If the block fails, the temporary file is removed and what was at `path` stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp's files are for their owner alone
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path, text):
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path, value):
    """A dict with a line for each of its keys: readable, and small where matrices are large."""
    # Escapes: file names on Linux need not be valid Unicode, and JSON has to be.
    encode = partial(json.dumps, allow_nan=False)
    if isinstance(value, dict):
        lines = ",\n".join(f"  {encode(key)}: {encode(inner)}" for key, inner in value.items())
        write_text(path, f"{{\n{lines}\n}}\n")
    else:
        write_text(path, encode(value) + "\n")


def write_csv(path, rows):
    """Rows are dicts of the same keys, the names of the first line."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _umask():
    umask = os.umask(0)
    os.umask(umask)
    return umask
