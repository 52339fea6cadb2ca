"""An optimizer that averages its gradients over all ranks, sent in 16 bits if asked (fp16)."""

import functools
import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import keras

from keras_squeezenet.checks import is_int
from keras_squeezenet.distributed.ranks import communicates
from keras_squeezenet.extras import from_extra

with from_extra("train"):
    import tensorflow as tf

Compression = Literal["fp16"] | None
COMPRESSIONS: tuple[Compression, ...] = (None, "fp16")
# One for each variable; None where no gradient reaches it.
Gradients = Sequence[tf.Tensor | None]
Variables = Sequence[keras.Variable]


def DistributedOptimizer(
    optimizer: keras.optimizers.Optimizer,
    compression: Compression = None,
    accumulation_steps: int = 1,
) -> keras.optimizers.Optimizer:
    """Make a Keras 3 optimizer average its gradients over all ranks before it applies them.

    The gradients of one step travel in one group. The averaged step on N ranks with batches of
    B equals one process's step on the joined batch of N·B (data-parallel synchronous SGD).
    Clipping and weight decay come after the average, as they would in one process.

    The optimizer keeps its class, so that models are saved with the plain optimizer and load
    where neither Horovod nor this package is installed.

    Ranks may be joined before or after this call, by `start()` or `hvd.init()`. The first step of
    a process that a launcher started and that has joined nobody raises a `LauncherError`.

    Args:
        optimizer: any `keras.optimizers.Optimizer`, built or not. It is changed in place.
        compression: None, or "fp16": gradients travel as 16-bit floats, half the bytes.
        accumulation_steps: steps whose gradients are averaged locally before they travel and
            are applied once. `optimizer.iterations` counts what was applied. Gradients of an
            incomplete group are not part of a saved model; `apply_incomplete_group` applies them.

    Returns:
        The optimizer. Under the "mixed_float16" policy a `LossScaleOptimizer` around it. That, and
        one that `Model.compile` puts around it later because of the model's policy, decides after
        the average whether a gradient is finite, so that ranks never differ.

    Raises:
        ValueError: for arguments outside these, or an optimizer that is distributed already.

    Example, which runs on one process and, after `horovodrun`, on several:

    >>> distributed.start()
    >>> model = SqueezeNet(weights=None, classes=10, input_shape=(32, 32, 3))
    >>> optimizer = DistributedOptimizer(keras.optimizers.SGD(0.01), compression="fp16")
    >>> model.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=False)
    >>> callbacks = [BroadcastState(), AverageMetrics()]  # for `model.fit`
    """
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise ValueError(
            f"`optimizer` must be a keras.optimizers.Optimizer. Received: optimizer={optimizer}"
        )
    if compression not in COMPRESSIONS:
        raise ValueError(
            f"`compression` must be None or 'fp16'. Received: compression={compression}"
        )
    if not is_int(accumulation_steps, 1):
        raise ValueError(
            "`accumulation_steps` must be an integer ≥ 1. "
            f"Received: accumulation_steps={accumulation_steps}"
        )
    if _averaging(optimizer) is not None:
        raise ValueError(f"`optimizer` is distributed already. Received: optimizer={optimizer}")
    mixed_float16 = keras.config.dtype_policy().name == "mixed_float16"
    if mixed_float16 and not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    _average_before_loss_scaling()
    # On the instance: Keras saves an optimizer by its class, which stays what it was.
    optimizer.apply = _AveragedApply(optimizer, compression, accumulation_steps)
    return optimizer


def apply_incomplete_group(model: keras.Model) -> None:
    """Apply the mean of the gradients that wait for a group of `accumulation_steps` to be whole.

    For the end of an epoch: what is saved then has everything that was trained on. All ranks call
    it after the same step. Nothing is done where none wait.

    Args:
        model: compiled with a `DistributedOptimizer`.
    """
    averaging = _averaging(model.optimizer)
    if averaging is not None:
        averaging.apply_waiting(model.trainable_variables)


