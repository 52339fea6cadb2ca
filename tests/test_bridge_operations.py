"""What becomes other layers in the twin: activations, composed layers, calls of keras.ops."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_squeezenet.compression.with_training import bridge
from keras_squeezenet.compression.with_training.bridge import BridgeError, composed_layers
from keras_squeezenet.compression.with_training.bridge.activations import BUILT, SAME
from tests.twins import assert_carried, images_for, same_numbers


@pytest.fixture(autouse=True)
def the_same_numbers():
    same_numbers()


def on_image(function, shape=(6, 8, 4)):
    image = keras.Input(shape)
    return keras.Model(image, function(image))


@pytest.mark.parametrize("name", sorted((*SAME, *BUILT)))
def test_an_activation_is_the_same_function_alone_and_in_a_layer(name):
    def function(x):
        inside = layers.Conv2D(3, 1, activation=name, name="conv")(x)
        return layers.Concatenate()([inside, layers.Activation(name, name="alone")(x)])

    assert_carried(on_image(function))


def test_hard_silu_is_made_of_layers_that_tfmot_knows():
    twin = bridge.to_tf_keras(on_image(layers.Activation("hard_silu", name="gate")))
    kinds = {layer.name: type(layer).__name__ for layer in twin.layers[1:]}
    assert kinds == {
        "gate_shift": "DepthwiseConv2D",
        "gate_relu6": "ReLU",
        "gate_scale": "DepthwiseConv2D",
        "gate": "Multiply",
    }
    assert not any(layer.trainable_weights for layer in twin.layers)


def merged(kind):
    return lambda x: kind()([x, layers.Conv2D(4, 1)(x)])


@pytest.mark.parametrize(
    "function",
    [
        *map(
            merged,
            (layers.Multiply, layers.Average, layers.Maximum, layers.Minimum, layers.Subtract),
        ),
        lambda x: layers.Multiply()([x, layers.GlobalAveragePooling2D(keepdims=True)(x)]),
        layers.LayerNormalization(epsilon=1e-6),
        layers.LayerNormalization(axis=(1, 2, 3), center=False),
        layers.GroupNormalization(2),
        layers.PReLU(shared_axes=(1, 2)),
        layers.ELU(0.7),
        layers.UpSampling2D((2, 3)),
        layers.UpSampling2D(2, interpolation="bilinear"),
        layers.Conv2DTranspose(5, 3, strides=2, padding="same", activation="relu6"),
        layers.Conv2DTranspose(5, 3, strides=2, output_padding=1, use_bias=False),
        layers.Dropout(0.3, noise_shape=(None, 1, 1, 1)),
        layers.Dense(3, activation="hard_silu"),
        lambda x: layers.Rescaling(2.0, 1.0)(layers.Flatten()(x)),
    ],
)
def test_a_layer_has_a_twin_of_equal_outputs(function):
    assert_carried(on_image(function))


@pytest.mark.parametrize("activation", ["relu", "hard_silu"])
@pytest.mark.parametrize("use_bias", [True, False])
def test_a_separable_convolution_is_two_of_which_the_pointwise_one_is_compressed(
    use_bias, activation
):
    layer = layers.SeparableConv2D(
        6,
        3,
        strides=2,
        padding="same",
        depth_multiplier=2,
        use_bias=use_bias,
        activation=activation,
        name="sep",
    )
    model = on_image(layer)
    twin = assert_carried(model)
    assert tuple(twin.get_layer("sep_depthwise").depthwise_kernel.shape) == (3, 3, 4, 2)
    assert list(bridge.sources(model)) == ["sep_depthwise", "sep_pointwise"]
    ((name, kernel),) = bridge.kernels(model).items()
    assert (name, kernel.shape) == ("sep_pointwise", (1, 1, 8, 6))


def test_a_convolution_with_a_group_for_each_channel_is_a_depthwise_one():
    model = on_image(layers.Conv2D(8, 3, groups=4, activation="gelu", name="grouped"))
    twin = assert_carried(model)
    assert tuple(twin.get_layer("grouped").depthwise_kernel.shape) == (3, 3, 4, 2)
    assert not bridge.kernels(model)


def test_layers_that_keras_applications_keep_to_themselves_are_known():
    scale = composed_layers.LayerScale(1e-6, 4, name="scale")
    model = on_image(
        lambda x: composed_layers.CustomScaleLayer(0.2)(
            [x, composed_layers.StochasticDepth(0.25, name="drop")(scale(x))]
        )
    )
    twin = assert_carried(model)
    assert twin.get_layer("scale").trainable_weights
    dropped = np.asarray(twin.get_layer("drop")(np.ones((2000, 2, 2, 1), "float32"), training=True))
    kept = dropped[:, 0, 0, 0] > 0
    np.testing.assert_allclose(dropped, kept[:, None, None, None] / 0.75 * np.ones((2, 2, 1)))
    assert np.mean(kept) == pytest.approx(0.75, abs=0.05)


@keras.saving.register_keras_serializable("bridge tests")
class LayerScale(layers.Layer):
    """Another one of the same name."""

    def call(self, x):
        return 3 * x


def test_a_layer_is_not_known_by_its_name():
    with pytest.raises(BridgeError, match="Layer mine of class LayerScale has no twin"):
        bridge.to_tf_keras(on_image(LayerScale(name="mine")))


CHANNELS = np.array([1.0, -2.0, 0.5, 3.0], "float32")
# By hand in NumPy beside each.
OPERATIONS = {
    "x + 1": (lambda x: x + 1, lambda x: x + 1),
    "1 - x": (lambda x: 1 - x, lambda x: 1 - x),
    "x - c": (lambda x: x - CHANNELS, lambda x: x - CHANNELS),
    "c * x": (lambda x: ops.multiply(CHANNELS, x), lambda x: CHANNELS * x),
    "x / 4": (lambda x: x / 4, lambda x: x / 4),
    "-x": (lambda x: -x, lambda x: -x),
    "x ** 2": (lambda x: x**2, lambda x: x * x),
    "square": (ops.square, np.square),
    "x + y": (lambda x: ops.add(x, x * -2), lambda x: -x),
    "x * y": (lambda x: x * (x + 1), lambda x: x * (x + 1)),
    "x - y": (lambda x: x - 3 * x, lambda x: -2 * x),
    "max(x, y)": (lambda x: ops.maximum(x, -x), np.abs),
    "min(x, y)": (lambda x: ops.minimum(x, -x), lambda x: -np.abs(x)),
    "max(x, 0)": (lambda x: ops.maximum(x, 0), lambda x: np.maximum(x, 0)),
    "max(2, x)": (lambda x: ops.maximum(2, x), lambda x: np.maximum(x, 2)),
    "min(x, c)": (lambda x: ops.minimum(x, CHANNELS), lambda x: np.minimum(x, CHANNELS)),
    "clip": (lambda x: ops.clip(x, -1, 2), lambda x: np.clip(x, -1, 2)),
    "clip 0": (lambda x: ops.clip(x, 0, 2), lambda x: np.clip(x, 0, 2)),
    "relu": (ops.relu, lambda x: np.maximum(x, 0)),
    "relu6": (ops.relu6, lambda x: np.clip(x, 0, 6)),
    "leaky": (lambda x: ops.leaky_relu(x, 0.3), lambda x: np.where(x > 0, x, 0.3 * x)),
    "elu": (lambda x: ops.elu(x, 0.5), lambda x: np.where(x > 0, x, 0.5 * np.expm1(x))),
    "tanh": (ops.tanh, np.tanh),
    "sigmoid": (ops.sigmoid, lambda x: 1 / (1 + np.exp(-x))),
    "silu": (ops.silu, lambda x: x / (1 + np.exp(-x))),
    "hard_silu": (ops.hard_silu, lambda x: x * np.clip(x + 3, 0, 6) / 6),
    "hard_sigmoid": (ops.hard_sigmoid, lambda x: np.clip(x + 3, 0, 6) / 6),
    "softplus": (ops.softplus, lambda x: np.log1p(np.exp(x))),
    "softmax": (
        lambda x: ops.softmax(x, axis=1),
        lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True),
    ),
    "activations.relu": (
        lambda x: keras.activations.relu(x, negative_slope=0.1, max_value=2),
        lambda x: np.minimum(np.where(x > 0, x, 0.1 * x), 2),
    ),
    "mean": (lambda x: ops.mean(x, axis=(2, 1)), lambda x: x.mean((1, 2))),
    "mean kept": (
        lambda x: ops.mean(x, axis=(1, -2), keepdims=True),
        lambda x: x.mean((1, 2), keepdims=True),
    ),
    "max": (lambda x: ops.max(x, axis=[1, 2]), lambda x: x.max((1, 2))),
    "reshape": (lambda x: ops.reshape(x, (-1, 12, 16)), lambda x: x.reshape(-1, 12, 16)),
    "squeeze": (
        lambda x: ops.squeeze(ops.mean(x, (1, 2), keepdims=True), (1, 2)),
        lambda x: x.mean((1, 2)),
    ),
    "expand_dims": (lambda x: ops.expand_dims(x, -1), lambda x: x[..., None]),
    "transpose": (
        lambda x: ops.transpose(x, (0, 3, 1, -2)),
        lambda x: x.transpose(0, 3, 1, 2),
    ),
    "concatenate": (
        lambda x: ops.concatenate([x, -x], axis=2),
        lambda x: np.concatenate([x, -x], 2),
    ),
    "pad": (
        lambda x: ops.pad(x, ((0, 0), (1, 2), (0, 3), (0, 0))),
        lambda x: np.pad(x, ((0, 0), (1, 2), (0, 3), (0, 0))),
    ),
    "cast": (lambda x: ops.cast(x, "float32"), lambda x: x),
    "of a vector": (
        lambda x: ops.mean(x, axis=(1, 2)) * 2 + CHANNELS,
        lambda x: x.mean((1, 2)) * 2 + CHANNELS,
    ),
    "of rows": (
        lambda x: ops.reshape(x, (-1, 48, 4)) * CHANNELS,
        lambda x: x.reshape(-1, 48, 4) * CHANNELS,
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_call_of_keras_ops_is_what_numpy_makes_by_hand(name):
    function, by_hand = OPERATIONS[name]
    model = on_image(function)
    images = images_for(model)
    found = np.asarray(bridge.to_tf_keras(model)(images))
    np.testing.assert_allclose(found, by_hand(images), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found, np.asarray(model(images)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: ops.sin(x), r"class Sin has no twin .* of keras.ops one of Add, Cast, Clip"),
        (lambda x: x[:, 1:], "class GetItem has no twin"),
        (lambda x: x**3, "class Power .* the second power"),
        (lambda x: 1 / x, "class TrueDivide .* division by a constant"),
        (lambda x: x + np.ones((6, 8, 4)), r"class Add .* one for each channel. .*\(6, 8, 4\)"),
        (lambda x: x + ops.mean(x, (1, 2)), r"class Add .*one rank.*\(None, 4\)"),
        (lambda x: ops.mean(x, axis=0), r"class Mean .*axis=\[0\] of"),
        (lambda x: ops.mean(x), "class Mean .*axis=None of"),
        (lambda x: ops.reshape(x, (1, -1)), "class Reshape .*sizes"),
        (lambda x: ops.transpose(x), "class Transpose .*begin with 0"),
        (lambda x: ops.pad(x, 1), "class Pad .*height and width alone"),
        (lambda x: ops.gelu(x, approximate=True), "class Gelu .*approximate=False"),
        (lambda x: ops.cast(x, "int32"), "class Cast .*int32"),
        (lambda x: ops.concatenate([x, x], axis=0), "class Concatenate .*axis=0"),
        (layers.LayerNormalization(rms_scaling=True, name="rms"), "Layer rms .*rms_scaling"),
        (layers.Dense(2, activation=ops.sin, name="odd"), "Layer odd of class Dense .*sin"),
        (layers.SeparableConv2D(2, 1, activation="glu", name="s"), "Layer s .* Received: glu"),
    ],
)
def test_what_has_no_exact_layers_is_refused_in_one_line(function, message):
    with pytest.raises(BridgeError, match=message) as error:
        bridge.to_tf_keras(on_image(function))
    assert "\n" not in str(error.value)
