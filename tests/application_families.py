"""The smallest network of each family of keras.applications, at the smallest image it takes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
from keras import applications


@dataclass(frozen=True)
class Family:
    """A family, by its smallest network.

    Attributes:
        name: of the family.
        make: of `input_shape`, `classes` and the other arguments of keras.applications.
        side: the least height and width, in pixels.
        is_large: whether its twin takes more than some seconds.
    """

    name: str
    make: Callable[..., keras.Model]
    side: int = 32
    is_large: bool = False

    def model(self, classes: int = 4, **arguments: Any) -> keras.Model:
        """With new weights."""
        shape = (self.side, self.side, 3)
        return self.make(weights=None, input_shape=shape, classes=classes, **arguments)


FAMILIES = [
    Family("VGG", applications.VGG16),
    Family("MobileNet", partial(applications.MobileNet, alpha=0.25)),
    Family("MobileNetV2", partial(applications.MobileNetV2, alpha=0.35)),
    Family("MobileNetV3", partial(applications.MobileNetV3Small, alpha=0.75)),
    Family("EfficientNet", applications.EfficientNetB0),
    Family("EfficientNetV2", applications.EfficientNetV2B0),
    Family("DenseNet", applications.DenseNet121, is_large=True),
    Family("ResNet", applications.ResNet50),
    Family("ResNetV2", applications.ResNet50V2, is_large=True),
    Family("Inception", applications.InceptionV3, 75, is_large=True),
    Family("InceptionResNet", applications.InceptionResNetV2, 75, is_large=True),
    Family("Xception", applications.Xception, 71),
    Family("NASNet", applications.NASNetMobile, is_large=True),
    Family("ConvNeXt", applications.ConvNeXtTiny, is_large=True),
]
