"""How finely to round the weights of each layer, so that bits go where they count. Keras only.

Each layer alone is rounded with steps of several sizes, and what the network's probabilities move
by is measured: the mean Kullback-Leibler divergence from those of the original. Small divergences
of several layers add up nearly. So, at a price per bit, the best step of each layer can be found by
itself, and a network of a wanted size is one of some price (Lagrangian bit allocation, Shoham and
Gersho, 1988).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from keras_squeezenet.compression.without_training.calibration import batches, pieces, run
from keras_squeezenet.compression.without_training.reconstruction import Layer, entropy_bits
from keras_squeezenet.network.data_formats import Tensor
from keras_squeezenet.network.graph import convolutions_of

PRICES = (1e-10, 1e-3)  # nats per bit, between which any useful one is
PRICE_PRECISION = 0.01  # of its logarithm: about 0.2 % of the size

# Steps relative to the root mean square of a kernel, from coarse to fine.
RELATIVE_STEPS = tuple(4 / 2**exponent for exponent in range(9))
NEGLIGIBLE = 1e-4  # a divergence below which finer steps need not be tried
GREATEST = 2.0  # one above which the coarser step is of no interest
POINTS_BETWEEN = 8  # of the interpolation between two measured steps
RATE_SHARE = 0.3  # of what a bit is worth where rounding is fine; see `rate_weight`

_SMALLEST = 1e-9  # divergence, so that it has a logarithm


@dataclass(frozen=True)
class Measured:
    """What rounding one layer costs.

    Attributes:
        step: between neighbours of the grid that its weights are rounded to.
        bits: for all its weights.
        divergence: of the network's probabilities, in nats per image.
    """

    step: float
    bits: float
    divergence: float


# Of one layer, from coarse to fine.
Curve = list[Measured]


def rate_weight(layer: Layer, step: float) -> float:
    """What a bit may cost in `Layer.assign`, for a grid with this step.

    Where the grid is fine, distortion is stiffness·step²/12 and falls by a factor of 4 with each
    bit, so that a bit is worth 2·ln 2 of that. Taking all of it rounds too many weights to zero
    before the others could answer; the share was chosen by trial.
    """
    return RATE_SHARE * 2 * np.log(2) * layer.stiffness * step**2 / 12


def grid(layer: Layer, step: float) -> np.ndarray:
    """The multiples of `step` that a layer's weights may need, float64, ascending."""
    reach = int(np.ceil(np.abs(layer.kernel).max() / step)) + 2
    return step * np.arange(-reach, reach + 1)


def measure_layers(
    model: keras.Model,
    layers: Mapping[str, Layer],
    images: np.ndarray,
    progress: Callable[[str], object] | None = None,
) -> dict[str, Curve]:
    """Round each layer alone, in steps of several sizes.

    Args:
        model: a model for which `squeezenet_settings.settings_of` has an answer. It is changed
            and restored.
        layers: dict from names of `Architecture.kernel_shapes` to `Layer`s of its convolutions.
        images: float32 array, as the model takes them.
        progress: called with the name of each layer that was measured.

    Returns:
        A dict from name to a list of `Measured`, from coarse to fine.
    """
    curves = {}
    inputs: Sequence[Tensor] = batches(images)
    runs = pieces(model)
    expected = log_probabilities(model, _tail(runs, inputs))
    for index, piece in enumerate(runs):
        for name, convolution in convolutions_of(piece).items():
            curves[name] = _curve(model, convolution, layers[name], runs[index:], inputs, expected)
            if progress:
                progress(name)
        inputs = _tail([piece], inputs)
    return curves


def allocate(curves: Mapping[str, Curve], price: float) -> dict[str, float]:
    """The step of each layer that is best at a price per bit.

    Args:
        curves: as `measure_layers` returns them.
        price: divergence that one bit is worth, in nats.

    Returns:
        A dict from name to step.
    """
    return {name: _best_step(curve, price) for name, curve in curves.items()}


def divergence(expected: np.ndarray, logarithms: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence in nats; both are log-probabilities `[images, classes]`."""
    return float((np.exp(expected) * (expected - logarithms)).sum(axis=1).mean())


def log_probabilities(model: keras.Model, outputs: Sequence[Tensor]) -> np.ndarray:
    """Logarithms of the probabilities in a classifier's outputs, a list of batches."""
    every = np.concatenate([keras.ops.convert_to_numpy(batch) for batch in outputs])
    if model.layers[-1].activation is keras.activations.softmax:
        return np.log(np.maximum(every, _SMALLEST))
    shifted = every - every.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _curve(
    model: keras.Model,
    convolution: keras.layers.Conv2D,
    layer: Layer,
    runs: Sequence[Sequence[keras.layers.Layer]],
    inputs: Sequence[Tensor],
    expected: np.ndarray,
) -> Curve:
    kernel = convolution.kernel.numpy()
    bias = convolution.bias.numpy()
    scale = float(np.sqrt(np.mean(kernel.astype(np.float64) ** 2))) or 1.0
    curve: Curve = []
    try:
        for relative in RELATIVE_STEPS:
            step = relative * scale
            codebook = grid(layer, step)
            codes, new_bias = layer.assign(codebook, rate_weight(layer, step))
            convolution.kernel.assign(codebook[codes])
            convolution.bias.assign(new_bias)
            found = divergence(expected, log_probabilities(model, _tail(runs, inputs)))
            if found > GREATEST and curve == []:
                continue
            curve.append(Measured(step, entropy_bits(codes), found))
            if found < NEGLIGIBLE:
                break
    finally:
        convolution.kernel.assign(kernel)
        convolution.bias.assign(bias)
    return curve


def _best_step(curve: Curve, price: float) -> float:
    order = np.arange(len(curve))
    fine = np.linspace(0, len(curve) - 1, (len(curve) - 1) * POINTS_BETWEEN + 1)
    # A finer step is never worse; where it seemed so, the images were too few to tell.
    divergences = np.minimum.accumulate([max(point.divergence, _SMALLEST) for point in curve])
    logarithm = np.interp(fine, order, np.log(divergences))
    bits = np.interp(fine, order, [point.bits for point in curve])
    steps = np.interp(fine, order, [np.log(point.step) for point in curve])
    return float(np.exp(steps[(np.exp(logarithm) + price * bits).argmin()]))


def _tail(
    runs: Sequence[Sequence[keras.layers.Layer]], inputs: Sequence[Tensor]
) -> Sequence[Tensor]:
    for layers in runs:
        inputs = [run(layers, batch) for batch in inputs]
    return inputs
