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
from keras_squeezenet.compression.with_training.tfmot import load_tfmot

if TYPE_CHECKING:  # imported on use
    import tf_keras

# Layers of which tfmot's registry knows nothing; their outputs get a range of their own, as do
# those of its Add. LiteRT has all of them in 8 bits.
MERGING = ("Maximum", "Minimum", "Multiply", "Subtract")

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
    try:
        annotated = quantization.quantize_annotate_model(twin)
        return quantization.quantize_apply(annotated, _scheme(preserve))
    except (RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RetrainingError(f"tfmot cannot quantize model {twin.name}: {reason}") from error


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
            return model, metadata

    return Scheme()


def _config(layer: "tf_keras.layers.Layer", config: Any, preserve: str | None) -> Any:
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


def _preserving_quantizer(layer: "tf_keras.layers.Layer", preserve: str | None) -> Any:
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


def _tfmot_module(name: str) -> ModuleType:
    return importlib.import_module(
        f"tensorflow_model_optimization.python.core.quantization.keras.{name}"
    )
