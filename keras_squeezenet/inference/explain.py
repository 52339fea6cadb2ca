"""Where a classifier looked: Grad-CAM (Selvaraju et al., arXiv 1610.02391). TensorFlow only.

Keras is imported when something is explained, so that what cannot be is refused at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_squeezenet.errors import InputError

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

# Every activation of a batch is kept for the gradient: some 20 MB an image in SqueezeNet 1.1.
_BATCH_SIZE = 8


class ExplanationError(InputError):
    """A model that Grad-CAM does not apply to; the text is one line."""


@dataclass(frozen=True)
class _Step:
    """One operation of a model's graph as it was run: on what, and what came out."""

    operation: Any
    inputs: tuple[Any, ...]
    output: Any


def grad_cam(
    model: keras.Model, images: np.ndarray, classes: Sequence[int] | np.ndarray
) -> np.ndarray:
    """Which places of each image raised the score of a class (equations 1 and 2).

    The weight of a channel is the mean gradient of the class's score with respect to it, and the
    map is the sum of the weighted channels, negative sums set to zero. The score is the class's
    value before the last activation (softmax); where the last layer has none, its output.

    The channels are those of the last feature map: the last one with more than one position that
    does not depend on the classifier, which is the model's last convolution or dense layer. Of a
    SqueezeNet that is the last Fire's output; of a network that ends in a dense layer, what the
    pooling before it takes.

    Args:
        model: a functional or Sequential `keras.Model` from images to `(n, classes)`, in
            channels_last. Models inside it are followed; preprocessing may be one of its layers.
        images: `[n, height, width, channels]`, as the model takes them.
        classes: n class indices.

    Returns:
        float32 `[n, rows, columns]`, 0 or more, in the size of the feature map. Zero everywhere
        where nothing raised the score. Values of different images do not compare.

    Raises:
        ExplanationError: the model has no graph or no feature map, or Keras runs without
            TensorFlow.
        ValueError: not as many classes as images.
    """
    import keras

    if len(images) != len(classes):
        raise ValueError(
            f"`classes` must be one for each of {len(images)} images. Received: {len(classes)}"
        )
    if keras.backend.backend() != "tensorflow":
        raise ExplanationError(
            "Grad-CAM needs Keras's TensorFlow backend. "
            f"Received: KERAS_BACKEND={keras.backend.backend()}"
        )
    maps = [
        _grad_cam(model, images[start : start + _BATCH_SIZE], classes[start : start + _BATCH_SIZE])
        for start in range(0, len(images), _BATCH_SIZE)
    ]
    return np.concatenate(maps)


def _grad_cam(
    model: keras.Model, images: np.ndarray, classes: Sequence[int] | np.ndarray
) -> np.ndarray:
    import tensorflow as tf

    images = tf.convert_to_tensor(np.asarray(images, np.float32))
    with tf.GradientTape() as tape:
        # Frozen layers leave no trace otherwise.
        tape.watch(images)
        steps = _run(model, images)
        features = _feature_map(model, steps)
        scores = tf.gather(_scores(steps[-1]), np.asarray(classes), axis=1, batch_dims=1)
    # An image's score depends on its own features alone, so the sum over images will do.
    gradients = tape.gradient(scores, features, unconnected_gradients="zero")
    weights = tf.reduce_mean(tf.cast(gradients, tf.float32), axis=(1, 2), keepdims=True)
    return tf.nn.relu(tf.reduce_sum(weights * tf.cast(features, tf.float32), axis=-1)).numpy()


def _run(model: keras.Model, images: tf.Tensor) -> list[_Step]:
    """Every operation of the model's graph, those of models inside it included, on images."""
    import keras

    from keras_squeezenet.network.graph import follow

    steps = []

    def recorded(operation: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(operation, keras.Model):
            return follow(_graph_of(operation), args[0], recorded)
        output = operation(*args, **kwargs)
        steps.append(_Step(operation, args, output))
        return output

    follow(_graph_of(model), images, recorded)
    return steps


def _graph_of(model: keras.Model) -> keras.Function:
    from keras_squeezenet.network.graph import graph_of

    try:
        return graph_of(model)
    except ValueError as error:
        raise ExplanationError(f"Grad-CAM: {error}") from error


def _feature_map(model: keras.Model, steps: list[_Step]) -> tf.Tensor:
    before_classifier = steps
    kernels = [number for number, step in enumerate(steps) if hasattr(step.operation, "kernel")]
    if kernels:
        before_classifier = steps[: kernels[-1]]
    for step in reversed(before_classifier):
        shape: Sequence[int] = getattr(step.output, "shape", ())
        if len(shape) == 4 and shape[1] * shape[2] > 1:
            return step.output
    raise ExplanationError(
        "Grad-CAM needs a model with a feature map, (n, rows, columns, channels), before its "
        f"classifier. Received: {model.name}"
    )


def _scores(step: _Step) -> tf.Tensor:
    """What the last operation makes probabilities of."""
    import keras

    operation = step.operation
    if isinstance(operation, keras.layers.Activation | keras.layers.Softmax):
        return step.inputs[0]
    if not hasattr(operation, "kernel"):
        return step.output
    linear = type(operation).from_config({**operation.get_config(), "activation": None})
    linear.build(step.inputs[0].shape)
    linear.set_weights(operation.get_weights())
    return linear(step.inputs[0])
