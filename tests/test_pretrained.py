"""Weights of every kind of file in a model: the right arrays, for whatever images it takes."""

import os
import subprocess
import sys
from dataclasses import replace

import keras
import numpy as np
import pytest

from keras_squeezenet import SqueezeNet
from keras_squeezenet.downloads import FOLDER_VARIABLE
from keras_squeezenet.network import imagenet, pretrained
from keras_squeezenet.network.imagenet import preprocess_input
from keras_squeezenet.network.weight_files import WeightFileError
from tests.tiers import parametrize
from tests.weight_file_writers import (
    CLASSES,
    TINY,
    caffe_bytes,
    ncnn_bytes,
    npz_bytes,
    random_weights,
)

SIDE = 33
RGB = np.random.default_rng(3).integers(0, 256, (2, SIDE, SIDE, 3)).astype("float32")


def small_weights(**options):
    """Weights whose outputs are neither all zero nor saturated."""
    return {
        name: (kernel / 60, bias / 8) for name, (kernel, bias) in random_weights(**options).items()
    }


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    return write(tmp_path_factory.mktemp("npz"), "w.npz", npz_bytes(small_weights()))


def model_of(weights, classes=CLASSES, **options):
    options = {"architecture": TINY, "classifier_activation": None, **options}
    return SqueezeNet(weights=weights, input_shape=(SIDE, SIDE, 3), classes=classes, **options)


def convolution(model, name):
    layer, _, part = name.partition("_")
    found = model.get_layer(layer)
    return getattr(found, part) if part else found


# -- which arrays ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "writer"),
    [("w.npz", npz_bytes), ("w.bin", ncnn_bytes), ("w.caffemodel", caffe_bytes)],
)
def test_every_convolution_gets_its_arrays(tmp_path, name, writer):
    weights = small_weights()
    model = model_of(write(tmp_path, name, writer(weights)))
    for name, (kernel, bias) in weights.items():
        np.testing.assert_array_equal(convolution(model, name).kernel, kernel)
        np.testing.assert_array_equal(convolution(model, name).bias, bias)


def test_with_other_classes_the_last_convolution_is_new_and_the_rest_loaded(npz):
    weights = small_weights()
    model = model_of(npz, classes=CLASSES + 2)
    assert model.output_shape == (None, CLASSES + 2)
    for name, (kernel, _) in weights.items():
        if name != TINY.last_conv_name:
            np.testing.assert_array_equal(convolution(model, name).kernel, kernel)
    assert not convolution(model, TINY.last_conv_name).bias.numpy().any()


def test_without_top_the_features_are_those_of_the_whole_network(npz):
    whole = model_of(npz)
    features = model_of(npz, include_top=False)
    last_fire = whole.get_layer(f"fire{TINY.fire_numbers[-1]}").output
    expected = keras.Model(whole.input, last_fire).predict_on_batch(RGB)
    np.testing.assert_array_equal(features.predict_on_batch(RGB), expected)


def test_the_padding_of_the_last_convolution_follows_the_weights(tmp_path):
    weights = small_weights()
    padded = model_of(write(tmp_path, "p.npz", npz_bytes(weights, last_conv_padding=1)))
    plain = model_of(write(tmp_path, "w.npz", npz_bytes(weights, last_conv_padding=0)))
    last = TINY.last_conv_name
    values = keras.Model(plain.input, plain.get_layer(last).output).predict_on_batch(RGB)
    height, width = values.shape[1:3]
    # Over a zero the 1×1 convolution gives its bias, behind the ReLU.
    frame = (height + 2) * (width + 2) - height * width
    border = frame * np.maximum(weights[last][1], 0)
    expected = (values.sum(axis=(1, 2)) + border) / ((height + 2) * (width + 2))
    np.testing.assert_allclose(padded.predict_on_batch(RGB), expected, rtol=1e-5)
    # A new last layer needs no padding.
    path = tmp_path / "p.npz"
    assert not any("pad" in layer.name for layer in model_of(path, classes=2).layers)


# -- which images ----------------------------------------------------------------------------


