"""Activation functions of Keras 3 by their names, as layers of the twin.

Some have another meaning in tf_keras (hard_sigmoid and its kin), others none. Those are built here
of layers that tfmot and LiteRT know.
"""

from collections.abc import Callable
from typing import Any

from keras_squeezenet.compression.with_training.bridge.place import Place

# The same functions in both libraries, in a layer or as a layer's argument `activation`.
SAME = (
    "elu",
    "exponential",
    "gelu",
    "linear",
    "log_softmax",
    "mish",
    "relu",
    "selu",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "softsign",
    "tanh",
)

# LiteRT has them as several operations, x · sigmoid(x) for one. In 8 bits what they take needs a
# range of its own, and tfmot gives a layer one after its activation only.
_SEVERAL_OPERATIONS = ("gelu", "silu")

# Takes a place, its input, and a function that names the parts: `part("shift")`, `part(None)` last.
Builder = Callable[[Place, Any, Callable[[str | None], str | None]], Any]


def activate(place: Place, inputs: Any, activation: object, prefix: str | None = None) -> Any:
    """An activation by its name in Keras 3.

    Args:
        place: of the layer that has it.
        inputs: a tensor of the twin.
        activation: the name; what Keras serializes other functions to is refused.
        prefix: of the names of the layers that it becomes; None, they are the place's own.

    Raises:
        BridgeError: the twin does not have it.
    """

    def part(own: str | None) -> str | None:
        return "_".join(filter(None, (prefix, own))) or None

    check(place, activation)
    name = str(activation)
    if name in SAME:
        return place.layer("Activation", inputs, part(None), activation=name)
    return BUILT[name](place, inputs, part)


def is_inside(place: Place, activation: object) -> bool:
    """Whether the twin has an activation as an argument of the layer, not as a layer of its own."""
    alone = place.twin.for_8_bits and activation in _SEVERAL_OPERATIONS
    return activation in SAME and not alone


def check(place: Place, activation: object) -> None:
    """Refuse an activation that the twin does not have."""
    if not isinstance(activation, str) or activation not in (*SAME, *BUILT):
        # A function of the user's own is serialized to a dict.
        received = activation
        if isinstance(activation, dict):
            function = activation.get("class_name") == "function"
            received = activation["config"] if function else activation.get("class_name")
        raise place.refusal(f"an activation of {', '.join(sorted((*SAME, *BUILT)))}", received)


def _celu(place: Place, x: Any, part: Callable) -> Any:
    # As a name its alpha is 1, and then it is elu.
    return place.layer("Activation", x, part(None), activation="elu")


def _hard_sigmoid(place: Place, x: Any, part: Callable) -> Any:
    """relu6(x + 3) / 6."""
    x = place.affine(x, 1.0, 3.0, part("shift"))
    x = place.layer("ReLU", x, part("relu6"), max_value=6.0)
    return place.affine(x, 1 / 6, 0.0, part(None))


def _hard_silu(place: Place, x: Any, part: Callable) -> Any:
    """x · hard_sigmoid(x)."""
    gate = _hard_sigmoid(place, x, lambda own: part(own or "scale"))
    return place.layer("Multiply", [x, gate], part(None))


def _hard_tanh(place: Place, x: Any, part: Callable) -> Any:
    return clipped(place, x, -1.0, 1.0, part)


def _leaky_relu(place: Place, x: Any, part: Callable) -> Any:
    return place.layer("LeakyReLU", x, part(None), alpha=0.2)  # the default of Keras 3


def _log_sigmoid(place: Place, x: Any, part: Callable) -> Any:
    """-softplus(-x)."""
    x = place.affine(x, -1.0, 0.0, part("negative"))
    x = place.layer("Activation", x, part("softplus"), activation="softplus")
    return place.affine(x, -1.0, 0.0, part(None))


def _relu6(place: Place, x: Any, part: Callable) -> Any:
    # An activation of LiteRT and of tfmot as a layer, and of tf_keras as nothing else.
    return place.layer("ReLU", x, part(None), max_value=6.0)


def _tanh_shrink(place: Place, x: Any, part: Callable) -> Any:
    """x - tanh(x)."""
    tanh = place.layer("Activation", x, part("tanh"), activation="tanh")
    return place.layer("Subtract", [x, tanh], part(None))


def clipped(place: Place, x: Any, least: float, most: float, part: Callable) -> Any:
    """x from `least` to `most`: relu(x - least), not above most - least, and back again."""
    if least == 0:
        return place.layer("ReLU", x, part(None), max_value=most)
    x = place.affine(x, 1.0, -least, part("shift"))
    x = place.layer("ReLU", x, part("clip"), max_value=most - least)
    return place.affine(x, 1.0, least, part(None))


BUILT: dict[str, Builder] = {
    "celu": _celu,
    "hard_sigmoid": _hard_sigmoid,
    "hard_silu": _hard_silu,
    "hard_tanh": _hard_tanh,
    "leaky_relu": _leaky_relu,
    "log_sigmoid": _log_sigmoid,
    "relu6": _relu6,
    "tanh_shrink": _tanh_shrink,
}
