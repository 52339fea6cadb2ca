"""AlexNet against its published counts, a plain NumPy normalization, and PyTorch."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_squeezenet
from keras_squeezenet.network.families.alexnet import AlexNet
from keras_squeezenet.network.families.layers import GroupedConv2D, LocalResponseNormalization

# Weights and biases of each layer of Krizhevsky et al. 2012, figure 2, by hand: filters × their
# size × the channels of their group.
PUBLISHED_PARAMETERS = {
    "conv1": 96 * (11 * 11 * 3 + 1),
    "conv2": 256 * (5 * 5 * 48 + 1),
    "conv3": 384 * (3 * 3 * 256 + 1),
    "conv4": 384 * (3 * 3 * 192 + 1),
    "conv5": 256 * (3 * 3 * 192 + 1),
    "fc6": 4096 * (6 * 6 * 256 + 1),
    "fc7": 4096 * (4096 + 1),
    "fc8": 1000 * (4096 + 1),
}
# Height and channels of each layer's output (the paper's figure 2, Caffe's bvlc_alexnet).
PUBLISHED_SHAPES = {
    "conv1": (55, 96),
    "pool1": (27, 96),
    "conv2": (27, 256),
    "pool2": (13, 256),
    "conv3": (13, 384),
    "conv4": (13, 384),
    "conv5": (13, 256),
    "pool5": (6, 256),
}


@pytest.fixture(scope="module")
def alexnet():
    return AlexNet(weights=None)


def photos(count):
    """As AlexNet takes them: pixels of 0…255 less their mean, with the deviation of photos."""
    pixels = np.random.default_rng(0).normal(scale=60, size=(count, 67, 67, 3))
    return pixels.astype(np.float32)


class TestAlexNet:
    def test_it_has_the_published_parameters_layer_by_layer(self, alexnet):
        counts = {
            layer.name: layer.count_params() for layer in alexnet.layers if layer.count_params()
        }
        assert counts == PUBLISHED_PARAMETERS
        assert alexnet.count_params() == 60_965_224  # Caffe's model zoo, among others

    def test_its_feature_maps_have_the_published_sizes(self, alexnet):
        for name, (side, channels) in PUBLISHED_SHAPES.items():
            assert alexnet.get_layer(name).output.shape == (None, side, side, channels)

    def test_normalization_comes_between_the_relu_and_the_pooling(self, alexnet):
        names = [layer.name for layer in alexnet.layers]
        for number in (1, 2):
            at = names.index(f"norm{number}")
            assert names[at - 1 : at + 2] == [f"conv{number}", f"norm{number}", f"pool{number}"]
            assert alexnet.get_layer(f"conv{number}").activation is keras.activations.relu

    def test_it_starts_from_the_papers_values(self, alexnet):
        for name in PUBLISHED_PARAMETERS:
            kernel, bias = alexnet.get_layer(name).get_weights()
            assert kernel.std() == pytest.approx(0.01, rel=0.05)
            ones = name in ("conv2", "conv4", "conv5", "fc6", "fc7")
            np.testing.assert_array_equal(bias, np.full(bias.shape, float(ones)))

    @pytest.mark.slow
    def test_it_learns_on_a_processor(self):
        keras.utils.set_random_seed(0)
        features = AlexNet(include_top=False, pooling="avg", input_shape=(67, 67, 3))
        model = keras.Sequential([features, keras.layers.Dense(2)])
        model.compile(
            keras.optimizers.Adam(1e-3),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=False,
        )
        labels = np.arange(8) % 2
        images = photos(8) + 60 * labels[:, None, None, None]  # dark and bright ones
        losses = [model.train_on_batch(images, labels) for _ in range(30)]
        assert losses[-1] < 0.1 * losses[0]

    def test_every_weight_gets_a_gradient(self):
        model = AlexNet(input_shape=(67, 67, 3), classes=7, classifier_activation=None)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(photos(4))[:, 0])
        gradients = tape.gradient(loss, [weight.value for weight in model.trainable_weights])
        assert all(float(tf.reduce_max(tf.abs(gradient))) > 0 for gradient in gradients)

    def test_it_is_saved_and_loaded_whole(self, tmp_path):
        model = AlexNet(include_top=False, input_shape=(67, 67, 3))
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(loaded(photos(2)), model(photos(2)))

    def test_weights_come_from_a_file_of_the_same_network(self, tmp_path):
        arguments = {"include_top": False, "input_shape": (67, 67, 3)}
        model = AlexNet(**arguments)
        model.save_weights(tmp_path / "alexnet.weights.h5")
        loaded = AlexNet(**arguments, weights=tmp_path / "alexnet.weights.h5")
        for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"pooling": "median"}, "Received: pooling=median"),
            ({"input_shape": (66, 227, 3)}, r"Received: input_shape=\(66, 227, 3\)"),
            ({"input_shape": (227, 227)}, r"Received: input_shape=\(227, 227\)"),
            ({"input_tensor": np.zeros((1, 227, 227, 3))}, "must be a Keras tensor"),
        ],
    )
    def test_wrong_arguments_are_named(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            AlexNet(**arguments)

    def test_the_smallest_image_leaves_one_position(self):
        assert AlexNet(include_top=False, input_shape=(67, 67, 3)).output_shape[1:3] == (1, 1)

    def test_it_is_a_public_name_of_the_package(self):
        assert keras_squeezenet.AlexNet is AlexNet


def normalized(activations, radius=2, k=2.0, alpha=1e-4, beta=0.75):
    """The paper's equation, channel by channel."""
    result = np.empty_like(activations)
    channels = activations.shape[-1]
    for i in range(channels):
        around = activations[..., max(0, i - radius) : min(channels - 1, i + radius) + 1]
        result[..., i] = activations[..., i] / (k + alpha * (around**2).sum(-1)) ** beta
    return result


