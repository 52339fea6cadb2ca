"""The training loop, what it goes on from, and where in an epoch that is. One process, seconds."""

import contextlib
import json
import math
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from keras_squeezenet import distributed
from keras_squeezenet.data import DataError, load_dataset
from keras_squeezenet.distributed.termination import Terminated
from keras_squeezenet.training import loop
from keras_squeezenet.training.building import build_model
from keras_squeezenet.training.callbacks import (
    DivergedError,
    History,
    LossWatch,
    ShardedValidation,
    StopEarly,
)
from keras_squeezenet.training.folder_callbacks import Checkpoint
from keras_squeezenet.training.loop import Loop, Meetings
from keras_squeezenet.training.losses import SmoothedCrossentropy
from keras_squeezenet.training.recipe import Recipe
from keras_squeezenet.training.runs import RESULTS, Run, RunError
from keras_squeezenet.training.stages import (
    compile_for_validation,
    compile_model,
    restore_state,
    stages_of,
)
from keras_squeezenet.training.state import TrainingState
from tests.interrupted_runs import Request
from tests.tiers import parametrize

COUNT = 26


def write_pictures(folder, broken=()):
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        path = folder / "train" / f"class{number % 2}" / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number in broken:
            path.write_bytes(b"no picture")
        else:
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), "uint8")).save(path)
    for label in range(2):
        path = folder / "val" / f"class{label}" / "one.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), "uint8")).save(path)
    return load_dataset(str(folder), image_size=8, max_broken_share=0.9)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures") / "set")


def train_segment(split, ranks, batch_size, trained, steps, epoch=2):
    """Indices that each of some ranks takes in a few steps of an epoch of which some is done."""
    parts = []
    for rank in range(ranks):
        batches = split.indexed_train_batches(
            batch_size, seed=5, rank=rank, ranks=ranks, start_epoch=epoch, trained=trained
        )
        parts.append([batch[2].numpy() for batch in batches.take(steps)])
    return parts


