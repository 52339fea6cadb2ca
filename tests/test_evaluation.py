import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from keras_squeezenet.inference.evaluation import Predictions, evaluate_predictions


def softmax_rows(rng, n, classes):
    logits = rng.normal(scale=2.0, size=(n, classes))
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def names(classes):
    return [f"class {i}" for i in range(classes)]


@pytest.mark.parametrize("classes", [2, 3, 7, 30])
def test_evaluation_agrees_with_scikit_learn(classes):
    rng = np.random.default_rng(classes)
    probabilities = softmax_rows(rng, 400, classes)
    labels = rng.integers(0, classes, 400)
    every_class = np.arange(classes)

    predictions = Predictions.from_probabilities(np.arange(400), labels, probabilities)
    evaluation = evaluate_predictions(predictions, names(classes))

    predicted = probabilities.argmax(axis=1)
    assert evaluation.count == 400
    assert evaluation.top1 == pytest.approx(sklearn_metrics.accuracy_score(labels, predicted))
    assert evaluation.loss == pytest.approx(
        sklearn_metrics.log_loss(labels, probabilities, labels=every_class), rel=1e-6
    )
    np.testing.assert_array_equal(
        evaluation.confusion,
        sklearn_metrics.confusion_matrix(labels, predicted, labels=every_class),
    )
    assert evaluation.per_class_accuracy == pytest.approx(
        sklearn_metrics.recall_score(labels, predicted, labels=every_class, average=None)
    )
    if classes > 5:
        expected = sklearn_metrics.top_k_accuracy_score(
            labels, probabilities, k=5, labels=every_class
        )
        assert 0 < expected < 1
        assert evaluation.top5 == pytest.approx(expected)
    else:
        assert evaluation.top5 == 1.0


def test_four_examples_worked_out_by_hand():
    predictions = Predictions.from_probabilities(
        np.array([0, 1, 2, 3]),
        np.array([0, 0, 1, 1]),
        np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]),
    )

    evaluation = evaluate_predictions(predictions, ["cat", "dog", "emu"])

    assert evaluation.top1 == 0.75
    assert evaluation.top1_standard_error == pytest.approx(math.sqrt(0.75 * 0.25 / 4))
    assert evaluation.loss == pytest.approx((math.log(2) + math.log(4)) / 4)
    assert evaluation.per_class_accuracy == (0.5, 1.0, None)
    assert evaluation.per_class_count == (2, 2, 0)
    assert evaluation.confusion.tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert evaluation.confusion.dtype == np.int64


def test_a_class_given_no_chance_costs_a_finite_loss():
    predictions = Predictions.from_probabilities(
        np.array([0]), np.array([1]), np.array([[1.0, 0.0]])
    )

    assert evaluate_predictions(predictions, ["a", "b"]).loss == pytest.approx(-math.log(1e-7))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), min_size=7, max_size=7), min_size=1, max_size=8))
def test_top_classes_are_those_of_a_stable_sort(quarters):
    probabilities = np.array(quarters) / 4
    labels = np.zeros(len(quarters), int)

    predictions = Predictions.from_probabilities(labels.cumsum(), labels, probabilities)

    expected = [sorted(range(7), key=lambda i: (-row[i], i))[:5] for row in probabilities]
    assert predictions.top_classes.tolist() == expected
    np.testing.assert_array_equal(
        predictions.top_probabilities, [sorted(row, reverse=True)[:5] for row in probabilities]
    )


def test_types_and_widths_are_fixed():
    predictions = Predictions.from_probabilities([7], [2], np.array([[0.5, 0.2, 0.3]], np.float16))

    assert len(predictions) == 1
    assert predictions.index.dtype == np.int64
    assert predictions.labels.dtype == predictions.top_classes.dtype == np.int32
    assert predictions.top_probabilities.dtype == predictions.label_probability.dtype == np.float32
    assert predictions.top_classes.tolist() == [[0, 2, 1]]
    assert predictions.label_probability[0] == np.float32(np.float16(0.3))


def test_shards_come_together_in_the_order_of_the_data_set():
    rng = np.random.default_rng(0)
    probabilities = softmax_rows(rng, 31, 9)
    labels = rng.integers(0, 9, 31)
    whole = Predictions.from_probabilities(np.arange(31), labels, probabilities)
    shards = [
        Predictions.from_probabilities(rows, labels[rows], probabilities[rows])
        for rows in (np.arange(rank, 31, 3)[::-1] for rank in (2, 0, 1))
    ]

    joined = Predictions.concatenate(shards)

    for field in ("index", "labels", "top_classes", "top_probabilities", "label_probability"):
        np.testing.assert_array_equal(getattr(joined, field), getattr(whole, field))


