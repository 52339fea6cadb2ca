"""Pruning in `fit`: against tfmot step by step, magnitudes by hand, and what fit can do."""

import itertools
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_squeezenet import (
    ConstantSparsity,
    MagnitudePruning,
    PolynomialDecay,
    Retraining,
    SqueezeNet,
    prune,
)
from keras_squeezenet.compression.pruning.kernels import kernels_of
from keras_squeezenet.compression.pruning.masks import greatest, two_of_four
from keras_squeezenet.compression.retraining import RetrainingError
from keras_squeezenet.compression.with_training.bridge import copy_weights_back, to_tf_keras
from keras_squeezenet.compression.with_training.tfmot import load_tfmot
from keras_squeezenet.network.architecture import preset
from tests import backend_pruning
from tests.test_extras import without_extras
from tests.tiers import parametrize

EPOCHS, STEPS, BATCH = 3, 4, 8
CLASSES = 3
RNG = np.random.default_rng(5)
IMAGES = RNG.normal(size=(STEPS * BATCH, 6, 6, 4)).astype("float32")
LABELS = RNG.integers(0, CLASSES, STEPS * BATCH)
RATE, MOMENTUM = 0.3, 0.9

# Every step but the first, up to step 9 of 12.
OFTEN = {"begin": 1, "end": 9, "every": 1, "unit": "steps"}


def network(seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            layers.Conv2D(8, 3, activation="relu", name="conv"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(16, activation="relu", name="hidden"),
            layers.Dense(CLASSES, name="head"),
        ],
        name="net",
    )


def compiled(model, optimizer=None, **options):
    optimizer = optimizer or keras.optimizers.SGD(RATE, momentum=MOMENTUM)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, **{"jit_compile": False, **options})
    return model


def fit(model, *callbacks, **options):
    options = {"epochs": EPOCHS, "batch_size": BATCH, **options}
    data = options.pop("data", (IMAGES, LABELS))
    return model.fit(*data, shuffle=False, verbose=0, callbacks=list(callbacks), **options)


def kernels(model):
    return {
        name: keras.ops.convert_to_numpy(kernel.variable)
        for name, kernel in kernels_of(model).items()
    }


class Watching(keras.callbacks.Callback):
    """What is 0 while a step trains, and after it."""

    def __init__(self):
        super().__init__()
        self.before, self.after = [], []

    def on_train_batch_begin(self, batch, logs=None):
        self.before.append(zeros(self.model))

    def on_train_batch_end(self, batch, logs=None):
        self.after.append(zeros(self.model))


def zeros(model):
    return {name: kernel == 0 for name, kernel in kernels(model).items()}


