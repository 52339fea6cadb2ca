"""A backbone with feature maps of several sizes: which ones, from which files, in which files."""

import keras
import numpy as np
import pytest

from keras_squeezenet import SqueezeNet, SqueezeNet1_0, SqueezeNet1_1, export_litert
from keras_squeezenet.compression.saving import load_compressed, save_compressed
from keras_squeezenet.network.architecture import Architecture, FireFilters, preset
from tests.tiers import parametrize
from tests.weight_file_writers import (
    CLASSES,
    TINY,
    caffe_bytes,
    ncnn_bytes,
    npz_bytes,
    random_weights,
)

# From Table 1 of the paper and forresti/SqueezeNet/SqueezeNet_v1.1: the layers before the poolings,
# and the last Fire.
MAPS = {
    "1.0": [("conv1", 2, 96, 111), ("fire4", 4, 256, 55), ("fire8", 8, 512, 27)],
    "1.1": [("conv1", 2, 64, 111), ("fire3", 4, 128, 55), ("fire5", 8, 256, 27)],
}
LAST = ("fire9", 16, 512, 13)
ALL = (0, 1, 2, 3)

every_version = pytest.mark.parametrize("version", ["1.0", "1.1"])
every_bypass = pytest.mark.parametrize("bypass", [None, "simple", "complex"])


def backbone(weights=None, out_indices=ALL, **options):
    return SqueezeNet(weights=weights, include_top=False, out_indices=out_indices, **options)


def pixels(*shape):
    return np.random.default_rng(0).uniform(0, 255, shape).astype("float32")


def channels_and_sides(model):
    """(channels, height) of each output, in either data format."""
    first = keras.config.image_data_format() == "channels_first"
    shapes = [tuple(output.shape) for output in model.outputs]
    return [(shape[1], shape[2]) if first else (shape[3], shape[1]) for shape in shapes]


# Every two of a version, a bypass and a data format meet.
@pytest.mark.parametrize(
    ("version", "bypass", "data_format"),
    [
        ("1.0", None, "channels_last"),
        ("1.1", None, "channels_first"),
        ("1.0", "simple", "channels_first"),
        ("1.1", "simple", "channels_last"),
        ("1.0", "complex", "channels_last"),
        ("1.1", "complex", "channels_first"),
    ],
)
def test_the_maps_are_those_before_each_pooling_and_the_last(version, bypass, data_format):
    keras.config.set_image_data_format(data_format)
    side = preset(version).input_size
    shape = (3, side, side) if data_format == "channels_first" else (side, side, 3)
    expected = [*MAPS[version], LAST]
    model = backbone(version=version, bypass=bypass, input_shape=shape)
    assert model.output_names == [name for name, *_ in expected]
    assert channels_and_sides(model) == [(channels, side) for _, _, channels, side in expected]
    found = preset(version).with_bypass(bypass).feature_maps
    assert [(m.name, m.stride, m.channels) for m in found] == [row[:3] for row in expected]


@every_version
def test_a_map_has_the_pixels_that_its_stride_says(version):
    """Two images that differ in one column differ in the map where that column is seen."""
    model = backbone(version=version, input_shape=(259, 259, 3))
    sides = [tuple(output.shape)[1] for output in model.outputs]
    strides = [found.stride for found in preset(version).feature_maps]
    for side, stride in zip(sides, strides, strict=True):
        assert side == pytest.approx(259 / stride, abs=3)


