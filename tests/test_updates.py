"""A packed network that was trained on takes its old values, and the update is small."""

import keras
import numpy as np
import pytest

from keras_squeezenet import sqz
from keras_squeezenet.compression.saving import model_of, network_of
from keras_squeezenet.errors import InputError
from keras_squeezenet.network.graph import convolutions_of
from keras_squeezenet.sqz.network import SharedValues
from tests.compression_digits import tiny_net
from tests.sqz_models import small_cnn, with_head, with_weights


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


class TestOfAnyModel:
    """Of files of version 2."""

    @pytest.fixture
    def base(self):
        return sqz.decode(sqz.encode(network_of(with_weights(with_head()), bits=4)))

    @pytest.fixture
    def model(self, base):
        return model_of(base)

    def test_what_did_not_move_is_kept(self, base, model):
        assert sqz.digest(network_of(model, base=base)) == sqz.digest(base)

    def test_weights_take_the_nearest_of_the_old_values(self, base, model):
        name = f"{model.layers[-3].name}/kernel"
        shared = base.arrays[name]
        kernel = model.get_layer(name.split("/")[0]).kernel
        spacing = np.diff(shared.codebook).min()
        kernel.assign(kernel + 0.49 * spacing)
        assert sqz.digest(network_of(model, base=base)) == sqz.digest(base)
        kernel.assign(kernel + 0.02 * spacing)
        moved = network_of(model, base=base).arrays[name]
        assert np.isin(moved.values, shared.codebook).all()
        assert (moved.values >= shared.values).all()
        assert (moved.values > shared.values).any()

    def test_a_new_head_gets_values_of_its_own_as_many_as_the_old(self, base, model):
        features = model.layers[1](model.inputs[0])
        head = keras.layers.Dense(40, name="other_head")(features)
        other = keras.Model(model.inputs, head)
        network = network_of(other, base=base)
        kernel = network.arrays["other_head/kernel"]
        assert isinstance(kernel, SharedValues)
        assert np.unique(kernel.values).size <= 2**4
        files = sqz.encode(base), sqz.encode(network)
        update = sqz.diff(*files)
        assert sqz.patch(files[0], update) == files[1]
        assert len(update) < len(files[1]) / 2

    def test_a_head_that_was_trained_anew_does_too(self, base, model):
        head = model.layers[-1]
        rng = np.random.default_rng(0)
        head.kernel.assign(rng.normal(size=head.kernel.shape) * 10)
        found = network_of(model, base=base).values(f"{head.name}/kernel")
        assert np.linalg.norm(found - head.kernel) < 0.2 * np.linalg.norm(head.kernel)

    def test_numbers_that_moved_are_rounded(self, base, model):
        head = model.layers[-1]
        head.bias.assign(np.full(head.bias.shape, np.float32(1 / 3)))
        found = network_of(model, base=base).values(f"{head.name}/bias")
        assert (found == np.float32(1365 / 4096)).all()

    def test_a_base_that_has_nothing_in_common_is_refused(self, base):
        with pytest.raises(InputError, match=r"`base` must be a network .* Received: with_head"):
            network_of(with_weights(small_cnn()), base=base)
        other = with_weights(model_of(base), seed=9)
        for weight in other.weights:
            weight.assign(weight * 100)
        with pytest.raises(InputError, match=r"`base` must be a network .* where none is"):
            network_of(other, base=base)

    def test_a_base_for_a_squeezenet_must_be_one(self, base):
        with pytest.raises(InputError, match=r"must be a SqueezeNet with its own top"):
            network_of(tiny_net(), base=base)
