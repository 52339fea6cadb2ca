"""Small pictures, and what comes out of a stream of them."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from keras_squeezenet.data.images import open_image


def solid(value: int, size: tuple[int, int] = (9, 8)) -> Image.Image:
    return Image.new("RGB", size, (value, value, value))


def write(image: Image.Image, path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def write_class(folder: Path, count: int) -> None:
    for number in range(count):
        write(solid(number), folder / f"{number:03}.png")


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def scene(height: int, width: int) -> Image.Image:
    """Something smooth and without symmetry, as photos are."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    channels = (np.sin(9 * x + 4 * y), np.cos(5 * y * x + x), np.sin(7 * y) * x)
    return Image.fromarray((127 + 127 * np.stack(channels, -1)).astype(np.uint8))


def stored(image: Image.Image, kind: str, **options) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    buffer.seek(0)
    return open_image(buffer)


def labels_of(batches) -> list[int]:
    return [int(label) for _, labels in batches for label in labels.numpy()]


def epochs_of(dataset, count: int, *, batch_size: int = 4, ranks: int = 1, **options):
    """Labels in the order of the stream, epoch by epoch."""
    steps = dataset.train.steps_per_epoch(batch_size, ranks)
    batches = dataset.train.train_batches(batch_size, ranks=ranks, **options).take(count * steps)
    return np.reshape(labels_of(batches), (count, steps * batch_size)).tolist()
