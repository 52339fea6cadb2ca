"""Small models of all kinds of layers for the tests of .sqz files of version 2."""

import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
from keras import layers

from keras_squeezenet import load_compressed, save_compressed, sqz
from keras_squeezenet.compression.layer_classes import CLASSES
from keras_squeezenet.network.families.layers import (
    ChannelSelection,
    GroupedConv2D,
    LocalResponseNormalization,
)
from keras_squeezenet.network.graph import graph_of
from keras_squeezenet.network.layers import CeilMaxPooling2D, Fire, ImagePreprocessing
from keras_squeezenet.network.models import SqueezeNet
from keras_squeezenet.sqz.graph import INPUT, Graph, Node, checked_arguments, input_arguments
from keras_squeezenet.sqz.layer_kinds import ACTIVATIONS, KINDS
from keras_squeezenet.sqz.model import CompressedModel, stored
from tests.compression_digits import TINY

SIDE = 16


def with_weights(model, seed=0):
    """The model with weights that depend on nothing but the seed, variances above zero."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.name == "count":
            continue
        least = 0.5 if "variance" in weight.name or weight.name == "gamma" else -0.5
        weight.assign(rng.uniform(least, least + 1, weight.shape))
    for layer in every_layer_of(model):
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()
    return model


def every_layer_of(model):
    for layer in model.layers:
        yield from every_layer_of(layer) if isinstance(layer, keras.Model) else [layer]


def image(name="image", **options):
    return layers.Input((SIDE, SIDE, 3), name=name, **options)


def chain(*parts, name="chain"):
    """A functional model of layers one after the other."""
    inputs = tensor = image()
    for part in parts:
        tensor = part(tensor)
    return keras.Model(inputs, tensor, name=name)


def branches(parts):
    """A layer-like function: what each part makes of the same tensor, joined."""
    return lambda tensor: layers.Concatenate()([part(tensor) for part in parts])


def small_cnn():
    return keras.Sequential(
        [
            image(),
            layers.Rescaling(1 / 127.5, offset=-1),
            layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv"),
            layers.BatchNormalization(epsilon=1e-5, name="norm"),
            layers.ReLU(6, name="relu6"),
            layers.MaxPooling2D(),
            layers.Conv2D(12, (3, 1), strides=2, activation="relu", name="wide"),
            layers.Dropout(0.3),
            layers.Flatten(),
            layers.Dense(5, activation="softmax", name="head"),
        ],
        name="small_cnn",
    )


def every_convolution():
    return chain(
        layers.Conv2D(8, 3, padding="same", activation="silu"),
        layers.Conv2D(8, 3, groups=4, dilation_rate=2, activation="hard_silu"),
        layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same", activation="leaky_relu"),
        layers.DepthwiseConv2D((5, 1), use_bias=False, padding="same"),
        layers.SeparableConv2D(6, 3, depth_multiplier=2, strides=2, activation="tanh"),
        layers.SeparableConv2D(6, 1, use_bias=False),
        layers.Conv2DTranspose(5, 3, strides=2, padding="same", output_padding=1),
        layers.Dense(7, activation="gelu"),
        layers.Dense(7, use_bias=False),
        layers.GlobalAveragePooling2D(),
    )


def every_normalization():
    scalar = layers.Normalization(axis=None, mean=0.4, variance=2.0)
    constant = layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 3.0], invert=True)
    return chain(
        scalar,
        constant,
        layers.Normalization(name="adapted"),
        layers.Normalization(axis=(2, -1)),
        layers.Conv2D(8, 3),
        layers.BatchNormalization(momentum=0.9),
        layers.BatchNormalization(center=False, scale=False),
        layers.BatchNormalization(axis=1),
        layers.LayerNormalization(),
        layers.LayerNormalization(axis=[1, 2, 3], center=False),
        layers.LayerNormalization(rms_scaling=True),
        layers.GroupNormalization(4),
        layers.GroupNormalization(-1, scale=False),
        layers.UnitNormalization(),
        layers.Flatten(),
    )


def every_activation():
    return chain(
        layers.Conv2D(6, 3),
        layers.PReLU(),
        layers.PReLU(shared_axes=[1, 2]),
        layers.LeakyReLU(0.2),
        layers.ELU(0.7),
        layers.ReLU(3, negative_slope=0.1, threshold=0.2),
        *(layers.Activation(name) for name in ("mish", "celu", "softplus", "squareplus")),
        layers.Softmax(axis=[1, 2]),
        branches([layers.Dense(3, activation=name) for name in ACTIVATIONS]),
        layers.Softmax(),
        layers.GlobalMaxPooling2D(),
    )


def every_shape():
    return chain(
        layers.Rescaling([0.5, 1.0, 2.0], offset=[0.0, 1.0, -1.0]),
        layers.ZeroPadding2D(((0, 1), (2, 3))),
        layers.Cropping2D(((1, 0), (1, 1))),
        layers.UpSampling2D((1, 2), interpolation="bilinear"),
        layers.MaxPooling2D(3, strides=2, padding="same"),
        layers.AveragePooling2D((1, 2)),
        CeilMaxPooling2D(3, 2),
        layers.SpatialDropout2D(0.1),
        layers.GaussianNoise(0.1),
        layers.Dropout(0.2, noise_shape=(None, 1, 1, 3)),
        layers.Identity(),
        layers.GlobalAveragePooling2D(keepdims=True),
        layers.Permute((3, 1, 2)),
        layers.Reshape((-1,)),
    )


def every_merge():
    inputs = image()
    one, other, third = (layers.Conv2D(4, 3, name=f"conv{i}")(inputs) for i in range(3))
    merged = [
        kind()([one, other, third])
        for kind in (layers.Add, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum)
    ]
    merged.append(layers.Subtract()([other, one]))
    joined = layers.Concatenate()(merged)
    joined = layers.Concatenate(axis=1)([joined, joined])
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(joined), name="merges")


def along_lines():
    """Of signals: sound, a heartbeat, what a sensor says over time."""
    x = inputs = layers.Input((40, 3), name="signal")
    x = layers.Rescaling(0.5)(x)
    x = layers.ZeroPadding1D((1, 2))(x)
    x = layers.Cropping1D((0, 1))(x)
    x = layers.Conv1D(8, 5, padding="causal", dilation_rate=2, activation="relu")(x)
    x = layers.Conv1D(8, 3, strides=2, groups=4, use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    x = layers.DepthwiseConv1D(3, depth_multiplier=2, padding="same", activation="relu6")(x)
    x = layers.SeparableConv1D(6, 3, depth_multiplier=2, activation="tanh")(x)
    x = layers.SpatialDropout1D(0.1)(x)
    x = layers.RMSNormalization(axis=[1, 2])(layers.RMSNormalization()(x))
    x = layers.MaxPooling1D(3, strides=2, padding="same")(x)
    x = layers.UpSampling1D(3)(x)
    x = layers.Conv1DTranspose(5, 3, strides=2, padding="same", output_padding=1)(x)
    x = layers.AveragePooling1D(2)(x)
    x = layers.GaussianDropout(0.1)(layers.AlphaDropout(0.1, noise_shape=(None, 1, 5))(x))
    pooled = [layers.GlobalAveragePooling1D()(x), layers.GlobalMaxPooling1D()(x)]
    x = layers.Dense(4, activation="softmax")(layers.Concatenate()(pooled))
    return keras.Model(inputs, x, name="along_lines")


def of_applications():
    """Keras's own layers of ConvNeXt and InceptionResNetV2."""
    inputs = image()
    x = layers.Conv2D(4, 3, padding="same")(inputs)
    scaled = CLASSES["StochasticDepth"](0.1)(CLASSES["LayerScale"](0.5, 4)(x))
    x = CLASSES["CustomScaleLayer"](0.17)([x, scaled])
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(x), name="of_applications")


