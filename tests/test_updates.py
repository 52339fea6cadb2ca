"""A packed network that was trained on takes its old values, and the update is small."""

import numpy as np
import pytest

from keras_squeezenet import sqz
from keras_squeezenet.compression.saving import model_of, network_of
from keras_squeezenet.errors import InputError
from keras_squeezenet.network.graph import convolutions_of
from tests.compression_digits import tiny_net


@pytest.fixture
def base():
    return network_of(tiny_net(), bits=4)


def moved(network, distance):
    """The model of a network, its weights moved by up to a share of a codebook's spacing."""
    model = model_of(network)
    rng = np.random.default_rng(0)
    for name, convolution in convolutions_of(model.layers).items():
        spacing = np.diff(network.kernels[name].codebook).min()
        kernel = convolution.kernel.numpy()
        shift = rng.uniform(-distance, distance, kernel.shape) * spacing
        convolution.kernel.assign(kernel + shift)
    return model


def test_weights_that_moved_less_than_half_a_spacing_keep_their_codes(base):
    updated = network_of(moved(base, 0.49), base=base)
    assert sqz.encode(updated) == sqz.encode(base)


def test_the_update_of_weights_that_moved_is_smaller_than_the_file(base):
    old, new = sqz.encode(base), sqz.encode(network_of(moved(base, 0.7), base=base))
    assert new != old
    update = sqz.diff(old, new)
    assert len(update) < len(new) / 2
    assert sqz.patch(old, update) == new


def test_biases_take_the_nearest_of_the_old_values(base):
    model = moved(base, 0)
    bias = convolutions_of(model.layers)["conv1"].bias
    codebook = base.biases["conv1"].codebook
    bias.assign(np.full(bias.shape, codebook[-1] + 1))
    assert (network_of(model, base=base).biases["conv1"].values == codebook[-1]).all()


def test_a_base_of_other_layers_is_refused(base):
    other = tiny_net(classes=base.classes + 1)
    with pytest.raises(InputError, match="`base` must be a network of the model's layers: "):
        network_of(other, base=base)


def test_bits_and_base_together_are_refused(base):
    with pytest.raises(InputError, match="`bits` and `base`"):
        network_of(model_of(base), bits=4, base=base)
