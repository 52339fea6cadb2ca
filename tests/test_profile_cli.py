"""The commands profile, compare-networks, and summary, what profile was before."""

import csv
import json
import re
import shutil
from pathlib import Path

import keras
import pytest
from keras import layers

from keras_squeezenet import list_models
from keras_squeezenet.cli import profiling
from keras_squeezenet.extras import NotInstalledError
from keras_squeezenet.network.profile import profile_model
from tests.test_cli import refused, run

GOLDEN = Path(__file__).parent / "golden"
RUN = GOLDEN / "runs" / "plain"


def tiny(name, filters=4, side=8):
    image = keras.Input((side, side, 3))
    x = layers.Conv2D(filters, 3, activation="relu", name="conv")(image)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(2, name="top")(x), name=name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    for name, filters in (("small", 4), ("large", 400)):
        tiny(name, filters).save(folder / f"{name}.keras")
    tiny("open", side=None).save(folder / "open.keras")
    inputs = keras.Input((None, 3)), keras.Input((5,))
    x = layers.Concatenate()([layers.GlobalMaxPooling1D()(inputs[0]), inputs[1]])
    keras.Model(inputs, layers.Dense(2)(x), name="pair").save(folder / "pair.keras")
    return folder


def profiles(*arguments):
    return json.loads(run("profile", *arguments, "--json")[0])["networks"]


