"""Stages of a compression, their pictures, and the page that shows them."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.container import BarContainer, ErrorbarContainer

from keras_squeezenet.compression.stages import LayerCoding, Stage
from keras_squeezenet.errors import InputError
from keras_squeezenet.files import write_csv
from keras_squeezenet.litert.comparison import ExportResult
from keras_squeezenet.litert.model import TensorDetails
from keras_squeezenet.litert.ranges import Saturation
from keras_squeezenet.reports import figures
from keras_squeezenet.reports.compression_page import write_compression_report
from tests.evaluation_samples import HOSTILE_NAMES, evaluate
from tests.test_figures import assert_nothing_is_cut_off
from tests.test_report import Page


def kernel(density, values, size=1000):
    """`size` weights, of which `density` are not 0 and take as many different `values`."""
    weights = np.zeros(size, np.float32)
    count = round(density * size)
    weights[:count] = np.resize(np.linspace(0.5, 1, values, dtype="float32"), count)
    return weights.reshape(1, 1, 10, -1)


def stage(name="pruned", size=3_000_000, top1=0.9, layers=None, file="model.keras", **measured):
    return Stage(name, Path("runs") / file, size, top1, 0.01, 0.99, 900, layers, **measured)


def exported(confidence, images_at_end=0.0, layer="net/quant_pool10/Mean"):
    """Of an int8 file, of whose images so many reach the end of the range that decides."""
    image = TensorDetails((1, 32, 32, 3), "float32")
    classes = TensorDetails((1, 10), "float32")
    return ExportResult(
        path=Path("runs") / "model-int8.tflite",
        bytes=834_582,
        quantize="int8",
        input=image,
        output=classes,
        max_difference=0.1,
        mean_difference=0.02,
        decisions_equal=0.98,
        images_checked=97,
        tolerance=0.12,
        confidence=confidence,
        model_confidence=0.941,
        saturation=(
            Saturation("net/quant_conv1/Relu;net/quant_conv1/Conv2D", 0.031, 0.0123, False),
            Saturation(layer, images_at_end, images_at_end / 100, True),
        ),
    )


@pytest.fixture
def stages():
    coded = (LayerCoding("conv1", 100, 50, 6), LayerCoding("conv10", 300, 60, 4))
    plain = (LayerCoding("conv1", 100, 100, None), LayerCoding("conv10", 300, 300, None))
    return [
        stage("float32", 3_041_771, 0.95, plain),
        stage("pruned", 3_041_253, 0.95, coded[:1] + plain[1:]),
        stage("clustered", 3_041_253, 0.94, coded),
        stage("Huffman", 210_431, 0.94, coded, "model-faithful.sqz"),
        stage("best", 180_000, 0.94, coded, "model-best.sqz"),
        stage("int8 LiteRT", 834_582, 0.93, None, "model-int8.tflite"),
    ]


SPENT = {
    "model-faithful.sqz": {"header": 60, "codes": 113_703, "positions": 84_247, "biases": 10_045},
    "model-best.sqz": {"header": 57, "codes": 170_000, "biases": 9_943},
}


class TestLayerCoding:
    @pytest.mark.parametrize(
        ("weights", "nonzero", "bits"),
        [
            (kernel(0.3, 31), 300, 5),  # and 0: 32 values
            (kernel(0.3, 32), 300, 6),  # and 0: 33
            (kernel(1.0, 32), 1000, 5),
            (kernel(1.0, 1), 1000, 0),
            (kernel(0.0, 1), 0, None),
            (kernel(1.0, 1000), 1000, None),  # no two weights alike
        ],
    )
    def test_bits_count_the_values_zero_among_them(self, weights, nonzero, bits):
        coding = LayerCoding.of("conv1", weights)
        assert (coding.weights, coding.nonzero, coding.bits) == (1000, nonzero, bits)
        assert coding.density == nonzero / 1000


class TestStage:
    def test_density_and_bits_are_means_over_the_weights(self, stages):
        assert stages[3].density == pytest.approx((50 + 60) / 400)
        assert stages[3].bits == pytest.approx((100 * 6 + 300 * 4) / 400)
        assert stages[1].bits is None
        assert (stages[5].density, stages[5].bits) == (None, None)

    def test_it_is_measured_on_the_file(self, tmp_path):
        path = tmp_path / "model.sqz"
        path.write_bytes(bytes(1234))
        evaluation = evaluate([0, 1, 2, 0], [0, 1, 2, 1], ["a", "b", "c"])

        measured = Stage.measured("best", path, evaluation, {"conv1": kernel(0.5, 15)})

        assert (measured.bytes, measured.count, measured.top1) == (1234, 4, 0.75)
        assert measured.confidence == pytest.approx(0.9 + 0.1 / 3, abs=0.04)
        assert measured.standard_error == pytest.approx((0.75 * 0.25 / 4) ** 0.5)
        assert measured.layers == (LayerCoding("conv1", 1000, 500, 4),)

    def test_rows_are_a_table_that_spreadsheets_read(self, stages, tmp_path):
        write_csv(tmp_path / "compression.csv", [s.row(4 * 750_000) for s in stages])
        text = (tmp_path / "compression.csv").read_text()
        rows = list(csv.DictReader(io.StringIO(text)))
        assert [row["stage"] for row in rows] == [s.name for s in stages]
        assert rows[4]["times_smaller"] == str(round(3_000_000 / 180_000, 2))
        assert (rows[3]["density"], rows[3]["bits"]) == ("0.275", "4.5")
        assert (rows[5]["density"], rows[5]["bits"]) == ("", "")
        assert {row["confidence"] for row in rows} == {""}
        assert stage(confidence=0.71234).row(1)["confidence"] == 0.7123

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"size": -1}, "`bytes` must be an integer ≥ 0. Received: bytes=-1"),
            ({"top1": 98.6}, "`top1` must be from 0 to 1. Received: top1=98.6"),
            ({"top1": float("nan")}, "Received: top1=nan"),
        ],
    )
    def test_what_was_not_measured_so_is_refused(self, options, message):
        with pytest.raises(InputError, match=message):
            stage(**options)


class TestFigures:
    def test_size_and_accuracy_has_a_mark_for_each_stage_where_it_belongs(self, stages, tmp_path):
        figure = figures.size_and_accuracy(stages, tmp_path / "a.png")
        assert_nothing_is_cut_off(figure, tmp_path / "a.png")
        marks = [c for c in figure.axes[0].containers if isinstance(c, ErrorbarContainer)]
        places = [tuple(float(v[0]) for v in mark[0].get_data()) for mark in marks]
        assert places == [(s.bytes, s.top1) for s in stages]
        sizes = [mark[0].get_markersize() for mark in marks]
        assert sizes == sorted(sizes, reverse=True), "rings, of which none hides another"
        texts = [text.get_text() for text in figure.legends[0].get_texts()]
        assert texts[4] == "best\n180\u00a0kB, 94.0\u00a0% ± 1.0"

    @pytest.mark.parametrize("sizes", [[3_000_000], [500, 600], [900, 3_000_000_000]])
    def test_size_and_accuracy_has_ticks_at_any_scale(self, sizes, tmp_path):
        path = tmp_path / "a.png"
        figure = figures.size_and_accuracy([stage(size=size) for size in sizes], path)
        assert_nothing_is_cut_off(figure, path)
        low, high = figure.axes[0].get_xlim()
        assert [tick for tick in figure.axes[0].get_xticks() if low <= tick <= high]

    def test_density_and_bits_are_bars_of_each_kernel(self, tmp_path):
        layers = [
            LayerCoding("conv1", 200, 50, 6),
            LayerCoding("fire2_squeeze1x1", 400, 400, None),
            LayerCoding(HOSTILE_NAMES[0] * 3, 147_456, 48_660, 5),
        ]
        figure = figures.density_and_bits(layers, tmp_path / "d.png")
        assert_nothing_is_cut_off(figure, tmp_path / "d.png")
        densities, bits = ([bar.get_width() for bar in axes.containers[0]] for axes in figure.axes)
        assert densities == pytest.approx([0.25, 1, 0.33], abs=1e-3)
        assert bits == [6, 0, 5]

    def test_histograms_show_the_weights_that_are_not_zero_and_the_codebook(self, tmp_path):
        codebook = np.array([-0.5, 0, 0.25, 1], np.float32)
        figure = figures.weight_histograms(
            {"conv1": (kernel(0.3, 40), codebook), "conv10": (kernel(1.0, 40), codebook[:2])},
            tmp_path / "w.png",
        )
        assert_nothing_is_cut_off(figure, tmp_path / "w.png")
        bars = [c for c in figure.axes[0].containers if isinstance(c, BarContainer)]
        assert sum(bar.get_height() for bar in bars[0]) == 300
        lines = [segment[0, 0] for segment in figure.axes[0].collections[0].get_segments()]
        assert lines == pytest.approx(codebook.tolist())

    def test_of_many_kernels_the_largest_have_a_histogram(self, tmp_path):
        codebook = np.array([0.5], np.float32)
        many = {f"conv{i}": (kernel(1.0, 9, 1000 + 10 * i), codebook) for i in range(40)}
        figure = figures.weight_histograms(many, tmp_path / "w.png")
        assert_nothing_is_cut_off(figure, tmp_path / "w.png")
        assert [axes.get_title(loc="left") for axes in figure.axes] == [
            f"conv{i}" for i in range(12, 40)
        ]

    def test_bytes_spent_are_bars_that_add_up_to_the_file(self, tmp_path):
        figure = figures.bytes_spent(SPENT, tmp_path / "b.png")
        assert_nothing_is_cut_off(figure, tmp_path / "b.png")
        ends = [0.0, 0.0]
        for bars in figure.axes[0].containers:
            for number, bar in enumerate(bars):
                assert bar.get_x() == pytest.approx(ends[number])
                ends[number] += bar.get_width()
        assert ends == pytest.approx([sum(parts.values()) / 1e3 for parts in SPENT.values()])

    def test_more_purposes_than_colours_are_drawn_together(self, tmp_path):
        parts = {f"purpose {i}": 100 - i for i in range(11)}
        figure = figures.bytes_spent({"model.sqz": parts}, tmp_path / "b.png")
        labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        assert labels == [*list(parts)[:7], "everything else"]
        assert figure.axes[0].containers[-1][0].get_width() == pytest.approx(
            sum(list(parts.values())[7:]) / 1e3
        )

    @pytest.mark.parametrize(
        ("draw", "nothing"),
        [
            (figures.size_and_accuracy, []),
            (figures.density_and_bits, []),
            (figures.weight_histograms, {}),
            (figures.bytes_spent, {}),
            (figures.bytes_spent, {"empty.sqz": {"header": 0}}),
        ],
    )
    def test_nothing_to_draw_is_refused(self, draw, nothing, tmp_path):
        with pytest.raises(ValueError, match="Received"):
            draw(nothing, tmp_path / "nothing.png")
        assert not list(tmp_path.iterdir())


class TestPage:
    def test_it_shows_every_stage_with_its_numbers(self, stages, tmp_path):
        path = write_compression_report(
            tmp_path,
            stages,
            title="squeezenet1_1 on digits",
            parameters=727_626,
            sharing={"conv1": (kernel(0.3, 40), np.array([0, 0.5], np.float32))},
            spent=SPENT,
            facts=[("Machine", "a small one")],
            command="train/optimize.py runs/digits",
            versions={"keras": "3.15.1"},
            recipe="prune: {}",
        )
        page = Page(path)
        assert page.sections() == ["stages", "bytes", "layers", "weights", "run"]
        for image in page.images():
            assert image["src"].startswith("data:image/png;base64,")
            assert image["alt"]
        assert len(page.images()) == 4
        for text in ("model-best.sqz", "180,000", "16.2×", "94.0\u00a0% ± 1.0", "170,000"):
            assert text in page.texts, text
        # 2,910,504 bytes of float32 to 180,000; 8 · 180,000 / 727,626 bits.
        for value in ("16.2×", "1.98", "1.0", "27.5\u00a0%"):
            assert value in page.texts, value

    def test_what_was_not_done_is_left_out(self, stages, tmp_path):
        page = Page(write_compression_report(tmp_path, stages[:1], title="t", parameters=1000))
        assert page.sections() == ["stages"]
        assert {path.name for path in tmp_path.iterdir()} == {
            "report.html",
            "size_and_accuracy.png",
        }

    def test_a_picture_that_cannot_be_shown_is_named(self, stages, tmp_path, monkeypatch):
        def draw(about, path):
            path.write_bytes(b"<svg/>")

        monkeypatch.setattr(figures, "size_and_accuracy", draw)
        page = Page(write_compression_report(tmp_path, stages, title="t", parameters=1))
        assert "size_and_accuracy.png was left out: it is not a PNG." in page.texts

    def test_it_shows_what_8_bits_cut_off(self, stages, tmp_path):
        float32 = stage("float32", confidence=0.953)
        int8 = stage("int8", file="a.tflite", confidence=0.78, exported=exported(0.772, 0.31))
        page = Page(write_compression_report(tmp_path, [float32, int8], title="t", parameters=1000))
        assert page.sections() == ["warnings", "stages", "ranges"]
        (warning,) = (text for text in page.texts if text.startswith("a.tflite: 8-bit ranges"))
        assert "31% of the images reach the end of pool10's range" in warning
        for value in ("95.3\u00a0%", "78.0\u00a0%", "94.1\u00a0%", "77.2\u00a0%", "31.0\u00a0%"):
            assert value in page.texts, value
        (card,) = (text for text in page.texts if "of its network in float32" in text)
        assert card == "of model-int8.tflite; 94.1\u00a0% of its network in float32"
        assert "On 97 images" in page.texts
        (most,) = (text for text in page.texts if "in the layer with most of them, conv1" in text)
        assert "(in 3.1\u00a0% of the images)" in most
        assert page.texts[page.texts.index(most) + 2] == "1.23\u00a0%"

    def test_where_nothing_is_cut_off_it_does_not_warn(self, tmp_path):
        found = replace(exported(0.94), saturation=exported(0.94).saturation[1:])
        int8 = stage("int8", file="a.tflite", exported=found)
        page = Page(write_compression_report(tmp_path, [stage(), int8], title="t", parameters=1000))
        assert page.sections() == ["stages", "ranges"]
        assert "Values at the end of their range, in any layer" in page.texts
        assert "0.00\u00a0%" in page.texts

    def test_names_are_text_and_nothing_else(self, tmp_path):
        hostile = HOSTILE_NAMES[0]
        path = write_compression_report(
            tmp_path,
            [stage(hostile, exported=exported(0.5, 0.5, layer=f"net/{hostile}/Mean"))],
            title=hostile,
            parameters=1000,
            spent={hostile: {hostile: 10}},
            facts=[(hostile, hostile)],
        )
        page = Page(path)
        assert "script" not in {tag for tag, _ in page.elements}
        assert page.texts.count(hostile) >= 5
