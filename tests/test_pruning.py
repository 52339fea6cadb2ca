"""Pruning, against counts and magnitudes worked out by hand."""

import math

import keras
import numpy as np
import pytest

from keras_squeezenet.compression.pruning.prune import prune
from keras_squeezenet.compression.pruning.schedules import ConstantSparsity, PolynomialDecay
from keras_squeezenet.compression.pruning.sparsities import (
    deep_compression_sparsity,
    layer_sparsities,
)
from keras_squeezenet.compression.retraining import Retraining, RetrainingError, RunLength
from keras_squeezenet.compression.with_training.bridge import kernels
from keras_squeezenet.network.architecture import preset
from keras_squeezenet.network.weight_files import read_weights
from tests.compression_digits import (
    accuracy,
    tiny_net,
    trained_net,
    training_batches,
    validation_batches,
)
from tests.tiers import parametrize

RUN = Retraining(epochs=3, steps_per_epoch=20, learning_rate=0.005)
SHORT = Retraining(epochs=1, steps_per_epoch=6, learning_rate=0.01)
STILL = Retraining(epochs=1, steps_per_epoch=2, learning_rate=1e-12)


@pytest.fixture(scope="module")
def trained():
    return trained_net()


@pytest.fixture(scope="module")
def pruned(trained):
    return prune(
        trained,
        training_batches(),
        retraining=RUN,
        sparsity=0.4,
        validation_data=validation_batches(),
    )


def test_every_kernel_has_the_zeros_asked_for_and_the_rest_learned_on(trained, pruned):
    for statistics in pruned.layers:
        kernel = kernels(pruned.model)[statistics.name]
        assert np.count_nonzero(kernel) == statistics.nonzero == round(0.6 * kernel.size)
        assert not np.signbit(kernel[kernel == 0]).any()
        stayed = kernel != 0
        assert (kernel[stayed] != kernels(trained)[statistics.name][stayed]).mean() > 0.5
    assert all(np.all(v.numpy() != 0) for v in pruned.model.variables if v.path.endswith("bias"))


def test_accuracy_before_and_after_is_that_of_the_two_models(trained, pruned):
    assert pruned.before == pytest.approx(accuracy(lambda images: trained(images)))
    assert pruned.after == pytest.approx(accuracy(lambda images: pruned.model(images)))
    assert pruned.after > pruned.before - 0.15


def test_the_model_that_was_pruned_is_as_it_was(trained, pruned):
    assert pruned.model is not trained
    before = trained_net().get_weights()
    for old, new in zip(before, trained.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_smallest_weights_go(trained):
    result = prune(
        trained, training_batches(), retraining=STILL, sparsity=0.3, schedule=ConstantSparsity()
    )
    for name, kernel in kernels(trained).items():
        gone = kernels(result.model)[name] == 0
        assert np.abs(kernel[gone]).max() <= np.abs(kernel[~gone]).min()


def test_each_layer_takes_its_own_share(trained):
    by_dict = prune(
        trained, training_batches(), retraining=SHORT, sparsity={"fire2_expand3x3": 0.5, "conv4": 0}
    )
    assert {s.name: s.density for s in by_dict.layers if s.density < 1} == {"fire2_expand3x3": 0.5}
    by_function = prune(
        trained,
        training_batches(),
        retraining=SHORT,
        sparsity=lambda name, shape: 0.75 if shape[:2] == (3, 3) else 0.0,
    )
    assert {s.name for s in by_function.layers if s.density == 0.25} == {
        "conv1",
        "fire2_expand3x3",
        "fire3_expand3x3",
    }


def test_zeros_of_a_pruned_model_stay_whatever_is_asked_for(pruned):
    again = prune(
        pruned.model,
        training_batches(),
        retraining=SHORT,
        sparsity=0.2,
        schedule=PolynomialDecay(begin=3, end=5, unit="steps"),
    )
    for name, kernel in kernels(pruned.model).items():
        np.testing.assert_array_equal(kernels(again.model)[name] == 0, kernel == 0)


@parametrize("start", ["dense", "pruned"], quick=1)
def test_two_of_four_neighbouring_input_channels_are_zero(trained, pruned, start):
    model = trained if start == "dense" else pruned.model
    result = prune(model, training_batches(), retraining=SHORT, structure="2:4")
    for name, kernel in kernels(result.model).items():
        channels = kernel.shape[2]
        blocks = kernel[:, :, : channels // 4 * 4].reshape(
            *kernel.shape[:2], -1, 4, kernel.shape[3]
        )
        nonzero = np.count_nonzero(blocks, axis=3)
        assert nonzero.max(initial=0) <= 2
        if start == "dense":
            assert nonzero.min(initial=2) == 2
        else:
            assert not kernel[kernels(model)[name] == 0].any()


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (PolynomialDecay(), (0, 40, 2)),
        (PolynomialDecay(begin=0.5, end=2), (10, 40, 1)),
        (PolynomialDecay(begin=0.5, end=2.25, every=0.5), (10, 40, 10)),
        (PolynomialDecay(begin=7, end=30, every=10, unit="steps"), (7, 27, 10)),
        (ConstantSparsity(), (1, 1, 20)),
        (ConstantSparsity(begin=1, end=3), (20, 60, 20)),
        (ConstantSparsity(begin=5, end=12, every=3, unit="steps"), (5, 11, 3)),
    ],
)
def test_schedules_are_given_in_epochs_or_steps(schedule, expected):
    assert schedule.steps(RunLength(epochs=3, steps_per_epoch=20)) == expected


