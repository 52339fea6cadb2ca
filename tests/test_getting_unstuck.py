"""studies/getting_unstuck.py: its runs can be repeated and resumed, and measure what they say."""

import importlib
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_squeezenet import SqueezeNet, files
from keras_squeezenet.training.diagnosis import Diagnosis
from keras_squeezenet.training.recipe import load_recipe

PROJECT = Path(__file__).parents[1]
sys.path.append(str(PROJECT / "studies"))
study = importlib.import_module("getting_unstuck")
page = importlib.import_module("getting_unstuck_page")

SHORT = replace(study.PAPER, name="short", steps=3, kernel_initializer="he_normal")
# Four layers, where the depth of the network is not what is looked at.
SMALL = replace(
    SHORT,
    network=json.dumps(
        {
            **{"base_e": 8, "incr_e": 8, "squeeze_ratio": 0.5, "fires": 2, "pool_after": [1]},
            **{"conv1_filters": 8, "conv1_kernel_size": 3},
        }
    ),
)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    labels = (np.arange(96) % 10).astype(np.int32)
    images = rng.integers(0, 256, (96, 32, 32, 3), dtype=np.uint8)
    held_out = images[:20], labels[:20]
    return study.Data(classes=10, train=(images, labels), val=held_out, sample=held_out)


class TestRun:
    @pytest.mark.slow
    def test_case_and_seed_decide_it_whatever_was_run_before(self, data):
        first = study.train(data, SMALL, seed=3)
        other = study.train(data, replace(SMALL, learning_rate=1e-2), seed=3)
        another = study.train(data, SMALL, seed=4)
        assert study.train(data, SMALL, seed=3) == first
        assert first[0]["losses"] not in (other[0]["losses"], another[0]["losses"])

    def test_it_is_looked_at_after_each_epoch(self, data):
        _, looks, _ = study.train(data, replace(SMALL, steps=7), seed=0)
        assert [look["step"] for look in looks] == [0, 3, 6]

    def test_the_rate_rises_in_a_line_in_the_warm_up(self, data, monkeypatch):
        rates = []
        step = study.Training.step
        monkeypatch.setattr(
            study.Training,
            "step",
            lambda run, *batch: (
                rates.append(float(run.optimizer.learning_rate)) or step(run, *batch)
            ),
        )
        study.train(data, replace(SMALL, steps=4, warmup_steps=3, learning_rate=0.3), seed=0)
        assert rates == pytest.approx([0.1, 0.2, 0.3, 0.3])

    def test_every_step_has_other_images_until_the_epoch_ends(self):
        order = study.batches(96, seed=1)
        epoch = np.concatenate([next(order) for _ in range(3)])
        assert sorted(epoch) == list(range(96))
        assert (np.concatenate([next(order) for _ in range(3)]) != epoch).any()


class TestMeasures:
    """Against values that Keras gives by itself."""

    def test_a_dead_last_layer_shows_in_all_of_them(self, data):
        training = study.compiled(SMALL.structure, 10, (32, 32, 3))
        model = study.network(SMALL, 10, (32, 32, 3))
        model.get_layer("conv4").bias.assign(np.full(10, -1e6))
        training.begin(model)
        look = training.look(*data.sample)
        assert (look["conv4"]["highest"] == 0).all()
        assert all(found["gradient"] == 0 for found in look.values())

    def test_gradients_are_what_a_step_of_keras_takes_from_the_kernels(self, data):
        case = replace(SMALL, dropout_rate=0.0)
        training = study.compiled(case.structure, 10, (32, 32, 3))
        keras.utils.set_random_seed(0)
        model = study.network(case, 10, (32, 32, 3))
        training.begin(model)
        look = training.look(*data.sample)
        before = model.get_weights()
        model.compile(
            keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy", jit_compile=False
        )
        model.optimizer.build(model.trainable_variables)  # else the step is traced twice
        model.train_on_batch(*data.sample)
        taken = [old - new for old, new in zip(before, model.get_weights(), strict=True)]
        assert look["conv1"]["gradient"] == pytest.approx(np.linalg.norm(taken[0]), rel=0.01)
        fire2 = [np.linalg.norm(kernel) for kernel in taken[2:8:2]]
        assert look["fire2"]["gradient"] == pytest.approx(math.hypot(*fire2), rel=0.01)
        assert look["conv4"]["gradient"] == pytest.approx(np.linalg.norm(taken[-2]), rel=0.01)

    @pytest.mark.parametrize(
        ("loss", "top1", "dead", "outcome"),
        [
            (math.nan, 0.5, 0, "diverged"),
            (2.30, 0.19, 0, "chance"),
            (9.0, 0.1, 10, "chance"),
            (2.30, 0.21, 0, "slow"),
            (1.0, 0.5, 2, "dead"),
            (1.0, 0.5, 0, "learns"),
        ],
    )
    def test_outcomes_are_as_defined(self, loss, top1, dead, outcome):
        measured = {"loss": loss, "top1": top1, "dead_classes": dead}
        assert study.outcome(measured, math.log(10)) == outcome


