"""Why training a SqueezeNet from nothing gets stuck: classes that die behind the last ReLU.

    python train/dead_classes.py --output results/dead_classes.csv

Trains one small SqueezeNet on the digits of scikit-learn for a few epochs, from the authors'
initial values and from He's, with the paper's ReLU after the last convolution and without, from
several seeds, and counts the classes whose output is 0 for every validation image: no gradient
reaches their filter any more. About 2 minutes on 2 cores.
"""

import argparse
from pathlib import Path

# First of all: TensorFlow's greetings are not for the reader of the progress.
import keras_squeezenet.quiet  # noqa: F401

# isort: split
import keras
import numpy as np

from keras_squeezenet import Architecture, SqueezeNet, load_dataset
from keras_squeezenet.files import write_csv

ARCHITECTURE = Architecture.from_metaparameters(
    base_e=32,
    incr_e=32,
    squeeze_ratio=0.25,
    fires=3,
    pool_after=(1, 3),
    conv1_filters=32,
    conv1_kernel_size=3,
)
INITIAL_VALUES = {"authors": None, "he_normal": "he_normal"}
LAST_ACTIVATIONS = {"relu": "relu", "none": None}
IMAGE_SIZE = 32
STEPS, BATCH_SIZE, LEARNING_RATE = 300, 32, 0.002


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="the CSV file to write")
    parser.add_argument("--seeds", type=int, default=5, help="how many (default: %(default)s)")
    asked = parser.parse_args()

    digits = load_dataset("digits", image_size=IMAGE_SIZE)
    rows = []
    for initial_values in INITIAL_VALUES:
        for last_activation in LAST_ACTIVATIONS:
            for seed in range(asked.seeds):
                measured = train(digits, initial_values, last_activation, seed)
                rows.append(
                    {
                        "initial_values": initial_values,
                        "last_activation": last_activation,
                        "seed": seed,
                        **measured,
                    }
                )
                print(rows[-1], flush=True)
    write_csv(asked.output, rows)


def train(digits, initial_values, last_activation, seed):
    """Accuracy and dead classes on the validation images after a short training."""
    keras.utils.set_random_seed(seed)
    model = SqueezeNet(
        weights=None,
        architecture=ARCHITECTURE,
        input_shape=(IMAGE_SIZE, IMAGE_SIZE, 3),
        classes=len(digits.class_names),
        dropout_rate=0.0,
        include_preprocessing="tf",
        kernel_initializer=INITIAL_VALUES[initial_values],
        last_activation=LAST_ACTIVATIONS[last_activation],
    )
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE), "sparse_categorical_crossentropy", jit_compile=False
    )
    batches = digits.train.train_batches(BATCH_SIZE, seed=seed)
    history = model.fit(batches, steps_per_epoch=STEPS, verbose=0)

    # The layer before the softmax averages what the last convolution left of each class.
    logits = keras.Model(model.inputs, model.layers[-2].output)
    pairs = [(logits.predict_on_batch(x), y) for x, y in digits.val.val_batches(BATCH_SIZE)]
    values = np.concatenate([value for value, _ in pairs])
    labels = np.concatenate([label for _, label in pairs])
    return {
        "accuracy": round(float((values.argmax(axis=1) == labels).mean()), 4),
        "dead_classes": int((values == 0).all(axis=0).sum()),
        "loss": round(history.history["loss"][-1], 4),
    }


if __name__ == "__main__":
    main()
