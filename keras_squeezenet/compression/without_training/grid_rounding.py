"""Any model's kernels in few values, by what the kernels themselves are.

`post_training` answers what rounding does to a SqueezeNet's outputs; for other networks nothing is
measured on images yet. Kernels are pruned by magnitude and their values shared by k-means (Deep
Compression, arXiv 1510.00149), or rounded to uniform grids, whose steps have the same ratio to the
root mean square of each kernel: with an entropy coder behind it, that is the better of the two.
Biases and normalizations are rounded to float16 where that changes each by less than 1/2048.
"""

from collections.abc import Callable

import keras
import numpy as np
from numpy.typing import NDArray

from keras_squeezenet.compression.graph_reading import graph_and_arrays
from keras_squeezenet.compression.without_training.allocation import PRICE_PRECISION, PRICES
from keras_squeezenet.compression.without_training.codebooks import share_values
from keras_squeezenet.compression.without_training.reconstruction import entropy_bits
from keras_squeezenet.compression.without_training.size_search import Say, of_size
from keras_squeezenet.printing import silent
from keras_squeezenet.sqz.model import CompressedModel, Stored, is_kernel, stored
from keras_squeezenet.sqz.network import SharedValues

# Where grids are fine, a bit is worth the square of their step: here four root mean squares of a
# kernel at the highest price, as `allocation` measures its layers.
COARSEST_STEP = 4.0
HALF_PRECISION = 2.0**-11  # of a value, that rounding to float16 may change
MAX_LEVEL = 2**15 - 1  # of a grid, either sign

OfKernel = Callable[[str], float | None]


def share_model(
    model: keras.Model, bits_of: Callable[[str], int], density_of: OfKernel, progress: Say | None
) -> CompressedModel:
    """Prune the smallest weights of each kernel and share the values of the rest.

    Args:
        model: of layers that a .sqz file holds; it stays as it is.
        bits_of: of a kernel's name, 2**bits values.
        density_of: of a kernel's name, the share of weights that are kept; None keeps all.
        progress: called with a line about each kernel.

    Raises:
        UnsupportedModelError: no .sqz file holds the model.
    """
    say = progress or silent
    graph, arrays = graph_and_arrays(model)
    found: dict[str, Stored] = {}
    for name, array in arrays.items():
        if is_kernel(name):
            kept = _largest(array, density_of(name))
            found[name] = stored(share_values(np.where(kept, array, 0), bits_of(name)).values)
            say(f"{name}: {kept.mean():.0%} of the weights, 2**{bits_of(name)} values or fewer")
        else:
            found[name] = stored(_halved(array))
    return CompressedModel(model.name, graph, found)


class GridRounding:
    """A model whose kernels are rounded to grids; the methods are those of `Rounding`.

    Args:
        model: of layers that a .sqz file holds; it stays as it is.
        progress: called with a line about each step.
    """

    def __init__(self, model: keras.Model, progress: Say | None = None) -> None:
        self._say = progress or silent
        self._name = model.name
        self._graph, self._arrays = graph_and_arrays(model)
        self._kernels = {name: a for name, a in self._arrays.items() if is_kernel(name)}

    def network(self, price: float) -> CompressedModel:
        """The model rounded at a price per bit."""
        arrays = {
            name: _on_grid(array, price) if name in self._kernels else stored(_halved(array))
            for name, array in self._arrays.items()
        }
        return CompressedModel(self._name, self._graph, arrays)

    def price_for(self, target_size: float) -> float:
        """The lowest price per bit at which the kernels' codes have about this many bytes."""
        low, high = np.log(PRICES)
        while high - low > PRICE_PRECISION:
            middle = (low + high) / 2
            if self._bytes_of_codes(float(np.exp(middle))) > target_size:
                low = middle
            else:
                high = middle
        return float(np.exp(high))

    def fit_to_size(self, target_size: int) -> CompressedModel:
        """The model whose file is nearly as large as asked for, and not larger.

        Raises:
            InputError: the size cannot be reached.
        """
        return of_size(target_size, self.price_for, self.network, self._say)

    def _bytes_of_codes(self, price: float) -> float:
        return sum(entropy_bits(_levels(a, price)[0]) for a in self._kernels.values()) / 8


def _largest(array: NDArray[np.float32], density: float | None) -> NDArray[np.bool_]:
    if density is None:
        return np.ones(array.shape, bool)
    magnitudes = np.abs(array)
    count = max(1, round(density * array.size))
    return magnitudes >= np.partition(magnitudes.ravel(), array.size - count)[array.size - count]


def _halved(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """As float16 has it, or as it was where float16 has too few bits or too small a range."""
    with np.errstate(over="ignore"):
        half = array.astype(np.float16).astype(np.float32)
    fine = np.abs(half - array) <= HALF_PRECISION * np.abs(array)
    return half if fine.all() else array


def _levels(array: NDArray[np.float32], price: float) -> tuple[NDArray[np.int64], float]:
    """Whole numbers from 0 on, the lowest level subtracted, and the step."""
    rms = float(np.sqrt(np.mean(np.square(array, dtype=np.float64))))
    relative = COARSEST_STEP * np.sqrt(price / PRICES[1])
    step = max(relative * rms, float(np.abs(array).max()) / MAX_LEVEL)
    step = float(np.float32(step or 1))  # as it stands in the file
    levels = np.rint(array / np.float32(step)).astype(np.int64)
    return levels - levels.min(), step


def _on_grid(array: NDArray[np.float32], price: float) -> Stored:
    levels, step = _levels(array, price)
    lowest = int(np.rint(array.min() / np.float32(step)))
    codebook = np.float32(step) * np.arange(
        lowest, lowest + int(levels.max()) + 1, dtype=np.float32
    )
    return SharedValues(levels.astype(np.uint16), codebook + np.float32(0))
