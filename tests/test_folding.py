"""Batch normalization becomes kernels and biases."""

from collections import Counter

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from keras_squeezenet import LiteRTModel, SqueezeNet, export_litert
from keras_squeezenet.compression.saving import load_compressed, save_compressed
from keras_squeezenet.network.architecture import Architecture, FireFilters
from keras_squeezenet.network.folding import folded_weights
from keras_squeezenet.network.layers import BatchNormalization, Fire
from keras_squeezenet.network.pretrained import WeightFileError
from tests.tiers import parametrize

# Both kinds of bypass, and Fires of one kind of filters.
NETWORK = Architecture(
    "folded",
    6,
    3,
    (
        FireFilters(3, 2, 4, "simple"),
        FireFilters(3, 5, 3, "complex"),
        FireFilters(4, 0, 8),
        FireFilters(4, 8, 0),
    ),
    (1, 3),
    32,
)


def test_with_it_a_network_is_not_taken_for_its_weights(tmp_path):
    model = built(batch_normalization=True)
    model.save(tmp_path / "model.keras")
    with pytest.raises(WeightFileError, match="folded away first"):
        SqueezeNet(weights=str(tmp_path / "model.keras"), architecture=NETWORK)


def built(batch_normalization, **options):
    return SqueezeNet(
        weights=None,
        architecture=NETWORK,
        input_shape=(32, 32, 3),
        classes=4,
        include_preprocessing="tf",
        kernel_initializer="he_normal",
        last_activation=None,
        batch_normalization=batch_normalization,
        **options,
    )


def normalizations(model):
    for layer in model.layers:
        if isinstance(layer, Fire):
            yield from layer.normalizations.values()
        elif isinstance(layer, BatchNormalization):
            yield layer


@pytest.fixture
def normalized():
    """A network whose scales, shifts and statistics are all of their own."""
    keras.utils.set_random_seed(2)
    model = built(True)
    rng = np.random.default_rng(5)
    for layer in normalizations(model):
        shape = layer.gamma.shape
        gamma, beta = rng.normal(1, 0.5, shape), rng.normal(0.5, 0.3, shape)
        mean, variance = rng.normal(0, 0.3, shape), rng.uniform(0.2, 2, shape)
        layer.set_weights([gamma, beta, mean, variance])
    last = model.get_layer("conv6")
    last.kernel.assign(last.kernel / 20)  # probabilities that are not 0 or 1
    return model


@pytest.fixture
def images():
    squares = np.random.default_rng(0).uniform(0, 255, (5, 4, 4, 3)).astype("float32")
    return squares.repeat(8, axis=1).repeat(8, axis=2)


def test_the_plain_network_computes_the_same(normalized, images):
    plain = built(False)
    plain.set_weights(folded_weights(normalized))
    expected = normalized.predict_on_batch(images)
    assert np.ptp(expected, axis=0).min() > 1e-3, "the images must differ"
    np.testing.assert_allclose(plain.predict_on_batch(images), expected, atol=1e-5)


def test_the_network_with_it_comes_back_from_a_sqz_file(normalized, images, tmp_path):
    save_compressed(normalized, tmp_path / "model.sqz")
    np.testing.assert_array_equal(
        load_compressed(tmp_path / "model.sqz").predict_on_batch(images),
        normalized.predict_on_batch(images),
    )


def test_folded_it_is_a_file_of_version_1(normalized, images, tmp_path):
    path = tmp_path / "model.sqz"
    save_compressed(normalized, path, fold=True, bits=16)
    assert path.read_bytes()[4] == 1
    np.testing.assert_allclose(
        load_compressed(path).predict_on_batch(images),
        normalized.predict_on_batch(images),
        atol=1e-4,
    )


def test_a_sqz_file_of_the_folded_network_is_of_version_1_and_computes_the_same(
    normalized, images, tmp_path
):
    plain = built(False)
    plain.set_weights(folded_weights(normalized))
    files = {"folded": plain, "normalized": normalized}
    sizes = {name: save_compressed(m, tmp_path / f"{name}.sqz") for name, m in files.items()}
    assert [(tmp_path / f"{name}.sqz").read_bytes()[4] for name in files] == [1, 2]
    # Without the numbers of the normalizations.
    assert sizes["folded"] < sizes["normalized"]
    loaded = load_compressed(tmp_path / "folded.sqz")
    np.testing.assert_allclose(
        loaded.predict_on_batch(images), normalized.predict_on_batch(images), atol=1e-5
    )


@parametrize("quantize", ["none", "int8"], quick=1)
def test_an_exported_file_has_it_in_its_convolutions(normalized, images, quantize, tmp_path):
    plain = built(False)
    plain.set_weights(folded_weights(normalized))
    operations, written = {}, {}
    for name, model in (("plain", plain), ("normalized", normalized)):
        path = tmp_path / f"{name}.tflite"
        written[name] = export_litert(
            model, path, quantize=quantize, calibration=images, tolerance=np.inf
        )
        operations[name] = operations_of(path)
    assert operations["normalized"] == operations["plain"]
    assert operations["plain"]["CONV_2D"] == len(folded_weights(normalized)) // 2
    if quantize == "none":
        assert written["normalized"].max_difference < 1e-5
    outputs = [LiteRTModel(tmp_path / f"{name}.tflite").predict(images) for name in written]
    np.testing.assert_allclose(*outputs, atol=1e-5 if quantize == "none" else 0.02)


def operations_of(path):
    """How often each operation comes in a LiteRT file, by the schema."""
    graph = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    names = {value: name for name, value in vars(schema.BuiltinOperator).items()}
    codes = [names[code.builtinCode] for code in graph.operatorCodes]
    return Counter(codes[operation.opcodeIndex] for operation in graph.subgraphs[0].operators)


@pytest.mark.slow
def test_it_does_so_without_top_too(images):
    keras.utils.set_random_seed(2)
    normalized = built(True, include_top=False, pooling="avg")
    # What it has counted after some steps on other images.
    normalized.compile("sgd", "mse", jit_compile=False)
    normalized.fit(images[:4], np.ones((4, 8)), batch_size=2, epochs=2, verbose=0)
    plain = built(False, include_top=False, pooling="avg")
    plain.set_weights(folded_weights(normalized))
    np.testing.assert_allclose(
        plain.predict_on_batch(images), normalized.predict_on_batch(images), rtol=1e-4, atol=1e-5
    )


def test_other_weights_than_the_models_own_are_folded(normalized):
    expected = folded_weights(normalized)
    weights = normalized.get_weights()
    normalized.set_weights([np.zeros_like(weight) for weight in weights])
    for ours, theirs in zip(folded_weights(normalized, weights), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_network_without_batch_normalization_stays_as_it_is():
    plain = built(False)
    for ours, theirs in zip(folded_weights(plain), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_weights_of_another_network_are_refused(normalized):
    with pytest.raises(ValueError, match="argument"):
        folded_weights(normalized, normalized.get_weights()[1:])
