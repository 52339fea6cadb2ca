"""Checkpoints on disk: what is kept, what is taken when one is damaged, what an old one is."""

import copy
import json
import logging
import os

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_squeezenet.errors import RunError
from keras_squeezenet.training import checkpoints
from keras_squeezenet.training.recipe import Recipe
from keras_squeezenet.training.runs import Run
from keras_squeezenet.training.state import TrainingState

EXAMPLES = 20
LAST, PREVIOUS = "checkpoint.json", "checkpoint.previous.json"


def network(units=2):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(units)])
    model.compile(optimizer="adam", loss="mse", jit_compile=False)
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.fixture
def model():
    return network()


def rows(epochs, best=1):
    return [
        {"epoch": epoch, "val_accuracy": 0.9 if epoch == best else 0.5, "ranks": 1}
        for epoch in range(1, epochs + 1)
    ]


def write_epoch(folder, model, epoch, best=1):
    """The epoch's number is also the value of each weight."""
    model.set_weights([np.full_like(weight, epoch) for weight in model.get_weights()])
    checkpoints.write_epoch(folder, model, epoch, ["a", "b"], rows(epoch, best), stopped=False)


def write_within(folder, model, epoch, examples):
    state = TrainingState(
        np.arange(EXAMPLES) < examples,
        tuple(np.full_like(weight, epoch + examples / 100) for weight in model.get_weights()),
        tuple(variable.numpy() for variable in model.optimizer.variables),
        epoch=epoch,
        examples=examples,
        metric_sums={"loss": 1.5, "accuracy": 4.0},
        seconds=0.5,
        history=tuple(rows(epoch)),
    )
    checkpoints.write_state(folder, model, state, ["a", "b"])


def names(folder):
    return {path.name for path in folder.iterdir()}


def state_of(folder):
    _, state = checkpoints.load_state(folder, checkpoints.read(folder), network(), EXAMPLES)
    return state.epoch, state.examples, float(state.weights[0][0, 0])


class TestTwoAreKept:
    def test_the_last_the_one_before_and_the_best(self, tmp_path, model):
        for epoch in range(1, 6):
            write_epoch(tmp_path, model, epoch, best=2)
        kept = {f"epoch-000{number}.keras" for number in (2, 4, 5)}
        assert names(tmp_path) == {LAST, PREVIOUS} | kept
        assert state_of(tmp_path) == (5, 0, 5.0)
        assert checkpoints.best_model(tmp_path).name == "epoch-0002.keras"

    def test_within_an_epoch_too(self, tmp_path, model):
        write_epoch(tmp_path, model, 1)
        write_within(tmp_path, model, 1, 8)
        write_within(tmp_path, model, 1, 12)
        kept = {"epoch-0001.keras", "epoch-0002-8.keras", "epoch-0002-12.keras"}
        assert names(tmp_path) == {LAST, PREVIOUS} | kept
        assert state_of(tmp_path) == (1, 12, pytest.approx(1.12))

    def test_the_same_moment_saved_again_does_not_push_out_the_one_before(self, tmp_path, model):
        write_epoch(tmp_path, model, 1)
        write_within(tmp_path, model, 1, 8)
        write_within(tmp_path, model, 1, 8)
        (tmp_path / "epoch-0002-8.keras").write_bytes(b"")
        assert state_of(tmp_path) == (1, 0, 1.0)

    def test_what_a_killed_process_was_writing_is_removed(self, tmp_path, model):
        for name in (".epoch-0001.ab12cd34.keras", ".checkpoint.ab12cd34.json"):
            (tmp_path / name).write_text("half")
        write_epoch(tmp_path, model, 1)
        assert names(tmp_path) == {LAST, "epoch-0001.keras"}


