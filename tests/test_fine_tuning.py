"""The last layer's fit, rates that fall with depth, averaged weights, how long a run is."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from PIL import Image

from keras_squeezenet.data import load_dataset
from keras_squeezenet.errors import InputError
from keras_squeezenet.network.architecture import preset
from keras_squeezenet.network.models import SqueezeNet
from keras_squeezenet.training import fine_tuning
from keras_squeezenet.training.averaging import averaged_weights
from keras_squeezenet.training.losses import SmoothedCrossentropy
from keras_squeezenet.training.optimizers import build_optimizer
from keras_squeezenet.training.recipe import Recipe
from tests.tiers import parametrize

RNG = np.random.default_rng(0)


def penalized_loss(kernel, bias, features, labels):
    """What scikit-learn's documentation says that a logistic regression minimizes, times 1 / C."""
    logits = features @ kernel + bias
    logits = logits - logits.max(axis=1, keepdims=True)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    # Of two classes there is one column, that of the log-odds.
    columns = kernel if kernel.shape[1] > 2 else kernel[:, 1] - kernel[:, 0]
    loss = -np.log(shares[np.arange(len(labels)), labels]).sum()
    return loss + (columns**2).sum() / 2 / fine_tuning.INVERSE_PENALTY


@pytest.mark.parametrize("classes", [2, 5])
def test_the_fit_is_the_minimum_whatever_the_features_scale(classes):
    features = RNG.normal(size=(60, 7)) + 1
    labels = RNG.integers(0, classes, 60)
    scale = np.sqrt((features**2).mean())
    kernel, bias = fine_tuning.fit_softmax(features, labels, classes)
    best = penalized_loss(kernel * scale, bias, features / scale, labels)
    for _ in range(50):
        other = kernel * scale + RNG.normal(scale=0.02, size=kernel.shape)
        shifted = bias + RNG.normal(scale=0.02, size=bias.shape)
        assert penalized_loss(other, shifted, features / scale, labels) > best
    larger, _ = fine_tuning.fit_softmax(1000 * features, labels, classes)
    np.testing.assert_allclose(larger * 1000, kernel, atol=2e-3)


def test_a_class_without_images_is_never_chosen():
    features = RNG.normal(size=(40, 3))
    labels = RNG.choice([0, 2, 3], 40)
    kernel, bias = fine_tuning.fit_softmax(features, labels, 5)
    assert (kernel.shape, bias.shape) == ((3, 5), (5,))
    assert set((features @ kernel + bias).argmax(axis=1)) <= {0, 2, 3}


@pytest.fixture
def pictures(tmp_path):
    """Three classes of ten pictures, of another colour each; one cannot be read."""
    for split in ("train", "val"):
        for name, colour in (("blue", 2), ("green", 1), ("red", 0)):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for number in range(10):
                pixels = RNG.integers(0, 160, (48, 48, 3), "uint8")
                pixels[:, :, colour] += 40
                Image.fromarray(pixels).save(folder / f"{number}.png")
    (tmp_path / "train" / "red" / "9.png").write_text("no picture")
    return load_dataset(str(tmp_path), image_size=32, train_image_size=24, max_broken_share=0.1)


@parametrize("padding", [0, 1], quick=1)
def test_the_network_is_then_a_logistic_regression_on_its_mean_features(pictures, padding):
    """Also with zeros around the last map, as 1.0's. Against the network without top."""
    settings = {
        "architecture": replace(preset("1.0"), last_conv_padding=padding),
        "weights": None,
        "include_preprocessing": "tf",
        "kernel_initializer": "he_normal",
        "input_shape": (32, 32, 3),
    }
    network = SqueezeNet(**settings, classes=3, last_activation=None)
    before = network.get_weights()
    fit = fine_tuning.LastLayer(network, pictures, smoothing=0.1)
    batches = []
    weights, indices, metrics = fit.fit(before, after_batch=lambda: batches.append(1))
    assert len(batches) == 1
    assert list(indices) == list(range(30))
    for ours, theirs in zip(weights[:-2], before[:-2], strict=True):
        np.testing.assert_array_equal(ours, theirs)

    bare = SqueezeNet(**settings, include_top=False, pooling="avg")
    bare.set_weights(before[:-2])
    images, _ = next(iter(pictures.val.val_batches(30)))
    side = network.get_layer("fire9").output.shape[1]
    features = bare.predict_on_batch(images) * side**2 / (side + 2 * padding) ** 2
    logits = features @ weights[-2][0, 0] + weights[-1]
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    network.set_weights(weights)
    np.testing.assert_allclose(network.predict_on_batch(images), expected, atol=1e-5)

    # What it tells of the training images is what Keras finds, in evaluation's crops.
    network.compile(loss=SmoothedCrossentropy(0.1), metrics=["accuracy"])
    [(images, labels)] = fit.split.val_batches(30)
    assert len(labels) == 29
    told = network.evaluate(images, labels, verbose=0, return_dict=True)
    assert metrics == pytest.approx({name: told[name] for name in metrics}, abs=1e-5)


