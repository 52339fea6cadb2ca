"""Quantization-aware training, measured on the files that come out of it."""

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from keras import layers

from keras_squeezenet.compression.copies import copy_of
from keras_squeezenet.compression.pruning.prune import prune
from keras_squeezenet.compression.pruning.schedules import ConstantSparsity
from keras_squeezenet.compression.retraining import Retraining, RetrainingError
from keras_squeezenet.compression.with_training import (
    activation_ranges,
    check_images,
    fake_quantization,
    quantization_aware,
)
from keras_squeezenet.compression.with_training.bridge import kernels
from keras_squeezenet.compression.with_training.clustering import cluster
from keras_squeezenet.compression.with_training.quantization_aware import quantize_aware
from keras_squeezenet.litert.export import ExportError
from keras_squeezenet.litert.model import LiteRTModel, read_class_names, read_resize
from keras_squeezenet.litert.ranges import LATE_ROOM, expected_extreme
from tests.compression_digits import (
    TRAINING,
    accuracy,
    digits,
    trained_net,
    training_batches,
    validation_batches,
)
from tests.tiers import parametrize

RUN = Retraining(epochs=1, steps_per_epoch=15, learning_rate=1e-3)
RNG = np.random.default_rng(5)
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture(scope="module")
def trained():
    return trained_net()


@pytest.fixture(scope="module")
def quantized(trained):
    return quantize_aware(
        trained, training_batches(), retraining=RUN, validation_data=validation_batches()
    )


@pytest.fixture(scope="module")
def still(trained):
    """As good as untrained, and without validation images."""
    return quantize_aware(
        trained, training_batches(), retraining=Retraining(1, 1, learning_rate=1e-12)
    )


@pytest.fixture(scope="module")
def written(quantized, tmp_path_factory):
    """A file with names and framing, the bytes of images in and floats out."""
    return quantized.write_litert(
        tmp_path_factory.mktemp("written") / "digits.tflite",
        input_type="uint8",
        class_names=NAMES,
        resize=16,
    )


@pytest.fixture(scope="module")
def of_faint_images(trained):
    """Ranges of images of a tenth of the contrast of those that it is judged by."""
    faint = ((0.1 * images, labels) for images, labels in training_batches())
    return quantize_aware(
        trained, faint, retraining=Retraining(1, 1), validation_data=validation_batches()
    )


@pytest.fixture(scope="module")
def pruned(trained):
    # conv1 keeps all of its weights: a kernel without a zero must not cost the others theirs.
    sparsity = {name: 0.5 for name in kernels(trained) if name != "conv1"}
    retraining = Retraining(epochs=1, steps_per_epoch=30, learning_rate=0.03)
    return prune(
        trained,
        training_batches(),
        retraining=retraining,
        sparsity=sparsity,
        schedule=ConstantSparsity(),
    ).model


@pytest.fixture(scope="module")
def clustered(pruned):
    return cluster(pruned, training_batches(), retraining=RUN, bits=4).model


def int8_kernels(path):
    """The kernels in a file, flattened, by their number of weights and in its order."""
    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    graph = model.Subgraphs(0)
    found = []
    for number in range(graph.TensorsLength()):
        tensor = graph.Tensors(number)
        data = model.Buffers(tensor.Buffer()).DataAsNumpy()
        if tensor.ShapeLength() == 4 and isinstance(data, np.ndarray):
            assert tensor.Type() == schema.TensorType.INT8
            found.append(data.view(np.int8))
    return found


@parametrize(
    ("input_type", "output_type", "batch_size"),
    [("float32", "float32", 1), ("uint8", "int8", 1), ("int8", "uint8", None)],
    quick=1,
)
def test_a_file_decides_as_the_network_that_was_trained(
    quantized, tmp_path, input_type, output_type, batch_size
):
    result = quantized.write_litert(
        tmp_path / "digits.tflite",
        input_type=input_type,
        output_type=output_type,
        batch_size=batch_size,
    )
    model = LiteRTModel(result.path)
    assert (model.input.dtype, model.output.dtype) == (input_type, output_type)
    assert model.input_shape[0] == batch_size
    images, _ = digits()
    ours = model.predict(images[TRAINING:])
    theirs = np.asarray(quantized.twin(images[TRAINING:], training=False))
    assert np.mean(ours.argmax(axis=1) == theirs.argmax(axis=1)) > 0.95
    assert np.abs(ours - theirs).mean() < 0.02
    assert result.bytes == result.path.stat().st_size
    assert accuracy(model.predict) == pytest.approx(quantized.after, abs=0.03)


