import base64
import json
import math
import re
import warnings
from collections import Counter
from html.parser import HTMLParser
from io import BytesIO
from unittest.mock import patch

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from sklearn import metrics as sklearn_metrics

from keras_squeezenet import report
from keras_squeezenet.evaluation import Predictions, evaluate_predictions

HOSTILE_NAMES = [
    "<script>alert('x')</script>",
    '"><img src=http://example.com/x onerror=alert(1)>',
    "$\\frac{$",
    "two\nlines\tand\u202ea turn",
    "not \udcff UTF-8",
    "{{ 7 * 7 }}",
    "日本語の名前",
    "great white shark, man-eater, man-eating shark, Carcharodon carcharias",
]


PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def class_names(classes):
    names = [*HOSTILE_NAMES, "W" * 60, "ox"]
    return [f"{names[i % 10]} {i}" for i in range(classes)]


def evaluate(labels, predicted, names):
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    probabilities = np.full((len(labels), len(names)), 0.1 / len(names))
    probabilities[np.arange(len(labels)), predicted] = 0.9
    predictions = Predictions.from_probabilities(np.arange(len(labels)), labels, probabilities)
    return evaluate_predictions(predictions, names)


def random_evaluation(classes):
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, 6 * classes)
    labels[labels == classes - 1] = 0  # One class without an example.
    predicted = np.where(rng.random(6 * classes) < 0.6, labels, (labels * 7 + 1) % classes)
    return evaluate(labels, predicted, class_names(classes))


def history(epochs):
    return [
        {
            "epoch": epoch,
            "loss": 2.3 / epoch,
            "accuracy": 1 - 0.9 / epoch,
            "val_loss": 2.3 / epoch + 0.01 * epoch,
            "val_accuracy": 0.9 - 0.8 / epoch,
            "learning_rate": 0.04 / epoch,
        }
        for epoch in range(1, epochs + 1)
    ]


def boxes_of_text(figure):
    """What is drawn as text, with its box in pixels, in the order of drawing."""
    # Asked of the drawing itself: matplotlib keeps tick labels that it does not draw.
    with patch.object(Text, "draw", autospec=True, side_effect=Text.draw) as draw:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            figure.canvas.draw()
        drawn = dict.fromkeys(call.args[0] for call in draw.call_args_list)
        return [(text.get_text(), text.get_window_extent()) for text in drawn if text.get_text()]


def assert_nothing_is_cut_off(figure, path):
    outside = [
        (text, box.extents)
        for text, box in boxes_of_text(figure)
        if box.x0 < 0 or box.y0 < 0 or box.x1 > figure.bbox.x1 or box.y1 > figure.bbox.y1
    ]
    assert not outside
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L"))
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert edge.min() == 255, "something is drawn over the edge of the picture"


def size_of_png(path):
    with Image.open(path) as image:
        image.verify()
        assert image.format == "PNG"
        assert "Software" not in image.info
        return image.size


# Figures


@pytest.mark.parametrize("classes", [2, 10, 20, 21, 81, 100, 101, 300])
def test_confusion_matrix_shows_every_name_whole_inside_the_picture(classes, tmp_path):
    path = tmp_path / "confusion_matrix.png"

    figure = report.confusion_matrix(random_evaluation(classes), path)

    width, height = size_of_png(path)
    assert 1000 <= width <= 2700
    assert 800 <= height <= 2700
    assert_nothing_is_cut_off(figure, path)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(labels) == (classes if classes <= 100 else 0)


@pytest.mark.parametrize("classes", [10, 20, 100, 300])
def test_confusion_matrix_is_readable_on_a_page_of_1000_pixels(classes, tmp_path):
    figure = report.confusion_matrix(random_evaluation(classes), tmp_path / "c.png")

    shrunk = min(1, 1000 / (figure.get_figwidth() * report.CSS_PIXELS_PER_INCH))
    sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text()]
    assert min(sizes) / 72 * report.CSS_PIXELS_PER_INCH * shrunk > 6.5


