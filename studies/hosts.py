"""Several hosts on one Linux machine: what a cluster is made of, without a cluster.

Each host is a set of namespaces, as a container is: a network of its own with one interface
`eth0`, its own processes, host name and mounts, and its own sshd on port 2222. A bridge in a
further namespace joins them, so that nothing touches the machine's own network. Host names and
the files in /etc/mpi are those that mpi-operator gives the pods of an MPIJob, so that the
launcher's command line of a Kubernetes manifest runs here as it is.

Root's privileges and the commands of `TOOLS` are needed. No TensorFlow.
"""

import ipaddress
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from keras_squeezenet.communication.cost_model import BURST_BYTES

TOOLS = ("ip", "mount", "nsenter", "setpriv", "ssh", "ssh-keygen", "sshd", "tc", "unshare")
SSH_PORT = 2222
NETWORK = ipaddress.IPv4Network("10.77.0.0/24")
# Inside the hosts. The user has neither privileges nor files of others, as in a restricted pod.
USER, USER_ID, HOME = "mpiuser", 1000, Path("/home/mpiuser")
INTERFACE = "eth0"
HOSTFILE = "/etc/mpi/hostfile"
DISCOVERY_SCRIPT = "/etc/mpi/discover_hosts.sh"
QUEUE_BYTES = 8 * 1024 * 1024  # never overflows: what waits here is bounded by TCP's windows
START_SECONDS = 30
# Of a command.
Argument = str | os.PathLike[str]
NAMESPACES = ("--net", "--mount", "--uts", "--ipc", "--pid")

SSHD_CONFIG = f"""\
Port {SSH_PORT}
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
HostKey {HOME}/.ssh/id_rsa
AuthorizedKeysFile {HOME}/.ssh/authorized_keys
MaxStartups 100
"""
SSH_CONFIG = f"""\
Host *
    Port {SSH_PORT}
    StrictHostKeyChecking no
    UserKnownHostsFile /dev/null
    LogLevel ERROR
"""

# Runs as the first process of a host, then becomes the one that keeps it. $1: an empty folder;
# $2: the host's name; $3: folders on the way to what the user has to reach, which may be closed to
# all but their owner (Python in root's home) and are opened in the private copy; then pairs of what
# is to be seen and where.
SET_UP = """
set -e
scratch=$1 name=$2 ways=$3; shift 3
mount -t tmpfs -o mode=0755 tmpfs "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$scratch/root"
root=$scratch/root
mount -t overlay -o "lowerdir=/,upperdir=$scratch/upper,workdir=$scratch/work" overlay "$root"
IFS=:; for way in $ways; do chmod a+rx "$root$way"; done; unset IFS
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs tmpfs "$root/run"
mkdir "$root/run/sshd"
while [ $# -gt 0 ]; do
  if [ -d "$1" ]; then mkdir -p "$root$2"; else mkdir -p "$(dirname "$root$2")"; : >> "$root$2"; fi
  mount --rbind "$1" "$root$2"
  shift 2
done
hostname "$name"
echo ready
exec chroot "$root" sleep infinity
"""


class HostsError(RuntimeError):
    """The hosts cannot be made, or one does not answer; the text is one line."""


def why_not() -> str | None:
    """Why hosts cannot be made on this machine, in a line; None where they can."""
    if sys.platform != "linux":
        return f"network namespaces are Linux's. Received: {sys.platform}"
    if os.geteuid() != 0:
        return "network namespaces, mounts and links need root's privileges"
    missing = [tool for tool in TOOLS if not _tool(tool)]
    if missing:
        return f"missing commands: {', '.join(missing)} (Debian: iproute2, openssh-server)"
    links = "ip link add eth0 type veth peer name eth1 && ip link add bridge type bridge"
    trial = _run(["unshare", *NAMESPACES, "--fork", "sh", "-c", links], check=False)
    if trial.returncode:
        return f"namespaces and links cannot be made here: {trial.stderr.strip()}"
    return None


def interface_bytes(path: str | Path, interface: str = INTERFACE) -> tuple[int, int]:
    """Bytes that came in over a network interface so far, and that left it, with headers.

    Args:
        path: /proc/PID/net/dev of a process in the interface's network.
        interface: its name.

    Raises:
        ValueError: there is no such interface.
    """
    for line in Path(path).read_text(encoding="ascii").splitlines():
        name, _, counters = line.partition(":")
        if name.strip() == interface:
            numbers = counters.split()
            return int(numbers[0]), int(numbers[8])
    raise ValueError(f"{path}: expected an interface {interface}. Received: none of this name")


