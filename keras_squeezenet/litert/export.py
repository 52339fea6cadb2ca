"""Writing LiteRT (TFLite) files: written, run, compared with the Keras model, then put in place."""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_squeezenet._version import __version__
from keras_squeezenet.checks import is_int
from keras_squeezenet.extras import from_extra, require
from keras_squeezenet.files import replacing
from keras_squeezenet.litert.bias_correction import correct_biases
from keras_squeezenet.litert.equalization import equalize_squeezes
from keras_squeezenet.litert.model import (
    MAX_LABELS_BYTES,
    TENSOR_TYPES,
    LiteRTModel,
    TensorDetails,
    append_archive,
    chunks,
    silenced,
)
from keras_squeezenet.litert.ranges import (
    MOST_CONFIDENCE_LOST,
    MOST_IMAGES_AT_END,
    Saturation,
    measure_saturation,
    quantize_calibrated,
    widen,
)
from keras_squeezenet.machine import own_threads
from keras_squeezenet.network.graph import every_layer, takes
from keras_squeezenet.network.layers import ImagePreprocessing
from keras_squeezenet.network.preprocessing import PREPROCESSINGS, fold

QUANTIZATIONS = ("none", "float16", "dynamic", "int8")

# Measured with the published SqueezeNets on 600 ImageNet photos, v1.1 and v1.0, and with a
# v1.1 trained on scikit-learn's digits. "none" and "float16" are held to their worst image (4e-6;
# 0.0025). The worst of many images says little about 8 bits, where one close call moves far
# (0.57), so "dynamic" and "int8" are held to the mean of the images (0.02 and 0.04) and to the
# share of equal decisions (0.95 and 0.92 of 600, 0.89 of 200). What is really broken is far off:
# 0.26 and 0.55 for the quantized REVERSE_V2 that `_fold` is about.
DEFAULT_TOLERANCE = {"none": 1e-4, "float16": 0.01, "dynamic": 0.06, "int8": 0.12}
LEAST_EQUAL_DECISIONS = {"none": 0.0, "float16": 0.0, "dynamic": 0.8, "int8": 0.8}

_HALF_PRECISIONS = ("float16", "bfloat16")


class ExportError(RuntimeError):
    """The converter failed, or its file does not do what the Keras model does."""


