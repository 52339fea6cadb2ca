import itertools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from numpy.lib.stride_tricks import sliding_window_view

from keras_squeezenet.network.layers import (
    BatchNormalization,
    CeilMaxPooling2D,
    Fire,
    ImagePreprocessing,
)
from tests.tiers import parametrize

BYPASSES = [None, "simple", "complex"]


@pytest.fixture(scope="session")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed: make torch")


def normal(shape, seed=0, mean=0.0, dtype="float32"):
    return np.random.default_rng(seed).normal(mean, size=shape).astype(dtype)


# --- Fire ---------------------------------------------------------------------------------------


def built_fire(*arguments, in_channels=6, seed=1, **keywords):
    """A Fire whose biases are random too."""
    fire = Fire(*arguments, **keywords)
    fire.build((None, None, None, in_channels))
    fire.set_weights([0.5 * normal(w.shape, seed + i) for i, w in enumerate(fire.weights)])
    return fire


def convolve_by_hand(images, layer):
    """Stride 1 with zeros around the image, in float64."""
    kernel, bias = (weights.astype("float64") for weights in layer.get_weights())
    margin = kernel.shape[0] // 2
    padded = np.pad(images, [(0, 0), (margin, margin), (margin, margin), (0, 0)])
    windows = sliding_window_view(padded, kernel.shape[:2], axis=(1, 2))
    return np.einsum("bhwcij,ijcf->bhwf", windows, kernel) + bias


def fire_by_hand(images, fire):
    squeezed = np.maximum(convolve_by_hand(images, fire.squeeze1x1), 0)
    expanded = [
        np.maximum(convolve_by_hand(squeezed, expand), 0)
        for expand in (fire.expand1x1, fire.expand3x3)
        if expand is not None
    ]
    outputs = np.concatenate(expanded, axis=-1)
    if fire.bypass == "simple":
        outputs = outputs + images
    if fire.bypass == "complex":
        outputs = outputs + convolve_by_hand(images, fire.bypass1x1)
    return outputs


@pytest.mark.parametrize("bypass", BYPASSES)
@pytest.mark.parametrize(("expand1x1", "expand3x3"), [(2, 4), (6, 0), (0, 6)])
def test_fire_computes_what_the_paper_says(bypass, expand1x1, expand3x3):
    images = normal((2, 5, 7, 6))
    fire = built_fire(3, expand1x1, expand3x3, bypass)
    outputs = ops.convert_to_numpy(fire(images))
    np.testing.assert_allclose(outputs, fire_by_hand(images, fire), rtol=1e-5, atol=1e-5)
    if bypass:
        assert outputs.min() < 0  # no ReLU after the addition


def test_the_1x1_filters_come_before_the_3x3_filters():
    fire = built_fire(3, 2, 4)
    fire.expand1x1.set_weights([np.zeros((1, 1, 3, 2)), np.full(2, 10.0)])
    fire.expand3x3.set_weights([np.zeros((3, 3, 3, 4)), np.full(4, 20.0)])
    outputs = ops.convert_to_numpy(fire(normal((1, 4, 4, 6))))
    np.testing.assert_array_equal(outputs[0, 2, 2], [10, 10, 20, 20, 20, 20])


@pytest.mark.parametrize("bypass", BYPASSES)
def test_fire_gives_the_same_numbers_in_both_data_formats(bypass):
    images = normal((2, 5, 7, 6))
    last = built_fire(3, 2, 4, bypass)
    first = Fire(3, 2, 4, bypass, data_format="channels_first")
    first.build((None, 6, None, None))
    first.set_weights(last.get_weights())
    try:
        outputs = first(images.transpose(0, 3, 1, 2))
    except tf.errors.UnimplementedError:
        pytest.skip("this TensorFlow has no channels_first convolution for this CPU")
    np.testing.assert_allclose(
        ops.convert_to_numpy(outputs).transpose(0, 2, 3, 1), last(images), rtol=1e-5, atol=1e-5
    )
    assert first.compute_output_shape((2, 6, 5, 7)) == tuple(outputs.shape) == (2, 6, 5, 7)


