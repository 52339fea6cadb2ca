"""Quantization-aware training: a network learns what 8 bits will do to it (tfmot, LiteRT).

Jacob et al., arXiv 1712.05877: in training every kernel and activation is rounded to 8 bits as the
integer file will, and gradients pass through the rounding. Against calibration after training, as
`export_litert` does it, this costs training and keeps accuracy where calibration loses some.
"""

import copy
import importlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_squeezenet._version import __version__
from keras_squeezenet.compression.with_training.activation_ranges import (
    KERNEL_ATTRIBUTES,
    calibrate,
    set_input_range,
)
from keras_squeezenet.compression.with_training.bridge import kernels, to_tf_keras
from keras_squeezenet.compression.with_training.clustering import MAX_BITS
from keras_squeezenet.compression.with_training.retraining import (
    LayerStatistics,
    RetrainingError,
    broadcast,
    check_classifier,
    one_pass,
    retrain,
    top1,
)
from keras_squeezenet.compression.with_training.tfmot import load_tfmot
from keras_squeezenet.data.examples import evenly_spread
from keras_squeezenet.extras import from_extra
from keras_squeezenet.files import replacing
from keras_squeezenet.litert.export import (
    DEFAULT_TOLERANCE,
    LEAST_EQUAL_DECISIONS,
    ExportError,
    ExportResult,
    for_inference,
)
from keras_squeezenet.litert.model import (
    TENSOR_TYPES,
    LiteRTModel,
    append_archive,
    chunks,
    silenced,
)
from keras_squeezenet.litert.ranges import measure_saturation
from keras_squeezenet.machine import own_threads
from keras_squeezenet.network.graph import every_layer
from keras_squeezenet.network.layers import ImagePreprocessing
from keras_squeezenet.network.preprocessing import PREPROCESSINGS

PRESERVABLE = (None, "sparsity", "clusters")

_CALIBRATION_IMAGES = 100
_CHECK_IMAGES = 100


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

    twin: object
    layers: tuple[LayerStatistics, ...]
    before: float | None
    after: float | None
    name: str
    takes_pixels: bool
    check_images: np.ndarray
    float_confidence: float

    def write_litert(
        self,
        path,
        *,
        input_type="float32",
        output_type="float32",
        batch_size=1,
        class_names=None,
        resize=None,
    ):
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
            append_archive(temporary, class_names, self._description(resize))
            return self._measured(temporary, path)

    def _check_options(self, path, input_type, output_type, class_names):
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

    def _converted(self, input_type, output_type, batch_size):
        import tensorflow as tf

        twin = self.twin
        signature = tf.TensorSpec((batch_size, *twin.input_shape[1:]), tf.float32, name="image")
        function = tf.function(lambda image: twin(image, training=False))
        try:
            with silenced():
                converter = tf.lite.TFLiteConverter.from_concrete_functions(
                    [function.get_concrete_function(signature)], twin
                )
                # All ranges are in the graph, so the converter needs no images. Asked for integer
                # operations only it would insist on some; `_check_integers_only` looks instead.
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
                converter.inference_input_type = tf.as_dtype(input_type)
                converter.inference_output_type = tf.as_dtype(output_type)
                return converter.convert()
        # The converter's own error is a bare Exception.
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ExportError(f"LiteRT's converter refuses model {self.name}: {reason}") from error

    def _description(self, resize):
        values = "RGB, 0 to 255" if self.takes_pixels else "as the Keras model takes them"
        shape = list(self.twin.input_shape[1:])
        return {
            "model": self.name,
            "input": {"shape": shape, "values": values, "resize": resize},
            "quantize": "int8",
            "keras_squeezenet": __version__,
        }

    def _measured(self, written, path):
        litert = LiteRTModel(written, num_threads=own_threads())
        outputs = litert.predict(self.check_images)
        reference = _outputs(self.twin, self.check_images)
        differences = np.abs(outputs - reference).max(axis=1)
        result = ExportResult(
            path=path,
            bytes=os.path.getsize(written),
            quantize="int8",
            input=litert.input,
            output=litert.output,
            max_difference=float(differences.max()),
            mean_difference=float(differences.mean()),
            decisions_equal=float(np.mean(outputs.argmax(axis=1) == reference.argmax(axis=1))),
            images_checked=len(differences),
            tolerance=DEFAULT_TOLERANCE["int8"] * max(1.0, float(np.abs(reference).max())),
            confidence=float(outputs.max(axis=1).mean()),
            model_confidence=self.float_confidence,
            saturation=measure_saturation(written, self.check_images),
        )
        # A NaN fails the comparison.
        agrees = result.mean_difference <= result.tolerance
        if not agrees or result.decisions_equal < LEAST_EQUAL_DECISIONS["int8"]:
            raise ExportError(
                f"{path}: the file does not do what the trained network does on "
                f"{result.images_checked} images: mean difference {result.mean_difference:.3g}, "
                f"share of equal decisions {result.decisions_equal:.3f}. Nothing was written"
            )
        return result


