"""Compression without training: from a trained network and a few hundred images to few bits.

The images need no labels. Every kernel gets a codebook and codes that leave its layer's outputs as
they were (`reconstruction`), bits go to the layers where they count (`allocation`), and kernels are
rounded in the order in which an image meets them, so that each makes up for what those before it
have changed. Batch normalization is folded into the layers beside it first, so that their biases
can answer, too.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_squeezenet import sqz
from keras_squeezenet.checks import is_int, is_number
from keras_squeezenet.compression.saving import check_model
from keras_squeezenet.compression.without_training.allocation import (
    PRICE_PRECISION,
    PRICES,
    allocate,
    grid,
    measure_layers,
    rate_weight,
)
from keras_squeezenet.compression.without_training.calibration import (
    Images,
    Site,
    checked_images,
    sites,
    unseen_sites,
)
from keras_squeezenet.compression.without_training.codebooks import MAX_BITS, share_values
from keras_squeezenet.compression.without_training.linear_maps import LinearMap
from keras_squeezenet.compression.without_training.packing import Packing, Rounded
from keras_squeezenet.compression.without_training.reconstruction import Layer
from keras_squeezenet.compression.without_training.size_search import Say, of_size
from keras_squeezenet.errors import InputError
from keras_squeezenet.network.folding import fold_batch_normalization
from keras_squeezenet.printing import silent
from keras_squeezenet.sqz.network import SharedValues
from keras_squeezenet.sqz.versions import AnyCompressed

MEASURED_IMAGES = 48  # on which layers are measured one by one
BIAS_PRECISION = 0.5  # of the step that would be best by theory: biases are few
FINEST_BIAS = 2**-12  # of the largest bias: where a layer's inputs nearly vanish, theory asks more
# Without images every kernel's step has the same ratio to the root mean square of its weights: at
# the highest price four, as `allocation` measures layers. A bit is worth the square of the step.
COARSEST_STEP = 4.0

Quantize = Callable[[str, Layer], tuple[SharedValues, np.ndarray | None]]


def share_weights(
    model: keras.Model,
    images: np.ndarray | Sequence[np.ndarray] | None,
    *,
    bits: int | dict[str, int],
    density: float | dict[str, float] | None = None,
    fold: bool = True,
    progress: Say | None = None,
) -> AnyCompressed:
    """Prune a trained network and share the rest of its weights, as in Deep Compression.

    Args:
        model: a `keras.Model`, functional or Sequential, that a .sqz file holds. It stays as it is.
        images: float32 array, as the model takes them; a hundred or more. Of a model of several
            inputs a list of such. A layer whose inputs cannot be looked at (it is called more than
            once, it has more than 6,144 inputs, it is transposed and dilated) keeps its largest
            weights, each rounded by itself; with None all layers do.
        bits: of the codebook of each kernel: 2**bits values, 1 to 16; an integer or a dict by the
            names of kernels. Those of a SqueezeNet with its own top are in
            `Architecture.kernel_shapes`; others are "layer/kernel", "model/layer/depthwise_kernel".
        density: share of the weights of each kernel that are kept, those that are hardest to do
            without; a number, a dict by name, or None for those that are not 0 already.
        fold: whether batch normalization is folded first, see `fold_batch_normalization`.
        progress: called with a line about each layer.

    Returns:
        A `CompressedNetwork`, or of another model than a SqueezeNet with its own top a
        `CompressedModel`.

    Raises:
        UnsupportedModelError: no .sqz file holds the model.
        InputError: an argument is none of these.
    """
    say = progress or silent
    model = _folded(model, say) if fold else model
    packing = Packing(model)
    bits_of = {n: _checked_bits(b) for n, b in packing.of_kernels("bits", bits).items()}
    densities = packing.of_kernels("density", density)
    density_of = {name: _checked_density(value) for name, value in densities.items()}

    def quantize(name: str, layer: Layer) -> tuple[SharedValues, np.ndarray | None]:
        kept = _kept(layer, density_of[name])
        kernel, _ = layer.pruned(kept)
        codebook = share_values(kernel, bits_of[name]).codebook
        if 0 not in codebook:
            codebook[np.abs(codebook).argmin()] = 0
        codes, bias = layer.assign(codebook, kept=kept)
        say(f"{packing.called(name)}: {kept.mean():.0%} of the weights, {codebook.size} values")
        return SharedValues.of(codebook[codes]), None if bias is None else _in_float16(bias)

    return _in_order(model, packing, checked_images(model, images), quantize, say)


def fit_to_size(
    model: keras.Model,
    images: np.ndarray | Sequence[np.ndarray] | None,
    target_size: int,
    *,
    fold: bool = True,
    progress: Say | None = None,
) -> AnyCompressed:
    """Round a trained network to a file of a wanted size, as accurately as is known here.

    Args:
        model, images, fold: see `share_weights`. A few hundred images; they need no labels.
        target_size: bytes of the .sqz file in its best mode, without class names.
        progress: called with a line about each step.

    Returns:
        A `CompressedNetwork`, or of another model than a SqueezeNet with its own top a
        `CompressedModel`, whose file is not larger.

    Raises:
        UnsupportedModelError: no .sqz file holds the model.
        InputError: the size cannot be reached, or an argument is none of these.
    """
    return Rounding(model, images, fold=fold, progress=progress).fit_to_size(target_size)


class Rounding:
    """A network, what its layers take, and how sensitive it is to the rounding of each.

    Args:
        model, images, fold, progress: see `fit_to_size`.
    """

    def __init__(
        self,
        model: keras.Model,
        images: np.ndarray | Sequence[np.ndarray] | None,
        *,
        fold: bool = True,
        progress: Say | None = None,
    ) -> None:
        self._say = say = progress or silent
        self._model = model = _folded(model, say) if fold else model
        self._packing = packing = Packing(model)
        self._images = checked = checked_images(model, images)
        self._quick_sizes: dict[float, int] = {}  # by the logarithm of the price
        # Of layers as if all others were the original, by name and step: prices share many.
        self._alone: dict[tuple[str, float], Rounded] = {}
        self._layers: dict[str, Layer] = {}
        self._maps: dict[str, LinearMap] = {}
        for site in _sites(model, model, checked):
            self._layers[site.name], self._maps[site.name] = site.layer(), site.original
            seen = f"seen on {len(checked[0])} images" if checked else ""
            say(f"{packing.called(site.name)}: {_by_itself(site.unseen) or seen}")
        self._curves = (
            measure_layers(
                model,
                self._layers,
                [array[:MEASURED_IMAGES] for array in checked],
                lambda name: say(f"{packing.called(name)}: how sensitive it is"),
            )
            if checked
            else {}
        )

    def fit_to_size(self, target_size: int) -> AnyCompressed:
        """The network whose file is nearly as large as asked for, and not larger.

        Raises:
            InputError: the size cannot be reached.
        """
        return of_size(target_size, self.price_for, self.network, self._say)

    def largest_size(self) -> int:
        """About the bytes of the file at the lowest price."""
        return self._quick_size(PRICES[0])

    def price_for(self, target_size: float) -> float:
        """The lowest price per bit at which a file has about this size or less."""
        low, high = np.log(PRICES)
        for known, size in self._quick_sizes.items():
            if size > target_size:
                low = max(low, known)
            else:
                high = min(high, known)
        while high - low > PRICE_PRECISION:
            middle = (low + high) / 2
            self._quick_sizes[middle] = self._quick_size(np.exp(middle))
            if self._quick_sizes[middle] > target_size:
                low = middle
            else:
                high = middle
        return float(np.exp(high))

    def network(self, price: float) -> AnyCompressed:
        """The network rounded at a price per bit, each layer after those before it."""
        steps = self._steps(price)

        def quantize(name: str, layer: Layer) -> tuple[SharedValues, np.ndarray | None]:
            return _rounded(layer, steps[name])

        if not self._images:
            return self._alone_at(steps)
        return _in_order(self._model, self._packing, self._images, quantize, silent)

    def _steps(self, price: float) -> dict[str, float]:
        if self._images:
            return allocate(self._curves, price)
        relative = COARSEST_STEP * np.sqrt(price / PRICES[1])
        return {
            name: relative * (float(np.sqrt(np.mean(layer.kernel**2))) or 1.0)
            for name, layer in self._layers.items()
        }

    def _quick_size(self, price: float) -> int:
        """As `network`, but each layer as if all others were the original: ten times faster."""
        return len(sqz.encode(self._alone_at(self._steps(price))))

    def _alone_at(self, steps: dict[str, float]) -> AnyCompressed:
        for key in steps.items():
            if key not in self._alone:
                name, step = key
                self._alone[key] = _in_shape(self._maps[name], *_rounded(self._layers[name], step))
        return self._packing.pack({name: self._alone[name, steps[name]] for name in steps})


def _in_float16(bias: np.ndarray) -> np.ndarray:
    """As float16 has it, but for what is too large for it."""
    fits = np.abs(bias).max() <= np.finfo(np.float16).max
    return bias.astype(np.float16).astype(np.float32) if fits else bias


def _folded(model: keras.Model, say: Say) -> keras.Model:
    check_model(model)
    result = fold_batch_normalization(model)
    for normalization, layer in result.folded.items():
        say(f"{normalization}: folded into {layer}")
    return result.model


def _by_itself(unseen: str | None) -> str:
    return f"{unseen}, so that its weights are rounded without reconstruction" if unseen else ""


def _sites(model: keras.Model, copy: keras.Model, images: Images) -> Iterator[Site]:
    """Those of all kernels, or without images those of kernels whose inputs nobody knows."""
    return sites(model, copy, images) if images else unseen_sites(model, copy)


def _rounded(layer: Layer, step: float) -> tuple[SharedValues, np.ndarray | None]:
    """A layer's kernel in multiples of a step, and its bias."""
    step = float(np.float32(step))  # as it stands in the file
    codebook = grid(layer, step)
    codes, bias = layer.assign(codebook, rate_weight(layer, step))
    kernel = _uniform(codes - len(codebook) // 2, step)
    if bias is None:
        return kernel, None
    bias_step = _bias_step(layer, step, np.abs(bias).max())
    return kernel, _uniform(np.rint(bias / bias_step).astype(int), bias_step).values


def _uniform(levels: np.ndarray, step: float) -> SharedValues:
    """Multiples of a step: the codebook holds all of them from the lowest to the highest."""
    lowest, highest = int(levels.min()), int(levels.max())
    codebook = np.float32(step) * np.arange(lowest, highest + 1, dtype=np.float32)
    return SharedValues((levels - lowest).astype(np.uint16), codebook + np.float32(0))


def _bias_step(layer: Layer, step: float, largest: float) -> float:
    """Biases as fine as the weights, by what an error costs."""
    ratio = np.sqrt(layer.stiffness / layer.bias_stiffness)
    return float(np.float32(max(BIAS_PRECISION * step * ratio, FINEST_BIAS * largest))) or 1.0


def _in_shape(linear: LinearMap, kernel: SharedValues, bias: np.ndarray | None) -> Rounded:
    """What was rounded as `LinearMap.grouped`, in the shape that the model has."""
    codes = np.ascontiguousarray(linear.ungrouped(kernel.codes))
    return Rounded(SharedValues(codes, kernel.codebook), bias)


def _in_order(
    model: keras.Model, packing: Packing, images: Images, quantize: Quantize, say: Say
) -> AnyCompressed:
    """Quantize every kernel after those before it."""
    rounded = {}
    for site in _sites(model, packing.copy(), images):
        if site.unseen and images:
            say(f"{packing.called(site.name)}: {_by_itself(site.unseen)}")
        found = _in_shape(site.original, *quantize(site.name, site.layer()))
        site.copy.assign(found.kernel.values, found.bias)
        rounded[site.name] = found
    return packing.pack(rounded)


def _kept(layer: Layer, density: float | None) -> np.ndarray:
    if density is None:
        return layer.nonzero
    saliency = layer.saliency
    count = max(1, round(density * saliency.size))
    threshold = np.partition(saliency.ravel(), saliency.size - count)[saliency.size - count]
    return saliency >= threshold


def _checked_bits(bits: int) -> int:
    if not is_int(bits, 1, MAX_BITS):
        raise InputError(f"`bits` must be an integer from 1 to {MAX_BITS}. Received: bits={bits}")
    return bits


def _checked_density(density: Any) -> Any:
    if density is not None and not (is_number(density) and 0 < density <= 1):
        raise InputError(
            "`density` must be a number above 0 and at most 1, or None. "
            f"Received: density={density}"
        )
    return density
