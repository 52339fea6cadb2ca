import math
import warnings
from collections import Counter
from unittest.mock import patch

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from sklearn import metrics as sklearn_metrics

from keras_squeezenet.network.profile import LayerProfile, ModelProfile
from keras_squeezenet.reports import figures
from tests.evaluation_samples import class_names, evaluate, history, random_evaluation
from tests.tiers import parametrize


def boxes_of_text(figure):
    """What is drawn as text, with its box in pixels, in the order of drawing."""
    # Asked of the drawing itself: matplotlib keeps tick labels that it does not draw.
    with patch.object(Text, "draw", autospec=True, side_effect=Text.draw) as draw:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            figure.canvas.draw()
        drawn = dict.fromkeys(call.args[0] for call in draw.call_args_list)
        drawn = [text for text in drawn if text.get_visible() and text.get_text()]
        return [(text.get_text(), text.get_window_extent()) for text in drawn]


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


@parametrize("classes", [2, 10, 20, 21, 81, 100, 101, 300], quick=3)
def test_confusion_matrix_shows_every_name_whole_inside_the_picture(classes, tmp_path):
    path = tmp_path / "confusion_matrix.png"

    figure = figures.confusion_matrix(random_evaluation(classes), path)

    width, height = size_of_png(path)
    assert 1000 <= width <= 2700
    assert 800 <= height <= 2700
    assert_nothing_is_cut_off(figure, path)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(labels) == (classes if classes <= 100 else 0)


@parametrize("classes", [10, 20, 100, 300], quick=2)
def test_confusion_matrix_is_readable_on_a_page_of_1000_pixels(classes, tmp_path):
    figure = figures.confusion_matrix(random_evaluation(classes), tmp_path / "c.png")

    shrunk = min(1, 1000 / (figure.get_figwidth() * figures.CSS_PIXELS_PER_INCH))
    sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text()]
    assert min(sizes) / 72 * figures.CSS_PIXELS_PER_INCH * shrunk > 6.5


def test_confusion_matrix_is_coloured_by_the_shares_of_each_row(tmp_path):
    labels, predicted = [0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 0, 2]

    figure = figures.confusion_matrix(evaluate(labels, predicted, ["a", "b", "c"]), tmp_path / "c")

    np.testing.assert_allclose(
        figure.axes[0].images[0].get_array(),
        sklearn_metrics.confusion_matrix(labels, predicted, normalize="true"),
    )


def test_confusion_matrix_of_few_classes_carries_its_counts(tmp_path):
    evaluation = evaluate([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 0, 2], ["a", "b", "c"])

    figure = figures.confusion_matrix(evaluation, tmp_path / "c.png")

    written = {
        (round(text.get_position()[1]), round(text.get_position()[0])): text.get_text()
        for text in figure.axes[0].texts
    }
    assert written == {(0, 0): "2", (0, 1): "1", (1, 1): "1", (1, 0): "1", (2, 2): "1"}


def test_a_class_without_an_example_is_neither_right_nor_wrong(tmp_path):
    figure = figures.confusion_matrix(evaluate([0, 0], [0, 1], ["a", "b"]), tmp_path / "c.png")

    shares = figure.axes[0].images[0].get_array()
    assert shares.mask.tolist() == [[False, False], [True, True]]
    assert any("grey" in text for text, _ in boxes_of_text(figure))


def test_many_classes_come_with_the_most_confused_pairs(tmp_path):
    names = [f"name{i}" for i in range(150)]
    labels = [3] * 5 + [7] * 2 + list(range(150))
    predicted = [4] * 5 + [9] * 2 + list(range(150))

    figure = figures.confusion_matrix(evaluate(labels, predicted, names), tmp_path / "c.png")

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
    assert figures.most_confused(confusion, 8) == [(*pair, count) for pair, count in expected]


@pytest.mark.parametrize("epochs", [1, 2, 60])
def test_learning_curves_are_whole_and_of_page_size(epochs, tmp_path):
    path = tmp_path / "learning_curves.png"

    figure = figures.learning_curves(history(epochs), path, classes=1000)

    assert size_of_png(path) == (2000, 1040)
    assert_nothing_is_cut_off(figure, path)


