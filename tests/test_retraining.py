"""The fine-tuning of twins, against Keras 3's own, and on two real ranks."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_squeezenet.compression.accuracy import top1
from keras_squeezenet.compression.retraining import (
    Compressed,
    LayerStatistics,
    Retraining,
    RetrainingError,
    check_classifier,
)
from keras_squeezenet.compression.with_training.bridge import copy_weights_back, to_tf_keras
from keras_squeezenet.compression.with_training.retraining import retrain
from tests.compression_digits import (
    accuracy,
    tiny_net,
    trained_net,
    training_batches,
    validation_batches,
)
from tests.launching import horovodrun, needs_horovod
from tests.tiers import parametrize

RANKS_FOLDER = Path(__file__).parent / "ranks"


def some_batches(count, seed=0):
    batches = training_batches(seed)
    return [next(batches) for _ in range(count)]


def trained_by_keras(model, batches, retraining, from_logits, optimizer=None):
    """The same training by Keras 3, on a copy."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    steps = retraining.epochs * retraining.steps_per_epoch
    if optimizer is None:
        rate = keras.optimizers.schedules.CosineDecay(retraining.learning_rate, steps)
        optimizer = keras.optimizers.SGD(rate, momentum=retraining.momentum)
    copy.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits),
        jit_compile=False,
    )
    copy.optimizer.build(copy.trainable_variables)  # else the step is traced twice
    images, labels = map(np.concatenate, zip(*batches, strict=True))
    copy.fit(images, labels, batch_size=len(batches[0][0]), shuffle=False, verbose=0)
    return copy


@pytest.mark.parametrize("activation", ["softmax", None])
def test_a_twin_learns_as_its_model_would(activation):
    # With some initial values a weight ends 1.03e-5 from where Keras has it.
    keras.utils.set_random_seed(0)
    model = tiny_net(classifier_activation=activation)
    retraining = Retraining(epochs=2, steps_per_epoch=3, learning_rate=0.02, momentum=0.8)
    batches = some_batches(6)
    reference = trained_by_keras(model, batches, retraining, from_logits=activation is None)
    twin = to_tf_keras(model)
    retrain(twin, batches, retraining)
    start = [w.copy() for w in model.get_weights()]
    copy_weights_back(twin, model)
    for ours, theirs, before in zip(
        model.get_weights(), reference.get_weights(), start, strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
        assert np.abs(theirs - before).max() > 1e-4


@pytest.mark.slow
def test_the_default_steps_are_those_of_tf_kerass_own_optimizer():
    import tf_keras

    model, batches = tiny_net(), some_batches(4)
    ours, theirs = to_tf_keras(model), to_tf_keras(model)
    retrain(ours, batches, Retraining(1, 4, learning_rate=0.02))
    optimizer = tf_keras.optimizers.SGD(
        tf_keras.optimizers.schedules.CosineDecay(0.02, 4), momentum=0.9
    )
    loss = tf_keras.losses.SparseCategoricalCrossentropy()
    theirs.compile(optimizer, loss)
    for images, labels in batches:
        theirs.train_on_batch(images, labels)
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-7)


# (what a Retraining takes, the same for Keras)
OPTIMIZERS = {
    "a name": (
        {"optimizer": "adamw", "learning_rate": 0.002},
        lambda: keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(0.002, 4)),
    ),
    "averages": (
        {"optimizer": keras.optimizers.RMSprop(0.001, use_ema=True, ema_momentum=0.5)},
        lambda: keras.optimizers.RMSprop(0.001, use_ema=True, ema_momentum=0.5),
    ),
    "a scaled loss": (
        {"optimizer": keras.optimizers.SGD(0.01, 0.9, loss_scale_factor=1024.0)},
        lambda: keras.optimizers.SGD(0.01, 0.9),
    ),
    "a schedule": (
        {"learning_rate": keras.optimizers.schedules.PolynomialDecay(0.01, 4)},
        lambda: keras.optimizers.SGD(
            keras.optimizers.schedules.PolynomialDecay(0.01, 4), momentum=0.9
        ),
    ),
}


