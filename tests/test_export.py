"""LiteRT files are read here by the interpreter, by `zipfile` and by the flatbuffer schema."""

import dataclasses
import io
import json
import math
import os
import zipfile

import flatbuffers
import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from sklearn.datasets import load_digits

from keras_squeezenet import Architecture, Fire, ImagePreprocessing, SqueezeNet, __version__
from keras_squeezenet.litert import export, inference_network
from keras_squeezenet.litert.bias_correction import correct_biases, rounded
from keras_squeezenet.litert.export import ExportError, export_litert
from keras_squeezenet.litert.model import LiteRTModel, TensorDetails, read_class_names
from keras_squeezenet.litert.quantizations import QUANTIZATIONS
from tests.tiers import parametrize

SIDE = 32
CLASS_NAMES = ("red 0", "red 1", "grün 0", "grün 1", "blue 0", "blue 1")
TINY = Architecture.from_metaparameters(
    base_e=16,
    incr_e=16,
    freq=1,
    squeeze_ratio=0.5,
    fires=2,
    pool_after=(1, 2),
    conv1_filters=16,
    conv1_kernel_size=3,
)


def coloured_digits():
    """Real zeros and ones in red, green and blue on grey: classes that need the channels' order."""
    digits, numbers = load_digits(n_class=2, return_X_y=True)
    digits = digits.reshape(-1, 8, 8).repeat(SIDE // 8, axis=1).repeat(SIDE // 8, axis=2)
    images = np.full((len(digits), 3, SIDE, SIDE, 3), 40.0, np.float32)
    for colour in range(3):
        images[:, colour, :, :, colour] += digits * (160 / 16)
    labels = 2 * np.arange(3) + numbers[:, None]
    return images.reshape(-1, SIDE, SIDE, 3), labels.ravel()


IMAGES, LABELS = coloured_digits()
HELD_OUT = slice(980, 1080)


def tiny_net(**kwargs):
    options = {
        "weights": None,
        "input_shape": (SIDE, SIDE, 3),
        "classes": len(CLASS_NAMES),
        "architecture": TINY,
        "include_preprocessing": True,
        "kernel_initializer": "he_uniform",
        "dropout_rate": 0.0,
    }
    return SqueezeNet(**{**options, **kwargs})


@pytest.fixture(scope="module")
def trained():
    keras.utils.set_random_seed(5)
    model = tiny_net()
    # A class whose ReLU is dead at the start is never learned.
    model.get_layer("conv4").bias.assign([5.0] * 6)
    model.compile(
        keras.optimizers.Adam(1e-3),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,
    )
    model.fit(IMAGES[:980], LABELS[:980], batch_size=35, epochs=6, verbose=0)
    assert model.evaluate(IMAGES[HELD_OUT], LABELS[HELD_OUT], verbose=0)[1] > 0.9
    return model


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """A file of every kind, with the result of its export."""
    folder = tmp_path_factory.mktemp("exported")
    kinds = {name: {"quantize": name} for name in QUANTIZATIONS}
    kinds["float16"] |= {"batch_size": None}
    kinds["int8"] |= {"input_type": "uint8", "output_type": "int8"}
    return {
        kind: export_litert(
            trained,
            folder / f"{kind}.tflite",
            calibration=IMAGES[:100] if kind == "int8" else None,
            check_images=IMAGES[HELD_OUT],
            class_names=CLASS_NAMES,
            **options,
        )
        for kind, options in kinds.items()
    }


def interpreted(path, images):
    """One image at a time through LiteRT, with its quantization worked out by hand."""
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    (taken,), (given_back,) = interpreter.get_input_details(), interpreter.get_output_details()
    outputs = []
    for image in images:
        if taken["dtype"] != np.float32:
            scale, zero_point = taken["quantization"]
            image = np.clip(np.rint(image / scale + zero_point), *limits(taken["dtype"]))
        interpreter.set_tensor(taken["index"], image[None].astype(taken["dtype"]))
        interpreter.invoke()
        output = interpreter.get_tensor(given_back["index"])[0].astype(np.float64)
        if given_back["dtype"] != np.float32:
            scale, zero_point = given_back["quantization"]
            output = (output - zero_point) * scale
        outputs.append(output)
    return np.stack(outputs)


def limits(dtype):
    return np.iinfo(dtype).min, np.iinfo(dtype).max


def operators(path):
    """Names of the operators in a file, custom ones as "CUSTOM"."""
    names = {
        code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)
    }
    content = path.read_bytes()
    model = schema.Model.GetRootAs(content, 0)
    codes = (model.OperatorCodes(i) for i in range(model.OperatorCodesLength()))
    return {names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())] for code in codes}


