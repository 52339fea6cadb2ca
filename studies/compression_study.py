"""How small the published SqueezeNets become, and what that costs in accuracy.

    python studies/compression_study.py --images PATH/imagenet_dev \
        --output results/compression.csv \
        --v1-0-float32 PATH/squeezenet_v1.0_fp32.npz --other-photos PATH/grocery/train \
        --runs runs/demo runs/grocery-1

No ImageNet training set is needed. The labelled photos are divided once: 200 for tuning, of which
no label is used, and the rest for the figures in the table. The photos of other things help the
tuning; their labels are not used either. Of each set of weights there are rows for

- the weights as they are, in float32, and packed exactly where they are few distinct values,
- the same shared weights under general-purpose compressors (`pip install .[study]` for two),
- Deep Compression without retraining: pruned weights in codebooks of 5 and 6 bits, Huffman coded,
- files of a wanted size (`fit_to_size`).

Every row but the compressors' was measured on its file, read back. `lost_top1` is in points, with
the standard error of the paired difference. Times are medians on one core. With --runs there are
rows for networks of train/train.py: the stages of `python train/optimize.py RUN`, where it was run,
codebooks without training, and an update after the packed network was trained for another epoch.
Files are kept in --work, and those that are there are not made again. About 40 minutes on 2 cores.
"""

import argparse
import bz2
import csv
import lzma
import math
import os
import statistics
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

# First of all: TensorFlow's greetings are not for the reader of the progress.
import keras_squeezenet.startup.quiet  # noqa: F401

# isort: split
import keras
import numpy as np
from imagenet_accuracy import IMAGE_SIZE, build, predict, published_weights, read_photos
from int8_study import compare

from keras_squeezenet import sqz
from keras_squeezenet.compression.saving import model_of, network_of
from keras_squeezenet.compression.without_training import post_training
from keras_squeezenet.data import Augmentation, sample_images
from keras_squeezenet.files import replacing, write_csv
from keras_squeezenet.inference.evaluation import (
    Evaluation,
    evaluate_predictions,
    predict_batches,
)
from keras_squeezenet.sqz.network import CompressedNetwork
from keras_squeezenet.sqz.versions import AnyCompressed
from keras_squeezenet.training.building import load_data
from keras_squeezenet.training.recipe import load_recipe_of_run

TUNING_IMAGES = 200
OTHER_IMAGES = 60  # of the photos of other things, beside those, where layers are calibrated
SIZES = {
    "1.0 deep-compressed": (470_000, 400_000, 350_000, 300_000),
    "1.0 float32": (470_000,),
    "1.1": (600_000, 400_000),
}
BITS = {"1.0 deep-compressed": (6, 5), "1.0 float32": (6,), "1.1": (6,)}
DENSITIES = {"1.0 deep-compressed": None, "1.0 float32": 0.6, "1.1": 0.6}  # None: as they are
TIMED = 5
RUN_BITS, RUN_DENSITY, RUN_IMAGES = 4, 0.55, 400  # for the networks of runs
UPDATE_RATE = 1e-4  # of the further training before an update
UPDATE_SEED = 1  # another than the runs'

Row = dict[str, object]
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Study:
    """The images, and what a table row needs.

    Attributes:
        tuning: float32 images that layers are calibrated with.
        pixels, labels: of the images measured on.
        work: folder of the files.
    """

    tuning: np.ndarray
    pixels: np.ndarray
    labels: np.ndarray
    work: Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", required=True, help="a folder with labels.csv")
    parser.add_argument("--output", type=Path, required=True, help="the CSV file to write")
    parser.add_argument("--v1-0-float32", type=Path, help="float32 weights of 1.0, to study too")
    parser.add_argument("--other-photos", required=True, help="folder of photos of other things")
    parser.add_argument("--work", type=Path, default=Path("runs/compression"))
    parser.add_argument("--runs", nargs="*", type=Path, default=[], help="folders of runs")
    asked = parser.parse_args()

    study = read_study(asked)
    rows: list[Row] = []
    for weights, version, source in published_weights(asked.v1_0_float32):
        for measured in study_weights(study, weights, version, source):
            rows.append({"network": f"SqueezeNet {weights}", **measured})
            print(rows[-1], file=sys.stderr, flush=True)
            write_csv(asked.output, rows)
    for run in asked.runs:
        rows += study_run(run, study.work)
        print(rows[-1], file=sys.stderr, flush=True)
        write_csv(asked.output, with_equal_keys(rows))


def read_study(asked: argparse.Namespace) -> Study:
    photos = read_photos(asked.images)
    order = np.random.default_rng(0).permutation(len(photos.labels))
    tuning, rest = order[:TUNING_IMAGES], order[TUNING_IMAGES:]
    others = sample_images(
        asked.other_photos, image_size=IMAGE_SIZE, resize="stretch", count=OTHER_IMAGES
    )
    mixed = np.concatenate([photos.pixels[tuning], *others])
    return Study(
        tuning=np.random.default_rng(1).permutation(mixed),
        pixels=photos.pixels[rest],
        labels=photos.labels[rest],
        work=asked.work,
    )