def test_features_that_are_no_numbers_end_it_in_one_line(pictures):
    network = SqueezeNet(weights=None, input_shape=(32, 32, 3), classes=3, last_activation=None)
    weights = network.get_weights()
    weights[-3][:] = np.inf  # biases of the last Fire
    with pytest.raises(InputError, match=r"no finite numbers: squeezenet.*model\.weights"):
        fine_tuning.LastLayer(network, pictures).fit(weights)


RECIPE = {
    "name": "tune",
    "data": {"source": "digits", "image_size": 32},
    "model": {"weights": "imagenet", "last_activation": None},
    "optimizer": {"name": "sgd", "learning_rate": 0.01, "momentum": 0, "schedule": "constant"},
    "fine_tuning": {"depth_decay": 0.5},
    "training": {"epochs": 60, "batch_size": 32},
}


def small_network():
    inputs = keras.Input((6,))
    x = keras.layers.Dense(4, activation="relu", name="first")(inputs)
    x = keras.layers.Dense(4, activation="relu", name="second")(x)
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax", name="last")(x))


def step(optimizer, weights, decay=None):
    """Weights after a step of an optimizer on a batch."""
    model = small_network()
    model.set_weights(weights)
    if decay:
        fine_tuning.scale_rates(optimizer, model, decay)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    images = np.random.default_rng(1).normal(size=(8, 6)).astype("float32")
    model.train_on_batch(images, np.arange(8) % 3)
    return model.get_weights()


@parametrize("kind", [keras.optimizers.SGD, keras.optimizers.Adam], quick=1)
def test_each_layer_moves_so_much_less_than_the_one_above_it(kind):
    start = small_network().get_weights()
    plain, scaled = step(kind(0.1), start), step(kind(0.1), start, decay=0.25)
    for number, (before, full, part) in enumerate(zip(start, plain, scaled, strict=True)):
        factor = 0.25 ** (2 - number // 2)
        assert np.abs(full - before).max() > 0
        np.testing.assert_allclose(part - before, factor * (full - before), atol=1e-6)


@pytest.mark.parametrize("scales_loss", [False, True])
def test_a_share_of_all_rates_holds_for_the_compiled_step(scales_loss):
    keras.utils.set_random_seed(0)  # else all four ReLUs are dead at times
    model, optimizer = small_network(), keras.optimizers.SGD(0.1)
    fine_tuning.scale_rates(optimizer, model, 1.0)
    if scales_loss:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=8.0)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    start = model.get_weights()
    moves = []
    for share in (1.0, 0.25, 1.0):
        fine_tuning.set_rate_share(model, share)
        model.set_weights(start)
        model.train_on_batch(np.ones((8, 6)), np.arange(8) % 3)
        moves.append([now - then for now, then in zip(model.get_weights(), start, strict=True)])
    for full, part, again in zip(*moves, strict=True):
        assert np.abs(full).max() > 0
        np.testing.assert_allclose(part, 0.25 * full, atol=1e-6)
        np.testing.assert_array_equal(again, full)


