"""A run's folder that is opened again: what is refused in one line, what is left as it is."""

import pytest

from keras_squeezenet.errors import RunError
from keras_squeezenet.training.recipe import Recipe, load_recipe
from keras_squeezenet.training.runs import Run

CLASSES = ["a", "b"]
TUNING = {"depth_decay": 0.5}
RESULTS = ("model.keras", "metrics.json", "report.html")


def recipe_with(fine_tuning=None, augmentation=(), source="digits", **training):
    return Recipe.model_validate(
        {
            "name": "runs",
            "data": {
                "source": source,
                "image_size": 8,
                "augmentation": dict(augmentation),
            },
            "model": {"weights": "imagenet", "last_activation": None},
            "optimizer": {"name": "sgd", "learning_rate": 0.1},
            "fine_tuning": fine_tuning,
            "training": {"epochs": 6, "batch_size": 4, **training},
        }
    )


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


class TestAnotherRecipe:
    @pytest.mark.parametrize(
        ("before", "now", "message"),
        [
            (None, TUNING, "fine_tuning was None. Received: fine_tuning={'depth_decay': 0.5"),
            (TUNING, None, "fine_tuning was {'depth_decay': 0.5.* Received: fine_tuning=None"),
            (
                TUNING,
                {"depth_decay": 0.75},
                "fine_tuning.depth_decay was 0.5. Received: fine_tuning.depth_decay=0.75",
            ),
        ],
    )
    def test_fine_tuning_cannot_be_switched_in_a_run(self, folder, before, now, message):
        Run(folder, recipe_with(before), CLASSES)
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "checkpoint.json").touch()
        with pytest.raises(RunError, match=message) as error:
            Run(folder, recipe_with(now), CLASSES, resume=True)
        assert "\n" not in str(error.value)

    def test_fine_tuning_of_an_earlier_release_does_not_go_on(self, folder):
        finish(folder, recipe_with(TUNING))
        path = folder / "recipe.yaml"
        path.write_text(path.read_text().replace("depth_decay: 0.5", "frozen_epochs: 3"))
        with pytest.raises(RunError, match=r"began with an earlier release.* another folder"):
            Run(folder, recipe_with(TUNING), CLASSES, resume=True)

    def test_keys_that_only_one_of_them_has_are_named(self, folder):
        Run(folder, recipe_with(augmentation={"flip": True}), CLASSES)
        (folder / "model.keras").touch()
        with pytest.raises(RunError, match=r"augmentation\.flip was True\. .*=None"):
            Run(folder, recipe_with(), CLASSES, resume=True)


@pytest.fixture
def finished(folder):
    """A run that is finished, and whose checkpoints were deleted to save space."""
    finish(folder, recipe_with())
    return folder


def finish(folder, recipe):
    Run(folder, recipe, CLASSES)
    for name in RESULTS:
        (folder / name).write_text(f"the first {name}")


def is_untouched(folder):
    return all((folder / name).read_text() == f"the first {name}" for name in RESULTS)


class TestAFinishedRunWithoutCheckpoints:
    def test_it_is_finished(self, finished):
        assert Run(finished, recipe_with(), CLASSES, resume=True).finished
        assert is_untouched(finished)

    def test_it_is_not_trained_anew_for_longer(self, finished):
        with pytest.raises(RunError, match=r"no checkpoint to go on from.* --output"):
            Run(finished, recipe_with(epochs=9), CLASSES, resume=True)
        assert is_untouched(finished)
        assert "epochs: 6" in (finished / "recipe.yaml").read_text()

    @pytest.mark.parametrize("missing", RESULTS)
    def test_nor_where_a_result_is_missing(self, finished, missing):
        (finished / missing).unlink()
        with pytest.raises(RunError, match="no checkpoint to go on from"):
            Run(finished, recipe_with(), CLASSES, resume=True)
        assert {path.name for path in finished.iterdir()} == {*RESULTS, "recipe.yaml"} - {missing}

    def test_without_resume_it_is_not_written_over(self, finished):
        with pytest.raises(RunError, match="holds a run already"):
            Run(finished, recipe_with(), CLASSES)
        assert is_untouched(finished)


def test_a_run_without_results_or_checkpoints_begins_anew(folder):
    """It was killed in its first epoch; Kubernetes starts it again with --resume."""
    Run(folder, recipe_with(), CLASSES)
    (folder / "history.csv").write_text("epoch,loss\n1,2.0\n")
    run = Run(folder, recipe_with(), CLASSES, resume=True)
    assert (run.epoch, run.finished) == (0, False)


def test_checkpoints_that_nothing_names_are_not_written_over(folder):
    Run(folder, recipe_with(), CLASSES)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "epoch-0001.keras").touch()
    Run(folder, recipe_with(), CLASSES, resume=True)  # killed before it named its first one
    (folder / "checkpoints" / "epoch-0002.keras").touch()
    with pytest.raises(RunError, match=r"checkpoint\.json, which says where it stands, is missing"):
        Run(folder, recipe_with(), CLASSES, resume=True)
    for name in RESULTS:  # of a finished run they are not needed
        (folder / name).touch()
    assert Run(folder, recipe_with(), CLASSES, resume=True).finished


def test_what_a_killed_process_left_half_written_is_removed(folder):
    Run(folder, recipe_with(), CLASSES)
    for name in (".model.0123abcd.keras", ".history.0123abcd.csv", ".recipe.0123abcd.yaml"):
        (folder / name).write_text("half")
    Run(folder, recipe_with(), CLASSES, resume=True)
    assert [path.name for path in folder.iterdir()] == ["recipe.yaml"]


class TestWhereTheDataAre:
    @pytest.fixture
    def photos(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "photos").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "photos")
        (tmp_path / "elsewhere" / "photos").mkdir(parents=True)
        return tmp_path / "photos"

    def test_the_recipe_of_the_run_names_them_for_every_working_directory(self, folder, photos):
        Run(folder, recipe_with(source="photos"), CLASSES)
        assert load_recipe(folder / "recipe.yaml").data.source == str(photos.resolve())

    @pytest.mark.parametrize("spelling", ["./photos", "link", "{photos}/"])
    def test_another_spelling_goes_on(self, folder, photos, spelling):
        finish(folder, recipe_with(source="photos"))
        Run(folder, recipe_with(source=spelling.format(photos=photos)), CLASSES, resume=True)

    def test_data_that_were_moved_are_taken_where_they_are_now(self, folder, photos, caplog):
        finish(folder, recipe_with(source="photos"))
        photos.rename(photos.parent / "moved")
        Run(folder, recipe_with(source="moved"), CLASSES, resume=True)
        assert f"{photos.resolve()}, are no longer there. It goes on with moved" in caplog.text
        assert load_recipe(folder / "recipe.yaml").data.source == str(photos.parent / "moved")

    def test_the_same_spelling_of_another_folder_does_not(self, folder, photos, monkeypatch):
        finish(folder, recipe_with(source="photos"))
        monkeypatch.chdir(photos.parent / "elsewhere")
        with pytest.raises(RunError, match=r"data\.source was .*photos\. Received: .*=photos$"):
            Run(folder, recipe_with(source="photos"), CLASSES, resume=True)
