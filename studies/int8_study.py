"""What limits the accuracy of int8 files of the published SqueezeNets, one change at a time.

    python studies/int8_study.py --images PATH/imagenet_dev --output results/int8.csv \
        --v1-0-float32 PATH/squeezenet_v1.0_fp32.npz --other-photos PATH/grocery/train

Each file is calibrated with some of the photos and measured on 500 others, drawn anew for each
draw. `lost_points` compares it with the float32 Keras model on the same 500; its standard error is
that of the paired difference. `mean_difference` is the mean over the images of the probability
that moved most: with 500 images it tells changes apart that the accuracy does not.
"as exported" is `export_litert`'s way. Each other change is one of "ranges as calibrated", without
the room that `ranges` gives to what calibration did not see. About 20 minutes on 2 cores.
"""

import argparse
import math
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

# First of all: TensorFlow's greetings are not for the reader of the progress.
import keras_squeezenet.startup.quiet  # noqa: F401

# isort: split
import keras
import numpy as np
import tensorflow as tf
from imagenet_accuracy import IMAGE_SIZE, build, predict, published_weights, read_photos

from keras_squeezenet.data import sample_images
from keras_squeezenet.files import write_csv
from keras_squeezenet.litert.bias_correction import correct_biases, rounded
from keras_squeezenet.litert.equalization import equalize_squeezes
from keras_squeezenet.litert.export import export_litert
from keras_squeezenet.litert.inference_network import for_inference
from keras_squeezenet.litert.model import LiteRTModel, silenced
from keras_squeezenet.network.graph import convolutions_of

TEST_IMAGES = 500
TOP_K = 5


@dataclass(frozen=True)
class Variant:
    """A way to int8; the default is that of `export_litert`, but with ranges as calibrated.

    Attributes:
        name: in the table.
        draws: how many of the study's; None, all of them.
        equalizes: see `equalize_squeezes`.
        corrects_biases: see `correct_biases`.
        images: to calibrate with.
        other_photos: whether those come from another set.
        scale_per_filter: or else one for each kernel.
        activation_bits: 8 or 16; None leaves activations in float32, in Keras.
        room: whether late ranges are wider than calibrated, as `export_litert` makes them.
    """

    name: str
    draws: int | None = 1
    equalizes: bool = True
    corrects_biases: bool = True
    images: int = 100
    other_photos: bool = False
    scale_per_filter: bool = True
    activation_bits: int | None = 8
    room: bool = False


