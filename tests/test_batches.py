"""Batches of pictures: their order, their ranks, and broken pictures among them."""

import io
import itertools
import logging
import struct
import threading
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_squeezenet.data import Augmentation, DataError, load_dataset
from keras_squeezenet.data.examples import FileExamples
from keras_squeezenet.training.callbacks import BrokenPictures
from tests.pictures import epochs_of, labels_of, noise, solid, write


def test_batches_have_a_static_shape_and_pixels_from_0_to_255(numbered):
    batches = load_dataset(str(numbered), image_size=8).train.train_batches(4)
    images, labels = batches.element_spec
    assert images == tf.TensorSpec((4, 8, 8, 3), tf.float32)
    assert labels == tf.TensorSpec((4,), tf.int32)
    images, labels = next(iter(batches))
    np.testing.assert_array_equal(
        images, np.broadcast_to(labels[:, None, None, None], (4, 8, 8, 3))
    )


def test_each_epoch_is_another_permutation_and_a_seed_repeats_them(numbered):
    dataset = load_dataset(str(numbered), image_size=8)
    epochs = epochs_of(dataset, 3)
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epochs_of(dataset, 3) == epochs
    assert epochs_of(dataset, 3, seed=1) != epochs
    assert epochs_of(dataset, 2, start_epoch=1) == epochs[1:]


def test_ranks_share_an_epoch_without_overlap(numbered):
    dataset = load_dataset(str(numbered), image_size=8)
    together = np.hstack([epochs_of(dataset, 2, batch_size=2, rank=r, ranks=2) for r in range(2)])
    assert [sorted(epoch) for epoch in together.tolist()] == [list(range(20))] * 2
    # Three ranks of two batches of three leave two examples out, and repeat none.
    thirds = [epochs_of(dataset, 2, batch_size=3, rank=r, ranks=3) for r in range(3)]
    assert [len(set(epoch)) for epoch in np.hstack(thirds).tolist()] == [18, 18]


def test_augmentation_depends_on_seed_epoch_and_example_alone(tmp_path):
    for number in range(6):
        write(noise(9, 9, number), tmp_path / "train" / f"class{number}" / "one.png")
        write(noise(9, 9, number), tmp_path / "val" / f"class{number}" / "one.png")
    split = load_dataset(str(tmp_path), image_size=8).train
    augmentation = Augmentation(flip=True, crop_scale=(0.3, 1), color=0.3, shift=0.1)

    def pictures(epoch, batch_size, ranks=1, seed=0):
        found = {}
        for rank in range(ranks):
            batches = split.train_batches(
                batch_size,
                augmentation=augmentation,
                seed=seed,
                rank=rank,
                ranks=ranks,
                start_epoch=epoch,
            )
            for images, labels in batches.take(split.steps_per_epoch(batch_size, ranks)):
                found |= dict(zip(labels.numpy().tolist(), images.numpy(), strict=True))
        return np.stack([found[number] for number in range(6)])

    reference = pictures(1, 6)
    np.testing.assert_array_equal(pictures(1, 3), reference)
    np.testing.assert_array_equal(pictures(1, 1, ranks=2), reference)
    assert all((pictures(2, 6) != reference).any(axis=(1, 2, 3)))
    assert all((pictures(1, 6, seed=1) != reference).any(axis=(1, 2, 3)))


def test_without_augmentation_training_sees_what_evaluation_sees(tmp_path):
    for part in ("train", "val"):
        for number in range(4):
            write(noise(20, 31, number), tmp_path / part / f"class{number}" / "one.png")
    dataset = load_dataset(str(tmp_path), image_size=8, resize=10)
    (seen, labels), *_ = dataset.train.train_batches(4).take(1)
    (validated, _), *_ = dataset.val.val_batches(4)
    np.testing.assert_array_equal(seen, tf.gather(validated, labels))


@pytest.mark.parametrize("ranks", [1, 2, 3, 6])
def test_validation_covers_every_example_once_over_all_ranks(numbered, ranks):
    split = load_dataset(str(numbered), image_size=8).val
    parts = [
        [
            (int(label), int(index), int(image[0, 0, 0]))
            for images, labels, indices in split.indexed_val_batches(3, rank=rank, ranks=ranks)
            for image, label, index in zip(images, labels, indices, strict=True)
        ]
        for rank in range(ranks)
    ]
    assert [len(part) for part in parts] == [
        split.local_count(rank, ranks) for rank in range(ranks)
    ]
    assert sorted(itertools.chain(*parts)) == [(3, 0, 3), (7, 1, 7), (11, 2, 11), (15, 3, 15)]


def test_the_last_validation_batch_may_be_smaller(numbered):
    split = load_dataset(str(numbered), image_size=8).val
    assert [len(labels) for _, labels in split.val_batches(3)] == [3, 1]


