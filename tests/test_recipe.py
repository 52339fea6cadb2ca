"""Recipes: what is read, and how a wrong one is refused."""

from pathlib import Path

import pytest
import yaml

from keras_squeezenet.settings import RecipeError
from keras_squeezenet.training.model_section import SqueezeNetSection
from keras_squeezenet.training.recipe import (
    Recipe,
    has_retired_keys,
    load_recipe,
    load_recipe_of_run,
)

RECIPES = sorted(Path(__file__).parents[1].glob("train/recipes/*.yaml"))

SMALLEST = {
    "name": "smallest",
    "data": {"source": "digits", "image_size": 32},
    "optimizer": {"learning_rate": 0.1},
    "training": {"epochs": 3, "batch_size": 4},
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(SMALLEST))
    return path


def test_settings_replace_values_of_the_file(path):
    recipe = load_recipe(path, ["training.epochs=7", "data.augmentation={flip: true}", "seed=5"])
    assert (recipe.training.epochs, recipe.seed) == (7, 5)
    assert recipe.data.augmentation == {"flip": True}


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["optimizer.schedule=step", "optimizer.step_epochs=[1, 2.5]"],
        ["model.metaparameters={base_e: 32}"],
        ["model.bypass=complex", "data.resize=stretch"],
    ],
)
def test_a_written_recipe_reads_as_the_same_recipe(path, tmp_path, settings):
    recipe = load_recipe(path, settings)
    written = tmp_path / "written.yaml"
    written.write_text(recipe.to_yaml())
    assert load_recipe(written) == recipe


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.epoch=3", "unknown key training.epoch; did you mean epochs"),
        ("xyz=3", "unknown key xyz; known here: name, seed"),
        ("training.epochs=0", "greater than or equal to 1. Received: training.epochs=0"),
        ("training.epochs=many", "training.epochs: .*Received: training.epochs=many"),
        ("training.precision=float8", "training.precision: .*Received: training.precision=float8"),
        ("training.compression=zip", "Received: training.compression=zip"),
        ("optimizer.learning_rate=-1", "Received: optimizer.learning_rate=-1"),
        ("optimizer.schedule=step", "step_epochs goes with schedule: step"),
        ("optimizer={name: adam, learning_rate: 1, nesterov: true}", "nesterov goes with"),
        ("model={version: '1.0', metaparameters: {}}", "either metaparameters or version"),
        (
            "model={batch_normalization: true, weights: imagenet}",
            "batch_normalization goes with weights: null",
        ),
        ("model.version=2.0", "Received: model.version=2.0"),
        ("data.resize=crop", "data.resize: .*Received: data.resize=crop"),
        ("data={image_size: 3}", "the key data.source is missing"),
        ("data=digits", "data: .*Received: data=digits"),
        (
            "fine_tuning={depth_decays: 1}",
            "unknown key fine_tuning.depth_decays; did you mean",
        ),
        ("fine_tuning={depth_decay: 0}", "Received: fine_tuning.depth_decay=0"),
        ("fine_tuning={}", "fine_tuning needs model.weights"),
        ("training.global_batch_size=32", "either batch_size or global_batch_size"),
        ("training.batch_size=null", "either batch_size or global_batch_size"),
        ("optimizer.averaging=1", "Received: optimizer.averaging=1"),
        ("seed", "takes section.key=value. Received: seed"),
        ("seed=[", "--set seed: .*Received: \\["),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line_that_names_it(path, setting, message):
    with pytest.raises(RecipeError, match=message) as refused:
        load_recipe(path, [setting])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [", "is not YAML"),
        (b"\xff\xfe\x00", "is not YAML"),
        (b"- a list", "must hold keys with values"),
        (b"", "must hold keys with values"),
        (b"!!python/object/apply:os.system ['true']", "is not YAML"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=message) as refused:
        load_recipe(path)
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"cannot be read: .*none\.yaml: No such file"):
        load_recipe(tmp_path / "none.yaml")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_of_the_project_is_valid_and_says_what_it_costs(path):
    assert isinstance(load_recipe(path), Recipe)
    header = path.read_text().split("\nname:")[0]
    assert f"--recipe train/recipes/{path.name}" in header
    assert "minutes" in header or "not been run" in header


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_that_begins_with_nothing_does_not_get_stuck(path):
    """What docs/getting_unstuck.md asks for."""
    model = load_recipe(path).model
    if isinstance(model, SqueezeNetSection) and model.weights is None:
        assert (model.kernel_initializer, model.last_activation) == ("he_normal", None)


def test_a_version_needs_no_quotes(path):
    assert load_recipe(path, ["model.version=1.0"]).model.version == "1.0"


def test_a_run_of_an_earlier_release_is_read_without_what_no_longer_is(tmp_path):
    """As release 0.1.0 of 2026-11-22 wrote the recipe of a fine-tuning run."""
    values = load_recipe(RECIPES[0].with_name("finetune.yaml")).model_dump()
    values["fine_tuning"] = {"frozen_epochs": 3, "learning_rate": 0.003}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    assert has_retired_keys(path)
    recipe = load_recipe_of_run(path)
    assert recipe.fine_tuning is None
    assert recipe.data.source == values["data"]["source"]
    with pytest.raises(RecipeError, match=r"unknown key fine_tuning\.frozen_epochs"):
        load_recipe(path)


@pytest.mark.parametrize("content", ["fine_tuning: 3", "fine_tuning: [frozen_epochs]", "a: 1"])
def test_what_a_run_cannot_have_written_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    assert not has_retired_keys(path)
    with pytest.raises(RecipeError) as error:
        load_recipe_of_run(path)
    assert "\n" not in str(error.value)


def test_a_recipes_digest_follows_its_settings_and_nothing_else(path):
    recipe = load_recipe(path)
    same = ["name=other", "seed=7", "data.source=elsewhere", "training.precision=float32"]
    assert load_recipe(path, same).digest == recipe.digest
    settings = ["data.image_size=48", "training.epochs=4", "optimizer.learning_rate=0.2"]
    digests = {load_recipe(path, [setting]).digest for setting in settings}
    assert len(digests | {recipe.digest}) == 4
