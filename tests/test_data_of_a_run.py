"""A run's own data are measured by its validation images, however their place is written."""

import json
import os
import shutil

import keras
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from keras_squeezenet import cli, files
from keras_squeezenet.data import load_dataset
from keras_squeezenet.data.sources import is_same_source, resolved
from tests.tiers import parametrize

EACH, HELD_OUT = 10, 0.2  # images of both classes, and the default val_fraction
CLASSES = ("left", "right")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder with photos and a link to them, and another folder of that name elsewhere."""
    rng = np.random.default_rng(0)
    for folder in ("home/photos", "elsewhere/photos"):
        for name in CLASSES:
            (tmp_path / folder / name).mkdir(parents=True)
            for number in range(EACH):
                pixels = rng.integers(0, 255, (8, 8, 3), "uint8")
                Image.fromarray(pixels).save(tmp_path / folder / name / f"{number}.png")
    (tmp_path / "link").symlink_to(tmp_path / "home")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    image = keras.layers.Input((8, 8, 3))
    outputs = keras.layers.Dense(2, "softmax")(keras.layers.Flatten()(image))
    path = tmp_path_factory.mktemp("model") / "model.keras"
    keras.Model(image, outputs).save(path)
    return path


@pytest.fixture
def run_folder(model_file, tmp_path):
    """Makes the folder of a run that was asked for data, and noted them; or not, as older ones."""

    def run_folder(asked, noted=None):
        folder = tmp_path / "run"
        folder.mkdir()
        shutil.copy(model_file, folder)
        files.write_json(folder / "class_names.json", list(CLASSES))
        files.write_json(
            folder / "metrics.json", {"dataset": {"source": noted} if noted else {"name": "photos"}}
        )
        (folder / "recipe.yaml").write_text(
            f"name: photos\ndata: {{source: {json.dumps(str(asked))}, image_size: 8}}\n"
            "model: {}\noptimizer: {learning_rate: 0.1}\ntraining: {epochs: 1, batch_size: 4}\n"
        )
        return folder / "model.keras"

    return run_folder


def images_measured(model, data):
    arguments = ["evaluate", str(model), str(data), "--json"]
    result = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    return json.loads(result.stdout)["count"]


ALL = 2 * EACH
OWN = int(ALL * HELD_OUT)


# What was asked for and what is measured are resolved each by itself: no two are spelled alike.
@pytest.mark.parametrize(
    ("asked", "spelling"),
    [
        ("~/photos", "home/../home/photos"),
        ("photos", "~/photos"),
        ("{link}/photos", "{home}/photos/"),
        ("{home}/photos/", "{link}/photos/"),
    ],
)
def test_a_run_measures_its_own_data_by_what_it_held_out(
    home, run_folder, monkeypatch, asked, spelling
):
    link = home.parent / "link"
    monkeypatch.chdir(home)
    asked = asked.format(home=home, link=link)
    model = run_folder(asked, resolved(asked))
    monkeypatch.chdir(home.parent)
    assert images_measured(model, spelling.format(home=home, link=link)) == OWN
    monkeypatch.chdir(home.parent / "elsewhere")
    assert images_measured(model, "photos") == ALL
    assert images_measured(model, "../link/photos") == OWN


@parametrize(
    ("asked", "noted", "spellings"),
    [
        ("~/photos", None, ["~/photos", "photos"]),
        ("photos", None, ["{link}/photos", "./photos/"]),
        ("{link}/photos/", None, ["~/photos", "photos"]),
        ("~/photos", "/gone/photos", ["{link}/photos", "./photos/"]),
        ("photos", "/gone/photos", ["~/photos", "photos"]),
        ("{link}/photos/", "/gone/photos", ["{link}/photos", "./photos/"]),
    ],
    quick=2,
)
def test_runs_that_noted_nothing_or_come_from_elsewhere(
    home, run_folder, monkeypatch, asked, noted, spellings
):
    link = home.parent / "link"
    monkeypatch.chdir(home)
    model = run_folder(asked.format(link=link), noted)
    for spelling in spellings:
        assert images_measured(model, spelling.format(link=link)) == OWN, spelling
    assert images_measured(model, home.parent / "elsewhere" / "photos") == ALL


def test_the_training_is_found_again_from_another_folder(home, run_folder, monkeypatch):
    monkeypatch.chdir(home)
    model = run_folder("photos", resolved("photos"))
    monkeypatch.chdir(home.parent)
    assert cli.options.asked_of_data(model, None, None, None)["source"] == str(home / "photos")


@pytest.mark.parametrize("noted", [True, False])
def test_a_model_that_is_given_by_a_link_is_of_its_run(home, run_folder, tmp_path, noted):
    photos, elsewhere = home / "photos", tmp_path / "elsewhere" / "photos"
    # Where the run was asked for its data says nothing here, so that its note has to be found.
    model = run_folder("gone" if noted else photos, str(photos) if noted else None)
    link = tmp_path / "best.keras"
    link.symlink_to(model)
    assert cli.options.asked_of_data(link, None, None, None)["source"] == str(photos)
    assert images_measured(link, photos) == OWN
    # A folder of classes is used whole where the model's class names are known.
    assert images_measured(link, elsewhere) == ALL


def test_files_beside_a_link_go_before_those_beside_the_model(home, run_folder, tmp_path):
    model = run_folder(home / "photos")
    folder = tmp_path / "renamed"
    folder.mkdir()
    (folder / "best.keras").symlink_to(model)
    files.write_json(folder / "class_names.json", ["links", "rechts"])
    classifier = cli.options.open_model(folder / "best.keras")
    assert classifier.class_names == ("links", "rechts")


def test_names_of_data_sets_are_no_paths(tmp_path, monkeypatch):
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolved("digits") == "digits"
    assert resolved("tfds:mnist") == "tfds:mnist"
    assert is_same_source("digits", "digits")
    assert not is_same_source("digits", "./digits")
    assert not is_same_source("digits", "cifar10")
    assert is_same_source("gone/", f"{tmp_path}{os.sep}gone")


class TestPartsOfTheData:
    """What a run trained on is known file by file, wherever it is looked for."""

    def measured(self, model, data):
        arguments = ["evaluate", str(model), str(data), "--json"]
        result = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
        found = json.loads(result.stdout)
        return found["count"], found["trained_on"], result.stderr

    def test_a_part_of_them_and_links_to_them_are_known(self, home, run_folder, tmp_path):
        photos = home / "photos"
        photos.rename(home / "train")
        photos.mkdir()
        (home / "train").rename(photos / "train")
        model = run_folder(photos)
        assert self.measured(model, photos)[:2] == (OWN, 0)
        count, known, said = self.measured(model, photos / "train")
        assert (count, known) == (ALL, ALL - OWN)
        assert f"trained on {known} of these {count} images" in said
        assert self.measured(model, home.parent / "link/photos/train")[:2] == (ALL, ALL - OWN)
        links = tmp_path / "links"
        for name in CLASSES:
            (links / name).mkdir(parents=True)
            for file in (photos / "train" / name).iterdir():
                (links / name / f"link-{file.name}").symlink_to(file)
        assert self.measured(model, links)[:2] == (ALL, ALL - OWN)

    def test_of_other_photos_nothing_is_said(self, home, run_folder):
        model = run_folder(home / "photos")
        count, known, said = self.measured(model, home.parent / "elsewhere" / "photos")
        assert (count, known, said) == (ALL, 0, "")

    def test_data_by_name_have_no_files_and_are_not_downloaded(self, home, run_folder, monkeypatch):
        def download(name):
            raise AssertionError(f"{name} is not asked for")

        monkeypatch.setattr("keras_squeezenet.data.sources.download_cifar", download)
        # A folder of that name is another thing.
        (home / "cifar10").mkdir()
        monkeypatch.chdir(home)
        model = run_folder("cifar10", "cifar10")
        assert self.measured(model, home / "photos") == (ALL, 0, "")

    def test_of_examples_that_are_no_files_nothing_is_looked_for(
        self, home, run_folder, monkeypatch
    ):
        model = run_folder(home / "photos")
        digits = load_dataset("digits", image_size=8).val
        monkeypatch.setattr("keras_squeezenet.data.load_dataset", None)
        assert cli.options.trained_on(model, digits) == 0

    @pytest.mark.parametrize(
        ("lost", "said"), [("photos", "one folder per class"), ("photos/left", "no image in this")]
    )
    def test_where_the_runs_data_cannot_be_read_others_are_measured(
        self, home, run_folder, lost, said
    ):
        """The folder of a disk that is not mounted is empty; or someone has emptied a class."""
        model = run_folder(home / "photos", str(home / "photos"))
        shutil.rmtree(home / lost)
        (home / lost).mkdir()
        count, known, line = self.measured(model, home.parent / "elsewhere" / "photos")
        assert (count, known) == (ALL, 0)
        assert line.startswith("how many of these images the model was trained on is not known: ")
        assert said in line
        assert line.count("\n") == 1


def test_a_conversion_is_compared_on_images_that_the_run_trained_on(
    home, run_folder, tmp_path, monkeypatch
):
    """As the run divided them, not as the defaults would."""
    model = run_folder(home / "photos")
    recipe = model.with_name("recipe.yaml")
    recipe.write_text(
        recipe.read_text().replace(
            "image_size: 8", "image_size: 8, val_fraction: 0.5, split_seed: 4"
        )
    )
    asked = {}

    def sample_images(source, **how):
        asked.update(how)
        return iter(np.random.default_rng(0).uniform(0, 255, (20, 1, 8, 8, 3)).astype("float32"))

    monkeypatch.setattr("keras_squeezenet.data.measuring.sample_images", sample_images)
    arguments = ["export", str(model), str(tmp_path / "out.tflite"), "--json"]
    result = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    assert (asked["val_fraction"], asked["seed"]) == (0.5, 4)
