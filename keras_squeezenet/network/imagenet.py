"""ImageNet: what the published networks take and say, and where their files come from.

The files are not part of the package: `downloads` finds them, or has them downloaded. Whatever is
found has to have the SHA-256 that is written here before a byte of it is read.
"""

import json
from functools import cache

import keras
import numpy as np

from keras_squeezenet.checks import is_int
from keras_squeezenet.downloads import PublishedFile, published_path
from keras_squeezenet.network.layers import ImagePreprocessing

CLASSES = 1000

WEIGHTS = {
    # The paper's authors' own, pruned and 8-bit (arXiv 1510.00149). BSD-2-Clause.
    "1.0": PublishedFile(
        what="ImageNet weights of SqueezeNet 1.0",
        name="compressed_SqueezeNet.net",
        url="https://raw.githubusercontent.com/songhan/SqueezeNet-Deep-Compression/"
        "fb13faa2cf121ced9999f8a9d538ec6c56084733/compressed_SqueezeNet.net",
        sha256="e4ab6960ae8cd81505e1c2136921201507e930966c53deaf15862a395b3a3261",
    ),
    # DeepScale's (BSD), as ncnn keeps them: float16 kernels.
    "1.1": PublishedFile(
        what="ImageNet weights of SqueezeNet 1.1",
        name="squeezenet_v1.1.bin",
        url="https://raw.githubusercontent.com/nihui/ncnn-assets/"
        "9489f876aebdaa846af3786f70ea5da6be198243/models/squeezenet_v1.1.bin",
        sha256="928c82c485a16064df88794d83c333025055e60c08f73217222244ab0ed2dbc6",
    ),
}
# Keras's own, under Keras's name: who has used `decode_predictions` there has it already.
CLASS_INDEX = PublishedFile(
    what="ImageNet class index",
    name="imagenet_class_index.json",
    url="https://storage.googleapis.com/download.tensorflow.org/data/imagenet_class_index.json",
    sha256="a1e7a966a1f601d39e4b43e119b3e7dd4a2ad3ea08cf69847cbaf021013767bc",
)


def preprocess_input(x, data_format=None):
    """Prepare images for the published networks: blue-green-red minus (104, 117, 123).

    As in `keras.applications`, for a model without `include_preprocessing`; but the caller's array
    stays as it is.

    Args:
        x: RGB 0…255, an array or tensor `(height, width, 3)` or `(batch, height, width, 3)`; with
            "channels_first" `(3, height, width)` or `(batch, 3, height, width)`.
        data_format: "channels_last", "channels_first" or None for Keras's own setting.

    Returns:
        The same kind and shape, float32.

    Raises:
        ValueError: for another shape or data format.
    """
    if len(x.shape) not in (3, 4):
        raise ValueError(
            "`x` must be an image or a batch of images, with three or four axes. "
            f"Received: x.shape={tuple(x.shape)}"
        )
    prepare = ImagePreprocessing("caffe", data_format, dtype="float32")
    if len(x.shape) == 4:
        prepared = prepare(x)
    else:
        prepared = keras.ops.squeeze(prepare(keras.ops.expand_dims(x, 0)), 0)
    return keras.ops.convert_to_numpy(prepared) if isinstance(x, np.ndarray) else prepared


def decode_predictions(preds, top=5):
    """The most probable classes, as in `keras.applications`.

    Args:
        preds: array or tensor `(batch, 1000)`, of the published networks or of others that were
            trained on the same classes in the same order.
        top: how many, 1 to 1000.

    Returns:
        For each image a list of `(WordNet ID, name, score)`, the greatest score first.

    Raises:
        ValueError: for another shape or number.
        PublishedFileError: the class index is neither at hand nor to be had.
    """
    scores = keras.ops.convert_to_numpy(preds)
    if scores.ndim != 2 or scores.shape[1] != CLASSES:
        raise ValueError(
            f"`preds` must have the shape (batch, {CLASSES}). Received: preds.shape={scores.shape}"
        )
    if not is_int(top, 1, CLASSES):
        raise ValueError(f"`top` must be an integer from 1 to {CLASSES}. Received: top={top}")
    index = class_index()
    return [
        [(*index[i], float(row[i])) for i in np.argsort(-row, kind="stable")[:top]]
        for row in scores
    ]


def class_names():
    """The 1000 names in the order of the outputs: "tench", "goldfish", …"""
    return tuple(name for _, name in class_index())


@cache
def class_index():
    """A tuple of 1000 (WordNet ID, name)."""
    content = json.loads(published_path(CLASS_INDEX).read_text(encoding="utf-8"))
    return tuple((content[str(i)][0], content[str(i)][1]) for i in range(CLASSES))


def weights_path(version):
    """Where the weights of a version are, downloaded if need be.

    Raises:
        PublishedFileError: see `downloads.published_path`.
    """
    return published_path(WEIGHTS[version])
