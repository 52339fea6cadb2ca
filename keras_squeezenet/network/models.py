"""SqueezeNet models: an `Architecture` becomes a functional `keras.Model`.

The constructors keep the contract of `keras.applications`. Layers have the names of the paper's
Table 1: conv1, pool1, fire2, …, conv10.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import keras
from keras import layers

from keras_squeezenet.checks import is_int
from keras_squeezenet.network.architecture import Architecture, Bypass, FeatureMap, preset
from keras_squeezenet.network.data_formats import Shape, Tensor
from keras_squeezenet.network.layers import (
    NORMALIZATION_MOMENTUM,
    Activation,
    BatchNormalization,
    CeilMaxPooling2D,
    Fire,
    ImagePreprocessing,
    Initializer,
    fresh_initializer,
)
from keras_squeezenet.network.preprocessing import Mode
from keras_squeezenet.network.pretrained import (
    WITHOUT_PREPROCESSING,
    assign_pretrained,
    classes_of,
    load_unnamed,
    padding_name,
    padding_of_unnamed,
    read_pretrained,
)
from keras_squeezenet.network.weight_files import WeightFile

log = logging.getLogger(__name__)

# In the authors' network definition the last convolution starts from a narrow Gaussian, so that
# training starts near equal probabilities, and the others from Caffe's "xavier".
AUTHORS_INITIALIZER = "glorot_uniform"
AUTHORS_LAST_DEVIATION = 0.01

# "imagenet" or a file; None for random values.
Weights = str | os.PathLike[str] | None
Pooling = Literal["avg", "max"] | None


def SqueezeNet(
    include_top: bool = True,
    weights: Weights = "imagenet",
    input_tensor: keras.KerasTensor | None = None,
    input_shape: Shape | None = None,
    pooling: Pooling = None,
    classes: int = 1000,
    classifier_activation: Activation = "softmax",
    name: str | None = None,
    *,
    version: str = "1.1",
    bypass: Bypass = None,
    architecture: Architecture | None = None,
    dropout_rate: float = 0.5,
    include_preprocessing: bool | Mode = False,
    kernel_initializer: Initializer | None = None,
    last_activation: Activation = "relu",
    batch_normalization: bool = False,
    out_indices: Sequence[int] | None = None,
) -> keras.Model:
    """A SqueezeNet (Iandola et al., arXiv 1602.07360).

    Args:
        include_top: whether dropout, the last convolution and the classifier are included.
        weights: "imagenet", the published weights of versions 1.0 and 1.1, downloaded once; None,
            random values; or the path of a file: .weights.h5 of the same network; or .keras (a
            saved model with these layers), .npz, .net, .bin (ncnn), .caffemodel or .pth
            (torchvision), see `weight_files`. With `include_top=False` or another number of
            classes than the file's (1000), the last convolution is left out or new and the rest
            is loaded.
        input_tensor: output of `keras.layers.Input()` or of other layers, to be the input.
        input_shape: `(height, width, channels)`, or `(channels, height, width)` with
            "channels_first". Default: 227×227 pixels for version 1.0, 224×224 for 1.1, three
            channels; without top any number of pixels.
        pooling: without top: None, the last feature map is the output; "avg" or "max", its
            global average or maximum.
        classes: number of classes, with top.
        classifier_activation: of the top: "softmax"; or None, the output is the logits.
        name: the model's name. Default: the architecture's.
        version: "1.0", the paper's Table 1; or "1.1", the authors' own with 2.4 times less
            computation.
        bypass: None, "simple" or "complex" (section 6).
        architecture: an `Architecture` instead of `version` and `bypass`.
        dropout_rate: before the last convolution, with top.
        include_preprocessing: whether the model takes RGB 0…255, as image files hold it. True
            prepares it as the weights want it ("caffe" without any); or a mode of
            `ImagePreprocessing`. Without, a model with loaded weights takes the output of
            `preprocess_input`. Weights that were trained with another mode than the model's have
            their first convolution rewritten, so that every combination is right. A .weights.h5
            file does not say its mode: give the one that it was saved with.
        kernel_initializer: of every convolution. None: the authors' own, Glorot uniform and, for
            the last convolution, a Gaussian with deviation 0.01. With that one, training from
            nothing easily gets stuck behind the ReLU after it; "he_normal" does better.
        last_activation: of the last convolution, "relu" in the paper. A class whose filter is
            negative everywhere gets no gradient through it and is lost for good, which happens
            in training from nothing; None leaves the ReLU out and no class dies.
        batch_normalization: whether each convolution but the last is followed by one, before its
            activation, and has no bias. The paper has none; training from nothing learns faster
            with it, at higher rates. `folded_weights` gives the weights of the network without it
            that computes the same. For `weights=None`.
        out_indices: without top: a tuple of indices of `Architecture.feature_maps`, negative ones
            from the end. The model then has these feature maps as outputs, in the order asked for,
            and no layer beyond the last of them: a backbone for detection and segmentation, as
            timm's `features_only=True`. None: one output, the last map.

            ===== ============== ============== ======
            index 1.0 (channels) 1.1 (channels) stride
            ===== ============== ============== ======
            0     conv1 (96)     conv1 (64)     2
            1     fire4 (256)    fire3 (128)    4
            2     fire8 (512)    fire5 (256)    8
            3     fire9 (512)    fire9 (512)    16
            ===== ============== ============== ======

            A bypass changes nothing of that. `model.output_names` has the layers' names; with
            `batch_normalization` that of conv1's map is conv1_relu. Keras gives several outputs as
            a list, and a single one as it is.

    Returns:
        A `keras.Model`. With top its output is `(batch, classes)`; without it a feature map
        `(batch, height, width, channels)`, or with channels first, a list of these with
        `out_indices`, or `(batch, channels)` with `pooling`.

    Raises:
        ValueError: for arguments that do not go together; the text names them. Its subclasses
            `downloads.PublishedFileError` (the published file cannot be had) and
            `weight_files.WeightFileError` (a file that holds no such weights).

    Example:

    >>> SqueezeNet(weights=None).count_params()
    1235496
    >>> backbone = SqueezeNet(
    ...     weights=None, include_top=False, input_shape=(224, 224, 3), out_indices=(1, 2, -1)
    ... )
    >>> [tuple(output.shape) for output in backbone.outputs]
    [(None, 55, 55, 128), (None, 27, 27, 256), (None, 13, 13, 512)]
    """
    architecture = _architecture_of(version, bypass, architecture)
    _check_weights(weights, include_top, classifier_activation)
    if batch_normalization and weights is not None:
        raise ValueError(
            "`batch_normalization` must be False with `weights`: their network has none. "
            f"Received: batch_normalization={batch_normalization}, weights={weights}"
        )
    if pooling not in (None, "avg", "max"):
        raise ValueError(f"`pooling` must be None, 'avg' or 'max'. Received: pooling={pooling}")
    maps = _asked_maps(out_indices, include_top, pooling, architecture)
    image = _image_input(input_tensor, input_shape, include_top, architecture)
    unnamed = weights if str(weights).endswith(".h5") else None
    pretrained = None
    if weights is not None and unnamed is None:
        _check_three_channels(image.shape[1:])
        pretrained = read_pretrained(weights, architecture)
    loads_top = (
        include_top and pretrained is not None and classes_of(pretrained, architecture) == classes
    )
    if pretrained is not None and loads_top:
        _check_last_activation(last_activation, pretrained)
        architecture = replace(architecture, last_conv_padding=pretrained.last_conv_padding)
    elif include_top and pretrained is not None:
        log.warning("%s: the last convolution is new, for %d classes", weights, classes)
    elif include_top and unnamed is not None:
        architecture = replace(architecture, last_conv_padding=padding_of_unnamed(unnamed))
    mode = _preprocessing_mode(include_preprocessing, pretrained)

    x = ImagePreprocessing(mode, name="preprocessing")(image) if mode else image
    features = _features(
        x, architecture, kernel_initializer or AUTHORS_INITIALIZER, batch_normalization
    )
    x = list(features.values())[-1]
    if maps is not None:
        x = [features[found.name] for found in maps]
    elif include_top:
        last_initializer = kernel_initializer or keras.initializers.RandomNormal(
            stddev=AUTHORS_LAST_DEVIATION
        )
        x = _dropout_and_last_conv(
            x, architecture, classes, dropout_rate, last_initializer, last_activation
        )
        x = _classifier(x, architecture, classifier_activation)
    elif pooling == "avg":
        x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    elif pooling == "max":
        x = layers.GlobalMaxPooling2D(name="max_pool")(x)

    inputs = image if input_tensor is None else keras.utils.get_source_inputs(input_tensor)
    model = keras.Model(inputs, x, name=name or architecture.name)
    if pretrained is not None:
        names = set(architecture.kernel_shapes(classes))
        if not loads_top:
            names.remove(architecture.last_conv_name)
        assign_pretrained(model, pretrained, names, mode or WITHOUT_PREPROCESSING)
    elif unnamed is not None:
        load_unnamed(model, unnamed)
    return model


def SqueezeNet1_0(
    include_top: bool = True,
    weights: Weights = "imagenet",
    input_tensor: keras.KerasTensor | None = None,
    input_shape: Shape | None = None,
    pooling: Pooling = None,
    classes: int = 1000,
    classifier_activation: Activation = "softmax",
    name: str | None = None,
    *,
    bypass: Bypass = None,
    dropout_rate: float = 0.5,
    include_preprocessing: bool | Mode = False,
    kernel_initializer: Initializer | None = None,
    last_activation: Activation = "relu",
    batch_normalization: bool = False,
    out_indices: Sequence[int] | None = None,
) -> keras.Model:
    """SqueezeNet 1.0, the network of the paper's Table 1. Arguments: see `SqueezeNet`."""
    return SqueezeNet(**locals(), version="1.0")