class TestProfile:
    def test_json_is_what_the_function_says(self, folder):
        (found,) = profiles(folder / "small.keras")
        assert found.pop("network") == str(folder / "small.keras")
        assert found == profile_model(tiny("small")).to_dict()

    def test_the_table_shows_each_layer_and_the_whole(self, folder):
        out, _ = run("profile", folder / "small.keras")
        (line,) = [line for line in out.splitlines() if line.startswith("│ conv ")]
        cells = [cell.strip() for cell in line.strip("│").split("│")]
        assert cells[:4] == ["conv", "6×6×4", "112", "91.8 %"]
        assert cells[4:6] == ["3,888", "99.8 %"]
        assert cells[6:] == ["576 B", "1.34 kB", "448 B", "224 B", "112 B", "84 B"]
        assert "122 parameters" in out
        assert "3,896 multiply-adds" in out

    def test_several_networks_come_one_after_the_other(self, folder):
        found = profiles(folder / "small.keras", folder / "large.keras")
        assert [each["name"] for each in found] == ["small", "large"]

    def test_a_run_and_a_sqz_file(self):
        of_run, of_file, of_sqz = profiles(RUN, RUN / "model.keras", GOLDEN / "grid-best.sqz")
        assert of_run["layers"] == of_file["layers"]
        assert of_sqz["parameters"] > 0

    def test_a_network_by_name_is_that_of_the_list(self):
        (listed,) = list_models("squeezenet1_0")
        (found,) = profiles("1.0")
        assert found["parameters"] == listed.parameters
        assert found["multiply_adds"] == listed.multiply_adds

    def test_one_of_keras_is_built_for_the_size_and_classes_asked_for(self):
        sizes = ("--input-shape", "32,32,3", "--classes", 7)
        (found,) = profiles("application:MobileNet", *sizes)
        assert found["input_shapes"] == [[32, 32, 3]]
        assert found["layers"][-1]["output_shape"] == [7]

    def test_open_sizes_are_asked_for_and_taken(self, folder):
        assert "open.keras: `input_shape` must give the sizes" in refused(
            "profile", folder / "small.keras", folder / "open.keras"
        )
        (found,) = profiles(folder / "open.keras", "--input-shape", "8,8,3")
        (fixed,) = profiles(folder / "small.keras")
        assert found["layers"] == fixed["layers"]

    def test_a_model_of_two_inputs_takes_two_shapes(self, folder):
        shapes = ("--input-shape", "7,3", "--input-shape", "5")
        (found,) = profiles(folder / "pair.keras", *shapes)
        assert found["input_shapes"] == [[7, 3], [5]]
        assert "must agree" in refused("profile", folder / "pair.keras", "--input-shape", "7,3")

    def test_csv_has_exact_numbers(self, folder, tmp_path):
        path = tmp_path / "profile.csv"
        run("profile", folder / "small.keras", folder / "large.keras", "--csv", path)
        with path.open(encoding="utf-8", newline="") as lines:
            rows = list(csv.DictReader(lines))
        assert [row["network"] for row in rows] == [
            str(folder / f"{name}.keras") for name in ("small", "large") for _ in range(3)
        ]
        assert rows[0]["output_shape"] == "6×6×4"
        assert int(rows[0]["weight_bytes_at_6_bits"]) == 84

    def test_markdown_is_a_table(self, folder):
        out, _ = run("profile", folder / "small.keras", "--markdown")
        lines = out.splitlines()
        assert {line.count(" | ") for line in lines if line.startswith("| ")} == {12}
        assert lines[2].startswith("| conv | Conv2D | 6×6×4 | 112 |")

    def test_a_picture_is_drawn(self, folder, tmp_path):
        run("profile", folder / "small.keras", "--picture", tmp_path / "layers.png")
        assert (tmp_path / "layers.png").read_bytes().startswith(b"\x89PNG")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("no_such",), "Expected A .keras or .sqz file, a run's folder.*Received: no_such"),
            (("application:Foo",), "there is no application Foo; there is ConvNeXtBase"),
            ((GOLDEN,), "a run's folder, with a model.keras"),
            (("1.1", "--input-shape", "64"), "input_shape"),
            (("application:MobileNetV2", "--input-shape", "64"), "takes images, of height, width"),
            (("application:MobileNetV3Small", "--input-shape", "64,64"), "takes images, of height"),
            (("1.1", "--input-shape", "a,b"), "--input-shape takes sizes"),
            (("1.1", "--input-shape", "0,4,3"), "--input-shape takes sizes"),
            (("1.1", "--input-shape", "9,9,3"), "at least 17x17"),
            (("1.1", "--input-shape", "64,64,3", "--input-shape", "5"), "has one input"),
            ((RUN, "--classes", "3"), "--classes is for networks by name"),
            (("1.1", "--markdown", "--json"), "Expected one form"),
            (("1.1", "1.0", "--picture", "a.png"), "--picture is of one MODEL"),
            (("1.1", "--picture", "a.jpg"), "must end in .png"),
        ],
    )
    def test_bad_input_is_refused_in_one_line(self, arguments, message):
        line = refused("profile", *arguments)
        assert re.search(message, line)

    def test_files_that_hold_no_keras_model_are_refused(self, tmp_path):
        (tmp_path / "a.keras").write_bytes(b"no archive")
        assert "Expected an archive" in refused("profile", tmp_path / "a.keras")
        (tmp_path / "a.sqz").write_bytes(b"no network")
        assert "a.sqz" in refused("profile", tmp_path / "a.sqz")
        (tmp_path / "a.tflite").write_bytes(b"TFL3")
        assert "Expected a .keras or .sqz file" in refused("profile", tmp_path / "a.tflite")


class TestSummary:
    """Command lines of before go on working."""

    def test_of_a_file_it_is_one_profile(self, folder):
        found = json.loads(run("summary", folder / "small.keras", "--json")[0])
        assert found == profile_model(tiny("small")).to_dict()


def compared(*arguments):
    return json.loads(run("compare-networks", *arguments, "--json")[0])["networks"]