class Host:
    """One host; made by `Hosts`.

    Attributes:
        name: its host name, that of a pod.
        address: an `ipaddress.IPv4Address`.
    """

    def __init__(
        self,
        name: str,
        address: ipaddress.IPv4Address,
        process: subprocess.Popen,
        environment: Mapping[str, str],
    ) -> None:
        self.name = name
        self.address = address
        self._keeper = process
        self._environment = environment
        self._sshd: subprocess.Popen | None = None

    def popen(
        self,
        command: Iterable[Argument],
        *,
        folder: str | Path = HOME,
        environment: Mapping[str, str] | None = None,
        **keywords: Any,
    ) -> subprocess.Popen:
        """Start a command on this host, as `USER`; keywords as `subprocess.Popen`'s.

        Args:
            command: a list of strings.
            folder: the working folder, as seen on the host.
            environment: variables besides the hosts' own.
        """
        keywords["env"] = {**self._environment, **(environment or {})}
        run = (*self._enter(), *_unprivileged(), "env", f"--chdir={folder}", *map(str, command))
        return subprocess.Popen(run, **keywords)

    def run(
        self, command: Sequence[Argument], *, timeout: float | None = None, **keywords: Any
    ) -> subprocess.CompletedProcess:
        """As `popen`, and wait for its end.

        Returns:
            A `subprocess.CompletedProcess` with its output as text.
        """
        keywords = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **keywords}
        with self.popen(command, **keywords) as process:
            try:
                output, errors = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return subprocess.CompletedProcess(command, process.returncode, output, errors)

    def sent_bytes(self) -> int:
        """Bytes that left `eth0` so far, with headers.

        The kernel hands over segments of up to 64 KiB with one set of headers, as to a card that
        cuts them up itself; on a wire each packet of 1,500 bytes would have its own 54 to 66.
        """
        return self._counters()[1]

    def received_bytes(self) -> int:
        """Bytes that came in over `eth0` so far, counted as in `sent_bytes`."""
        return self._counters()[0]

    def limit(self, bits_per_second: float | None) -> None:
        """Let no more than so much leave `eth0`; None lifts the limit."""
        self._network("tc", "qdisc", "del", "dev", INTERFACE, "root", check=False)
        if bits_per_second is not None:
            self._network(
                *("tc", "qdisc", "add", "dev", INTERFACE, "root", "tbf"),
                *("rate", f"{bits_per_second:.0f}bit"),
                *("burst", str(BURST_BYTES), "limit", str(QUEUE_BYTES)),
            )

    def disconnect(self) -> None:
        """Cut the host off: nothing leaves or comes in, and nobody is told."""
        self._network("ip", "link", "set", INTERFACE, "down")

    def connect(self) -> None:
        """Undo `disconnect`."""
        self._network("ip", "link", "set", INTERFACE, "up")

    def kill(self) -> None:
        """End every process of the host at once, and its network with them."""
        self._keeper.kill()
        self._keeper.wait()
        if self._sshd:
            self._sshd.wait()

    @property
    def _first_process(self) -> str:
        """Number of the host's first process, as seen from outside."""
        if self._keeper.poll() is not None:
            raise HostsError(f"The host {self.name} has ended")
        return _child(self._keeper)

    def _enter(self) -> list[str]:
        return ["nsenter", "--target", self._first_process, *NAMESPACES, "--root"]

    def _network(self, *command: Argument, check: bool = True) -> subprocess.CompletedProcess[str]:
        enter = ["nsenter", "--target", self._first_process, "--net"]
        return _run([*enter, *command], check=check)

    def _counters(self) -> tuple[int, int]:
        return interface_bytes(f"/proc/{self._first_process}/net/dev")

    def _start_sshd(self) -> None:
        self._sshd = self.popen(
            [_tool("sshd") or "sshd", "-D", "-e", "-f", HOME / "sshd_config"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


class Hosts:
    """A launcher and workers, joined by a bridge; a context manager.

    Args:
        workers: how many to begin with.
        slots: ranks per worker, for the host file.
        job: the MPIJob's name, from which the hosts have theirs: `job-launcher`, `job-worker-0`,
            the latter also as `job-worker-0.job.default.svc`.
        mounts: files and folders inside the hosts, `{path inside: real path}`. `USER` owns neither:
            give it the rights to write that it needs.
        visible: further folders that are the same inside and outside; the current folder, this
            Python's environment and the folder of temporary files are. All else is a private copy
            whose changes are lost.
        environment: variables of every command, besides PATH, HOME and USER.
        sshd_config, ssh_config: files to use instead of `SSHD_CONFIG` and `SSH_CONFIG`.

    Attributes:
        launcher: a `Host`.
        workers: a list of `Host`.

    Raises:
        HostsError: on entering; says what is missing or what failed.
    """

    launcher: Host

    def __init__(
        self,
        workers: int,
        *,
        slots: int = 1,
        job: str = "squeezenet",
        mounts: Mapping[str | Path, str | Path] | None = None,
        visible: Iterable[Path] = (),
        environment: Mapping[str, str] | None = None,
        sshd_config: str | Path | None = None,
        ssh_config: str | Path | None = None,
    ) -> None:
        self.job = job
        self.slots = slots
        self.workers: list[Host] = []
        self._count = workers
        self._made = 0
        self._mounts = {str(inside): Path(real) for inside, real in (mounts or {}).items()}
        self._visible = [Path.cwd(), Path(sys.prefix), Path(tempfile.gettempdir()), *visible]
        self._environment = {
            "HOME": str(HOME),
            "LANG": "C.UTF-8",
            "PATH": os.pathsep.join([str(Path(sys.prefix) / "bin"), "/usr/bin", "/bin"]),
            "USER": USER,
            **(environment or {}),
        }
        self._sshd_config = Path(sshd_config).read_text() if sshd_config else SSHD_CONFIG
        self._ssh_config = Path(ssh_config).read_text() if ssh_config else SSH_CONFIG
        self._addresses = NETWORK.hosts()

    def __enter__(self) -> Self:
        reason = why_not()
        if reason:
            raise HostsError(f"Several hosts cannot be made here: {reason}")
        self._folder = Path(tempfile.mkdtemp(prefix="hosts-"))
        self._folder.chmod(0o755)
        try:
            self._write_shared_files()
            self._switch = _keep("--net", "sh", "-c", "echo ready; exec sleep infinity")
            self._in_switch("ip", "link", "add", "bridge", "type", "bridge")
            self._in_switch("ip", "link", "set", "bridge", "up")
            self.launcher = self._make(f"{self.job}-launcher")
            for _ in range(self._count):
                self.add_worker()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End all hosts and leave nothing behind."""
        # Whatever there is of them, if they could not all be made.
        if hasattr(self, "launcher"):
            self.launcher.kill()
        for host in self.workers:
            host.kill()
        self.workers = []
        if hasattr(self, "_switch"):
            self._switch.kill()
            self._switch.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def add_worker(self) -> Host:
        """Start one more worker; the files in /etc/mpi name it from then on.

        Returns:
            The `Host`. Its sshd answers.
        """
        host = self._make(f"{self.job}-worker-{self._made - 1}")
        host._start_sshd()
        self._await_sshd(host)
        self.workers.append(host)
        self._write_host_files()
        return host

    def remove_worker(self, host: Host) -> None:
        """End a worker as a node that loses power does; the files in /etc/mpi forget it."""
        self.workers.remove(host)
        self._write_host_files()
        host.kill()

    def limit(self, bits_per_second: float | None) -> None:
        """`Host.limit` on every host."""
        for host in (self.launcher, *self.workers):
            host.limit(bits_per_second)

    def _make(self, name: str) -> Host:
        address = next(self._addresses)
        self._add_name(address, name)
        scratch = self._folder / name
        scratch.mkdir()
        visible = list(dict.fromkeys(self._visible))
        mounts: list[tuple[Argument, Argument]] = [
            *((path, path) for path in visible),
            (self._folder / "home", HOME),
            (self._folder / "passwd", "/etc/passwd"),
            (self._folder / "hosts", "/etc/hosts"),
            (self._folder / "mpi", "/etc/mpi"),
            *((real, inside) for inside, real in self._mounts.items()),
        ]
        reached = (Path(sys.base_prefix), *visible)
        ways = sorted({str(folder) for path in reached for folder in path.parents})
        keeper = _keep(
            *(*NAMESPACES, "--propagation", "private"),
            *("sh", "-c", SET_UP, "sh", scratch, name, ":".join(ways)),
            *(path for pair in mounts for path in pair),
        )
        host = Host(name, address, keeper, self._environment)
        port = f"port-{self._made}"
        self._made += 1
        peer = ("peer", "name", INTERFACE, "netns", host._first_process)
        self._in_switch("ip", "link", "add", port, "type", "veth", *peer)
        self._in_switch("ip", "link", "set", port, "master", "bridge", "up")
        host._network("ip", "address", "add", f"{address}/{NETWORK.prefixlen}", "dev", INTERFACE)
        host._network("ip", "link", "set", INTERFACE, "up")
        host._network("ip", "link", "set", "lo", "up")
        return host

    def _in_switch(self, *command: Argument) -> None:
        _run(["nsenter", "--target", _child(self._switch), "--net", *command])

    def _write_shared_files(self) -> None:
        """What all hosts see alike: the user's home with the keys, and the names of the hosts."""
        keys = self._folder / "home" / ".ssh"
        keys.mkdir(parents=True)
        _run(["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", keys / "id_rsa"])
        shutil.copy(keys / "id_rsa.pub", keys / "authorized_keys")
        (keys / "config").write_text(self._ssh_config)
        (keys.parent / "sshd_config").write_text(self._sshd_config)
        os.chown(keys.parent, USER_ID, USER_ID)
        # As mpi-operator mounts them: root's, and readable. ssh minds only if its own user's are.
        for path in keys.iterdir():
            path.chmod(0o644)
        users = Path("/etc/passwd").read_text().splitlines()
        others = [
            line
            for line in users
            if line.split(":")[0] != USER and line.split(":")[2] != str(USER_ID)
        ]
        entry = f"{USER}:x:{USER_ID}:{USER_ID}::{HOME}:/bin/bash"
        (self._folder / "passwd").write_text("\n".join([*others, entry, ""]))
        (self._folder / "hosts").write_text("127.0.0.1 localhost\n")
        (self._folder / "mpi").mkdir()
        self._write_host_files()

    def _add_name(self, address: ipaddress.IPv4Address, name: str) -> None:
        # The same file for good: it is mounted into the hosts that are there already.
        with (self._folder / "hosts").open("a") as hosts:
            hosts.write(f"{address} {name} {self._full_name(name)}\n")

    def _full_name(self, name: str) -> str:
        return f"{name}.{self.job}.default.svc"

    def _write_host_files(self) -> None:
        """The files that mpi-operator writes: for Open MPI, and for elastic Horovod."""
        names = [self._full_name(worker.name) for worker in self.workers]
        folder = self._folder / "mpi"
        lines = "".join(f"{name} slots={self.slots}\n" for name in names)
        _replace(folder / "hostfile", lines, 0o644)
        lines = "".join(f"echo {name}\n" for name in names)  # without slots, as the operator does
        _replace(folder / "discover_hosts.sh", f"#!/bin/sh\n{lines}", 0o755)

    def _await_sshd(self, host: Host) -> None:
        until = time.monotonic() + START_SECONDS
        while True:
            answer = self.launcher.run(["ssh", "-o", "ConnectTimeout=5", host.name, "true"])
            if answer.returncode == 0:
                return
            if time.monotonic() > until:
                raise HostsError(f"sshd on {host.name} does not answer: {answer.stderr.strip()}")
            time.sleep(0.1)


def _with_tools_of_root() -> dict[str, str]:
    """The environment, and where chroot and tc are, which not everybody's path has."""
    return {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"}


def _keep(*command: Argument) -> subprocess.Popen[str]:
    """Start a process that keeps new namespaces until it is killed, or we are."""
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "unshare", "--fork", "--kill-child", *map(str, command)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_with_tools_of_root(),
        # Ctrl-C is for us: the hosts are ended in order.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert process.stdout is not None  # pipes, as asked for
    assert process.stderr is not None
    with process.stdout as output, process.stderr as errors:
        if output.readline() != "ready\n":
            process.kill()
            process.wait()
            raise HostsError(f"A host cannot be made: {errors.read().strip()}")
    return process


def _child(keeper: subprocess.Popen) -> str:
    """Number of the process that `unshare` started, the first one in its namespaces."""
    return Path(f"/proc/{keeper.pid}/task/{keeper.pid}/children").read_text().split()[0]


def _unprivileged() -> tuple[str, ...]:
    """The command that gives up root's privileges as a restricted pod does."""
    user = (f"--reuid={USER_ID}", f"--regid={USER_ID}", "--clear-groups")
    return ("setpriv", *user, "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all")


def _run(command: Iterable[Argument], check: bool = True) -> subprocess.CompletedProcess[str]:
    words = list(map(str, command))
    process = subprocess.run(words, capture_output=True, text=True, env=_with_tools_of_root())
    if check and process.returncode:
        text = " ".join(map(str, command))
        raise HostsError(f"{text}: {' '.join(process.stderr.split())}")
    return process


def _tool(name: str) -> str | None:
    """Where a command is; root's are not on everybody's PATH."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def _replace(path: Path, text: str, mode: int) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text)
    temporary.chmod(mode)
    temporary.rename(path)
