"""CondenseNet against the paper's tables, the paper's procedure written in NumPy, and PyTorch."""

import math
import os
import subprocess
import sys
from importlib.util import find_spec

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_squeezenet import (
    CondenseNet,
    CondensingStages,
    LearnedGroupConv2D,
    condensed_model,
    profile_model,
)
from keras_squeezenet.network.families.layers import ChannelSelection
from tests import backend_condensing

# Huang et al., arXiv 1711.09224, and the authors' repository (ShichenLiu/CondenseNet, README):
# millions of FLOPs and of parameters of the condensed networks, as they are printed.
IMAGENET = {4: ("529", "4.8"), 8: ("274", "2.9")}
CIFAR = {
    (8, 8): ("28.6", "0.22"),
    (12, 8): ("51.9", "0.41"),
    (14, 8): ("65.8", "0.52"),
    (30, 12): ("513", "4.2"),
}


def condense_all(model):
    for layer in learned(model):
        layer.condense(layer.condensation_factor - 1)
    return model


def learned(model):
    return [layer for layer in model.layers if isinstance(layer, LearnedGroupConv2D)]


def printed_counts(model):
    """What the authors' program counts, as text of three digits or two.

    One FLOP is a multiply-add, or a number that a ReLU or an average pooling takes.
    """
    taken = [
        math.prod(layer.input.shape[1:])
        for layer in model.layers
        if layer.name.endswith(("relu1", "relu2", "relu", "pool"))
    ]
    flops = profile_model(model).multiply_adds + sum(taken)
    learned_weights = sum(math.prod(v.shape) for v in model.trainable_weights)
    return flops / 1e6, learned_weights / 1e6


