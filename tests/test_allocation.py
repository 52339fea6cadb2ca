"""Bits for layers: curves with a known best choice, and measuring that leaves no trace."""

import keras
import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from scipy.stats import entropy

from keras_squeezenet.compression.without_training.allocation import (
    NEGLIGIBLE,
    RATE_SHARE,
    Measured,
    allocate,
    divergence,
    grid,
    log_probabilities,
    measure_layers,
    rate_weight,
)
from keras_squeezenet.compression.without_training.calibration import sites
from keras_squeezenet.compression.without_training.reconstruction import Layer, Moments
from keras_squeezenet.network.graph import convolutions_of
from tests.compression_digits import SIDE, tiny_net
from tests.test_calibration import path_of

RNG = np.random.default_rng(3)
IMAGES = RNG.uniform(0, 255, (12, SIDE, SIDE, 3)).astype(np.float32)


def network(**options):
    """Images make a difference to its outputs, and each layer to its images."""
    keras.utils.set_random_seed(2)
    return tiny_net(**options)


def layers_of(model):
    return {site.name: site.layer() for site in sites(model, model, IMAGES)}


# Halving the step costs this many bits more in a layer of 1000 weights, and divides what it costs
# the network by 4: the fine rounding of theory.
def theoretical_curve(sensitivity, weights=1000):
    return [
        Measured(step, weights * np.log2(8 / step), sensitivity * step**2)
        for step in (4.0, 2.0, 1.0, 0.5, 0.25, 0.125)
    ]


def test_divergence_is_the_mean_relative_entropy():
    logits, others = RNG.normal(0, 2, (2, 9, 7))
    expected = entropy(softmax(logits, axis=1), softmax(others, axis=1), axis=1).mean()
    found = divergence(log_softmax(logits, axis=1), log_softmax(others, axis=1))
    assert found == pytest.approx(expected, rel=1e-12)
    assert divergence(log_softmax(logits, axis=1), log_softmax(logits, axis=1)) == 0


@pytest.mark.parametrize("activation", ["softmax", None])
def test_log_probabilities_are_found_from_probabilities_and_from_logits(activation):
    logits = RNG.normal(0, 3, (5, 10)).astype(np.float32)
    outputs = softmax(logits, axis=1) if activation else logits
    found = log_probabilities(outputs, activation == "softmax")
    np.testing.assert_allclose(found, log_softmax(logits, axis=1), rtol=1e-4, atol=1e-5)


def test_probabilities_of_zero_have_a_logarithm():
    found = log_probabilities(np.float32([[1, 0]]), True)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("price", [1e-6, 1e-5, 1e-4])
def test_the_best_step_of_theory_is_found(price):
    # d/ds (sensitivity·s² − price·weights·log₂ s) = 0
    for sensitivity in (0.01, 0.1):
        best = np.sqrt(price * 1000 / (2 * np.log(2) * sensitivity))
        found = allocate({"layer": theoretical_curve(sensitivity)}, price)["layer"]
        # There are 8 steps to each factor of 2 to choose from.
        assert np.clip(best, 0.125, 4) == pytest.approx(found, rel=2 ** (1 / 8) - 1 + 1e-9)


def test_layers_are_chosen_for_independently_and_sensitive_ones_get_finer_steps():
    curves = {"dull": theoretical_curve(0.01), "sensitive": theoretical_curve(0.16)}
    both = allocate(curves, 1e-5)
    for name, curve in curves.items():
        assert allocate({name: curve}, 1e-5) == {name: both[name]}
    # Four times the root of sensitivity.
    assert both["dull"] / both["sensitive"] == pytest.approx(4, rel=0.1)


def test_a_higher_price_never_gives_a_finer_step():
    curve = theoretical_curve(0.05)
    steps = [allocate({"layer": curve}, price)["layer"] for price in np.geomspace(1e-10, 1, 60)]
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (pytest.approx(0.125), pytest.approx(4.0))


def test_a_layer_that_was_measured_once_keeps_its_step():
    assert allocate({"layer": [Measured(0.5, 100, 0.01)]}, 1e-3)["layer"] == pytest.approx(0.5)