def of_ours():
    return chain(
        ImagePreprocessing("torch"),
        Fire(4, 6, 8, name="fire2"),
        Fire(4, 6, 8, "complex", activation="tanh", name="fire3"),
        Fire(4, 14, 0, "simple", batch_normalization=True, name="fire4"),
        CeilMaxPooling2D(name="pool4"),
        layers.GlobalAveragePooling2D(),
    )


def of_other_families():
    return chain(
        layers.Conv2D(6, 3),
        LocalResponseNormalization(1, k=1.0, alpha=0.5),
        ChannelSelection([5, 0, 3, 3, 2, 1, 0, 4]),
        GroupedConv2D(8, 3, groups=4, activation="relu"),
        layers.GlobalAveragePooling2D(),
        name="other_families",
    )


def with_head():
    """What a person makes: features of a SqueezeNet, then a head of Dense."""
    base = SqueezeNet(False, None, input_shape=(33, 33, 3), architecture=TINY, pooling="avg")
    inputs = layers.Input((33, 33, 3))
    features = base(inputs, training=False)
    x = layers.Dropout(0.2)(layers.Dense(8, activation="relu")(features))
    return keras.Model(inputs, layers.Dense(5, activation="softmax")(x), name="with_head")


def shared_and_nested():
    """A shared layer, a model called twice, two inputs, several outputs, models in models."""
    inner_input = layers.Input((None, None, 4), name="inner_input")
    inner = keras.Model(inner_input, layers.Conv2D(4, 3, name="conv")(inner_input), name="inner")
    tower = keras.Sequential([layers.Input((None, None, 4)), inner, layers.ReLU()], name="tower")
    pair_input = [layers.Input((None, None, 4), name=f"in{i}") for i in range(2)]
    pair = keras.Model(
        pair_input,
        [layers.Add(name="sum")(pair_input), layers.Subtract(name="difference")(pair_input)],
        name="pair",
    )
    left, right = image("left"), image("right")
    conv = layers.Conv2D(4, 3, name="conv")
    total, difference = pair([tower(conv(left)), tower(conv(right))])
    pooled = [layers.GlobalAveragePooling2D()(x) for x in (difference, total, conv(right))]
    dense = layers.Dense(3, name="dense")
    return keras.Model([right, left], [dense(x) for x in pooled], name="shared_and_nested")


