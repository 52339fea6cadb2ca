"""What the layers with kernels take, measured on images. Keras only.

Two networks, the original and the one that is being compressed, are walked through side by side, a
call at a time, with the tensors that are still to be taken in memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import keras
import numpy as np
from keras import layers, ops

from keras_squeezenet.compression.without_training.linear_maps import (
    LinearMap,
    linear_maps_of,
    why_no_patches,
)
from keras_squeezenet.compression.without_training.reconstruction import Layer, Moments
from keras_squeezenet.errors import InputError
from keras_squeezenet.network.data_formats import Tensor
from keras_squeezenet.network.graph import graph_of
from keras_squeezenet.network.layers import Fire
from keras_squeezenet.network.steps import Slot, Step, steps_of

BATCH = 64  # images at a time: of fewer, a layer takes longer to be called than to compute
MOMENTS_BATCH = 16  # images whose moments are summed in float32, before they are in float64
# Of a kernel's group. Second moments of more take gigabytes, and minutes to invert.
MAX_INPUTS = 6144
MAX_PATCHES = 2**26  # numbers in patches at a time, beyond which images are taken one by one

Batches = list[Tensor]
Images = list[np.ndarray]  # an array for each input of a model


@dataclass(frozen=True, eq=False)
class Site:
    """A kernel of the original, the same of the copy, and what they take.

    Attributes:
        name: of the kernel as in a .sqz file of version 2: "conv1/kernel", "block/conv/kernel".
        original, copy: `LinearMap`s.
        original_inputs, copy_inputs: lists of batches; the same list where both take the same.
        unseen: why the inputs are not looked at; None where they are.
    """

    name: str
    original: LinearMap
    copy: LinearMap
    original_inputs: Batches
    copy_inputs: Batches
    unseen: str | None = None

    def layer(self) -> Layer:
        """The `Layer` of the original's kernel, as `LinearMap.grouped`."""
        linear = self.original
        kernel = linear.grouped(ops.convert_to_numpy(linear.kernel))
        if self.unseen is not None:
            return Layer.unseen(kernel)
        bias = None if linear.bias is None else ops.convert_to_numpy(linear.bias)
        return Layer(kernel, bias, self.moments())

    def moments(self) -> Moments:
        """`Moments` per image, summed over the positions of the kernel."""
        linear, same = self.copy, self.original_inputs is self.copy_inputs
        has_bias = linear.bias is not None
        size = linear.inputs + has_bias
        own, cross = np.zeros((2, linear.groups, size, size))
        images = 0
        for batch, batch_of_copy in zip(self.original_inputs, self.copy_inputs, strict=True):
            for before, after in _parts(batch, batch_of_copy, linear):
                ours = linear.patches(after, with_one=has_bias)
                theirs = repeat(None) if same else self.original.patches(before, with_one=has_bias)
                pairs = zip(ours, theirs, strict=False)
                for group, (taken, original) in enumerate(pairs):
                    own[group] += taken.T @ taken
                    if original is not None:
                        cross[group] += original.T @ taken
            images += len(batch)
        return Moments(own / images, None if same else cross / images)


def _parts(before: Tensor, after: Tensor, linear: LinearMap) -> Iterator[tuple[Tensor, Tensor]]:
    """Both batches by a few images, or one by one where the patches would be too many."""
    places = int(np.prod(linear.kernel.shape[:-2]))  # 1 of a dense layer
    patches = places * int(np.prod(after.shape[1:])) * min(len(after), MOMENTS_BATCH)
    count = MOMENTS_BATCH if patches <= MAX_PATCHES else 1
    for start in range(0, len(after), count):
        yield before[start : start + count], after[start : start + count]


def sites(
    original: keras.Model, copy: keras.Model, images: np.ndarray | Sequence[np.ndarray]
) -> Iterator[Site]:
    """Every kernel in the order in which an image meets it.

    The copy's kernel may be changed before the next site is asked for: what comes after it then
    takes what the changed one gives.

    Args:
        original: a functional or Sequential model.
        copy: another of the same layers, or the same.
        images: float32, as the models take them: an array, or one for each input.

    Yields:
        `Site`.

    Raises:
        InputError: there are no images.
    """
    ours, theirs = steps_of(original), steps_of(copy)
    inputs = [images] if isinstance(images, np.ndarray) else images
    before = dict(zip(ours.inputs, map(batches, inputs), strict=True))
    after = dict(before)
    last, called = ours.last_uses(), ours.times_called()
    met: set[str] = set()  # a layer of two models within the model has two names
    for number, (step, twin) in enumerate(zip(ours.calls, theirs.calls, strict=True)):
        if step.path not in met:
            met.add(step.path)
            yield from _sites(step, twin, before, after, called[step.operation] > 1)
        # Two models begin alike: what has no weights does the same in both.
        same = original is copy or not getattr(step.operation, "weights", [])
        same = same and all(before[slot] is after[slot] for slot in step.taken)
        outputs = run(step, before)
        after.update(outputs if same else run(twin, after))
        before.update(outputs)
        for slot in {*step.taken, *step.given}:
            if last[slot] <= number:
                del before[slot], after[slot]


