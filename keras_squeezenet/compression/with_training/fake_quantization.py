"""tfmot's 8-bit scheme, with every kernel in 8 bits, and what it preserves to each layer itself."""

import copy
import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_squeezenet.compression.retraining import RetrainingError
from keras_squeezenet.compression.with_training.activation_ranges import KERNEL_ATTRIBUTES
from keras_squeezenet.compression.with_training.clustering import MAX_BITS
from keras_squeezenet.compression.with_training.shared_values import found_by_search
from keras_squeezenet.compression.with_training.tfmot import load_tfmot

if TYPE_CHECKING:  # imported on use
    import tf_keras

# Layers of which tfmot's registry knows nothing; their outputs get a range of their own, as do
# those of its Add. LiteRT has all of them in 8 bits.
MERGING = ("Maximum", "Minimum", "Multiply", "Subtract")

# LiteRT averages integers into integers of the same scale. A range of the output's own, which tfmot
# trains, is one too many where it cannot become that of the input.
AVERAGING = "AveragePooling2D"

# The functions that tfmot rounds in a layer.
ACTIVATIONS = ("gelu", "linear", "relu", "sigmoid", "softmax", "swish", "tanh")

PRESERVABLE = (None, "sparsity", "clusters")


def check_preservable(preserve: str | None, kernel_by_name: Mapping[str, np.ndarray]) -> None:
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


def _is_clustered(kernel: np.ndarray) -> bool:
    return len(np.unique(kernel)) <= min(2**MAX_BITS, kernel.size - 1)


