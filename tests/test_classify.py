"""`keras-squeezenet classify`, and the pictures and files that it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import yaml
from keras import layers
from PIL import Image
from typer.testing import CliRunner

from keras_squeezenet import SqueezeNet, cli, files
from keras_squeezenet.cli import explaining
from keras_squeezenet.cli.options import resize_of
from keras_squeezenet.errors import InputError
from keras_squeezenet.inference import classifiers
from keras_squeezenet.inference.classifiers import open_classifier, read_class_names
from keras_squeezenet.litert.export import export_litert
from keras_squeezenet.litert.model import read_resize
from keras_squeezenet.reports import figures

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
SIDE = 16
CERTAINTY = 3.0  # of the colour model: what a wholly red picture scores for "red"
COMMAND = Path(sys.executable).with_name("keras-squeezenet")


def run(*arguments):
    """Run the command in this process: its standard output."""
    result = CliRunner().invoke(cli.app, ["classify", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def predictions_of(*arguments):
    """(file name, {class name: probability}) of each image."""
    images = json.loads(run(*arguments, "--json"))["images"]
    return [
        (
            Path(image["file"]).name,
            {row["name"]: row["probability"] for row in image["predictions"]},
        )
        for image in images
    ]


def refused(*arguments):
    """The line that the command refuses its input with."""
    with pytest.raises(InputError) as error:
        CliRunner().invoke(cli.app, ["classify", *map(str, arguments)], catch_exceptions=False)
    assert "\n" not in str(error.value)
    return str(error.value)


def colour_model(activation="softmax"):
    """Scores of red, green and blue are the means of the channels."""
    model = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(3, 1),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, activation),
        ]
    )
    model.set_weights(
        [np.eye(3)[None, None], np.zeros(3), CERTAINTY * np.eye(3), np.zeros(3)],
    )
    return model


@pytest.fixture
def model_path(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    colour_model().save(folder / "model.keras")
    files.write_json(folder / "class_names.json", list(COLOURS))
    return folder / "model.keras"


def save(path, colour="red", size=(20, 20), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, COLOURS[colour]).save(path, **options)
    return path


def softmax(*scores):
    powers = np.exp(scores)
    return list(powers / powers.sum())


class TestAnswer:
    def test_probabilities_are_those_of_the_softmax_most_probable_first(self, model_path, tmp_path):
        path = tmp_path / "mixed.png"
        Image.new("RGB", (20, 20), (51, 204, 102)).save(path)
        answer = json.loads(run(path, "--model", model_path, "--json"))
        assert answer["model"] == str(model_path)
        [image] = answer["images"]
        assert image["file"] == str(path)
        red, green, blue = softmax(*(CERTAINTY * share / 255 for share in (51, 204, 102)))
        assert image["predictions"] == [
            {"class": 1, "name": "green", "probability": pytest.approx(green, rel=1e-5)},
            {"class": 2, "name": "blue", "probability": pytest.approx(blue, rel=1e-5)},
            {"class": 0, "name": "red", "probability": pytest.approx(red, rel=1e-5)},
        ]

    def test_lines_for_people_name_the_picture_and_its_classes(self, model_path, tmp_path):
        path = save(tmp_path / "tomato.png")
        lines = run(path, "--model", model_path, "--top", 1).splitlines()
        share = softmax(CERTAINTY, 0, 0)[0]
        assert lines == [str(path), f"{100 * share:7.1f}\u00a0%  red"]

    def test_files_come_in_the_order_given_and_folders_sorted_with_all_below(
        self, model_path, tmp_path
    ):
        last = save(tmp_path / "z.png", "blue")
        for name in ("photos/b.png", "photos/a/z.jpg", "photos/c.gif", "photos/.hidden/x.png"):
            save(tmp_path / name)
        (tmp_path / "photos" / "notes.txt").write_text("no picture")
        (tmp_path / "photos" / "circle").symlink_to(tmp_path / "photos")
        found = predictions_of(last, tmp_path / "photos", "--model", model_path, "--top", 1)
        assert [name for name, _ in found] == ["z.png", "z.jpg", "b.png", "c.gif"]
        assert [list(rows) for _, rows in found] == [["blue"], ["red"], ["red"], ["red"]]

    def test_more_pictures_than_a_batch_keep_their_answers(self, model_path, tmp_path):
        names = [list(COLOURS)[number % 3] for number in range(70)]
        for number, name in enumerate(names):
            save(tmp_path / "many" / f"{number:02}.png", name)
        found = predictions_of(tmp_path / "many", "--model", model_path, "--top", 1)
        assert [next(iter(rows)) for _, rows in found] == names

    def test_a_litert_file_answers_as_its_keras_model(self, model_path, tmp_path):
        images = np.random.default_rng(0).uniform(0, 255, (20, 1, SIDE, SIDE, 3)).astype("f4")
        litert = tmp_path / "model.tflite"
        model = open_classifier(model_path).model
        export_litert(model, litert, check_images=list(images), class_names=tuple(COLOURS))
        picture = save(tmp_path / "a.png", "green")
        [(_, expected)] = predictions_of(picture, "--model", model_path)
        [(_, found)] = predictions_of(picture, "--model", litert)
        assert found == pytest.approx(expected, abs=1e-5)

    def test_names_come_from_a_file_and_are_numbers_without(self, model_path, tmp_path):
        model_path.with_name("class_names.json").unlink()
        picture = save(tmp_path / "a.png", "green")
        labels = tmp_path / "labels.txt"
        labels.write_text("rojo\nverde\nazul\n", encoding="utf-8")
        [(_, numbered)] = predictions_of(picture, "--model", model_path, "--top", 1)
        [(_, named)] = predictions_of(
            picture, "--model", model_path, "--top", 1, "--labels", labels
        )
        assert list(numbered) == ["class 1"]
        assert list(named) == ["verde"]

    def test_the_framing_is_that_of_the_models_run_unless_asked_otherwise(
        self, model_path, tmp_path
    ):
        # Blue with a red square in the middle.
        picture = Image.new("RGB", (60, 20), COLOURS["blue"])
        picture.paste(COLOURS["red"], (20, 0, 40, 20))
        path = tmp_path / "wide.png"
        picture.save(path)

        def first(*options):
            return next(iter(predictions_of(path, "--model", model_path, *options)[0][1]))

        assert first() == "red"
        assert first("--resize", "stretch") == "blue"
        recipe = {
            "name": "run",
            "data": {"source": "photos", "image_size": SIDE, "resize": "stretch"},
            "optimizer": {"learning_rate": 0.1},
            "training": {"epochs": 1, "batch_size": 4},
        }
        model_path.with_name("recipe.yaml").write_text(yaml.safe_dump(recipe))
        assert first() == "blue"
        assert first("--resize", SIDE) == "red"

    def test_hostile_names_neither_steer_the_terminal_nor_end_the_command(
        self, model_path, tmp_path
    ):
        files.write_json(
            model_path.with_name("class_names.json"), ["[red]\x1b[2J", "two\nlines", "$x$"]
        )
        path = save(tmp_path / os.fsdecode(b"not \xff\x1b[31m\n UTF-8.png"))
        out = run(path, "--model", model_path, "--explain", tmp_path / "out.png")
        assert len(out.splitlines()) == 1 + 3 + 1
        assert "\x1b" not in out
        assert "[red]" in out
        assert json.loads(run(path, "--model", model_path, "--json"))["images"][0]["file"] == str(
            path
        )


class TestExplain:
    def test_the_picture_has_a_row_for_each_image(self, model_path, tmp_path, monkeypatch):
        drawn = []
        draw = figures.explanations
        monkeypatch.setattr(
            figures, "explanations", lambda rows, path: drawn.extend(rows) or draw(rows, path)
        )
        tall = Image.new("RGB", (20, 40))
        tall.paste(COLOURS["green"], (10, 0, 20, 40))  # the right half
        tall.save(tmp_path / "tall.png")
        save(tmp_path / "wide.jpg", "blue", (2000, 1000))
        out = tmp_path / "out" / "why.png"

        text = run(
            *(tmp_path / "tall.png", tmp_path / "wide.jpg"),
            *("--model", model_path, "--explain", out),
        )

        assert text.splitlines()[-1] == f"explanation: {out}"
        assert [path.name for path in out.parent.iterdir()] == ["why.png"]
        with Image.open(out) as picture:
            assert picture.format == "PNG"
        first, second = drawn
        assert first.title == "tall.png"
        assert first.photo.shape == (40, 20, 3)
        assert first.seen == (0, 0.25, 1, 0.75)
        assert first.predictions[0][0] == "green"
        # The score of green is CERTAINTY times the mean of green.
        share = CERTAINTY / SIDE**2
        np.testing.assert_allclose(first.heat[:, :7], 0, atol=1e-6)
        np.testing.assert_allclose(first.heat[:, 9:], share, rtol=1e-5)
        assert max(second.photo.shape) == figures.EXPLAINED_SIDE
        assert second.seen == (0.25, 0, 0.75, 1)

    def test_what_cannot_be_drawn_is_refused_at_once(self, model_path, tmp_path, monkeypatch):
        monkeypatch.setattr(classifiers, "open_classifier", lambda _: pytest.fail("opened"))
        picture = save(tmp_path / "a.png")
        litert = tmp_path / "model.tflite"
        litert.write_bytes(b"")
        (tmp_path / "folder.png").mkdir()

        def line(out, model=model_path, pictures=(picture,)):
            return refused(*pictures, "--model", model, "--explain", tmp_path / out)

        assert "a .tflite file has none. Received: " in line("out.png", litert)
        assert "--explain takes the name of a PNG file" in line("out.jpg")
        assert "--explain takes the name of a PNG file" in line("folder.png")
        assert "would replace one of the images" in line("a.png")
        assert "at most 40 images. Received: 41" in line("out.png", pictures=[picture] * 41)
        assert not (tmp_path / "out.png").exists()

    @pytest.mark.parametrize("failing", ["grad_cam", "read_thumbnail"])
    def test_a_failure_leaves_no_half_picture(self, model_path, tmp_path, monkeypatch, failing):
        def fail(*_):
            raise explaining.ExplanationError("no map")

        monkeypatch.setattr(explaining, failing, fail)
        out = tmp_path / "out.png"
        out.write_bytes(b"earlier")
        picture = save(tmp_path / "a.jpg")
        before = sorted(tmp_path.iterdir())
        assert refused(picture, "--model", model_path, "--explain", out) == "no map"
        assert out.read_bytes() == b"earlier"
        assert sorted(tmp_path.iterdir()) == before

    def test_a_folder_that_may_not_be_written_is_named(self, model_path, tmp_path, monkeypatch):
        def fail(*_, **__):
            raise PermissionError(13, "Permission denied", "/a/temporary/name")

        monkeypatch.setattr(files, "_new_file_beside", fail)
        out = tmp_path / "out.png"
        line = refused(save(tmp_path / "a.jpg"), "--model", model_path, "--explain", out)
        assert line == f"--explain cannot write {out}: Permission denied"


def not_a_picture(path):
    path.write_text("<html>not found</html>")


def empty(path):
    path.write_bytes(b"")


def truncated(path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:-1000])


def one_pixel(path):
    Image.new("RGB", (1, 1)).save(path, "PNG")


def one_pixel_high(path):
    Image.new("RGB", (500, 1)).save(path, "PNG")


def animated(kind):
    def write(path):
        frames = [Image.new("RGB", (20, 20), colour) for colour in COLOURS.values()]
        frames[0].save(path, kind, save_all=True, append_images=frames[1:])

    write.__name__ = f"animated {kind}"
    return write


def hundred_megapixels(kind):
    def write(path):
        Image.new("1", (10_000, 10_000)).save(path, kind)

    write.__name__ = f"hundred megapixels of {kind}"
    return write


def tiff(path):
    Image.new("RGB", (20, 20)).save(path, "TIFF")


def missing(path):
    path.unlink(missing_ok=True)


def empty_folder(path):
    path.mkdir()
    (path / "notes.txt").write_text("no picture")


def pipe(path):
    os.mkfifo(path)


class TestBadPictures:
    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            (not_a_picture, "expected a picture (JPEG, PNG, GIF, BMP, WEBP)"),
            (empty, "expected a picture"),
            (tiff, "expected a picture"),
            (truncated, "truncated"),
            (one_pixel, "1 x 1 pixels; expected at least 8 on each side"),
            (one_pixel_high, "500 x 1 pixels; expected at least 8 on each side"),
            (animated("GIF"), "an animation; expected a still picture"),
            (animated("PNG"), "an animation; expected a still picture"),
            (animated("WEBP"), "an animation; expected a still picture"),
            (hundred_megapixels("PNG"), "10000 x 10000 pixels are more than 89,478,485"),
            (hundred_megapixels("BMP"), "10000 x 10000 pixels are more than 89,478,485"),
            (hundred_megapixels("GIF"), "10000 x 10000 pixels are more than 89,478,485"),
            (missing, "No such file or directory"),
            (empty_folder, "no image in this folder"),
            (pipe, "expected an image file or a folder, and this is neither"),
        ],
    )
    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_one_of_many_is_named_and_none_is_classified(
        self, model_path, tmp_path, monkeypatch, make, reason
    ):
        monkeypatch.setattr(classifiers, "open_classifier", lambda _: pytest.fail("opened"))
        good, bad = save(tmp_path / "good.png"), tmp_path / "bad.png"
        make(bad)
        before = sorted(tmp_path.iterdir())
        line = refused(good, bad, good, "--model", model_path, "--explain", tmp_path / "out.png")
        assert line.startswith(f"{bad}: ")
        assert reason in line
        assert sorted(tmp_path.iterdir()) == before

    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_a_decompression_bomb_is_refused_without_decoding(
        self, model_path, tmp_path, monkeypatch
    ):
        bomb = tmp_path / "bomb.png"
        hundred_megapixels("PNG")(bomb)
        assert bomb.stat().st_size < 100_000
        monkeypatch.setattr(Image.core, "new", lambda *_: pytest.fail("memory taken"))
        assert "10000 x 10000" in refused(bomb, "--model", model_path)

    def test_a_picture_that_may_not_be_read_is_named(self, model_path, tmp_path, monkeypatch):
        picture = save(tmp_path / "a.png")

        def opened(*_, **__):
            raise PermissionError(13, "Permission denied", str(picture))

        monkeypatch.setattr(Image, "open", opened)
        assert refused(picture, "--model", model_path) == f"{picture}: Permission denied"

    def test_a_photo_with_a_second_picture_in_it_is_no_animation(self, model_path, tmp_path):
        # As telephones store a preview or a gain map.
        photo = Image.new("RGB", (40, 40), COLOURS["green"])
        preview = Image.new("RGB", (10, 10), COLOURS["red"])
        photo.save(tmp_path / "photo.jpg", "MPO", save_all=True, append_images=[preview])
        with Image.open(tmp_path / "photo.jpg") as reopened:
            assert reopened.n_frames == 2
        [(_, found)] = predictions_of(tmp_path / "photo.jpg", "--model", model_path, "--top", 1)
        assert list(found) == ["green"]

    def test_a_gif_of_one_frame_is_a_picture(self, model_path, tmp_path):
        save(tmp_path / "still.gif", "blue")
        [(_, found)] = predictions_of(tmp_path / "still.gif", "--model", model_path, "--top", 1)
        assert list(found) == ["blue"]


class TestBadModelsAndNames:
    @pytest.mark.parametrize(
        ("model", "reason"),
        [
            ("", "a folder"),
            ("none.keras", "Expected 1.0, 1.1 or an existing model file"),
            ("2.0", "Expected 1.0, 1.1 or an existing model file"),
            ("a.png", "ends in .keras, .sqz or .tflite"),
        ],
    )
    def test_what_is_no_model_is_refused_before_it_is_opened(self, tmp_path, model, reason):
        picture = save(tmp_path / "a.png")
        assert reason in refused(picture, "--model", tmp_path / model)

    def test_logits_are_no_probabilities(self, tmp_path):
        model = colour_model(activation=None)
        model.save(tmp_path / "logits.keras")
        line = refused(save(tmp_path / "a.png"), "--model", tmp_path / "logits.keras")
        assert "outputs are probabilities, from 0 to 1. Received: 3.0 from" in line

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (
                b"one\ntwo\n",
                "Expected 3 class names, as many as the model has classes. Received: 2",
            ),
            (b'["one", "two", "three", "four"]', "Received: 4 in"),
            (b'["one", 2, "three"]', "Expected a list of class names in"),
            (b'["one", "two"', "Expected a JSON list of class names in"),
            (b"[" * 100_000, "Expected a JSON list of class names in"),
            (b"\n\n", "Received: none"),
            (b"\xff\xfe\x00", "as text in UTF-8"),
            (b"x\n" * 2_000_000, "at most 1048576 bytes"),
            (None, "cannot be read"),
        ],
    )
    def test_labels_that_do_not_fit_are_refused(self, model_path, tmp_path, content, reason):
        labels = tmp_path / "labels"
        labels.mkdir() if content is None else labels.write_bytes(content)
        line = refused(save(tmp_path / "a.png"), "--model", model_path, "--labels", labels)
        assert reason in line
        assert str(labels) in line

    def test_names_are_read_from_json_and_from_lines(self, tmp_path):
        path = tmp_path / "labels"
        path.write_bytes('["a, b", "ü"]'.encode())
        assert read_class_names(path) == ("a, b", "ü")
        path.write_bytes("\ufeffa, b\r\nü\r\n".encode())
        assert read_class_names(path) == ("a, b", "ü")


class TestProcess:
    @pytest.mark.parametrize("bad", ["missing.png", "bomb.png"])
    def test_a_bad_picture_is_one_line_and_status_2(self, tmp_path, bad):
        hundred_megapixels("PNG")(tmp_path / "bomb.png")
        done = subprocess.run(
            [COMMAND, "classify", tmp_path / bad, "--json"], capture_output=True, text=True
        )
        assert (done.returncode, done.stdout) == (2, "")
        [line] = done.stderr.splitlines()
        assert line.startswith(f"keras-squeezenet: {tmp_path / bad}: ")

    def test_what_is_wrong_with_the_files_is_said_before_keras_is_imported(self, tmp_path):
        truncated(tmp_path / "bad.jpg")
        code = (
            "import sys\n"
            "from typer.testing import CliRunner\n"
            "from keras_squeezenet import cli\n"
            f"arguments = ['classify', {str(tmp_path)!r}, '--explain', 'out.png']\n"
            "print(CliRunner().invoke(cli.app, arguments).exception)\n"
            "print([name for name in ('keras', 'tensorflow') if name in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        reason, imported = done.stdout.splitlines()
        assert "truncated" in reason
        assert imported == "[]"

    @pytest.mark.shared
    def test_a_lorikeet_is_recognised_by_the_published_network(self, shared, tmp_path):
        import zipfile

        with zipfile.ZipFile(shared / "data" / "imagenet_dev.zip") as archive:
            photo = archive.extract("imagenet_dev/images/01244097ca8ffdfa.jpg", tmp_path)
        done = subprocess.run(
            [COMMAND, "classify", photo, "--json", "--explain", tmp_path / "why.png"],
            capture_output=True,
            text=True,
            env={**os.environ, "KERAS_SQUEEZENET_WEIGHTS": str(shared / "weights")},
        )
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert answer["model"] == "1.1"
        [image] = answer["images"]
        assert len(image["predictions"]) == 5
        first = image["predictions"][0]
        assert (first["class"], first["name"]) == (90, "lorikeet")
        assert first["probability"] > 0.9
        with Image.open(tmp_path / "why.png") as picture:
            assert picture.width == 1200

    @pytest.mark.shared
    def test_the_published_network_of_the_paper_answers_too(self, shared, tmp_path, monkeypatch):
        monkeypatch.setenv("KERAS_SQUEEZENET_WEIGHTS", str(shared / "weights"))
        [(_, found)] = predictions_of(save(tmp_path / "a.png"), "--model", "1.0")
        assert len(found) == 5
        assert 0 < sum(found.values()) <= 1


@pytest.mark.shared
def test_the_published_networks_are_opened_by_their_versions(shared, monkeypatch):
    monkeypatch.setenv("KERAS_SQUEEZENET_WEIGHTS", str(shared / "weights"))
    for version, side in (("1.0", 227), ("1.1", 224)):
        found = open_classifier(version)
        assert (found.classes, found.image_size, found.class_names[90]) == (1000, side, "lorikeet")
    with pytest.raises(classifiers.ModelFileError, match=r"Expected 1\.0, 1\.1 or.*Received: 1\.2"):
        open_classifier("1.2")


def test_a_model_that_prepares_no_images_is_said_to_get_them_as_they_are(tmp_path, caplog):
    shape = {"input_shape": (33, 33, 3), "classes": 3, "weights": None}
    for prepares in (False, True):
        path = tmp_path / f"{prepares}.keras"
        SqueezeNet(include_preprocessing=prepares, **shape).save(path)
        classifiers.open_classifier(path)
        assert ("no layer that prepares images" in caplog.text) != prepares
        caplog.clear()


def test_an_exported_file_says_how_its_pictures_are_framed(tmp_path):
    model = colour_model()
    images = np.random.default_rng(0).uniform(0, 255, (2, SIDE, SIDE, 3)).astype("float32")
    for resize in (None, 40, "stretch"):
        path = tmp_path / "n.tflite"
        export_litert(model, path, check_images=images, resize=resize)
        assert read_resize(path) == resize
        assert resize_of(path) == resize