def unseen_sites(original: keras.Model, copy: keras.Model) -> Iterator[Site]:
    """Every kernel in the same order, without images."""
    met: set[str] = set()
    for step, twin in zip(steps_of(original).calls, steps_of(copy).calls, strict=True):
        if step.path not in met:
            met.add(step.path)
            copies = linear_maps_of(twin.operation)
            for linear, of_copy in zip(linear_maps_of(step.operation), copies, strict=True):
                name = f"{step.path}/{linear.name}"
                yield Site(name, linear, of_copy, [], [], "there are no images")


def checked_images(model: keras.Model, images: np.ndarray | Sequence[np.ndarray] | None) -> Images:
    """One float32 array for each input of the model; of None none.

    Raises:
        InputError: they are not what the model takes.
    """
    if images is None:
        return []
    expected = [tuple(tensor.shape[1:]) for tensor in graph_of(model).inputs]
    several = isinstance(images, list | tuple) and len(expected) > 1
    arrays = [np.asarray(array) for array in images] if several else [np.asarray(images)]
    fits = len(arrays) == len(expected) and all(
        array.dtype.kind in "fiu" and _fits(array.shape[1:], shape)
        for array, shape in zip(arrays, expected, strict=True)
    )
    if not fits or len({len(array) for array in arrays}) > 1:
        shapes = " and ".join(f"[n, {', '.join(map(str, shape))}]" for shape in expected)
        received = " and ".join(f"{array.dtype} of shape {array.shape}" for array in arrays)
        raise InputError(f"`images` must be numbers of shape {shapes}. Received: {received}")
    return [array.astype(np.float32, copy=False) for array in arrays]


def _fits(found: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(found) == len(expected) and all(
        size in (None, side) for side, size in zip(found, expected, strict=True)
    )


def batches(images: np.ndarray) -> Batches:
    """Tensors of `BATCH` images each, the last of fewer."""
    if not len(images):
        raise InputError("`images` must hold one image or more. Received: none")
    starts = range(0, len(images), BATCH)
    return [ops.convert_to_tensor(images[start : start + BATCH]) for start in starts]


def run(step: Step, tensors: dict[Slot, Batches]) -> dict[Slot, Batches]:
    """A call on batch after batch."""
    taken = [tensors[slot] for slot in step.taken]
    ran = [
        step.run(dict(zip(step.taken, batch, strict=True))) for batch in zip(*taken, strict=True)
    ]
    return {slot: [outputs[slot] for outputs in ran] for slot in step.given}


def _sites(
    step: Step,
    twin: Step,
    before: dict[Slot, Batches],
    after: dict[Slot, Batches],
    is_called_again: bool,
) -> Iterator[Site]:
    maps = linear_maps_of(step.operation)
    copies = {linear.name: linear for linear in linear_maps_of(twin.operation)}
    if not maps:
        return
    taken = before[step.taken[0]], after[twin.taken[0]]
    for linear in maps:
        unseen = _why_unseen(linear, is_called_again)
        inputs = taken if unseen else _inputs_of(linear, step, twin, *taken)
        name = f"{step.path}/{linear.name}"
        yield Site(name, linear, copies[linear.name], *inputs, unseen)


def _why_unseen(linear: LinearMap, is_called_again: bool) -> str | None:
    if is_called_again:
        return "its layer is called more than once"
    if linear.inputs > MAX_INPUTS:
        return f"it has {linear.inputs} inputs, more than {MAX_INPUTS}"
    return why_no_patches(linear)


def _inputs_of(
    linear: LinearMap, step: Step, twin: Step, before: Batches, after: Batches
) -> tuple[Batches, Batches]:
    """What a map takes in the original and in the copy, where it is not the layer's first."""
    layer, copy = step.operation, twin.operation
    if isinstance(layer, Fire) and linear.name.startswith("expand"):
        squeezed = [layer.convolve(layer.squeeze1x1, batch) for batch in before]
        if before is after and layer is copy:
            return squeezed, squeezed
        return squeezed, [copy.convolve(copy.squeeze1x1, batch) for batch in after]
    if linear.name == "pointwise_kernel":
        seen = [_depthwise(layer, batch) for batch in before]
        if before is after and layer is copy:
            return seen, seen
        return seen, [_depthwise(copy, batch) for batch in after]
    return before, after


def _depthwise(layer: layers.SeparableConv1D | layers.SeparableConv2D, inputs: Tensor) -> Tensor:
    return ops.depthwise_conv(
        ops.cast(inputs, layer.compute_dtype),
        ops.cast(layer.depthwise_kernel, layer.compute_dtype),
        layer.strides,
        layer.padding,
        layer.data_format,
        layer.dilation_rate,
    )