def quantize_aware(model, train_data, *, retraining, preserve=None, validation_data=None):
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
        model: a Keras 3 classifier; see `bridge.to_tf_keras`. It is not changed.
        train_data: iterable of (images, integer labels), as the model takes them; endless or not.
        retraining: a `Retraining`.
        preserve: None; "sparsity", zeros stay zeros (PQAT); "clusters", the weights that share a
            value go on sharing one, and zeros stay zeros (PCQAT). Where all filters of a kernel
            have as many different values as each other, or one more, tfmot gives each filter
            values of its own.
        validation_data: finite iterable of (images, integer labels) to measure top-1 on. A file is
            later compared with the network on 100 of its images, spread over all. Without it they
            are training images that no range is taken from: those after the first 100, or every
            second one where one pass of `train_data` has fewer than 200.

    Returns:
        A `QuantizationAware`, which writes the LiteRT file.

    Raises:
        RetrainingError: for arguments that do not go together, and a layer that tfmot cannot
            quantize.
        BridgeError: the model cannot be carried to tf_keras.
    """
    check_classifier(model)
    _check_preservable(preserve, kernels(model))
    sample = _SampleInPassing(_CHECK_IMAGES)
    before = top1(model, None if validation_data is None else sample.of(validation_data))
    folded = for_inference(model, copy=True)
    changed = _changed_kernels(model, folded)
    twin = to_tf_keras(folded)
    if preserve == "clusters":
        for name in changed:
            twin.get_layer(name).trainable = False
    quantized = _quantized(twin, preserve)

    pixels = [layer for layer in every_layer(model) if isinstance(layer, ImagePreprocessing)]
    if pixels:
        # Scale 1: an image's bytes are its codes. tfmot only ever widens the input's range.
        set_input_range(quantized, 0.0, 255.0)
    ranges_from, check_images = _divided(_first_images(train_data), sample.images())
    calibrate(quantized, ranges_from)
    precondition = None
    if changed and preserve != "clusters":
        by_name = {variable.name: variable for variable in quantized.trainable_variables}
        pairs = [(by_name[f"{name}/kernel:0"], by_name[f"{name}/bias:0"]) for name in changed]
        precondition = as_if_unfolded(pairs, PREPROCESSINGS[pixels[0].mode])
    retrain(quantized, train_data, retraining, precondition=precondition)
    # In training tfmot moves them to what batches reach on average, where half of all go beyond.
    calibrate(quantized, ranges_from)
    broadcast(quantized)
    return QuantizationAware(
        twin=quantized,
        layers=tuple(_code_statistics(quantized, list(kernels(folded)))),
        before=before,
        after=top1(quantized, validation_data),
        name=model.name,
        takes_pixels=bool(pixels),
        check_images=check_images,
        float_confidence=float(
            _outputs(_in_float(quantized, twin), check_images).max(axis=1).mean()
        ),
    )


def _first_images(train_data):
    """float32 images, enough to calibrate with and to check on; fewer where one pass has fewer."""
    most = _CALIBRATION_IMAGES + _CHECK_IMAGES
    batches, count = [], 0
    for images, _ in one_pass(train_data):
        batches.append(np.asarray(images, np.float32))
        count += len(batches[-1])
        if count >= most:
            break
    return np.concatenate(batches)[:most]


def _divided(training_images, validation_images):
    """(images to take ranges from, others to check on)."""
    if len(validation_images):
        return training_images[:_CALIBRATION_IMAGES], validation_images
    if len(training_images) == _CALIBRATION_IMAGES + _CHECK_IMAGES:
        return training_images[:_CALIBRATION_IMAGES], training_images[_CALIBRATION_IMAGES:]
    # A single image has to serve for both.
    return training_images[::2], training_images[len(training_images) > 1 :: 2]


class _SampleInPassing:
    """Keeps some of the images of batches that are read for something else, spread over all."""

    def __init__(self, most):
        self._most = most
        self._kept, self._step, self._seen = [], 1, 0

    def of(self, batches):
        """The same batches; their number is not known before, so the sample thins out."""
        for images, labels in batches:
            for position in range(-self._seen % self._step, len(images), self._step):
                self._kept.append(np.asarray(images[position], np.float32))
            self._seen += len(images)
            while len(self._kept) >= 2 * self._most:
                self._kept, self._step = self._kept[::2], 2 * self._step
            yield images, labels

    def images(self):
        """float32 array of at most so many images; empty where none went by."""
        return np.array([self._kept[i] for i in evenly_spread(len(self._kept), self._most)])


def _outputs(network, images):
    return np.concatenate([np.asarray(network(c, training=False)) for c, _ in chunks(images, None)])


def _in_float(quantized, twin):
    """The trained network without its 8 bits: the twin that it was made of, with its weights."""
    trained = {variable.name: variable for variable in quantized.variables}
    for variable in twin.variables:
        variable.assign(trained[variable.name])
    return twin


def _check_preservable(preserve, kernel_by_name):
    if preserve not in PRESERVABLE:
        raise RetrainingError(
            f"`preserve` must be None, 'sparsity' or 'clusters'. Received: preserve={preserve}"
        )
    if preserve == "sparsity" and all(kernel.all() for kernel in kernel_by_name.values()):
        raise RetrainingError(
            "`preserve` 'sparsity' needs a pruned model. Received: no kernel with a zero"
        )
    if preserve == "clusters" and not any(map(_is_clustered, kernel_by_name.values())):
        raise RetrainingError(
            f"`preserve` 'clusters' needs kernels of at most {2**MAX_BITS} different values. "
            "Received: none"
        )


def _is_clustered(kernel):
    return len(np.unique(kernel)) <= min(2**MAX_BITS, kernel.size - 1)


def _quantized(twin, preserve):
    """The twin with fake quantization, made by tfmot."""
    quantization = load_tfmot().quantization.keras
    try:
        annotated = quantization.quantize_annotate_model(twin)
        return quantization.quantize_apply(annotated, _scheme(preserve))
    except (RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RetrainingError(f"tfmot cannot quantize model {twin.name}: {reason}") from error


def _scheme(preserve):
    """tfmot's 8-bit scheme, with every kernel in 8 bits and what it preserves to itself."""
    plain = _tfmot_module("default_8bit.default_8bit_quantize_scheme").Default8BitQuantizeScheme

    class Scheme(plain):
        def get_layout_transformer(self):
            return Layout(super().get_layout_transformer())

    class Layout:
        def __init__(self, layout):
            self._layout = layout

        def apply(self, model, layer_quantize_map):
            # Afterwards: the transforms for ReLU and Concatenate put in configurations of theirs.
            model, metadata = self._layout.apply(model, layer_quantize_map)
            for layer in model.layers:
                if layer.name in metadata and type(layer).__name__ in KERNEL_ATTRIBUTES:
                    config = _config(layer, metadata[layer.name].get("quantize_config"), preserve)
                    metadata[layer.name]["quantize_config"] = config
            return model, metadata

    return Scheme()


