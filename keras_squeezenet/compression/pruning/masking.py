"""Zeros put back into kernels after each step."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_squeezenet.extras import from_extra


class Masking:
    """Sets variables to 0 where their masks are False.

    With TensorFlow it is one graph for all of them: called one by one, the operations of a network
    of many layers take long beside a training step on small images (`studies/pruning_cost.py`
    measures it).

    Args:
        variables: of floats.
    """

    def __init__(self, variables: Sequence[keras.Variable]) -> None:
        self._variables = list(variables)
        self._apply: Callable[[Sequence[Any]], None] = self._one_by_one
        if keras.backend.backend() == "tensorflow":
            with from_extra("train"):
                import tensorflow as tf

            self._apply = tf.function(self._one_by_one, autograph=False)

    def covers(self, variables: Sequence[keras.Variable]) -> bool:
        """Whether it is of just these variables, in their order."""
        return list(map(id, self._variables)) == list(map(id, variables))

    def __call__(self, masks: Sequence[Any]) -> None:
        """Apply boolean tensors, one of each variable's shape."""
        self._apply(list(masks))

    def _one_by_one(self, masks: Sequence[Any]) -> None:
        for variable, mask in zip(self._variables, masks, strict=True):
            values = ops.convert_to_tensor(variable)
            variable.assign(ops.where(mask, values, ops.zeros_like(values)))
