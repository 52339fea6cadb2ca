"""Ranges of int8 files, read by the flatbuffer schema and by LiteRT, on photos of another kind."""

import json

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from keras import layers
from scipy.stats import gumbel_r

from keras_squeezenet.cli.tables import print_exported
from keras_squeezenet.litert.export import export_litert
from keras_squeezenet.litert.model import LiteRTModel
from keras_squeezenet.litert.ranges import LATE_ROOM, Saturation

SIDE = 8


def net(activation="relu"):
    keras.utils.set_random_seed(2)
    image = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(8, 3, activation=activation, padding="same", name="first")(image)
    x = layers.Conv2D(4, 4, strides=4, name="second")(x)
    x = layers.Flatten()(x)
    return keras.Model(image, layers.Dense(4, activation="softmax", name="third")(x))


def images(count, greatest=1.0, least=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(least, greatest, (count, SIDE, SIDE, 3)).astype(np.float32)


def ranges(path):
    """Of each int8 activation: its name, its least and its greatest value."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    graph = model.subgraphs[0]
    for step in graph.operators:
        for index in step.outputs:
            tensor = graph.tensors[index]
            if tensor.type == schema.TensorType.INT8:
                scale, zero = tensor.quantization.scale[0], tensor.quantization.zeroPoint[0]
                yield tensor.name.decode(), scale * (-128 - zero), scale * (127 - zero)


def found_range(path, part):
    (found,) = {(low, high) for name, low, high in ranges(path) if part in name}
    return found


def test_the_range_before_the_softmax_has_room_for_what_calibration_did_not_see(tmp_path):
    model = net()
    path = tmp_path / "net.tflite"
    seen = images(60)
    export_litert(model, path, quantize="int8", calibration=seen, tolerance=np.inf)
    model.get_layer("third").activation = None
    logits = np.asarray(model(seen))
    expected = [gumbel_r(*moments(sign * logits)).isf(1e-4) for sign in (-1, 1)]
    low, high = found_range(path, "third")
    assert expected[1] > 1.1 * logits.max()
    assert high == pytest.approx(expected[1], rel=0.05)
    assert low == pytest.approx(-expected[0], rel=0.05)


def moments(values):
    """Location and scale of a Gumbel distribution with the mean and the deviation of the maxima."""
    maxima = values.max(axis=1)
    scale = maxima.std() / gumbel_r.std()
    return maxima.mean() - scale * gumbel_r.mean(), scale


def test_ranges_between_layers_are_those_of_the_calibration(tmp_path):
    model = net()
    path = tmp_path / "net.tflite"
    seen = images(60)
    export_litert(model, path, quantize="int8", calibration=seen, tolerance=np.inf)
    inner = keras.Model(model.input, model.get_layer("first").output)
    assert found_range(path, "first") == pytest.approx((0, np.asarray(inner(seen)).max()), rel=0.03)


def test_a_late_layer_has_room_for_what_other_kinds_of_photos_excite(tmp_path):
    """Of five layers with kernels the last two are late, and the last decides."""
    keras.utils.set_random_seed(2)
    image = x = keras.Input((SIDE, SIDE, 3))
    for name in ("first", "second", "third", "fourth"):
        x = layers.Conv2D(8, 3, activation="relu", padding="same", name=name)(x)
    model = keras.Model(image, layers.Dense(4, name="fifth")(layers.Flatten()(x)))
    path = tmp_path / "net.tflite"
    seen = images(60)
    export_litert(model, path, quantize="int8", calibration=seen, tolerance=np.inf)
    for name, room in {"first": 1, "second": 1, "third": 1, "fourth": LATE_ROOM}.items():
        inner = keras.Model(image, model.get_layer(name).output)
        expected = (0, room * np.asarray(inner(seen)).max())
        assert found_range(path, name) == pytest.approx(expected, rel=0.05), name


def test_what_an_activation_bounds_is_not_widened(tmp_path):
    image = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(8, 3, activation="relu6", name="first")(image)
    model = keras.Model(image, layers.GlobalAveragePooling2D()(x))
    path = tmp_path / "net.tflite"
    export_litert(model, path, quantize="int8", calibration=images(40, 90.0), tolerance=np.inf)
    assert found_range(path, "first")[1] == pytest.approx(6, rel=0.01)


@pytest.mark.parametrize(
    ("tensor", "layer"),
    [
        ("tiny/quant_conv4/BiasAdd;tiny/quant_conv4/Conv2D;tiny/quant_conv4/Conv2D1", "conv4"),
        ("squeezenet/fire2_1/concat", "fire2_1"),
        ("image", "image"),
    ],
)
def test_a_layer_is_named_without_its_tensors(tensor, layer):
    assert Saturation(tensor, 0.5, 0.1, False).name == layer


def test_images_that_leave_the_ranges_are_counted_and_warned_of(tmp_path, capsys):
    model = net()
    # The range of the pixels is the same: one of each image is white.
    seen, like = (images(60, 0.2, seed=seed) for seed in (0, 1))
    seen[:, 0, 0] = like[:, 0, 0] = 1
    bright = images(40, least=0.9)
    options = {"quantize": "int8", "calibration": seen, "tolerance": np.inf}

    fine = export_litert(model, tmp_path / "fine.tflite", check_images=like, **options)
    assert fine.warning is None

    wrong = export_litert(model, tmp_path / "wrong.tflite", check_images=bright, **options)
    assert "8-bit ranges cut values off" in wrong.warning
    assert "third" in wrong.warning
    assert {found.layer for found in wrong.saturation if found.decides} == {
        found.layer for found in wrong.saturation if "third" in found.layer
    }
    assert f"the end of {wrong.saturated_decision.name}'s range" in wrong.warning
    assert "\n" not in wrong.warning
    assert wrong.most_saturated.values == max(found.values for found in wrong.saturation)
    (first,) = (found for found in wrong.saturation if "first" in found.layer)
    inner = keras.Model(model.input, model.get_layer("first").output)
    outside = np.asarray(inner(bright)) > found_range(wrong.path, "first")[1]
    assert outside.mean() > 0.01
    assert first.values == pytest.approx(outside.mean(), abs=0.02)
    assert first.images == pytest.approx(outside.any(axis=(1, 2, 3)).mean(), abs=0.1)
    assert wrong.model_confidence == pytest.approx(
        model.predict(bright, verbose=0).max(axis=1).mean(), abs=1e-5
    )
    assert wrong.confidence == pytest.approx(
        LiteRTModel(wrong.path).predict(bright).max(axis=1).mean(), abs=1e-5
    )
    assert json.loads(json.dumps(wrong.to_dict()))["warning"] == wrong.warning
    print_exported(wrong, "net.keras", "images")
    assert capsys.readouterr().out.splitlines()[1] == f"warning: {wrong.warning}"