class TestCases:
    def test_names_are_unique(self):
        for cases in study.CASES.values():
            assert len({case.name for case in cases}) == len(cases)

    def test_one_thing_is_varied_at_a_time(self):
        cases = {case.name: case for case in study.CASES["digits"]}
        paper = cases["paper, adam 1e-3"]
        allowed = {"rmsprop 1e-4", "xavier of Caffe"}  # and pairs of two cures, and recipes
        for case in study.FROM_PAPER[1:]:
            changed = [
                key
                for key, value in vars(case).items()
                if key != "name" and value != getattr(paper, key)
            ]
            apart = "," in case.name or case.name.endswith("recipe") or case.name in allowed
            assert len(changed) == 1 or apart, case.name

    @pytest.mark.parametrize("data", ["digits", "imagenette"])
    @pytest.mark.parametrize(
        ("name", "file"),
        [
            ("digits' recipe", "digits"),
            ("CIFAR-10's recipe", "cifar10"),
            ("Imagenette's recipe", "imagenette"),
            ("groceries' recipe", "grocery"),
            ("ImageNet's recipe", "imagenet"),
        ],
    )
    def test_a_recipe_is_as_its_file_says(self, data, name, file):
        recipe = load_recipe(PROJECT / "train" / "recipes" / f"{file}.yaml")
        case = next(case for case in study.CASES[data] if case.name == name)
        for key in ("preprocessing", "kernel_initializer", "last_activation", "dropout_rate"):
            assert getattr(case, key) == getattr(recipe.model, key), key
        assert case.batch_normalization == recipe.model.batch_normalization
        metaparameters = recipe.model.metaparameters
        assert case.bypass == (metaparameters or {"bypass": recipe.model.bypass})["bypass"]
        if metaparameters:
            assert json.loads(case.network) == metaparameters
        else:
            assert case.network == recipe.model.version
        for key in ("learning_rate", "clip_norm", "weight_decay"):
            assert getattr(case, key) == (getattr(recipe.optimizer, key) or None), key
        assert case.optimizer == recipe.optimizer.name
        if case.optimizer == "sgd":
            assert case.nesterov == recipe.optimizer.nesterov
            assert recipe.optimizer.momentum == study.MOMENTUM

    def test_initial_values_differ_in_the_last_layer_where_a_case_says_so(self):
        spread = {}
        for last in (None, "authors"):
            case = replace(SHORT, last_initializer=last)
            keras.utils.set_random_seed(0)
            model = study.network(case, 10, (32, 32, 3))
            spread[last] = float(np.std(model.get_layer("conv10").kernel))
        assert spread[None] == pytest.approx(math.sqrt(2 / 512), rel=0.05)
        assert spread["authors"] == pytest.approx(0.01, rel=0.05)

    def test_with_batch_normalization_it_is_the_same_network(self):
        normalized = study.network(replace(SHORT, batch_normalization=True), 10, (32, 32, 3))
        plain = SqueezeNet(weights=None, input_shape=(32, 32, 3), classes=10)

        def shapes(model):
            return [tuple(v.shape) for v in model.trainable_variables if v.path.endswith("kernel")]

        assert shapes(normalized) == shapes(plain)


