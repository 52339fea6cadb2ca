"""How a network is trained while it is compressed, and what came out of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import keras
import numpy as np

from keras_squeezenet.checks import is_int, is_number
from keras_squeezenet.errors import InputError


class RetrainingError(InputError):
    """What was asked for cannot be trained; the text is one line."""


@dataclass(frozen=True)
class RunLength:
    """How long a training is.

    Attributes:
        epochs: those of a run that was stopped and goes on among them.
        steps_per_epoch: batches of an epoch.
    """

    epochs: int
    steps_per_epoch: int

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch


@dataclass(frozen=True)
class Retraining:
    """How a network is trained while and after it is compressed.

    Attributes:
        epochs: rounds of `steps_per_epoch` steps.
        steps_per_epoch: steps of each rank in an epoch. None: as many as the data has batches, of
            several ranks as the one that has fewest.
        learning_rate: of the first step, which falls to 0 along half a cosine; or a
            `keras.optimizers.schedules.LearningRateSchedule`. It is not scaled by the number of
            ranks.
        momentum: from 0 to below 1, of the default optimizer.
        optimizer: None, SGD with `momentum`; the name of an optimizer of Keras's, which gets
            `learning_rate`; or a `keras.optimizers.Optimizer` or its configuration, which brings
            rates of its own. It is copied for each training.
        callbacks: `keras.callbacks.Callback` objects, called as by `fit`, with the loss of the
            training data. Those that set the rate need an `optimizer` with a number for its rate.
            On several ranks each rank calls its own, with the mean loss over all at the end of an
            epoch; those that set rates or weights belong on every rank. See below for `cluster`
            and `quantize_aware`.

    `cluster` and `quantize_aware` train a network of tf_keras. The `model` of their callbacks is a
    Keras 3 copy, compiled with the optimizer that trains. At the end of an epoch it takes over the
    weights so far, on several ranks those of rank 0, and it keeps them until the end of the next
    one. That of `cluster` has the shared values in its kernels. That of `quantize_aware` is the
    network in float32, with preprocessing folded into its first convolution. Callbacks may
    evaluate and save it (a file has no optimizer), set `model.optimizer.learning_rate` and
    `model.stop_training`, which ends all ranks, and by `model.set_weights` put back what
    `model.get_weights` gave at the end of an epoch, as `EarlyStopping` does. Other weights that
    one sets are an error. `BackupAndRestore`, `SwapEMAWeights` and a `save_freq` in batches are
    refused.

    Raises:
        RetrainingError: names the attribute that is out of its range.
    """

    epochs: int = 1
    steps_per_epoch: int | None = None
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 1e-3
    momentum: float = 0.9
    optimizer: keras.optimizers.Optimizer | Mapping[str, Any] | str | None = None
    callbacks: Sequence[keras.callbacks.Callback] = ()

    def __post_init__(self) -> None:
        for name in ("epochs", "steps_per_epoch"):
            value = getattr(self, name)
            if not is_int(value, 1) and not (name == "steps_per_epoch" and value is None):
                raise RetrainingError(f"`{name}` must be an integer ≥ 1. Received: {name}={value}")
        rate, momentum = self.learning_rate, self.momentum
        if not self._has_schedule and not (is_number(rate) and 0 < rate < math.inf):
            raise RetrainingError(
                "`learning_rate` must be a number above 0, or a schedule of Keras's. "
                f"Received: learning_rate={rate}"
            )
        if not is_number(momentum) or not 0 <= momentum < 1:
            raise RetrainingError(
                f"`momentum` must be a number from 0 to below 1. Received: momentum={momentum}"
            )
        if self.optimizer is not None:
            self.make_optimizer(1)
        for callback in self.callbacks:
            if not isinstance(callback, keras.callbacks.Callback):
                raise RetrainingError(
                    "`callbacks` must be keras.callbacks.Callback objects. "
                    f"Received: callbacks with {callback}"
                )
        setting = keras.callbacks.LearningRateScheduler | keras.callbacks.ReduceLROnPlateau
        kinds = [type(each).__name__ for each in self.callbacks if isinstance(each, setting)]
        if kinds and isinstance(self.make_optimizer(1).get_config().get("learning_rate"), dict):
            raise RetrainingError(
                "`callbacks` that set the learning rate need an `optimizer` with a number for its "
                "rate, such as keras.optimizers.SGD(0.001, momentum=0.9). Received: callbacks "
                f"with {kinds[0]}, and a rate that follows a schedule"
            )

    @property
    def _has_schedule(self) -> bool:
        return isinstance(self.learning_rate, keras.optimizers.schedules.LearningRateSchedule)

    @property
    def has_own_rate(self) -> bool:
        """Whether `learning_rate` is no number from which the rate falls."""
        return self._has_schedule or not isinstance(self.optimizer, str | None)

    def make_optimizer(self, steps: int) -> keras.optimizers.Optimizer:
        """A new optimizer for a training of so many steps.

        Raises:
            RetrainingError: `optimizer` is none.
        """
        rate = self.learning_rate
        if not self._has_schedule:
            rate = keras.optimizers.schedules.CosineDecay(rate, steps)
        if self.optimizer is None:
            return keras.optimizers.SGD(rate, momentum=self.momentum)
        made = _optimizer_of(self.optimizer, rate)
        if not isinstance(made, keras.optimizers.Optimizer):
            raise RetrainingError(
                "`optimizer` must be a keras.optimizers.Optimizer, its configuration, or the name "
                f"of one. Received: optimizer={self.optimizer}"
            )
        return made


def checked_retraining(retraining: Retraining | None, argument: str = "retraining") -> Retraining:
    """The `Retraining` that was given, or the default one.

    Raises:
        RetrainingError: it is something else.
    """
    retraining = Retraining() if retraining is None else retraining
    if not isinstance(retraining, Retraining):
        raise RetrainingError(
            f"`{argument}` must be a Retraining. Received: {argument}={retraining!r:.100}"
        )
    return retraining


def _optimizer_of(asked: Any, rate: Any) -> Any:
    """A new optimizer, or what is none."""
    try:
        if isinstance(asked, keras.optimizers.Optimizer):
            return type(asked).from_config(asked.get_config())
        if isinstance(asked, str):
            asked = {"class_name": asked, "config": {"learning_rate": rate}}
        return keras.optimizers.deserialize(dict(asked))
    # What Keras says of a name or configuration that it does not know has several lines.
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


@dataclass(frozen=True)
class LayerStatistics:
    """The kernel of one layer after compression.

    Attributes:
        name: as in `Architecture.kernel_shapes`, fire2_squeeze1x1 for example.
        weights: number of weights.
        nonzero: how many of them are not 0.
        distinct: number of different values, 0 among them where it occurs.
    """

    name: str
    weights: int
    nonzero: int
    distinct: int

    @property
    def density(self) -> float:
        """Share of the weights that are not 0."""
        return self.nonzero / self.weights

    @classmethod
    def of(cls, name: str, kernel: np.ndarray) -> Self:
        return cls(name, kernel.size, int(np.count_nonzero(kernel)), len(np.unique(kernel)))


@dataclass(frozen=True, eq=False)
class Compressed:
    """A compressed network and what it is worth.

    Attributes:
        model: a new `keras.Model`; the one that was compressed is as it was.
        layers: the kernels in the order of execution.
        before: top-1 accuracy (0 to 1) of the model that came on the validation data, over all
            ranks; None without validation data.
        after: the same of `model`.
    """

    model: keras.Model
    layers: tuple[LayerStatistics, ...]
    before: float | None
    after: float | None

    @classmethod
    def of(
        cls,
        model: keras.Model,
        kernels: Mapping[str, np.ndarray],
        before: float | None,
        after: float | None,
    ) -> Self:
        """With the statistics of kernels by their names."""
        layers = tuple(LayerStatistics.of(*item) for item in kernels.items())
        return cls(model, layers, before, after)

    @property
    def density(self) -> float:
        """Share of the weights of all kernels that are not 0."""
        nonzero = sum(layer.nonzero for layer in self.layers)
        return nonzero / sum(layer.weights for layer in self.layers)


def check_backend() -> None:
    """Refuse backends without Horovod and, of twins, without tf_keras.

    Raises:
        RetrainingError: Keras does not compute with TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise RetrainingError(
            "Networks are retrained with Keras's TensorFlow backend; in fit, `MagnitudePruning` "
            f"takes any. Received: backend={keras.backend.backend()}"
        )


def check_classifier(model: Any) -> None:
    """Refuse what is no Keras 3 classifier.

    Raises:
        RetrainingError: `model` is none.
    """
    check_backend()
    if not isinstance(model, keras.Model):
        raise RetrainingError(f"`model` must be a Keras 3 model. Received: model={type(model)}")
    outputs = [tuple(output.shape) for output in getattr(model, "outputs", None) or ()]
    inputs = getattr(model, "inputs", None) or ()
    if len(outputs) != 1 or len(outputs[0]) != 2 or len(inputs) != 1:
        raise RetrainingError(
            "`model` must have one input and one output (batch, classes). "
            f"Received: {len(inputs)} inputs, outputs {outputs}"
        )