def study_weights(study: Study, weights: str, version: str, source: str | Path) -> Iterator[Row]:
    """A row for each form of one set of weights."""
    model = build(version, source, include_preprocessing=True)
    reference = predict(model, study.pixels)
    float32 = 4 * model.count_params()
    yield row("float32", float32, float32, compare(reference, reference, study.labels))

    def measured(form: str, network: AnyCompressed, mode: str) -> Row:
        content, seconds = timed(lambda: sqz.encode(network, mode))
        read, unpacking = timed(lambda: sqz.decode(content))
        found = compare(reference, predict(model_of(read), study.pixels), study.labels)
        times = {"pack_seconds": round(seconds, 2), "unpack_seconds": round(unpacking, 3)}
        return row(f"{form}, {mode}", len(content), float32, found | times)

    if weights == "1.0 deep-compressed":
        exact = network_of(model)
        for mode in ("faithful", "best"):
            yield measured(".sqz of the weights as they are", exact, mode)
        yield from general_purpose("weights as they are", exact, float32)
    for bits in BITS[weights]:
        network = kept(
            study.work / f"{weights} {bits} bits.sqz",
            partial(
                post_training.share_weights,
                model,
                study.tuning,
                bits=bits,
                density=DENSITIES[weights],
                progress=say,
            ),
        )
        density = DENSITIES[weights] or "the authors'"
        yield measured(f"codebooks of {bits} bits, density {density}", network, "faithful")
    rounding = cache(lambda: post_training.Rounding(model, study.tuning, progress=say))

    def of_size(size: int) -> AnyCompressed:
        return rounding().fit_to_size(size)

    for size in SIZES[weights]:
        network = kept(
            study.work / f"{weights} {size}.sqz",
            partial(of_size, size),
        )
        yield measured(f"fit to {size // 1000} kB", network, "best")
        if size == SIZES[weights][-1]:
            yield from general_purpose(f"fit to {size // 1000} kB", network, float32)


def kept(path: Path, make: Callable[[], AnyCompressed]) -> AnyCompressed:
    """A network from its file, where an earlier call has left one."""
    if path.exists():
        return sqz.decode(path.read_bytes())
    network = make()
    with replacing(path) as temporary:
        temporary.write_bytes(sqz.encode(network))
    return network


def general_purpose(form: str, network: AnyCompressed, float32: int) -> Iterator[Row]:
    """The same weights under compressors that know nothing of them: as codes, and as float32.

    Codes have a byte each, the codebooks and biases four for each value.
    """
    assert isinstance(network, CompressedNetwork)  # as of every SqueezeNet
    shared = list(network.kernels.values())
    codes = b"".join(kernel.codes.astype(np.uint8).tobytes() for kernel in shared)
    floats = b"".join(kernel.codebook.tobytes() for kernel in shared)
    floats += b"".join(bias.values.tobytes() for bias in network.biases.values())
    values = b"".join(kernel.values.tobytes() for kernel in shared)
    for name, compress in compressors().items():
        fits = all(kernel.codebook.size <= 256 for kernel in shared)
        if fits:
            yield row(f"{form}, codes under {name}", len(compress(codes + floats)), float32)
        yield row(f"{form}, float32 under {name}", len(compress(values + floats)), float32)


def compressors() -> dict[str, Callable[[bytes], bytes]]:
    found: dict[str, Callable[[bytes], bytes]] = {
        "zlib": lambda data: zlib.compress(data, 9),
        "bzip2": lambda data: bz2.compress(data, 9),
        "lzma": lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME),
    }
    try:
        import zstandard

        found["zstd"] = zstandard.ZstdCompressor(level=22).compress
    except ImportError:
        say("going on without zstd: pip install .[study]")
    try:
        import brotli

        found["brotli"] = lambda data: brotli.compress(data, quality=11, lgwin=24)
    except ImportError:
        say("going on without brotli: pip install .[study]")
    return found


def row(form: str, size: int, float32: int, found: Mapping[str, float] | None = None) -> Row:
    found = found or {}
    top5_lost: float | str = ""
    if found:
        top5_lost = round(100 * (found["float32_top5"] - found["top5"]), 2)
    return {
        "form": form,
        "bytes": size,
        "times_smaller": round(float32 / size, 1),
        "images": found.get("images", ""),
        "top1": found.get("top1", ""),
        "top1_standard_error": binomial(found),
        "lost_top1": found.get("lost_points", ""),
        "lost_top1_standard_error": found.get("standard_error", ""),
        "top5": found.get("top5", ""),
        "lost_top5": top5_lost,
        "decisions_changed": found.get("decisions_changed", ""),
        "pack_seconds": found.get("pack_seconds", ""),
        "unpack_seconds": found.get("unpack_seconds", ""),
    }


def binomial(found: Mapping[str, float]) -> float | str:
    if not found:
        return ""
    return round(math.sqrt(found["top1"] * (1 - found["top1"]) / found["images"]), 4)


