"""The published networks on real photos, by the scripts behind results/imagenet.csv and int8.csv.

The counts of right answers are those of an independent implementation on the same 600 photos.
"""

import importlib
import math
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_squeezenet.downloads import FOLDER_VARIABLE
from keras_squeezenet.network import imagenet
from keras_squeezenet.training.diagnosis import Diagnosis, Observer

sys.path.append(str(Path(__file__).parents[1] / "studies"))
imagenet_accuracy = importlib.import_module("imagenet_accuracy")
int8_study = importlib.import_module("int8_study")

TOLERANCE = 2  # photos of 600


@pytest.fixture(scope="module")
def weights_folder(shared):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv(FOLDER_VARIABLE, str(shared / "weights"))
        yield shared / "weights"


@pytest.fixture(scope="module")
def photos(shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    with zipfile.ZipFile(shared / "data" / "imagenet_dev.zip") as archive:
        archive.extractall(folder)
    return imagenet_accuracy.read_photos(str(folder / "imagenet_dev"))


@pytest.fixture(scope="module")
def rows(weights_folder, photos):
    """The rows of 1.1, by form and framing; the reference on the int8 file's photos apart."""
    measured = list(imagenet_accuracy.measure_network(photos, "1.1", "imagenet"))
    names = [(row["form"], row["framing"], row["images"]) for row in measured]
    assert len(set(names)) == len(names)
    return dict(zip(names, measured, strict=True))


@pytest.mark.shared
@pytest.mark.parametrize(
    ("weights", "top1", "top5"),
    [("imagenet", 337, 481), ("squeezenet_v1.0_fp32.npz", 332, 481)],
    ids=["deep-compressed", "float32"],
)
def test_1_0_recognises_the_photos_that_an_independent_implementation_does(
    weights_folder, photos, weights, top1, top5
):
    if weights != "imagenet":
        weights = weights_folder / weights
    network = imagenet_accuracy.build("1.0", weights)
    prepared = imagenet.preprocess_input(photos.pixels)
    probabilities = imagenet_accuracy.predict(network, prepared)
    ranks = (probabilities > probabilities[range(600), photos.labels][:, None]).sum(axis=1)
    assert abs((ranks < 1).sum() - top1) <= TOLERANCE
    assert abs((ranks < 5).sum() - top5) <= TOLERANCE


@pytest.mark.shared
def test_1_1_recognises_the_photos_that_an_independent_implementation_does(rows):
    row = rows["Keras", "stretch, Pillow", 600]
    assert row["top1"] * 600 == pytest.approx(328, abs=TOLERANCE)
    assert row["top5"] * 600 == pytest.approx(480, abs=TOLERANCE)
    assert row["top1_standard_error"] == pytest.approx(0.0203, abs=1e-4)


@pytest.mark.shared
@pytest.mark.parametrize(("version", "weights"), [("1.0", "float32"), ("1.1", "imagenet")])
def test_a_network_that_has_learned_with_its_last_relu_is_not_called_stuck(
    weights_folder, photos, version, weights
):
    """Of 1,000 classes, for 64 photos of some 60 of them."""
    if weights == "float32":
        weights = weights_folder / "squeezenet_v1.0_fp32.npz"
    network = imagenet_accuracy.build(version, weights)
    prepared = imagenet.preprocess_input(photos.pixels)
    for start in (0, 64):
        some = slice(start, start + 64)
        observer = Observer(network, prepared[some])
        diagnosis = Diagnosis(imagenet.CLASSES)
        assert diagnosis.add(observer.look()) == []
        assert diagnosis.add(observer.look(), loss=2.0) == []


@pytest.mark.shared
@pytest.mark.parametrize(
    ("form", "framing"),
    [
        ("Keras, include_preprocessing", "stretch, Pillow"),
        ("Keras, channels_first", "stretch, Pillow"),
        ("Keras, include_preprocessing", "stretch"),  # through our own pipeline
        ("LiteRT none", "stretch, Pillow"),
    ],
)
def test_exact_forms_decide_every_photo_alike(rows, form, framing):
    assert rows[form, framing, 600]["decisions_changed"] == 0


@pytest.mark.shared
def test_the_int8_file_is_within_a_point_and_a_half_on_photos_it_was_not_calibrated_with(rows):
    int8, keras = (rows[form, "stretch, Pillow", 500] for form in ("LiteRT int8", "Keras"))
    assert abs(int8["top1"] - keras["top1"]) <= 0.015
    assert abs(int8["top5"] - keras["top5"]) <= 0.015
    assert 0 < int8["decisions_changed"] < 0.1 * 500
    assert int8["bytes"] < 0.3 * rows["LiteRT none", "stretch, Pillow", 600]["bytes"]


def test_no_photo_is_both_calibrated_with_and_measured():
    calibration, others = imagenet_accuracy.divide(600)
    assert len(calibration) == 100
    assert sorted([*calibration, *others]) == list(range(600))
    assert np.ptp(np.diff(calibration)) == 0  # evenly spread


def test_photos_are_squeezed_by_pillow(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 300, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "wide.png")
    (tmp_path / "labels.csv").write_text("file,class_index\nwide.png,999\n")

    photos = imagenet_accuracy.read_photos(str(tmp_path))

    expected = Image.fromarray(noise).resize((227, 227), Image.BILINEAR)
    np.testing.assert_array_equal(photos.pixels, np.asarray(expected, np.float32)[None])
    assert photos.labels.tolist() == [999]


def test_the_study_counts_what_was_lost_and_won_and_how_sure_that_is():
    labels = np.array([0, 0, 1, 1])
    reference = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    quantized = np.array([[0.4, 0.6], [0.5, 0.5], [0.1, 0.9], [0.2, 0.8]])

    row = int8_study.compare(reference, quantized, labels)

    # The first is lost, the last won; of the shared first place the lower class counts.
    changes = np.array([-1, 0, 0, 1])
    assert row["float32_top1"] == row["top1"] == 0.75
    assert row["lost_points"] == 0
    assert row["standard_error"] == pytest.approx(100 * changes.std() / math.sqrt(4), abs=0.01)
    assert row["decisions_changed"] == 2
    assert row["shared_first_places"] == 1
    assert row["mean_difference"] == pytest.approx((0.5 + 0.3 + 0.2 + 0.4) / 4)