def test_accuracy_is_that_of_the_model_and_of_its_8_bit_twin(trained, quantized):
    assert quantized.before == pytest.approx(accuracy(lambda images: trained(images)))
    assert quantized.after == pytest.approx(
        accuracy(lambda images: quantized.twin(images, training=False))
    )
    assert quantized.after > quantized.before - 0.03


def test_every_kernel_is_8_bits_in_the_file(quantized, written):
    in_file = sorted(codes.size for codes in int8_kernels(written.path))
    assert in_file == sorted(statistics.weights for statistics in quantized.layers)
    assert all(statistics.distinct <= 255 for statistics in quantized.layers)


def test_an_images_bytes_are_the_codes_of_a_network_that_takes_pixels(written):
    assert (written.input.scale, written.input.zero_point) == (1.0, 0)


def test_names_and_framing_are_in_the_file(written):
    assert read_class_names(written.path) == NAMES
    assert read_resize(written.path) == 16


@pytest.mark.slow
def test_the_model_that_came_is_as_it_was(trained, request):
    before = copy_of(trained).get_weights()
    request.getfixturevalue("of_faint_images")
    for old, new in zip(before, trained.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_ranges_fit_the_network_before_the_first_step(trained, still):
    """tfmot's own begin at ±6 and would take thousands of steps to arrive."""
    before = accuracy(lambda images: trained(images))
    assert accuracy(lambda images: still.twin(images, training=False)) > before - 0.02
    (conv1,) = (layer for layer in still.twin.layers if layer.name == "quant_conv1")
    greatest = {v.name.split("/")[-1]: float(v.numpy().max()) for v in conv1.weights}
    features = keras.Model(trained.input, trained.get_layer("conv1").output)
    expected = np.max(features(calibration_images()))
    assert greatest["post_activation_max:0"] == pytest.approx(expected, rel=0.05)


def calibration_images():
    batches = training_batches()
    return np.concatenate([next(batches)[0] for _ in range(4)])[:100]


def test_ranges_have_the_room_of_an_exported_files(trained, still):
    """A batch's average would cut off half of all batches' extremes, and the surest images."""
    pool4 = keras.Model(trained.input, trained.get_layer("pool4").output)
    maxima = np.asarray(pool4(calibration_images())).max(axis=1)
    expected = expected_extreme(maxima)
    assert expected > 1.1 * maxima.max()
    assert found_max(still, "pool4", "output") == pytest.approx(expected, rel=0.05)

    conv4 = keras.Model(trained.input, trained.get_layer("conv4").output)
    assert found_max(still, "conv4", "post_activation") == pytest.approx(
        expected_extreme(np.asarray(conv4(calibration_images())).max(axis=(1, 2, 3))), rel=0.05
    )

    fire3 = keras.Model(trained.input, trained.get_layer("fire3").output)
    seen = np.max(fire3(calibration_images()))
    assert found_max(still, "fire3_concat", "output") == pytest.approx(LATE_ROOM * seen, rel=0.05)
    fire2 = keras.Model(trained.input, trained.get_layer("fire2").output)
    seen = np.max(fire2(calibration_images()))
    assert found_max(still, "fire2_concat", "output") == pytest.approx(seen, rel=0.05)


def test_training_leaves_no_image_at_the_end_of_the_range_that_decides(written):
    deciding = [found for found in written.saturation if found.decides]
    assert deciding
    assert max(found.images for found in deciding) < 0.02
    assert written.images_checked == 100
    assert written.warning is None


def test_a_file_is_compared_on_validation_images_of_all_batches(quantized):
    places = {image.tobytes(): place for place, image in enumerate(digits()[0][TRAINING:])}
    checked = [places[image.tobytes()] for image in quantized.check_images]
    assert len(checked) == 100
    assert np.diff(checked).min() >= 2
    assert np.diff(checked).max() <= 4


def test_without_them_it_is_compared_on_training_images_that_gave_no_ranges(still):
    batches = training_batches()
    images = np.concatenate([next(batches)[0] for _ in range(7)])
    np.testing.assert_array_equal(still.check_images, images[100:200])


@pytest.mark.parametrize("count", [2, 3, 99, 100, 199, 250])
def test_few_training_images_are_divided_evenly(count):
    numbered = np.arange(count, dtype=np.float32).reshape(-1, 1, 1, 1)
    batches = [(numbered[i : i + 20], np.zeros(20)) for i in range(0, count, 20)]
    ranged, checked = check_images.divided(check_images.first_images(batches), ())
    assert len(ranged) == min(100, -(-count // 2))
    assert len(checked) == min(100, count // 2)
    assert not set(ranged.ravel()) & set(checked.ravel())
    beside = check_images.divided(numbered, numbered[:1])
    assert len(beside[0]) == min(100, count)


def test_one_training_image_serves_for_both():
    one = np.zeros((1, 2, 2, 3), np.float32)
    ranged, checked = check_images.divided(one, ())
    assert len(ranged) == len(checked) == 1


def test_images_that_leave_the_ranges_are_warned_of(of_faint_images, tmp_path):
    result = of_faint_images.write_litert(tmp_path / "faint.tflite")
    assert result.saturated_decision.name in ("conv4", "pool4")
    assert result.saturated_decision.images > 0.2
    assert "images reach the end of" in result.warning
    assert "the mean of the highest output falls from" in result.warning


def test_the_network_in_float32_is_the_one_that_was_trained(trained, still, quantized):
    def confidence(network, images):
        return np.asarray(network(images)).max(axis=1).mean()

    assert still.float_confidence == pytest.approx(
        confidence(trained, still.check_images), abs=1e-4
    )
    came, twin = (confidence(n, quantized.check_images) for n in (trained, quantized.twin))
    assert quantized.float_confidence == pytest.approx(twin, abs=0.005)
    assert twin > came + 0.01


def test_ranges_are_taken_without_dropout_and_leave_it_and_statistics_alone():
    keras.utils.set_random_seed(1)
    image = keras.Input((16, 16, 3))
    x = layers.BatchNormalization()(layers.Conv2D(8, 3, use_bias=False)(image))
    x = layers.Dropout(0.9)(layers.Flatten()(layers.ReLU()(x)))
    model = keras.Model(image, layers.Dense(10, activation="softmax", name="last")(x))
    twin = fake_quantization.with_fake_quantization(
        quantization_aware.to_tf_keras(quantization_aware.for_inference(model, copy=True)), None
    )
    (dropout,) = (layer.layer for layer in twin.layers if "dropout" in layer.name)
    dropout.rate = 0.9
    before = {v.name: v.numpy() for v in twin.variables if "moving" in v.name}
    assert before
    activation_ranges.calibrate(twin, calibration_images())
    model.get_layer("last").activation = None
    logits = np.asarray(model(calibration_images()))
    (last,) = (layer for layer in twin.layers if layer.name == "quant_last")
    (((_, greatest)),) = activation_ranges.ranges_of(last).values()
    assert float(greatest) == pytest.approx(expected_extreme(logits.max(axis=1)), rel=0.05)
    for variable in twin.variables:
        if "moving" in variable.name:
            np.testing.assert_array_equal(variable.numpy(), before[variable.name])
    assert dropout.rate == 0.9


def found_max(result, name, part):
    (layer,) = (layer for layer in result.twin.layers if layer.name == f"quant_{name}")
    return float(activation_ranges.ranges_of(layer)[part][1])


def test_the_first_convolution_moves_as_with_its_preprocessing_before_it(trained):
    """Steepest descent in folded coordinates would throw it off: same loss, other step."""
    import tensorflow as tf

    from keras_squeezenet.litert.inference_network import for_inference
    from keras_squeezenet.network.preprocessing import PREPROCESSINGS, fold

    images, labels = (array[:32] for array in digits())
    rate = 0.01

    def moved(model, precondition=None):
        variables = [v.value for v in model.get_layer("conv1").trainable_variables]
        with tf.GradientTape() as tape:
            outputs = model(images)
            loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, outputs))
        gradients = tape.gradient(loss, variables)
        if precondition is not None:
            gradients = precondition(variables, gradients)
        return [(v - rate * g).numpy() for v, g in zip(variables, gradients, strict=True)]

    folded = for_inference(trained, copy=True)
    kernel, bias = (v.value for v in folded.get_layer("conv1").trainable_variables)
    precondition = quantization_aware.as_if_unfolded([(kernel, bias)], PREPROCESSINGS["tf"])
    expected = fold(*moved(trained), PREPROCESSINGS["tf"])
    for ours, theirs in zip(moved(folded, precondition), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)


def test_zeros_stay_zeros_in_the_file(pruned, tmp_path):
    result = quantize_aware(pruned, training_batches(), retraining=RUN, preserve="sparsity")
    in_file = int8_kernels(result.write_litert(tmp_path / "pruned.tflite").path)
    for statistics in result.layers:
        kernel = kernels(pruned)[statistics.name]
        assert statistics.nonzero <= np.count_nonzero(kernel)
        assert statistics.density == pytest.approx(
            1 if statistics.name == "conv1" else 0.5, abs=0.1
        )
        assert any(
            codes.size == kernel.size and np.count_nonzero(codes) == statistics.nonzero
            for codes in in_file
        )


@pytest.mark.slow
def test_without_preserving_zeros_are_lost(pruned):
    result = quantize_aware(pruned, training_batches(), retraining=RUN)
    assert max(s.density for s in result.layers if s.name != "conv1") > 0.6


@pytest.mark.filterwarnings("error:Gradients do not exist")
def test_weights_that_share_a_value_go_on_sharing_one(clustered, tmp_path):
    result = quantize_aware(
        clustered,
        training_batches(),
        retraining=RUN,
        preserve="clusters",
        validation_data=validation_batches(),
    )
    for name, kernel in kernels(clustered).items():
        values = _float_kernel(result.twin, name)
        for number in range(kernel.shape[-1]):
            before = len(np.unique(kernel[..., number]))
            assert len(np.unique(values[..., number])) <= before + 1
        assert not values[kernel == 0].any()
    assert result.after > result.before - 0.1
    result.write_litert(tmp_path / "clustered.tflite")


def _float_kernel(twin, name):
    weights = {v.name: v.numpy() for layer in twin.layers for v in layer.weights}
    return weights[f"{name}/kernel:0"]


@pytest.mark.parametrize(
    ("preserve", "message"),
    [
        ("sparsity", "needs a pruned model. Received: no kernel with a zero"),
        ("clusters", "needs kernels of at most 256 different values"),
        ("both", "Received: preserve=both"),
    ],
)
def test_what_is_not_there_cannot_be_preserved(trained, preserve, message):
    with pytest.raises(RetrainingError, match=message):
        quantize_aware(trained, [], retraining=RUN, preserve=preserve)


def ordinary_classifier():
    """Rescaling, ReLU as layers behind convolutions and a dense layer, batch normalization."""
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3)(layers.Rescaling(1 / 127.5, -1)(image))
    x = layers.Conv2D(8, 3, activation="relu6")(layers.ReLU()(x))
    x = layers.BatchNormalization()(layers.Conv2D(8, 3, use_bias=False)(x))
    x = layers.GlobalAveragePooling2D()(layers.ReLU(6.0)(x))
    x = layers.Activation("relu")(layers.Dense(16)(x))
    return keras.Model(image, layers.Dense(10, activation="softmax")(x))


@pytest.mark.slow
def test_a_network_of_ordinary_layers_becomes_a_file_of_integers(tmp_path):
    keras.utils.set_random_seed(1)
    model = ordinary_classifier()
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", jit_compile=False)
    images, labels = digits()
    model.fit(images[:TRAINING], labels[:TRAINING], batch_size=100, epochs=12, verbose=0)
    result = quantize_aware(model, training_batches(), retraining=RUN)
    written = result.write_litert(tmp_path / "ordinary.tflite", input_type="uint8")
    expected = accuracy(lambda images: model(images))
    assert accuracy(LiteRTModel(written.path).predict) > expected - 0.1 > 0.4


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (
            layers.LayerNormalization(name="first"),
            r"layer first of class LayerNormalization: expected a class that it has",
        ),
        (
            layers.Conv2D(4, 1, activation="elu", name="first"),
            r"layer first of class Conv2D: expected an activation of .*relu.*\. Received: elu$",
        ),
    ],
)
def test_a_layer_that_tfmot_cannot_quantize_is_an_error_of_one_line(odd, message):
    image = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(odd(image))
    model = keras.Model(image, layers.Dense(3)(x))
    with pytest.raises(RetrainingError, match=rf"^tfmot cannot quantize {message}") as error:
        quantize_aware(model, [], retraining=RUN)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_type": "int16"}, "Received: input_type=int16"),
        ({"class_names": NAMES[:3]}, "`class_names` must hold 10 names. Received: 3"),
    ],
)
def test_options_that_make_no_file_are_named(quantized, tmp_path, options, message):
    with pytest.raises(RetrainingError, match=message):
        quantized.write_litert(tmp_path / "digits.tflite", **options)