class TestAnEpochInParts:
    @settings(max_examples=6)
    @given(
        st.integers(1, 4),
        st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=4),
    )
    def test_no_example_comes_twice_and_only_an_incomplete_step_is_left(
        self, pictures, batch_size, segments
    ):
        split = pictures.train
        trained = np.zeros(COUNT, bool)
        for number, (ranks, steps) in enumerate(segments):
            left = split.steps_per_epoch(batch_size, ranks, int(trained.sum()))
            steps = left if number == len(segments) - 1 else min(steps, left)
            for indices in np.ravel(train_segment(split, ranks, batch_size, trained, steps)):
                assert not trained[int(indices)]
                trained[int(indices)] = True
        assert COUNT - trained.sum() < batch_size * segments[-1][0]

    def test_on_as_many_ranks_it_goes_on_with_the_very_next_batches(self, pictures):
        split = pictures.train
        nothing = np.zeros(COUNT, bool)
        whole = train_segment(split, 2, 3, nothing, steps=4)
        trained = nothing.copy()
        trained[np.ravel([batches[:2] for batches in whole])] = True
        rest = train_segment(split, 2, 3, trained, steps=2)
        np.testing.assert_array_equal(rest, [batches[2:] for batches in whole])

    def test_the_next_epoch_is_whole(self, pictures):
        trained = np.arange(COUNT) < 20
        batches = pictures.train.indexed_train_batches(2, start_epoch=4, trained=trained)
        indices = [indices.numpy() for _, _, indices in batches.take(3 + COUNT // 2)]
        assert set(np.ravel(indices[:3])) == set(range(20, COUNT))
        assert sorted(np.ravel(indices[3:])) == list(range(COUNT))

    def test_readable_pictures_come_again_when_only_broken_ones_are_left(self, tmp_path):
        # Of 26 examples the last four of the epoch cannot be read; a step of four is left.
        order = np.random.default_rng((0, 0)).permutation(COUNT)
        names = sorted(range(COUNT), key=lambda number: (number % 2, number))
        broken = [names[index] for index in order[-4:]]
        split = write_pictures(tmp_path / "set", broken).train
        trained = np.ones(COUNT, bool)
        trained[order[-4:]] = False
        _, _, indices = next(iter(split.indexed_train_batches(4, trained=trained)))
        assert set(indices.numpy()) < set(order[:-4])
        assert len(split.broken) == 4

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "broken",
        [pytest.param(range(0, COUNT, 9), marks=pytest.mark.slow), range(4, COUNT - 1)],
    )
    def test_wherever_it_is_left_it_goes_on_as_if_undisturbed_though_pictures_are_broken(
        self, tmp_path, broken
    ):
        split = write_pictures(tmp_path / "set", broken).train
        batches = split.indexed_train_batches(1, seed=5, start_epoch=2)
        expected = [int(indices[0]) for _, _, indices in batches.take(COUNT + 2)]
        for done in range(COUNT):
            trained = np.isin(np.arange(COUNT), expected[:done])
            batches = split.indexed_train_batches(
                1, seed=5, start_epoch=2, trained=trained, done=done
            )
            rest = [int(indices[0]) for _, _, indices in batches.take(COUNT + 2 - done)]
            assert rest == expected[done:]

    def test_repeated_examples_do_not_lengthen_the_epoch(self, pictures):
        # Twenty steps of one were taken, on eighteen different examples.
        trained = np.arange(COUNT) < 18
        split = pictures.train
        assert split.steps_per_epoch(1, done=20) == 6
        batches = split.indexed_train_batches(1, start_epoch=0, trained=trained, done=20)
        first = [int(indices[0]) for _, _, indices in batches.take(6)]
        assert set(first) < set(range(18, COUNT))
        seventh = [int(indices[0]) for _, _, indices in batches.take(6 + COUNT)][6:]
        assert sorted(seventh) == list(range(COUNT))

    def test_a_mask_of_another_data_set_is_refused(self, pictures):
        with pytest.raises(DataError, match="Received: trained of shape"):
            pictures.train.indexed_train_batches(2, trained=np.zeros(3, bool))


class TestState:
    def test_commits_add_up_what_all_ranks_did(self):
        start = TrainingState(np.zeros(6, bool), (np.zeros(2),))
        after = start.after_steps(
            [(np.array([4, 1]), {"loss": 3.0}), (np.array([0, 5]), {"loss": 5.0})],
            weights=[np.ones(2)],
            optimizer=[np.array(1)],
            ranks=2,
            seconds=1.5,
        ).after_steps(
            [(np.array([2]), {"loss": 2.0})], [np.ones(2)], [np.array(2)], ranks=1, seconds=0.5
        )
        assert after.trained.tolist() == [True, True, True, False, True, True]
        assert after.metrics == {"loss": 10.0 / 5}
        assert (after.examples, after.seconds, after.ranks, after.commits) == (5, 2.0, 1, 2)
        assert not start.trained.any()  # a commit that fails elsewhere is undone by forgetting it

    def test_an_epoch_ends_with_nothing_done_of_the_next(self):
        state = TrainingState(np.ones(3, bool), (), examples=3, metric_sums={"loss": 1.0})
        after = state.after_epoch([{"epoch": 1}], weights=[np.ones(2)], optimizer=[np.array(3)])
        assert not after.trained.any()
        assert (after.weights[0].tolist(), after.optimizer[0].item()) == ([1, 1], 3)
        assert (after.epoch, after.examples, after.metric_sums) == (1, 0, {})


def recipe_with(
    dropout_rate=0.0,
    name="sgd",
    learning_rate=0.4,
    batch_normalization=False,
    **training_section,
):
    return Recipe.model_validate(
        {
            "name": "loop",
            "data": {"source": "digits", "image_size": 8},
            "model": {
                "metaparameters": {
                    "base_e": 8,
                    "incr_e": 8,
                    "fires": 1,
                    "pool_after": [1],
                    "conv1_filters": 4,
                    "conv1_kernel_size": 3,
                },
                "dropout_rate": dropout_rate,
                "kernel_initializer": "he_normal",
                "batch_normalization": batch_normalization,
            },
            "optimizer": {
                "name": name,
                "learning_rate": learning_rate,
                "schedule": "polynomial",
            },
            "training": {"epochs": 2, "batch_size": 4, **training_section},
        }
    )


def on_ranks(monkeypatch, size):
    monkeypatch.setattr(distributed.ranks, "_place", (0, size))


class TestLearningRate:
    """0.4, falling linearly to 0 over 4 epochs of 100 examples; scaled by ranks; batches of 5."""

    RECIPE = recipe_with(epochs=4, batch_size=5)

    def rate(self, state, ranks):
        [stage] = stages_of(self.RECIPE)
        model = build_model(self.RECIPE.model, 8, 2)
        steps = 100 // (5 * ranks)
        compile_model(model, stage, steps)
        restore_state(model, state, stage, steps, 5 * ranks)
        return float(model.optimizer.learning_rate)

    def state(self, ranks, updates):
        model = build_model(self.RECIPE.model, 8, 2)
        [stage] = stages_of(self.RECIPE)
        compile_model(model, stage, 1)
        model.optimizer.build(model.trainable_variables)
        optimizer = [np.zeros_like(variable.numpy()) for variable in model.optimizer.variables]
        optimizer[0] += updates  # Keras keeps the count of updates first
        return TrainingState(
            np.arange(100) < 50,
            tuple(model.get_weights()),
            tuple(optimizer),
            ranks=ranks,
            epoch=1,
            examples=50,
        )

    @pytest.mark.parametrize("ranks", [1, 2, 4])
    def test_after_a_change_of_ranks_it_is_that_of_the_same_share_of_training(
        self, monkeypatch, ranks
    ):
        # An epoch and a half of four by one rank: 30 updates of 80.
        state = self.state(ranks=1, updates=30)
        on_ranks(monkeypatch, ranks)
        expected = 0.4 * ranks * (1 - 1.5 / 4)
        # Half an epoch of 5 steps is no whole number of them.
        assert self.rate(state, ranks) == pytest.approx(expected, rel=0.05)

    def test_on_as_many_ranks_the_count_of_updates_is_what_it_was(self):
        assert self.rate(self.state(ranks=1, updates=28), 1) == pytest.approx(0.4 * (1 - 28 / 80))


def never():
    return Request(after=math.inf)


def begin(folder, recipe, model, dataset, resume=False):
    run = Run(folder, recipe, dataset.class_names, resume)
    run.begin(model, dataset.train.count)
    return run


def train(run, model, dataset, request, callbacks=(), accuracies=(0.5, 0.5)):
    """Train with these validation accuracies after the epochs; the rows of the history."""
    history = History(run.folder / "history.csv", run.state.history)
    training_loop = Loop(run, model, dataset.train, None, history, request)
    add = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: logs.update(val_accuracy=accuracies[epoch])
    )
    [stage] = stages_of(run.recipe)
    saves = [
        *([StopEarly(history, stop)] if (stop := run.recipe.training.early_stopping) else []),
        Checkpoint(run.checkpoints, history, dataset.class_names, run.warnings),
    ]
    training_loop.train(stage, [*callbacks, add, history, *saves])
    return history.rows


