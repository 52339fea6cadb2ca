"""Data sets of TensorFlow Datasets."""

import hashlib
import io
import sys
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from keras_squeezenet.data import DataError, load_dataset
from keras_squeezenet.data.sources import is_at_hand
from keras_squeezenet.extras import NotInstalledError


def test_tfds_says_what_to_install_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(NotInstalledError, match=r"pip install 'squeezenet-keras\[tfds\]'"):
        load_dataset("tfds:imagenette", image_size=8)


@pytest.fixture(scope="module")
def tfds_builders(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("tfds")))
        tfds = pytest.importorskip(
            "tensorflow_datasets", reason="tensorflow-datasets is not installed"
        )

        class Grey(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                features = {
                    "image": tfds.features.Image(shape=(None, None, 1)),
                    "label": tfds.features.ClassLabel(names=["even", "odd"]),
                }
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features)
                )

            def _split_generators(self, dl_manager):
                return {name: self._generate_examples(*at) for name, at in self.splits_at.items()}

            def _generate_examples(self, start, stop):
                for number in range(start, stop):
                    image = np.full((11, 9, 1), number, np.uint8)
                    yield number, {"image": image, "label": number % 2}

        class GreyBothSplits(Grey):
            splits_at = MappingProxyType({"train": (0, 8), "test": (8, 13)})

        class GreyTrainOnly(Grey):
            splits_at = MappingProxyType({"train": (0, 10)})

        class GreyTestOnly(Grey):
            splits_at = MappingProxyType({"test": (0, 3)})

        yield tfds


def test_tfds_is_permuted_and_sharded_like_a_folder(tfds_builders):
    dataset = load_dataset("tfds:grey_both_splits", image_size=8)
    assert dataset.class_names == ("even", "odd")
    assert (dataset.train.count, dataset.val.count) == (8, 5)
    assert dataset.train.labels is None
    assert dataset.train.class_counts is None
    for split, numbers in ((dataset.train, range(8)), (dataset.val, range(8, 13))):
        shards = [
            (int(image[0, 0, 0]), int(label))
            for rank in range(2)
            for images, labels in split.val_batches(2, rank=rank, ranks=2)
            for image, label in zip(images, labels, strict=True)
        ]
        assert sorted(shards) == [(number, number % 2) for number in numbers]
    first, second = (
        [
            int(image[0, 0, 0])
            for images, _ in dataset.train.train_batches(4, start_epoch=epoch).take(2)
            for image in images
        ]
        for epoch in (0, 1)
    )
    assert sorted(first) == sorted(second) == list(range(8))
    assert first != second


def test_tfds_is_at_hand_once_it_was_prepared(tfds_builders, monkeypatch, tmp_path):
    make = tfds_builders.builder
    monkeypatch.setattr(
        tfds_builders, "builder", lambda name, **options: make(name, data_dir=tmp_path, **options)
    )
    assert not is_at_hand("tfds:grey_train_only")
    load_dataset("tfds:grey_train_only", image_size=8)
    assert is_at_hand("tfds:grey_train_only")
    assert not is_at_hand("tfds:no_such_set_of_pictures")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    assert not is_at_hand("tfds:grey_train_only")


def test_tfds_without_a_validation_split_is_divided(tfds_builders):
    dataset = load_dataset("tfds:grey_train_only", image_size=8, val_fraction=0.3)
    # Of each class of five 30 %, rounded.
    assert (dataset.train.count, dataset.val.count) == (6, 4)


class FakeRecords(list):
    """Tells how often it was read, as a data source of tensorflow_datasets."""

    reads = 0

    def __getitem__(self, index):
        self.reads += 1
        return super().__getitem__(index)


@pytest.fixture
def fake_tfds(monkeypatch):
    """What is used of tensorflow_datasets, with 40 pictures of two classes, one after the other."""

    class ClassLabel:
        names = ("dark", "bright")

    records = FakeRecords(
        {"image": png(np.full((8, 8, 3), number, np.uint8)), "label": int(number >= 30)}
        for number in range(40)
    )
    info = SimpleNamespace(
        file_format=SimpleNamespace(value="array_record"),
        features={"image": None, "label": ClassLabel()},
        splits={"train": None},
    )
    builder = SimpleNamespace(
        info=info,
        is_prepared=lambda: True,
        as_data_source=lambda split, decoders: records,
    )
    module = SimpleNamespace(
        builder=lambda name: builder,
        features=SimpleNamespace(ClassLabel=ClassLabel),
        decode=SimpleNamespace(SkipDecoding=lambda: None),
    )
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", module)
    return SimpleNamespace(info=info, records=records)


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def numbers_of(split):
    return [
        int(image[0, 0, 0]) for images, _ in split.val_batches(8) for image in np.asarray(images)
    ]


def test_tfds_is_divided_by_the_seed_class_by_class(fake_tfds):
    one, again, other = (
        load_dataset("tfds:made", image_size=8, val_fraction=0.2, seed=seed) for seed in (1, 1, 2)
    )
    for dataset in (one, again, other):
        train, val = numbers_of(dataset.train), numbers_of(dataset.val)
        assert sorted(train + val) == list(range(40))
        assert sorted(number >= 30 for number in val) == [False] * 6 + [True] * 2
        assert dataset.val.labels.tolist() == [int(number >= 30) for number in val]
        assert dataset.train.class_counts.tolist() == [24, 8]
    assert numbers_of(one.val) == numbers_of(again.val) != numbers_of(other.val)
    # By hand: who goes where must not change from version to version.
    drawn = sorted(range(40), key=lambda n: hashlib.sha256(f"1/{n}".encode()).digest())
    dark, bright = ([n for n in drawn if (n >= 30) == bright] for bright in (False, True))
    assert numbers_of(one.val) == sorted(dark[:6] + bright[:2])


def test_tfds_with_a_record_that_has_no_label_is_refused_in_one_line(fake_tfds):
    del fake_tfds.records[3]["label"]
    with pytest.raises(DataError, match=r"^tfds:made/train: record 3: 'label'$"):
        load_dataset("tfds:made", image_size=8)


def test_tfds_with_a_validation_split_is_not_read_for_its_labels(fake_tfds):
    fake_tfds.info.splits["validation"] = None
    dataset = load_dataset("tfds:made", image_size=8)
    assert fake_tfds.records.reads == 0
    assert dataset.val.labels is None


def test_tfds_without_training_split_is_refused(tfds_builders):
    with pytest.raises(DataError, match=r"expected a train split. Received: splits=test"):
        load_dataset("tfds:grey_test_only", image_size=8)


def test_tfds_prepared_without_random_access_is_refused(tfds_builders, monkeypatch, tmp_path):
    tfds = tfds_builders
    make = tfds.builder
    monkeypatch.setattr(
        tfds, "builder", lambda name, **options: make(name, data_dir=tmp_path, **options)
    )
    tfds.builder("grey_both_splits").download_and_prepare()
    with pytest.raises(
        DataError, match=r"without random access; .* Received: file_format=tfrecord"
    ):
        load_dataset("tfds:grey_both_splits", image_size=8)


def test_tfds_of_an_unknown_name_is_refused_in_one_line(tfds_builders):
    with pytest.raises(DataError, match=r"tfds:no_such_set_of_pictures: ") as caught:
        load_dataset("tfds:no_such_set_of_pictures", image_size=8)
    assert "\n" not in str(caught.value)
