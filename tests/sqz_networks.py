"""Small networks of shared values for the tests of .sqz files."""

import contextlib
import json
from dataclasses import replace

import numpy as np
import pytest

from keras_squeezenet.network.architecture import PRESETS, Architecture, FireFilters
from keras_squeezenet.network.weight_files import read_weights
from keras_squeezenet.sqz import container, context_coding, faithful, numbers
from keras_squeezenet.sqz.network import CompressedNetwork, SharedValues

TINY = Architecture(
    name="tiny",
    conv1_filters=6,
    conv1_kernel_size=3,
    fires=(FireFilters(3, 4, 5), FireFilters(4, 70, 0, "complex")),
    pool_after=(1,),
    input_size=24,
    last_conv_padding=1,
)


def network_of(kernels, biases, architecture=TINY, **changes):
    """A `CompressedNetwork` of arrays by name."""
    fields = {
        "architecture": architecture,
        "classes": next(reversed(biases.values())).size,
        "input_size": 32,
        "preprocessing": "caffe",
        "last_activation": "relu",
        "classifier_activation": "softmax",
        "class_names": None,
        "resize": 256,
        "dropout_rate": 0.5,
    }
    return CompressedNetwork(
        **{**fields, **changes},
        kernels={name: SharedValues.of(array) for name, array in kernels.items()},
        biases={name: SharedValues.of(array) for name, array in biases.items()},
    )


def made_by(array_of_shape, architecture=TINY, classes=5, **changes):
    """A network whose arrays are `array_of_shape(shape)`."""
    shapes = architecture.kernel_shapes(classes)
    return network_of(
        {name: array_of_shape(shape) for name, shape in shapes.items()},
        {name: array_of_shape(shape[-1:]) for name, shape in shapes.items()},
        architecture,
        **changes,
    )


def counted(scale=0.125, dtype=np.float32, period=23, **changes):
    """A network of numbers that anyone can count out, two thirds of them zero."""

    def array_of_shape(shape):
        numbers = np.arange(np.prod(shape), dtype=np.int64)
        levels = (numbers * numbers * 7 + numbers * 3) % period - period // 2
        levels = np.where((numbers * 5 + numbers // 7) % 3, 0, levels)
        return (np.float32(scale) * levels).astype(dtype).reshape(shape)

    return made_by(array_of_shape, **changes)


def alike():
    """A network with a kernel whose filters 0 to 7, 8 to 15, … are the same but for few weights."""
    architecture = Architecture("alike", 4, 3, (FireFilters(40, 72, 8),), (1,), 24)

    def array_of_shape(shape):
        numbers = np.arange(np.prod(shape), dtype=np.int64).reshape(shape)
        rows, filters = numbers // shape[-1], numbers % shape[-1] // 8
        levels = (rows * rows * 7 + rows * filters * 5 + filters * 3) % 13 - 6
        return np.float32(0.125) * (levels + (numbers % 23 == 0)).astype(np.float32)

    return made_by(array_of_shape, architecture)


def assert_same(network, other):
    """Raises unless the networks have the same description and bit-equal values."""
    for field in network.__dataclass_fields__:
        if field not in ("kernels", "biases"):
            assert getattr(network, field) == getattr(other, field), field
    for part in ("kernels", "biases"):
        arrays, others = getattr(network, part), getattr(other, part)
        assert list(arrays) == list(others)
        for name, shared in arrays.items():
            np.testing.assert_array_equal(
                shared.values.view(np.uint32), others[name].values.view(np.uint32), name
            )


@contextlib.contextmanager
def another_encoder():
    """Choices that the format leaves to who writes a file, taken in another way."""
    deflate = container.deflate_json
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(numbers, "_grid", lambda values, highest=0: None)
        patch.setattr(context_coding, "CLASS_WIDTHS", (1.3,))
        patch.setattr(faithful, "_cost", lambda entries, gaps: len(entries))
        patch.setattr(container, "deflate_json", lambda fields, _: deflate(fields, b""))
        yield


def published(folder, **changes):
    """The authors' deep-compressed SqueezeNet 1.0."""
    weights = read_weights(folder / "weights/compressed_SqueezeNet.net", PRESETS["1.0"])
    architecture = replace(PRESETS["1.0"], last_conv_padding=weights.last_conv_padding)
    return network_of(weights.kernels, weights.biases, architecture, input_size=227, **changes)


def imagenet_names(folder):
    index = json.loads((folder / "weights/imagenet_class_index.json").read_text())
    return tuple(index[str(number)][1] for number in range(1000))
