"""What `SqueezeNet` has to be told to build a model, read off the model. Keras only."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from keras_squeezenet.errors import InputError
from keras_squeezenet.network.architecture import FIRST_FIRE, Architecture, FireFilters
from keras_squeezenet.network.graph import first_inputs_of, maker_of
from keras_squeezenet.network.layers import CeilMaxPooling2D, Fire, ImagePreprocessing
from keras_squeezenet.network.models import SqueezeNet
from keras_squeezenet.network.preprocessing import Mode
from keras_squeezenet.network.pretrained import padding_name
from keras_squeezenet.sqz.network import CompressedNetwork, SharedValues


class NotASqueezeNetError(InputError):
    """A model that the constructor `SqueezeNet` does not build; the text names the difference."""


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
        shapes = settings["architecture"].kernel_shapes(settings["classes"])
        twin = squeezenet_of(
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


def squeezenet_of(network: CompressedNetwork) -> keras.Model:
    """The model that a `CompressedNetwork` describes, with fresh weights."""
    side = network.input_size
    channels_first = keras.config.image_data_format() == "channels_first"
    return SqueezeNet(
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
    "batch_normalization",
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
