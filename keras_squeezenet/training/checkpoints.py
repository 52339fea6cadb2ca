"""The checkpoints of a training run: their format, and the last two whole ones on disk.

checkpoint.json           the last: where training stands, and the names of its files
checkpoint.previous.json  the one before, from which a run goes on if the last is damaged
epoch-0003.keras          the model with its optimizer after an epoch
epoch-0004-640.keras      or after so many of an epoch's examples

Files are on disk before anything names them, and deleted after nothing does. So a run that is
killed at any moment goes on from a whole checkpoint, and so does one whose machine lost power or
whose last checkpoint was damaged later.
"""

import base64
import contextlib
import json
import logging
import math
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_squeezenet import files
from keras_squeezenet.checks import is_int
from keras_squeezenet.errors import RunError, one_line
from keras_squeezenet.network.comparing import first_difference
from keras_squeezenet.training.callbacks import best_epoch
from keras_squeezenet.training.state import Row, TrainingState

# What a checkpoint.json holds: see `write_epoch` and `write_state`, and `best`, the name of the
# best epoch's model.
CheckpointFields = dict[str, Any]

LAST_FILE = "checkpoint.json"
PREVIOUS_FILE = "checkpoint.previous.json"

# What Python and Keras raise for a file of ours that is whole and not as it was written.
UNREADABLE = (
    *(ValueError, LookupError, TypeError, AttributeError, OSError),
    *(ArithmeticError, RuntimeError),  # a number without end; JSON that is nested without end, HDF5
)

log = logging.getLogger(__name__)


def exist(folder: Path) -> bool:
    """Whether a folder holds checkpoints, whole or not."""
    return any((folder / name).exists() for name in (LAST_FILE, PREVIOUS_FILE))


def has_lost_its_place(folder: Path) -> bool:
    """Whether a folder has models of several epochs, and nothing that names them.

    One alone may be of a run that was killed before it named its first checkpoint.
    """
    return not exist(folder) and len(list(folder.glob("epoch-*.keras"))) > 1


def read(folder: Path) -> CheckpointFields | None:
    """The last whole checkpoint in a folder. A damaged one is named in a line of the log.

    Returns:
        What `write_epoch` or `write_state` wrote; its `best` is None if that file is not there.
        None if the folder holds no checkpoint.

    Raises:
        RunError: it holds some, and none is whole.
    """
    if not exist(folder):
        return None
    problems = []
    for name in (LAST_FILE, PREVIOUS_FILE):
        try:
            checkpoint = _read(folder / name)
        except RunError as error:
            problems.append(str(error))
            continue
        if problems:
            _warn_of_an_earlier_start(problems[0], checkpoint)
        return checkpoint
    raise RunError("; ".join(problems))


def load_state(
    folder: Path, checkpoint: CheckpointFields, model: keras.Model, examples: int
) -> tuple[CheckpointFields, TrainingState]:
    """What a run goes on from. A model that cannot be loaded is named in a line of the log.

    Args:
        folder: where the checkpoint was read.
        checkpoint: what `read` returned.
        model: the network that is trained on.
        examples: number of training examples.

    Returns:
        The checkpoint, and its `TrainingState`; or those of the one before it, which is then the
        last in the folder, if the checkpoint's model cannot be loaded.

    Raises:
        RunError: the checkpoint was left within an epoch of another number of examples, or neither
            its model nor that of the one before is what was saved.
    """
    try:
        return checkpoint, _state(folder, checkpoint, model, examples)
    except _UnreadableModel as error:
        previous = _whole(folder / PREVIOUS_FILE)
        if previous is None or previous["last"] == checkpoint["last"]:
            raise
        try:
            state = _state(folder, previous, model, examples)
        except _UnreadableModel as another:
            raise RunError(f"{error}; {another}") from None
        _warn_of_an_earlier_start(error, previous)
    # What cannot be loaded must not take the place of the one before when the next is written.
    with contextlib.suppress(OSError):
        files.write_json(folder / LAST_FILE, previous)
    return previous, state


class _UnreadableModel(RunError):
    """A checkpoint's archive is whole, and not the model that was saved."""


def _state(
    folder: Path, checkpoint: CheckpointFields, model: keras.Model, examples: int
) -> TrainingState:
    """The `TrainingState` of a checkpoint; raises as `load_state` says."""
    within = _within_epoch(checkpoint)
    if within and len(within["trained"]) != examples:
        raise RunError(
            f"A run that was left within an epoch is resumed with the {len(within['trained'])} "
            f"training examples that it began with. Received: {examples}"
        )
    path = folder / checkpoint["last"]
    try:
        saved = keras.saving.load_model(path)
        weights, optimizer = saved.get_weights(), getattr(saved, "optimizer", None)
        if optimizer is None or not optimizer.built:
            raise ValueError("it holds no optimizer that has begun")
        difference = first_difference(saved, model)
        if difference:
            raise ValueError(f"it holds another network: {difference}")
        if [weight.shape for weight in weights] != [tuple(w.shape) for w in model.weights]:
            raise ValueError("it holds another network")
    except UNREADABLE as error:
        raise _UnreadableModel(
            f"The checkpoint cannot be read: {path}: {one_line(error, 300)}"
        ) from None
    return TrainingState(
        weights=tuple(weights),
        optimizer=tuple(variable.numpy() for variable in optimizer.variables),
        epoch=checkpoint["epoch"],
        history=tuple(checkpoint["history"]),
        stopped=bool(checkpoint.get("stopped", False)),
        **(within or _at_the_start_of_an_epoch(checkpoint, examples)),
    )