def at_the_end_of_epoch(number, do):
    return keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: do() if epoch + 1 == number else None
    )


class TestLoop:
    @pytest.fixture(autouse=True)
    def a_meeting_after_each_step(self, monkeypatch):
        """Else it depends on the machine after which steps a run sees that it was asked to end."""
        monkeypatch.setattr(loop, "SECONDS_BETWEEN_MEETINGS", 0.0)

    @pytest.fixture
    def model(self):
        keras.utils.set_random_seed(1)
        return build_model(recipe_with().model, 8, 2)

    def test_it_does_what_fit_does(self, model, pictures, tmp_path):
        reference = keras.models.clone_model(model)
        reference.set_weights(model.get_weights())
        recipe = recipe_with()
        run = begin(tmp_path / "run", recipe, model, pictures)
        rows = train(run, model, pictures, never())
        [stage] = stages_of(recipe)
        steps = pictures.train.steps_per_epoch(4)
        compile_model(reference, stage, steps)
        fitted = reference.fit(
            pictures.train.train_batches(4),
            epochs=2,
            steps_per_epoch=steps,
            shuffle=False,
            verbose=0,
        )
        for ours, theirs in zip(model.get_weights(), reference.get_weights(), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
        for name in ("loss", "accuracy"):
            assert [row[name] for row in rows] == pytest.approx(fitted.history[name], rel=1e-5)

    # An epoch of six steps ends within a group of four.
    @pytest.mark.parametrize(
        ("accumulation_steps", "looks", "optimizer", "batch_normalization"),
        [
            (1, 1, "sgd", False),
            pytest.param(2, 1, "adam", False, marks=pytest.mark.slow),
            pytest.param(4, 0, "adam", False, marks=pytest.mark.slow),
            pytest.param(2, 1, "adam", True, marks=pytest.mark.slow),
        ],
    )
    def test_left_in_an_epoch_it_goes_on_as_if_nothing_had_been(
        self,
        pictures,
        tmp_path,
        accumulation_steps,
        looks,
        optimizer,
        batch_normalization,
    ):
        recipe = recipe_with(
            accumulation_steps=accumulation_steps,
            dropout_rate=0.5,
            name=optimizer,
            learning_rate=0.01,
            batch_normalization=batch_normalization,
        )
        keras.utils.set_random_seed(1)
        model = build_model(recipe.model, 8, 2)
        start = model.get_weights()
        whole = begin(tmp_path / "whole", recipe, model, pictures)
        expected_rows = train(whole, model, pictures, never())
        expected = model.get_weights()

        model.set_weights(start)
        left = begin(tmp_path / "left", recipe, model, pictures)
        with pytest.raises(Terminated):
            train(left, model, pictures, Request(after=looks))
        assert left.state.examples == (looks + 1) * accumulation_steps * 4
        assert int(model.optimizer.iterations) == looks + 1
        keras.utils.set_random_seed(99)  # a process of its own
        model = build_model(recipe.model, 8, 2)
        again = begin(tmp_path / "left", recipe, model, pictures, resume=True)
        assert again.resumed_from_epoch == 0
        for name in ("examples", "metric_sums", "ranks", "seconds"):
            assert getattr(again.state, name) == getattr(left.state, name)
        np.testing.assert_array_equal(again.state.trained, left.state.trained)
        rows = train(again, model, pictures, never())
        for ours, theirs in zip(model.get_weights(), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        for row, other in zip(rows, expected_rows, strict=True):
            assert row["loss"] == pytest.approx(other["loss"], rel=1e-5)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "batch_normalization", [pytest.param(False, marks=pytest.mark.slow), True]
    )
    def test_killed_after_any_epoch_it_ends_with_the_same_bits(
        self, pictures, tmp_path, batch_normalization
    ):
        """Dropout, the optimizer and the order of pictures go on as if nothing had been."""
        recipe = recipe_with(
            epochs=3,
            dropout_rate=0.5,
            name="adam",
            learning_rate=0.01,
            batch_normalization=batch_normalization,
        )

        class Killed(Exception):
            pass

        def train_until(epoch, folder, process):
            keras.utils.set_random_seed(process)
            model = build_model(recipe.model, 8, 2)
            if process == 0:
                model.set_weights(start)
            run = begin(folder, recipe, model, pictures, resume=True)

            def kill(number, logs):
                if number == epoch:
                    raise Killed

            with contextlib.suppress(Killed):
                callback = keras.callbacks.LambdaCallback(on_epoch_begin=kill)
                train(run, model, pictures, never(), [callback], accuracies=[0.5] * 3)
            return model.get_weights()

        keras.utils.set_random_seed(1)
        start = build_model(recipe.model, 8, 2).get_weights()
        expected = train_until(3, tmp_path / "whole", process=0)
        assert not all(map(np.array_equal, start, expected)), "training must have moved it"
        for process, epoch in enumerate((1, 2, 3)):
            found = train_until(epoch, tmp_path / "parts", process)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)

    def test_left_while_it_validates_it_trains_on_nothing_twice(self, model, pictures, tmp_path):
        run = begin(tmp_path / "run", recipe_with(), model, pictures)
        history = History(run.folder / "history.csv", run.state.history)
        steps = COUNT // 4
        training_loop = Loop(run, model, pictures.train, None, history, Request(after=steps))
        twin = keras.models.clone_model(model)
        compile_for_validation(twin, run.recipe)
        validation = ShardedValidation(
            twin, pictures.val.val_batches(1), after_batch=training_loop.meet_when_due, steps=2
        )
        [stage] = stages_of(run.recipe)
        with pytest.raises(Terminated):
            training_loop.train(stage, [validation, history])
        weights = model.get_weights()
        again = begin(tmp_path / "run", run.recipe, model, pictures, resume=True)
        assert (again.state.epoch, again.state.examples) == (0, 4 * steps)
        for ours, theirs in zip(again.state.weights, weights, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        rows = train(again, model, pictures, never())
        assert [row["epoch"] for row in rows] == [1, 2]

    def test_what_it_saves_is_the_last_commit_however_far_the_model_has_gone(
        self, model, pictures, tmp_path
    ):
        run = begin(tmp_path / "run", recipe_with(), model, pictures)
        with pytest.raises(Terminated):
            train(run, model, pictures, Request(after=0))
        for variable in (*model.weights, *model.optimizer.variables):
            variable.assign(np.ones_like(variable.numpy()))
        run.save_within_epoch(model)
        again = begin(tmp_path / "run", run.recipe, model, pictures, resume=True)
        for ours, theirs in zip(again.state.weights, run.state.weights, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        for ours, theirs in zip(again.state.optimizer, run.state.optimizer, strict=True):
            np.testing.assert_array_equal(ours, theirs)

    def test_a_best_epoch_that_a_lost_rank_did_not_save_stops_nothing(
        self, model, pictures, tmp_path
    ):
        recipe, accuracies = recipe_with(epochs=3, early_stopping=3), (0.6, 0.9, 0.7)
        run = begin(tmp_path / "run", recipe, model, pictures)
        lose = at_the_end_of_epoch(3, lambda: (run.checkpoints / "epoch-0002.keras").unlink())
        train(run, model, pictures, never(), [lose], accuracies)
        checkpoint = json.loads((run.checkpoints / "checkpoint.json").read_text())
        assert checkpoint["best"] == "epoch-0003.keras"
        assert [row["val_accuracy"] for row in checkpoint["history"]] == list(accuracies)

    def test_a_run_of_which_only_the_best_epoch_is_missing_is_resumed(
        self, model, pictures, tmp_path
    ):
        recipe = recipe_with(epochs=2, early_stopping=5)
        run = begin(tmp_path / "run", recipe, model, pictures)
        train(run, model, pictures, never(), accuracies=(0.9, 0.7))
        weights = model.get_weights()
        (run.checkpoints / "epoch-0001.keras").unlink()
        again = begin(tmp_path / "run", recipe, model, pictures, resume=True)
        model.set_weights([np.zeros_like(value) for value in weights])
        again.restore_best(model)
        for ours, theirs in zip(model.get_weights(), weights, strict=True):
            np.testing.assert_array_equal(ours, theirs)

    @pytest.mark.parametrize("looks", [0, math.inf])
    def test_what_the_user_was_told_is_known_after_a_resumption(
        self, model, pictures, tmp_path, looks
    ):
        run = begin(tmp_path / "run", recipe_with(), model, pictures)
        watch = LossWatch(classes=2)
        watch.warnings = run.warnings
        watch.warnings.append("Training is stuck.")
        with contextlib.suppress(Terminated):
            train(run, model, pictures, Request(after=looks), [watch])
        again = begin(tmp_path / "run", recipe_with(), model, pictures, resume=True)
        assert again.warnings == ["Training is stuck."]

    def test_with_fewer_epochs_than_it_has_begun_it_is_refused_and_keeps_its_results(
        self, model, pictures, tmp_path
    ):
        run = begin(tmp_path / "run", recipe_with(epochs=2), model, pictures)
        train(run, model, pictures, never())
        for name in RESULTS:
            (run.folder / name).write_text("of two epochs")
        with pytest.raises(RunError, match=r"has begun, 2\. Received: training\.epochs=1"):
            begin(tmp_path / "run", recipe_with(epochs=1), model, pictures, resume=True)
        assert all((run.folder / name).read_text() == "of two epochs" for name in RESULTS)
        assert begin(tmp_path / "run", recipe_with(epochs=2), model, pictures, True).finished

    def test_so_it_is_when_the_last_one_was_left_in_its_midst(self, model, pictures, tmp_path):
        run = begin(tmp_path / "run", recipe_with(epochs=2), model, pictures)
        steps = COUNT // 4
        with pytest.raises(Terminated):
            train(run, model, pictures, Request(after=steps + 1))
        assert run.state.epoch == 1
        with pytest.raises(RunError, match="has begun, 2"):
            begin(tmp_path / "run", recipe_with(epochs=1), model, pictures, resume=True)

    @parametrize("version", ["this", "one that did not write it down"], quick=1)
    def test_a_run_that_stopped_early_trains_no_more_when_resumed(
        self, model, pictures, tmp_path, version
    ):
        recipe, accuracies = recipe_with(epochs=5, early_stopping=1), [0.5] * 5
        run = begin(tmp_path / "run", recipe, model, pictures)
        rows = train(run, model, pictures, never(), accuracies=accuracies)
        assert len(rows) == 2
        if version != "this":
            path = run.checkpoints / "checkpoint.json"
            checkpoint = json.loads(path.read_text())
            del checkpoint["stopped"]
            path.write_text(json.dumps(checkpoint))
        again = begin(tmp_path / "run", recipe, model, pictures, resume=True)
        assert train(again, model, pictures, never(), accuracies=accuracies) == rows

    @parametrize("met", [True, False], quick=1)
    def test_a_loss_of_another_rank_that_is_no_number_ends_this_one_too(
        self, model, pictures, tmp_path, monkeypatch, met
    ):
        run = begin(tmp_path / "run", recipe_with(), model, pictures)
        nothing = np.zeros(0, "int64")
        others = (nothing, {"loss": math.nan, "accuracy": 0.0}), 0.0
        monkeypatch.setattr(distributed, "gather", lambda mine: [mine, others])
        # It says so when they meet, or, if they do not before, at the epoch's end.
        monkeypatch.setattr(distributed, "total", lambda own: np.add(own, [0, 0, met, 0]))
        steps = []
        count = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: steps.append(batch)
        )
        with pytest.raises(DivergedError, match="epoch 1 is nan"):
            train(run, model, pictures, never(), [count])
        assert len(steps) == (1 if met else COUNT // 4)
        assert (run.state.commits, run.state.examples) == (0, 0)
        assert not list(run.folder.rglob("*.keras"))

    def test_where_training_diverged_is_said(self, model, pictures, tmp_path):
        conv3 = model.get_layer("conv3")
        conv3.kernel.assign(keras.ops.full(conv3.kernel.shape, 1e38))
        recipe = recipe_with(learning_rate=1e-30)
        run = begin(tmp_path / "run", recipe, model, pictures)
        watch = LossWatch(classes=2)
        with pytest.raises(DivergedError, match="step 1 of 6 of the epoch, in layer conv3"):
            train(run, model, pictures, never(), [watch])

    def test_a_step_later_in_the_epoch_is_found(self, model, pictures, tmp_path):
        make = model.make_train_function

        def make_and_spoil(force=False):
            make(force)
            step, count = model.train_function, iter(range(1, 100))

            def spoiled(batches):
                if next(count) == 4:
                    bias = model.get_layer("conv1").bias
                    bias.assign(bias * math.nan)
                return step(batches)

            model.train_function = spoiled

        model.make_train_function = make_and_spoil
        run = begin(tmp_path / "run", recipe_with(), model, pictures)
        with pytest.raises(DivergedError, match="began at step 4 of 6 of the epoch"):
            train(run, model, pictures, never(), [LossWatch(classes=2)])

    def test_the_search_for_the_step_ends_when_the_run_is_to_end(self, model, pictures, tmp_path):
        conv3 = model.get_layer("conv3")
        run = begin(tmp_path / "run", recipe_with(), model, pictures)
        request = SimpleNamespace(received=False)

        def spoil(batch, logs):
            if batch == 5:
                conv3.bias.assign(conv3.bias * math.nan)
                request.received = True  # looked at by the search only: no meeting comes before

        callback = keras.callbacks.LambdaCallback(on_train_batch_begin=spoil)
        with pytest.raises(DivergedError, match=r"not finite: .* search for its step was ended\."):
            train(run, model, pictures, request, [callback, LossWatch(classes=2)])

    @pytest.mark.slow
    def test_that_no_checkpoint_is_whole_hides_no_divergence(self, model, pictures, tmp_path):
        run = begin(tmp_path / "run", recipe_with(), model, pictures)

        def spoil(epoch, logs):
            if epoch == 1:
                model.get_layer("conv1").bias.assign([math.nan] * 4)
                for path in run.checkpoints.iterdir():
                    path.write_bytes(b"damaged")

        callback = keras.callbacks.LambdaCallback(on_epoch_begin=spoil)
        with pytest.raises(DivergedError, match=r"No checkpoint was kept yet\."):
            train(run, model, pictures, never(), [callback])

    def test_the_last_good_checkpoint_is_named(self, model, pictures, tmp_path):
        run = begin(tmp_path / "run", recipe_with(), model, pictures)

        def spoil(epoch, logs):
            if epoch == 1:
                model.get_layer("conv1").bias.assign([math.nan] * 4)

        callback = keras.callbacks.LambdaCallback(on_epoch_begin=spoil)
        with pytest.raises(DivergedError) as error:
            train(run, model, pictures, never(), [callback])
        named = Path(str(error.value).rpartition("The last good checkpoint: ")[2].removesuffix("."))
        assert named == run.checkpoints / "epoch-0001.keras"
        kept = keras.saving.load_model(named)
        assert all(np.isfinite(weight).all() for weight in kept.get_weights())

    def test_one_overflow_in_float16_ends_nothing_and_leaves_the_metrics_numbers(
        self, pictures, tmp_path
    ):
        recipe = recipe_with(precision="mixed_float16", learning_rate=0.01)
        keras.config.set_dtype_policy("mixed_float16")
        model = build_model(recipe.model, 8, 2)
        keras.config.set_dtype_policy("float32")
        run = begin(tmp_path / "run", recipe, model, pictures)
        conv3 = model.get_layer("conv3")
        bias = conv3.bias.numpy()

        def overflow(batch, logs):
            conv3.bias.assign(np.full_like(bias, 1e6) if batch == 3 else bias)

        callback = keras.callbacks.LambdaCallback(on_train_batch_begin=overflow)
        rows = train(run, model, pictures, never(), [callback, LossWatch(classes=2)])
        assert all(math.isfinite(row["loss"]) for row in rows)
        assert int(model.optimizer.iterations) == 2 * 6 - 2
        assert all(np.isfinite(weight).all() for weight in model.get_weights())

    @pytest.mark.slow
    def test_overflows_without_end_in_float16_end_the_run(self, pictures, tmp_path):
        recipe = recipe_with(precision="mixed_float16", epochs=5)
        keras.config.set_dtype_policy("mixed_float16")
        model = build_model(recipe.model, 8, 2)
        keras.config.set_dtype_policy("float32")
        conv3 = model.get_layer("conv3")
        conv3.bias.assign(keras.ops.full(conv3.bias.shape, 1e6))
        run = begin(tmp_path / "run", recipe, model, pictures)
        with pytest.raises(DivergedError, match="in layer conv3"):
            train(run, model, pictures, never(), accuracies=[0.5] * 5)

    def test_gradients_that_are_no_numbers_at_any_scale_end_it_whatever_the_loss(self):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(), 1.0), "mse")
        model.optimizer.build(model.trainable_variables)
        metrics = loop._Metrics()
        metrics.after_step(model, {"loss": 0.5}, 4)
        assert not metrics.diverged
        model.optimizer.dynamic_scale.assign(0.5)
        metrics.after_step(model, {"loss": 0.5}, 4)
        assert metrics.diverged

    def test_weights_that_are_no_numbers_are_in_no_commit(self, model, pictures, tmp_path):
        run = begin(tmp_path / "run", recipe_with(), model, pictures)
        spoil = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: (
                model.weights[0].assign(model.weights[0] * math.nan) if batch == 5 else None
            )
        )
        with pytest.raises(DivergedError, match="Weights in epoch 1 are not finite"):
            train(run, model, pictures, never(), [spoil])
        assert run.state.commits == 0

    def test_the_pace_is_that_of_training_alone(self, model, pictures, tmp_path, monkeypatch):
        clock = SimpleNamespace(now=0.0)

        def take(seconds):
            clock.now += seconds

        monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: clock.now))
        slow = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: take(0.5),
            on_epoch_end=lambda epoch, logs: take(100.0),
        )
        run = begin(tmp_path / "run", recipe_with(), model, pictures)
        rows = train(run, model, pictures, never(), [slow])
        # Six steps of four images.
        assert [row["seconds"] for row in rows] == [3.0, 3.0]
        assert [row["images_per_second"] for row in rows] == [8.0, 8.0]

    def test_a_run_left_in_an_epoch_is_not_resumed_with_other_examples(
        self, model, pictures, tmp_path
    ):
        run = begin(tmp_path / "run", recipe_with(), model, pictures)
        with pytest.raises(Terminated):
            train(run, model, pictures, Request(after=0))
        again = Run(tmp_path / "run", recipe_with(), pictures.class_names, resume=True)
        with pytest.raises(RunError, match=f"{COUNT} training examples .* Received: 5"):
            again.begin(model, 5)


