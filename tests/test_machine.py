"""How ranks that share a machine share its cores."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system does not say which cores are whose"
)
ASK = """
import os
from keras_squeezenet import machine
machine.keep_to_own_cores()
print(sorted(os.sched_getaffinity(0)), machine.own_cores(), machine.usable_cores(), sep=";")
"""


def cores_of(rank, ranks):
    """The cores that a rank keeps to, and what it then says of its own and of all usable ones."""
    place = {"HOROVOD_LOCAL_RANK": str(rank), "HOROVOD_LOCAL_SIZE": str(ranks)}
    command = [sys.executable, "-c", ASK]
    out = subprocess.run(
        command, env={**os.environ, **place}, capture_output=True, text=True, check=True
    ).stdout
    cores, own, usable = out.split(";")
    return {int(core) for core in cores.strip("[]").split(",")}, int(own), int(usable)


ALL = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


@pytest.mark.skipif(len(ALL) < 2, reason="there is one core only")
def test_two_ranks_keep_to_half_of_the_cores_each():
    (first, own, usable), (second, _, _) = (cores_of(rank, 2) for rank in range(2))
    assert len(first) == len(second) == own == len(ALL) // 2
    assert not first & second
    assert first | second <= ALL
    assert usable == len(ALL)


@pytest.mark.parametrize("ranks", [1, len(ALL) + 1])
def test_one_rank_or_more_ranks_than_cores_take_them_all(ranks):
    assert cores_of(0, ranks) == (ALL, len(ALL) if ranks == 1 else 1, len(ALL))