def test_a_file_that_decides_otherwise_is_not_written(quantized, tmp_path, monkeypatch):
    path = tmp_path / "digits.tflite"
    path.write_bytes(b"older")
    monkeypatch.setattr(
        LiteRTModel, "predict", lambda self, images: np.eye(10)[np.zeros(len(images), int)]
    )
    with pytest.raises(ExportError, match="does not do what the trained network does"):
        quantized.write_litert(path)
    assert path.read_bytes() == b"older"


def test_gates_and_normalizations_without_convolutions_become_integers(tmp_path):
    """As in MobileNetV3 and DenseNet; tfmot's own scheme refuses both."""
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, strides=2, use_bias=False)(image)
    x = layers.Activation("hard_silu")(layers.BatchNormalization()(x))
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(8, 1, activation="hard_sigmoid")(gate)
    x = layers.Multiply()([x, gate])
    x = layers.SeparableConv2D(8, 3, padding="same")(layers.BatchNormalization()(x)) + x
    x = layers.Flatten()(layers.ReLU()(layers.BatchNormalization(name="last")(x)))
    model = keras.Model(image, layers.Dense(4, activation="softmax")(x))
    images = RNG.normal(size=(16, 8, 8, 3)).astype("float32")
    model.get_layer("last").moving_variance.assign(np.full(8, 0.1))
    run = Retraining(epochs=1, steps_per_epoch=2, learning_rate=1e-4)
    trained = quantize_aware(model, [(images, np.arange(16) % 4)], retraining=run)
    result = trained.write_litert(tmp_path / "gates.tflite")
    assert result.max_difference < 0.05
    # Refused if a tensor in it were of another kind.
    assert np.ptp(LiteRTModel(tmp_path / "gates.tflite").predict(images), axis=0).max() > 0.05


