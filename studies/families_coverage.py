"""Which training-time compression each family of keras.applications goes through.

    python studies/families_coverage.py --output results/coverage.csv

The smallest network of each family, at the smallest images it takes, goes through each scheme for
two steps, after some that teach it to tell made-up pictures of four colours apart: it is whether a
scheme runs, not what it is worth. A row says:

- `ok`: yes; or no, and `reason` is the error's line.
- `agreement`: the share of images of which the first class is the same, and
  `largest_difference` that of a probability: of a Keras model against its tf_keras twin, of an
  8-bit file against the network that was trained in 8 bits.
- `bytes`: of the LiteRT file, where the scheme gives one.
- `seconds`: of the scheme, file included, on this machine.

Rows that are in the file already are not measured again: an interrupted study goes on. Delete the
rows that a change of the code concerns.
"""

import argparse
import csv
import functools
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

# First of all: TensorFlow's greetings are not for the reader of the progress.
import keras_squeezenet.startup.quiet  # noqa: F401

# isort: split
import keras
import numpy as np
from keras import applications, layers

from keras_squeezenet import (
    ConstantSparsity,
    Retraining,
    cluster,
    dense_sparse_dense,
    distill,
    prune,
    quantize_aware,
)
from keras_squeezenet.compression.with_training.bridge import to_tf_keras
from keras_squeezenet.errors import InputError
from keras_squeezenet.files import write_csv
from keras_squeezenet.litert.comparison import ExportError

CLASSES = 4
IMAGES = 32
BATCH_SIZE = 8
TRAINING_EPOCHS = 10
COLOURS = np.array([[1, 0.2, 0.2], [0.2, 1, 0.2], [0.2, 0.2, 1], [1, 1, 1]])
RETRAINING = Retraining(epochs=1, steps_per_epoch=2, learning_rate=1e-4)
ROW_NAMES = ("family", "scheme")


@dataclass(frozen=True)
class Member:
    """The smallest network of a family.

    Attributes:
        constructor: its name in keras.applications.
        side: the least height and width, in pixels.
        arguments: of the constructor, that make it small.
    """

    constructor: str
    side: int = 32
    arguments: tuple = ()

    def model(self, **arguments):
        """With new weights."""
        make = getattr(applications, self.constructor)
        shape = (self.side, self.side, 3)
        arguments = dict(self.arguments) | arguments
        return make(weights=None, input_shape=shape, classes=CLASSES, **arguments)


FAMILIES = {
    "MobileNet": Member("MobileNet", arguments=(("alpha", 0.25),)),
    "MobileNetV2": Member("MobileNetV2", arguments=(("alpha", 0.35),)),
    "MobileNetV3": Member("MobileNetV3Small", arguments=(("alpha", 0.75),)),
    "VGG": Member("VGG16"),
    "ResNet": Member("ResNet50"),
    "ResNetV2": Member("ResNet50V2"),
    "EfficientNet": Member("EfficientNetB0"),
    "EfficientNetV2": Member("EfficientNetV2B0"),
    "Xception": Member("Xception", 71),
    "ConvNeXt": Member("ConvNeXtTiny"),
    "DenseNet": Member("DenseNet121"),
    "Inception": Member("InceptionV3", 75),
    "NASNet": Member("NASNetMobile"),
    "InceptionResNet": Member("InceptionResNetV2", 75),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="the CSV file to write")
    parser.add_argument("--only", action="append", metavar="FAMILY", choices=FAMILIES)
    asked = parser.parse_args()
    rows = read_rows(asked.output)
    for family in asked.only or FAMILIES:
        for scheme in SCHEMES:
            if (family, scheme) in rows:
                continue
            rows[family, scheme] = measured(family, scheme)
            write_csv(asked.output, in_order(rows))
            print(rows[family, scheme], file=sys.stderr, flush=True)
        keras.backend.clear_session()


def read_rows(path):
    """The rows of a table that was begun, by what they are about."""
    if not path.exists():
        return {}
    with open(path, encoding="utf-8", newline="") as file:
        return {tuple(row[name] for name in ROW_NAMES): row for row in csv.DictReader(file)}


