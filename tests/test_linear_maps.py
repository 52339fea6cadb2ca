"""Kernels as matrices: patches times the kernel are what the layer gives, whatever its kind."""

import keras
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from keras import layers

from keras_squeezenet.compression.without_training.calibration import MAX_INPUTS, sites
from keras_squeezenet.compression.without_training.linear_maps import (
    linear_maps_of,
    why_no_patches,
)
from keras_squeezenet.compression.without_training.reconstruction import Layer, Moments
from tests.sqz_models import chain, with_weights

RNG = np.random.default_rng(7)


def by_patches(linear, inputs):
    """`[groups, positions, outputs]`, of the patches and the grouped kernel."""
    patches = np.stack([found.astype(np.float64) for found in linear.patches(inputs)])
    outputs = patches @ linear.grouped(np.asarray(linear.kernel, np.float64))
    if linear.bias is not None:
        outputs += np.asarray(linear.bias).reshape(linear.groups, 1, -1)
    return outputs


def joined(outputs):
    """The same as a layer has them: `[positions, groups · outputs]`."""
    return outputs.transpose(1, 0, 2).reshape(outputs.shape[1], -1)


def built(layer, shape):
    layer.build(shape)
    for weight in layer.weights:
        weight.assign(RNG.normal(size=weight.shape))
    return layer


def check(layer, shape, data_format="channels_last"):
    inputs = RNG.normal(size=shape).astype(np.float32)
    (linear,) = linear_maps_of(built(layer, shape))
    assert why_no_patches(linear) is None
    expected = np.asarray(layer(inputs))
    if data_format == "channels_first":
        expected = np.moveaxis(expected, 1, -1)
    found = joined(by_patches(linear, inputs))
    np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=1e-3, atol=1e-3)
    kernel = np.asarray(linear.kernel)
    np.testing.assert_array_equal(linear.ungrouped(linear.grouped(kernel)), kernel)


sizes = st.integers(1, 4)
PROPERTY = settings(max_examples=25)
CONVOLUTIONS = {
    "kernel": st.tuples(sizes, sizes),
    "stride": st.integers(1, 3),
    "rate": st.integers(1, 2),
    "padding": st.sampled_from(["valid", "same"]),
    "groups": st.integers(1, 3),
    "sides": st.tuples(st.integers(8, 11), st.integers(8, 11)),
}


@PROPERTY
@given(
    **CONVOLUTIONS,
    per_group=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    use_bias=st.booleans(),
)
def test_a_convolution_of_any_groups(
    kernel, stride, rate, padding, groups, per_group, sides, use_bias
):
    assume(stride == 1 or rate == 1)
    layer = layers.Conv2D(
        groups * per_group[1],
        kernel,
        strides=stride,
        dilation_rate=rate,
        padding=padding,
        groups=groups,
        use_bias=use_bias,
    )
    check(layer, (2, *sides, groups * per_group[0]))


@PROPERTY
@given(
    kernel=st.tuples(sizes, sizes),
    stride=st.integers(1, 3),
    padding=st.sampled_from(["valid", "same"]),
    channels=st.integers(1, 4),
    multiplier=st.integers(1, 3),
    sides=st.tuples(st.integers(5, 8), st.integers(5, 8)),
)
def test_a_depthwise_convolution(kernel, stride, padding, channels, multiplier, sides):
    layer = layers.DepthwiseConv2D(
        kernel, strides=stride, padding=padding, depth_multiplier=multiplier
    )
    check(layer, (2, *sides, channels))


@PROPERTY
@given(
    kernel=st.tuples(sizes, sizes),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.sampled_from(["valid", "same"]),
    sides=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_a_transposed_convolution(kernel, strides, padding, sides):
    layer = layers.Conv2DTranspose(3, kernel, strides=strides, padding=padding)
    check(layer, (2, *sides, 2))


def test_a_transposed_convolution_with_output_padding():
    layer = layers.Conv2DTranspose(5, 3, strides=2, padding="same", output_padding=1)
    check(layer, (2, 4, 6, 3))


@PROPERTY
@given(
    kernel=sizes,
    stride=st.integers(1, 3),
    rate=st.integers(1, 2),
    padding=st.sampled_from(["valid", "same", "causal"]),
    groups=st.integers(1, 3),
    side=st.integers(8, 11),
)
def test_a_convolution_along_a_line(kernel, stride, rate, padding, groups, side):
    assume(stride == 1 or rate == 1)
    layer = layers.Conv1D(2 * groups, kernel, stride, padding, dilation_rate=rate, groups=groups)
    check(layer, (2, side, 3 * groups))


@PROPERTY
@given(
    kernel=sizes,
    stride=st.integers(1, 3),
    padding=st.sampled_from(["valid", "same"]),
    side=st.integers(5, 8),
)
def test_depthwise_and_transposed_convolutions_along_a_line(kernel, stride, padding, side):
    check(layers.DepthwiseConv1D(kernel, stride, padding, depth_multiplier=2), (2, side, 3))
    check(layers.Conv1DTranspose(3, kernel, stride, padding), (2, side, 2))


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 4, 7)])
def test_a_dense_layer(shape):
    check(layers.Dense(6), shape)


