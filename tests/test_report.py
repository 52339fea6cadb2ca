import base64
import json
import math
import re
from html.parser import HTMLParser
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from keras_squeezenet.inference.evaluation import Predictions
from keras_squeezenet.reports import figures, training_page
from keras_squeezenet.reports import page as page_module
from keras_squeezenet.reports.metrics import read_history
from keras_squeezenet.training import results
from tests.evaluation_samples import (
    HOSTILE_NAMES,
    PNG_SIGNATURE,
    evaluate,
    history,
    random_evaluation,
)


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, and the text between them."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.texts, self.styles = [], [], []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        inside_style = self.elements[-1:] and self.elements[-1][0] == "style"
        # A no-break space stays: str.split() would take it for a space.
        text = re.sub(r"[ \n]+", " ", data).strip(" ")
        (self.styles if inside_style else self.texts).append(text)

    def sections(self):
        return [attrs["id"] for tag, attrs in self.elements if tag == "section"]

    def images(self):
        return [attrs for tag, attrs in self.elements if tag == "img"]


@pytest.fixture
def run_folder(tmp_path):
    """A finished run over classes with hostile names."""
    evaluation = random_evaluation(8)
    figures.confusion_matrix(evaluation, tmp_path / "confusion_matrix.png")
    figures.learning_curves(history(3), tmp_path / "learning_curves.png")
    figures.worst_mistakes(
        [np.zeros((4, 4, 3), np.uint8)], ["true: a\nsaid: b"], tmp_path / "worst_mistakes.png"
    )
    figures.file_sizes([("model.sqz", 312_456, 0.5)], tmp_path / "file_sizes.png")
    (tmp_path / "history.csv").write_text("epoch,loss,val_loss\n1,2.5,2.25\n2,1.5,\n")
    (tmp_path / "recipe.yaml").write_text("model: <squeezenet>\nepochs: 2\n")
    hostile = HOSTILE_NAMES[0]
    write_metrics(
        tmp_path,
        {
            "dataset": {"name": hostile, "classes": 8, "train": 90, "image_size": [64, 48]},
            "model": {
                "name": "SqueezeNet",
                "parameters": 1_235_496,
                "multiply_adds": 349_152_000,
                "activation_bytes": 3_210_000,
            },
            "training": {
                "epochs": 2,
                "ranks": 4,
                "seconds": 741.2,
                "images_per_second": 1834.4,
                "seed": 17,
                "command": "train.py --name '" + hostile + "'",
            },
            "evaluation": evaluation.to_dict(),
            "files": [
                {"name": "model.keras", "bytes": 4_993_696, "top1": 0.575, "note": hostile},
                {"name": "model.sqz", "bytes": 312_456, "top1": None},
            ],
            "broken_images": [{"file": hostile, "reason": "truncated"}],
            "warnings": [hostile],
            "versions": {"keras": "3.15.1"},
        },
    )
    return tmp_path


def write_metrics(folder, metrics):
    (folder / "metrics.json").write_text(json.dumps(metrics))


def test_the_page_shows_the_whole_run(run_folder):
    page = Page(training_page.write_report(run_folder))

    assert page.sections() == [
        "warnings",
        "learning-curves",
        "classes",
        "confusion",
        "mistakes",
        "files",
        "broken-images",
        "run",
    ]
    for expected in (
        "1.24\u00a0M",
        "1,235,496",
        "349\u00a0M",
        "3.21\u00a0MB",
        "4.99\u00a0MB",
        "312\u00a0kB",
        "57.5\u00a0%",
        "not measured",
        "12.4\u00a0min",
        "1,834",
        "64 × 48",
        "17",
        "3.15.1",
        "2.25",
        "model: <squeezenet> epochs: 2",
    ):
        assert expected in page.texts, expected


def test_pictures_travel_inside_the_page(run_folder):
    images = Page(training_page.write_report(run_folder)).images()

    names = ["learning_curves", "confusion_matrix", "worst_mistakes", "file_sizes"]
    assert len(images) == len(names)
    for image, name in zip(images, names, strict=True):
        kind, content = image["src"].split(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(content) == (run_folder / f"{name}.png").read_bytes()
        assert image["alt"]
    assert int(images[0]["width"]) == 1000


def test_hostile_names_are_shown_and_not_obeyed(run_folder):
    page = Page(training_page.write_report(run_folder))

    assert {tag for tag, _ in page.elements} <= {
        *("html", "head", "meta", "title", "style", "body", "main", "section", "div", "pre", "img"),
        *("h1", "h2", "h3", "p", "ul", "li", "details", "summary"),
        *("table", "thead", "tbody", "tr", "th", "td"),
    }
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "href"]
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.images())
    assert "url(" not in "".join(page.styles)
    assert "@import" not in "".join(page.styles)
    # Title, heading, file note, broken image, warning, and the fact sheet.
    assert page.texts.count(HOSTILE_NAMES[0]) >= 4
    assert '"><img src=http://example.com/x onerror=alert(1)> 1' in page.texts
    assert "{{ 7 * 7 }} 5" in page.texts


