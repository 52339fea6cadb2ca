import functools
import inspect
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from keras_squeezenet import SqueezeNet, SqueezeNet1_0, SqueezeNet1_1
from keras_squeezenet.network.architecture import Architecture, FireFilters, preset
from keras_squeezenet.network.layers import Fire, ImagePreprocessing
from tests.tiers import parametrize

VERSIONS = ["1.0", "1.1"]
BYPASSES = [None, "simple", "complex"]
TINY = Architecture("tiny", 4, 3, (FireFilters(2, 4, 4), FireFilters(2, 4, 4)), (1,), 32)

every_version = pytest.mark.parametrize("version", VERSIONS)
every_bypass = pytest.mark.parametrize("bypass", BYPASSES)
# Where the one with most layers says most: the others are slow.
each_bypass = parametrize("bypass", ["complex", *(b for b in BYPASSES if b != "complex")], quick=1)
both_formats = pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
# Every two of a version, a bypass, a data format and a last choice meet in one of these six. All
# combinations are built in `test_a_model_runs_and_is_rebuilt_from_its_config`.
PAIRS = [
    ("1.0", None, "channels_last", 0),
    ("1.1", None, "channels_first", 1),
    ("1.0", "simple", "channels_first", 0),
    ("1.1", "simple", "channels_last", 1),
    ("1.0", "complex", "channels_last", 1),
    ("1.1", "complex", "channels_first", 0),
]


def every_two(name=None, choices=()):
    """Each version, bypass and data format with each other, and with each of two choices."""
    if name is None:
        return pytest.mark.parametrize(
            ("version", "bypass", "data_format"), [pair[:3] for pair in PAIRS]
        )
    return pytest.mark.parametrize(
        ("version", "bypass", "data_format", name),
        [(*pair[:3], choices[pair[3]]) for pair in PAIRS],
    )


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(1)


@pytest.fixture(scope="session")
def reference():
    """The module of the PyTorch reference."""
    pytest.importorskip("torch", reason="PyTorch is not installed: make torch")
    from tests import reference_squeezenet

    return reference_squeezenet


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def in_format(data_format, height, width, channels):
    keras.config.set_image_data_format(data_format)
    if data_format == "channels_first":
        return (channels, height, width)
    return (height, width, channels)


def convolves(data_format):
    """Whether the backend convolves in this format on this machine."""
    shape = (1, *in_format(data_format, 4, 4, 1))
    try:
        layers.Conv2D(1, 3)(np.zeros(shape, "float32"))
    except Exception as error:
        if "Unimplemented" not in type(error).__name__:
            raise
        return False
    return True


def tell_classes_apart(model):
    """The narrow start of conv10 gives every class nearly the same; this undoes it."""
    conv10 = model.get_layer("conv10")
    kernel, bias = conv10.get_weights()
    conv10.set_weights([normal(kernel.shape) / 8, bias + 0.1])
    return model


# --- The network --------------------------------------------------------------------------------

# By hand from Table 1, with a bias per filter. conv1: 96·(7·7·3 + 1) or 64·(3·3·3 + 1). A Fire
# with c channels in, squeeze s and expands 4s: c·s + s, 4s·s + 4s, 4s·9s + 4s. conv10: 513·1000.
# The complex bypass adds c·8s + 8s around fires 2, 4, 6, 8 (c = 96 or 64, 128, 256, 384).
PARAMETERS = {
    ("1.0", None): 1_248_424,
    ("1.0", "simple"): 1_248_424,
    ("1.0", "complex"): 1_248_424 + 97 * 128 + 129 * 256 + 257 * 384 + 385 * 512,
    ("1.1", None): 1_235_496,
    ("1.1", "simple"): 1_235_496,
    ("1.1", "complex"): 1_235_496 + 65 * 128 + 129 * 256 + 257 * 384 + 385 * 512,
}


@functools.cache
def published_network(version, bypass):
    """A network that several tests look at, and none changes."""
    return SqueezeNet(weights=None, version=version, bypass=bypass)


