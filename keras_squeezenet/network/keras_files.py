"""Models in .keras files."""

import os
from pathlib import Path

import keras
import numpy as np

from keras_squeezenet.files import replacing


def save_and_read_back(
    model: keras.Model, path: str | os.PathLike, *, include_optimizer: bool = True
) -> keras.Model:
    """Write a .keras file, once it was read back and has the same weights.

    Args:
        model: the model.
        path: of the file, which is replaced where it exists.
        include_optimizer: whether a compiled model is written with its optimizer.

    Returns:
        The model as it was read.

    Raises:
        AssertionError: what was read back has other weights. Nothing is written then.
        OSError: the file cannot be written.
    """
    with replacing(Path(path)) as temporary:
        model.save(temporary, include_optimizer=include_optimizer)
        saved = keras.saving.load_model(temporary, compile=include_optimizer)
        for ours, theirs in zip(model.get_weights(), saved.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    return saved
