"""The names of the room, for editors and type checkers; see `__init__.py`."""

from keras_squeezenet.data.augmentation import Augmentation as Augmentation
from keras_squeezenet.data.dataset import Dataset as Dataset
from keras_squeezenet.data.dataset import load_dataset as load_dataset
from keras_squeezenet.data.errors import DataError as DataError
from keras_squeezenet.data.framing import Framing as Framing
from keras_squeezenet.data.measuring import load_labelled as load_labelled
from keras_squeezenet.data.measuring import made_images as made_images
from keras_squeezenet.data.measuring import sample_images as sample_images
from keras_squeezenet.data.split import Split as Split