class TestTable:
    def add(self, table, case, seed, outcome="learns"):
        measured = {"outcome": outcome, "loss": 1.0, "top1": 0.5}
        row = {"data": "digits", **vars(case), "seed": seed, **measured}
        table.add(row, [{"step": 0}], [{"layer": "conv1"}])

    def test_a_row_that_is_there_is_found_again(self, tmp_path):
        self.add(study.Table(tmp_path), SHORT, 0)
        table = study.Table(tmp_path)
        assert table.has("digits", SHORT, 0)
        assert not table.has("digits", SHORT, 1)
        assert not table.has("imagenette", SHORT, 0)

    def test_rows_that_are_older_than_a_setting_had_its_default(self, tmp_path):
        self.add(study.Table(tmp_path), SHORT, 0)
        path = tmp_path / "getting_unstuck.csv"
        [row] = study.read_csv(path)
        del row["nesterov"]
        files.write_csv(path, [row])
        table = study.Table(tmp_path)
        assert table.has("digits", SHORT, 0)
        assert not table.has("digits", replace(SHORT, nesterov=True), 0)

    def test_the_study_goes_on_with_its_results(self):
        """No row of results/ is of a case that is no more."""
        table = study.Table(PROJECT / "results")
        for run in table.runs:
            [case] = [case for case in study.CASES[run["data"]] if case.name == run["name"]]
            assert table.has(run["data"], case, int(run["seed"])), (run["name"], run["seed"])

    def test_other_settings_make_it_void(self, tmp_path):
        table = study.Table(tmp_path)
        self.add(table, SHORT, 0, "chance")
        longer = replace(SHORT, steps=5)
        assert not table.has("digits", longer, 0)
        self.add(table, longer, 0)
        assert [run["outcome"] for run in table.runs] == ["learns"]
        assert [len(part) for part in study.Table(tmp_path).parts] == [1, 1, 1]

    def test_the_study_trains_only_what_is_missing(self, tmp_path, data, monkeypatch):
        monkeypatch.setattr(study, "read_data", lambda name, source: data)
        table = study.Table(tmp_path)
        self.add(table, SHORT, 0)
        trained, measured = [], {"outcome": "learns", "loss": 1.0, "top1": 0.5}
        monkeypatch.setattr(
            study,
            "train",
            lambda data, case, seed: trained.append(seed) or (measured, [], []),
        )
        study.study(table, "digits", None, [SHORT], seeds=3)
        assert trained == [1, 2]
        study.study(table, "digits", None, [SHORT], seeds=3)
        assert trained == [1, 2]


# Still at chance when they end, and on their way: after the first epoch the loss falls and the
# signal grows at every look.
ON_THEIR_WAY = {
    ("digits", "sgd 1e-4, he_normal, no last ReLU", "15"),
    ("imagenette", "rmsprop 1e-4", "1"),
}
# It was learning, and is at chance again since the last look but one: the next look never came.
FELL_BACK = ("digits", "ImageNet's recipe, no clip_norm", "2")


