"""SqueezeNet (Iandola et al., arXiv 1602.07360) for Keras 3.

Names are imported on first use, so that the command line answers at once and the parts without
a framework work without one. `import keras_squeezenet`, before or after Keras is imported, is all
that `keras.saving.load_model` needs to read models of this package.
"""

import importlib

from keras_squeezenet._version import __version__ as __version__
from keras_squeezenet.registration import register_with_keras

_MODULE_OF = {
    "AlexNet": "baselines",
    "Architecture": "architecture",
    "FireFilters": "architecture",
    "CeilMaxPooling2D": "layers",
    "Fire": "layers",
    "ImagePreprocessing": "layers",
    "SqueezeNet": "models",
    "SqueezeNet1_0": "models",
    "SqueezeNet1_1": "models",
    "decode_predictions": "imagenet",
    "preprocess_input": "imagenet",
    "profile_model": "profile",
    "Augmentation": "data",
    "load_dataset": "data",
    "AverageMetrics": "distributed",
    "BroadcastState": "distributed",
    "DistributedOptimizer": "distributed",
    "LiteRTModel": "litert",
    "export_litert": "export",
    "CompressedNetwork": "compression.network",
    "Retraining": "compression.retraining",
    "cluster": "compression.clustering",
    "dense_sparse_dense": "compression.dense_sparse_dense",
    "distill": "compression.distillation",
    "fit_to_size": "compression.post_training",
    "load_compressed": "compression.saving",
    "prune": "compression.pruning",
    "quantize_aware": "compression.quantization_aware",
    "save_compressed": "compression.saving",
    "share_weights": "compression.post_training",
}

__all__ = sorted([*_MODULE_OF, "__version__"])


def __getattr__(name):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULE_OF[name]}")
    return getattr(module, name)


def __dir__():
    return __all__


register_with_keras()