def study_run(run: Path, work: Path) -> list[Row]:
    """Rows of a run's network: stages of train/optimize.py, codebooks, an update."""
    data = RunData(run)
    model = keras.saving.load_model(run / "model.keras", compile=False)
    float32 = 4 * model.count_params()
    before = data.evaluate(model)
    rows = [run_row(run, "float32", (run / "model.keras").stat().st_size, float32, before)]
    rows += optimized(run, before)
    network = kept(
        work / f"{run.name} {RUN_BITS} bits.sqz",
        lambda: post_training.share_weights(
            model, data.tuning_images(), bits=RUN_BITS, density=RUN_DENSITY, progress=say
        ),
    )
    form = f"codebooks of {RUN_BITS} bits, density {RUN_DENSITY}"
    for mode in ("faithful", "best"):
        content = sqz.encode(network, mode)
        measured = data.evaluate(model_of(sqz.decode(content)))
        rows.append(run_row(run, f"{form}, {mode}", len(content), float32, measured, before))
    packed = measured
    update, whole, measured = update_of(content, data)
    form = f"update of that after another epoch, instead of {whole} bytes"
    rows.append(run_row(run, form, update, float32, measured, packed))
    return rows


class RunData:
    """The images that a run was trained and is measured on."""

    def __init__(self, run: Path) -> None:
        self.recipe = load_recipe_of_run(run / "recipe.yaml")
        self.dataset = load_data(self.recipe)
        self.batch_size = self.recipe.training.local_batch_size(1)

    def tuning_images(self) -> np.ndarray:
        """Some of the training images, without labels and as they are."""
        batches = self.dataset.train.val_batches(RUN_IMAGES)
        every = np.concatenate([images for images, _ in batches])
        return np.random.default_rng(0).permutation(every)[:RUN_IMAGES]

    def train_another_epoch(self, model: keras.Model) -> None:
        model.compile(
            keras.optimizers.SGD(UPDATE_RATE, momentum=0.9),
            "sparse_categorical_crossentropy",
            jit_compile=False,
        )
        model.fit(
            self.dataset.train.train_batches(
                self.batch_size,
                augmentation=Augmentation.from_mapping(self.recipe.data.augmentation),
                seed=UPDATE_SEED,
            ),
            steps_per_epoch=self.dataset.train.steps_per_epoch(self.batch_size),
            shuffle=False,
            verbose=0,
        )

    def evaluate(self, model: keras.Model) -> Evaluation:
        predictions = predict_batches(
            model.predict_on_batch, self.dataset.val.indexed_val_batches(self.batch_size)
        )
        assert predictions is not None  # there are images
        return evaluate_predictions(predictions, self.dataset.class_names)


def optimized(run: Path, before: Evaluation) -> Iterator[Row]:
    """The stages that train/optimize.py has measured on the same images, where it was run."""
    path = run / "compressed" / "compression.csv"
    if not path.exists():
        return
    with path.open(newline="", encoding="utf-8") as file:
        stages = list(csv.DictReader(file))
    for stage in stages[1:]:
        yield {
            "network": run.name,
            "form": f"trained: {stage['stage']}",
            "bytes": int(stage["bytes"]),
            "times_smaller": float(stage["times_smaller"]),
            "images": before.count,
            "top1": float(stage["top1"]),
            "top1_standard_error": float(stage["standard_error"]),
            "lost_top1": round(100 * (before.top1 - float(stage["top1"])), 2),
            "top5": float(stage["top5"]),
            "lost_top5": round(100 * (before.top5 - float(stage["top5"])), 2),
        }


def update_of(content: bytes, data: RunData) -> tuple[int, int, Evaluation]:
    """The update to a packed network that was trained on for another epoch.

    Returns:
        (bytes of the update, bytes of the new file, its `Evaluation`).
    """
    network = sqz.decode(content)
    model = model_of(network)
    data.train_another_epoch(model)
    new = sqz.encode(network_of(model, base=network))
    update = sqz.diff(content, new)
    return len(update), len(new), data.evaluate(model_of(sqz.decode(sqz.patch(content, update))))


def run_row(
    run: Path,
    form: str,
    size: int,
    float32: int,
    measured: Evaluation,
    before: Evaluation | None = None,
) -> Row:
    lost = {}
    if before:
        lost = {
            "lost_top1": round(100 * (before.top1 - measured.top1), 2),
            "lost_top5": round(100 * (before.top5 - measured.top5), 2),
        }
    return {
        "network": run.name,
        "form": form,
        "bytes": size,
        "times_smaller": round(float32 / size, 1),
        "images": measured.count,
        "top1": round(measured.top1, 4),
        "top1_standard_error": round(measured.top1_standard_error, 4),
        "top5": round(measured.top5, 4),
        **lost,
    }


def with_equal_keys(rows: Sequence[Row]) -> list[Row]:
    return [{key: found.get(key, "") for key in rows[0]} for found in rows]


def timed(call: Callable[[], Result]) -> tuple[Result, float]:
    """What it returns, and the median of its seconds on one core."""
    with one_core():
        seconds = []
        for _ in range(TIMED):
            start = time.perf_counter()
            result = call()
            seconds.append(time.perf_counter() - start)
    return result, statistics.median(seconds)


@contextmanager
def one_core() -> Iterator[None]:
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
