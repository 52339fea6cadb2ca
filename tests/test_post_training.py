"""Rounding without training, on a small network that was trained to read digits."""

import functools

import keras
import numpy as np
import pytest
from keras import layers

from keras_squeezenet import Architecture, FireFilters, sqz
from keras_squeezenet.compression.graph_reading import UnsupportedModelError
from keras_squeezenet.compression.saving import (
    load_compressed,
    model_of,
    network_of,
)
from keras_squeezenet.compression.without_training import post_training, size_search
from keras_squeezenet.compression.without_training.calibration import Site
from keras_squeezenet.compression.without_training.post_training import (
    Rounding,
    fit_to_size,
    share_weights,
)
from keras_squeezenet.compression.without_training.reconstruction import Moments
from keras_squeezenet.errors import InputError
from keras_squeezenet.network.graph import convolutions_of
from keras_squeezenet.network.layers import Fire
from tests import signals as signals_data
from tests.compression_digits import TRAINING, digits, tiny_net, trained_net
from tests.tiers import parametrize

IMAGES = digits()[0][:32]
UNSEEN = digits()[0][TRAINING:]


@pytest.fixture(scope="module")
def trained():
    return trained_net()


@pytest.fixture(scope="module")
def rounding(trained):
    """What `fit_to_size` makes first, which serves for any size."""
    return Rounding(trained, IMAGES)


def copy_of(model):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def with_kernels(model, change):
    """A copy whose kernels are `change(kernel)`."""
    copy = copy_of(model)
    for convolution in convolutions_of(copy.layers).values():
        convolution.kernel.assign(change(convolution.kernel.numpy()))
    return copy


def agreement(model, other):
    """Share of images, none of which was seen, that both put in the same class."""
    decisions = [np.argmax(net(UNSEEN, training=False), axis=1) for net in (model, other)]
    return np.mean(decisions[0] == decisions[1])


def rounded_to_nearest(model, size):
    """The best network of at most this size whose weights are rounded each by itself."""
    for relative in np.geomspace(0.5, 4, 20):
        network = network_of(with_kernels(model, functools.partial(_rounded, relative=relative)))
        if len(sqz.encode(network)) <= size:
            return model_of(network)
    raise AssertionError(f"nothing of {size} bytes")


def _rounded(kernel, relative):
    step = relative * kernel.std()
    return np.rint(kernel / step) * step


def pruned(model, share):
    return with_kernels(
        model,
        lambda kernel: np.where(np.abs(kernel) < np.quantile(np.abs(kernel), share), 0, kernel),
    )


def dense(network):
    return {name: np.mean(shared.values != 0) for name, shared in network.kernels.items()}


def test_a_file_of_the_wanted_size_decides_as_the_original_and_better_than_nearest_values(trained):
    before = trained.get_weights()
    lines = []
    network = fit_to_size(trained, IMAGES, 1500, progress=lines.append)
    content = sqz.encode(network)
    assert 1300 <= len(content) <= 1500
    assert len(content) < trained.count_params() * 4 / 11
    rounded = model_of(network)
    assert agreement(trained, rounded) > 0.85
    assert agreement(trained, rounded) > 0.2 + agreement(trained, rounded_to_nearest(trained, 1500))
    assert all(isinstance(line, str) for line in lines)
    assert any(line.endswith(f"{len(content)} bytes of 1500") for line in lines)
    for weight, expected in zip(trained.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, expected)


def slow_moments(site):
    """Of patches that Keras makes, 16 images at a time."""
    sums = []
    for inputs in (site.original_inputs, site.copy_inputs):
        images = np.concatenate([keras.ops.convert_to_numpy(batch) for batch in inputs])
        parts = [images[start : start + 16] for start in range(0, len(images), 16)]
        sums.append([_slow_patches(site.copy, part) for part in parts])
    own, cross = (
        sum(
            np.stack([x.T @ y for x, y in zip(a, b, strict=True)]).astype(np.float64)
            for a, b in zip(first, sums[1], strict=True)
        )
        / len(images)
        for first in (sums[1], sums[0])
    )
    return Moments(own, None if site.original_inputs is site.copy_inputs else cross)


