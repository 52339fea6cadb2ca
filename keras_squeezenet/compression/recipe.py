"""What `train/optimize.py` is asked to do: checked once, never changed. No framework."""

from collections.abc import Iterable
from typing import Annotated, Literal, Self

from keras_squeezenet.extras import from_extra
from keras_squeezenet.settings import Positive, Section, check_recipe

with from_extra("train"):
    import yaml
    from pydantic import Field

Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Bits = Annotated[int, Field(ge=2, le=8)]


class PruneSection(Section):
    """`sparsity` as `prune` takes it: a share of every kernel, of some by their layers' names, or
    "deep_compression".
    """

    epochs: Positive = 10
    learning_rate: Rate = 0.003
    sparsity: Share | dict[str, Share] | Literal["deep_compression"] = 0.67


class ClusterSection(Section):
    """`bits` choose among the values that the weights of a kernel share: one number, or some by
    their layers' names. The gradient of a value is the sum of those of its weights, thousands in
    a large kernel: hence the low rate.
    """

    epochs: Positive = 3
    learning_rate: Rate = 0.00003
    bits: Bits | dict[str, Bits] = 5


class QuantizeSection(Section):
    epochs: Positive = 3
    learning_rate: Rate = 0.0003


class CompressionRecipe(Section):
    """The stages of a compression, one after the other, each with its own retraining.

    `batch_size` is per rank; null takes that of the run.
    """

    batch_size: Positive | None = None
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    prune: PruneSection = PruneSection()
    cluster: ClusterSection = ClusterSection()
    quantize: QuantizeSection = QuantizeSection()

    @classmethod
    def of(cls, settings: Iterable[str] = ()) -> Self:
        """The defaults, but for strings `section.key=value`; raises RecipeError."""
        return check_recipe(cls, {}, settings)

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True)
