"""ImageNet: what the published networks take and say, and where their files come from.

The files are not part of the package. They are looked for in the folder that the environment
variable KERAS_SQUEEZENET_WEIGHTS names, then in Keras's cache, then downloaded into it; whatever
is found has to have the SHA-256 that is written here before a byte of it is read.
"""

import contextlib
import hashlib
import json
import logging
import os
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import keras
import numpy as np

from keras_squeezenet.errors import InputError
from keras_squeezenet.network.layers import ImagePreprocessing

log = logging.getLogger(__name__)

CLASSES = 1000
FOLDER_VARIABLE = "KERAS_SQUEEZENET_WEIGHTS"


class PublishedFileError(InputError):
    """A published file that cannot be had, or is not what was published; one line."""


@dataclass(frozen=True)
class PublishedFile:
    """A file on the web, and how to know it.

    Attributes:
        what: for messages.
        name: in the cache and in the user's folder.
        url: where it is downloaded from.
        sha256: of its bytes.
    """

    what: str
    name: str
    url: str
    sha256: str


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
    if isinstance(top, bool) or not isinstance(top, int) or not 1 <= top <= CLASSES:
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
        PublishedFileError: see `published_path`.
    """
    return published_path(WEIGHTS[version])


def published_path(file):
    """Where a `PublishedFile` is: in the user's folder, in Keras's cache, or downloaded into it.

    Raises:
        PublishedFileError: the folder that KERAS_SQUEEZENET_WEIGHTS names is missing, or holds
            other bytes under that name; or the download failed or brought other bytes. A good
            file in the cache is never touched.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder:
        path = Path(folder) / file.name
        if not path.parent.is_dir():
            raise PublishedFileError(f"{FOLDER_VARIABLE} must name a folder. Received: {folder}")
        if path.is_file():
            _check_hash(path, file, path)
            return path
    cached = _keras_home() / "models" / file.name
    if cached.is_file():
        if _sha256(cached) == file.sha256:
            return cached
        log.warning("%s is not the published file and is downloaded again", cached)
    _download(file, cached)
    return cached


def _keras_home():
    """Keras's own rule, which it does not export."""
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")


def _download(file, destination):
    """Download beside `destination`; only what has the right hash is moved there."""
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        # A folder of its own: ranks that start together do not write into each other's file.
        with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=destination.parent) as folder:
            # Keras shows its progress on standard output, which belongs to the results.
            with contextlib.redirect_stdout(sys.stderr):
                downloaded = Path(
                    keras.utils.get_file(file.name, file.url, cache_dir=folder, cache_subdir="")
                )
            _check_hash(downloaded, file, file.url)
            downloaded.replace(destination)
    except PublishedFileError:
        raise
    except Exception as error:  # get_file raises bare Exceptions
        reason = " ".join(str(error).split())
        raise PublishedFileError(
            f"The {file.what} cannot be downloaded from {file.url} ({reason}). Put the file at "
            f"{destination}, or into a folder that the environment variable {FOLDER_VARIABLE} names"
        ) from error


def _check_hash(path, file, received):
    found = _sha256(path)
    if found != file.sha256:
        raise PublishedFileError(
            f"Expected the {file.what} with SHA-256 {file.sha256}. "
            f"Received: {received} with SHA-256 {found}"
        )


def _sha256(path):
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
