"""The commands that train a network while they compress it: prune, cluster, quantize.

Under `horovodrun` every rank runs the command with its share of the images; rank 0 alone writes.
"""

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_squeezenet.cli.options import (
    KERAS_MODEL,
    NumberType,
    asked_of_data,
    bad_input,
    check_names_beside,
    check_output,
    keras_model_path,
    open_model,
    run_recipe,
    save_keras,
)
from keras_squeezenet.cli.retraining_options import RetrainingOptions, taking
from keras_squeezenet.cli.tables import print_retrained
from keras_squeezenet.errors import InputError
from keras_squeezenet.extras import require
from keras_squeezenet.printing import print_json

if TYPE_CHECKING:
    from keras_squeezenet.compression.retraining import Compressed, Retraining
    from keras_squeezenet.compression.with_training.quantization_aware import QuantizationAware
    from keras_squeezenet.data import Augmentation, Dataset
    from keras_squeezenet.distributed.stalls import StallWatch
    from keras_squeezenet.inference.classifiers import Classifier

DEFAULT_BATCH_SIZE = 32
MEASURED_BATCH = 32

KerasFile = Annotated[Path, typer.Argument(help="The .keras file to write.")]


class Structure(StrEnum):
    two_of_four = "2:4"


class Preserve(StrEnum):
    none = "none"
    sparsity = "sparsity"
    clusters = "clusters"


@taking(RetrainingOptions)
def prune(
    model: Annotated[str, typer.Argument(help=KERAS_MODEL)],
    out: KerasFile,
    sparsity: Annotated[
        str | None,
        typer.Option(
            help="Share of zeros in each kernel, or deep_compression: layer by layer that of the "
            "paper's SqueezeNet 1.0. Default: 0.67."
        ),
    ] = None,
    structure: Annotated[
        Structure | None,
        typer.Option(help="2:4: of four neighbouring input channels two are zeros."),
    ] = None,
    *,
    shared: RetrainingOptions,
) -> None:
    """Prune a network's kernels while it trains on; the zeros stay zeros."""
    require("train")
    asked = _section("prune", shared, sparsity=sparsity)
    if structure and sparsity:
        raise InputError(f"--structure fixes the sparsity. Received: --sparsity {sparsity}")
    with _prepared(model, out, ".keras", shared) as prepared:
        from keras_squeezenet.compression.pruning.prune import prune as prune_model

        result = prune_model(
            prepared.classifier.model,
            prepared.train_batches(),
            retraining=prepared.retraining(asked, shared.momentum),
            # A structure has a sparsity of its own.
            sparsity=None if structure else asked.sparsity,
            structure=structure and structure.value,
            validation_data=prepared.val_batches(),
        )
        prepared.save(result, out, shared.as_json)


@taking(RetrainingOptions)
def cluster(
    model: Annotated[str, typer.Argument(help=KERAS_MODEL)],
    out: KerasFile,
    bits: Annotated[
        int | None,
        typer.Option(help="2**BITS shared values in each kernel, from 2 to 8. Default: 5."),
    ] = None,
    preserve_sparsity: Annotated[
        bool, typer.Option(help="Whether zeros of a pruned network stay zeros.")
    ] = True,
    *,
    shared: RetrainingOptions,
) -> None:
    """Let the weights of each kernel share a few values, and train those."""
    require("compression")
    asked = _section("cluster", shared, bits=bits)
    with _prepared(model, out, ".keras", shared) as prepared:
        from keras_squeezenet.compression.with_training.clustering import cluster as cluster_model

        result = cluster_model(
            prepared.classifier.model,
            prepared.train_batches(),
            retraining=prepared.retraining(asked, shared.momentum),
            bits=asked.bits,
            preserve_sparsity=preserve_sparsity,
            validation_data=prepared.val_batches(),
        )
        prepared.save(result, out, shared.as_json)


