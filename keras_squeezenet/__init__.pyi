"""The names of the package, for editors and type checkers; see `__init__.py`."""

from keras_squeezenet import data as data
from keras_squeezenet import distributed as distributed
from keras_squeezenet import sqz as sqz
from keras_squeezenet._version import __version__ as __version__
from keras_squeezenet.compression.distillation import distill as distill
from keras_squeezenet.compression.pruning.callback import MagnitudePruning as MagnitudePruning
from keras_squeezenet.compression.pruning.dense_sparse_dense import (
    dense_sparse_dense as dense_sparse_dense,
)
from keras_squeezenet.compression.pruning.prune import prune as prune
from keras_squeezenet.compression.pruning.schedules import ConstantSparsity as ConstantSparsity
from keras_squeezenet.compression.pruning.schedules import PolynomialDecay as PolynomialDecay
from keras_squeezenet.compression.retraining import Retraining as Retraining
from keras_squeezenet.compression.saving import load_compressed as load_compressed
from keras_squeezenet.compression.saving import save_compressed as save_compressed
from keras_squeezenet.compression.with_training.clustering import cluster as cluster
from keras_squeezenet.compression.with_training.quantization_aware import (
    quantize_aware as quantize_aware,
)
from keras_squeezenet.compression.without_training.post_training import fit_to_size as fit_to_size
from keras_squeezenet.compression.without_training.post_training import (
    share_weights as share_weights,
)
from keras_squeezenet.data.augmentation import Augmentation as Augmentation
from keras_squeezenet.data.dataset import load_dataset as load_dataset
from keras_squeezenet.distributed.callbacks import AverageMetrics as AverageMetrics
from keras_squeezenet.distributed.callbacks import BroadcastState as BroadcastState
from keras_squeezenet.distributed.optimizer import DistributedOptimizer as DistributedOptimizer
from keras_squeezenet.errors import InputError as InputError
from keras_squeezenet.inference.classifiers import Classifier as Classifier
from keras_squeezenet.inference.classifiers import open_classifier as open_classifier
from keras_squeezenet.litert.comparison import ExportError as ExportError
from keras_squeezenet.litert.export import export_litert as export_litert
from keras_squeezenet.litert.model import LiteRTModel as LiteRTModel
from keras_squeezenet.network.architecture import Architecture as Architecture
from keras_squeezenet.network.architecture import FeatureMap as FeatureMap
from keras_squeezenet.network.architecture import FireFilters as FireFilters
from keras_squeezenet.network.architecture import preset as preset
from keras_squeezenet.network.catalogue import ListedModel as ListedModel
from keras_squeezenet.network.catalogue import list_models as list_models
from keras_squeezenet.network.families.alexnet import AlexNet as AlexNet
from keras_squeezenet.network.families.condensenet import CondenseNet as CondenseNet
from keras_squeezenet.network.families.condensing import CondensingStages as CondensingStages
from keras_squeezenet.network.families.condensing import condensed_model as condensed_model
from keras_squeezenet.network.families.learned_groups import (
    LearnedGroupConv2D as LearnedGroupConv2D,
)
from keras_squeezenet.network.families.shufflenet import ShuffleNet as ShuffleNet
from keras_squeezenet.network.families.vgg import VGG as VGG
from keras_squeezenet.network.folding import FoldedModel as FoldedModel
from keras_squeezenet.network.folding import fold_batch_normalization as fold_batch_normalization
from keras_squeezenet.network.folding import folded_weights as folded_weights
from keras_squeezenet.network.heads import with_new_head as with_new_head
from keras_squeezenet.network.imagenet import decode_predictions as decode_predictions
from keras_squeezenet.network.imagenet import preprocess_input as preprocess_input
from keras_squeezenet.network.layers import CeilMaxPooling2D as CeilMaxPooling2D
from keras_squeezenet.network.layers import Fire as Fire
from keras_squeezenet.network.layers import ImagePreprocessing as ImagePreprocessing
from keras_squeezenet.network.models import SqueezeNet as SqueezeNet
from keras_squeezenet.network.models import SqueezeNet1_0 as SqueezeNet1_0
from keras_squeezenet.network.models import SqueezeNet1_1 as SqueezeNet1_1
from keras_squeezenet.network.profile import LayerProfile as LayerProfile
from keras_squeezenet.network.profile import ModelProfile as ModelProfile
from keras_squeezenet.network.profile import profile_model as profile_model
from keras_squeezenet.sqz.model import CompressedModel as CompressedModel
from keras_squeezenet.sqz.network import CompressedNetwork as CompressedNetwork
