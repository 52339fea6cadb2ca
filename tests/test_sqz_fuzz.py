"""Broken .sqz files and updates end in one clear line or in a sound network; memory is bounded.

Half of the changes mend the checksum afterwards, so that what is behind it is reached.
"""

import random
import re
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest

from keras_squeezenet import sqz
from keras_squeezenet.network.architecture import Architecture, FireFilters
from keras_squeezenet.sqz import SqzError, container, huffman
from keras_squeezenet.sqz.coding import SECTIONS
from keras_squeezenet.sqz.network import CompressedNetwork
from keras_squeezenet.sqz.reading import unpack_bits
from tests.sqz_networks import counted, made_by
from tests.test_weight_files_fuzz import IN_PLACE, RESIZING, mutate, random_changes
from tests.tiers import parametrize

GOLDEN = Path(__file__).parent / "golden"
# Of each file, a tenth of them while one waits.
MUTATIONS = 25_000
TENTHS = [1, pytest.param(9, marks=pytest.mark.slow)]
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
    """Of each kind and version: an old file, an update of it, and the network that this gives."""
    old = sqz.encode(counted(architecture=SMALL))
    changed = sqz.encode(counted(0.25, period=19, architecture=SMALL))
    made = {
        "changes": (old, sqz.diff(old, changed)),
        "whole file": (old, sqz.diff(old, sqz.encode(counted()))),
        **{
            f"{kind} of version 1": tuple(
                (GOLDEN / f"grid-best{end}").read_bytes() for end in (".sqz", f"-to-{new}.sqzdelta")
            )
            for kind, new in (("changes", "delta-target.1"), ("whole file", "float32-best.1"))
        },
    }
    return {name: (*pair, sqz.decode(sqz.patch(*pair))) for name, pair in made.items()}


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


@pytest.mark.parametrize("tenths", TENTHS)
@parametrize("name", files(), quick=2)
def test_mutated_files_are_refused_or_sound(name, tenths):
    data, rng = files()[name], random.Random(f"{name} {tenths}")
    outcomes = set()
    for number in range(tenths * MUTATIONS // 10):
        changed = mutate(data, random_changes(rng, [0, 10, 60], IN_PLACE + RESIZING))
        outcomes.add(is_sound(sqz.decode, mended(changed) if number % 2 else changed))
    assert False in outcomes


HOSTILE_JSON = (
    *("9" * digits for digits in (9, 10, 20, 4200, 20_000)),
    *("-1", "0", "16777216", "65537", "2.5", "1e400", "-0.0", "NaN", "Infinity"),
    *("null", "true", "[]", "{}", "[" * 3000, '"\\n"', '"\\ud800"', f'"{"x" * 5000}"'),
)


def header_of(data):
    _, sections = container.read_file(data, SECTIONS)
    return zlib.decompressobj(-15, container.DICTIONARY).decompress(sections["header"])


def with_header(data, header):
    """The file with another JSON text as its header, deflated and with the right checksum."""
    mode, sections = container.read_file(data, SECTIONS)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=container.DICTIONARY)
    sections["header"] = deflate.compress(header) + deflate.flush()
    return container.write_file(mode, list(sections.values()))


@parametrize("name", files(), quick=2)
def test_mutated_headers_are_refused_or_sound(name):
    """What deflate would hide from changes of the file's bytes."""
    data, rng = files()[name], random.Random(name)
    header = header_of(data)
    assert is_sound(sqz.decode, with_header(data, header))
    tokens = [match.span() for match in re.finditer(rb'"[^"]*"|[\d.]+|null', header)]
    outcomes = set()
    for start, end in tokens:
        for value in HOSTILE_JSON:
            changed = header[:start] + value.encode() + header[end:]
            outcomes.add(is_sound(sqz.decode, with_header(data, changed)))
    for _ in range(300):
        changed = mutate(header, random_changes(rng, [0, 10, 60], IN_PLACE + RESIZING))
        outcomes.add(is_sound(sqz.decode, with_header(data, changed)))
    assert outcomes == {True, False}


@pytest.mark.parametrize("tenths", TENTHS)
@parametrize("name", updates(), quick=2)
def test_mutated_updates_are_refused_or_give_the_network_all_the_same(name, tenths):
    """The latter where only a hint for the writer is another, or the mode of what it writes."""
    old, delta, network = updates()[name]
    rng = random.Random(f"{name} {tenths}")
    for number in range(tenths * MUTATIONS // 250):
        changed = mutate(delta, random_changes(rng, [10, 70, 90], IN_PLACE + RESIZING))
        changed = mended(changed) if number % 2 else changed
        if changed != delta and is_sound(lambda bytes_: sqz.patch(old, bytes_), changed):
            assert sqz.digest(sqz.decode(sqz.patch(old, changed))) == sqz.digest(network)
            assert "1" not in name


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


@parametrize("mode", ["faithful", "best"], quick=1)
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


def peak_of(function, *arguments):
    tracemalloc.start()
    try:
        function(*arguments)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_huffman_stream_that_is_too_long_is_refused_before_it_is_decoded():
    data, lengths = bytes(50_000_000), np.full(4, 2, np.uint8)

    def decode():
        with pytest.raises(SqzError, match=r"words take from 13 to 25 bytes\. Received: 50000000"):
            huffman.decode(data, lengths, 100)

    assert peak_of(decode) < 1_000_000


@pytest.mark.slow
def test_decoding_takes_memory_for_the_symbols_and_little_for_the_stream():
    lengths = np.array([1, 2, *range(3, 20), 20, 20], np.uint8)
    symbols = np.full(1_000_000, 20)
    data = huffman.encode(symbols, lengths)
    assert len(data) == 2_500_000
    assert peak_of(huffman.decode, data, lengths, len(symbols)) < 8 * len(symbols) + 30_000_000


def test_unpacking_takes_memory_for_the_numbers_and_little_for_the_bits():
    widths = np.full(500_000, 32)
    data = bytes(4 * len(widths))
    assert peak_of(unpack_bits, data, widths) < 8 * len(widths) + 40_000_000
