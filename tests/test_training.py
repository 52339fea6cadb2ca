"""Optimizers, schedules and callbacks of a recipe."""

import math
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from keras_squeezenet import distributed
from keras_squeezenet.data import Augmentation
from keras_squeezenet.network.folding import folded_weights
from keras_squeezenet.network.layers import Fire
from keras_squeezenet.training.building import build_model, load_data
from keras_squeezenet.training.callbacks import (
    DivergedError,
    History,
    LossWatch,
    ShardedValidation,
    StopEarly,
    best_epoch,
)
from keras_squeezenet.training.diagnosis import Diagnosis, Observer
from keras_squeezenet.training.folder_callbacks import Checkpoint
from keras_squeezenet.training.losses import SmoothedCrossentropy
from keras_squeezenet.training.model_section import SqueezeNetSection
from keras_squeezenet.training.optimizers import build_optimizer
from keras_squeezenet.training.recipe import Recipe, load_recipe
from keras_squeezenet.training.runs import Run
from keras_squeezenet.training.schedules import WarmUp
from keras_squeezenet.training.stages import TrainingStage, compile_model, restore_state, stages_of
from tests.tiers import parametrize

RECIPES = Path(__file__).parents[1] / "train" / "recipes"
TINY = {
    "base_e": 8,
    "incr_e": 8,
    "squeeze_ratio": 0.5,
    "fires": 2,
    "pool_after": [1],
    "conv1_filters": 8,
    "conv1_kernel_size": 3,
}


def recipe_with(*, epochs=10, batch_size=4, accumulation_steps=1, **optimizer):
    return Recipe.model_validate(
        {
            "name": "test",
            "data": {"source": "digits", "image_size": 32},
            "optimizer": {"learning_rate": 0.4, "scale_by_ranks": None, **optimizer},
            "training": {
                "epochs": epochs,
                "batch_size": batch_size,
                "accumulation_steps": accumulation_steps,
            },
        }
    )


# Eight layers deep is where a signal vanishes; all else is seen in a network of four as well.
SMALL = {"metaparameters": TINY, "kernel_initializer": "he_normal"}
LEARNS = {**SMALL, "last_activation": None}


def small_network(classes):
    """A network of four layers that ends in a ReLU, as the authors' does."""
    return build_model(SqueezeNetSection(dropout_rate=0.0, **SMALL), image_size=32, classes=classes)