def best_model(folder: Path) -> Path:
    """Path of the best epoch's model, or of the last one if no best is there whole.

    Raises:
        RunError: no checkpoint is whole.
    """
    checkpoint = read(folder)
    if checkpoint is None:
        raise RunError(f"The checkpoint is missing: {folder / LAST_FILE}")
    last, best = folder / checkpoint["last"], folder / (checkpoint["best"] or checkpoint["last"])
    damage = _damage(best)
    if damage:
        log.warning(
            "The best epoch's model is damaged, the last one's is kept: %s: %s", best, damage
        )
    return last if damage else best


def model_of(folder: Path, epoch: int) -> Path:
    """Path of the model after an epoch, by its number from 1.

    Raises:
        RunError: it is not there, or damaged.
    """
    path = folder / _model_name(epoch)
    damage = _damage(path)
    if damage:
        raise RunError(f"{path}: {damage}")
    return path


def write_epoch(
    folder: Path,
    model: keras.Model,
    epoch: int,
    class_names: Sequence[str],
    history: Sequence[Row],
    stopped: bool,
    warnings: Iterable[str] = (),
    broken_images: Mapping[str, str] | None = None,
) -> None:
    """Save a model that has just ended an epoch, with its optimizer.

    Args:
        folder: made if missing.
        model: compiled, as it was trained.
        epoch: number of epochs that are behind.
        class_names: of the data; a run is resumed with the same.
        history: a row per epoch.
        stopped: whether training ends early with this epoch.
        warnings: what the user was told, a sentence each.
        broken_images: a dict of what could not be read, and why.

    Raises:
        OSError: it cannot be written. The checkpoints that were there stay.
    """
    _write(
        folder,
        model,
        {
            "epoch": epoch,
            "last": _model_name(epoch),
            "class_names": class_names,
            "history": history,
            "stopped": stopped,
            "warnings": list(warnings),
            "broken_images": dict(broken_images or {}),
        },
    )


def write_state(
    folder: Path,
    model: keras.Model,
    state: TrainingState,
    class_names: Sequence[str],
    warnings: Iterable[str] = (),
    broken_images: Mapping[str, str] | None = None,
) -> None:
    """Save a state within an epoch by way of a model of its stage, which is set back to it.

    Args:
        state: a `TrainingState`.
        folder, model, class_names, warnings, broken_images: as in `write_epoch`.

    Raises:
        OSError: as `write_epoch`.
    """
    model.set_weights(state.weights)
    for variable, value in zip(model.optimizer.variables, state.optimizer or (), strict=True):
        variable.assign(value)
    _write(
        folder,
        model,
        {
            "epoch": state.epoch,
            "last": _model_name(state.epoch + 1, state.examples),
            "class_names": class_names,
            "history": state.history,
            "warnings": list(warnings),
            "broken_images": dict(broken_images or {}),
            "within_epoch": {
                "count": len(state.trained),
                "trained": base64.b64encode(np.packbits(state.trained).tobytes()).decode("ascii"),
                "examples": state.examples,
                "metric_sums": state.metric_sums,
                "seconds": state.seconds,
                "ranks": state.ranks,
            },
        },
    )


def _write(folder: Path, model: keras.Model, checkpoint: CheckpointFields) -> None:
    with files.replacing(folder / checkpoint["last"]) as temporary:
        model.save(temporary)
    # A rank 0 that was lost may not have saved an epoch that the other ranks ended.
    rows = checkpoint["history"]
    saved = [row for row in rows if (folder / _model_name(row["epoch"])).is_file()]
    best = _model_name(best_epoch(saved)) if saved else None
    previous = _whole(folder / LAST_FILE)
    if previous and previous["last"] != checkpoint["last"]:
        files.write_json(folder / PREVIOUS_FILE, previous)
    else:  # damaged, or written over: what was before it stays
        previous = _whole(folder / PREVIOUS_FILE)
    files.write_json(folder / LAST_FILE, {**checkpoint, "best": best})
    names = {checkpoint["last"], best}
    if previous:
        names |= {previous["last"], previous["best"]}
    # Also what an earlier process was writing when it was killed.
    for pattern in ("epoch-*.keras", ".epoch-*.keras", ".checkpoint.*json"):
        for path in folder.glob(pattern):
            if path.name not in names:
                path.unlink(missing_ok=True)


