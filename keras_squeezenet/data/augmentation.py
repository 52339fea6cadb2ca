"""Random changes to training pictures."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from PIL import Image, ImageEnhance

from keras_squeezenet.checks import is_number
from keras_squeezenet.data.errors import DataError
from keras_squeezenet.data.framing import Box, Framing

CROP_ATTEMPTS = 10


@dataclass(frozen=True)
class Augmentation:
    """Random changes to training pictures. The default changes nothing.

    Attributes:
        flip: Mirror every second picture, left to right.
        crop_scale: Least and greatest share of the picture's area that a random crop takes; None
            takes evaluation's crop. ImageNet training uses (0.08, 1) (Szegedy et al., arXiv
            1409.4842, section 6).
        crop_ratio: Least and greatest width/height of the random crop.
        color: Brightness, contrast and saturation are each multiplied by a factor from 1-color to
            1+color.
        shift: Greatest translation, as a share of the side; the border's pixels fill what becomes
            free.

    Raises:
        DataError: A value is of the wrong kind or out of range.

    Example:

    >>> digits = load_dataset("digits", image_size=32)
    >>> batches = digits.train.train_batches(16, augmentation=Augmentation(shift=0.1))
    """

    flip: bool = False
    crop_scale: tuple[float, float] | None = None
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    color: float = 0.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.flip, bool):
            raise DataError(f"`flip` must be true or false. Received: flip={self.flip}")
        if self.crop_scale is not None:
            object.__setattr__(self, "crop_scale", _interval("crop_scale", self.crop_scale, 1.0))
        object.__setattr__(self, "crop_ratio", _interval("crop_ratio", self.crop_ratio, math.inf))
        for name in ("color", "shift"):
            value = getattr(self, name)
            if not is_number(value) or not 0 <= value <= 1:
                raise DataError(f"`{name}` must be a number from 0 to 1. Received: {name}={value}")

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any]) -> Self:
        """The augmentation a recipe's mapping asks for, e.g. `{"flip": True, "crop_scale": [0.3,
        1]}`.

        Raises:
            DataError: A key is unknown, or a value is out of range.
        """
        if not isinstance(settings, Mapping):
            raise DataError(f"`augmentation` must be a mapping. Received: augmentation={settings}")
        known = [field.name for field in fields(cls)]
        unknown = sorted(str(key) for key in settings if key not in known)
        if unknown:
            raise DataError(
                f"`augmentation` knows the keys {', '.join(known)}. Received: {', '.join(unknown)}"
            )
        return cls(**settings)

    def for_size(self, size: int, meant_for: int) -> Self:
        """The same for pictures of another side, with objects as large in pixels.

        A crop is magnified to the side of the picture. So a picture of twice the side takes a crop
        of four times the area, where there is so much. Without that a network that was trained on
        small crops, and judged on large pictures, would find its objects twice as large when it is
        trained on (Touvron et al., arXiv 1906.06423).

        Args:
            size: of the pictures, in pixels.
            meant_for: what the settings were chosen for, in pixels.
        """
        if self.crop_scale is None:
            return self
        factor = (size / meant_for) ** 2
        least, greatest = self.crop_scale
        return replace(self, crop_scale=(min(least * factor, 1.0), min(greatest * factor, 1.0)))

    def box(self, width: int, height: int, framing: Framing, rng: np.random.Generator) -> Box:
        """A random crop of a picture of `width` x `height` pixels.

        Where no crop of the drawn shape fits in ten attempts (a wide panorama, say), it is
        evaluation's crop.
        """
        if self.crop_scale is None:
            return framing.box(width, height)
        low, high = np.log(self.crop_ratio)
        for _ in range(CROP_ATTEMPTS):
            area = width * height * rng.uniform(*self.crop_scale)
            ratio = math.exp(rng.uniform(low, high))
            crop_width, crop_height = math.sqrt(area * ratio), math.sqrt(area / ratio)
            if crop_width <= width and crop_height <= height:
                left = rng.uniform(0, width - crop_width)
                upper = rng.uniform(0, height - crop_height)
                return left, upper, left + crop_width, upper + crop_height
        return framing.box(width, height)

    def alter(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Mirror, shift and recolour a square RGB picture, in this order."""
        if self.flip and rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.shift > 0:
            reach = self.shift * image.width
            image = translate(
                image, *(int(step) for step in np.rint(rng.uniform(-reach, reach, 2)))
            )
        if self.color > 0:
            for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
                image = enhance(image).enhance(rng.uniform(1 - self.color, 1 + self.color))
        return image


def translate(image: Image.Image, right: int, down: int) -> Image.Image:
    """Move a picture's content by whole pixels; what becomes free repeats the border."""
    rows = np.clip(np.arange(image.height) - down, 0, image.height - 1)
    columns = np.clip(np.arange(image.width) - right, 0, image.width - 1)
    return Image.fromarray(np.asarray(image)[rows[:, None], columns])


def _interval(name: str, value: object, upper: float) -> tuple[float, float]:
    pair = tuple(value) if isinstance(value, list | tuple) else ()
    if len(pair) != 2 or not all(map(is_number, pair)) or not 0 < pair[0] <= pair[1] <= upper:
        bound = "" if upper == math.inf else f" <= {upper:g}"
        raise DataError(
            f"`{name}` must be two numbers 0 < least <= greatest{bound}. Received: {name}={value}"
        )
    return float(pair[0]), float(pair[1])