def test_the_page_lets_no_script_and_no_network_through(run_folder):
    page = Page(training_page.write_report(run_folder))

    (policy,) = [
        attributes["content"]
        for tag, attributes in page.elements
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_an_int8_file_that_lost_confidence_is_noted(tmp_path):
    files = [
        {"name": "model.keras", "bytes": 400, "top1": 0.7, "confidence": 0.731},
        {"name": "fine.tflite", "bytes": 200, "top1": 0.7, "confidence": 0.725},
        {"name": "int8.tflite", "bytes": 100, "top1": 0.6, "confidence": 0.592, "note": "mine"},
        {"name": "earlier.tflite", "bytes": 100, "top1": 0.6},
    ]
    write_metrics(tmp_path, {"files": files})

    texts = Page(training_page.write_report(tmp_path)).texts

    def cells(name):
        return [text for text in texts[texts.index(name, texts.index("Note")) :] if text]

    assert cells("model.keras")[3:5] == ["70.0\u00a0%", "73.1\u00a0%"]
    assert cells("fine.tflite")[4:6] == ["72.5\u00a0%", "int8.tflite"]
    assert cells("int8.tflite")[4:6] == [
        "59.2\u00a0%",
        "mine; 13.9 points less sure than model.keras, as where 8-bit ranges cut values off",
    ]
    assert cells("earlier.tflite")[4] == "not measured"


def test_a_report_of_before_is_drawn_without_a_note(tmp_path):
    files = [{"name": "model.keras", "bytes": 400, "top1": 0.7}, {"name": "a.tflite", "top1": 0.1}]
    write_metrics(tmp_path, {"files": files})
    page = Page(training_page.write_report(tmp_path))
    assert page.texts.count("not measured") == 2
    assert not [text for text in page.texts if "less sure than model.keras" in text]


def test_classes_come_worst_first_and_say_what_they_were_taken_for(tmp_path):
    evaluation = evaluate(
        [0, 0, 1, 1, 1, 2, 2], [0, 0, 2, 2, 0, 2, 1], ["good", "bad", "fair", "absent"]
    )
    write_metrics(tmp_path, {"evaluation": evaluation.to_dict()})

    page = Page(training_page.write_report(tmp_path))

    start = page.texts.index("bad")
    cells = [text for text in page.texts[start:] if text]
    assert cells[:12] == [
        *("bad", "3", "0.0\u00a0%", "fair (2)"),
        *("fair", "2", "50.0\u00a0%", "bad (1)"),
        *("good", "2", "100.0\u00a0%"),
        "absent",
    ]
    bars = [attrs["style"] for tag, attrs in page.elements if tag == "div" and "style" in attrs]
    assert bars == ["width: 0.0%", "width: 50.0%", "width: 100.0%"]


def test_an_empty_run_makes_an_empty_page(tmp_path):
    write_metrics(tmp_path, {})

    page = Page(training_page.write_report(tmp_path))

    assert page.sections() == []
    assert page.images() == []
    assert "card" not in [attributes.get("class") for _, attributes in page.elements]


def test_top5_is_left_out_where_it_says_nothing(tmp_path):
    evaluation = evaluate([0, 1], [0, 0], ["a", "b"])
    write_metrics(tmp_path, {"evaluation": evaluation.to_dict()})
    assert "Top-5 accuracy" not in Page(training_page.write_report(tmp_path)).texts

    evaluation = evaluate([0, 1], [0, 0], list("abcdef"))
    write_metrics(tmp_path, {"evaluation": evaluation.to_dict()})
    assert "Top-5 accuracy" in Page(training_page.write_report(tmp_path)).texts


@pytest.mark.parametrize(
    "content",
    [b"", b"<svg/>", PNG_SIGNATURE, PNG_SIGNATURE + b"<svg/>" * 10, b"\xff\xd8\xff\xe0JFIF"],
)
def test_a_picture_that_is_no_png_is_left_out_and_named(content, tmp_path):
    write_metrics(tmp_path, {})
    (tmp_path / "learning_curves.png").write_bytes(content)

    page = Page(training_page.write_report(tmp_path))

    assert page.images() == []
    assert "learning_curves.png was left out: it is not a PNG." in page.texts


def test_a_png_of_any_other_program_is_shown(tmp_path):
    write_metrics(tmp_path, {})
    content = BytesIO()
    Image.new("RGB", (600, 20)).save(content, "PNG")
    (tmp_path / "learning_curves.png").write_bytes(content.getvalue())

    (image,) = Page(training_page.write_report(tmp_path)).images()

    assert image["width"] == "300"


def test_a_huge_picture_is_left_out_and_named(tmp_path, monkeypatch):
    write_metrics(tmp_path, {})
    monkeypatch.setattr(page_module, "MAX_PICTURE_BYTES", 1000)
    figures.learning_curves(history(1), tmp_path / "learning_curves.png")

    page = Page(training_page.write_report(tmp_path))

    assert page.images() == []
    assert "learning_curves.png was left out: it is larger than 1.00\u00a0kB." in page.texts


def test_another_section_with_another_figure_is_one_entry(run_folder, monkeypatch):
    def draw(run, path):
        assert [name for name, _, _ in run.files] == ["model.keras", "model.sqz"]
        figures.learning_curves(run.history, path)

    another = page_module.PageSection(
        "another",
        lambda values: f"Another, after {len(values['files'])} files",
        (page_module.PageFigure("another_figure", "What it shows", draw),),
    )
    monkeypatch.setattr(training_page, "SECTIONS", (*training_page.SECTIONS, another))
    labels = np.arange(8)
    probabilities = np.eye(8)[np.roll(labels, 1)]
    predictions = Predictions.from_probabilities(labels, labels, probabilities)
    split = SimpleNamespace(example=lambda index: (np.zeros((4, 4, 3), np.uint8), index))

    page = Page(results.draw(run_folder, history(3), random_evaluation(8), predictions, split))

    assert page.sections()[-1] == "another"
    assert "Another, after 2 files" in page.texts
    assert page.images()[-1]["alt"] == "What it shows"
    assert (run_folder / "another_figure.png").read_bytes()[:8] == PNG_SIGNATURE


def test_a_folder_without_metrics_is_named_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a run's folder with metrics\.json") as e:
        training_page.write_report(tmp_path)

    assert str(tmp_path) in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected JSON"),
        ("[" * 100_000, "expected JSON"),
        ("[]", "expected an object. Received: list"),
        ('{"training": []}', "expected training to be made of dict. Received: list"),
        ('{"files": [3]}', "expected files to be made of dict. Received: int"),
        (
            '{"evaluation": {"class_names": ["a"], "per_class_accuracy": [1, 1]}}',
            "expected as many accuracies",
        ),
        (
            '{"evaluation": {"class_names": ["a"], "per_class_accuracy": [1],'
            ' "confusion": [["x"]]}}',
            "expected a confusion of 1 rows and columns",
        ),
    ],
)
def test_metrics_of_another_form_are_refused_and_the_old_page_stays(content, message, tmp_path):
    (tmp_path / "metrics.json").write_text(content)
    (tmp_path / "report.html").write_text("old")

    with pytest.raises(ValueError, match=message):
        training_page.write_report(tmp_path)

    assert (tmp_path / "report.html").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