def test_the_output_shape_of_fire_keeps_open_sizes():
    fire = Fire(3, 2, 5)
    assert fire.compute_output_shape((None, None, 9, 6)) == (None, None, 9, 7)


def test_fire_survives_serialisation_with_its_settings():
    fire = built_fire(
        3,
        2,
        4,
        "complex",
        activation="elu",
        kernel_initializer=keras.initializers.HeNormal(seed=3),
        bias_initializer="ones",
        kernel_regularizer=keras.regularizers.L2(0.01),
        data_format="channels_last",
        name="fire_of_mine",
        dtype="mixed_bfloat16",
    )
    config = keras.saving.serialize_keras_object(fire)
    keras.config.set_image_data_format("channels_first")  # must not change what was saved
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == fire.get_config()
    again.set_weights(fire.get_weights())
    images = normal((1, 5, 5, 6))
    np.testing.assert_array_equal(
        ops.convert_to_numpy(ops.cast(again(images), "float32")),
        ops.convert_to_numpy(ops.cast(fire(images), "float32")),
    )


def normalize_by_hand(images, layer, training):
    """In float64, channels last; training takes the batch's own mean and variance."""
    gamma, beta, mean, variance = (weights.astype("float64") for weights in layer.get_weights())
    if training:
        mean, variance = images.mean(axis=(0, 1, 2)), images.var(axis=(0, 1, 2))
    return gamma * (images - mean) / np.sqrt(variance + layer.epsilon) + beta


def normalized_by_hand(images, fire, training):
    def part(name, inputs):
        convolution, normalization = getattr(fire, name), fire.normalizations[name]
        (kernel,) = convolution.get_weights()
        margin = kernel.shape[0] // 2
        padded = np.pad(inputs, [(0, 0), (margin, margin), (margin, margin), (0, 0)])
        windows = sliding_window_view(padded, kernel.shape[:2], axis=(1, 2))
        convolved = np.einsum("bhwcij,ijcf->bhwf", windows, kernel.astype("float64"))
        return normalize_by_hand(convolved, normalization, training)

    squeezed = np.maximum(part("squeeze1x1", images), 0)
    expanded = [np.maximum(part(name, squeezed), 0) for name in ("expand1x1", "expand3x3")]
    return np.concatenate(expanded, axis=-1) + part("bypass1x1", images)


def normalized_fire(**options):
    """A complex one with scales, shifts and statistics of its own."""
    fire = Fire(3, 2, 4, "complex", batch_normalization=True, **options)
    channels_last = fire.data_format == "channels_last"
    fire.build((None, None, None, 6) if channels_last else (None, 6, None, None))
    fire.set_weights([np.abs(normal(w.shape, 3 + i)) for i, w in enumerate(fire.weights)])
    return fire


@pytest.mark.parametrize("training", [False, True])
def test_fire_normalizes_between_each_convolution_and_its_activation(training):
    images = normal((4, 5, 7, 6))
    fire = normalized_fire()
    assert len(fire.weights) == 4 * (1 + 4)
    assert {convolution.use_bias for convolution in fire.convolutions} == {False}
    expected = normalized_by_hand(images, fire, training)
    outputs = ops.convert_to_numpy(fire(images, training=training))
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)


def test_fire_normalizes_in_channels_first_too():
    images = normal((4, 5, 7, 6))
    last, first = normalized_fire(), normalized_fire(data_format="channels_first")
    for training in (True, False):  # the second with what the first has counted
        try:
            outputs = first(images.transpose(0, 3, 1, 2), training=training)
        except tf.errors.UnimplementedError:
            pytest.skip("this TensorFlow has no channels_first convolution for this CPU")
        np.testing.assert_allclose(
            ops.convert_to_numpy(outputs).transpose(0, 2, 3, 1),
            last(images, training=training),
            rtol=1e-4,
            atol=1e-4,
        )


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_a_normalized_fire_survives_serialisation(dtype):
    fire = normalized_fire(dtype=dtype, activation="elu")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(fire))
    assert again.get_config() == fire.get_config()
    assert again.batch_normalization
    again.set_weights(fire.get_weights())
    images = normal((1, 5, 5, 6))
    np.testing.assert_array_equal(
        ops.convert_to_numpy(ops.cast(again(images), "float32")),
        ops.convert_to_numpy(ops.cast(fire(images), "float32")),
    )
    assert {keras.backend.standardize_dtype(w.dtype) for w in fire.weights} == {"float32"}


