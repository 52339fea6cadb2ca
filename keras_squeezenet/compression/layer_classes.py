"""The classes of the layers that a .sqz file of version 2 holds: a fixed table. Keras only."""

from __future__ import annotations

import keras
from keras import layers

from keras_squeezenet.network.families.layers import (
    ChannelSelection,
    GroupedConv2D,
    LocalResponseNormalization,
)
from keras_squeezenet.network.graph import class_beside
from keras_squeezenet.network.layers import (
    BatchNormalization,
    CeilMaxPooling2D,
    Fire,
    ImagePreprocessing,
)

_NAMES = (
    *("Conv1D", "DepthwiseConv1D", "SeparableConv1D", "Conv1DTranspose"),
    *("Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Conv2DTranspose", "Dense"),
    *("BatchNormalization", "LayerNormalization", "GroupNormalization", "RMSNormalization"),
    *("UnitNormalization", "Normalization", "Rescaling", "MaxPooling1D", "AveragePooling1D"),
    *("GlobalMaxPooling1D", "GlobalAveragePooling1D", "MaxPooling2D", "AveragePooling2D"),
    *("GlobalMaxPooling2D", "GlobalAveragePooling2D", "ZeroPadding1D", "ZeroPadding2D"),
    *("Cropping1D", "Cropping2D"),
    *("UpSampling1D", "UpSampling2D", "Activation", "ReLU", "LeakyReLU", "PReLU", "ELU"),
    *("Softmax", "Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate"),
    *("Dropout", "AlphaDropout", "GaussianDropout", "SpatialDropout1D", "SpatialDropout2D"),
    *("GaussianNoise", "Identity", "Flatten", "Reshape", "Permute"),
)
# Keras's own, of networks of keras.applications; a version of Keras may have other ones.
_OF_APPLICATIONS = {
    name: class_beside(constructor, name)
    for name, constructor in (
        ("LayerScale", keras.applications.ConvNeXtTiny),
        ("StochasticDepth", keras.applications.ConvNeXtTiny),
        ("CustomScaleLayer", keras.applications.InceptionResNetV2),
    )
}
CLASSES: dict[str, type[keras.layers.Layer]] = {
    **{name: getattr(layers, name) for name in _NAMES},
    **{name: found for name, found in _OF_APPLICATIONS.items() if found is not None},
    "Fire": Fire,
    "CeilMaxPooling2D": CeilMaxPooling2D,
    "ImagePreprocessing": ImagePreprocessing,
    "GroupedConv2D": GroupedConv2D,
    "ChannelSelection": ChannelSelection,
    "LocalResponseNormalization": LocalResponseNormalization,
}
# They alter images in training alone, and give in inference what they take: in a file they are
# Identity. A version of Keras may have fewer of them.
_AUGMENTATION = (
    *("RandomFlip", "RandomRotation", "RandomTranslation", "RandomZoom", "RandomShear"),
    *("RandomPerspective", "RandomElasticTransform", "RandomErasing", "RandomBrightness"),
    *("RandomContrast", "RandomHue", "RandomSaturation", "RandomSharpness", "RandomInvert"),
    *("RandomColorJitter", "RandomColorDegeneration", "RandomGrayscale", "RandomPosterization"),
    *("RandomGaussianBlur", "AugMix", "RandAugment"),
)
AUGMENTATION = tuple(getattr(layers, name) for name in _AUGMENTATION if hasattr(layers, name))
KIND_OF: dict[type[keras.layers.Layer], str] = {
    **{kind_class: name for name, kind_class in CLASSES.items()},
    # It computes the same, and comes back as Keras's.
    BatchNormalization: "BatchNormalization",
}
