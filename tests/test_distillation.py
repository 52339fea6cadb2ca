"""Distillation, against gradients worked out without Keras's distiller."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from scipy.special import softmax

from keras_squeezenet.compression.distillation import distill
from keras_squeezenet.compression.retraining import Retraining, RetrainingError
from keras_squeezenet.errors import InputError
from keras_squeezenet.network.layers import Fire
from tests.launching import horovodrun, needs_horovod
from tests.ranks.distilling import distill_shard

CLASSES = 3
ONE_STEP = Retraining(epochs=1, steps_per_epoch=1, learning_rate=0.1, momentum=0.0)


def small_squeezenet(seed, *, side=8, filters=4, activation="softmax"):
    keras.utils.set_random_seed(seed)
    image = keras.Input((side, side, 3))
    x = layers.Conv2D(filters, 3, activation="relu", name="conv1")(image)
    x = Fire(2, filters, filters, name="fire2")(x)
    x = layers.Conv2D(CLASSES, 1, name="conv3")(x)
    x = layers.GlobalAveragePooling2D(name="pool3")(x)
    return keras.Model(image, layers.Activation(activation, name="predictions")(x))


def linear_classifier(seed, *, side=4, activation="softmax"):
    """Logits = average colour · kernel + bias."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((side, side, 3))
    x = layers.GlobalAveragePooling2D()(image)
    return keras.Model(image, layers.Dense(CLASSES, activation=activation, name="dense")(x))


def batch(seed, *, side=4, count=6):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(count, side, side, 3)).astype("float32")
    return images, rng.integers(0, CLASSES, count)


def gradient_by_hand(student, teacher_logits, images, labels, temperature, student_weight):
    """Of the loss in `distill`'s docstring, for the kernel of a linear classifier."""
    features = images.mean(axis=(1, 2))
    kernel, bias = student.get_weights()
    logits = features @ kernel + bias
    targets = np.eye(CLASSES)[labels]
    of_labels = softmax(logits, axis=1) - targets
    # d/dz of T²·KL(p ‖ softmax(z / T)) is T · (softmax(z / T) − p).
    of_teacher = temperature * (
        softmax(logits / temperature, axis=1) - softmax(teacher_logits / temperature, axis=1)
    )
    mixed = student_weight * of_labels + (1 - student_weight) * of_teacher
    return features.T @ mixed / len(images)


def logits_of(teacher, images):
    kernel, bias = teacher.get_weights()
    return images.mean(axis=(1, 2)) @ kernel + bias


class TestOneStep:
    @pytest.mark.parametrize(
        ("activation", "temperature", "student_weight"),
        [("softmax", 4, 0.1), (None, 4, 0.1), (None, 1.5, 0.6), ("softmax", 3, 1.0)],
    )
    def test_the_step_is_that_of_the_papers_loss(self, activation, temperature, student_weight):
        student = linear_classifier(1, activation=activation)
        teacher = linear_classifier(2)
        images, labels = batch(0)

        result = distill(
            student,
            teacher,
            [(images, labels)],
            retraining=ONE_STEP,
            temperature=temperature,
            student_weight=student_weight,
        )

        gradient = gradient_by_hand(
            student, logits_of(teacher, images), images, labels, temperature, student_weight
        )
        np.testing.assert_allclose(
            result.model.get_layer("dense").kernel.numpy(),
            student.get_layer("dense").kernel.numpy() - 0.1 * gradient,
            atol=1e-6,
        )

    def test_without_weight_on_labels_images_alone_do(self):
        student, teacher = linear_classifier(1), linear_classifier(2)
        images, labels = batch(0)

        alone, labelled = (
            distill(student, teacher, data, retraining=ONE_STEP, student_weight=0)
            for data in ([images], [(images, labels)])
        )

        gradient = gradient_by_hand(student, logits_of(teacher, images), images, labels, 4, 0)
        for result in (alone, labelled):
            np.testing.assert_allclose(
                result.model.get_weights()[0],
                student.get_weights()[0] - 0.1 * gradient,
                atol=1e-6,
            )

    def test_a_larger_teacher_sees_the_images_resized_and_prepared(self):
        student, teacher = linear_classifier(1), linear_classifier(2, side=8)
        images, labels = batch(0)

        result = distill(
            student,
            teacher,
            [(images, labels)],
            retraining=ONE_STEP,
            student_weight=0.0,
            teacher_preprocessing=lambda images: images[..., ::-1] - 0.5,
        )

        resized = np.asarray(tf.image.resize(images, (8, 8)))
        teacher_logits = logits_of(teacher, resized[..., ::-1] - 0.5)
        gradient = gradient_by_hand(student, teacher_logits, images, labels, 4, 0)
        np.testing.assert_allclose(
            result.model.get_weights()[0], student.get_weights()[0] - 0.1 * gradient, atol=1e-6
        )