def test_confusion_matrix_is_coloured_by_the_shares_of_each_row(tmp_path):
    labels, predicted = [0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 0, 2]

    figure = report.confusion_matrix(evaluate(labels, predicted, ["a", "b", "c"]), tmp_path / "c")

    np.testing.assert_allclose(
        figure.axes[0].images[0].get_array(),
        sklearn_metrics.confusion_matrix(labels, predicted, normalize="true"),
    )


def test_confusion_matrix_of_few_classes_carries_its_counts(tmp_path):
    evaluation = evaluate([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 0, 2], ["a", "b", "c"])

    figure = report.confusion_matrix(evaluation, tmp_path / "c.png")

    written = {
        (round(text.get_position()[1]), round(text.get_position()[0])): text.get_text()
        for text in figure.axes[0].texts
    }
    assert written == {(0, 0): "2", (0, 1): "1", (1, 1): "1", (1, 0): "1", (2, 2): "1"}


def test_a_class_without_an_example_is_neither_right_nor_wrong(tmp_path):
    figure = report.confusion_matrix(evaluate([0, 0], [0, 1], ["a", "b"]), tmp_path / "c.png")

    shares = figure.axes[0].images[0].get_array()
    assert shares.mask.tolist() == [[False, False], [True, True]]
    assert any("grey" in text for text, _ in boxes_of_text(figure))


def test_many_classes_come_with_the_most_confused_pairs(tmp_path):
    names = [f"name{i}" for i in range(150)]
    labels = [3] * 5 + [7] * 2 + list(range(150))
    predicted = [4] * 5 + [9] * 2 + list(range(150))

    figure = report.confusion_matrix(evaluate(labels, predicted, names), tmp_path / "c.png")

    drawn = [text for text, _ in boxes_of_text(figure)]
    assert drawn.index("name3 → name4") == drawn.index("5") + 1
    assert drawn.index("name7 → name9") > drawn.index("name3 → name4")


def test_most_confused_pairs_are_those_of_a_plain_count():
    rng = np.random.default_rng(1)
    labels, predicted = rng.integers(0, 6, (2, 500))
    wrong = Counter(
        (label, said)
        for label, said in zip(labels.tolist(), predicted.tolist(), strict=True)
        if label != said
    )

    confusion = sklearn_metrics.confusion_matrix(labels, predicted)

    expected = sorted(wrong.items(), key=lambda item: (-item[1], item[0]))[:8]
    assert report.most_confused(confusion, 8) == [(*pair, count) for pair, count in expected]


@pytest.mark.parametrize("epochs", [1, 2, 60])
def test_learning_curves_are_whole_and_of_page_size(epochs, tmp_path):
    path = tmp_path / "learning_curves.png"

    figure = report.learning_curves(history(epochs), path, classes=1000)

    assert size_of_png(path) == (2000, 1040)
    assert_nothing_is_cut_off(figure, path)


def test_learning_curves_mark_the_best_validation_and_the_loss_of_chance(tmp_path):
    rows = history(30)
    figure = report.learning_curves(rows, tmp_path / "l.png", classes=10)

    loss, accuracy, rate = figure.axes
    drawn = [text for text, _ in boxes_of_text(figure)]
    best = min(rows, key=lambda row: row["val_loss"])
    assert f"best {best['val_loss']:.3g}, epoch {best['epoch']}" in drawn
    assert "best 87.3\u00a0%, epoch 30" in drawn
    assert "chance, ln 10 = 2.30" in drawn
    dotted = [line for line in loss.lines if line.get_linestyle() == ":"]
    assert [line.get_ydata()[0] for line in dotted] == [pytest.approx(math.log(10))]
    assert loss.get_ylim()[1] > math.log(10)
    assert accuracy.get_title(loc="left") == "Accuracy"
    np.testing.assert_allclose(rate.lines[0].get_ydata(), [row["learning_rate"] for row in rows])


