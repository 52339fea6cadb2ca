"""The networks of tests/golden/models: how they were made, and what they are shown.

    python -m tests.golden_models FOLDER

writes a file of each, and outputs.npz: what each gave for IMAGES. The files of tests/golden were
written once, by version 0.1.0 of 2026-11-27, and are not to be written again: they are what later
versions have to read.
"""

import sys
from pathlib import Path

import keras
import numpy as np
from keras.optimizers import schedules

from keras_squeezenet import Architecture, SqueezeNet
from keras_squeezenet.network.families.layers import GroupedConv2D, LocalResponseNormalization
from keras_squeezenet.network.layers import CeilMaxPooling2D, Fire, ImagePreprocessing
from keras_squeezenet.training.losses import SmoothedCrossentropy
from keras_squeezenet.training.schedules import WarmUp

SIDE = 24
IMAGES = (np.arange(2 * SIDE * SIDE * 3) * 37 % 256).reshape(2, SIDE, SIDE, 3).astype("float32")


def small(bypass=None, **options):
    architecture = Architecture.from_metaparameters(
        name="small",
        base_e=8,
        incr_e=8,
        freq=1,
        fires=2,
        squeeze_ratio=0.5,
        pool_after=(1,),
        conv1_filters=8,
        conv1_kernel_size=3,
        input_size=SIDE,
        bypass=bypass,
    )
    return SqueezeNet(
        weights=None,
        architecture=architecture,
        input_shape=(SIDE, SIDE, 3),
        **{"classes": 5, **options},
    )


def every_other_class():
    """With what is not in a SqueezeNet, compiled with our own schedule and loss."""
    image = keras.Input((SIDE, SIDE, 3))
    x = ImagePreprocessing("tf")(image)
    x = Fire(2, 2, 2, batch_normalization=True, name="fire")(x)
    x = CeilMaxPooling2D(name="pool")(x)
    x = LocalResponseNormalization(name="norm")(x)
    x = GroupedConv2D(4, 3, groups=2, name="grouped")(x)
    x = keras.layers.GlobalAveragePooling2D(name="means")(x)
    model = keras.Model(image, keras.layers.Softmax(name="softmax")(x))
    rate = WarmUp(schedules.CosineDecay(0.1, 10), 3)
    model.compile(keras.optimizers.SGD(rate), SmoothedCrossentropy(0.1))
    return model


BUILDERS = {
    "simple-bypass-caffe": lambda: small("simple", include_preprocessing="caffe"),
    "complex-bypass-torch": lambda: small("complex", include_preprocessing="torch"),
    "batch-normalization": lambda: small(batch_normalization=True, last_activation=None),
    "headless": lambda: small(include_top=False, pooling="avg", include_preprocessing=True),
    "logits": lambda: small(classifier_activation=None, dropout_rate=0.0),
    "every-other-class": every_other_class,
}


def built(name):
    """The network with weights that anyone can count out."""
    model = BUILDERS[name]()
    for number, variable in enumerate(model.weights):
        size = int(np.prod(variable.shape))
        values = ((np.arange(size) + number) * 29 % 61 - 24) / 100
        if "variance" in variable.path:
            values = np.abs(values) + 0.5
        variable.assign(values.reshape(variable.shape))
    return model


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True)
    outputs = {}
    for each in BUILDERS:
        model = built(each)
        model.save(folder / f"{each}.keras", include_optimizer=False)
        outputs[each] = model.predict_on_batch(IMAGES)
    np.savez_compressed(folder / "outputs.npz", **outputs)
