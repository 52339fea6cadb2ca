"""Weights that are the same on all ranks."""

import hashlib
import importlib
from collections.abc import Iterable

import keras
import numpy as np

from keras_squeezenet.distributed.ranks import gather, size, total


def broadcast_variables(variables: Iterable[keras.Variable], root_rank: int = 0) -> None:
    """Give every rank's Keras variables the values of one rank's."""
    if size() > 1:
        hvd = importlib.import_module("horovod.tensorflow")
        hvd.broadcast_variables([v.value for v in variables], root_rank=root_rank)


def broadcast_weights(model: keras.Model, root_rank: int = 0) -> None:
    """Give every rank's model the weights of one rank's."""
    broadcast_variables(model.weights, root_rank)


def average_statistics(model: keras.Model) -> None:
    """Give every rank's model the mean over all ranks of what its layers count by themselves.

    These are the weights that no gradient reaches, such as the moving mean and variance of batch
    normalization: each rank sees other images, so that they differ. What is equal stays as it is,
    to the bit. A collective operation, if the model has such weights.

    Args:
        model: a `keras.Model`, the same on every rank.
    """
    if size() == 1:
        return
    statistics = [weight for weight in model.non_trainable_weights if _is_floating(weight)]
    if not statistics:
        return
    values = [keras.ops.convert_to_numpy(weight) for weight in statistics]
    # In float64, where a sum of equal float32 numbers is exact.
    means = total(np.concatenate([value.ravel() for value in values])) / size()
    ends = np.cumsum([value.size for value in values])
    for weight, value, mean in zip(statistics, values, np.split(means, ends[:-1]), strict=True):
        weight.assign(mean.reshape(value.shape).astype(value.dtype))


def _is_floating(weight: keras.Variable) -> bool:
    return "float" in keras.backend.standardize_dtype(weight.dtype)


def equal_ranks(model: keras.Model) -> int:
    """How many ranks have bit for bit the weights of rank 0. All of them, if all went well."""
    digest = hashlib.sha256(b"".join(weight.tobytes() for weight in model.get_weights()))
    digests = gather(digest.hexdigest())
    return digests.count(digests[0])
