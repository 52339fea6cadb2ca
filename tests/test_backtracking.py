"""Training that goes back to its best epoch at a lower rate; fine-tuning that is interrupted."""

import math

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_squeezenet.data import load_dataset
from keras_squeezenet.distributed.termination import Terminated
from keras_squeezenet.training import fine_tuning, loop
from keras_squeezenet.training.averaging import averaged_weights
from keras_squeezenet.training.backtracking import Backtracking, falls
from keras_squeezenet.training.building import build_model
from keras_squeezenet.training.callbacks import History
from keras_squeezenet.training.folder_callbacks import Checkpoint
from keras_squeezenet.training.loop import Loop
from keras_squeezenet.training.recipe import Recipe
from keras_squeezenet.training.runs import Run
from keras_squeezenet.training.stages import stages_of
from tests.interrupted_runs import Request


def rows(accuracies, losses):
    return [
        {"epoch": epoch, "val_accuracy": accuracy, "val_loss": loss}
        for epoch, (accuracy, loss) in enumerate(zip(accuracies, losses, strict=True), 1)
    ]


class TestFalls:
    @pytest.mark.parametrize(
        ("accuracies", "losses", "fallen"),
        [
            ([0.70], [1.95], False),
            ([0.70, 0.69, 0.71, 0.69], [1.95, 1.90, 1.87, 1.91], True),  # forgets
            ([0.67, 0.65, 0.64], [1.91, 1.84, 1.82], False),  # on its way: the loss falls
            ([0.70, 0.71, 0.72], [1.95, 1.90, 2.20], False),  # surer of its mistakes, no worse
            ([0.70, 0.60, 0.70], [1.95, 2.20, 1.95], False),  # is back
            ([0.70, 0.695], [1.95, 2.20], False),  # a photo of two hundred
            ([0.70, 0.60], [1.95, math.nan], False),  # `LossWatch` ends training
        ],
    )
    def test_both_accuracy_and_loss_are_worse(self, accuracies, losses, fallen):
        assert falls(rows(accuracies, losses)) == fallen

    @given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 10)), min_size=1, max_size=9))
    def test_never_at_the_best_accuracy_nor_at_the_lowest_loss(self, epochs):
        accuracies, losses = zip(*epochs, strict=True)
        if accuracies[-1] == max(accuracies) or losses[-1] == min(losses):
            assert not falls(rows(accuracies, losses))


RECIPE = {
    "name": "tune",
    "data": {"source": "digits", "image_size": 16},
    "model": {
        "metaparameters": {
            "base_e": 8,
            "incr_e": 8,
            "fires": 1,
            "pool_after": [1],
            "conv1_filters": 8,
            "conv1_kernel_size": 3,
        },
        "weights": "imagenet",  # random ones here: see `network`
        "kernel_initializer": "he_normal",
        "last_activation": None,
        "dropout_rate": 0.3,
    },
    "optimizer": {
        "name": "adam",
        "learning_rate": 0.01,
        "schedule": "constant",
        "averaging": 0.2,
    },
    "fine_tuning": {"depth_decay": 0.5},
    "training": {"epochs": 6, "global_batch_size": 256},
}


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", image_size=16)


@pytest.fixture(params=["float32", "mixed_float16"])
def recipe(request):
    return Recipe.model_validate(
        {**RECIPE, "training": {**RECIPE["training"], "precision": request.param}}
    )


def network(recipe):
    """Of the recipe, with random weights that are the same each time."""
    keras.utils.set_random_seed(1)
    keras.config.set_dtype_policy(recipe.training.precision)
    try:
        return build_model(recipe.model.model_copy(update={"weights": None}), 16, 10)
    finally:
        keras.config.set_dtype_policy("float32")


def tune(folder, recipe, digits, accuracies, end_after=math.inf, seen=None, resume=False):
    """Fine-tune with these validation accuracies, of which the loss is 1 - accuracy.

    Args:
        end_after: looks at whether it was asked to end, after which it is.
        seen: called with the model after each epoch's callbacks.

    Returns:
        (weights, rows of the history).
    """
    model = network(recipe)
    keras.utils.set_random_seed(2)
    twin = build_model(recipe.model.model_copy(update={"weights": None}), 16, 10)
    run = Run(folder, recipe, digits.class_names, resume)
    run.begin(model, digits.train.count)
    history = History(folder / "history.csv", run.state.history)
    request = Request(after=end_after)
    last_layer = fine_tuning.LastLayer(twin, digits)
    training_loop = Loop(run, model, digits.train, None, history, request, last_layer)
    validated = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: logs.update(
            val_accuracy=accuracies[epoch], val_loss=1 - accuracies[epoch]
        )
    )
    callbacks = [
        validated,
        Backtracking(run, history),
        history,
        Checkpoint(run.checkpoints, history, digits.class_names),
        keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: seen(model) if seen else None
        ),
    ]
    try:
        for stage in stages_of(recipe):
            if run.state.epoch < stage.end:
                training_loop.train(stage, callbacks)
    except Terminated:
        pass
    return model.get_weights(), history.rows