@parametrize("preprocessing", [False, True, "caffe", "tf", "torch"], quick=2)
def test_published_weights_are_right_with_every_preprocessing(npz, preprocessing):
    expected = model_of(npz).predict_on_batch(preprocess_input(RGB))
    assert np.abs(expected).max() > 0.1
    model = model_of(npz, include_preprocessing=preprocessing)
    images = RGB if preprocessing else preprocess_input(RGB)
    np.testing.assert_allclose(model.predict_on_batch(images), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("preprocessing", [False, True, "caffe", "tf", "torch"])
def test_torchvision_weights_are_right_with_every_preprocessing(tmp_path, preprocessing):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: make torch")
    from tests.weight_file_writers import torch_bytes, torchvision_state

    normalised = (RGB / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    # The writers' integers are for images of hundreds; these are about 1.
    weights = {name: (30 * kernel, bias) for name, (kernel, bias) in small_weights().items()}
    expected = outputs_of_pytorch(torch, weights, normalised.astype("float32"))
    assert np.abs(expected).max() > 0.1
    path = write(tmp_path, "w.pth", torch_bytes(torchvision_state(weights)))
    model = model_of(path, include_preprocessing=preprocessing)
    images = RGB if preprocessing else preprocess_input(RGB)
    np.testing.assert_allclose(model.predict_on_batch(images), expected, atol=1e-4, rtol=1e-3)


def outputs_of_pytorch(torch, weights, images):
    """The forward pass of torchvision's SqueezeNet, for the architecture TINY."""

    def convolved(x, name, **options):
        if name not in weights:
            return x[:, :0]  # a branch without filters
        kernel, bias = map(torch.from_numpy, weights[name])
        x = torch.nn.functional.conv2d(x, kernel.permute(3, 2, 0, 1), bias, **options)
        return torch.relu(x)

    def pooled(x, number):
        if number not in TINY.pool_after:
            return x
        return torch.nn.functional.max_pool2d(x, 3, 2, ceil_mode=True)

    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    x = pooled(convolved(x, "conv1", stride=2), 1)
    for number in TINY.fire_numbers:
        x = convolved(x, f"fire{number}_squeeze1x1")
        expanded1x1 = convolved(x, f"fire{number}_expand1x1")
        expanded3x3 = convolved(x, f"fire{number}_expand3x3", padding=1)
        x = pooled(torch.cat([expanded1x1, expanded3x3], dim=1), number)
    return convolved(x, TINY.last_conv_name).mean(dim=(2, 3)).numpy()


# -- models saved by Keras -------------------------------------------------------------------


def test_a_saved_model_gives_its_convolutions_and_its_preprocessing(tmp_path, npz):
    saved = model_of(npz, include_preprocessing="tf")
    saved.save(tmp_path / "saved.keras")
    model = model_of(tmp_path / "saved.keras", include_preprocessing=True)
    assert model.get_layer("preprocessing").mode == "tf"
    expected = saved.predict_on_batch(RGB)
    np.testing.assert_array_equal(model.predict_on_batch(RGB), expected)
    bare = model_of(tmp_path / "saved.keras")
    np.testing.assert_allclose(
        bare.predict_on_batch(preprocess_input(RGB)), expected, atol=1e-4, rtol=1e-4
    )


def test_a_saved_model_keeps_the_padding_of_its_last_convolution(tmp_path):
    weights = write(tmp_path, "p.npz", npz_bytes(small_weights(), last_conv_padding=1))
    saved = model_of(weights)
    saved.save(tmp_path / "saved.keras")
    model = model_of(tmp_path / "saved.keras")
    np.testing.assert_array_equal(model.predict_on_batch(RGB), saved.predict_on_batch(RGB))


def test_features_are_taken_from_a_model_with_another_head(tmp_path, npz):
    features = model_of(npz, include_top=False, pooling="avg")
    whole = keras.Sequential([features, keras.layers.Dense(2)])
    whole.save(tmp_path / "saved.keras")
    model = model_of(tmp_path / "saved.keras", classes=2)
    for name, (kernel, _) in small_weights().items():
        if name != TINY.last_conv_name:
            np.testing.assert_array_equal(convolution(model, name).kernel, kernel)


def test_weights_without_names_go_into_the_same_network(tmp_path, npz):
    saved = model_of(npz)
    saved.save_weights(tmp_path / "w.weights.h5")
    model = model_of(tmp_path / "w.weights.h5")
    np.testing.assert_array_equal(model.predict_on_batch(RGB), saved.predict_on_batch(RGB))


def test_weights_without_names_keep_the_padding_of_the_last_convolution(tmp_path):
    padded = write(tmp_path, "p.npz", npz_bytes(small_weights(), last_conv_padding=1))
    saved = model_of(padded)
    saved.save_weights(tmp_path / "w.weights.h5")
    model = model_of(tmp_path / "w.weights.h5")
    np.testing.assert_array_equal(model.predict_on_batch(RGB), saved.predict_on_batch(RGB))


def test_a_new_last_convolution_is_said(npz, caplog):
    model_of(npz)
    assert not caplog.messages
    model_of(npz, classes=3)
    assert "w.npz: the last convolution is new, for 3 classes" in caplog.text


def test_a_new_last_convolution_of_the_published_networks_is_said_too(npz, caplog, monkeypatch):
    monkeypatch.setattr(pretrained, "_published_version", lambda architecture: "1.1")
    monkeypatch.setattr(imagenet, "weights_path", lambda version: npz)
    model_of("imagenet")
    model_of("imagenet", include_top=False)
    assert not caplog.messages
    model_of("imagenet", classes=10)
    assert caplog.messages == ["imagenet: the last convolution is new, for 10 classes"]


# -- what is refused -------------------------------------------------------------------------


def test_weights_of_another_network_are_refused_with_what_was_expected(tmp_path, npz):
    other = replace(TINY, fires=(*TINY.fires, TINY.fires[-1]))
    with pytest.raises(WeightFileError, match=r"w\.npz"):
        model_of(npz, architecture=other)
    model_of(None).save(tmp_path / "saved.keras")
    with pytest.raises(WeightFileError, match=r"Expected the kernel fire\d.*saved\.keras"):
        model_of(tmp_path / "saved.keras", architecture=other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": TINY.with_bypass("simple")}, r"Expected bypass=None around fire\d"),
        (
            {"architecture": replace(TINY, pool_after=(1,))},
            r"Expected poolings after the layers \(1, 3\).*Received: \(1,\)",
        ),
        ({"last_activation": None}, "`last_activation` must be.*linear. Received: .*=relu"),
    ],
    ids=["bypass", "poolings", "last activation"],
)
def test_a_saved_model_of_the_same_arrays_but_another_network_is_refused(tmp_path, change, message):
    saved = tmp_path / "saved.keras"
    model_of(None, **change).save(saved)
    with pytest.raises(ValueError, match=message):
        model_of(saved)


@pytest.mark.parametrize("name", ["w.npz", "w.h5", "w.weights.h5", "w.keras", "w.onnx"])
def test_a_file_of_garbage_is_refused_in_one_line_that_names_it(tmp_path, name):
    path = write(tmp_path, name, b"garbage" * 100)
    with pytest.raises(WeightFileError, match=name) as refused:
        model_of(path)
    assert "\n" not in str(refused.value)


def test_weights_without_names_of_another_network_are_refused_in_one_line(tmp_path):
    model_of(None, classes=CLASSES + 1).save_weights(tmp_path / "w.weights.h5")
    with pytest.raises(
        WeightFileError, match=r"w\.weights\.h5.*model that it was saved"
    ) as refused:
        model_of(tmp_path / "w.weights.h5")
    assert "\n" not in str(refused.value)


def test_weights_for_colours_need_three_channels(npz):
    with pytest.raises(ValueError, match=r"three channels.*Received: input_shape=\(33, 33, 1\)"):
        SqueezeNet(weights=npz, architecture=TINY, classes=CLASSES, input_shape=(33, 33, 1))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x00" * 64])
def test_a_broken_saved_model_is_refused_in_one_line(tmp_path, content):
    path = write(tmp_path, "broken.keras", content)
    with pytest.raises(WeightFileError, match=r"broken\.keras") as refused:
        model_of(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "received"),
    [
        ({"bypass": "simple"}, "architecture=squeezenet1_1, bypass=simple"),
        ({"bypass": "complex"}, "architecture=squeezenet1_1, bypass=complex"),
        ({"architecture": TINY}, f"architecture={TINY.name}, bypass=None"),
    ],
)
def test_there_are_imagenet_weights_for_the_published_networks_only(options, received):
    with pytest.raises(ValueError, match=f"'1.0' and '1.1' without bypass.*{received}"):
        SqueezeNet(weights="imagenet", **options)


