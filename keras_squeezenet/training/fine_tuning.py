"""Training from loaded weights that begins with the best last layer, and does not forget.

1. The new last layer is fitted to the features as they are. Behind it comes the mean over all
   positions, and both are linear: the fit is a logistic regression, which has one best solution.
   It takes one look at each image, and nothing has to be set.
2. Then all layers learn; those near the input with lower rates, where that is asked for: what they
   know, edges and colours, serves every kind of images (Yosinski et al., arXiv 1411.1792, and
   Howard and Ruder, arXiv 1801.06146, section 3.2, who divide the rate by 2.6 from layer to
   layer).

Rates at which a network has begun to forget are lowered by `backtracking`.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import keras
import numpy as np
from numpy.typing import NDArray

from keras_squeezenet import distributed
from keras_squeezenet.data.dataset import Dataset
from keras_squeezenet.data.examples import evenly_spread
from keras_squeezenet.distributed.optimizer import plain_optimizer
from keras_squeezenet.errors import InputError, one_line
from keras_squeezenet.extras import from_extra
from keras_squeezenet.network.data_formats import Tensor
from keras_squeezenet.network.graph import (
    last_layer,
    set_weight_decay,
    variable_key,
    weight_decay_of,
)
from keras_squeezenet.network.heads import head_of

# Features, divided by their root mean square, are the same to the penalty whatever the network.
# With a weaker one training photos end at probabilities near 1, from which the layers below learn
# nothing any more.
INVERSE_PENALTY = 0.1
ITERATIONS = 300

# More would add little, and solving would take longer than looking at them.
MOST_IMAGES = 20_000

BATCH = 32

# Layers behind the last one with weights that leave its output a linear function of features.
LINEAR = (
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.Identity,
    keras.layers.Reshape,
)

# Log-odds of a class without a single readable image, below the rarest one's.
MARGIN_OF_UNSEEN = 5.0


class LastLayer:
    """Fits the last layer of a network to the features below it, over all ranks.

    Args:
        network: whose weights are overwritten; of the image size of evaluation, since its features
            are those that will be classified. Its last layer is Dense, or a 1×1 convolution with
            the mean over all positions behind it, without activation.
        dataset: the `Dataset`; of its training images evaluation's crops are taken.
        smoothing: of the labels in the loss that is told; the fit has none.

    Raises:
        InputError: the network ends otherwise.
    """

    def __init__(self, network: keras.Model, dataset: Dataset, smoothing: float = 0.0) -> None:
        self.network = network
        self.split = replace(dataset.train, framing=dataset.val.framing)
        self.smoothing = smoothing
        self._features = keras.Model(network.inputs, _features_of(network))
        self._head = last_layer(network)

    def fit(
        self, weights: Sequence[np.ndarray], after_batch: Callable[[], None] = lambda: None
    ) -> tuple[list[np.ndarray], np.ndarray, dict[str, float]]:
        """The weights of the network with the last layer fitted; equal on all ranks.

        Args:
            weights: of the network, in Keras's order, equal on all ranks.
            after_batch: called equally often on every rank. It may have collective operations.

        Returns:
            (weights, indices of the images that were looked at, metrics): the metrics are those of
            training, means over these images.

        Raises:
            InputError: on all ranks, if the features are not finite.
        """
        self.network.set_weights(weights)
        ranks = distributed.size()
        looked_at = evenly_spread(self.split.count, MOST_IMAGES)
        own = looked_at[distributed.rank() :: ranks]
        seen_features, seen_labels = [], []
        for images, batch_labels in self.split.batches_at(own, BATCH):
            seen_features.append(self._features.predict_on_batch(images))
            seen_labels.append(batch_labels.numpy())
            after_batch()
        for _ in range(len(seen_features), math.ceil(len(looked_at[::ranks]) / BATCH)):
            after_batch()
        shards = distributed.gather((seen_features, seen_labels))
        found = None
        if distributed.rank() == 0:
            features = np.concatenate([part for shard, _ in shards for part in shard])
            labels = np.concatenate([part for _, shard in shards for part in shard])
            if np.isfinite(features).all():
                kernel, bias = fit_softmax(features, labels, len(self.split.class_names))
                logits = features @ kernel + bias
                found = kernel, bias, _metrics(logits, labels, self.smoothing)
        found = distributed.broadcast(found)
        if found is None:
            raise InputError(
                f"The network's features are no finite numbers: {self.network.name}, with the "
                "weights that fine-tuning begins with (model.weights)"
            )
        kernel, bias, metrics = found
        layer = self._head
        layer.set_weights([kernel.reshape(layer.kernel.shape), bias])
        return self.network.get_weights(), looked_at, metrics


def fit_softmax(
    features: np.ndarray, labels: np.ndarray, classes: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Multinomial logistic regression with a penalty on the squared kernel.

    Args:
        features: float `[n, features]`.
        labels: int `[n]`, 0 to `classes` - 1; a class may be missing.
        classes: number of classes.

    Returns:
        (kernel, bias): float32 `[features, classes]` and `[classes]`; softmax of features · kernel
        + bias are the probabilities.
    """
    # Half a second that only fine-tuning needs.
    with from_extra("train"):
        from sklearn.linear_model import LogisticRegression

    present = np.unique(labels)
    kernel = np.zeros((features.shape[1], classes))
    bias = np.zeros(classes)
    if len(present) > 1:
        scale = math.sqrt(np.mean(np.square(features, dtype="float64"))) or 1.0
        found = LogisticRegression(C=INVERSE_PENALTY, max_iter=ITERATIONS)
        found.fit(features / scale, labels)
        if len(present) == 2:  # one column, the log-odds of the second class
            rows = np.concatenate([-found.coef_, found.coef_]) / 2
            intercept = np.array([-found.intercept_[0], found.intercept_[0]]) / 2
        else:
            rows, intercept = found.coef_, found.intercept_
        kernel[:, present] = rows.T / scale
        bias[present] = intercept
    missing = np.setdiff1d(np.arange(classes), present)
    if len(present):
        bias[missing] = bias[present].min() - MARGIN_OF_UNSEEN
    return kernel.astype("float32"), bias.astype("float32")


