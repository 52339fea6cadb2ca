"""Magnitude pruning while a network goes on training, with tfmot through the bridge.

Zhu and Gupta, arXiv 1710.01878: the smallest weights of each kernel are set to 0, more and more of
them, while the others learn to do without; Han et al., arXiv 1506.02626. Biases are never pruned.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import keras
import numpy as np

from keras_squeezenet.checks import is_number
from keras_squeezenet.compression.with_training.bridge import kernels, to_tf_keras
from keras_squeezenet.compression.with_training.retraining import (
    Batches,
    Compressed,
    Retraining,
    RetrainingError,
    check_classifier,
    retrain,
    top1,
)
from keras_squeezenet.compression.with_training.tfmot import load_tfmot
from keras_squeezenet.network.architecture import preset

if TYPE_CHECKING:  # imported on use
    import tf_keras

DEFAULT_SPARSITY = 0.67  # Deep Compression's SqueezeNet keeps a third of its weights
STRUCTURES = (None, "2:4")
UNITS = ("epochs", "steps")

# One for every kernel, each one's by layer name, a function of name and kernel shape, or
# "deep_compression".
Sparsity = float | dict[str, float] | Callable[[str, tuple[int, ...]], float] | str | None
Number = TypeVar("Number", int, float)

# The weights that are not 0 in compressed_SqueezeNet.net, SqueezeNet 1.0 deep-compressed by the
# paper's authors: github.com/songhan/SqueezeNet-Deep-Compression at fb13faa2. They pruned to 33,
# 50, 30 and 20 percent; in the other layers, what is missing was rounded to 0 by the codebook.
DEEP_COMPRESSION_NONZERO = {
    "conv1": 13902,
    "fire2_squeeze1x1": 1528,
    "fire2_expand1x1": 1020,
    "fire2_expand3x3": 3039,
    "fire3_squeeze1x1": 2038,
    "fire3_expand1x1": 1023,
    "fire3_expand3x3": 3039,
    "fire4_squeeze1x1": 4085,
    "fire4_expand1x1": 4071,
    "fire4_expand3x3": 12156,
    "fire5_squeeze1x1": 8160,
    "fire5_expand1x1": 4067,
    "fire5_expand3x3": 12147,
    "fire6_squeeze1x1": 12161,
    "fire6_expand1x1": 4602,
    "fire6_expand3x3": 27325,
    "fire7_squeeze1x1": 9205,
    "fire7_expand1x1": 9129,
    "fire7_expand3x3": 27336,
    "fire8_squeeze1x1": 24388,
    "fire8_expand1x1": 8187,
    "fire8_expand3x3": 44144,
    "fire9_squeeze1x1": 16370,
    "fire9_expand1x1": 16303,
    "fire9_expand3x3": 44173,
    "conv10": 102323,
}

# Of such steps a polynomial decay has about this many where it is not told how often to prune.
_DEFAULT_PRUNINGS = 20


@dataclass(frozen=True)
class PolynomialDecay:
    """Prune more and more: a steep beginning, a flat end (arXiv 1710.01878, equation 1).

    Attributes:
        begin: when it starts.
        end: when the sparsity asked for is reached, and training goes on. None: after two thirds
            of the run.
        every: between one pruning and the next. None: a twentieth of the way from begin to end.
        unit: "epochs", fractions allowed, or "steps", of the three before.
        initial_sparsity: share of zeros at `begin`.
        power: of the polynomial.

    Raises:
        RetrainingError: names the attribute that makes no schedule.
    """

    begin: float = 0
    end: float | None = None
    every: float | None = None
    unit: str = "epochs"
    initial_sparsity: float = 0.0
    power: float = 3

    def __post_init__(self) -> None:
        _check_times(self)
        _check_sparsity("initial_sparsity", self.initial_sparsity)
        if not is_number(self.power) or not 0 < self.power < math.inf:
            raise RetrainingError(f"`power` must be a number above 0. Received: power={self.power}")

    def steps(self, retraining: Retraining) -> tuple[int, int, int]:
        """The steps of a run, counted from 1, between and at which it prunes.

        Returns:
            First, last and distance, whole numbers. last - first is a multiple of distance, so
            that the sparsity at the last pruning is the one asked for.

        Raises:
            RetrainingError: in so few steps it would not reach its sparsity.
        """
        begin = _steps(self, self.begin, retraining)
        end = retraining.steps * 2 // 3 if self.end is None else _steps(self, self.end, retraining)
        every = self.every and max(1, _steps(self, self.every, retraining))
        every = every or max(1, (end - begin) // _DEFAULT_PRUNINGS)
        last = begin + (end - begin) // every * every
        if end > retraining.steps or last <= begin:
            raise RetrainingError(
                "The pruning schedule must prune twice or more and end within the run of "
                f"{retraining.steps} steps, or it never reaches its sparsity. Received: "
                f"begin={begin}, end={end}, every={every} in steps"
            )
        return begin, last, every

    def for_tfmot(self, tfmot: Any, sparsity: float, present: float, retraining: Retraining) -> Any:
        """tfmot's schedule for a kernel of which the share `present` is 0 already."""
        begin, end, every = self.steps(retraining)
        return tfmot.sparsity.keras.PolynomialDecay(
            initial_sparsity=max(min(self.initial_sparsity, sparsity), present),
            final_sparsity=max(sparsity, present),
            begin_step=begin,
            end_step=end,
            power=self.power,
            frequency=every,
        )


