"""The callbacks of a `Retraining` around the steps of a tf_keras twin, called as `fit` calls them.

Callbacks of Keras 3 work on a Keras 3 model: they read its weights, save it, set its optimizer's
rate and tell it to stop. They get a copy of the model that came, which has the twin's weights as
they were at the end of an epoch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_squeezenet.compression.copies import copy_of
from keras_squeezenet.compression.retraining import RetrainingError, RunLength
from keras_squeezenet.network.graph import ends_in_softmax

if TYPE_CHECKING:  # imported on use
    import tf_keras


@dataclass(frozen=True)
class Seen:
    """What callbacks see of a twin.

    Attributes:
        model: a Keras 3 classifier that computes as the twin. It is copied where there are
            callbacks, and not changed.
        copy_weights: gives a copy of it the twin's weights. Training goes on as without it.
    """

    model: keras.Model
    copy_weights: Callable[[keras.Model], None]


def check_callbacks(callbacks: Sequence[keras.callbacks.Callback]) -> None:
    """Refuse Keras's callbacks that take the copy for the model that trains.

    Raises:
        RetrainingError: names the callback.
    """
    for callback in callbacks:
        kind = type(callback).__name__
        if isinstance(callback, keras.callbacks.BackupAndRestore | keras.callbacks.SwapEMAWeights):
            raise RetrainingError(
                "`callbacks` must leave the weights to cluster and quantize_aware, which train "
                f"another network than the callbacks' model. Received: callbacks with {kind}"
            )
        frequency = getattr(callback, "save_freq", "epoch")
        if frequency != "epoch":
            raise RetrainingError(
                "`callbacks` of cluster and quantize_aware save at the end of an epoch, when "
                "their model has the weights so far: save_freq='epoch' is expected. "
                f"Received: callbacks with {kind}, save_freq={frequency}"
            )


class Hooks:
    """What `retrain` calls around its steps. Here, without callbacks, nothing happens."""

    def begin_training(self) -> None:
        pass

    def begin_epoch(self, epoch: int) -> None:
        pass

    def begin_step(self, number: int) -> None:
        pass

    def end_step(self, number: int, loss: Any, examples: int) -> bool:
        """Whether training ends here, the same on all ranks."""
        return False

    def end_epoch(self, epoch: int, loss: float) -> bool:
        """Whether training ends here, the same on all ranks."""
        return False

    def end_training(self) -> None:
        pass


def hooks_of(
    callbacks: Sequence[keras.callbacks.Callback],
    twin: "tf_keras.Model",
    seen: Seen | None,
    optimizer: keras.optimizers.Optimizer,
    run: RunLength,
) -> Hooks:
    """What calls the callbacks of all ranks.

    Args:
        callbacks: this rank's; some ranks may have none, as where one alone writes files.
        seen: needed if any rank has one.

    Raises:
        RetrainingError: as `check_callbacks`.
    """
    from keras_squeezenet import distributed

    check_callbacks(callbacks)
    # Every rank has to know, for they tell each other when to stop.
    if seen is None or not any(distributed.gather(bool(callbacks))):
        return Hooks()
    return _Calls(callbacks, _Copy(twin, seen, optimizer), run)


class _Calls(Hooks):
    """Calls callbacks in the order of `fit`, and ends all ranks when one of them is to stop."""

    def __init__(
        self, callbacks: Sequence[keras.callbacks.Callback], copy: "_Copy", run: RunLength
    ) -> None:
        self._copy = copy
        self._callbacks = keras.callbacks.CallbackList(
            list(callbacks),
            add_history=True,
            model=copy.model,
            verbose=0,
            epochs=run.epochs,
            steps=run.steps_per_epoch,
        )
        self._logs: dict[str, float] = {}

    def begin_training(self) -> None:
        self._copy.update()
        self._copy.model.stop_training = False
        self._callbacks.on_train_begin()
        self._copy.check_weights()

    def begin_epoch(self, epoch: int) -> None:
        self._sum, self._examples = 0.0, 0
        self._callbacks.on_epoch_begin(epoch)
        self._copy.check_weights()

    def begin_step(self, number: int) -> None:
        self._copy.is_current = False
        self._callbacks.on_train_batch_begin(number)

    def end_step(self, number: int, loss: Any, examples: int) -> bool:
        self._sum += float(loss) * examples
        self._examples += examples
        self._callbacks.on_train_batch_end(number, {"loss": self._sum / self._examples})
        return self._stops()

    def end_epoch(self, epoch: int, loss: float) -> bool:
        self._copy.check_weights()
        self._copy.update()
        self._logs = {"loss": loss}
        self._callbacks.on_epoch_end(epoch, self._logs)
        self._copy.check_weights()
        return self._stops()

    def end_training(self) -> None:
        self._copy.update()  # the optimizer may have put averages in the weights' place
        self._callbacks.on_train_end(self._logs)
        self._copy.check_weights()

    def _stops(self) -> bool:
        from keras_squeezenet import distributed

        return bool(distributed.total(bool(self._copy.model.stop_training)) > 0)


class _Weights(list):
    """The weights of a copy, and all variables of its twin at that time.

    Of the weights alone a twin could not be made again: a codebook was trained with the weights
    before they shared values.
    """

    def __init__(self, weights: Sequence[np.ndarray], of: "_Copy", in_twin: list[np.ndarray]):
        super().__init__(weights)
        self.of, self.in_twin = of, in_twin


class _Copy:
    """The model that callbacks see.

    What they may do with it as in `fit`: evaluate, save, set the optimizer's rate, stop, and put
    weights back that they took at the end of an epoch.

    Attributes:
        model: the `keras.Model`.
        is_current: whether its weights are the twin's now.
    """

    def __init__(
        self, twin: "tf_keras.Model", seen: Seen, optimizer: keras.optimizers.Optimizer
    ) -> None:
        self.is_current = False
        self._twin, self._copy_weights = twin, seen.copy_weights
        self.model = model = copy_of(seen.model)
        model.compile(
            optimizer,
            keras.losses.SparseCategoricalCrossentropy(from_logits=not ends_in_softmax(model)),
            jit_compile=False,
            auto_scale_loss=False,  # the twin computes in float32
        )
        self._get, self._set = model.get_weights, model.set_weights
        # On the instances: their classes have to be those that a file names.
        model.get_weights, model.set_weights = self._taken, self._put_back
        # The optimizer's variables are those of the twin. No file of the model can have them.
        model.get_compile_config = dict
        optimizer.save_own_variables = lambda store: None

    def update(self) -> None:
        """Give the model the weights of the twin, on all ranks those of rank 0, as at the end."""
        from keras_squeezenet import distributed

        self._copy_weights(self.model)
        distributed.broadcast_weights(self.model)
        self._weights = self._get()
        self.is_current = True

    def check_weights(self) -> None:
        """Refuse weights that a callback set and no twin has.

        Raises:
            RetrainingError: there are some.
        """
        for weight, known, now in zip(self.model.weights, self._weights, self._get(), strict=True):
            if not np.array_equal(known, now, equal_nan=True):
                raise RetrainingError(
                    "`callbacks` of cluster and quantize_aware may put back what "
                    "`model.get_weights()` gave at the end of an epoch, by `model.set_weights`, "
                    f"and no other weights. Received: new values of {weight.path}"
                )

    def _taken(self) -> list[np.ndarray]:
        if not self.is_current:
            return self._get()
        return _Weights(self._get(), self, self._twin_variables())

    def _put_back(self, weights: Sequence[np.ndarray]) -> None:
        self._set(weights)
        if isinstance(weights, _Weights) and weights.of is self:
            for variable, value in zip(self._twin.variables, weights.in_twin, strict=True):
                variable.assign(value)
            self._weights = self._get()
            self.is_current = True

    def _twin_variables(self) -> list[np.ndarray]:
        return [variable.numpy() for variable in self._twin.variables]
