"""Multiply-adds of all kinds of layers and operations, against counts by hand and TensorFlow's."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_squeezenet.network.profile import profile_model

SEQUENCE = (7, 6)


def costs(shape, call):
    """Profile of what a layer or a function makes of one input."""
    inputs = keras.Input(shape)
    return profile_model(keras.Model(inputs, call(inputs)))


def attention(**options):
    layer = layers.MultiHeadAttention(num_heads=2, key_dim=3, **options)
    return lambda x: layer(x, x)


# (shape, layer or function, multiply-adds)
COUNTED_BY_HAND = {
    "Conv1D": (SEQUENCE, layers.Conv1D(5, 3), 5 * 5 * 3 * 6),
    "Conv3D": ((4, 5, 6, 2), layers.Conv3D(3, 2), 3 * 4 * 5 * 3 * 8 * 2),
    "DepthwiseConv1D": (SEQUENCE, layers.DepthwiseConv1D(3), 5 * 6 * 3),
    "SeparableConv1D": (SEQUENCE, layers.SeparableConv1D(4, 3), 5 * 6 * 3 + 5 * 6 * 4),
    "Conv1DTranspose": (SEQUENCE, layers.Conv1DTranspose(4, 3, strides=2), 7 * 3 * 6 * 4),
    "Conv3DTranspose": ((4, 5, 6, 2), layers.Conv3DTranspose(3, 2), 4 * 5 * 6 * 8 * 2 * 3),
    "SimpleRNN": (SEQUENCE, layers.SimpleRNN(5), 7 * 5 * (6 + 5)),
    "GRU": (SEQUENCE, layers.GRU(5, return_sequences=True), 7 * 3 * 5 * (6 + 5)),
    "LSTM": (SEQUENCE, layers.LSTM(5), 7 * 4 * 5 * (6 + 5)),
    "Bidirectional": (SEQUENCE, layers.Bidirectional(layers.LSTM(5)), 2 * 7 * 4 * 5 * (6 + 5)),
    "TimeDistributed": (SEQUENCE, layers.TimeDistributed(layers.Dense(3)), 7 * 6 * 3),
    "Embedding": ((7,), layers.Embedding(100, 6), 0),
    "PReLU": ((4, 4, 3), layers.PReLU(), 0),
    "MultiHeadAttention": (SEQUENCE, attention(), 4 * 7 * 6 * 2 * 3 + 2 * 2 * 7 * 7 * 3),
    "Attention": (SEQUENCE, lambda x: layers.Attention()([x, x]), 2 * 7 * 7 * 6),
    "Dot": (SEQUENCE, lambda x: layers.Dot(axes=2)([x, x]), 7 * 7 * 6),
    "matmul": (SEQUENCE, lambda x: ops.matmul(x, ops.transpose(x, (0, 2, 1))), 7 * 7 * 6),
    "matmul by an array": (SEQUENCE, lambda x: ops.matmul(x, np.zeros((6, 4), "float32")), 168),
    "the operator": (SEQUENCE, lambda x: x @ ops.transpose(x, (0, 2, 1)), 7 * 7 * 6),
    "tensordot": (SEQUENCE, lambda x: ops.tensordot(x, np.zeros((7, 6, 4), "f"), 2), 7 * 6 * 4),
    "einsum": (SEQUENCE, lambda x: ops.einsum("...td,...sd->...ts", x, x), 7 * 7 * 6),
    "conv": ((8, 8, 4), lambda x: ops.conv(x, np.zeros((3, 3, 4, 6), "f")), 36 * 6 * 9 * 4),
    "depthwise_conv": (
        (8, 8, 4),
        lambda x: ops.depthwise_conv(x, np.zeros((3, 3, 4, 2), "f")),
        36 * 8 * 9,
    ),
    "separable_conv": (
        (8, 8, 4),
        lambda x: ops.separable_conv(x, np.zeros((3, 3, 4, 2), "f"), np.zeros((1, 1, 8, 5), "f")),
        36 * (8 * 9 + 8 * 5),
    ),
    "conv_transpose": (
        (8, 8, 4),
        lambda x: ops.conv_transpose(x, np.zeros((3, 3, 5, 4), "f"), strides=2),
        64 * 9 * 4 * 5,
    ),
    "windows": (
        # Windows go into the batch, as in Swin.
        (8, 8, 4),
        lambda x: ops.matmul(ops.reshape(x, (-1, 16, 4)), np.zeros((4, 5), "float32")),
        8 * 8 * 4 * 5,
    ),
    "Lambda": (SEQUENCE, layers.Lambda(lambda x: ops.matmul(x, ops.ones((6, 4)))), 168),
    "product of two maps": (SEQUENCE, lambda x: x * x, 0),
}


@pytest.mark.parametrize(
    ("shape", "call", "multiply_adds"), COUNTED_BY_HAND.values(), ids=COUNTED_BY_HAND.keys()
)
def test_multiply_adds_agree_with_a_count_by_hand(shape, call, multiply_adds):
    profile = costs(shape, call)
    assert profile.multiply_adds == multiply_adds
    assert profile.not_counted == ()


NOT_KNOWN = {
    "ConvLSTM2D": ((3, 8, 8, 3), layers.ConvLSTM2D(4, 3, name="unknown")),
    "TensorFlow's function": (
        SEQUENCE,
        layers.Lambda(lambda x: tf.matmul(x, x, transpose_b=True), name="unknown"),
    ),
}


@pytest.mark.parametrize(("shape", "layer"), NOT_KNOWN.values(), ids=NOT_KNOWN.keys())
def test_what_cannot_be_counted_is_named_and_not_taken_for_0(shape, layer):
    profile = costs(shape, layer)
    assert profile.not_counted == ("unknown",)
    assert profile.layers[0].multiply_adds is None
    assert profile.to_dict()["layers"][0]["multiply_add_share"] is None


def test_einsum_of_three_and_a_decomposition_are_named():
    def call(x):
        square = ops.einsum("btd,bsd,bse->bte", x, x, x)
        return ops.qr(square)[0]

    assert len(costs(SEQUENCE, call).not_counted) == 2


class Block(layers.Layer):
    """A layer of one's own that holds two, and a matrix beside them."""

    def __init__(self, **options):
        super().__init__(**options)
        self.wide = layers.Conv2D(8, 3, padding="same", name="wide")
        self.narrow = layers.Conv2D(4, 1, name="narrow")

    def build(self, shape):
        self.wide.build(shape)
        self.narrow.build((*shape[:-1], 8))
        self.matrix = self.add_weight(shape=(4, 4))

    def call(self, x, training=False):
        return ops.matmul(self.narrow(ops.relu(self.wide(x))), self.matrix) + x