def in_order(rows):
    return [
        rows[family, scheme]
        for family in FAMILIES
        for scheme in SCHEMES
        if (family, scheme) in rows
    ]


def measured(family, scheme):
    member = FAMILIES[family]
    row = {"family": family, "model": member.constructor, "scheme": scheme}
    found = dict.fromkeys(("agreement", "largest_difference", "bytes"), "")
    model, batches = prepared(member)
    begin = time.perf_counter()
    try:
        found |= SCHEMES[scheme](model, batches)
        verdict = {"ok": "yes", "reason": ""}
    except (InputError, ExportError) as error:
        verdict = {"ok": "no", "reason": str(error)}
    # What TensorFlow and tfmot raise on their own is what the study is after, too.
    except Exception as error:
        line = (str(error).strip() or "no text").splitlines()[0]
        verdict = {"ok": "no", "reason": f"{type(error).__name__}: {line}"}
    return row | verdict | found | {"seconds": round(time.perf_counter() - begin, 1)}


@functools.lru_cache(maxsize=1)
def prepared(member):
    """A model that tells light pictures of four colours apart, and batches of them.

    Trained, because the outputs of a random deep network change with any rounding.
    """
    keras.utils.set_random_seed(0)
    model = member.model()
    generator = np.random.default_rng(0)
    labels = np.arange(IMAGES) % CLASSES
    coarse = generator.uniform(0, 255, (IMAGES, 3, 3, 3)) * COLOURS[labels][:, None, None]
    images = np.asarray(keras.ops.image.resize(coarse, (member.side, member.side)), np.float32)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.5  # there in so few steps
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(images, labels, batch_size=BATCH_SIZE, epochs=TRAINING_EPOCHS, verbose=0)
    batches = [slice(first, first + BATCH_SIZE) for first in range(0, IMAGES, BATCH_SIZE)]
    return model, [(images[one], labels[one]) for one in batches]


def against_twin(compressed, images):
    model = compressed.model
    twin = np.asarray(to_tf_keras(model)(images, training=False))
    own = np.asarray(model(images, training=False))
    return {
        "agreement": round(float(np.mean(own.argmax(1) == twin.argmax(1))), 3),
        "largest_difference": float(f"{np.abs(own - twin).max():.1e}"),
    }


def pruned(model, batches):
    return prune(model, batches, retraining=RETRAINING, sparsity=0.5, schedule=ConstantSparsity())


def clustered(model, batches):
    return cluster(model, batches, retraining=RETRAINING, bits=4)


def in_8_bits(preserve, before=None):
    """A scheme that trains in 8 bits, of what `before` made of the model."""

    def scheme(model, batches):
        if before is not None:
            model = before(model, batches).model
        trained = quantize_aware(model, batches, retraining=RETRAINING, preserve=preserve)
        with tempfile.TemporaryDirectory() as folder:
            try:
                result = trained.write_litert(Path(folder) / "model.tflite")
            except ExportError as error:
                raise ExportError(str(error).replace(f"{folder}/", "")) from error
        return {
            "agreement": round(float(result.decisions_equal), 3),
            "largest_difference": round(float(result.max_difference), 4),
            "bytes": result.bytes,
        }

    return scheme


def twice(model, batches):
    return clustered(pruned(model, batches).model, batches)


SCHEMES = {
    "prune": lambda model, batches: against_twin(pruned(model, batches), batches[0][0]),
    "cluster": lambda model, batches: against_twin(clustered(model, batches), batches[0][0]),
    "dense_sparse_dense": lambda model, batches: against_twin(
        dense_sparse_dense(model, batches, retraining=RETRAINING), batches[0][0]
    ),
    "distill": lambda model, batches: against_twin(
        distill(model, model, batches, retraining=RETRAINING), batches[0][0]
    ),
    "QAT": in_8_bits(None),
    "PQAT": in_8_bits("sparsity", pruned),
    "CQAT": in_8_bits("clusters", clustered),
    "PCQAT": in_8_bits("clusters", twice),
}


if __name__ == "__main__":
    main()