def _config(layer, config, preserve):
    """The quantization of a layer with a kernel, from tfmot's own choice (None: the default)."""
    registry = _tfmot_module("default_8bit.default_8bit_quantize_registry")
    if config is None:
        config = registry.Default8BitQuantizeRegistry().get_quantize_config(layer)
    elif type(config).__name__ == "NoOpQuantizeConfig":
        # A layer of its own for ReLU follows. The output waits for it; the kernel must not.
        dense = type(layer).__name__ == "Dense"
        kind = (
            registry.Default8BitQuantizeConfig if dense else registry.Default8BitConvQuantizeConfig
        )
        config = kind([KERNEL_ATTRIBUTES[type(layer).__name__]], [], False)
    else:
        config = copy.copy(config)  # layers that one Concatenate takes share theirs
    quantizer = _preserving_quantizer(layer, preserve)
    if quantizer is not None:
        config.weight_quantizer = quantizer
    return config


def _preserving_quantizer(layer, preserve):
    """tfmot's quantizer for a kernel that has something to preserve, else None."""
    if preserve is None or not layer.trainable_weights or type(layer).__name__ == "DepthwiseConv2D":
        return None
    kernel = layer.kernel.numpy()
    has_zeros = not kernel.all()
    if preserve == "clusters" and _is_clustered(kernel):
        module = _tfmot_module("collab_opts.cluster_preserve.cluster_preserve_quantize_registry")
        # Always a new one: one that serves several layers forgets the zeros of all with the first
        # kernel that has none.
        registry = module.Default8bitClusterPreserveQuantizeRegistry(has_zeros)
    elif has_zeros:
        module = _tfmot_module("collab_opts.prune_preserve.prune_preserve_quantize_registry")
        registry = module.Default8bitPrunePreserveQuantizeRegistry()
    else:
        return None
    return registry.get_quantize_config(layer).weight_quantizer


def _tfmot_module(name):
    return importlib.import_module(
        f"tensorflow_model_optimization.python.core.quantization.keras.{name}"
    )


def _changed_kernels(model, folded):
    """The names of the convolutions that took over the preprocessing."""
    before, after = kernels(model), kernels(folded)
    return [name for name, kernel in after.items() if not np.array_equal(kernel, before[name])]


def as_if_unfolded(folded, preprocessing):
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

    def precondition(variables, gradients):
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


def _code_statistics(quantized, names):
    """Of every kernel as 8-bit codes, for each filter a scale of its own where tfmot has that."""
    wrappers = {layer.layer.name: layer for layer in quantized.layers if hasattr(layer, "layer")}
    for name in names:
        values = {v.name.split("/")[-1]: v.numpy() for v in wrappers[name].weights}
        greatest = values["kernel_max:0"]
        scale = np.where(greatest > 0, greatest, 1) / np.float32(127)
        yield LayerStatistics.of(name, np.rint(values["kernel:0"] / scale))


def _check_integers_only(path):
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
