"""What int8 files of the published SqueezeNets do on photos unlike those of their calibration.

    python studies/int8_kinds.py --output results/int8_kinds.csv \
        --v1-0-float32 PATH/squeezenet_v1.0_fp32.npz \
        --kind imagenet_dev=PATH/imagenet_dev --kind imagenette=PATH/imagenette/val \
        --kind grocery=PATH/grocery/train --sources PATH/unlabelled_photos

Each network is calibrated with 100 photos of each kind, and each file is judged on other photos of
all kinds, the same for every file. A row compares a file with the float32 Keras model:
`changed` is the share of the photos on which the first class differs, in percent; `more_changed` is
that less what the file does that was calibrated with the judged kind itself. `lost` are points of
top-1 where the kind is labelled. Standard errors of differences are those of paired differences.
`confidence` is the mean of the highest probability. `saturated` is the share of the photos, in
percent of the first 100, with a value at the end of the range of what the softmax takes or is
pooled from, as `export` measures it.

Rows that are in the file already are not measured again: an interrupted study goes on. Delete the
file after a change of the export. About 50 minutes on one core.
"""

import argparse
import csv
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

# First of all: TensorFlow's greetings are not for the reader of the progress.
import keras_squeezenet.startup.quiet  # noqa: F401

# isort: split
import keras
import numpy as np
from imagenet_accuracy import IMAGE_SIZE, build, predict, published_weights, read_square

from keras_squeezenet.data.folders import find_pictures
from keras_squeezenet.files import write_csv
from keras_squeezenet.litert.export import export_litert
from keras_squeezenet.litert.model import LiteRTModel
from keras_squeezenet.litert.ranges import measure_saturation
from keras_squeezenet.network import imagenet

CALIBRATION_PHOTOS = 100
SATURATION_PHOTOS = 100
ROW_NAMES = ("weights", "calibrated_with", "judged_on")

Row = dict[str, object]


@dataclass(frozen=True)
class Kind:
    """Photos of one kind, in an order of their own.

    Attributes:
        name: in the table.
        files: the first `CALIBRATION_PHOTOS` calibrate, those after them judge.
        labels: class indices, int `[files]`; None where they are not known.
        judging: how many of the files at most.
    """

    name: str
    files: tuple[Path, ...]
    labels: np.ndarray | None
    judging: int

    @classmethod
    def shuffled(
        cls, name: str, files: Sequence[Path], labels: Sequence[int] | None, judging: int
    ) -> Self:
        order = np.random.default_rng(0).permutation(len(files))
        if len(files) <= CALIBRATION_PHOTOS:
            raise SystemExit(
                f"{name}: expected more than {CALIBRATION_PHOTOS} photos. Received: {len(files)}"
            )
        ordered = None if labels is None else np.asarray(labels)[order]
        return cls(name, tuple(files[index] for index in order), ordered, judging)

    @cached_property
    def calibration(self) -> np.ndarray:
        return read_squares(self.files[:CALIBRATION_PHOTOS])

    @cached_property
    def judged(self) -> np.ndarray:
        return read_squares(self.files[self._judging])

    @property
    def judged_labels(self) -> np.ndarray | None:
        return None if self.labels is None else self.labels[self._judging]

    @property
    def _judging(self) -> slice:
        return slice(CALIBRATION_PHOTOS, CALIBRATION_PHOTOS + self.judging)


@dataclass(frozen=True)
class Judgement:
    """What a network, or a file of it, makes of photos.

    Attributes:
        classes: the most probable one of each.
        highest: its probability.
        saturated: share (0 to 1) of photos at the end of the range; None for float32.
    """

    classes: np.ndarray
    highest: np.ndarray
    saturated: float | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="the CSV file to write")
    parser.add_argument(
        "--kind",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="photos of one kind; labelled by a labels.csv, or by folders named by WordNet IDs",
    )
    parser.add_argument("--sources", help="a folder with a sources.csv; each source is a kind")
    parser.add_argument("--v1-0-float32", type=Path, help="float32 weights of 1.0, to study too")
    parser.add_argument(
        "--judging", type=int, default=250, help="photos of each kind (default: %(default)s)"
    )
    parser.add_argument("--only", metavar="WEIGHTS", help="study these alone, such as 1.1")
    asked = parser.parse_args()

    given = [text.split("=", 1) for text in asked.kind]
    kinds = [one_kind(name, folder, asked.judging) for name, folder in given]
    if asked.sources:
        kinds += kinds_by_source(Path(asked.sources), asked.judging)
    rows = read_rows(asked.output)
    for name, version, weights in published_weights(asked.v1_0_float32):
        missing = [
            (judged, calibrated)
            for judged in kinds
            for calibrated in kinds
            if (name, calibrated.name, judged.name) not in rows
        ]
        if not missing or asked.only not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as folder:
            files = Files(build(version, weights, include_preprocessing=True), Path(folder))
            for judged, calibrated in missing:
                key = (name, calibrated.name, judged.name)
                rows[key] = dict(zip(ROW_NAMES, key, strict=True)) | files.row(calibrated, judged)
                write_csv(asked.output, rows.values())
                print(rows[key], file=sys.stderr, flush=True)