@pytest.mark.parametrize(
    ("kind", "largest", "mean"),
    [("none", 1e-5, 1e-6), ("float16", 0.01, 1e-3), ("dynamic", 0.2, 0.03), ("int8", 0.3, 0.05)],
)
def test_the_result_says_what_the_file_does(trained, exported, kind, largest, mean):
    result = exported[kind]
    outputs = interpreted(result.path, IMAGES[HELD_OUT])
    predicted = trained.predict(IMAGES[HELD_OUT], verbose=0)
    differences = np.abs(outputs - predicted).max(axis=1)

    assert differences.max() < largest
    assert differences.mean() < mean
    assert result.max_difference == pytest.approx(differences.max(), abs=1e-5)
    assert result.mean_difference == pytest.approx(differences.mean(), abs=1e-5)
    assert result.decisions_equal == np.mean(outputs.argmax(1) == predicted.argmax(1))
    assert result.images_checked == 100
    assert result.bytes == os.path.getsize(result.path)


@pytest.mark.parametrize("kind", QUANTIZATIONS)
def test_a_file_is_as_accurate_as_its_model(trained, exported, kind):
    predicted = trained.predict(IMAGES[HELD_OUT], verbose=0).argmax(axis=1)
    outputs = LiteRTModel(exported[kind].path).predict(IMAGES[HELD_OUT])
    expected = np.mean(predicted == LABELS[HELD_OUT])
    assert np.mean(outputs.argmax(axis=1) == LABELS[HELD_OUT]) >= expected - 0.011  # a point


def test_predict_agrees_with_the_interpreter_used_by_hand(exported):
    for result in exported.values():
        outputs = LiteRTModel(result.path, num_threads=2).predict(IMAGES[:5])
        assert outputs.dtype == np.float32
        np.testing.assert_allclose(outputs, interpreted(result.path, IMAGES[:5]), atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "types"),
    [
        ("none", {"FLOAT32"}),
        ("float16", {"FLOAT16"}),
        # The converter leaves kernels below 1,024 weights as they are.
        ("dynamic", {"INT8", "FLOAT32"}),
        ("int8", {"INT8"}),
    ],
)
def test_kernels_are_stored_in_the_type_asked_for(exported, kind, types):
    model = schema.Model.GetRootAs(exported[kind].path.read_bytes(), 0)
    graph = model.Subgraphs(0)
    tensors = [graph.Tensors(i) for i in range(graph.TensorsLength())]
    kernels = [
        tensor
        for tensor in tensors
        if tensor.ShapeLength() == 4 and model.Buffers(tensor.Buffer()).DataLength()
    ]
    names = {code: name for name, code in vars(schema.TensorType).items() if isinstance(code, int)}
    assert len(kernels) == 8  # conv1, three of each of two Fires, conv4
    assert {names[kernel.Type()] for kernel in kernels} == types


def test_a_uint8_file_takes_the_bytes_of_an_image(trained, exported, tmp_path):
    assert IMAGES.max() < 255  # so the calibration alone would not give scale 1
    assert exported["int8"].input == TensorDetails((1, SIDE, SIDE, 3), "uint8", 1.0, 0)
    assert exported["int8"].output == TensorDetails((1, 6), "int8", 1 / 256, -128)
    pixels = IMAGES[HELD_OUT].astype(np.uint8)
    interpreter = Interpreter(str(exported["int8"].path))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels[:1])
    interpreter.invoke()
    code = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    assert code.argmax() == trained.predict(IMAGES[HELD_OUT][:1], verbose=0).argmax()


# Of `exported` the float16 file takes any number, too.
@pytest.mark.parametrize(("batch_size", "quantize"), [(4, "none"), (4, "int8"), (None, "int8")])
def test_any_number_of_images_is_predicted_whatever_the_files_batch(
    trained, tmp_path, quantize, batch_size
):
    path = tmp_path / "batch.tflite"
    result = export_litert(
        trained,
        path,
        quantize=quantize,
        batch_size=batch_size,
        calibration=[IMAGES[:30], IMAGES[30:50]],
    )
    model = LiteRTModel(path)
    together = model.predict(IMAGES[:38])

    assert model.input_shape == result.input.shape == (batch_size, SIDE, SIDE, 3)
    assert result.images_checked == 50
    assert together.shape == (38, 6)
    one_by_one = np.concatenate([model.predict(image[None]) for image in IMAGES[:38]])
    np.testing.assert_allclose(together, one_by_one, atol=1e-5)
    assert np.mean(together.argmax(1) == trained.predict(IMAGES[:38], verbose=0).argmax(1)) > 0.9


