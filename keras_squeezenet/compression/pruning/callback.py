"""Magnitude pruning in `fit`, of any Keras 3 model on any backend.

Zhu and Gupta, arXiv 1710.01878: the smallest weights of each kernel are set to 0, more and more of
them, while the others learn to do without; Han et al., arXiv 1506.02626.

On the same schedule it does what tfmot's `prune_low_magnitude` does to Keras 2 models. There a
step masks the weights before it uses them, and a step that prunes ranks what the update before has
made of all of them, zeros included: one that has grown enough comes back.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_squeezenet.compression.pruning.kernels import Kernel, kernels_of
from keras_squeezenet.compression.pruning.masking import Masking
from keras_squeezenet.compression.pruning.masks import Mask, greatest, two_of_four
from keras_squeezenet.compression.pruning.schedules import (
    ConstantSparsity,
    Prunings,
    RunLength,
    Schedule,
    checked_schedule,
)
from keras_squeezenet.compression.pruning.sparsities import Sparsity, layer_sparsities
from keras_squeezenet.compression.retraining import RetrainingError
from keras_squeezenet.network.graph import moving_average_of, plain_optimizers

log = logging.getLogger(__name__)

STRUCTURES = (None, "2:4")


@dataclass(eq=False)
class _Pruned:
    """A kernel and its mask.

    Attributes:
        kernel: what is pruned.
        sparsity: share of zeros in the end.
        present: share of zeros that the schedule's curve begins with.
        alive: what was not 0 when the training began; the rest stays 0.
        mask: what is not 0 now.
        on_device: `mask` as a tensor.
        unmasked: what the last update made of the kernel, if the next step ranks that.
    """

    kernel: Kernel
    sparsity: float
    present: float
    alive: Mask
    mask: Mask
    on_device: Any
    unmasked: np.ndarray | None = None

    @classmethod
    def of(cls, kernel: Kernel, sparsity: float, *, amid: bool) -> "_Pruned":
        """`amid`: whether the schedule has begun, in a run that was stopped and goes on."""
        alive = _values(kernel.variable) != 0
        # Some zeros of a run that goes on are the curve's own, which began below them.
        present = 0.0 if amid else 1 - float(np.mean(alive))
        return cls(kernel, sparsity, present, alive, alive, ops.convert_to_tensor(alive))

    def latest(self) -> np.ndarray:
        """What the last update made of the kernel; its values where others took their place."""
        values = _values(self.kernel.variable)
        unmasked, self.unmasked = self.unmasked, None
        if unmasked is not None and np.array_equal(np.where(self.mask, unmasked, 0), values):
            return unmasked
        return values

    def set(self, values: np.ndarray, mask: Mask) -> None:
        self.mask, self.on_device = mask, ops.convert_to_tensor(mask)
        self.kernel.variable.assign(np.where(mask, values, 0))


class MagnitudePruning(keras.callbacks.Callback):
    """Prune a model's kernels while `fit` trains it: of each the smallest weights become 0.

    Kernels of Dense, EinsumDense and all convolutions are pruned, of separable ones the pointwise
    kernels. Depthwise kernels, biases, and kernels that do not learn (`trainable`) never are.
    Zeros that a kernel has already stay zeros. From the end of a step to the next one every weight
    that is left out is exactly 0.0, so validation, checkpoints and early stopping see the pruned
    model. Put this first in the list of callbacks, but for `BroadcastState`. `logs` of an epoch,
    and the history, have the share of zeros in the pruned kernels as "sparsity".

    A run that goes on with the same model and callback at `initial_epoch` ends as one that was not
    interrupted. With a new callback zeros that were made before stay zeros.

    Args:
        sparsity: share of zeros in every kernel, from 0 to below 1; a dict of that by layer names,
            other layers are left; a function of name and kernel shape that gives that; or
            "deep_compression", see `deep_compression_sparsity`. None: 0.67, or what `structure`
            says. A layer within a layer has that one's name before its own: fire2_squeeze1x1.
        schedule: a `PolynomialDecay` (the default) or `ConstantSparsity`. Its epochs and steps are
            those of `fit`.
        structure: None, zeros anywhere; "2:4", two of four neighbours in the input channels are 0,
            from the first step on, which takes neither `sparsity` nor `schedule`.

    Raises:
        RetrainingError: for arguments that do not go together; in `fit`, for a schedule that would
            not prune in the run, data without a length where `steps_per_epoch` is not given,
            `steps_per_execution` above 1, names that are no kernel's.

    Example, of a model that would have been trained:

    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((8, 8, 3)),
    ...         keras.layers.Conv2D(8, 3, activation="relu"),
    ...         keras.layers.GlobalAveragePooling2D(),
    ...         keras.layers.Dense(10),
    ...     ]
    ... )
    >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> model.compile("adam", loss, jit_compile=False)
    >>> images, labels = np.random.rand(64, 8, 8, 3), np.arange(64) % 10
    >>> pruning = MagnitudePruning(sparsity=0.75, schedule=PolynomialDecay(end=2))
    >>> history = model.fit(images, labels, batch_size=16, epochs=3, verbose=0, callbacks=[pruning])
    >>> [round(share, 2) for share in history.history["sparsity"]]
    [0.66, 0.75, 0.75]
    """

    def __init__(
        self,
        sparsity: Sparsity = None,
        schedule: Schedule | None = None,
        structure: str | None = None,
    ) -> None:
        super().__init__()
        _check_structure(structure, sparsity, schedule)
        self.sparsity = sparsity
        self.schedule = ConstantSparsity() if structure else checked_schedule(schedule)
        self.structure = structure
        self._run = RunLength(0, 0)
        self._prunings = Prunings(0, 0, 1)
        self._sparsities: dict[str, float] = {}
        self._pruned: dict[str, _Pruned] = {}
        self._begun = False  # whether this run has taken a step
        self._first_epoch: int | None = None
        self._masking: Masking | None = None
        self._step = 0  # the last one that was taken, of the run that began in epoch 0

    def on_train_begin(self, logs: Any = None) -> None:
        model = self.model
        at_once = getattr(model, "steps_per_execution", 1)
        if at_once != 1:
            raise RetrainingError(
                "Pruning needs a model that is compiled with steps_per_execution=1, because it "
                f"masks weights after each step. Received: steps_per_execution={at_once}"
            )
        if self.params.get("steps") is None:
            raise RetrainingError(
                "Pruning needs `steps_per_epoch` of fit where the data has no length, because its "
                "schedule is one of a whole run. Received: steps_per_epoch=None"
            )
        self._run = RunLength(self.params["epochs"], self.params["steps"])
        self._prunings, self._sparsities = self.check(model, self._run)
        self._begun, self._first_epoch = False, None

    def check(self, model: keras.Model, run: RunLength) -> tuple[Prunings, dict[str, float]]:
        """When a run would prune, and how far by kernel names.

        Raises:
            RetrainingError: the model or the run does not go with the arguments.
        """
        # A structure leaves no kernel out.
        asked = (lambda name, shape: 0.5) if self.structure else self.sparsity
        return self.schedule.steps(run), layer_sparsities(asked, self._learning(model))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._first_epoch is None:
            self._first_epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        model = self.model  # this also gives the variables of a model that JAX trains their values
        if not self._begun:
            self._begin(model)
        step = self._step + 1
        if self._prunes(step):
            for pruned in self._pruned.values():
                values = pruned.latest()
                pruned.set(values, self._chosen(pruned, values, step))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        model = self.model
        self._step += 1
        if self._prunes(self._step + 1):
            for pruned in self._pruned.values():
                pruned.unmasked = _values(pruned.kernel.variable)
        masks = list(self._masked(model))
        variables = [variable for _, variable in masks]
        if self._masking is None or not self._masking.covers(variables):
            self._masking = Masking(variables)
        self._masking([pruned.on_device for pruned, _ in masks])

    def _masked(self, model: keras.Model) -> Iterator[tuple[_Pruned, keras.Variable]]:
        """Each kernel, and its average: the weights that a run with `use_ema=True` ends with."""
        optimizers = plain_optimizers(getattr(model, "optimizer", None))
        for pruned in self._pruned.values():
            variable = pruned.kernel.variable
            yield pruned, variable
            for optimizer in optimizers:
                average = moving_average_of(optimizer, variable)
                if average is not None:
                    yield pruned, average

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if logs is not None:
            logs["sparsity"] = self.achieved_sparsity

    def on_train_end(self, logs: Any = None) -> None:
        if self._step < self._prunings.last:
            log.warning(
                "The training ended at step %d, before its pruning schedule did at step %d: "
                "%.3f of the weights of the pruned kernels are 0",
                self._step,
                self._prunings.last,
                self.achieved_sparsity,
            )

    @property
    def achieved_sparsity(self) -> float:
        """Share of zeros in all pruned kernels together."""
        masks = [pruned.mask for pruned in self._pruned.values()]
        weights = sum(mask.size for mask in masks)
        return 1 - sum(int(np.count_nonzero(mask)) for mask in masks) / max(weights, 1)

    @staticmethod
    def _learning(model: keras.Model) -> dict[str, Kernel]:
        every = kernels_of(model).items()
        return {name: kernel for name, kernel in every if kernel.variable.trainable}

    def _begin(self, model: keras.Model) -> None:
        """Find kernels and zeros, once what other callbacks load or broadcast has its place."""
        self._begun = True
        first_step = (self._first_epoch or 0) * self._run.steps_per_epoch
        kernels = self._learning(model)
        if not self._goes_on(kernels, first_step):
            amid = first_step > self._prunings.first
            self._pruned = {
                name: _Pruned.of(kernels[name], sparsity, amid=amid)
                for name, sparsity in self._sparsities.items()
                if sparsity
            }
        self._step = first_step

    def _goes_on(self, kernels: dict[str, Kernel], first_step: int) -> bool:
        """Whether the model is as the run before left it, and its next step is taken now."""
        return (
            0 < first_step == self._step
            and all(
                name in kernels and kernels[name].variable is pruned.kernel.variable
                for name, pruned in self._pruned.items()
            )
            and not any(
                _values(pruned.kernel.variable)[~pruned.mask].any()
                for pruned in self._pruned.values()
            )
        )

    def _prunes(self, step: int) -> bool:
        return self._prunings.include(step)

    def _chosen(self, pruned: _Pruned, values: np.ndarray, step: int) -> Mask:
        if self.structure:
            return two_of_four(values, pruned.kernel.input_axes, pruned.alive)
        share = self.schedule.share(step, self._prunings, pruned.sparsity, pruned.present)
        return greatest(values, share, pruned.alive)


def _check_structure(structure: str | None, sparsity: Sparsity, schedule: Schedule | None) -> None:
    if structure not in STRUCTURES:
        raise RetrainingError(f"`structure` must be None or '2:4'. Received: structure={structure}")
    if structure is not None and (sparsity is not None or schedule is not None):
        raise RetrainingError(
            "`structure` '2:4' fixes sparsity and schedule. "
            f"Received: sparsity={sparsity}, schedule={schedule}"
        )


def _values(variable: keras.Variable) -> np.ndarray:
    """A copy, in float32 at least: of bfloat16 torch makes no arrays."""
    dtype = "float64" if variable.dtype == "float64" else "float32"
    return np.array(ops.convert_to_numpy(ops.cast(variable, dtype)))
