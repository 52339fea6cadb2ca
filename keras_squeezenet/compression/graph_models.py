"""Any model of the layers that a .sqz file holds, as a `CompressedModel`. Keras only."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from keras_squeezenet.compression.base_values import in_values_of
from keras_squeezenet.compression.graph_reading import graph_and_arrays
from keras_squeezenet.compression.without_training.codebooks import share_values
from keras_squeezenet.errors import InputError
from keras_squeezenet.sqz.model import CompressedModel, is_kernel, stored
from keras_squeezenet.sqz.network import check_class_names


def compressed_model_of(
    model: keras.Model,
    *,
    bits: int | dict[str, int] | None = None,
    base: CompressedModel | None = None,
    class_names: Sequence[str] | None = None,
    resize: int | str | None = None,
) -> CompressedModel:
    """A model as a `CompressedModel`. Arguments and errors: see `saving.save_compressed`."""
    graph, arrays = graph_and_arrays(model)
    kernels = [name for name in arrays if is_kernel(name)]
    if isinstance(bits, dict) and (unknown := set(bits) - set(kernels)):
        raise InputError(
            f"`bits` must name kernels of the model, such as {', '.join(kernels[:1]) or 'none'}. "
            f"Received: {min(unknown)}"
        )
    if bits is not None:
        for name in kernels:
            arrays[name] = share_values(arrays[name], bits_of(bits, name)).values
    names = None if class_names is None else tuple(class_names)
    if names is not None:
        check_class_names(names, _classes_of(model))
    held = {name: stored(array) for name, array in arrays.items()}
    return CompressedModel(
        name=model.name,
        graph=graph,
        arrays=held if base is None else in_values_of(base, arrays),
        class_names=names,
        resize=resize,
    )


def bits_of(bits: int | dict[str, int], name: str) -> int:
    if not isinstance(bits, dict):
        return bits
    if name not in bits:
        raise InputError(f"`bits` must name every kernel. Received: none for {name}")
    return bits[name]


def _classes_of(model: keras.Model) -> int | None:
    """As many as the output is wide; None of a model of several outputs, or of maps."""
    shape = model.output_shape
    return shape[-1] if isinstance(shape, tuple) and len(shape) == 2 else None
