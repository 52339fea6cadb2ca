import json
import math

import keras
import pytest

from keras_squeezenet.network.families.alexnet import AlexNet
from keras_squeezenet.network.layers import Fire
from keras_squeezenet.network.models import SqueezeNet
from keras_squeezenet.network.profile import profile_model

layers = keras.layers


class Doubled(layers.Conv2D):
    def call(self, inputs):
        return 2 * super().call(inputs)


# Filters of the squeeze and of each expand of fire2 … fire9 (Table 1).
SQUEEZE = (16, 16, 32, 32, 48, 48, 64, 64)
EXPAND = (64, 64, 128, 128, 192, 192, 256, 256)

# version: conv1 output side, kernel and filters; output sides of fire2 … fire9
TABLE_1 = {
    "1.0": ((111, 7, 96), (55, 55, 55, 27, 27, 27, 27, 13)),
    "1.1": ((111, 3, 64), (55, 55, 27, 27, 13, 13, 13, 13)),
}


def multiply_adds_of_table_1(version):
    (side, kernel, channels), fire_sides = TABLE_1[version]
    total = side * side * channels * kernel * kernel * 3
    for squeeze, expand, side in zip(SQUEEZE, EXPAND, fire_sides, strict=True):
        total += side * side * (channels * squeeze + squeeze * expand + 9 * squeeze * expand)
        channels = 2 * expand
    return total + 13 * 13 * 512 * 1000


@pytest.mark.parametrize(
    ("version", "parameters", "multiply_adds"),
    [("1.0", 1_248_424, 832_667_936), ("1.1", 1_235_496, 349_151_936)],
)
def test_squeezenet_costs_what_table_1_says(version, parameters, multiply_adds):
    profile = profile_model(SqueezeNet(weights=None, version=version))
    assert multiply_adds == multiply_adds_of_table_1(version)
    assert profile.multiply_adds == multiply_adds
    assert profile.parameters == parameters
    assert profile.weight_bytes == 4 * parameters


def test_twice_the_multiply_adds_with_the_padded_conv10_are_the_published_1_72_gflops():
    profile = profile_model(SqueezeNet(weights=None, version="1.0"))
    padding = (15 * 15 - 13 * 13) * 512 * 1000
    assert 2 * (profile.multiply_adds + padding) == pytest.approx(1.72e9, abs=0.005e9)


def test_a_fire_is_expanded_into_its_convolutions():
    rows = {row.name: row for row in profile_model(SqueezeNet(weights=None, version="1.0")).layers}
    fire4 = [(n, r.kind, r.output_shape, r.parameters) for n, r in rows.items() if "fire4" in n]
    assert fire4 == [
        ("fire4/squeeze1x1", "Conv2D", (55, 55, 32), 128 * 32 + 32),
        ("fire4/expand1x1", "Conv2D", (55, 55, 128), 32 * 128 + 128),
        ("fire4/expand3x3", "Conv2D", (55, 55, 128), 9 * 32 * 128 + 128),
        ("fire4", "Fire", (55, 55, 256), 0),
    ]
    assert rows["fire4/expand3x3"].multiply_adds == 55 * 55 * 9 * 32 * 128
    assert rows["fire4"].multiply_adds == 0
    assert rows["fire4"].activation_bytes == 4 * 55 * 55 * 256


def test_rows_come_in_the_order_of_execution():
    names = [row.name for row in profile_model(SqueezeNet(weights=None, version="1.1")).layers]
    assert names[:3] == ["conv1", "pool1", "fire2/squeeze1x1"]
    assert names[-5:] == ["fire9", "drop9", "conv10", "pool10", "predictions"]


def test_the_peak_of_squeezenet_1_0_is_where_fire4_joins_its_halves():
    profile = profile_model(SqueezeNet(weights=None, version="1.0"))
    assert profile.peak_activation_bytes == 4 * 55 * 55 * (128 + 128 + 256)
    # conv1 and its pooling come close.
    assert profile.peak_activation_bytes > 4 * 96 * (111 * 111 + 55 * 55)