def test_learning_curves_mark_the_best_validation_and_the_loss_of_chance(tmp_path):
    rows = history(30)
    figure = figures.learning_curves(rows, tmp_path / "l.png", classes=10)

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

    figure = figures.learning_curves(rows, tmp_path / "l.png")

    (axes,) = figure.axes
    (line,) = axes.lines
    np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(line.get_ydata(), [2.0, math.nan, 1.0])
    with pytest.raises(ValueError, match=r"history: expected rows with loss.* Received: 1 rows"):
        figures.learning_curves([{"extra": 5.0}], tmp_path / "none.png")


def test_an_epoch_that_was_run_again_counts_once(tmp_path):
    rows = [{"epoch": 1, "loss": 3}, {"epoch": 2, "loss": 9}, {"epoch": 2, "loss": 2}]

    figure = figures.learning_curves(rows, tmp_path / "l.png")

    assert figure.axes[0].lines[0].get_xydata().tolist() == [[1, 3], [2, 2]]


@pytest.mark.parametrize("count", [1, 4, 8, 25])
def test_captions_of_mistakes_neither_leave_the_picture_nor_touch_each_other(count, tmp_path):
    rng = np.random.default_rng(count)
    names = class_names(count + 1)
    images = [
        rng.integers(0, 256, (8 + 5 * (i % 3), 8 + 9 * (i % 4), 3), np.uint8) for i in range(count)
    ]
    captions = [
        figures.mistake_caption(names[i], names[i + 1], 0.99 - i / 100) for i in range(count)
    ]
    path = tmp_path / "worst_mistakes.png"

    figure = figures.worst_mistakes(images, captions, path)

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

    figures.worst_mistakes([image], [figures.mistake_caption("cat", "dog", 0.97)], path)

    with Image.open(path) as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20)}
    assert {(255, 0, 0), (0, 255, 0)} <= colours
    assert figures.mistake_caption("cat", "dog", 0.97) == "true: cat\nsaid: dog 97\u00a0%"


def test_a_model_without_mistakes_replaces_the_picture_of_an_earlier_run(tmp_path):
    path = tmp_path / "w.png"
    path.write_bytes(b"earlier")

    figure = figures.worst_mistakes([], [], path)

    assert_nothing_is_cut_off(figure, path)
    assert [text for text, _ in boxes_of_text(figure)] == ["No mistakes to show."]


def test_what_is_no_image_is_refused(tmp_path):
    grey = np.zeros((4, 4), np.uint8)
    floats = np.zeros((4, 4, 3), np.float32)

    with pytest.raises(ValueError, match=r"images\[0\]: .* Received: uint8 of shape \(4, 4\)"):
        figures.worst_mistakes([grey], ["a\nb"], tmp_path / "w.png")
    with pytest.raises(ValueError, match=r"images\[0\]: .* Received: float32 of shape"):
        figures.worst_mistakes([floats], ["a\nb"], tmp_path / "w.png")
    with pytest.raises(ValueError, match=r"captions: .* each of 1 images\. Received: 0"):
        figures.worst_mistakes([grey], [], tmp_path / "w.png")
    assert not list(tmp_path.iterdir())


def explanation(shape=(30, 40), seen=(0, 0, 1, 1), heat=None, title="photo.jpg", names=("cat",)):
    rng = np.random.default_rng(shape)
    heat = rng.random((5, 7)) if heat is None else heat
    shares = [0.5**number for number in range(len(names))]
    predictions = list(zip(names, shares, strict=True))
    photo = rng.integers(0, 256, (*shape, 3), np.uint8)
    return figures.Explanation(title, photo, seen, heat, predictions)


