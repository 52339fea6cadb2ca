"""Any model in a .sqz file of version 2: what is read back predicts the same bits."""

import json
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from keras_squeezenet import load_compressed, save_compressed, sqz
from keras_squeezenet.compression.graph_reading import UnsupportedModelError
from keras_squeezenet.compression.layer_classes import AUGMENTATION, CLASSES
from keras_squeezenet.compression.saving import model_of, network_of
from keras_squeezenet.errors import InputError
from keras_squeezenet.network.graph import graph_of
from keras_squeezenet.network.layers import Fire
from keras_squeezenet.sqz import container, graph_text
from keras_squeezenet.sqz.files import read_network
from keras_squeezenet.sqz.graph_text import listed
from keras_squeezenet.sqz.layer_kinds import ACTIVATIONS, INTERPOLATIONS, KINDS
from keras_squeezenet.sqz.model import CompressedModel
from keras_squeezenet.sqz.network import SharedValues
from tests.sqz_models import (
    COUNTED,
    GOLDEN,
    MODELS,
    SIDE,
    chain,
    counted,
    every_layer_of,
    image,
    images_for,
    outputs_of,
    small_cnn,
    with_weights,
)

MODES = ("faithful", "best")


@pytest.fixture(scope="module")
def models():
    """Each once: making them takes most of the time."""
    made = {}

    def get(name):
        if name not in made:
            keras.utils.set_random_seed(3)
            made[name] = with_weights(MODELS[name]())
        return made[name]

    return get


def assert_same_bits(model, other):
    for expected, found in zip(outputs_of(model), outputs_of(other), strict=True):
        assert np.ptp(expected, axis=0).max() > 0, "outputs follow the images"
        np.testing.assert_array_equal(found.view(np.uint8), expected.view(np.uint8))


def layer_names(model):
    return [
        (layer.name, layer_names(layer) if isinstance(layer, keras.Model) else type(layer).__name__)
        for layer in model.layers
    ]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MODELS)
def test_a_model_comes_back_bit_by_bit(name, mode, models, tmp_path):
    model = models(name)
    path = tmp_path / "model.sqz"
    assert save_compressed(model, path, mode=mode) == path.stat().st_size
    assert path.read_bytes()[4] == 2
    loaded = load_compressed(path)
    assert_same_bits(model, loaded)
    assert (loaded.name, type(loaded)) == (model.name, type(model))
    assert layer_names(loaded) == layer_names(model)
    for weight, other in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(other.numpy(), weight.numpy())
    for ends in ("input", "output"):
        assert type(getattr(graph_of(loaded), ends)) is type(getattr(graph_of(model), ends))


@pytest.mark.parametrize("name", MODELS)
def test_what_was_read_makes_the_same_bytes(name, models, tmp_path):
    save_compressed(models(name), tmp_path / "model.sqz", bits=3)
    data = (tmp_path / "model.sqz").read_bytes()
    assert sqz.encode(sqz.decode(data)) == data
    assert sqz.encode(network_of(load_compressed(tmp_path / "model.sqz"))) == data


def test_the_models_of_these_tests_have_every_kind_of_layer(models):
    found = {type(layer).__name__ for name in MODELS for layer in every_layer_of(models(name))}
    assert set(KINDS) <= found
    assert set(CLASSES) == set(KINDS)


def test_the_lists_of_names_are_keras_s():
    for name in ACTIVATIONS:
        assert getattr(keras.activations, name).__name__ == name
    for name in INTERPOLATIONS:
        layers.UpSampling2D(interpolation=name)