@pytest.mark.parametrize(
    ("bypass", "channels_joined", "parameters"),
    [(None, 12, 0), ("simple", 12 + 12, 0), ("complex", 12 + 12, 12 * 12 + 12)],
)
def test_a_bypass_is_read_where_the_fire_joins(bypass, channels_joined, parameters):
    model = keras.Sequential([keras.Input((5, 7, 12)), Fire(3, 4, 8, bypass, name="fire")])
    profile = profile_model(model)
    own = (12 * 3 + 3) + (3 * 4 + 4) + (9 * 3 * 8 + 8)
    assert profile.parameters == own + parameters == model.count_params()
    assert profile.multiply_adds == 35 * (12 * 3 + 3 * 4 + 9 * 3 * 8 + (144 if parameters else 0))
    assert profile.layers[-1].input_bytes == 4 * 35 * channels_joined
    assert ("fire/bypass1x1" in [row.name for row in profile.layers]) == (bypass == "complex")


def test_batch_normalization_in_a_fire_has_rows_of_its_own():
    fire = Fire(3, 4, 8, "complex", batch_normalization=True, name="fire")
    model = keras.Sequential([keras.Input((5, 7, 12)), fire])
    profile = profile_model(model)
    assert profile.parameters == model.count_params()
    rows = {row.name: row for row in profile.layers}
    assert rows["fire/squeeze1x1_normalization"].parameters == 4 * 3
    assert rows["fire/bypass1x1_normalization"].multiply_adds == 0


def test_a_fire_of_one_branch_has_no_row_for_the_other():
    model = keras.Sequential([keras.Input((5, 7, 12)), Fire(3, 0, 8, name="fire")])
    names = [row.name for row in profile_model(model).layers]
    assert names == ["fire/squeeze1x1", "fire/expand3x3", "fire"]


def test_mobilenet_v2_costs_the_published_300_million_multiply_adds():
    profile = profile_model(keras.applications.MobileNetV2(weights=None))
    assert profile.multiply_adds == pytest.approx(300.8e6, abs=0.05e6)
    assert profile.parameters == 3_538_984


