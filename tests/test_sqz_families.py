"""Every family of keras.applications in a .sqz file of version 2."""

import importlib
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_squeezenet import load_compressed, save_compressed
from keras_squeezenet.sqz.model import is_kernel
from tests.test_sqz_models import assert_same_bits, layer_names
from tests.tiers import parametrize

sys.path.append(str(Path(__file__).parents[1] / "studies"))
study = importlib.import_module("small_applications")

# They have millions of weights.
SMALL = {"MobileNet", "MobileNetV3"}


def with_few_values(model):
    """The model with random weights: kernels of seven values, so that the file is small."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        # Depthwise kernels, whose multiplier is 1, take one channel each.
        taken = weight.shape[:2] if weight.shape[-1:] == (1,) else weight.shape[:-1]
        size = (2 / np.prod(taken)) ** 0.5
        if is_kernel(weight.name):
            weight.assign(rng.integers(-3, 4, weight.shape, np.int8) * np.float32(size / 2))
        elif weight.dtype == "float32":
            around = 1 if weight.name == "gamma" or "variance" in weight.name else 0
            weight.assign(rng.uniform(around - 0.2, around + 0.2, weight.shape))
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # it computes with what its weights were
    return model


@parametrize(
    "family",
    [pytest.param(f, marks=() if f in SMALL else pytest.mark.slow) for f in study.FAMILIES],
    quick=1,
)
def test_a_family_comes_back_bit_by_bit(family, tmp_path):
    keras.utils.set_random_seed(0)
    model = with_few_values(study.FAMILIES[family].model(classifier_activation=None))
    path = tmp_path / "model.sqz"
    save_compressed(model, path, mode="faithful")
    loaded = load_compressed(path)
    assert_same_bits(model, loaded)
    # What is written with + and * comes back as layers, too.
    found = layer_names(loaded)
    assert all(name in found for name in layer_names(model))
    keras.backend.clear_session()