@parametrize("kind", OPTIMIZERS, quick=1)
def test_a_twin_is_trained_by_any_optimizer_of_keras(kind):
    asked, make = OPTIMIZERS[kind]
    keras.utils.set_random_seed(0)
    model, batches = tiny_net(), some_batches(4)
    retraining = Retraining(1, 4, **asked)
    reference = trained_by_keras(model, batches, retraining, False, make())
    start = [w.copy() for w in model.get_weights()]
    twin = to_tf_keras(model)
    retrain(twin, batches, retraining)
    copy_weights_back(twin, model)
    for ours, theirs, before in zip(
        model.get_weights(), reference.get_weights(), start, strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
        assert np.abs(theirs - before).max() > 1e-4


@pytest.mark.parametrize(
    "asked",
    [
        keras.optimizers.Lion(0.25, clipnorm=0.5),
        keras.optimizers.serialize(keras.optimizers.Lion(0.25, clipnorm=0.5)),
    ],
    ids=["optimizer", "configuration"],
)
def test_each_training_has_an_optimizer_of_its_own(asked):
    retraining = Retraining(optimizer=asked)
    one, other = retraining.make_optimizer(3), retraining.make_optimizer(3)
    assert one is not other is not asked
    assert isinstance(one, keras.optimizers.Lion)
    assert (float(one.learning_rate), one.clipnorm) == (0.25, 0.5)


def test_data_that_ends_is_started_again():
    models = [tiny_net(), tiny_net()]
    models[1].set_weights(models[0].get_weights())
    batches = some_batches(2)
    for model, data in zip(models, (batches, batches * 3), strict=True):
        twin = to_tf_keras(model)
        retrain(twin, data, Retraining(1, 6, learning_rate=0.02))
        copy_weights_back(twin, model)
    for once, thrice in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_array_equal(once, thrice)


def test_data_without_a_batch_is_refused():
    with pytest.raises(RetrainingError, match="`train_data` must hold a batch"):
        retrain(to_tf_keras(tiny_net()), [], Retraining(1, 1))


def test_a_loss_that_explodes_is_an_error_of_one_line():
    with pytest.raises(RetrainingError, match=r"must stay finite.* learning_rate=1e\+20") as error:
        retrain(to_tf_keras(tiny_net()), training_batches(), Retraining(1, 5, learning_rate=1e20))
    assert "\n" not in str(error.value)


def test_accuracy_is_the_share_of_right_answers_over_uneven_batches():
    model = trained_net()
    images, labels = map(np.concatenate, zip(*validation_batches(), strict=True))
    uneven = [(images[:7], labels[:7]), (tf.constant(images[7:]), tf.constant(labels[7:]))]
    expected = accuracy(lambda images: model(images))
    assert expected > 0.8
    assert top1(model, uneven) == pytest.approx(expected)
    assert top1(model, None) is None
    with pytest.raises(RetrainingError, match="`validation_data` must hold an example"):
        top1(model, [])


def test_statistics_count_weights():
    kernel = np.array([[0.0, 0.5], [0.5, -1.0]], np.float32)
    statistics = LayerStatistics.of("conv1", kernel)
    assert statistics == LayerStatistics("conv1", weights=4, nonzero=3, distinct=3)
    assert statistics.density == 0.75


def test_the_density_of_a_network_weighs_its_layers():
    layers = (LayerStatistics("a", 10, 10, 9), LayerStatistics("b", 30, 0, 1))
    assert Compressed(None, layers, None, None).density == 0.25


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "`epochs` must be an integer ≥ 1. Received: epochs=0"),
        ({"steps_per_epoch": 2.5}, "Received: steps_per_epoch=2.5"),
        ({"learning_rate": 0}, "Received: learning_rate=0"),
        ({"learning_rate": float("nan")}, "Received: learning_rate=nan"),
        ({"momentum": 1}, "Received: momentum=1"),
        ({"optimizer": "adamm"}, "Received: optimizer=adamm"),
        ({"optimizer": 3}, "Received: optimizer=3"),
        ({"optimizer": {"class_name": "Adam", "config": {"rate": 1}}}, "Received: optimizer={"),
        ({"callbacks": [print]}, "Received: callbacks with <built-in function print>"),
        (
            {"callbacks": [keras.callbacks.ReduceLROnPlateau("loss")], "optimizer": "adam"},
            "Received: callbacks with ReduceLROnPlateau, and a rate that follows a schedule",
        ),
    ],
)
def test_values_out_of_range_are_named(values, message):
    with pytest.raises(RetrainingError, match=message) as error:
        Retraining(**{"epochs": 1, "steps_per_epoch": 1, **values})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("model.keras", "`model` must be a Keras 3 model"),
        (keras.Sequential([keras.layers.Dense(3)]), "one input and one output"),
        (
            keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 1)]),
            r"\(batch, classes\). Received: 1 inputs, outputs \[\(None, 8, 8, 2\)\]",
        ),
    ],
)
def test_what_is_no_classifier_is_refused(model, message):
    with pytest.raises(RetrainingError, match=message):
        check_classifier(model)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """What tests/ranks/compressing.py saved on each of two ranks, and what ended its last part."""
    folder = tmp_path_factory.mktemp("ranks")
    done = horovodrun(RANKS_FOLDER / "compressing.py", folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return [np.load(folder / f"rank{rank}.npz") for rank in (0, 1)]


@pytest.mark.slow
class TestTwoRanks:
    pytestmark = needs_horovod

    def test_the_averaged_steps_are_one_process_on_the_joined_batches(self, two_ranks):
        model = tiny_net()
        model.set_weights([two_ranks[0][f"start/{i}"] for i in range(len(model.weights))])
        shards = [some_batches(4, seed=rank) for rank in (0, 1)]
        joined = [
            tuple(map(np.concatenate, zip(*pair, strict=True)))
            for pair in zip(*shards, strict=True)
        ]
        retraining = Retraining(1, 4, learning_rate=0.02)
        alone = trained_by_keras(model, joined, retraining, from_logits=False)
        for number, expected in enumerate(alone.get_weights()):
            np.testing.assert_allclose(two_ranks[1][f"plain/{number}"], expected, atol=1e-5)
            assert np.abs(two_ranks[1][f"start/{number}"] - expected).max() > 1e-4

    @pytest.mark.parametrize("kind", ["plain", "pruned", "clustered", "quantized", "stopped"])
    def test_ranks_with_different_data_end_with_the_same_bits(self, two_ranks, kind):
        names = [name for name in two_ranks[0] if name.startswith(f"{kind}/")]
        assert len(names) > 10
        for name in names:
            np.testing.assert_array_equal(two_ranks[0][name], two_ranks[1][name])

    def test_accuracy_is_that_over_the_shards_of_all_ranks(self, two_ranks):
        own = [results["accuracy/own"] for results in two_ranks]
        assert own[0] != own[1]
        for results in two_ranks:
            assert results["accuracy/all"] == pytest.approx(np.mean(own))

    def test_masks_and_codebooks_did_their_work(self, two_ranks):
        kernel = two_ranks[0]["pruned/4"]
        assert kernel.ndim == 4
        assert np.mean(kernel == 0) == pytest.approx(0.5, abs=0.01)
        assert len(np.unique(two_ranks[0]["clustered/4"])) == 8

    def test_a_callback_of_one_rank_stops_all_after_the_same_step(self, two_ranks):
        assert [int(results["steps"]) for results in two_ranks] == [4, 4]

    def test_a_loss_that_is_no_number_on_one_rank_ends_both_alike(self, two_ranks):
        ended = [str(results["ended"]) for results in two_ranks]
        assert ended[0] == ended[1]
        assert "The loss must stay finite" in ended[0]
        assert "Received: nan in epoch 1" in ended[0]
        assert "\n" not in ended[0]
