"""What the published networks take and say, and the files that the package knows of them."""

import hashlib
import json
from dataclasses import replace

import keras
import numpy as np
import pytest

from keras_squeezenet import downloads
from keras_squeezenet.network import imagenet


@pytest.mark.shared
def test_the_registry_knows_the_real_files(shared, monkeypatch):
    monkeypatch.setenv(downloads.FOLDER_VARIABLE, str(shared / "weights"))
    for file in (*imagenet.WEIGHTS.values(), imagenet.CLASS_INDEX):
        assert downloads.published_path(file) == shared / "weights" / file.name


# -- preprocess_input ------------------------------------------------------------------------


def by_hand(rgb):
    return rgb[..., ::-1].astype("float32") - np.float32([104, 117, 123])


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
@pytest.mark.parametrize("shape", [(5, 4, 3), (2, 5, 4, 3)])
def test_images_become_blue_green_red_minus_the_means(shape, dtype):
    images = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    prepared = imagenet.preprocess_input(images)
    assert isinstance(prepared, np.ndarray)
    assert prepared.dtype == np.float32
    np.testing.assert_array_equal(prepared, by_hand(images))


def test_channels_first_images_are_prepared_along_their_own_axis():
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3)).astype("float32")
    prepared = imagenet.preprocess_input(images.transpose(0, 3, 1, 2), "channels_first")
    np.testing.assert_array_equal(prepared.transpose(0, 2, 3, 1), by_hand(images))
    one = imagenet.preprocess_input(images[0].transpose(2, 0, 1), data_format="channels_first")
    np.testing.assert_array_equal(one.transpose(1, 2, 0), by_hand(images[0]))


def test_the_callers_array_stays_as_it_is():
    images = np.full((1, 2, 2, 3), 7, "float32")
    imagenet.preprocess_input(images)
    assert (images == 7).all()


def test_half_precision_policies_do_not_reach_the_preprocessing():
    keras.config.set_dtype_policy("mixed_bfloat16")
    images = np.full((1, 2, 2, 3), 255, "uint8")
    np.testing.assert_array_equal(imagenet.preprocess_input(images), by_hand(images))


def test_tensors_give_tensors_and_symbolic_ones_symbolic():
    images = np.random.default_rng(0).uniform(0, 255, (1, 3, 3, 3)).astype("float32")
    prepared = imagenet.preprocess_input(keras.ops.convert_to_tensor(images))
    assert keras.ops.is_tensor(prepared)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(prepared), by_hand(images))
    inputs = keras.Input((3, 3, 3))
    model = keras.Model(inputs, imagenet.preprocess_input(inputs))
    np.testing.assert_allclose(model.predict_on_batch(images), by_hand(images))


@pytest.mark.parametrize("shape", [(4, 4), (1, 1, 4, 4, 3)])
def test_what_is_no_image_is_refused(shape):
    with pytest.raises(ValueError, match="`x` must be an image"):
        imagenet.preprocess_input(np.zeros(shape))


# -- decode_predictions ----------------------------------------------------------------------


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A class index of invented names, known by its own hash."""
    content = json.dumps({str(i): [f"n{i:08d}", f"kind {i}"] for i in range(1000)})
    (tmp_path / imagenet.CLASS_INDEX.name).write_text(content)
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    monkeypatch.setenv(downloads.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(imagenet, "CLASS_INDEX", replace(imagenet.CLASS_INDEX, sha256=sha256))
    imagenet.class_index.cache_clear()
    yield
    imagenet.class_index.cache_clear()


@pytest.mark.usefixtures("index")
def test_predictions_are_named_the_greatest_first():
    scores = np.zeros((2, 1000), "float32")
    scores[0, [7, 3, 999]] = 0.5, 0.3, 0.2
    scores[1, 0] = 1
    decoded = imagenet.decode_predictions(scores, top=3)
    assert decoded[0] == [
        ("n00000007", "kind 7", 0.5),
        ("n00000003", "kind 3", pytest.approx(0.3)),
        ("n00000999", "kind 999", pytest.approx(0.2)),
    ]
    assert decoded[1][0] == ("n00000000", "kind 0", 1.0)
    assert imagenet.class_names()[999] == "kind 999"


@pytest.mark.usefixtures("index")
@pytest.mark.parametrize("shape", [(1000,), (1, 10), (1, 1000, 1)])
def test_predictions_of_other_classes_are_refused(shape):
    with pytest.raises(ValueError, match=r"shape \(batch, 1000\)\. Received: preds\.shape"):
        imagenet.decode_predictions(np.zeros(shape))


@pytest.mark.usefixtures("index")
@pytest.mark.parametrize("top", [0, 1001, 2.5, True])
def test_a_number_of_classes_that_there_is_not_is_refused(top):
    with pytest.raises(ValueError, match=f"`top` must be.*Received: top={top}"):
        imagenet.decode_predictions(np.zeros((1, 1000)), top)


@pytest.mark.shared
def test_predictions_agree_with_those_of_keras(shared, monkeypatch):
    monkeypatch.setenv(downloads.FOLDER_VARIABLE, str(shared / "weights"))
    imagenet.class_index.cache_clear()
    reference = keras.applications.imagenet_utils
    names = json.loads((shared / "weights" / "imagenet_class_index.json").read_text())
    # What it has read is kept there: it needs no download.
    monkeypatch.setattr("keras.src.applications.imagenet_utils.CLASS_INDEX", names)
    scores = np.random.default_rng(0).uniform(size=(3, 1000)).astype("float32")
    ours = imagenet.decode_predictions(scores, top=7)
    assert ours == [
        [(code, name, float(score)) for code, name, score in image]
        for image in reference.decode_predictions(scores, top=7)
    ]
    imagenet.class_index.cache_clear()
