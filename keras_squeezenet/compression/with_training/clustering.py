"""Trained codebooks: every kernel keeps few different values, and those are trained.

Deep Compression (Han et al., arXiv 1510.00149, section 3): the weights of a kernel are grouped by
k-means, each group shares one value, and the gradient of a shared value is that of its weights
together. With tfmot's sparsity-preserving clustering, zeros of a pruned kernel stay zeros.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_squeezenet.checks import is_int
from keras_squeezenet.compression.accuracy import top1
from keras_squeezenet.compression.pruning.sparsities import by_layer
from keras_squeezenet.compression.retraining import (
    Compressed,
    Retraining,
    RetrainingError,
    check_classifier,
    checked_retraining,
)
from keras_squeezenet.compression.training_data import Data, batches_of
from keras_squeezenet.compression.with_training.bridge import (
    kernels,
    kernels_of_layers,
    sources,
    to_tf_keras,
)
from keras_squeezenet.compression.with_training.callbacks import Seen, check_callbacks
from keras_squeezenet.compression.with_training.retraining import retrain, with_weights_of
from keras_squeezenet.compression.with_training.shared_values import found_by_search
from keras_squeezenet.compression.with_training.tfmot import load_tfmot
from keras_squeezenet.compression.without_training.codebooks import k_means

if TYPE_CHECKING:  # imported on use
    import tf_keras

MIN_BITS, MAX_BITS = 2, 8

# One for every kernel, each one's by layer name, or a function of name and kernel shape.
Bits = int | dict[str, int] | Callable[[str, tuple[int, ...]], int]


def cluster(
    model: keras.Model,
    train_data: Data,
    *,
    retraining: Retraining | None = None,
    bits: Bits = 5,
    preserve_sparsity: bool = True,
    validation_data: Data | None = None,
    batch_size: int | None = None,
) -> Compressed:
    """Let the weights of each kernel share at most 2**bits values, and train those values.

    The kernels of Conv2D and Dense layers are clustered; those of depthwise convolutions, and
    biases, never. A kernel that has no more weights than values is left. Under horovodrun every
    rank calls this with its own shard, and all get the same model.

    Args:
        model: a Keras 3 classifier with integer labels; see `bridge.to_tf_keras`. It is not
            changed.
        train_data, retraining, validation_data, batch_size: as in `prune`.
        bits: from 2 to 8, of every kernel; a dict of that by layer names, other layers are left;
            or a function of name and kernel shape that gives that. A `Fire` fire2 has the kernels
            fire2_squeeze1x1 and so on, a `GroupedConv2D` one for each group, NAME_group0 and so on:
            a dict names them, or the layer with all of its kernels.
        preserve_sparsity: whether zeros of a kernel stay zeros; 0 then is one of its values.

    Returns:
        A `Compressed`. A clustered kernel of its model has at most 2**bits different float32
        values, -0.0 not among them.

    Raises:
        RetrainingError: for arguments that do not go together.
        BridgeError: the model cannot be carried to tf_keras.

    Example, of a network that would have been trained:

    >>> digits = load_dataset("digits", image_size=16)
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((16, 16, 3)),
    ...         keras.layers.Rescaling(1 / 255),
    ...         keras.layers.Conv2D(8, 3, activation="relu"),
    ...         keras.layers.GlobalAveragePooling2D(),
    ...         keras.layers.Dense(10, activation="softmax"),
    ...     ]
    ... )
    >>> clustered = cluster(
    ...     model,
    ...     digits.train.train_batches(32),
    ...     retraining=Retraining(epochs=1, steps_per_epoch=4),
    ...     bits=3,
    ... )
    >>> all(layer.distinct <= 8 for layer in clustered.layers)
    True
    """
    check_classifier(model)
    kernel_by_name = kernels(model)
    if isinstance(bits, dict):
        bits = _by_kernel(bits, kernels_of_layers(model))
    counts = {name: 2**b for name, b in layer_bits(bits, kernel_by_name).items()}
    batches, retraining = batches_of(train_data, batch_size), checked_retraining(retraining)
    check_callbacks(retraining.callbacks)
    twin = to_tf_keras(model)
    before = top1(model, validation_data, batch_size)
    clustered = _wrapped(twin, counts, kernel_by_name, preserve_sparsity)
    retrain(clustered, batches, retraining, seen=Seen(model, partial(_copy_weights, clustered)))
    stripped = load_tfmot().clustering.keras.strip_clustering(clustered)
    result = with_weights_of(stripped, model)
    after = top1(result, validation_data, batch_size)
    return Compressed.of(result, kernels(result), before, after)


def layer_bits(bits: Bits, kernel_by_name: Mapping[str, np.ndarray]) -> dict[str, int]:
    """How many bits choose a kernel's shared values, by name; see `cluster`.

    Raises:
        RetrainingError: a number is outside 2 to 8, a name is no kernel's, or none is clustered.
    """
    shapes = {name: kernel.shape for name, kernel in kernel_by_name.items()}
    found = by_layer("bits", bits, shapes)
    for name, value in found.items():
        if not is_int(value, MIN_BITS, MAX_BITS):
            raise RetrainingError(
                f"`bits` must be integers from {MIN_BITS} to {MAX_BITS}. "
                f"Received: bits={value} for {name}"
            )
    if not found:
        raise RetrainingError(f"`bits` must be given for some kernel. Received: bits={bits}")
    return found


def _by_kernel(bits: Mapping[str, int], of_layers: Mapping[str, list[str]]) -> dict[str, int]:
    """A dict by layers as one by kernels; a kernel's own name goes before that of its layer."""
    of_layers = {layer: names for layer, names in of_layers.items() if layer in bits and names}
    expanded = {name: bits[layer] for layer, names in of_layers.items() for name in names}
    return expanded | {name: value for name, value in bits.items() if name not in of_layers}