def with_fake_quantization(twin: "tf_keras.Model", preserve: str | None) -> "tf_keras.Model":
    """The twin with fake quantization, made by tfmot."""
    quantization = load_tfmot().quantization.keras
    _check_quantizable(twin)
    try:
        annotated = quantization.quantize_annotate_model(twin)
        with found_by_search():
            return quantization.quantize_apply(annotated, _scheme(preserve))
    except (RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RetrainingError(f"tfmot cannot quantize model {twin.name}: {reason}") from error


def settle_kernels(quantized: "tf_keras.Model") -> None:
    """Do what a step of training begins with: kernels take the shared values that learned."""
    for wrapper in quantized.layers:
        for kernel, quantizer, variables in getattr(wrapper, "_weight_vars", ()):
            quantizer(kernel, training=True, weights=variables)


def _check_quantizable(twin: "tf_keras.Model") -> None:
    """Refuse what tfmot has no 8 bits for, by the layer's name: tfmot does not always say it."""
    registry = _tfmot_module("default_8bit.default_8bit_quantize_registry")
    known = registry.Default8BitQuantizeRegistry()
    # tfmot folds batch normalizations into what is before them.
    others = ("BatchNormalization", "InputLayer", *MERGING)
    for layer in twin.layers:
        kind = type(layer).__name__
        cannot = f"tfmot cannot quantize layer {layer.name} of class {kind}: expected"
        if kind not in others and not known.supports(layer):
            raise RetrainingError(f"{cannot} a class that it has a QuantizeConfig for")
        function = getattr(layer, "activation", None)
        activation = getattr(function, "__name__", "linear")
        if activation not in ACTIVATIONS:
            expected = ", ".join(ACTIVATIONS)
            raise RetrainingError(f"{cannot} an activation of {expected}. Received: {activation}")


def _scheme(preserve: str | None) -> Any:
    """tfmot's 8-bit scheme, with every kernel in 8 bits and what it preserves to itself."""
    plain: Any = _tfmot_module(
        "default_8bit.default_8bit_quantize_scheme"
    ).Default8BitQuantizeScheme

    registry: Any = _tfmot_module(
        "default_8bit.default_8bit_quantize_registry"
    ).Default8BitQuantizeRegistry
    output: Any = _tfmot_module(
        "default_8bit.default_8bit_quantize_configs"
    ).Default8BitOutputQuantizeConfig

    unchanged: Any = _tfmot_module("default_8bit.default_8bit_quantize_configs").NoOpQuantizeConfig

    class Registry(registry):
        def supports(self, layer: Any) -> bool:
            return type(layer).__name__ in MERGING or super().supports(layer)

        def get_quantize_config(self, layer: Any) -> Any:
            if type(layer).__name__ in MERGING:
                return output()
            return super().get_quantize_config(layer)

    class Scheme(plain):
        def get_quantize_registry(self) -> Registry:
            return Registry()

        def get_layout_transformer(self) -> "Layout":
            return Layout(super().get_layout_transformer())

    class Layout:
        def __init__(self, layout: Any) -> None:
            self._layout = layout

        def apply(
            self, model: "tf_keras.Model", layer_quantize_map: Mapping[str, Any]
        ) -> tuple["tf_keras.Model", dict[str, Any]]:
            # Afterwards: the transforms for ReLU and Concatenate put in configurations of theirs.
            model, metadata = self._layout.apply(model, layer_quantize_map)
            for layer in model.layers:
                if layer.name in metadata and type(layer).__name__ in KERNEL_ATTRIBUTES:
                    config = _config(layer, metadata[layer.name].get("quantize_config"), preserve)
                    metadata[layer.name]["quantize_config"] = config
                elif layer.name in metadata and type(layer).__name__ == AVERAGING:
                    metadata[layer.name]["quantize_config"] = unchanged()
            return model, metadata

    return Scheme()


def _config(layer: "tf_keras.layers.Layer", config: Any, preserve: str | None) -> Any:
    """The quantization of a layer with a kernel, from tfmot's own choice (None: the default)."""
    registry = _tfmot_module("default_8bit.default_8bit_quantize_registry")
    default = registry.Default8BitQuantizeRegistry().get_quantize_config(layer)
    if config is None:
        config = default
    elif type(config).__name__ == "NoOpQuantizeConfig":
        # A layer of its own for ReLU follows. The output waits for it; the kernel must not.
        config = type(default)([KERNEL_ATTRIBUTES[type(layer).__name__]], [], False)
    else:
        config = copy.copy(config)  # layers that one Concatenate takes share theirs
    if type(layer).__name__ == "DepthwiseConv2D" and _learns_apart(layer):
        config.weight_quantizer = _depthwise_quantizer()
    quantizer = _preserving_quantizer(layer, config, preserve)
    if quantizer is not None:
        config.weight_quantizer = quantizer
    return config


def _learns_apart(layer: "tf_keras.layers.DepthwiseConv2D") -> bool:
    """Whether the channels of a depthwise kernel are to have ranges of their own.

    Those of the bridge's multiplications (`Place.affine`) are not: many are equal, all ones. Of
    equal kernels with ranges for each channel LiteRT's converter keeps one, and when it folds a
    batch normalization into that, all the others are multiplied, too.
    """
    return bool(layer.trainable_weights) and bool(np.ptp(layer.depthwise_kernel.numpy()))


def _depthwise_quantizer() -> Any:
    """tfmot's quantizer of convolutions, with a range for each channel of a depthwise kernel.

    tfmot takes a range for each step of the kernel's last axis, which of a depthwise kernel
    (height, width, channels, multiplier) is the multiplier: all channels share one range, and those
    of small weights become zeros. LiteRT has a scale for each channel.
    """
    import tensorflow as tf

    convolution: Any = _tfmot_module(
        "default_8bit.default_8bit_quantizers"
    ).Default8BitConvWeightsQuantizer

    class Depthwise(convolution):
        def build(self, tensor_shape: Any, name: str, layer: Any) -> Any:
            return super().build(_flat(tensor_shape), name, layer)

        def __call__(self, inputs: Any, training: Any, weights: Any, **kwargs: Any) -> Any:
            kernel = tf.reshape(inputs, _flat(inputs.shape))
            rounded = super().__call__(kernel, training, weights, **kwargs)
            return tf.reshape(rounded, inputs.shape)

    def _flat(shape: Any) -> tuple[int, ...]:
        height, width, channels, multiplier = shape
        return height, width, 1, channels * multiplier

    return Depthwise()


def _preserving_quantizer(layer: "tf_keras.layers.Layer", config: Any, preserve: str | None) -> Any:
    """tfmot's quantizer for a kernel that has something to preserve, else None."""
    if preserve is None or not layer.trainable_weights or type(layer).__name__ == "DepthwiseConv2D":
        return None
    kernel = layer.kernel.numpy()
    has_zeros = not kernel.all()
    if type(layer).__name__ == "Conv2DTranspose":  # which tfmot preserves nothing of
        return _masked(config.weight_quantizer) if has_zeros else None
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


def _masked(quantizer: Any) -> Any:
    """A quantizer of a kernel whose zeros stay zeros."""

    kind: Any = type(quantizer)

    class Masked(kind):
        def build(self, tensor_shape: Any, name: str, layer: Any) -> Any:
            mask = np.asarray(layer.layer.kernel) != 0
            return {**super().build(tensor_shape, name, layer), "mask": mask.astype(np.float32)}

        def __call__(self, inputs: Any, training: Any, weights: Any, **kwargs: Any) -> Any:
            return super().__call__(inputs * weights["mask"], training, weights, **kwargs)

    return Masked()


def _tfmot_module(name: str) -> ModuleType:
    return importlib.import_module(
        f"tensorflow_model_optimization.python.core.quantization.keras.{name}"
    )