def test_learning_curves_draw_what_there_is(tmp_path):
    rows = [{"loss": 2.0}, {"loss": math.inf, "val_loss": math.nan}, {"loss": 1.0, "extra": 5.0}]

    figure = report.learning_curves(rows, tmp_path / "l.png")

    (axes,) = figure.axes
    (line,) = axes.lines
    np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(line.get_ydata(), [2.0, math.nan, 1.0])
    with pytest.raises(ValueError, match=r"history: expected rows with loss.* Received: 1 rows"):
        report.learning_curves([{"extra": 5.0}], tmp_path / "none.png")


def test_an_epoch_that_was_run_again_counts_once(tmp_path):
    rows = [{"epoch": 1, "loss": 3}, {"epoch": 2, "loss": 9}, {"epoch": 2, "loss": 2}]

    figure = report.learning_curves(rows, tmp_path / "l.png")

    assert figure.axes[0].lines[0].get_xydata().tolist() == [[1, 3], [2, 2]]


@pytest.mark.parametrize("count", [1, 4, 8, 25])
def test_captions_of_mistakes_neither_leave_the_picture_nor_touch_each_other(count, tmp_path):
    rng = np.random.default_rng(count)
    names = class_names(count + 1)
    images = [
        rng.integers(0, 256, (8 + 5 * (i % 3), 8 + 9 * (i % 4), 3), np.uint8) for i in range(count)
    ]
    captions = [
        report.mistake_caption(names[i], names[i + 1], 0.99 - i / 100) for i in range(count)
    ]
    path = tmp_path / "worst_mistakes.png"

    figure = report.worst_mistakes(images, captions, path)

    size_of_png(path)
    assert_nothing_is_cut_off(figure, path)
    boxes = boxes_of_text(figure)
    assert len(boxes) == 2 * min(count, 20)
    for number, (text, box) in enumerate(boxes):
        for other, other_box in boxes[:number]:
            apart = box.x0 >= other_box.x1 or other_box.x0 >= box.x1
            assert apart or abs(box.y0 - other_box.y0) > 10, (text, other)
    said = [text for text, _ in boxes if text.startswith("said: ")]
    assert [text[-4:] for text in said] == [f"{99 - i} %" for i in range(min(count, 20))]


def test_mistakes_are_drawn_as_they_were_given(tmp_path):
    image = np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8)
    path = tmp_path / "w.png"

    report.worst_mistakes([image], [report.mistake_caption("cat", "dog", 0.97)], path)

    with Image.open(path) as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20)}
    assert {(255, 0, 0), (0, 255, 0)} <= colours
    assert report.mistake_caption("cat", "dog", 0.97) == "true: cat\nsaid: dog 97\u00a0%"


def test_a_model_without_mistakes_replaces_the_picture_of_an_earlier_run(tmp_path):
    path = tmp_path / "w.png"
    path.write_bytes(b"earlier")

    figure = report.worst_mistakes([], [], path)

    assert_nothing_is_cut_off(figure, path)
    assert [text for text, _ in boxes_of_text(figure)] == ["No mistakes to show."]


def test_what_is_no_image_is_refused(tmp_path):
    grey = np.zeros((4, 4), np.uint8)
    floats = np.zeros((4, 4, 3), np.float32)

    with pytest.raises(ValueError, match=r"images\[0\]: .* Received: uint8 of shape \(4, 4\)"):
        report.worst_mistakes([grey], ["a\nb"], tmp_path / "w.png")
    with pytest.raises(ValueError, match=r"images\[0\]: .* Received: float32 of shape"):
        report.worst_mistakes([floats], ["a\nb"], tmp_path / "w.png")
    with pytest.raises(ValueError, match=r"captions: .* each of 1 images\. Received: 0"):
        report.worst_mistakes([grey], [], tmp_path / "w.png")
    assert not list(tmp_path.iterdir())