@every_bypass
def test_they_are_what_the_layers_of_the_whole_network_give(bypass):
    keras.utils.set_random_seed(1)
    whole = SqueezeNet(
        weights=None, bypass=bypass, include_preprocessing=True, input_shape=(65, 65, 3), classes=3
    )
    names = [name for name, *_ in [*MAPS["1.1"], LAST]]
    expected = keras.Model(whole.inputs, [whole.get_layer(name).output for name in names])
    model = backbone(bypass=bypass, include_preprocessing=True, input_shape=(65, 65, 3))
    model.set_weights(whole.get_weights()[: len(model.weights)])
    images = pixels(2, 65, 65, 3)
    for found, wanted in zip(model(images), expected(images), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_the_named_constructors_have_them_too():
    for constructor, version in ((SqueezeNet1_0, "1.0"), (SqueezeNet1_1, "1.1")):
        model = constructor(weights=None, include_top=False, out_indices=ALL)
        assert model.output_names == [name for name, *_ in [*MAPS[version], LAST]]


@parametrize(
    ("asked", "names"),
    [
        ((-1,), ["fire9"]),
        ((1, -1), ["fire3", "fire9"]),
        ([-1, 0], ["fire9", "conv1"]),
        ((-4, 2), ["conv1", "fire5"]),
    ],
    quick=2,
)
def test_they_come_in_the_order_asked_for_and_count_from_the_end_too(asked, names):
    model = backbone(out_indices=asked)
    assert model.output_names == names
    # Keras gives one output as it is, and several as a list.
    found = model.predict(pixels(1, 33, 33, 3))
    assert (len(found) if isinstance(found, list) else 1) == len(asked)


def test_no_layer_lies_beyond_the_last_map():
    _, *names = [layer.name for layer in backbone(out_indices=(0, 1)).layers]
    assert names == ["conv1", "pool1", "fire2", "fire3"]


def test_images_of_any_size_are_taken():
    model = backbone(input_shape=None)
    assert [found.shape[1:3] for found in model(pixels(1, 40, 64, 3))] == [
        (19, 31),
        (9, 15),
        (4, 7),
        (2, 3),
    ]


def test_a_network_of_the_metaparameters_has_a_map_more_than_poolings():
    asked = Architecture.from_metaparameters(
        base_e=16, incr_e=8, freq=1, fires=3, pool_after=(1, 2, 4), conv1_filters=8, input_size=64
    )
    found = [(m.name, m.stride, m.channels) for m in asked.feature_maps]
    # e_i = 16, 24, 32; a pooling after the last Fire gives a map of its own.
    assert found == [("conv1", 2, 8), ("fire2", 4, 16), ("fire4", 8, 32), ("pool4", 16, 32)]
    model = backbone(architecture=asked, input_shape=(64, 64, 3))
    assert model.output_names == ["conv1", "fire2", "fire4", "pool4"]
    assert [shape[0] for shape in channels_and_sides(model)] == [8, 16, 32, 32]


def test_a_network_without_pooling_has_one_map():
    plain = Architecture("plain", 4, 3, (FireFilters(2, 4, 4),), (), 32)
    assert [m.name for m in plain.feature_maps] == ["fire2"]
    assert backbone(architecture=plain, out_indices=(0,)).output_names == ["fire2"]


def test_with_batch_normalization_conv1s_map_is_the_normalized_one():
    model = backbone(batch_normalization=True, input_shape=(33, 33, 3))
    assert model.output_names == ["conv1_relu", "fire3", "fire5", "fire9"]
    assert min(np.min(found) for found in model(pixels(1, 33, 33, 3))) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(out_indices=(4,)), r"from -4 to 3.*conv1, fire3, fire5, fire9.*out_indices=\(4,\)"),
        (dict(out_indices=(-5,)), r"from -4 to 3.*out_indices=\(-5,\)"),
        (dict(out_indices=(1, -3)), r"different integers.*out_indices=\(1, -3\)"),
        (dict(out_indices=()), r"`out_indices` must hold.*out_indices=\(\)"),
        (dict(out_indices=2), r"`out_indices` must hold.*out_indices=2"),
        (dict(out_indices=(True,)), r"`out_indices` must hold.*out_indices=\(True,\)"),
        (dict(out_indices=("fire9",)), r"`out_indices` must hold.*out_indices=\('fire9',\)"),
        (dict(pooling="avg"), r"goes with `include_top=False`.*pooling=avg"),
        (dict(include_top=True), r"goes with `include_top=False`.*include_top=True"),
    ],
)
def test_what_makes_no_backbone_is_refused_in_one_line(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        SqueezeNet(weights=None, **{"include_top": False, "out_indices": ALL, **options})
    assert "\n" not in str(caught.value)


# -- the same files ---------------------------------------------------------------------------


WRITERS = {"w.npz": npz_bytes, "w.bin": ncnn_bytes, "w.caffemodel": caffe_bytes}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("out_indices", [(0, -1), (0,)])
def test_weights_come_from_the_files_of_the_whole_network(tmp_path, name, out_indices):
    weights = random_weights()
    (tmp_path / name).write_bytes(WRITERS[name](weights))
    model = backbone(tmp_path / name, out_indices, architecture=TINY, input_shape=(33, 33, 3))
    np.testing.assert_allclose(
        model.get_layer("conv1").kernel, weights["conv1"][0], rtol=1e-3, atol=1e-6
    )
    if -1 in out_indices:
        last = f"fire{TINY.fire_numbers[-1]}"
        np.testing.assert_allclose(
            model.get_layer(last).expand3x3.kernel,
            weights[f"{last}_expand3x3"][0],
            rtol=1e-3,
            atol=1e-6,
        )


@parametrize("ending", [".keras", ".weights.h5"], quick=1)
@pytest.mark.parametrize("out_indices", [(0, -1), (0,)])
def test_weights_come_from_a_saved_network_with_or_without_top(tmp_path, ending, out_indices):
    images = pixels(2, 33, 33, 3)
    for include_top in (True, False):
        saved = SqueezeNet(
            weights=None,
            architecture=TINY,
            include_top=include_top,
            classes=CLASSES,
            input_shape=(33, 33, 3),
        )
        path = tmp_path / f"{include_top}{ending}"
        (saved.save if ending == ".keras" else saved.save_weights)(path)
        model = backbone(path, out_indices, architecture=TINY, input_shape=(33, 33, 3))
        names = [TINY.feature_maps[index].name for index in out_indices]
        expected = keras.Model(saved.inputs, [saved.get_layer(name).output for name in names])
        for found, wanted in zip(model(images), expected(images), strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_a_backbone_is_saved_and_loaded_and_gives_its_weights(tmp_path):
    images = pixels(2, 33, 33, 3)
    model = backbone(
        architecture=TINY, include_preprocessing="tf", input_shape=(33, 33, 3), out_indices=(0, -1)
    )
    model.save(tmp_path / "backbone.keras")
    loaded = keras.saving.load_model(tmp_path / "backbone.keras")
    assert loaded.output_names == model.output_names
    for found, wanted in zip(loaded(images), model(images), strict=True):
        np.testing.assert_array_equal(found, wanted)
    whole = SqueezeNet(
        weights=tmp_path / "backbone.keras",
        architecture=TINY,
        classes=2,
        input_shape=(33, 33, 3),
    )
    np.testing.assert_array_equal(
        whole.get_layer("fire2").squeeze1x1.kernel, model.get_layer("fire2").squeeze1x1.kernel
    )


def test_a_litert_file_of_two_outputs_is_refused_in_one_line(tmp_path):
    model = backbone(architecture=TINY, input_shape=(33, 33, 3), out_indices=(0, -1))
    with pytest.raises(ValueError, match=r"one input and one output\. Received: 1 and 2$"):
        export_litert(model, tmp_path / "backbone.tflite")
    assert list(tmp_path.iterdir()) == []


def test_a_backbone_comes_back_from_a_sqz_file(tmp_path):
    model = backbone(architecture=TINY, input_shape=(33, 33, 3), out_indices=(0, -1))
    save_compressed(model, tmp_path / "backbone.sqz")
    read = load_compressed(tmp_path / "backbone.sqz")
    images = pixels(2, 33, 33, 3)
    for maps, expected in zip(read(images), model(images), strict=True):
        np.testing.assert_array_equal(maps, expected)


@pytest.mark.shared
@every_version
def test_the_published_weights_give_the_maps_of_the_published_network(version, shared, monkeypatch):
    monkeypatch.setenv("KERAS_SQUEEZENET_WEIGHTS", str(shared / "weights"))
    images = pixels(1, 127, 127, 3)
    options = {"version": version, "include_preprocessing": True, "input_shape": (127, 127, 3)}
    whole = SqueezeNet(**options)
    names = [name for name, *_ in [*MAPS[version], LAST]]
    expected = keras.Model(whole.inputs, [whole.get_layer(name).output for name in names])
    found = backbone("imagenet", **options)(images)
    for one, wanted in zip(found, expected(images), strict=True):
        np.testing.assert_array_equal(one, wanted)