@pytest.mark.parametrize(
    "schedule",
    [
        PolynomialDecay(begin=0, end=50, every=100, unit="steps"),  # tfmot's default frequency
        PolynomialDecay(begin=0, end=61, unit="steps"),
        PolynomialDecay(begin=2.5),
        PolynomialDecay(begin=1, end=1),
        ConstantSparsity(begin=61, unit="steps"),
        ConstantSparsity(begin=1, end=3.5),
    ],
)
def test_a_schedule_that_would_not_prune_in_the_run_is_refused(trained, schedule):
    with pytest.raises(RetrainingError, match=r"within the run of 60 steps.* Received: begin="):
        prune(trained, training_batches(), retraining=RUN, schedule=schedule)


def test_the_sparsity_grows_along_the_cubic_of_the_paper(trained, monkeypatch):
    """arXiv 1710.01878, equation 1, at every step of a run that hardly moves the weights."""
    seen = {}

    class Watching(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            kernel = self.model.get_layer("fire2").expand3x3.kernel
            seen[batch + 1] = float(np.mean(keras.ops.convert_to_numpy(kernel) == 0))

    schedule = PolynomialDecay(begin=2, end=8, every=2, unit="steps", initial_sparsity=0.1)
    still = Retraining(1, 10, learning_rate=1e-12, callbacks=[Watching()])
    prune(trained, training_batches(), retraining=still, sparsity=0.7, schedule=schedule)
    assert list(seen) == list(range(1, 11))
    for step, share in seen.items():
        pruned_at = min(8, step // 2 * 2)
        expected = 0.7 - 0.6 * (1 - (pruned_at - 2) / 6) ** 3 if pruned_at >= 2 else 0
        assert share == pytest.approx(expected, abs=1e-3), step


def test_deep_compression_is_the_published_networks_density_layer_by_layer():
    sparsities = deep_compression_sparsity(preset("1.0").kernel_shapes(1000))
    assert sparsities["fire2_expand3x3"] == pytest.approx(1 - 3039 / 9216)
    assert sparsities["conv10"] == pytest.approx(1 - 102323 / 512000)
    shapes = preset("1.0").kernel_shapes(1000)
    kept = sum((1 - sparsities[name]) * math.prod(shape) for name, shape in shapes.items())
    assert kept == pytest.approx(415921)  # of 1,244,448 weights


@pytest.mark.shared
def test_deep_compression_is_what_the_authors_file_holds(shared):
    weights = read_weights(shared / "weights" / "compressed_SqueezeNet.net", preset("1.0"))
    shapes = {name: kernel.shape for name, kernel in weights.kernels.items()}
    for name, sparsity in deep_compression_sparsity(shapes).items():
        assert sparsity == pytest.approx(np.mean(weights.kernels[name] == 0))


def test_deep_compression_finds_a_kind_for_the_layers_of_other_networks():
    shapes = {
        "stem": (3, 3, 3, 32),
        "block_1x1": (1, 1, 32, 64),
        "block_3x3": (3, 3, 64, 64),
        "hidden": (64, 100),
        "head": (1, 1, 64, 5),
    }
    sparsities = deep_compression_sparsity(shapes)
    expected = {"stem": 0.985, "block_1x1": 0.788, "block_3x3": 0.314, "hidden": 0.2, "head": 0.2}
    for name, density in expected.items():
        assert 1 - sparsities[name] == pytest.approx(density, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, "from 0 to below 1. Received: sparsity of conv1=1.0"),
        ({"sparsity": 0}, "above 0 for some kernel"),
        ({"sparsity": "half"}, "Received: sparsity=half"),
        ({"sparsity": {"fire9_squeeze1x1": 0.5}}, "Received: sparsity for fire9_squeeze1x1"),
        ({"sparsity": lambda name, shape: None}, "Received: sparsity of conv1=None"),
        ({"structure": "1:2"}, "Received: structure=1:2"),
        ({"structure": "2:4", "sparsity": 0.5}, "Received: sparsity=0.5"),
        ({"schedule": "constant"}, "Received: schedule=constant"),
        ({"model": keras.Sequential([keras.layers.Dense(2)])}, "one input and one output"),
    ],
)
def test_arguments_that_do_not_go_together_are_named(trained, arguments, message):
    with pytest.raises(RetrainingError, match=message):
        prune(**{"model": trained, "train_data": [], "retraining": RUN, **arguments})


@pytest.mark.parametrize(
    ("make_schedule", "message"),
    [
        (lambda: PolynomialDecay(begin=-1), "Received: begin=-1"),
        (lambda: PolynomialDecay(begin=2, end=1), "Received: begin=2, end=1"),
        (lambda: PolynomialDecay(unit="hours"), "Received: unit=hours"),
        (lambda: PolynomialDecay(initial_sparsity=1), "Received: initial_sparsity=1"),
        (lambda: PolynomialDecay(power=0), "Received: power=0"),
        (lambda: ConstantSparsity(every=math.nan), "Received: every=nan"),
    ],
)
def test_schedules_say_what_is_wrong_with_them(make_schedule, message):
    with pytest.raises(RetrainingError, match=message):
        make_schedule()


def test_depthwise_kernels_are_never_pruned():
    image = keras.Input((8, 8, 3))
    x = keras.layers.DepthwiseConv2D(3, name="depthwise")(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(10, name="dense")(x))
    assert layer_sparsities(0.5, kernels(model)) == {"dense": 0.5}
    with pytest.raises(RetrainingError, match="Received: sparsity for depthwise"):
        layer_sparsities({"depthwise": 0.5}, kernels(model))


def test_networks_with_other_widths_keep_their_names():
    assert set(kernels(tiny_net(classes=4))) == {
        "conv1",
        *(f"fire{n}_{part}" for n in (2, 3) for part in ("squeeze1x1", "expand1x1", "expand3x3")),
        "conv4",
    }