class Readers:
    """Counts the readers of pictures at one time; each waits for `expected`, then for one more."""

    def __init__(self, expected: int):
        self.expected = expected
        self.most = self._reading = 0
        self._changed = threading.Condition()

    def __enter__(self):
        with self._changed:
            self._reading += 1
            self.most = max(self.most, self._reading)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.most >= self.expected, timeout=10)
            self._changed.wait_for(lambda: self.most > self.expected, timeout=0.2)

    def __exit__(self, *error):
        with self._changed:
            self._reading -= 1


# Two numbers, so that the machine's number of cores is another than one of them.
@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("kind", ["train_batches", "val_batches"])
def test_as_many_pictures_are_read_at_once_as_the_process_has_threads(
    numbered, monkeypatch, threads, kind
):
    monkeypatch.setattr("keras_squeezenet.data.split.own_threads", lambda: threads)
    split = load_dataset(str(numbered), image_size=8).train
    readers, read = Readers(threads), FileExamples.read

    def counted_read(self, index):
        with readers:
            return read(self, index)

    monkeypatch.setattr(FileExamples, "read", counted_read)
    # TensorFlow's own pool has no more threads than the machine has cores.
    options = tf.data.Options()
    options.threading.private_threadpool_size = 8
    next(iter(getattr(split, kind)(4).with_options(options)))
    assert readers.most == threads


def test_an_example_is_shown_as_it_is(numbered):
    split = load_dataset(str(numbered), image_size=8).val
    pixels, label = split.example(2)
    np.testing.assert_array_equal(pixels, np.full((8, 9, 3), 11, np.uint8))
    assert (label, split.class_names[label]) == (11, "class11")


def test_impossible_batches_are_refused(numbered):
    split = load_dataset(str(numbered), image_size=8).train
    assert split.steps_per_epoch(4, ranks=2) == 2
    with pytest.raises(DataError, match=r"20 examples .* 2 rank.* Received: batch_size=11"):
        split.steps_per_epoch(11, ranks=2)
    with pytest.raises(DataError, match="Received: batch_size=0"):
        split.val_batches(0)
    with pytest.raises(DataError, match=r"`rank` must be from 0 to 1. Received: rank=2"):
        split.train_batches(4, rank=2, ranks=2)
    with pytest.raises(DataError, match="Received: start_epoch=-1"):
        split.train_batches(4, start_epoch=-1)


