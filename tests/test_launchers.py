"""Which launcher started this process, as which of how many."""

import sys
from types import SimpleNamespace

import pytest
import tensorflow as tf

from keras_squeezenet import distributed
from keras_squeezenet.distributed.launchers import VARIABLES, launch
from tests.launching import SECOND_OF_TWO

BATCH_SCRIPT = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"}
ONE_TASK = BATCH_SCRIPT | {"SLURM_STEP_NUM_TASKS": "1"}
ALONE = {
    "a batch script": BATCH_SCRIPT,
    "a batch script with a step's variables": ONE_TASK,
    "srun -n 1 --mpi=pmix --pty bash": ONE_TASK | {"PMIX_RANK": "0"},
    "jsrun -n 1": {"JSM_NAMESPACE_RANK": "0", "JSM_NAMESPACE_SIZE": "1"},
    "an allocation": {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"},
}


@pytest.fixture
def told(monkeypatch):
    """Sets the variables of a launcher, and no other's."""

    def tell(variables):
        for names in VARIABLES.items():
            for name in names:
                monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    # What the tests' own process has learned, and what `start` sets.
    monkeypatch.setattr(distributed.ranks, "_place", None)
    monkeypatch.setenv("HOROVOD_GLOO_TIMEOUT_SECONDS", "120")
    return tell


@pytest.fixture
def horovod(monkeypatch):
    """A Horovod that has joined this process to nobody, as one that does not know its launcher."""
    calls = []
    module = SimpleNamespace(
        init=lambda: calls.append("init"),
        is_initialized=lambda: bool(calls),
        rank=lambda: 0,
        size=lambda: 1,
        local_rank=lambda: 0,
        local_size=lambda: 1,
    )
    monkeypatch.setitem(sys.modules, "horovod.tensorflow", module)
    return module


@pytest.mark.parametrize("launcher", SECOND_OF_TWO)
class TestSeveral:
    def test_a_rank_is_numbered(self, told, launcher):
        told(SECOND_OF_TWO[launcher])
        assert launch()[:2] == (1, None if launcher == "PMIx" else 2)
        assert distributed.launched_rank() == 1

    def test_it_trains_by_itself_neither_before_it_starts_nor_joined_to_nobody(
        self, told, horovod, launcher
    ):
        told(SECOND_OF_TWO[launcher])
        with pytest.raises(distributed.LauncherError, match="has not joined them"):
            distributed.communicates()
        distributed.start()
        number = "several" if launcher == "PMIx" else "2"
        with pytest.raises(distributed.LauncherError, match=f"launcher started {number} processes"):
            distributed.communicates()


@pytest.mark.parametrize("started", ALONE)
def test_one_process_of_a_clusters_manager_is_no_rank(told, horovod, started):
    told(ALONE[started])
    assert launch() is None
    distributed.start()
    assert not horovod.is_initialized()
    assert not distributed.communicates()


@pytest.mark.parametrize(
    ("nearest", "around"),
    [("Open MPI", "srun"), ("horovodrun", "srun"), ("horovodrun", "a batch script")],
)
def test_the_nearest_of_several_launchers_counts(told, nearest, around):
    told(SECOND_OF_TWO[nearest] | {**SECOND_OF_TWO, **ALONE}[around] | {"SLURM_PROCID": "3"})
    assert launch() == (1, 2, False)


def test_a_single_process_of_mpirun_within_a_step_of_several_tasks_is_alone(told, horovod):
    told(SECOND_OF_TWO["srun"] | {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"})
    distributed.start()
    assert not distributed.communicates()


class TestGPUs:
    @pytest.fixture
    def taken(self, monkeypatch, horovod):
        """What `start` has taken where each of four ranks sees one GPU."""
        visible = []
        monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["the one GPU"])
        monkeypatch.setattr(tf.config, "set_visible_devices", lambda gpu, kind: visible.append(gpu))
        monkeypatch.setattr(horovod, "local_rank", lambda: 3)
        monkeypatch.setattr(horovod, "local_size", lambda: 4)
        return visible

    @pytest.mark.parametrize("launcher", ["srun", "srun --mpi=pmix", "jsrun"])
    def test_a_rank_takes_the_one_that_its_clusters_manager_shows_it(self, told, taken, launcher):
        told(SECOND_OF_TWO[launcher])
        distributed.start()
        assert taken == ["the one GPU"]

    @pytest.mark.parametrize("launcher", ["horovodrun", "Open MPI"])
    def test_of_other_launchers_ranks_each_needs_one(self, told, taken, launcher):
        told(SECOND_OF_TWO[launcher])
        with pytest.raises(distributed.LauncherError, match="Received: 4 ranks on it"):
            distributed.start()
        assert not taken
