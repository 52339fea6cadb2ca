"""From a file of weights, of any kind, to the variables of a model. Keras only."""

import os
import zipfile
from collections.abc import Container, Mapping
from pathlib import Path

import h5py
import keras

from keras_squeezenet.errors import one_line
from keras_squeezenet.network import imagenet
from keras_squeezenet.network.architecture import PRESETS, Architecture, Bypass
from keras_squeezenet.network.graph import convolutions_of, every_layer
from keras_squeezenet.network.layers import ImagePreprocessing
from keras_squeezenet.network.preprocessing import PREPROCESSINGS, Mode, fold, unfold
from keras_squeezenet.network.weight_files import FORMATS, WeightFile, WeightFileError, read_weights

# What a model without preprocessing takes: the output of `imagenet.preprocess_input`.
WITHOUT_PREPROCESSING: Mode = "caffe"


def read_pretrained(weights: str | os.PathLike[str], architecture: Architecture) -> WeightFile:
    """The arrays behind the argument `weights` of a constructor.

    Args:
        weights: "imagenet", or the path of a .keras file or of one that `read_weights` reads.
        architecture: of the network that is to take them.

    Returns:
        A `WeightFile` with everything but, perhaps, the last convolution.

    Raises:
        ValueError: there are no ImageNet weights for the architecture, or the file's do not fit.
        PublishedFileError: see `downloads.published_path`.
        WeightFileError: see `read_weights`.
    """
    if weights == "imagenet":
        return read_weights(imagenet.weights_path(_published_version(architecture)), architecture)
    path = Path(weights)
    if path.suffix.lower() == ".keras":
        return _read_keras(path, architecture)
    if path.suffix.lower() not in FORMATS:
        raise WeightFileError(
            f"A file of weights ends in .keras, .weights.h5, {', '.join(FORMATS)}. Received: {path}"
        )
    return read_weights(path, architecture)