class TestTraining:
    def test_the_student_comes_to_say_what_the_teacher_says(self):
        student = small_squeezenet(0)
        teacher = small_squeezenet(1, filters=8)
        images, _ = batch(3, side=8, count=32)

        def divergence(model):
            p, q = (np.asarray(m(images)).astype("float64") for m in (teacher, model))
            return float(np.mean(np.sum(p * (np.log(p) - np.log(q)), axis=1)))

        result = distill(
            student,
            teacher,
            [images],
            retraining=Retraining(epochs=2, steps_per_epoch=60, learning_rate=0.02),
            student_weight=0.0,
        )

        assert divergence(result.model) < 0.1 * divergence(student)

    @pytest.fixture(scope="class")
    def distilled(self):
        """One step: the models, their weights before it, the data and the result."""
        student, teacher = small_squeezenet(0), small_squeezenet(1)
        teacher.get_layer("conv1").trainable = False
        before = [model.get_weights() for model in (student, teacher)]
        images, labels = batch(5, side=8, count=30)
        result = distill(
            student,
            teacher,
            [(images, labels)],
            retraining=ONE_STEP,
            validation_data=[(images[:20], labels[:20]), (images[20:], labels[20:])],
        )
        return student, teacher, before, (images, labels), result

    def test_both_models_stay_as_they_were(self, distilled):
        student, teacher, before, _, result = distilled
        for model, weights in zip((student, teacher), before, strict=True):
            assert all(map(np.array_equal, model.get_weights(), weights))
        assert teacher.trainable
        assert [layer.trainable for layer in teacher.layers if layer.weights] == [False, True, True]
        assert all(layer.trainable for layer in result.model.layers)

    def test_accuracy_before_and_after_and_the_layers_are_reported(self, distilled):
        student, _, _, (images, labels), result = distilled
        for model, reported in ((student, result.before), (result.model, result.after)):
            said = np.asarray(model(images)).argmax(axis=1)
            assert reported == pytest.approx(np.mean(said == labels))
        assert [layer.name for layer in result.layers] == [
            "conv1",
            "fire2_squeeze1x1",
            "fire2_expand1x1",
            "fire2_expand3x3",
            "conv3",
        ]
        assert [layer.weights for layer in result.layers] == [108, 8, 8, 72, 24]

    def test_the_copy_is_saved_and_read_as_any_model(self, distilled, tmp_path):
        *_, result = distilled
        result.model.save(tmp_path / "student.keras")
        saved = keras.saving.load_model(tmp_path / "student.keras")
        images, _ = batch(1, side=8)
        np.testing.assert_array_equal(saved(images), result.model(images))

    def test_a_loss_that_is_no_number_ends_it(self):
        images, labels = batch(0)
        with pytest.raises(
            RetrainingError,
            match=r"must stay finite.* Received: nan in epoch 1",
        ):
            distill(
                linear_classifier(0),
                linear_classifier(1),
                [(images * np.float32(np.inf), labels)],
                retraining=ONE_STEP,
            )


@pytest.mark.slow
class TestTwoRanks:
    pytestmark = needs_horovod

    def test_they_learn_what_one_learns_from_the_joined_batches(self, tmp_path):
        done = horovodrun(Path(__file__).parent / "ranks" / "distilling.py", tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
        first, second = (np.load(tmp_path / f"rank{rank}.npz") for rank in (0, 1))
        alone = distill_shard(rank=0, ranks=1)
        for number, weights in enumerate(alone.model.get_weights()):
            np.testing.assert_array_equal(first[str(number)], second[str(number)])
            np.testing.assert_allclose(first[str(number)], weights, atol=1e-5)
        assert first["after"] == second["after"] == pytest.approx(alone.after, abs=1 / 40)
        # Batch normalization counts other images on each rank, and is agreed on.
        normalized = [name for name in first.files if name.startswith("normalized/")]
        assert len(normalized) == 2 + 4 + 2
        for name in normalized:
            np.testing.assert_array_equal(first[name], second[name])


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"temperature": 0}, "`temperature` must be a number above 0. Received: temperature=0"),
            ({"temperature": float("nan")}, "Received: temperature=nan"),
            ({"student_weight": 1.5}, "`student_weight` must be a number from 0 to 1"),
            ({"train_data": []}, "`train_data` must hold batches"),
            ({"train_data": [np.zeros((2, 4, 4, 3), "float32")]}, "`student_weight` must be 0"),
            (
                {"teacher": keras.Sequential([keras.Input((4, 4, 3)), layers.Flatten()])},
                "`teacher` must have the classes of the model, 3. Received: 48",
            ),
            (
                {"teacher": keras.Sequential([keras.Input((4, 4, 3)), layers.Conv2D(3, 1)])},
                r"`teacher` must be a functional or Sequential model",
            ),
            (
                {"teacher": linear_classifier(0, activation="sigmoid")},
                "`teacher` must end in a softmax or in logits. Received: dense with sigmoid",
            ),
        ],
    )
    def test_what_does_not_fit_is_named(self, options, message):
        arguments = {"teacher": linear_classifier(1), "train_data": [batch(0)], **options}
        with pytest.raises(InputError, match=message):
            distill(linear_classifier(0), retraining=ONE_STEP, **arguments)
