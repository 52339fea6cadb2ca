"""Bytes of updates between .sqz files of version 2, after changes such as training makes.

    python studies/update_sizes.py --output results/updates.csv

Two networks, both in 5 bits: SqueezeNet 1.1's published features with a head of 10 classes, and
MobileNetV2 0.35 at 96 pixels with random weights and statistics of normalization as training leaves
them. Each is changed further from row to row, normalization and all, packed with the file before
all changes as `base`, and updated from that file: as in a training that goes on from the network
which the file was made of. Packing folds the normalization. Nothing is trained: a new head is drawn
at random, which is the longest it can be; statistics move by 1%, kernels by 3% of their deviation.
Each update was applied, and gave the new file byte for byte.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

# First of all: TensorFlow's greetings are not for the reader of the progress.
import keras_squeezenet.startup.quiet  # noqa: F401

# isort: split
import keras
import numpy as np
from keras import layers

from keras_squeezenet import SqueezeNet, sqz
from keras_squeezenet.compression.saving import network_of
from keras_squeezenet.files import write_csv

BITS = 5
CLASSES = 10
RNG = np.random.default_rng(0)

Change = Callable[[keras.Model], keras.Model]


def squeezenet(weights: str | None = "imagenet") -> keras.Model:
    features = SqueezeNet(False, weights, input_shape=(227, 227, 3), pooling="avg")
    head = layers.Dense(CLASSES, activation="softmax", name="head")(features.output)
    return keras.Model(features.inputs, head, name="own")


def mobilenet() -> keras.Model:
    model = keras.applications.MobileNetV2((96, 96, 3), 0.35, weights=None, classes=CLASSES)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            for weight in (layer.gamma, layer.moving_variance):
                weight.assign(RNG.uniform(0.5, 1.5, weight.shape))
            for weight in (layer.beta, layer.moving_mean):
                weight.assign(RNG.normal(0, 0.3, weight.shape))
    return model


def new_head(model: keras.Model) -> keras.Model:
    head = model.layers[-1]
    head.kernel.assign(RNG.normal(size=head.kernel.shape) * np.std(head.kernel))
    head.bias.assign(RNG.normal(0, 0.1, head.bias.shape))
    return model


def other_classes(model: keras.Model) -> keras.Model:
    head = layers.Dense(37, activation="softmax", name="other_head")(model.layers[-2].output)
    return keras.Model(model.inputs, head, name="other")


def statistics(model: keras.Model) -> keras.Model:
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            for weight in layer.weights:
                weight.assign(weight * RNG.normal(1, 0.01, weight.shape))
    return model


def last_kernels(model: keras.Model, share: float = 0.2) -> keras.Model:
    with_kernel = [layer for layer in model.layers[:-1] if hasattr(layer, "kernel")]
    for layer in with_kernel[-round(share * len(with_kernel)) :]:
        noise = RNG.normal(0, 0.03 * np.std(layer.kernel), layer.kernel.shape)
        layer.kernel.assign(layer.kernel + noise)
    return model


CASES: dict[str, tuple[Callable[[], keras.Model], dict[str, Change]]] = {
    "SqueezeNet 1.1 with a head": (
        squeezenet,
        {"nothing": lambda model: model, "a new head": new_head, "other classes": other_classes},
    ),
    "MobileNetV2 0.35": (
        mobilenet,
        {
            "nothing": lambda model: model,
            "a new head": new_head,
            "and statistics": statistics,
            "and a fifth of the kernels": last_kernels,
            "and other classes": other_classes,
        },
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="the CSV file to write")
    asked = parser.parse_args()
    rows: list[dict[str, object]] = []
    for name, (make, changes) in CASES.items():
        model = make()
        base = network_of(model, bits=BITS)
        old = sqz.encode(base)
        for change, changed in changes.items():
            model = changed(model)
            new = sqz.encode(network_of(model, base=base))
            update = sqz.diff(old, new)
            if sqz.patch(old, update) != new:
                raise SystemExit(f"{name}, {change}: the update gives other bytes")
            rows.append(
                {"network": name, "changed": change, "file": len(new), "update": len(update)}
            )
            print(rows[-1], flush=True)
            write_csv(asked.output, rows)


if __name__ == "__main__":
    main()
