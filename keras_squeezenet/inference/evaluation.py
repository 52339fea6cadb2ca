"""What a classifier got right and wrong: from probabilities to accuracies. Needs numpy only.

Every rank, and every exported file, turns its probabilities into `Predictions`: a few numbers per
example. `Predictions.concatenate` joins the shards, and `evaluate_predictions` measures them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

TOP_K = 5

# Keras clips here as well (`keras.config.epsilon()`), so that the loss agrees with the one in the
# history. An int8 model does say exactly 0 for the right class.
SMALLEST_PROBABILITY = 1e-7

# Room for the rounding of a softmax, in whichever precision it was computed.
_PROBABILITY_SLACK = 1e-3


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a classifier said about `n` examples, reduced to what an evaluation needs.

    Attributes:
        index: int64[n], the position of each example in its data set.
        labels: int32[n], the true classes.
        top_classes: int32[n, k], the `k = min(5, classes)` most probable classes, best first.
        top_probabilities: float32[n, k], their probabilities (0 to 1).
        label_probability: float32[n], the probability of the true class.

    Raises:
        ValueError: the shapes disagree, a number that should be whole is not, or a probability is
            not finite or outside 0 to 1.
    """

    index: np.ndarray
    labels: np.ndarray
    top_classes: np.ndarray
    top_probabilities: np.ndarray
    label_probability: np.ndarray

    def __post_init__(self) -> None:
        for name, dtype in (
            ("index", np.int64),
            ("labels", np.int32),
            ("top_classes", np.int32),
        ):
            object.__setattr__(self, name, _whole_numbers(name, getattr(self, name), dtype))
        for name in ("top_probabilities", "label_probability"):
            array = np.asarray(getattr(self, name), np.float32)
            _check_probabilities(name, array)
            object.__setattr__(self, name, array)
        self._check_shapes()

    def _check_shapes(self) -> None:
        if self.index.ndim != 1:
            raise ValueError(f"index: expected one axis. Received: shape={self.index.shape}")
        n = len(self.index)
        if self.top_classes.ndim != 2 or not 1 <= self.top_classes.shape[1] <= TOP_K:
            raise ValueError(
                f"top_classes: expected shape ({n}, k) with k from 1 to {TOP_K}. "
                f"Received: shape={self.top_classes.shape}"
            )
        k = self.top_classes.shape[1]
        for name, expected in (
            ("labels", (n,)),
            ("top_classes", (n, k)),
            ("top_probabilities", (n, k)),
            ("label_probability", (n,)),
        ):
            received = getattr(self, name).shape
            if received != expected:
                raise ValueError(f"{name}: expected shape {expected}. Received: shape={received}")

    def __len__(self) -> int:
        return len(self.index)

    @classmethod
    def from_probabilities(
        cls, index: np.ndarray, labels: np.ndarray, probabilities: np.ndarray
    ) -> Predictions:
        """Reduce a classifier's output.

        Args:
            index: whole numbers [n], the position of each example in its data set.
            labels: whole numbers [n], the true classes.
            probabilities: numbers [n, classes] from 0 to 1. Of equal probabilities the lower class
                comes first, so that an int8 model, where ties are common, is measured the same way
                everywhere.

        Raises:
            ValueError: a probability is not finite or outside 0 to 1 (logits, for example), a label
                is not a class, or the shapes disagree.
        """
        probabilities = np.asarray(probabilities)
        # At least float32, because half precisions have gaps in numpy. Never narrower than what
        # came, because that would make ties.
        probabilities = probabilities.astype(np.result_type(probabilities.dtype, np.float32))
        if probabilities.ndim != 2 or probabilities.shape[1] == 0:
            raise ValueError(
                f"probabilities: expected shape (n, classes). Received: shape={probabilities.shape}"
            )
        _check_probabilities("probabilities", probabilities)
        labels = _whole_numbers("labels", labels, np.int32)
        if labels.shape != probabilities.shape[:1]:
            raise ValueError(
                f"labels: expected shape {probabilities.shape[:1]}. Received: shape={labels.shape}"
            )
        _check_classes("labels", labels, probabilities.shape[1])
        top_classes = _most_probable(probabilities, min(TOP_K, probabilities.shape[1]))
        return cls(
            index=index,
            labels=labels,
            top_classes=top_classes,
            top_probabilities=np.take_along_axis(probabilities, top_classes, axis=1),
            label_probability=np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0],
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Predictions]) -> Predictions:
        """Join batches or shards, sorted by `index`.

        Raises:
            ValueError: `parts` is empty, the parts keep different numbers of top classes, or an
                example comes twice (it would count twice).
        """
        if not parts:
            raise ValueError("parts: expected at least one Predictions. Received: none")
        widths = sorted({part.top_classes.shape[1] for part in parts})
        if len(widths) > 1:
            raise ValueError(f"parts: expected the same number of top classes. Received: {widths}")
        index = np.concatenate([part.index for part in parts])
        order = np.argsort(index, kind="stable")
        index = index[order]
        repeated = index[1:][index[1:] == index[:-1]]
        if len(repeated):
            raise ValueError(
                f"parts: expected every index once. Received: index={repeated[0]} more than once"
            )

        def joined(name: str) -> np.ndarray:
            return np.concatenate([getattr(part, name) for part in parts])[order]

        return cls(
            index=index,
            labels=joined("labels"),
            top_classes=joined("top_classes"),
            top_probabilities=joined("top_probabilities"),
            label_probability=joined("label_probability"),
        )