class _AveragedApply:
    """The `apply` of an optimizer, or of one with loss scaling around it, on averaged gradients."""

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer,
        compression: Compression,
        accumulation_steps: int,
    ) -> None:
        self._inner = optimizer
        self._inner_apply = optimizer.apply
        self._outer, self._outer_apply = optimizer, optimizer.apply
        self._averaged = False  # while what is applied is an average already
        self._compression = compression
        self._steps = accumulation_steps
        # Not the optimizer's own variables: the saved optimizer must be the plain one.
        # Variables of TensorFlow's from the first step on; no sum where no gradient comes.
        self._sums: list[Any] = []
        self._waiting: Any = None

    def __call__(self, grads: Gradients, trainable_variables: Variables | None = None) -> None:
        if self._averaged:
            self._inner_apply(grads, trainable_variables)
        else:
            self.apply_around(self._inner, self._inner_apply, grads, trainable_variables)

    def apply_around(
        self,
        outer: keras.optimizers.Optimizer,
        outer_apply: Callable[[Gradients, Variables | None], None],
        grads: Gradients,
        trainable_variables: Variables | None = None,
    ) -> None:
        """Average, then have an optimizer apply that is ours or has ours inside.

        Args:
            outer: the optimizer.
            outer_apply: its own `apply`.
        """
        self._outer, self._outer_apply = outer, outer_apply
        if self._steps == 1:
            self._apply_averaged(grads, trainable_variables)
        else:
            self._accumulate(grads, trainable_variables)

    def apply_waiting(self, trainable_variables: Variables) -> None:
        if self._waiting is not None and int(self._waiting) > 0:
            self._apply_mean(trainable_variables)

    def _apply_averaged(self, grads: Gradients, trainable_variables: Variables | None) -> None:
        averages = average_gradients(grads, self._compression)
        with self._of_averages():
            self._outer_apply(averages, trainable_variables)

    @contextmanager
    def _of_averages(self) -> Iterator[None]:
        self._averaged = True
        try:
            yield
        finally:
            self._averaged = False

    def _accumulate(self, grads: Gradients, trainable_variables: Variables | None) -> None:
        """Sum gradients here, and apply their mean every few calls."""
        grads = [None if grad is None else tf.convert_to_tensor(grad) for grad in grads]
        if self._waiting is None:
            with tf.init_scope():
                if not self._outer.built:
                    self._outer.build(trainable_variables)
                self._sums = [
                    None if grad is None else tf.Variable(tf.zeros(grad.shape, grad.dtype))
                    for grad in grads
                ]
                self._waiting = tf.Variable(0)
        for total, grad in zip(self._sums, grads, strict=True):
            if grad is not None:
                total.assign_add(grad)
        self._waiting.assign_add(1)
        tf.cond(
            tf.equal(self._waiting, self._steps),
            lambda: self._apply_mean(trainable_variables),
            lambda: None,
        )

    def _apply_mean(self, trainable_variables: Variables | None) -> None:
        count = tf.cast(self._waiting, "float32")
        means = [
            None if total is None else total / tf.cast(count, total.dtype) for total in self._sums
        ]
        self._apply_averaged(means, trainable_variables)
        for total in self._sums:
            if total is not None:
                total.assign(tf.zeros_like(total))
        self._waiting.assign(0)


def plain_optimizer(optimizer: Any) -> Any:
    """The optimizer itself, without the scaling of losses that may stand around it."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def _averaging(optimizer: keras.optimizers.Optimizer) -> "_AveragedApply | None":
    """The `_AveragedApply` of an optimizer or of the one inside of its loss scaling, or None."""
    for one in (optimizer, plain_optimizer(optimizer)):
        found = vars(one).get("apply") if one is not None else None
        if isinstance(found, _AveragedApply):
            return found
    return None


@functools.cache
def _average_before_loss_scaling() -> None:
    """Have Keras's `LossScaleOptimizer` average first, if the optimizer inside is distributed.

    `Model.compile` puts one around an optimizer as the model's policy demands, which may be another
    than the global one when the optimizer was made. Its `apply` decides whether gradients are
    finite and only then calls the optimizer inside. Decided by each rank alone, a rank that skips
    a step would fall a collective operation behind the others.
    """
    kind = keras.optimizers.LossScaleOptimizer
    apply = kind.apply

    @functools.wraps(apply)
    def apply_averages(
        self: keras.optimizers.LossScaleOptimizer,
        grads: Gradients,
        trainable_variables: Variables | None = None,
    ) -> None:
        averaging = _averaging(self.inner_optimizer)
        if averaging is None or averaging._averaged:
            apply(self, grads, trainable_variables)
        else:
            own = functools.partial(apply, self)
            averaging.apply_around(self, own, grads, trainable_variables)

    kind.apply = apply_averages


def average_gradients(grads: Gradients, compression: Compression = None) -> Gradients:
    """The mean over all ranks of each gradient, in one group; None stays None.

    Args:
        grads: tensors of TensorFlow, in the same order on every rank.
        compression: None or "fp16", see `DistributedOptimizer`.

    Raises:
        LauncherError: as `communicates`.
    """
    if not communicates():
        return grads
    hvd = importlib.import_module("horovod.tensorflow")
    compressor = hvd.Compression.fp16 if compression == "fp16" else hvd.Compression.none
    present = [number for number, grad in enumerate(grads) if grad is not None]
    averaged = hvd.grouped_allreduce(
        [tf.convert_to_tensor(grads[number]) for number in present],
        op=hvd.Average,
        compression=compressor,
    )
    result: list[tf.Tensor | None] = [None] * len(grads)
    for number, grad in zip(present, averaged, strict=True):
        result[number] = grad
    return result