@parametrize("policy", ["mixed_float16", "bfloat16"], quick=1)
def test_a_model_trained_in_half_precision_is_written_in_float32(trained, tmp_path, policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        half = tiny_net()
    finally:
        keras.config.set_dtype_policy(before)
    half.set_weights(trained.get_weights())
    full = tiny_net()
    full.set_weights([np.asarray(weight, np.float32) for weight in half.get_weights()])

    result = export_litert(half, tmp_path / "half.tflite", check_images=IMAGES[:20])

    assert half.get_layer("conv1").compute_dtype == policy.removeprefix("mixed_")
    outputs = interpreted(result.path, IMAGES[:20])
    np.testing.assert_allclose(outputs, full.predict(IMAGES[:20], verbose=0), atol=1e-5)


@parametrize(("bypass", "quantize"), [("simple", "none"), ("complex", "int8")], quick=1)
def test_bypasses_are_exported(tmp_path, bypass, quantize):
    keras.utils.set_random_seed(3)
    architecture = dataclasses.replace(TINY, fires=(*TINY.fires, TINY.fires[-1]))
    model = tiny_net(architecture=architecture.with_bypass(bypass), classifier_activation=None)
    path = tmp_path / "bypass.tflite"

    result = export_litert(model, path, quantize=quantize, calibration=IMAGES[:40])

    assert "ADD" in operators(path)
    predicted = model.predict(IMAGES[:40], verbose=0)
    largest = np.abs(predicted).max()
    assert predicted.std(axis=0).max() > 0.03 * largest  # the images differ by more than the files
    tolerance = largest * (1e-5 if quantize == "none" else 0.03)
    np.testing.assert_allclose(interpreted(path, IMAGES[:40]), predicted, atol=tolerance)
    assert result.max_difference <= tolerance


@parametrize(("version", "side"), [("1.0", 224), ("1.1", 227)], quick=1)
def test_the_papers_networks_need_ordinary_operators_and_no_padding(tmp_path, version, side):
    model = SqueezeNet(
        weights=None, input_shape=(side, side, 3), version=version, include_preprocessing=True
    )
    path = tmp_path / "paper.tflite"
    noise = np.random.default_rng(0).integers(0, 256, (1, side, side, 3))
    export_litert(model, path, check_images=noise.astype(np.float32))
    # Mean is the global average pooling. Neither custom ("Flex"), nor PAD, nor preprocessing.
    assert operators(path) == {"CONV_2D", "MAX_POOL_2D", "CONCATENATION", "MEAN", "SOFTMAX"}


def kernels_in(path):
    """Values of the 8-bit kernels in a file, `[height, width, channels, filters]`."""
    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    graph = model.Subgraphs(0)
    for tensor in (graph.Tensors(i) for i in range(graph.TensorsLength())):
        buffer = model.Buffers(tensor.Buffer())
        if tensor.ShapeLength() == 4 and buffer.DataLength():
            codes = buffer.DataAsNumpy().view(np.int8).reshape(tensor.ShapeAsNumpy())
            yield codes.transpose(1, 2, 3, 0) * tensor.Quantization().ScaleAsNumpy()


def test_biases_are_corrected_for_the_kernels_that_stand_in_the_file(trained, exported):
    network = export.for_inference(trained, copy=True)
    export.equalize_squeezes(network, [IMAGES[:100]])
    fires = [network.get_layer(name) for name in ("fire2", "fire3")]
    convolutions = [network.get_layer("conv1"), *fires[0].convolutions, *fires[1].convolutions]
    expected = [rounded(convolution.kernel.numpy()) for convolution in convolutions]
    expected.append(rounded(network.get_layer("conv4").kernel.numpy()))

    found = list(kernels_in(exported["int8"].path))

    assert len(found) == len(expected) == 8
    for kernel in expected:
        alike = [other for other in found if other.shape == kernel.shape]
        assert min(np.abs(other - kernel).max() for other in alike) < 1e-7


def test_a_rounded_kernel_has_255_steps_for_each_filter_and_bears_an_empty_one():
    kernel = np.zeros((1, 1, 3, 3), np.float32)
    kernel[0, 0, :, 0] = -127, 0.4, 0.6
    kernel[0, 0, :, 1] = 1, 0.5 / 127 - 1e-6, -1.4 / 127
    expected = np.zeros_like(kernel)
    expected[0, 0, :, 0] = -127, 0, 1
    expected[0, 0, :, 1] = 1, 0, -1 / 127
    np.testing.assert_allclose(rounded(kernel), expected, atol=1e-7)


def small_classifier():
    """As quick to convert as any, for what does not depend on the network."""
    image = layers.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(len(CLASS_NAMES), 3)(image))
    return keras.Model(image, layers.Softmax()(x))