@pytest.mark.parametrize(("version", "bypass"), PARAMETERS)
def test_the_parameters_are_those_of_table_1(version, bypass):
    assert published_network(version, bypass).count_params() == PARAMETERS[version, bypass]


OUTPUT_SIDES = {
    "1.0": dict(
        conv1=111, pool1=55, fire2=55, fire3=55, fire4=55, pool4=27, fire5=27, fire8=27, pool8=13
    ),
    "1.1": dict(
        conv1=111, pool1=55, fire2=55, fire3=55, pool3=27, fire4=27, fire5=27, pool5=13, fire6=13
    ),
}
CHANNELS = dict(fire2=128, fire3=128, fire4=256, fire5=256, fire6=384, fire7=384, fire8=512)


@every_version
@every_bypass
def test_every_layer_has_the_output_size_of_table_1(version, bypass):
    model = published_network(version, bypass)
    shapes = {layer.name: tuple(layer.output.shape) for layer in model.layers}
    for name, side in OUTPUT_SIDES[version].items():
        assert shapes[name][1:3] == (side, side), name
    for name, channels in CHANNELS.items():
        assert shapes[name][3] == channels, name
    assert shapes["fire9"] == (None, 13, 13, 512)
    assert shapes["conv10"] == (None, 13, 13, 1000)
    assert shapes["pool10"] == shapes["predictions"] == (None, 1000)


@each_bypass
@both_formats
def test_batch_normalization_follows_every_convolution_but_the_last(bypass, data_format):
    options = {
        "weights": None,
        "input_shape": in_format(data_format, 64, 64, 3),
        "classes": 5,
        "bypass": bypass,
    }
    plain, model = SqueezeNet(**options), SqueezeNet(**options, batch_normalization=True)
    filters = sum(
        part.filters
        for layer in model.layers
        for part in (layer.convolutions if isinstance(layer, Fire) else [layer])
        if isinstance(part, layers.Conv2D) and part.name != "conv10"
    )
    # In place of a bias, scale and shift, and two that are counted.
    assert model.count_params() == plain.count_params() + 3 * filters
    assert sum(np.prod(w.shape) for w in model.non_trainable_weights) == 2 * filters
    assert model.get_layer("conv10").use_bias
    assert model.output_shape == plain.output_shape


