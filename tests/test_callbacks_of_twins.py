"""Callbacks of Keras 3 where a tf_keras twin is trained, against those of `fit`."""

import csv
import warnings
from functools import partial

import keras
import numpy as np
import pytest

from keras_squeezenet.compression.retraining import Retraining, RetrainingError
from keras_squeezenet.compression.with_training.bridge import (
    copy_weights_back,
    kernels,
    to_tf_keras,
)
from keras_squeezenet.compression.with_training.callbacks import Seen
from keras_squeezenet.compression.with_training.clustering import cluster
from keras_squeezenet.compression.with_training.quantization_aware import quantize_aware
from keras_squeezenet.compression.with_training.retraining import retrain

RATE = 0.1
SCHEMES = {"cluster": partial(cluster, bits=2), "quantize_aware": quantize_aware}
REFUSED = "and no other weights"


def net():
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(4, 3, activation="relu", name="conv"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, activation="softmax", name="dense"),
        ]
    )


def batches():
    """Of 4 and 2 images: an epoch's loss is a mean over images, not over batches."""
    rng = np.random.default_rng(0)
    return [(rng.normal(size=(n, 8, 8, 3)).astype("float32"), np.arange(n) % 3) for n in (4, 2)]


def retraining(*callbacks, epochs=5):
    optimizer = keras.optimizers.SGD(RATE, momentum=0.9)
    return Retraining(epochs, steps_per_epoch=2, optimizer=optimizer, callbacks=callbacks)


def fit(model, *callbacks, epochs=5):
    model.compile(
        keras.optimizers.SGD(RATE, momentum=0.9),
        "sparse_categorical_crossentropy",
        jit_compile=False,
    )

    def endless():
        while True:
            yield from batches()

    model.fit(endless(), steps_per_epoch=2, epochs=epochs, verbose=0, callbacks=list(callbacks))


def train(asked, model=None):
    """Train the twin of a model without tfmot."""
    model = model or net()
    twin = to_tf_keras(model)
    retrain(twin, batches(), asked, seen=Seen(model, partial(copy_weights_back, twin)))


class Spy(keras.callbacks.Callback):
    """Notes each call, with the rate at that time, and the losses and weights of epochs."""

    def __init__(self):
        super().__init__()
        self.calls, self.losses, self.weights = [], [], []

    def note(self, name, number, logs):
        rate = float(self.model.optimizer.learning_rate)
        self.calls.append((name, number, sorted(logs), pytest.approx(rate)))

    def on_train_begin(self, logs=None):
        self.note("train begins", dict(self.params), logs)

    def on_epoch_begin(self, epoch, logs=None):
        self.note("epoch begins", epoch, logs)

    def on_train_batch_begin(self, batch, logs=None):
        self.note("batch begins", batch, logs)

    def on_train_batch_end(self, batch, logs=None):
        self.note("batch ends", batch, logs)
        self.losses.append(logs["loss"])

    def on_epoch_end(self, epoch, logs=None):
        self.note("epoch ends", epoch, logs)
        self.losses += [value for name, value in sorted(logs.items()) if "loss" in name]
        self.weights.append([keras.ops.convert_to_numpy(each) for each in self.model.weights])

    def on_train_end(self, logs=None):
        self.note("train ends", None, logs)


class Evaluates(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = self.model.evaluate(*batches()[0], verbose=0)


def keras_callbacks(folder):
    """They end training after the second epoch and put back the weights of the first one."""
    return [
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / (1 + epoch)),
        keras.callbacks.ReduceLROnPlateau("loss", min_delta=100, patience=1, factor=0.25),
        keras.callbacks.EarlyStopping("loss", min_delta=100, restore_best_weights=True),
        keras.callbacks.CSVLogger(folder / "log.csv"),
        keras.callbacks.ModelCheckpoint(folder / "{epoch}.keras"),
    ]


def rates_of(folder):
    with (folder / "log.csv").open(newline="") as lines:
        return [(row["epoch"], row["learning_rate"]) for row in csv.DictReader(lines)]


@pytest.fixture(scope="module", params=SCHEMES)
def trained(request, tmp_path_factory):
    """Scheme, spy and folder of one training with Keras's callbacks, and what came out."""
    folder, spy = tmp_path_factory.mktemp(request.param), Spy()
    asked = retraining(*keras_callbacks(folder), spy)
    return request.param, spy, folder, SCHEMES[request.param](net(), batches(), retraining=asked)


def weights_of(result):
    return (getattr(result, "model", None) or result.twin).get_weights()


def test_they_are_called_as_by_fit(trained, tmp_path):
    _, spy, folder, _ = trained
    expected = Spy()
    fit(net(), *keras_callbacks(tmp_path), expected)
    assert spy.calls == expected.calls
    assert [call[0] for call in spy.calls].count("batch ends") == 4  # two epochs of five
    assert rates_of(folder) == rates_of(tmp_path)