def scale_rates(optimizer: keras.optimizers.Optimizer, model: keras.Model, decay: float) -> None:
    """Have each layer of a model learn at `decay` times the rate of the one above it.

    The optimizer keeps its class, so that models are saved with the plain one. Its weight decay
    follows the rates.

    Args:
        optimizer: a `keras.optimizers.Optimizer`, which is changed in place.
        model: whose last layer learns at the optimizer's rate. A Fire is one layer.
        decay: above 0, at most 1.
    """
    layers = [layer for layer in model.layers if layer.weights]
    factors = {
        variable_key(optimizer, variable): decay**depth
        for depth, layer in enumerate(reversed(layers))
        for variable in layer.trainable_variables
    }
    update = _ScaledUpdate(optimizer, factors)
    optimizer.update_step = update
    set_weight_decay(optimizer, update.decay)


def set_rate_share(model: keras.Model, share: float) -> None:
    """Multiply the rates of all layers, from now on; 1 at the beginning.

    Args:
        model: compiled with an optimizer of `scale_rates`.
        share: above 0, in place of the one that was set before.
    """
    optimizer = plain_optimizer(model.optimizer)
    optimizer.update_step.share.assign(share)


class _ScaledUpdate:
    """The `update_step` of an optimizer, and its weight decay, with a rate for each variable.

    Attributes:
        share: of all rates, a variable: the compiled step reads it anew each time.
    """

    def __init__(
        self, optimizer: keras.optimizers.Optimizer, factors: Mapping[object, float]
    ) -> None:
        self.share = keras.Variable(1.0, trainable=False, name="rate_share")
        self._optimizer = optimizer
        self._update_step = optimizer.update_step
        self._decay = weight_decay_of(optimizer)
        self._factors = factors

    def __call__(self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor) -> None:
        factor = self._factors[variable_key(self._optimizer, variable)]
        rate = learning_rate * factor * keras.ops.cast(self.share, learning_rate.dtype)
        self._update_step(gradient, variable, rate)

    def decay(self, variables: Iterable[keras.Variable]) -> None:
        """The decay of each variable; Keras takes the schedule's rate for all."""
        whole = self._optimizer.weight_decay
        if whole is None:
            return
        for variable in variables:
            factor = self._factors[variable_key(self._optimizer, variable)]
            self._optimizer.weight_decay = whole * factor * keras.ops.convert_to_tensor(self.share)
            self._decay([variable])
        self._optimizer.weight_decay = whole


def _features_of(network: keras.Model) -> keras.KerasTensor:
    """What the last layer is a linear function of, `(batch, features)`."""
    try:
        head, _, tail = head_of(network)
    except ValueError as error:
        raise InputError(f"fine_tuning: {one_line(error)}") from None
    *linear, softmax = [head, *tail]
    fits = _activation_of(softmax) == "softmax" and all(map(_is_linear, linear))
    if fits and isinstance(head, keras.layers.Dense) and len(head.input.shape) == 2:
        return head.input
    convolves = isinstance(head, keras.layers.Conv2D) and head.groups == 1
    if fits and convolves and head.kernel_size == head.strides == (1, 1):
        return keras.ops.mean(head.input, axis=_positions())
    raise InputError(
        "fine_tuning needs a network whose last layer is Dense, or a 1×1 convolution with the mean "
        "over all positions behind it, with no activation but the softmax. "
        f"Received: {network.name}, which ends in "
        f"{', '.join(f'{layer.name} ({type(layer).__name__})' for layer in [head, *tail])}"
    )


def _activation_of(layer: keras.layers.Layer) -> str | None:
    """The name of what a layer computes last, "linear" where that is no activation."""
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    return getattr(getattr(layer, "activation", keras.activations.linear), "__name__", None)


def _is_linear(layer: keras.layers.Layer) -> bool:
    """Whether a layer at the end of a classifier adds no bend: the last one with weights too."""
    kinds = (keras.layers.Activation, keras.layers.Conv2D, keras.layers.Dense, *LINEAR)
    return isinstance(layer, kinds) and _activation_of(layer) == "linear"


def _positions() -> tuple[int, int]:
    return (1, 2) if keras.config.image_data_format() == "channels_last" else (2, 3)


def _metrics(logits: np.ndarray, labels: np.ndarray, smoothing: float) -> dict[str, float]:
    """Mean loss and accuracy, as training tells them."""
    logits = logits - logits.max(axis=1, keepdims=True)
    log_shares = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    of_label = log_shares[np.arange(len(labels)), labels]
    loss = (smoothing - 1) * of_label - smoothing * log_shares.mean(axis=1)
    return {
        "loss": float(loss.mean()),
        "accuracy": float(np.mean(logits.argmax(axis=1) == labels)),
    }
