"""The ways to write a network's numbers in a LiteRT file: a row for each.

The exporter, the command line, its help and the studies read this table. Another way is another
row. No framework.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Quantization:
    """One way.

    Attributes:
        name: as `export_litert` and `--quantize` take it.
        what: it does, for the command's help.
        tolerance: the largest difference allowed where none is given, as a share of the largest
            output where that exceeds 1.
        held_to: what the tolerance is for: the "largest" difference of any image, or the "mean" of
            the images' largest.
        least_equal_decisions: share (0 to 1) of images that a classifier has to decide as the
            Keras model does.
        optimized: whether the converter may change the numbers at all.
        operators: a name of `tf.lite.OpsSet`.
        weights: numpy's name of the type that weights are rounded to, where the converter has to
            be told.
        calibrated: whether the activations are integers, whose ranges are taken from images.
    """

    name: str
    what: str
    tolerance: float
    held_to: Literal["largest", "mean"]
    least_equal_decisions: float = 0.0
    optimized: bool = True
    operators: str = "TFLITE_BUILTINS"
    weights: str | None = None
    calibrated: bool = False


# The tolerances were measured with the published SqueezeNets on 600 ImageNet photos, v1.1 and v1.0,
# and with a v1.1 trained on scikit-learn's digits. "none" and "float16" are held to their worst
# image (4e-6; 0.0025). The worst of many images says little about 8 bits, where one close call
# moves far (0.57), so "dynamic" and "int8" are held to the mean of the images (0.02 and 0.04) and
# to the share of equal decisions (0.95 and 0.92 of 600, 0.89 of 200). What is really broken is far
# off: 0.26 and 0.55 for the quantized REVERSE_V2 that `inference_network` is about.
_ROWS = (
    Quantization("none", "float32 as trained", 1e-4, "largest", optimized=False),
    Quantization("float16", "weights of half the bytes", 0.01, "largest", weights="float16"),
    Quantization("dynamic", "8-bit weights", 0.06, "mean", least_equal_decisions=0.8),
    Quantization(
        "int8",
        "8-bit integers throughout",
        0.12,
        "mean",
        least_equal_decisions=0.8,
        operators="TFLITE_BUILTINS_INT8",
        calibrated=True,
    ),
)
QUANTIZATIONS = {row.name: row for row in _ROWS}