def test_a_layer_of_ones_own_is_shown_as_what_is_in_it():
    inputs, block = keras.Input((6, 6, 4)), Block(name="block")
    model = keras.Model(inputs, block(block(inputs)))
    nodes = len(block.wide._inbound_nodes)
    profile = profile_model(model)
    once = 36 * (9 * 4 * 8 + 8 * 4 + 4 * 4)
    assert (profile.multiply_adds, profile.not_counted) == (2 * once, ())
    assert profile.parameters == model.count_params()
    assert {"block/wide", "block/narrow", "block"} < {row.name for row in profile.layers}
    # The input waits for the addition.
    rows = {row.name: row for row in profile.layers[:6]}
    assert rows["block/narrow"].live_bytes == 4 * 36 * (4 + 8 + 4)
    assert len(block.wide._inbound_nodes) == nodes, "the layers are left as they were"


class OfTensorFlow(Block):
    def call(self, x):
        return tf.nn.relu(super().call(x))


def test_a_layer_that_cannot_be_followed_is_one_row_that_is_named():
    profile = costs((6, 6, 4), OfTensorFlow(name="block"))
    assert profile.not_counted == ("block",)
    assert profile.parameters == 9 * 4 * 8 + 8 + 8 * 4 + 4 + 16


class Subclass(keras.Model):
    def __init__(self):
        super().__init__(name="mine")
        self.first, self.last = layers.Dense(5, name="first"), layers.Dense(2, name="last")

    def build(self, shape):
        self.first.build(shape)
        self.last.build((None, 5))

    def call(self, x):
        return self.last(self.first(x))


def test_a_model_of_another_kind_is_followed_alone_and_within_another():
    model = Subclass()
    model.build((None, 3))
    alone = profile_model(model, (3,))
    assert [row.name for row in alone.layers] == ["first", "last"]
    within = costs((3,), Subclass())
    assert [row.name for row in within.layers] == ["mine/first", "mine/last"]
    assert alone.multiply_adds == within.multiply_adds == 3 * 5 + 5 * 2


def test_a_model_of_another_kind_that_cannot_be_followed_is_refused():
    class Other(Subclass):
        def call(self, x):
            return tf.nn.relu(x)

    model = Other()
    model.build((None, 3))
    with pytest.raises(ValueError, match="made of Keras's layers"):
        profile_model(model, (3,))


def test_a_model_that_takes_one_tensor_twice_is_expanded():
    one, two = keras.Input((4,)), keras.Input((4,))
    inner = keras.Model([one, two], layers.Add()([layers.Dense(4)(one), two]), name="inner")
    profile = costs((4,), lambda x: inner([x, x]))
    assert (profile.multiply_adds, profile.parameters) == (16, 20)


def flops_of_tensorflow(model):
    """What TensorFlow's profiler counts in convolutions and products, 2 for a multiply-add."""
    spec = tf.TensorSpec((1, *model.input_shape[1:]))
    graph = tf.function(lambda x: model(x, training=False)).get_concrete_function(spec).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["account_type_regexes"] = ["Conv2D", "DepthwiseConv2dNative", "MatMul"]
    options["output"] = "none"
    return tf.compat.v1.profiler.profile(graph, options=options).total_float_ops


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*tensor_shape_from_node_def_name")
def test_multiply_adds_of_mobilenet_v2_are_half_of_tensorflows_flops():
    shape = (32, 32, 3)
    model = keras.applications.MobileNetV2(weights=None, alpha=0.35, input_shape=shape, classes=5)
    assert 2 * profile_model(model).multiply_adds == flops_of_tensorflow(model)