class TestBacktracking:
    @pytest.mark.parametrize(
        "recipe",
        [pytest.param("float32", marks=pytest.mark.slow), "mixed_float16"],
        indirect=True,
    )
    def test_it_goes_back_to_the_best_epochs_average_and_on_from_there(
        self, recipe, digits, tmp_path
    ):
        after = []

        def see(model):
            after.append((model.get_weights(), averaged_weights(model)))

        _, found = tune(tmp_path, recipe, digits, [0.5, 0.6, 0.7, 0.5, 0.71, 0.72], seen=see)
        assert [row["went_back"] for row in found] == [0, 0, 0, 1, 0, 0]
        best = after[2][1]
        for weights in after[3]:  # those in training, and their average
            for ours, theirs in zip(weights, best, strict=True):
                np.testing.assert_array_equal(ours, theirs)
        assert any((a != b).any() for a, b in zip(after[4][0], best, strict=True))
        assert [row["learning_rate"] for row in found] == pytest.approx(
            [0, 0.01, 0.01, 0.01, 0.003, 0.003]
        )

    @pytest.mark.slow
    def test_after_the_fourth_time_training_ends(self, digits, tmp_path):
        recipe = Recipe.model_validate({**RECIPE, "training": {**RECIPE["training"], "epochs": 9}})
        _, found = tune(tmp_path, recipe, digits, [0.9] + [0.5] * 8)
        assert [row["went_back"] for row in found] == [0, 1, 1, 1, 1]

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("lost", "how"),
        [
            pytest.param("*", "removed", marks=pytest.mark.slow),
            pytest.param("epoch-0001.keras", "removed", marks=pytest.mark.slow),
            ("epoch-0001.keras", "damaged"),
        ],
    )
    def test_without_the_best_epochs_weights_it_goes_on(self, digits, tmp_path, caplog, lost, how):
        """Those of the last epoch, which are kept in its place at the end, are no better ones."""
        recipe = Recipe.model_validate({**RECIPE, "training": {**RECIPE["training"], "epochs": 3}})

        def lose(model):
            for path in (tmp_path / "checkpoints").glob(lost):
                path.unlink() if how == "removed" else path.write_bytes(path.read_bytes()[:-99])

        _, found = tune(tmp_path, recipe, digits, [0.9, 0.5, 0.5], seen=lose)
        assert [row["went_back"] for row in found] == [0] * 3
        assert "Training does not go back to the best epoch" in caplog.text


@pytest.mark.slow
class TestInterruptedFineTuning:
    """Left at any moment and resumed, it ends as if nothing had been: rates, averages, rows."""

    ACCURACIES = (0.6, 0.5, 0.7, 0.4, 0.71, 0.72)  # goes back in epochs 2 and 4

    def test_left_anywhere_it_goes_on_as_if_nothing_had_been(
        self, recipe, digits, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(loop, "SECONDS_BETWEEN_MEETINGS", 0.0)  # one after each step
        expected, rows = tune(tmp_path / "undisturbed", recipe, digits, self.ACCURACIES)
        assert [row["went_back"] for row in rows] == [0, 1, 0, 1, 0, 0]
        disturbed, left_in = tmp_path / "disturbed", []
        # The last layer looks at 45 batches of 32, then epochs have 6 steps: in the first one
        # nothing is trained yet, then come the epochs after those that went back.
        for looks in (3, 49, 7, 7, math.inf):
            found, found_rows = tune(
                disturbed, recipe, digits, self.ACCURACIES, end_after=looks, resume=True
            )
            left_in.append(len(found_rows))
        assert left_in[0] == 0
        assert 0 < left_in[1] < left_in[2] < left_in[3] < left_in[4] == 6
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        for found_row, row in zip(found_rows, rows, strict=True):
            for name in row.keys() - {"seconds", "images_per_second"}:
                assert found_row[name] == pytest.approx(row[name], rel=1e-5)
