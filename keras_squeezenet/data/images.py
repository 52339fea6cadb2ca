"""One picture: from whatever an image file holds to a square of RGB pixels.

Pillow decodes, crops and resizes, in one pass and with antialiasing, because it was faster than
`tf.io.decode_jpeg` with `tf.image.resize` (1,330 against 850 images per second and core on
256-pixel JPEGs to 128 pixels; AMD EPYC) and reads more kinds of files.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from keras_squeezenet.data.augmentation import Augmentation
from keras_squeezenet.data.errors import DataError
from keras_squeezenet.data.framing import Box, Framing
from keras_squeezenet.errors import one_line

# Pillow knows some forty formats, many of them little tested against hostile bytes.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")

# Pillow's own default: 256 MB of RGB. Beyond it an image counts as a decompression bomb.
MAX_PIXELS = 89_478_485

# The smallest pictures that are known to be classified, scikit-learn's digits, are 8 × 8. What is
# smaller in a folder of photos is a spacer or a web beacon: resized it is a colour, not a picture.
MIN_SIDE = 8

# Those in which several frames are one film after the other. A JPEG of several pictures (MPO), as
# telephones write, is one photo with its preview or gain map.
_ANIMATED_FORMATS = ("GIF", "PNG", "WEBP")

# A JPEG is decoded at 1/2, 1/4 or 1/8 of its size, which is far cheaper, only while this much is
# left for the antialiased resize. From 3 on Pillow's documentation calls the result
# indistinguishable: photos shrunk to 1/8 of their side differed by 0.3 of 255 levels on average
# (by 1.2 with a gap of 2).
REDUCING_GAP = 3.0

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(file: str | BinaryIO) -> Image.Image:
    """Open an image without decoding it.

    Raises:
        Exception: Pillow's own, of many kinds, where the bytes are no image of `FORMATS`.
        ValueError: The picture has more than `MAX_PIXELS` pixels, or a side below `MIN_SIDE`.
    """
    image = Image.open(file, formats=FORMATS)
    problem = _size_problem(*image.size)
    if problem:
        image.close()
        raise ValueError(problem)
    return image


@contextmanager
def open_still(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Open an image file of which one answer is to be given; `with` closes it.

    An animation is refused: the answer would be about its first frame alone. In training and
    evaluation, where the first frame is taken, somebody has looked at the file and labelled it.

    Raises:
        DataError: one line that names the file: it cannot be opened or, inside the block, not be
            decoded.
    """
    try:
        with open_image(os.fspath(path)) as image:
            if image.format in _ANIMATED_FORMATS and getattr(image, "is_animated", False):
                raise ValueError("an animation; expected a still picture")
            yield image
    except UnidentifiedImageError:
        kinds = ", ".join(FORMATS)
        raise DataError(f"{path}: expected a picture ({kinds}), and this is none") from None
    # Pillow's plug-ins raise nearly anything for hostile bytes.
    except Exception as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise DataError(f"{path}: {reason}") from error


def check_still(path: str | os.PathLike[str]) -> None:
    """Decode an image file to its end and keep nothing.

    Raises:
        DataError: as `open_still`.
    """
    with open_still(path) as image:
        # The quickest that meets every byte: of a JPEG, an eighth of its side.
        image.draft(None, (1, 1))
        image.load()


def read_square(path: str | os.PathLike[str], framing: Framing) -> np.ndarray:
    """`decode_square` of an image file.

    Raises:
        DataError: as `open_still`.
    """
    with open_still(path) as image:
        return decode_square(image, framing)


def read_thumbnail(path: str | os.PathLike[str], side: int) -> np.ndarray:
    """The whole picture of an image file, upright, its longer side at most `side` pixels.

    Returns:
        uint8 `[height, width, 3]`, RGB.

    Raises:
        DataError: as `open_still`.
    """
    with open_still(path) as image:
        image.draft(None, (side, side))
        picture = decode_rgb(image)
        picture.thumbnail((side, side))
        return np.asarray(picture)


def decode_rgb(image: Image.Image) -> Image.Image:
    """The whole picture, upright, in RGB: grey, palette, 16-bit and CMYK converted, alpha laid on
    white.

    Of an animation it is the first frame.
    """
    return _upright(_to_rgb(image), _orientation(image))


def decode_square(
    image: Image.Image,
    framing: Framing,
    augmentation: Augmentation | None = None,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Decode, crop and resize an opened picture.

    Args:
        image: As `open_image` gives it.
        framing: Evaluation's crop, and the size.
        augmentation: Random changes, drawn from `rng`. None for evaluation.

    Returns:
        uint8 `[image_size, image_size, 3]`, RGB.
    """
    orientation = _orientation(image)
    width, height = image.size if orientation < 5 else image.size[::-1]
    if augmentation is None:
        box = framing.box(width, height)
    else:
        assert rng is not None  # to draw the changes from
        box = augmentation.box(width, height, framing, rng)

    box = _stored_box(box, image.size, orientation)
    scale = _reduce_jpeg(image, box, framing.image_size)
    side = framing.image_size
    left, upper, right, lower = (edge * scale for edge in box)
    square = _to_rgb(image).resize((side, side), framing.resample, (left, upper, right, lower))
    square = _upright(square, orientation)
    if augmentation is not None and rng is not None:
        square = augmentation.alter(square, rng)
    return np.asarray(square)


def _size_problem(width: int, height: int) -> str | None:
    if width * height > MAX_PIXELS:
        return f"{width} x {height} pixels are more than {MAX_PIXELS:,}"
    if min(width, height) < MIN_SIDE:
        return f"{width} x {height} pixels; expected at least {MIN_SIDE} on each side"
    return None


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    # A camera's garbled EXIF block does not make its pixels worse; Pillow raises many kinds of
    # errors for it.
    except Exception:
        return 1
    return value if value in _UPRIGHT else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image if orientation == 1 else image.transpose(_UPRIGHT[orientation])


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        # convert("RGB") would clip 16-bit grey at 255 instead of scaling it.
        grey = np.clip(np.asarray(image), 0, 65535) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, "white")
        canvas.alpha_composite(image.convert("RGBA"))
        return canvas.convert("RGB")
    return image.convert("RGB")


def _stored_box(box: Box, size: tuple[int, int], orientation: int) -> Box:
    """Where a part of the upright picture lies in the stored one, which has `size`."""
    left, upper, right, lower = box if orientation < 5 else (box[1], box[0], box[3], box[2])
    if orientation in (2, 3, 7, 8):
        left, right = size[0] - right, size[0] - left
    if orientation in (3, 4, 6, 7):
        upper, lower = size[1] - lower, size[1] - upper
    return left, upper, right, lower


def _reduce_jpeg(image: Image.Image, box: Box, image_size: int) -> float:
    """Let a much larger JPEG be decoded at a fraction of its size, and return that fraction."""
    shrinking = min(box[2] - box[0], box[3] - box[1]) / (REDUCING_GAP * image_size)
    if shrinking < 2:
        return 1.0
    width = image.width
    reduced = image.draft(None, (int(width / shrinking), int(image.height / shrinking)))
    # Sizes are rounded up to whole pixels; the box that comes back is exact.
    return 1.0 if reduced is None else reduced[1][2] / width
