"""Keras models in .sqz files. Keras only."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_squeezenet.compression.graph_building import assign as assign_arrays
from keras_squeezenet.compression.graph_building import model_of_graph
from keras_squeezenet.compression.graph_models import bits_of, compressed_model_of
from keras_squeezenet.compression.graph_reading import graph_and_arrays
from keras_squeezenet.compression.without_training.codebooks import (
    MAX_CHANGE_BY_BASE,
    nearest_values,
    relative_change,
    share_values,
)
from keras_squeezenet.errors import InputError
from keras_squeezenet.network.architecture import (
    FIRST_FIRE,
    Architecture,
    FireFilters,
    KernelShape,
)
from keras_squeezenet.network.graph import convolutions_of, first_inputs_of, maker_of
from keras_squeezenet.network.layers import CeilMaxPooling2D, Fire, ImagePreprocessing
from keras_squeezenet.network.models import SqueezeNet
from keras_squeezenet.network.preprocessing import Mode
from keras_squeezenet.network.pretrained import padding_name
from keras_squeezenet.sqz import SqzError
from keras_squeezenet.sqz.files import read_network, write_network
from keras_squeezenet.sqz.model import CompressedModel
from keras_squeezenet.sqz.network import MAX_CODEBOOK, CompressedNetwork, SharedValues
from keras_squeezenet.sqz.versions import Compressed


class NotASqueezeNetError(InputError):
    """A model that the constructor `SqueezeNet` does not build; the text names the difference."""


def save_compressed(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    mode: str = "best",
    bits: int | dict[str, int] | None = None,
    base: Compressed | None = None,
    class_names: Sequence[str] | None = None,
    resize: int | str | None = None,
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
    network = network_of(model, bits=bits, base=base, class_names=class_names, resize=resize)
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
    base: Compressed | None = None,
    class_names: Sequence[str] | None = None,
    resize: int | str | None = None,
) -> Compressed:
    """A model as what a .sqz file holds of it: a `CompressedNetwork`, or a `CompressedModel`.

    Arguments and errors: see `save_compressed`.
    """
    if base is not None and bits is not None:
        raise InputError("One of `bits` and `base` is enough. Received: both")
    if isinstance(class_names, str):
        raise InputError(f"`class_names` must be a list of names. Received: {class_names}")
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


def model_of(network: Compressed) -> keras.Model:
    """The `keras.Model` of a `CompressedNetwork` or a `CompressedModel`.

    Raises:
        SqzError: the latter makes none.
    """
    if isinstance(network, CompressedModel):
        return model_of_graph(network)
    side = network.input_size
    channels_first = keras.config.image_data_format() == "channels_first"
    model = SqueezeNet(
        weights=None,
        architecture=network.architecture,
        input_shape=(3, side, side) if channels_first else (side, side, 3),
        classes=network.classes,
        classifier_activation=network.classifier_activation,
        dropout_rate=network.dropout_rate,
        # CompressedNetwork has checked the name.
        include_preprocessing=network.preprocessing or False,  # type: ignore[arg-type]
        last_activation=network.last_activation,
        # Keras takes no slash in a name.
        name=network.architecture.name.replace("/", "_"),
    )
    assign(model, network)
    return model


def assign(model: keras.Model, network: Compressed) -> None:
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
    """
    try:
        settings_of(model)
    except NotASqueezeNetError:
        graph_and_arrays(model)


def settings_of(model: keras.Model) -> dict[str, Any]:
    """What `SqueezeNet` has to be told to build a model, by the names of `CompressedNetwork`.

    Raises:
        NotASqueezeNetError: it cannot build it.
    """
    layers = {layer.name: layer for layer in model.layers}
    if "conv1_normalization" in layers:
        raise NotASqueezeNetError(
            "`model` must have its batch normalization folded away: "
            f"keras_squeezenet.folded_weights. Received: {model.name} with it"
        )
    fires = [layer for layer in model.layers if isinstance(layer, Fire)]
    last_number = FIRST_FIRE + len(fires)
    names = ("conv1", f"conv{last_number}", f"drop{last_number - 1}", "predictions")
    for name in names:
        if name not in layers:
            raise NotASqueezeNetError(
                "`model` must be one that `SqueezeNet` built, with top. "
                f"Received: {model.name} without a layer {name}"
            )
    last_conv, dropout, predictions = (layers[name] for name in names[1:])
    try:
        settings: dict[str, Any] = {
            "architecture": _architecture_of(model, layers, fires),
            "classes": int(last_conv.filters),
            "input_size": _input_size(model),
            "preprocessing": _preprocessing_of(model),
            "last_activation": _activation_name(last_conv),
            "classifier_activation": _activation_name(predictions),
            "dropout_rate": float(dropout.rate),
        }
        shapes = _shapes(settings)
        twin = model_of(
            CompressedNetwork(
                **settings,
                class_names=None,
                resize=None,
                kernels={name: _zeros(shape) for name, shape in shapes.items()},
                biases={name: _zeros(shape[-1:]) for name, shape in shapes.items()},
            )
        )
    except NotASqueezeNetError:
        raise
    except (AttributeError, TypeError, ValueError) as error:
        raise NotASqueezeNetError(
            f"`model` must be one that `SqueezeNet` built. Received: {model.name}: {error}"
        ) from error
    _check_equal(model, twin)
    return settings


