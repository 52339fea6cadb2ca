"""Broken weight files end in one clear error or in sound arrays, and take little memory."""

import io
import itertools
import random
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_squeezenet.network.architecture import PRESETS
from keras_squeezenet.network.weight_files import (
    WeightFileError,
    caffe,
    deep_compression,
    ncnn,
    npz,
    pytorch,
)
from tests.tiers import parametrize
from tests.weight_file_writers import (
    TINY,
    caffe_bytes,
    deep_compression_bytes,
    ncnn_bytes,
    npz_bytes,
    pruned,
    random_weights,
    torch_bytes,
    torchvision_state,
)

MUTATIONS = 10_000
# Beside the file itself: its arrays, once as they lie in the file and once as float32, and for an
# archive a second copy of the bytes.
MEMORY_OF_FLOAT32 = 4

IN_PLACE = ("flip", "overwrite", "fill", "copy")
RESIZING = ("insert", "delete", "duplicate", "cut")
# Numbers at which sizes and offsets are apt to go wrong, as bytes.
EDGES = [
    *(n.to_bytes(4, "little") for n in (0, 1, 2**31 - 1, 2**31, 2**32 - 1)),
    *(n.to_bytes(8, "little") for n in (2**40, 2**63 - 1, 2**64 - 1)),
    *(np.float32(x).tobytes() for x in (np.nan, np.inf, 3e38)),
]


def mutate(data, changes):
    """Applies (kind, position, length, filler) one after the other, wherever the end then is."""
    data = bytearray(data)
    for kind, position, length, filler in changes:
        position %= len(data) + 1
        end = min(position + length, len(data))
        span = end - position
        if kind == "flip" and span:
            data[position] ^= 1 << length % 8
        elif kind == "overwrite":
            data[position:end] = (filler * span)[:span]
        elif kind == "fill":
            data[position:end] = filler[:1] * span
        elif kind == "copy":
            data[position:end] = data[:span]
        elif kind == "insert":
            data[position:position] = filler
        elif kind == "delete":
            del data[position:end]
        elif kind == "duplicate":
            data[end:end] = data[position:end]
        elif kind == "cut":
            del data[position:]
    return bytes(data)


def random_changes(rng, headers, kinds):
    """One to four changes, more than half of them in or near a header."""
    return [
        (
            rng.choice(kinds),
            rng.choice(headers) + rng.randrange(64) if rng.random() < 0.6 else rng.randrange(2**32),
            rng.choice((1, 1, 2, 4, 8, 64, 4096)),
            rng.choice(EDGES) if rng.random() < 0.5 else rng.randbytes(rng.choice((1, 4, 16))),
        )
        for _ in range(rng.randint(1, 4))
    ]


def is_sound(read, data, architecture):
    """Whether the file is read; if so, its arrays must be right. Else the error must be clear."""
    try:
        weight_file, complaint = read(data, architecture), ""
    except WeightFileError as error:
        weight_file, complaint = None, str(error)
    if weight_file is None:
        assert len(complaint.splitlines()) == 1, repr(complaint)
        assert len(complaint) < 1000, complaint  # the longest names the 32 axes of a blob
        return False
    shapes = architecture.kernel_shapes(weight_file.classes)
    assert {name: kernel.shape for name, kernel in weight_file.kernels.items()} == shapes
    assert {n: b.shape for n, b in weight_file.biases.items()} == {
        name: shape[-1:] for name, shape in shapes.items()
    }
    for array in (*weight_file.kernels.values(), *weight_file.biases.values()):
        assert array.dtype == np.float32
        assert np.isfinite(array).all()
    return True


def float32_bytes(architecture):
    shapes = architecture.kernel_shapes(1000).values()
    return 4 * sum(np.prod(shape) + shape[-1] for shape in shapes)


def header_positions(file_format, architecture, data):
    """Where the numbers stand that say how the rest is to be read."""
    if file_format is npz:
        found = [b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"\x93NUMPY"]
        return [at for mark in found for at in positions_of(mark, data)]
    shapes = architecture.kernel_shapes(1000)
    if file_format is deep_compression:
        return [*range(0, 4 * len(shapes), 4), 4 * len(shapes)]
    sizes = [2 * np.prod(shape) + 4 * shape[-1] + 4 for shape in shapes.values()]
    # The first byte in every 64 that a change may hit is the tag.
    return [int(at) for at in itertools.accumulate(sizes[:-1], initial=0)]


def positions_of(mark, data):
    at = data.find(mark)
    while at >= 0:
        yield at
        at = data.find(mark, at + 1)


REAL = {
    "compressed_SqueezeNet.net": (deep_compression, PRESETS["1.0"]),
    "squeezenet_v1.1.bin": (ncnn, PRESETS["1.1"]),
    "squeezenet_v1.0_fp32.npz": (npz, PRESETS["1.0"]),
}


@pytest.fixture(params=REAL)
def real(request, shared):
    """Format, architecture and bytes of a published file."""
    return *REAL[request.param], (shared / "weights" / request.param).read_bytes()