@parametrize("shape", [(30, 40), (400, 100), (8, 5000), (5000, 8), (1, 1)], quick=2)
def test_an_explanation_fits_its_page_whatever_the_pictures_shape(shape, tmp_path):
    names = class_names(12)
    rows = [explanation(shape, title="a long name " * 9, names=names), explanation()]
    path = tmp_path / "why.png"

    figure = figures.explanations(rows, path)

    assert size_of_png(path)[0] == 1200
    assert_nothing_is_cut_off(figure, path)
    boxes = boxes_of_text(figure)
    drawn = [text for text, _ in boxes]
    assert sum(text.endswith("\u00a0%") for text in drawn) == 10 + 1
    for number, (text, box) in enumerate(boxes):
        for other, other_box in boxes[:number]:
            assert not box.overlaps(other_box), (text, other)


@pytest.mark.slow
def test_forty_explanations_are_drawn_and_more_refused(tmp_path):
    path = tmp_path / "why.png"
    figures.explanations([explanation((60, 20))] * 40, path)
    width, height = size_of_png(path)
    assert width * height < 20_000_000
    with pytest.raises(ValueError, match=r"rows: expected 1 to 40\. Received: 41"):
        figures.explanations([explanation()] * 41, path)
    with pytest.raises(ValueError, match=r"rows: expected 1 to 40\. Received: 0"):
        figures.explanations([], path)


def test_the_colours_lie_over_what_the_model_saw_as_shares_of_the_most(tmp_path):
    heat = np.array([[0.0, 3.0], [6.0, 1.5]])
    row = explanation((100, 200), seen=(0.25, 0, 0.75, 1), heat=heat)

    figure = figures.explanations([row], tmp_path / "why.png")

    _, photo, overlay, _ = figure.axes
    np.testing.assert_array_equal(photo.images[0].get_array(), row.photo)
    np.testing.assert_allclose(overlay.images[-1].get_array(), heat / 6)
    assert overlay.images[-1].get_extent() == [50, 150, 100, 0]
    # Of the three, only the pale picture shows what the model did not see.
    pale, *cut = overlay.images
    np.testing.assert_allclose(pale.get_clip_box().bounds, overlay.bbox.bounds)
    for image in cut:
        (left, _), (right, _) = overlay.transData.inverted().transform(image.get_clip_box())
        assert (left, right) == (pytest.approx(50), pytest.approx(150))
    assert "for cat" in [text for text, _ in boxes_of_text(figure)]


@pytest.mark.filterwarnings("error")
def test_a_map_of_zeros_is_said_in_words(tmp_path):
    path = tmp_path / "why.png"
    row = explanation(heat=np.zeros((3, 3), np.float32))

    figure = figures.explanations([row], path)

    assert "nothing spoke for cat" in [text for text, _ in boxes_of_text(figure)]
    assert not figure.axes[2].images[-1].get_array().any()


def test_an_explanation_of_other_shapes_is_refused():
    with pytest.raises(ValueError, match=r"photo: expected uint8"):
        figures.Explanation("", np.zeros((4, 4, 3)), (0, 0, 1, 1), np.ones((2, 2)), [("cat", 1)])
    with pytest.raises(ValueError, match=r"heat: .* Received: shape \(2,\)"):
        explanation(heat=np.ones(2))
    with pytest.raises(ValueError, match="heat: expected numbers of 0 or more"):
        explanation(heat=np.array([[math.nan]]))
    with pytest.raises(ValueError, match="predictions: expected at least one"):
        explanation(names=())


def test_file_sizes_say_bytes_units_and_accuracy(tmp_path):
    rows = [
        ("model.keras " + "long " * 30, 4_993_696, 0.575),
        ("<b>model.sqz</b>", 312_456, None),
    ]
    path = tmp_path / "file_sizes.png"

    figure = figures.file_sizes(rows, path)

    assert size_of_png(path)[0] == 2000
    assert_nothing_is_cut_off(figure, path)
    drawn = [text for text, _ in boxes_of_text(figure)]
    assert {"4.99\u00a0MB", "312\u00a0kB", "57.5\u00a0%", "–", "<b>model.sqz</b>"} <= set(drawn)
    assert "file size in MB (1 MB = 1,000,000 bytes)" in drawn
    assert [bar.get_width() for bar in figure.axes[0].patches] == [4.993696, 0.312456]


