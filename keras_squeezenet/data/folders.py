"""Folders of image files: one per class, or with a file that says the class of each image."""

import csv
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from keras_squeezenet.data.errors import DataError
from keras_squeezenet.data.examples import (
    FileExamples,
    Source,
    frozen_labels,
    stratified_split,
)
from keras_squeezenet.errors import one_line

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp"})
VALIDATION_FOLDERS = ("val", "validation", "test")
LABELS_FILE = "labels.csv"
IMAGES_FOLDER = "images"


def open_folder(source: str, *, val_fraction: float, seed: int) -> Source:
    """Find the images of a folder, whose layouts `load_dataset` describes; none is opened.

    Raises:
        DataError: The folder is missing, unreadable, empty, or its splits contradict each other.
    """
    root = Path(os.path.expanduser(source))
    # Unlike Path.is_dir, false for whatever is no path at all: the empty string, a null byte.
    if not os.path.isdir(os.path.expanduser(source)):
        raise DataError(
            "The data set must be digits, cifar10, cifar100, tfds:NAME or an existing folder. "
            f"Received: source={source}"
        )
    folders = _subfolders(root)
    val_folder = next((name for name in VALIDATION_FOLDERS if name in folders), None)
    if "train" not in folders:
        if val_folder and set(folders) <= set(VALIDATION_FOLDERS):
            raise DataError(f"{root}: there is {val_folder}/ but no train/ beside it")
        return _divided_folder(root, root, val_fraction, seed)
    if val_folder is None:
        return _divided_folder(root, root / "train", val_fraction, seed)

    name = root.resolve().name
    class_names, train = _class_files(root, root / "train")
    unknown = sorted(set(_subfolders(root / val_folder)) - set(class_names))
    if unknown:
        raise DataError(f"{root / val_folder}: the class {unknown[0]} is not in {root / 'train'}")
    val_files, val_labels = _list_files(root, root / val_folder, class_names)
    if not val_files:
        raise DataError(f"{root / val_folder}: no image in any class folder")
    return Source(name, class_names, train, FileExamples(str(root), val_files, val_labels))


def open_class_folders(folder: Path, class_names: tuple[str, ...]) -> FileExamples:
    """Every image of FOLDER/CLASS/*, labelled by the position of CLASS in `class_names`.

    Raises:
        DataError: A class that is not in `class_names`, or no image at all.
    """
    unknown = sorted(set(_subfolders(folder)) - set(class_names))
    if unknown:
        raise DataError(
            f"{folder}: the class {unknown[0]} is not one of the model's {len(class_names)} classes"
        )
    files, labels = _list_files(folder, folder, class_names)
    if not files:
        raise DataError(f"{folder}: no image in any class folder")
    return FileExamples(str(folder), files, labels)


def open_labels_file(folder: Path, classes: int) -> FileExamples:
    """The images that FOLDER/labels.csv lists in its columns `file` and `class_index`.

    A file lies in FOLDER or in FOLDER/images. Other columns are ignored.

    Raises:
        DataError: The file is no such table or lists nothing, or a row of it names no image of the
            folder, an image a second time, or none of the class indices 0…classes-1.
    """
    path = folder / LABELS_FILE
    labels: dict[str, int] = {}
    for line, name, class_index in _rows_of_labels(path):
        where = f"{path}, line {line}"
        file = _listed_file(folder, name, where)
        if file in labels:
            raise DataError(f"{where}: {name!r} is listed a second time")
        labels[file] = _listed_class(class_index, classes, where)
    if not labels:
        raise DataError(f"{path}: lists no image")
    return FileExamples(str(folder), tuple(labels), frozen_labels(list(labels.values())))


def has_labels_file(folder: Path) -> bool:
    """Whether a file in the folder says the class of each image."""
    return os.path.isfile(folder / LABELS_FILE)


def has_splits(folder: Path) -> bool:
    """Whether the folder holds training images in a folder of their own."""
    return (folder / "train").is_dir()


def image_files(folder: Path) -> list[Path]:
    """The image files that lie in the folder itself, sorted by name."""
    return [folder / entry.name for entry in _visible(folder) if _is_image(entry)]


