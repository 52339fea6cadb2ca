"""SqueezeNet (Iandola et al., arXiv 1602.07360) for Keras 3.

Names are imported on first use, so that the command line answers at once and the parts without
a framework work without one. `import keras_squeezenet`, before or after Keras is imported, is all
that `keras.saving.load_model` needs to read models of this package.
"""

import importlib
from typing import Any

from keras_squeezenet._version import __version__ as __version__
from keras_squeezenet.startup.registration import register_with_keras

# `__init__.pyi` says the same to editors and type checkers; a test compares the two.
_MODULE_OF = {
    "InputError": "errors",
    "AlexNet": "network.families.alexnet",
    "CondenseNet": "network.families.condensenet",
    "CondensingStages": "network.families.condensing",
    "condensed_model": "network.families.condensing",
    "LearnedGroupConv2D": "network.families.learned_groups",
    "ShuffleNet": "network.families.shufflenet",
    "VGG": "network.families.vgg",
    "Architecture": "network.architecture",
    "FeatureMap": "network.architecture",
    "FireFilters": "network.architecture",
    "preset": "network.architecture",
    "CeilMaxPooling2D": "network.layers",
    "Fire": "network.layers",
    "ImagePreprocessing": "network.layers",
    "SqueezeNet": "network.models",
    "SqueezeNet1_0": "network.models",
    "SqueezeNet1_1": "network.models",
    "ListedModel": "network.catalogue",
    "list_models": "network.catalogue",
    "with_new_head": "network.heads",
    "FoldedModel": "network.folding",
    "fold_batch_normalization": "network.folding",
    "folded_weights": "network.folding",
    "decode_predictions": "network.imagenet",
    "preprocess_input": "network.imagenet",
    "LayerProfile": "network.profile",
    "ModelProfile": "network.profile",
    "profile_model": "network.profile",
    "Augmentation": "data.augmentation",
    "load_dataset": "data.dataset",
    "AverageMetrics": "distributed.callbacks",
    "BroadcastState": "distributed.callbacks",
    "DistributedOptimizer": "distributed.optimizer",
    "ExportError": "litert.comparison",
    "LiteRTModel": "litert.model",
    "export_litert": "litert.export",
    "CompressedModel": "sqz.model",
    "CompressedNetwork": "sqz.network",
    "ConstantSparsity": "compression.pruning.schedules",
    "MagnitudePruning": "compression.pruning.callback",
    "PolynomialDecay": "compression.pruning.schedules",
    "Retraining": "compression.retraining",
    "cluster": "compression.with_training.clustering",
    "dense_sparse_dense": "compression.pruning.dense_sparse_dense",
    "distill": "compression.distillation",
    "fit_to_size": "compression.without_training.post_training",
    "load_compressed": "compression.saving",
    "prune": "compression.pruning.prune",
    "quantize_aware": "compression.with_training.quantization_aware",
    "save_compressed": "compression.saving",
    "share_weights": "compression.without_training.post_training",
    "Classifier": "inference.classifiers",
    "open_classifier": "inference.classifiers",
}
# Rooms with more public names of their own.
_PACKAGES = ("data", "distributed", "sqz")

__all__ = sorted([*_MODULE_OF, "__version__"])


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULE_OF[name]}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*__all__, *_PACKAGES])


register_with_keras()
