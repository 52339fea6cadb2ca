"""Networks of signals through the bridge and tfmot: lines are images of height 1 there."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_squeezenet import Retraining, cluster, distill, prune, quantize_aware
from keras_squeezenet.compression.retraining import RetrainingError
from keras_squeezenet.compression.with_training import bridge
from keras_squeezenet.compression.with_training.bridge import BridgeError
from keras_squeezenet.errors import InputError
from keras_squeezenet.litert.model import LiteRTModel
from tests.signals import TRAINED_ON, accuracy, network, trained_network, waves
from tests.twins import assert_carried, randomize, same_numbers


@pytest.fixture(autouse=True)
def the_same_numbers():
    same_numbers()


def of_lines(function, length=11):
    line = keras.Input((length, 4))
    return keras.Model(line, function(line))


@pytest.mark.parametrize(
    "function",
    [
        layers.Conv1D(6, 3, strides=2, padding="same", activation="relu"),
        layers.Conv1D(6, 3, padding="causal", dilation_rate=2, activation="hard_silu"),
        layers.Conv1D(8, 3, groups=4, use_bias=False),
        layers.Conv1D(4, 3, groups=2),
        layers.DepthwiseConv1D(3, strides=2, depth_multiplier=2, padding="same"),
        layers.DepthwiseConv1D(3, dilation_rate=2, activation="relu6"),
        layers.SeparableConv1D(6, 3, strides=2, depth_multiplier=2, activation="hard_silu"),
        layers.SeparableConv1D(6, 3, padding="same", use_bias=False),
        layers.Conv1DTranspose(5, 3, strides=2, padding="same", output_padding=1),
        layers.Conv1DTranspose(5, 4, strides=3, activation="relu6"),
        layers.Conv1DTranspose(5, 3, dilation_rate=2, padding="same"),
        layers.MaxPooling1D(3, strides=2, padding="same"),
        layers.AveragePooling1D(3, strides=2, padding="same"),
        layers.GlobalMaxPooling1D(),
        layers.GlobalAveragePooling1D(keepdims=True),
        layers.ZeroPadding1D((1, 2)),
        layers.Cropping1D((2, 1)),
        layers.UpSampling1D(3),
        layers.SpatialDropout1D(0.2),
        layers.PReLU(),
    ],
)
def test_a_layer_along_a_line_has_a_twin_of_equal_outputs(function):
    assert_carried(of_lines(function))


@pytest.mark.parametrize(
    "function",
    [
        layers.BatchNormalization(),
        layers.BatchNormalization(axis=2),
        layers.BatchNormalization(axis=1),
        layers.LayerNormalization(epsilon=1e-3),
        layers.LeakyReLU(0.2),
        layers.Softmax(axis=1),
        layers.Dropout(0.2),
        layers.Dropout(0.2, noise_shape=(None, 1, 4)),
        layers.GaussianDropout(0.2),
        layers.AlphaDropout(0.2),
        layers.Dense(3),
        layers.Flatten(),
        layers.Permute((2, 1)),
        layers.Reshape((4, -1)),
        layers.Rescaling(2.0, 1.0),
        lambda x: layers.Concatenate(axis=1)([x, layers.Conv1D(4, 1)(x)]),
        lambda x: layers.Concatenate()([x, layers.Conv1D(3, 1)(x)]),
        lambda x: layers.Multiply()([x, layers.GlobalAveragePooling1D(keepdims=True)(x)]),
        lambda x: keras.ops.mean(x + 1.0, axis=1),
        lambda x: keras.ops.max(x, axis=-2, keepdims=True),
    ],
)
def test_whatever_follows_a_layer_along_a_line(function):
    assert_carried(of_lines(lambda line: function(layers.Conv1D(4, 2, name="conv")(line))))


def test_a_layer_may_be_called_with_lines_of_several_lengths():
    conv = layers.Conv1D(4, 3, padding="same")

    def function(line):
        halved = layers.MaxPooling1D(2)(conv(line))
        return layers.Concatenate(axis=1)([conv(line), conv(halved)])

    assert_carried(of_lines(function))


@pytest.mark.parametrize(
    "shared", [layers.BatchNormalization, lambda: layers.Activation("hard_silu")]
)
@pytest.mark.parametrize("first", ["a line", "what a convolution gave"])
def test_a_layer_is_shared_by_lines_from_wherever(shared, first):
    shared, conv = shared(), layers.Conv1D(4, 3, padding="same")

    def function(line):
        given = {"a line": line, "what a convolution gave": conv(line)}
        one = shared(given.pop(first))
        (other,) = given.values()
        return layers.Add()([one, shared(other)])

    assert_carried(of_lines(function))


def test_names_of_the_twin_s_own_layers_are_free_ones():
    one, other = keras.Input((9, 4), name="c_line"), keras.Input((9, 4), name="c_image")
    line = layers.Conv1D(4, 3, padding="same", name="c")(layers.Add(name="sum")([one, other]))
    line = layers.ReLU(name="c_line_2")(layers.Concatenate()([line, one]))
    model = keras.Model([one, other], layers.Conv1D(3, 2, padding="causal")(line))
    randomize(model)
    signals = np.random.default_rng(0).normal(size=(2, 2, 9, 4)).astype("float32")
    twin = bridge.to_tf_keras(model)
    np.testing.assert_allclose(twin([*signals]), model([*signals]), atol=1e-5)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: layers.Conv1D(4, 3)(layers.BatchNormalization()(x)),
        lambda x: layers.BatchNormalization()(layers.Dense(4, activation="relu")(x)),
        lambda x: layers.BatchNormalization()(layers.Add()([x, layers.Conv1D(4, 1)(x)])),
        lambda x: layers.BatchNormalization()(keras.ops.relu(layers.Conv1D(4, 1)(x))),
        lambda x: layers.BatchNormalization()(
            layers.Concatenate(axis=1)([x, layers.Conv1D(4, 1)(x)])
        ),
    ],
)
def test_a_normalization_anywhere_on_a_line_is_trained_in_8_bits(function, tmp_path):
    line = keras.Input((8, 4))
    means = layers.GlobalAveragePooling1D()(function(line))
    model = keras.Model(line, layers.Dense(2, activation="softmax")(means))
    signals = np.random.default_rng(0).normal(size=(16, 8, 4)).astype("float32")
    labels = np.arange(16) % 2
    trained = quantize_aware(
        model, (signals, labels), retraining=Retraining(steps_per_epoch=1), batch_size=8
    )
    trained.write_litert(tmp_path / "signals.tflite")


def test_a_line_may_be_of_any_length():
    model = of_lines(lambda x: layers.GlobalMaxPooling1D()(layers.Conv1D(3, 3)(x)), None)
    randomize(model)
    twin = bridge.to_tf_keras(model)
    for length in (3, 9):
        signals = np.random.default_rng(0).normal(size=(2, length, 4)).astype("float32")
        np.testing.assert_allclose(twin(signals), model(signals), atol=1e-5)


def test_ones_own_reshape_of_an_image_of_height_1_is_no_line():
    image = keras.Input((1, 6, 4))
    line = layers.Reshape((4, 6), name="row_line")(image)
    assert_carried(keras.Model(image, layers.Conv1D(3, 2, name="conv")(layers.ReLU()(line))))


def test_tfmot_sees_a_convolution_its_normalization_and_its_activation_in_a_row():
    twin = bridge.to_tf_keras(trained_network(), for_8_bits=True)
    kinds = [type(layer).__name__ for layer in twin.layers]
    assert kinds == [
        *("InputLayer", "Reshape", "Conv2D", "BatchNormalization", "ReLU"),
        *("DepthwiseConv2D", "Conv2D", "GlobalAveragePooling2D", "Dense"),
    ]
    kernels = bridge.kernels(trained_network())
    assert {name: kernel.shape for name, kernel in kernels.items()} == {
        "conv": (1, 7, 1, 16),
        "separable_pointwise": (1, 1, 16, 16),
        "head": (16, 2),
    }


def test_unknown_channels_are_refused():
    line = keras.Input((None, None))
    model = keras.Model(line, layers.MaxPooling1D()(line))
    with pytest.raises(BridgeError, match=r"max_pooling1d\w* of class MaxPooling1D .*known chan"):
        bridge.to_tf_keras(model)


def test_a_network_of_signals_is_pruned_clustered_and_trained_in_8_bits(tmp_path):
    signals, labels = waves()
    data = (signals[:TRAINED_ON], labels[:TRAINED_ON])
    run = Retraining(epochs=2, learning_rate=1e-3)
    pruned = prune(trained_network(), data, retraining=run, sparsity=0.5, batch_size=16)
    clustered = cluster(pruned.model, data, retraining=run, bits=4, batch_size=16)
    assert accuracy(clustered.model) == 1
    kernel = np.asarray(clustered.model.get_layer("conv").kernel)
    assert np.mean(kernel == 0) >= 0.5
    assert len(np.unique(kernel)) <= 16
    result = quantize_aware(
        clustered.model, data, retraining=run, preserve="clusters", batch_size=16
    )
    assert result.after is None or result.after == 1
    result.write_litert(tmp_path / "signals.tflite", input_type="int8", output_type="int8")
    assert accuracy(LiteRTModel(tmp_path / "signals.tflite").predict) == 1
    assert all(kernel.nonzero <= kernel.weights / 2 for kernel in result.layers)


def test_an_integer_file_is_of_lines_of_one_length():
    line = keras.Input((None, 4))
    x = layers.GlobalMaxPooling1D()(layers.Conv1D(3, 3)(line))
    model = keras.Model(line, layers.Dense(2, activation="softmax")(x))
    data = np.zeros((8, 9, 4), "float32"), np.zeros(8, int)
    with pytest.raises(RetrainingError, match=r"inputs of fixed sizes.*\(None, None, 4\)"):
        quantize_aware(model, data)


def test_a_network_of_signals_learns_from_another():
    signals, labels = waves()
    data, teacher = (signals[:TRAINED_ON], labels[:TRAINED_ON]), trained_network()
    run = Retraining(epochs=6, learning_rate=0.01)
    student = distill(network(), teacher, data, retraining=run, batch_size=16)
    assert accuracy(student.model.predict) == 1
    shorter = keras.Sequential([keras.Input((24, 1)), *teacher.layers])
    with pytest.raises(InputError, match=r"`teacher` must take .*None, 48, 1.*None, 24, 1"):
        distill(network(), shorter, data, retraining=run)
