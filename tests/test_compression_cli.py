"""The commands that compress: compress, decompress, diff, patch, prune, cluster, quantize."""

import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from PIL import Image
from typer.testing import CliRunner

from keras_squeezenet import cli, files, load_compressed, save_compressed, sqz
from keras_squeezenet.cli.tables import print_retrained
from keras_squeezenet.compression.samples import HeldOut, draw_samples
from keras_squeezenet.data import load_dataset
from keras_squeezenet.distributed import stalls
from keras_squeezenet.errors import InputError
from keras_squeezenet.extras import EXTRAS
from keras_squeezenet.litert import comparison
from keras_squeezenet.network.graph import convolutions_of
from keras_squeezenet.sqz.files import read_network, write_network
from tests.compression_digits import SIDE, trained_net
from tests.sqz_networks import assert_same, counted
from tests.tiers import parametrize

DIGITS = tuple("0123456789")


def run(*arguments):
    """Run a command in this process: its standard output."""
    result = CliRunner().invoke(cli.app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def measured_by(*arguments):
    """What a command says with --json."""
    return json.loads(run(*arguments, "--json"))


def refused(*arguments):
    """The line that a command refuses its input with."""
    with pytest.raises(InputError) as error:
        CliRunner().invoke(cli.app, list(map(str, arguments)), catch_exceptions=False)
    assert "\n" not in str(error.value)
    return str(error.value)


def kernels(model):
    return [layer.kernel.numpy() for layer in convolutions_of(model.layers).values()]


def accuracy(predict):
    """Top-1 on the digits' validation split, with numpy alone."""
    batches = list(load_dataset("digits", image_size=SIDE).val.val_batches(50))
    right = [np.asarray(predict(images)).argmax(axis=1) == labels for images, labels in batches]
    return np.concatenate(right).mean()


def assert_equal_weights(model, other):
    for ours, theirs in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    """A small SqueezeNet that knows the digits, with its class names."""
    folder = tmp_path_factory.mktemp("model")
    trained_net().save(folder / "model.keras")
    files.write_json(folder / "class_names.json", list(DIGITS))
    return folder / "model.keras"


@pytest.fixture(scope="module")
def rounded_path(model_path, tmp_path_factory):
    """The same with few different weights."""
    model = keras.saving.load_model(model_path)
    model.set_weights([np.round(8 * weight) / 8 for weight in model.get_weights()])
    folder = tmp_path_factory.mktemp("rounded")
    model.save(folder / "rounded.keras")
    return folder / "rounded.keras"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Sixty digits as image files in one folder, and labels.csv of another such folder."""
    folder = tmp_path_factory.mktemp("photos")
    val = load_dataset("digits", image_size=SIDE).val
    rows = ["file,class_index"]
    for kind in ("plain", "labelled"):
        (folder / kind).mkdir()
    for index in range(60):
        pixels, label = val.example(index)
        image = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        for kind in ("plain", "labelled"):
            image.save(folder / kind / f"{index:02}.png")
        rows.append(f"{index:02}.png,{label}")
    (folder / "labelled" / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


class TestCompress:
    def test_bits_and_density_are_kept_and_the_file_is_measured(self, model_path, tmp_path):
        out = tmp_path / "digits.sqz"
        measured = measured_by(
            *("compress", model_path, out, "--calibration", "digits", "--images", 40),
            *("--bits", 3, "--density", 0.5),
        )
        model, packed = keras.saving.load_model(model_path), load_compressed(out)
        for kernel in kernels(packed):
            assert len(np.unique(kernel)) <= 2**3
            # What is kept may be rounded to 0 with the rest.
            assert np.count_nonzero(kernel) <= np.ceil(0.5 * kernel.size)
        assert measured["bytes"] == out.stat().st_size == sum(measured["bytes_spent"].values())
        assert measured["float32_bytes"] == 4 * sum(weight.size for weight in model.get_weights())
        assert (measured["images"], measured["images_judged"]) == (40, 359)
        assert measured["top1_before"] == pytest.approx(accuracy(model.predict_on_batch))
        assert measured["top1_after"] == pytest.approx(accuracy(packed.predict_on_batch))
        assert not measured["weights_equal"]
        assert read_network(out).class_names == DIGITS

    def test_faithful_shares_64_values_in_huffman_codes(self, model_path, tmp_path):
        out = tmp_path / "digits.sqz"
        measured = measured_by(
            *("compress", model_path, out, "--calibration", "digits", "--images", 20),
            *("--mode", "faithful"),
        )
        counts = [len(np.unique(kernel)) for kernel in kernels(load_compressed(out))]
        assert 32 < max(counts) <= 64
        assert "positions" in measured["bytes_spent"]

    def test_a_target_size_is_that_of_the_whole_file(self, model_path, tmp_path):
        out = tmp_path / "digits.sqz"
        free = keras.saving.load_model(model_path).count_params() * 4 / 1000
        target = free / 8
        measured = measured_by(
            *("compress", model_path, out, "--calibration", "digits", "--images", 20),
            *("--target-size", target),
        )
        assert 0.7 * 1000 * target < out.stat().st_size <= 1000 * target
        assert measured["times_smaller"] >= 8
        assert read_network(out).class_names == DIGITS

    # The search by itself is held in TestSearch, what is lost in TestSamples.
    @pytest.mark.slow
    def test_no_more_accuracy_is_lost_than_allowed_and_more_makes_smaller_files(
        self, model_path, tmp_path
    ):
        sizes = []
        for points in (2, 60):
            out = tmp_path / f"{points}.sqz"
            measured = measured_by(
                *("compress", model_path, out, "--calibration", "digits", "--images", 20),
                *("--max-drop", points),
            )
            lost = measured["top1_before"] - accuracy(load_compressed(out).predict_on_batch)
            assert lost <= points / 100
            sizes.append(out.stat().st_size)
        assert sizes[1] < sizes[0]

    @pytest.mark.slow
    def test_images_without_labels_count_decisions(self, model_path, photos, tmp_path):
        out = tmp_path / "digits.sqz"
        measured = measured_by(
            *("compress", model_path, out, "--calibration", photos / "plain"),
            *("--images", 30, "--max-drop", 10),
        )
        others = sorted((photos / "plain").iterdir())[1::2]
        images = np.stack([Image.open(path) for path in others]).astype("float32")
        before, after = (
            model.predict_on_batch(images).argmax(axis=1)
            for model in (keras.saving.load_model(model_path), load_compressed(out))
        )
        assert measured["decisions_equal"] == pytest.approx((before == after).mean())
        assert measured["decisions_equal"] >= 0.9
        assert measured["top1_after"] is None
        assert (measured["images"], measured["images_judged"]) == (30, 30)

    def test_of_a_labelled_folder_every_second_image_judges(self, model_path, photos, tmp_path):
        folder, out = photos / "labelled", tmp_path / "digits.sqz"
        measured = measured_by(
            *("compress", model_path, out, "--calibration", folder, "--images", 30, "--bits", 2)
        )
        rows = [line.split(",") for line in (folder / "labels.csv").read_text().split()[1:]]
        images = np.stack([Image.open(folder / name) for name, _ in rows[1::2]]).astype("float32")
        labels = np.array([int(label) for _, label in rows[1::2]])
        for name, model in (
            ("top1_before", keras.saving.load_model(model_path)),
            ("top1_after", load_compressed(out)),
        ):
            said = model.predict_on_batch(images).argmax(axis=1)
            assert measured[name] == pytest.approx((said == labels).mean())

    def test_few_values_are_packed_as_they_are_and_need_no_images(self, rounded_path, tmp_path):
        out = tmp_path / "rounded.sqz"
        measured = measured_by("compress", rounded_path, out)
        assert measured["weights_equal"]
        assert measured["images_judged"] == 0
        assert_equal_weights(load_compressed(out), keras.saving.load_model(rounded_path))

    @parametrize("source", ["photos", "empty", "cifar10"], quick=1)
    def test_a_network_is_packed_as_it_is_also_where_photos_of_its_run_cannot_judge_it(
        self, rounded_path, tmp_path, monkeypatch, source
    ):
        monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
        monkeypatch.setattr("keras_squeezenet.data.sources.download_cifar", None)
        for name, count in (("train", 12), ("val", 4)):
            for label in "37":
                (tmp_path / "photos" / name / label).mkdir(parents=True)
                for number in range(count):
                    photo = tmp_path / "photos" / name / label / f"{number}.png"
                    Image.new("RGB", (SIDE, SIDE)).save(photo)
        (tmp_path / "empty").mkdir()
        reasons = {
            "photos": "Expected 20 images to judge by. Received: 8",
            "empty": "expected one folder per class, found none",
            "cifar10": "cifar10 is not at hand",
        }
        model, out = tmp_path / "model.keras", tmp_path / "model.sqz"
        shutil.copy(rounded_path, model)
        (tmp_path / "recipe.yaml").write_text(
            f"name: few\ndata: {{source: {source}, image_size: {SIDE}}}\n"
            "optimizer: {learning_rate: 0.1}\ntraining: {epochs: 3, batch_size: 4}\n"
        )
        monkeypatch.chdir(tmp_path)
        result = CliRunner().invoke(cli.app, ["compress", str(model), str(out), "--json"])
        measured = json.loads(result.stdout)
        assert measured["weights_equal"]
        assert (measured["images"], measured["images_judged"]) == (0, 0)
        [line] = [line for line in result.stderr.splitlines() if "judge" in line]
        assert line.startswith("the file is not judged, because")
        assert line.endswith(reasons[source])
        line = refused("compress", model, tmp_path / "small.sqz", "--resize", SIDE - 1)
        assert f"Received: resize={SIDE - 1}" in line
        # A base takes no images either; what is asked for, and what shares weights, does.
        run("compress", model, tmp_path / "later.sqz", "--base", out)
        if source != "cifar10":
            for options in (["--bits", 4], ["--calibration", source]):
                assert reasons[source] in refused("compress", model, out, *options)

    def test_a_sqz_file_goes_into_the_other_mode_with_all_that_it_says(self, tmp_path):
        best, faithful = tmp_path / "best.sqz", tmp_path / "faithful.sqz"
        write_network(counted(class_names=tuple("abcde"), resize=40), best)
        run("compress", best, faithful, "--mode", "faithful")
        assert "positions" in sqz.bytes_spent(faithful.read_bytes())
        assert_same(read_network(faithful), read_network(best))

    @pytest.mark.slow
    def test_a_network_that_was_trained_on_takes_the_values_of_its_base(
        self, model_path, rounded_path, tmp_path
    ):
        base, out = tmp_path / "base.sqz", tmp_path / "later.sqz"
        run("compress", rounded_path, base, "--calibration", "digits")
        run("compress", model_path, out, "--base", base)
        old, new = read_network(base), read_network(out)
        for name, kernel in new.kernels.items():
            assert set(np.unique(kernel.values)) <= set(old.kernels[name].codebook)
        halved = tmp_path / "halved.sqz"
        run(
            *("compress", model_path, halved, "--calibration", "digits", "--images", 20),
            *("--bits", 4, "--density", 0.3),
        )
        assert "`base` must be a network that the model was trained on from" in refused(
            "compress", model_path, out, "--base", halved
        )
        assert "Received: --target-size and --base" in refused(
            *("compress", model_path, out, "--base", base, "--target-size", 9)
        )

    def test_lines_for_people_say_what_was_measured(self, rounded_path, tmp_path):
        out = run("compress", rounded_path, tmp_path / "a.sqz", "--calibration", "digits")
        assert f"{(tmp_path / 'a.sqz').stat().st_size:,} bytes" in out
        assert "all weights are those of the model" in out
        assert "of 359 images it was not compressed with, top-1 0." in out
        assert "codebooks" in out

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ([], "--calibration is needed"),
            (["--bits", 4, "--target-size", 9], "Received: --bits or --density and --target-size"),
            (["--mode", "faithful", "--max-drop", 1], "Received: --max-drop"),
            (["--target-size", "nan"], "kilobytes above 0. Received: nan"),
            (["--target-size", 0.02, "--calibration", "digits"], "The class names alone take"),
            (["--target-size", 0.3, "--calibration", "digits"], "a size that can be reached"),
            (["--density", 0, "--calibration", "digits"], "--density must be above 0"),
            (["--bits", 4, "--calibration", "/nowhere"], "Received: source=/nowhere"),
        ],
    )
    def test_bad_options_are_one_line_and_write_nothing(
        self, model_path, tmp_path, options, message
    ):
        options = [*options, "--images", 20]
        assert message in refused("compress", model_path, tmp_path / "a.sqz", *options)
        assert list(tmp_path.iterdir()) == []

    def test_names_of_files_that_cannot_be_are_refused(self, model_path, tmp_path):
        packed = tmp_path / "a.sqz"
        write_network(counted(), packed)
        before = packed.read_bytes()
        (tmp_path / "link.sqz").symlink_to(packed)
        for same in (packed, tmp_path / "link.sqz"):
            assert "another file than the input" in refused("compress", packed, same)
        assert "must end in .sqz" in refused("compress", packed, tmp_path / "a.zip")
        (tmp_path / "a.tflite").write_bytes(b"")
        line = refused("compress", tmp_path / "a.tflite", tmp_path / "b.sqz")
        assert "Expected 1.0, 1.1, a .keras or .sqz file" in line
        assert packed.read_bytes() == before

    def test_what_no_file_holds_is_refused(self, tmp_path):
        model = keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.Masking(name="mask"),
                keras.layers.Flatten(),
                keras.layers.Dense(4, "softmax"),
            ]
        )
        model.save(tmp_path / "model.keras")
        line = refused(
            "compress",
            tmp_path / "model.keras",
            tmp_path / "a.sqz",
            "--bits",
            4,
            "--calibration",
            "digits",
        )
        assert "must be of layers that a .sqz file holds" in line
        assert "layer mask (Masking)" in line


class TestSamples:
    def test_what_is_lost_is_top1_or_without_labels_a_share_of_decisions(self):
        before, after = np.array([1, 2, 3, 4]), np.array([1, 2, 0, 0])
        images = np.zeros((4, 8, 8, 3), np.uint8)
        assert HeldOut(images, np.array([1, 2, 3, 0])).drop(before, after) == 0
        assert HeldOut(images, np.array([1, 2, 3, 4])).drop(before, after) == 50
        assert HeldOut(images, None).drop(before, after) == 50

    def test_a_data_set_gives_what_it_trains_with_and_judges_by_the_rest(self):
        samples = draw_samples(
            "digits",
            class_names=DIGITS[::-1],
            classes=10,
            image_size=8,
            resize=None,
            max_broken_share=0,
            count=50,
        )
        dataset = load_dataset("digits", image_size=8)
        train = {batch.numpy().tobytes() for batch, _ in dataset.train.val_batches(1)}
        assert all(image[None].tobytes() in train for image in samples.calibration)
        # Sorted by example, whose classes come in turn; another order, and none twice.
        assert len({image.tobytes() for image in samples.calibration}) == 50
        np.testing.assert_array_equal(samples.held_out.labels, 9 - dataset.val.labels)

    def test_labels_of_other_classes_are_not_looked_at(self):
        samples = draw_samples(
            "digits",
            class_names=("tench", "goldfish"),
            classes=2,
            image_size=8,
            resize=None,
            max_broken_share=0,
            count=20,
        )
        assert samples.held_out.labels is None
        assert len(samples.held_out) == 359


class TestDecompress:
    def test_the_keras_file_has_the_weights_and_the_names_beside_it(self, tmp_path):
        packed, out = tmp_path / "a.sqz", tmp_path / "out" / "a.keras"
        network = counted(class_names=tuple("abcde"))
        write_network(network, packed)
        assert "--resize 256" in run("decompress", packed, out)
        model = keras.saving.load_model(out)
        for layer, kernel in zip(kernels(model), network.kernels.values(), strict=True):
            np.testing.assert_array_equal(layer, kernel.values)
        assert json.loads((out.parent / "class_names.json").read_text()) == list("abcde")
        assert measured_by("decompress", packed, out)["bytes"] == out.stat().st_size

    def test_a_folder_of_other_class_names_is_refused(self, tmp_path):
        write_network(counted(class_names=tuple("abcde")), tmp_path / "a.sqz")
        files.write_json(tmp_path / "class_names.json", ["one", "two"])
        line = refused("decompress", tmp_path / "a.sqz", tmp_path / "a.keras")
        assert "choose another folder" in line
        assert not (tmp_path / "a.keras").exists()

    def test_a_damaged_file_is_named(self, tmp_path):
        path = tmp_path / "a.sqz"
        write_network(counted(), path)
        path.write_bytes(path.read_bytes()[:-1])
        line = refused("decompress", path, tmp_path / "a.keras")
        assert line == f"{path}: the .sqz file is damaged: its checksum is wrong"


class TestUpdate:
    @pytest.fixture
    def versions(self, tmp_path):
        old, new = tmp_path / "old.sqz", tmp_path / "new.sqz"
        write_network(counted(), old)
        write_network(counted(period=29), new)
        return old, new

    def test_a_patch_makes_the_new_file(self, versions, tmp_path):
        old, new = versions
        delta, out = tmp_path / "a.sqzdelta", tmp_path / "out.sqz"
        sizes = measured_by("diff", old, new, delta)
        assert sizes["bytes"] == delta.stat().st_size
        assert sizes["new_bytes"] == new.stat().st_size
        assert "bytes" in run("patch", old, delta, out)
        assert out.read_bytes() == new.read_bytes()

    def test_a_wrong_base_and_a_damaged_update_are_refused(self, versions, tmp_path):
        old, new = versions
        delta, out = tmp_path / "a.sqzdelta", tmp_path / "out.sqz"
        run("diff", old, new, delta)
        assert f"{delta}: the update is for the network with SHA-256" in refused(
            "patch", new, delta, out
        )
        none = tmp_path / "none.sqz"
        none.write_bytes(b"nothing of the kind")
        line = refused("diff", old, none, tmp_path / "b.sqzdelta")
        assert f"{none}: a .sqz file starts with" in line
        assert f"{none}: a .sqz file starts with" in refused("patch", none, delta, out)
        delta.write_bytes(delta.read_bytes()[:-1])
        assert "its checksum is wrong" in refused("patch", old, delta, out)
        assert not out.exists()

    def test_neither_input_is_overwritten(self, versions, tmp_path):
        old, new = versions
        run("diff", old, new, tmp_path / "a.sqzdelta")
        assert "another file" in refused("patch", old, tmp_path / "a.sqzdelta", old)
        assert "must end in .sqzdelta" in refused("diff", old, new, new)

    def test_a_device_needs_no_framework_for_it(self, versions, tmp_path):
        old, new = versions
        run("diff", old, new, tmp_path / "a.sqzdelta")
        arguments = ["patch", str(old), str(tmp_path / "a.sqzdelta"), str(tmp_path / "out.sqz")]
        code = (
            "import sys\n"
            "from typer.testing import CliRunner\n"
            "from keras_squeezenet import cli\n"
            f"print(CliRunner().invoke(cli.app, {arguments}).exit_code)\n"
            "print([name for name in ('keras', 'tensorflow') if name in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.splitlines() == ["0", "[]"], done.stderr


class TestPrune:
    @pytest.mark.slow
    def test_the_file_is_as_sparse_as_asked_and_measured(self, model_path, tmp_path):
        out = tmp_path / "pruned.keras"
        measured = measured_by(
            *("prune", model_path, out, "--data", "digits"),
            *("--sparsity", 0.5, "--epochs", 1, "--learning-rate", 0.01, "--batch-size", 128),
        )
        model, pruned = keras.saving.load_model(model_path), keras.saving.load_model(out)
        for kernel, layer in zip(kernels(pruned), measured["layers"], strict=True):
            assert np.mean(kernel == 0) == pytest.approx(0.5, abs=1 / kernel.size)
            assert layer["nonzero"] == np.count_nonzero(kernel)
        assert measured["before"] == pytest.approx(accuracy(model.predict_on_batch))
        assert measured["after"] == pytest.approx(accuracy(pruned.predict_on_batch))
        assert json.loads(out.with_name("class_names.json").read_text()) == list(DIGITS)

    @pytest.mark.slow
    def test_a_structure_leaves_two_of_four(self, model_path, tmp_path, monkeypatch):
        for name in EXTRAS["compression"].packages:  # which pruning does without
            monkeypatch.setitem(sys.modules, name, None)
        out = tmp_path / "pruned.keras"
        options = ("--structure", "2:4", "--epochs", 1, "--batch-size", 359)
        table = run("prune", model_path, out, "--data", "digits", *options)
        assert "50.0 %" in table
        assert "validation images" in table

    def test_the_data_are_those_of_the_models_run(self, model_path, tmp_path):
        shutil.copy(model_path, tmp_path / "model.keras")
        (tmp_path / "recipe.yaml").write_text(
            "name: run\n"
            f"data: {{source: digits, image_size: {SIDE}, val_fraction: 0.1}}\n"
            "optimizer: {learning_rate: 0.1}\n"
            "training: {epochs: 1, batch_size: 64}\n"
        )
        measured = measured_by(
            *("prune", tmp_path / "model.keras", tmp_path / "pruned.keras"),
            *("--epochs", 1, "--batch-size", 400),
        )
        held_out = load_dataset("digits", image_size=SIDE, val_fraction=0.1).val.count
        assert measured["validation_images"] == held_out != 359

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ([], "--data is needed"),
            (["--data", "digits", "--sparsity", 1.5], "Received: sparsity"),
            (["--data", "digits", "--sparsity", "much"], "Received: sparsity"),
            (["--data", "digits", "--sparsity", 0.5, "--structure", "2:4"], "fixes the sparsity"),
            (["--data", "digits", "--learning-rate", 0], "Received: learning_rate=0"),
            (["--data", "digits", "--momentum", 1], "Received: momentum=1"),
            (["--data", "digits", "--batch-size", 9999], "Received: batch_size=9999"),
        ],
    )
    def test_bad_options_are_one_line_and_write_nothing(
        self, model_path, tmp_path, options, message
    ):
        assert message in refused("prune", model_path, tmp_path / "a.keras", *options)
        assert list(tmp_path.iterdir()) == []

    def test_data_of_other_classes_are_refused(self, model_path, photos, tmp_path):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / name).mkdir(parents=True)
            for number in range(2):
                source = photos / "plain" / f"0{number}.png"
                shutil.copy(source, tmp_path / "pets" / name / f"{number}.png")
        line = refused("prune", model_path, tmp_path / "a.keras", "--data", tmp_path / "pets")
        assert "Expected data of the model's 10 classes. Received: 2 classes in" in line

    @pytest.mark.slow
    def test_ranks_are_looked_after_from_before_the_data_until_the_file_is_written(
        self, model_path, tmp_path, monkeypatch
    ):
        out, seen = tmp_path / "pruned.keras", []
        for name in ("start", "step", "stop"):
            monkeypatch.setattr(
                stalls.StallWatch, name, lambda watch, name=name: seen.append((name, out.exists()))
            )
        options = ("--data", "digits", "--epochs", 1, "--batch-size", 359)
        run("prune", model_path, out, *options)
        steps = [("step", False)] * 2 * (1438 // 359)  # each when it has come, and when it is done
        # The last batch is never asked for what comes after it.
        assert seen == [("start", False), *steps[:-1], ("stop", True)]

    def test_the_input_stays(self, model_path):
        line = refused("prune", model_path, model_path, "--data", "digits")
        assert "another file than the input" in line

    @pytest.mark.parametrize("missing", ["tensorflow_model_optimization", "tf_keras"])
    def test_without_tfmot_it_says_what_to_install(
        self, model_path, tmp_path, monkeypatch, missing
    ):
        monkeypatch.setitem(sys.modules, missing, None)
        line = refused("cluster", model_path, tmp_path / "a.keras", "--data", "digits")
        assert missing.replace("_", "-") in line.replace("_", "-")
        assert "pip install 'squeezenet-keras[compression]'" in line


class TestCluster:
    def test_the_kernels_share_as_few_values_as_asked(self, model_path, tmp_path):
        out = tmp_path / "clustered.keras"
        measured = measured_by(
            *("cluster", model_path, out, "--data", "digits", "--bits", 3),
            *("--epochs", 1, "--batch-size", 128),
        )
        clustered = keras.saving.load_model(out)
        assert all(len(np.unique(kernel)) <= 2**3 for kernel in kernels(clustered))
        assert measured["after"] == pytest.approx(accuracy(clustered.predict_on_batch))
        # Such a network is packed as it is.
        packed = measured_by("compress", out, tmp_path / "clustered.sqz")
        assert packed["weights_equal"]

    def test_bits_that_tfmot_does_not_train_are_refused(self, model_path, tmp_path):
        line = refused("cluster", model_path, tmp_path / "a.keras", "--data", "digits", "--bits", 9)
        assert "Received: bits=9" in line


@pytest.mark.slow
class TestQuantize:
    def test_the_accuracy_is_that_of_the_integer_file(
        self, model_path, tmp_path, monkeypatch, capsys
    ):
        # Any file is less sure than that: what is warned of is to be seen in the output.
        monkeypatch.setattr(comparison, "MOST_CONFIDENCE_LOST", -1)
        out = tmp_path / "new" / "digits.tflite"
        measured = measured_by(
            *("quantize", model_path, out, "--data", "digits", "--epochs", 1),
            *("--batch-size", 128, "--input-type", "uint8"),
        )
        interpreter = Interpreter(str(out))
        interpreter.allocate_tensors()
        taken, given = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        assert taken["dtype"] == np.uint8

        def predict(images):
            outputs = []
            for image in images.numpy():
                interpreter.set_tensor(taken["index"], image[None].astype(np.uint8))
                interpreter.invoke()
                outputs.append(interpreter.get_tensor(given["index"])[0])
            return outputs

        assert measured["after"] == pytest.approx(accuracy(predict))
        assert measured["bytes"] == out.stat().st_size
        assert (measured["path"], measured["quantize"]) == (str(out), "int8")
        assert measured["images_checked"] == 100
        assert measured["confidence"] == pytest.approx(measured["model_confidence"], abs=0.03)
        assert max(layer["images"] for layer in measured["saturation"] if layer["decides"]) < 0.05
        assert "the mean of the highest output falls from" in measured["warning"]

        print_retrained(measured)
        lines = capsys.readouterr().out.splitlines()
        assert lines[2] == f"warning: {measured['warning']}"

    def test_what_a_dense_network_does_not_have_cannot_be_preserved(self, model_path, tmp_path):
        line = refused(
            *("quantize", model_path, tmp_path / "a.tflite", "--data", "digits"),
            *("--preserve", "sparsity"),
        )
        assert "needs a pruned model" in line


class TestSqzWhereModelsGo:
    def test_evaluate_and_classify_take_the_names_and_the_framing_from_the_file(
        self, model_path, photos, tmp_path
    ):
        model, path = keras.saving.load_model(model_path), tmp_path / "digits.sqz"
        save_compressed(model, path, bits=8, class_names=DIGITS, resize="stretch")
        packed = load_compressed(path)
        measured = measured_by("evaluate", path, "digits")
        assert measured["top1"] == pytest.approx(accuracy(packed.predict_on_batch))
        assert measured["class_names"] == list(DIGITS)
        wide = tmp_path / "wide.png"
        Image.open(photos / "plain" / "00.png").resize((3 * SIDE, SIDE)).save(wide)
        squeezed = np.array(Image.open(wide).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        expected = packed.predict_on_batch(squeezed[None].astype("float32"))[0].max()
        [image] = measured_by("classify", wide, "--model", path, "--top", 1)["images"]
        assert image["predictions"][0]["probability"] == pytest.approx(expected, rel=1e-4)

    def test_summary_and_export_take_it_as_the_network_it_is(self, model_path, tmp_path):
        model, path = keras.saving.load_model(model_path), tmp_path / "digits.sqz"
        save_compressed(model, path, bits=8, class_names=DIGITS)
        assert measured_by("summary", path)["parameters"] == model.count_params()
        exported = measured_by(
            *("export", path, tmp_path / "digits.tflite", "--calibration", "digits"),
            *("--images", 20),
        )
        assert exported["decisions_equal"] == 1

    def test_a_wrong_file_is_refused_before_keras_is_imported(self, tmp_path):
        path = tmp_path / "a.sqz"
        path.write_bytes(b"nothing of the kind")
        code = (
            "import sys\n"
            "from typer.testing import CliRunner\n"
            "from keras_squeezenet import cli\n"
            f"path, out = {str(path)!r}, {str(tmp_path / 'out.sqz')!r}\n"
            "for arguments in (['summary', path], ['evaluate', path, 'digits'],\n"
            "                  ['classify', '.', '--model', path], ['compress', path, out],\n"
            "                  ['export', path, 'a.tflite', '--calibration', 'digits']):\n"
            "    print(CliRunner().invoke(cli.app, arguments).exception)\n"
            "print([name for name in ('keras', 'tensorflow') if name in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        *lines, imported = done.stdout.splitlines()
        assert len(lines) == 5, done.stderr
        assert all(line.startswith(f"{path}: a .sqz file starts with") for line in lines)
        assert imported == "[]"