def find_pictures(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Files as they are given, whatever their names, and of a folder all image files below it.

    A folder's files are sorted, and hidden ones left out. Links to folders are not followed inside
    it: they may lead in circles.

    Raises:
        DataError: one line: a path that is neither a file nor a folder, or a folder without image.
    """
    return [picture for path in paths for picture in _pictures_at(Path(path))]


def _pictures_at(path: Path) -> list[Path]:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    if stat.S_ISREG(mode):
        return [path]
    # A pipe could keep its reader waiting for ever.
    if not stat.S_ISDIR(mode):
        raise DataError(f"{path}: expected an image file or a folder, and this is neither")
    below = sorted(_images_below(path))
    if not below:
        raise DataError(f"{path}: no image in this folder ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return below


def _images_below(folder: Path) -> Iterator[Path]:
    for entry in _visible(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from _images_below(folder / entry.name)
        elif _is_image(entry):
            yield folder / entry.name


def _divided_folder(root: Path, folder: Path, val_fraction: float, seed: int) -> Source:
    class_names, examples = _class_files(root, folder)
    # CLASS/FILE, so that moving the classes under train/ leaves the split as it is.
    names = ["/".join(Path(file).parts[-2:]) for file in examples.files]
    train, val = stratified_split(names, examples.labels, val_fraction=val_fraction, seed=seed)
    if not len(val):
        raise DataError(
            f"{folder}: every class has a single image, so none can be held out for validation"
        )
    name = root.resolve().name
    return Source(name, class_names, _subset(examples, train), _subset(examples, val))


def _class_files(root: Path, folder: Path) -> tuple[tuple[str, ...], FileExamples]:
    class_names = tuple(_subfolders(folder))
    if not class_names:
        raise DataError(f"{folder}: expected one folder per class, found none")
    if len(class_names) == 1:
        raise DataError(
            f"{folder}: expected at least two class folders, found only {class_names[0]}"
        )
    files, labels = _list_files(root, folder, class_names)
    counts = np.bincount(labels, minlength=len(class_names))
    if not counts.all():
        empty = class_names[int(np.argmin(counts))]
        raise DataError(
            f"{folder / empty}: no image in this class folder ({', '.join(sorted(IMAGE_SUFFIXES))})"
        )
    return class_names, FileExamples(str(root), files, labels)


def _list_files(
    root: Path, folder: Path, class_names: tuple[str, ...]
) -> tuple[tuple[str, ...], np.ndarray]:
    files, labels = [], []
    for label, class_name in enumerate(class_names):
        if not (folder / class_name).is_dir():
            continue
        names = [entry.name for entry in _visible(folder / class_name) if _is_image(entry)]
        prefix = (folder / class_name).relative_to(root)
        files += [os.path.join(prefix, name) for name in names]
        labels += [label] * len(names)
    return tuple(files), frozen_labels(labels)


def _rows_of_labels(path: Path) -> Iterator[tuple[int, str, str]]:
    """(number of the line, file, class_index) of each row, as they stand there."""
    try:
        # Spreadsheets begin a file with a byte order mark.
        with path.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.DictReader(lines, restval="")
            columns = rows.fieldnames or ()
            if not {"file", "class_index"} <= set(columns):
                raise DataError(
                    f"{path}: expected the columns file and class_index. "
                    f"Received: {', '.join(map(repr, columns[:10])) or 'none'}"
                )
            for row in rows:
                yield rows.line_num, row["file"], row["class_index"]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({one_line(error)})") from error


def _listed_file(folder: Path, name: str, where: str) -> str:
    """Where in the folder a file lies that its labels.csv names."""
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts:
        raise DataError(f"{where}: expected a file in {folder}. Received: {name!r}")
    for file in (os.path.join(*parts), os.path.join(IMAGES_FOLDER, *parts)):
        if os.path.isfile(folder / file):
            return file
    raise DataError(f"{where}: {name!r} is neither in {folder} nor in {folder / IMAGES_FOLDER}")


def _listed_class(text: str, classes: int, where: str) -> int:
    # A short text: what reads long numbers takes its time.
    index = int(text) if text.strip().isdecimal() and len(text) < 20 else classes
    if index >= classes:
        raise DataError(
            f"{where}: expected a class_index from 0 to {classes - 1}. Received: {text[:40]!r}"
        )
    return index


def _subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, links to folders among them.

    Raises:
        DataError: A link leads nowhere, or in circles: its class would be missing without a word.
    """
    entries = _visible(folder)
    lost = next((entry for entry in entries if _leads_nowhere(entry)), None)
    if lost:
        raise DataError(f"{folder / lost.name}: expected a folder, and this link leads nowhere")
    return [entry.name for entry in entries if entry.is_dir()]


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror})") from error
    return sorted(visible, key=lambda entry: entry.name)


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Whether it is an image file by its name. One that is a link to nothing is a broken one."""
    if os.path.splitext(entry.name)[1].lower() not in IMAGE_SUFFIXES:
        return False
    return _leads_nowhere(entry) or entry.is_file()


def _leads_nowhere(entry: os.DirEntry[str]) -> bool:
    """Whether it is a link whose target is missing, or is reached in circles only."""
    return entry.is_symlink() and not os.path.exists(entry.path)


def _subset(examples: FileExamples, indices: np.ndarray) -> FileExamples:
    files = tuple(examples.files[index] for index in indices)
    return FileExamples(examples.folder, files, frozen_labels(examples.labels[indices]))