def test_file_sizes_say_bytes_units_and_accuracy(tmp_path):
    rows = [
        ("model.keras " + "long " * 30, 4_993_696, 0.575),
        ("<b>model.sqz</b>", 312_456, None),
    ]
    path = tmp_path / "file_sizes.png"

    figure = report.file_sizes(rows, path)

    assert size_of_png(path)[0] == 2000
    assert_nothing_is_cut_off(figure, path)
    drawn = [text for text, _ in boxes_of_text(figure)]
    assert {"4.99\u00a0MB", "312\u00a0kB", "57.5\u00a0%", "–", "<b>model.sqz</b>"} <= set(drawn)
    assert "file size in MB (1 MB = 1,000,000 bytes)" in drawn
    assert [bar.get_width() for bar in figure.axes[0].patches] == [4.993696, 0.312456]


def test_file_sizes_need_files(tmp_path):
    with pytest.raises(ValueError, match="rows: expected at least one"):
        report.file_sizes([], tmp_path / "f.png")
    with pytest.raises(ValueError, match=r"rows: .* for model.sqz. Received: -1"):
        report.file_sizes([("model.sqz", -1, None)], tmp_path / "f.png")


def test_a_figure_leaves_the_users_matplotlib_alone_and_ignores_it(tmp_path):
    report.learning_curves(history(3), tmp_path / "plain.png")

    with matplotlib.rc_context({"font.size": 30, "figure.facecolor": "black"}):
        before = dict(matplotlib.rcParams)
        report.learning_curves(history(3), tmp_path / "styled.png")
        assert dict(matplotlib.rcParams) == before

    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "styled.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain.png", "styled.png"]


def test_a_picture_is_replaced_whole_or_not_at_all(tmp_path):
    path, earlier = tmp_path / "l.png", tmp_path / "earlier.png"
    path.write_bytes(b"earlier")
    earlier.hardlink_to(path)

    report.learning_curves(history(1), path)

    # The old bytes were never overwritten: somebody who reads them goes on reading them.
    assert earlier.read_bytes() == b"earlier"
    drawn = path.read_bytes()
    with (
        patch.object(Figure, "savefig", side_effect=lambda file, **_: file.write_bytes(drawn[:9])),
        patch("os.replace", side_effect=OSError("disk full")),
        pytest.raises(OSError, match="disk full"),
    ):
        report.learning_curves(history(2), path)
    assert path.read_bytes() == drawn
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["earlier.png", "l.png"]