@dataclass(frozen=True)
class ConstantSparsity:
    """Prune to the sparsity asked for at once; which weights these are may change later.

    Attributes:
        begin: when it prunes first; the first step of the run where that is 0.
        end: when it prunes last, and training goes on with those zeros. None: with `begin`.
        every: between one pruning and the next. None: one epoch.
        unit: "epochs", fractions allowed, or "steps", of the three before.

    Raises:
        RetrainingError: names the attribute that makes no schedule.
    """

    begin: float = 0
    end: float | None = None
    every: float | None = None
    unit: str = "epochs"

    def __post_init__(self) -> None:
        _check_times(self)

    def steps(self, retraining: Retraining) -> tuple[int, int, int]:
        """As `PolynomialDecay.steps`.

        Raises:
            RetrainingError: it would never prune in so few steps.
        """
        begin = max(1, _steps(self, self.begin, retraining))
        end = begin if self.end is None else max(begin, _steps(self, self.end, retraining))
        every = retraining.steps_per_epoch
        if self.every is not None:
            every = max(1, _steps(self, self.every, retraining))
        if end > retraining.steps:
            raise RetrainingError(
                f"The pruning schedule must prune within the run of {retraining.steps} steps. "
                f"Received: begin={begin}, end={end} in steps"
            )
        return begin, begin + (end - begin) // every * every, every

    def for_tfmot(self, tfmot: Any, sparsity: float, present: float, retraining: Retraining) -> Any:
        """As `PolynomialDecay.for_tfmot`."""
        begin, end, every = self.steps(retraining)
        return tfmot.sparsity.keras.ConstantSparsity(max(sparsity, present), begin, end, every)


Schedule = PolynomialDecay | ConstantSparsity


def prune(
    model: keras.Model,
    train_data: Batches,
    *,
    retraining: Retraining,
    sparsity: Sparsity = None,
    schedule: Schedule | None = None,
    structure: str | None = None,
    validation_data: Batches | None = None,
) -> Compressed:
    """Prune a classifier's kernels while it goes on training.

    The kernels of Conv2D and Dense layers are pruned; those of depthwise convolutions, and biases,
    never. Zeros that a kernel has already stay zeros. Under horovodrun every rank calls this with
    its own shard, and all get the same model.

    Args:
        model: a Keras 3 classifier; see `bridge.to_tf_keras`. It is not changed.
        train_data: iterable of (images, integer labels), as the model takes them; endless or not.
        retraining: a `Retraining`.
        sparsity: share of zeros in every kernel, from 0 to below 1; a dict of that by layer names
            (of `Architecture.kernel_shapes`), other layers are left; a function of name and kernel
            shape that gives that; or "deep_compression", see `deep_compression_sparsity`. None:
            0.67, or what `structure` says.
        schedule: a `PolynomialDecay` (the default) or `ConstantSparsity`.
        structure: None, zeros anywhere; "2:4", two of four neighbours in the input channels are 0,
            from the first step on, which takes neither `sparsity` nor `schedule`.
        validation_data: finite iterable of (images, integer labels) to measure top-1 on.

    Returns:
        A `Compressed`; zeros of its model are exactly 0.0.

    Raises:
        RetrainingError: for arguments that do not go together, and a schedule that would not prune.
        BridgeError: the model cannot be carried to tf_keras.

    Example, of a network that would have been trained:

    >>> digits = load_dataset("digits", image_size=16)
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((16, 16, 3)),
    ...         keras.layers.Rescaling(1 / 255),
    ...         keras.layers.Conv2D(8, 3, activation="relu"),
    ...         keras.layers.GlobalAveragePooling2D(),
    ...         keras.layers.Dense(10, activation="softmax"),
    ...     ]
    ... )
    >>> pruned = prune(
    ...     model,
    ...     digits.train.train_batches(32),
    ...     retraining=Retraining(epochs=1, steps_per_epoch=4),
    ...     schedule=PolynomialDecay(unit="steps", end=3, every=1),
    ...     sparsity=0.75,
    ... )
    >>> pruned.density
    0.25
    """
    check_classifier(model)
    kernel_by_name = kernels(model)
    if structure not in STRUCTURES:
        raise RetrainingError(f"`structure` must be None or '2:4'. Received: structure={structure}")
    if structure is not None and (sparsity is not None or schedule is not None):
        raise RetrainingError(
            "`structure` '2:4' fixes sparsity and schedule. "
            f"Received: sparsity={sparsity}, schedule={schedule}"
        )
    sparsities = layer_sparsities(sparsity, kernel_by_name)
    schedule = _checked_schedule(schedule, retraining)

    twin = to_tf_keras(model)
    before = top1(model, validation_data)
    if structure is None:
        wrapped = _wrapped(twin, sparsities, schedule, kernel_by_name, retraining)
    else:
        wrapped = _wrapped_2_of_4(twin, kernel_by_name)
    _train_masked(wrapped, train_data, retraining)
    stripped = load_tfmot().sparsity.keras.strip_pruning(wrapped)
    return Compressed.from_twin(stripped, model, before, validation_data)