def test_a_frozen_normalized_fire_counts_nothing():
    fire = normalized_fire()
    before = fire.get_weights()
    fire.trainable = False
    fire(normal((4, 5, 7, 6)), training=True)
    for ours, theirs in zip(fire.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_batch_normalization_is_keras_own(policy):
    images = 3 * normal((4, 5, 7, 6), mean=2.0)
    results = []
    for kind in (BatchNormalization, keras.layers.BatchNormalization):
        layer = kind(momentum=0.7, dtype=policy)
        layer.build(images.shape)
        layer.set_weights([1 + 0.1 * np.arange(6), np.arange(6), np.ones(6), np.full(6, 2.0)])
        variables = [v.value for v in layer.trainable_variables]
        inputs = tf.constant(images)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = tf.cast(layer(inputs, training=True), "float32")
            loss = tf.reduce_sum(tf.sin(outputs))
        gradients = tape.gradient(loss, [inputs, *variables])
        results.append([outputs, *gradients, *layer.get_weights(), layer(inputs, training=False)])
    tolerance = 1e-5 if policy == "float32" else 0.02
    for ours, theirs in zip(*results, strict=True):
        ours, theirs = (np.asarray(tf.cast(array, "float32")) for array in (ours, theirs))
        np.testing.assert_allclose(ours, theirs, rtol=10 * tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_keeps_float32_variables(policy):
    images = normal((2, 5, 7, 6))
    fire = built_fire(3, 2, 4, "complex", dtype=policy)
    outputs = fire(images)
    assert {keras.backend.standardize_dtype(w.dtype) for w in fire.weights} == {"float32"}
    assert keras.backend.standardize_dtype(outputs.dtype) == policy.removeprefix("mixed_")
    expected = fire_by_hand(images, fire)
    error = np.abs(ops.convert_to_numpy(ops.cast(outputs, "float32")) - expected)
    assert error.max() < 0.02 * np.abs(expected).max()


def test_a_global_policy_reaches_every_convolution_of_fire():
    keras.config.set_dtype_policy("mixed_bfloat16")
    fire = Fire(3, 2, 4, "complex")
    assert {conv.compute_dtype for conv in fire.convolutions} == {"bfloat16"}


def test_fire_trains_in_a_sequential_of_the_users_own():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            Fire(4, 8, 8, "complex"),
            CeilMaxPooling2D(),
            Fire(4, 8, 8, "simple"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    before = model.get_weights()
    model.train_on_batch(normal((8, 8, 8, 3)), np.arange(8) % 2)
    after = model.get_weights()
    assert len(after) == 2 * (4 + 3 + 1)  # kernel and bias of every convolution and the Dense
    assert all((a != b).any() for a, b in zip(after, before, strict=True))


def test_fires_that_share_an_initializer_start_differently():
    initializer = keras.initializers.GlorotUniform()
    kernels = [
        ops.convert_to_numpy(conv.kernel)
        for fire in (
            built_without_weights(6, kernel_initializer=initializer),
            built_without_weights(6, kernel_initializer=initializer),
        )
        for conv in (fire.squeeze1x1, fire.bypass1x1)
    ]
    for one, other in itertools.combinations(kernels, 2):
        assert not np.array_equal(one, other)


def test_a_seed_generator_gives_each_fire_its_own_and_the_same_again():
    def kernels(seed):
        generator = keras.random.SeedGenerator(seed)
        initializer = keras.initializers.GlorotUniform(seed=generator)
        fires = [built_without_weights(6, kernel_initializer=initializer) for _ in range(2)]
        return [ops.convert_to_numpy(fire.squeeze1x1.kernel) for fire in fires]

    first, second = kernels(seed=1)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(kernels(seed=1), [first, second])


def built_without_weights(in_channels, **keywords):
    fire = Fire(in_channels, 3, 3, "complex", **keywords)
    fire.build((None, 4, 4, in_channels))
    return fire


def test_the_initializers_reach_every_convolution():
    fire = Fire(3, 2, 4, "complex", kernel_initializer="ones", bias_initializer="ones")
    fire.build((None, 4, 4, 6))
    assert len(fire.weights) == 8
    assert all((weights == 1).all() for weights in fire.get_weights())


def test_the_kernel_regularizer_adds_a_loss_for_every_kernel():
    fire = built_fire(3, 2, 4, "complex", kernel_regularizer=keras.regularizers.L2(0.25))
    squares = [np.sum(w.astype("float64") ** 2) for w in fire.get_weights() if w.ndim == 4]
    assert len(squares) == 4
    assert float(sum(fire.losses)) == pytest.approx(0.25 * sum(squares), rel=1e-5)


def test_a_simple_bypass_needs_equal_channels():
    with pytest.raises(ValueError, match=r"5 channels in, 6 out \(layer fire3\)"):
        Fire(3, 2, 4, "simple", name="fire3")(normal((1, 4, 4, 5)))


@pytest.mark.parametrize(
    ("argument", "arguments", "keywords"),
    [
        ("squeeze", (0, 2, 4), {}),
        ("expand1x1", (3, 0, 0), {}),
        ("expand3x3", (3, 2, -4), {}),
        ("bypass", (3, 2, 4, "both"), {}),
        ("data_format", (3, 2, 4), {"data_format": "NCHW"}),
    ],
)
def test_refused_fires_name_the_argument(argument, arguments, keywords):
    with pytest.raises(ValueError, match=rf"`{argument}`[\s\S]*Received: {argument}="):
        Fire(*arguments, **keywords)


# --- CeilMaxPooling2D ---------------------------------------------------------------------------

WINDOWS = [(3, 2), (2, 2), (3, 3), (3, 1), (2, 1), (4, 2), (5, 3), (1, 1)]


def torch_pooling(torch, images, pool_size, strides):
    images = torch.from_numpy(images).permute(0, 3, 1, 2)
    pooled = torch.nn.functional.max_pool2d(images, pool_size, strides, ceil_mode=True)
    return pooled.permute(0, 2, 3, 1).numpy()


@parametrize(("pool_size", "strides"), WINDOWS, quick=3)
def test_pooling_equals_pytorchs_ceil_mode_at_every_size(torch, pool_size, strides):
    pooling = CeilMaxPooling2D(pool_size, strides)
    for size in [*range(17, 65), 224, 227]:
        images = normal((1, size, size, 2), seed=size, mean=-3.0)
        np.testing.assert_array_equal(
            pooling(images), torch_pooling(torch, images, pool_size, strides), err_msg=f"{size=}"
        )


@pytest.mark.parametrize(("pool_size", "strides"), [(3, 2), (5, 3)])
def test_pooling_equals_pytorchs_ceil_mode_on_rectangles(torch, pool_size, strides):
    pooling = CeilMaxPooling2D(pool_size, strides)
    for height, width in itertools.product([4, 5, 6, 7, 22, 23], [8, 9, 10, 31]):
        images = normal((2, height, width, 1), seed=height * width, mean=-3.0)
        expected = torch_pooling(torch, images, pool_size, strides)
        np.testing.assert_array_equal(pooling(images), expected, err_msg=f"{height}×{width}")


@pytest.mark.parametrize("size", [2, 3, 4])
def test_one_window_covers_the_smallest_images(size):
    images = normal((1, size, size, 1), mean=-3.0)
    assert CeilMaxPooling2D().compute_output_shape(images.shape)[1] == math.ceil((size - 3) / 2) + 1
    assert float(CeilMaxPooling2D()(images)[0, 0, 0, 0]) == images[0, :3, :3].max()


def test_pooling_of_a_functional_model_with_open_sizes_equals_pytorch(torch):
    inputs = keras.Input((None, None, 2))
    model = keras.Model(inputs, CeilMaxPooling2D()(inputs))
    assert model.output_shape == (None, None, None, 2)
    # A trace that never learns the sizes, as an exported model has.
    open_sizes = tf.function(model, input_signature=[tf.TensorSpec((None, None, None, 2))])
    for height, width in [(17, 18), (20, 20), (21, 21), (2, 64)]:
        images = normal((1, height, width, 2), mean=-3.0)
        expected = torch_pooling(torch, images, 3, 2)
        np.testing.assert_array_equal(open_sizes(images), expected, err_msg=f"{height}×{width}")
        np.testing.assert_array_equal(model.predict_on_batch(images), expected)


@pytest.mark.parametrize("shape", [(1, 17, 17, 2), (1, 18, 18, 2), (1, 17, 20, 2), (1, 20, 23, 2)])
def test_the_gradient_of_pooling_equals_pytorchs(torch, shape):
    images = normal(shape, mean=-1.0)
    weights = normal(CeilMaxPooling2D().compute_output_shape(shape), seed=5)

    variable = tf.Variable(images)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(CeilMaxPooling2D()(variable) * weights)

    leaf = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).requires_grad_()
    pooled = torch.nn.functional.max_pool2d(leaf, 3, 2, ceil_mode=True)
    (pooled * torch.from_numpy(weights).permute(0, 3, 1, 2)).sum().backward()

    np.testing.assert_allclose(
        tape.gradient(loss, variable), leaf.grad.permute(0, 2, 3, 1), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("size", [17, 18, None])
def test_pooling_in_half_precision_only_picks_values(dtype, size):
    height, width = (size, size) if size else (19, 22)
    images = tf.cast(normal((1, height, width, 2), mean=-3.0), dtype)
    inputs = keras.Input((size, size, 2), dtype=dtype)
    model = keras.Model(inputs, CeilMaxPooling2D(dtype=dtype)(inputs))
    pooled = tf.function(model, input_signature=[tf.TensorSpec((None, size, size, 2), dtype)])(
        images
    )
    assert pooled.dtype == dtype
    in_float32 = CeilMaxPooling2D()(tf.cast(images, "float32"))
    np.testing.assert_array_equal(tf.cast(pooled, "float32"), in_float32)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize(("pool_size", "strides"), WINDOWS)
def test_the_computed_output_shape_is_the_real_one(data_format, pool_size, strides):
    pooling = CeilMaxPooling2D(pool_size, strides, data_format=data_format)
    for height, width in itertools.product(range(5, 12), repeat=2):
        shape = (1, 2, height, width) if data_format == "channels_first" else (1, height, width, 2)
        assert pooling.compute_output_shape(shape) == tuple(pooling(np.zeros(shape, "f4")).shape)


def test_pooling_gives_the_same_numbers_in_both_data_formats():
    for height, width in [(17, 17), (18, 18), (17, 20)]:
        images = normal((2, height, width, 3), mean=-3.0)
        first = CeilMaxPooling2D(data_format="channels_first")(images.transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(
            ops.convert_to_numpy(first).transpose(0, 2, 3, 1), CeilMaxPooling2D()(images)
        )


def test_pooling_survives_serialisation():
    pooling = CeilMaxPooling2D(5, 3, data_format="channels_first", name="pool7")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(pooling))
    assert again.get_config() == pooling.get_config()
    assert again.compute_output_shape((1, 2, 9, 10)) == (1, 2, 3, 3)


@pytest.mark.parametrize("window", [(2, 3), (3, 0), (3, 1.5), ((3, 3), 2)])
def test_a_refused_window_names_both_sides(window):
    with pytest.raises(ValueError, match=r"`strides`.*`pool_size`[\s\S]*Received: strides="):
        CeilMaxPooling2D(*window)


def test_pooling_refuses_what_gives_no_pixel():
    message = r"Received: 1 pixels for pool_size=3, strides=2 \(layer pool1\)"
    for compute in (lambda pooling, shape: pooling.compute_output_shape(shape), call_with_zeros):
        with pytest.raises(ValueError, match=message):
            compute(CeilMaxPooling2D(name="pool1"), (1, 1, 8, 3))


def call_with_zeros(layer, shape):
    return layer(np.zeros(shape, "float32"))


# --- ImagePreprocessing -------------------------------------------------------------------------


def rgb(data_format="channels_last", channels=3):
    images = np.random.default_rng(0).integers(0, 256, (2, 6, 5, channels), "uint8")
    return images.transpose(0, 3, 1, 2) if data_format == "channels_first" else images


def by_keras(images, mode, data_format):
    return keras.applications.imagenet_utils.preprocess_input(
        images.astype("float32"), data_format=data_format, mode=mode
    )


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("mode", ["tf", "torch"])
def test_preprocessing_equals_keras_applications(mode, data_format, dtype):
    images = rgb(data_format)
    prepared = ImagePreprocessing(mode, data_format)(images.astype(dtype))
    np.testing.assert_allclose(prepared, by_keras(images, mode, data_format), atol=1e-5)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_caffe_preprocessing_differs_from_keras_by_the_rounded_means(data_format):
    images = rgb(data_format)
    prepared = ImagePreprocessing("caffe", data_format)(images)
    difference = ops.convert_to_numpy(prepared) - by_keras(images, "caffe", data_format)
    channel_axis = 3 if data_format == "channels_last" else 1
    means = np.array([103.939 - 104, 116.779 - 117, 123.68 - 123])  # blue, green, red
    shape = np.where(np.arange(4) == channel_axis, 3, 1)
    np.testing.assert_allclose(
        difference, np.broadcast_to(means.reshape(shape), difference.shape), atol=1e-4
    )


def test_caffe_preprocessing_by_hand():
    red_first = np.array([[[[10, 20, 30]]]], "uint8")
    prepared = ImagePreprocessing()(red_first)
    np.testing.assert_array_equal(prepared, [[[[30 - 104, 20 - 117, 10 - 123]]]])


@pytest.mark.parametrize("channels", [1, 4])
def test_tf_preprocessing_takes_any_number_of_channels(channels):
    prepared = ops.convert_to_numpy(ImagePreprocessing("tf")(rgb(channels=channels)))
    np.testing.assert_allclose(prepared, rgb(channels=channels) / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize("mode", ["caffe", "torch"])
def test_modes_with_colours_refuse_grey(mode):
    with pytest.raises(ValueError, match=r"needs 3 channels. Received: input_shape=\(2, 6, 5, 1\)"):
        ImagePreprocessing(mode)(rgb(channels=1))


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match=r"'caffe', 'tf', 'torch'\. Received: mode=imagenet"):
        ImagePreprocessing("imagenet")


def test_preprocessing_survives_serialisation():
    layer = ImagePreprocessing("torch", "channels_first")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    np.testing.assert_array_equal(again(rgb("channels_first")), layer(rgb("channels_first")))


def test_preprocessing_follows_the_precision_policy():
    prepared = ImagePreprocessing("caffe", dtype="mixed_bfloat16")(rgb())
    assert prepared.dtype == "bfloat16"
    np.testing.assert_array_equal(tf.cast(prepared, "float32"), ImagePreprocessing("caffe")(rgb()))


def test_a_frozen_fire_is_frozen_after_it_was_saved_and_loaded(tmp_path):
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, Fire(2, 3, 3, "complex", name="fire")(image))
    model.get_layer("fire").trainable = False
    assert model.trainable_variables == []
    model.save(tmp_path / "frozen.keras")
    loaded = keras.saving.load_model(tmp_path / "frozen.keras")
    assert loaded.trainable_variables == []
    loaded.get_layer("fire").trainable = True
    assert len(loaded.trainable_variables) == 8
