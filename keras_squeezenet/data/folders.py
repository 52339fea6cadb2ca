"""Folders of image files, one per class."""

import os
from pathlib import Path

import numpy as np

from keras_squeezenet.data.examples import FileExamples, Source, frozen_labels, stratified_split
from keras_squeezenet.data.images import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp"})
VALIDATION_FOLDERS = ("val", "validation", "test")


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


def has_splits(folder: Path) -> bool:
    """Whether the folder holds training images in a folder of their own."""
    return (folder / "train").is_dir()


def image_files(folder: Path) -> list[Path]:
    """The image files that lie in the folder itself, sorted by name."""
    return [folder / entry.name for entry in _visible(folder) if _is_image(entry)]


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


def _subfolders(folder: Path) -> list[str]:
    return [entry.name for entry in _visible(folder) if entry.is_dir()]


def _visible(folder: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror})") from error
    return sorted(visible, key=lambda entry: entry.name)


def _is_image(entry: os.DirEntry) -> bool:
    return os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES and entry.is_file()


def _subset(examples: FileExamples, indices: np.ndarray) -> FileExamples:
    files = tuple(examples.files[index] for index in indices)
    return FileExamples(examples.folder, files, frozen_labels(examples.labels[indices]))
