"""What a training run is asked to do: read from YAML, checked once, never changed. No Keras."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from keras_squeezenet.extras import from_extra
from keras_squeezenet.settings import (
    NotNegative,
    Positive,
    RecipeError,
    Section,
    Share,
    check_recipe,
    read_values,
)
from keras_squeezenet.training.model_section import (
    FunctionSection,
    ModelSection,
    SqueezeNetSection,
    TrustedFunctionSection,
)

with from_extra("train"):
    import yaml
    from pydantic import Field, model_validator

LEAST_EPOCHS = 10  # that `max_images` leaves
LEAST_STEPS = 8  # of an epoch, that a global batch size leaves
# Settings by which a person names the function that makes the network.
NAMES_FUNCTION = ("model", "model.function")
# By these a folder is known that a recipe came in with a model.
FILES_OF_A_RUN = {"checkpoints", "commits.jsonl", "history.csv", "metrics.json"}
MODEL_SUFFIXES = {".h5", ".keras", ".sqz", ".tflite"}
# Keys that earlier releases had, in sections that mean something else without them.
RETIRED_KEYS = {"fine_tuning": {"frozen_epochs", "learning_rate"}}


class DataSection(Section):
    """What to train on. `source`, `augmentation` and the rest are those of `load_dataset`.

    `split_seed` is apart from the run's seed: repeating a run with another seed must not move
    validation images into the training set.
    """

    source: str
    image_size: Positive
    train_image_size: Positive | None = None
    resize: Positive | Literal["stretch"] | None = None
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    split_seed: Annotated[int, Field(ge=0)] = 0
    max_broken_share: Share = 0.05
    augmentation: dict[str, Any] = {}  # noqa: RUF012  pydantic copies it


class OptimizerSection(Section):
    """How weights change. Epochs may be fractions of an epoch.

    `weight_decay` is Keras's decoupled one, on kernels only: each update also takes
    learning_rate · weight_decay · kernel away. The L2 penalty of SGD with momentum m in papers
    has the effect of this one divided by (1 - m).

    `averaging` keeps an exponential moving average of the weights beside them, whose memory is this
    share of all updates. It is what is validated, and what is kept.

    `scale_by_ranks` is how the rate follows the number of ranks, where their batches make a larger
    one together; with `global_batch_size` they do not.
    """

    name: Literal["sgd", "rmsprop", "adam", "adamw"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0)]
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = False
    weight_decay: NotNegative = 0.0
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    schedule: Literal["constant", "polynomial", "cosine", "step"] = "polynomial"
    power: Annotated[float, Field(gt=0)] = 1.0
    step_epochs: list[Annotated[float, Field(gt=0)]] = []  # noqa: RUF012
    step_factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    warmup_epochs: NotNegative = 0.0
    scale_by_ranks: Literal["linear", "sqrt"] | None = "linear"
    averaging: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _fitting_keys(self) -> Self:
        if self.nesterov and self.name != "sgd":
            raise ValueError("nesterov goes with name: sgd")
        if (self.schedule == "step") != bool(self.step_epochs):
            raise ValueError("step_epochs goes with schedule: step, and is needed there")
        return self


class FineTuningSection(Section):
    """Training from loaded weights; see `keras_squeezenet.training.fine_tuning`.

    A new last layer is noise, and its gradients would spoil the features below it. So the first
    epoch fits it to the features as they are. In the other epochs all layers learn as the optimizer
    section says, each layer with `depth_decay` times the rate of the one above it.
    """

    depth_decay: Annotated[float, Field(gt=0, le=1)] = 1.0


class TrainingSection(Section):
    """How long and how.

    `max_images` bounds the length for large data sets: there are `epochs`, or as many as train on
    so many images in all, if those are fewer, but ten at least.

    `batch_size` is per rank; `global_batch_size`, in place of it, that of all ranks together, and
    not more than an eighth of the images, with a rate that is lower by as much.

    `keep` says whether the result has the weights of the epoch with the best validation accuracy,
    or of the last one; by default the best if there is early stopping or fine-tuning.
    """

    epochs: Positive
    max_images: Positive | None = None
    batch_size: Positive | None = None
    global_batch_size: Positive | None = None
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    early_stopping: Positive | None = None
    keep: Literal["best", "last"] | None = None
    accumulation_steps: Positive = 1
    compression: Literal["fp16"] | None = None
    jit_compile: bool = False

    @model_validator(mode="after")
    def _one_batch_size(self) -> Self:
        if (self.batch_size is None) == (self.global_batch_size is None):
            raise ValueError("give either batch_size or global_batch_size")
        return self

    def local_batch_size(self, ranks: int) -> int:
        """Images in a step of each of so many ranks."""
        if self.batch_size is not None:
            return self.batch_size
        assert self.global_batch_size is not None  # see `_one_batch_size`
        return max(1, self.global_batch_size // ranks)


class Recipe(Section):
    """A whole training run."""

    name: str
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data: DataSection
    model: ModelSection = SqueezeNetSection()
    optimizer: OptimizerSection
    fine_tuning: FineTuningSection | None = None
    training: TrainingSection

    @model_validator(mode="after")
    def _fine_tuning_fits(self) -> Self:
        if self.fine_tuning is None:
            return self
        self.model.check_fine_tuning()
        if self.training.epochs < 2:
            raise ValueError("fine_tuning needs training.epochs of 2 or more")
        return self

    @property
    def keeps_best(self) -> bool:
        """Whether the result has the weights of the best epoch."""
        if self.training.keep is None:
            return bool(self.training.early_stopping or self.fine_tuning)
        return self.training.keep == "best"

    def for_images(self, count: int) -> Self:
        """This recipe for a training set of so many images.

        `epochs` are as `max_images` says. A `global_batch_size` is such that an epoch has some
        steps, and the rate is lower by as much as the batch is smaller (Goyal et al., arXiv
        1706.02677, section 2.1).
        """
        training, optimizer = self.training, self.optimizer
        update = {}
        if training.max_images is not None:
            fewest = min(training.epochs, LEAST_EPOCHS)
            update["epochs"] = min(training.epochs, max(fewest, training.max_images // count))
        if training.global_batch_size is not None:
            size = max(1, min(training.global_batch_size, count // LEAST_STEPS))
            update["global_batch_size"] = size
            rate = optimizer.learning_rate * size / training.global_batch_size
            optimizer = optimizer.model_copy(update={"learning_rate": rate})
        training = training.model_copy(update=update)
        return self.model_copy(update={"training": training, "optimizer": optimizer})

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True)

    @property
    def digest(self) -> str:
        """Eight characters that other settings change; not another name, seed or place of data.

        Tables of results have it, so that rows are known to be of a recipe as it is now.
        """
        said = self.model_dump(mode="json", exclude_defaults=True)
        said = {key: value for key, value in said.items() if key not in ("name", "seed")}
        said["data"].pop("source")
        text = json.dumps(said, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


def load_recipe(
    path: str | Path, settings: Iterable[str] = (), folder: str | Path | None = None
) -> Recipe:
    """Read a recipe that a person asks for.

    Of a recipe like that the network may be a function of the person's own code. Of one that came
    with a model it may not, unless a setting names the function: see `is_of_a_model`.

    Args:
        path: a YAML file. Its comments say what it costs and what it reaches.
        settings: strings `section.key=value` that replace values of the file; the value is YAML.
        folder: of recipes, which may be given by their names: `digits` for its digits.yaml.

    Returns:
        A `Recipe`.

    Raises:
        RecipeError: one line that names the file or the key, what is expected and what came.
    """
    if folder is not None and not Path(path).is_file():
        path = _recipe_by_name(str(path), folder)
    settings = list(settings)
    recipe = check_recipe(Recipe, read_values(path), settings, path)
    if not isinstance(recipe.model, FunctionSection):
        return recipe
    named = any(setting.partition("=")[0].strip() in NAMES_FUNCTION for setting in settings)
    if not named and is_of_a_model(path):
        raise RecipeError(
            "A recipe that lies beside a model or in a run's folder names no code to run. If you "
            f"know the code: --set model.function={recipe.model.function}. Received: {path}"
        )
    return recipe.model_copy(update={"model": TrustedFunctionSection.of(recipe.model)})


def is_of_a_model(path: str | Path) -> bool:
    """Whether a recipe lies beside a model or in a run's folder, itself or where a link leads.

    Such a file tells how the model came to be, and may have come from anywhere with it.
    """
    folders = {Path(path).absolute().parent, Path(path).resolve().parent}
    try:
        entries = [entry for folder in folders for entry in folder.iterdir()]
    except OSError:  # what lies there is not known
        return True
    return any(
        entry.name in FILES_OF_A_RUN or entry.suffix.lower() in MODEL_SUFFIXES for entry in entries
    )


def _recipe_by_name(name: str, folder: str | Path) -> Path:
    paths = {path.stem: path for path in sorted(Path(folder).glob("*.yaml"))}
    if name not in paths:
        names = ", ".join(paths)
        raise RecipeError(f"Expected a recipe's file, or one of {names}. Received: {name}")
    return paths[name]


def load_recipe_of_run(path: str | Path) -> Recipe:
    """Read the recipe that a run wrote down, be it with an earlier release.

    It may have come from anywhere: no code that it names is run, nor can be with what is returned.
    A section with `RETIRED_KEYS` is left out: what the run was trained on, and its network, are
    known without it. Only training goes no further; see `has_retired_keys`.

    Args:
        path: the run's recipe.yaml.

    Returns:
        A `Recipe`.

    Raises:
        RecipeError: as `load_recipe`.
    """
    values = read_values(path)
    for section in _retired_sections(values):
        values[section] = None
    return check_recipe(Recipe, values, source=path)


def has_retired_keys(path: str | Path) -> bool:
    """Whether a recipe asks for something that no longer is."""
    return bool(_retired_sections(read_values(path)))


def _retired_sections(values: Mapping[str, Any]) -> list[str]:
    return [
        section
        for section, keys in RETIRED_KEYS.items()
        if isinstance(values.get(section), dict) and keys & set(values[section])
    ]
