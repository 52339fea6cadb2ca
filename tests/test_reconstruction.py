"""Reconstruction of layers against least squares by NumPy, and against plain rounding."""

import numpy as np
import pytest

from keras_squeezenet.compression.without_training import reconstruction
from keras_squeezenet.compression.without_training.reconstruction import (
    Layer,
    Moments,
    entropy_bits,
)

POSITIONS, INPUTS, FILTERS = 500, 12, 5
STEP = 0.5


def correlated(rng, positions=POSITIONS, inputs=INPUTS):
    """Patches as behind a ReLU: never negative, and each input goes along with the others."""
    mixing = rng.normal(size=(inputs, inputs)) + 1.5
    return np.maximum(rng.normal(size=(positions, inputs)) @ mixing + 1, 0)


def uncorrelated(rng):
    """Patches of E[x xᵀ] = 1, exactly, with a mean of 0."""
    signs = np.concatenate([np.eye(INPUTS), -np.eye(INPUTS)]) * np.sqrt(INPUTS)
    return rng.permutation(signs)


def with_one(patches):
    return np.concatenate([patches, np.ones((len(patches), 1))], axis=1)


def moments_of(patches, original=None):
    taken = with_one(patches)
    cross = None if original is None else with_one(original).T @ taken / len(taken)
    return Moments(taken.T @ taken / len(taken), cross)


class Case:
    """A layer, and the patches that it takes."""

    def __init__(self, seed=0, patches_of=correlated, shape=(2, 2, 3, FILTERS)):
        rng = np.random.default_rng(seed)
        self.rng = rng
        self.kernel = rng.normal(size=shape).astype(np.float32)
        self.bias = rng.normal(size=shape[-1:]).astype(np.float32)
        self.patches = patches_of(rng)
        self.moments = moments_of(self.patches)
        self.layer = Layer(self.kernel, self.bias, self.moments)

    def outputs(self, kernel, bias):
        return self.patches @ kernel.reshape(-1, kernel.shape[-1]) + bias

    def error(self, kernel, bias):
        difference = self.outputs(kernel, bias) - self.outputs(self.kernel, self.bias)
        return np.square(difference).sum(axis=1).mean()

    def rounding_error(self, codebook):
        """Of rounding to nearest, with the bias as it was."""
        nearest = np.abs(self.kernel[..., None] - codebook).argmin(axis=-1)
        return self.error(codebook[nearest], self.bias)


@pytest.fixture
def no_damping(monkeypatch):
    monkeypatch.setattr(reconstruction, "DAMPING", 1e-9)
    monkeypatch.setattr(reconstruction, "BIAS_DAMPING", 1e-9)


def test_weights_that_no_other_has_to_answer_are_kept_bit_by_bit():
    case = Case()
    np.testing.assert_array_equal(case.layer.kernel, case.kernel)
    kernel, bias = case.layer.pruned(np.ones(case.kernel.shape, bool))
    np.testing.assert_array_equal(kernel, case.kernel)
    np.testing.assert_array_equal(bias, case.bias)


def test_pruned_rows_that_come_first_are_made_up_for_as_by_least_squares():
    case = Case()
    flat = case.kernel.reshape(INPUTS, FILTERS).astype(np.float64)
    order = np.argsort(-np.square(case.patches).mean(axis=0))
    kept = np.ones((INPUTS, FILTERS), bool)
    for filter_, count in enumerate([0, 1, 4, 7, INPUTS]):
        kept[order[:count], filter_] = False
    kernel, bias = case.layer.pruned(kept.reshape(case.kernel.shape))
    found = np.vstack([kernel.reshape(INPUTS, FILTERS), bias])

    # The same with the damping as further, made up patches.
    energies = np.square(case.patches).mean(axis=0)
    damping = np.append(np.full(INPUTS, 0.01 * energies.mean()), 1e-6)
    rows = np.vstack([with_one(case.patches) / np.sqrt(POSITIONS), np.diag(np.sqrt(damping))])
    targets = rows @ np.vstack([flat, case.bias])
    for filter_ in range(FILTERS):
        free = np.append(kept[:, filter_], True)
        expected = np.zeros(INPUTS + 1)
        expected[free] = np.linalg.lstsq(rows[:, free], targets[:, filter_], rcond=None)[0]
        np.testing.assert_allclose(found[:, filter_], expected, rtol=1e-4, atol=1e-5)