def SqueezeNet1_1(
    include_top: bool = True,
    weights: Weights = "imagenet",
    input_tensor: keras.KerasTensor | None = None,
    input_shape: Shape | None = None,
    pooling: Pooling = None,
    classes: int = 1000,
    classifier_activation: Activation = "softmax",
    name: str | None = None,
    *,
    bypass: Bypass = None,
    dropout_rate: float = 0.5,
    include_preprocessing: bool | Mode = False,
    kernel_initializer: Initializer | None = None,
    last_activation: Activation = "relu",
    batch_normalization: bool = False,
    out_indices: Sequence[int] | None = None,
) -> keras.Model:
    """SqueezeNet 1.1: as accurate, 2.4 times less computation. Arguments: see `SqueezeNet`."""
    return SqueezeNet(**locals(), version="1.1")


def _preprocessing_mode(
    include_preprocessing: bool | Mode, pretrained: WeightFile | None
) -> Mode | None:
    if include_preprocessing is True:
        return getattr(pretrained, "preprocessing", None) or "caffe"
    return include_preprocessing or None


def _features(
    x: Tensor,
    architecture: Architecture,
    kernel_initializer: Initializer,
    batch_normalization: bool,
) -> dict[str, Tensor]:
    """Everything up to the last Fire, or the pooling after it: tensors by the layers' names."""
    features: dict[str, Tensor] = {}

    def pooled(x: Tensor, name: str, number: int) -> Tensor:
        features[name] = x
        if number in architecture.pool_after:
            x = CeilMaxPooling2D(name=f"pool{number}")(x)
            features[f"pool{number}"] = x
        return x

    x = layers.Conv2D(
        architecture.conv1_filters,
        architecture.conv1_kernel_size,
        strides=2,
        activation=None if batch_normalization else "relu",
        use_bias=not batch_normalization,
        kernel_initializer=fresh_initializer(kernel_initializer),
        name="conv1",
    )(x)
    if batch_normalization:
        x = BatchNormalization(
            axis=1 if keras.config.image_data_format() == "channels_first" else -1,
            momentum=NORMALIZATION_MOMENTUM,
            name="conv1_normalization",
        )(x)
        x = layers.Activation("relu", name="conv1_relu")(x)
    x = pooled(x, "conv1", 1)
    for number, fire in zip(architecture.fire_numbers, architecture.fires, strict=True):
        x = Fire(
            fire.squeeze,
            fire.expand1x1,
            fire.expand3x3,
            fire.bypass,
            kernel_initializer=kernel_initializer,
            batch_normalization=batch_normalization,
            name=f"fire{number}",
        )(x)
        x = pooled(x, f"fire{number}", number)
    return features