def _slow_patches(linear, inputs):
    layer = linear.layer
    if isinstance(layer, layers.Dense):
        found = inputs[None]
    else:
        found = keras.ops.image.extract_patches(
            inputs, layer.kernel_size, layer.strides, padding=layer.padding
        )
        places = layer.kernel_size[0] * layer.kernel_size[1]
        found = np.reshape(found, (-1, places, linear.groups, linear.inputs // places))
        found = found.transpose(2, 0, 1, 3).reshape(linear.groups, len(found), -1)
    return np.concatenate([found, np.ones((*found.shape[:2], 1), np.float32)], axis=2)


def test_a_file_is_byte_by_byte_that_of_moments_made_slowly(monkeypatch):
    keras.utils.set_random_seed(4)
    net = keras.Sequential(
        [
            layers.Input(IMAGES.shape[1:]),
            layers.Rescaling(1 / 128, offset=-1),
            layers.Conv2D(8, 3, strides=2, activation="relu"),
            layers.DepthwiseConv2D(3, padding="same", activation="relu"),
            layers.Conv2D(12, 1, activation="relu"),
            layers.Conv2D(16, 3, groups=2, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5),
        ]
    )
    images = np.concatenate([IMAGES, IMAGES[::-1, ::-1], IMAGES[:9, :, ::-1]])  # not whole batches
    found = sqz.encode(Rounding(net, images).network(1e-6))
    made = []

    def moments(site):
        made.append(site.name)
        return slow_moments(site)

    monkeypatch.setattr(Site, "moments", moments)
    assert sqz.encode(Rounding(net, images).network(1e-6)) == found
    assert len(set(made)) == 5
    assert len(made) == 10


@pytest.mark.slow
def test_what_is_found_is_what_a_file_gives_back(rounding, tmp_path):
    network = rounding.fit_to_size(2500)
    (tmp_path / "digits.sqz").write_bytes(sqz.encode(network))
    np.testing.assert_array_equal(
        load_compressed(tmp_path / "digits.sqz")(UNSEEN, training=False),
        model_of(network)(UNSEEN, training=False),
    )


def test_a_generous_size_is_not_filled_for_nothing(trained, rounding):
    network = rounding.fit_to_size(1_000_000)
    assert len(sqz.encode(network)) < trained.count_params() * 2
    assert agreement(trained, model_of(network)) > 0.97


@pytest.mark.parametrize("ratio", [0.9, 1.03, 1.2])
def test_a_size_is_reached_where_layers_in_order_take_more_than_alone(trained, monkeypatch, ratio):
    attempts = []

    def network(self, price):
        attempts.append(price)
        return round(ratio / price)

    monkeypatch.setattr(post_training.Rounding, "__init__", lambda *args, **kwargs: None)
    monkeypatch.setattr(post_training.Rounding, "_say", lambda self, line: None, raising=False)
    monkeypatch.setattr(post_training.Rounding, "price_for", lambda self, size: 1 / size)
    monkeypatch.setattr(post_training.Rounding, "network", network)
    monkeypatch.setattr(size_search.sqz, "encode", lambda size: b"0" * size)
    assert 0.975 * 30_000 <= fit_to_size(trained, IMAGES, 30_000) <= 30_000
    assert len(attempts) == 2


def test_the_price_for_a_size_is_found_again_without_looking(trained, monkeypatch):
    looked = []

    def quick_size(self, price):
        looked.append(price)
        return 1e-3 / price

    rounding = object.__new__(post_training.Rounding)
    rounding._quick_sizes = {}
    monkeypatch.setattr(post_training.Rounding, "_quick_size", quick_size)
    price = rounding.price_for(50_000)
    assert price == pytest.approx(1e-3 / 50_000, rel=0.01)
    first = len(looked)
    assert rounding.price_for(50_000) == price
    assert len(looked) == first
    assert rounding.price_for(49_000) == pytest.approx(1e-3 / 49_000, rel=0.01)
    assert len(looked) < first + 5


def test_a_size_that_no_rounding_gives_is_refused_with_what_was_reached(trained):
    lines = []
    with pytest.raises(InputError, match=r"Received: 100 bytes, where \d+ were reached"):
        fit_to_size(trained, IMAGES[:8], 100, progress=lines.append)
    assert sum("bytes of 100" in line for line in lines) == 1  # others would be the same network


@pytest.mark.parametrize("images", ["photos", IMAGES[0], IMAGES[:, :8], IMAGES.astype(str)])
def test_images_that_the_model_does_not_take_are_refused_in_one_line(trained, images):
    for compress in (
        functools.partial(fit_to_size, target_size=1000),
        functools.partial(share_weights, bits=4),
    ):
        with pytest.raises(InputError, match="`images` must be numbers of shape") as error:
            compress(trained, images)
        assert "\n" not in str(error.value)


def test_no_images_are_refused(trained):
    for compress in (
        functools.partial(fit_to_size, target_size=1000),
        functools.partial(share_weights, bits=4),
    ):
        with pytest.raises(InputError, match="`images` must hold one image or more"):
            compress(trained, IMAGES[:0])


def test_other_models_are_refused_before_any_work():
    model = keras.Sequential([keras.layers.Input((16, 16, 3)), keras.layers.Masking(name="m")])
    with pytest.raises(UnsupportedModelError, match=r"layer m \(Masking\)"):
        fit_to_size(model, IMAGES, 1000)
    with pytest.raises(UnsupportedModelError, match=r"layer m \(Masking\)"):
        share_weights(model, IMAGES, bits=4)


@parametrize("quantize", ["fit", "share"], quick=1)
def test_a_layer_that_no_image_wakes_does_no_harm(quantize):
    """A dead squeeze layer: what takes its output is never seen at work."""
    keras.utils.set_random_seed(1)
    architecture = Architecture(
        "dead", 6, 3, (FireFilters(4, 5, 5), FireFilters(3, 5, 5, "simple")), (1,)
    )
    model = tiny_net(architecture=architecture)
    fire = next(layer for layer in reversed(model.layers) if isinstance(layer, Fire))
    fire.squeeze1x1.bias.assign(np.full(3, -100.0))
    fire.expand1x1.bias.assign(np.full(5, 1.0))
    if quantize == "fit":
        network = fit_to_size(model, IMAGES[:16], 700)
    else:
        network = share_weights(model, IMAGES[:16], bits=3, density=0.5)
    for shared in (*network.kernels.values(), *network.biases.values()):
        assert np.isfinite(shared.values).all()
    expected, found = (net(UNSEEN, training=False) for net in (model, model_of(network)))
    assert np.abs(expected - found).mean() < 0.1


@parametrize("scale", [1e-3, 1e-6], quick=1)
def test_a_layer_whose_inputs_nearly_vanish_keeps_its_biases_in_few_codes(scale):
    keras.utils.set_random_seed(1)
    model = tiny_net(classifier_activation=None)
    fire = next(layer for layer in reversed(model.layers) if isinstance(layer, Fire))
    fire.squeeze1x1.kernel.assign(fire.squeeze1x1.kernel * scale)
    for part in (fire.expand1x1, fire.expand3x3):
        part.bias.assign(np.linspace(0.1, 0.9, part.filters))
    network = fit_to_size(model, IMAGES[:16], 2500)
    assert max(shared.codebook.size for shared in network.biases.values()) < 2**13
    expected, found = (net(UNSEEN, training=False) for net in (model, model_of(network)))
    assert np.abs(expected - found).mean() < 0.05 * np.abs(expected).mean()


@pytest.mark.parametrize(("bits", "density"), [(2, 0.3), (4, 0.6)])
def test_each_kernel_has_the_values_and_the_density_asked_for(trained, bits, density):
    network = share_weights(trained, IMAGES, bits=bits, density=density)
    for name, shared in network.kernels.items():
        assert shared.codebook.size <= 2**bits
        # A weight that is kept may still be nearest to zero.
        size = shared.codes.size
        assert density - 0.15 <= dense(network)[name] <= density + 1 / size


def test_bits_and_density_may_differ_from_kernel_to_kernel(trained):
    names = list(convolutions_of(trained.layers))
    bits = {name: 2 + index % 3 for index, name in enumerate(names)}
    density = {name: 0.4 + 0.1 * (index % 3) for index, name in enumerate(names)}
    lines = []
    network = share_weights(trained, IMAGES, bits=bits, density=density, progress=lines.append)
    for name, shared in network.kernels.items():
        assert shared.codebook.size <= 2 ** bits[name]
        assert dense(network)[name] <= density[name] + 1 / shared.codes.size
    assert [line.split(":")[0] for line in lines] == sorted(names, key=names.index)


def test_shared_weights_decide_better_than_those_shared_and_pruned_one_by_one(trained):
    by_itself = model_of(network_of(pruned(trained, 0.5), bits=3))
    together = model_of(share_weights(trained, IMAGES, bits=3, density=0.5))
    assert agreement(trained, together) > 0.85
    assert agreement(trained, together) > 0.1 + agreement(trained, by_itself)


def test_a_network_that_is_pruned_already_stays_as_pruned_as_it_is(trained):
    model = pruned(trained, 0.4)
    network = share_weights(model, IMAGES, bits=4)
    for name, shared in network.kernels.items():
        kernel = convolutions_of(model.layers)[name].kernel.numpy()
        assert (shared.values[kernel == 0] == 0).all()
    assert agreement(model, model_of(network)) > 0.9


def test_a_dense_network_loses_no_large_weights_to_the_zero_of_the_codebook(trained):
    network = share_weights(trained, IMAGES, bits=2, density=1)
    for name, shared in network.kernels.items():
        assert shared.codebook.size == 4, name
        # Values on both sides of zero, the outer of them about as far.
        assert 0.3 < -shared.codebook[0] / shared.codebook[-1] < 3, name
    assert agreement(trained, model_of(network)) > 0.8


def test_sharing_leaves_the_model_as_it_is(trained):
    before = trained.get_weights()
    share_weights(trained, IMAGES[:8], bits=2, density=0.3)
    for weight, expected in zip(trained.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, expected)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("bits", 0),
        ("bits", 17),
        ("bits", 2.5),
        ("density", 0),
        ("density", 1.5),
        ("density", -0.1),
        ("density", True),
    ],
)
def test_bits_and_densities_out_of_range_are_refused(trained, argument, value):
    with pytest.raises(InputError, match=rf"`{argument}` .* Received: {argument}={value}"):
        share_weights(trained, IMAGES[:4], **{"bits": 4, argument: value})


@pytest.mark.parametrize("argument", ["bits", "density"])
def test_every_kernel_must_be_named(trained, argument):
    value = {"conv1": 4 if argument == "bits" else 0.5}
    with pytest.raises(InputError, match=rf"`{argument}` must name every kernel"):
        share_weights(trained, IMAGES[:4], **{"bits": 4, argument: value})


def test_a_network_of_signals_is_rounded_and_keeps_its_decisions(tmp_path):
    signals, _ = signals_data.waves()
    network = fit_to_size(signals_data.trained_network(), signals[: signals_data.TRAINED_ON], 500)
    assert len(sqz.encode(network)) <= 500
    (tmp_path / "signals.sqz").write_bytes(sqz.encode(network))
    packed = load_compressed(tmp_path / "signals.sqz")
    assert "norm" not in [layer.name for layer in packed.layers]
    assert signals_data.accuracy(packed.predict) == 1