def pruned_by_tfmot(model, rate=RATE, **pruning):
    """Train a copy with tfmot's own callback: the model, and its masks in each step.

    `rate` may fall along half a cosine: ("cosine", first one).
    """
    import tf_keras

    tfmot = load_tfmot()
    kinds = tf_keras.layers.Conv2D, tf_keras.layers.Dense

    def wrap(layer):
        if not isinstance(layer, kinds):
            return layer
        return tfmot.sparsity.keras.prune_low_magnitude(layer, **pruning)

    twin = tf_keras.models.clone_model(to_tf_keras(model), clone_function=wrap)
    if isinstance(rate, tuple):
        rate = tf_keras.optimizers.schedules.CosineDecay(rate[1], EPOCHS * STEPS)
    twin.compile(
        tf_keras.optimizers.SGD(rate, momentum=MOMENTUM),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    masks = []

    class Masks(tf_keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            wrappers = [layer for layer in twin.layers if hasattr(layer, "pruning_vars")]
            masks.append(
                {layer.layer.name: layer.pruning_vars[0][1].numpy() == 0 for layer in wrappers}
            )

    data = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(BATCH)
    steps = [tfmot.sparsity.keras.UpdatePruningStep(), Masks()]
    twin.fit(data, epochs=EPOCHS, verbose=0, callbacks=steps)
    result = keras.models.clone_model(model)
    copy_weights_back(tfmot.sparsity.keras.strip_pruning(twin), result)
    return result, masks


def tfmots(kind, **options):
    return {"pruning_schedule": getattr(load_tfmot().sparsity.keras, kind)(**options)}


@pytest.fixture(scope="module")
def three_ways():
    """(our callback, tfmot's arguments) of what both can do."""
    decay = {"initial_sparsity": 0.1, "final_sparsity": 0.8, "begin_step": 1, "end_step": 9}
    return {
        "often": (
            MagnitudePruning(0.8, PolynomialDecay(**OFTEN, initial_sparsity=0.1)),
            tfmots("PolynomialDecay", **decay, frequency=1),
        ),
        "seldom": (
            MagnitudePruning(0.8, PolynomialDecay(**{**OFTEN, "every": 4}, power=2)),
            tfmots("PolynomialDecay", **{**decay, "initial_sparsity": 0}, power=2, frequency=4),
        ),
        "constant": (
            MagnitudePruning(0.6, ConstantSparsity(begin=2, end=11, every=3, unit="steps")),
            tfmots("ConstantSparsity", target_sparsity=0.6, begin_step=2, end_step=11, frequency=3),
        ),
        "2:4": (MagnitudePruning(structure="2:4"), {"sparsity_m_by_n": (2, 4)}),
    }


@parametrize("way", ["often", "seldom", "constant", "2:4"], quick=1)
def test_masks_and_weights_are_tfmots(way, three_ways):
    pruning, options = three_ways[way]
    model, watching = network(), Watching()
    reference, masks = pruned_by_tfmot(model, **options)
    fit(compiled(model), pruning, watching)
    for step, expected in enumerate(masks):
        for name, zero in expected.items():
            np.testing.assert_array_equal(watching.before[step][name], zero, err_msg=f"{step}")
            np.testing.assert_array_equal(watching.after[step][name], zero, err_msg=f"{step}")
    came_back = [
        (now[name] < then[name]).any() for then, now in itertools.pairwise(masks) for name in now
    ]
    assert any(came_back) == (way == "constant"), "with its value, which nobody sees in between"
    for ours, theirs, start in zip(
        model.get_weights(), reference.get_weights(), network().get_weights(), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
        assert np.abs(ours - start).max() > 1e-3


@pytest.mark.slow
def test_prune_gives_what_tfmot_gives_through_the_bridge(three_ways):
    """As it did where it was tfmot's, with an optimizer of its own and each batch in its turn."""
    _, options = three_ways["constant"]
    model = network()
    reference, _ = pruned_by_tfmot(model, ("cosine", 0.2), **options)
    data = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(BATCH)
    result = prune(
        model,
        data,
        retraining=Retraining(EPOCHS, learning_rate=0.2, momentum=MOMENTUM),
        sparsity=0.6,
        schedule=ConstantSparsity(begin=2, end=11, every=3, unit="steps"),
    )
    for ours, theirs in zip(result.model.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_array_equal(ours == 0, theirs == 0)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_prune_lets_frozen_kernels_learn_and_leaves_their_model_frozen():
    model = network()
    model.get_layer("conv").trainable = False
    result = prune(model, (IMAGES, LABELS), sparsity=0.5, batch_size=BATCH)
    assert zeros(result.model)["conv"].mean() == 0.5
    assert not result.model.get_layer("conv").trainable
    assert not zeros(model)["conv"].any()


def test_the_greatest_stay_and_equals_with_them():
    kernel = np.array([[3, -2, 1], [-2, 0.5, 4]], "float32")
    alive = np.ones(kernel.shape, bool)
    assert greatest(kernel, 1 / 3, alive).tolist() == [[1, 1, 0], [1, 0, 1]]
    assert greatest(kernel, 0.5, alive).tolist() == [[1, 1, 0], [1, 0, 1]]
    assert greatest(kernel, 0.99, alive).tolist() == [[0, 0, 0], [0, 0, 1]]
    alive[1, 2] = False
    assert greatest(kernel, 0.8, alive).tolist() == [[1, 0, 0], [0, 0, 0]]


def test_two_of_four_neighbours_in_the_channels_that_are_summed_up():
    one = np.array([1, -4, 3, 2, 0, 0, 7], "float32")  # a block, and three left over
    kept = [0, 1, 1, 0, 1, 0, 1]
    alive = np.ones(one.shape, bool)
    assert two_of_four(one, (0,), alive).tolist() == kept
    for shape, axis in (((1, 1, 7, 1), 2), ((1, 1, 1, 7), 3), ((7, 1), 0)):
        mask = two_of_four(one.reshape(shape), (axis,), alive.reshape(shape))
        assert mask.shape == shape
        assert mask.ravel().tolist() == kept
    # Over two axes at once, as an attention's output.
    both = two_of_four(one[:4].reshape(2, 2, 1), (0, 1), alive[:4].reshape(2, 2, 1))
    assert both.ravel().tolist() == kept[:4]


class Block(keras.Model):
    """A model that is no graph of layers."""

    def __init__(self):
        super().__init__(name="block")
        self.convolution = layers.Conv2D(4, 3, name="convolution")
        self.pool = layers.GlobalAveragePooling2D()
        self.head = layers.Dense(CLASSES, name="head")

    def call(self, image):
        return self.head(self.pool(self.convolution(image)))


def many_kinds():
    image = keras.Input((8, 8, 4))
    inner = keras.Sequential(
        [keras.Input((8, 8, 4)), layers.Conv2D(8, 1, name="conv")], name="inner"
    )
    conv = layers.Conv2D(4, 3, padding="same", name="conv")
    x = inner(conv(conv(image)))
    x = layers.SeparableConv2D(4, 3, depth_multiplier=2, name="separable")(x)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.Conv2DTranspose(6, 2, name="transposed")(x)
    x = layers.Reshape((25, 6))(x)
    x = layers.Conv1D(5, 3, name="conv1d")(x)
    x = layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = layers.TimeDistributed(layers.Dense(7, name="dense"), name="each")(x)
    x = layers.Reshape((23, 7, 1, 1))(x)
    x = layers.Conv3D(2, 2, padding="same", name="conv3d")(x)
    x = layers.GlobalAveragePooling3D()(x)
    return keras.Model(image, layers.Dense(CLASSES, name="head")(x))


def test_kernels_have_the_names_of_their_layers():
    found = {name: (k.shape, k.input_axes) for name, k in kernels_of(many_kinds()).items()}
    assert found == {
        "conv": ((3, 3, 4, 4), (2,)),
        "inner_conv": ((1, 1, 4, 8), (2,)),
        "separable_pointwise": ((1, 1, 16, 4), (2,)),
        "transposed": ((2, 2, 6, 4), (3,)),
        "conv1d": ((3, 6, 5), (1,)),
        "attention_query": ((5, 2, 3), (0,)),
        "attention_key": ((5, 2, 3), (0,)),
        "attention_value": ((5, 2, 3), (0,)),
        "attention_attention_output": ((2, 3, 5), (0, 1)),
        "each_dense": ((5, 7), (0,)),
        "conv3d": ((2, 2, 2, 1, 2), (3,)),
        "head": ((2, CLASSES), (0,)),
    }


def test_a_squeezenets_names_are_its_architectures():
    model = SqueezeNet(weights=None, classes=5, input_shape=(32, 32, 3), version="1.1")
    shapes = {name: kernel.shape for name, kernel in kernels_of(model).items()}
    expected = preset("1.1").kernel_shapes(5)
    assert list(shapes.items()) == list(expected.items())


@pytest.mark.parametrize("structure", [None, pytest.param("2:4", marks=pytest.mark.slow)])
def test_every_kind_of_kernel_is_pruned_and_nothing_else(structure):
    images = RNG.normal(size=(BATCH, 8, 8, 4)).astype("float32")
    pruning = MagnitudePruning(structure=structure)
    model = compiled(many_kinds(), keras.optimizers.Adam(1e-3))
    history = fit(model, pruning, data=(images, LABELS[:BATCH]), epochs=30)
    shares = {name: zero.mean() for name, zero in zeros(model).items()}
    weights = {name: kernel.shape for name, kernel in kernels_of(model).items()}
    for name, share in shares.items():
        size = np.prod(weights[name])
        if structure is None:
            assert share == pytest.approx(round(size * 0.67) / size)
        else:
            assert share >= 1 / 3 or weights[name][kernels_of(model)[name].input_axes[0]] < 3
    pruned = sum(zero.sum() for zero in zeros(model).values())
    total = sum(zero.size for zero in zeros(model).values())
    assert history.history["sparsity"][-1] == pytest.approx(pruned / total)
    others = [v for v in model.weights if "depthwise" in v.path or v.path.endswith("bias")]
    assert len(others) > 10
    assert all(np.all(v != 0) for v in others)


def test_kernels_that_do_not_learn_are_left():
    model = network()
    model.get_layer("conv").trainable = False
    before = kernels(model)["conv"]
    fit(compiled(model), MagnitudePruning(0.5))
    np.testing.assert_array_equal(kernels(model)["conv"], before)
    assert zeros(model)["hidden"].mean() == 0.5
    with pytest.raises(RetrainingError, match="Received: sparsity for conv"):
        fit(compiled(model), MagnitudePruning({"conv": 0.5}))


def test_zeros_of_the_start_stay_however_far_they_are_driven():
    model = network()
    kernel = model.get_layer("hidden").kernel
    first = kernels(model)["hidden"]
    first[::2] = 0
    kernel.assign(first)
    pruning = MagnitudePruning(0.6, PolynomialDecay(**OFTEN))
    fit(compiled(model, keras.optimizers.SGD(1.0, momentum=0.9)), pruning)
    assert not kernels(model)["hidden"][::2].any()
    assert zeros(model)["hidden"].mean() == pytest.approx(0.6, abs=1 / 128)


def test_what_is_measured_between_steps_is_pruned():
    seen = []

    class Measuring(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            seen.append(zeros(self.model))

    watching = Watching()
    pruning = MagnitudePruning(0.7, ConstantSparsity(begin=5, end=12, every=1, unit="steps"))
    data = {"validation_data": (IMAGES, LABELS)}
    fit(compiled(network()), pruning, watching, Measuring(), **data)
    assert len(seen) == EPOCHS
    # The masks of the step before, with which the network has learned to live.
    for epoch, found in enumerate(seen):
        for name, zero in found.items():
            np.testing.assert_array_equal(zero, watching.before[(epoch + 1) * STEPS - 1][name])


class Stopping(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.last = epoch

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == self.last


@pytest.fixture(scope="module")
def whole():
    model = compiled(network())
    fit(model, MagnitudePruning(0.7, PolynomialDecay(**OFTEN)))
    return model


class TestGoingOn:
    def stopped(self, pruning):
        model = compiled(network())
        fit(model, pruning, Stopping(1))
        return model

    def test_with_the_same_callback_as_if_it_had_not_been_stopped(self, whole):
        pruning = MagnitudePruning(0.7, PolynomialDecay(**OFTEN))
        model = self.stopped(pruning)
        assert pruning.achieved_sparsity < 0.7
        fit(model, pruning, initial_epoch=2)
        for ours, expected in zip(model.get_weights(), whole.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, expected)

    def test_with_a_new_one_zeros_stay_and_the_schedule_goes_on(self, whole):
        model = self.stopped(MagnitudePruning(0.7, PolynomialDecay(**OFTEN)))
        before = zeros(model)
        fit(model, MagnitudePruning(0.7, PolynomialDecay(**OFTEN)), initial_epoch=2)
        for name, zero in zeros(model).items():
            assert zero[before[name]].all()
            assert zero.sum() == zeros(whole)[name].sum()

    def test_from_weights_of_others_it_begins_anew(self):
        pruning = MagnitudePruning(0.7, PolynomialDecay(**OFTEN))
        model = self.stopped(pruning)
        model.set_weights(network(seed=1).get_weights())
        # It would take the weights that it has kept for the ranking.
        fit(model, pruning, initial_epoch=2)
        shares = [zero.mean() for zero in zeros(model).values()]
        np.testing.assert_allclose(shares, 0.7, atol=0.03)
        before = kernels(network(seed=1))["head"]
        assert np.abs(kernels(model)["head"]).max() > 0.5 * np.abs(before).max()

    def test_a_second_run_from_its_first_epoch_is_one_of_its_own(self):
        pruning = MagnitudePruning(0.5, PolynomialDecay(**OFTEN))
        model = compiled(network())
        fit(model, pruning)
        model.set_weights(network().get_weights())
        watching = Watching()
        fit(model, pruning, watching)
        assert not any(zero.any() for zero in watching.before[0].values())


def test_weights_that_another_callback_puts_in_place_are_the_ones_ranked():
    other = network(seed=1)

    class Replacing(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if self.params["steps"] - 1 == batch:
                self.model.set_weights(other.get_weights())

    watching = Watching()
    pruning = MagnitudePruning(0.5, ConstantSparsity(begin=4, end=4, unit="steps"))
    fit(compiled(network()), Replacing(), pruning, watching, epochs=1)
    magnitudes = np.abs(kernels(other)["hidden"])
    gone = watching.before[3]["hidden"]
    assert magnitudes[gone].max() <= magnitudes[~gone].min()


@parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.AdamW(1e-2, weight_decay=0.1, clipnorm=0.1),
        lambda: keras.optimizers.SGD(0.1, global_clipnorm=0.1, momentum=0.9, nesterov=True),
        lambda: keras.optimizers.Adam(1e-2, use_ema=True, ema_momentum=0.5),
        lambda: keras.optimizers.SGD(
            0.1, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=3
        ),
        lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(1e-2, use_ema=True)),
    ],
    ids=["decay", "clipping", "average", "overwritten", "accumulating", "scaled"],
    quick=2,
)
def test_zeros_are_zeros_with_any_optimizer(optimizer):
    model, watching = compiled(network(), optimizer()), Watching()
    fit(model, MagnitudePruning(0.7, PolynomialDecay(**OFTEN)), watching)
    for before, after in zip(watching.before, watching.after, strict=True):
        for name in before:
            np.testing.assert_array_equal(before[name], after[name])
    for name, zero in zeros(model).items():
        np.testing.assert_array_equal(zero, watching.after[-1][name])
        assert zero.mean() == pytest.approx(0.7, abs=0.02)


def test_averaged_weights_are_pruned_where_they_are_swapped_in():
    shares = []

    class Measuring(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            shares.append(zeros(self.model)["hidden"].mean())

    model = compiled(network(), keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9))
    pruning = MagnitudePruning(0.75, ConstantSparsity())
    data = {"validation_data": (IMAGES, LABELS)}
    fit(model, pruning, keras.callbacks.SwapEMAWeights(), Measuring(), **data)
    assert shares == [0.75] * EPOCHS


@parametrize("policy", ["mixed_float16", "mixed_bfloat16", "bfloat16", "float64"], quick=2)
def test_policies(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = network()
    finally:
        keras.config.set_dtype_policy(before)
    start = model.get_weights()
    fit(compiled(model), MagnitudePruning(0.75, PolynomialDecay(**OFTEN)))
    assert zeros(model)["hidden"].mean() == 0.75
    assert any(np.any(a != b) for a, b in zip(start, model.get_weights(), strict=True))


def test_a_model_that_is_no_graph_and_data_that_comes_one_by_one():
    def batches():
        while True:
            for start in range(0, len(IMAGES), BATCH):
                yield IMAGES[start : start + BATCH], LABELS[start : start + BATCH]

    model = compiled(Block())
    options = {"batch_size": None, "data": (batches(),)}
    with pytest.raises(RetrainingError, match=r"no length.* Received: steps_per_epoch=None"):
        fit(model, MagnitudePruning(0.75), **options)
    options["steps_per_epoch"] = STEPS
    with pytest.raises(RetrainingError, match=r"Layer convolution .* Received: .* not built"):
        fit(model, MagnitudePruning(0.75), **options)
    model(IMAGES[:1])
    fit(model, MagnitudePruning(0.75), **options)
    assert zeros(model)["convolution"].mean() == 0.75


def test_a_training_that_ends_too_early_says_so(caplog):
    fit(compiled(network()), MagnitudePruning(0.75, PolynomialDecay(**OFTEN)), Stopping(0))
    (record,) = caplog.records
    assert "ended at step 4, before its pruning schedule did at step 9" in record.getMessage()


@pytest.fixture(scope="module")
def on_tensorflow(tmp_path_factory):
    """The folder of a start, and of what TensorFlow made of it."""
    folder = tmp_path_factory.mktemp("backends")
    backend_pruning.save_start(folder)
    backend_pruning.main(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_other_backends_give_the_same_without_what_tensorflow_brings(backend, on_tensorflow):
    if not find_spec(backend):
        pytest.skip(f"{backend} is not installed")
    script = Path(backend_pruning.__file__)
    code = f"import runpy\nrunpy.run_path({str(script)!r}, run_name='__main__')"
    without_extras(code, on_tensorflow, backend=backend)
    expected, received = (np.load(on_tensorflow / f"{n}.npz") for n in ("tensorflow", backend))
    pruned = 0
    for name in expected:
        np.testing.assert_array_equal(received[name] == 0, expected[name] == 0, err_msg=name)
        np.testing.assert_allclose(received[name], expected[name], atol=1e-4, err_msg=name)
        pruned += (expected[name] == 0).any()
    assert pruned >= 10 * 5, "of ten steps, and the averages in the end, five kernels"


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ({"sparsity": 1.5}, {}, r"Received: sparsity of conv=1\.5"),
        ({"sparsity": {"body": 0.5}}, {}, "conv, hidden, head. Received: sparsity for body"),
        ({"schedule": PolynomialDecay(begin=5)}, {}, "within the run of 12 steps"),
        ({}, {"steps_per_execution": 2}, "Received: steps_per_execution=2"),
    ],
)
def test_what_cannot_be_pruned_is_refused_before_the_first_step(arguments, options, message):
    model = compiled(network(), **options)
    with pytest.raises(RetrainingError, match=message) as error:
        fit(model, MagnitudePruning(**arguments))
    assert "\n" not in str(error.value)
    for ours, start in zip(model.get_weights(), network().get_weights(), strict=True):
        np.testing.assert_array_equal(ours, start)


@pytest.mark.parametrize(
    ("change", "received"),
    [
        (lambda layer: layer.enable_lora(2), "one with LoRA weights"),
        (lambda layer: layer.quantize("int8"), "integers"),
    ],
)
def test_a_kernel_that_is_no_plain_one_is_named(change, received):
    model = network()
    change(model.get_layer("hidden"))
    with pytest.raises(RetrainingError, match=f"Layer hidden of class Dense .*: {received}"):
        kernels_of(model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"structure": "1:2"}, "Received: structure=1:2"),
        ({"structure": "2:4", "sparsity": 0.5}, r"Received: sparsity=0\.5"),
        ({"schedule": "constant"}, "Received: schedule=constant"),
    ],
)
def test_arguments_that_do_not_go_together_are_named(arguments, message):
    with pytest.raises(RetrainingError, match=message):
        MagnitudePruning(**arguments)
