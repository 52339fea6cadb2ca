"""Files that are either whole or not there."""

import contextlib
import csv
import errno
import glob
import io
import json
import logging
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

# Windows opens no folder, some network file systems flush none: they care for names themselves.
FOLDER_CANNOT_BE_FLUSHED = (errno.EACCES, errno.EINVAL, errno.ENOTSUP, errno.EBADF)

log = logging.getLogger(__name__)


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """A temporary path beside `path`, with its suffix, that takes its place when the block ends.

    What took its place is on the disk: it outlives a loss of power. If the block fails, the
    temporary file is removed and what was at `path` stays.

    Raises:
        OSError: the file cannot be written, such as on a full disk.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _new_file_beside(path)
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        if error.errno and error.filename is None:  # such as of a full disk
            error.filename = os.fspath(path)
        raise
    finally:
        with contextlib.suppress(OSError):  # it must not hide what went wrong before
            temporary.unlink()


def remove_left_behind(path: Path | str) -> None:
    """Remove what a process left that was killed while it was replacing `path`.

    Only where no other process may be replacing it now.
    """
    path = Path(path)
    for temporary in path.parent.glob(f".{glob.escape(path.stem)}.*{glob.escape(path.suffix)}"):
        temporary.unlink(missing_ok=True)


def find_beside(path: Path, name: str) -> Path | None:
    """The file of a name beside another file, or beside what that one is a link to; or None."""
    places = (path.with_name(name), path.resolve().with_name(name))
    return next((place for place in places if place.exists()), None)


class Attempts:
    """Writes of a file that a run can do without for a while: a failure does not end it.

    A line of the log says when they begin to fail, and another one when they go well again.

    Args:
        consequence: a sentence: what it means that the file is not written.
    """

    def __init__(self, consequence: str) -> None:
        self.consequence = consequence
        self.failing = False

    @contextmanager
    def write(self, path: Path | str) -> Iterator[None]:
        """Suppress the `OSError` of a block that writes `path`."""
        try:
            yield
        except OSError as error:
            if not self.failing:
                reason = error.strerror or error
                log.warning("%s cannot be written: %s. %s", path, reason, self.consequence)
            self.failing = True
        else:
            if self.failing:
                log.warning("%s is written again", path)
            self.failing = False


def write_text(path: Path | str, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """A dict with a line for each of its keys: readable, and small where matrices are large."""
    # Escapes: file names on Linux need not be valid Unicode, and JSON has to be.
    encode = partial(json.dumps, allow_nan=False)
    if isinstance(value, dict):
        lines = ",\n".join(f"  {encode(key)}: {encode(inner)}" for key, inner in value.items())
        write_text(path, f"{{\n{lines}\n}}\n")
    else:
        write_text(path, encode(value) + "\n")


def write_csv(path: Path | str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows are dicts; all their keys are the names of the first line. What a row lacks is empty."""
    text = io.StringIO()
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _new_file_beside(path: Path) -> Path:
    """Not by `tempfile`, whose files are for their owner alone; these are as the umask says."""
    while True:
        temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
        with contextlib.suppress(FileExistsError):
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            return temporary


def _flush(path: Path) -> None:
    # For writing: Windows flushes no other file.
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """The names in it are its data."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in FOLDER_CANNOT_BE_FLUSHED:
            raise
