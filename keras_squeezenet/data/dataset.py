"""A data set: a training and a validation part of what a source holds."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Literal

from keras_squeezenet.checks import is_number
from keras_squeezenet.data.broken import BrokenImages
from keras_squeezenet.data.errors import DataError
from keras_squeezenet.data.examples import Examples
from keras_squeezenet.data.framing import Framing, require_natural
from keras_squeezenet.data.sources import open_source
from keras_squeezenet.data.split import Split, clear_errors


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classified set of pictures with a training and a validation split.

    Attributes:
        class_names: In the order of the class indices.
        image_size: Side of the validation batches' pictures, in pixels; also of the training
            batches' unless `train_image_size` was given.
    """

    name: str
    class_names: tuple[str, ...]
    image_size: int
    train: Split
    val: Split

    @property
    def broken(self) -> tuple[tuple[str, str], ...]:
        """(file or example, reason) of each picture that this process left out so far."""
        return self.train.broken + self.val.broken

    @property
    def failure(self) -> str | None:
        """Why batches end with an error, in one line; None while they do not."""
        return self.train.failure or self.val.failure

    def clear_errors(self) -> AbstractContextManager[None]:
        """As `Split.clear_errors`, for both splits."""
        return clear_errors(self)


def load_dataset(
    source: str,
    *,
    image_size: int,
    resize: int | Literal["stretch"] | None = None,
    train_image_size: int | None = None,
    val_fraction: float = 0.2,
    seed: int = 0,
    max_broken_share: float = 0.05,
) -> Dataset:
    """Find the examples of a data set; their pictures are read when batches are asked for.

    Args:
        source: One of

            - `"digits"`: 1,797 handwritten digits that come with scikit-learn;
            - `"cifar10"`, `"cifar100"`: downloaded once into Keras's cache;
            - `"tfds:NAME"`: prepared by tensorflow_datasets, e.g. `"tfds:imagenette/320px-v2"`;
              one without a validation or test split is read once, to divide it by its labels;
            - a folder with `train/CLASS/*` and `val/CLASS/*` (or `validation`, `test`), or with
              `CLASS/*` or `train/CLASS/*` alone, which is then divided. Images are jpg, jpeg, png,
              gif, bmp and webp; hidden and other files are ignored. Classes are numbered by their
              sorted names, and `val` may lack some. A folder that is called like one of the names
              above is written `./digits`.
        image_size: Side of the square batches, in pixels.
        resize: Short side, in pixels, from which evaluation crops its central square, by default
            `image_size`; or `"stretch"` to squeeze whole pictures into the square.
        train_image_size: Side of the training batches; by default `image_size`. A random crop
            magnifies what it shows, so that training at a smaller size both meets the sizes of
            evaluation and takes less time (Touvron et al., arXiv 1906.06423).
        val_fraction: Share of each class that is held out where the source has no validation split.
        seed: Of that division, which does not change from version to version.
        max_broken_share: Share of a split's examples that may be unreadable before batches end with
            an error. Each process counts what it meets itself.

    Returns:
        The data set.

    Raises:
        DataError: An argument is out of range, or the source is missing, empty or inconsistent.

    Example:

    >>> digits = load_dataset("digits", image_size=32)
    >>> digits.train.count, digits.val.count, digits.class_names[:3]
    (1438, 359, ('0', '1', '2'))
    >>> images, labels = next(iter(digits.val.val_batches(16)))
    >>> tuple(images.shape), tuple(labels.shape)
    ((16, 32, 32, 3), (16,))
    """
    if not is_number(val_fraction) or not 0 < val_fraction < 1:
        raise DataError(
            f"`val_fraction` must be between 0 and 1. Received: val_fraction={val_fraction}"
        )
    if not is_number(max_broken_share) or not 0 <= max_broken_share <= 1:
        raise DataError(
            f"`max_broken_share` must be from 0 to 1. Received: max_broken_share={max_broken_share}"
        )
    require_natural("seed", seed)
    val_framing = Framing(image_size, resize)  # before anything is downloaded
    train_framing = val_framing if train_image_size is None else val_framing.at(train_image_size)
    found = open_source(str(source), val_fraction=val_fraction, seed=seed)

    def split(name: str, examples: Examples, framing: Framing) -> Split:
        broken = BrokenImages(name, len(examples), max_broken_share)
        framing = replace(framing, resample=found.resample)
        return Split(found.class_names, examples, framing, broken)

    return Dataset(
        name=found.name,
        class_names=found.class_names,
        image_size=image_size,
        train=split("train", found.train, train_framing),
        val=split("val", found.val, val_framing),
    )