SMALL_IMAGES = IMAGES[:2, :8, :8] - 100


def test_a_file_does_what_the_one_of_keras_does(tmp_path):
    model = small_classifier()
    export_litert(model, tmp_path / "ours.tflite", check_images=SMALL_IMAGES)
    signature = [keras.InputSpec(shape=(1, 8, 8, 3), dtype="float32", name="image")]
    model.export(
        str(tmp_path / "theirs.tflite"), format="litert", verbose=False, input_signature=signature
    )
    ours, theirs = tmp_path / "ours.tflite", tmp_path / "theirs.tflite"
    assert operators(ours) == operators(theirs)
    signatures = [Interpreter(str(path)).get_signature_list() for path in (ours, theirs)]
    assert signatures[0] == signatures[1] != {}
    np.testing.assert_array_equal(*(interpreted(path, SMALL_IMAGES) for path in (ours, theirs)))


def spiky_convolution():
    """Of each filter one weight is so large that the others, all positive, round to nothing."""
    image = layers.Input((8, 8, 3))
    model = keras.Model(image, layers.Conv2D(4, 3, bias_initializer="random_normal")(image))
    kernel = np.random.default_rng(0).uniform(0, 0.49, (3, 3, 3, 4)).astype(np.float32)
    kernel[1, 1, 1] = 127
    model.layers[-1].kernel.assign(kernel)
    return model


def test_an_int8_file_keeps_the_mean_output_of_each_filter(tmp_path, monkeypatch):
    keras.utils.set_random_seed(7)
    model = spiky_convolution()
    images = np.random.default_rng(1).uniform(0, 1, (50, 8, 8, 3)).astype(np.float32)
    options = {"quantize": "int8", "calibration": images, "tolerance": math.inf}
    predicted = model.predict(images, verbose=0)
    before = [weight.copy() for weight in model.get_weights()]

    corrected = export_litert(model, tmp_path / "corrected.tflite", **options)
    for weight, unchanged in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, unchanged)
    monkeypatch.setattr(export, "correct_biases", lambda model, batches: None)
    plain = export_litert(model, tmp_path / "plain.tflite", **options)

    def shift(result):
        return (interpreted(result.path, images) - predicted).mean(axis=(0, 1, 2))

    # 26 weights of 0.25 on average are gone, and a pixel is 0.5 on average.
    np.testing.assert_allclose(shift(plain), -26 * 0.25 * 0.5, rtol=0.25)
    np.testing.assert_allclose(shift(corrected), 0, atol=np.ptp(predicted) / 255)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_inside_of_a_fire_every_convolution_is_corrected_for_its_own_input(data_format):
    keras.utils.set_random_seed(8)
    image = layers.Input((6, 6, 5) if data_format == "channels_last" else (5, 6, 6))
    # Linear and without 3x3 filters, so that means go through it and can be compared.
    fire = Fire(4, 7, 0, activation="linear", bypass="complex", data_format=data_format)
    model = keras.Model(image, fire(image))
    images = np.random.default_rng(2).uniform(0, 9, (40, *image.shape[1:])).astype(np.float32)
    axes = (0, 1, 2) if data_format == "channels_last" else (0, 2, 3)
    try:
        expected = model.predict(images, verbose=0).mean(axis=axes)
    except tf.errors.UnimplementedError:
        pytest.skip("this TensorFlow has no channels_first convolution for this CPU")

    kernels = [convolution.kernel.numpy() for convolution in fire.convolutions]
    for convolution, kernel in zip(fire.convolutions, kernels, strict=True):
        convolution.kernel.assign(rounded(kernel))
    uncorrected = model.predict(images, verbose=0).mean(axis=axes)
    for convolution, kernel in zip(fire.convolutions, kernels, strict=True):
        convolution.kernel.assign(kernel)
    correct_biases(model, [images[:25], images[25:]])
    for convolution, kernel in zip(fire.convolutions, kernels, strict=True):
        convolution.kernel.assign(rounded(kernel))

    assert np.abs(uncorrected - expected).max() > 1e-2
    np.testing.assert_allclose(
        model.predict(images, verbose=0).mean(axis=axes), expected, atol=1e-4
    )


