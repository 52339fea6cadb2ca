"""How long networks take for one image on this machine, as LiteRT files, measured side by side."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import keras
import numpy as np

from keras_squeezenet.errors import one_line
from keras_squeezenet.extras import require
from keras_squeezenet.litert.comparison import ExportError
from keras_squeezenet.litert.export import export_litert
from keras_squeezenet.litert.inference_network import takes_pixels
from keras_squeezenet.litert.model import LiteRTModel
from keras_squeezenet.network.graph import has_graph

_WARM_UP = 2  # the first calls take memory


@dataclass(frozen=True)
class Latency:
    """Milliseconds for one image, over several calls.

    Attributes:
        median: of the calls.
        low, high: their quartiles.
        calls: how many were measured.
        threads: of the interpreter.
    """

    median: float
    low: float
    high: float
    calls: int
    threads: int


def measure_latencies(
    models: Sequence[keras.Model], *, calls: int, threads: int
) -> list[Latency | str]:
    """Time networks as float32 LiteRT files, each compared with its model before.

    They are called in turns, one image each, so that what else the machine does slows all alike.

    Args:
        models: the networks.
        calls: of each.
        threads: of the interpreter.

    Returns:
        A `Latency` of each; or, of one that makes no LiteRT file, the reason in a line.

    Raises:
        NotInstalledError: LiteRT is not installed.
    """
    require("litert")
    with TemporaryDirectory() as folder:
        opened = [
            _open(model, Path(folder) / f"{number}.tflite", threads)
            for number, model in enumerate(models)
        ]
        files = [file for file in opened if isinstance(file, LiteRTModel)]
        measured = iter(_in_turns(files, calls, threads))
        return [file if isinstance(file, str) else next(measured) for file in opened]


def _open(model: keras.Model, path: Path, threads: int) -> LiteRTModel | str:
    """A file of a model, compared with it on an image of noise; or why there is none."""
    try:
        if not has_graph(model):
            raise ValueError(f"a functional or Sequential model is wanted, not {model!r:.100}")
        shape = (1, *(size or 1 for size in model.inputs[0].shape[1:]))
        low, high = (0, 255) if takes_pixels(model) else (-1, 1)
        image = np.random.default_rng(0).uniform(low, high, shape).astype(np.float32)
        export_litert(model, path, check_images=image)
        return LiteRTModel(path, num_threads=threads)
    except (ValueError, ExportError) as error:
        return one_line(error)


def _in_turns(files: Sequence[LiteRTModel], calls: int, threads: int) -> list[Latency]:
    shapes = [(1, *(size or 1 for size in file.input_shape[1:])) for file in files]
    images = [np.zeros(shape, np.float32) for shape in shapes]
    seconds = np.empty((_WARM_UP + calls, len(files)))
    for turn in seconds:
        for number, (file, image) in enumerate(zip(files, images, strict=True)):
            begin = time.perf_counter()
            file.predict(image)
            turn[number] = time.perf_counter() - begin
    quartiles = 1000 * np.quantile(seconds[_WARM_UP:], (0.25, 0.5, 0.75), axis=0)
    return [
        Latency(float(median), float(low), float(high), calls, threads)
        for low, median, high in quartiles.T
    ]