def load_unnamed(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Give a model the weights of a .weights.h5 file, which holds neither names nor settings.

    Raises:
        WeightFileError: it cannot be read, or is of another network.
    """
    try:
        model.load_weights(path)
    except Exception as error:  # h5py and Keras raise nearly anything
        raise WeightFileError(
            f"The weights cannot be read into {model.name}: {path}: {one_line(error, 200)}. "
            "A .weights.h5 file fits the model that it was saved from, a .keras file others too"
        ) from error


def padding_of_unnamed(path: str | os.PathLike[str]) -> int:
    """Zeros around the map that the last convolution takes, in pixels, of a .weights.h5 file."""
    try:
        with h5py.File(path) as file:
            # Layers without weights have a group too. 1.0's is the only padding there is.
            return int("layers/zero_padding2d" in file)
    except OSError as error:
        raise WeightFileError(f"The weights cannot be read: {path}: {error}") from error


def assign_pretrained(
    model: keras.Model, pretrained: WeightFile, names: Container[str], preprocessing: Mode
) -> None:
    """Give the convolutions of a model the arrays of a `WeightFile`.

    Args:
        model: the network, with the layer names of `SqueezeNet`.
        pretrained: a `WeightFile`.
        names: of the convolutions that are taken from it.
        preprocessing: mode of the images that the model's first convolution takes. Where the file
            was trained with another, the convolution is rewritten, which is exact because it does
            not pad.
    """
    for name, convolution in convolutions_of(model.layers).items():
        if name not in names:
            continue
        kernel, bias = pretrained.kernels[name], pretrained.biases[name]
        if name == "conv1" and pretrained.preprocessing not in (None, preprocessing):
            kernel, bias = fold(kernel, bias, PREPROCESSINGS[pretrained.preprocessing])
            kernel, bias = unfold(kernel, bias, PREPROCESSINGS[preprocessing])
        convolution.kernel.assign(kernel)
        convolution.bias.assign(bias)


def classes_of(pretrained: WeightFile, architecture: Architecture) -> int | None:
    """Number of classes of a `WeightFile`; None where it comes without the last convolution."""
    kernel = pretrained.kernels.get(architecture.last_conv_name)
    return None if kernel is None else kernel.shape[-1]


def padding_name(architecture: Architecture) -> str:
    """Name of the layer that pads what the last convolution takes."""
    return f"pad{architecture.last_conv_number}"


def _published_version(architecture: Architecture) -> str:
    for version, published in PRESETS.items():
        if architecture.takes_weights_of(published):
            return version
    raise ValueError(
        f"There are ImageNet weights for the versions {' and '.join(map(repr, PRESETS))} without "
        "bypass; take `weights=None` for others. "
        f"Received: weights=imagenet, architecture={architecture.name}, "
        f"bypass={_bypass_of(architecture)}"
    )


def _bypass_of(architecture: Architecture) -> Bypass:
    kinds = {fire.bypass for fire in architecture.fires}
    return next((kind for kind in ("complex", "simple") if kind in kinds), None)


def _read_keras(path: Path, architecture: Architecture) -> WeightFile:
    """A saved model's convolutions by name, wherever in it they are; its head may be another."""
    if not zipfile.is_zipfile(path):
        raise WeightFileError(f"Expected an archive that Keras saved. Received: {path}")
    try:
        model = keras.saving.load_model(path, compile=False)
    except OSError:
        raise
    except Exception as error:  # Keras raises nearly anything for hostile bytes
        raise WeightFileError(
            f"The model cannot be read: {path}: {one_line(error, 300)}"
        ) from error
    layers = {layer.name: layer for layer in every_layer(model)}
    convolutions = convolutions_of(layers.values())
    kernels, biases = {}, {}
    shapes: dict[str, tuple[int | None, ...]] = {**architecture.kernel_shapes(classes=1)}
    shapes[architecture.last_conv_name] = (*shapes[architecture.last_conv_name][:-1], None)
    for name, shape in shapes.items():
        if name == architecture.last_conv_name and name not in convolutions:
            continue  # saved without top
        kernel = getattr(convolutions.get(name), "kernel", None)
        found = None if kernel is None else tuple(kernel.shape)
        if found is None or any(n not in (None, m) for n, m in zip(shape, found, strict=True)):
            raise WeightFileError(
                f"Expected the kernel {name} of shape {shape} of {architecture.name}. "
                f"Received: {found} in {path}"
            )
        if not convolutions[name].use_bias:
            raise WeightFileError(
                f"Expected biases. Received: {name} without any in {path}. Batch normalization has "
                "to be folded away first: keras_squeezenet.folded_weights"
            )
        kernels[name] = keras.ops.convert_to_numpy(kernel)
        biases[name] = keras.ops.convert_to_numpy(convolutions[name].bias)
    _check_connections(layers, architecture, path)
    modes = {layer.mode for layer in layers.values() if isinstance(layer, ImagePreprocessing)}
    padding = layers.get(padding_name(architecture))
    return WeightFile(
        kernels=kernels,
        biases=biases,
        preprocessing=modes.pop() if len(modes) == 1 else None,
        last_conv_padding=padding.padding[0][0] if padding else 0,
        last_activation=_activation_name(convolutions.get(architecture.last_conv_name)),
    )


def _check_connections(
    layers: Mapping[str, keras.layers.Layer], architecture: Architecture, path: Path
) -> None:
    """The same arrays make another network where bypasses and poolings are others."""
    for number, fire in zip(architecture.fire_numbers, architecture.fires, strict=True):
        found = layers[f"fire{number}"].bypass
        if found != fire.bypass:
            raise WeightFileError(
                f"Expected bypass={fire.bypass} around fire{number} of {architecture.name}. "
                f"Received: bypass={found} in {path}"
            )
    numbers = range(1, architecture.last_conv_number)
    pooled = tuple(number for number in numbers if f"pool{number}" in layers)
    if pooled != architecture.pool_after:
        raise WeightFileError(
            f"Expected poolings after the layers {architecture.pool_after} of {architecture.name}. "
            f"Received: {pooled} in {path}"
        )


def _activation_name(convolution: keras.layers.Conv2D | None) -> str:
    return "relu" if convolution is None else keras.activations.serialize(convolution.activation)