@pytest.mark.slow
def test_a_fresh_process_predicts_the_same_bits(models, tmp_path):
    model = models("a head on a SqueezeNet")
    save_compressed(model, tmp_path / "model.sqz", bits=5)
    expected = outputs_of(load_compressed(tmp_path / "model.sqz"))[0]
    np.save(tmp_path / "images.npy", images_for(model))
    code = (
        "import sys, numpy as np; from keras_squeezenet import load_compressed\n"
        "model = load_compressed('model.sqz')\n"
        "np.save('found.npy', model(np.load('images.npy'), training=False))\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), expected)


@pytest.mark.parametrize("bits", [1, 4])
def test_bits_share_the_values_of_kernels_and_of_nothing_else(bits, models):
    model = models("a small CNN")
    compressed = network_of(model, bits=bits, fold=False)
    for name in ("conv/kernel", "head/kernel", "wide/kernel"):
        assert np.unique(compressed.values(name)).size <= 2**bits
    for name in ("head/bias", "norm/gamma", "norm/moving_variance"):
        layer, weight = name.split("/")
        expected = getattr(model.get_layer(layer), weight).numpy()
        np.testing.assert_array_equal(compressed.values(name), expected)


def test_fewer_bits_make_a_smaller_file(models, tmp_path):
    model = models("a head on a SqueezeNet")
    sizes = [save_compressed(model, tmp_path / "m.sqz", bits=bits) for bits in (2, 4, None)]
    assert sizes == sorted(set(sizes))


def test_each_kernel_may_have_bits_of_its_own(models):
    model = models("shared and nested")
    bits = {"conv/kernel": 1, "tower/inner/conv/kernel": 3, "dense/kernel": 2}
    compressed = network_of(model, bits=bits)
    for name, each in bits.items():
        assert np.unique(compressed.values(name)).size <= 2**each
    with pytest.raises(InputError, match=r"`bits` must name kernels .*Received: dense/bias"):
        network_of(model, bits={**bits, "dense/bias": 2})
    with pytest.raises(InputError, match=r"`bits` must name every kernel.*none for dense/kernel"):
        network_of(model, bits={name: 2 for name in bits if name != "dense/kernel"})


def test_few_values_are_shared_and_many_are_not():
    model = chain(layers.Conv2D(32, 3, name="few"), layers.Conv2D(32, 3, name="many"))
    rng = np.random.default_rng(0)
    model.get_layer("few").kernel.assign(rng.integers(-3, 4, (3, 3, 3, 32)) / 7)
    model.get_layer("many").kernel.assign(rng.normal(size=(3, 3, 32, 32)))
    arrays = network_of(model).arrays
    assert isinstance(arrays["few/kernel"], SharedValues)
    assert isinstance(arrays["many/kernel"], np.ndarray)


def test_class_names_and_framing_are_kept(models, tmp_path):
    model, names = models("a small CNN"), ["kék", "red, or so", "", "猫", "a" * 300]
    save_compressed(model, tmp_path / "model.sqz", class_names=names, resize="stretch")
    read = read_network(tmp_path / "model.sqz")
    assert (read.class_names, read.resize) == (tuple(names), "stretch")
    with pytest.raises(InputError, match=r"one name for each of 5 classes. Received: 4"):
        network_of(model, class_names=names[1:])
    with pytest.raises(InputError, match=r"`resize` must be .*Received: resize='crop'"):
        network_of(model, resize="crop")


def test_a_model_in_channels_first_comes_back(tmp_path):
    keras.config.set_image_data_format("channels_first")
    inputs = layers.Input((3, SIDE, SIDE))
    x = Fire(2, 4, 4)(layers.Conv2D(4, 3, name="conv")(inputs))
    x = layers.BatchNormalization(axis=1)(x)
    model = with_weights(keras.Model(inputs, layers.GlobalAveragePooling2D()(x)))
    save_compressed(model, tmp_path / "model.sqz")
    keras.config.set_image_data_format("channels_last")
    loaded = load_compressed(tmp_path / "model.sqz")
    assert loaded.input_shape == model.input_shape
    assert loaded.get_layer("conv").data_format == "channels_first"


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_each_layer_keeps_its_precision(policy, tmp_path):
    model = with_weights(
        chain(
            layers.Conv2D(4, 3, dtype=policy),
            layers.GlobalAveragePooling2D(dtype=policy),
            layers.Dense(5, dtype="float32"),
        )
    )
    save_compressed(model, tmp_path / "model.sqz")
    loaded = load_compressed(tmp_path / "model.sqz")
    assert_same_bits(model, loaded)
    assert [layer.dtype_policy.name for layer in loaded.layers[1:]] == [policy, policy, "float32"]


def test_a_sequence_may_have_been_built_by_its_first_images(tmp_path):
    model = keras.Sequential([layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(2)])
    with pytest.raises(UnsupportedModelError, match=r"start a Sequential with keras\.Input"):
        save_compressed(model, tmp_path / "model.sqz")
    model.build((None, SIDE, SIDE, 3))
    save_compressed(model, tmp_path / "model.sqz")
    assert_same_bits(model, load_compressed(tmp_path / "model.sqz"))


def test_features_of_a_loaded_sequence_can_be_taken(models, tmp_path):
    save_compressed(models("a small CNN"), tmp_path / "model.sqz")
    loaded = load_compressed(tmp_path / "model.sqz")
    features = keras.Model(loaded.inputs, loaded.get_layer("relu6").output)
    assert features(images_for(loaded)).shape == (3, SIDE, SIDE, 8)


def test_weights_of_minus_zero_become_zero_and_others_must_be_finite():
    model = with_weights(chain(layers.Conv2D(4, 3, name="conv"), layers.Flatten()))
    model.get_layer("conv").bias.assign([0.0, -0.0, 1.0, 2.0])
    assert not np.signbit(network_of(model).values("conv/bias")).any()
    model.get_layer("conv").bias.assign([0.0, np.nan, 1.0, 2.0])
    with pytest.raises(InputError, match=r"finite weights. Received: conv/bias"):
        network_of(model)


def test_arithmetic_between_layers_comes_back_as_layers_of_the_same_bits(tmp_path):
    """As in MobileNetV3, and as residuals are often written."""
    inputs = image()
    x = layers.Conv2D(3, 3, padding="same", name="conv")(inputs) + inputs
    x = (layers.ReLU(6)(x + 3.0) * (1.0 / 6.0)) * inputs
    x = keras.ops.maximum(0.7 + x, x - 0.1) - 3 * inputs
    model = with_weights(keras.Model(inputs, layers.Flatten()(x)))
    save_compressed(model, tmp_path / "model.sqz")
    loaded = load_compressed(tmp_path / "model.sqz")
    assert_same_bits(model, loaded)
    kinds = [type(layer).__name__ for layer in loaded.layers]
    assert kinds.count("Rescaling") == 5
    assert {"Add", "Multiply", "Maximum", "Subtract"} < set(kinds)
    for refused in (1.0 - inputs, inputs / 2.0, inputs + layers.Flatten()(inputs)[:, :3]):
        with pytest.raises(UnsupportedModelError, match=r"operation of keras\.ops"):
            network_of(keras.Model(inputs, refused))


def test_calls_of_keras_ops_come_back_as_layers_of_the_same_bits(tmp_path):
    ops = keras.ops
    inputs = image()
    x = layers.Conv2D(8, 3, name="conv")(inputs)
    functions = ("hard_sigmoid", "hard_silu", "hard_tanh", "log_sigmoid", "relu", "relu6", "selu")
    functions += ("sigmoid", "silu", "softplus", "softsign", "tanh", "tanh_shrink")
    x = ops.concatenate([getattr(ops, name)(x) for name in functions], axis=-1)
    means = ops.reshape(ops.mean(x, axis=(1, 2), keepdims=True), (-1, 8 * len(functions)))
    x = ops.concatenate([means, ops.max(x, axis=[-2, 1])], axis=1)
    model = with_weights(keras.Model(inputs, layers.Dense(5)(x)))
    save_compressed(model, tmp_path / "model.sqz")
    loaded = load_compressed(tmp_path / "model.sqz")
    assert_same_bits(model, loaded)
    kinds = [type(layer).__name__ for layer in loaded.layers]
    assert kinds.count("Activation") == len(functions)
    assert {"GlobalAveragePooling2D", "GlobalMaxPooling2D", "Reshape", "Concatenate"} < set(kinds)
    largest = ops.max(inputs, axis=(1, 2), initial=0.5)  # it is 0.5 where all pixels are less
    for refused in (
        ops.mean(inputs, axis=1),
        ops.reshape(inputs, (16, -1)),
        ops.sqrt(inputs),
        largest,
    ):
        with pytest.raises(UnsupportedModelError, match=r"operation of keras\.ops"):
            network_of(keras.Model(inputs, refused))


def test_means_and_maxima_along_a_line_are_poolings(tmp_path):
    line = layers.Input((9, 3))
    x = layers.Conv1D(4, 3, name="conv")(line)
    x = keras.ops.concatenate(
        [keras.ops.mean(x, axis=1), keras.ops.max(x, axis=[-2], keepdims=False)], axis=-1
    )
    model = with_weights(keras.Model(line, x))
    save_compressed(model, tmp_path / "model.sqz")
    loaded = load_compressed(tmp_path / "model.sqz")
    assert_same_bits(model, loaded)
    kinds = {type(layer).__name__ for layer in loaded.layers}
    assert {"GlobalAveragePooling1D", "GlobalMaxPooling1D"} < kinds


AUGMENTING = {
    **dict.fromkeys(("RandomFlip", "AugMix", "RandAugment", "RandomElasticTransform"), ()),
    **dict.fromkeys(("RandomErasing", "RandomPerspective", "RandomColorJitter"), ()),
    **dict.fromkeys(("RandomGaussianBlur",), ()),
    **dict.fromkeys(("RandomGrayscale", "RandomInvert"), (1.0,)),
    **dict.fromkeys(("RandomPosterization",), (4,)),
    **dict.fromkeys(("RandomTranslation",), (0.5, 0.5)),
}


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_layers_that_alter_images_in_training_alone_are_identity(dtype, tmp_path):
    model = keras.Sequential(
        [
            layers.Input((SIDE, SIDE, 3), dtype=dtype),
            *(kind(*AUGMENTING.get(kind.__name__, (0.5,))) for kind in AUGMENTATION),
            layers.Conv2D(4, 3),
            layers.RandomFlip(dtype="mixed_float16"),
        ]
    )
    with_weights(model)
    save_compressed(model, tmp_path / "model.sqz")
    loaded = load_compressed(tmp_path / "model.sqz")
    images = np.random.default_rng(0).integers(0, 255, (2, SIDE, SIDE, 3)).astype(dtype)
    expected, found = (each(images, training=False) for each in (model, loaded))
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype
    kinds = {type(layer).__name__ for layer in loaded.layers}
    assert kinds == {"Conv2D", "Identity"} | ({"Rescaling"} if dtype == "uint8" else set())


def test_factors_of_rescaling_may_be_arrays(tmp_path):
    factors = np.array([0.1, 0.2, 0.3], np.float32)
    model = chain(layers.Rescaling(factors, offset=np.float64(-1)), layers.Conv2D(4, 3))
    save_compressed(with_weights(model), tmp_path / "model.sqz")
    assert_same_bits(model, load_compressed(tmp_path / "model.sqz"))


@pytest.mark.parametrize("options", [{}, {"bits": 4}])
def test_weights_that_are_not_finite_are_named(options):
    model = with_weights(chain(layers.Conv2D(4, 3, name="conv"), layers.Flatten()))
    kernel = model.get_layer("conv").kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    with pytest.raises(InputError, match=r"`model` must have finite weights.*conv/kernel"):
        network_of(model, **options)


class Doubled(layers.Conv2D):
    """Not Keras's, though it is a convolution."""


def twice(x):
    return 2 * x


def of_operations():
    inputs = image()
    return keras.Model(inputs, layers.Flatten()(keras.ops.sin(inputs)))


def of_dict_inputs():
    inputs = {"a": image("a"), "b": image("b")}
    return keras.Model(inputs, layers.Add()(list(inputs.values())))


def called_in_training():
    inputs = image()
    return keras.Model(inputs, layers.Dropout(0.5, name="drop")(inputs, training=True))


REFUSED = {
    "a lambda": (lambda: chain(layers.Lambda(twice, name="l")), r"layer l \(Lambda\)"),
    "a subclass": (lambda: chain(Doubled(3, 3, name="d")), r"layer d \(Doubled\)"),
    "an operation": (of_operations, r"operation of keras\.ops sin\w* \(Sin\)"),
    "augmentation": (lambda: chain(layers.RandomCrop(8, 8, name="f")), r"layer f \(RandomCrop\)"),
    "a function": (
        lambda: chain(layers.Activation(twice, name="a")),
        r"layer a \(Activation\) must have as activation one of linear, .* 'twice of function'",
    ),
    "an activation that is a layer": (
        lambda: chain(layers.Conv2D(3, 3, activation=layers.ReLU(6), name="c")),
        r"layer c \(Conv2D\) must have as activation one of .*'ReLU of ReLU'",
    ),
    "renormalization": (
        lambda: chain(layers.BatchNormalization(renorm=True, name="b")),
        r"layer b \(BatchNormalization\) with renorm=True",
    ),
    "double precision": (
        lambda: chain(layers.Conv2D(3, 3, dtype="float64", name="c")),
        r"layer c \(Conv2D\) must have as dtype one of float32, .*'float64'",
    ),
    "inputs by name": (of_dict_inputs, r"must have as inputs one tensor or a list"),
    "a call in training": (called_in_training, r"training=True.*layer drop \(Dropout\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_file_holds_is_refused_in_one_line_that_names_the_layer(name, tmp_path):
    make, message = REFUSED[name]
    with pytest.raises(UnsupportedModelError, match=message) as raised:
        save_compressed(make(), tmp_path / "model.sqz")
    assert "`model`" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_subclassed_model_is_refused(tmp_path):
    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(UnsupportedModelError, match=r"functional or Sequential"):
        save_compressed(Own(), tmp_path / "model.sqz")


def test_a_squeezenet_is_no_base_of_another_model(models):
    base = sqz.decode((Path(__file__).parent / "golden" / "grid-best.sqz").read_bytes())
    with pytest.raises(InputError, match=r"one that `SqueezeNet` built"):
        network_of(models("a small CNN"), base=base)


def assert_same_data(found, model):
    assert isinstance(found, CompressedModel)
    for field in ("name", "class_names", "resize"):
        assert getattr(found, field) == getattr(model, field)
    assert listed(found.graph) == listed(model.graph)
    assert list(found.arrays) == list(model.arrays)
    for name in model.arrays:
        np.testing.assert_array_equal(found.values(name), model.values(name))
        assert type(found.arrays[name]) is type(model.arrays[name])


@pytest.mark.parametrize("mode", MODES)
def test_data_comes_back_as_it_was(mode):
    data = sqz.encode(counted(), mode)
    assert_same_data(sqz.decode(data), counted())
    assert sum(sqz.bytes_spent(data).values()) == len(data)


@pytest.mark.parametrize("name", COUNTED)
def test_files_of_version_2_stay_readable(name):
    make, _ = COUNTED[name]
    assert_same_data(sqz.decode((GOLDEN / f"{name}.sqz").read_bytes()), make())


@pytest.mark.parametrize("name", COUNTED)
def test_the_bytes_that_this_version_writes_are_those_of_its_golden_files(name):
    make, mode = COUNTED[name]
    assert sqz.encode(make(), mode) == (GOLDEN / f"{name}.sqz").read_bytes()


@pytest.mark.parametrize("name", MODELS)
def test_models_of_version_2_give_what_they_gave(name):
    stem = name.replace(" ", "-")
    with np.load(GOLDEN / "outputs.npz") as outputs:
        expected = outputs[stem]
    found = outputs_of(load_compressed(GOLDEN / f"{stem}.sqz"))[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_forms_of_the_counted_model_are_several():
    arrays = counted().arrays.values()
    assert {type(array) for array in arrays} == {SharedValues, np.ndarray}
    outputs = outputs_of(model_of(counted()))
    assert outputs[0].shape == (3, 5)


def test_a_file_whose_layers_do_not_fit_is_refused_before_they_take_memory(tmp_path):
    compressed = network_of(small_cnn())
    huge = listed(compressed.graph)
    (dense,) = (node for node in huge[1] if node[0] == "Dense")
    dense[2]["units"], dense[2]["channels"] = 1, 432
    _, graph, _ = graph_text.decode_header(
        container.deflate_json(["m", huge, None], graph_text.DICTIONARY)
    )
    arrays = {name: np.zeros(shape, np.float32) for name, shape in graph.array_shapes().items()}
    model = CompressedModel("m", graph, arrays)
    with pytest.raises(sqz.SqzError, match=r"layer head \(Dense\) must have channels 144.* 432"):
        model_of(model)


def test_the_page_on_the_format_has_the_kinds_and_the_dictionary():
    page = (Path(__file__).parents[1] / "docs/sqz.md").read_text(encoding="utf-8")
    assert graph_text.DICTIONARY.decode() in page.replace("\n", "")
    table = page.partition("| kind | arguments | arrays |")[2].partition("\n\n")[0]
    rows = {}
    for row in table.splitlines()[2:]:
        names, arguments = re.sub(r"\([^)]*\)", "", row).split("|")[1:3]
        rows |= dict.fromkeys(names.replace(",", " ").split(), arguments)
    assert set(rows) == set(KINDS)
    of_convolutions = page.partition("A convolution's arguments are")[2].partition(".")[0]
    for name, kind in KINDS.items():
        text = rows[name].replace("a convolution's", of_convolutions)
        for argument, about in {**kind.arguments, **kind.sizes}.items():
            said = re.search(rf"\b{argument}(\s=([^\s;:]+))?", text)
            assert said, (name, argument)
            if said[2]:
                default = json.loads(said[2].rstrip(","))
                assert about.taken(default) == about.default, (name, argument)
