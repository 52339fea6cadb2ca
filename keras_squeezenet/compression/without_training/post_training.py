"""Compression without training: from a trained network and a few hundred images to few bits.

The images need no labels. Every layer gets a codebook and codes that leave its outputs as they
were (`reconstruction`), bits go to the layers where they count (`allocation`), and layers are
rounded in the order in which an image meets them, so that each makes up for what those before it
have changed.
"""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from keras_squeezenet import sqz
from keras_squeezenet.checks import is_int, is_number
from keras_squeezenet.compression.squeezenet_settings import NotASqueezeNetError, settings_of
from keras_squeezenet.compression.without_training.allocation import (
    PRICE_PRECISION,
    PRICES,
    allocate,
    grid,
    measure_layers,
    rate_weight,
)
from keras_squeezenet.compression.without_training.calibration import sites
from keras_squeezenet.compression.without_training.codebooks import MAX_BITS, share_values
from keras_squeezenet.compression.without_training.grid_rounding import (
    GridRounding,
    share_model,
)
from keras_squeezenet.compression.without_training.reconstruction import Layer
from keras_squeezenet.compression.without_training.size_search import Say, of_size
from keras_squeezenet.errors import InputError
from keras_squeezenet.printing import silent
from keras_squeezenet.sqz.network import CompressedNetwork, SharedValues
from keras_squeezenet.sqz.versions import Compressed

MEASURED_IMAGES = 48  # on which layers are measured one by one
BIAS_PRECISION = 0.5  # of the step that would be best by theory: biases are few
FINEST_BIAS = 2**-12  # of the largest bias: where a layer's inputs nearly vanish, theory asks more


def share_weights(
    model: keras.Model,
    images: np.ndarray,
    *,
    bits: int | dict[str, int],
    density: float | dict[str, float] | None = None,
    progress: Say | None = None,
) -> Compressed:
    """Prune a trained network and share the rest of its weights, as in Deep Compression.

    Args:
        model: a `keras.Model` that `SqueezeNet` built, whose other weights then answer what is
            changed; or any that a .sqz file holds, where the smallest weights go and the images
            are not looked at. It stays as it is.
        images: float32 array, as the model takes them; a hundred or more.
        bits: of the codebook of each kernel: 2**bits values, 1 to 16; an integer or a dict by the
            names of `Architecture.kernel_shapes`, or of another model "layer/kernel".
        density: share of the weights of each kernel that are kept, those that are hardest to do
            without; a number, a dict by name, or None for those that are not 0 already.
        progress: called with a line about each layer.

    Returns:
        A `CompressedNetwork`, or of another model than a SqueezeNet with its own top a
        `CompressedModel`.

    Raises:
        InputError: an argument is none of these.
    """
    say = progress or silent
    try:
        settings = settings_of(model)
    except NotASqueezeNetError:
        return share_model(
            model,
            lambda name: _checked_bits(_of_layer("bits", bits, name)),
            lambda name: _checked_density(_of_layer("density", density, name)),
            progress,
        )
    names = settings["architecture"].kernel_shapes(settings["classes"])
    bits_of = {name: _checked_bits(_of_layer("bits", bits, name)) for name in names}
    density_of = {name: _checked_density(_of_layer("density", density, name)) for name in names}
    images = _checked_images(model, images)

    def quantize(name: str, layer: Layer) -> tuple[SharedValues, SharedValues]:
        kept = _kept(layer, density_of[name])
        kernel, _ = layer.pruned(kept)
        codebook = share_values(kernel, bits_of[name]).codebook
        if 0 not in codebook:
            codebook[np.abs(codebook).argmin()] = 0
        codes, bias = layer.assign(codebook, kept=kept)
        say(f"{name}: {kept.mean():.0%} of the weights, {codebook.size} values")
        return SharedValues.of(codebook[codes]), SharedValues.of(bias.astype(np.float16))

    return _in_order(model, images, quantize)


def fit_to_size(
    model: keras.Model, images: np.ndarray, target_size: int, *, progress: Say | None = None
) -> Compressed:
    """Round a trained network to a file of a wanted size, as accurately as is known here.

    Args:
        model: a `keras.Model` that `SqueezeNet` built; or any that a .sqz file holds, where the
            images are not looked at. It stays as it is.
        images: float32 array, as the model takes them; a few hundred. They need no labels.
        target_size: bytes of the .sqz file in its best mode, without class names.
        progress: called with a line about each step.

    Returns:
        A `CompressedNetwork`, or of another model than a SqueezeNet with its own top a
        `CompressedModel`, whose file is not larger.

    Raises:
        InputError: the size cannot be reached.
    """
    return rounding_of(model, images, progress).fit_to_size(target_size)


def rounding_of(
    model: keras.Model, images: np.ndarray, progress: Say | None = None
) -> "Rounding | GridRounding":
    """What rounds a model at a price per bit, the better where it is a SqueezeNet with its top."""
    try:
        return Rounding(model, images, progress)
    except NotASqueezeNetError:
        return GridRounding(model, progress)


