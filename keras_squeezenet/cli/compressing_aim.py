"""What `compress` is asked for: how small or how good the file is to be, and the way there."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from keras_squeezenet.cli.options import say
from keras_squeezenet.errors import InputError

if TYPE_CHECKING:
    import keras

    from keras_squeezenet.compression.samples import HeldOut, Samples
    from keras_squeezenet.inference.classifiers import Classifier
    from keras_squeezenet.sqz.versions import AnyCompressed

KILOBYTE = 1000
DEFAULT_BITS = 6  # Deep Compression's SqueezeNet of 0.47 MB
DEFAULT_MAX_DROP = 0.5  # percentage points
HEADER_CHANGE = 16  # bytes that the framing may add to a header
_SHARING = "--bits or --density"


class Mode(StrEnum):
    best = "best"
    faithful = "faithful"


@dataclass(frozen=True)
class Aim:
    """What the file is to be like; nothing but the mode need be given."""

    mode: Mode
    bits: int | None
    density: float | None
    target_size: float | None
    max_drop: float | None
    base: AnyCompressed | None

    def __post_init__(self) -> None:
        asked = self._asked
        if len(asked) > 1:
            raise InputError(f"One of these is enough. Received: {' and '.join(asked)}")
        if self.mode is Mode.faithful and asked and asked[0] not in (_SHARING, "--base"):
            raise InputError(f"--mode faithful goes with {_SHARING}. Received: {asked[0]}")
        # A NaN fails the comparisons.
        if self.density is not None and not 0 < self.density <= 1:
            raise InputError(f"--density must be above 0 and at most 1. Received: {self.density}")
        if self.target_size is not None and not 0 < self.target_size < math.inf:
            raise InputError(f"--target-size takes kilobytes above 0. Received: {self.target_size}")

    @property
    def _asked(self) -> list[str]:
        options = {
            _SHARING: (self.bits, self.density),
            "--target-size": (self.target_size,),
            "--max-drop": (self.max_drop,),
            "--base": (self.base,),
        }
        return [name for name, values in options.items() if any(v is not None for v in values)]

    @property
    def is_given(self) -> bool:
        return bool(self._asked)

    def reach(
        self, classifier: Classifier, model: keras.Model, samples: Samples | None
    ) -> AnyCompressed:
        """What was asked for, without class names, of the model that computes as the classifier."""
        from keras_squeezenet.compression.without_training.drop_search import fit_to_drop
        from keras_squeezenet.compression.without_training.post_training import (
            fit_to_size,
            share_weights,
        )

        if self.base is not None:
            from keras_squeezenet.compression.saving import network_of

            return network_of(model, base=self.base)
        assert samples is not None  # nothing but a base goes without
        images, held_out = samples.calibration, samples.held_out
        # What is to be folded is so already.
        options: dict[str, Any] = {"fold": False, "progress": say}
        if self.target_size is not None:
            size = _size_without_names(self.target_size, classifier.class_names)
            return fit_to_size(model, images, size, **options)
        if self.mode is Mode.faithful or _SHARING in self._asked:
            bits = DEFAULT_BITS if self.bits is None else self.bits
            return share_weights(model, images, bits=bits, density=self.density, **options)
        max_drop = DEFAULT_MAX_DROP if self.max_drop is None else self.max_drop
        drop_of = _drop_measure(classifier, held_out)
        return fit_to_drop(model, images, drop_of, max_drop, **options)


def _drop_measure(classifier: Classifier, held_out: HeldOut) -> Callable[[AnyCompressed], float]:
    """A function: what a compressed form of the classifier loses on images held out."""
    from keras_squeezenet.compression.saving import assign, model_of

    before = held_out.decisions(classifier.predict)
    # One for all that are tried: a new one would compile its graph anew.
    trials: list[keras.Model] = []

    def drop_of(network: AnyCompressed) -> float:
        if not trials:
            trials.append(model_of(network))
        assign(trials[0], network)
        return held_out.drop(before, held_out.decisions(trials[0].predict_on_batch))

    return drop_of


def _size_without_names(target_size: float, class_names: tuple[str, ...] | None) -> int:
    """Bytes for all but the class names and the framing, of kilobytes for the whole file."""
    from keras_squeezenet.sqz.container import encode_class_names

    names = len(encode_class_names(class_names))
    size = int(KILOBYTE * target_size) - names - HEADER_CHANGE
    if size <= 0:
        raise InputError(
            f"The class names alone take {names} bytes. Received: --target-size {target_size}"
        )
    return size
