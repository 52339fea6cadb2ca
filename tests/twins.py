"""Keras 3 models and their tf_keras twins side by side, with weights as after training."""

import keras
import numpy as np
from keras import layers

from keras_squeezenet.compression.with_training import bridge

RNG = np.random.default_rng(11)
# Of batch normalizations. Smaller variances amplify rounding errors layer by layer, and larger ones
# let the signal die away: outputs would not depend on the image.
STATISTICS = {
    "gamma": (0.5, 1.5),
    "beta": (-0.1, 0.1),
    "moving_mean": (-0.05, 0.05),
    "moving_variance": (0.1, 0.3),
}


def same_numbers():
    """So that a test has the same ones whichever ran before it."""
    keras.utils.set_random_seed(11)
    RNG.bit_generator.state = np.random.default_rng(11).bit_generator.state


def outputs_differ_by(model, twin, images):
    """The largest difference, as a share of the largest output."""
    ours = np.asarray(model(images, training=False))
    theirs = np.asarray(twin(images, training=False))
    assert ours.shape == theirs.shape
    assert np.ptp(ours, axis=0).max() > 1e-3 * np.abs(ours).max(), "outputs follow the images"
    return np.abs(ours - theirs).max() / np.abs(ours).max()


def randomize(model):
    """Weights as after training: no bias is 0, and no scale or statistic is that of a new layer."""
    for variable in model.variables:
        kind = variable.path.rsplit("/")[-1]
        if kind in STATISTICS:
            variable.assign(RNG.uniform(*STATISTICS[kind], variable.shape))
        elif kind == "bias":
            variable.assign(RNG.normal(0, 0.1, variable.shape))
        elif kind == "alpha":  # of PReLU
            variable.assign(RNG.uniform(0.1, 0.5, variable.shape))
    return model


def pictures(count, side):
    """Pixels 0…255 with light and dark places, float32 `[count, side, side, 3]`.

    Of noise alone every picture is the same to a deep network, but for rounding.
    """
    coarse = RNG.uniform(0, 255, (count, 3, 3, 3))
    return np.asarray(keras.ops.image.resize(coarse, (side, side)), "float32")


def train_statistics(model, images):
    """Like `randomize`; the statistics are near those of images, so that a deep network's
    outputs follow its images."""
    randomize(model)
    normalizations = [x for x in model.layers if isinstance(x, layers.BatchNormalization)]
    for layer in normalizations:
        layer.momentum, layer.usual = 0.0, layer.momentum
    model(images, training=True)
    for layer in normalizations:
        layer.momentum = layer.usual
        mean, variance = np.asarray(layer.moving_mean), np.asarray(layer.moving_variance)
        noise = RNG.uniform(1.0, 1.5, variance.shape)
        # Of a mean far above the deviation little but rounding errors would be left.
        layer.moving_variance.assign(variance * noise + np.square(mean) / 4 + 0.01)
        layer.moving_mean.assign(mean * RNG.uniform(0.9, 1.1, mean.shape))
    return model


def images_for(model):
    return RNG.normal(0, 3, (5, *model.input_shape[1:])).astype("float32")


def assert_carried(model):
    """There with equal outputs, and back with other weights."""
    randomize(model)
    twin = bridge.to_tf_keras(model)
    images = images_for(model)
    assert outputs_differ_by(model, twin, images) < 1e-5
    for name, source in bridge.sources(model).items():
        twin.get_layer(name).set_weights([1.5 * array for array in source.arrays()])
    bridge.copy_weights_back(twin, model)
    assert outputs_differ_by(model, twin, images) < 1e-5
    return twin
