"""Which part of a picture a network is shown, and at what size."""

from dataclasses import dataclass, replace
from typing import Literal, Self

from PIL import Image

from keras_squeezenet.checks import is_integer
from keras_squeezenet.data.errors import DataError

Box = tuple[float, float, float, float]
"""(left, upper, right, lower) in pixels of the upright picture; fractions are meant."""


@dataclass(frozen=True)
class Framing:
    """Which part of a picture evaluation looks at, and at what size.

    Attributes:
        image_size: Side of the square, in pixels.
        resize: Length of the picture's short side, in pixels, of which the central square of
            `image_size` is taken; by default `image_size`. `"stretch"` squeezes the whole picture
            into the square and ignores its aspect.
        resample: Pillow's filter. All of them are antialiased when they shrink.

    Raises:
        DataError: `image_size` is no positive integer, or `resize` is smaller than it.
    """

    image_size: int
    resize: int | Literal["stretch"] | None = None
    resample: Image.Resampling = Image.Resampling.BILINEAR

    def __post_init__(self) -> None:
        require_positive("image_size", self.image_size)
        if self.resize is None:
            object.__setattr__(self, "resize", self.image_size)
        if self.resize == "stretch":
            return
        if not is_integer(self.resize, self.image_size):
            raise DataError(
                f"`resize` must be 'stretch' or a number of pixels that is not less than "
                f"image_size={self.image_size}. Received: resize={self.resize}"
            )

    def at(self, image_size: int) -> Self:
        """The same part of the picture at another size."""
        if self.resize == "stretch":
            return replace(self, image_size=image_size)
        require_positive("image_size", image_size)
        assert self.resize is not None  # since __post_init__
        resize = round(self.resize * image_size / self.image_size)
        return replace(self, image_size=image_size, resize=resize)

    def box(self, width: int, height: int) -> Box:
        """The part of a picture of `width` x `height` pixels that fills the square."""
        if self.resize == "stretch":
            return 0.0, 0.0, float(width), float(height)
        assert self.resize is not None  # since __post_init__
        side = min(width, height) * self.image_size / self.resize
        left, upper = (width - side) / 2, (height - side) / 2
        return left, upper, left + side, upper + side


def require_positive(name: str, value: object) -> None:
    if not is_integer(value, 1):
        raise DataError(f"`{name}` must be a positive integer. Received: {name}={value}")


def require_natural(name: str, value: object) -> None:
    if not is_integer(value, 0):
        raise DataError(f"`{name}` must be a non-negative integer. Received: {name}={value}")