def test_file_sizes_need_files(tmp_path):
    with pytest.raises(ValueError, match="rows: expected at least one"):
        figures.file_sizes([], tmp_path / "f.png")
    with pytest.raises(ValueError, match=r"rows: .* for model.sqz. Received: -1"):
        figures.file_sizes([("model.sqz", -1, None)], tmp_path / "f.png")


def test_a_figure_leaves_the_users_matplotlib_alone_and_ignores_it(tmp_path):
    figures.learning_curves(history(3), tmp_path / "plain.png")

    with matplotlib.rc_context({"font.size": 30, "figure.facecolor": "black"}):
        before = dict(matplotlib.rcParams)
        figures.learning_curves(history(3), tmp_path / "styled.png")
        assert dict(matplotlib.rcParams) == before

    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "styled.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain.png", "styled.png"]


def test_a_picture_is_replaced_whole_or_not_at_all(tmp_path):
    path, earlier = tmp_path / "l.png", tmp_path / "earlier.png"
    path.write_bytes(b"earlier")
    earlier.hardlink_to(path)

    figures.learning_curves(history(1), path)

    # The old bytes were never overwritten: somebody who reads them goes on reading them.
    assert earlier.read_bytes() == b"earlier"
    drawn = path.read_bytes()
    with (
        patch.object(Figure, "savefig", side_effect=lambda file, **_: file.write_bytes(drawn[:9])),
        patch("os.replace", side_effect=OSError("disk full")),
        pytest.raises(OSError, match="disk full"),
    ):
        figures.learning_curves(history(2), path)
    assert path.read_bytes() == drawn
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["earlier.png", "l.png"]


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
    figure = figures.file_sizes([("model", size, None)], tmp_path / "f.png")

    assert text.replace(" ", "\u00a0") in [drawn for drawn, _ in boxes_of_text(figure)]


def profile_of(rows, name="network", layer="block1_conv"):
    """Costs of so many layers, every third without parameters, as of poolings."""
    layers = [
        LayerProfile(
            name=f"{layer}_{number}",
            kind="Conv2D",
            output_shape=(8, 8, 4),
            parameters=number * 1000 * (number % 3 > 0),
            trainable_parameters=0,
            multiply_adds=None if number == 1 else (rows - number) * 10**6,
            input_bytes=0,
            activation_bytes=4 * 8 * 8 * 4,
            live_bytes=4 * 8 * 8 * (4 + number),
            live_bytes_in_place=4 * 8 * 8 * 4,
        )
        for number in range(rows)
    ]
    return ModelProfile(name, ((224, 224, 3),), tuple(layers))


@parametrize("rows", [20, 65, 1, 64, 200, 1000], quick=2)
@parametrize("layer", ["a", "a_layer_with_quite_a_long_name_" * 3, "$5_层"], quick=2)
def test_costs_of_layers_are_whole_inside_the_picture(rows, layer, tmp_path):
    path = tmp_path / "layers.png"
    profile = profile_of(rows, name=layer * 2, layer=layer)
    figure = figures.layer_costs(profile, path)
    width, height = size_of_png(path)
    assert (width, 0 < height <= 2900) == (2000, True)
    assert_nothing_is_cut_off(figure, path)
    texts = [text for text, _ in boxes_of_text(figure)]
    if rows <= 64 and layer == "a":
        assert {row.name for row in profile.layers} <= set(texts)


def test_of_many_layers_the_largest_are_named(tmp_path):
    figure = figures.layer_costs(profile_of(200, layer="a"), tmp_path / "layers.png")
    texts = [text for text, _ in boxes_of_text(figure)]
    assert "a_199 199\u00a0k" in texts  # parameters
    assert "a_0 200\u00a0M" in texts  # multiply-adds


def test_costs_of_no_layer_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected at least one layer"):
        figures.layer_costs(ModelProfile("empty", ((1,),), ()), tmp_path / "layers.png")