@taking(RetrainingOptions)
def quantize(
    model: Annotated[str, typer.Argument(help=KERAS_MODEL)],
    out: Annotated[Path, typer.Argument(help="The .tflite file to write, of integers only.")],
    preserve: Annotated[
        Preserve,
        typer.Option(
            help="sparsity: zeros of a pruned network stay zeros. clusters: weights that share a "
            "value go on sharing one."
        ),
    ] = Preserve.none,
    input_type: Annotated[NumberType, typer.Option()] = NumberType.float32,
    output_type: Annotated[NumberType, typer.Option()] = NumberType.float32,
    *,
    shared: RetrainingOptions,
) -> None:
    """Train a network on in 8 bits and write it as a LiteRT file of integers.

    Its accuracy is that of the file, which is run on the validation images.
    """
    require("compression")
    asked = _section("quantize", shared)
    with _prepared(model, out, ".tflite", shared) as prepared:
        from keras_squeezenet.compression.with_training.quantization_aware import quantize_aware
        from keras_squeezenet.litert.comparison import ExportError

        result = quantize_aware(
            prepared.classifier.model,
            prepared.train_batches(),
            retraining=prepared.retraining(asked, shared.momentum),
            preserve=None if preserve is Preserve.none else preserve.value,
            validation_data=prepared.val_batches(),
        )
        if prepared.rank == 0:
            out.parent.mkdir(parents=True, exist_ok=True)
            with bad_input(ExportError):
                written = result.write_litert(
                    out,
                    input_type=input_type.value,
                    output_type=output_type.value,
                    class_names=prepared.class_names,
                    resize=prepared.resize,
                )
            after = prepared.top1_of_file(out)
            prepared.show(result, out, after, shared.as_json, written.to_dict())


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A classifier, and this rank's share of what it is trained on and measured with."""

    model: str
    classifier: "Classifier"
    dataset: "Dataset"
    augmentation: "Augmentation"
    resize: int | str | None
    batch_size: int
    seed: int
    rank: int
    ranks: int
    look_out: "StallWatch"

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.classifier.class_names or self.dataset.class_names

    def train_batches(self) -> Iterable[Any]:
        batches = self.dataset.train.train_batches(
            self.batch_size,
            augmentation=self.augmentation,
            seed=self.seed,
            rank=self.rank,
            ranks=self.ranks,
        )
        return self.look_out.each(batches)

    def val_batches(self) -> Iterable[Any]:
        return self.dataset.val.val_batches(MEASURED_BATCH, rank=self.rank, ranks=self.ranks)

    def retraining(self, section: Any, momentum: float) -> "Retraining":
        from keras_squeezenet.compression.retraining import Retraining

        return Retraining(
            epochs=section.epochs,
            steps_per_epoch=self.dataset.train.steps_per_epoch(self.batch_size, self.ranks),
            learning_rate=section.learning_rate,
            momentum=momentum,
        )

    def top1_of_file(self, path: Path) -> float:
        from keras_squeezenet.inference import evaluation
        from keras_squeezenet.inference.classifiers import open_classifier

        predictions = evaluation.predict_batches(
            open_classifier(path).predict, self.dataset.val.indexed_val_batches(MEASURED_BATCH)
        )
        assert predictions is not None  # there are some; where none can be read is a DataError
        return evaluation.evaluate_predictions(predictions, self.class_names).top1

    def save(self, result: "Compressed", out: Path, as_json: bool) -> None:
        """A `Compressed` as a .keras file, on rank 0."""
        if self.rank == 0:
            save_keras(result.model, out, self.class_names)
            self.show(result, out, result.after, as_json)

    def show(
        self,
        result: "Compressed | QuantizationAware",
        out: Path,
        after: float | None,
        as_json: bool,
        exported: dict[str, Any] | None = None,
    ) -> None:
        """Print what was measured; `exported` are the fields of a file's `ExportResult`."""
        nonzero = sum(layer.nonzero for layer in result.layers)
        measured = {
            **(exported or {}),
            "model": self.model,
            "path": str(out),
            "bytes": out.stat().st_size,
            "data": self.dataset.name,
            "validation_images": self.dataset.val.count,
            "before": result.before,
            "after": after,
            "density": nonzero / sum(layer.weights for layer in result.layers),
            "layers": [asdict(layer) for layer in result.layers],
        }
        if as_json:
            print_json(measured)
        else:
            print_retrained(measured)


@contextmanager
def _prepared(model: str, out: Path, ending: str, shared: RetrainingOptions) -> Iterator[_Prepared]:
    """All that is refused before the training, then a `_Prepared` to train with."""
    path = keras_model_path(model)
    check_output(out, (ending,), path)
    asked = asked_of_data(path, shared.data, shared.resize, shared.max_broken_share, "--data")
    of_the_run = asked.pop("held_out")
    recipe = run_recipe(path)

    from keras_squeezenet import distributed
    from keras_squeezenet.distributed.stalls import StallWatch

    look_out = StallWatch()
    with bad_input(distributed.RankError):
        distributed.start()
        look_out.start()
        with distributed.together():
            classifier = open_model(model)
            dataset = _dataset(classifier, asked)
            if ending == ".keras":
                check_names_beside(out, classifier.class_names or dataset.class_names)
    import keras

    from keras_squeezenet.data import Augmentation
    from keras_squeezenet.training.building import augmentation_at_image_size

    seed = recipe.seed if recipe else 0
    keras.utils.set_random_seed(seed + distributed.rank())
    own_batch_size = (
        recipe.training.local_batch_size(distributed.size()) if recipe else DEFAULT_BATCH_SIZE
    )
    with dataset.clear_errors(), _progress(distributed.rank()):
        yield _Prepared(
            model=model,
            classifier=classifier,
            dataset=dataset,
            augmentation=(
                augmentation_at_image_size(recipe.data) if recipe and of_the_run else Augmentation()
            ),
            resize=asked["resize"],
            batch_size=shared.batch_size or own_batch_size,
            seed=seed,
            rank=distributed.rank(),
            ranks=distributed.size(),
            look_out=look_out,
        )
    # Rank 0 measures and writes at the end: who left before it would look silent.
    distributed.gather(None)
    look_out.stop()


def _dataset(classifier: "Classifier", asked: dict[str, Any]) -> "Dataset":
    from keras_squeezenet.data import load_dataset

    dataset = load_dataset(**asked, image_size=classifier.image_size)
    expected = classifier.class_names or dataset.class_names
    if dataset.class_names != expected or len(expected) != classifier.classes:
        raise InputError(
            f"Expected data of the model's {classifier.classes} classes. Received: "
            f"{len(dataset.class_names)} classes in {asked['source']}, "
            f"{dataset.class_names[0]!r} the first"
        )
    return dataset


def _section(command: str, shared: RetrainingOptions, **options: Any) -> Any:
    """The command's section of a `CompressionRecipe`: the options that were given, checked, and the
    defaults of the others."""
    from keras_squeezenet.compression.recipe import CompressionRecipe
    from keras_squeezenet.settings import check_recipe

    kind: Any = CompressionRecipe.model_fields[command].annotation
    options |= {"epochs": shared.epochs, "learning_rate": shared.learning_rate}
    given = {name: value for name, value in options.items() if value is not None}
    return check_recipe(kind, given, source=command)


@contextmanager
def _progress(rank: int) -> Iterator[None]:
    """What the training logs, on rank 0's standard error."""
    log = logging.getLogger("keras_squeezenet")
    handler, level = logging.StreamHandler(sys.stderr), log.level
    handler.setFormatter(logging.Formatter("%(message)s"))
    if rank == 0:
        log.addHandler(handler)
        log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
