"""What a network is trained on while it is compressed, in whatever form `fit` would take it."""

import math
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias, TypeGuard

import keras
import numpy as np

from keras_squeezenet.checks import is_int
from keras_squeezenet.compression.retraining import RetrainingError

# Images and their integer labels, arrays or tensors.
Batches = Iterable[tuple[Any, Any]]
# `Batches`, a tf.data.Dataset or a keras.utils.PyDataset of them, or all images and all labels.
Data: TypeAlias = Batches | keras.utils.PyDataset | tuple[Any, Any]

DEFAULT_BATCH_SIZE = 32


def batches_of(
    data: Data, batch_size: int | None = None, *, argument: str = "train_data", shuffle: bool = True
) -> Batches:
    """Data as an iterable of batches, each time it is gone through.

    Args:
        data: a tuple (images, labels) of arrays; a `tf.data.Dataset` of batches or a
            `keras.utils.PyDataset`; or any iterable of batches, endless or not.
        batch_size: of arrays; None: 32.
        argument: what a caller calls the data.
        shuffle: whether arrays come in another order each time.

    Raises:
        RetrainingError: `batch_size` is no integer ≥ 1, or given for other data than arrays; images
            and labels are not as many; data cannot be gone through.
    """
    if are_arrays(data):
        batch_size = DEFAULT_BATCH_SIZE if batch_size is None else batch_size
        if not is_int(batch_size, 1):
            raise RetrainingError(
                f"`batch_size` must be an integer ≥ 1. Received: batch_size={batch_size}"
            )
        return _Arrays(argument, data, batch_size, shuffle)
    if batch_size is not None:
        raise RetrainingError(
            f"`batch_size` is for `{argument}` of arrays (images, labels); other data comes in "
            f"batches. Received: batch_size={batch_size}, {argument} of {type(data).__name__}"
        )
    if isinstance(data, keras.utils.PyDataset):
        return _InOrder(data)
    if not isinstance(data, Iterable):
        raise RetrainingError(
            f"`{argument}` must be arrays (images, labels), a tf.data.Dataset or "
            f"keras.utils.PyDataset of batches, or an iterable of them. Received: {type(data)}"
        )
    return data


def measured_on(validation_data: Data, batch_size: int | None) -> Batches:
    """As `batches_of`, in order; `batch_size` is for arrays, and nothing to other data."""
    size = batch_size if are_arrays(validation_data) else None
    return batches_of(validation_data, size, argument="validation_data", shuffle=False)


def are_arrays(data: Any) -> TypeGuard[tuple[Any, Any]]:
    """Whether these are all images and all labels, not a tuple of batches."""
    return (
        isinstance(data, tuple)
        and len(data) == 2
        and all(hasattr(each, "shape") or hasattr(each, "__array__") for each in data)
    )


def length_of(batches: Batches) -> int | None:
    """How many batches there are; None where that is not known, or there is no end."""
    if isinstance(batches, _InOrder):
        return batches.data.num_batches
    try:
        return len(batches)  # type: ignore[arg-type]
    except TypeError:
        return None


def endless(batches: Batches, model: Any = None) -> Iterator[tuple[Any, Any]]:
    """Batches without end, from an iterable that ends or not.

    Raises:
        RetrainingError: as `one_pass`, or it cannot be started again.
    """
    while True:
        yield from one_pass(batches, model)


def one_pass(
    batches: Batches, model: Any = None, argument: str = "train_data"
) -> Iterator[tuple[Any, Any]]:
    """The batches of an iterable, each once, as `pair` gives them.

    Raises:
        RetrainingError: it is empty, or as `pair`.
    """
    empty = True
    for batch in batches:
        empty = False
        yield pair(batch, model, argument)
    if empty:
        raise RetrainingError(f"`{argument}` must hold a batch each time it is gone through")


def pair(batch: Any, model: Any, argument: str) -> tuple[Any, Any]:
    """The images and labels of a batch, `(batch, …)` as the model takes them and `(batch,)`.

    Labels may come as `(batch, 1)`, and images without the last axis where it is 1, as `fit` takes
    them.

    Args:
        batch: what data held.
        model: the classifier, of Keras 3 or tf_keras; what has no `inputs` is not compared with.
        argument: what a caller calls the data.

    Raises:
        RetrainingError: it is no such pair, or not one for this model.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        received = f"{len(batch)} things" if isinstance(batch, tuple | list) else type(batch)
    elif np.ndim(batch[1]) == 0:
        received = "a single example: call .batch(32) on a tf.data.Dataset, for instance"
    else:
        images, labels = batch
        return images_for(model, images, argument), _labels_for(model, labels, argument)
    raise RetrainingError(
        f"`{argument}` must hold batches of two, images and labels. Received: {received}"
    )


def images_for(model: Any, images: Any, argument: str) -> Any:
    """A batch of images in the shape that a model takes.

    Raises:
        RetrainingError: they have another shape.
    """
    if not getattr(model, "inputs", None):
        return images
    wanted, given = tuple(model.inputs[0].shape), tuple(np.shape(images))
    if wanted[-1] == 1 and len(given) == len(wanted) - 1:
        images, given = images[..., None], (*given, 1)
    sides = zip(wanted[1:], given[1:], strict=False)
    if len(given) != len(wanted) or any(side not in (None, size) for side, size in sides):
        raise RetrainingError(
            f"`{argument}` must hold images as the model takes them, {wanted}. "
            f"Received: a batch of {given}"
        )
    return images


def _labels_for(model: Any, labels: Any, argument: str) -> Any:
    shape = tuple(np.shape(labels))
    if len(shape) == 2 and shape[1] == 1:
        labels = np.asarray(labels)[:, 0]
    elif len(shape) > 1:
        raise RetrainingError(
            f"`{argument}` must hold integer labels, a number for each image; of one-hot rows "
            f"numpy.argmax(labels, axis=1) makes them. Received: labels of shape {shape}"
        )
    outputs = getattr(model, "outputs", None)
    values = np.asarray(labels)
    if outputs and values.size:
        classes = outputs[0].shape[-1]
        wrong = values[~((values >= 0) & (values < classes))]  # a NaN among them
        if wrong.size:
            raise RetrainingError(
                f"`{argument}` must hold labels from 0 to {classes - 1}, as many as the model has "
                f"classes. Received: label {wrong[0]}"
            )
    return labels


class _Arrays:
    def __init__(
        self, argument: str, data: tuple[Any, Any], batch_size: int, shuffle: bool
    ) -> None:
        self.images, self.labels = (np.asarray(each) for each in data)
        self.batch_size, self.shuffle = batch_size, shuffle
        if len(self.images) != len(self.labels):
            raise RetrainingError(
                f"`{argument}` must have a label for each image. Received: {len(self.images)} "
                f"images, {len(self.labels)} labels"
            )

    def __len__(self) -> int:
        return math.ceil(len(self.images) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        order = np.arange(len(self.images))
        if self.shuffle:
            np.random.shuffle(order)  # as Keras does, so that `set_random_seed` decides
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            yield self.images[chosen], self.labels[chosen]


class _InOrder:
    """The batches of a PyDataset, which can be asked for by their numbers alone."""

    def __init__(self, data: keras.utils.PyDataset) -> None:
        self.data = data

    def __iter__(self) -> Iterator[Any]:
        self.data.on_epoch_begin()
        number = 0
        while self.data.num_batches is None or number < self.data.num_batches:
            yield self.data[number]
            number += 1
        self.data.on_epoch_end()