def test_batch_normalization_learns_and_is_saved(tmp_path):
    keras.utils.set_random_seed(1)
    model = SqueezeNet(
        weights=None,
        architecture=TINY,
        input_shape=(32, 32, 3),
        classes=2,
        batch_normalization=True,
        last_activation=None,
    )
    labels = np.arange(16) % 2
    images = normal((16, 32, 32, 3)) + 2 * labels[:, None, None, None].astype("float32")
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", jit_compile=False)
    before = model.get_weights()
    losses = model.fit(images, labels, epochs=20, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    assert not any(map(np.array_equal, before, model.get_weights()))
    model.save(tmp_path / "model.keras")
    saved = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(saved(images, training=False), model(images, training=False))


@pytest.mark.parametrize("weights", ["imagenet", "a file"])
def test_batch_normalization_is_refused_with_weights_that_have_none(weights, tmp_path):
    if weights != "imagenet":
        weights = str(tmp_path / "weights.npz")
        Path(weights).write_bytes(b"")
    with pytest.raises(ValueError, match="batch_normalization=True, weights="):
        SqueezeNet(weights=weights, batch_normalization=True)


def test_the_layers_are_the_rows_of_table_1():
    names = [layer.name for layer in published_network("1.0", None).layers[1:]]
    assert names == [
        *("conv1", "pool1", "fire2", "fire3", "fire4", "pool4", "fire5", "fire6", "fire7"),
        *("fire8", "pool8", "fire9", "drop9", "conv10", "pool10", "predictions"),
    ]


def test_the_named_constructors_are_the_two_versions():
    assert SqueezeNet1_0(weights=None, classes=3).name == "squeezenet1_0"
    assert SqueezeNet1_0(weights=None, classes=3).input_shape == (None, 227, 227, 3)
    assert SqueezeNet1_1(weights=None, classes=3).name == "squeezenet1_1"
    assert SqueezeNet1_1(weights=None, classes=3).input_shape == (None, 224, 224, 3)
    assert SqueezeNet(weights=None, classes=3, name="mine").name == "mine"


@pytest.mark.parametrize(
    ("constructor", "version"), [(SqueezeNet1_0, "1.0"), (SqueezeNet1_1, "1.1")]
)
def test_the_versions_have_the_signature_of_squeezenet(constructor, version):
    ours, theirs = inspect.signature(constructor), inspect.signature(SqueezeNet)
    names = [name for name in theirs.parameters if name not in ("version", "architecture")]
    assert list(ours.parameters.values()) == [theirs.parameters[name] for name in names]
    given = {
        "include_top": False,
        "weights": None,
        "input_tensor": keras.Input((64, 64, 3)),
        "input_shape": (64, 64, 3),
        "pooling": "max",
        "classes": 3,
        "classifier_activation": None,
        "name": "a_name",
        "bypass": "simple",
        "dropout_rate": 0.1,
        "include_preprocessing": "tf",
        "kernel_initializer": "he_normal",
        "last_activation": None,
        "batch_normalization": True,
        "out_indices": None,
    }
    assert set(given) == set(names)
    config = SqueezeNet(**given, version=version).get_config()
    assert constructor(**given).get_config() == config
    given |= {"include_top": True, "input_tensor": None, "pooling": None}
    assert (
        constructor(**given).get_config()["layers"][-1]
        == (SqueezeNet(**given, version=version).get_config()["layers"][-1])
    )


@every_version
@each_bypass
def test_the_same_weights_give_pytorchs_feature_maps(reference, version, bypass):
    network = reference.reference_squeezenet(version, bypass)
    model = SqueezeNet(weights=None, version=version, bypass=bypass, include_top=False)
    network.copy_weights_to(model)
    assert network.parameter_count() == model.count_params()
    # Poolings alone round sides, and no bypass goes around one.
    squares = [(side, side) for side in range(32, 39)] if bypass is None else []
    for height, width in [*squares, (66, 69), (21, 33)]:
        images = normal((1, height, width, 3), seed=height)
        expected = reference.run_channels_last(network, images)
        assert_equal_to_scale(model(images), expected, f"{height}×{width}")


@parametrize(
    ("version", "side", "bypass"),
    [("1.0", 227, "complex"), ("1.1", 224, None), ("1.0", 224, None)],
    quick=1,
)
def test_the_same_weights_give_pytorchs_logits(reference, version, side, bypass):
    network = reference.reference_squeezenet(version, bypass, classes=7)
    options = dict(classes=7, version=version, bypass=bypass, input_shape=(side, side, 3))
    model = SqueezeNet(weights=None, classifier_activation=None, **options)
    network.copy_weights_to(model)
    assert network.parameter_count() == model.count_params()
    images = normal((2, side, side, 3))
    expected = reference.run_channels_last(network, images)
    assert np.ptp(expected) > 0.1
    assert_equal_to_scale(model(images), expected)

    probabilities = SqueezeNet(weights=None, **options)
    probabilities.set_weights(model.get_weights())
    exponentials = np.exp(expected - expected.max(axis=1, keepdims=True))
    softmax = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities(images), softmax, rtol=1e-3, atol=1e-6)


def assert_equal_to_scale(actual, expected, message=""):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual / scale, expected / scale, atol=1e-5, err_msg=message)


@pytest.mark.parametrize(
    "architecture",
    [
        preset("1.0"),
        preset("1.1"),
        TINY,
        Architecture("unpooled", 4, 5, (FireFilters(2, 4, 4),), ()),
        Architecture("even kernel", 4, 4, (FireFilters(2, 4, 4),) * 3, (1, 2, 3, 4)),
    ],
    ids=lambda architecture: architecture.name,
)
def test_the_smallest_input_is_exactly_the_smallest_that_gives_a_pixel(architecture):
    least = architecture.min_input_size
    for height, width in [(least, 64), (64, least), (least, least)]:
        model = SqueezeNet(
            weights=None,
            architecture=architecture,
            input_shape=(height, width, 3),
            include_top=False,
        )
        assert min(model.output_shape[1:3]) == 1
    open_model = SqueezeNet(weights=None, architecture=architecture, include_top=False)
    for shape in [(least - 1, 64, 3), (64, least - 1, 3)]:
        with pytest.raises(ValueError, match=f"at least {least}x{least}.*Received: input_shape="):
            SqueezeNet(
                weights=None, architecture=architecture, input_shape=shape, include_top=False
            )
        # The model for any size is not checked at the door: its layers are what gives out.
        with pytest.raises(ValueError, match=r"one output pixel|zero or negative"):
            open_model.compute_output_shape((1, *shape))


