"""What the convolutions of a SqueezeNet take, measured on images. Keras only.

A SqueezeNet is a chain of layers: bypasses stay inside of their Fires. So two of them, the original
and the one that is being compressed, can be walked through side by side, a piece at a time, with
the images between two pieces in memory.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_squeezenet.compression.without_training.reconstruction import Moments
from keras_squeezenet.errors import InputError
from keras_squeezenet.network.data_formats import Tensor
from keras_squeezenet.network.graph import infer
from keras_squeezenet.network.layers import Fire

BATCH = 16  # images at a time


@dataclass(frozen=True, eq=False)
class Site:
    """A convolution of the original, the same of the copy, and what they take.

    Attributes:
        name: as in `Architecture.kernel_shapes`.
        original, copy: `keras.layers.Conv2D`.
        original_inputs, copy_inputs: lists of batches; the same list where both take the same.
    """

    name: str
    original: keras.layers.Conv2D
    copy: keras.layers.Conv2D
    original_inputs: list[Tensor]
    copy_inputs: list[Tensor]

    def moments(self) -> Moments:
        """`Moments` per image, summed over the positions of the kernel."""
        size = 1 + math.prod(self.copy.kernel.shape[:-1])
        own, cross = np.zeros((size, size)), np.zeros((size, size))
        images = 0
        same = self.original_inputs is self.copy_inputs
        for before, after in zip(self.original_inputs, self.copy_inputs, strict=True):
            taken = patches(after, self.copy)
            own = own + (taken.T @ taken).astype(np.float64)
            if not same:
                cross = cross + (patches(before, self.original).T @ taken).astype(np.float64)
            images += len(after)
        return Moments(own / images, None if same else cross / images)


def patches(inputs: Tensor, convolution: keras.layers.Conv2D) -> NDArray[np.float32]:
    """What a convolution multiplies its kernel with, and a 1 for its bias.

    Args:
        inputs: a batch of feature maps, as the layer takes them.
        convolution: a `keras.layers.Conv2D` without dilation or groups.

    Returns:
        float32 `[positions, kernel height · kernel width · channels + 1]`, of all images.
    """
    if convolution.data_format == "channels_first":
        inputs = ops.transpose(inputs, (0, 2, 3, 1))
    if convolution.kernel_size != (1, 1):
        inputs = ops.image.extract_patches(
            inputs,
            convolution.kernel_size,
            convolution.strides,
            padding=convolution.padding,
            data_format="channels_last",
        )
    found = ops.convert_to_numpy(inputs).reshape(-1, inputs.shape[-1])
    return np.concatenate([found, np.ones((len(found), 1), np.float32)], axis=1)


def sites(original: keras.Model, copy: keras.Model, images: np.ndarray) -> Iterator[Site]:
    """Every convolution in the order in which an image meets it.

    The copy's convolution may be changed before the next site is asked for: what comes after it
    then takes what the changed one gives.

    Args:
        original: a model for which `squeezenet_settings.settings_of` has an answer.
        copy: another of the same architecture, or the same.
        images: float32 array, as the models take them.

    Yields:
        `Site`.

    Raises:
        InputError: there are no images.
    """
    before = after = batches(images)
    for piece, copied in zip(pieces(original), pieces(copy), strict=True):
        lead, copied_lead = piece[0], copied[0]
        if isinstance(lead, keras.layers.Conv2D):
            yield Site(lead.name, lead, copied_lead, before, after)
        elif isinstance(lead, Fire):
            yield from _fire_sites(lead, copied_lead, before, after)
        # Two models begin alike: what has no weights does the same in both.
        same = before is after and (original is copy or not lead.weights)
        before, taken = [run(piece, batch) for batch in before], after
        after = before if same else [run(copied, batch) for batch in taken]


def batches(images: np.ndarray) -> list[Tensor]:
    """Tensors of `BATCH` images each, the last of fewer."""
    if not len(images):
        raise InputError("`images` must hold one image or more. Received: none")
    starts = range(0, len(images), BATCH)
    return [ops.convert_to_tensor(images[start : start + BATCH]) for start in starts]


def pieces(model: keras.Model) -> list[list[keras.layers.Layer]]:
    """The model's layers in runs, each of which begins with the only one that has weights.

    The layers before the first of those, if any, are a run of their own.
    """
    runs: list[list[keras.layers.Layer]] = []
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        if layer.weights or not runs:
            runs.append([])
        runs[-1].append(layer)
    return runs


def run(layers: Iterable[keras.layers.Layer], batch: Tensor) -> Tensor:
    """A batch through layers one after the other, as in inference."""
    for layer in layers:
        batch = infer(layer, batch)
    return batch


def _fire_sites(
    fire: Fire, copy: Fire, before: list[Tensor], after: list[Tensor]
) -> Iterator[Site]:
    parts = {part.name: part for part in copy.convolutions}

    def site(part: keras.layers.Conv2D, *inputs: list[Tensor]) -> Site:
        return Site(f"{fire.name}_{part.name}", part, parts[part.name], *inputs)

    if fire.bypass1x1 is not None:
        yield site(fire.bypass1x1, before, after)
    yield site(fire.squeeze1x1, before, after)
    squeezed = [fire.squeeze1x1(batch) for batch in before]
    same = before is after and fire is copy
    squeezed_copy = squeezed if same else [copy.squeeze1x1(batch) for batch in after]
    for part in fire.convolutions:
        if part not in (fire.squeeze1x1, fire.bypass1x1):
            yield site(part, squeezed, squeezed_copy)
