"""A model of one's own, a tenth as large: SqueezeNet's features with a Dense head, fine-tuned.

    python studies/own_model.py --data PATH/grocery --output results/own_model.csv

A SqueezeNet 1.1 that knows ImageNet gets a head for the groceries, in plain Keras: first the head
learns alone, then all layers do. Four fifths of the training photos teach it. `fit_to_size` makes
.sqz files of a tenth of its float32 weights, with 300 and with 1,000 of the photos that taught it.
Each file is read by a new process that has nothing else, and predicts there.

The last fifth of the training photos, "same shops", and the validation photos, "other shops", judge
all of them. `lost_points` are percentage points of top-1 against the network in float32 on all
photos that judge; `standard_error` is that of the paired difference. The network is kept in --work,
and not trained again.
"""

import argparse
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

# First of all: TensorFlow's greetings are not for the reader of the progress.
import keras_squeezenet.startup.quiet  # noqa: F401

# isort: split
import keras
import numpy as np
from keras import layers

from keras_squeezenet import Augmentation, SqueezeNet, fit_to_size, load_dataset
from keras_squeezenet.data import Dataset, Split
from keras_squeezenet.files import write_csv
from keras_squeezenet.sqz.files import write_network

IMAGE_SIZE = 160
BATCH_SIZE = 32
HEAD_EPOCHS, EPOCHS = 8, 12
HEAD_RATE, RATE = 1e-3, 2e-4
CALIBRATION_IMAGES = (300, 1000)
TIMES_SMALLER = 10
READ_ALONE = """
import sys
import numpy as np
from keras_squeezenet import load_compressed
file, images, outputs = sys.argv[1:]
np.save(outputs, load_compressed(file).predict(np.load(images), batch_size=32, verbose=0))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder grocery")
    parser.add_argument("--output", type=Path, required=True, help="the CSV file to write")
    parser.add_argument("--work", type=Path, default=Path("runs/own_model"), metavar="FOLDER")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    # The folder of the training photos alone is divided, four fifths to one.
    data = load_dataset(str(asked.data / "train"), image_size=IMAGE_SIZE, resize=IMAGE_SIZE + 16)
    shops = load_dataset(str(asked.data), image_size=IMAGE_SIZE, resize=IMAGE_SIZE + 16)
    assert data.class_names == shops.class_names
    judges = {"same shops": arrays_of(data.val), "other shops": arrays_of(shops.val)}

    path = asked.work / f"model-{asked.seed}.keras"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        fine_tuned(data, asked.seed).save(path)
    model = keras.saving.load_model(path, compile=False)
    images = np.concatenate([images for images, _ in judges.values()])
    labels = np.concatenate([labels for _, labels in judges.values()])
    count_same = len(judges["same shops"][1])
    float32 = 4 * model.count_params()

    def row(name: str, size: int, probabilities: np.ndarray) -> dict[str, object]:
        right = probabilities.argmax(axis=1) == labels
        lost = before.astype(int) - right
        return {
            "file": name,
            "bytes": size,
            "times_smaller": round(float32 / size, 1),
            "top1_same_shops": round(float(right[:count_same].mean()), 4),
            "top1_other_shops": round(float(right[count_same:].mean()), 4),
            "top1": round(float(right.mean()), 4),
            "lost_points": round(100 * float(lost.mean()), 2),
            "standard_error": round(100 * float(lost.std()) / len(lost) ** 0.5, 2),
            "images": len(labels),
        }

    probabilities = model.predict(images, batch_size=BATCH_SIZE, verbose=0)
    before = probabilities.argmax(axis=1) == labels
    rows = [row("float32", float32, probabilities)]
    class_names = sum(len(name.encode()) + 1 for name in data.class_names)
    for count in CALIBRATION_IMAGES:
        calibration, _ = arrays_of(data.train, count)
        network = fit_to_size(model, calibration, float32 // TIMES_SMALLER - class_names)
        file = asked.work / f"model-{asked.seed}-{count}.sqz"
        write_network(replace(network, class_names=data.class_names), file, "best")
        rows.append(row(f".sqz, {count} photos", file.stat().st_size, read_alone(file, images)))
        write_csv(asked.output, rows)
        print(rows[-1], file=sys.stderr, flush=True)


def fine_tuned(data: Dataset, seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    shape = (IMAGE_SIZE, IMAGE_SIZE, 3)
    features = SqueezeNet(
        False,
        "imagenet",
        input_shape=shape,
        pooling="avg",
        version="1.1",
        include_preprocessing=True,
    )
    photos = keras.Input(shape)
    x = layers.Dropout(0.3)(features(photos))
    head = layers.Dense(len(data.class_names), activation="softmax", name="head")
    model = keras.Model(photos, head(x), name="groceries")
    steps = data.train.steps_per_epoch(BATCH_SIZE)
    batches = training_batches(data, seed)
    for epochs, rate, trainable in ((HEAD_EPOCHS, HEAD_RATE, False), (EPOCHS, RATE, True)):
        features.trainable = trainable
        schedule = keras.optimizers.schedules.CosineDecay(rate, epochs * steps)
        model.compile(
            keras.optimizers.Adam(schedule),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
            jit_compile=False,
        )
        model.fit(batches, epochs=epochs, steps_per_epoch=steps, verbose=2)
    return model


def training_batches(data: Dataset, seed: int) -> Any:
    augmentation = Augmentation(flip=True, crop_scale=(0.35, 1.0), color=0.2)
    return data.train.train_batches(BATCH_SIZE, augmentation=augmentation, seed=seed)


def arrays_of(split: Split, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Images float32 `[n, side, side, 3]` and labels `[n]`; `count` of them, spread evenly."""
    chosen = np.arange(split.count)
    if count is not None:
        chosen = np.linspace(0, split.count - 1, count).astype(int)
    read = [(images, labels) for images, labels in split.batches_at(chosen, BATCH_SIZE)]
    images, labels = (np.concatenate(arrays) for arrays in zip(*read, strict=True))
    return images, labels


def read_alone(file: Path, images: np.ndarray) -> np.ndarray:
    """Probabilities of a .sqz file, by a process that has this file and no other."""
    with tempfile.TemporaryDirectory() as folder:
        copy, given, found = (Path(folder) / name for name in (file.name, "given.npy", "found.npy"))
        copy.write_bytes(file.read_bytes())
        np.save(given, images)
        subprocess.run([sys.executable, "-c", READ_ALONE, copy, given, found], check=True)
        return np.load(found)


if __name__ == "__main__":
    main()