@parametrize("mode", ["caffe", "tf", "torch"], quick=1)
def test_preprocessing_is_folded_into_the_first_convolution(tmp_path, mode):
    keras.utils.set_random_seed(4)
    model = tiny_net(include_preprocessing=mode, classifier_activation=None)
    path = tmp_path / "mode.tflite"
    before = [weight.copy() for weight in model.get_weights()]

    export_litert(model, path, check_images=IMAGES[:10])

    assert operators(path) == {"CONV_2D", "MAX_POOL_2D", "CONCATENATION", "MEAN"}
    predicted = model.predict(IMAGES[:10], verbose=0)
    np.testing.assert_allclose(interpreted(path, IMAGES[:10]), predicted, rtol=1e-4, atol=1e-5)
    for weight, unchanged in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, unchanged)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_an_adapted_normalization_computes_the_same_in_what_is_written(policy):
    """Keras makes what it computes with of its weights when it loads a file, not in set_weights."""
    normalization = layers.Normalization(dtype=policy)
    normalization.adapt(IMAGES)
    model = keras.Sequential([keras.Input(IMAGES.shape[1:]), normalization, layers.Conv2D(4, 3)])
    written = inference_network.for_inference(model, copy=True)
    expected = (IMAGES[:2] - IMAGES.mean(axis=(0, 1, 2))) / IMAGES.std(axis=(0, 1, 2))
    expected = model.layers[1](expected)
    np.testing.assert_allclose(written(IMAGES[:2]), expected, atol=1e-3)
    precise = inference_network.in_full_precision(model)
    np.testing.assert_allclose(precise(IMAGES[:2]), expected, atol=0.03)


def test_preprocessing_inside_of_a_nested_model_is_folded_too(tmp_path):
    keras.utils.set_random_seed(5)
    backbone = tiny_net(include_top=False, pooling="avg")
    image = layers.Input((SIDE, SIDE, 3))
    outputs = layers.Dense(4, activation="softmax")(backbone(image) / 100)
    model = keras.Model(image, outputs)
    path = tmp_path / "nested.tflite"

    export_litert(model, path, quantize="int8", calibration=IMAGES[:50])

    assert "REVERSE_V2" not in operators(path)
    predicted = model.predict(IMAGES[:50], verbose=0)
    np.testing.assert_allclose(interpreted(path, IMAGES[:50]), predicted, atol=0.1)


def test_preprocessing_before_a_padding_convolution_stays_where_it_is(tmp_path):
    keras.utils.set_random_seed(6)
    image = layers.Input((8, 8, 3))
    x = ImagePreprocessing("torch")(image)
    x = layers.Conv2D(4, 3, padding="same", bias_initializer="random_normal")(x)
    model = keras.Model(image, x)
    path = tmp_path / "same.tflite"

    result = export_litert(model, path, check_images=IMAGES[:3, 8:16, 8:16])

    assert result.decisions_equal is None  # the output is a feature map
    assert result.output.shape == (1, 8, 8, 4)
    predicted = model.predict(IMAGES[:3, 8:16, 8:16], verbose=0)
    np.testing.assert_allclose(LiteRTModel(path).predict(IMAGES[:3, 8:16, 8:16]), predicted, 1e-4)