# -- the real weights ------------------------------------------------------------------------


@pytest.fixture
def published(shared, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(shared / "weights"))


@pytest.mark.shared
@pytest.mark.usefixtures("published")
@pytest.mark.parametrize(("version", "padding"), [("1.0", 1), ("1.1", 0)])
def test_the_published_networks_come_whole_without_top_or_with_a_new_one(version, padding):
    whole = SqueezeNet(weights="imagenet", version=version)
    names = [layer.name for layer in whole.layers]
    assert ("pad10" in names) == bool(padding)
    features = SqueezeNet(weights="imagenet", version=version, include_top=False)
    tuned = SqueezeNet(weights="imagenet", version=version, classes=7)
    for other in (features, tuned):
        np.testing.assert_array_equal(
            whole.get_layer("fire9").expand3x3.kernel, other.get_layer("fire9").expand3x3.kernel
        )
    assert tuned.output_shape == (None, 7)


@pytest.mark.shared
@pytest.mark.usefixtures("published")
def test_the_published_networks_work_on_another_backend():
    pytest.importorskip("torch", reason="PyTorch is not installed: make torch")
    program = (
        "import numpy as np; from keras_squeezenet import SqueezeNet\n"
        "x = np.random.default_rng(0).uniform(0, 255, (1, 227, 227, 3)).astype('float32')\n"
        "for version in ('1.0', '1.1'):\n"
        "    m = SqueezeNet(weights='imagenet', version=version, input_shape=(227, 227, 3),\n"
        "                   include_preprocessing=True)\n"
        "    print(*np.asarray(m.predict(x, verbose=0))[0, :50])\n"
    )
    outputs = []
    for backend in ("tensorflow", "torch"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "KERAS_BACKEND": backend},
            capture_output=True,
            text=True,
            check=True,
        )
        outputs.append(np.array(done.stdout.split(), "float32"))
    assert outputs[0].shape == (100,)
    np.testing.assert_allclose(*outputs, atol=1e-5)
