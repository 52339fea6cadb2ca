"""Magnitude pruning while a network goes on training, with tfmot through the bridge.

Zhu and Gupta, arXiv 1710.01878: the smallest weights of each kernel are set to 0, more and more of
them, while the others learn to do without; Han et al., arXiv 1506.02626. Biases are never pruned.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_squeezenet.compression.pruning.callback import check_structure
from keras_squeezenet.compression.pruning.schedules import (
    ConstantSparsity,
    Schedule,
    checked_schedule,
)
from keras_squeezenet.compression.pruning.sparsities import Sparsity, layer_sparsities
from keras_squeezenet.compression.with_training.bridge import kernels, to_tf_keras
from keras_squeezenet.compression.with_training.retraining import (
    Batches,
    Compressed,
    Retraining,
    check_classifier,
    retrain,
    top1,
)
from keras_squeezenet.compression.with_training.tfmot import load_tfmot

if TYPE_CHECKING:  # imported on use
    import tf_keras


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
    check_structure(structure, sparsity, schedule)
    sparsities = layer_sparsities(sparsity, kernel_by_name)
    schedule = checked_schedule(schedule)
    schedule.steps(retraining)

    twin = to_tf_keras(model)
    before = top1(model, validation_data)
    if structure is None:
        wrapped = _wrapped(twin, sparsities, schedule, kernel_by_name, retraining)
    else:
        wrapped = _wrapped_2_of_4(twin, kernel_by_name)
    _train_masked(wrapped, train_data, retraining)
    stripped = load_tfmot().sparsity.keras.strip_pruning(wrapped)
    return Compressed.from_twin(stripped, model, before, validation_data)


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
            _for_tfmot(schedule, sparsity, _share_of_zeros(kernel_by_name[layer.name]), retraining),
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


def _for_tfmot(schedule: Schedule, sparsity: float, present: float, retraining: Retraining) -> Any:
    """tfmot's schedule for a kernel of which the share `present` is 0 already."""
    tfmot = load_tfmot()
    begin, end, every = schedule.steps(retraining)
    if isinstance(schedule, ConstantSparsity):
        return tfmot.sparsity.keras.ConstantSparsity(max(sparsity, present), begin, end, every)
    return tfmot.sparsity.keras.PolynomialDecay(
        initial_sparsity=max(min(schedule.initial_sparsity, sparsity), present),
        final_sparsity=max(sparsity, present),
        begin_step=begin,
        end_step=end,
        power=schedule.power,
        frequency=every,
    )
