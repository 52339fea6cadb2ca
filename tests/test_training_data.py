"""What networks are trained on while they are compressed, in the forms that fit takes."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_squeezenet import (
    Retraining,
    cluster,
    dense_sparse_dense,
    distill,
    prune,
    quantize_aware,
)
from keras_squeezenet.compression.accuracy import top1
from keras_squeezenet.compression.distillation import _logits_of as logits_of
from keras_squeezenet.compression.fitting import run_length
from keras_squeezenet.compression.retraining import RetrainingError
from keras_squeezenet.compression.training_data import batches_of, length_of, one_pass
from keras_squeezenet.compression.with_training.bridge import to_tf_keras
from keras_squeezenet.compression.with_training.retraining import (
    _ends_softmax as ends_in_softmax_in_twin,
)
from keras_squeezenet.errors import InputError
from keras_squeezenet.network.graph import ends_in_softmax

COUNT, BATCH, CLASSES = 20, 8, 3
RNG = np.random.default_rng(1)
IMAGES = RNG.normal(size=(COUNT, 6, 6, 4)).astype("float32")
LABELS = RNG.integers(0, CLASSES, COUNT)


class Numbered(keras.utils.PyDataset):
    """Batches in order, and how often they were gone through."""

    epochs = 0

    def __len__(self):
        return math.ceil(COUNT / BATCH)

    def __getitem__(self, number):
        chosen = slice(number * BATCH, (number + 1) * BATCH)
        return IMAGES[chosen], LABELS[chosen]

    def on_epoch_end(self):
        self.epochs += 1


def dataset():
    return tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(BATCH)


def pairs():
    return [Numbered()[number] for number in range(3)]


FORMS = {
    "a PyDataset": Numbered,
    "a tf.data.Dataset": dataset,
    "a list": pairs,
    "a tuple of pairs": lambda: tuple(pairs()[:2]),
}


def network(activation=None):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            layers.Conv2D(8, 3, activation="relu", name="conv"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(CLASSES, activation=activation, name="head"),
        ]
    )


@pytest.mark.parametrize("form", FORMS)
def test_batches_come_in_order_each_time(form):
    batches = batches_of(FORMS[form]())
    expected = pairs()[: length_of(batches)]
    assert length_of(batches) == (2 if form == "a tuple of pairs" else 3)
    for _ in range(2):
        for ours, theirs in zip(one_pass(batches), expected, strict=True):
            for array, other in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(array, other)


def test_a_pydataset_hears_of_the_end_of_each_pass():
    data = Numbered()
    for _ in range(2):
        list(batches_of(data))
    assert data.epochs == 2


def test_arrays_are_shuffled_each_time_as_the_seed_decides():
    def passes():
        keras.utils.set_random_seed(4)
        batches = batches_of((IMAGES, tf.constant(LABELS)), BATCH)
        return [list(batches), list(batches)]

    first, second = passes()
    assert [len(labels) for _, labels in first] == [8, 8, 4]
    assert not np.array_equal(first[0][0], second[0][0])
    for images, labels in (map(np.concatenate, zip(*each, strict=True)) for each in passes()):
        order = [int(np.flatnonzero((image == IMAGES).all(axis=(1, 2, 3)))[0]) for image in images]
        assert sorted(order) == list(range(COUNT))
        np.testing.assert_array_equal(labels, LABELS[order])
    np.testing.assert_array_equal(passes()[1][0][0], second[0][0])


def test_arrays_to_measure_on_come_in_order():
    batches = batches_of((IMAGES, LABELS), shuffle=False)
    ((images, labels),) = batches
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)


@pytest.mark.parametrize("form", [*FORMS, "arrays"])
def test_accuracy_is_the_same_on_any_form(form):
    model = network()
    data = (IMAGES, LABELS) if form == "arrays" else FORMS[form]()
    count = 2 * BATCH if form == "a tuple of pairs" else COUNT
    said = np.asarray(model(IMAGES[:count])).argmax(axis=1)
    assert top1(model, data, BATCH) == pytest.approx(np.mean(said == LABELS[:count]))


@pytest.mark.parametrize("form", ["a PyDataset", "a tf.data.Dataset", "a list"])
def test_an_epoch_is_what_the_data_holds(form):
    batches = batches_of(FORMS[form]())
    assert run_length(Retraining(), batches).steps == 3
    assert run_length(Retraining(2), batches).steps == 6
    assert run_length(Retraining(2, 5), batches).steps == 10


@pytest.mark.parametrize(
    "data", [lambda: iter(pairs()), lambda: dataset().repeat()], ids=["iterator", "endless"]
)
def test_data_that_does_not_say_its_length_needs_one(data):
    with pytest.raises(RetrainingError, match="`steps_per_epoch` of the Retraining must be given"):
        prune(network(), data())


def test_prune_is_called_as_fit_is():
    """Equal networks from the same batches in any form, and from arrays with defaults."""
    results = [prune(network(), FORMS[form]()) for form in list(FORMS)[:3]]
    for result in results:
        assert result.density == pytest.approx(0.33, abs=0.01)
        for ours, other in zip(
            result.model.get_weights(), results[0].model.get_weights(), strict=True
        ):
            np.testing.assert_array_equal(ours, other)
    data = (IMAGES, LABELS)
    result = prune(network(), data, batch_size=4, validation_data=data)
    assert result.density == pytest.approx(0.33, abs=0.01)
    said = np.asarray(result.model(IMAGES)).argmax(axis=1)
    assert result.after == pytest.approx(np.mean(said == LABELS))


def test_distill_takes_arrays():
    result = distill(network(), network(), (IMAGES, LABELS), batch_size=5)
    assert [layer.name for layer in result.layers] == ["conv", "head"]


class Failing:
    """Its third batch cannot be read."""

    def __iter__(self):
        yield from pairs()[:2]
        raise OSError("photo 17 is gone")


def test_what_ends_the_data_ends_the_training_as_it_is():
    with pytest.raises(OSError, match="photo 17 is gone"):
        prune(network(), Failing(), retraining=Retraining(1, 10))


def test_data_that_is_through_cannot_be_gone_through_again():
    with pytest.raises(RetrainingError, match="each time it is gone through"):
        prune(network(), iter(pairs()), retraining=Retraining(1, 10))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train_data": 7}, r"`train_data` must be arrays.* Received: <class 'int'>"),
        ({"train_data": (IMAGES, LABELS[1:])}, "Received: 20 images, 19 labels"),
        ({"train_data": (IMAGES, LABELS), "batch_size": 0}, "Received: batch_size=0"),
        ({"train_data": pairs(), "batch_size": 8}, "batch_size=8, train_data of list"),
        ({"train_data": []}, "`train_data` must hold a batch"),
        ({"train_data": [IMAGES]}, "must hold batches of two, images and labels"),
        ({"train_data": [(IMAGES, LABELS, LABELS)]}, "Received: 3 things"),
        ({"train_data": dataset().unbatch()}, "Received: a single example: call .batch"),
        ({"validation_data": [(IMAGES,)]}, "`validation_data` must hold batches of two"),
    ],
)
def test_what_cannot_be_trained_on_is_named(arguments, message):
    retraining = None if arguments.get("train_data") == [] else Retraining(1, 3)
    with pytest.raises(RetrainingError, match=message) as error:
        prune(network(), **{"train_data": pairs(), "retraining": retraining, **arguments})
    assert "\n" not in str(error.value)


def test_probabilities_are_told_from_logits():
    plain, soft = network(), network("softmax")
    assert [ends_in_softmax(model) for model in (plain, soft)] == [False, True]
    image = keras.Input((6, 6, 4))
    within = keras.Model(image, layers.Identity(dtype="float32")(soft(image)))
    after = keras.Model(image, layers.Softmax()(plain(image)))
    activation = keras.Model(image, layers.Activation("softmax")(plain(image)))
    assert all(ends_in_softmax(model) for model in (within, after, activation))


SHAPED = {
    "an operation": lambda x: keras.ops.softmax(x),
    "in float32": lambda x: layers.Activation("linear", dtype="float32")(layers.Softmax()(x)),
    "reshaped": lambda x: layers.Reshape((CLASSES,))(layers.Softmax()(x)),
    "cast": lambda x: keras.ops.cast(layers.Softmax()(x), "float32"),
    "a model": lambda x: keras.Sequential([keras.Input((CLASSES,)), layers.Softmax()])(x),
}


@pytest.mark.parametrize("end", SHAPED)
def test_probabilities_are_told_from_logits_whatever_makes_them(end):
    image = keras.Input((6, 6, 4))
    model = keras.Model(image, SHAPED[end](network()(image)))
    assert ends_in_softmax(model)
    assert ends_in_softmax_in_twin(to_tf_keras(model))
    logits = logits_of(model)(IMAGES)
    np.testing.assert_allclose(keras.ops.softmax(logits), model(IMAGES), atol=1e-6)


def small(shape=(8, 8, 3), classes=4):
    return keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(classes, activation="softmax"),
        ]
    )


def test_labels_in_a_column_are_those_in_a_row():
    """As `keras.datasets.cifar10` gives them."""
    images = np.random.default_rng(0).normal(size=(40, 8, 8, 3)).astype("float32")
    labels = np.arange(40) % 4
    model = small()
    right = float(np.mean(model.predict(images, verbose=0).argmax(axis=1) == labels))
    assert top1(model, (images, labels[:, None])) == right
    pruned = prune(model, (images, labels[:, None]), validation_data=(images, labels[:, None]))
    assert pruned.before == right
    assert pruned.after <= 1


def test_images_without_their_only_channel_are_taken_as_fit_takes_them():
    images = np.random.default_rng(0).normal(size=(40, 8, 8)).astype("float32")
    labels = np.arange(40) % 4
    model = small((8, 8, 1))
    expected = top1(model, (images[..., None], labels))
    assert quantize_aware(model, (images, labels), validation_data=(images, labels)).before == (
        expected
    )


HUNDRED = np.zeros((100, 8, 8, 3), "float32")


@pytest.mark.parametrize("compress", [prune, cluster, quantize_aware, dense_sparse_dense, distill])
@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (HUNDRED, np.eye(4)[np.zeros(100, int)], "of one-hot rows .* Received: labels of shape"),
        (HUNDRED, np.full(100, 4), "labels from 0 to 3, .* Received: label 4$"),
        (
            HUNDRED[..., :1],
            np.zeros(100, int),
            r"\(None, 8, 8, 3\). Received: a batch of \(32, 8, 8, 1",
        ),
        (
            HUNDRED[:, 1:],
            np.zeros(100, int),
            r"\(None, 8, 8, 3\). Received: a batch of \(32, 7, 8, 3",
        ),
    ],
)
def test_what_a_model_cannot_be_trained_on_is_a_line(compress, images, labels, message):
    models = (small(), small()) if compress is distill else (small(),)
    with pytest.raises(RetrainingError, match=message) as caught:
        compress(*models, (images, labels))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("compress", [prune, cluster, quantize_aware, dense_sparse_dense, distill])
def test_what_is_no_retraining_is_named(compress):
    models = (small(), small()) if compress is distill else (small(),)
    with pytest.raises(RetrainingError, match=r"`retraining` must be a Retraining\. Received: "):
        compress(*models, (HUNDRED, np.zeros(100, int)), retraining={"epochs": 1})


@pytest.mark.parametrize("compress", [prune, distill])
def test_a_lambda_is_refused_by_its_name(compress):
    image = keras.Input((8, 8, 3))
    x = layers.Lambda(lambda image: image / 2, name="halved")(image)
    model = keras.Model(image, small()(x))
    models = (model, small()) if compress is distill else (model,)
    with pytest.raises(InputError, match=r"Layer halved of class Lambda cannot be copied: .*Rec"):
        compress(*models, (HUNDRED, np.zeros(100, int)))
