"""train/optimize.py as a user starts it: the whole chain, a part of it, on two ranks, mistakes."""

import csv
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import yaml
from ai_edge_litert.interpreter import Interpreter

from keras_squeezenet.cli.options import asked_of_data
from keras_squeezenet.cli.training import CompressionRequest
from keras_squeezenet.compression.saving import load_compressed
from keras_squeezenet.compression.with_training.bridge import kernels
from keras_squeezenet.data import load_dataset
from keras_squeezenet.distributed import LAUNCHER_VARIABLES
from keras_squeezenet.errors import InputError
from keras_squeezenet.litert.export import export_litert
from keras_squeezenet.training.building import build_model, load_data
from keras_squeezenet.training.locks import LOCK_FILE, FolderLock
from keras_squeezenet.training.recipe import load_recipe
from tests.launching import greetings, horovodrun, needs_horovod
from tests.scripts import run_script
from tests.test_compression_report import exported
from tests.test_report import Page
from tests.test_train_script import RECIPE

OPTIMIZE = Path(__file__).parents[1] / "train" / "optimize.py"
sys.path.append(str(OPTIMIZE.parent))
script = importlib.import_module("optimize")
QUICKLY = [
    word
    for setting in (
        "prune.epochs=5",
        "prune.learning_rate=0.005",
        "prune.sparsity=0.6",
        "cluster.epochs=3",
        "cluster.learning_rate=0.001",
        "cluster.bits=4",
        "quantize.epochs=1",
    )
    for word in ("--set", setting)
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run: a small network that knows the digits somewhat."""
    folder = tmp_path_factory.mktemp("run") / "run"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    recipe = load_recipe(folder / "recipe.yaml")
    dataset = load_data(recipe)
    keras.utils.set_random_seed(0)
    model = build_model(recipe.model, dataset.image_size, 10)
    model.compile(
        keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy", jit_compile=False
    )
    steps = dataset.train.steps_per_epoch(32)
    model.fit(dataset.train.train_batches(32, seed=0), epochs=6, steps_per_epoch=steps, verbose=0)
    model.save(folder / "model.keras", include_optimizer=False)
    return folder


def optimize(*arguments):
    environment = {k: v for k, v in os.environ.items() if k not in LAUNCHER_VARIABLES}
    return subprocess.run(
        [sys.executable, str(OPTIMIZE), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**environment, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )


@pytest.fixture(scope="module")
def compressed(run, tmp_path_factory):
    before = (run / "model.keras").read_bytes()
    done = optimize(run, *QUICKLY)
    assert done.returncode == 0, done.stderr[-3000:]
    assert greetings(done.stderr) == []
    assert (run / "model.keras").read_bytes() == before
    return run / "compressed"


def table(folder):
    with (folder / "compression.csv").open() as lines:
        return {row["file"]: row for row in csv.DictReader(lines)}


def measured_by_hand(predict):
    """Top-1 on the digits' validation split and the mean highest probability, with numpy alone."""
    batches = list(load_dataset("digits", image_size=32).val.val_batches(64))
    labels = np.concatenate([labels for _, labels in batches])
    outputs = np.concatenate([np.asarray(predict(images.numpy())) for images, _ in batches])
    return (outputs.argmax(axis=1) == labels).mean(), outputs.max(axis=1).mean()


def run_litert(path):
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    taken, given = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

    def predict(images):
        outputs = []
        for image in images:
            interpreter.set_tensor(taken["index"], image[None])
            interpreter.invoke()
            outputs.append(interpreter.get_tensor(given["index"])[0])
        return outputs

    return predict


@pytest.mark.slow
class TestWholeChain:
    def test_every_stage_leaves_a_file_and_a_row(self, compressed):
        assert list(table(compressed)) == [
            "model.keras",
            "pruned.keras",
            "clustered.keras",
            "model-faithful.sqz",
            "model-best.sqz",
            "model-int8.tflite",
        ]
        for name, row in table(compressed).items():
            folder = compressed.parent if name == "model.keras" else compressed
            assert int(row["bytes"]) == (folder / name).stat().st_size
            assert row["images"] == "359"

    @pytest.mark.parametrize("name", ["pruned.keras", "model-best.sqz", "model-int8.tflite"])
    def test_the_accuracy_in_the_table_is_that_of_the_file(self, compressed, name):
        path = compressed / name
        if path.suffix == ".tflite":
            predict = run_litert(path)
        elif path.suffix == ".sqz":
            predict = load_compressed(path).predict_on_batch
        else:
            predict = keras.saving.load_model(path).predict_on_batch
        row = table(compressed)[name]
        assert (float(row["top1"]), float(row["confidence"])) == pytest.approx(
            measured_by_hand(predict), abs=1e-4
        )

    def test_the_network_is_as_sparse_and_as_shared_as_asked(self, compressed):
        for name in ("pruned.keras", "clustered.keras"):
            for kernel in kernels(keras.saving.load_model(compressed / name)).values():
                assert np.mean(kernel == 0) == pytest.approx(0.6, abs=1 / kernel.size + 1e-6)
                assert name == "pruned.keras" or len(np.unique(kernel)) <= 2**4

    def test_both_sqz_files_hold_the_clustered_weights_bit_by_bit(self, compressed):
        clustered = keras.saving.load_model(compressed / "clustered.keras").get_weights()
        for name in ("model-faithful.sqz", "model-best.sqz"):
            packed = load_compressed(compressed / name).get_weights()
            for ours, theirs in zip(packed, clustered, strict=True):
                np.testing.assert_array_equal(ours, theirs)

    def test_it_gets_small_and_still_knows_the_digits(self, compressed):
        rows = table(compressed)
        for name in ("model-faithful.sqz", "model-best.sqz"):
            assert float(rows[name]["times_smaller"]) > 6
        before = float(rows["model.keras"]["top1"])
        assert before > 0.9
        assert min(float(row["top1"]) for row in rows.values()) > before - 0.1

    def test_the_page_shows_the_chain_and_what_was_asked(self, compressed):
        page = Page(compressed / "report.html")
        assert page.sections() == ["stages", "ranges", "bytes", "layers", "weights", "run"]
        assert len(page.images()) == 4
        assert "On 100 images" in page.texts
        recipe = yaml.safe_load((compressed / "compression.yaml").read_text())
        assert (recipe["prune"]["sparsity"], recipe["cluster"]["bits"]) == (0.6, 4)

    def test_its_models_know_what_they_were_trained_on(self, run, compressed):
        """So that `evaluate` takes the images that were held out for what is new to them."""
        of_the_run = load_recipe(run / "recipe.yaml").data
        held_out = asked_of_data(compressed / "pruned.keras", of_the_run.source, None, None)
        assert held_out["held_out"]
        assert held_out["seed"] == of_the_run.split_seed

    def test_nothing_temporary_is_left(self, compressed):
        hidden = [path.name for path in compressed.iterdir() if path.name.startswith(".")]
        assert hidden == [LOCK_FILE]


class TestParts:
    def test_packing_alone_shares_the_weights_as_they_are(self, run, tmp_path):
        done = run_script(
            *(OPTIMIZE, run, "--stages", "pack"),
            *("--output", tmp_path, "--set", "cluster.bits=6"),
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert list(table(tmp_path)) == ["model.keras", "model-faithful.sqz", "model-best.sqz"]
        for kernel in kernels(load_compressed(tmp_path / "model-best.sqz")).values():
            assert len(np.unique(kernel)) <= 2**6


class TestRanges:
    def test_the_int8_file_is_compared_on_the_validation_images(self, run, tmp_path, monkeypatch):
        counted = []

        def quantize_aware(*_, validation_data, **__):
            counted.append(sum(len(labels) for _, labels in validation_data))
            raise InputError("seen enough")

        monkeypatch.setattr(script, "quantize_aware", quantize_aware)
        with pytest.raises(InputError, match="seen enough"):
            script.main(CompressionRequest(run, ("quantize",), output=tmp_path))
        assert counted == [359]

    def test_an_int8_file_that_cuts_values_off_is_warned_of(self, run, tmp_path, capsys):
        of_the_run = load_recipe(run / "recipe.yaml")
        data = load_data(of_the_run)
        stages = script.Stages(tmp_path, data, of_the_run)
        file, (images, _) = tmp_path / "file.tflite", next(iter(data.val.val_batches(4)))
        export_litert(keras.saving.load_model(run / "model.keras"), file, check_images=[images])
        found = exported(0.5, images_at_end=0.31)

        def write_litert(path, **_):
            shutil.copy(file, path)
            return found

        stages.quantize("int8 LiteRT", "a.tflite", SimpleNamespace(write_litert=write_litert))
        measured, warning = capsys.readouterr().out.splitlines()
        assert measured.startswith("int8 LiteRT: ")
        assert warning == f"warning: {found.warning}"
        assert stages.measured[0].exported is found


class TestTwoRanks:
    pytestmark = needs_horovod

    @pytest.mark.slow
    def test_they_compress_as_one_does_with_their_batches_together(self, run, compressed, tmp_path):
        halves = ["--set", f"batch_size={RECIPE['training']['batch_size'] // 2}"]
        # Quantization-aware training on two ranks has a test of its own.
        stages = ("--stages", "prune,cluster,pack")
        done = horovodrun(
            OPTIMIZE, run, "--output", tmp_path, *stages, *QUICKLY, *halves, timeout=600
        )
        assert done.returncode == 0, done.stderr[-3000:]
        alone, together = table(compressed), table(tmp_path)
        assert list(together) == list(alone)[:-1]
        for name, row in together.items():
            if row["density"]:
                assert float(row["density"]) == pytest.approx(
                    float(alone[name]["density"]), abs=0.01
                )
            # Sums in another order decide otherwise in a few close calls.
            assert float(row["top1"]) == pytest.approx(float(alone[name]["top1"]), abs=0.05)


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--stages", "prune,squash"], "--stages takes prune, cluster, pack, quantize."),
            (["--set", "prune.sparsty=0.5"], "unknown key prune.sparsty; did you mean sparsity?"),
            (["--set", "cluster.bits=9"], "Received: cluster.bits=9"),
            (
                ["--stages", "pack", "--set", "cluster.bits={conv1: 4}"],
                "cluster.bits by layers needs the stage cluster. Received: cluster.bits=",
            ),
            (["--output", "RUN"], "The output must be another folder than the run's"),
        ],
    )
    def test_bad_input_is_one_line_and_changes_nothing(self, run, arguments, message):
        before = {path: path.stat().st_mtime_ns for path in run.iterdir()}
        arguments = [str(run) if word == "RUN" else word for word in arguments]
        done = run_script(OPTIMIZE, run, *arguments)
        assert done.returncode == 2
        assert message in done.stderr.splitlines()[-1]
        assert {path: path.stat().st_mtime_ns for path in run.iterdir()} == before

    def test_two_do_not_write_into_one_folder(self, run, tmp_path):
        with FolderLock(tmp_path) as lock:
            lock.hold()
            done = run_script(OPTIMIZE, run, "--output", tmp_path)
        assert done.returncode == 2
        assert f"is using the folder {tmp_path}: process {os.getpid()}" in done.stderr
        assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]

    def test_a_folder_without_a_run_is_named(self, tmp_path):
        done = run_script(OPTIMIZE, tmp_path)
        assert done.returncode == 2
        last = done.stderr.splitlines()[-1]
        assert last.startswith("optimize.py: ")
        assert f"recipe.yaml is missing in {tmp_path}" in last
        assert not list(tmp_path.iterdir())
