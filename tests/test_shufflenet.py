"""ShuffleNet against the paper's tables, its authors' counts, and PyTorch."""

import keras
import numpy as np
import pytest

from keras_squeezenet import ShuffleNet, profile_model
from keras_squeezenet.network.families.blocks import shuffled
from keras_squeezenet.network.graph import maker_of
from tests.tiers import parametrize

# Zhang et al., arXiv 1707.01083, Table 1: output channels of stages 2, 3, 4 and millions of
# multiply-adds. The fully connected layer is left out there.
TABLE_1 = {
    1: ((144, 288, 576), 143),
    2: ((200, 400, 800), 140),
    3: ((240, 480, 960), 137),
    4: ((272, 544, 1088), 133),
    8: ((384, 768, 1536), 137),
}
# groups, scale: millions of multiply-adds and of weights that learn, in the README of the authors'
# own repository, megvii-model/ShuffleNet-Series. The fully connected layer is in.
AUTHORS = {
    (3, 2): (524, 5.4),
    (8, 2): (522, 6.5),
    (3, 1.5): (292, 3.4),
    (8, 1.5): (290, 4.3),
    (3, 1): (138, 1.9),
    (8, 1): (138, 2.4),
    (3, 0.5): (38, 0.7),
    (8, 0.5): (40, 1.0),
}


def multiply_adds(groups, scale):
    """By hand, from Table 1 and figure 2: stem, then each unit's three convolutions."""
    stem = {0.25: 12, 0.5: 12, 1: 24, 1.5: 24, 2: 48}[scale]
    stem = -(-stem // groups) * groups
    total, inputs = 112**2 * 27 * stem, stem
    for number, (repeats, side) in enumerate(((3, 28), (7, 14), (3, 7))):
        channels = int(TABLE_1[groups][0][number] * scale)
        narrow = int(channels / 4 / groups + 0.5) * groups
        first = inputs * narrow // (1 if number == 0 else groups)
        added = channels - inputs
        total += (2 * side) ** 2 * first + side**2 * (9 * narrow + narrow * added // groups)
        total += repeats * side**2 * (9 * narrow + 2 * channels * narrow // groups)
        inputs = channels
    return total


@parametrize("groups", TABLE_1, quick=2)
def test_it_is_table_1(groups):
    widths, millions = TABLE_1[groups]
    model = ShuffleNet(groups=groups)
    for stage, (channels, side) in enumerate(zip(widths, (28, 14, 7), strict=True), 2):
        last = model.get_layer(f"stage{stage}_unit{8 if stage == 3 else 4}_relu")
        assert last.output.shape == (None, side, side, channels)
    counted = profile_model(model).multiply_adds - 1000 * widths[-1]
    assert counted == multiply_adds(groups, 1)
    assert round(counted / 1e6) == millions


@parametrize(("groups", "scale"), AUTHORS, quick=2)
def test_scales_are_the_authors(groups, scale):
    millions, learned = AUTHORS[groups, scale]
    model = ShuffleNet(groups=groups, scale=scale)
    counted = profile_model(model).multiply_adds
    # They write 138 for 137.46.
    assert counted / 1e6 == pytest.approx(millions, abs=0.6)
    assert sum(np.prod(v.shape) for v in model.trainable_weights) / 1e6 == pytest.approx(
        learned, abs=0.06
    )


@parametrize("groups", TABLE_1, quick=1)
@pytest.mark.parametrize(("scale", "millions"), [(0.25, 13), (0.5, 38)])
def test_small_scales_are_table_2(groups, scale, millions):
    features = ShuffleNet(include_top=False, groups=groups, scale=scale)
    counted = profile_model(features).multiply_adds
    assert counted == multiply_adds(groups, scale)
    if (groups, scale) == (8, 0.25):  # 12 filters of conv1 go into 8 groups as 16
        assert round(counted / 1e6) == 15
    else:
        assert counted / 1e6 == pytest.approx(millions, abs=1.8)


@parametrize(("groups", "scale"), [(1, 0.25), (3, 0.25), (8, 0.5)], quick=1)
def test_it_computes_what_pytorch_does(groups, scale):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from tests import torch_families

    keras.utils.set_random_seed(1)
    shape = (40, 52, 3)  # odd sides further on
    model = ShuffleNet(
        groups=groups, scale=scale, input_shape=shape, classes=5, classifier_activation=None
    )
    torch_families.with_statistics(model)
    stem = model.get_layer("conv1").filters
    widths = [int(width * scale) for width in TABLE_1[groups][0]]
    network = torch_families.ShuffleNet(groups, stem, widths, 5)
    torch_families.copy_weights(model, network)
    images = np.random.default_rng(2).normal(size=(3, *shape)).astype("float32")
    expected = torch_families.outputs(network, images)
    differences = np.ptp(expected, axis=0)
    assert differences.min() > 0.01
    np.testing.assert_allclose(model(images), expected, rtol=0, atol=1e-3 * differences.min())


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_a_shuffle_deals_the_channels_out(data_format):
    keras.config.set_image_data_format(data_format)
    first = data_format == "channels_first"
    image = keras.Input((6, 2, 3) if first else (2, 3, 6))
    model = keras.Model(image, shuffled(image, "shuffle", 2))
    channels = np.array([0, 1, 2, 10, 11, 12], "float32")  # of two groups
    ones = np.ones((1, 2, 3, 1), "float32")
    images = ones * channels * np.arange(1, 4)[:, None]
    dealt = ones * np.array([0, 10, 1, 11, 2, 12]) * np.arange(1, 4)[:, None]
    axes = (0, 3, 1, 2) if first else (0, 1, 2, 3)
    np.testing.assert_array_equal(model(images.transpose(axes)), dealt.transpose(axes))


def test_only_the_first_pointwise_convolution_of_stage_2_is_not_in_groups():
    model = ShuffleNet(groups=4, scale=0.5, input_shape=(32, 32, 3))
    pointwise = [x for x in model.layers if x.name.endswith(("_compress", "_expand"))]
    assert [layer.groups for layer in pointwise] == [1] + [4] * 31
    assert [layer.activation for layer in pointwise] == [keras.activations.linear] * 32
    # No ReLU after the depthwise convolution.
    after_depthwise = maker_of(model.get_layer("stage2_unit1_expand").input)
    assert after_depthwise.name == "stage2_unit1_depthwise_bn"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": 5}, "`groups` must be one of 1, 2, 3, 4, 8. Received: groups=5"),
        ({"groups": True}, "Received: groups=True"),
        ({"scale": 0}, "`scale` must be a number above 0 and up to 8. Received: scale=0"),
        ({"scale": "1x"}, "Received: scale=1x"),
        ({"scale": 0.01}, "more channels than the 12 of conv1. Received: scale=0.01"),
        ({"input_shape": (None, 64, 3)}, "which are known, and channels. Received: input_shape="),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        ShuffleNet(include_top=False, **arguments)