VARIANTS = (
    Variant("as exported", draws=None, room=True),
    Variant("ranges as calibrated", draws=None),
    Variant("squeezes not equalized", draws=None, equalizes=False),
    Variant("biases not corrected", draws=None, corrects_biases=False),
    Variant("neither", draws=None, equalizes=False, corrects_biases=False),
    Variant("10 images", images=10),
    Variant("30 images", images=30),
    Variant("other photos", other_photos=True),
    Variant("one scale per kernel", equalizes=False, corrects_biases=False, scale_per_filter=False),
    Variant("16-bit activations", activation_bits=16),
    Variant("float32 activations", activation_bits=None),
    Variant(
        "float32 activations, biases not corrected", activation_bits=None, corrects_biases=False
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", required=True, help="a folder with labels.csv")
    parser.add_argument("--output", type=Path, required=True, help="the CSV file to write")
    parser.add_argument("--v1-0-float32", type=Path, help="float32 weights of 1.0, to study too")
    parser.add_argument("--other-photos", help="folder of photos of other things, to calibrate on")
    parser.add_argument("--draws", type=int, default=3, help="how many (default: %(default)s)")
    asked = parser.parse_args()

    photos = read_photos(asked.images)
    other = asked.other_photos and np.concatenate(
        list(sample_images(asked.other_photos, image_size=IMAGE_SIZE, resize="stretch"))
    )
    rows: list[dict[str, object]] = []
    for name, version, weights in published_weights(asked.v1_0_float32):
        network = build(version, weights, include_preprocessing=True)
        reference = predict(network, photos.pixels)
        for variant in VARIANTS:
            if variant.other_photos and other is None:
                continue
            for draw in range(variant.draws or asked.draws):
                order = np.random.default_rng(draw).permutation(len(photos.labels))
                tested, rest = order[:TEST_IMAGES], order[TEST_IMAGES:]
                calibration = other if variant.other_photos else photos.pixels[rest]
                probabilities = quantize_and_predict(
                    network, variant, calibration[: variant.images], photos.pixels[tested]
                )
                measured = compare(reference[tested], probabilities, photos.labels[tested])
                rows.append({"weights": name, "change": variant.name, "draw": draw, **measured})
                print(rows[-1], file=sys.stderr, flush=True)
    write_csv(asked.output, rows)


def quantize_and_predict(
    network: keras.Model, variant: Variant, calibration: np.ndarray, images: np.ndarray
) -> np.ndarray:
    if variant.room:
        return export_and_predict(network, calibration, images)
    network = for_inference(network, copy=True)
    batches = np.array_split(calibration, math.ceil(len(calibration) / 32))
    if variant.equalizes:
        equalize_squeezes(network, batches)
    if variant.corrects_biases:
        correct_biases(network, batches)
    if variant.activation_bits is None:
        round_kernels(network)
        return predict(network, images)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.tflite"
        convert(network, path, variant, calibration)
        return LiteRTModel(path).predict(images)


def export_and_predict(
    network: keras.Model, calibration: np.ndarray, images: np.ndarray
) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.tflite"
        export_litert(
            network,
            path,
            quantize="int8",
            calibration=calibration,
            check_images=calibration[:10],
            tolerance=math.inf,
        )
        return LiteRTModel(path).predict(images)


def round_kernels(network: keras.Model) -> None:
    for convolution in convolutions_of(network.layers).values():
        convolution.kernel.assign(rounded(convolution.kernel.numpy()))


def convert(network: keras.Model, path: Path, variant: Variant, calibration: np.ndarray) -> None:
    operators = tf.lite.OpsSet.TFLITE_BUILTINS_INT8
    if variant.activation_bits == 16:
        operators = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    with silenced():
        network.export(
            str(path),
            format="litert",
            verbose=False,
            optimizations=[tf.lite.Optimize.DEFAULT],
            representative_dataset=lambda: ([image[None]] for image in calibration),
            target_spec={"supported_ops": [operators]},
            # The converter has no public switch for it.
            _experimental_disable_per_channel=not variant.scale_per_filter,
        )


def compare(
    reference: np.ndarray, probabilities: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    """Accuracies of both, and what changed from one to the other."""
    before, after = reference.argmax(axis=1), probabilities.argmax(axis=1)
    lost = int(np.sum((before == labels) & (after != labels)))
    won = int(np.sum((before != labels) & (after == labels)))
    n = len(labels)
    # Each image changes the score by -1, 0 or 1.
    variance = (lost + won) / n - ((lost - won) / n) ** 2
    firsts = probabilities == probabilities.max(axis=1, keepdims=True)
    return {
        "images": n,
        "float32_top1": round(float(np.mean(before == labels)), 4),
        "top1": round(float(np.mean(after == labels)), 4),
        "lost_points": round(100 * (lost - won) / n, 2),
        "standard_error": round(100 * math.sqrt(variance / n), 2),
        "float32_top5": round(top5(reference, labels), 4),
        "top5": round(top5(probabilities, labels), 4),
        "decisions_changed": int(np.sum(before != after)),
        "shared_first_places": int(np.sum(firsts.sum(axis=1) > 1)),
        "mean_difference": round(float(np.abs(probabilities - reference).max(axis=1).mean()), 4),
    }


def top5(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Of equal probabilities the lower class comes first, as in `evaluation`."""
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP_K]
    return float(np.mean((best == labels[:, None]).any(axis=1)))


if __name__ == "__main__":
    main()
