"""Images -> batches, sharded, with what was skipped and why."""

from keras_squeezenet.data.dataset import Dataset, Split, load_dataset
from keras_squeezenet.data.images import Augmentation, DataError, Framing
from keras_squeezenet.data.measuring import load_labelled, sample_images

__all__ = [
    "Augmentation",
    "DataError",
    "Dataset",
    "Framing",
    "Split",
    "load_dataset",
    "load_labelled",
    "sample_images",
]