@pytest.mark.parametrize("strides", [1, 2])
def test_channels_first(strides):
    layer = layers.Conv2D(4, 3, strides=strides, data_format="channels_first")
    check(layer, (2, 3, 9, 8), "channels_first")
    line = layers.Conv1D(4, 3, strides=strides, padding="same", data_format="channels_first")
    check(line, (2, 3, 9), "channels_first")


@pytest.mark.parametrize(
    ("kind", "sides", "halved"),
    [(layers.SeparableConv2D, (9, 8), (4, 3)), (layers.SeparableConv1D, (9,), (4,))],
)
def test_a_separable_convolution_is_two_maps_one_after_the_other(kind, sides, halved):
    layer = built(kind(5, 3, strides=2, depth_multiplier=2), (2, *sides, 4))
    depthwise, pointwise = linear_maps_of(layer)
    images = RNG.normal(size=(2, *sides, 4)).astype(np.float32)
    between = joined(by_patches(depthwise, images)).reshape(2, *halved, 8)
    found = joined(by_patches(pointwise, between.astype(np.float32)))
    expected = np.asarray(layer(images)).reshape(found.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    assert depthwise.bias is None


@PROPERTY
@given(**CONVOLUTIONS, channels=st.integers(1, 3))
def test_patches_are_keras_s_bit_by_bit_and_a_one(
    kernel, stride, rate, padding, channels, groups, sides
):
    assume(stride == 1 or rate == 1)
    shape = (2, *sides, groups * channels)
    inputs = RNG.normal(size=shape).astype(np.float32)
    options = {"strides": stride, "dilation_rate": rate, "padding": padding}
    layer = layers.Conv2D(groups, kernel, groups=groups, **options)
    (linear,) = linear_maps_of(built(layer, shape))
    found = [np.copy(patches) for patches in linear.patches(inputs, with_one=True)]
    expected = np.asarray(keras.ops.image.extract_patches(inputs, kernel, **options))
    expected = expected.reshape(-1, kernel[0] * kernel[1], groups, channels).transpose(2, 0, 1, 3)
    expected = expected.reshape(groups, len(expected[0]), -1)
    np.testing.assert_array_equal(np.stack(found)[..., :-1], expected)
    assert (np.stack(found)[..., -1] == 1).all()
    np.testing.assert_array_equal(np.stack([*map(np.copy, linear.patches(inputs))]), expected)


@pytest.mark.parametrize("kind", ["Conv2D", "DepthwiseConv2D"])
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_rows_and_columns_may_be_dilated_differently(kind, padding):
    arguments = {"dilation_rate": (1, 2), **({"filters": 2} if kind == "Conv2D" else {})}
    layer = getattr(layers, kind)(kernel_size=3, padding=padding, **arguments)
    check(layer, (2, 9, 10, 2))


# --- what answers an error, worked out by hand ---------------------------------------------------


def answered(layer, codebook):
    codes, bias = layer.assign(codebook)
    return np.asarray(codebook)[codes], bias


def test_a_dense_layer_of_two_equal_inputs_answers_one_with_the_other():
    """x₁ = x₂ in all patches: y = 0.6·x₁ + 0.6·x₂ = 1.2·x₁, and of the values 0 and 1 the pair
    (1, 0) is off by 0.2, where rounding each by itself, (1, 1), is off by 0.8."""
    own = np.float64([[1, 1], [1, 1]])
    kernel, _ = answered(Layer(np.float32([[0.6], [0.6]]), None, Moments(own)), [0.0, 1.0])
    assert sorted(kernel.ravel()) == [0, 1]


def test_a_bias_answers_what_is_constant():
    """x is always 2: y = 0.75·2 + 1 = 2.5. With the weight rounded to 1, the bias is 0.5."""
    own = np.float64([[4, 2], [2, 1]])
    layer = Layer(np.float32([[0.75]]), np.float32([1]), Moments(own))
    kernel, bias = answered(layer, [0.0, 1.0])
    assert kernel.item() == 1
    assert bias.item() == pytest.approx(0.5, abs=0.02)  # but for the damping


def test_groups_answer_by_themselves_and_share_the_codebook():
    """Two groups: in the first the inputs are equal, in the second they have no relation."""
    equal, apart = np.float64([[1, 1], [1, 1]]), np.eye(2)
    kernel = np.full((2, 2, 1), 0.6, np.float32)
    found, _ = answered(Layer(kernel, None, Moments(np.stack([equal, apart]))), [0.0, 1.0])
    assert sorted(found[0].ravel()) == [0, 1]
    assert found[1].ravel().tolist() == [1, 1]


def test_a_depthwise_convolution_looks_at_its_channels_apart():
    """Channel 0 is the same in both places, channel 1 changes its sign: (0.6, 0.6) of channel 0
    becomes (1, 0), and of channel 1, where the outputs are 0, (1, 1) is nearest and right."""
    images = np.float32([[[[1, 1]], [[1, -1]]], [[[-2, 2]], [[-2, -2]]]])
    layer = layers.DepthwiseConv2D((2, 1), use_bias=False, name="depthwise")
    model = keras.Sequential([layers.Input((2, 1, 2)), layer])
    layer.kernel.assign(np.full((2, 1, 2, 1), 0.6))
    (site,) = sites(model, model, images)
    np.testing.assert_allclose(site.moments().own, [[[2.5, 2.5]] * 2, [[2.5, -2.5], [-2.5, 2.5]]])
    found, _ = answered(site.layer(), [0.0, 1.0])
    assert sorted(found[0].ravel()) == [0, 1]
    assert found[1].ravel().tolist() == [1, 1]


def test_a_grouped_convolution_has_the_moments_of_its_own_channels():
    images = RNG.normal(size=(20, 3, 3, 4)).astype(np.float32)
    layer = layers.Conv2D(2, 1, groups=2, name="grouped")
    model = keras.Sequential([layers.Input((3, 3, 4)), layer])
    (site,) = sites(model, model, images)
    for group, own in enumerate(site.moments().own):
        rows = images.reshape(-1, 4)[:, 2 * group : 2 * group + 2]
        rows = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
        np.testing.assert_allclose(own, rows.T @ rows / 20, rtol=1e-4, atol=1e-4)


def smooth(count, rng=RNG):
    """Images whose neighbours are alike, as in photos."""
    coarse = rng.uniform(0, 1, (count, 4, 4, 3))
    return np.asarray(keras.ops.image.resize(coarse, (16, 16)), np.float32)


def along_a_line(layer):
    """A layer-like function of images, whose rows it takes one after the other."""
    return lambda images: layer(layers.Reshape((-1, 3))(images))


KINDS = {
    "Conv2D": lambda: layers.Conv2D(8, 3, name="layer"),
    "Conv2D of groups": lambda: layers.Conv2D(6, 3, groups=3, name="layer"),
    "DepthwiseConv2D": lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, name="layer"),
    "SeparableConv2D": lambda: layers.SeparableConv2D(6, 3, name="layer"),
    "Conv2DTranspose": lambda: layers.Conv2DTranspose(4, 3, strides=2, name="layer"),
    "Dense": lambda: layers.Dense(6, name="layer"),
    "Conv1D": lambda: along_a_line(layers.Conv1D(8, 5, padding="causal", name="layer")),
    "SeparableConv1D": lambda: along_a_line(layers.SeparableConv1D(6, 3, name="layer")),
    "Conv1DTranspose": lambda: along_a_line(layers.Conv1DTranspose(4, 3, 2, name="layer")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_gives_more_nearly_what_it_gave_than_with_nearest_values(kind):
    model = with_weights(chain(KINDS[kind]()))
    rng = np.random.default_rng(0)  # the same images whichever tests ran before
    images, others = smooth(40, rng), smooth(10, rng)
    expected = np.asarray(model(others))
    errors = {}
    for how in ("reconstructed", "nearest"):
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
        for site in sites(model, copy, images):
            layer = site.layer() if how == "reconstructed" else Layer.unseen(site.layer().kernel)
            levels = 0.25 * np.arange(-4, 5)
            codes, bias = layer.assign(levels)
            site.copy.assign(site.copy.ungrouped(levels[codes]), bias)
        errors[how] = np.square(np.asarray(copy(others)) - expected).mean()
    assert errors["reconstructed"] < 0.5 * errors["nearest"]


def test_what_cannot_be_looked_at_says_why():
    inputs = layers.Input((16, 16, 3))
    twice, wide = layers.Conv2D(3, 3, padding="same", name="twice"), layers.Flatten()
    x = twice(twice(inputs))
    x = layers.UpSampling2D(3)(x)
    model = keras.Model(inputs, layers.Dense(2, name="wide")(wide(x)))
    found = {site.name: site.unseen for site in sites(model, model, smooth(2))}
    assert found == {
        "twice/kernel": "its layer is called more than once",
        "wide/kernel": f"it has 6912 inputs, more than {MAX_INPUTS}",
    }
