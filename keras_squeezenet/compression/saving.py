"""Keras models in .sqz files. Keras only."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_squeezenet.compression.graph_building import assign as assign_arrays
from keras_squeezenet.compression.graph_building import model_of_graph
from keras_squeezenet.compression.graph_models import bits_of, compressed_model_of
from keras_squeezenet.compression.graph_reading import check_finite, graph_and_arrays
from keras_squeezenet.compression.squeezenet_settings import (
    NotASqueezeNetError,
    settings_of,
    squeezenet_of,
)
from keras_squeezenet.compression.without_training.codebooks import (
    MAX_CHANGE_BY_BASE,
    nearest_values,
    relative_change,
    share_values,
)
from keras_squeezenet.errors import InputError
from keras_squeezenet.network.architecture import KernelShape
from keras_squeezenet.network.folding import fold_batch_normalization
from keras_squeezenet.network.graph import convolutions_of
from keras_squeezenet.sqz import SqzError
from keras_squeezenet.sqz.files import read_network, write_network
from keras_squeezenet.sqz.model import CompressedModel
from keras_squeezenet.sqz.network import MAX_CODEBOOK, CompressedNetwork, SharedValues
from keras_squeezenet.sqz.versions import AnyCompressed


def save_compressed(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    mode: str = "best",
    bits: int | dict[str, int] | None = None,
    base: AnyCompressed | None = None,
    class_names: Sequence[str] | None = None,
    resize: int | str | None = None,
    fold: bool | None = None,
) -> int:
    """Write a model to a .sqz file, which `load_compressed` reads with nothing else at hand.

    A SqueezeNet with its own top makes a file of version 1; any other functional or Sequential
    model of Keras's layers and ours, of which docs/sqz.md has the list, one of version 2. The file
    holds the weights exactly: the model that is read back is equal bit by bit, but for the sign of
    zeros. It is small where few weights are distinct and many are zero, as `cluster`, `prune` or
    `compress` make them.

    Args:
        model: a `keras.Model`: functional or Sequential, of layers that a file holds.
        path: of the file, which is replaced where it exists.
        mode: "best", the smallest; or "faithful", coded as in Deep Compression (arXiv 1510.00149):
            Huffman codes of shared values and of the gaps between them.
        bits: share values among the weights first, 2**bits in each kernel (1 to 16), by k-means; an
            integer, or a dict by the names of the kernels: for a SqueezeNet with its own top those
            of `Architecture.kernel_shapes`, else "layer/kernel", "model/layer/depthwise_kernel".
            None takes the weights as they are.
        base: what the model was trained on from, as `sqz.files.read_network` gives it: weights take
            the nearest of its values, so that only those that moved far differ, and the update
            between the two files (`sqz.diff`) is small. Pruned weights stay pruned. Of a SqueezeNet
            with its own top all weights and biases do, and the base is one of the same layers. Any
            other model may have another head, or other layers: a kernel whose norm that would
            change by more than 25% gets as many values of its own as the base's has, and numbers
            that moved, such as statistics of normalization, are rounded to 11 significant bits.
        class_names: names of the classes in the order of the outputs, to be kept in the file.
        resize: how pictures are framed for the model: their short side in pixels before the centre
            crop, or "stretch"; kept in the file.
        fold: whether batch normalization becomes part of the layers beside it first, see
            `fold_batch_normalization`, which says of a model what that will be. The outputs are
            then the same up to rounding in float32. None: with `bits` or `base`, which change the
            weights anyway.

    Returns:
        The file's size in bytes.

    Raises:
        UnsupportedModelError: no .sqz file holds the model; the text names the layer.
        NotASqueezeNetError: `base` is a SqueezeNet with its own top, and the model is none.
        InputError: a kernel of a SqueezeNet has more than 65,536 distinct values, or an argument
            is none of these.
        OSError: the file cannot be written.

    Example:

    >>> model = SqueezeNet(weights=None, classes=2, input_shape=(64, 64, 3))
    >>> size = save_compressed(model, "model.sqz", bits=4, class_names=["cat", "dog"])
    >>> load_compressed("model.sqz").output_shape
    (None, 2)
    >>> open_classifier("model.sqz").class_names
    ('cat', 'dog')
    """
    path = Path(path)
    if path.suffix != ".sqz":
        raise InputError(f"`path` must end in .sqz. Received: {path}")
    network = network_of(
        model, bits=bits, base=base, class_names=class_names, resize=resize, fold=fold
    )
    write_network(network, path, mode)
    return path.stat().st_size


def load_compressed(path: Path | str) -> keras.Model:
    """The `keras.Model` in a .sqz file of either version.

    Raises:
        InputError: the file is none, or broken; the text is one line and names it.
        OSError: it cannot be read.
    """
    compressed = read_network(path)
    try:
        return model_of(compressed)
    except SqzError as error:
        raise SqzError(f"{path}: {error}") from error


def network_of(
    model: keras.Model,
    *,
    bits: int | dict[str, int] | None = None,
    base: AnyCompressed | None = None,
    class_names: Sequence[str] | None = None,
    resize: int | str | None = None,
    fold: bool | None = None,
) -> AnyCompressed:
    """A model as what a .sqz file holds of it: a `CompressedNetwork`, or a `CompressedModel`.

    Arguments and errors: see `save_compressed`.
    """
    if base is not None and bits is not None:
        raise InputError("One of `bits` and `base` is enough. Received: both")
    if isinstance(class_names, str):
        raise InputError(f"`class_names` must be a list of names. Received: {class_names}")
    is_rounded = bits is not None or base is not None
    if fold or (fold is None and is_rounded):
        check_model(model)
        model = fold_batch_normalization(model).model
    try:
        settings = settings_of(model)
    except NotASqueezeNetError:
        if isinstance(base, CompressedNetwork):
            raise
        return compressed_model_of(
            model, bits=bits, base=base, class_names=class_names, resize=resize
        )
    if isinstance(base, CompressedModel):
        raise InputError(
            "`base` must be a SqueezeNet with its own top, as the model is. "
            f"Received: {base.name}, a model of another kind"
        )
    if isinstance(bits, dict) and (unknown := set(bits) - set(_shapes(settings))):
        raise InputError(f"`bits` must name kernels of the model. Received: {min(unknown)}")
    kernels, biases = {}, {}
    for name, convolution in convolutions_of(model.layers).items():
        kernel = keras.ops.convert_to_numpy(convolution.kernel).astype(np.float32)
        bias = keras.ops.convert_to_numpy(convolution.bias).astype(np.float32)
        check_finite(f"{name}/kernel", kernel)
        check_finite(f"{name}/bias", bias)
        if base is not None:
            _check_shape(base, name, kernel.shape)
            kernels[name] = nearest_values(kernel, base.kernels[name])
            _check_change(name, kernel, kernels[name].values)
            biases[name] = nearest_values(bias, base.biases[name])
        else:
            kernels[name] = _shared(kernel, name, bits)
            biases[name] = SharedValues.of(bias)
    return CompressedNetwork(
        **settings,
        class_names=None if class_names is None else tuple(class_names),
        resize=resize,
        kernels={name: kernels[name] for name in _shapes(settings)},
        biases={name: biases[name] for name in _shapes(settings)},
    )


def _shared(kernel: np.ndarray, name: str, bits: int | dict[str, int] | None) -> SharedValues:
    if bits is not None:
        return share_values(kernel, bits_of(bits, name))
    distinct = np.unique(kernel).size
    if distinct > MAX_CODEBOOK:
        raise InputError(
            f"`model` must have at most {MAX_CODEBOOK} distinct weights in each kernel: "
            f"cluster or compress it first, or give `bits`. Received: {distinct} in {name}"
        )
    return SharedValues.of(kernel)


def _check_shape(base: CompressedNetwork, name: str, shape: tuple[int, ...]) -> None:
    found = base.kernels[name].codes.shape if name in base.kernels else None
    if found != shape:
        raise InputError(
            f"`base` must be a network of the model's layers: {name} of shape {shape}. "
            f"Received: {found}"
        )


def model_of(network: AnyCompressed) -> keras.Model:
    """The `keras.Model` of a `CompressedNetwork` or a `CompressedModel`.

    Raises:
        SqzError: the latter makes none.
    """
    if isinstance(network, CompressedModel):
        return model_of_graph(network)
    model = squeezenet_of(network)
    assign(model, network)
    return model


def assign(model: keras.Model, network: AnyCompressed) -> None:
    """Give a model of the same layers, such as a copy, the weights of its compressed form."""
    if isinstance(network, CompressedModel):
        assign_arrays(model, network)
        return
    for name, convolution in convolutions_of(model.layers).items():
        convolution.kernel.assign(network.kernels[name].values)
        convolution.bias.assign(network.biases[name].values)


def check_model(model: keras.Model) -> None:
    """Refuse a model that no .sqz file holds.

    Raises:
        UnsupportedModelError: names the layer.
        InputError: a weight is not finite.
    """
    try:
        settings_of(model)
    except NotASqueezeNetError:
        graph_and_arrays(model)


def _check_change(name: str, kernel: np.ndarray, values: np.ndarray) -> None:
    change = relative_change(kernel, values)
    if not change <= MAX_CHANGE_BY_BASE:
        raise InputError(
            "`base` must be a network that the model was trained on from: its values may change "
            f"weights by {MAX_CHANGE_BY_BASE:.0%}. Received: {change:.0%} in {name}"
        )


def _shapes(settings: Mapping[str, Any]) -> dict[str, KernelShape]:
    return settings["architecture"].kernel_shapes(settings["classes"])