def _dropout_and_last_conv(
    x: Tensor,
    architecture: Architecture,
    classes: int,
    dropout_rate: float,
    kernel_initializer: Initializer,
    activation: Activation,
) -> Tensor:
    """Dropout after the last Fire (section 3.3), then one filter per class."""
    last_fire, last_conv = architecture.fire_numbers[-1], architecture.last_conv_number
    x = layers.Dropout(dropout_rate, name=f"drop{last_fire}")(x)
    if architecture.last_conv_padding:
        x = layers.ZeroPadding2D(architecture.last_conv_padding, name=padding_name(architecture))(x)
    return layers.Conv2D(
        classes,
        1,
        activation=activation,
        kernel_initializer=fresh_initializer(kernel_initializer),
        name=f"conv{last_conv}",
    )(x)


def _classifier(x: Tensor, architecture: Architecture, classifier_activation: Activation) -> Tensor:
    """Global average and activation (Table 1)."""
    # float32 whatever the policy: a softmax in half precision loses small probabilities.
    x = layers.GlobalAveragePooling2D(name=f"pool{architecture.last_conv_number}", dtype="float32")(
        x
    )
    return layers.Activation(classifier_activation, name="predictions", dtype="float32")(x)


def _architecture_of(
    version: str, bypass: Bypass, architecture: Architecture | None
) -> Architecture:
    if architecture is None:
        return preset(version).with_bypass(bypass)
    if not isinstance(architecture, Architecture):
        raise ValueError(
            "`architecture` must be an `Architecture` or None. "
            f"Received: architecture={architecture}"
        )
    if bypass is not None:
        raise ValueError(
            "With `architecture`, `bypass` belongs to it: `architecture.with_bypass(…)`. "
            f"Received: bypass={bypass}"
        )
    return architecture