def png_header(width: int, height: int) -> bytes:
    """A PNG file that promises `width` x `height` pixels in under a hundred bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def truncated_jpeg() -> bytes:
    buffer = io.BytesIO()
    noise(64, 64).save(buffer, "JPEG")
    return buffer.getvalue()[:-1000]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot identify image file"),
        (b"<html>not found</html>", "cannot identify image file"),
        (truncated_jpeg(), "truncated"),
        (png_header(9_400, 9_600), "pixels"),
        (png_header(60_000, 60_000), "decompression bomb"),
        (png_header(1, 1), "1 x 1 pixels; expected at least 8 on each side"),
        (png_header(7, 200), "7 x 200 pixels; expected at least 8"),
    ],
    ids=["empty", "no image", "truncated", "large", "bomb", "pixel", "sliver"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_broken_image_is_left_out_named_and_logged_once(numbered, content, reason, caplog):
    broken = numbered / "val" / "class07" / "one.png"
    broken.write_bytes(content)
    dataset = load_dataset(str(numbered), image_size=8, max_broken_share=0.25)
    with caplog.at_level(logging.WARNING, "keras_squeezenet"):
        assert labels_of(dataset.val.val_batches(2)) == [3, 11, 15]
        assert labels_of(dataset.val.val_batches(2)) == [3, 11, 15]
    [(name, why)] = dataset.broken
    assert name == str(broken)
    assert reason in why
    assert len(caplog.records) == 1
    assert str(broken) in caplog.text
    assert dataset.failure is None
    with pytest.raises(DataError, match=r"class07/one.png: "):
        dataset.val.example(1)


def test_of_an_animation_training_takes_the_first_frame(numbered):
    path = numbered / "val" / "class07" / "one.png"
    path.unlink()
    solid(7).save(path.with_suffix(".gif"), save_all=True, append_images=[solid(90), solid(200)])
    dataset = load_dataset(str(numbered), image_size=8)
    pixels, label = dataset.val.example(1)
    assert label == 7
    np.testing.assert_array_equal(pixels, np.full((8, 9, 3), 7, np.uint8))
    assert labels_of(dataset.val.val_batches(2)) == [3, 7, 11, 15]


def test_a_class_of_which_nothing_can_be_read_is_named_once(numbered, caplog):
    train = numbered / "train"
    write(solid(8), train / "class08" / "two.png")
    dataset = load_dataset(str(numbered), image_size=8, max_broken_share=0.5)
    assert dataset.train.classes_all_broken() == ()
    for name in ("class07/one.png", "class08/one.png"):
        dataset.train.broken_images.add(str(train / name), "no picture")
    assert dataset.train.classes_all_broken() == ("class07",)
    callback = BrokenPictures(dataset)
    caplog.clear()
    for epoch in range(2):
        callback.on_epoch_end(epoch)
    [line] = caplog.messages
    assert "No picture of the class 'class07' can be read" in line


def test_in_training_a_spare_example_takes_the_place_of_a_broken_one(numbered):
    for number in (4, 9):
        (numbered / "train" / f"class{number:02}" / "one.png").write_bytes(b"")
    dataset = load_dataset(str(numbered), image_size=8, max_broken_share=0.1)
    whole = set(range(20)) - {4, 9}
    # Two steps of nine: the eighteen readable examples, each once.
    assert [set(epoch) for epoch in epochs_of(dataset, 3, batch_size=9)] == [whole] * 3
    # Twenty wanted, eighteen there: two come twice, and the epochs do not drift.
    epochs = epochs_of(dataset, 3)
    assert [(len(epoch), set(epoch)) for epoch in epochs] == [(20, whole)] * 3
    assert epochs_of(dataset, 1, start_epoch=2) == epochs[2:]
    assert {Path(name).parent.name for name, _ in dataset.broken} == {"class04", "class09"}


@pytest.mark.parametrize("ranks", [1, 2])
def test_too_many_broken_images_end_the_stream_with_one_clear_line(numbered, ranks):
    for number in (4, 9):
        (numbered / "train" / f"class{number:02}" / "one.png").write_bytes(b"")
    dataset = load_dataset(str(numbered), image_size=8, max_broken_share=0.09)
    with pytest.raises(tf.errors.OpError, match="images of the train split are broken"):
        for _ in dataset.train.train_batches(2, ranks=ranks).take(100):
            pass
    assert dataset.failure.startswith("2 of 20 images of the train split are broken (max_broken_")
    assert "\n" not in dataset.failure


def test_clear_errors_turns_tensorflows_error_into_that_line_and_lets_others_pass(numbered):
    dataset = load_dataset(str(numbered), image_size=8, max_broken_share=0)
    with pytest.raises(tf.errors.InvalidArgumentError), dataset.clear_errors():
        raise tf.errors.InvalidArgumentError(None, None, "of another kind")
    (numbered / "val" / "class07" / "one.png").write_bytes(b"")
    with pytest.raises(DataError) as caught, dataset.clear_errors():
        list(dataset.val.val_batches(2))
    assert str(caught.value) == dataset.failure


def test_no_readable_image_at_all_is_an_error_whatever_share_is_allowed(numbered):
    for path in numbered.glob("train/*/one.png"):
        path.write_bytes(b"")
    dataset = load_dataset(str(numbered), image_size=8, max_broken_share=1)
    with pytest.raises(tf.errors.OpError, match="20 of 20 images"):
        next(iter(dataset.train.train_batches(4)))
    assert "20 of 20 images" in dataset.failure


def test_a_lone_readable_image_fills_every_batch(numbered):
    for path in numbered.glob("train/*/one.png"):
        if path.parent.name != "class05":
            path.write_bytes(b"")
    dataset = load_dataset(str(numbered), image_size=8, max_broken_share=1)
    assert epochs_of(dataset, 2) == [[5] * 20] * 2
    assert len(dataset.broken) == 19


@pytest.fixture(scope="module")
def grocery(shared, tmp_path_factory):
    """The folder of real photos of groceries."""
    folder = tmp_path_factory.mktemp("shared")
    with zipfile.ZipFile(shared / "data" / "grocery.zip") as archive:
        archive.extractall(folder)
    return folder / "grocery"


@pytest.mark.shared
def test_the_grocery_photos_are_all_read(grocery):
    dataset = load_dataset(str(grocery), image_size=64, max_broken_share=0)
    assert (len(dataset.class_names), dataset.train.count, dataset.val.count) == (81, 2640, 296)
    assert np.count_nonzero(dataset.val.class_counts) == 60
    labels = [labels_of(dataset.val.val_batches(32, rank=rank, ranks=2)) for rank in range(2)]
    assert (
        np.bincount(np.concatenate(labels), minlength=81).tolist()
        == dataset.val.class_counts.tolist()
    )


@pytest.mark.shared
def test_grocery_photos_look_as_tensorflow_decodes_them(grocery):
    split = load_dataset(str(grocery), image_size=64, resize="stretch").val
    images, _, indices = next(iter(split.indexed_val_batches(16)))
    for image, index in zip(images, indices.numpy(), strict=True):
        # TensorFlow's default DCT is a faster one that darkens photos by nearly one level.
        encoded = tf.io.read_file(split.file_name(index))
        decoded = tf.io.decode_jpeg(encoded, 3, dct_method="INTEGER_ACCURATE")
        expected = tf.image.resize(decoded, (64, 64), antialias=True)
        assert float(tf.reduce_mean(tf.abs(image - expected))) < 0.5
