"""Every example of the README is run, as it stands there."""

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from keras_squeezenet.cli import app
from keras_squeezenet.distributed import LAUNCHER_VARIABLES
from keras_squeezenet.training.recipe import load_recipe
from tests.launching import needs_horovod

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
MAKE_TARGETS = ["make demo", "make test"]
# A recipe is for an hour of photos; the example is the line, not the hour.
SHORT = "--set training.epochs=1 --set training.batch_size=4 --set training.precision=float32"
SHORT_FINE_TUNING = "--set training.epochs=2 --set training.global_batch_size=null"
SHORT_OPTIMIZATION = "--stages prune,cluster,pack " + " ".join(
    f"--set {stage}.epochs=1 --set {stage}.learning_rate=1e-4" for stage in ("prune", "cluster")
)


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines()]
PYTHON = blocks("python")


def example(part):
    """The README's Python example that has this in it."""
    (found,) = [block for block in PYTHON if part in block]
    return found


def run(command, folder):
    """Run a command with this environment's programs first, in a folder like a checkout's."""
    environment = {k: v for k, v in os.environ.items() if k not in LAUNCHER_VARIABLES}
    programs = str(Path(sys.executable).parent)
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=400,
        env={
            **environment,
            "PATH": os.pathsep.join([programs, environment["PATH"]]),
            "TF_CPP_MIN_LOG_LEVEL": "3",
        },
    )
    assert done.returncode == 0, f"{shlex.join(map(str, command))}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A folder with train/ as in the repository and photos/ as a user has them."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "train").symlink_to(PROJECT / "train")
    (folder / "results").mkdir()
    rng = np.random.default_rng(0)
    for colour in ("blue", "green", "red"):
        (folder / "photos" / colour).mkdir(parents=True)
        for number in range(36):
            pixels = rng.integers(0, 90, (150, 170, 3), "uint8")
            pixels[..., ("red", "green", "blue").index(colour)] += 160
            Image.fromarray(pixels).save(folder / "photos" / colour / f"{number}.jpg")
    Image.fromarray(pixels).save(folder / "photo.jpg")
    (folder / "hosts.sh").write_text("#!/bin/sh\necho localhost:1\necho 127.0.0.1:1\n")
    (folder / "hosts.sh").chmod(0o755)
    return folder


@pytest.fixture
def published(request, monkeypatch):
    """The published weights, for an example that is marked as one that needs them."""
    if request.node.get_closest_marker("shared"):
        shared = request.getfixturevalue("shared")
        monkeypatch.setenv("KERAS_SQUEEZENET_WEIGHTS", str(shared / "weights"))


def test_the_two_commands_are_targets_of_the_makefile():
    assert COMMANDS[:2] == MAKE_TARGETS
    for target in MAKE_TARGETS:
        run([*target.split(), "--dry-run"], PROJECT)


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("keras-squeezenet")])
def test_a_command_has_the_options_of_the_readme(line):
    group = typer.main.get_command(app)
    _, *arguments = shlex.split(line)
    name, command, rest = group.resolve_command(group.make_context("", [*arguments]), arguments)
    command.make_context(name, rest)


@pytest.mark.parametrize("line", [line for line in COMMANDS if "train/train.py" in line])
def test_a_recipe_has_the_settings_of_the_readme(line):
    words = shlex.split(line)
    named = {option: [] for option in ("--recipe", "--set", "--output")}
    options = [word for word in words[words.index("train/train.py") + 1 :] if word != "--elastic"]
    for option, value in zip(options[::2], options[1::2], strict=True):
        named[option].append(value)
    (recipe,) = named["--recipe"]
    load_recipe(PROJECT / recipe, named["--set"])


def marks_of(line):
    yield pytest.mark.slow  # all of them one after the other: a command reads what others wrote
    if line.startswith("horovodrun"):
        yield from needs_horovod
    if any(name in line for name in ("finetune", "classify", "export 1.1")):
        yield pytest.mark.shared


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(line, marks=list(marks_of(line)))
        for line in COMMANDS
        if line not in MAKE_TARGETS
    ],
)
@pytest.mark.usefixtures("published")
def test_a_command_runs_in_the_order_of_the_readme(line, checkout):
    if "train/train.py" in line:
        line = f"{line} {SHORT}"
    if "finetune" in line:
        line = f"{line} {SHORT_FINE_TUNING}"
    if "train/optimize.py" in line:
        line = f"{line} {SHORT_OPTIMIZATION}"
    run(shlex.split(line), checkout)