def test_weight_decay_follows_the_rates():
    """Keras's own takes rate · decay · kernel away; there is no gradient here."""
    model = small_network()
    optimizer = keras.optimizers.SGD(0.1, weight_decay=0.5)
    fine_tuning.scale_rates(optimizer, model, 0.25)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    fine_tuning.set_rate_share(model, 0.3)
    start = model.get_weights()
    optimizer.build(model.trainable_variables)
    optimizer.apply([keras.ops.zeros_like(variable) for variable in model.trainable_variables])
    for number, (before, after) in enumerate(zip(start, model.get_weights(), strict=True)):
        lost = 0.1 * 0.5 * 0.3 * 0.25 ** (2 - number // 2)
        np.testing.assert_allclose(after, before * (1 - lost), rtol=1e-6)
    assert optimizer.weight_decay == 0.5


def test_a_model_whose_rates_were_scaled_is_saved_with_the_plain_optimizer(tmp_path):
    model = small_network()
    optimizer = keras.optimizers.Adam(0.1)
    fine_tuning.scale_rates(optimizer, model, 0.5)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    model.train_on_batch(np.ones((2, 6)), np.zeros(2))
    model.save(tmp_path / "model.keras")
    assert type(keras.saving.load_model(tmp_path / "model.keras").optimizer) is type(optimizer)


class TestAveragedWeights:
    def model(self, optimizer):
        model = small_network()
        model.layers[1].trainable = False
        model.compile(optimizer, "sparse_categorical_crossentropy")
        return model

    def test_they_are_the_moving_average_of_what_learned(self, tmp_path):
        model = self.model(keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.8))
        for ours, theirs in zip(averaged_weights(model), model.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        expected = None
        for number in range(5):
            images = np.random.default_rng(number).normal(size=(8, 6)).astype("float32")
            model.train_on_batch(images, np.arange(8) % 3)
            now = model.get_weights()
            expected = now if expected is None else [
                0.8 * average + 0.2 * weight for average, weight in zip(expected, now, strict=True)
            ]  # fmt: skip
        model.save(tmp_path / "model.keras")
        for kept in (model, keras.saving.load_model(tmp_path / "model.keras")):
            for ours, theirs in zip(averaged_weights(kept), expected, strict=True):
                np.testing.assert_allclose(ours, theirs, atol=1e-6)
        assert np.abs(averaged_weights(model)[-2] - model.get_weights()[-2]).max() > 0.01

    def test_they_are_found_inside_of_loss_scaling(self):
        plain = keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.8)
        model = self.model(keras.optimizers.LossScaleOptimizer(plain, initial_scale=8.0))
        for number in range(3):
            images = np.random.default_rng(number).normal(size=(8, 6)).astype("float32")
            model.train_on_batch(images, np.arange(8) % 3)
        found, last = averaged_weights(model)[-2], model.get_weights()[-2]
        np.testing.assert_array_equal(found, plain._model_variables_moving_average[-2])
        assert np.abs(found - last).max() > 0.01

    @pytest.mark.parametrize("optimizer", [None, keras.optimizers.SGD(0.5)])
    def test_without_an_average_they_are_the_weights(self, optimizer):
        model = self.model(optimizer)
        for ours, theirs in zip(averaged_weights(model), model.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)

    @pytest.mark.parametrize(("share", "momentum"), [(0.1, 1 - 1 / 60), (0.001, 0)])
    def test_the_memory_is_a_share_of_all_updates(self, share, momentum):
        recipe = Recipe.model_validate(
            {**RECIPE, "optimizer": {**RECIPE["optimizer"], "averaging": share}}
        )
        optimizer = build_optimizer(recipe, steps_per_epoch=10, ranks=1)
        assert optimizer.use_ema
        assert optimizer.ema_momentum == pytest.approx(momentum)


class TestRecipeForImages:
    @pytest.mark.parametrize(
        ("count", "epochs", "batch_size"),
        [(5, 60, 1), (100, 60, 12), (505, 60, 32), (2640, 18, 32), (100_000, 10, 32)],
    )
    def test_more_images_are_seen_less_often(self, count, epochs, batch_size):
        training = {"epochs": 60, "max_images": 50_000, "global_batch_size": 32}
        recipe = Recipe.model_validate({**RECIPE, "training": training})
        found = recipe.for_images(count)
        assert found.training.epochs == epochs
        assert found.training.local_batch_size(ranks=1) == batch_size
        assert found.optimizer.learning_rate == pytest.approx(0.01 * batch_size / 32)
        assert found.for_images(count) == found

    def test_fewer_epochs_than_ten_stay(self):
        training = {"epochs": 3, "max_images": 10, "batch_size": 8}
        recipe = Recipe.model_validate({**RECIPE, "training": training})
        assert recipe.for_images(1000).training.epochs == 3

    def test_a_global_batch_is_divided_among_the_ranks_and_the_rate_stays(self):
        training_section = {"epochs": 3, "global_batch_size": 32}
        recipe = Recipe.model_validate({**RECIPE, "training": training_section})
        assert [recipe.training.local_batch_size(ranks) for ranks in (1, 2, 3, 64)] == [
            32,
            16,
            10,
            1,
        ]
        for ranks in (1, 4):
            rate = build_optimizer(recipe, 10, ranks)._learning_rate
            assert float(rate(0)) == pytest.approx(0.01)

    @pytest.mark.parametrize(
        ("changes", "best"),
        [({}, True), ({"keep": "last"}, False), ({"early_stopping": 3, "keep": "last"}, False)],
    )
    def test_fine_tuning_keeps_the_best_epoch_unless_told_otherwise(self, changes, best):
        training = {**RECIPE["training"], **changes}
        assert Recipe.model_validate({**RECIPE, "training": training}).keeps_best == best
        plain = {**RECIPE, "fine_tuning": None, "training": RECIPE["training"]}
        assert not Recipe.model_validate(plain).keeps_best
