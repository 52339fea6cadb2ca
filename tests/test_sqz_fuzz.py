"""Broken .sqz files and updates end in one clear line or in a sound network; memory is bounded.

Half of the changes mend the checksum afterwards, so that what is behind it is reached.
"""

import random
import tracemalloc
import zlib

import numpy as np
import pytest

from keras_squeezenet.architecture import Architecture, FireFilters
from keras_squeezenet.compression import sqz
from keras_squeezenet.compression.network import CompressedNetwork
from keras_squeezenet.compression.sqz import SqzError
from tests.sqz_networks import counted, made_by
from tests.test_weight_files_fuzz import IN_PLACE, RESIZING, mutate, random_changes

MUTATIONS = 25_000  # of each file
SMALL = Architecture("small", 4, 3, (FireFilters(2, 3, 4), FireFilters(3, 4, 0, "complex")), (1,))


def files():
    return {
        f"{kind}-{mode}": sqz.encode(network, mode)
        for mode in ("faithful", "best")
        for kind, network in (
            ("grid", counted(architecture=SMALL, class_names=tuple("abcde"))),
            ("float32", counted(np.pi, architecture=SMALL)),
        )
    }


def updates():
    old = sqz.encode(counted(architecture=SMALL))
    changed = sqz.encode(counted(0.25, period=19, architecture=SMALL))
    other = sqz.encode(counted())
    return old, {"changes": sqz.diff(old, changed), "whole file": sqz.diff(old, other)}


def mended(data):
    return data[:-4] + zlib.crc32(data[:-4]).to_bytes(4, "little")


def is_sound(read, data):
    try:
        result, complaint = read(data), ""
    except SqzError as error:
        result, complaint = None, str(error)
    if result is None:
        assert len(complaint.splitlines()) == 1, repr(complaint)
        assert len(complaint) < 1000
        return False
    if isinstance(result, CompressedNetwork):
        # What was read is checked as any network is; and it can be written again.
        assert isinstance(sqz.encode(result), bytes)
    return True


@pytest.mark.parametrize("name", files())
def test_mutated_files_are_refused_or_sound(name):
    data, rng = files()[name], random.Random(name)
    outcomes = set()
    for number in range(MUTATIONS):
        changed = mutate(data, random_changes(rng, [0, 10, 60], IN_PLACE + RESIZING))
        outcomes.add(is_sound(sqz.decode, mended(changed) if number % 2 else changed))
    assert False in outcomes


@pytest.mark.parametrize("name", ["changes", "whole file"])
def test_mutated_updates_are_refused(name):
    old, deltas = updates()
    rng = random.Random(name)
    assert is_sound(lambda delta: sqz.patch(old, delta), deltas[name])
    for number in range(MUTATIONS // 10):
        changed = mutate(deltas[name], random_changes(rng, [70, 90], IN_PLACE + RESIZING))
        changed = mended(changed) if number % 2 else changed
        if changed != deltas[name]:
            assert not is_sound(lambda delta: sqz.patch(old, delta), changed)


@pytest.mark.parametrize("name", files())
def test_files_cut_short_are_refused(name):
    data = files()[name]
    for length in range(len(data)):
        assert not is_sound(sqz.decode, data[:length])
        assert not is_sound(sqz.decode, mended(data[:length]))


@pytest.mark.parametrize("start", [b"", b"\x89SQZ\x01\x00", b"\x89SQZ\x01\x01"])
def test_random_bytes_are_refused(start):
    rng = random.Random(0)
    for _ in range(500):
        assert not is_sound(sqz.decode, mended(start + rng.randbytes(rng.randrange(300))))


@pytest.mark.parametrize("mode", ["faithful", "best"])
def test_a_small_file_takes_bounded_memory(mode):
    """The largest kernel that there may be, in some hundred bytes."""
    wide = Architecture("wide", 1, 1, (FireFilters(1, 500, 0),), ())
    classes = 2**15
    network = made_by(lambda shape: np.zeros(shape, np.float32), wide, classes)
    data = sqz.encode(network, mode)
    assert len(data) < 200
    del network
    tracemalloc.start()
    sqz.decode(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 500_000_000
