"""The tables of the pages are those that were measured: the rows of results/."""

import csv
import re

from keras_squeezenet.training.recipe import load_recipe
from tests.pages import PROJECT

RESULTS = (PROJECT / "docs/results.md").read_text(encoding="utf-8")


def results(name):
    with (PROJECT / "results" / name).open() as lines:
        return list(csv.DictReader(lines))


def test_the_page_gives_the_figures_that_were_measured():
    rows = results("training.csv") + results("finetuning_first_recipe.csv")
    assert len(rows) == 11
    for row in rows:
        accuracy, error = (float(row[name]) for name in ("top1", "top1_standard_error"))
        speed = float(row["images_per_second"])
        assert f"| {accuracy:.4f} ± {error:.4f} |" in RESULTS
        assert f"| {speed:.0f} | {row['minutes']} |" in RESULTS
    for name in ("digits_files.csv", "grocery_files.csv"):
        for row in results(name):
            assert f"| {int(row['bytes']):,} | {float(row['top1']):.3f} |" in RESULTS


def test_what_was_trained_from_nothing_is_of_the_recipes_as_they_are():
    for row in results("training.csv"):
        (recipe,) = re.findall(r"--recipe (\S+)", row["command"])
        assert load_recipe(PROJECT / recipe).digest == row["recipe"], row["run"]


def test_the_page_gives_the_accuracy_of_the_published_networks():
    rows = results("imagenet.csv")
    for weights in ("1.0 deep-compressed", "1.0 float32", "1.1"):
        of_these = [row for row in rows if row["weights"] == weights]
        files = {row["form"]: row for row in of_these if row["form"].startswith("LiteRT")}
        whole, others = (row for row in of_these if row["form"] == "Keras")
        assert (whole["images"], others["images"]) == ("600", files["LiteRT int8"]["images"])
        cells = [whole["top1"], whole["top5"], files["LiteRT dynamic"]["top1"]]
        cells += [files["LiteRT int8"]["top1"], others["top1"]]
        line = " | ".join(f"{float(cell):.3f}" for cell in cells)
        assert f"| {weights} | {int(whole['bytes']):,} | {line} |" in RESULTS
        for row in of_these:
            exact = row["form"] not in ("LiteRT dynamic", "LiteRT int8")
            if exact and row["framing"].startswith("stretch"):
                assert row["decisions_changed"] == "0"


def test_the_page_gives_what_communication_costs():
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
        assert f"| {' | '.join(cells)} |" in RESULTS
    ratios = [float(row["sent_over_ring"]) for row in rows.values() if row["sent_over_ring"]]
    assert 1.00 <= min(ratios) <= max(ratios) < 1.06


def test_the_page_gives_what_a_second_rank_brings():
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
        assert cells in RESULTS, row["case"]
        assert waiting <= 2, "the pictures of the next batch are ready in time"


def test_the_page_gives_what_int8_loses():
    rows = results("int8.csv")
    for change in ("as exported", "ranges as calibrated", "neither"):
        for weights in {row["weights"] for row in rows if row["change"] == change}:
            lost = [
                float(row["lost_points"])
                for row in rows
                if (row["weights"], row["change"]) == (weights, change)
            ]
            mean = sum(lost) / len(lost)
            assert f"{mean:.1f} ({min(lost):.1f} to {max(lost):.1f})" in RESULTS


def test_the_page_gives_what_other_kinds_of_photos_cost_int8():
    rows = [row for row in results("int8_kinds.csv") if row["weights"] == "1.1"]
    own = [float(r["changed"]) for r in rows if r["calibrated_with"] == r["judged_on"]]
    assert f"{min(own):.1f} to {max(own):.1f} % of their decisions" in RESULTS
    others = [float(r["more_changed"]) for r in rows if r["calibrated_with"] != r["judged_on"]]
    beyond = [more for more in others if more > 2]
    found = f"Of the {len(others)} pairs of two kinds {len(others) - len(beyond)} change"
    assert found in RESULTS
    assert f"change {min(beyond):.1f} to {max(beyond):.1f} points" in RESULTS
    lost = [float(row["lost"]) for row in rows if row["lost"]]
    assert f"loses a point ({min(lost):.1f} to {max(lost):.1f})" in RESULTS
    falls = [float(row["float32_confidence"]) - float(row["confidence"]) for row in rows]
    assert f"falls by at most {max(falls):.3f}" in RESULTS


def test_the_tables_of_compression_are_those_that_were_measured():
    docs = (PROJECT / "docs/compression.md").read_text(encoding="utf-8")
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
    # The page of results has some of the same lines.
    shared = [
        line for line in RESULTS.splitlines() if re.match(r"\| 1\.[01].*, (best|faithful) \|", line)
    ]
    assert len(shared) == 8
    for line in shared:
        assert line in docs


def test_the_page_on_compression_gives_the_sizes_of_updates():
    page = (PROJECT / "docs/compression.md").read_text(encoding="utf-8")
    rows = results("updates.csv")
    assert len(rows) == 8
    for row in rows:
        sizes = f"{int(row['file']):,} | {int(row['update']):,}"
        assert f"| {row['network']} | {row['changed']} | {sizes} |" in page