@pytest.mark.slow
@pytest.mark.parametrize("groups", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_condensed_it_has_the_published_counts_for_imagenet(groups):
    model = condensed_model(condense_all(CondenseNet(groups=groups)))
    flops, weights = printed_counts(model)
    assert (f"{flops:.0f}", f"{weights:.1f}") == IMAGENET[groups]
    assert profile_model(model).multiply_adds == {4: 516_640_576, 8: 261_545_792}[groups]


@pytest.mark.slow
@pytest.mark.parametrize(("layers_each", "growth_rate"), CIFAR)
def test_condensed_it_has_the_published_counts_for_cifar(layers_each, growth_rate):
    model = CondenseNet(
        blocks=(layers_each,) * 3,
        growth_rate=growth_rate,
        strides=1,
        classifier_condensation_factor=1,
        input_shape=(32, 32, 3),
        classes=10,
    )
    assert model.name == f"condensenet{6 * layers_each + 2}"
    expected = CIFAR[layers_each, growth_rate]
    found = printed_counts(condensed_model(condense_all(model)))
    assert all(
        f"{number:.{len(text.partition('.')[2])}f}" == text
        for number, text in zip(found, expected, strict=True)
    ), found


def small(**options):
    arguments = {"blocks": (2, 2), "growth_rate": 4, "groups": 2, "strides": 1, "classes": 5}
    shape = {"input_shape": (16, 12, 3), "condensation_factor": 4}
    return CondenseNet(**{**arguments, **shape, **options})


def images(count=8, side=(16, 12), seed=0):
    return np.random.default_rng(seed).normal(size=(count, *side, 3)).astype("float32")


def test_every_layer_takes_all_before_it_and_growth_doubles():
    channels = [layer.kernel.shape[2] for layer in learned(CondenseNet(include_top=False))]
    steps = [8] * 4 + [16] * 6 + [32] * 8 + [64] * 10 + [128] * 8
    assert channels == [16 + sum(steps[:number]) for number in range(len(steps))]


def test_before_condensing_it_computes_what_pytorch_does():
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from tests import torch_families

    keras.utils.set_random_seed(4)
    model = small(classifier_condensation_factor=1, classifier_activation=None)
    torch_families.with_statistics(model)
    network = torch_families.CondenseNet((2, 2), 4, 2, 5, stride=1)
    torch_families.copy_weights(model, network)
    expected = torch_families.outputs(network, images())
    assert np.ptp(expected, axis=0).min() > 1e-2
    np.testing.assert_allclose(model(images()), expected, rtol=1e-3, atol=1e-4)


class TestLearnedGroupConvolution:
    @pytest.fixture
    def layer(self):
        layer = LearnedGroupConv2D(6, groups=2, condensation_factor=4)
        layer.build((None, 3, 3, 8))
        layer.kernel.assign(np.random.default_rng(5).normal(size=(1, 1, 8, 6)))
        return layer

    def by_the_paper(self, kernel, stages):
        """Section 3.1: per group and stage the two inputs of eight whose mean |F| is smallest."""
        kernel = kernel.copy()
        for _ in range(stages):
            for group in range(2):
                of_group = np.abs(kernel[..., group::2]).mean(axis=(0, 1, 3))
                of_group[of_group == 0] = np.inf
                for _ in range(2):
                    smallest = of_group.argmin()
                    kernel[0, 0, smallest, group::2] = 0
                    of_group[smallest] = np.inf
        return kernel

    @pytest.mark.parametrize("at_once", [True, False])
    def test_stages_take_the_inputs_of_the_smallest_weights(self, layer, at_once):
        kernel = layer.kernel.numpy()
        for stages in (3,) if at_once else (0, 1, 2, 3):
            layer.condense(stages)
            assert layer.stages_ended == stages
            np.testing.assert_array_equal(layer.kernel, self.by_the_paper(kernel, stages))
        assert [len(kept) for kept in layer.kept_inputs()] == [2, 2]

    def test_what_is_gone_counts_no_more_whatever_its_weights_become(self, layer):
        layer.condense(1)
        inputs = np.random.default_rng(0).normal(size=(1, 3, 3, 8)).astype("float32")
        before = layer(inputs).numpy()
        gone = layer.kept.numpy() == 0
        kernel = layer.kernel.numpy().reshape(8, 3, 2)
        kernel[np.broadcast_to(gone[:, None], kernel.shape)] = 1e3
        layer.kernel.assign(kernel.reshape(1, 1, 8, 6))
        np.testing.assert_array_equal(layer(inputs), before)
        layer.condense(2)
        assert (layer.kept.numpy()[gone] == 0).all()
        assert layer.stages_ended == 2

    def test_the_group_lasso_is_the_papers_sum(self, layer):
        layer = LearnedGroupConv2D(6, groups=2, condensation_factor=4, group_lasso=0.1)
        layer.build((None, 3, 3, 8))
        kernel = layer.kernel.numpy()[0, 0]
        expected = sum(
            np.sqrt((kernel[channel, group::2] ** 2).sum())
            for channel in range(8)
            for group in range(2)
        )
        assert float(layer.losses[0]) == pytest.approx(0.1 * expected, rel=1e-5)
        layer.condense(3)
        assert float(layer.losses[0]) == 0
        with tf.GradientTape() as tape:
            loss = layer.losses[0]
        assert np.isfinite(tape.gradient(loss, layer.kernel.value)).all()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"filters": 7, "groups": 2}, "Received: filters=7, groups=2"),
            ({"filters": 8, "condensation_factor": 0}, "Received: condensation_factor=0"),
            ({"filters": 8, "group_lasso": -1}, "Received: group_lasso=-1"),
        ],
    )
    def test_wrong_arguments_are_named(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            LearnedGroupConv2D(**arguments)

    def test_channels_that_do_not_go_into_the_factor_are_named(self):
        with pytest.raises(ValueError, match=r"6 channels, condensation_factor=4 \(layer odd\)"):
            LearnedGroupConv2D(4, name="odd").build((None, 3, 3, 6))

    def test_more_stages_than_there_are_are_refused(self, layer):
        with pytest.raises(ValueError, match=r"from 0 to 3\. Received: stages=4"):
            layer.condense(4)


class TestSelection:
    @pytest.mark.parametrize(
        ("indices", "message"),
        [([], r"Received: indices=\[\]"), ([-1], "integers ≥ 0"), ([3], "Received: 3 channels")],
    )
    def test_wrong_indices_are_named(self, indices, message):
        with pytest.raises(ValueError, match=message):
            ChannelSelection(indices).build((None, 2, 2, 3))


def trained(epochs=4, model=None, initial_epoch=0, **options):
    keras.utils.set_random_seed(3)
    model = model or compiled(small(**options))
    labels = np.arange(32) % 5
    pictures = images(32) + labels[:, None, None, None] / 2
    history = model.fit(
        pictures,
        labels,
        batch_size=8,
        epochs=epochs,
        initial_epoch=initial_epoch,
        shuffle=False,
        verbose=0,
        callbacks=[CondensingStages()],
    )
    return model, history.history["loss"]


def compiled(model):
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        "sparse_categorical_crossentropy",
        jit_compile=False,
    )
    return model