def truncate(path):
    os.truncate(path, path.stat().st_size * 2 // 3)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def fill_with_zeros(path):
    """What some file systems leave of a file that was not flushed when power was lost."""
    path.write_bytes(bytes(path.stat().st_size))


def empty(path):
    path.write_bytes(b"")


class TestDamage:
    @pytest.mark.parametrize(
        ("damage", "name"),
        [
            (truncate, "epoch-0003.keras"),
            (flip_a_bit, "epoch-0003.keras"),
            (fill_with_zeros, "epoch-0003.keras"),
            (empty, "epoch-0003.keras"),
            (os.remove, "epoch-0003.keras"),
            (truncate, LAST),
            (fill_with_zeros, LAST),
            (empty, LAST),
            (os.remove, LAST),
        ],
    )
    def test_a_damaged_checkpoint_is_named_in_one_line_and_the_one_before_is_taken(
        self, tmp_path, model, caplog, damage, name
    ):
        for epoch in (1, 2, 3):
            write_epoch(tmp_path, model, epoch)
        damage(tmp_path / name)
        with caplog.at_level(logging.WARNING):
            assert state_of(tmp_path) == (2, 0, 2.0)
        [message] = caplog.messages
        assert name in message
        assert "\n" not in message
        assert "goes on from the checkpoint before it, in epoch 3" in message

    @pytest.mark.parametrize("name", ["epoch-0003.keras", "epoch-0003-8.keras", LAST])
    def test_a_damaged_one_never_takes_the_place_of_the_whole_one_before(
        self, tmp_path, model, name
    ):
        write_epoch(tmp_path, model, 1)
        write_epoch(tmp_path, model, 2)
        if name == "epoch-0003-8.keras":
            write_within(tmp_path, model, 2, 8)
        else:
            write_epoch(tmp_path, model, 3)
        truncate(tmp_path / name)
        write_epoch(tmp_path, model, 3)  # the run has gone on from epoch 2
        assert state_of(tmp_path) == (3, 0, 3.0)
        truncate(tmp_path / "epoch-0003.keras")
        assert state_of(tmp_path) == (2, 0, 2.0)

    def test_killed_between_any_two_changes_of_the_folder_a_whole_checkpoint_is_left(
        self, tmp_path, model, monkeypatch
    ):
        class Killed(BaseException):
            pass

        write_epoch(tmp_path, model, 1)
        write_epoch(tmp_path, model, 2)
        rename, changes = os.replace, []

        def kill_at(number):
            def replace(self, target):
                if len(changes) == number:
                    raise Killed
                changes.append(target.name)
                rename(self, target)

            return replace

        survived = []
        for number in range(3):
            changes.clear()
            monkeypatch.setattr(type(tmp_path), "replace", kill_at(number))
            with pytest.raises(Killed):
                write_epoch(tmp_path, model, 3)
            survived.append(state_of(tmp_path))
        assert survived == [(2, 0, 2.0)] * 3
        changes.clear()
        monkeypatch.setattr(type(tmp_path), "replace", kill_at(None))
        write_epoch(tmp_path, model, 3)
        assert changes == ["epoch-0003.keras", PREVIOUS, LAST]
        assert state_of(tmp_path) == (3, 0, 3.0)

    def test_without_a_whole_one_it_is_refused_in_one_line(self, tmp_path, model):
        write_epoch(tmp_path, model, 1)
        write_epoch(tmp_path, model, 2)
        truncate(tmp_path / "epoch-0002.keras")
        truncate(tmp_path / PREVIOUS)
        with pytest.raises(RunError, match=r"epoch-0002\.keras.*checkpoint\.previous\.json") as e:
            checkpoints.read(tmp_path)
        assert "\n" not in str(e.value)

    def test_a_damaged_best_epoch_does_not_take_the_result_with_it(self, tmp_path, model, caplog):
        write_epoch(tmp_path, model, 1)
        write_epoch(tmp_path, model, 2)
        truncate(tmp_path / "epoch-0001.keras")
        assert checkpoints.best_model(tmp_path).name == "epoch-0002.keras"
        assert "epoch-0001.keras" in caplog.text

    @pytest.mark.parametrize(
        "damage",
        [
            {"within_epoch": {"count": EXAMPLES}},
            {"within_epoch": "half"},
            {"within_epoch": {"count": EXAMPLES, "trained": "AA"}},
            {"history": []},
            {"history": None},
            {"last": 3},
            {"epoch": "three"},
            {"epoch": -1},
            {"epoch": 1},
            {"class_names": None},
            {"history": rows(1)},
            {"history": [{**row, "val_accuracy": None} for row in rows(2)]},
            {"history": [{**row, "val_accuracy": "high"} for row in rows(2)]},
            {"history": [{"epoch": 1, "ranks": 1}, {"epoch": 2, "ranks": 1}]},
            {"history": [{**row, "ranks": 0} for row in rows(2)]},
            {"warnings": None},
            {"warnings": "stuck"},
            {"warnings": [3]},
            {"stopped": "no"},
            {"broken_images": None},
            {"broken_images": [["a.jpg", "empty"]]},
            {"broken_images": {"a.jpg": None}},
        ],
    )
    def test_fields_that_are_none_are_damage_too(self, tmp_path, model, damage):
        write_epoch(tmp_path, model, 1)
        write_epoch(tmp_path, model, 2)
        path = tmp_path / LAST
        path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
        assert state_of(tmp_path) == (1, 0, 1.0)


def another_network(path):
    network(units=5).save(path)


def without_optimizer(path):
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(path)


def of_a_class_that_nobody_knows(path):
    class Stranger(keras.layers.Dense):
        pass

    keras.Sequential([keras.Input((3,)), Stranger(2)]).save(path)


@pytest.mark.parametrize(
    "damage", [another_network, without_optimizer, of_a_class_that_nobody_knows]
)
class TestAWholeArchiveThatIsNotTheModel:
    def test_it_is_named_in_one_line_and_the_one_before_is_taken(
        self, tmp_path, model, caplog, damage
    ):
        for epoch in (1, 2, 3):
            write_epoch(tmp_path, model, epoch)
        damage(tmp_path / "epoch-0003.keras")
        assert state_of(tmp_path) == (2, 0, 2.0)
        [message] = caplog.messages
        assert "epoch-0003.keras" in message
        assert "\n" not in message
        assert len(message) < 1000
        assert "goes on from the checkpoint before it, in epoch 3" in message

    def test_it_never_takes_the_place_of_the_whole_one_before(self, tmp_path, model, damage):
        for epoch in (1, 2, 3):
            write_epoch(tmp_path, model, epoch)
        damage(tmp_path / "epoch-0003.keras")
        assert state_of(tmp_path) == (2, 0, 2.0)
        write_within(tmp_path, model, 2, 8)  # the run has gone on from epoch 2
        truncate(tmp_path / "epoch-0003-8.keras")
        assert state_of(tmp_path) == (2, 0, 2.0)

    def test_without_one_before_it_is_refused_in_one_line(self, tmp_path, model, damage):
        for epoch in (1, 2):
            write_epoch(tmp_path, model, epoch)
            damage(tmp_path / f"epoch-000{epoch}.keras")
        with pytest.raises(RunError, match=r"epoch-0002\.keras: .*epoch-0001\.keras: ") as error:
            state_of(tmp_path)
        assert "\n" not in str(error.value)


RECIPE = Recipe.model_validate(
    {
        "name": "checkpoints",
        "data": {"source": "digits", "image_size": 8},
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
        "training": {"epochs": 6, "batch_size": 4},
    }
)


def places(value, place=()):
    """The keys and indices that lead to each value in nested ones."""
    if place:
        yield place
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*place, key))


