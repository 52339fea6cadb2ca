"""Layers that Keras 3 and tf_keras have under one name, and what decides about their outputs."""

from typing import Any

from keras import layers

from keras_squeezenet.compression.with_training.bridge import activations
from keras_squeezenet.compression.with_training.bridge.place import Place
from keras_squeezenet.network.graph import first_inputs_of
from keras_squeezenet.network.layers import BatchNormalization

_NORMALIZATION = ("axis", "momentum", "epsilon", "center", "scale")

CARRIED = {
    layers.Conv2D: (
        "filters",
        "kernel_size",
        "strides",
        "padding",
        "dilation_rate",
        "groups",
        "activation",
        "use_bias",
    ),
    layers.Conv2DTranspose: (
        "filters",
        "kernel_size",
        "strides",
        "padding",
        "output_padding",
        "dilation_rate",
        "activation",
        "use_bias",
    ),
    layers.DepthwiseConv2D: (
        "kernel_size",
        "strides",
        "padding",
        "depth_multiplier",
        "dilation_rate",
        "activation",
        "use_bias",
    ),
    layers.Dense: ("units", "activation", "use_bias"),
    layers.BatchNormalization: _NORMALIZATION,
    BatchNormalization: _NORMALIZATION,
    layers.GroupNormalization: ("groups", "axis", "epsilon", "center", "scale"),
    layers.LayerNormalization: ("axis", "epsilon", "center", "scale"),
    layers.MaxPooling2D: ("pool_size", "strides", "padding"),
    layers.AveragePooling2D: ("pool_size", "strides", "padding"),
    layers.GlobalMaxPooling2D: ("keepdims",),
    layers.GlobalAveragePooling2D: ("keepdims",),
    layers.UpSampling2D: ("size", "interpolation"),
    layers.ZeroPadding2D: ("padding",),
    layers.Cropping2D: ("cropping",),
    layers.Activation: ("activation",),
    layers.ELU: ("alpha",),
    layers.PReLU: ("shared_axes",),
    layers.ReLU: ("max_value", "negative_slope", "threshold"),
    layers.Softmax: ("axis",),
    layers.Add: (),
    layers.Maximum: (),
    layers.Minimum: (),
    layers.Multiply: (),
    layers.Subtract: (),
    layers.Concatenate: ("axis",),
    layers.Dropout: ("rate", "noise_shape"),
    layers.AlphaDropout: ("rate", "noise_shape"),
    layers.GaussianDropout: ("rate",),
    layers.SpatialDropout2D: ("rate",),
    layers.Flatten: (),
    layers.Reshape: ("target_shape",),
    layers.Permute: ("dims",),
}

# The layers whose kernels are compressed; the kernel is the first of their weights. tfmot neither
# prunes nor clusters those of depthwise convolutions.
WITH_KERNEL = (layers.Conv2D, layers.Conv2DTranspose, layers.Dense)


def same(place: Place, inputs: Any, part: str | None = None) -> Any:
    return layer_like(place, place.operation, inputs, part)


def layer_like(place: Place, layer: layers.Layer, inputs: Any, part: str | None = None) -> Any:
    """The outputs of a layer that is as `layer`, which is of `CARRIED`."""
    kind, config = type(layer).__name__, layer.get_config()
    if config.get("rms_scaling"):
        raise place.refusal("LayerNormalization with rms_scaling=False", "rms_scaling=True")
    config = {key: config[key] for key in CARRIED[type(layer)]}
    if isinstance(layer, layers.BatchNormalization):
        config["trainable"] = layer.trainable and not place.inference
        if layer.axis == len(first_inputs_of(layer)[0].shape) - 1:
            config["axis"] = -1  # also of a line that is an image here
        if place.twin.for_8_bits and (place.name in place.twin.apart or not _folds(inputs)):
            inputs = place.affine(inputs, 1.0, 0.0, "channels")
    activation = config.get("activation", "linear")
    if kind == "Activation":
        return activations.activate(place, inputs, activation)
    if activations.is_inside(place, activation):
        return place.layer(kind, inputs, part, **config)
    activations.check(place, activation)
    outputs = place.layer(kind, inputs, part, **{**config, "activation": "linear"})
    prefix = "_".join(filter(None, (part, activation)))
    return activations.activate(place, outputs, activation, prefix)


def _folds(inputs: Any) -> bool:
    """Whether tfmot folds a batch normalization into the layer that made its input."""
    before = inputs.node.layer
    kinds = ("Conv2D", "DepthwiseConv2D")  # of Dense the converter leaves floats
    alone = getattr(before, "activation", None) is None or before.activation.__name__ == "linear"
    return type(before).__name__ in kinds and alone
