"""Images that a quantized network is looked at on: to take ranges from, and to check a file on."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_squeezenet.compression.training_data import Batches, one_pass
from keras_squeezenet.data.examples import evenly_spread

CALIBRATION_IMAGES = 100
CHECK_IMAGES = 100


def first_images(train_data: Batches, model: keras.Model | None = None) -> np.ndarray:
    """float32 images, enough to calibrate with and to check on; fewer where one pass has fewer."""
    most = CALIBRATION_IMAGES + CHECK_IMAGES
    batches, count = [], 0
    for images, _ in one_pass(train_data, model):
        batches.append(np.asarray(images, np.float32))
        count += len(batches[-1])
        if count >= most:
            break
    return np.concatenate(batches)[:most]


def divided(
    training_images: np.ndarray, validation_images: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(images to take ranges from, others to check on)."""
    if len(validation_images):
        return training_images[:CALIBRATION_IMAGES], validation_images
    if len(training_images) == CALIBRATION_IMAGES + CHECK_IMAGES:
        return training_images[:CALIBRATION_IMAGES], training_images[CALIBRATION_IMAGES:]
    # A single image has to serve for both.
    return training_images[::2], training_images[len(training_images) > 1 :: 2]


class SampleInPassing:
    """Keeps some of the images of batches that are read for something else, spread over all."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: list[np.ndarray] = []
        self._step, self._seen = 1, 0

    def of(self, batches: Batches) -> Iterator[tuple[Any, Any]]:
        """The same batches; their number is not known before, so the sample thins out."""
        for images, labels in batches:
            for position in range(-self._seen % self._step, len(images), self._step):
                self._kept.append(np.asarray(images[position], np.float32))
            self._seen += len(images)
            while len(self._kept) >= 2 * self._most:
                self._kept, self._step = self._kept[::2], 2 * self._step
            yield images, labels

    def images(self) -> np.ndarray:
        """float32 array of at most so many images; empty where none went by."""
        return np.array([self._kept[i] for i in evenly_spread(len(self._kept), self._most)])
