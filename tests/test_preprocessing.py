import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from keras_squeezenet.network.preprocessing import PREPROCESSINGS, fold, unfold

MODES = list(PREPROCESSINGS)
numbers = st.floats(-4, 4, width=32)


def prepared(rgb, mode):
    """What the documentation of each mode says, by hand."""
    if mode == "caffe":
        return rgb[..., ::-1] - [104, 117, 123]
    if mode == "tf":
        return rgb / 127.5 - 1
    return (rgb / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]


@pytest.mark.parametrize("mode", MODES)
@given(kernel=arrays("float32", (3, 2, 3, 4), elements=numbers), bias=arrays("f4", 4))
@settings(max_examples=30, deadline=None)
def test_a_folded_convolution_says_of_pixels_what_it_said_of_prepared_images(mode, kernel, bias):
    rgb = np.random.default_rng(0).uniform(0, 255, (3, 2, 3))
    bias = np.nan_to_num(bias, posinf=1, neginf=-1).clip(-9, 9)
    folded_kernel, folded_bias = fold(kernel, bias, PREPROCESSINGS[mode])
    expected = np.einsum("hwc,hwcf->f", prepared(rgb, mode), kernel) + bias
    found = np.einsum("hwc,hwcf->f", rgb, folded_kernel) + folded_bias
    np.testing.assert_allclose(found, expected, atol=1e-9 * 255 * 18 * 4, rtol=1e-9)


@pytest.mark.parametrize("mode", MODES)
@given(kernel=arrays("float32", (2, 3, 3, 2), elements=numbers))
@settings(max_examples=30, deadline=None)
def test_unfolding_undoes_folding(mode, kernel):
    bias = np.array([0.5, -2.0])
    back_kernel, back_bias = unfold(*fold(kernel, bias, PREPROCESSINGS[mode]), PREPROCESSINGS[mode])
    # In float32 the tolerance of the smallest numbers would be 0.
    np.testing.assert_allclose(back_kernel, kernel.astype("float64"), rtol=1e-12)
    np.testing.assert_allclose(back_bias, bias, atol=1e-9)
