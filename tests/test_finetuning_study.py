"""studies/finetuning_study.py: its photo sets, and the page of its rows."""

import importlib
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
sys.path.append(str(PROJECT / "studies"))
study = importlib.import_module("finetuning_study")
page = importlib.import_module("finetuning_page")

KINDS = {"Anjou": 40, "Kaiser": 110, "Pink-Lady": 150, "A-Standard-Milk": 180, "B-Yoghurt": 190}


@pytest.fixture
def data(tmp_path):
    """Empty files in the folders of the real data."""
    files = [
        *(
            f"grocery/{split}/{kind}/{kind}_{split}_{i}.jpg"
            for kind, count in KINDS.items()
            for split, share in (("train", 0.8), ("val", 0.2))
            for i in range(int(share * count))
        ),
        *(
            f"imagenette/{split}/n0{synset}/{split}_{synset}_{i}.jpg"
            for synset in range(2)
            for split in ("train", "val")
            for i in range(60)
        ),
        *(f"unlabelled_photos/caltech101_{i:04}.jpg" for i in range(33)),
    ]
    for file in files:
        path = tmp_path / "data" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file)
    name = "caltech101_{:04}.jpg,caltech101,caltech-101/kind{}/{}.jpg"
    lines = [name.format(i, i // 11, i) for i in range(33)]
    sources = "\n".join(["file,source,original", "x.jpg,imagewoof,val/n1/1.JPEG", *lines])
    (tmp_path / "data" / "unlabelled_photos" / "sources.csv").write_text(sources + "\n")
    return tmp_path / "data"


@pytest.mark.parametrize("name", study.SETS)
def test_no_photo_is_in_two_parts_of_a_set_and_each_part_has_all_classes(data, name):
    parts = study.SETS[name].parts(data)
    assert parts == study.SETS[name].parts(data)
    train, val, test = parts
    files = [file for part in parts for chosen in part.values() for file in chosen]
    assert len(files) == len(set(files)) > 0
    assert train.keys() == val.keys()
    assert not test or test.keys() == val.keys()
    assert all(chosen for part in parts for chosen in part.values())


def test_so_many_photos_are_taken_as_a_set_says(data):
    counts = {
        name: [sum(map(len, part.values())) for part in study.SETS[name].parts(data)]
        for name in study.SETS
    }
    assert counts["milk or yoghurt, 100 photos"] == [100, 240, 30]
    assert counts["apple or pear, 100 photos"] == [100, 160, 40]
    assert counts["caltech101, 5 a class"] == [15, 9, 9]
    assert counts["imagenette, 10 a class"] == [20, 24, 96]
    assert counts["grocery, 20 a class"][0] == 20 * len(KINDS)


def test_links_are_made_once_and_lead_to_the_photos(data, tmp_path):
    name = "imagenette, 10 a class"
    folder = study.link_photos(name, data, tmp_path / "work")
    stale, kept = (
        folder / "set" / "train" / "n00" / f"{number}.jpg" for number in ("9999", "0000")
    )
    stale.symlink_to(data)  # of an earlier definition
    made = kept.lstat().st_mtime_ns
    study.link_photos(name, data, tmp_path / "work")
    assert not stale.is_symlink()
    assert kept.lstat().st_mtime_ns == made
    links = sorted((folder / "set" / "train" / "n00").iterdir())
    assert len(links) == 10
    assert all(link.read_text().startswith("imagenette/train/n00/") for link in links)
    assert len(list((folder / "test" / "n01").iterdir())) == 48


def test_the_page_has_the_table_of_the_rows(tmp_path):
    written = (page.DOCS / "fine_tuning.md").read_text(encoding="utf-8")
    (tmp_path / "fine_tuning.md").write_text(written, encoding="utf-8")
    page.renew(PROJECT / "results" / "finetuning.csv", tmp_path)
    assert (tmp_path / "fine_tuning.md").read_text(encoding="utf-8") == written
    assert (tmp_path / "fine_tuning.png").stat().st_size > 10_000


def test_rows_of_another_recipe_are_not_shown():
    rows = [{"photos": "p", "train": "9", "ranks": "1", "settings": "", "recipe": "of before"}]
    assert page.groups(rows) == {}
    assert study.digest(["seed=5"]) == study.digest()
    assert study.digest(["training.epochs=5"]) != study.digest()


def test_a_line_has_the_medians_over_the_seeds():
    shared = {"photos": "p", "tuned_on": "True", "classes": "2", "train": "9", "ranks": "1"}
    rows = [
        {
            **shared,
            "settings": "",
            "recipe": study.digest(),
            "test": "",
            "minutes": "3.4",
            **dict.fromkeys(("top1_logistic_regression", "frozen", "lowest"), "0.5"),
            "top1": top1,
        }
        for top1 in ("0.9", "0.7", "0.6")
    ]
    *_, line = page.lines_of(rows)
    assert line == "| p* | 2 | 9 | 1 | 3 | 0.500 | 0.500 | 0.500 | 0.700 |  |  |  |  | 3 |  |"