def _warn_of_an_earlier_start(problem: object, checkpoint: CheckpointFields) -> None:
    log.warning(
        "%s. The run goes on from the checkpoint before it, in epoch %d",
        problem,
        checkpoint["epoch"] + 1,
    )


def _whole(path: Path) -> CheckpointFields | None:
    """A checkpoint, or None if it is damaged or missing."""
    try:
        return _read(path)
    except RunError:
        return None


def _read(path: Path) -> CheckpointFields:
    try:
        checkpoint = json.loads(path.read_text(encoding="utf-8"))
        last, best = path.parent / checkpoint["last"], checkpoint["best"]
        _check(checkpoint)
        best_is_there = best is not None and (path.parent / best).is_file()
        _within_epoch(checkpoint) or _at_the_start_of_an_epoch(checkpoint, examples=0)
    except UNREADABLE as error:
        raise RunError(f"The checkpoint cannot be read: {path}: {one_line(error, 300)}") from None
    if not last.is_file():
        raise RunError(f"The checkpoint {path} names a file that is missing: {last.name}")
    damage = _damage(last)
    if damage:
        raise RunError(f"The checkpoint {path} names a file that is damaged: {last.name}: {damage}")
    # Training goes on from the last model; of the others the best that is there will be kept.
    return {**checkpoint, "best": best if best_is_there else None}


def _check(checkpoint: CheckpointFields) -> None:
    """What a run takes as it is, so that no other message speaks of it later.

    Raises:
        One of UNREADABLE: it is not what was written.
    """
    epoch = checkpoint["epoch"]
    if not is_int(epoch, 0):
        raise ValueError(f"epoch is {epoch!r}")
    if not _are_texts(checkpoint["class_names"]):
        raise ValueError("class_names is no list of names")
    if not _are_texts(checkpoint.get("warnings", [])):  # the oldest have none
        raise ValueError("warnings is no list of sentences")
    broken = checkpoint.get("broken_images", {})  # so here
    if not isinstance(broken, dict) or not _are_texts(list(broken.values())):
        raise ValueError("broken_images says not of files why they were left out")
    if type(checkpoint.get("stopped", False)) is not bool:
        raise ValueError(f"stopped is {checkpoint['stopped']!r}")
    _check_history(checkpoint["history"], epoch)


def _check_history(rows: Sequence[Row], epoch: int) -> None:
    numbers = [row["epoch"] for row in rows]
    if numbers != list(range(1, epoch + 1)):
        raise ValueError(f"history has the epochs {numbers} and not {epoch} of them")
    for row in rows:
        if not all(_is_finite(row[name]) for name in {*row, "val_accuracy", "ranks"}):
            raise ValueError(f"history has what is no number in epoch {row['epoch']}")
        if not is_int(row["ranks"], 1):
            raise ValueError(f"history has {row['ranks']!r} ranks in epoch {row['epoch']}")


def _are_texts(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _damage(path: Path) -> str | None:
    """What is wrong with a .keras file, whose every part has a checksum; None if nothing is."""
    try:
        with zipfile.ZipFile(path) as archive:
            part = archive.testzip()
    except Exception as error:  # whatever a damaged archive makes of zipfile
        return one_line(error, 300)
    return part and f"{part} has another checksum"


def _within_epoch(checkpoint: CheckpointFields) -> dict[str, Any] | None:
    """The fields of the `TrainingState` that tell how far an epoch has come; None between two."""
    within = checkpoint.get("within_epoch")
    if within is None:
        return None
    count = int(within["count"])
    packed = np.frombuffer(base64.b64decode(within["trained"]), "uint8")
    trained = np.unpackbits(packed)[:count].astype(bool)
    if len(trained) != count:
        raise ValueError(f"trained: {len(trained)} of {count} examples")
    ranks, examples, seconds = within["ranks"], within["examples"], within["seconds"]
    if not is_int(ranks, 1):
        raise ValueError(f"ranks is {ranks!r}")
    if not is_int(examples, max(1, trained.sum()), count):
        raise ValueError(f"examples is {examples!r}, {trained.sum()} of {count} are trained on")
    if not _is_finite(seconds) or seconds <= 0:
        raise ValueError(f"seconds is {seconds!r}")
    sums = within["metric_sums"]
    if not all(_is_finite(sums[name]) for name in {*sums, "loss", "accuracy"}):
        raise ValueError("metric_sums has what is no number")
    return {
        "trained": trained,
        "ranks": ranks,
        "examples": examples,
        "metric_sums": sums,
        "seconds": seconds,
    }


def _at_the_start_of_an_epoch(checkpoint: CheckpointFields, examples: int) -> dict[str, Any]:
    return {"trained": np.zeros(examples, bool), "ranks": checkpoint["history"][-1]["ranks"]}


def _model_name(epoch: int, examples: int | None = None) -> str:
    """Of the model after an epoch, or after some of its examples."""
    return f"epoch-{epoch:04d}.keras" if examples is None else f"epoch-{epoch:04d}-{examples}.keras"