class TestTraining:
    @pytest.fixture(scope="class")
    def whole(self):
        return trained(epochs=8, group_lasso=1e-4)

    def test_it_learns_while_it_condenses(self, whole):
        model, losses = whole
        assert losses[-1] < 0.5 * losses[0]
        assert [layer.stages_ended for layer in learned(model)] == [3, 3, 3, 3, 1]

    def test_the_condensed_network_computes_the_same(self, whole):
        model, _ = whole
        condensed = condensed_model(model)
        assert not learned(condensed)
        expected = model.predict_on_batch(images(seed=9))
        assert np.ptp(expected, axis=0).min() > 1e-3
        np.testing.assert_allclose(
            condensed.predict_on_batch(images(seed=9)), expected, rtol=1e-4, atol=1e-6
        )
        assert condensed.count_params() < 0.8 * model.count_params()

    @pytest.mark.slow
    def test_stages_end_at_the_papers_times(self):
        """Of 4 epochs of 4 steps the first 8 steps are condensing, in 3 stages."""
        seen = []

        class Look(keras.callbacks.Callback):
            def on_train_batch_begin(self, batch, logs=None):
                seen.append(learned(self.model)[0].stages_ended)

        model = compiled(small())
        model.fit(
            images(32),
            np.zeros(32),
            batch_size=8,
            epochs=4,
            verbose=0,
            callbacks=[CondensingStages(), Look()],
        )
        assert seen == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3]

    @pytest.mark.slow
    def test_a_saved_and_loaded_model_goes_on_as_if_nothing_had_been(self, tmp_path):
        expected, _ = trained()

        class Stop(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                if epoch == 0:
                    self.model.save(tmp_path / "amid.keras")

        keras.utils.set_random_seed(3)
        model = compiled(small())
        labels = np.arange(32) % 5
        pictures = images(32) + labels[:, None, None, None] / 2
        data = {"batch_size": 8, "epochs": 4, "shuffle": False, "verbose": 0}
        model.fit(pictures, labels, **data, callbacks=[CondensingStages(), Stop()])
        loaded = keras.models.load_model(tmp_path / "amid.keras")
        assert learned(loaded)[0].stages_ended == 1
        trained(model=loaded, initial_epoch=1)
        for ours, theirs in zip(loaded.get_weights(), expected.get_weights(), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)

    def test_a_network_that_has_stages_before_it_is_not_condensed(self):
        message = r"layer block1_layer1_conv1 \(LearnedGroupConv2D\) after 0 of 3"
        with pytest.raises(ValueError, match=message):
            condensed_model(small())

    def test_data_without_length_and_models_without_such_layers_are_named(self):
        model = compiled(small())
        batches = ((images(4), np.zeros(4)) for _ in range(2))
        with pytest.raises(ValueError, match="Received: steps_per_epoch=None"):
            model.fit(batches, callbacks=[CondensingStages()], verbose=0)
        plain = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)], name="plain")
        plain.compile("sgd", "mse")
        with pytest.raises(ValueError, match="Received: plain without one"):
            plain.fit(np.ones((4, 2)), np.ones(4), callbacks=[CondensingStages()], verbose=0)
        with pytest.raises(ValueError, match="Received: share=0"):
            CondensingStages(0)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_other_backends_train_and_condense_as_tensorflow(backend, tmp_path):
    if not find_spec(backend):
        pytest.skip(f"{backend} is not installed")
    backend_condensing.save_start(tmp_path)
    backend_condensing.main(tmp_path)
    done = subprocess.run(
        [sys.executable, backend_condensing.__file__, tmp_path],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    ours, theirs = (np.load(tmp_path / f"{name}.npz") for name in ("tensorflow", backend))
    for name in ours:
        np.testing.assert_allclose(theirs[name], ours[name], rtol=1e-3, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(theirs["condensed"], theirs["trained"], rtol=1e-4, atol=1e-6)


def test_a_nested_network_of_open_sides_is_condensed_too():
    base = small(include_top=False, pooling="avg", input_shape=(None, None, 3))
    image = keras.Input((16, 12, 3))
    outputs = keras.layers.Dense(3, name="head")(base(image) * 2.0)
    model = keras.Model(image, outputs)
    condense_all(base)
    condensed = condensed_model(model)
    assert condensed.count_params() < model.count_params()
    np.testing.assert_allclose(condensed(images()), model(images()), rtol=1e-3, atol=1e-5)


def test_an_adapted_normalization_computes_the_same():
    """Keras makes what it computes with of its weights when it loads a file, not in set_weights."""
    normalization = keras.layers.Normalization()
    normalization.adapt(100 * images())
    image = keras.Input(images().shape[1:])
    model = keras.Model(image, keras.layers.Conv2D(4, 3)(normalization(image)))
    np.testing.assert_allclose(condensed_model(model)(images()), model(images()), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"blocks": ()}, r"Received: blocks=\(\)"),
        ({"blocks": (1, 0)}, r"Received: blocks=\(1, 0\)"),
        ({"growth_rate": 6, "groups": 4}, "Received: growth_rate=6, groups=4"),
        ({"strides": 0}, "Received: strides=0"),
        ({"input_shape": (1, 16, 3)}, "2 or more pixels"),
        ({"condensation_factor": 3}, "channels must be a multiple of `condensation_factor`"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        small(**arguments)
