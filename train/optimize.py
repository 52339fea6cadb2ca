"""Compress a trained network: prune, share weights, pack into .sqz, quantize for LiteRT.

    python train/optimize.py runs/digits
    python train/optimize.py runs/digits --stages prune,cluster,pack --set prune.sparsity=0.8
    horovodrun -np 2 python train/optimize.py runs/digits

Deep Compression (Han et al., arXiv 1510.00149) on a run of train/train.py, with the data of its
recipe. The same as `keras-squeezenet optimize`, with options in keras_squeezenet/cli/training.py.
Every rank runs this script from top to bottom; rank 0 alone writes. The output folder gets a file
per stage, compression.csv and report.html; every number in them was measured on the file.
"""

import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

# First of all: which kernels TensorFlow takes, what Keras does without, and that TensorFlow's
# greetings are not for the reader of the progress.
import keras_squeezenet.startup.onednn
import keras_squeezenet.startup.quick_start
import keras_squeezenet.startup.quiet  # noqa: F401

# isort: split
import keras
import numpy as np

from keras_squeezenet import distributed, files, machine, sqz
from keras_squeezenet.cli import training as command
from keras_squeezenet.compression.pruning.prune import prune
from keras_squeezenet.compression.recipe import (
    ClusterSection,
    CompressionRecipe,
    PruneSection,
    QuantizeSection,
)
from keras_squeezenet.compression.retraining import Retraining
from keras_squeezenet.compression.saving import load_compressed, save_compressed
from keras_squeezenet.compression.stages import Stage
from keras_squeezenet.compression.with_training.bridge import kernels
from keras_squeezenet.compression.with_training.clustering import MAX_BITS, cluster
from keras_squeezenet.compression.with_training.quantization_aware import (
    QuantizationAware,
    quantize_aware,
)
from keras_squeezenet.data import Dataset
from keras_squeezenet.data.sources import resolved
from keras_squeezenet.distributed import stalls
from keras_squeezenet.errors import InputError
from keras_squeezenet.inference import classifiers, evaluation
from keras_squeezenet.litert.comparison import ExportResult
from keras_squeezenet.network.folding import fold_batch_normalization
from keras_squeezenet.network.keras_files import save_and_read_back
from keras_squeezenet.printing import printable
from keras_squeezenet.reports.compression_page import write_compression_report
from keras_squeezenet.settings import RecipeError
from keras_squeezenet.training import results, runs
from keras_squeezenet.training.building import augmentation_at_image_size, load_data
from keras_squeezenet.training.locks import FolderLock
from keras_squeezenet.training.recipe import Recipe, load_recipe_of_run

STAGES = ("prune", "cluster", "pack", "quantize")


def main(asked: command.CompressionRequest) -> dict[str, Any] | None:
    """Do what a `CompressionRequest` asks; the rows of compression.csv, and where they are."""
    check_stages(asked.stages)
    recipe = CompressionRecipe.of(asked.settings)
    if "pack" in asked.stages and "cluster" not in asked.stages:
        one_number_of_bits(recipe)
    run, output = asked.run, asked.output or asked.run / "compressed"
    if output.resolve() == run.resolve():
        raise InputError(f"The output must be another folder than the run's. Received: {output}")

    distributed.start()
    with stalls.StallWatch(asked.stall_seconds) as look_out:
        with distributed.together():
            of_the_run = recipe_of(run)
        with FolderLock(output) as lock:
            lock.hold()
            written = compress(run, of_the_run, output, asked.stages, recipe, look_out)
        # Rank 0 measures and writes at the end: who left before it would look silent.
        distributed.gather(None)
    return written