def predict_batches(
    predict: Callable[[np.ndarray], np.ndarray], batches: Iterable[tuple[Any, Any, Any]]
) -> Predictions | None:
    """Run a classifier over batches, one at a time.

    Args:
        predict: takes images [batch, height, width, 3], gives probabilities [batch, classes].
        batches: iterable of (images, labels, indices), as of `Split.indexed_val_batches`.

    Returns:
        `Predictions`, or None where there is no batch (a rank without examples).
    """
    parts = [
        Predictions.from_probabilities(
            np.asarray(indices), np.asarray(labels), np.asarray(predict(images))
        )
        for images, labels, indices in batches
    ]
    return Predictions.concatenate(parts) if parts else None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How well a classifier did on `count` examples. Made by `evaluate_predictions`.

    Attributes:
        class_names: the classes, in the order of the labels.
        count: examples measured.
        top1: share of examples (0 to 1) whose most probable class is the true one.
        top5: share whose true class is among the five most probable; 1 with five classes or fewer.
        top1_standard_error: binomial standard error of `top1`, `sqrt(top1 * (1 - top1) / count)`.
        loss: mean cross-entropy in nats, the probability of the true class clipped at 1e-7.
        confidence: mean over the examples of the highest probability, right or wrong.
        per_class_accuracy: top-1 of each class; None for a class without an example.
        per_class_count: examples of each class.
        confusion: int64[classes, classes], examples by label (row) and predicted class (column).
    """

    class_names: tuple[str, ...]
    count: int
    top1: float
    top5: float
    top1_standard_error: float
    loss: float
    confidence: float
    per_class_accuracy: tuple[float | None, ...]
    per_class_count: tuple[int, ...]
    confusion: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """The same as plain lists and numbers, for `json.dumps`."""
        return {
            "class_names": list(self.class_names),
            "count": self.count,
            "top1": self.top1,
            "top5": self.top5,
            "top1_standard_error": self.top1_standard_error,
            "loss": self.loss,
            "confidence": self.confidence,
            "per_class_accuracy": list(self.per_class_accuracy),
            "per_class_count": list(self.per_class_count),
            "confusion": self.confusion.tolist(),
        }

    @staticmethod
    def worst_mistakes(predictions: Predictions, count: int) -> np.ndarray:
        """int64[≤ count]: positions in `predictions` of wrong answers, the most confident first."""
        wrong = np.flatnonzero(predictions.top_classes[:, 0] != predictions.labels)
        confidence = predictions.top_probabilities[wrong, 0]
        return wrong[np.argsort(-confidence, kind="stable")][:count]


def evaluate_predictions(predictions: Predictions, class_names: Sequence[str]) -> Evaluation:
    """Measure `predictions` over the classes `class_names`.

    Raises:
        ValueError: there is no example, a label or a predicted class is not one of `class_names`,
            or `predictions` keeps another number of top classes than that many classes give.
    """
    classes = len(class_names)
    count = len(predictions)
    if count == 0:
        raise ValueError("predictions: expected at least one example. Received: none")
    k = predictions.top_classes.shape[1]
    if k != min(TOP_K, classes):
        raise ValueError(
            f"class_names: expected as many as the classifier has classes. "
            f"Received: {classes} names, predictions with top {k}"
        )
    labels, predicted = predictions.labels, predictions.top_classes[:, 0]
    _check_classes("labels", labels, classes)
    _check_classes("top_classes", predictions.top_classes, classes)

    cells = labels.astype(np.int64) * classes + predicted
    confusion = np.bincount(cells, minlength=classes**2).reshape(classes, classes)
    per_class_count = confusion.sum(axis=1).tolist()
    per_class_correct = confusion.diagonal().tolist()
    top1 = float(np.mean(predicted == labels))
    likelihood = np.clip(predictions.label_probability.astype(np.float64), SMALLEST_PROBABILITY, 1)
    return Evaluation(
        class_names=tuple(class_names),
        count=count,
        top1=top1,
        top5=float(np.mean((predictions.top_classes == labels[:, None]).any(axis=1))),
        top1_standard_error=math.sqrt(top1 * (1 - top1) / count),
        loss=float(np.mean(-np.log(likelihood))),
        confidence=float(predictions.top_probabilities[:, 0].mean(dtype=np.float64)),
        per_class_accuracy=tuple(
            correct / total if total else None
            for correct, total in zip(per_class_correct, per_class_count, strict=True)
        ),
        per_class_count=tuple(per_class_count),
        confusion=confusion.astype(np.int64, copy=False),
    )


def _most_probable(probabilities: np.ndarray, k: int) -> np.ndarray:
    """int32[n, k]: the columns of the `k` largest values of each row; of equals the lower first.

    `argmax` takes the first of equals, and five passes cost a fraction of a stable sort.
    """
    remaining = probabilities.copy()
    rows = np.arange(len(remaining))
    top = np.empty((len(remaining), k), np.int32)
    for rank in range(k):
        top[:, rank] = remaining.argmax(axis=1)
        remaining[rows, top[:, rank]] = -np.inf
    return top


def _whole_numbers(name: str, values: np.ndarray, dtype: type[np.integer]) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name}: expected whole numbers. Received: dtype={array.dtype}")
    limits = np.iinfo(dtype)
    # Compared as Python integers: numpy would wrap a uint64 or refuse the comparison.
    if array.size and not (limits.min <= int(array.min()) <= int(array.max()) <= limits.max):
        raise ValueError(
            f"{name}: expected numbers that fit {dtype.__name__}. "
            f"Received: {array.min()} to {array.max()}"
        )
    return array.astype(dtype)


def _check_probabilities(name: str, values: np.ndarray) -> None:
    # A NaN fails both comparisons.
    fine = (values >= -_PROBABILITY_SLACK) & (values <= 1 + _PROBABILITY_SLACK)
    _refuse_first(name, values, ~fine, "a finite probability from 0 to 1")


def _check_classes(name: str, values: np.ndarray, classes: int) -> None:
    outside = (values < 0) | (values >= classes)
    _refuse_first(name, values, outside, f"a class from 0 to {classes - 1}")


def _refuse_first(name: str, values: np.ndarray, wrong: np.ndarray, expected: str) -> None:
    if wrong.any():
        where = tuple(int(axis) for axis in np.argwhere(wrong)[0])
        position = ", ".join(map(str, where))
        raise ValueError(f"{name}[{position}]: expected {expected}. Received: {values[where]}")
