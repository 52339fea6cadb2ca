"""Why a network does not learn, as far as a few images and its weights tell. Keras only.

The rules come from a study of short trainings, docs/getting_unstuck.md, and a test holds them to
its rows. Dead classes are a matter of networks that end in a convolution with a filter per class,
as SqueezeNets do.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from keras_squeezenet.network.graph import is_called_once, last_layer
from keras_squeezenet.network.layers import Fire


@dataclass(frozen=True)
class Look:
    """What a network is like at one moment of its training.

    Attributes:
        dead_classes: numbers of the classes whose filter in the last convolution gives exactly 0
            for every image and place: no gradient comes back through its ReLU. Where labels are
            known only classes with an image among those looked at: of the others a network that
            has learned may well give 0 everywhere.
        dead_units: of all channels behind a ReLU before it, the share with 0 everywhere.
        dead_layers: names of the layers all of whose channels are 0 everywhere.
        signal: standard deviation between the images of what the softmax takes, the mean over
            classes: how well the network tells images apart.
        change: the largest relative change of a kernel since the look before: norm of the
            difference by norm of the kernel; NaN for the first look.
        classes: number of classes with an image among those looked at; None if not known.
    """

    dead_classes: tuple[int, ...]
    dead_units: float
    dead_layers: tuple[str, ...]
    signal: float
    change: float
    classes: int | None = None


@dataclass(frozen=True)
class Finding:
    """A cause of being stuck: its name, what was seen of it, and what to try, most useful first."""

    cause: str
    seen: str
    advice: tuple[str, ...]


class Diagnosis:
    """Tells from one look to the next what keeps a network from learning.

    Args:
        classes: number of classes.
    """

    NOT_LEARNING = 0.98  # of ln(classes), the loss of equal probabilities
    FAINT = 1e-3  # signal with which the probabilities hardly depend on the image
    GROWS = 1.05  # from look to look
    TOO_LITTLE, TOO_MUCH = 1e-3, 1.0  # change of a kernel from look to look

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self._before: Look | None = None

    def add(self, look: Look, loss: float = math.nan) -> list[Finding]:
        """Compare a look with the one before it.

        Args:
            look: a `Look`.
            loss: mean training loss since the look before.

        Returns:
            A list of `Finding`; empty for the first look and for a network that learns.
        """
        before, self._before = self._before, look
        if before is None:
            return []
        found = list(self._dead_classes(before, look))
        if loss > self.NOT_LEARNING * math.log(self.classes):
            found += self._what_stops_all(before, look)
        return found

    def _dead_classes(self, before: Look, look: Look) -> Iterator[Finding]:
        # Classes come back while the layers below them still change: only what does not is said.
        stay = set(look.dead_classes) & set(before.dead_classes)
        if stay and len(look.dead_classes) >= len(before.dead_classes):
            yield Finding(
                "dead classes",
                f"{len(look.dead_classes)} of {look.classes or self.classes} classes"
                f"{' looked at' if look.classes else ''} get no gradient, because the ReLU of the "
                "last convolution gives 0 for every image",
                ("model.last_activation=null",),
            )

    def _what_stops_all(self, before: Look, look: Look) -> Iterator[Finding]:
        if look.dead_layers:
            yield Finding(
                "dead layers",
                f"every channel of {' and '.join(look.dead_layers)} is 0",
                ("a lower optimizer.learning_rate", "model.kernel_initializer=he_normal"),
            )
        if look.change > self.TOO_MUCH:
            yield Finding(
                "rate too high",
                f"a kernel has moved by {look.change:.1f} times its own length",
                ("a lower optimizer.learning_rate", "a longer optimizer.warmup_epochs"),
            )
        # A faint signal that grows is on its way: it grows by itself, ever faster.
        if look.signal < self.FAINT and look.signal < self.GROWS * before.signal:
            yield Finding(
                "vanishing signal",
                f"from image to image the values before the softmax differ by {look.signal:.0e} "
                "only: each layer makes the differences smaller",
                ("model.kernel_initializer=he_normal", "model.bypass=simple"),
            )
        if look.change < self.TOO_LITTLE:
            yield Finding(
                "rate too low",
                f"no kernel has moved by more than {look.change:.0e} of its own length",
                ("a higher optimizer.learning_rate", "optimizer.name=adam"),
            )


class Observer:
    """Looks at a network, again and again, on the same images.

    Args:
        model: a functional `keras.Model`.
        images: a batch as the model takes it, of all classes if possible; 64 are enough.
        labels: their classes, or None if there are images of every class.
    """

    def __init__(
        self, model: keras.Model, images: ArrayLike, labels: ArrayLike | None = None
    ) -> None:
        self.images = ops.convert_to_tensor(images)
        self.classes = None if labels is None else np.unique(ops.convert_to_numpy(labels))
        self._last = last_layer(model)
        self._hidden = [
            layer
            for layer in model.layers
            if layer is not self._last and _ends_in_relu(layer) and is_called_once(layer)
        ]
        # A model within the model has outputs of another graph: then the probabilities will do.
        within = isinstance(self._last, keras.Model) or not is_called_once(self._last)
        answers = model.outputs[0] if within else self._last.output
        self._probe = keras.Model(
            model.inputs[0], [*(layer.output for layer in self._hidden), answers]
        )
        self._variables = [
            variable for variable in model.trainable_variables if variable.name == "kernel"
        ]
        self._kernels: list[np.ndarray] | None = None

    def look(self) -> Look:
        """The `Look` of now."""
        layers = (*self._hidden, self._last)
        seen = keras.tree.flatten(self._probe(self.images, training=False))
        outputs = [
            _channels_last(ops.convert_to_numpy(output), layer)
            for output, layer in zip(seen, layers, strict=True)
        ]
        *highest, of_classes = [
            output.max(axis=tuple(range(output.ndim - 1))) for output in outputs
        ]
        convolution = isinstance(self._last, keras.layers.Conv2D)
        answers = outputs[-1].mean(axis=(1, 2)) if convolution else outputs[-1]
        kernels = [
            ops.convert_to_numpy(ops.convert_to_tensor(variable)) for variable in self._variables
        ]
        change = math.nan if self._kernels is None else _change(self._kernels, kernels)
        self._kernels = kernels
        # A softmax's 0 is a matter of rounding; a ReLU's is not.
        dead_classes = np.flatnonzero(of_classes == 0) if convolution else np.zeros(0, "int64")
        if self.classes is not None:
            dead_classes = np.intersect1d(dead_classes, self.classes)
        return Look(
            dead_classes=tuple(int(number) for number in dead_classes),
            dead_units=float((np.concatenate(highest) == 0).mean()) if highest else 0.0,
            dead_layers=tuple(
                layer.name
                for layer, found in zip(self._hidden, highest, strict=True)
                if not found.any()
            ),
            signal=float(answers.std(axis=0).mean()),
            change=change,
            classes=None if self.classes is None else len(self.classes),
        )


def _ends_in_relu(layer: keras.layers.Layer) -> bool:
    """Whether 0 everywhere in a channel means that no gradient comes back through it."""
    if isinstance(layer, keras.layers.ReLU | Fire):
        return True
    return getattr(layer, "activation", None) is keras.activations.relu


def _channels_last(output: np.ndarray, layer: keras.layers.Layer) -> np.ndarray:
    data_format = getattr(layer, "data_format", None) or keras.config.image_data_format()
    return np.moveaxis(output, 1, -1) if data_format == "channels_first" else output


def _change(before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> float:
    changes = [
        np.linalg.norm(new - old) / (np.linalg.norm(old) or 1.0)
        for old, new in zip(before, after, strict=True)
    ]
    return float(max(changes, default=0.0))