def test_pruned_weights_are_zero_and_the_others_make_up_for_them():
    case = Case()
    kept = case.rng.random(case.kernel.shape) < 0.5
    kernel, bias = case.layer.pruned(kept)
    assert (kernel[~kept] == 0).all()
    assert case.error(kernel, bias) < 0.5 * case.error(np.where(kept, case.kernel, 0), case.bias)


def test_a_codebook_of_the_weights_themselves_changes_nothing():
    case = Case()
    codebook = np.unique(np.append(case.layer.kernel, 0))
    codes, bias = case.layer.assign(codebook)
    np.testing.assert_array_equal(codebook[codes], case.kernel)
    np.testing.assert_allclose(bias, case.bias, rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_on_correlated_inputs_the_outputs_move_less_than_by_rounding_to_nearest(seed):
    case = Case(seed)
    codebook = STEP * np.arange(-12, 13)
    codes, bias = case.layer.assign(codebook)
    assert case.error(codebook[codes], bias) < 0.75 * case.rounding_error(codebook)


def test_on_uncorrelated_inputs_weights_are_rounded_to_nearest():
    case = Case(patches_of=uncorrelated)
    codebook = STEP * np.arange(-12, 13)
    codes, bias = case.layer.assign(codebook)
    nearest = np.abs(case.kernel[..., None] - codebook).argmin(axis=-1)
    np.testing.assert_array_equal(codes, nearest)
    np.testing.assert_allclose(bias, case.bias, rtol=1e-5)


def test_the_bias_takes_up_the_mean_that_rounding_leaves(no_damping):
    case = Case()
    codebook = np.array([-2.0, 0.0, 2.0])
    codes, bias = case.layer.assign(codebook)
    moved = case.outputs(codebook[codes], bias) - case.outputs(case.kernel, case.bias)
    unmended = case.outputs(codebook[codes], case.bias) - case.outputs(case.kernel, case.bias)
    assert np.abs(unmended.mean(axis=0)).max() > 0.1
    np.testing.assert_allclose(moved.mean(axis=0), 0, atol=1e-5)


def test_a_higher_price_of_bits_gives_fewer_bits_and_moves_the_outputs_more():
    case = Case(shape=(2, 2, 3, 40))
    codebook = STEP * np.arange(-12, 13)
    bits, errors = [], []
    for price in (0, 0.1, 1, 10, 1000):
        codes, bias = case.layer.assign(codebook, price)
        bits.append(entropy_bits(codes))
        errors.append(case.error(codebook[codes], bias))
    assert bits == sorted(bits, reverse=True)
    assert errors == sorted(errors)
    assert bits[0] > 2 * bits[-1]


def test_at_an_enormous_price_every_weight_has_the_same_code():
    case = Case(patches_of=uncorrelated)
    codes, _ = case.layer.assign(STEP * np.arange(-12, 13), 1e9)
    assert entropy_bits(codes) == 0


def test_weights_that_are_not_kept_get_the_code_of_zero():
    case = Case()
    codebook = np.array([-2.0, -1.0, 0.0, 1.0, 3.0])
    kept = case.rng.random(case.kernel.shape) < 0.4
    for price in (0, 0.5):
        codes, bias = case.layer.assign(codebook, price, kept)
        assert (codes[~kept] == 2).all()
        assert (codes[kept] != 2).any()
    zeroed = np.where(kept, case.kernel, 0)
    codes, bias = case.layer.assign(codebook, kept=kept)
    nearest = codebook[np.abs(zeroed[..., None] - codebook).argmin(axis=-1)]
    assert case.error(codebook[codes], bias) < case.error(nearest, case.bias)


def test_inputs_of_twice_the_size_need_half_the_weights(no_damping):
    case = Case()
    moments = moments_of(2 * case.patches, original=case.patches)
    layer = Layer(case.kernel, case.bias, moments)
    np.testing.assert_allclose(layer.kernel, case.kernel / 2, rtol=1e-4, atol=1e-5)
    _, bias = layer.pruned(np.ones(case.kernel.shape, bool))
    np.testing.assert_allclose(bias, case.bias, rtol=1e-3, atol=1e-4)


def test_inputs_that_an_earlier_layer_has_changed_are_met_by_the_least_squares_fit(no_damping):
    case = Case()
    changed = case.patches + 0.3 * case.rng.normal(size=case.patches.shape)
    layer = Layer(case.kernel, case.bias, moments_of(changed, original=case.patches))
    wanted = case.outputs(case.kernel, case.bias)
    expected = np.linalg.lstsq(with_one(changed), wanted, rcond=None)[0]
    kernel, bias = layer.pruned(np.ones(case.kernel.shape, bool))
    np.testing.assert_allclose(kernel.reshape(INPUTS, -1), expected[:-1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(bias, expected[-1], rtol=1e-4, atol=1e-4)


def test_equal_inputs_given_twice_are_as_if_given_once():
    case = Case()
    twice = Layer(case.kernel, case.bias, moments_of(case.patches, original=case.patches))
    np.testing.assert_allclose(twice.kernel, case.kernel, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("block", [1, 5, 64])
def test_the_size_of_a_block_of_rows_changes_nothing_but_the_time(block, monkeypatch):
    case = Case()
    codebook = STEP * np.arange(-12, 13)
    kept = case.rng.random(case.kernel.shape) < 0.5
    monkeypatch.setattr(reconstruction, "BLOCK", INPUTS + 1)
    codes, bias = case.layer.assign(codebook, 0.2, kept)
    kernel, pruned_bias = case.layer.pruned(kept)
    monkeypatch.setattr(reconstruction, "BLOCK", block)
    blockwise_codes, blockwise_bias = case.layer.assign(codebook, 0.2, kept)
    np.testing.assert_array_equal(blockwise_codes, codes)
    np.testing.assert_allclose(blockwise_bias, bias, rtol=1e-5)
    np.testing.assert_allclose(case.layer.pruned(kept)[0], kernel, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(case.layer.pruned(kept)[1], pruned_bias, rtol=1e-5)


def test_saliency_is_what_the_outputs_move_by_where_all_others_answer(no_damping):
    case = Case()
    saliency = case.layer.saliency
    rows = with_one(case.patches)
    wanted = case.outputs(case.kernel, case.bias)
    for row in range(INPUTS):
        others = np.delete(rows, row, axis=1)
        fit = others @ np.linalg.lstsq(others, wanted, rcond=None)[0]
        cost = np.square(fit - wanted).mean(axis=0)
        np.testing.assert_allclose(saliency.reshape(INPUTS, -1)[row], cost, rtol=1e-4, atol=1e-8)


def test_saliency_is_the_formula_of_hassibi_and_stork():
    energy = np.array([[4.0, 1.0, 0.0], [1.0, 3.0, 0.0], [0.0, 0.0, 1.0]])
    layer = Layer(np.array([[2.0], [3.0]]), np.zeros(1), Moments(energy))
    # [H⁻¹]₁₁ and [H⁻¹]₂₂ of [[a, 1], [1, b]] are b / (ab − 1) and a / (ab − 1); damped by 0.035.
    a, b = 4.035, 3.035
    determinant = a * b - 1
    expected = [[2**2 * determinant / b], [3**2 * determinant / a]]
    np.testing.assert_allclose(layer.saliency, expected, rtol=1e-9)


def test_stiffness_of_uncorrelated_inputs_is_their_energy():
    energy = np.diag([4.0, 9.0, 1.0])
    layer = Layer(np.ones((2, 3)), np.zeros(3), Moments(energy))
    damping = 0.01 * 6.5
    expected = np.sqrt((4 + damping) * (9 + damping))
    assert layer.stiffness == pytest.approx(expected)
    assert layer.bias_stiffness == pytest.approx(1, rel=1e-5)


def test_inputs_that_never_showed_anything_do_not_count_for_stiffness():
    energy = np.diag([4.0, 0.0, 4.0, 1.0])
    layer = Layer(np.ones((3, 2)), np.zeros(2), Moments(energy))
    assert layer.stiffness == pytest.approx(4 + 0.01 * 8 / 3)


def test_a_layer_whose_inputs_are_all_dead_is_rounded_to_nearest():
    energy = np.diag([0.0, 0.0, 1.0])
    layer = Layer(np.array([[0.6], [-1.2]]), np.array([3.0]), Moments(energy))
    codes, bias = layer.assign(np.array([-1.0, 0.0, 1.0]))
    np.testing.assert_array_equal(codes, [[2], [0]])
    np.testing.assert_allclose(bias, [3.0])
    assert np.isfinite(layer.stiffness)
    assert layer.stiffness > 0


def test_entropy_bits_are_those_of_an_ideal_coder():
    # A half, a quarter and two eighths: 1, 2 and 3 bits.
    codes = np.array([[5, 5, 5, 5], [1, 1, 0, 9]])
    assert entropy_bits(codes) == pytest.approx(4 * 1 + 2 * 2 + 2 * 3)