def test_every_stuck_run_is_noticed_within_an_epoch_and_no_other():
    """The rules of `diagnosis`, which `LossWatch` follows, on what was measured."""
    table = study.Table(PROJECT / "results")
    assert len(table.runs) >= 20
    for run in table.runs:
        step, causes = study.noticed(table, run)
        where = f"{run['data']}, {run['name']}, seed {run['seed']}: {run['outcome']}, {causes}"
        if tuple(run[name] for name in ("data", "name", "seed")) in ON_THEIR_WAY:
            looks = [look for look in table.looks(run) if int(look["step"])]
            losses, signals = ([float(look[name]) for look in looks] for name in ("loss", "signal"))
            assert losses == sorted(losses, reverse=True)
            assert signals == sorted(signals)
            assert float(run["top1"]) > 0.15
            assert causes == [], where
        elif tuple(run[name] for name in ("data", "name", "seed")) == FELL_BACK:
            losses = [float(look["loss"]) for look in table.looks(run) if int(look["step"])]
            assert losses[-2] < study.AT_CHANCE * math.log(10) < losses[-1]
            assert onset(table, run) + study.EPOCH[run["data"]] > int(run["steps"])
            assert causes == [], where
        elif run["outcome"] in ("learns", "slow"):
            assert causes == [], where
        else:
            epoch = study.EPOCH[run["data"]]
            warm = math.ceil(int(run["warmup_steps"]) / epoch) * epoch
            assert causes, where
            assert step <= max(onset(table, run), warm) + epoch, where


def onset(table, run):
    """The step of the first look from which on all find a run stuck: a class is dead, or there is
    a loss of no learning and a signal that does not grow. While it grows, the run is on its way."""
    first, before = None, 0.0
    for look in table.looks(run):
        signal = float(look["signal"])
        at_chance = float(look["loss"]) > study.AT_CHANCE * math.log(10)
        stuck = look["dead_classes"] or (at_chance and signal <= Diagnosis.GROWS * before)
        before = signal
        first = (int(look["step"]) if first is None else first) if stuck else None
    return int(run["steps"]) if first is None else first


class TestPage:
    @pytest.mark.slow
    def test_its_tables_are_those_of_the_rows(self, tmp_path):
        """What `--draw` writes is what is there: nobody changed one and forgot the other."""
        written = (page.DOCS / "getting_unstuck.md").read_text(encoding="utf-8")
        (tmp_path / "getting_unstuck.md").write_text(written, encoding="utf-8")
        page.renew(PROJECT / "results", tmp_path)
        assert (tmp_path / "getting_unstuck.md").read_text(encoding="utf-8") == written
        for name in ("layers", "losses"):
            assert f"(getting_unstuck_{name}.png)" in written
            assert (tmp_path / f"getting_unstuck_{name}.png").stat().st_size > 10_000

    def test_a_line_counts_the_outcomes_of_a_case(self, tmp_path):
        table = study.Table(tmp_path)
        for seed, outcome in enumerate(("learns", "dead", "slow", "diverged")):
            measured = {"outcome": outcome, "top1": 0.1 * (seed + 1), "first_gradient": "0.02"}
            row = {"data": "digits", **vars(SHORT), "seed": seed, **measured}
            table.add(row, [], [])
        *_, line = page.rows_of(table, "digits")
        assert line == "| short | 4 | 1 | 1 | 1 | 1 | 0.25 (0.10 to 0.40) | 0.02 | none |"

    def test_each_claim_of_the_text_is_in_the_rows(self):
        """Two causes, and both have to go."""
        table = study.Table(PROJECT / "results")

        def outcomes(name):
            found = [r for r in table.runs if (r["data"], r["name"]) == ("digits", name)]
            assert found, name
            return {run["outcome"] for run in found}

        def at_chance(name):
            found = [run["outcome"] for run in table.runs if run["name"] == name]
            return found.count("chance") / len(found)

        for name in ("paper, adam 1e-3", "no last ReLU", "sgd 1e-2", "sgd 1e-2, no last ReLU"):
            assert at_chance(name) > 0.7, name
        for name in ("paper, adam 1e-3", "sgd 1e-2", "sgd 1e-4", "adam 1e-4", "rmsprop 1e-4"):
            assert "learns" not in outcomes(name), name
        for name in ("sgd 1", "warm-up of 90 steps", "clip_norm 1", "adam 1e-2"):
            assert "learns" not in outcomes(name), name
        for cure in (
            "he_normal",
            "batch normalization",
            "input caffe",
            "xavier of Caffe, input caffe",
        ):
            assert outcomes(f"{cure}, no last ReLU") == {"learns"}, cure
            assert outcomes(cure) != {"learns"}, cure
        assert outcomes("digits' recipe") == {"learns"}
