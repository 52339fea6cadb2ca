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

from keras_squeezenet.compression.without_training.calibration import Batches, batches, run
from keras_squeezenet.compression.without_training.ends import Ends
from keras_squeezenet.compression.without_training.linear_maps import LinearMap, linear_maps_of
from keras_squeezenet.compression.without_training.reconstruction import Layer, entropy_bits
from keras_squeezenet.network.graph import ends_in_softmax
from keras_squeezenet.network.steps import Slot, steps_of

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
    images: np.ndarray | Sequence[np.ndarray],
    progress: Callable[[str], object] | None = None,
) -> dict[str, Curve]:
    """Round each kernel alone, in steps of several sizes.

    Args:
        model: functional or Sequential. It is changed and restored.
        layers: `Layer`s by the names of the model's kernels, as `calibration.Site.name`.
        images: float32, as the model takes them: an array, or one for each input.
        progress: called with the name of each kernel that was measured.

    Returns:
        A dict from name to a list of `Measured`, from coarse to fine.
    """
    steps = steps_of(model)
    inputs = [images] if isinstance(images, np.ndarray) else images
    tensors = dict(zip(steps.inputs, map(batches, inputs), strict=True))
    ends = Ends(steps)
    answers = Answers.of(model, _outputs(ends, 0, tensors))
    last, curves = steps.last_uses(), dict[str, Curve]()
    for number, step in enumerate(steps.calls):
        for linear in linear_maps_of(step.operation):
            name = f"{step.path}/{linear.name}"
            if name not in curves:
                begin = _Begin(ends, number, tensors)
                curves[name] = _curve(linear, layers[name], begin, answers)
                if progress:
                    progress(name)
        tensors.update(run(step, tensors))
        for slot in {*step.taken, *step.given}:
            if last[slot] <= number:
                del tensors[slot]
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


def log_probabilities(outputs: np.ndarray, are_probabilities: bool) -> np.ndarray:
    """Logarithms of the probabilities in a classifier's outputs `[images, classes]`."""
    if are_probabilities:
        return np.log(np.maximum(outputs, _SMALLEST))
    shifted = outputs - outputs.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


@dataclass(frozen=True, eq=False)
class Answers:
    """What a network answers, for others to be compared with.

    Attributes:
        outputs: an array for each of its outputs, float64 `[images, …]`.
        is_classifier: whether it has one output, of two classes or more.
        are_probabilities: whether that is of probabilities, not of logits.
    """

    outputs: Sequence[np.ndarray]
    is_classifier: bool
    are_probabilities: bool

    @classmethod
    def of(cls, model: keras.Model, outputs: Sequence[np.ndarray]) -> "Answers":
        """Those of a model, as it gives them."""
        shape = outputs[0].shape
        is_classifier = len(outputs) == 1 and len(shape) == 2 and shape[1] > 1
        return cls(outputs, is_classifier, is_classifier and ends_in_softmax(model))

    def divergence(self, outputs: Sequence[np.ndarray]) -> float:
        """How far others are from these, in nats per image.

        Of classifiers it is that of the probabilities. Numbers of other kinds are taken for the
        means of normal distributions, as wide as each output's numbers are apart: half the mean
        squared difference by their variance.
        """
        if self.is_classifier:
            logarithms = (
                log_probabilities(found, self.are_probabilities)
                for found in (self.outputs[0], outputs[0])
            )
            return divergence(*logarithms)
        pairs = zip(self.outputs, outputs, strict=True)
        return sum(
            float(np.square(found - ours).mean() / (2 * max(ours.var(), _SMALLEST)))
            for ours, found in pairs
        )


@dataclass(frozen=True, eq=False)
class _Begin:
    """A call of a model, and the tensors there, from which the rest is run."""

    ends: Ends
    number: int
    tensors: Mapping[Slot, Batches]

    def outputs(self) -> list[np.ndarray]:
        return _outputs(self.ends, self.number, self.tensors)


def _outputs(ends: Ends, start: int, tensors: Mapping[Slot, Batches]) -> list[np.ndarray]:
    """A model's outputs from a call on, an array for each."""
    count = len(next(iter(tensors.values())))
    ran = [
        ends.outputs(start, {slot: batch[index] for slot, batch in tensors.items()})
        for index in range(count)
    ]
    return [
        np.concatenate([keras.ops.convert_to_numpy(batch).astype(np.float64) for batch in outputs])
        for outputs in zip(*ran, strict=True)
    ]


def _curve(linear: LinearMap, layer: Layer, begin: _Begin, answers: Answers) -> Curve:
    kernel = keras.ops.convert_to_numpy(linear.kernel)
    bias = None if linear.bias is None else keras.ops.convert_to_numpy(linear.bias)
    scale = float(np.sqrt(np.mean(kernel.astype(np.float64) ** 2))) or 1.0
    curve: Curve = []
    try:
        for relative in RELATIVE_STEPS:
            step = relative * scale
            codebook = grid(layer, step)
            codes, new_bias = layer.assign(codebook, rate_weight(layer, step))
            linear.assign(linear.ungrouped(codebook[codes]), new_bias)
            found = answers.divergence(begin.outputs())
            is_finest = relative == RELATIVE_STEPS[-1]
            if found > GREATEST and not curve and not is_finest:
                continue
            curve.append(Measured(step, entropy_bits(codes), found))
            if found < NEGLIGIBLE:
                break
    finally:
        linear.assign(kernel, bias)
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