MODELS = {
    "a small CNN": small_cnn,
    "every convolution": every_convolution,
    "every normalization": every_normalization,
    "every activation": every_activation,
    "every shape": every_shape,
    "along lines": along_lines,
    "every merge": every_merge,
    "layers of ours": of_ours,
    "layers of applications": of_applications,
    "layers of other families": of_other_families,
    "a head on a SqueezeNet": with_head,
    "shared and nested": shared_and_nested,
}


def node(kind, name, arguments=None, inputs=()):
    """A node of data, without Keras."""
    if kind == INPUT:
        return Node(kind, name, input_arguments(arguments, name))
    return Node(kind, name, checked_arguments(KINDS[kind], arguments or {}, name), inputs)


def counted(scale=0.125, period=23, **changes):
    """A model of numbers that anyone can count out: of each form, in a graph of a few kinds."""
    inner = Graph(
        (
            node("Input", "in", {"shape": (None, None, None, 6)}),
            node("DepthwiseConv2D", "depthwise", {"kernel_size": (3, 3), "channels": 6}, (0,)),
            node("Conv2D", "point", {"filters": 70, "kernel_size": (1, 1), "channels": 6}, (1,)),
        ),
        0,
        2,
        True,
    )
    first = {"filters": 6, "kernel_size": (3, 3), "strides": (2, 2), "channels": 3}
    graph = Graph(
        (
            node("Input", "image", {"shape": (None, 24, 24, 3)}),
            node("Conv2D", "conv", {**first, "padding": "same", "use_bias": False}, (0,)),
            node("BatchNormalization", "norm", {"epsilon": 1e-5, "channels": 6}, (1,)),
            node("ReLU", "relu", {"max_value": 6.0}, (2,)),
            Node("Model", "block", inputs=(3,), graph=inner),
            Node(None, inputs=(4,), again=3),
            node("GlobalAveragePooling2D", "pool", {}, (5,)),
            node("Dense", "head", {"units": 5, "activation": "softmax", "channels": 70}, (6,)),
        ),
        (0,),
        7,
    )

    def array_of_shape(shape):
        numbers = np.arange(np.prod(shape), dtype=np.int64)
        levels = (numbers * numbers * 7 + numbers * 3) % period - period // 2
        levels = np.where((numbers * 5 + numbers // 7) % 3, 0, levels)
        return (np.float32(scale) * levels.astype(np.float32)).reshape(shape)

    arrays = {name: array_of_shape(shape) for name, shape in graph.array_shapes().items()}
    fields = {"name": "counted", "graph": graph, "class_names": tuple("abcde"), "resize": 256}
    return CompressedModel(
        **{**fields, "arrays": {n: stored(array) for n, array in arrays.items()}, **changes}
    )


def with_head_of(classes, model):
    """The counted model with a head of other classes, of values of its own."""
    nodes = [*model.graph.nodes[:-1]]
    arguments = {"units": classes, "activation": "softmax", "channels": 70}
    nodes.append(node("Dense", "head", arguments, (6,)))
    graph = Graph(tuple(nodes), model.graph.inputs, model.graph.outputs)
    arrays = dict(model.arrays)
    for name, shape in graph.array_shapes().items():
        if name.startswith("head/") and model.values(name).shape != shape:
            levels = np.arange(np.prod(shape), dtype=np.int64).reshape(shape) * 7 % 11 - 5
            arrays[name] = stored(levels.astype(np.float32) / 4)
    names = tuple("abcdefghi"[:classes])
    return replace(model, graph=graph, arrays=arrays, class_names=names)


def updated():
    """The counted model, trained on a little."""
    return with_some_arrays(
        {
            "conv/kernel": lambda values, places: np.where(places % 29, values, 0.3),
            "norm/moving_mean": lambda values, _: values * 1.0625 + 0.01,
            "block/point/kernel": lambda values, places: np.where(
                places % 31, values, values.max()
            ),
        }
    )


def rescaled():
    """The counted model, all values of two arrays changed."""
    return with_some_arrays(
        {
            "block/depthwise/depthwise_kernel": lambda values, _: values * 1.25,
            "block/point/kernel": lambda values, _: values + values**3,
        }
    )


def with_some_arrays(changes):
    """The counted model with `change(values, places)` of some arrays, by their names."""
    model = counted()
    arrays = dict(model.arrays)
    for name, change in changes.items():
        values = model.values(name)
        arrays[name] = stored(change(values, np.arange(values.size).reshape(values.shape)))
    return replace(model, arrays=arrays)


def another_model():
    """A model that has nothing in common with the counted one."""
    nodes = (
        node("Input", "in", {"shape": (None, 2)}),
        node("Dense", "dense", {"units": 2, "channels": 2}, (0,)),
    )
    arrays = {"dense/kernel": np.eye(2, dtype=np.float32), "dense/bias": np.ones(2, np.float32)}
    return CompressedModel("another", Graph(nodes, 0, 1), arrays)


def images_for(model):
    rng = np.random.default_rng(1)
    shapes = [tuple(tensor.shape[1:]) for tensor in model.inputs]
    arrays = [rng.uniform(0, 4, (3, *shape)).astype(np.float32) for shape in shapes]
    return arrays if isinstance(graph_of(model).input, list) else arrays[0]


# Files of version 2 that must stay readable, and what their models give for `images_for`:
# `python -m tests.sqz_models FOLDER` writes them anew, when a version 3 comes.
GOLDEN = Path(__file__).parent / "golden" / "version2"
COUNTED = {
    f"{kind}-{mode}": (make, mode)
    for mode in ("faithful", "best")
    for kind, make in (("grid", counted), ("float32", lambda: counted(np.pi, period=999)))
}
# Of updates: the model before, that of grid-best.sqz, and the one after.
UPDATES = {
    "grid-best-to-updated": (counted, updated),
    "grid-best-to-other-head": (counted, lambda: with_head_of(7, rescaled())),
    "grid-best-to-float32-best": (counted, lambda: counted(np.pi, period=999)),
    "grid-best-to-another-model": (counted, another_model),
}


def write_golden(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, (make, mode) in COUNTED.items():
        (folder / f"{name}.sqz").write_bytes(sqz.encode(make(), mode))
    for name, (old, new) in UPDATES.items():
        update = sqz.diff(sqz.encode(old()), sqz.encode(new()))
        (folder / f"{name}.3.sqzdelta").write_bytes(update)
    outputs = {}
    for name, make in MODELS.items():
        keras.utils.clear_session()
        path = folder / f"{name.replace(' ', '-')}.sqz"
        save_compressed(with_weights(make()), path, bits=3, class_names=None)
        outputs[path.stem] = outputs_of(load_compressed(path))[0]
    np.savez_compressed(folder / "outputs.npz", **outputs)


def outputs_of(model):
    """Arrays that the model gives for `images_for`."""
    outputs = model(images_for(model), training=False)
    return [np.asarray(x) for x in (outputs if isinstance(outputs, list) else [outputs])]


if __name__ == "__main__":
    write_golden(Path(sys.argv[1]))
