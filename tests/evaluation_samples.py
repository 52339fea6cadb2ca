"""Evaluations and histories that the tests of pictures and page draw."""

import numpy as np

from keras_squeezenet.inference.evaluation import Predictions, evaluate_predictions

HOSTILE_NAMES = [
    "<script>alert('x')</script>",
    '"><img src=http://example.com/x onerror=alert(1)>',
    "$\\frac{$",
    "two\nlines\tand\u202ea turn",
    "not \udcff UTF-8",
    "{{ 7 * 7 }}",
    "日本語の名前",
    "great white shark, man-eater, man-eating shark, Carcharodon carcharias",
]


PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def class_names(classes):
    names = [*HOSTILE_NAMES, "W" * 60, "ox"]
    return [f"{names[i % 10]} {i}" for i in range(classes)]


def evaluate(labels, predicted, names):
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    probabilities = np.full((len(labels), len(names)), 0.1 / len(names))
    probabilities[np.arange(len(labels)), predicted] = 0.9
    predictions = Predictions.from_probabilities(np.arange(len(labels)), labels, probabilities)
    return evaluate_predictions(predictions, names)


def random_evaluation(classes):
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, 6 * classes)
    labels[labels == classes - 1] = 0  # One class without an example.
    predicted = np.where(rng.random(6 * classes) < 0.6, labels, (labels * 7 + 1) % classes)
    return evaluate(labels, predicted, class_names(classes))


def history(epochs):
    return [
        {
            "epoch": epoch,
            "loss": 2.3 / epoch,
            "accuracy": 1 - 0.9 / epoch,
            "val_loss": 2.3 / epoch + 0.01 * epoch,
            "val_accuracy": 0.9 - 0.8 / epoch,
            "learning_rate": 0.04 / epoch,
        }
        for epoch in range(1, epochs + 1)
    ]
