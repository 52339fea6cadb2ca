"""Quantization-aware training: a network learns what 8 bits will do to it (tfmot, LiteRT).

Jacob et al., arXiv 1712.05877: in training every kernel and activation is rounded to 8 bits as the
integer file will, and gradients pass through the rounding. Against calibration after training, as
`export_litert` does it, this costs training and keeps accuracy where calibration loses some.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_squeezenet.compression.accuracy import top1
from keras_squeezenet.compression.copies import lambdas_named
from keras_squeezenet.compression.retraining import (
    LayerStatistics,
    Retraining,
    RetrainingError,
    check_classifier,
    checked_retraining,
)
from keras_squeezenet.compression.training_data import Data, batches_of, measured_on, pair
from keras_squeezenet.compression.with_training.activation_ranges import (
    calibrate,
    set_input_range,
)
from keras_squeezenet.compression.with_training.bridge import (
    copy_weights_back,
    kernels,
    to_tf_keras,
)
from keras_squeezenet.compression.with_training.callbacks import Seen, check_callbacks
from keras_squeezenet.compression.with_training.check_images import (
    CHECK_IMAGES,
    SampleInPassing,
    divided,
    first_images,
)
from keras_squeezenet.compression.with_training.fake_quantization import (
    check_preservable,
    settle_kernels,
    with_fake_quantization,
)
from keras_squeezenet.compression.with_training.retraining import (
    Precondition,
    broadcast,
    retrain,
)
from keras_squeezenet.extras import from_extra
from keras_squeezenet.files import replacing
from keras_squeezenet.litert.comparison import (
    ExportError,
    ExportResult,
    check_agreement,
    compare,
    outputs_of,
)
from keras_squeezenet.litert.export import description, refusal
from keras_squeezenet.litert.inference_network import for_inference
from keras_squeezenet.litert.model import (
    TENSOR_TYPES,
    append_archive,
    silenced,
)
from keras_squeezenet.network.graph import every_layer
from keras_squeezenet.network.layers import ImagePreprocessing
from keras_squeezenet.network.preprocessing import PREPROCESSINGS, Preprocessing

if TYPE_CHECKING:  # imported on use
    import tensorflow as tf
    import tf_keras


@dataclass(frozen=True, eq=False)
class QuantizationAware:
    """A network that was trained in 8 bits.

    Attributes:
        twin: the trained `tf_keras.Model`; it computes as the integer file, in float32.
        layers: the kernels as 8-bit codes, in the order of execution.
        before: top-1 accuracy (0 to 1) of the model that came on the validation data, over all
            ranks; None without validation data.
        after: the same of `twin`.
        name: of the model that came.
        takes_pixels: whether images are RGB 0…255.
        check_images: float32 images that no range was taken from, to compare a file with `twin` on.
        float_confidence: mean over them of the highest output of the trained network in float32,
            which no range cuts off.
    """

    twin: "tf_keras.Model"
    layers: tuple[LayerStatistics, ...]
    before: float | None
    after: float | None
    name: str
    takes_pixels: bool
    check_images: np.ndarray
    float_confidence: float

    def write_litert(
        self,
        path: str | os.PathLike[str],
        *,
        input_type: str = "float32",
        output_type: str = "float32",
        batch_size: int | None = 1,
        class_names: Sequence[str] | None = None,
        resize: int | str | None = None,
    ) -> ExportResult:
        """Write the network as a LiteRT file of integers only, once it was run and agrees.

        Args:
            path: the file. An older one is replaced only after the comparison.
            input_type, output_type: "float32", "uint8" or "int8". Of a network that takes pixels
                the input's bytes are the image's with "uint8".
            batch_size: images per run; None, any number.
            class_names, resize: kept in the file, as by `export_litert`.

        Returns:
            An `ExportResult`; its differences are between the file and `twin`, and its
            `model_confidence` is that of the trained network in float32.

        Raises:
            RetrainingError: an argument is none of these.
            ExportError: the converter failed, the file is not of integers only, or it decides less
                than 80 % of the images as `twin` does. Nothing is written then.
            OSError: the file cannot be written.
        """
        path = Path(path)
        self._check_options(path, input_type, output_type, class_names)
        with replacing(path) as temporary:
            temporary.write_bytes(self._converted(input_type, output_type, batch_size))
            _check_integers_only(temporary)
            shape = self.twin.input_shape[1:]
            about = description(self.name, shape, "int8", self.takes_pixels, resize)
            append_archive(temporary, class_names, about)
            return self._measured(temporary, path)

    def _check_options(
        self, path: Path, input_type: str, output_type: str, class_names: Sequence[str] | None
    ) -> None:
        for name, value in (("input_type", input_type), ("output_type", output_type)):
            if value not in TENSOR_TYPES:
                raise RetrainingError(
                    f"`{name}` must be one of {', '.join(TENSOR_TYPES)}. Received: {name}={value}"
                )
        classes = self.twin.output_shape[-1]
        if class_names is not None and len(class_names) != classes:
            raise RetrainingError(
                f"`class_names` must hold {classes} names. Received: {len(class_names)}"
            )
        if not path.parent.is_dir():
            raise RetrainingError(f"The folder of `path` must exist. Received: path={path}")

    def _converted(self, input_type: str, output_type: str, batch_size: int | None) -> bytes:
        import tensorflow as tf

        twin = self.twin
        signature = tf.TensorSpec((batch_size, *twin.input_shape[1:]), tf.float32, name="image")
        function = tf.function(lambda image: twin(image, training=False))
        # What the converter saves holds the variables alone: of a twin it would save, and trace,
        # every layer, for the same file in four times the time.
        holder = tf.Module()
        holder.variables_of_the_twin = twin.variables
        try:
            with silenced():
                converter = tf.lite.TFLiteConverter.from_concrete_functions(
                    [function.get_concrete_function(signature)], holder
                )
                # All ranges are in the graph, so the converter needs no images. Asked for integer
                # operations only it would insist on some; `_check_integers_only` looks instead.
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
                converter.inference_input_type = tf.as_dtype(input_type)
                converter.inference_output_type = tf.as_dtype(output_type)
                return converter.convert()
        # The converter's own error is a bare Exception.
        except Exception as error:
            raise refusal(self.name, error) from error

    def _measured(self, written: Path, path: Path) -> ExportResult:
        reference = outputs_of(self.twin, self.check_images)
        result = compare(
            written,
            path,
            "int8",
            self.check_images,
            reference,
            model_confidence=self.float_confidence,
        )
        check_agreement(result, is_classifier=True, network="trained network")
        return result


def quantize_aware(
    model: keras.Model,
    train_data: Data,
    *,
    retraining: Retraining | None = None,
    preserve: str | None = None,
    validation_data: Data | None = None,
    batch_size: int | None = None,
) -> QuantizationAware:
    """Train a classifier on with 8-bit kernels and activations.

    Preprocessing is folded into the first convolution before, as `export_litert` does. Before the
    first step the ranges of the activations are taken from 100 images: tfmot starts them at
    ±6 and moves them by a thousandth in a step, so that in a short run they would never arrive.
    After the last step they are taken anew, with room for what was not seen in those that decide
    (see `ranges`): tfmot's average of what batches reach cuts off the surest images. Under
    horovodrun every rank calls this with its own shard, and all get the same network.

    On TensorFlow 2.21 all of tfmot's 8-bit schemes run. As they are, its two that preserve
    something silently leave out every layer that a Concatenate takes, in a SqueezeNet all expand
    layers, and the second one gives up all zeros once a single kernel has none. Here each layer
    chooses for itself, which mends both. tfmot also leaves the kernel before a ReLU layer in
    float, which is mended here too.

    Args:
        model: a Keras 3 classifier with integer labels; see `bridge.to_tf_keras`. It is not
            changed.
        train_data, retraining, batch_size: as in `prune`.
        preserve: None; "sparsity", zeros stay zeros (PQAT); "clusters", the weights that share a
            value go on sharing one, and zeros stay zeros (PCQAT). Where all filters of a kernel
            have as many different values as each other, or one more, tfmot gives each filter
            values of its own. Of a Conv2DTranspose only zeros are preserved.
        validation_data: as in `prune`. A file is later compared with the network on 100 of its
            images, spread over all. Without it they are training images that no range is taken
            from: those after the first 100, or every second one where one pass of `train_data` has
            fewer than 200.

    Returns:
        A `QuantizationAware`, which writes the LiteRT file.

    Raises:
        RetrainingError: for arguments that do not go together, and a layer that tfmot cannot
            quantize.
        BridgeError: the model cannot be carried to tf_keras.
    """
    check_classifier(model)
    if None in model.input_shape[1:]:
        raise RetrainingError(
            "`model` must take inputs of fixed sizes, as its integer file will. "
            f"Received: model.input_shape={model.input_shape}"
        )
    check_preservable(preserve, kernels(model))
    batches, retraining = batches_of(train_data, batch_size), checked_retraining(retraining)
    check_callbacks(retraining.callbacks)
    validation = None if validation_data is None else measured_on(validation_data, batch_size)
    sample = SampleInPassing(CHECK_IMAGES)
    passing = validation and sample.of(pair(each, model, "validation_data") for each in validation)
    before = top1(model, passing)
    with lambdas_named(model):
        folded = for_inference(model, copy=True)
    changed = _changed_kernels(model, folded)
    twin = to_tf_keras(folded, for_8_bits=True)
    if preserve == "clusters":
        for name in changed:
            twin.get_layer(name).trainable = False
    quantized = with_fake_quantization(twin, preserve)

    pixels = [layer for layer in every_layer(model) if isinstance(layer, ImagePreprocessing)]
    if pixels:
        # Scale 1: an image's bytes are its codes. tfmot only ever widens the input's range.
        set_input_range(quantized, 0.0, 255.0)
    ranges_from, check_images = divided(first_images(batches, model), sample.images())
    calibrate(quantized, ranges_from)
    precondition = None
    if changed and preserve != "clusters":
        by_name = {variable.name: variable for variable in quantized.trainable_variables}
        pairs = [(by_name[f"{name}/kernel:0"], by_name[f"{name}/bias:0"]) for name in changed]
        precondition = as_if_unfolded(pairs, PREPROCESSINGS[pixels[0].mode])

    def copy_weights(copy: keras.Model) -> None:
        settle_kernels(quantized)
        copy_weights_back(_in_float(quantized, twin), copy)

    seen = Seen(folded, copy_weights)
    retrain(quantized, batches, retraining, precondition=precondition, seen=seen)
    # In training tfmot moves them to what batches reach on average, where half of all go beyond.
    calibrate(quantized, ranges_from)
    broadcast(quantized)
    return QuantizationAware(
        twin=quantized,
        layers=tuple(_code_statistics(quantized, list(kernels(folded)))),
        before=before,
        after=top1(quantized, validation),
        name=model.name,
        takes_pixels=bool(pixels),
        check_images=check_images,
        float_confidence=float(
            outputs_of(_in_float(quantized, twin), check_images).max(axis=1).mean()
        ),
    )


def _in_float(quantized: "tf_keras.Model", twin: "tf_keras.Model") -> "tf_keras.Model":
    """The trained network without its 8 bits: the twin that it was made of, with its weights."""
    trained = {variable.name: variable for variable in quantized.variables}
    for variable in twin.variables:
        variable.assign(trained[variable.name])
    return twin


def _changed_kernels(model: keras.Model, folded: keras.Model) -> list[str]:
    """The names of the convolutions that took over the preprocessing."""
    before, after = kernels(model), kernels(folded)
    return [name for name, kernel in after.items() if not np.array_equal(kernel, before[name])]


def as_if_unfolded(
    folded: Iterable[tuple["tf.Variable", "tf.Variable"]], preprocessing: Preprocessing
) -> Precondition:
    """Gradients that move folded convolutions as they would with the preprocessing before them.

    On pixels from 0 to 255 a step that suits all other layers throws the first one far off: the
    steepest descent depends on the coordinates. With k' = k / s and b' = b - sum(k' o), the step
    in k and b is this one in k' and b'.

    Args:
        folded: pairs of variables, kernel and bias.
        preprocessing: the `Preprocessing` that they took over.

    Returns:
        A `precondition` of `retrain`.
    """
    import tensorflow as tf

    reverse = slice(None, None, -1 if preprocessing.reverse else 1)
    offset, scale = (
        tf.constant(np.reshape(values, (-1, 1))[reverse], tf.float32)
        for values in (preprocessing.offset, preprocessing.scale)
    )

    def precondition(variables: Sequence[Any], gradients: Sequence[Any]) -> Sequence[Any]:
        position = {id(variable): number for number, variable in enumerate(variables)}
        gradients = list(gradients)
        for kernel, bias in folded:
            at_kernel, at_bias = position[id(kernel)], position[id(bias)]
            of_bias = gradients[at_bias]
            of_kernel = (gradients[at_kernel] - of_bias * offset) / scale**2
            gradients[at_kernel] = of_kernel
            gradients[at_bias] = of_bias - tf.reduce_sum(of_kernel * offset, axis=(0, 1, 2))
        return gradients

    return precondition


def _code_statistics(
    quantized: "tf_keras.Model", names: Iterable[str]
) -> Iterator[LayerStatistics]:
    """Of every kernel as 8-bit codes, for each filter a scale of its own where tfmot has that."""
    wrappers = {layer.layer.name: layer for layer in quantized.layers if hasattr(layer, "layer")}
    for name in names:
        values = {v.name.split("/")[-1]: v.numpy() for v in wrappers[name].weights}
        greatest = values["kernel_max:0"]
        scale = np.where(greatest > 0, greatest, 1) / np.float32(127)
        yield LayerStatistics.of(name, np.rint(values["kernel:0"] / scale))


def _check_integers_only(path: Path) -> None:
    with from_extra("litert"):
        from ai_edge_litert.interpreter import Interpreter

    with silenced():
        interpreter = Interpreter(str(path))
        interpreter.allocate_tensors()
    outside = {d["index"] for d in interpreter.get_input_details()}
    outside |= {d["index"] for d in interpreter.get_output_details()}
    for details in interpreter.get_tensor_details():
        if details["index"] not in outside and np.issubdtype(details["dtype"], np.floating):
            raise ExportError(
                f"{path}: expected integers only. Received: tensor {details['name']} of "
                f"{np.dtype(details['dtype']).name}"
            )
