"""Where in the twin a layer or an operation goes: what builds it there, and how it is refused."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain, count
from types import ModuleType
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_squeezenet.errors import InputError

if TYPE_CHECKING:  # imported on use
    import tf_keras


# Layers without weights and chance.
_ONCE = ("Activation", "AveragePooling2D", "ELU", "LeakyReLU", "MaxPooling2D", "ReLU")


class BridgeError(InputError):
    """A model that has no tf_keras twin; the text names the layer and its class."""


@dataclass
class Twin:
    """The layers of a twin that is being built.

    Attributes:
        kinds: `tf_keras.layers`.
        for_8_bits: whether tfmot's 8-bit scheme will take the twin.
        apart: names of normalizations that what is before them cannot take up in 8 bits.
        has_lines: whether the model has layers along a line.
        taken: the names of all operations of the model and of its inputs.
        made: by name, each layer with the operation it was made for and how.
        lines: the layers that make lines of images of height 1 (`lines`).
        given: what layers without weights have given, by what they were and took (`Place.layer`).
    """

    kinds: ModuleType
    for_8_bits: bool = False
    apart: frozenset[str] = frozenset()
    has_lines: bool = False
    taken: frozenset[str] = frozenset()
    made: dict[str, tuple[keras.Operation, Mapping[str, Any], "tf_keras.layers.Layer"]] = field(
        default_factory=dict
    )
    lines: set["tf_keras.layers.Layer"] = field(default_factory=set)
    given: dict[tuple[object, ...], tuple[Any, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """A call of one operation of the Keras 3 model, where the twin does the same.

    Attributes:
        twin: what is being built.
        operation: the layer, or the operation of keras.ops.
        name: of the operation in the twin.
        inference: whether it is called with training=False.
    """

    twin: Twin
    operation: keras.Operation
    name: str
    inference: bool = False

    def named(self, part: str | None) -> str:
        return self.name if part is None else f"{self.name}_{part}"

    def spare(self, part: str) -> str:
        """The part of a name that nothing of the model has: "image", or "image_2" and so on."""
        candidates = chain([part], (f"{part}_{number}" for number in count(2)))
        return next(each for each in candidates if self.named(each) not in self.twin.taken)

    def layer(self, kind: str, inputs: Any, part: str | None = None, **config: Any) -> Any:
        """The outputs of a layer of tf_keras, made the first time: a layer may be called often.

        In 8 bits one layer does the work of all of `_ONCE` that are alike and take the same tensor:
        LiteRT's converter makes one operation of them, and would find a range of each.

        Args:
            kind: a class of `tf_keras.layers`.
            inputs: tensors of the twin.
            part: of the name NAME_part; None, the layer takes the operation's own name.
            config: of the layer.
        """
        once = self.twin.for_8_bits and kind in _ONCE
        key = (kind, repr(sorted(config.items())), id(inputs))
        if once and key in self.twin.given:
            return self.twin.given[key][1]
        name = self.named(part)
        if name not in self.twin.made:
            layer = getattr(self.twin.kinds, kind)(name=name, **config)
            self.twin.made[name] = self.operation, config, layer
        owner, before, layer = self.twin.made[name]
        if owner is not self.operation:
            raise self.refusal(f"no other layer of the name {name}", owner.name)
        if before != config:
            raise self.refusal("the same arguments in all its calls", "others")
        try:
            outputs = layer(inputs)
        except (TypeError, ValueError) as error:
            raise self.refusal(f"what {kind} of tf_keras takes", _reason(error)) from error
        if once:
            # With the inputs, so that no other tensor gets their id.
            self.twin.given[key] = inputs, outputs
        return outputs

    def affine(
        self, inputs: Any, scale: ArrayLike, offset: ArrayLike = 0.0, part: str | None = None
    ) -> Any:
        """inputs · scale + offset, per channel, as a 1×1 convolution that does not learn.

        tfmot and LiteRT quantize it as any other convolution.

        Args:
            inputs: a tensor (batch, …, channels).
            scale: one number, `[channels]`, or `[channels, outputs]` to multiply with from right.
            offset: one number or one for each output.
            part: as of `layer`.
        """
        sizes = tuple(inputs.shape[1:])
        if len(sizes) == 3:
            return self._affine_of_image(inputs, scale, offset, part)
        if not sizes or sizes[-1] is None or sizes.count(None) > 1:
            raise self.refusal("an input (batch, …, channels) of known sizes", (None, *sizes))
        before = "_".join(filter(None, (part, "image")))
        pixels = "_".join(filter(None, (part, "pixels")))
        image = self.layer("Reshape", inputs, before, target_shape=(-1, 1, sizes[-1]))
        outputs = self._affine_of_image(image, scale, offset, pixels)
        sizes = tuple(-1 if size is None else size for size in sizes)
        return self.layer("Reshape", outputs, part, target_shape=sizes)

    def _affine_of_image(
        self, image: Any, scale: ArrayLike, offset: ArrayLike, part: str | None
    ) -> Any:
        channels = image.shape[-1]
        if channels is None:
            raise self.refusal("an input of known channels", tuple(image.shape))
        scale = np.asarray(scale, np.float64)
        if scale.ndim == 2:
            kernel = scale[None, None]
            channels = scale.shape[1]
            outputs = self.layer("Conv2D", image, part, filters=channels, kernel_size=1)
        else:
            kernel = per_channel(scale, channels)[None, None, :, None]
            outputs = self.layer("DepthwiseConv2D", image, part, kernel_size=1)
        layer = self.twin.made[self.named(part)][2]
        layer.set_weights([kernel, per_channel(offset, channels)])
        layer.trainable = False
        return outputs

    def refusal(self, expected: str, received: object) -> BridgeError:
        return BridgeError(
            f"Layer {self.name} of class {type(self.operation).__name__} has no twin in tf_keras: "
            f"expected {expected}. Received: {received}"
        )


def _reason(error: Exception) -> str:
    """The first line that says what is wrong; one that says where tf_keras was goes before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith("Exception encountered when calling")]
    return (telling or lines or [type(error).__name__])[0]


def per_channel(values: ArrayLike, channels: int) -> NDArray[np.float64]:
    """One number, or as many as there are channels, as an array `[channels]`."""
    return np.broadcast_to(np.ravel(np.asarray(values, np.float64)), channels)
