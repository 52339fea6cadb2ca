"""SqueezeNet (Iandola et al., arXiv 1602.07360) for Keras 3.

Names are imported on first use, so that the command line answers at once and the parts without
a framework work without one. `import keras_squeezenet`, before or after Keras is imported, is all
that `keras.saving.load_model` needs to read models of this package.
"""

import importlib
from typing import Any

from keras_squeezenet._version import __version__ as __version__
from keras_squeezenet.startup.registration import register_with_keras

_MODULE_OF = {
    "AlexNet": "network.baselines",
    "Architecture": "network.architecture",
    "FireFilters": "network.architecture",
    "CeilMaxPooling2D": "network.layers",
    "Fire": "network.layers",
    "ImagePreprocessing": "network.layers",
    "SqueezeNet": "network.models",
    "SqueezeNet1_0": "network.models",
    "SqueezeNet1_1": "network.models",
    "with_new_head": "network.heads",
    "decode_predictions": "network.imagenet",
    "preprocess_input": "network.imagenet",
    "profile_model": "network.profile",
    "Augmentation": "data",
    "load_dataset": "data",
    "AverageMetrics": "distributed",
    "BroadcastState": "distributed",
    "DistributedOptimizer": "distributed",
    "LiteRTModel": "litert.model",
    "export_litert": "litert.export",
    "CompressedNetwork": "sqz.network",
    "Retraining": "compression.with_training.retraining",
    "cluster": "compression.with_training.clustering",
    "dense_sparse_dense": "compression.with_training.dense_sparse_dense",
    "distill": "compression.with_training.distillation",
    "fit_to_size": "compression.without_training.post_training",
    "load_compressed": "compression.saving",
    "prune": "compression.with_training.pruning",
    "quantize_aware": "compression.with_training.quantization_aware",
    "save_compressed": "compression.saving",
    "share_weights": "compression.without_training.post_training",
}

__all__ = sorted([*_MODULE_OF, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULE_OF[name]}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return __all__


register_with_keras()