def test_an_empty_shard_joins_like_any_other():
    empty = Predictions.from_probabilities(
        np.zeros(0, int), np.zeros(0, int), np.zeros((0, 3), np.float32)
    )
    one = Predictions.from_probabilities([4], [1], [[0.25, 0.5, 0.25]])

    assert Predictions.concatenate([empty, one]).index.tolist() == [4]
    with pytest.raises(ValueError, match="predictions: expected at least one example"):
        evaluate_predictions(empty, names(3))


def test_an_example_counted_twice_is_refused():
    one = Predictions.from_probabilities([3, 8], [0, 1], [[0.5, 0.5], [0.5, 0.5]])
    two = Predictions.from_probabilities([8, 9], [0, 1], [[0.5, 0.5], [0.5, 0.5]])

    with pytest.raises(ValueError, match=r"Received: index=8 more than once"):
        Predictions.concatenate([one, two])


def test_parts_of_different_classifiers_are_refused():
    two = Predictions.from_probabilities([0], [0], [[0.5, 0.5]])
    three = Predictions.from_probabilities([1], [0], [[0.5, 0.25, 0.25]])

    with pytest.raises(ValueError, match=r"same number of top classes. Received: \[2, 3\]"):
        Predictions.concatenate([two, three])
    with pytest.raises(ValueError, match="parts: expected at least one"):
        Predictions.concatenate([])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -0.5, 3.2])
def test_what_is_no_probability_is_refused_by_its_place(bad):
    probabilities = np.full((3, 8), 0.125)
    probabilities[1, 6] = bad

    with (
        warnings.catch_warnings(action="error"),
        pytest.raises(ValueError, match=rf"probabilities\[1, 6\]: .* Received: {bad}"),
    ):
        Predictions.from_probabilities(np.arange(3), np.zeros(3, int), probabilities)


@pytest.mark.parametrize("bad", [-1, 4, 2**40])
def test_a_label_that_is_no_class_is_refused(bad):
    with pytest.raises(ValueError, match=rf"labels.*Received.*{bad}"):
        Predictions.from_probabilities(np.arange(2), np.array([0, bad]), np.full((2, 4), 0.25))


@pytest.mark.parametrize(
    ("index", "labels", "probabilities", "message"),
    [
        ([0], [0.0], [[1.0, 0.0]], "labels: expected whole numbers. Received: dtype=float64"),
        ([0], [[0]], [[1.0, 0.0]], r"labels: expected shape \(1,\). Received: shape=\(1, 1\)"),
        ([0, 1], [0], [[1.0, 0.0]], r"labels: expected shape \(2,\). Received: shape=\(1,\)"),
        ([0], [0], [1.0, 0.0], r"probabilities: expected shape \(n, classes\)"),
        ([0], [0], np.zeros((1, 0)), r"probabilities: expected shape \(n, classes\)"),
    ],
)
def test_shapes_that_disagree_are_refused(index, labels, probabilities, message):
    with pytest.raises(ValueError, match=message):
        Predictions.from_probabilities(index, labels, probabilities)


def test_predictions_of_other_classes_are_refused():
    predictions = Predictions.from_probabilities([0], [6], np.full((1, 8), 0.125))

    with pytest.raises(ValueError, match=r"class_names: .* Received: 4 names"):
        evaluate_predictions(predictions, names(4))
    with pytest.raises(ValueError, match=r"labels\[0\]: expected a class from 0 to 5. Received: 6"):
        evaluate_predictions(predictions, names(6))


def test_the_evaluation_can_be_written_as_strict_json():
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 5, 50)
    predictions = Predictions.from_probabilities(np.arange(50), labels, softmax_rows(rng, 50, 6))
    evaluation = evaluate_predictions(predictions, names(6))

    # allow_nan=False: the class without an example must be null, not NaN, which is no JSON.
    read = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))

    assert read["per_class_accuracy"][5] is None
    assert read["confidence"] == pytest.approx(predictions.top_probabilities.max(axis=1).mean())
    assert read["per_class_count"] == np.bincount(labels, minlength=6).tolist()
    assert read == evaluation.to_dict()
    assert (
        read["confusion"]
        == sklearn_metrics.confusion_matrix(
            labels, predictions.top_classes[:, 0], labels=range(6)
        ).tolist()
    )


def test_worst_mistakes_are_the_most_confident_wrong_answers():
    predictions = Predictions.from_probabilities(
        np.array([10, 11, 12, 13, 14]),
        np.array([0, 1, 0, 0, 1]),
        np.array([[0.4, 0.6], [0.01, 0.99], [0.1, 0.9], [0.2, 0.8], [0.8, 0.2]]),
    )
    evaluation = evaluate_predictions(predictions, ["a", "b"])

    # 3 and 4 are equally sure: the earlier first.
    assert evaluation.worst_mistakes(predictions, 10).tolist() == [2, 3, 4, 0]
    assert evaluation.worst_mistakes(predictions, 2).tolist() == [2, 3]
    assert evaluation.worst_mistakes(predictions, 0).tolist() == []
