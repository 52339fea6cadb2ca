"""Losses that Keras has not."""

from typing import Any

import keras
from keras import ops

from keras_squeezenet.network.data_formats import Tensor
from keras_squeezenet.startup.registration import SAVED_AS


@keras.saving.register_keras_serializable(package=SAVED_AS)
class SmoothedCrossentropy(keras.losses.Loss):
    """Cross-entropy of integer labels with label smoothing (Szegedy et al., arXiv 1512.00567).

    Args:
        label_smoothing: share of the target spread evenly over all classes.

    Shapes: labels `(batch,)`, probabilities `(batch, classes)`.
    """

    def __init__(
        self, label_smoothing: float = 0.0, name: str = "crossentropy", **kwargs: Any
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.label_smoothing = label_smoothing

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        labels = ops.cast(ops.reshape(y_true, (-1,)), "int32")
        targets = ops.one_hot(labels, y_pred.shape[-1])
        return keras.losses.categorical_crossentropy(
            targets, y_pred, label_smoothing=self.label_smoothing
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "label_smoothing": self.label_smoothing}