@pytest.mark.shared
@pytest.mark.usefixtures("published")
def test_the_imagenet_example_prints_three_names(checkout):
    (checkout / "names.py").write_text(example("decode_predictions"))
    out = run([sys.executable, "names.py"], checkout)
    lines = [line for line in out.splitlines() if re.fullmatch(r"\w+ [01]\.\d{3}", line)]
    assert len(lines) == 3


@pytest.mark.shared
@pytest.mark.usefixtures("published")
def test_the_feature_example_tells_colours_apart(checkout):
    (checkout / "features.py").write_text(example("from sklearn"))
    out = run([sys.executable, "features.py"], checkout)
    assert float(re.findall(r"accuracy: ([0-9.]+)", out)[-1]) == 1.0


def test_the_python_example_learns(tmp_path):
    (tmp_path / "example.py").write_text(example("digits.keras"))
    out = run([sys.executable, "example.py"], tmp_path)
    accuracy = float(re.findall(r"accuracy: ([0-9.]+)", out)[-1])
    assert accuracy > 0.8
    assert (tmp_path / "digits.keras").exists()


@pytest.mark.parametrize(
    "launcher",
    [[], pytest.param(["horovodrun", "-np", "2"], marks=[*needs_horovod, pytest.mark.slow])],
)
def test_the_horovod_example_runs_alone_and_on_two_ranks(launcher, tmp_path):
    (tmp_path / "example.py").write_text(example("DistributedOptimizer"))
    out = run([*launcher, sys.executable, "example.py"], tmp_path)
    assert out.count("10/10") == 1, "one rank shows progress"


def test_the_folding_example_gives_the_same_network(tmp_path):
    check = """
import numpy as np

images = np.random.default_rng(0).uniform(-1, 1, (2, 224, 224, 3)).astype("float32")
np.testing.assert_allclose(plain.predict(images), trained.predict(images), atol=1e-5)
"""
    (tmp_path / "example.py").write_text(example("folded_weights") + check)
    run([sys.executable, "example.py"], tmp_path)


def test_the_compression_example_reads_what_it_wrote(tmp_path):
    code = example("save_compressed") + "assert same.count_params() > 700_000\n"
    (tmp_path / "example.py").write_text(code)
    run([sys.executable, "example.py"], tmp_path)
    assert 300_000 < (tmp_path / "six_bits.sqz").stat().st_size < 600_000


def results(name):
    with (PROJECT / "results" / name).open() as lines:
        return list(csv.DictReader(lines))


def test_the_readme_gives_the_figures_that_were_measured():
    rows = results("training.csv") + results("finetuning_first_recipe.csv")
    assert len(rows) == 11
    for row in rows:
        accuracy, error = (float(row[name]) for name in ("top1", "top1_standard_error"))
        speed = float(row["images_per_second"])
        assert f"| {accuracy:.4f} ± {error:.4f} |" in README
        assert f"| {speed:.0f} | {row['minutes']} |" in README
    for name in ("digits_files.csv", "grocery_files.csv"):
        for row in results(name):
            assert f"| {int(row['bytes']):,} | {float(row['top1']):.3f} |" in README


def test_what_was_trained_from_nothing_is_of_the_recipes_as_they_are():
    for row in results("training.csv"):
        (recipe,) = re.findall(r"--recipe (\S+)", row["command"])
        assert load_recipe(PROJECT / recipe).digest == row["recipe"], row["run"]


def test_the_readme_gives_the_accuracy_of_the_published_networks():
    rows = results("imagenet.csv")
    for weights in ("1.0 deep-compressed", "1.0 float32", "1.1"):
        of_these = [row for row in rows if row["weights"] == weights]
        files = {row["form"]: row for row in of_these if row["form"].startswith("LiteRT")}
        whole, others = (row for row in of_these if row["form"] == "Keras")
        assert (whole["images"], others["images"]) == ("600", files["LiteRT int8"]["images"])
        cells = [whole["top1"], whole["top5"], files["LiteRT dynamic"]["top1"]]
        cells += [files["LiteRT int8"]["top1"], others["top1"]]
        line = " | ".join(f"{float(cell):.3f}" for cell in cells)
        assert f"| {weights} | {int(whole['bytes']):,} | {line} |" in README
        for row in of_these:
            exact = row["form"] not in ("LiteRT dynamic", "LiteRT int8")
            if exact and row["framing"].startswith("stretch"):
                assert row["decisions_changed"] == "0"


