"""Examples -> batches: shuffled, sharded over ranks, and honest about what could not be read."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np

from keras_squeezenet.checks import is_integer
from keras_squeezenet.data.augmentation import Augmentation
from keras_squeezenet.data.broken import BrokenImages
from keras_squeezenet.data.errors import DataError
from keras_squeezenet.data.examples import Examples
from keras_squeezenet.data.framing import Framing, require_natural, require_positive
from keras_squeezenet.data.graph_calls import call_in_graph
from keras_squeezenet.data.images import decode_rgb, decode_square
from keras_squeezenet.errors import one_line
from keras_squeezenet.extras import from_extra
from keras_squeezenet.machine import own_threads

with from_extra("train"):
    import tensorflow as tf

PREFETCHED_BATCHES = 4

Read = tuple[np.ndarray, np.int32, np.bool_]  # pixels, label, whether the picture can be read
Function = TypeVar("Function", bound=Callable[..., object])


def _as_written(function: Function) -> Function:
    """For functions of a graph in which nothing that Python decides depends on a tensor.

    TensorFlow would rewrite their source and that of all they call, which took 0.6 seconds of a
    process's start.
    """
    decorated: Function = tf.autograph.experimental.do_not_convert(function)
    return decorated


@dataclass(frozen=True, eq=False)
class Split:
    """The training or the validation part of a data set."""

    class_names: tuple[str, ...]
    examples: Examples = field(repr=False)
    framing: Framing
    broken_images: BrokenImages = field(repr=False)

    @property
    def count(self) -> int:
        """Number of examples, the broken ones included."""
        return len(self.examples)

    @property
    def labels(self) -> np.ndarray | None:
        """int32 `[count]`; None where only reading the examples tells (tensorflow_datasets)."""
        return self.examples.labels

    @property
    def class_counts(self) -> np.ndarray | None:
        """int64 `[classes]`: examples per class; None where `labels` is None."""
        if self.labels is None:
            return None
        return np.bincount(self.labels, minlength=len(self.class_names))

    def classes_all_broken(self) -> tuple[str, ...]:
        """Names of the classes none of whose pictures can be read, as far as is known by now."""
        names = {name for name, _ in self.broken}
        if not names or self.labels is None:
            return ()
        readable = [self.examples.describe(index) not in names for index in range(self.count)]
        counts = np.bincount(self.labels[readable], minlength=len(self.class_names))
        return tuple(self.class_names[number] for number in np.flatnonzero(counts == 0))

    def local_count(self, rank: int = 0, ranks: int = 1) -> int:
        """How many examples are validated by `rank` of `ranks`."""
        _check_rank(rank, ranks)
        return len(range(rank, self.count, ranks))

    def steps_per_epoch(self, batch_size: int, ranks: int = 1, done: int = 0) -> int:
        """Full batches that every one of `ranks` takes from an epoch.

        Args:
            batch_size: Examples per batch on each rank.
            ranks: How many.
            done: Examples of the epoch that are trained on already, over all ranks.

        Raises:
            DataError: There are not enough examples for one batch on each rank.
        """
        require_positive("batch_size", batch_size)
        require_positive("ranks", ranks)
        if self.count < batch_size * ranks:
            raise DataError(
                f"`batch_size` is too large: {self.count} examples do not fill one batch on each "
                f"of {ranks} rank(s). Received: batch_size={batch_size}"
            )
        return max(0, self.count - done) // (batch_size * ranks)

    def file_name(self, index: int) -> str | None:
        """The file of an example; None where it has none of its own."""
        return self.examples.file_name(index)

    def example(self, index: int) -> tuple[np.ndarray, int]:
        """One picture as it is, for showing, and its label.

        Returns:
            uint8 `[height, width, 3]`, RGB, upright, neither cropped nor resized; and the class
            index.

        Raises:
            DataError: It cannot be read.
        """
        try:
            image, label = self.examples.read(index)
            with image:
                return np.array(decode_rgb(image)), label
        # Pillow's plug-ins raise nearly anything for hostile bytes.
        except Exception as error:
            raise DataError(f"{self.examples.describe(index)}: {one_line(error)}") from error

    @property
    def broken(self) -> tuple[tuple[str, str], ...]:
        """(file or example, reason) of each picture that this process left out so far."""
        return self.broken_images.found

    @property
    def failure(self) -> str | None:
        """Why batches end with an error, in one line; None while they do not."""
        return self.broken_images.failure

    def clear_errors(self) -> AbstractContextManager[None]:
        """A context to iterate over batches in: too many broken pictures end it in one clear line.

        Raises:
            DataError: instead of the error that TensorFlow makes of it.
        """
        return clear_errors(self)

    def train_batches(
        self,
        batch_size: int,
        *,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
        start_epoch: int = 0,
        trained: np.ndarray | None = None,
        done: int | None = None,
    ) -> tf.data.Dataset:
        """Batches without end, `steps_per_epoch(batch_size, ranks)` of them per epoch.

        An epoch is one permutation of all examples, drawn from (`seed`, epoch) and so the same on
        every rank, of which each rank takes every `ranks`-th. No example comes twice in an epoch,
        over all ranks. The rest that fills no batch stands in for broken pictures; only when that
        is used up does a rank repeat some of its own. Thus epochs never drift, and `start_epoch`
        resumes exactly.

        An epoch that was left in its midst goes on, on as many ranks or others, with what is left
        of its permutation, for `steps_per_epoch(batch_size, ranks, done)` batches. On one rank, or
        on as many without broken pictures, they are those that would have come.

        Args:
            batch_size: Examples per batch on this rank.
            augmentation: Random changes, drawn from (`seed`, epoch, example) whatever the threads
                do. By default none: the pictures are cropped as in evaluation.
            seed: A non-negative integer, the same on every rank.
            rank, ranks: Which share of how many.
            start_epoch: The first epoch's number.
            trained: bool `[count]`: the examples that the first epoch was trained on already, by
                any rank. By default none.
            done: How many that were, repeated ones included. By default those in `trained`.

        Returns:
            Images and labels, float32 `[batch_size, image_size, image_size, 3]` RGB 0…255 and int32
            `[batch_size]`.

        Raises:
            DataError: An argument is out of range. While iterating, TensorFlow raises an error of
                its own when too many pictures are broken; `Dataset.failure` then says so in one
                line.
        """
        return (
            self._train_batches(
                batch_size, augmentation, seed, rank, ranks, start_epoch, trained, done
            )
            .map(_image_and_label)
            .apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
            .prefetch(PREFETCHED_BATCHES)
            .with_options(_fixed_parallelism())
        )

    def indexed_train_batches(
        self,
        batch_size: int,
        *,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
        start_epoch: int = 0,
        trained: np.ndarray | None = None,
        done: int | None = None,
    ) -> tf.data.Dataset:
        """As `train_batches`, with the examples' indices, int64 `[batch_size]`, as a third one."""
        return (
            self._train_batches(
                batch_size, augmentation, seed, rank, ranks, start_epoch, trained, done
            )
            .map(_image_label_and_index)
            .prefetch(PREFETCHED_BATCHES)
            .with_options(_fixed_parallelism())
        )

    def _train_batches(
        self,
        batch_size: int,
        augmentation: Augmentation | None,
        seed: int,
        rank: int,
        ranks: int,
        start_epoch: int,
        trained: np.ndarray | None,
        done: int | None,
    ) -> tf.data.Dataset:
        _check_rank(rank, ranks)
        require_natural("seed", seed)
        require_natural("start_epoch", start_epoch)
        trained = np.zeros(self.count, bool) if trained is None else trained
        if trained.shape != (self.count,):
            raise DataError(
                f"`trained` must say of each of {self.count} examples whether it is done. "
                f"Received: trained of shape {trained.shape}"
            )
        done = int(trained.sum()) if done is None else done
        left = np.int64(self.steps_per_epoch(batch_size, ranks, done) * batch_size)
        wanted = np.int64(self.steps_per_epoch(batch_size, ranks) * batch_size)
        augmentation = augmentation or Augmentation()

        def order(epoch: np.int64) -> tuple[np.ndarray, np.ndarray]:
            """The examples that come first, once, and those that then come again and again."""
            permutation = np.random.default_rng((seed, int(epoch))).permutation(self.count)
            own = permutation[rank::ranks]
            if epoch > start_epoch or not done:
                return own[:0], own
            left = permutation[~trained[permutation]][rank::ranks]
            # Those that it repeated already are not the next to be repeated.
            readable = np.flatnonzero(trained[own])
            repeated = max(0, done // ranks - len(readable))
            begin = (
                readable[(repeated - 1) % len(readable)] + 1 if repeated and len(readable) else 0
            )
            return left, np.roll(own, -begin)

        def read(epoch: np.int64, index: np.int64) -> Read:
            rng = np.random.default_rng((seed, int(epoch), 1 + int(index)))
            return self._read(index, augmentation, rng)

        @_as_written
        def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
            first, again = (
                tf.data.Dataset.from_tensor_slices(tf.ensure_shape(indices, [None]))
                for indices in call_in_graph(order, [epoch], [tf.int64, tf.int64])
            )
            return (
                # Enough even if all but one of them are broken, and not for ever if all are.
                first.concatenate(again.repeat(wanted))
                .map(lambda index: self._load(read, epoch, index), own_threads())
                .filter(_is_readable)
                .take(tf.where(epoch > start_epoch, wanted, left))
                .batch(batch_size, drop_remainder=True)
            )

        return tf.data.Dataset.counter(start_epoch).flat_map(one_epoch)

    def val_batches(self, batch_size: int, *, rank: int = 0, ranks: int = 1) -> tf.data.Dataset:
        """Every readable example once over all ranks, in order; the last batch may be smaller.

        Args:
            batch_size: Examples per batch on this rank.
            rank, ranks: Which share of how many. A rank may have no example at all: then there are
                no batches.

        Returns:
            Images and labels, float32 `[batch, image_size, image_size, 3]` RGB 0…255 and int32
            `[batch]`.

        Raises:
            DataError: An argument is out of range. For too many broken pictures see
                `train_batches`.
        """
        return (
            self._val_batches(batch_size, rank, ranks)
            .map(_image_and_label)
            .prefetch(PREFETCHED_BATCHES)
            .with_options(_fixed_parallelism())
        )

    def batches_at(self, indices: np.ndarray, batch_size: int) -> tf.data.Dataset:
        """As `val_batches` on one rank, but only the readable ones of the examples at `indices`."""
        return (
            self._batches(tf.data.Dataset.from_tensor_slices(indices), batch_size)
            .map(_image_and_label)
            .prefetch(PREFETCHED_BATCHES)
            .with_options(_fixed_parallelism())
        )

    def indexed_val_batches(
        self, batch_size: int, *, rank: int = 0, ranks: int = 1
    ) -> tf.data.Dataset:
        """As `val_batches`, with the examples' indices, int64 `[batch]`, as a third element."""
        return (
            self._val_batches(batch_size, rank, ranks)
            .map(_image_label_and_index)
            .prefetch(PREFETCHED_BATCHES)
            .with_options(_fixed_parallelism())
        )

    def _val_batches(self, batch_size: int, rank: int, ranks: int) -> tf.data.Dataset:
        _check_rank(rank, ranks)
        return self._batches(tf.data.Dataset.range(rank, self.count, ranks), batch_size)

    def _batches(self, indices: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
        require_positive("batch_size", batch_size)
        return (
            indices.map(_as_written(lambda index: self._load(self._read, index)), own_threads())
            .filter(_is_readable)
            .batch(batch_size)
        )

    def _load(self, read: Callable[..., Read], *arguments: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Call `read` from a tf.data graph; the last of its arguments is the example's index."""
        image, label, readable = call_in_graph(read, arguments, (tf.uint8, tf.int32, tf.bool))
        side = self.framing.image_size
        image = tf.ensure_shape(image, [side, side, 3])
        return image, tf.ensure_shape(label, []), arguments[-1], tf.ensure_shape(readable, [])

    def _read(
        self,
        index: np.int64,
        augmentation: Augmentation | None = None,
        rng: np.random.Generator | None = None,
    ) -> Read:
        """(pixels, label, True), or (black, 0, False) of a broken picture, which is noted."""
        try:
            image, label = self.examples.read(int(index))
            with image:
                pixels = decode_square(image, self.framing, augmentation, rng)
            return pixels, np.int32(label), np.True_
        # Pillow's plug-ins raise nearly anything for hostile bytes.
        except Exception as error:
            self.broken_images.add(self.examples.describe(int(index)), one_line(error))
        side = self.framing.image_size
        return np.zeros((side, side, 3), np.uint8), np.int32(0), np.False_


class MayFail(Protocol):
    """What can say why its batches end with an error."""

    @property
    def failure(self) -> str | None: ...


@contextmanager
def clear_errors(images: MayFail) -> Iterator[None]:
    """See `Split.clear_errors`."""
    try:
        yield
    except tf.errors.OpError:
        if images.failure:
            raise DataError(images.failure) from None
        raise


def _fixed_parallelism() -> tf.data.Options:
    """Options without tf.data's autotuning.

    Its thread sleeps for ever longer times, and who drops an iterator may have to wait for it to
    wake up: up to a minute at the end of a training, a moment after every validation.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return options


@_as_written
def _image_and_label(
    images: tf.Tensor, labels: tf.Tensor, *_: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    return tf.cast(images, tf.float32), labels


@_as_written
def _image_label_and_index(
    images: tf.Tensor, labels: tf.Tensor, indices: tf.Tensor, *_: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    return *_image_and_label(images, labels), indices


@_as_written
def _is_readable(
    _image: tf.Tensor, _label: tf.Tensor, _index: tf.Tensor, readable: tf.Tensor
) -> tf.Tensor:
    return readable


def _check_rank(rank: int, ranks: int) -> None:
    require_positive("ranks", ranks)
    if not is_integer(rank, 0, ranks - 1):
        raise DataError(f"`rank` must be from 0 to {ranks - 1}. Received: rank={rank}")
