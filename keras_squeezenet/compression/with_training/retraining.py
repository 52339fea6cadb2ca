"""The fine-tuning of tf_keras twins, by optimizers of Keras 3."""

import logging
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_squeezenet.compression.copies import copy_of
from keras_squeezenet.compression.fitting import run_length
from keras_squeezenet.compression.retraining import Retraining, RetrainingError
from keras_squeezenet.compression.training_data import Batches, endless
from keras_squeezenet.compression.with_training.bridge import copy_weights_back
from keras_squeezenet.compression.with_training.callbacks import Seen, hooks_of

if TYPE_CHECKING:  # imported on use
    import tf_keras

log = logging.getLogger(__name__)

# Gives the gradients to be applied, of variables and their gradients.
Precondition = Callable[[Sequence[Any], Sequence[Any]], Sequence[Any]]


def retrain(
    twin: "tf_keras.Model",
    train_data: Batches,
    retraining: Retraining,
    *,
    precondition: Precondition | None = None,
    seen: Seen | None = None,
) -> None:
    """Train a tf_keras classifier in place; on several ranks with averaged gradients.

    All ranks start from rank 0's variables and end with them, what tfmot added among them: masks,
    codebooks, ranges.

    Args:
        twin: a `tf_keras.Model`, wrapped by tfmot or not.
        train_data: iterable of (images, integer labels), this rank's shard. One that ends is
            started again.
        retraining: a `Retraining`.
        precondition: takes variables and their gradients, two lists, and gives the gradients to
            be applied.
        seen: what callbacks see. Without it none are called.

    Raises:
        RetrainingError: there is no batch, or callbacks do what they cannot do here; or, on all
            ranks, the loss of one stops being finite.
    """
    from keras_squeezenet import distributed

    run = run_length(retraining, train_data)
    broadcast(twin)
    variables = _trainable(twin)
    optimizer = retraining.make_optimizer(run.steps)
    # Else the first step would make its variables, and TensorFlow traces a step that does twice.
    optimizer.build(variables)
    step = _training_step(twin, variables, optimizer, precondition)
    batches = endless(train_data, twin)
    hooks = hooks_of(retraining.callbacks, twin, seen, optimizer, run)
    hooks.begin_training()
    for epoch in range(run.epochs):
        hooks.begin_epoch(epoch)
        losses, sizes = [], []
        for number in range(run.steps_per_epoch):
            hooks.begin_step(number)
            images, labels = next(batches)
            losses.append(step(images, labels))
            sizes.append(len(labels))
            if hooks.end_step(number, losses[-1], sizes[-1]):
                break
        # The mean over all ranks, so that they all end or all go on.
        loss = float(distributed.mean(np.average(losses, weights=sizes)))
        if not math.isfinite(loss):
            raise RetrainingError(
                f"The loss must stay finite; a lower learning rate helps. Received: {loss} in "
                f"epoch {epoch + 1} with learning_rate={retraining.learning_rate}"
            )
        log.info("epoch %d of %d: loss %.4f", epoch + 1, run.epochs, loss)
        if hooks.end_epoch(epoch, loss):
            break
    optimizer.finalize_variable_values(variables)
    hooks.end_training()
    broadcast(twin)


def broadcast(twin: "tf_keras.Model") -> None:
    """Give every rank's twin the variables of rank 0's."""
    from keras_squeezenet import distributed

    distributed.broadcast_variables(twin.variables)


def with_weights_of(twin: "tf_keras.Model", model: keras.Model) -> keras.Model:
    """A copy of a Keras 3 model with the weights of its trained twin."""
    copy = copy_of(model)
    copy_weights_back(twin, copy)
    return copy


def _training_step(
    twin: "tf_keras.Model",
    variables: Sequence[Any],
    optimizer: keras.optimizers.Optimizer,
    precondition: Precondition | None,
) -> Callable[[Any, Any], Any]:
    import tensorflow as tf
    import tf_keras

    from keras_squeezenet import distributed

    crossentropy = tf_keras.losses.SparseCategoricalCrossentropy(
        from_logits=not _ends_softmax(twin)
    )

    @tf.function
    def step(images: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = crossentropy(labels, twin(images, training=True))
            scaled = optimizer.scale_loss(loss)  # as `apply` expects; 1 but for `loss_scale_factor`
        gradients = distributed.average_gradients(tape.gradient(scaled, variables))
        if precondition is not None:
            gradients = precondition(variables, gradients)
        # A kernel has none whose shared values learn in its place, of which Keras would warn.
        learning = [pair for pair in zip(gradients, variables, strict=True) if pair[0] is not None]
        optimizer.apply(*zip(*learning, strict=True))
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

    node = twin.outputs[0].node
    layer = _unwrapped(node)
    # They keep the numbers: what is before them decides.
    while isinstance(layer, tf_keras.layers.Reshape | tf_keras.layers.Flatten) or (
        isinstance(layer, tf_keras.layers.Activation) and _name_of_activation(layer) == "linear"
    ):
        (node,) = node.parent_nodes
        layer = _unwrapped(node)
    if isinstance(layer, tf_keras.layers.Softmax):
        return True
    return _name_of_activation(layer) == "softmax"


def _unwrapped(node: Any) -> "tf_keras.layers.Layer":
    """The layer of a node, out of tfmot's wrapper."""
    return getattr(node.layer, "layer", node.layer)


def _name_of_activation(layer: "tf_keras.layers.Layer") -> str | None:
    activation = getattr(layer, "activation", None)
    activation = getattr(activation, "activation", activation)  # out of tfmot's wrapper too
    return getattr(activation, "__name__", None)