def test_the_readme_gives_what_communication_costs():
    rows = {tuple(row[name] for name in list(row)[:5]): row for row in results("communication.csv")}
    networks = dict.fromkeys(key[0] for key in rows)
    assert len(networks) == 5
    for network in networks:
        alone = rows[network, "1", "unlimited", "none", "1"]
        two = [rows[network, "2", link, "none", "1"] for link in ("100", "1000", "unlimited")]
        two.append(rows[network, "2", "100", "fp16", "4"])
        cells = [network, f"{int(alone['parameters']):,}", f"{int(two[0]['sent_bytes']):,}"]
        for row in two:
            seconds, share = float(row["seconds_per_step"]), float(row["allreduce_share"])
            cells.append(f"{seconds:.3f} ({100 * share:.0f} %)")
        cells.append(f"{float(alone['seconds_per_step']):.3f}")
        assert f"| {' | '.join(cells)} |" in README
    ratios = [float(row["sent_over_ring"]) for row in rows.values() if row["sent_over_ring"]]
    assert 1.00 <= min(ratios) <= max(ratios) < 1.06


def test_the_readme_gives_what_a_second_rank_brings():
    for row in results("scaling.csv"):
        speed, times, least, most, step, busy, waiting = (
            float(row[name])
            for name in (
                *("images_per_second", "times_one", "lower_quartile", "upper_quartile"),
                *("step_ms", "busy_ms", "waiting_percent"),
            )
        )
        gain = "1" if row["case"] == "one" else f"{times:.2f} ({least:.2f} to {most:.2f})"
        cells = f"| {speed:.0f} | {gain} | {step:.0f} | {busy:.0f} | {waiting:.1f} % |"
        assert cells in README, row["case"]
        assert waiting <= 2, "the pictures of the next batch are ready in time"


def test_the_readme_gives_what_int8_loses():
    rows = results("int8.csv")
    for change in ("as exported", "ranges as calibrated", "neither"):
        for weights in {row["weights"] for row in rows if row["change"] == change}:
            lost = [
                float(row["lost_points"])
                for row in rows
                if (row["weights"], row["change"]) == (weights, change)
            ]
            mean = sum(lost) / len(lost)
            assert f"{mean:.1f} ({min(lost):.1f} to {max(lost):.1f})" in README


def test_the_readme_gives_what_other_kinds_of_photos_cost_int8():
    rows = [row for row in results("int8_kinds.csv") if row["weights"] == "1.1"]
    own = [float(r["changed"]) for r in rows if r["calibrated_with"] == r["judged_on"]]
    assert f"{min(own):.1f} to {max(own):.1f} % of their decisions" in README
    others = [float(r["more_changed"]) for r in rows if r["calibrated_with"] != r["judged_on"]]
    beyond = [more for more in others if more > 2]
    found = f"Of the {len(others)} pairs of two kinds {len(others) - len(beyond)} change"
    assert found in README
    assert f"change {min(beyond):.1f} to {max(beyond):.1f} points" in README
    lost = [float(row["lost"]) for row in rows if row["lost"]]
    assert f"loses a point ({min(lost):.1f} to {max(lost):.1f})" in README
    falls = [float(row["float32_confidence"]) - float(row["confidence"]) for row in rows]
    assert f"falls by at most {max(falls):.3f}" in README


def test_the_tables_of_compression_are_those_that_were_measured():
    docs = (PROJECT / "docs" / "compression.md").read_text(encoding="utf-8")
    for row in results("compression.csv"):
        size, smaller = f"{int(row['bytes']):,}", float(row["times_smaller"])
        name = row["network"].removeprefix("SqueezeNet ")
        if not row["images"]:
            assert f" {size} |" in docs
            continue
        accuracy = f"{float(row['top1']):.4f}"
        if row["lost_top1_standard_error"]:
            lost, error = float(row["lost_top1"]), float(row["lost_top1_standard_error"])
            cells = [accuracy, f"{lost:.2f} ± {error:.2f}", f"{float(row['lost_top5']):.2f}"]
            cells.append(row["decisions_changed"])
        else:
            cells = [f"{accuracy} ± {float(row['top1_standard_error']):.4f}"]
        line = " | ".join([name, row["form"], size, f"{smaller:.1f}", *cells])
        assert f"| {line} |" in docs
    # The README has some of the same lines.
    shared = [
        line for line in README.splitlines() if re.match(r"\| 1\.[01].*, (best|faithful) \|", line)
    ]
    assert len(shared) == 8
    for line in shared:
        assert line in docs


def test_every_file_the_readme_points_to_exists():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    for link in links:
        assert (PROJECT / link).exists(), link
