"""Files that are whole or not there: what is on the disk, who may read it, what is left behind."""

import csv
import os
import shutil
import stat
import subprocess
import sys
import threading

import pytest

from keras_squeezenet import files
from keras_squeezenet.reports.metrics import read_history


def replace(path, write):
    with files.replacing(path) as temporary:
        write(temporary)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize(("umask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_are_for_whom_the_umask_says(tmp_path, umask, expected):
    write = f"from keras_squeezenet import files; files.write_text({str(tmp_path / 'a.txt')!r}, '')"
    subprocess.run([sys.executable, "-c", write], check=True, preexec_fn=lambda: os.umask(umask))
    assert mode(tmp_path / "a.txt") == expected


def test_the_umask_of_the_process_is_never_touched(tmp_path, monkeypatch):
    def touched(mask):
        raise AssertionError("another thread would create files with this umask")

    monkeypatch.setattr(os, "umask", touched)
    files.write_text(tmp_path / "a.txt", "a")
    assert (tmp_path / "a.txt").read_text() == "a"


def test_data_is_flushed_before_the_name_changes_and_the_folder_after_it(tmp_path, monkeypatch):
    """A machine that loses power then has the old file or the new one, never an empty one."""
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    flushed = []
    flush = os.fsync

    def noted(descriptor):
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        size = os.fstat(descriptor).st_size
        flushed.append(("folder" if is_folder else size, path.read_text()))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    files.write_text(path, "newer")
    assert flushed == [(len("newer"), "old"), ("folder", "newer")]


def test_a_block_that_fails_leaves_what_was_there_and_nothing_else(tmp_path):
    files.write_text(tmp_path / "a.txt", "old")
    with pytest.raises(ZeroDivisionError):
        replace(tmp_path / "a.txt", lambda temporary: temporary.write_text("half") / 0)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_folder_that_vanishes_is_what_the_error_says(tmp_path):
    folder = tmp_path / "folder"
    with pytest.raises(FileNotFoundError, match="folder"):
        replace(folder / "a.txt", lambda temporary: shutil.rmtree(folder))


def test_threads_that_write_one_file_each_write_it_whole(tmp_path):
    texts = [str(number) * 1000 for number in range(8)]
    threads = [
        threading.Thread(target=files.write_text, args=(tmp_path / "a.txt", text)) for text in texts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a.txt").read_text() in texts
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    die = (
        "import os; from keras_squeezenet import files\n"
        f"with files.replacing({str(tmp_path / 'a[1].json')!r}): os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", die], check=False)
    [left] = tmp_path.iterdir()
    others = [tmp_path / name for name in (".a.123.json", "a[1].json", ".a[1].json", "b.json")]
    for path in others:
        path.write_text("")
    files.remove_left_behind(tmp_path / "a[1].json")
    assert not left.exists()
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_columns_that_come_later_are_columns_with_empty_cells_before(tmp_path):
    path = tmp_path / "history.csv"
    rows = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0, "val_loss": 1.5}, {"epoch": 3}]
    files.write_csv(path, rows)
    with path.open(newline="") as lines:
        assert list(csv.reader(lines)) == [
            ["epoch", "loss", "val_loss"],
            ["1", "2.0", ""],
            ["2", "1.0", "1.5"],
            ["3", "", ""],
        ]
    assert read_history(path) == rows