@pytest.mark.shared
class TestPublishedFiles:
    def test_every_truncation_is_refused_or_has_fewer_classes(self, real):
        file_format, architecture, data = real
        view = memoryview(data)
        read = 0
        for length in range(len(data)):
            try:
                weight_file = file_format.read(view[:length], architecture)
            except WeightFileError:
                continue
            read += 1
            assert weight_file.classes < 1000
            assert is_sound(file_format.read, view[:length], architecture)
        # ncnn's files say nothing of their length: without n classes of 512 half floats and a
        # bias, the first n·1028 bytes from the end, they are files of fewer classes.
        assert read == (999 if file_format is ncnn else 0)

    def test_mutations_are_refused_or_read(self, real):
        file_format, architecture, data = real
        headers = header_positions(file_format, architecture, data)
        rng = random.Random(0)
        outcomes = {True: 0, False: 0}
        for number in range(MUTATIONS):
            kinds = IN_PLACE if number % 2 else IN_PLACE + RESIZING
            mutant = mutate(data, random_changes(rng, headers, kinds))
            outcomes[is_sound(file_format.read, mutant, architecture)] += 1
        assert min(outcomes.values()) > MUTATIONS // 100, outcomes

    def test_mutations_take_no_more_memory_than_the_file(self, real):
        file_format, architecture, data = real
        headers = header_positions(file_format, architecture, data)
        rng = random.Random(1)
        limit = MEMORY_OF_FLOAT32 * float32_bytes(architecture)
        tracemalloc.start()
        try:
            for mutation in range(200):
                mutant = mutate(data, random_changes(rng, headers, IN_PLACE) if mutation else [])
                tracemalloc.reset_peak()
                before, _ = tracemalloc.get_traced_memory()
                is_sound(file_format.read, mutant, architecture)
                _, peak = tracemalloc.get_traced_memory()
                assert peak - before < limit
        finally:
            tracemalloc.stop()


def small_files():
    """A name, a format and bytes of every form of every format, of a network of three Fires."""
    weights = random_weights()
    files = {
        "net": (
            deep_compression,
            deep_compression_bytes(pruned(random_weights(classes=1000), 0.3)),
        ),
        "ncnn": (ncnn, ncnn_bytes(weights, float16_layers=["conv1", TINY.last_conv_name])),
        "npz": (npz, npz_bytes(weights, channel_order="RGB", last_conv_padding=1)),
        "npz deflated": (npz, npz_bytes(weights, compressed=True)),
        "caffe": (caffe, caffe_bytes(weights, pads={TINY.last_conv_name: {"pad": [1]}})),
        "caffe unpacked": (caffe, caffe_bytes(weights, packed=False, old_shapes=True)),
        "caffe V1": (caffe, caffe_bytes(weights, v1=True, double=True)),
    }
    try:
        state = torchvision_state(weights)
    except ImportError:
        return files
    return files | {
        "torch": (pytorch, torch_bytes(state)),
        "torch before 1.6": (pytorch, torch_bytes(state, _use_new_zipfile_serialization=False)),
    }


FILES = small_files()
ARCHIVES = [name for name in ("npz", "npz deflated", "torch") if name in FILES]
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(IN_PLACE + RESIZING),
        st.one_of(st.integers(0, 255), st.integers(0, 2**20)),
        st.integers(0, 300),
        st.one_of(st.sampled_from(EDGES), st.binary(min_size=1, max_size=20)),
    ),
    min_size=1,
    max_size=5,
)
# A reader that takes a second is found by the eye; which examples are slow differs by machine.
FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


# Python's own disassembler of pickles decodes strings with escapes.
@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
class TestSmallFiles:
    @pytest.mark.parametrize("name", FILES)
    def test_an_unchanged_file_is_read(self, name):
        file_format, data = FILES[name]
        assert is_sound(file_format.read, data, TINY)

    @parametrize("name", [name for name in FILES if name != "ncnn"], quick=3)
    def test_every_truncation_of_weights_is_refused(self, name):
        file_format, data = FILES[name]
        # A `.caffemodel` is whole without the layers that follow the last one with weights.
        whole = data.rindex(b"relu_") - 20 if file_format is caffe else len(data)
        for length in range(0, whole, 7 if name == "torch before 1.6" else 1):
            assert not is_sound(file_format.read, data[:length], TINY)

    @parametrize("name", FILES, quick=3)
    @FUZZ
    @given(changes=CHANGES)
    def test_mutations_are_refused_or_read(self, name, changes):
        file_format, data = FILES[name]
        is_sound(file_format.read, mutate(data, changes), TINY)

    @parametrize("name", FILES, quick=3)
    @FUZZ
    @given(data=st.binary(max_size=2000), keep=st.integers(0, 200))
    def test_other_bytes_after_a_good_start_are_refused_or_read(self, name, data, keep):
        file_format, good = FILES[name]
        is_sound(file_format.read, good[:keep] + data, TINY)

    @parametrize("name", ARCHIVES, quick=1)
    @FUZZ
    @given(changes=CHANGES, choice=st.integers(0, 100))
    def test_mutations_of_what_an_archive_holds_are_refused_or_read(self, name, changes, choice):
        # The archive's checksums would find them, if they were not computed anew.
        file_format, data = FILES[name]
        is_sound(file_format.read, with_one_entry_changed(data, choice, changes), TINY)


def with_one_entry_changed(data, choice, changes):
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(target, "w") as new:
        names = old.namelist()
        pickles = [name for name in names if name.endswith(".pkl")]
        # Of PyTorch's entries the pickle is the one with structure: it is chosen half the time.
        changed = pickles[0] if pickles and choice % 2 else names[choice % len(names)]
        for name in names:
            body = old.read(name)
            new.writestr(name, mutate(body, changes) if name == changed else body)
    return target.getvalue()


@pytest.mark.parametrize("name", FILES)
def test_reading_small_files_takes_memory_in_proportion(name):
    file_format, data = FILES[name]
    is_sound(file_format.read, data, TINY)  # imports and caches
    tracemalloc.start()
    try:
        file_format.read(data, TINY)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * len(data) + 100_000