@dataclass(frozen=True)
class ExportResult:
    """What was written, and how far it is from the Keras model, measured on the file.

    Attributes:
        path: the file.
        bytes: its size, class names included.
        quantize: "none", "float16", "dynamic" or "int8".
        input, output: of the file.
        max_difference: largest absolute difference of any output of any image.
        mean_difference: mean over the images of each image's largest absolute difference.
        decisions_equal: share (0 to 1) of images with the same top-1 class; None where the output
            is not `(batch, classes)`.
        images_checked: images compared.
        tolerance: what the difference was held to; see `export_litert`.
        confidence, model_confidence: mean over the images of the highest output, of the file and
            of the model; None where the output is not `(batch, classes)`.
        saturation: of an int8 file, a `Saturation` of each activation that nothing bounds.
    """

    path: Path
    bytes: int
    quantize: str
    input: TensorDetails
    output: TensorDetails
    max_difference: float
    mean_difference: float
    decisions_equal: float | None
    images_checked: int
    tolerance: float
    confidence: float | None = None
    model_confidence: float | None = None
    saturation: tuple[Saturation, ...] = ()

    @property
    def saturated_decision(self) -> Saturation | None:
        """Of what decides, the activation whose end most images reach; None if none is known."""
        deciding = (found for found in self.saturation if found.decides)
        return max(deciding, key=lambda found: found.images, default=None)

    @property
    def most_saturated(self) -> Saturation | None:
        """The activation of which most values are at an end; None if none is known."""
        return max(self.saturation, key=lambda found: found.values, default=None)

    @property
    def warning(self) -> str | None:
        """One line about ranges that are too narrow for the images; None where they are not."""
        signs = []
        worst = self.saturated_decision
        if worst and worst.images > MOST_IMAGES_AT_END:
            signs.append(f"{worst.images:.0%} of the images reach the end of {worst.name}'s range")
        confidences = (self.confidence, self.model_confidence)
        if self.saturation and None not in confidences:
            scale = max(1.0, abs(self.model_confidence))
            if self.model_confidence - self.confidence > MOST_CONFIDENCE_LOST * scale:
                signs.append(
                    f"the mean of the highest output falls from {self.model_confidence:.3f} to "
                    f"{self.confidence:.3f}"
                )
        if not signs:
            return None
        return (
            f"8-bit ranges cut values off: {', and '.join(signs)}. "
            "Take the ranges from such images too"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts, for `json.dumps`. No tolerance is None."""
        tolerance = self.tolerance if math.isfinite(self.tolerance) else None
        found = {"path": str(self.path), "tolerance": tolerance, "warning": self.warning}
        return {**asdict(self), **found}


def export_litert(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    quantize: str = "none",
    calibration: Iterable[np.ndarray] | None = None,
    input_type: str = "float32",
    output_type: str = "float32",
    batch_size: int | None = 1,
    class_names: Sequence[str] | None = None,
    resize: int | str | None = None,
    check_images: Iterable[np.ndarray] | None = None,
    tolerance: float | None = None,
) -> ExportResult:
    """Write `model` as a LiteRT file that was run and found to agree with it.

    The file takes what the model takes: RGB 0…255 where the model was built with
    `include_preprocessing`. Preprocessing costs nothing there, because it is folded into the first
    convolution. A model trained in half precision is written, and compared, in float32 with the
    same weights.

    The conversion is Keras's own `Model.export(format="litert")`:
    `TFLiteConverter.from_concrete_functions` leaves the weights of a Keras 3 model outside of the
    file. Unlike there, an operation that LiteRT itself lacks is an error and no "Flex" operation.

    Args:
        model: one image tensor of fixed height, width and channels in, one tensor out.
        path: the file. An older one is replaced only after the comparison.
        quantize: "none", float32; "float16", weights of half the bytes; "dynamic", 8-bit weights
            and float32 activations in the file; "int8", all of it in 8-bit integers.
        calibration: float32 images, `[n, height, width, channels]` or batches of that, from which
            "int8" learns the range of every activation (with room in the last ones, see
            `ranges`), and what rounding the kernels shifts on average (see `equalization` and
            `bias_correction`). A hundred real ones, as the model takes them: with 10 the published
            networks lost up to 4 points (results/int8.csv).
        input_type, output_type: "float32"; with "int8" also "uint8" or "int8". A model that takes
            RGB 0…255 then takes an image's bytes as they are in "uint8".
        batch_size: images per run; None, any number.
        class_names: to be kept in the file, in the order of the model's outputs.
        resize: to be kept in the file: how pictures are framed for it, see `Framing`.
        check_images: float32 images as in `calibration`, on which file and model are compared.
            Default: those of `calibration`. A hundred real images that were not calibrated with
            say most.
        tolerance: the largest difference allowed: of the worst output of any image for "none" and
            "float16", of the images' mean worst output for "dynamic" and "int8". It is a share of
            the largest output where that exceeds 1 (logits, features). "dynamic" and "int8"
            classifiers must also decide 80 % of the images as the model does. Default: 1e-4, 0.01,
            0.06 and 0.12 in the order of `quantize`. `math.inf`: only measure.

    Returns:
        What was measured on the file.

    Raises:
        ValueError: for arguments that do not go together; the text names them.
        ExportError: the converter failed, or file and model disagree. Nothing is written then.
        OSError: the file cannot be written.
        NotInstalledError: TensorFlow or LiteRT is not installed.

    Example:

    >>> model = SqueezeNet(weights=None, classes=2, input_shape=(64, 64, 3))
    >>> photos = np.random.default_rng(0).uniform(-100, 100, (4, 64, 64, 3)).astype("float32")
    >>> written = export_litert(model, "model.tflite", check_images=photos)
    >>> written.images_checked, written.decisions_equal
    (4, 1.0)
    >>> LiteRTModel("model.tflite").predict(photos).shape
    (4, 2)
    """
    require("litert")
    path = Path(path)
    _check_options(quantize, input_type, output_type, batch_size, tolerance)
    _check_model(model)
    _check_class_names(class_names, model.output_shape)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"The folder of `path` must exist. Received: path={path}")
    if tolerance is None:
        tolerance = DEFAULT_TOLERANCE[quantize]

    takes_pixels = any(isinstance(layer, ImagePreprocessing) for layer in every_layer(model))
    if calibration is not None:
        calibration = _stacked("calibration", calibration, model.input_shape[1:], takes_pixels)
    elif quantize == "int8":
        raise ValueError("`quantize` 'int8' needs images. Received: calibration=None")
    if check_images is not None:
        check_images = _stacked("check_images", check_images, model.input_shape[1:], takes_pixels)
    elif calibration is not None:
        check_images = calibration
    else:
        raise ValueError(
            "A file must be compared with its model: `check_images` or `calibration` must hold "
            "images. Received: check_images=None"
        )

    network = for_inference(model, copy=quantize == "int8")
    options = _converter_options(quantize)
    if quantize == "int8":
        batches = [chunk for chunk, _ in chunks(calibration, None)]
        equalize_squeezes(network, batches)
        correct_biases(network, batches)
        options["representative_dataset"] = _representative_dataset(
            calibration, batch_size, takes_pixels
        )
    with replacing(path) as temporary:
        _convert(network, temporary, batch_size, options)
        if quantize == "int8":
            _quantize(temporary, calibration, model, input_type, output_type)
        append_archive(temporary, class_names, _description(model, quantize, takes_pixels, resize))
        result = _measure(temporary, path, model, quantize, check_images, tolerance)
        _check_agreement(result, _is_classifier(model, class_names))
    return result


def _check_options(quantize, input_type, output_type, batch_size, tolerance):
    if quantize not in QUANTIZATIONS:
        raise ValueError(
            f"`quantize` must be one of {', '.join(map(repr, QUANTIZATIONS))}. "
            f"Received: quantize={quantize}"
        )
    for name, value in (("input_type", input_type), ("output_type", output_type)):
        if value not in TENSOR_TYPES:
            raise ValueError(
                f"`{name}` must be one of {', '.join(map(repr, TENSOR_TYPES))}. "
                f"Received: {name}={value}"
            )
        if value != "float32" and quantize != "int8":
            raise ValueError(
                f"`{name}` other than 'float32' needs `quantize` 'int8'. Received: {name}={value}"
            )
    if batch_size is not None and not is_int(batch_size, 1):
        raise ValueError(
            f"`batch_size` must be an integer ≥ 1 or None. Received: batch_size={batch_size}"
        )
    # A NaN fails the comparison.
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(f"`tolerance` must be a number ≥ 0. Received: tolerance={tolerance}")


def _check_model(model):
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "LiteRT files are written with Keras's TensorFlow backend. "
            f"Received: backend={keras.backend.backend()}"
        )
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ValueError(
            "`model` must have one input and one output. "
            f"Received: {len(model.inputs)} and {len(model.outputs)}"
        )
    shape = model.input_shape
    if len(shape) != 4 or None in shape[1:]:
        raise ValueError(
            "`model` must take images of fixed height, width and channels. "
            f"Received: model.input_shape={shape}"
        )


def _check_class_names(class_names, output_shape):
    if class_names is None:
        return
    if len(output_shape) != 2 or len(class_names) != output_shape[1]:
        raise ValueError(
            f"`class_names` must hold a name for each class of the output {output_shape}. "
            f"Received: {len(class_names)} names"
        )
    for name in class_names:
        # Readers of the file skip blank lines.
        if not isinstance(name, str) or not name.strip():
            raise ValueError(
                "`class_names` must be strings that are not blank. "
                f"Received: class_names with {name!r}"
            )
    if len("\n".join(class_names).encode()) >= MAX_LABELS_BYTES:
        raise ValueError(
            f"`class_names` must take less than {MAX_LABELS_BYTES} bytes. Received: more"
        )


def _stacked(name, images, shape, takes_pixels):
    """float32[n, *shape] of an array or of an iterable of batches."""
    batches = [images] if isinstance(images, np.ndarray) else list(images)
    batches = [np.asarray(batch, np.float32) for batch in batches]
    for batch in batches:
        if batch.shape[1:] != tuple(shape):
            raise ValueError(
                f"`{name}` must hold batches of images of shape {tuple(shape)}. "
                f"Received: a batch of shape {batch.shape}"
            )
    stacked = np.concatenate(batches) if batches else np.empty((0, *shape), np.float32)
    if len(stacked) == 0:
        raise ValueError(f"`{name}` must hold images. Received: none")
    low, high = (0, 255) if takes_pixels else (-math.inf, math.inf)
    # A NaN fails both comparisons.
    if not (stacked.min() >= low and stacked.max() <= high and np.isfinite(stacked).all()):
        expected = "from 0 to 255, as the model takes them" if takes_pixels else "finite"
        raise ValueError(
            f"`{name}` must be {expected}. Received: {stacked.min()} to {stacked.max()}"
        )
    return stacked


def _converter_options(quantize) -> dict[str, Any]:
    """Attributes of `tf.lite.TFLiteConverter`, as `Model.export` takes them."""
    with from_extra("litert"):
        import tensorflow as tf

    builtins = "TFLITE_BUILTINS_INT8" if quantize == "int8" else "TFLITE_BUILTINS"
    target_spec = {"supported_ops": [getattr(tf.lite.OpsSet, builtins)]}
    options: dict[str, Any] = {"target_spec": target_spec}
    if quantize != "none":
        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        target_spec["supported_types"] = [tf.float16]
    if quantize == "int8":
        # The ranges are widened before the file is made of integers.
        options["_experimental_calibrate_only"] = True
    return options


def _representative_dataset(calibration, batch_size, takes_pixels) -> Callable:
    if takes_pixels:
        # One black and one white value give the input scale 1: an image's bytes are its codes,
        # and no image is brighter than what was calibrated.
        calibration = calibration.copy()
        calibration[0, 0, 0, 0], calibration[0, -1, -1, -1] = 0, 255

    def batches():
        for chunk, _ in chunks(calibration, batch_size or 1):
            yield [chunk]

    return batches


def _convert(model, path, batch_size, options):
    signature = keras.InputSpec(
        shape=(batch_size, *model.input_shape[1:]), dtype="float32", name="image"
    )
    try:
        with silenced():
            model.export(
                str(path), format="litert", verbose=False, input_signature=[signature], **options
            )
    except OSError:
        raise
    # The converter's own error is a bare Exception; Keras adds its own kinds.
    except Exception as error:
        raise _refused(model, error) from error


def _quantize(path, calibration, model, input_type, output_type):
    """Make a calibrated file one of integers, with room in its last ranges."""
    widen(path, calibration)
    try:
        with silenced():
            content = quantize_calibrated(path.read_bytes(), input_type, output_type)
    except Exception as error:
        raise _refused(model, error) from error
    path.write_bytes(content)


def _refused(model, error):
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ExportError(f"LiteRT's converter refuses model {model.name}: {reason}")


def for_inference(model, *, copy):
    """`model` in float32, its preprocessing folded into the convolution that takes it.

    A copy where anything has to change, and with `copy` always.
    """
    convolution_after = _foldable(model)
    if not (copy or convolution_after or _is_half_precision(model)):
        return model
    clones = {}

    def clone(operation):
        if operation in convolution_after:
            return keras.layers.Identity(name=operation.name)
        clones[operation] = _in_float32(operation)
        return clones[operation]

    twin = keras.models.clone_model(model, clone_function=clone, recursive=True)
    twin.set_weights(model.get_weights())
    for preprocessing, convolution in convolution_after.items():
        _fold(preprocessing, clones[convolution])
    return twin


def _is_half_precision(model):
    return any(layer.compute_dtype in _HALF_PRECISIONS for layer in every_layer(model))


def _in_float32(operation):
    """A copy of a layer, or of an operation such as a `/` between tensors of the model."""
    config = operation.get_config()
    if getattr(operation, "compute_dtype", None) in _HALF_PRECISIONS:
        config["dtype"] = "float32"
    return type(operation).from_config(config)


def _foldable(model) -> dict[ImagePreprocessing, keras.layers.Conv2D]:
    """Preprocessing layers, and of each the one convolution that takes its output.

    A convolution that pads would see zeros that are not the preprocessing of any pixel.
    """
    layers = list(every_layer(model))
    convolution_after = {}
    for preprocessing in layers:
        if not isinstance(preprocessing, ImagePreprocessing):
            continue
        takers = [layer for layer in layers if takes(layer, preprocessing.output)]
        if (
            len(takers) == 1
            and type(takers[0]) is keras.layers.Conv2D
            and takers[0].padding == "valid"
            and takers[0].groups == 1
            and takers[0].use_bias
        ):
            convolution_after[preprocessing] = takers[0]
    return convolution_after


def _fold(preprocessing, convolution):
    """Make `convolution` do the work of the layer before it.

    With a REVERSE_V2 of the channels left in the graph, TensorFlow 2.21 writes int8 files of which
    half of the decisions are wrong: the calibration gives its input and its output different
    scales, and the operation copies the codes.
    """
    kernel, bias = fold(
        convolution.kernel.numpy(), convolution.bias.numpy(), PREPROCESSINGS[preprocessing.mode]
    )
    convolution.kernel.assign(kernel)
    convolution.bias.assign(bias)


def _description(model, quantize, takes_pixels, resize) -> dict[str, Any]:
    height_width_channels = list(model.input_shape[1:])
    values = "RGB, 0 to 255" if takes_pixels else "as the Keras model takes them"
    return {
        "model": model.name,
        "input": {"shape": height_width_channels, "values": values, "resize": resize},
        "quantize": quantize,
        "keras_squeezenet": __version__,
    }


def _measure(written, path, model, quantize, images, tolerance) -> ExportResult:
    """Run the file `written`, which is to be `path`, beside the model."""
    litert = LiteRTModel(written, num_threads=own_threads())
    outputs = litert.predict(images)
    reference = _reference(model, images)
    differences = np.abs(outputs - reference).reshape(len(images), -1).max(axis=1)
    decisions_equal = confidence = model_confidence = None
    if reference.ndim == 2:
        decisions_equal = float(np.mean(outputs.argmax(axis=1) == reference.argmax(axis=1)))
        confidence = float(outputs.max(axis=1).mean())
        model_confidence = float(reference.max(axis=1).mean())
    largest_output = max(1.0, float(np.abs(reference).max()))
    return ExportResult(
        path=path,
        bytes=os.path.getsize(written),
        quantize=quantize,
        input=litert.input,
        output=litert.output,
        max_difference=float(differences.max()),
        mean_difference=float(differences.mean()),
        decisions_equal=decisions_equal,
        images_checked=len(images),
        tolerance=tolerance * largest_output,
        confidence=confidence,
        model_confidence=model_confidence,
        saturation=measure_saturation(written, images) if quantize == "int8" else (),
    )


def _reference(model, images):
    """The model's outputs in float32, with its preprocessing where it was."""
    if _is_half_precision(model):
        twin = keras.models.clone_model(model, clone_function=_in_float32, recursive=True)
        twin.set_weights(model.get_weights())
        model = twin
    # Model.predict would compile a graph for a few batches.
    return np.concatenate(
        [np.asarray(model(chunk, training=False)) for chunk, _ in chunks(images, None)]
    )


def _is_classifier(model, class_names):
    activation = getattr(model.layers[-1], "activation", None)
    return class_names is not None or activation is keras.activations.softmax


def _check_agreement(result, is_classifier):
    exact = result.quantize in ("none", "float16")
    kind, difference = (
        ("largest", result.max_difference) if exact else ("mean", result.mean_difference)
    )
    least_equal = LEAST_EQUAL_DECISIONS[result.quantize] if is_classifier else 0.0
    equal = 1.0 if result.decisions_equal is None else result.decisions_equal
    # A NaN fails the comparison.
    if not difference <= result.tolerance or (
        math.isfinite(result.tolerance) and equal < least_equal
    ):
        raise ExportError(
            f"{result.path}: the {result.quantize} file does not do what the Keras model does on "
            f"{result.images_checked} images: {kind} difference {difference:.3g} (tolerance "
            f"{result.tolerance:.3g}), share of equal decisions {equal:.3f} (at least "
            f"{least_equal:.2f}). Nothing was written"
        )