def compress(
    run: Path,
    of_the_run: Recipe,
    output: Path,
    wanted: Sequence[str],
    recipe: CompressionRecipe,
    look_out: stalls.StallWatch,
) -> dict[str, Any] | None:
    with distributed.together():
        dataset = data_of(of_the_run)
        model = classifiers.open_classifier(run / runs.MODEL_FILE).model
    keras.utils.set_random_seed(of_the_run.seed + distributed.rank())
    data = Data(dataset, of_the_run, recipe, look_out)
    stages = Stages(output, dataset, of_the_run)

    # Each stage starts from the network of the one before.
    sparse = shared = None
    with dataset.clear_errors():
        stages.measure("float32", run / runs.MODEL_FILE, model)
        if "prune" in wanted:
            sparse = prune(
                model,
                data.train_batches(1),
                retraining=data.retraining(recipe.prune),
                sparsity=recipe.prune.sparsity,
            ).model
            stages.save("pruned", "pruned.keras", sparse)
        # Folded later, batch normalization would scale each filter, and none would share values.
        unshared = fold_batch_normalization(sparse or model).model
        if "cluster" in wanted:
            shared = cluster(
                unshared,
                data.train_batches(2),
                retraining=data.retraining(recipe.cluster),
                bits=recipe.cluster.bits,
            ).model
            stages.save("clustered", "clustered.keras", shared)
        if "pack" in wanted:
            # Kernels without a trained codebook, those of depthwise convolutions among them, share
            # values as they are. 2**8 values are all that a trained one can have.
            bits = MAX_BITS if shared else one_number_of_bits(recipe)
            stages.pack("Huffman", "model-faithful.sqz", shared or unshared, "faithful", bits)
            stages.pack("best", "model-best.sqz", shared or unshared, "best", bits)
        if "quantize" in wanted:
            aware = quantize_aware(
                shared or unshared,
                data.train_batches(3),
                retraining=data.retraining(recipe.quantize),
                preserve="clusters" if shared else "sparsity" if sparse else None,
                validation_data=data.val_batches(),
            )
            stages.quantize("int8 LiteRT", "model-int8.tflite", aware)
    if distributed.rank() == 0:
        page, rows = stages.write(model, unshared, recipe, run)
        say(f"the report is {page}")
        return {"output": str(output), "report": str(page), "stages": rows}
    return None


def recipe_of(run: Path) -> Recipe:
    """The run's recipe."""
    for name in (runs.RECIPE_FILE, runs.MODEL_FILE):
        if not (run / name).is_file():
            raise InputError(f"Expected the folder of a finished run: {name} is missing in {run}")
    recipe = load_recipe_of_run(run / runs.RECIPE_FILE)
    data = recipe.data.model_copy(update={"source": resolved(recipe.data.source)})
    return recipe.model_copy(update={"data": data})


def data_of(recipe: Recipe) -> Dataset:
    """The run's data. The saved network takes images of one size, also to be trained on."""
    data = recipe.data.model_copy(update={"train_image_size": None})
    return load_data(recipe.model_copy(update={"data": data}))


class Data:
    """This rank's shard of a run's images."""

    def __init__(
        self,
        dataset: Dataset,
        of_the_run: Recipe,
        recipe: CompressionRecipe,
        look_out: stalls.StallWatch,
    ) -> None:
        self.dataset = dataset
        self.look_out = look_out
        self.momentum = recipe.momentum
        self.batch_size = recipe.batch_size or of_the_run.training.local_batch_size(
            distributed.size()
        )
        self.augmentation = augmentation_at_image_size(of_the_run.data)
        self.seed = of_the_run.seed

    def train_batches(self, stage: int) -> Iterable[Any]:
        """Endless, in another order in each stage."""
        batches = self.dataset.train.train_batches(
            self.batch_size,
            augmentation=self.augmentation,
            seed=self.seed + stage,
            rank=distributed.rank(),
            ranks=distributed.size(),
        )
        return self.look_out.each(batches)

    def val_batches(self) -> Iterable[Any]:
        return self.dataset.val.val_batches(32, rank=distributed.rank(), ranks=distributed.size())

    def retraining(self, section: PruneSection | ClusterSection | QuantizeSection) -> Retraining:
        return Retraining(
            epochs=section.epochs,
            steps_per_epoch=self.dataset.train.steps_per_epoch(self.batch_size, distributed.size()),
            learning_rate=section.learning_rate,
            momentum=self.momentum,
        )