def test_a_divergence_that_rises_by_chance_with_finer_steps_is_not_believed():
    curve = [Measured(2, 100, 0.1), Measured(1, 200, 0.001), Measured(0.5, 300, 0.05)]
    assert allocate({"layer": curve}, 1e-7)["layer"] == pytest.approx(1)


def test_a_grid_is_symmetric_has_a_zero_and_reaches_beyond_every_weight():
    kernel = np.array([[0.3], [-2.05]])
    layer = Layer(kernel, np.zeros(1), Moments(np.eye(3)))
    levels = grid(layer, 0.5)
    np.testing.assert_array_equal(levels, -levels[::-1])
    assert 0 in levels
    assert levels[0] < -2.05 - 0.5
    np.testing.assert_allclose(np.diff(levels), 0.5)


def test_a_bit_costs_a_share_of_what_one_more_saves():
    energy = np.diag([4.0, 4.0, 1.0])
    layer = Layer(np.ones((2, 1)), np.zeros(1), Moments(energy))
    # Distortion of rounding with step s is 4.04·s²/12; one more bit leaves a quarter of it.
    step = 0.25
    distortion = 4.04 * step**2 / 12
    by_bits = [distortion * 4**-bits for bits in (-1e-4, 1e-4)]
    slope = (by_bits[0] - by_bits[1]) / 2e-4
    assert rate_weight(layer, step) == pytest.approx(RATE_SHARE * slope, rel=1e-6)


@pytest.fixture(scope="module")
def measured():
    model = network()
    weights = [weight.copy() for weight in model.get_weights()]
    names = []
    curves = measure_layers(model, layers_of(model), IMAGES, names.append)
    return model, weights, curves, names


def test_measuring_gives_the_model_back_bit_by_bit(measured):
    model, weights, _, _ = measured
    for weight, before in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(weight.view(np.uint32), before.view(np.uint32))


def test_a_failure_while_measuring_gives_the_model_back_too():
    model = network()
    before = model.get_weights()
    layers = layers_of(model)

    class Failing:
        def __getattr__(self, name):
            return getattr(layers["conv1/kernel"], name)

        def assign(self, codebook, price):
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == 3:
                raise MemoryError
            return layers["conv1/kernel"].assign(codebook, price)

    with pytest.raises(MemoryError):
        measure_layers(model, {**layers, "conv1/kernel": Failing()}, IMAGES)
    for weight, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, expected)


def test_every_layer_is_measured_from_coarse_to_fine(measured):
    model, _, curves, names = measured
    assert sorted(names) == sorted(curves) == sorted(map(path_of, convolutions_of(model.layers)))
    for curve in curves.values():
        steps, bits = [point.step for point in curve], [point.bits for point in curve]
        np.testing.assert_allclose(np.divide(steps[:-1], steps[1:]), 2)
        assert bits == sorted(bits)
        divergences = [point.divergence for point in curve]
        assert divergences[-1] < 0.1 * max(divergences)
        assert min(divergences) >= 0
        assert all(found >= NEGLIGIBLE for found in divergences[:-1])


@pytest.mark.parametrize("name", ["conv1", "fire2_expand3x3", "fire3_squeeze1x1", "conv4"])
def test_a_measured_divergence_is_that_of_the_model_with_this_layer_rounded(measured, name):
    model, _, curves, _ = measured
    layer = layers_of(model)[path_of(name)]
    curve = curves[path_of(name)]
    point = curve[len(curve) // 2]
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    levels = grid(layer, point.step)
    codes, bias = layer.assign(levels, rate_weight(layer, point.step))
    kernel = convolutions_of(copy.layers)[name].kernel
    kernel.assign(levels[codes].reshape(kernel.shape))
    convolutions_of(copy.layers)[name].bias.assign(bias)
    expected = entropy(model.predict_on_batch(IMAGES), copy.predict_on_batch(IMAGES), axis=1).mean()
    assert point.divergence == pytest.approx(expected, rel=1e-2, abs=1e-6)
