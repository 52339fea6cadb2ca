"""Pruning of a classifier that goes on training: `MagnitudePruning` with all that `fit` needs."""

import keras

from keras_squeezenet.compression.accuracy import top1
from keras_squeezenet.compression.copies import copy_of
from keras_squeezenet.compression.fitting import compressed, fit, run_length
from keras_squeezenet.compression.pruning.callback import MagnitudePruning
from keras_squeezenet.compression.pruning.kernels import kernels_of
from keras_squeezenet.compression.pruning.schedules import Schedule
from keras_squeezenet.compression.pruning.sparsities import Sparsity
from keras_squeezenet.compression.retraining import (
    Compressed,
    Retraining,
    check_classifier,
    checked_retraining,
)
from keras_squeezenet.compression.training_data import Data, batches_of
from keras_squeezenet.network.graph import layers_within


def prune(
    model: keras.Model,
    train_data: Data,
    *,
    retraining: Retraining | None = None,
    sparsity: Sparsity = None,
    schedule: Schedule | None = None,
    structure: str | None = None,
    validation_data: Data | None = None,
    batch_size: int | None = None,
) -> Compressed:
    """Prune a classifier's kernels while it goes on training.

    It is `fit` with `MagnitudePruning`, which says what is pruned. Layers with kernels learn,
    whatever their `trainable` says; others that are frozen stay as they are. Zeros that a kernel
    has already stay zeros. Under horovodrun every rank calls this with its own shard, and all get
    the same model.

    Args:
        model: a functional or Sequential Keras 3 classifier with integer labels. It is not changed.
        train_data: (images, labels) as the model takes them, in arrays; a `tf.data.Dataset` or a
            `keras.utils.PyDataset` of batches; or any iterable of batches, endless or not.
        retraining: a `Retraining`; None: one epoch of it.
        sparsity: share of zeros in every kernel, from 0 to below 1; a dict of that by layer names
            (of `Architecture.kernel_shapes`), other layers are left; a function of name and kernel
            shape that gives that; or "deep_compression", see `deep_compression_sparsity`. None:
            0.67, or what `structure` says.
        schedule: a `PolynomialDecay` (the default) or `ConstantSparsity`.
        structure: None, zeros anywhere; "2:4", two of four neighbours in the input channels are 0,
            from the first step on, which takes neither `sparsity` nor `schedule`.
        validation_data: the same with an end, to measure top-1 on.
        batch_size: of arrays; None: 32.

    Returns:
        A `Compressed`; zeros of its model are exactly 0.0.

    Raises:
        RetrainingError: for arguments that do not go together, and a schedule that would not prune.

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
    pruning = MagnitudePruning(sparsity, schedule, structure)
    retraining = checked_retraining(retraining)
    batches = batches_of(train_data, batch_size)
    trained = learning_copy(model)
    pruning.check(trained, run_length(retraining, batches))
    before = top1(model, validation_data, batch_size)
    fit(trained, batches, retraining, [pruning])
    return compressed(trained, model, before, validation_data, batch_size)


def learning_copy(model: keras.Model) -> keras.Model:
    """A copy of a model of which every layer with a kernel learns."""
    copy = copy_of(model)
    frozen = [layer for layer in _leaves(copy) if not layer.trainable]
    copy.trainable = True  # and all that is in it
    with_kernels = {id(kernel.layer) for kernel in kernels_of(copy).values()}
    for layer in frozen:
        layer.trainable = id(layer) in with_kernels
    return copy


def _leaves(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    within = layers_within(layer)
    return [leaf for each in within for leaf in _leaves(each)] if within else [layer]