def test_reversed_channels_before_a_padding_convolution_are_right_in_8_bits(tmp_path):
    """As in VGG16 and ResNet50, whose first convolutions see zeros that are no pixels."""
    keras.utils.set_random_seed(6)
    image = layers.Input((8, 8, 3))
    x = layers.Rescaling(1.0, [0.061, 0.221, -0.68])(ImagePreprocessing("caffe")(image))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", kernel_initializer="he_normal")(x)
    x = layers.Dense(4, kernel_initializer="he_normal")(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(image, layers.Softmax()(layers.Rescaling(0.05)(x)))
    colours = np.random.default_rng(0).uniform(0, 255, (60, 1, 1, 3)).astype("float32")
    images = np.broadcast_to(colours, (60, 8, 8, 3))
    path = tmp_path / "padded.tflite"

    result = export_litert(model, path, quantize="int8", calibration=images)

    assert result.decisions_equal > 0.9
    difference = LiteRTModel(path).predict(images) - model.predict(images, verbose=0)
    assert np.abs(difference).mean() < 0.02


def test_a_file_that_disagrees_is_refused_and_the_older_one_stays(trained, tmp_path, monkeypatch):
    # A real fault: TensorFlow 2.21 quantizes the reversal of the channels wrongly.
    monkeypatch.setattr(inference_network, "_foldable", lambda model: {})
    monkeypatch.setattr(inference_network, "_reversing", lambda model: [])
    path = tmp_path / "model.tflite"
    path.write_bytes(b"older")

    with pytest.raises(ExportError, match=r"int8 file .* mean difference 0\.\d+ \(tolerance 0.12"):
        export_litert(trained, path, quantize="int8", calibration=IMAGES[:50])

    assert path.read_bytes() == b"older"
    assert os.listdir(tmp_path) == ["model.tflite"]


def test_equal_decisions_count_even_where_the_differences_are_small(trained, tmp_path):
    undecided = tiny_net()
    undecided.set_weights(trained.get_weights())
    last_conv = undecided.get_layer("conv4")
    for weight in last_conv.weights:
        weight.assign(weight * 1e-4)  # probabilities near 1/6, closer than the steps of 1/256
    path = tmp_path / "undecided.tflite"
    options = {"quantize": "int8", "calibration": IMAGES[:50]}

    with pytest.raises(ExportError, match=r"share of equal decisions 0\.\d+ \(at least 0\.80\)"):
        export_litert(undecided, path, output_type="uint8", **options)
    assert not path.exists()

    result = export_litert(undecided, path, output_type="uint8", tolerance=math.inf, **options)
    assert result.mean_difference < 1 / 256
    assert result.decisions_equal < 0.8
    assert json.loads(json.dumps(result.to_dict()))["tolerance"] is None


def test_the_tolerance_is_the_callers(trained, tmp_path):
    options = {"quantize": "dynamic", "check_images": IMAGES[HELD_OUT]}
    with pytest.raises(ExportError, match="tolerance 1e-06"):
        export_litert(trained, tmp_path / "strict.tflite", tolerance=1e-6, **options)
    assert os.listdir(tmp_path) == []


def test_a_model_that_answers_nan_is_not_exported(tmp_path):
    model = small_classifier()
    model.layers[1].bias.assign(np.full(6, np.nan))
    path = tmp_path / "nan.tflite"
    with pytest.raises(ExportError, match="largest difference nan"):
        export_litert(model, path, check_images=SMALL_IMAGES, tolerance=math.inf)


def test_an_operation_that_litert_lacks_is_an_error_and_no_flex_operation(tmp_path):
    image = layers.Input((8, 8, 3))
    model = keras.Model(image, layers.Lambda(lambda x: tf.image.adjust_hue(x, 0.1))(image))
    with pytest.raises(ExportError, match="converter refuses model"):
        export_litert(model, tmp_path / "hue.tflite", check_images=IMAGES[:1, :8, :8])
    assert os.listdir(tmp_path) == []


def test_an_export_prints_nothing_and_gives_the_output_back(trained, tmp_path, capfd):
    export_litert(trained, tmp_path / "a.tflite", quantize="int8", calibration=IMAGES[:10])
    assert capfd.readouterr() == ("", "")
    os.write(1, b"out")
    os.write(2, b"err")
    assert capfd.readouterr() == ("out", "err")


def test_equal_models_give_equal_files(trained, exported, tmp_path):
    again = export_litert(
        trained, tmp_path / "again.tflite", check_images=IMAGES[:2], class_names=CLASS_NAMES
    )
    assert again.path.read_bytes() == exported["none"].path.read_bytes()


def test_class_names_lie_in_the_file_where_a_zip_reader_finds_them(exported):
    for kind, result in exported.items():
        with zipfile.ZipFile(result.path) as archive:
            assert archive.testzip() is None
            assert archive.read("labels.txt").decode().split("\n") == [*CLASS_NAMES, ""]
            description = json.loads(archive.read("keras_squeezenet.json"))
        assert description == {
            "model": "squeezenet_custom",
            "input": {"shape": [SIDE, SIDE, 3], "values": "RGB, 0 to 255", "resize": None},
            "quantize": kind,
            "keras_squeezenet": __version__,
            "class_names": list(CLASS_NAMES),
        }
        assert read_class_names(result.path) == CLASS_NAMES
        assert LiteRTModel(result.path).class_names == CLASS_NAMES


def test_class_names_may_have_line_ends(tmp_path):
    names = ("a", "b\nc", "d", "e", "f\r\n", "g")
    path = tmp_path / "lines.tflite"
    export_litert(small_classifier(), path, check_images=SMALL_IMAGES, class_names=names)
    assert read_class_names(path) == names
    with zipfile.ZipFile(path) as archive:  # other readers take a line for a name
        assert archive.read("labels.txt").decode().splitlines() == ["a", "b c", "d", "e", "f", "g"]


def test_a_file_without_class_names_has_none(tmp_path):
    path = tmp_path / "nameless.tflite"
    export_litert(small_classifier(), path, check_images=SMALL_IMAGES)
    assert LiteRTModel(path).class_names is None
    description = json.loads(zipfile.ZipFile(path).read("keras_squeezenet.json"))
    assert description["input"]["values"] == "as the Keras model takes them"
    path.write_bytes(b"no archive at all")
    assert read_class_names(path) is None


def with_labels(content, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("labels.txt", content)
    return bytearray(file.getvalue())


def encrypted():
    archive = with_labels(b"cat\ndog\n")
    archive[6] |= 1
    archive[archive.index(b"PK\x01\x02") + 8] |= 1
    return archive


def altered():
    archive = with_labels(b"cat\ndog\n")
    archive[archive.index(b"cat")] = ord("r")
    return archive


@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        (with_labels(bytes(50 << 20), zipfile.ZIP_DEFLATED), "at most 1048576 bytes"),
        (with_labels(b"cat\ndog\n", zipfile.ZIP_LZMA), "stored or deflated"),
        (with_labels(b"\xff\xfe"), "decode"),
        (encrypted(), "encrypted"),
        (altered(), "CRC"),
    ],
    ids=["bomb", "lzma", "not utf-8", "encrypted", "altered"],
)
def test_hostile_class_names_are_refused(tmp_path, archive, reason):
    path = tmp_path / "hostile.tflite"
    path.write_bytes(archive)
    with pytest.raises(ValueError, match=rf"hostile.tflite: labels.txt .*{reason}"):
        read_class_names(path)