def of_pooled_parts(x):
    """A DenseNet's: what an average gives is normalized, and joined with what comes of that."""
    x = layers.AveragePooling2D(2, name="average")(layers.Conv2D(8, 3)(x))
    y = layers.ReLU()(layers.BatchNormalization()(x))
    return layers.Concatenate()([x, layers.Conv2D(8, 3, padding="same")(y)])


@pytest.mark.parametrize(
    "function",
    [
        layers.Conv2D(8, 3, activation="silu"),
        layers.SeparableConv2D(8, 3, activation="gelu"),
        of_pooled_parts,
    ],
    ids=["silu in a layer", "gelu in a layer", "averages"],
)
def test_a_file_is_of_integers_where_tfmot_leaves_ranges_out(function, tmp_path):
    image = keras.Input((12, 12, 3))
    means = layers.GlobalAveragePooling2D()(function(layers.Conv2D(6, 3)(image)))
    model = keras.Model(image, layers.Dense(3, activation="softmax")(means))
    images, labels = RNG.uniform(0, 1, (48, 12, 12, 3)).astype("float32"), np.arange(48) % 3
    trained = quantize_aware(
        model, (images, labels), retraining=Retraining(1, 2, learning_rate=1e-4)
    )
    written = trained.write_litert(tmp_path / "model.tflite")  # which looks for other types
    assert written.max_difference < 0.02