def test_the_best_weights_are_put_back(trained):
    scheme, spy, _, result = trained
    # No callbacks, too: those of the other training changed nothing before they put weights back.
    one_epoch = SCHEMES[scheme](net(), batches(), retraining=retraining(epochs=1))
    for ours, expected in zip(weights_of(result), weights_of(one_epoch), strict=True):
        np.testing.assert_array_equal(ours, expected)
    assert not np.array_equal(spy.weights[0][0], spy.weights[1][0])


def test_a_checkpoint_holds_the_weights_of_its_epoch(trained):
    scheme, spy, folder, result = trained
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = (keras.models.load_model(folder / f"{n}.keras") for n in (1, 2))
    for model, expected in zip((first, second), spy.weights, strict=True):
        for one, other in zip(model.get_weights(), expected, strict=True):
            np.testing.assert_array_equal(one, other)
    if scheme == "cluster":
        assert len(np.unique(second.get_layer("conv").kernel)) == 4
        found = kernels(result.model)
    else:
        by_name = {variable.name: variable.numpy() for variable in result.twin.variables}
        found = {name: by_name[f"{name}/kernel:0"] for name in ("conv", "dense")}
    for name, kernel in kernels(first).items():
        np.testing.assert_array_equal(kernel, found[name])


def test_a_file_of_weights_loads_into_a_compiled_model(tmp_path):
    """A depthwise kernel, and so its momentum, has another shape in the twin."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(6, 3, groups=3),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    path, spy = tmp_path / "x.weights.h5", Spy()
    save = keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
    train(retraining(save, spy, epochs=1), model)
    model.compile(keras.optimizers.SGD(RATE, momentum=0.9), "sparse_categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    with pytest.warns(UserWarning, match="the saved optimizer has 0 variables"):
        model.load_weights(path)
    for loaded, expected in zip(model.get_weights(), spy.weights[0], strict=True):
        np.testing.assert_array_equal(loaded, expected)


def test_a_twin_shows_what_fit_would():
    spy, expected = Spy(), Spy()
    rate = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / (1 + epoch))
    train(retraining(rate, Evaluates(), spy, epochs=3))
    fit(net(), rate, Evaluates(), expected, epochs=3)
    assert len(spy.losses) == 3 * (2 + 2)
    assert spy.losses == pytest.approx(expected.losses, abs=1e-5)
    for epoch, other in zip(spy.weights, expected.weights, strict=True):
        for one, another in zip(epoch, other, strict=True):
            np.testing.assert_allclose(one, another, atol=1e-5)


def test_shared_values_that_a_quantization_preserves_are_seen_as_they_learn():
    model, spy = net(), Spy()
    for kernel in (model.get_layer("conv").kernel, model.get_layer("dense").kernel):
        kernel.assign(np.round(kernel, 1))
    result = quantize_aware(
        model, batches(), retraining=retraining(spy, epochs=1), preserve="clusters"
    )
    found = {variable.name: variable.numpy() for variable in result.twin.variables}
    np.testing.assert_array_equal(spy.weights[0][0], found["conv/kernel:0"])


class Sets(keras.callbacks.Callback):
    """Sets weights that no twin had, at one kind of call."""

    def __init__(self, when):
        super().__init__()
        setattr(self, when, self.set)

    def set(self, *args, logs=None):
        self.model.set_weights([weight + 1 for weight in self.model.get_weights()])


@pytest.mark.parametrize(
    "when", ["on_train_begin", "on_epoch_begin", "on_train_batch_end", "on_epoch_end"]
)
def test_weights_that_no_twin_had_are_refused(when):
    with pytest.raises(RetrainingError, match=f"{REFUSED}. Received: new values of") as error:
        train(retraining(Sets(when), epochs=2))
    assert "\n" not in str(error.value)


def test_weights_taken_within_an_epoch_are_refused():
    """The twin has moved on since the copy took over its weights."""

    class Keeps(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.kept = self.model.get_weights()

        def on_train_end(self, logs=None):
            self.model.set_weights(self.kept)

    with pytest.raises(RetrainingError, match=REFUSED):
        train(retraining(Keeps(), epochs=2))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda at: keras.callbacks.BackupAndRestore(at), "callbacks with BackupAndRestore"),
        (lambda at: keras.callbacks.SwapEMAWeights(), "callbacks with SwapEMAWeights"),
        (
            lambda at: keras.callbacks.ModelCheckpoint(at / "x.keras", save_freq=3),
            "callbacks with ModelCheckpoint, save_freq=3",
        ),
    ],
    ids=["backup", "averages", "batches"],
)
def test_what_needs_the_network_that_trains_is_refused(scheme, make, message, tmp_path):
    with pytest.raises(RetrainingError, match=message) as error:
        SCHEMES[scheme](net(), batches(), retraining=retraining(make(tmp_path)))
    assert "\n" not in str(error.value)


def test_a_loss_that_is_no_number_ends_training_at_its_step():
    spy = Spy()
    callbacks = [spy, keras.callbacks.TerminateOnNaN()]
    asked = Retraining(1, steps_per_epoch=9, learning_rate=1e30, callbacks=callbacks)
    with pytest.raises(RetrainingError, match="The loss must stay finite"):
        train(asked)
    assert 1 < len(spy.losses) < 9