def _check_change(name: str, kernel: np.ndarray, values: np.ndarray) -> None:
    change = relative_change(kernel, values)
    if not change <= MAX_CHANGE_BY_BASE:
        raise InputError(
            "`base` must be a network that the model was trained on from: its values may change "
            f"weights by {MAX_CHANGE_BY_BASE:.0%}. Received: {change:.0%} in {name}"
        )


def _shapes(settings: Mapping[str, Any]) -> dict[str, KernelShape]:
    return settings["architecture"].kernel_shapes(settings["classes"])


def _zeros(shape: tuple[int, ...]) -> SharedValues:
    return SharedValues(np.zeros(shape, np.uint16), np.zeros(1, np.float32))


def _architecture_of(
    model: keras.Model, layers: Mapping[str, keras.layers.Layer], fires: Sequence[Fire]
) -> Architecture:
    numbers = [FIRST_FIRE + index for index in range(len(fires))]
    if [fire.name for fire in fires] != [f"fire{number}" for number in numbers]:
        raise NotASqueezeNetError(
            "`model` must have Fires named fire2, fire3, … in this order. "
            f"Received: {', '.join(fire.name for fire in fires)}"
        )
    conv1 = layers["conv1"]
    pooled = [
        number
        for number in (1, *numbers)
        if isinstance(layers.get(f"pool{number}"), CeilMaxPooling2D)
    ]
    architecture = Architecture(
        name=model.name,
        conv1_filters=int(conv1.filters),
        conv1_kernel_size=int(conv1.kernel_size[0]),
        fires=tuple(
            FireFilters(
                fire.squeeze_filters, fire.expand1x1_filters, fire.expand3x3_filters, fire.bypass
            )
            for fire in fires
        ),
        pool_after=tuple(pooled),
        input_size=_input_size(model),
    )
    padding = layers.get(padding_name(architecture))
    if padding is None:
        return architecture
    return replace(architecture, last_conv_padding=int(padding.padding[0][0]))


def _input_size(model: keras.Model) -> int:
    shape = model.input_shape
    sides = shape[2:] if keras.config.image_data_format() == "channels_first" else shape[1:3]
    if len(shape) != 4 or sides[0] != sides[1] or sides[0] is None:
        raise NotASqueezeNetError(
            f"`model` must take square images of a fixed size. Received: input_shape={shape}"
        )
    return int(sides[0])


def _preprocessing_of(model: keras.Model) -> Mode | None:
    modes = [layer.mode for layer in model.layers if isinstance(layer, ImagePreprocessing)]
    return modes[0] if modes else None


def _activation_name(layer: keras.layers.Layer) -> str | None:
    activation = layer.activation
    return None if activation is keras.activations.linear else activation.__name__


def _check_equal(model: keras.Model, twin: keras.Model) -> None:
    """Layer by layer and connection by connection, but for names, precision and initial values."""
    for found, expected in zip(_described(model), _described(twin), strict=False):
        if found != expected:
            raise NotASqueezeNetError(
                f"`model` must be one that `SqueezeNet` built. Received: {model.name}, "
                f"where layer {found[0]} is {found[1:]} instead of {expected}"
            )
    if len(model.layers) != len(twin.layers):
        raise NotASqueezeNetError(
            f"`model` must have the {len(twin.layers)} layers of {twin.name}. "
            f"Received: {len(model.layers)}"
        )
    outputs = [_name_of(tensor) for tensor in model.outputs]
    if outputs != ["predictions"]:
        raise NotASqueezeNetError(
            f"`model` must have the output predictions alone. Received: {', '.join(outputs)}"
        )


_COMPUTING = (
    "filters",
    "kernel_size",
    "strides",
    "padding",
    "dilation_rate",
    "groups",
    "use_bias",
    "activation",
    "pool_size",
    "mode",
    "squeeze_filters",
    "expand1x1_filters",
    "expand3x3_filters",
    "bypass",
)


def _described(model: keras.Model) -> Iterator[tuple[Any, ...]]:
    """Of each layer what decides what it computes, and from which layers it takes its input."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            yield "input", tuple(layer.batch_shape[1:])
            continue
        config = layer.get_config()
        settings = {key: config[key] for key in _COMPUTING if key in config}
        takes = tuple(_name_of(tensor) for tensor in first_inputs_of(layer))
        yield layer.name, type(layer).__name__, repr(settings), takes


def _name_of(tensor: keras.KerasTensor) -> str:
    layer = maker_of(tensor)
    return "input" if isinstance(layer, keras.layers.InputLayer) else layer.name
