"""SqueezeNets in .sqz files: what is read back is the model that was saved, or none is saved."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers

from keras_squeezenet import Architecture, FireFilters, SqueezeNet, sqz
from keras_squeezenet.compression.graph_reading import UnsupportedModelError
from keras_squeezenet.compression.saving import (
    load_compressed,
    model_of,
    network_of,
    save_compressed,
)
from keras_squeezenet.compression.squeezenet_settings import NotASqueezeNetError, settings_of
from keras_squeezenet.errors import InputError
from keras_squeezenet.network.architecture import preset
from keras_squeezenet.network.graph import convolutions_of
from keras_squeezenet.network.layers import CeilMaxPooling2D, Fire
from keras_squeezenet.sqz.files import read_network
from tests.compression_digits import TINY, tiny_net
from tests.tiers import parametrize

SIDE = 33
GRID = 2048  # steps to 1 between the weights: no file is larger than it need be
CUSTOM = Architecture(
    name="naïve net 2",
    conv1_filters=6,
    conv1_kernel_size=5,
    fires=(FireFilters(3, 0, 6, "simple"), FireFilters(4, 7, 0, "complex"), FireFilters(5, 3, 4)),
    pool_after=(3, 4),
    input_size=41,
    last_conv_padding=2,
)


def network(**options):
    """Weights as after training: nothing is zero, and outputs follow the images."""
    keras.utils.set_random_seed(4)
    rng = np.random.default_rng(4)
    options = {"architecture": CUSTOM, "classes": 5, **options}
    side = options.pop("side", SIDE)
    first = keras.config.image_data_format() == "channels_first"
    model = SqueezeNet(
        weights=None,
        input_shape=(3, side, side) if first else (side, side, 3),
        kernel_initializer="he_normal",
        **options,
    )
    for name, convolution in convolutions_of(model.layers).items():
        # conv1 brings RGB 0 to 255 to the size of the other maps.
        kernel = convolution.kernel.numpy().astype(np.float32) * (0.01 if name == "conv1" else 1)
        convolution.kernel.assign(np.round(kernel * GRID) / GRID)
        convolution.bias.assign(rng.uniform(0, 0.5, convolution.bias.shape))
    return model


def images_for(model):
    rng = np.random.default_rng(0)
    return rng.uniform(0, 255, (3, *model.input_shape[1:])).astype(np.float32)


def assert_same_outputs(model, other):
    images = images_for(model)
    expected = keras.ops.convert_to_numpy(model(images, training=False))
    assert np.ptp(expected, axis=0).max() > 0, "outputs follow the images"
    found = keras.ops.convert_to_numpy(other(images, training=False))
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


def presets(version, **options):
    return {"architecture": None, "version": version, "side": 64, **options}


VARIANTS = {
    "1.0": presets("1.0"),
    "1.1 with simple bypass": presets("1.1", bypass="simple"),
    "1.1 with complex bypass": presets("1.1", bypass="complex", classifier_activation=None),
    "caffe preprocessing": {"include_preprocessing": "caffe"},
    "tf preprocessing": {"include_preprocessing": "tf"},
    "torch preprocessing": {"include_preprocessing": "torch"},
    "no last activation": {"last_activation": None},
    "logits": {"classifier_activation": None},
    "no padding": {"architecture": TINY},
    "no dropout": {"dropout_rate": 0},
    "much dropout": {"dropout_rate": 0.875},
    "one class": {"classes": 1, "classifier_activation": None},
}


@parametrize(
    ("variant", "mode"),
    # A mode codes the weights and a variant is told of beside them: one mode for each. The quicker
    # one for the large ones.
    [
        (variant, "faithful" if "version" in options else "best")
        for variant, options in VARIANTS.items()
    ]
    + [("caffe preprocessing", "faithful"), ("no padding", "faithful")],
    quick=3,
)
def test_a_model_comes_back_bit_by_bit(variant, mode, tmp_path):
    model = network(**VARIANTS[variant])
    path = tmp_path / "model.sqz"
    size = save_compressed(model, path, mode=mode)
    assert size == path.stat().st_size
    loaded = load_compressed(path)
    assert_same_outputs(model, loaded)
    names = [layer.name for layer in model.layers]
    # Keras counts its input layers.
    assert [layer.name for layer in loaded.layers][1:] == names[1:]
    last = max(number for number in range(20) if f"drop{number}" in names)
    assert loaded.get_layer(f"drop{last}").rate == model.get_layer(f"drop{last}").rate
    for weight, other in zip(model.weights, loaded.weights, strict=True):
        assert weight.path.split("/")[-2:] == other.path.split("/")[-2:]
        np.testing.assert_array_equal(weight.numpy(), other.numpy())


@pytest.mark.slow
def test_the_published_paddings_come_back(tmp_path):
    architecture = replace(preset("1.0"), last_conv_padding=1)
    model = network(architecture=architecture, side=64)
    save_compressed(model, tmp_path / "model.sqz", bits=2)
    loaded = load_compressed(tmp_path / "model.sqz")
    assert loaded.get_layer("pad10").padding == ((1, 1), (1, 1))
    assert read_network(tmp_path / "model.sqz").architecture == replace(architecture, input_size=64)


def test_a_model_in_channels_first_comes_back_in_either_format(tmp_path):
    keras.config.set_image_data_format("channels_first")
    model = network()
    save_compressed(model, tmp_path / "model.sqz")
    assert_same_outputs(model, load_compressed(tmp_path / "model.sqz"))
    images = images_for(model)
    expected = model(images, training=False)
    keras.config.set_image_data_format("channels_last")
    loaded = load_compressed(tmp_path / "model.sqz")
    assert loaded.input_shape == (None, SIDE, SIDE, 3)
    found = loaded(images.transpose(0, 2, 3, 1), training=False)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16"])
def test_a_model_of_half_precision_comes_back(policy, tmp_path):
    keras.config.set_dtype_policy(policy)
    model = network(include_preprocessing="tf")
    save_compressed(model, tmp_path / "model.sqz")
    loaded = load_compressed(tmp_path / "model.sqz")
    assert_same_outputs(model, loaded)
    keras.config.set_dtype_policy("float32")
    full = load_compressed(tmp_path / "model.sqz")
    for name, convolution in convolutions_of(full.layers).items():
        expected = np.asarray(convolutions_of(model.layers)[name].kernel.numpy(), np.float32)
        np.testing.assert_array_equal(convolution.kernel.numpy(), expected)


def test_a_model_that_was_saved_by_keras_comes_back(tmp_path):
    model = network(include_preprocessing="torch")
    model.save(tmp_path / "model.keras")
    save_compressed(keras.models.load_model(tmp_path / "model.keras"), tmp_path / "model.sqz")
    assert_same_outputs(model, load_compressed(tmp_path / "model.sqz"))


def test_a_copy_by_keras_comes_back(tmp_path):
    model = network()
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    save_compressed(copy, tmp_path / "model.sqz")
    assert_same_outputs(model, load_compressed(tmp_path / "model.sqz"))


def test_a_compiled_and_regularized_model_with_names_of_its_own_comes_back(tmp_path):
    model = tiny_net(name="digits", kernel_initializer="glorot_uniform")
    for convolution in convolutions_of(model.layers).values():
        convolution.kernel_regularizer = keras.regularizers.L2(1e-4)
    model.compile("sgd", "sparse_categorical_crossentropy")
    save_compressed(model, tmp_path / "model.sqz")
    loaded = load_compressed(tmp_path / "model.sqz")
    assert loaded.name == "digits"
    assert_same_outputs(model, loaded)


def test_a_loaded_model_can_be_saved_to_the_same_bytes(tmp_path):
    save_compressed(network(), tmp_path / "once.sqz", resize="stretch")
    save_compressed(
        load_compressed(tmp_path / "once.sqz"), tmp_path / "twice.sqz", resize="stretch"
    )
    assert (tmp_path / "once.sqz").read_bytes() == (tmp_path / "twice.sqz").read_bytes()


def test_saving_leaves_the_model_as_it_is(tmp_path):
    model = network()
    weights = [weight.copy() for weight in model.get_weights()]
    save_compressed(model, tmp_path / "model.sqz", bits=2)
    for weight, before in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(weight, before)


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_bits_bound_the_distinct_values_of_each_kernel(bits):
    shared = network_of(network(), bits=bits)
    assert all(kernel.codebook.size <= 2**bits for kernel in shared.kernels.values())
    assert max(kernel.codebook.size for kernel in shared.kernels.values()) > 2 ** (bits - 1)


def test_fewer_bits_make_a_smaller_file(tmp_path):
    model = network()
    sizes = [save_compressed(model, tmp_path / "m.sqz", bits=bits) for bits in (2, 4, 6, None)]
    assert sizes == sorted(set(sizes))


def test_each_kernel_may_have_bits_of_its_own():
    model = network()
    names = list(convolutions_of(model.layers))
    bits = {name: 1 + index % 4 for index, name in enumerate(names)}
    for name, kernel in network_of(model, bits=bits).kernels.items():
        distinct = np.unique(convolutions_of(model.layers)[name].kernel.numpy()).size
        assert kernel.codebook.size <= min(2 ** bits[name], distinct)
    del bits["conv1"]
    with pytest.raises(InputError, match=r"`bits` must name every kernel.*none for conv1"):
        network_of(model, bits=bits)


@pytest.mark.parametrize("bits", [0, 17, 2.5, "5"])
def test_bits_out_of_range_are_refused(bits):
    with pytest.raises(InputError, match=r"`bits` .* Received: bits="):
        network_of(network(), bits=bits)


def test_class_names_and_framing_are_kept(tmp_path):
    names = ["kék", "red, or so", "", "猫", "a" * 300]
    save_compressed(network(), tmp_path / "model.sqz", class_names=names, resize=256)
    read = read_network(tmp_path / "model.sqz")
    assert read.class_names == tuple(names)
    assert read.resize == 256


@pytest.mark.parametrize(
    ("argument", "value"),
    [("class_names", ["four", "are", "too", "few"]), ("resize", "crop"), ("resize", 0)],
)
def test_names_and_framing_that_do_not_fit_are_refused(argument, value, tmp_path):
    with pytest.raises(InputError, match=f"`{argument}`"):
        save_compressed(network(), tmp_path / "model.sqz", **{argument: value})
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_keras_does_not_take_is_mended():
    shared = network_of(network())
    renamed = replace(shared, architecture=replace(shared.architecture, name="digits/small"))
    assert model_of(renamed).name == "digits_small"


def test_settings_are_the_constructor_s():
    settings = settings_of(network(include_preprocessing="tf", dropout_rate=0.25))
    architecture = settings["architecture"]
    assert (architecture.fires, architecture.pool_after) == (CUSTOM.fires, CUSTOM.pool_after)
    assert (architecture.name, architecture.last_conv_padding) == (CUSTOM.name, 2)
    del settings["architecture"]
    assert settings == {
        "classes": 5,
        "input_size": SIDE,
        "preprocessing": "tf",
        "last_activation": "relu",
        "classifier_activation": "softmax",
        "dropout_rate": 0.25,
    }


def built_by_hand(
    *,
    strides=2,
    activation="relu",
    fire_activation="relu",
    fire_normalization=False,
    pool=CeilMaxPooling2D,
    extra=None,
    middle=None,
    last_kernel=1,
    last_padding="valid",
    use_bias=True,
    dilation=1,
    average=layers.GlobalAveragePooling2D,
    classifier="softmax",
    channels=3,
    sides=(SIDE, SIDE),
):
    """A SqueezeNet of one Fire, one part of which may be another."""
    image = layers.Input((*sides, channels))
    x = image if extra is None else extra(image)
    x = layers.Conv2D(4, 3, strides=strides, activation=activation, name="conv1")(x)
    x = pool(3, 2, name="pool1")(x)
    fire_options = {"activation": fire_activation, "batch_normalization": fire_normalization}
    x = Fire(2, 3, 3, **fire_options, name="fire2")(x)
    x = x if middle is None else middle(x)
    x = layers.Dropout(0.5, name="drop2")(x)
    x = layers.Conv2D(
        5,
        last_kernel,
        padding=last_padding,
        dilation_rate=dilation,
        use_bias=use_bias,
        activation="relu",
        name="conv3",
    )(x)
    x = average(name="pool3")(x)
    x = layers.Activation(classifier, name="predictions")(x)
    return keras.Model(image, x, name="by_hand")


def test_the_same_layers_by_hand_are_a_squeezenet(tmp_path):
    model = built_by_hand()
    save_compressed(model, tmp_path / "model.sqz")
    images = images_for(model)
    np.testing.assert_array_equal(
        load_compressed(tmp_path / "model.sqz")(images, training=False), model(images)
    )


def with_head():
    base = SqueezeNet(False, None, input_shape=(SIDE, SIDE, 3), architecture=TINY, pooling="avg")
    return keras.Model(base.input, layers.Dense(5)(base.output), name="with_head")


def with_another_output():
    model = network()
    return keras.Model(
        model.input, [model.output, model.get_layer("conv1").output], name="with_another_output"
    )


def without_the_last_fire_s_input():
    image = layers.Input((SIDE, SIDE, 3))
    first = layers.Conv2D(8, 3, strides=2, activation="relu", name="conv1")(image)
    second = Fire(2, 4, 4, name="fire2")(first)
    skipped = Fire(2, 4, 4, name="fire3")(first)
    x = layers.Dropout(0.5, name="drop3")(skipped + second)
    x = layers.Conv2D(5, 1, activation="relu", name="conv4")(x)
    x = layers.GlobalAveragePooling2D(name="pool4")(x)
    return keras.Model(image, layers.Activation("softmax", name="predictions")(x), name="skipping")


FOREIGN = {
    "another stride": lambda: built_by_hand(strides=1),
    "another activation of conv1": lambda: built_by_hand(activation="relu6"),
    "an activation that is a layer": lambda: built_by_hand(activation=layers.ReLU(6)),
    "another activation of a Fire": lambda: built_by_hand(fire_activation="tanh"),
    "pooling that drops the edge": lambda: built_by_hand(pool=layers.MaxPooling2D),
    "a layer before": lambda: built_by_hand(extra=layers.Rescaling(1 / 255)),
    "batch normalization": lambda: built_by_hand(middle=layers.BatchNormalization()),
    "a larger last kernel": lambda: built_by_hand(last_kernel=3, last_padding="same"),
    "dilation": lambda: built_by_hand(last_kernel=2, dilation=2),
    "normalization in a fire": lambda: built_by_hand(fire_normalization=True),
    "no bias": lambda: built_by_hand(use_bias=False),
    "another average": lambda: built_by_hand(average=layers.GlobalMaxPooling2D),
    "another classifier": lambda: built_by_hand(classifier="sigmoid"),
    "other channels": lambda: built_by_hand(channels=4),
    "oblong images": lambda: built_by_hand(sides=(SIDE, SIDE + 1)),
    "images of any size": lambda: built_by_hand(sides=(None, None)),
    "uneven padding": lambda: built_by_hand(
        middle=layers.ZeroPadding2D(((1, 1), (1, 2)), name="pad3")
    ),
    "another head": with_head,
    "another output": with_another_output,
    "other connections": without_the_last_fire_s_input,
    "no top": lambda: SqueezeNet(False, None, architecture=TINY),
    "MobileNet": lambda: keras.applications.MobileNet(
        weights=None, alpha=0.25, input_shape=(32, 32, 3), classes=5
    ),
    "a sequence": lambda: keras.Sequential([layers.Input((4,)), layers.Dense(5)]),
}


@pytest.mark.parametrize("difference", FOREIGN)
def test_a_model_that_squeezenet_does_not_build_is_named_in_one_line(difference):
    with pytest.raises(NotASqueezeNetError) as raised:
        settings_of(FOREIGN[difference]())
    message = str(raised.value)
    assert message.startswith("`model` must ")
    assert "Received: " in message
    assert "\n" not in message


@pytest.mark.parametrize("difference", ["another stride", "batch normalization", "no top"])
def test_such_a_model_makes_a_file_of_version_2(difference, tmp_path):
    model = FOREIGN[difference]()
    save_compressed(model, tmp_path / "model.sqz")
    assert (tmp_path / "model.sqz").read_bytes()[4] == 2
    loaded = load_compressed(tmp_path / "model.sqz")
    for weight, other in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), other.numpy())


def test_our_own_networks_stay_in_version_1(tmp_path):
    save_compressed(network(), tmp_path / "model.sqz")
    assert (tmp_path / "model.sqz").read_bytes()[4] == 1


def test_too_many_distinct_weights_are_refused_and_bits_help():
    architecture = Architecture("wide", 64, 3, (FireFilters(32, 64, 512),), (1,))
    model = network(architecture=architecture)
    kernel = convolutions_of(model.layers)["fire2_expand3x3"].kernel
    kernel.assign(np.random.default_rng(0).normal(size=kernel.shape))
    with pytest.raises(InputError, match=r"at most 65536 distinct .* in fire2_expand3x3"):
        network_of(model)
    assert network_of(model, bits=2).kernels["fire2_expand3x3"].codebook.size == 4


@pytest.mark.parametrize("part", ["kernel", "bias"])
def test_weights_that_are_not_finite_are_refused(part):
    model = network()
    weight = getattr(model.get_layer("conv1"), part)
    weight.assign(np.full(weight.shape, np.nan))
    with pytest.raises(InputError, match="finite"):
        network_of(model)


def test_pruned_weights_are_zero_without_a_sign():
    model = network()
    kernel = model.get_layer("conv1").kernel
    kernel.assign(np.where(kernel.numpy() < 0, np.float32(-0.0), kernel.numpy()))
    values = network_of(model).kernels["conv1"].values
    assert (values == 0).mean() > 0.3
    assert not np.signbit(values).any()


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"PK\x03\x04" + b"0" * 60])
def test_a_file_that_is_none_is_named_in_one_line(content, tmp_path):
    path = tmp_path / "other.sqz"
    path.write_bytes(content)
    with pytest.raises(sqz.SqzError, match=r"other\.sqz") as raised:
        load_compressed(path)
    assert "\n" not in str(raised.value)


def test_a_truncated_or_changed_file_is_refused(tmp_path):
    path = tmp_path / "model.sqz"
    save_compressed(network(), path, bits=3)
    content = path.read_bytes()
    for broken in (content[:-1], content[: len(content) // 2], content + b"\x00"):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r"model\.sqz"):
            load_compressed(path)
    changed = bytearray(content)
    changed[len(content) // 2] ^= 1
    path.write_bytes(changed)
    with pytest.raises(InputError, match=r"model\.sqz"):
        load_compressed(path)


def test_a_file_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_compressed(tmp_path / "missing.sqz")


def test_a_failed_save_keeps_the_file_that_was_there(tmp_path):
    path = tmp_path / "model.sqz"
    save_compressed(network(), path, bits=3)
    before = path.read_bytes()
    with pytest.raises(UnsupportedModelError):
        save_compressed(built_by_hand(extra=layers.Lambda(lambda x: x)), path)
    with pytest.raises(InputError):
        save_compressed(network(), path, mode="fastest")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