class TestMeetings:
    def test_they_are_about_a_second_apart_and_the_first_ones_closer(self, monkeypatch):
        clock = SimpleNamespace(now=0.0)
        monkeypatch.setattr(loop.time, "perf_counter", lambda: clock.now)
        meetings = Meetings()
        met_at = []
        for step in range(1, 60):
            clock.now += 0.1
            if meetings.step(False) is not None:
                met_at.append(step)
        assert met_at == [1, 3, 7, 15, 25, 35, 45, 55]

    def test_they_tell_what_any_rank_was_told(self, monkeypatch):
        monkeypatch.setattr(distributed, "total", lambda values: np.add(values, [0, 1, 0]))
        assert Meetings().step(False, False) == [False, True]


def test_waiting_ranks_count_the_batches_that_only_others_have():
    twin = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, "softmax")])
    twin.compile(loss=SmoothedCrossentropy(), metrics=["accuracy"], jit_compile=False)
    features, labels = np.zeros((5, 3), "float32"), np.zeros(5, int)
    batches = tf.data.Dataset.from_tensor_slices((features, labels)).batch(2)
    calls = []
    for empty in (False, True):
        validation = ShardedValidation(
            twin, batches, empty, after_batch=lambda: calls.append(1), steps=4
        )
        validation.set_model(twin)
        validation.on_epoch_end(0, {})
    assert len(calls) == 2 * 4
