"""The smallest networks of keras.applications, of each family one, and shorter ones like them.

Those of `Member.short_model` have few blocks: Keras's own, by its own code where that has a place
for their number.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
from keras import applications, layers

CLASSES = 4
# What a network is, and what makes it.
Shortened = tuple[str, Callable[..., keras.Model]]


@dataclass(frozen=True)
class Member:
    """The smallest network of a family.

    Attributes:
        constructor: its name in keras.applications.
        side: the least height and width, in pixels.
        arguments: of the constructor, that make it small.
        shortened: what makes a network of the same kinds of blocks, and few of them, and says
            what it is; None where Keras's code has no place for that.
        learning_rate: from which it learns.
    """

    constructor: str
    side: int = 32
    arguments: tuple[tuple[str, float], ...] = ()
    shortened: Shortened | None = None
    learning_rate: float = 1e-3

    def model(self, **arguments: Any) -> keras.Model:
        """The smallest network, with new weights."""
        make = getattr(applications, self.constructor)
        return make(**dict(self.arguments), **self._asked(), **arguments)

    def short_model(self) -> keras.Model:
        """What the study takes."""
        return self.shortened[1](**self._asked()) if self.shortened else self.model()

    @property
    def description(self) -> str:
        """Of `short_model`."""
        arguments = ", ".join(f"{name}={value}" for name, value in self.arguments)
        own = f"{self.constructor}({arguments})" if arguments else self.constructor
        return self.shortened[0] if self.shortened else own

    def _asked(self) -> dict[str, Any]:
        shape = (self.side, self.side, 3)
        return {"weights": None, "input_shape": shape, "classes": CLASSES}


def beside(constructor: str, name: str) -> Callable[..., Any]:
    """A function of the module of a constructor in keras.applications."""
    return getattr(sys.modules[getattr(applications, constructor).__module__], name)


def residual(version: int) -> Shortened:
    def make(**asked: Any) -> keras.Model:
        blocks = beside("ResNet50", f"stack_residual_blocks_v{version}")

        def stack(x: keras.KerasTensor) -> keras.KerasTensor:
            return blocks(blocks(x, 8, 2, stride1=1, name="conv2"), 16, 2, name="conv3")

        return beside("ResNet50", "ResNet")(stack, preact=version == 2, use_bias=True, **asked)

    return f"ResNet{'V2' if version == 2 else ''} of 2 stacks of 2 blocks", make


def with_one_dense_layer(
    weights: None, input_shape: tuple[int, int, int], classes: int
) -> keras.Model:
    features = applications.VGG16(
        weights=weights, input_shape=input_shape, include_top=False, pooling="avg"
    )
    outputs = layers.Dense(classes, activation="softmax", name="predictions")(features.output)
    return keras.Model(features.input, outputs, name="vgg16")


def short(description: str, constructor: str, builder: str, **sizes: Any) -> Shortened:
    return description, lambda **asked: beside(constructor, builder)(**sizes, **asked)


def of_one_block_of_each_kind(
    weights: None, input_shape: tuple[int, int, int], classes: int
) -> keras.Model:
    """InceptionResNetV2 has 40 blocks of three kinds, and no argument that says how many."""
    convolve, block = (
        beside("InceptionResNetV2", name) for name in ("conv2d_bn", "inception_resnet_block")
    )
    image = layers.Input(input_shape)
    x = layers.MaxPooling2D(3, strides=2)(convolve(image, 32, 3, strides=2))
    for number, kind in enumerate(("block35", "block17", "block8"), start=1):
        x = block(convolve(x, 64, 3, strides=2, padding="same"), 0.2, kind, number)
    x = layers.GlobalAveragePooling2D(name="avg_pool")(x)
    outputs = layers.Dense(classes, activation="softmax", name="predictions")(x)
    return keras.Model(image, outputs, name="inception_resnet_v2")


def up_to(constructor: str, layer: str) -> Shortened:
    """The first blocks, of a network of which Keras makes the whole only."""

    def make(classes: int, **asked: Any) -> keras.Model:
        whole = getattr(applications, constructor)(**asked, include_top=False)
        x = layers.GlobalAveragePooling2D(name="avg_pool")(whole.get_layer(layer).output)
        outputs = layers.Dense(classes, activation="softmax", name="predictions")(x)
        return keras.Model(whole.input, outputs, name=whole.name)

    return f"{constructor} up to {layer}", make


FAMILIES = {
    "MobileNet": Member("MobileNet", arguments=(("alpha", 0.25),)),
    "MobileNetV2": Member("MobileNetV2", arguments=(("alpha", 0.35),)),
    "MobileNetV3": Member("MobileNetV3Small", arguments=(("alpha", 0.35),)),
    "VGG": Member(
        "VGG16",
        shortened=("VGG16 with one dense layer", with_one_dense_layer),
        learning_rate=1e-4,
    ),
    "ResNet": Member("ResNet50", shortened=residual(1)),
    "ResNetV2": Member("ResNet50V2", shortened=residual(2)),
    "EfficientNet": Member(
        "EfficientNetB0",
        shortened=short(
            "EfficientNet of width and depth 0.25",
            "EfficientNetB0",
            "EfficientNet",
            width_coefficient=0.25,
            depth_coefficient=0.25,
            default_size=32,
        ),
    ),
    "EfficientNetV2": Member(
        "EfficientNetV2B0",
        shortened=short(
            "EfficientNetV2 of width 0.25 and depth 0.125",
            "EfficientNetV2B0",
            "EfficientNetV2",
            width_coefficient=0.25,
            depth_coefficient=0.125,
            default_size=32,
            name="efficientnetv2-b0",
        ),
    ),
    "ConvNeXt": Member(
        "ConvNeXtTiny",
        shortened=short(
            "ConvNeXt of 4 blocks",
            "ConvNeXtTiny",
            "ConvNeXt",
            depths=(1, 1, 1, 1),
            projection_dims=(16, 32, 48, 64),
            default_size=32,
        ),
    ),
    "DenseNet": Member(
        "DenseNet121",
        shortened=short("DenseNet of 8 blocks", "DenseNet121", "DenseNet", blocks=(2, 2, 2, 2)),
    ),
    "NASNet": Member(
        "NASNetMobile",
        shortened=short(
            "NASNet of 3 normal cells",
            "NASNetMobile",
            "NASNet",
            penultimate_filters=192,
            num_blocks=1,
            stem_block_filters=8,
            skip_reduction=False,
        ),
    ),
    "Xception": Member("Xception", 71, shortened=up_to("Xception", "block4_sepconv1_act")),
    "Inception": Member("InceptionV3", 75, shortened=up_to("InceptionV3", "mixed4")),
    "InceptionResNet": Member(
        "InceptionResNetV2",
        75,
        shortened=("InceptionResNet of a block of each kind", of_one_block_of_each_kind),
    ),
}
