import gc
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import disks

# How long an example takes says something about the machine, and nothing about the code.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

# Before any test module imports Keras.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Convolutions with channels first are oneDNN's, which TensorFlow takes by itself only where the
# processor has instructions for neural networks.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


# Begun first where several workers take file after file: so they end at nearly the same time.
LONGEST_FILES = (
    *("pages", "killed_runs", "weight_files_fuzz", "families", "sqz_models_fuzz", "notebooks"),
    *("train_script", "own_networks_runs", "imagenet_accuracy", "compression_cli", "sqz_fuzz"),
    *("bridge_families", "distributed", "models", "loop", "cli", "export", "quantization_aware"),
    *("optimize_script", "retraining", "readme", "backtracking", "training", "sqz_families"),
)


def pytest_collection_modifyitems(items):
    place = {f"test_{name}": number for number, name in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


def pytest_collection_finish():
    """Python's collector leaves out from now on what the imports made, and looks less often."""
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


@pytest.fixture(autouse=True)
def keras_settings():
    """Gives Keras's global settings back as a test found them."""
    keras = sys.modules.get("keras")
    if keras is None:
        yield
        return
    data_format = keras.config.image_data_format()
    policy = keras.config.dtype_policy()
    yield
    keras.config.set_image_data_format(data_format)
    keras.config.set_dtype_policy(policy)


@pytest.fixture(scope="session")
def shared():
    """The folder of real images and published weights."""
    folder = os.environ.get("KERAS_SQUEEZENET_SHARED")
    if not folder:
        pytest.skip("KERAS_SQUEEZENET_SHARED does not name the folder of images and weights")
    if not Path(folder).is_dir():
        pytest.fail(f"KERAS_SQUEEZENET_SHARED must name a folder. Received: {folder}")
    return Path(folder)


@pytest.fixture
def published(request, monkeypatch):
    """The published weights, for an example that is marked as one that needs them."""
    if request.node.get_closest_marker("shared"):
        shared = request.getfixturevalue("shared")
        monkeypatch.setenv("KERAS_SQUEEZENET_WEIGHTS", str(shared / "weights"))


@pytest.fixture
def small_disk(tmp_path):
    """The folder of a disk of 1 MB; skipped where this user may mount none."""
    path = tmp_path / "disk"
    path.mkdir()
    disks.mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", path)
    yield path
    disks.unmount(path)


@pytest.fixture
def numbered(tmp_path):
    """Training images 0…19 whose grey value, and whose class, is their number; four to validate."""
    from tests.pictures import solid, write  # Pillow, NumPy and Keras, which many tests do without

    for number in range(20):
        write(solid(number), tmp_path / "set" / "train" / f"class{number:02}" / "one.png")
    for number in (3, 7, 11, 15):
        write(solid(number), tmp_path / "set" / "val" / f"class{number:02}" / "one.png")
    return tmp_path / "set"