@pytest.fixture(scope="module")
def vgg16():
    """Of zeros: 138 million random numbers take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        zeros = keras.initializers.Zeros()
        random = keras.initializers.GlorotUniform
        patch.setattr(random, "__call__", lambda self, shape, dtype=None: zeros(shape, dtype))
        return profile_model(keras.applications.VGG16(weights=None))


# (memory, weights without biases, biases) of each layer: the table of Stanford's CS231n,
# cs231n.github.io/convolutional-networks, "VGGNet in detail". The input is the first.
VGG16 = (
    (224 * 224 * 3, 0, 0),
    (224 * 224 * 64, 3 * 3 * 3 * 64, 64),
    (224 * 224 * 64, 3 * 3 * 64 * 64, 64),
    (112 * 112 * 64, 0, 0),
    (112 * 112 * 128, 3 * 3 * 64 * 128, 128),
    (112 * 112 * 128, 3 * 3 * 128 * 128, 128),
    (56 * 56 * 128, 0, 0),
    (56 * 56 * 256, 3 * 3 * 128 * 256, 256),
    (56 * 56 * 256, 3 * 3 * 256 * 256, 256),
    (56 * 56 * 256, 3 * 3 * 256 * 256, 256),
    (28 * 28 * 256, 0, 0),
    (28 * 28 * 512, 3 * 3 * 256 * 512, 512),
    (28 * 28 * 512, 3 * 3 * 512 * 512, 512),
    (28 * 28 * 512, 3 * 3 * 512 * 512, 512),
    (14 * 14 * 512, 0, 0),
    (14 * 14 * 512, 3 * 3 * 512 * 512, 512),
    (14 * 14 * 512, 3 * 3 * 512 * 512, 512),
    (14 * 14 * 512, 3 * 3 * 512 * 512, 512),
    (7 * 7 * 512, 0, 0),
    (4096, 7 * 7 * 512 * 4096, 4096),
    (4096, 4096 * 4096, 4096),
    (1000, 4096 * 1000, 1000),
)


def test_vgg16_is_the_published_table_layer_by_layer(vgg16):
    # Keras has a layer Flatten, which the table does not list: it is another shape of pool5.
    rows = [row for row in vgg16.layers if row.kind != "Flatten"]
    assert vgg16.input_shapes == ((224, 224, 3),)
    found = [(math.prod(vgg16.input_shapes[0]), 0)]
    found += [(row.activation_bytes // 4, row.parameters) for row in rows]
    assert found == [(memory, weights + biases) for memory, weights, biases in VGG16]


def test_vgg16_has_the_published_totals(vgg16):
    assert vgg16.parameters == 138_357_544
    flattened = 7 * 7 * 512
    # The input, all convolutions, poolings and fully connected layers, each once.
    assert sum(memory for memory, _, _ in VGG16) == 15_237_608
    assert vgg16.activation_bytes // 4 + 224 * 224 * 3 - flattened == 15_237_608
    assert vgg16.multiply_adds == pytest.approx(15.5e9, abs=0.05e9)


def test_the_largest_maps_of_vgg16_are_alive_together(vgg16):
    """conv1_2 reads one map of 224×224×64 and writes another."""
    assert vgg16.peak_activation_bytes == 2 * 4 * 224 * 224 * 64


def test_alexnet_has_the_papers_60_million_parameters_in_240_megabytes():
    profile = profile_model(AlexNet())
    assert profile.parameters == pytest.approx(61e6, abs=0.1e6)
    # Of 2**20 bytes and of 10**6 bytes; the SqueezeNet paper's Table 2 says 240MB.
    assert (profile.weight_bytes / 2**20, profile.weight_bytes / 1e6) == pytest.approx(
        (232.6, 243.9), abs=0.05
    )


def test_squeezenet_has_the_papers_4_8_megabytes():
    profile = profile_model(SqueezeNet(weights=None, version="1.0"))
    assert profile.weight_bytes / 2**20 == pytest.approx(4.8, abs=0.05)
    # Table 2: 6 bits a weight, before pruning.
    assert profile.weight_bytes_at(6) == 1_248_424 * 6 // 8


def test_mobilenet_costs_the_published_569_million_multiply_adds():
    profile = profile_model(keras.applications.MobileNet(weights=None))
    assert profile.multiply_adds == pytest.approx(569e6, abs=0.5e6)
    assert profile.parameters == pytest.approx(4.2e6, abs=0.06e6)


# (layer, multiply-adds on 10×8 pixels of 6 channels)
COUNTED_BY_HAND = {
    "convolution": (layers.Conv2D(5, (3, 2)), 8 * 7 * 5 * 3 * 2 * 6),
    "strides": (layers.Conv2D(5, 3, strides=2, padding="same"), 5 * 4 * 5 * 9 * 6),
    "groups": (layers.Conv2D(9, 3, groups=3), 8 * 6 * 9 * 9 * 2),
    "dilation": (layers.Conv2D(5, 3, dilation_rate=2), 6 * 4 * 5 * 9 * 6),
    "depthwise": (layers.DepthwiseConv2D(3, depth_multiplier=2), 8 * 6 * 12 * 9),
    "separable": (
        layers.SeparableConv2D(5, 3, strides=2, padding="same", depth_multiplier=2),
        5 * 4 * (12 * 9 + 12 * 5),
    ),
    "transposed": (layers.Conv2DTranspose(5, 3, strides=2), 10 * 8 * 9 * 6 * 5),
    "einsum": (layers.EinsumDense("abcd,de->abce", (None, 8, 7)), 10 * 8 * 6 * 7),
    "convolution by class of one's own": (Doubled(5, 3), 8 * 6 * 5 * 9 * 6),
    "dense on every pixel": (layers.Dense(7), 10 * 8 * 6 * 7),
    "batch normalization": (layers.BatchNormalization(), 0),
    "pooling": (layers.MaxPooling2D(), 0),
}


@pytest.mark.parametrize(
    ("layer", "multiply_adds"), COUNTED_BY_HAND.values(), ids=COUNTED_BY_HAND.keys()
)
def test_multiply_adds_agree_with_a_count_by_hand(layer, multiply_adds):
    model = keras.Sequential([keras.Input((10, 8, 6)), layer])
    profile = profile_model(model)
    assert profile.multiply_adds == multiply_adds
    assert profile.parameters == model.count_params()


def test_channels_first_costs_the_same():
    first = keras.Sequential(
        [
            keras.Input((6, 10, 8)),
            layers.Conv2D(9, 3, groups=3, data_format="channels_first"),
            layers.SeparableConv2D(5, 3, data_format="channels_first"),
        ]
    )
    profile = profile_model(first)
    assert profile.multiply_adds == 8 * 6 * 9 * 9 * 2 + 6 * 4 * (9 * 9 + 9 * 5)
    assert [row.output_shape for row in profile.layers] == [(9, 8, 6), (5, 6, 4)]


def test_memory_of_a_small_network_counted_by_hand():
    inputs = keras.Input((4, 4, 2))
    wide = layers.Conv2D(8, 1, name="wide")(inputs)
    narrow = layers.Conv2D(2, 1, name="narrow")(wide)
    outputs = layers.Add(name="add")([narrow, inputs])
    profile = profile_model(keras.Model(inputs, outputs))
    assert {row.name: (row.input_bytes, row.activation_bytes) for row in profile.layers} == {
        "wide": (4 * 16 * 2, 4 * 16 * 8),
        "narrow": (4 * 16 * 8, 4 * 16 * 2),
        "add": (4 * 16 * 4, 4 * 16 * 2),
    }
    assert profile.activation_bytes == 4 * 16 * (8 + 2 + 2)
    # The input waits for the addition.
    live = {row.name: row.live_bytes for row in profile.layers}
    assert live == {"wide": 4 * 16 * 10, "narrow": 4 * 16 * 12, "add": 4 * 16 * 6}
    assert profile.peak_activation_bytes == 4 * 16 * 12


def test_layers_that_see_one_value_at_a_time_work_in_place():
    image = keras.Input((4, 4, 2))
    x = layers.Conv2D(8, 1, name="conv")(image)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.Dropout(0.5, name="drop")(x)
    x = layers.Flatten(name="flatten")(x)
    outputs = layers.Activation("softmax", name="softmax")(x)
    profile = profile_model(keras.Model(image, outputs))
    wide = 4 * 16 * 8
    assert [row.live_bytes for row in profile.layers] == [wide * 5 // 4, *[2 * wide] * 5]
    in_place = [row.live_bytes_in_place for row in profile.layers]
    assert in_place == [wide * 5 // 4, *[wide] * 4, 2 * wide]


def test_what_another_layer_reads_later_is_not_overwritten():
    image = keras.Input((4, 4, 2))
    x = layers.Conv2D(2, 1, name="conv")(image)
    outputs = layers.Add()([x, layers.ReLU(name="relu")(x)])
    rows = {row.name: row for row in profile_model(keras.Model(image, outputs)).layers}
    assert rows["relu"].live_bytes_in_place == 2 * 4 * 16 * 2


def test_padding_before_a_convolution_takes_no_memory_in_place():
    image = keras.Input((4, 4, 2))
    x = layers.ZeroPadding2D(name="pad")(image)
    convolved = layers.Conv2D(2, 3, name="conv")(x)
    rows = profile_model(keras.Model(image, convolved)).layers
    assert [row.live_bytes for row in rows] == [4 * 2 * (16 + 36), 4 * 2 * (36 + 16)]
    assert [row.live_bytes_in_place for row in rows] == [4 * 2 * 16, 4 * 2 * (16 + 16)]
    # A pooling reads what is padded.
    rows = profile_model(keras.Model(image, [convolved, layers.MaxPooling2D()(x)])).layers
    assert rows[0].live_bytes_in_place == 4 * 2 * (16 + 36)


def test_weights_are_told_at_four_widths():
    profile = profile_model(keras.Sequential([keras.Input((3,)), layers.Dense(2, name="dense")]))
    assert [profile.weight_bytes_at(bits) for bits in (32, 16, 8, 6)] == [32, 16, 8, 6]
    assert profile.layers[0].weight_bytes(6) == 6
    assert profile.to_dict()["weight_bytes_at"] == {"32": 32, "16": 16, "8": 8, "6": 6}


def test_statistics_of_a_batch_normalization_are_not_trainable():
    model = keras.Sequential([keras.Input((4, 4, 3)), layers.BatchNormalization()])
    profile = profile_model(model)
    assert (profile.parameters, profile.trainable_parameters) == (12, 6)
    model.trainable = False
    assert profile_model(model).trainable_parameters == 0


def test_a_model_in_a_model_is_expanded():
    base = SqueezeNet(weights=None, include_top=False)
    model = keras.Sequential(
        [keras.Input((64, 64, 3)), base, layers.GlobalAveragePooling2D(), layers.Dense(5)]
    )
    inside, alone = profile_model(model), profile_model(base, (64, 64, 3))
    assert inside.layers[0].name == "squeezenet1_1/conv1"
    assert inside.layers[0].output_shape == (31, 31, 64)
    assert inside.multiply_adds == alone.multiply_adds + 512 * 5
    assert inside.parameters == model.count_params() == alone.parameters + 512 * 5 + 5


def test_a_shared_layer_computes_twice_and_is_stored_once():
    inputs = keras.Input((4, 4, 2))
    shared = layers.Conv2D(2, 1)
    profile = profile_model(keras.Model(inputs, shared(shared(inputs))))
    assert profile.multiply_adds == 2 * 16 * 2 * 2
    assert [row.parameters for row in profile.layers] == [6, 0]


def test_operators_and_several_inputs_and_outputs_are_followed():
    one, two = keras.Input((None, 4, 2)), keras.Input((None, 4, 2))
    total = one + two
    halves = keras.ops.split(total, 2, axis=-1)
    profile = profile_model(keras.Model([one, two], halves), [(4, 4, 2), (4, 4, 2)])
    assert [row.output_shape for row in profile.layers] == [(4, 4, 2), ((4, 4, 1), (4, 4, 1))]
    assert [row.input_bytes for row in profile.layers] == [4 * 64, 4 * 32]


def test_profiling_leaves_the_model_as_it_was():
    model = SqueezeNet(weights=None, include_top=False)
    profile_model(model, (64, 64, 3))
    assert model.get_layer("conv1").output.shape == (None, None, None, 64)


def test_a_profile_is_plain_json():
    profile = profile_model(SqueezeNet(weights=None, classes=10, name="digits"))
    read_back = json.loads(json.dumps(profile.to_dict()))
    assert read_back == profile.to_dict()
    assert read_back["name"] == "digits"
    assert read_back["multiply_adds"] == sum(row["multiply_adds"] for row in read_back["layers"])
    assert read_back["layers"][0] == {
        "name": "conv1",
        "kind": "Conv2D",
        "output_shape": [111, 111, 64],
        "parameters": 27 * 64 + 64,
        "multiply_adds": 111 * 111 * 27 * 64,
        "input_bytes": 4 * 224 * 224 * 3,
        "activation_bytes": 4 * 111 * 111 * 64,
        "trainable_parameters": 27 * 64 + 64,
        "live_bytes": 4 * (224 * 224 * 3 + 111 * 111 * 64),
        "live_bytes_in_place": 4 * (224 * 224 * 3 + 111 * 111 * 64),
        "parameter_share": (27 * 64 + 64) / profile.parameters,
        "multiply_add_share": 111 * 111 * 27 * 64 / profile.multiply_adds,
        "weight_bytes_at": {"32": 7168, "16": 3584, "8": 1792, "6": 1344},
    }


@pytest.mark.parametrize(
    ("input_shape", "message"),
    [
        (None, "must give the sizes"),
        ((64, None, 3), "must give the sizes"),
        ((64, 64, 1), "must agree"),
        ((64, 64), "must agree"),
        (64, "must agree"),
    ],
)
def test_a_refused_input_shape_is_named(input_shape, message):
    with pytest.raises(ValueError, match=rf"`input_shape` {message}[\s\S]*Received: input_shape="):
        profile_model(SqueezeNet(weights=None, include_top=False), input_shape)


def test_a_model_for_one_size_is_not_counted_for_another():
    with pytest.raises(ValueError, match=r"agree with the model's, \(224, 224, 3\)"):
        profile_model(SqueezeNet(weights=None), (227, 227, 3))


def test_a_size_that_stays_unknown_names_the_layer():
    inputs = keras.Input((4,))
    nonzero = keras.layers.Lambda(lambda x: x, output_shape=(None, 3), name="mystery")(inputs)
    with pytest.raises(ValueError, match=r"layer mystery[\s\S]*Received: output shape"):
        profile_model(keras.Model(inputs, nonzero))


@pytest.mark.parametrize("model", [keras.Sequential([layers.Dense(3)]), keras.Model(), "model"])
def test_a_model_without_a_graph_is_refused(model):
    with pytest.raises(ValueError, match="`model` must be a functional or Sequential"):
        profile_model(model)