def test_training_starts_near_equal_probabilities():
    model = SqueezeNet(weights=None, classes=10, input_shape=(64, 64, 3))
    probabilities = np.asarray(model(normal((4, 64, 64, 3))))
    np.testing.assert_allclose(probabilities, 0.1, atol=0.02)


# --- The contract of keras.applications, over versions, bypasses and data formats ---------------


@every_two("channels", [1, 4])
def test_without_top_any_size_and_number_of_channels_goes(version, bypass, data_format, channels):
    shape = in_format(data_format, None, None, channels)
    model = SqueezeNet(
        weights=None, include_top=False, input_shape=shape, version=version, bypass=bypass
    )
    assert model.output_shape == (None, *in_format(data_format, None, None, 512))


@every_version
@every_bypass
@both_formats
def test_a_model_runs_and_is_rebuilt_from_its_config(version, bypass, data_format):
    shape = in_format(data_format, 40, 45, 3)
    model = SqueezeNet(weights=None, classes=5, input_shape=shape, version=version, bypass=bypass)
    config = keras.saving.serialize_keras_object(model)
    keras.config.set_image_data_format("channels_last")  # whatever it was saved under
    rebuilt = keras.saving.deserialize_keras_object(config)
    assert [w.path for w in rebuilt.weights] == [w.path for w in model.weights]
    if not convolves(data_format):
        pytest.skip(f"the backend has no {data_format} convolution on this machine")
    rebuilt.set_weights(model.get_weights())
    images = normal((2, *shape))
    probabilities = np.asarray(model(images))
    assert probabilities.shape == (2, 5)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(rebuilt(images), probabilities)


@every_two()
def test_without_top_an_input_shape_of_ones_own_is_kept(version, bypass, data_format):
    shape = in_format(data_format, 123, 131, 3)
    model = SqueezeNet(
        weights=None, include_top=False, input_shape=shape, version=version, bypass=bypass
    )
    assert model.input_shape == (None, *shape)
    # 1.0: 59×63, 29×31, 14×15, 7×7. 1.1: 61×65, 30×32, 15×16, 7×8.
    expected = (7, 7) if version == "1.0" else (7, 8)
    assert model.output_shape == (None, *in_format(data_format, *expected, 512))


@every_two()
def test_without_top_a_users_own_layers_can_come_first(version, bypass, data_format):
    image = keras.Input(in_format(data_format, 200, 200, 4), name="camera")
    mixed = layers.Conv2D(3, 2, strides=2, name="mix")(image)
    model = SqueezeNet(
        weights=None, include_top=False, input_tensor=mixed, version=version, bypass=bypass
    )
    assert model.inputs[0] is image
    assert model.get_layer("mix").output is mixed
    assert model.output_shape[1 if data_format == "channels_first" else -1] == 512


@every_two("pooling", ["avg", "max"])
def test_pooling_gives_a_vector(version, bypass, data_format, pooling):
    in_format(data_format, None, None, 3)
    model = SqueezeNet(
        weights=None, include_top=False, pooling=pooling, version=version, bypass=bypass
    )
    assert model.output_shape == (None, 512)
    assert model.layers[-1].name == f"{pooling}_pool"


@every_two()
def test_the_classifier_activation_is_the_last_layers(version, bypass, data_format):
    in_format(data_format, None, None, 3)
    model = SqueezeNet(
        weights=None, version=version, bypass=bypass, classifier_activation="softmax"
    )
    assert model.layers[-1].activation is keras.activations.softmax
    assert model.output_shape == (None, 1000)