class TestLocalResponseNormalization:
    @pytest.mark.parametrize("channels", [1, 3, 8])
    def test_it_is_the_papers_equation(self, channels):
        activations = np.random.default_rng(0).normal(scale=60, size=(2, 3, 4, channels))
        activations = activations.astype(np.float32)
        ours = LocalResponseNormalization()(activations)
        np.testing.assert_allclose(ours, normalized(activations.astype(np.float64)), rtol=1e-5)

    @pytest.mark.parametrize("saved", ["channels_first", "channels_last"])
    @pytest.mark.parametrize("loading", ["channels_first", "channels_last"])
    def test_its_channels_stay_where_they_were_when_it_was_saved(self, tmp_path, saved, loading):
        activations = np.random.default_rng(0).normal(scale=60, size=(2, 4, 4, 4))
        expected = normalized(activations)
        if saved == "channels_first":
            activations, expected = (a.transpose(0, 3, 1, 2) for a in (activations, expected))
        usual = keras.config.image_data_format()
        try:
            keras.config.set_image_data_format(saved)
            layers = [keras.Input(activations.shape[1:]), LocalResponseNormalization()]
            keras.Sequential(layers).save(tmp_path / "layer.keras")
            keras.config.set_image_data_format(loading)
            loaded = keras.models.load_model(tmp_path / "layer.keras")
        finally:
            keras.config.set_image_data_format(usual)
        np.testing.assert_allclose(loaded(activations), expected, rtol=1e-4)

    def test_a_layer_saved_without_a_data_format_takes_that_of_keras(self):
        config = LocalResponseNormalization().get_config()
        del config["data_format"]
        assert LocalResponseNormalization.from_config(config).axis == -1

    def test_an_unknown_data_format_is_named(self):
        with pytest.raises(ValueError, match="Received: data_format=rows_first"):
            LocalResponseNormalization(data_format="rows_first")

    def test_it_is_pytorchs_with_another_scale_of_alpha(self):
        torch = pytest.importorskip("torch")
        activations = np.random.default_rng(1).normal(scale=60, size=(2, 3, 4, 8))
        activations = activations.astype(np.float32)
        theirs = torch.nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2)(
            torch.from_numpy(activations.transpose(0, 3, 1, 2))
        )
        theirs = theirs.numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(LocalResponseNormalization()(activations), theirs, rtol=1e-5)


class TestGroupedConvolution:
    def test_result_and_gradients_are_those_of_keras(self):
        images = tf.random.stateless_normal((2, 7, 7, 6), (3, 4))
        ours, theirs = (
            kind(8, 3, padding="same", groups=2) for kind in (GroupedConv2D, keras.layers.Conv2D)
        )
        for layer in (ours, theirs):
            layer.build(images.shape)
        theirs.set_weights(ours.get_weights())
        results = []
        for layer in (ours, theirs):
            with tf.GradientTape() as tape:
                output = layer(images)
                loss = tf.reduce_sum(output**2)
            results.append((output, tape.gradient(loss, layer.kernel.value)))
        for one, other in zip(*results, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
