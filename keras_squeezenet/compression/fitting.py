"""The training of a Keras 3 classifier by `fit`, on one or several ranks."""

import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_squeezenet.compression.accuracy import top1
from keras_squeezenet.compression.copies import copy_of
from keras_squeezenet.compression.pruning.kernels import kernels_of
from keras_squeezenet.compression.retraining import (
    Compressed,
    Retraining,
    RetrainingError,
    RunLength,
)
from keras_squeezenet.compression.training_data import Batches, Data, endless, length_of
from keras_squeezenet.extras import from_extra
from keras_squeezenet.network.graph import ends_in_softmax

log = logging.getLogger(__name__)


def run_length(retraining: Retraining, batches: Batches) -> RunLength:
    """How long a training is, the same on all ranks.

    Raises:
        RetrainingError: neither `retraining` nor the data says it.
    """
    from keras_squeezenet import distributed

    steps = retraining.steps_per_epoch
    if steps is None:
        lengths = distributed.gather(length_of(batches))
        known = [length for length in lengths if length is not None]
        if len(known) < len(lengths):
            raise RetrainingError(
                "`steps_per_epoch` of the Retraining must be given where `train_data` does not "
                f"say its length. Received: steps_per_epoch=None, {type(batches).__name__}"
            )
        steps = min(known)
    if not steps:
        raise RetrainingError("`train_data` must hold a batch. Received: none")
    return RunLength(retraining.epochs, steps)


def fit(
    model: keras.Model,
    batches: Batches,
    retraining: Retraining,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """Train a classifier in place; on several ranks with averaged gradients.

    All ranks start from rank 0's variables.

    Args:
        model: a Keras 3 classifier. It ends up compiled.
        batches: of (images, integer labels), this rank's shard. One that ends is started again.
        retraining: a `Retraining`.
        callbacks: called before those of `retraining`.

    Raises:
        RetrainingError: there is no batch; or, on all ranks, the loss of one stops being finite.
    """
    run = run_length(retraining, batches)
    crossentropy = keras.losses.SparseCategoricalCrossentropy(
        from_logits=not ends_in_softmax(model)
    )
    fit_compiled(model, crossentropy, endless(batches, model), retraining, run, callbacks)


def fit_compiled(
    model: keras.Model,
    loss: keras.losses.Loss,
    batches: Iterator[tuple[Any, ...]],
    retraining: Retraining,
    run: RunLength,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """As `fit`, of any model and loss, with batches as that takes them, endless."""
    from keras_squeezenet import distributed

    model.compile(
        optimizer=distributed.DistributedOptimizer(retraining.make_optimizer(run.steps)),
        loss=loss,
        # Horovod's operations do not compile with XLA, and on CPUs it is slower.
        jit_compile=False,
    )
    # Else the first step would make its variables, and TensorFlow traces a step that does twice.
    model.optimizer.build(model.trainable_variables)
    feed = _Feed(itertools.islice(batches, run.steps))
    data = _dataset(feed)
    try:
        model.fit(
            data,
            epochs=run.epochs,
            steps_per_epoch=run.steps_per_epoch,
            callbacks=[
                distributed.BroadcastState(),
                *callbacks,
                distributed.AverageMetrics(),
                _Progress(run, retraining),
                *retraining.callbacks,
            ],
            shuffle=False,
            verbose=0,
        )
    except Exception:
        if feed.error is not None:
            raise feed.error from None
        raise


def compressed(
    trained: keras.Model,
    model: keras.Model,
    before: float | None,
    validation_data: Data | None,
    batch_size: int | None,
) -> Compressed:
    """A copy of `model` with the weights of a copy that was trained, measured."""
    result = copy_of(model)
    result.set_weights(trained.get_weights())
    kernels = {
        name: keras.ops.convert_to_numpy(kernel.variable)
        for name, kernel in kernels_of(result).items()
    }
    return Compressed.of(result, kernels, before, top1(result, validation_data, batch_size))


class _Feed:
    """Batches as arrays. It keeps the error that ends them: TensorFlow makes another one of it."""

    def __init__(self, batches: Iterator[tuple[Any, ...]]) -> None:
        self._batches = batches
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        try:
            for batch in self._batches:
                yield tuple(np.asarray(each) for each in batch)
        except Exception as error:
            self.error = error
            raise


def _dataset(feed: _Feed) -> Any:
    """A `tf.data.Dataset` that takes each batch when it is asked for, and none before."""
    with from_extra("train"):
        import tensorflow as tf

    batches = iter(feed)
    first = next(batches)
    signature = tuple(tf.TensorSpec((None, *array.shape[1:]), array.dtype) for array in first)
    data = tf.data.Dataset.from_generator(
        lambda: itertools.chain([first], batches), output_signature=signature
    )
    options = tf.data.Options()
    # Its thread would keep the end of a training waiting, for up to a minute.
    options.autotune.enabled = False
    return data.with_options(options)


class _Progress(keras.callbacks.Callback):
    """Logs the loss of each epoch, and ends all ranks where it is no number."""

    def __init__(self, run: RunLength, retraining: Retraining) -> None:
        super().__init__()
        self.run, self.retraining = run, retraining

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        # A distiller calls it so.
        loss = logs.get("total_loss", logs["loss"])
        if not math.isfinite(loss):
            raise RetrainingError(
                f"The loss must stay finite; a lower learning rate helps. Received: {loss} in "
                f"epoch {epoch + 1} with learning_rate={self.retraining.learning_rate}"
            )
        log.info("epoch %d of %d: loss %.4f", epoch + 1, self.run.epochs, loss)