def test_pooled_vectors_are_the_mean_and_the_maximum_of_the_feature_map():
    images = normal((2, 40, 40, 3))
    maps = SqueezeNet(weights=None, include_top=False)
    features = np.asarray(maps(images))
    for pooling, reduce in (("avg", np.mean), ("max", np.max)):
        pooled = SqueezeNet(weights=None, include_top=False, pooling=pooling)
        pooled.set_weights(maps.get_weights())
        np.testing.assert_allclose(pooled(images), reduce(features, axis=(1, 2)), rtol=1e-5)


def test_without_softmax_the_model_gives_logits():
    options = dict(classes=5, input_shape=(40, 40, 3))
    logits, probabilities = (
        SqueezeNet(weights=None, classifier_activation=None, **options),
        SqueezeNet(weights=None, **options),
    )
    probabilities.set_weights(logits.get_weights())
    images = normal((3, 40, 40, 3))
    exponentials = np.exp(np.asarray(logits(images)))
    np.testing.assert_allclose(
        probabilities(images), exponentials / exponentials.sum(axis=1, keepdims=True), rtol=1e-5
    )


@both_formats
def test_both_data_formats_give_the_same_probabilities(data_format):
    if not convolves(data_format):
        pytest.skip(f"the backend has no {data_format} convolution on this machine")
    images = normal((2, 40, 45, 3))
    keras.config.set_image_data_format("channels_last")
    last = tell_classes_apart(
        SqueezeNet(weights=None, classes=5, input_shape=(40, 45, 3), bypass="complex")
    )
    model = SqueezeNet(
        weights=None, classes=5, input_shape=in_format(data_format, 40, 45, 3), bypass="complex"
    )
    model.set_weights(last.get_weights())
    moved = images.transpose(0, 3, 1, 2) if data_format == "channels_first" else images
    np.testing.assert_allclose(model(moved), last(images), atol=1e-6)


# --- Options of ours ----------------------------------------------------------------------------


def test_an_architecture_takes_the_place_of_version_and_bypass():
    model = SqueezeNet(weights=None, architecture=TINY.with_bypass("simple"), classes=3)
    assert model.name == "tiny"
    assert model.input_shape == (None, 32, 32, 3)
    assert [layer.bypass for layer in model.layers if isinstance(layer, Fire)] == [None, "simple"]
    assert [layer.name for layer in model.layers][-3:] == ["conv4", "pool4", "predictions"]


def test_the_dropout_rate_reaches_the_dropout():
    assert (
        SqueezeNet(weights=None, architecture=TINY, dropout_rate=0.25).get_layer("drop3").rate
        == 0.25
    )


def test_the_kernel_initializer_reaches_every_convolution():
    model = SqueezeNet(weights=None, architecture=TINY, classes=3, kernel_initializer="ones")
    kernels = {w.path: np.asarray(w) for w in model.weights if w.path.endswith("kernel")}
    assert len(kernels) == 1 + 2 * 3 + 1
    assert all((kernel == 1).all() for kernel in kernels.values())


def test_without_an_initializer_kernels_start_as_the_authors_do():
    model = published_network("1.1", None)
    # Glorot uniform on 3·3·64 values in and 3·3·256 out: ±sqrt(6 / (fan in + fan out)).
    kernel = np.asarray(model.get_layer("fire8").expand3x3.kernel)
    assert np.abs(kernel).max() == pytest.approx(np.sqrt(6 / (9 * 64 + 9 * 256)), rel=0.01)
    assert np.std(model.get_layer("conv10").get_weights()[0]) == pytest.approx(0.01, rel=0.01)


@each_bypass
def test_mixed_precision_ends_in_float32(bypass):
    images = normal((2, 40, 40, 3))
    options = dict(classes=5, input_shape=(40, 40, 3), bypass=bypass, classifier_activation=None)
    full = SqueezeNet(weights=None, **options)
    keras.config.set_dtype_policy("mixed_bfloat16")
    mixed = SqueezeNet(weights=None, **options)
    mixed.set_weights(full.get_weights())
    names = ("conv10", "pool10", "predictions")
    dtypes = [mixed.get_layer(name).compute_dtype for name in names]
    assert dtypes == ["bfloat16", "float32", "float32"]
    expected = np.asarray(full(images))
    assert expected.max() > 0
    np.testing.assert_allclose(mixed(images), expected, atol=0.03 * expected.max())