def _asked_maps(
    out_indices: Sequence[int] | None,
    include_top: bool,
    pooling: Pooling,
    architecture: Architecture,
) -> list[FeatureMap] | None:
    """The `FeatureMap`s at `out_indices`; None without any."""
    if out_indices is None:
        return None
    if include_top or pooling is not None:
        raise ValueError(
            "`out_indices` goes with `include_top=False` and `pooling=None`. "
            f"Received: include_top={include_top}, pooling={pooling}, out_indices={out_indices}"
        )
    maps = architecture.feature_maps
    count = len(maps)
    if (
        not isinstance(out_indices, tuple | list)
        or not out_indices
        or not all(is_int(index, -count, count - 1) for index in out_indices)
        or len({index % count for index in out_indices}) < len(out_indices)
    ):
        names = ", ".join(found.name for found in maps)
        raise ValueError(
            f"`out_indices` must hold different integers from {-count} to {count - 1}, which are "
            f"the feature maps {names} of {architecture.name}. Received: out_indices={out_indices}"
        )
    return [maps[index] for index in out_indices]


def _check_weights(weights: Weights, include_top: bool, classifier_activation: Activation) -> None:
    if weights is None:
        return
    if weights != "imagenet" and not os.path.exists(weights):
        raise ValueError(
            "The `weights` argument should be either `None` (random initialization), `imagenet` "
            "(pre-training on ImageNet), or the path to the weights file to be loaded. "
            f"Received: weights={weights}"
        )
    activation = keras.activations.get(classifier_activation)
    allowed = (keras.activations.get(None), keras.activations.get("softmax"))
    if include_top and activation not in allowed:
        raise ValueError(
            "Only `None` and `softmax` activations are allowed for the `classifier_activation` "
            "argument when using pretrained weights, with `include_top=True`. "
            f"Received: classifier_activation={classifier_activation}"
        )


def _check_last_activation(last_activation: Activation, pretrained: WeightFile) -> None:
    asked = keras.activations.serialize(keras.activations.get(last_activation))
    if asked != pretrained.last_activation:
        raise ValueError(
            "`last_activation` must be that of the weights whose last convolution is loaded, "
            f"{pretrained.last_activation}. Received: last_activation={last_activation}"
        )


def _check_three_channels(input_shape: Shape) -> None:
    axis = 0 if keras.config.image_data_format() == "channels_first" else -1
    if input_shape[axis] != 3:
        raise ValueError(
            "`input_shape` must have three channels, with weights of networks for RGB images. "
            f"Received: input_shape={tuple(input_shape)}"
        )


def _image_input(
    input_tensor: keras.KerasTensor | None,
    input_shape: Shape | None,
    include_top: bool,
    architecture: Architecture,
) -> keras.KerasTensor:
    if input_tensor is None:
        shape = _checked_shape(input_shape, include_top, architecture)
        return layers.Input(shape=shape)
    if not keras.utils.is_keras_tensor(input_tensor):
        raise ValueError(
            "`input_tensor` must be a Keras tensor, the output of `keras.layers.Input()` or of "
            f"other layers. Received: input_tensor={input_tensor} of type {type(input_tensor)}"
        )
    tensor_shape = tuple(input_tensor.shape[1:])
    if input_shape is not None and tensor_shape != tuple(input_shape):
        raise ValueError(
            "`input_shape` must equal the shape of `input_tensor` without its batch. "
            f"Received: input_shape={input_shape}, input_tensor.shape={input_tensor.shape}"
        )
    _checked_shape(tensor_shape, include_top, architecture)
    return input_tensor


def _checked_shape(
    input_shape: Shape | None, include_top: bool, architecture: Architecture
) -> Shape:
    channels_first = keras.config.image_data_format() == "channels_first"
    if input_shape is None:
        side = architecture.input_size if include_top else None
        return (3, side, side) if channels_first else (side, side, 3)
    if not isinstance(input_shape, tuple | list) or len(input_shape) != 3:
        raise ValueError(
            f"`input_shape` must be a tuple of three integers. Received: input_shape={input_shape}"
        )
    sides = input_shape[1:] if channels_first else input_shape[:2]
    if include_top and None in sides:
        raise ValueError(
            "If `include_top` is True, you should specify a static `input_shape`. "
            f"Received: input_shape={input_shape}"
        )
    least = architecture.min_input_size
    if any(side is not None and side < least for side in sides):
        raise ValueError(
            f"Input size must be at least {least}x{least} for {architecture.name}. "
            f"Received: input_shape={input_shape}"
        )
    return tuple(input_shape)
