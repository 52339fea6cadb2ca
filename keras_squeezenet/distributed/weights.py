"""Weights that are the same on all ranks."""

import hashlib
import importlib
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_squeezenet.distributed.ranks import gather, mean, size


def broadcast_variables(variables: Iterable[Any], root_rank: int = 0) -> None:
    """Give every rank's variables, of Keras or of TensorFlow, the values of one rank's."""
    if size() > 1:
        hvd = importlib.import_module("horovod.tensorflow")
        inner = [v.value if isinstance(v, keras.Variable) else v for v in variables]
        hvd.broadcast_variables(inner, root_rank=root_rank)


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
    means = mean(np.concatenate([value.ravel() for value in values]))
    ends = np.cumsum([value.size for value in values])
    for weight, value, found in zip(statistics, values, np.split(means, ends[:-1]), strict=True):
        weight.assign(found.reshape(value.shape).astype(value.dtype))


def _is_floating(weight: keras.Variable) -> bool:
    return "float" in keras.backend.standardize_dtype(weight.dtype)


def equal_ranks(model: keras.Model) -> int:
    """How many ranks have bit for bit the weights of rank 0. All of them, if all went well."""
    digest = hashlib.sha256(b"".join(weight.tobytes() for weight in model.get_weights()))
    digests = gather(digest.hexdigest())
    return digests.count(digests[0])
