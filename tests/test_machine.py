"""How ranks that share a machine share its cores, and what a container's limit leaves of them."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from keras_squeezenet import machine
from keras_squeezenet.distributed.launchers import LAUNCHER_VARIABLES

divides_cores = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system does not say which cores are whose"
)
ASK = """
import os
from keras_squeezenet import machine
machine.keep_to_own_cores()
first = sorted(os.sched_getaffinity(0))
machine.keep_to_own_cores()
assert sorted(os.sched_getaffinity(0)) == first, "a second call changed the cores"
answer = f"{first};{machine.own_cores()};{machine.usable_cores()}"
with open(os.path.join(os.environ["ANSWERS"], str(os.getpid())), "w") as file:
    file.write(answer)
"""
ALL = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
MPI_AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
several_cores = pytest.mark.skipif(len(ALL) < 2, reason="there is one core only")


def answers(command, variables=()):
    """What each rank says: its cores, its share, the number that all may use together."""
    # In files: a launcher may mix what its ranks print within a line.
    with tempfile.TemporaryDirectory() as folder:
        variables = {**os.environ, **dict(variables), "ANSWERS": folder}
        subprocess.run(command, env=variables, check=True)
        lines = [path.read_text() for path in Path(folder).iterdir()]
    for line in lines:
        cores, own, usable = line.split(";")
        yield {int(core) for core in cores.strip("[]").split(",")}, int(own), int(usable)


def cores_of(rank, ranks, launcher="HOROVOD"):
    place = {f"{launcher}_LOCAL_RANK": str(rank), f"{launcher}_LOCAL_SIZE": str(ranks)}
    return next(answers([sys.executable, "-c", ASK], place))


@divides_cores
@several_cores
@pytest.mark.parametrize(
    "launcher", ["HOROVOD", "OMPI_COMM_WORLD", "MV2_COMM_WORLD", "JSM_NAMESPACE"]
)
def test_two_ranks_keep_to_half_of_the_cores_each(launcher):
    (first, own, usable), (second, _, _) = (cores_of(rank, 2, launcher) for rank in range(2))
    assert len(first) == len(second) == own == len(ALL) // 2
    assert not first & second
    assert first | second <= ALL
    assert usable == len(ALL)


@divides_cores
@pytest.mark.parametrize("ranks", [1, len(ALL) + 1])
def test_one_rank_or_more_ranks_than_cores_take_them_all(ranks):
    assert cores_of(0, ranks) == (ALL, len(ALL) if ranks == 1 else 1, len(ALL))


@divides_cores
@several_cores
def test_what_the_launcher_has_divided_is_not_divided_again():
    """A launcher as mpirun is: it binds each rank and keeps all cores itself."""
    share = sorted(ALL)[: len(ALL) - 1]
    bind = f"import os; os.sched_setaffinity(0, {share}); {ASK}"
    variables = {"HOROVOD_LOCAL_RANK": "0", "HOROVOD_LOCAL_SIZE": str(len(share))}
    ((cores, own, usable),) = answers([sys.executable, "-c", bind], variables)
    assert cores == set(share)
    assert own == 1
    assert usable == len(ALL)


@divides_cores
@several_cores
@pytest.mark.skipif(shutil.which("mpirun") is None, reason="Open MPI is not installed: mpirun")
@pytest.mark.parametrize("wrapped", [(), ("sh", "-c", '"$@" && true', "sh")])
@pytest.mark.parametrize("binding", ["core", "none"])
def test_ranks_of_open_mpi_have_cores_of_their_own_however_they_are_bound(binding, wrapped):
    command = ["mpirun", "-np", "2", "--bind-to", binding, *wrapped, sys.executable, "-c", ASK]
    (first, own, usable), (second, _, _) = answers(command, MPI_AS_ROOT)
    assert first
    assert second
    assert not first & second
    assert own == len(first)
    assert usable == len(ALL)


def files(folder, contents):
    for name, text in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


class TestQuota:
    """Folders as Linux shows them to a process in different places."""

    @pytest.mark.parametrize(
        ("groups", "contents", "quota"),
        [
            # A pod of Kubernetes with version 2: its own group is the root that it sees.
            ("0::/\n", {"cpu.max": "400000 100000\n"}, 4),
            # A service of systemd with CPUQuota=, and a looser slice around it.
            (
                "0::/user.slice/a.service\n",
                {
                    "user.slice/a.service/cpu.max": "150000 100000\n",
                    "user.slice/cpu.max": "300000 100000\n",
                },
                1.5,
            ),
            # The slice is tighter than the service.
            (
                "0::/user.slice/a.service\n",
                {
                    "user.slice/a.service/cpu.max": "max 100000\n",
                    "user.slice/cpu.max": "50000 100000\n",
                },
                0.5,
            ),
            ("0::/\n", {"cpu.max": "max 100000\n"}, None),
            # Docker with version 1: the path is the host's, the mount shows the container's group.
            (
                "4:cpu,cpuacct:/docker/0123\n1:name=systemd:/docker/0123\n",
                {
                    "cpu,cpuacct/cpu.cfs_quota_us": "200000\n",
                    "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
                },
                2,
            ),
            (
                "1:cpu:/\n0::/\n",
                {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
                None,
            ),
            # Both versions: limits are version 1's.
            (
                "5:cpu:/pod\n0::/pod\n",
                {
                    "cpu/pod/cpu.cfs_quota_us": "300000\n",
                    "cpu/pod/cpu.cfs_period_us": "100000\n",
                    "unified/pod/cgroup.procs": "",
                },
                3,
            ),
            ("7:memory:/\n", {"memory/limit": "1"}, None),
            ("0::/\n", {"cpu.max": "nonsense\n"}, None),
        ],
    )
    def test_the_tightest_limit_counts(self, tmp_path, groups, contents, quota):
        proc = files(tmp_path / "proc", {"cgroup": groups})
        mounted = files(tmp_path / "sys" / "cgroup", contents)
        assert machine.cpu_quota(proc, mounted) == quota

    def test_a_system_without_control_groups_sets_no_limit(self, tmp_path):
        assert machine.cpu_quota(tmp_path / "none", tmp_path) is None

    @pytest.mark.parametrize(("quota", "cores"), [(0.5, 1), (1.0, 1), (1.5, 2), (1000, len(ALL))])
    def test_usable_cores_are_within_the_limit(self, monkeypatch, quota, cores):
        monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
        monkeypatch.setattr(machine, "cpu_quota", lambda: quota)
        assert machine.usable_cores() == min(cores, len(ALL) or os.cpu_count())
        assert machine.own_threads() == machine.usable_cores()

    def test_a_limit_that_linux_enforces_is_found(self):
        group = next(
            (
                root
                for root in map(Path, ("/sys/fs/cgroup/cpu", "/sys/fs/cgroup"))
                if (root / "cgroup.procs").exists() and os.access(root, os.W_OK)
            ),
            None,
        )
        if group is None:
            pytest.skip("control groups cannot be made here: they need root and a writable mount")
        mine = group / f"keras_squeezenet_test_{os.getpid()}"
        try:
            mine.mkdir()
            if (mine / "cpu.cfs_quota_us").exists():
                (mine / "cpu.cfs_quota_us").write_text("100000")
                (mine / "cpu.cfs_period_us").write_text("100000")
            else:
                (mine / "cpu.max").write_text("100000 100000")
        except OSError as error:
            if mine.exists():
                mine.rmdir()
            pytest.skip(f"control groups cannot be limited here: {error}")
        try:
            ask = (
                f"import os; open({str(mine / 'cgroup.procs')!r}, 'w').write(str(os.getpid()));"
                "from keras_squeezenet import machine;"
                "print(machine.cpu_quota(), machine.usable_cores())"
            )
            done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True)
            assert done.stdout.split() == ["1.0", "1"], done.stderr
        finally:
            mine.rmdir()


@pytest.mark.parametrize(("told", "threads"), [("3", 3), ("0", None), ("", None), ("many", None)])
def test_threads_are_as_many_as_tensorflow_is_told(monkeypatch, told, threads):
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", told)
    assert machine.own_threads() == (threads or machine.own_cores())


LIMITED = """
import os
from keras_squeezenet import machine
machine.cpu_quota = lambda: 1.0
import tensorflow as tf
from keras_squeezenet import distributed

def started():
    distributed.start()
    threading = tf.config.threading
    yield threading.get_intra_op_parallelism_threads()
    yield threading.get_inter_op_parallelism_threads()

os.environ["TF_NUM_INTRAOP_THREADS"] = "2"
told = [*started()]
del os.environ["TF_NUM_INTRAOP_THREADS"]
print(told, [*started()])
"""


@pytest.mark.slow
@several_cores
def test_tensorflow_computes_within_the_limit_unless_it_is_told_otherwise():
    environment = {k: v for k, v in os.environ.items() if k not in LAUNCHER_VARIABLES}
    command = [sys.executable, "-c", LIMITED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    # 0 is TensorFlow's own choice, which follows that variable.
    assert done.stdout.strip() == "[0, 0] [1, 1]", done.stderr