class TestCompareNetworks:
    def test_costs_are_side_by_side(self, folder):
        small, large = compared(folder / "small.keras", folder / "large.keras")
        assert small["parameters"] == 27 * 4 + 4 + 4 * 2 + 2
        assert large["gradient_bytes"] == 4 * large["trainable_parameters"]
        assert small["top1"] is None
        assert "latency_ms" not in small

    def test_what_fits_on_a_chip(self, folder):
        """488 bytes of weights; 1,344 bytes of activations in float32, at most."""
        for memory, weights, everything in (
            ("488B", [True] * 4, [False, False, True, True]),
            ("487B", [False, True, True, True], [False, False, True, True]),
            ("1832B", [True] * 4, [True] * 4),
            ("1831B", [True] * 4, [False, True, True, True]),
            ("91B", [False] * 4, [False] * 4),
            ("92B", [False, False, False, True], [False] * 4),
            ("428B", [False, True, True, True], [False, False, False, True]),
            ("427B", [False, True, True, True], [False] * 4),
        ):
            (row,) = compared(folder / "small.keras", "--fits", memory)
            assert [fit["bits"] for fit in row["fits"]] == [32, 16, 8, 6]
            assert [fit["weights"] for fit in row["fits"]] == weights, memory
            assert [fit["with_activations"] for fit in row["fits"]] == everything, memory

    def test_the_papers_argument_about_10_megabytes(self):
        """SqueezeNet is small enough for an FPGA's own memory, section 1."""
        (row,) = compared("1.0", "--fits", "10MB")
        assert row["fits"][0] == {"bits": 32, "weights": True, "with_activations": False}
        assert row["fits"][1]["with_activations"]

    def test_accuracy_is_what_was_measured_with_its_source(self, folder):
        published, run_, other = compared("1.0", RUN, folder / "small.keras")
        assert (published["top1"], "600 photos" in published["accuracy_source"]) == (0.5617, True)
        metrics = json.loads((RUN / "metrics.json").read_text(encoding="utf-8"))
        assert run_["top1"] == metrics["evaluation"]["top1"]
        assert str(RUN / "metrics.json") in run_["accuracy_source"]
        assert (other["top1"], other["accuracy_source"]) == (None, None)

    def test_without_published_weights_no_accuracy_is_made_up(self):
        (row,) = compared("squeezenet1_1_simple", "--input-shape", "32,32,3")
        assert row["top1"] is None

    def test_published_accuracy_is_of_the_published_network_alone(self):
        (row,) = compared("1.1", "--classes", "10")
        assert row["top1"] is None

    def test_broken_metrics_are_named(self, tmp_path):
        shutil.copy(RUN / "model.keras", tmp_path)
        for text in ("{", '{"evaluation": 3}', '{"evaluation": {"top1": 2}}'):
            (tmp_path / "metrics.json").write_text(text)
            assert "Expected the metrics.json of a run" in refused("compare-networks", tmp_path)

    def test_the_table_and_its_notes(self, folder):
        out, _ = run("compare-networks", folder / "small.keras", "1.1", "--fits", "10MB")
        assert "weights in 10.0\u00a0MB" in out
        assert "top-1 of 1.1: 600 photos" in out
        out, _ = run("compare-networks", folder / "small.keras", "--markdown")
        assert out.startswith("| network | parameters |")

    def test_csv_is_flat(self, folder, tmp_path):
        run(
            "compare-networks", folder / "small.keras", "--fits", "1kB", "--csv", tmp_path / "a.csv"
        )
        with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as lines:
            (row,) = csv.DictReader(lines)
        assert (row["weight_bytes_at_6_bits"], row["weights_fit_at_32_bits"]) == ("92", "True")

    @pytest.mark.parametrize("size", ["big", "0", "-3MB", "10 parsecs", "1e9"])
    def test_a_size_is_a_number_and_a_unit(self, size):
        assert "Expected a size such as 10MB" in refused(
            "compare-networks", "1.1", f"--fits={size}"
        )

    def test_latency_is_beside_the_costs(self, folder):
        out, _ = run(
            "compare-networks",
            *(folder / "small.keras", folder / "open.keras"),
            *("--input-shape", "8,8,3", "--latency", "--calls", 2),
        )
        assert "one image" in out
        assert "2 calls in turns" in out
        assert f"no latency of {folder / 'open.keras'}: `model` must take images of fixed" in out

    def test_without_litert_a_line_names_the_extra_and_the_column_is_left_out(
        self, folder, monkeypatch
    ):
        def missing(extra):
            raise NotInstalledError(f"pip install 'squeezenet-keras[{extra}]'")

        monkeypatch.setattr(profiling, "require", missing)
        out, err = run("compare-networks", folder / "small.keras", "--latency", "--json")
        assert "latency is left out. pip install 'squeezenet-keras[litert]'" in err
        assert "latency_ms" not in json.loads(out)["networks"][0]