def initial_codebook(values: np.ndarray, count: int) -> NDArray[np.float32]:
    """`count` values that many stand for with little error: k-means, the last one repeated.

    Args:
        values: float32 `[n]`, n ≥ 1.
        count: ≥ 1.

    Returns:
        float32 `[count]`, ascending. k-means may find fewer different ones.
    """
    centroids = k_means(values, min(count, len(np.unique(values))), np.ones(len(values)))
    return np.pad(centroids, (0, count - len(centroids)), "edge").astype(np.float32)


def _wrapped(
    twin: "tf_keras.Model",
    counts: Mapping[str, int],
    kernel_by_name: Mapping[str, np.ndarray],
    preserve_sparsity: bool,
) -> "tf_keras.Model":
    """The twin with tfmot's clustering around the layers that are to be clustered."""
    import tf_keras

    load_tfmot()
    from tensorflow_model_optimization.python.core.clustering.keras.cluster_config import (
        CentroidInitialization,
    )
    from tensorflow_model_optimization.python.core.clustering.keras.experimental.cluster import (
        cluster_weights,
    )

    keeps_zeros = {
        name: preserve_sparsity and not kernel.all() for name, kernel in kernel_by_name.items()
    }

    def wrap(layer: tf_keras.layers.Layer) -> tf_keras.layers.Layer:
        # None only of a layer that is not among `counts` either.
        kernel: Any = kernel_by_name.get(layer.name)
        if layer.name not in counts or kernel.size <= counts[layer.name] or not kernel.any():
            return layer
        return cluster_weights(
            layer,
            number_of_clusters=counts[layer.name],
            cluster_centroids_init=CentroidInitialization.LINEAR,
            preserve_sparsity=keeps_zeros[layer.name],
        )

    with found_by_search():
        wrapped = tf_keras.models.clone_model(twin, clone_function=wrap)
    for layer in wrapped.layers:
        if hasattr(layer, "cluster_centroids"):
            _set_codebook(layer, kernel_by_name[layer.layer.name])
    return wrapped


def _set_codebook(layer: "tf_keras.layers.Layer", kernel: np.ndarray) -> None:
    """k-means in place of tfmot's evenly spaced or random first values, and its masks with it."""
    import tensorflow as tf

    (centroids,) = layer.cluster_centroids.values()
    if not layer.preserve_sparsity:
        centroids.assign(initial_codebook(kernel.ravel(), centroids.shape[0]))
        return
    codebook = initial_codebook(kernel[kernel != 0], centroids.shape[0] - 1)
    centroids.assign(np.insert(codebook, 0, np.float32(0)))
    (name,) = layer.cluster_centroids
    layer.zero_idx[name] = tf.constant(0, tf.int64)
    layer.sparsity_masks[name] = tf.constant((kernel != 0).astype(np.float32))


def _copy_weights(clustered: "tf_keras.Model", model: keras.Model) -> None:
    """Give a Keras 3 model the weights of its twin in the midst of training.

    As tfmot's `strip_clustering`, which makes a network anew each time.
    """
    weights = {}
    for layer in clustered.layers:
        inner = getattr(layer, "layer", layer)
        weights[inner.name] = layer.get_weights()  # of a wrapper those beside the kernel
        if hasattr(layer, "cluster_centroids"):
            layer.update_clustered_weights_associations()
            for position, name in layer.position_original_weights.items():
                weights[inner.name].insert(position, layer.get_weight_from_layer(name).numpy())
    for name, source in sources(model).items():
        # tfmot's masks make -0.0 of negative weights; adding 0 makes them 0.0.
        source.assign([weight + np.float32(0) for weight in weights[name]])