@settings(max_examples=200, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 255)), min_size=1, max_size=8)
)
def test_changed_bytes_are_read_or_refused_and_nothing_else(tmp_path_factory, changes):
    archive = with_labels(b"cat\ndog\n", zipfile.ZIP_DEFLATED)
    for position, value in changes:
        archive[position % len(archive)] = value
    path = tmp_path_factory.getbasetemp() / "changed.tflite"
    path.write_bytes(archive)
    try:
        names = read_class_names(path)
    except ValueError:
        return
    assert names in (None, ("cat", "dog"))


def test_class_names_that_do_not_fit_the_outputs_are_refused(exported, tmp_path):
    content = exported["none"].path.read_bytes()
    path = tmp_path / "two.tflite"
    path.write_bytes(content[: content.rindex(b"PK\x03\x04", 0, content.index(b"PK\x01\x02"))])
    assert read_class_names(path) is None
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels.txt", "cat\ndog\n")
    with pytest.raises(ValueError, match=r"each of 6 outputs\. Received: 2 names"):
        LiteRTModel(path)


@pytest.mark.parametrize(
    ("altered", "message"),
    [
        (lambda content: b"", "expected a LiteRT model"),
        (lambda content: b"\x89PNG\r\n\x1a\n" + content, "expected a LiteRT model"),
        (lambda content: content[:8], "LiteRT cannot load it"),
        (lambda content: content[: len(content) // 2], "LiteRT cannot load it"),
        (lambda content: content[:8] + bytes(5000), "LiteRT cannot load it"),
    ],
    ids=["empty", "picture", "header", "half", "zeros"],
)
def test_a_file_that_is_no_model_is_refused(exported, tmp_path, altered, message):
    path = tmp_path / "foreign.tflite"
    path.write_bytes(altered(exported["none"].path.read_bytes()))
    with pytest.raises(ValueError, match=rf"foreign.tflite: {message}"):
        LiteRTModel(path)


@pytest.mark.parametrize("shape", [(1, SIDE, SIDE + (1 << 23), 3), (1, 20_000, 20_000, 3)])
def test_a_file_that_would_take_all_memory_is_refused(exported, tmp_path, shape):
    model = schema.ModelT.InitFromPackedBuf(exported["int8"].path.read_bytes(), 0)
    graph = model.subgraphs[0]
    graph.tensors[graph.inputs[0]].shape = np.array(shape, np.int32)
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    path = tmp_path / "huge.tflite"
    path.write_bytes(builder.Output())
    with pytest.raises(ValueError, match=r"huge\.tflite: .* at most 67108864 elements"):
        LiteRTModel(path)


@pytest.mark.parametrize("shape", [(1, SIDE, SIDE + 1, 3), (SIDE, SIDE, 3), (0, SIDE, SIDE, 3)])
def test_images_of_another_size_are_refused(exported, shape):
    with pytest.raises(ValueError, match=r"of shape \(32, 32, 3\). Received: images.shape="):
        LiteRTModel(exported["none"].path).predict(np.zeros(shape))


def test_codes_are_clipped_to_the_range_of_their_type():
    details = TensorDetails((None, 4), "int8", 0.5, -10)
    codes = details.encode(np.array([[-1000.0, 0.0, 0.74, 1000.0]], np.float32))
    assert codes.dtype == np.int8
    assert codes.tolist() == [[-128, -10, -9, 127]]
    assert details.decode(codes).tolist() == [[-59.0, 0.0, 0.5, 68.5]]


@pytest.mark.parametrize(
    ("details", "message"),
    [
        ({"dtype": "int64"}, "dtype=int64"),
        ({"dtype": "int8"}, "scale=None"),
        ({"dtype": "uint8", "scale": 0.0, "zero_point": 0}, "scale=0.0"),
        ({"dtype": "uint8", "scale": math.nan, "zero_point": 0}, "scale=nan"),
    ],
)
def test_tensors_that_cannot_be_converted_are_refused(details, message):
    with pytest.raises(ValueError, match=message):
        TensorDetails((1, 4), **details)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantize": "int4"}, "Received: quantize=int4"),
        ({"input_type": "uint8"}, "needs `quantize` 'int8'. Received: input_type=uint8"),
        ({"output_type": "int8"}, "needs `quantize` 'int8'. Received: output_type=int8"),
        ({"input_type": "float16"}, "Received: input_type=float16"),
        ({"quantize": "int8"}, "needs images. Received: calibration=None"),
        ({"quantize": "int8", "calibration": []}, "`calibration` must hold images"),
        ({"check_images": None}, "Received: check_images=None"),
        ({"check_images": IMAGES[:2, :8]}, r"Received: a batch of shape \(2, 8, 32, 3\)"),
        ({"check_images": IMAGES[:2] * 2}, r"from 0 to 255.* Received: 80\.0 to 380\.0"),
        ({"check_images": IMAGES[:2] * np.nan}, "from 0 to 255"),
        ({"batch_size": 0}, "Received: batch_size=0"),
        ({"batch_size": True}, "Received: batch_size=True"),
        ({"tolerance": -1.0}, "Received: tolerance=-1.0"),
        ({"tolerance": math.nan}, "Received: tolerance=nan"),
        ({"class_names": ["cat"]}, r"output \(None, 6\). Received: 1 names"),
        ({"class_names": ["a", "b", "c", "d", "e", " "]}, "not blank. Received: .*' '"),
        ({"class_names": ["a", "b", "c", "d", "e", 6]}, "not blank. Received: .*6"),
    ],
)
def test_arguments_that_do_not_go_together_are_named(trained, tmp_path, arguments, message):
    options = {"check_images": IMAGES[:2], **arguments}
    with pytest.raises(ValueError, match=message):
        export_litert(trained, tmp_path / "never.tflite", **options)
    assert os.listdir(tmp_path) == []


def test_a_model_of_free_image_size_is_refused(tmp_path):
    model = SqueezeNet(weights=None, include_top=False, architecture=TINY)
    with pytest.raises(ValueError, match=r"Received: model.input_shape=\(None, None, None, 3\)"):
        export_litert(model, tmp_path / "never.tflite", check_images=IMAGES[:2])


def test_a_missing_folder_is_named_before_the_work_begins(trained, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Received: path=.*nowhere"):
        export_litert(trained, tmp_path / "nowhere" / "a.tflite", check_images=IMAGES[:2])
    with pytest.raises(FileNotFoundError, match=r"nowhere\.tflite"):
        LiteRTModel(tmp_path / "nowhere.tflite")