class Stages:
    """The files of the stages, written and measured by rank 0."""

    def __init__(self, output: Path, dataset: Dataset, of_the_run: Recipe) -> None:
        self.output = output
        self.dataset = dataset
        self.resize = of_the_run.data.resize
        self.measured: list[Stage] = []
        self.spent: dict[str, dict[str, int]] = {}
        self.packed: keras.Model | None = None
        if distributed.rank() == 0:
            # What the models of this folder were trained on, as beside a run's.
            files.write_text(output / runs.RECIPE_FILE, of_the_run.to_yaml())

    def save(self, name: str, file: str, model: keras.Model) -> None:
        if distributed.rank() == 0:
            names = self.output / classifiers.CLASS_NAMES_FILE
            files.write_json(names, list(self.dataset.class_names))
            saved = save_and_read_back(model, self.output / file, include_optimizer=False)
            self.measure(name, self.output / file, saved)

    def pack(self, name: str, file: str, model: keras.Model, mode: str, bits: int) -> None:
        if distributed.rank() == 0:
            path = self.output / file
            save_compressed(
                model,
                path,
                mode=mode,
                bits=bits,
                class_names=self.dataset.class_names,
                resize=self.resize,
            )
            self.packed = load_compressed(path)
            self.spent[file] = sqz.bytes_spent(path.read_bytes())
            self.measure(name, path, self.packed)

    def quantize(self, name: str, file: str, aware: QuantizationAware) -> None:
        if distributed.rank() == 0:
            self.output.mkdir(parents=True, exist_ok=True)
            path = self.output / file
            written = aware.write_litert(
                path, class_names=self.dataset.class_names, resize=self.resize
            )
            self.measure(name, path, exported=written)
            if written.warning:
                say(f"warning: {printable(written.warning)}")

    def measure(
        self,
        name: str,
        path: Path,
        model: keras.Model | None = None,
        exported: ExportResult | None = None,
    ) -> None:
        """Run a file on the validation images: a LiteRT file, or else the model read from it."""
        if distributed.rank() != 0:
            return
        predict = model.predict_on_batch if model else classifiers.open_classifier(path).predict
        predictions = evaluation.predict_batches(predict, self.dataset.val.indexed_val_batches(32))
        assert predictions is not None  # there are some; where none can be read is a DataError
        measured = evaluation.evaluate_predictions(predictions, self.dataset.class_names)
        self.measured.append(
            Stage.measured(name, path, measured, model and kernels(model), exported)
        )
        say(
            f"{name}: {self.measured[-1].bytes:,} bytes, top-1 {measured.top1:.4f} "
            f"± {measured.top1_standard_error:.4f}"
        )

    def write(
        self, model: keras.Model, unshared: keras.Model, recipe: CompressionRecipe, run: Path
    ) -> tuple[Path, list[dict[str, Any]]]:
        """compression.csv, the pictures and the page: the page's path, the table's rows."""
        parameters = model.count_params()
        rows = [stage.row(4 * parameters) for stage in self.measured]
        files.write_csv(self.output / "compression.csv", rows)
        files.write_text(self.output / "compression.yaml", recipe.to_yaml())
        before, after = kernels(unshared), kernels(self.packed) if self.packed else {}
        page = write_compression_report(
            self.output,
            self.measured,
            title=f"{model.name} on {self.dataset.name}, compressed",
            parameters=parameters,
            sharing={name: (before[name], np.unique(kernel)) for name, kernel in after.items()},
            spent=self.spent,
            facts=[
                ("Data set", self.dataset.name),
                ("Training images", f"{self.dataset.train.count:,}"),
                ("Validation images", f"{self.dataset.val.count:,}"),
                ("Model", str(run / runs.MODEL_FILE)),
                ("Ranks", str(distributed.size())),
                ("Machine", machine.describe()),
            ],
            command=shlex.join(sys.argv),
            versions=results.versions(),
            recipe=recipe.to_yaml(),
        )
        return page, rows


def one_number_of_bits(recipe: CompressionRecipe) -> int:
    """Bits for codebooks without training; a RecipeError where they are given by layers."""
    if isinstance(recipe.cluster.bits, dict):
        raise RecipeError(
            "cluster.bits by layers needs the stage cluster. Received: "
            f"cluster.bits={recipe.cluster.bits} without it"
        )
    return recipe.cluster.bits


def check_stages(wanted: Iterable[str]) -> None:
    for name in wanted:
        if name not in STAGES:
            raise RecipeError(f"--stages takes {', '.join(STAGES)}. Received: {name}")


def say(message: str) -> None:
    if distributed.rank() == 0:
        print(message, flush=True)


if __name__ == "__main__":
    command.run_script(command.optimize, main)
