"""Writing LiteRT (TFLite) files: written, run, compared with the Keras model, then put in place."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_squeezenet._version import __version__
from keras_squeezenet.checks import is_int
from keras_squeezenet.extras import from_extra, require
from keras_squeezenet.files import replacing
from keras_squeezenet.litert.bias_correction import correct_biases
from keras_squeezenet.litert.comparison import (
    ExportError,
    ExportResult,
    check_agreement,
    compare,
    outputs_of,
)
from keras_squeezenet.litert.equalization import equalize_squeezes
from keras_squeezenet.litert.inference_network import (
    for_inference,
    in_full_precision,
    takes_pixels,
)
from keras_squeezenet.litert.model import (
    MAX_LABELS_BYTES,
    TENSOR_TYPES,
    append_archive,
    chunks,
    silenced,
)
from keras_squeezenet.litert.quantizations import QUANTIZATIONS, Quantization
from keras_squeezenet.litert.ranges import quantize_calibrated, widen
from keras_squeezenet.network.data_formats import Shape


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

    The file is that of Keras's own `Model.export(format="litert")`, without saving every layer.
    Unlike there, an operation that LiteRT itself lacks is an error and no "Flex" operation.

    Args:
        model: one image tensor of fixed height, width and channels in, one tensor out.
        path: the file. An older one is replaced only after the comparison.
        quantize: "none", float32; "float16", weights of half the bytes; "dynamic", 8-bit weights
            and float32 activations in the file; "int8", all of it in 8-bit integers. A name of
            `quantizations.QUANTIZATIONS`.
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

    kind = QUANTIZATIONS[quantize]
    pixels = takes_pixels(model)
    seen: np.ndarray | None = None
    if calibration is not None:
        seen = _stacked("calibration", calibration, model.input_shape[1:], pixels)
    elif kind.calibrated:
        raise ValueError(f"`quantize` {quantize!r} needs images. Received: calibration=None")
    if check_images is not None:
        checked = _stacked("check_images", check_images, model.input_shape[1:], pixels)
    elif seen is not None:
        checked = seen
    else:
        raise ValueError(
            "A file must be compared with its model: `check_images` or `calibration` must hold "
            "images. Received: check_images=None"
        )

    network = for_inference(model, copy=kind.calibrated, reverses_channels=False)
    options = _converter_options(kind)
    if kind.calibrated and seen is not None:
        batches = [chunk for chunk, _ in chunks(seen, None)]
        equalize_squeezes(network, batches)
        correct_biases(network, batches)
        options["representative_dataset"] = _representative_dataset(seen, batch_size, pixels)
    with replacing(path) as temporary:
        _convert(network, temporary, batch_size, options)
        if kind.calibrated and seen is not None:
            _quantize(temporary, seen, model, input_type, output_type)
        about = description(model.name, model.input_shape[1:], quantize, pixels, resize)
        append_archive(temporary, class_names, about)
        # In float32, and with its preprocessing where it was.
        reference = outputs_of(in_full_precision(model), checked)
        result = compare(temporary, path, quantize, checked, reference, tolerance=tolerance)
        check_agreement(result, is_classifier=_is_classifier(model, class_names))
    return result


def _check_options(
    quantize: str,
    input_type: str,
    output_type: str,
    batch_size: int | None,
    tolerance: float | None,
) -> None:
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
        if value != "float32" and not QUANTIZATIONS[quantize].calibrated:
            integers = " or ".join(repr(n) for n, row in QUANTIZATIONS.items() if row.calibrated)
            raise ValueError(
                f"`{name}` other than 'float32' needs `quantize` {integers}. "
                f"Received: {name}={value}"
            )
    if batch_size is not None and not is_int(batch_size, 1):
        raise ValueError(
            f"`batch_size` must be an integer ≥ 1 or None. Received: batch_size={batch_size}"
        )
    # A NaN fails the comparison.
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(f"`tolerance` must be a number ≥ 0. Received: tolerance={tolerance}")


def _check_model(model: keras.Model) -> None:
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


def _check_class_names(class_names: Sequence[str] | None, output_shape: Shape) -> None:
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


def _stacked(
    name: str, images: Iterable[np.ndarray], shape: tuple[int, ...], takes_pixels: bool
) -> np.ndarray:
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


def _converter_options(kind: Quantization) -> dict[str, Any]:
    """Attributes of a `tf.lite.TFLiteConverter`; those of its `target_spec` in a dict."""
    with from_extra("litert"):
        import tensorflow as tf

    target_spec = {"supported_ops": [getattr(tf.lite.OpsSet, kind.operators)]}
    options: dict[str, Any] = {"target_spec": target_spec}
    if kind.optimized:
        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
    if kind.weights:
        target_spec["supported_types"] = [tf.as_dtype(kind.weights)]
    if kind.calibrated:
        # The ranges are widened before the file is made of integers.
        options["_experimental_calibrate_only"] = True
    return options


def _representative_dataset(
    calibration: np.ndarray, batch_size: int | None, takes_pixels: bool
) -> Callable:
    if takes_pixels:
        # One black and one white value give the input scale 1: an image's bytes are its codes,
        # and no image is brighter than what was calibrated.
        calibration = calibration.copy()
        calibration[0, 0, 0, 0], calibration[0, -1, -1, -1] = 0, 255

    def batches() -> Iterator[list[np.ndarray]]:
        for chunk, _ in chunks(calibration, batch_size or 1):
            yield [chunk]

    return batches


def _convert(
    model: keras.Model, path: Path, batch_size: int | None, options: Mapping[str, Any]
) -> None:
    with from_extra("litert"):
        import tensorflow as tf

    signature = tf.TensorSpec((batch_size, *model.input_shape[1:]), tf.float32, name="image")
    traced = tf.function(lambda image: model(image, training=False), autograph=False)
    # What the converter saves holds the variables alone, without which it would leave them outside
    # of the file. Of a model it would save, and look through, every layer: so does `Model.export`.
    holder = tf.Module()
    try:
        with silenced():
            function = traced.get_concrete_function(signature)
            holder.variables_of_the_model = function.variables
            converter = tf.lite.TFLiteConverter.from_concrete_functions([function], holder)
            for name, value in options.items():
                if name == "target_spec":
                    for part, setting in value.items():
                        setattr(converter.target_spec, part, setting)
                else:
                    setattr(converter, name, value)
            content = converter.convert()
    except OSError:
        raise
    # The converter's own error is a bare Exception.
    except Exception as error:
        raise refusal(model.name, error) from error
    path.write_bytes(content)


def _quantize(
    path: Path, calibration: np.ndarray, model: keras.Model, input_type: str, output_type: str
) -> None:
    """Make a calibrated file one of integers, with room in its last ranges."""
    widen(path, calibration)
    try:
        with silenced():
            content = quantize_calibrated(path.read_bytes(), input_type, output_type)
    except Exception as error:
        raise refusal(model.name, error) from error
    path.write_bytes(content)


def refusal(name: str, error: Exception) -> ExportError:
    """What LiteRT's converter says of a model of that name, in one line."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ExportError(f"LiteRT's converter refuses model {name}: {reason}")


def description(
    name: str, shape: Iterable[int | None], quantize: str, pixels: bool, resize: int | str | None
) -> dict[str, Any]:
    """What is kept in a file about the file.

    Args:
        name: of the model.
        shape: height, width and channels of what it takes.
        quantize: a name of `QUANTIZATIONS`.
        pixels: whether it takes RGB 0…255.
        resize: how pictures are framed for it, see `Framing`.
    """
    values = "RGB, 0 to 255" if pixels else "as the Keras model takes them"
    return {
        "model": name,
        "input": {"shape": list(shape), "values": values, "resize": resize},
        "quantize": quantize,
        "keras_squeezenet": __version__,
    }


def _is_classifier(model: keras.Model, class_names: Sequence[str] | None) -> bool:
    activation = getattr(model.layers[-1], "activation", None)
    return class_names is not None or activation is keras.activations.softmax
