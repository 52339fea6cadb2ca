"""k8s/Dockerfile and what it copies: the image's parts, sshd and the hooks as they run in a pod."""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hosts import Hosts, why_not

from tests.manifests import DISCOVERY_SCRIPT, K8S, REPOSITORY, ignored, stages

needs_hosts = pytest.mark.skipif(why_not() is not None, reason=f"hosts: {why_not()}")
DOCKERFILE = (K8S / "Dockerfile").read_text()


def test_every_file_that_the_image_copies_is_there_and_not_ignored():
    patterns = (K8S / "Dockerfile.dockerignore").read_text()
    assert patterns.splitlines()[1] == "*"
    copied = [
        source
        for stage in stages(DOCKERFILE)
        for origin, sources, _ in stage.copies()
        if origin is None
        for source in sources
    ]
    assert copied
    for source in copied:
        assert (REPOSITORY / source).exists(), source
        assert not ignored(source, patterns), source
    assert ignored(".venv", patterns)
    assert ignored("runs/demo/model.keras", patterns)
    assert ignored("k8s/base", patterns)


@pytest.mark.parametrize("accelerator", ["cpu", "cuda"])
def test_every_stage_builds_on_one_before_it_or_on_an_image_with_a_tag(accelerator):
    text = DOCKERFILE.replace("ARG ACCELERATOR=cpu", f"ARG ACCELERATOR={accelerator}", 1)
    known = []
    for stage in stages(text):
        assert stage.base in known or re.fullmatch(r"[\w./-]+:[\w.-]+", stage.base), stage.base
        assert {origin for origin, _, _ in stage.copies()} <= {None, *known}
        known.append(stage.name)
    assert f"compilers-{accelerator}" == next(s.base for s in stages(text) if s.name == "build")


def test_the_image_builds_horovod_with_the_script_of_a_laptop_and_asks_it_for_nccl():
    script = (REPOSITORY / "keras_squeezenet" / "cli" / "horovod_build.py").read_text()
    (build_stage,) = (stage for stage in stages(DOCKERFILE) if stage.name == "build")
    assert any("cli/horovod_build.py" in text for text in build_stage.texts("RUN"))
    (cuda,) = (stage for stage in stages(DOCKERFILE) if stage.name == "compilers-cuda")
    (settings,) = cuda.texts("ENV")
    assert "HOROVOD_GPU_OPERATIONS=NCCL" in settings.split()
    assert "HOROVOD_WITH_MPI" in script
    # The wheel's cache is for one set of these.
    for name in ("HOROVOD_GPU_OPERATIONS", "HOROVOD_CUDA_HOME", "HOROVOD_NCCL_HOME"):
        assert name in script


def test_what_is_copied_first_is_enough_to_install_the_packages_requirements(tmp_path):
    (build_stage,) = (stage for stage in stages(DOCKERFILE) if stage.name == "build")
    for instruction, text in build_stage.steps:
        if instruction == "RUN":
            break
        if instruction == "COPY":
            *sources, destination = text.split()
            for source in sources:
                target = tmp_path / (destination if len(sources) == 1 else source)
                target.parent.mkdir(exist_ok=True)
                shutil.copy(REPOSITORY / source, target)
    command = (
        "from setuptools.build_meta import prepare_metadata_for_build_wheel as p; print(p('.'))"
    )
    subprocess.run([sys.executable, "-c", command], cwd=tmp_path, check=True, capture_output=True)
    (metadata,) = tmp_path.glob("*.dist-info/METADATA")
    assert "Requires-Dist: tensorflow" in metadata.read_text()
    assert "Requires-Dist: tensorboard" in metadata.read_text()


# In namespaces of its own: a user 1000 called mpiuser, the key files as mpi-operator mounts them
# for a user who is not root (root's, mode 0644; newSSHAuthSecret and setupSSHOnPod make
# ECDSA keys on P-521 in PEM), no capability and no way to one, and nothing to write on but /dev.
POD = """
set -e
ip link set lo up
mount -t tmpfs tmpfs /home
mkdir -p /home/mpiuser/.ssh
ssh-keygen -q -t ecdsa -b 521 -m PEM -N '' -f /home/mpiuser/.ssh/id_rsa
cp /home/mpiuser/.ssh/id_rsa.pub /home/mpiuser/.ssh/authorized_keys
chmod 0644 /home/mpiuser/.ssh/*
printf 'root:x:0:0::/root:/bin/sh\nmpiuser:x:1000:1000::/home/mpiuser:/bin/bash\n' > /home/passwd
cp "$1/sshd_config" "$1/ssh_config" /home
mount --bind /home/passwd /etc/passwd
mount -o remount,ro /home
mount -o remount,bind,ro /
as_user() {
    env -i PATH="$PATH" setpriv --reuid 1000 --regid 1000 --clear-groups --no-new-privs \\
        --bounding-set=-all --inh-caps=-all "$@"
}
as_user "$(command -v sshd || echo /usr/sbin/sshd)" -D -e -f /home/sshd_config &
for attempt in 1 2 3 4 5 6 7 8 9 10; do
    if as_user ssh -F /home/ssh_config localhost true; then break; fi
    sleep 0.5
done
set +e
as_user ssh -F /home/ssh_config localhost 'id -un; grep CapEff /proc/self/status; exit 143'
echo "status $?"
"""


