"""Folders as people have them: strange names, broken files, links in circles; with train.py."""

import json
import os
import subprocess

import numpy as np
import pytest
import yaml
from PIL import Image

from keras_squeezenet.data import DataError, load_dataset
from keras_squeezenet.distributed import LAUNCHER_VARIABLES
from tests import preloaded
from tests.interrupted_runs import TRAIN

NAMES = (
    "cats and dogs",
    'it\'s "quoted" <b>&amp;',
    "line\nend\r",
    "日本語 кот ☃",
    os.fsdecode(b"caf\xe9"),  # no valid Unicode
    "$(x); `y` %s {z} \\n*?[a]",
)
PICTURES = 38
RECIPE = {
    "name": "foreign",
    "data": {"image_size": 16, "max_broken_share": 0.1},
    "model": {
        "metaparameters": {
            "base_e": 8,
            "incr_e": 8,
            "fires": 1,
            "pool_after": [1],
            "conv1_filters": 8,
            "conv1_kernel_size": 3,
        },
        "kernel_initializer": "he_normal",
    },
    "optimizer": {"name": "adam", "learning_rate": 0.01, "schedule": "constant"},
    "training": {"epochs": 2, "batch_size": 16},
}


def write_pictures(folder, label):
    rng = np.random.default_rng(label)
    folder.mkdir(parents=True)
    for number in range(PICTURES):
        pixels = np.clip(rng.normal(20 + 40 * label, 10, (20, 24, 3)), 0, 255).astype("uint8")
        name = f"{folder.name} {number}\t'\n\".png" if number % 2 else f"{number}.jpg"
        Image.fromarray(pixels).save(folder / name)


def break_one_in_twenty(folder):
    (folder / "empty.jpg").touch()
    whole = (folder / "0.jpg").read_bytes()
    (folder / "half.jpg").write_bytes(whole[: len(whole) // 2])
    return {folder / "empty.jpg", folder / "half.jpg"}


def link_in_circles(folder):
    (folder / "up").symlink_to("..")  # a folder among the pictures
    (folder / "self.jpg").symlink_to("self.jpg")
    (folder / "nowhere.jpg").symlink_to("gone.jpg")
    return {folder / "self.jpg", folder / "nowhere.jpg"}


@pytest.fixture
def folder(tmp_path):
    for label, name in enumerate(NAMES):
        write_pictures(tmp_path / "photos\n'of' all" / name, label)
    return tmp_path / "photos\n'of' all"


def train(tmp_path, folder, *arguments):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    environment = {k: v for k, v in os.environ.items() if k not in LAUNCHER_VARIABLES}
    return subprocess.run(
        preloaded.command(
            *(TRAIN, "--recipe", recipe, "--output", tmp_path / "run"),
            *("--set", f"data.source={json.dumps(str(folder))}"),
            *arguments,
        ),
        capture_output=True,
        text=True,
        timeout=150,
        env={**environment, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )


@pytest.mark.slow
def test_they_are_trained_through_and_what_is_left_out_is_named(tmp_path, folder):
    broken = link_in_circles(folder / NAMES[0])
    for name in NAMES:
        broken |= break_one_in_twenty(folder / name)
    done = train(tmp_path, folder)
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["dataset"]["class_names"] == sorted(NAMES)
    assert {entry["file"] for entry in metrics["broken_images"]} == set(map(str, broken))
    counted = metrics["dataset"]["train"] + metrics["dataset"]["val"]
    assert counted == len(NAMES) * PICTURES + len(broken)
    # A line for each, though names have line ends.
    said = [line for line in done.stderr.splitlines() if line.startswith("WARNING: Left out ")]
    assert len(said) == len(broken)
    assert not [line for line in done.stderr.splitlines() if line.startswith("end/")]
    assert "Traceback" not in done.stderr
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<b>&amp;" not in page  # the class of that name is shown as it is written
    assert "日本語 кот ☃" in page
    # As of a run that was killed after its last epoch: who ends it reads no training picture.
    for name in ("metrics.json", "report.html"):
        (tmp_path / "run" / name).unlink()
    done = train(tmp_path, folder, "--resume")
    assert done.returncode == 0, done.stderr[-3000:]
    again = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert {entry["file"] for entry in again["broken_images"]} == set(map(str, broken))


@pytest.mark.parametrize("target", ["loop", "gone"])
def test_a_class_that_is_a_link_to_nothing_is_refused_in_one_line(tmp_path, target):
    for label, name in enumerate(NAMES[:2]):
        write_pictures(tmp_path / "photos" / name, label)
    (tmp_path / "photos" / "loop").symlink_to(target)
    with pytest.raises(DataError, match="loop: expected a folder, and this link leads nowhere"):
        load_dataset(str(tmp_path / "photos"), image_size=16)


def test_a_class_that_is_a_link_to_a_folder_is_a_class(tmp_path):
    for label, name in enumerate(NAMES[:2]):
        write_pictures(tmp_path / "photos" / name, label)
    write_pictures(tmp_path / "elsewhere", 2)
    (tmp_path / "photos" / "third").symlink_to(tmp_path / "elsewhere")
    dataset = load_dataset(str(tmp_path / "photos"), image_size=16)
    assert dataset.class_names == (*NAMES[:2], "third")