def one_kind(name: str, folder: str | Path, judging: int) -> Kind:
    folder = Path(folder)
    if (folder / "labels.csv").exists():
        with open(folder / "labels.csv", encoding="utf-8", newline="") as file:
            listed = list(csv.DictReader(file))
        files = [folder / "images" / line["file"] for line in listed]
        return Kind.shuffled(name, files, [int(line["class_index"]) for line in listed], judging)
    files = find_pictures([folder])
    index = {wordnet_id: number for number, (wordnet_id, _) in enumerate(imagenet.class_index())}
    names = [file.parent.name for file in files]
    labels = [index[name] for name in names] if index.keys() >= set(names) else None
    return Kind.shuffled(name, files, labels, judging)


def kinds_by_source(folder: Path, judging: int) -> Iterator[Kind]:
    with open(folder / "sources.csv", encoding="utf-8", newline="") as file:
        listed = list(csv.DictReader(file))
    for source in dict.fromkeys(line["source"] for line in listed):
        files = [folder / line["file"] for line in listed if line["source"] == source]
        yield Kind.shuffled(source, files, None, judging)


def read_squares(files: Sequence[Path]) -> np.ndarray:
    """float32 `[n, IMAGE_SIZE, IMAGE_SIZE, 3]`, squeezed by Pillow whatever our pipeline does."""
    pixels = np.empty((len(files), IMAGE_SIZE, IMAGE_SIZE, 3), np.float32)
    for index, file in enumerate(files):
        pixels[index] = read_square(file)
    return pixels


def read_rows(path: Path) -> dict[tuple[str, ...], Row]:
    """The rows of a table that was begun, by what they are about."""
    if not path.exists():
        return {}
    with open(path, encoding="utf-8", newline="") as file:
        return {tuple(row[name] for name in ROW_NAMES): row for row in csv.DictReader(file)}


class Files:
    """The int8 files of one network, each made and judged when it is first asked for."""

    def __init__(self, network: keras.Model, folder: Path) -> None:
        self._network = network
        self._folder = folder
        # Of the network by the judged kind; of a file by the kind that calibrated it, and that one.
        self._judgements: dict[str | tuple[str, str], Judgement] = {}

    def row(self, calibrated: Kind, judged: Kind) -> Row:
        file = self._judge(calibrated, judged)
        return compare(
            self._reference(judged), self._judge(judged, judged), file, judged.judged_labels
        )

    def _reference(self, judged: Kind) -> Judgement:
        if judged.name not in self._judgements:
            probabilities = predict(self._network, judged.judged)
            self._judgements[judged.name] = _judgement(probabilities)
        return self._judgements[judged.name]

    def _judge(self, calibrated: Kind, judged: Kind) -> Judgement:
        key = calibrated.name, judged.name
        if key not in self._judgements:
            path = self._file(calibrated)
            probabilities = LiteRTModel(path).predict(judged.judged)
            saturation = measure_saturation(path, judged.judged[:SATURATION_PHOTOS])
            worst = max(found.images for found in saturation if found.decides)
            self._judgements[key] = _judgement(probabilities, worst)
        return self._judgements[key]

    def _file(self, calibrated: Kind) -> Path:
        path = self._folder / f"{calibrated.name}.tflite"
        if not path.exists():
            # Judging is the study's own, so the export's check may be short.
            export_litert(
                self._network,
                path,
                quantize="int8",
                calibration=calibrated.calibration,
                check_images=calibrated.calibration[:10],
                tolerance=math.inf,
            )
        return path


def _judgement(probabilities: np.ndarray, saturated: float | None = None) -> Judgement:
    return Judgement(probabilities.argmax(axis=1), probabilities.max(axis=1), saturated)


def compare(
    reference: Judgement, same_kind: Judgement, file: Judgement, labels: np.ndarray | None
) -> Row:
    """The columns of one file on photos of one kind.

    Args:
        reference: of the float32 model.
        same_kind: of the file that was calibrated with photos of this kind.
        file: of the file in question.
        labels: class indices, or None.
    """
    assert file.saturated is not None  # of a file it is measured
    changed = 100.0 * (file.classes != reference.classes)
    with_same_kind = 100.0 * (same_kind.classes != reference.classes)
    row: Row = {
        "photos": len(changed),
        "changed": _mean(changed),
        "changed_standard_error": _standard_error(changed),
        "more_changed": _mean(changed - with_same_kind),
        "more_changed_standard_error": _standard_error(changed - with_same_kind),
    }
    if labels is None:
        row |= dict.fromkeys(("float32_top1", "top1", "lost", "lost_standard_error"), "")
    else:
        before, after = reference.classes == labels, file.classes == labels
        lost = 100.0 * before - 100.0 * after
        row |= {
            "float32_top1": round(float(np.mean(before)), 4),
            "top1": round(float(np.mean(after)), 4),
            "lost": _mean(lost),
            "lost_standard_error": _standard_error(lost),
        }
    return row | {
        "float32_confidence": round(float(np.mean(reference.highest)), 4),
        "confidence": round(float(np.mean(file.highest)), 4),
        "saturated": round(100 * file.saturated, 2),
    }


def _mean(values: np.ndarray) -> float:
    return round(float(np.mean(values)), 2)


def _standard_error(values: np.ndarray) -> float:
    return round(float(np.std(values) / np.sqrt(len(values))), 2)


if __name__ == "__main__":
    main()