@pytest.mark.parametrize(("option", "mode"), [(True, "caffe"), ("tf", "tf"), ("torch", "torch")])
def test_a_model_with_preprocessing_takes_images_as_files_hold_them(option, mode):
    options = dict(classes=5, input_shape=(40, 40, 3))
    plain, prepared = (
        SqueezeNet(weights=None, **options),
        SqueezeNet(weights=None, include_preprocessing=option, **options),
    )
    prepared.set_weights(plain.get_weights())
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), "uint8")
    expected = plain(ImagePreprocessing(mode)(images))
    np.testing.assert_allclose(prepared(images.astype("float32")), expected, rtol=1e-5)
    assert prepared.layers[1].name == "preprocessing"


@both_formats
def test_preprocessing_follows_the_data_format(data_format):
    shape = in_format(data_format, 40, 45, 3)
    model = SqueezeNet(weights=None, classes=5, input_shape=shape, include_preprocessing=True)
    assert model.get_layer("preprocessing").data_format == data_format


# --- Weights and files --------------------------------------------------------------------------

ROOT = Path(__file__).parents[1]


def run_python(code, *arguments, **environment):
    """Runs code in a Python of its own and returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_weights_of_a_file_are_loaded(tmp_path):
    path = tmp_path / "tiny.weights.h5"
    saved = SqueezeNet(weights=None, architecture=TINY, classes=3)
    saved.save_weights(path)
    loaded = SqueezeNet(architecture=TINY, classes=3, weights=str(path), classifier_activation=None)
    for one, other in zip(loaded.get_weights(), saved.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert SqueezeNet(architecture=TINY, classes=3, weights=path).count_params() > 0


@pytest.mark.slow
def test_a_saved_model_is_read_by_a_fresh_process(tmp_path):
    model = SqueezeNet(
        weights=None,
        classes=5,
        input_shape=(40, 40, 3),
        bypass="complex",
        include_preprocessing="torch",
    )
    images = 255 * np.random.default_rng(0).random((2, 40, 40, 3), "float32")
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "images.npy", images)
    code = """
import keras, keras_squeezenet
import sys, numpy as np
folder = sys.argv[1]
model = keras.saving.load_model(f"{folder}/model.keras")
np.save(f"{folder}/outputs.npy", model(np.load(f"{folder}/images.npy")))
print([layer.name for layer in model.layers])
"""
    printed = run_python(code, tmp_path)
    assert printed.strip() == str([layer.name for layer in model.layers])
    np.testing.assert_allclose(np.load(tmp_path / "outputs.npy"), model(images), rtol=1e-6)


@pytest.mark.slow
def test_weights_saved_with_tensorflow_give_the_same_numbers_on_the_torch_backend(tmp_path):
    pytest.importorskip("torch", reason="PyTorch is not installed: make torch")
    images = normal((2, 46, 45, 3))
    np.save(tmp_path / "images.npy", images)
    for version in VERSIONS:
        model = SqueezeNet(
            weights=None,
            classes=5,
            input_shape=(46, 45, 3),
            version=version,
            bypass="complex",
            classifier_activation=None,
        )
        tell_classes_apart(model)
        model.save_weights(tmp_path / f"{version}.weights.h5")
        np.save(tmp_path / f"{version}.npy", model(images))
    code = """
import keras, keras_squeezenet
import sys, numpy as np
folder = sys.argv[1]
assert keras.backend.backend() == "torch"
images = np.load(f"{folder}/images.npy")
for version, data_format in zip(("1.0", "1.1"), sys.argv[2:]):
    keras.config.set_image_data_format(data_format)
    moved = images if data_format == "channels_last" else images.transpose(0, 3, 1, 2)
    model = keras_squeezenet.SqueezeNet(
        classes=5, input_shape=moved.shape[1:], version=version, bypass="complex",
        classifier_activation=None, weights=f"{folder}/{version}.weights.h5",
    )
    np.save(f"{folder}/{version}.torch.npy", keras.ops.convert_to_numpy(model(moved)))