@pytest.mark.skipif(why_not() is not None, reason=f"namespaces: {why_not()}")
def test_a_user_without_any_privilege_serves_ssh_with_the_keys_that_mpi_operator_mounts():
    namespaces = ("--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
    pod = subprocess.run(
        ["unshare", *namespaces, "bash", "-c", POD, "pod", K8S],
        capture_output=True,
        text=True,
        timeout=60,
    )
    user, capabilities, status = pod.stdout.splitlines()
    assert (user, status) == ("mpiuser", "status 143"), pod.stderr
    assert int(capabilities.split()[1], 16) == 0


# Stands for a rank that saves when it is told to end, and takes its time.
RANK = """
import signal, sys, time
from pathlib import Path

def save(number, frame):
    time.sleep(1)
    Path(sys.argv[1]).write_text("saved")
    sys.exit(143)

signal.signal(signal.SIGTERM, save)
Path(sys.argv[1]).write_text("training")
time.sleep(100)
"""


@pytest.fixture(scope="module")
def pod_hosts():
    mounts = {f"/usr/local/bin/{name}": K8S / name for name in ("stop_ranks", "until_reachable")}
    configurations = {name: K8S / name for name in ("sshd_config", "ssh_config")}
    with Hosts(workers=2, mounts=mounts, **configurations) as hosts:
        yield hosts


def start_rank(hosts, worker, path):
    """As horovodrun starts a rank on a worker, and wait until it trains."""
    command = f"cd /tmp; env HOROVOD_RANK=0 {sys.executable} -c '{RANK}' {path}"
    rank = hosts.launcher.popen(["ssh", worker.name, command])
    for _ in range(300):
        if path.exists() and path.read_text() == "training":
            return rank
        try:
            rank.wait(0.1)
            break
        except subprocess.TimeoutExpired:
            pass
    pytest.fail(f"the rank did not start: {rank.poll()}")


@pytest.fixture
def shared_folder():
    """A folder that the hosts' user reaches and may write to; tmp_path is closed to others."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder


@needs_hosts
@pytest.mark.slow
@pytest.mark.alone
def test_the_launcher_waits_until_as_many_workers_answer_as_it_needs(pod_hosts):
    def launch(count):
        command = ["/usr/local/bin/until_reachable", count, "sh", "-c", "echo go; exit 3"]
        return pod_hosts.launcher.popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    late = pod_hosts.workers[1]
    late.disconnect()
    with launch(1) as one, launch(2) as two:
        try:
            assert one.communicate(timeout=60)[0] == "go\n"
            assert one.returncode == 3
            while "waiting until 2 workers" not in (said := two.stderr.readline()):
                assert said, "ended without a word"
            assert two.poll() is None
        finally:
            late.connect()
        assert two.communicate(timeout=60)[0] == "go\n"


@needs_hosts
@pytest.mark.slow
@pytest.mark.alone
def test_a_workers_hook_lets_its_ranks_save_and_leaves_other_processes(pod_hosts, shared_folder):
    worker = pod_hosts.workers[0]
    rank = start_rank(pod_hosts, worker, shared_folder / "rank")
    with worker.popen(["sleep", "100"]) as other:
        hook = worker.run(["/usr/local/bin/stop_ranks"], timeout=60)
        assert hook.returncode == 0, hook.stderr
        # Not before the rank has saved: with the hook's end Kubernetes ends the container.
        assert (shared_folder / "rank").read_text() == "saved"
        assert rank.wait(30) == 143
        assert other.poll() is None
        other.kill()


@needs_hosts
@pytest.mark.slow
@pytest.mark.alone
def test_a_workers_hook_ends_at_once_where_no_rank_runs(pod_hosts):
    assert pod_hosts.workers[0].run(["/usr/local/bin/stop_ranks"], timeout=60).returncode == 0


@needs_hosts
@pytest.mark.slow
@pytest.mark.alone
def test_the_launchers_hook_lets_the_ranks_of_all_workers_save(pod_hosts, shared_folder):
    paths = [shared_folder / worker.name for worker in pod_hosts.workers]
    ranks = [start_rank(pod_hosts, *pair) for pair in zip(pod_hosts.workers, paths, strict=True)]
    # mpi-operator's script gives the names alone.
    script = pod_hosts.launcher.run([DISCOVERY_SCRIPT]).stdout
    assert len(script.split()) == 2
    hook = pod_hosts.launcher.run(["/usr/local/bin/stop_ranks", "--on-workers"], timeout=60)
    assert hook.returncode == 0, hook.stderr
    assert [path.read_text() for path in paths] == ["saved", "saved"]
    assert [rank.wait(30) for rank in ranks] == [143, 143]