def test_numbers_that_are_none_are_left_out(tmp_path):
    (tmp_path / "metrics.json").write_text(
        '{"model": {"parameters": 1' + "0" * 400 + ', "multiply_adds": NaN, "name": true},'
        ' "training": {"ranks": "<b>", "seconds": false}}'
    )

    page = Page(training_page.write_report(tmp_path))

    assert "card" not in [attributes.get("class") for _, attributes in page.elements]


def test_history_is_read_as_numbers_without_its_empty_cells(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("epoch,loss,val_loss\n1,2.5,nan\n2,1e-3,\n")

    first, second = read_history(path)

    assert first["epoch"] == 1.0
    assert math.isnan(first["val_loss"])
    assert second == {"epoch": 2.0, "loss": 0.001}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"epoch,loss\n1,2\n2,low\n", r"history\.csv, line 3: .* Received: loss=low"),
        (b"epoch\n1,2\n", r"history\.csv, line 2: expected a cell per name"),
        (b"epoch\n\xff\xfe\n", r"history\.csv: expected a CSV file"),
        (b"epoch\n" + b"1" * 200_000, r"history\.csv: expected a CSV file"),
    ],
)
def test_a_history_that_is_none_is_refused_by_its_line(content, message, tmp_path):
    path = tmp_path / "history.csv"
    path.write_bytes(content)

    with pytest.raises(ValueError, match=message):
        read_history(path)