def replaced(checkpoint, place, value):
    checkpoint = copy.deepcopy(checkpoint)
    inner = checkpoint
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return checkpoint


LETTERS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
FOREIGN_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | LETTERS | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(LETTERS, inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def folder_of_a_run(tmp_path_factory):
    """A run that stands within its third epoch."""
    folder = tmp_path_factory.mktemp("run")
    run = Run(folder, RECIPE, ["a", "b"])
    write_epoch(run.checkpoints, network(), 2)
    write_within(run.checkpoints, network(), 2, 8)
    return folder


class TestForeignValues:
    @pytest.mark.slow
    @pytest.mark.parametrize("file", ["within an epoch", "between two"])
    @settings(max_examples=60)
    @given(data=st.data())
    def test_whatever_stands_in_a_checkpoint_a_run_goes_on_or_ends_in_one_line(
        self, folder_of_a_run, file, data
    ):
        folder = folder_of_a_run / "checkpoints"
        path = folder / (LAST if file == "within an epoch" else PREVIOUS)
        whole = path.read_text()
        checkpoint = json.loads(whole)
        place = data.draw(st.sampled_from(list(places(checkpoint))))
        path.write_text(json.dumps(replaced(checkpoint, place, data.draw(FOREIGN_VALUES))))
        last = (folder / LAST).read_text()
        if path.name == PREVIOUS:  # it is read where the last one is damaged
            (folder / LAST).write_text("")
        try:
            refusal = go_on(folder_of_a_run)
        finally:
            (folder / LAST).write_text(last)
            path.write_text(whole)
        assert "\n" not in refusal


def go_on(folder):
    """Do what a resumed run does before it trains; the line that refuses it, or nothing."""
    try:
        run = Run(folder, RECIPE, ["a", "b"], resume=True)
        run.begin(network(), EXAMPLES)
    except RunError as error:
        return str(error)
    keep_on(run)
    return ""


def keep_on(run):
    """What a run makes of its checkpoint until the next one is written."""
    state = run.state
    if state.examples:
        assert {"loss", "accuracy"} <= set(state.metrics)
        assert state.examples / state.seconds > 0
    assert checkpoints.best_model(run.checkpoints).is_file()
    json.dumps([run.warnings, run.broken_images, state.history], allow_nan=False)


class TestOldFolders:
    """Versions up to 2026-11-24 wrote checkpoint.json alone, and kept no checkpoint before it."""

    def test_they_are_read_and_written_on(self, tmp_path, model):
        write_epoch(tmp_path, model, 1)
        write_epoch(tmp_path, model, 2)
        (tmp_path / PREVIOUS).unlink()
        path = tmp_path / LAST
        old = json.loads(path.read_text())
        assert {"epoch", "last", "class_names", "history", "best"} <= set(old)
        for name in ("stopped", "warnings", "broken_images"):  # the oldest had none
            old.pop(name)
        path.write_text(json.dumps(old))
        assert state_of(tmp_path) == (2, 0, 2.0)
        write_epoch(tmp_path, model, 3)
        truncate(tmp_path / "epoch-0003.keras")
        assert state_of(tmp_path) == (2, 0, 2.0)