assert "tensorflow" not in sys.modules
"""
    # Each version in one format: a format is a matter of the layers, which both versions share.
    run_python(code, tmp_path, "channels_last", "channels_first", KERAS_BACKEND="torch")
    for version in VERSIONS:
        expected = np.load(tmp_path / f"{version}.npy")
        assert np.ptp(expected) > 0.1
        outputs = np.load(tmp_path / f"{version}.torch.npy")
        np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)


# --- What is refused ----------------------------------------------------------------------------

IMAGE = keras.KerasTensor((None, 64, 64, 3))

REFUSED = {
    "version": (dict(version="2.0"), r"`version` must be one of.*Received: version=2\.0"),
    "bypass": (dict(bypass="both"), "`bypass` must be None.*Received: bypass=both"),
    "architecture": (dict(architecture="1.0"), "must be an `Architecture`.*architecture=1.0"),
    "bypass beside architecture": (
        dict(architecture=TINY, bypass="simple"),
        "With `architecture`, `bypass` belongs to it.*Received: bypass=simple",
    ),
    "pooling": (dict(pooling="median"), "`pooling` must be.*Received: pooling=median"),
    "preprocessing": (dict(include_preprocessing="pytorch"), "`mode` must.*mode=pytorch"),
    "missing weights": (
        dict(weights="no/such.weights.h5"),
        "`weights`.*path to the weights file.*Received: weights=no/such.weights.h5",
    ),
    "activation with weights": (
        dict(weights=__file__, classifier_activation="sigmoid"),
        "`None` and `softmax`.*Received: classifier_activation=sigmoid",
    ),
    "input tensor": (
        dict(input_tensor=np.zeros((1, 64, 64, 3))),
        "`input_tensor` must be a Keras tensor.*type <class 'numpy.ndarray'>",
    ),
    "another shape than the tensor's": (
        dict(input_tensor=IMAGE, input_shape=(32, 32, 3)),
        r"`input_shape` must equal the shape of `input_tensor`.*\(32, 32, 3\).*64, 64, 3\)",
    ),
    "too small a tensor": (
        dict(input_tensor=keras.KerasTensor((None, 16, 64, 3))),
        r"at least 17x17.*Received: input_shape=\(16, 64, 3\)",
    ),
    "two sizes": (dict(input_shape=(64, 64)), r"three integers.*Received: input_shape=\(64, 64\)"),
    "no sizes": (dict(input_shape=64), "three integers.*Received: input_shape=64"),
    "open sizes under a top": (
        dict(input_shape=(None, 64, 3)),
        r"`include_top` is True.*Received: input_shape=\(None, 64, 3\)",
    ),
    "too small": (dict(input_shape=(64, 16, 3)), r"at least 17x17 for squeezenet1_1.*64, 16, 3\)"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_arguments_are_named_with_what_came(arguments, message):
    with pytest.raises(ValueError, match=rf"(?s){message}"):
        SqueezeNet(**{"weights": None, **arguments})


def test_too_small_an_image_is_refused_in_channels_first_too():
    keras.config.set_image_data_format("channels_first")
    SqueezeNet(weights=None, input_shape=(3, 17, 17), classes=2)
    with pytest.raises(ValueError, match="at least 17x17"):
        SqueezeNet(weights=None, input_shape=(3, 64, 16), classes=2)


def test_weights_without_a_top_go_with_any_classifier_activation(tmp_path):
    path = str(tmp_path / "tiny.weights.h5")
    SqueezeNet(weights=None, architecture=TINY, include_top=False).save_weights(path)
    SqueezeNet(architecture=TINY, include_top=False, weights=path, classifier_activation="sigmoid")


def test_a_version_cannot_be_given_to_a_named_constructor():
    with pytest.raises(TypeError, match="version"):
        SqueezeNet1_0(weights=None, version="1.1")
