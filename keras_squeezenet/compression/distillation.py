"""Distillation: a network learns what a larger one says (Hinton et al., arXiv 1503.02531).

The training is `keras.distillation.Distiller`. Here is what goes around it: logits of models that
end in a softmax, a teacher of another image size, ranks that stay equal, and both models left as
they were.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
from keras import layers, ops

from keras_squeezenet.checks import is_number
from keras_squeezenet.compression.accuracy import top1
from keras_squeezenet.compression.copies import copy_of
from keras_squeezenet.compression.fitting import compressed, fit_compiled, run_length
from keras_squeezenet.compression.retraining import (
    Compressed,
    Retraining,
    check_backend,
    checked_retraining,
)
from keras_squeezenet.compression.training_data import Batches, Data, batches_of, images_for, pair
from keras_squeezenet.errors import InputError
from keras_squeezenet.network.data_formats import Tensor
from keras_squeezenet.network.graph import ends_in_softmax, inputs_of, maker_of

# Of a softmax without logits before it: 0 has no logarithm.
_LEAST_PROBABILITY = 1e-30


def distill(
    model: keras.Model,
    teacher: keras.Model,
    train_data: Data | Iterable[Any],
    *,
    retraining: Retraining | None = None,
    temperature: float = 4.0,
    student_weight: float = 0.1,
    teacher_preprocessing: Callable[[Tensor], Tensor] | None = None,
    validation_data: Data | None = None,
    batch_size: int | None = None,
) -> Compressed:
    """Train a copy of `model` towards what `teacher` says, and towards the labels.

    The loss is student_weight · cross-entropy + (1 − student_weight) · temperature² ·
    KL(teacher ‖ student), the latter between softmaxes of logits / temperature (section 2).

    Args:
        model: a classifier with one input and one output `(batch, classes)`, a softmax or logits.
        teacher: another one, of the same classes. Images `(batch, height, width, channels)` are
            resized for it (bilinear) where its height and width differ from the model's; of signals
            both take the same.
        train_data: (images, integer labels) as `model` takes them, in arrays; a `tf.data.Dataset`
            or `keras.utils.PyDataset` of batches; or any iterable of batches. Batches may be images
            alone where `student_weight` is 0. On several ranks each has its shard. One that ends is
            started again.
        retraining: a `Retraining`; None: one epoch of it.
        temperature: above 0.
        student_weight: from 0 to 1; with 0 labels are not looked at.
        teacher_preprocessing: function of a batch of images as `model` takes them, returns them as
            `teacher` does: `keras.applications.resnet.preprocess_input` for RGB 0…255, for example.
            None: both take the same.
        validation_data: the same with an end and labels, to measure before and after.
        batch_size: of arrays; None: 32.

    Returns:
        `Compressed`, with the trained copy; all ranks have the same.

    Raises:
        InputError: the models do not fit each other, a number is out of its range, or labels are
            missing; the text names it.
        RetrainingError: the loss is no longer a number.
    """
    check_backend()
    _check_numbers(temperature, student_weight)
    _check_classifier("model", model)
    _check_classifier("teacher", teacher)
    if model.output_shape[-1] != teacher.output_shape[-1]:
        raise InputError(
            f"`teacher` must have the classes of the model, {model.output_shape[-1]}. "
            f"Received: {teacher.output_shape[-1]}"
        )
    are_images = len(model.input_shape) == len(teacher.input_shape) == 4
    if not are_images and model.input_shape[1:] != teacher.input_shape[1:]:
        raise InputError(
            f"`teacher` must take what the model takes, {model.input_shape}, or images of another "
            f"size. Received: {teacher.input_shape}"
        )
    batches, retraining = batches_of(train_data, batch_size), checked_retraining(retraining)
    student = copy_of(model)
    distiller = keras.distillation.Distiller(
        # A copy: the distiller freezes its teacher for good.
        teacher=_fed_like(student, copy_of(teacher), teacher_preprocessing),
        student=_logits_of(student),
        # An instance: Keras 3.15.1 takes its own default, "kl_divergence", for a loss that wants
        # the logits as they are, and uses no softmax and no temperature².
        distillation_losses=keras.distillation.LogitsDistillation(
            temperature, loss=keras.losses.KLDivergence()
        ),
        student_loss_weight=student_weight,
    )
    fit_compiled(
        distiller,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        _endless(batches, model, labelled=student_weight > 0),
        retraining,
        run_length(retraining, batches),
    )
    before = top1(model, validation_data, batch_size)
    return compressed(student, model, before, validation_data, batch_size)


def _check_numbers(temperature: float, student_weight: float) -> None:
    # A NaN fails the comparisons.
    if not is_number(temperature) or not 0 < temperature < math.inf:
        raise InputError(
            f"`temperature` must be a number above 0. Received: temperature={temperature}"
        )
    if not is_number(student_weight) or not 0 <= student_weight <= 1:
        raise InputError(
            "`student_weight` must be a number from 0 to 1. "
            f"Received: student_weight={student_weight}"
        )


def _check_classifier(name: str, model: Any) -> None:
    outputs = getattr(model, "outputs", None)
    if not outputs or len(outputs) != 1 or len(model.inputs) != 1 or len(outputs[0].shape) != 2:
        raise InputError(
            f"`{name}` must be a functional or Sequential model from one input to one output "
            f"(batch, classes). Received: {name}={model!r}"
        )
    last = maker_of(model.outputs[0])
    activation = getattr(last, "activation", None)
    if not ends_in_softmax(model) and activation not in (None, keras.activations.linear):
        raise InputError(
            f"`{name}` must end in a softmax or in logits. "
            f"Received: {last.name} with {keras.activations.serialize(activation)}"
        )


def _logits_of(model: keras.Model) -> keras.Model:
    """A model with the same layers that ends before the softmax, in float32."""
    logits = model.outputs[0]
    if ends_in_softmax(model):
        last = maker_of(logits)
        softmax = keras.activations.softmax
        if isinstance(last, layers.Softmax) or (
            isinstance(last, layers.Activation) and last.activation is softmax
        ):
            (logits,) = inputs_of(logits)
        else:
            # Logits but for a constant, which a softmax does not see.
            logits = ops.log(ops.maximum(logits, _LEAST_PROBABILITY))
    return keras.Model(model.inputs, layers.Identity(dtype="float32")(logits))


def _fed_like(
    student: keras.Model,
    teacher: keras.Model,
    preprocessing: Callable[[Tensor], Tensor] | None,
) -> keras.Model:
    """The teacher's logits as a model of the student's input."""
    images = keras.Input(student.input_shape[1:], dtype=student.inputs[0].dtype)
    x = images
    height_and_width = teacher.input_shape[1:3]
    is_other_size = len(images.shape) == 4 and height_and_width != student.input_shape[1:3]
    if is_other_size and None not in height_and_width:
        x = layers.Resizing(*height_and_width)(x)
    if preprocessing is not None:
        x = layers.Lambda(preprocessing)(x)
    return keras.Model(images, _logits_of(teacher)(x))


def _endless(batches: Batches, model: keras.Model, *, labelled: bool) -> Iterator[tuple[Any, ...]]:
    """(images, labels), or images alone, again and again."""
    while True:
        count = 0
        for batch in batches:
            alone = not isinstance(batch, tuple | list)
            if labelled and (alone or len(batch) != 2):
                raise InputError(
                    "`train_data` must hold (images, labels); without labels `student_weight` "
                    "must be 0. Received: images alone"
                )
            count += 1
            if labelled:
                yield pair(batch, model, "train_data")
            else:
                images = batch if alone else batch[0]
                yield (images_for(model, images, "train_data"),)
        if not count:
            raise InputError("`train_data` must hold batches. Received: none")
