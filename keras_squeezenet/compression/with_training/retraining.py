"""What all training-time compression shares: the fine-tuning of a twin, and what came out of it."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import keras
import numpy as np

from keras_squeezenet.compression.retraining import (
    LayerStatistics,
    Retraining,
    RetrainingError,
)
from keras_squeezenet.compression.with_training.bridge import copy_of, copy_weights_back, kernels

if TYPE_CHECKING:  # imported on use
    import tf_keras

log = logging.getLogger(__name__)

# Images and their integer labels, arrays or tensors.
Batches = Iterable[tuple[Any, Any]]
# Gives the gradients to be applied, of variables and their gradients.
Precondition = Callable[[Sequence[Any], Sequence[Any]], Sequence[Any]]


@dataclass(frozen=True, eq=False)
class Compressed:
    """A compressed network and what it is worth.

    Attributes:
        model: a new `keras.Model`; the one that was compressed is as it was.
        layers: the kernels in the order of execution.
        before, after: top-1 accuracy (0 to 1) on the validation data, over all ranks, of the
            model that came and of `model`; None without validation data.
    """

    model: keras.Model
    layers: tuple[LayerStatistics, ...]
    before: float | None
    after: float | None

    @property
    def density(self) -> float:
        """Share of the weights of all kernels that are not 0."""
        nonzero = sum(layer.nonzero for layer in self.layers)
        return nonzero / sum(layer.weights for layer in self.layers)

    @classmethod
    def from_twin(
        cls,
        twin: "tf_keras.Model",
        model: keras.Model,
        before: float | None,
        validation_data: Batches | None,
    ) -> Self:
        """A copy of `model` with the weights of its trained twin, measured."""
        compressed = copy_of(model)
        copy_weights_back(twin, compressed)
        layers = tuple(LayerStatistics.of(*item) for item in kernels(compressed).items())
        return cls(compressed, layers, before, top1(compressed, validation_data))


def check_classifier(model: Any) -> None:
    """Refuse what is no Keras 3 classifier.

    Raises:
        RetrainingError: `model` is none.
    """
    if keras.backend.backend() != "tensorflow":
        raise RetrainingError(
            "Networks are retrained with Keras's TensorFlow backend. "
            f"Received: backend={keras.backend.backend()}"
        )
    if not isinstance(model, keras.Model):
        raise RetrainingError(f"`model` must be a Keras 3 model. Received: model={type(model)}")
    outputs = [tuple(output.shape) for output in getattr(model, "outputs", None) or ()]
    if len(outputs) != 1 or len(outputs[0]) != 2 or len(model.inputs) != 1:
        raise RetrainingError(
            "`model` must have one input and one output (batch, classes). "
            f"Received: outputs {outputs}"
        )


def retrain(
    twin: "tf_keras.Model",
    train_data: Batches,
    retraining: Retraining,
    *,
    before_step: Callable[[int], None] | None = None,
    precondition: Precondition | None = None,
) -> None:
    """Train a tf_keras classifier in place; on several ranks with averaged gradients.

    All ranks start from rank 0's variables and end with them, what tfmot added among them: masks,
    codebooks, ranges.

    Args:
        twin: a `tf_keras.Model`, wrapped by tfmot or not.
        train_data: iterable of (images, integer labels), this rank's shard. One that ends is
            started again.
        retraining: a `Retraining`.
        before_step: called with the number of each step, from 1, before it is taken.
        precondition: takes variables and their gradients, two lists, and gives the gradients to
            be applied.

    Raises:
        RetrainingError: there is no batch; or, on all ranks, the loss of one stops being finite.
    """
    from keras_squeezenet import distributed

    broadcast(twin)
    step = _training_step(twin, retraining, precondition)
    batches = endless(train_data)
    for epoch in range(retraining.epochs):
        losses = []
        for number in range(1, retraining.steps_per_epoch + 1):
            if before_step is not None:
                before_step(epoch * retraining.steps_per_epoch + number)
            losses.append(step(*next(batches)))
        # The mean over all ranks, so that they all end or all go on.
        loss = float(distributed.mean(np.mean(losses)))
        if not math.isfinite(loss):
            raise RetrainingError(
                f"The loss must stay finite; a lower learning rate helps. Received: {loss} in "
                f"epoch {epoch + 1} with learning_rate={retraining.learning_rate}"
            )
        log.info("epoch %d of %d: loss %.4f", epoch + 1, retraining.epochs, loss)
    broadcast(twin)


def top1(predict: Callable[..., Any], validation_data: Batches | None) -> float | None:
    """Top-1 accuracy over the validation data of all ranks; None without.

    Args:
        predict: a `keras.Model`, or a function of images and `training`.
        validation_data: finite iterable of (images, integer labels), this rank's shard; or None.

    Raises:
        RetrainingError: there is no example on any rank.
    """
    if validation_data is None:
        return None
    import tensorflow as tf

    from keras_squeezenet import distributed

    # Not Model.predict: on CPUs it compiles with XLA for every shape of a batch.
    predict_in_graph = tf.function(lambda images: predict(images, training=False))
    correct = count = 0
    for images, labels in validation_data:
        predicted = np.asarray(predict_in_graph(tf.convert_to_tensor(images))).argmax(axis=1)
        correct += int(np.sum(predicted == np.asarray(labels)))
        count += len(predicted)
    correct, count = distributed.total([correct, count])
    if count == 0:
        raise RetrainingError("`validation_data` must hold an example. Received: none")
    return float(correct / count)


def endless(batches: Batches) -> Iterator[tuple[Any, Any]]:
    """Batches without end, from an iterable that ends or not.

    Raises:
        RetrainingError: it is empty, or cannot be started again.
    """
    while True:
        yield from one_pass(batches)


def one_pass(batches: Batches) -> Iterator[tuple[Any, Any]]:
    """The batches of an iterable, each once.

    Raises:
        RetrainingError: it is empty.
    """
    empty = True
    for images, labels in batches:
        empty = False
        yield images, labels
    if empty:
        raise RetrainingError("`train_data` must hold a batch each time it is gone through")


def broadcast(twin: "tf_keras.Model") -> None:
    """Give every rank's twin the variables of rank 0's."""
    from keras_squeezenet import distributed

    distributed.broadcast_variables(twin.variables)


def _training_step(
    twin: "tf_keras.Model", retraining: Retraining, precondition: Precondition | None
) -> Callable[[Any, Any], Any]:
    import tensorflow as tf
    import tf_keras

    from keras_squeezenet import distributed

    rate = tf_keras.optimizers.schedules.CosineDecay(retraining.learning_rate, retraining.steps)
    optimizer = tf_keras.optimizers.SGD(rate, momentum=retraining.momentum)
    variables = _trainable(twin)
    optimizer.build(variables)
    crossentropy = tf_keras.losses.SparseCategoricalCrossentropy(
        from_logits=not _ends_softmax(twin)
    )

    @tf.function
    def step(images: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = crossentropy(labels, twin(images, training=True))
        gradients = distributed.average_gradients(tape.gradient(loss, variables))
        if precondition is not None:
            gradients = precondition(variables, gradients)
        # None: what a kernel was before tfmot put something trained in its place.
        pairs = zip(gradients, variables, strict=True)
        optimizer.apply_gradients([pair for pair in pairs if pair[0] is not None])
        return loss

    return step


def _trainable(twin: "tf_keras.Model") -> list[Any]:
    """What learns. tfmot's wrapper for 8 bits would train the kernels of frozen layers too."""
    frozen = {
        id(variable)
        for layer in twin.layers
        if hasattr(layer, "layer") and not layer.layer.trainable
        for variable in layer.weights
    }
    return [variable for variable in twin.trainable_variables if id(variable) not in frozen]


def _ends_softmax(twin: "tf_keras.Model") -> bool:
    import tf_keras

    layer = twin.outputs[0].node.layer
    layer = getattr(layer, "layer", layer)  # out of tfmot's wrapper
    if isinstance(layer, tf_keras.layers.Softmax):
        return True
    activation = getattr(layer, "activation", None)
    activation = getattr(activation, "activation", activation)  # out of tfmot's too
    return getattr(activation, "__name__", None) == "softmax"