def striped_images():
    """Sixteen images of each of four kinds of stripes, with noise, and their labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(64) % 4
    x, y = np.meshgrid(np.arange(32), np.arange(32))
    kinds = np.stack([np.sin(way / 2) for way in (x, y, x + y, x - y)])
    images = 128 + 60 * kinds[labels, :, :, None] + rng.normal(0, 20, (64, 32, 32, 3))
    return images.clip(0, 255).astype("f"), labels


def rates(recipe, steps, ranks=1, steps_per_epoch=10):
    optimizer = build_optimizer(recipe, steps_per_epoch, ranks)
    schedule = optimizer._learning_rate
    return [float(schedule(step)) for step in steps]


class TestLearningRate:
    def test_linear_decay_is_the_papers(self):
        # 0.4 · (1 - step/100)
        assert rates(recipe_with(schedule="polynomial"), [0, 25, 50, 100]) == pytest.approx(
            [0.4, 0.3, 0.2, 0.0]
        )

    def test_polynomial_decay_has_its_power(self):
        assert rates(recipe_with(schedule="polynomial", power=2), [50]) == pytest.approx([0.1])

    def test_cosine_decay_is_half_a_wave(self):
        expected = [0.2 * (1 + math.cos(math.pi * step / 100)) for step in (0, 30, 50, 100)]
        measured = rates(recipe_with(schedule="cosine"), [0, 30, 50, 100])
        assert measured == pytest.approx(expected, abs=1e-6)

    def test_steps_drop_the_rate_after_their_epochs(self):
        recipe = recipe_with(schedule="step", step_epochs=[3, 6.5], step_factor=0.5)
        assert rates(recipe, [30, 31, 65, 66]) == pytest.approx([0.4, 0.2, 0.2, 0.1])

    def test_constant_stays(self):
        assert rates(recipe_with(schedule="constant"), [0, 50, 10_000]) == pytest.approx([0.4] * 3)

    def test_warm_up_rises_in_a_line_to_the_schedule(self):
        recipe = recipe_with(schedule="constant", warmup_epochs=2)
        assert rates(recipe, [0, 9, 19, 20]) == pytest.approx([0.02, 0.2, 0.4, 0.4])

    @pytest.mark.parametrize(("scale", "factor"), [("linear", 4), ("sqrt", 2), (None, 1)])
    def test_the_rate_is_scaled_by_the_ranks(self, scale, factor):
        recipe = recipe_with(schedule="constant", scale_by_ranks=scale)
        assert rates(recipe, [5], ranks=4) == pytest.approx([0.4 * factor])

    def test_accumulation_counts_updates_not_steps(self):
        recipe = recipe_with(schedule="polynomial", accumulation_steps=5)
        # 10 epochs of 10 steps are 20 updates
        assert rates(recipe, [0, 10, 20]) == pytest.approx([0.4, 0.2, 0.0])

    def test_a_schedule_survives_saving(self):
        schedule = WarmUp(keras.optimizers.schedules.CosineDecay(0.3, 50), 7)
        copy = WarmUp.from_config(schedule.get_config())
        assert [float(copy(s)) for s in (0, 6, 30)] == [float(schedule(s)) for s in (0, 6, 30)]


class TestOptimizers:
    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("sgd", keras.optimizers.SGD),
            ("rmsprop", keras.optimizers.RMSprop),
            ("adam", keras.optimizers.Adam),
            ("adamw", keras.optimizers.AdamW),
        ],
    )
    def test_weight_decay_shrinks_kernels_and_no_biases(self, name, kind):
        recipe = recipe_with(name=name, schedule="constant", weight_decay=0.5)
        optimizer = build_optimizer(recipe, 10, 1)
        assert type(optimizer) is kind
        layer = keras.layers.Dense(2)
        layer.build((None, 3))
        layer.bias.assign([1.0, 1.0])
        kernel = layer.kernel.numpy()
        optimizer.apply([np.zeros((3, 2), "f"), np.zeros(2, "f")], layer.trainable_variables)
        # without a gradient, one update leaves kernel · (1 - rate · decay)
        np.testing.assert_allclose(layer.kernel.numpy(), kernel * (1 - 0.4 * 0.5), rtol=1e-5)
        np.testing.assert_array_equal(layer.bias.numpy(), [1.0, 1.0])

    def test_weight_decay_leaves_batch_normalization_alone(self):
        optimizer = build_optimizer(recipe_with(weight_decay=0.5), 10, 1)
        fire = Fire(2, 2, 2, batch_normalization=True)
        fire.build((None, 4, 4, 3))
        before = {variable.path: variable.numpy() for variable in fire.trainable_variables}
        zeros = [np.zeros(variable.shape, "f") for variable in fire.trainable_variables]
        optimizer.apply(zeros, fire.trainable_variables)
        changed = {
            variable.name
            for variable in fire.trainable_variables
            if not np.array_equal(variable.numpy(), before[variable.path])
        }
        assert changed == {"kernel"}

    def test_gradients_are_clipped_by_their_common_norm(self):
        recipe = recipe_with(schedule="constant", momentum=0.0, clip_norm=1.0)
        optimizer = build_optimizer(recipe, 10, 1)
        variable = keras.Variable(np.zeros(2, "f"))
        optimizer.apply([np.array([30.0, 40.0], "f")], [variable])
        np.testing.assert_allclose(variable.numpy(), [-0.4 * 0.6, -0.4 * 0.8], rtol=1e-6)

    def test_momentum_and_nesterov_reach_the_optimizer(self):
        optimizer = build_optimizer(recipe_with(momentum=0.7, nesterov=True), 10, 1)
        assert (optimizer.momentum, optimizer.nesterov) == (0.7, True)


class TestLoss:
    def test_label_smoothing_equals_the_formula(self):
        labels = np.array([0, 2])
        probabilities = np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]])
        smooth = 0.1
        targets = np.full((2, 3), smooth / 3)
        targets[[0, 1], labels] += 1 - smooth
        expected = -(targets * np.log(probabilities)).sum(axis=1).mean()
        loss = SmoothedCrossentropy(smooth)(labels, probabilities)
        assert float(loss) == pytest.approx(expected, rel=1e-6)


class TestBuildModel:
    def test_batch_normalization_is_in_the_network_that_trains_and_not_in_what_is_kept(self):
        section = SqueezeNetSection(metaparameters=TINY, batch_normalization=True)
        model = build_model(section, 32, 4)
        kept = build_model(section.kept, 32, 4)
        assert model.non_trainable_weights
        assert not kept.non_trainable_weights
        kept.set_weights(folded_weights(model))

    def test_the_network_for_cifar10_is_small(self):
        recipe = load_recipe(RECIPES / "cifar10.yaml")
        kept = build_model(recipe.model.kept, recipe.data.image_size, 10)
        assert kept.count_params() <= 800_000

    def test_the_recipes_network_takes_raw_images(self):
        section = recipe_with().model
        model = build_model(section, image_size=32, classes=4)
        assert model.input_shape == (None, 32, 32, 3)
        assert model.output_shape == (None, 4)
        assert model.get_layer("preprocessing").mode == "tf"

    def test_metaparameters_make_the_network(self):
        section = recipe_with().model.model_copy(
            update={"metaparameters": {"base_e": 16, "incr_e": 16, "fires": 2, "pool_after": [1]}}
        )
        model = build_model(section, image_size=32, classes=4)
        assert [layer.name for layer in model.layers if "fire" in layer.name] == ["fire2", "fire3"]

    def test_an_unknown_metaparameter_is_named(self):
        section = recipe_with().model.model_copy(update={"metaparameters": {"base": 16}})
        with pytest.raises(ValueError, match="'base'"):
            build_model(section, image_size=32, classes=4)


@parametrize(
    "name",
    [
        *("cifar10", "imagenette", "imagenet", "application"),
        *("imagenette_alexnet", "imagenette_mobilenetv2", "imagenette_shufflenet"),
        *("imagenette_squeezenet", "imagenette_vgg"),
    ],
    quick=2,
)
def test_long_recipes_load_a_small_folder_of_their_form(name, tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2)):
        for synset in ("n01440764", "n03000684"):
            folder = tmp_path / split / synset
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 255, (300, 260, 3), "uint8")
                Image.fromarray(pixels).save(folder / f"{synset}_{number}.JPEG")
    recipe = load_recipe(
        RECIPES / f"{name}.yaml", [f"data.source={tmp_path}", "training.batch_size=2"]
    )
    dataset = load_data(recipe)
    assert dataset.class_names == ("n01440764", "n03000684")
    augmentation = Augmentation.from_mapping(recipe.data.augmentation)
    images, labels = next(iter(dataset.train.train_batches(2, augmentation=augmentation)))
    side = dataset.train.framing.image_size
    model = build_model(recipe.model, side, len(dataset.class_names))
    [stage] = stages_of(recipe)
    compile_model(model, stage, dataset.train.steps_per_epoch(2))
    loss, _ = model.evaluate(images, labels, verbose=0)
    assert np.isfinite(loss)


class TestStages:
    """The last layer alone, then all: what learns, at which rate, and where a run goes on."""

    IMAGES = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)).astype("float32")
    LABELS = np.arange(8) % 3
    STEPS = 2

    @pytest.fixture
    def recipe(self, tmp_path):
        """One epoch of four for the last layer, from the weights of a network of 5 classes."""
        section = {"metaparameters": TINY, "kernel_initializer": "he_normal"}
        keras.utils.set_random_seed(1)  # of eight filters, one may be dead from the beginning
        base = build_model(SqueezeNetSection(**section, last_activation=None), 32, 5)
        base.save(tmp_path / "base.keras")
        return Recipe.model_validate(
            {
                "name": "tune",
                "data": {"source": "digits", "image_size": 32},
                "model": {
                    **section,
                    "last_activation": None,
                    "weights": str(tmp_path / "base.keras"),
                },
                "optimizer": {"name": "adam", "learning_rate": 0.001, "scale_by_ranks": None},
                "fine_tuning": {"depth_decay": 0.5},
                "training": {"epochs": 4, "batch_size": 4},
            }
        )

    def fit(self, model, stage, callbacks=()):
        compile_model(model, stage, self.STEPS)
        model.optimizer.build(model.trainable_variables)  # else the step is traced twice
        model.fit(
            self.IMAGES,
            self.LABELS,
            batch_size=4,
            initial_epoch=stage.start,
            epochs=stage.end,
            callbacks=list(callbacks),
            verbose=0,
        )
        return model.get_weights()

    def test_without_fine_tuning_all_layers_learn_in_all_epochs(self):
        recipe = recipe_with(epochs=7)
        assert stages_of(recipe) == [TrainingStage(recipe, start=0, end=7)]

    @pytest.mark.slow
    def test_the_base_keeps_the_loaded_weights_until_its_stage(self, recipe):
        frozen, whole = stages_of(recipe)
        assert [(stage.start, stage.end) for stage in (frozen, whole)] == [(0, 1), (1, 4)]
        model = build_model(recipe.model, 32, 3)
        loaded = model.get_weights()
        base = keras.saving.load_model(recipe.model.weights).get_weights()
        for ours, theirs in zip(loaded[:-2], base[:-2], strict=True):
            np.testing.assert_array_equal(ours, theirs)
        after_frozen = self.fit(model, frozen)
        for before, after in zip(loaded[:-2], after_frozen[:-2], strict=True):
            np.testing.assert_array_equal(before, after)
        assert (loaded[-2] != after_frozen[-2]).any()
        after_whole = self.fit(model, whole)
        changed = [
            (before != after).any() for before, after in zip(after_frozen, after_whole, strict=True)
        ]
        assert all(changed[::2])  # every kernel

    def test_the_rate_falls_over_the_epochs_of_all_layers(self, recipe):
        _, whole = stages_of(recipe)
        of_all = build_optimizer(whole.recipe, self.STEPS, 1)._learning_rate
        assert [float(of_all(step)) for step in (0, 3, 6)] == pytest.approx([0.001, 0.0005, 0])

    @parametrize(("epoch", "iterations"), [(1, 0), (2, 2), (3, 4)], quick=1)
    def test_a_run_goes_on_with_the_optimizer_of_its_stage(
        self, recipe, tmp_path, epoch, iterations
    ):
        folder = tmp_path / "run"
        Run(folder, recipe, ["a", "b", "c"])
        model = build_model(recipe.model, 32, 3)
        history = History(folder / "history.csv")
        add_accuracy = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: logs.update(val_accuracy=0.5)
        )
        keeps = Checkpoint(folder / "checkpoints", history, ["a", "b", "c"])
        for stage in stages_of(recipe):
            if stage.start < epoch:
                stopped = replace(stage, end=min(stage.end, epoch))
                weights = self.fit(model, stopped, [add_accuracy, history, keeps])

        run = Run(folder, recipe, ["a", "b", "c"], resume=True)
        assert run.epoch == epoch
        stage = next(stage for stage in stages_of(recipe) if epoch < stage.end)
        resumed = build_model(recipe.model, 32, 3)
        compile_model(resumed, stage, self.STEPS)
        run.begin(resumed, examples=8)
        restore_state(resumed, run.state, stage, self.STEPS, examples_per_step=4)
        for ours, theirs in zip(weights, resumed.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert int(resumed.optimizer.iterations) == iterations

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"training": {"epochs": 1, "batch_size": 4}}, "training.epochs of 2 or more"),
            ({"model": {}}, "fine_tuning needs model.weights"),
            ({"model": {"weights": "imagenet"}}, "needs model.last_activation: null"),
        ],
    )
    def test_a_recipe_that_fits_not_is_refused(self, recipe, change, message):
        with pytest.raises(ValidationError, match=message):
            Recipe.model_validate({**recipe.model_dump(), **change})


class TestLossWatch:
    def test_a_loss_at_chance_is_said_once_with_advice(self, caplog):
        watch = LossWatch(classes=10, patience=3)
        for epoch in range(6):
            watch.on_epoch_begin(epoch)
            watch.on_epoch_end(epoch, {"loss": math.log(10) * 1.005})
        assert len(watch.warnings) == 1
        assert "optimizer.warmup_epochs" in watch.warnings[0]
        assert "stuck" in caplog.text

    @pytest.mark.parametrize("losses", [[2.30, 2.30, 2.1, 2.30, 2.30], [2.0] * 5, [3.0] * 5])
    def test_a_loss_that_moves_or_is_elsewhere_is_not(self, losses):
        watch = LossWatch(classes=10, patience=3)
        for epoch, loss in enumerate(losses):
            watch.on_epoch_begin(epoch)
            watch.on_epoch_end(epoch, {"loss": loss})
        assert watch.warnings == []

    def test_the_warm_up_is_no_failure(self):
        watch = LossWatch(classes=10, warmup_epochs=5, patience=3)
        for epoch in range(6):
            watch.on_epoch_begin(epoch)
            watch.on_epoch_end(epoch, {"loss": math.log(10)})
        assert watch.warnings == []

    def test_long_epochs_are_looked_into(self):
        watch = LossWatch(classes=10, patience=3)
        watch.on_epoch_begin(0)
        for batch in range(3000):
            watch.on_train_batch_end(batch, {"loss": math.log(10)})
        assert len(watch.warnings) == 1

    def test_a_network_that_really_is_dead_is_noticed(self):
        # Every output of conv4 is negative, so its ReLU gives 0 and no gradient comes back.
        model = small_network(classes=5)
        model.get_layer("conv4").bias.assign(np.full(5, -100.0))
        model.compile("sgd", SmoothedCrossentropy(), jit_compile=False)
        watch = LossWatch(classes=5, patience=2)
        images = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)).astype("f")
        model.fit(images, np.arange(8) % 5, epochs=2, verbose=0, callbacks=[watch])
        assert len(watch.warnings) == 1

    @parametrize(
        ("model", "optimizer", "causes"),
        [
            # The initial values of the authors, on images from -1 to 1.
            ({"last_activation": None}, keras.optimizers.SGD(0.001), ["vanishing signal"]),
            (SMALL, "bias of -100", ["dead classes"]),
            (LEARNS, keras.optimizers.SGD(1e-9), ["rate too low"]),
            (LEARNS, keras.optimizers.Adam(0.3), ["rate too high"]),
            (LEARNS, keras.optimizers.Adam(0.003), []),
        ],
        quick=2,
    )
    def test_the_cause_is_named_after_the_first_epoch(self, model, optimizer, causes, caplog):
        keras.utils.set_random_seed(0)
        section = SqueezeNetSection(dropout_rate=0.0, **model)
        network = build_model(section, image_size=32, classes=4)
        if optimizer == "bias of -100":
            network.get_layer("conv4").bias.assign([-100.0, 0.0, 0.0, 0.0])
            optimizer = "sgd"
        network.compile(optimizer, SmoothedCrossentropy(), jit_compile=False)
        images, labels = striped_images()
        watch = LossWatch(classes=4, images=images[:16])
        network.fit(images, labels, batch_size=8, epochs=1, verbose=0, callbacks=[watch])
        assert set(causes) <= set(watch.causes)
        assert bool(causes) == bool(watch.causes) == bool(watch.warnings) == bool(caplog.records)

    def test_what_was_seen_is_said_with_what_helps(self, caplog):
        network = small_network(classes=4)
        network.get_layer("conv4").bias.assign([-100.0, 0.0, -100.0, -100.0])
        network.compile("sgd", SmoothedCrossentropy(), jit_compile=False)
        images, labels = striped_images()
        watch = LossWatch(classes=4, images=images[:16])
        network.fit(images, labels, batch_size=8, epochs=2, verbose=0, callbacks=[watch])
        (text,) = watch.warnings
        assert "of 4 classes get no gradient" in text
        assert "model.last_activation=null" in text
        assert len(caplog.records) == 1

    def test_a_class_without_an_image_is_not_called_dead(self):
        """Its filter may be 0 on images of others, and is when a network has learned."""
        network = small_network(classes=4)
        network.get_layer("conv4").bias.assign([10.0, 10.0, -100.0, -100.0])
        images, labels = striped_images()
        kept = np.isin(labels, [0, 1, 2])
        looks = [
            Observer(network, images[kept], labels).look()
            for labels in (None, labels[kept], np.zeros(kept.sum()))
        ]
        assert [look.dead_classes for look in looks] == [(2, 3), (2,), ()]
        diagnosis = Diagnosis(classes=4)
        diagnosis.add(looks[1])
        [finding] = diagnosis.add(looks[1], loss=0.5)
        assert "1 of 3 classes looked at get no gradient" in finding.seen

    def test_in_the_warm_up_nothing_is_said_of_a_cause(self):
        network = small_network(classes=4)
        network.get_layer("conv4").bias.assign([-100.0, 0.0, -100.0, -100.0])
        network.compile("sgd", SmoothedCrossentropy(), jit_compile=False)
        images, labels = striped_images()
        watch = LossWatch(classes=4, warmup_epochs=2, images=images[:16])
        seen = []
        after = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: seen.append(len(watch.warnings))
        )
        network.fit(images, labels, batch_size=8, epochs=4, verbose=0, callbacks=[watch, after])
        assert seen == [0, 0, 1, 1]

    def test_a_loss_that_is_no_number_ends_training(self):
        watch = LossWatch(classes=10)
        watch.on_epoch_begin(4)
        for end in (watch.on_epoch_end, watch.on_train_batch_end):
            with pytest.raises(DivergedError, match="epoch 5 is nan"):
                end(4, {"loss": math.nan})

    def test_one_rank_of_several_does_not_end_by_itself_within_an_epoch(self, monkeypatch):
        monkeypatch.setattr(distributed.ranks, "_place", (1, 2))
        watch = LossWatch(classes=10)
        watch.on_epoch_begin(4)
        watch.on_train_batch_end(4, {"loss": math.nan})
        with pytest.raises(DivergedError, match="epoch 5 is inf"):
            watch.on_epoch_end(4, {"loss": 1.0, "val_loss": math.inf})


class TestEpochCallbacks:
    @pytest.fixture
    def model(self):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, "softmax")])
        model.compile("sgd", SmoothedCrossentropy(), metrics=["accuracy"], jit_compile=False)
        return model

    def test_validation_counts_every_example_once_whatever_the_batches(self, model):
        import tensorflow as tf

        rng = np.random.default_rng(0)
        features, labels = rng.normal(size=(11, 3)).astype("f"), rng.integers(0, 2, 11)
        batches = tf.data.Dataset.from_tensor_slices((features, labels)).batch(4)
        twin = keras.models.clone_model(model)
        twin.compile(loss=SmoothedCrossentropy(), metrics=["accuracy"], jit_compile=False)
        callback = ShardedValidation(twin, batches)
        callback.set_model(model)
        logs = {}
        callback.on_epoch_end(0, logs)
        probabilities = model.predict(features, verbose=0)
        right = probabilities.argmax(axis=1) == labels
        chosen = probabilities[np.arange(11), labels]
        assert logs["val_accuracy"] == pytest.approx(right.mean())
        assert logs["val_loss"] == pytest.approx(-np.log(chosen).mean(), rel=1e-5)

    def test_history_goes_on_after_a_resumption(self, model, tmp_path):
        path = tmp_path / "history.csv"
        history = History(
            path, [{"epoch": 1, "loss": 2.0, "val_accuracy": 0.5, "learning_rate": 0.1, "ranks": 1}]
        )
        history.set_model(model)
        history.on_epoch_end(1, {"loss": 1.0, "val_accuracy": 0.25})
        lines = path.read_text().splitlines()
        assert lines[0].startswith("epoch,loss,val_accuracy")
        assert [line.split(",")[0] for line in lines[1:]] == ["1", "2"]
        assert best_epoch(history.rows) == 1

    def test_training_stops_when_the_accuracy_rests(self, model, tmp_path):
        history = History(tmp_path / "history.csv")
        stop = StopEarly(history, patience=2)
        for callback in (history, stop):
            callback.set_model(model)
        stopped_after = []
        for epoch, accuracy in enumerate([0.1, 0.3, 0.2, 0.3]):
            history.on_epoch_end(epoch, {"val_accuracy": accuracy})
            stop.on_epoch_end(epoch)
            stopped_after.append(model.stop_training)
        assert stopped_after == [False, False, False, True]

    def test_epochs_of_the_last_layer_alone_do_not_count_as_waiting(self, model, tmp_path):
        history = History(tmp_path / "history.csv")
        stop = StopEarly(history, patience=2, after=3)
        for callback in (history, stop):
            callback.set_model(model)
        stopped_after = []
        for epoch in range(6):
            history.on_epoch_end(epoch, {"val_accuracy": 0.5})
            stop.on_epoch_end(epoch)
            stopped_after.append(model.stop_training)
        assert stopped_after == [False, False, False, False, True, True]