class Rounding:
    """A network, what its layers take, and how sensitive it is to the rounding of each.

    Args:
        model, images, progress: see `fit_to_size`.
    """

    def __init__(self, model: keras.Model, images: np.ndarray, progress: Say | None = None) -> None:
        self._say = say = progress or silent
        self._settings = settings_of(model)
        self._model, self._images = model, (images := _checked_images(model, images))
        self._quick_sizes: dict[float, int] = {}  # by the logarithm of the price
        # Of layers as if all others were the original, by name and step: prices share many.
        self._alone: dict[tuple[str, float], tuple[SharedValues, SharedValues]] = {}
        self._layers: dict[str, Layer] = {}
        for site in sites(model, model, images):
            kernel, bias = _arrays(site.original)
            self._layers[site.name] = Layer(kernel, bias, site.moments())
            say(f"{site.name}: seen on {len(images)} images")
        self._curves = measure_layers(
            model,
            self._layers,
            images[:MEASURED_IMAGES],
            lambda name: say(f"{name}: how sensitive it is"),
        )

    def fit_to_size(self, target_size: int) -> CompressedNetwork:
        """The network whose file is nearly as large as asked for, and not larger.

        Raises:
            InputError: the size cannot be reached.
        """
        return of_size(target_size, self.price_for, self.network, self._say)

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

    def network(self, price: float) -> CompressedNetwork:
        """The network rounded at a price per bit, each layer after those before it."""
        steps = allocate(self._curves, price)

        return _in_order(
            self._model, self._images, lambda name, layer: _rounded(layer, steps[name])
        )

    def _quick_size(self, price: float) -> int:
        """As `network`, but each layer as if all others were the original: ten times faster."""
        steps = allocate(self._curves, price)
        kernels, biases = {}, {}
        for name, layer in self._layers.items():
            key = name, steps[name]
            if key not in self._alone:
                self._alone[key] = _rounded(layer, steps[name])
            kernels[name], biases[name] = self._alone[key]
        return len(sqz.encode(_network(self._settings, kernels, biases)))


def _rounded(layer: Layer, step: float) -> tuple[SharedValues, SharedValues]:
    """A layer's kernel and bias as `SharedValues`, the kernel in multiples of a step."""
    step = float(np.float32(step))  # as it stands in the file
    codebook = grid(layer, step)
    codes, bias = layer.assign(codebook, rate_weight(layer, step))
    bias_step = _bias_step(layer, step)
    levels = np.rint(bias / bias_step).astype(int)
    return _uniform(codes - len(codebook) // 2, step), _uniform(levels, bias_step)


def _uniform(levels: np.ndarray, step: float) -> SharedValues:
    """Multiples of a step: the codebook holds all of them from the lowest to the highest."""
    lowest, highest = int(levels.min()), int(levels.max())
    codebook = np.float32(step) * np.arange(lowest, highest + 1, dtype=np.float32)
    return SharedValues((levels - lowest).astype(np.uint16), codebook + np.float32(0))


def _bias_step(layer: Layer, step: float) -> float:
    """Biases as fine as the weights, by what an error costs."""
    ratio = np.sqrt(layer.stiffness / layer.bias_stiffness)
    finest = FINEST_BIAS * np.abs(layer.bias).max()
    return float(np.float32(max(BIAS_PRECISION * step * ratio, finest)))


def _in_order(
    model: keras.Model,
    images: np.ndarray,
    quantize: Callable[[str, Layer], tuple[SharedValues, SharedValues]],
) -> CompressedNetwork:
    """Quantize every layer after those before it; a `CompressedNetwork`."""
    settings = settings_of(model)
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    kernels, biases = {}, {}
    for site in sites(model, copy, images):
        layer = Layer(*_arrays(site.original), site.moments())
        kernel, bias = quantize(site.name, layer)
        site.copy.kernel.assign(kernel.values)
        site.copy.bias.assign(bias.values)
        kernels[site.name], biases[site.name] = kernel, bias
    return _network(settings, kernels, biases)


def _network(
    settings: Mapping[str, Any],
    kernels: Mapping[str, SharedValues],
    biases: Mapping[str, SharedValues],
) -> CompressedNetwork:
    names = settings["architecture"].kernel_shapes(settings["classes"])
    return CompressedNetwork(
        **settings,
        class_names=None,
        resize=None,
        kernels={name: kernels[name] for name in names},
        biases={name: biases[name] for name in names},
    )


def _arrays(convolution: keras.layers.Conv2D) -> tuple[np.ndarray, np.ndarray]:
    return convolution.kernel.numpy(), convolution.bias.numpy()


def _kept(layer: Layer, density: float | None) -> np.ndarray:
    if density is None:
        return layer.nonzero
    saliency = layer.saliency
    count = max(1, round(density * saliency.size))
    threshold = np.partition(saliency.ravel(), saliency.size - count)[saliency.size - count]
    return saliency >= threshold


def _checked_images(model: keras.Model, images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    expected = tuple(model.input_shape[1:])
    if images.dtype.kind not in "fiu" or images.shape[1:] != expected:
        raise InputError(
            f"`images` must be numbers of shape [n, {', '.join(map(str, expected))}]. "
            f"Received: {images.dtype} of shape {images.shape}"
        )
    return images.astype(np.float32, copy=False)


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


def _of_layer(name: str, value: Any, layer: str) -> Any:
    if not isinstance(value, dict):
        return value
    if layer not in value:
        raise InputError(f"`{name}` must name every kernel. Received: none for {layer}")
    return value[layer]