def layer_sparsities(
    sparsity: Sparsity, kernel_by_name: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """What share of each kernel is to be 0, by name; see `prune`.

    Raises:
        RetrainingError: a share is outside 0 to below 1, a name is no kernel's, or none is pruned.
    """
    shapes = {name: kernel.shape for name, kernel in kernel_by_name.items()}
    if sparsity is None:
        sparsity = DEFAULT_SPARSITY
    if isinstance(sparsity, str):
        if sparsity != "deep_compression":
            raise RetrainingError(
                f"`sparsity` must be numbers or 'deep_compression'. Received: sparsity={sparsity}"
            )
        sparsities = deep_compression_sparsity(shapes)
    else:
        sparsities = by_layer("sparsity", sparsity, shapes)
    for name, share in sparsities.items():
        _check_sparsity(f"sparsity of {name}", share)
    if not any(sparsities.values()):
        raise RetrainingError(
            f"`sparsity` must be above 0 for some kernel. Received: sparsity={sparsity}"
        )
    return sparsities


def by_layer(
    argument: str,
    value: Number | dict[str, Number] | Callable[[str, tuple[int, ...]], Number],
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, Number]:
    """A number, a dict by layer names, or a function of name and shape, as a dict by names.

    Raises:
        RetrainingError: a name is no kernel's.
    """
    if callable(value):
        return {name: value(name, shape) for name, shape in shapes.items()}
    if not isinstance(value, dict):
        return dict.fromkeys(shapes, value)
    unknown = [name for name in value if name not in shapes]
    if unknown:
        raise RetrainingError(
            f"`{argument}` must name kernels of the model: {', '.join(shapes)}. "
            f"Received: {argument} for {unknown[0]}"
        )
    return dict(value)


def deep_compression_sparsity(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, float]:
    """The sparsities of the deep-compressed SqueezeNet, layer by layer.

    A layer of another name has that of its kind: the first kernel that of conv1; the last one, or
    a Dense layer's, that of conv10; a 1×1 kernel that of all expand 1×1 layers together, a larger
    one that of all expand 3×3 layers.

    Args:
        shapes: of the kernels, by names, in the order of execution.

    Returns:
        A dict from each of the names to a number from 0 to below 1.
    """
    names = list(shapes)
    sparsities = {}
    for name, shape in shapes.items():
        if name == names[-1] or len(shape) == 2:
            like = "conv10"
        elif name in DEEP_COMPRESSION_NONZERO and name != "conv10":
            like = name
        elif name == names[0]:
            like = "conv1"
        else:
            like = "expand1x1" if tuple(shape[:2]) == (1, 1) else "expand3x3"
        sparsities[name] = 1 - _published_density(like)
    return sparsities


def _published_density(layers: str) -> float:
    """Share of non-zero weights in the published layers whose names end so."""
    shapes = preset("1.0").kernel_shapes(1000)
    matching = [name for name in shapes if name.endswith(layers)]
    nonzero = sum(DEEP_COMPRESSION_NONZERO[name] for name in matching)
    return nonzero / sum(math.prod(shapes[name]) for name in matching)


def _wrapped(
    twin: "tf_keras.Model",
    sparsities: Mapping[str, float],
    schedule: Schedule,
    kernel_by_name: Mapping[str, np.ndarray],
    retraining: Retraining,
) -> "tf_keras.Model":
    """The twin with tfmot's pruning around the layers that are to be pruned."""
    import tf_keras

    tfmot = load_tfmot()

    def wrap(layer: tf_keras.layers.Layer) -> tf_keras.layers.Layer:
        sparsity = sparsities.get(layer.name, 0)
        if not sparsity:
            return layer
        return tfmot.sparsity.keras.prune_low_magnitude(
            layer,
            schedule.for_tfmot(
                tfmot, sparsity, _share_of_zeros(kernel_by_name[layer.name]), retraining
            ),
        )

    return tf_keras.models.clone_model(twin, clone_function=wrap)


def _wrapped_2_of_4(
    twin: "tf_keras.Model", kernel_by_name: Mapping[str, np.ndarray]
) -> "tf_keras.Model":
    import tf_keras

    tfmot = load_tfmot()

    def wrap(layer: tf_keras.layers.Layer) -> tf_keras.layers.Layer:
        if layer.name not in kernel_by_name:
            return layer
        return tfmot.sparsity.keras.prune_low_magnitude(layer, sparsity_m_by_n=(2, 4))

    return tf_keras.models.clone_model(twin, clone_function=wrap)


def _share_of_zeros(kernel: np.ndarray) -> float:
    zeros = kernel.size - int(np.count_nonzero(kernel))
    # tfmot rounds the number of weights that stay. A quarter more than there are is the same number
    # for certain; one fewer would let all zeros learn again.
    return min(zeros + 0.25, kernel.size - 1) / kernel.size if zeros else 0.0


def _train_masked(wrapped: "tf_keras.Model", train_data: Batches, retraining: Retraining) -> None:
    """Train with tfmot's masks, which leave out what is 0 now already."""
    pruned = [layer for layer in wrapped.layers if hasattr(layer, "pruning_vars")]
    zeros = [
        (mask, (weight.numpy() != 0).astype("float32"))
        for layer in pruned
        for weight, mask, _ in layer.pruning_vars
        if not weight.numpy().all()
    ]

    def before_step(number: int) -> None:
        # In place of tfmot's UpdatePruningStep; its wrapper adds 1 first.
        for layer in pruned:
            layer.pruning_step.assign(number - 1)
        # After the first step as well: there, 2:4 may have given a zero its turn.
        if number <= 2:
            for mask, nonzero in zeros:
                mask.assign(mask * nonzero)

    retrain(wrapped, train_data, retraining, before_step=before_step)
    for layer in pruned:
        # The last step moved weights after they had been masked.
        for weight, mask, _ in layer.pruning_vars:
            weight.assign(weight * mask)


def _checked_schedule(schedule: Schedule | None, retraining: Retraining) -> Schedule:
    schedule = PolynomialDecay() if schedule is None else schedule
    if not isinstance(schedule, PolynomialDecay | ConstantSparsity):
        raise RetrainingError(
            "`schedule` must be a PolynomialDecay or a ConstantSparsity. "
            f"Received: schedule={schedule}"
        )
    schedule.steps(retraining)
    return schedule


def _check_times(schedule: Schedule) -> None:
    for name in ("begin", "end", "every"):
        value = getattr(schedule, name)
        if value is None and name != "begin":
            continue
        if not is_number(value) or not 0 <= value < math.inf:
            raise RetrainingError(f"`{name}` must be a number ≥ 0. Received: {name}={value}")
    if schedule.unit not in UNITS:
        raise RetrainingError(f"`unit` must be 'epochs' or 'steps'. Received: unit={schedule.unit}")
    if schedule.end is not None and schedule.end < schedule.begin:
        raise RetrainingError(
            f"`end` must not be before `begin`. Received: begin={schedule.begin}, "
            f"end={schedule.end}"
        )


def _check_sparsity(name: str, value: object) -> None:
    if not is_number(value) or not 0 <= value < 1:
        raise RetrainingError(
            f"`{name}` must be a number from 0 to below 1. Received: {name}={value}"
        )


def _steps(schedule: Schedule, time: float, retraining: Retraining) -> int:
    return round(time * (retraining.steps_per_epoch if schedule.unit == "epochs" else 1))
