"""The command `keras-squeezenet`, as a process and through typer's runner."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import keras_squeezenet
from keras_squeezenet import SqueezeNet, cli, files, save_compressed
from keras_squeezenet.data import load_dataset
from keras_squeezenet.errors import InputError
from keras_squeezenet.litert.model import LiteRTModel
from keras_squeezenet.litert.quantizations import QUANTIZATIONS
from keras_squeezenet.litert.tensor_arena import estimate_arena
from keras_squeezenet.network.architecture import Architecture
from tests.tiers import parametrize

DIGITS = tuple("0123456789")


def run(*arguments):
    """Run a command in this process: (standard output, standard error)."""
    result = CliRunner().invoke(cli.app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stdout, result.stderr


def refused(*arguments):
    """The line that a command refuses its input with."""
    with pytest.raises(InputError) as error:
        CliRunner().invoke(cli.app, list(map(str, arguments)), catch_exceptions=False)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    """A small SqueezeNet that has learned the digits a little."""
    keras.utils.set_random_seed(0)
    model = SqueezeNet(
        weights=None,
        architecture=Architecture.from_metaparameters(
            base_e=32,
            incr_e=32,
            squeeze_ratio=0.25,
            fires=3,
            pool_after=(1, 3),
            conv1_filters=32,
            conv1_kernel_size=3,
        ),
        input_shape=(32, 32, 3),
        classes=10,
        dropout_rate=0.0,
        include_preprocessing="tf",
        kernel_initializer="he_normal",
        last_activation=None,
    )
    model.compile(
        keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy", jit_compile=False
    )
    dataset = load_dataset("digits", image_size=32)
    model.fit(dataset.train.train_batches(32), steps_per_epoch=200, verbose=0)
    folder = tmp_path_factory.mktemp("model")
    model.save(folder / "model.keras")
    files.write_json(folder / "class_names.json", list(DIGITS))
    return folder / "model.keras"


@pytest.fixture(scope="module")
def keras_top1(model_path):
    """Of the model itself; `TestEvaluate` holds it against NumPy."""
    return json.loads(run("evaluate", model_path, "digits", "--json")[0])["top1"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """The validation digits 3 and 7 as PNG files in class folders, without a train/."""
    folder = tmp_path_factory.mktemp("photos")
    val = load_dataset("digits", image_size=32).val
    for index in range(val.count):
        pixels, label = val.example(index)
        if label in (3, 7):
            (folder / str(label)).mkdir(exist_ok=True)
            Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC).save(
                folder / str(label) / f"{index}.png"
            )
    return folder


class TestSummary:
    def test_json_has_the_published_parameters(self):
        out, _ = run("summary", "--version", "1.0", "--input-size", 227, "--json")
        profile = json.loads(out)
        assert profile["parameters"] == 1_248_424

    def test_the_table_reads_like_the_papers(self):
        out, _ = run("summary", "--bypass", "simple", "--input-size", 224)
        assert "fire9/expand3x3" in out
        assert "1,235,496" in out

    def test_a_size_that_leaves_no_pixel_is_refused(self):
        assert "at least 17x17" in refused("summary", "--input-size", 10)


class TestEvaluate:
    def test_the_accuracy_is_numpys(self, model_path):
        out, _ = run("evaluate", model_path, "digits", "--json")
        measured = json.loads(out)
        model = keras.saving.load_model(model_path)
        right = [
            model.predict_on_batch(images).argmax(axis=1) == labels.numpy()
            for images, labels in load_dataset("digits", image_size=32).val.val_batches(50)
        ]
        assert measured["top1"] == pytest.approx(np.concatenate(right).mean())
        assert measured["bytes"] == model_path.stat().st_size

    def test_a_folder_of_classes_is_used_whole_and_matched_by_name(self, model_path, photos):
        out, _ = run("evaluate", model_path, photos, "--json")
        measured = json.loads(out)
        assert measured["count"] == len(list(photos.glob("*/*.png")))
        counts = dict(zip(measured["class_names"], measured["per_class_count"], strict=True))
        assert counts["3"] == len(list(photos.glob("3/*.png")))
        assert counts["0"] == 0
        assert measured["top1"] > 0.8

    def test_the_table_and_the_picture_are_for_people(self, model_path, tmp_path):
        out, _ = run("evaluate", model_path, "digits", "--confusion", tmp_path / "confusion.png")
        assert "top-1" in out
        with Image.open(tmp_path / "confusion.png") as picture:
            assert picture.format == "PNG"

    def test_a_broken_picture_is_left_out_and_named(self, model_path, tmp_path):
        for label in ("3", "7"):
            (tmp_path / label).mkdir()
            for number in range(150):
                Image.new("RGB", (32, 32)).save(tmp_path / label / f"{number}.png")
        (tmp_path / "3" / "broken.png").write_bytes(b"nothing")
        measured = json.loads(run("evaluate", model_path, tmp_path, "--json")[0])
        assert measured["count"] == 300
        assert [Path(row["file"]).name for row in measured["broken_images"]] == ["broken.png"]

    @pytest.mark.parametrize(
        ("data", "message"),
        [("/nowhere", "Received: source=/nowhere"), ("cats", "cat is not one of the model's")],
    )
    def test_other_data_is_refused(self, model_path, tmp_path, monkeypatch, data, message):
        (tmp_path / "cats" / "cat").mkdir(parents=True)
        monkeypatch.chdir(tmp_path)
        assert message in refused("evaluate", model_path, data)

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("none.keras", None, "or an existing model file"),
            ("model.h5", b"", "ends in .keras, .sqz or .tflite"),
            ("model.keras", b"not a zip", "Expected an archive that Keras saved"),
            ("model.tflite", b"not a flatbuffer", "model.tflite"),
            ("model.sqz", b"not a network", "model.sqz: a .sqz file starts with"),
        ],
    )
    def test_what_is_no_model_is_refused(self, tmp_path, name, content, message):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        assert message in refused("evaluate", tmp_path / name, "digits")

    def test_a_model_of_other_classes_is_refused(self, tmp_path):
        model = keras.Sequential(
            [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(4, "softmax")]
        )
        model.save(tmp_path / "model.keras")
        assert "Received: 10 classes" in refused("evaluate", tmp_path / "model.keras", "digits")

    def test_class_names_of_another_model_are_refused(self, model_path, tmp_path):
        (tmp_path / "model.keras").write_bytes(model_path.read_bytes())
        files.write_json(tmp_path / "class_names.json", ["one", "two"])
        assert "Received: 2 in" in refused("evaluate", tmp_path / "model.keras", "digits")


class TestExport:
    @pytest.mark.parametrize("quantize", ["none", "int8"])
    def test_a_file_is_written_checked_and_as_accurate(
        self, model_path, keras_top1, tmp_path, quantize
    ):
        path = tmp_path / "model.tflite"
        out, _ = run(
            *("export", model_path, path, "--quantize", quantize),
            *("--calibration", "digits", "--json"),
        )
        result = json.loads(out)
        assert result["bytes"] == path.stat().st_size
        assert LiteRTModel(path).class_names == DIGITS
        litert_top1 = json.loads(run("evaluate", path, "digits", "--json")[0])["top1"]
        assert litert_top1 == pytest.approx(keras_top1, abs=0.01)

    def test_c_source_holds_the_bytes_that_were_compared_and_says_what_memory_they_take(
        self, model_path, tmp_path
    ):
        options = ("--quantize", "int8", "--input-type", "int8", "--calibration", "digits")
        options += ("--images", 30)
        litert = tmp_path / "digits.tflite"
        run("export", model_path, litert, *options)
        # Another ending asks for C as well as --format does.
        for out, asked in (("a.cc", ()), ("b.c", ("--format", "c"))):
            result = json.loads(
                run("export", model_path, tmp_path / out, *options, *asked, "--json")[0]
            )
            source = (tmp_path / out).read_text()
            array = source[source.index("= {") : source.index("};")]
            content = bytes(int(code, 16) for code in re.findall("0x([0-9a-f]{2}),", array))
            assert litert.read_bytes().startswith(content)
            assert result["bytes"] == len(content)
            assert result["decisions_equal"] > 0.9
            arena = estimate_arena(litert)
            assert result["tensor_arena"]["bytes"] == arena.bytes
            assert f"ARENA_BYTES {arena.bytes}" in Path(result["header"]).read_text()

    @pytest.mark.parametrize(
        ("out", "options", "message"),
        [
            ("a.tflite", ("--format", "c"), "must end in .c, .cc, .cpp. Received"),
            ("a.c", ("--format", "tflite"), "must end in .tflite. Received"),
            ("a.lite", (), "must end in .tflite. Received"),
        ],
    )
    def test_an_ending_of_another_format_is_refused(
        self, model_path, tmp_path, out, options, message
    ):
        line = refused("export", model_path, tmp_path / out, "--calibration", "digits", *options)
        assert message in line
        assert list(tmp_path.iterdir()) == []

    def test_a_litert_file_cannot_be_exported(self, tmp_path):
        (tmp_path / "a.tflite").write_bytes(b"")
        line = refused("export", tmp_path / "a.tflite", tmp_path / "b.tflite")
        assert "Expected 1.0, 1.1, a .keras or .sqz file" in line

    def test_a_handful_of_images_is_no_comparison(self, model_path, photos, tmp_path):
        for path in list((photos / "3").iterdir())[:3]:
            (tmp_path / path.name).write_bytes(path.read_bytes())
        line = refused(
            "export", model_path, tmp_path / "m.tflite", "--calibration", tmp_path, "--resize", "32"
        )
        assert "at least 20 images. Received: 3" in line

    def test_a_size_that_is_none_is_refused(self, model_path):
        assert "Received: wide" in refused("evaluate", model_path, "digits", "--resize", "wide")

    def test_without_images_to_compare_on_nothing_is_written(self, model_path, tmp_path):
        line = refused("export", model_path, tmp_path / "m.tflite", "--quantize", "int8")
        assert "--calibration is needed" in line
        assert list(tmp_path.iterdir()) == []

    @parametrize(
        "quantize", [name for name, row in QUANTIZATIONS.items() if not row.calibrated], quick=1
    )
    def test_a_conversion_needs_no_photos_and_says_so(
        self, model_path, keras_top1, tmp_path, quantize
    ):
        path = tmp_path / "m.tflite"
        out, _ = run("export", model_path, path, "--quantize", quantize, "--json")
        assert json.loads(out)["compared_on"] == "made images"
        litert_top1 = json.loads(run("evaluate", path, "digits", "--json")[0])["top1"]
        assert litert_top1 == pytest.approx(keras_top1, abs=0.02)

    @pytest.fixture
    def model_of_a_run(self, model_path, tmp_path):
        def model_of_a_run(source):
            folder = tmp_path / "run"
            folder.mkdir()
            (folder / "recipe.yaml").write_text(
                f"name: photos\ndata: {{source: {json.dumps(str(source))}, image_size: 32}}\n"
                "optimizer: {learning_rate: 0.1}\ntraining: {epochs: 3, batch_size: 4}\n"
                # As a release before this one wrote it.
                "fine_tuning: {frozen_epochs: 1, learning_rate: 0.01}\n"
            )
            return Path(shutil.copy(model_path, folder))

        return model_of_a_run

    @pytest.fixture
    def moved(self, model_of_a_run):
        """The model of a run whose photos are on another machine."""
        return model_of_a_run("/nowhere/photos")

    @pytest.fixture
    def unusable(self, request, tmp_path, monkeypatch):
        """(data that no file can be compared on, what is said of them)."""
        monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
        folder = tmp_path / request.param
        if request.param == "few":
            for name in ("3/0", "3/1", "7/0", "7/1"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (32, 32)).save(folder / f"{name}.png")
            return folder, f"at least 20 images. Received: 2 in {folder}"
        if request.param == "empty":
            folder.mkdir()
            return folder, f"{folder}: expected one folder per class, found none"
        return request.param, f"{request.param} is not at hand"

    @pytest.fixture
    def no_downloads(self, monkeypatch):
        def read(source, *_):
            raise AssertionError(f"{source} is not asked for")

        monkeypatch.setattr("keras_squeezenet.data.sources.download_cifar", read)
        monkeypatch.setattr("keras_squeezenet.data.sources._tensorflow_datasets", read)

    @parametrize(
        ("unusable", "quantize"),
        [
            ("few", "none"),
            ("empty", "dynamic"),
            ("cifar10", "none"),
            ("tfds:no_such_set_of_pictures", "dynamic"),
        ],
        indirect=["unusable"],
        quick=2,
    )
    def test_a_conversion_goes_without_photos_of_its_run_that_cannot_be_used(
        self, model_of_a_run, unusable, no_downloads, quantize
    ):
        source, reason = unusable
        model = model_of_a_run(source)
        path = model.with_name("m.tflite")
        options = ("--quantize", quantize, "--images", 20)
        out, said = run("export", model, path, *options, "--json")
        assert json.loads(out)["compared_on"] == "made images"
        assert json.loads(out)["bytes"] == path.stat().st_size
        [line] = [line for line in said.splitlines() if "made images" in line]
        assert line.startswith("compared on made images, because")
        assert line.endswith(reason)

    @pytest.mark.parametrize("unusable", ["few", "empty"], indirect=True)
    def test_photos_that_are_asked_for_or_needed_have_to_be_usable(self, model_of_a_run, unusable):
        source, reason = unusable
        model = model_of_a_run(source)
        path = model.with_name("m.tflite")
        assert reason in refused("export", model, path, "--quantize", "int8")
        assert reason in refused("export", model, path, "--calibration", source)
        assert not path.exists()

    def test_photos_of_its_run_that_can_be_used_are(self, model_of_a_run):
        model = model_of_a_run("digits")
        out, said = run("export", model, model.with_name("m.tflite"), "--images", 10, "--json")
        assert json.loads(out)["compared_on"] == "digits"
        assert "made images" not in said

    def test_a_resize_that_cannot_be_is_refused_without_photos_too(self, moved):
        line = refused("export", moved, moved.with_name("m.tflite"), "--resize", 31)
        assert "image_size=32. Received: resize=31" in line

    @pytest.mark.slow
    def test_where_the_photos_are_not_at_hand_it_needs_none_either(self, moved):
        out, _ = run("export", moved, moved.with_name("m.tflite"), "--images", 10, "--json")
        assert json.loads(out)["compared_on"] == "made images"
        packed = moved.with_name("m.sqz")
        save_compressed(keras.saving.load_model(moved), packed, bits=6, class_names=DIGITS)
        out, _ = run("compress", packed, moved.with_name("again.sqz"), "--json")
        assert json.loads(out)["bytes"] == moved.with_name("again.sqz").stat().st_size
        assert json.loads(out)["images_judged"] == 0
        line = refused("export", moved, moved.with_name("8.tflite"), "--quantize", "int8")
        assert "/nowhere/photos" in line

    def test_the_run_of_an_earlier_release_is_measured(self, moved):
        out, _ = run("evaluate", moved, "digits", "--json")
        assert json.loads(out)["top1"] > 0.2

    def test_a_conversion_that_went_wrong_is_seen_on_made_images(
        self, model_path, tmp_path, monkeypatch
    ):
        def spoiled(model, **options):
            model = keras.models.clone_model(model)
            model.set_weights([0.9 * weight for weight in model.get_weights()])
            return model

        monkeypatch.setattr("keras_squeezenet.litert.export.for_inference", spoiled)
        line = refused("export", model_path, tmp_path / "m.tflite")
        assert "does not do what the Keras model does" in line
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.slow
    def test_made_images_are_named_in_the_line_for_people(self, model_path, tmp_path):
        path = tmp_path / "m.tflite"
        assert "on 10 made images the" in run("export", model_path, path, "--images", 10)[0]
        out, _ = run("export", model_path, path, "--images", 10, "--calibration", "digits")
        assert "on 10 images the" in out

    def test_options_that_do_not_go_together_are_named(self, model_path, tmp_path):
        line = refused(
            *("export", model_path, tmp_path / "m.tflite", "--calibration", "digits"),
            *("--input-type", "uint8"),
        )
        assert "input_type=uint8" in line

    def test_a_stricter_tolerance_than_the_file_keeps_fails_and_leaves_nothing(
        self, model_path, tmp_path
    ):
        path = tmp_path / "m.tflite"
        refused(
            *("export", model_path, path, "--quantize", "int8"),
            *("--calibration", "digits", "--images", 20, "--tolerance", "0"),
        )
        assert list(tmp_path.iterdir()) == []


class TestProcess:
    def test_help_and_the_package_import_no_framework(self):
        code = (
            "import sys, keras_squeezenet, keras_squeezenet.cli;"
            "print([m for m in ('keras', 'tensorflow', 'matplotlib') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.strip() == "[]"

    def test_the_version_is_told_and_python_runs_the_program_too(self):
        done = subprocess.run(
            [sys.executable, "-m", "keras_squeezenet", "--version"], capture_output=True, text=True
        )
        assert done.stdout == f"keras-squeezenet {keras_squeezenet.__version__}\n", done.stderr

    def test_the_public_names_bring_in_neither_horovod_nor_tfmot(self):
        code = (
            "import sys, keras_squeezenet\n"
            "[getattr(keras_squeezenet, name) for name in keras_squeezenet.__all__]\n"
            "taboo = ('horovod', 'tensorflow_model_optimization', 'tf_keras')\n"
            "print([m for m in taboo if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.strip() == "[]", done.stderr

    def test_bad_input_is_one_line_and_status_2(self, tmp_path):
        command = Path(sys.executable).with_name("keras-squeezenet")
        done = subprocess.run(
            [command, "evaluate", tmp_path / "none.keras", "digits", "--json"],
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert (
            done.stderr.strip()
            .splitlines()[-1]
            .startswith("keras-squeezenet: Expected 1.0, 1.1 or")
        )
        assert "Traceback" not in done.stderr

    @pytest.mark.slow
    def test_json_is_all_there_is_on_standard_output(self, model_path):
        command = Path(sys.executable).with_name("keras-squeezenet")
        done = subprocess.run(
            [command, "evaluate", model_path, "digits", "--json"], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""  # TensorFlow's greetings, too, are not there
        assert json.loads(done.stdout)["count"] == 359


@pytest.mark.shared
def test_a_published_network_goes_by_its_version(shared, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_SQUEEZENET_WEIGHTS", str(shared / "weights"))
    with zipfile.ZipFile(shared / "data" / "imagenet_dev.zip") as archive:
        photos = [name for name in archive.namelist() if name.endswith(".jpg")][:40]
        archive.extractall(tmp_path, [*photos, "imagenet_dev/labels.csv"])
    folder = tmp_path / "imagenet_dev"
    lines = (folder / "labels.csv").read_text().splitlines()
    kept = [line for line in lines if any(Path(name).name in line for name in photos)]
    (folder / "labels.csv").write_text("\n".join([lines[0], *kept]))

    out, _ = run("evaluate", "1.1", folder, "--json")
    measured = json.loads(out)
    assert measured["count"] == 40
    assert measured["bytes"] == 2_478_984
    assert 0.3 < measured["top1"] < 0.8  # 0.54 of 600
    exported, _ = run("export", "1.1", tmp_path / "n.tflite", "--calibration", folder, "--json")
    assert json.loads(exported)["decisions_equal"] == 1.0
    # The file says that its pictures are squeezed.
    out, _ = run("evaluate", tmp_path / "n.tflite", folder, "--json")
    assert json.loads(out)["top1"] == measured["top1"]
    int8 = ("--quantize", "int8")
    assert "without --calibration" in refused("export", "1.0", tmp_path / "n.tflite", *int8)
