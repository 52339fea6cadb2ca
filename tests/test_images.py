"""How pictures are read and framed."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from keras_squeezenet.data import DataError, Framing
from keras_squeezenet.data.images import decode_rgb, decode_square, read_thumbnail
from tests.pictures import noise, scene, solid, stored, write


def test_evaluation_takes_the_centre_of_the_resized_picture():
    assert Framing(10).box(20, 10) == (5, 0, 15, 10)
    assert Framing(224, resize=256).box(256, 512) == (16, 144, 240, 368)
    assert Framing(10, resize="stretch").box(20, 10) == (0, 0, 20, 10)


def test_evaluation_agrees_with_pillows_own_crop_and_resize():
    image = noise(40, 61)
    expected = ImageOps.fit(image, (16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(decode_square(image, Framing(16)), expected)


@pytest.mark.parametrize("arguments", [(0,), (True,), (8.0,), (8, 7), (8, "squash")])
def test_framing_refuses_impossible_sizes(arguments):
    with pytest.raises(DataError, match="Received: "):
        Framing(*arguments)


RED = (200, 10, 30)


def sixteen_bit_png(value: int) -> Image.Image:
    return stored(Image.fromarray(np.full((8, 8), value, np.uint16)), "PNG")


@pytest.mark.parametrize(
    ("image", "expected", "tolerance"),
    [
        (stored(Image.new("L", (8, 8), 90), "PNG"), (90, 90, 90), 0),
        (stored(Image.new("1", (8, 8), 1), "PNG"), (255, 255, 255), 0),
        (stored(Image.new("RGB", (8, 8), RED).quantize(8), "PNG"), RED, 0),
        (stored(Image.new("RGBA", (8, 8), (*RED, 0)), "PNG"), (255, 255, 255), 0),
        # Half covered: (200 + 255) / 2, (10 + 255) / 2, (30 + 255) / 2.
        (stored(Image.new("RGBA", (8, 8), (*RED, 128)), "PNG"), (227, 132, 142), 1),
        (stored(Image.new("LA", (8, 8), (0, 128)), "PNG"), (127, 127, 127), 1),
        (stored(Image.new("RGB", (8, 8), RED), "PNG", transparency=RED), (255, 255, 255), 0),
        (sixteen_bit_png(65535), (255, 255, 255), 0),
        (sixteen_bit_png(257 * 77), (77, 77, 77), 0),
        (stored(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "JPEG"), (0, 255, 255), 2),
        (stored(Image.new("RGB", (8, 8), RED), "BMP"), RED, 0),
        (stored(Image.new("RGBA", (8, 8), (*RED, 0)), "WEBP", lossless=True), (255,) * 3, 0),
        (
            stored(solid(9), "GIF", save_all=True, append_images=[solid(200)]),
            (9, 9, 9),
            0,
        ),
    ],
    ids=[
        *("grey", "bilevel", "palette", "transparent", "half transparent", "grey with alpha"),
        *("transparent colour", "16-bit white", "16-bit grey", "CMYK", "BMP", "WebP", "animation"),
    ],
)
def test_every_kind_of_pixel_becomes_rgb(image, expected, tolerance):
    pixels = decode_square(image, Framing(4))
    assert pixels.shape == (4, 4, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels.astype(int), np.full((4, 4, 3), expected), atol=tolerance)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright_whichever_way_the_camera_was_held(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = stored(scene(48, 32), "JPEG", exif=exif, quality=95)
    expected = ImageOps.exif_transpose(photo)
    np.testing.assert_array_equal(decode_rgb(photo), expected)
    cropped = ImageOps.fit(expected, (16, 16), Image.Resampling.BILINEAR)
    # Pillow resizes across first and rounds in between: turned by 90 degrees, a level may differ.
    difference = decode_square(photo, Framing(16)).astype(int) - np.asarray(cropped, int)
    assert np.abs(difference).max() <= (1 if orientation >= 5 else 0)


def test_a_garbled_exif_block_does_not_spoil_the_picture():
    photo = stored(scene(16, 16), "JPEG", exif=b"Exif\0\0no such thing")
    assert decode_square(photo, Framing(8)).std() > 10


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_thumbnail_is_the_whole_picture_upright_and_small(orientation, tmp_path):
    image = scene(600, 400)
    exif = Image.Exif()
    exif[274] = orientation
    write(image, tmp_path / "photo.jpg", exif=exif, quality=95)
    expected = np.asarray(
        ImageOps.exif_transpose(Image.open(tmp_path / "photo.jpg")).resize(
            (60, 40) if orientation > 4 else (40, 60), Image.Resampling.BOX
        )
    )

    thumbnail = read_thumbnail(tmp_path / "photo.jpg", 60)

    assert thumbnail.shape == expected.shape
    assert np.abs(thumbnail.astype(int) - expected).mean() < 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_decoding_large_jpegs_at_reduced_size_shows_the_same_part(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = stored(scene(1203, 901), "JPEG", exif=exif, quality=95)
    upright = ImageOps.exif_transpose(photo)
    expected = ImageOps.fit(upright, (64, 64), Image.Resampling.BILINEAR)
    fresh = stored(scene(1203, 901), "JPEG", exif=exif, quality=95)
    reduced = decode_square(fresh, Framing(64))
    assert fresh.size != photo.size
    difference = np.abs(reduced.astype(int) - np.asarray(expected, int))
    assert difference.mean() < 0.5
    assert difference.max() <= 4