# The page


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
    report.confusion_matrix(evaluation, tmp_path / "confusion_matrix.png")
    report.learning_curves(history(3), tmp_path / "learning_curves.png")
    report.worst_mistakes(
        [np.zeros((4, 4, 3), np.uint8)], ["true: a\nsaid: b"], tmp_path / "worst_mistakes.png"
    )
    report.file_sizes([("model.sqz", 312_456, 0.5)], tmp_path / "file_sizes.png")
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
    page = Page(report.write_report(run_folder))

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
    images = Page(report.write_report(run_folder)).images()

    names = ["learning_curves", "confusion_matrix", "worst_mistakes", "file_sizes"]
    assert len(images) == len(names)
    for image, name in zip(images, names, strict=True):
        kind, content = image["src"].split(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(content) == (run_folder / f"{name}.png").read_bytes()
        assert image["alt"]
    assert int(images[0]["width"]) == 1000


def test_hostile_names_are_shown_and_not_obeyed(run_folder):
    page = Page(report.write_report(run_folder))

    assert {tag for tag, _ in page.elements} <= {
        *("html", "head", "meta", "title", "style", "body", "main", "section", "div", "pre", "img"),
        *("h1", "h2", "h3", "ul", "li", "details", "summary"),
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
    page = Page(report.write_report(run_folder))

    (policy,) = [
        attributes["content"]
        for tag, attributes in page.elements
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_classes_come_worst_first_and_say_what_they_were_taken_for(tmp_path):
    evaluation = evaluate(
        [0, 0, 1, 1, 1, 2, 2], [0, 0, 2, 2, 0, 2, 1], ["good", "bad", "fair", "absent"]
    )
    write_metrics(tmp_path, {"evaluation": evaluation.to_dict()})

    page = Page(report.write_report(tmp_path))

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

    page = Page(report.write_report(tmp_path))

    assert page.sections() == []
    assert page.images() == []
    assert "card" not in [attributes.get("class") for _, attributes in page.elements]


def test_top5_is_left_out_where_it_says_nothing(tmp_path):
    evaluation = evaluate([0, 1], [0, 0], ["a", "b"])
    write_metrics(tmp_path, {"evaluation": evaluation.to_dict()})
    assert "Top-5 accuracy" not in Page(report.write_report(tmp_path)).texts

    evaluation = evaluate([0, 1], [0, 0], list("abcdef"))
    write_metrics(tmp_path, {"evaluation": evaluation.to_dict()})
    assert "Top-5 accuracy" in Page(report.write_report(tmp_path)).texts


@pytest.mark.parametrize(
    "content",
    [b"", b"<svg/>", PNG_SIGNATURE, PNG_SIGNATURE + b"<svg/>" * 10, b"\xff\xd8\xff\xe0JFIF"],
)
def test_a_picture_that_is_no_png_is_left_out_and_named(content, tmp_path):
    write_metrics(tmp_path, {})
    (tmp_path / "learning_curves.png").write_bytes(content)

    page = Page(report.write_report(tmp_path))

    assert page.images() == []
    assert "learning_curves.png was left out: it is not a PNG." in page.texts


def test_a_png_of_any_other_program_is_shown(tmp_path):
    write_metrics(tmp_path, {})
    content = BytesIO()
    Image.new("RGB", (600, 20)).save(content, "PNG")
    (tmp_path / "learning_curves.png").write_bytes(content.getvalue())

    (image,) = Page(report.write_report(tmp_path)).images()

    assert image["width"] == "300"


def test_a_huge_picture_is_left_out_and_named(tmp_path, monkeypatch):
    write_metrics(tmp_path, {})
    monkeypatch.setattr(report, "MAX_PICTURE_BYTES", 1000)
    report.learning_curves(history(1), tmp_path / "learning_curves.png")

    page = Page(report.write_report(tmp_path))

    assert page.images() == []
    assert "learning_curves.png was left out: it is larger than 1.00\u00a0kB." in page.texts


def test_a_folder_without_metrics_is_named_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a run's folder with metrics\.json") as e:
        report.write_report(tmp_path)

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
        report.write_report(tmp_path)

    assert (tmp_path / "report.html").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


def test_numbers_that_are_none_are_left_out(tmp_path):
    (tmp_path / "metrics.json").write_text(
        '{"model": {"parameters": 1' + "0" * 400 + ', "multiply_adds": NaN, "name": true},'
        ' "training": {"ranks": "<b>", "seconds": false}}'
    )

    page = Page(report.write_report(tmp_path))

    assert "card" not in [attributes.get("class") for _, attributes in page.elements]


def test_history_is_read_as_numbers_without_its_empty_cells(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("epoch,loss,val_loss\n1,2.5,nan\n2,1e-3,\n")

    first, second = report.read_history(path)

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
        report.read_history(path)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (675_763, "676 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (14_993_312, "15.0 MB"),
        (99_950_000, "100 MB"),
    ],
)
def test_bytes_are_rounded_to_three_digits_of_a_decimal_unit(size, text, tmp_path):
    figure = report.file_sizes([("model", size, None)], tmp_path / "f.png")

    assert text.replace(" ", "\u00a0") in [drawn for drawn, _ in boxes_of_text(figure)]
