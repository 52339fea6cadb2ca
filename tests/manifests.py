"""The manifests of k8s/ as data: built, with the image and the command lines that they rely on.

python -m tests.manifests FOLDER    writes them, and what mpi-operator makes of them, for linters
"""

import argparse
import contextlib
import copy
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache
from pathlib import Path, PurePosixPath
from unittest import mock

import yaml

from keras_squeezenet.cli import training
from keras_squeezenet.files import write_text

REPOSITORY = Path(__file__).parents[1]
K8S = REPOSITORY / "k8s"
OVERLAYS = ("cpu", "gpu", "elastic")
KUSTOMIZATIONS = ("storage", *(f"overlays/{name}" for name in OVERLAYS), "tensorboard", "files")

# Where mpi-operator mounts its ConfigMap, into the launcher only, and what the files hold
# (kubeflow/mpi-operator, pkg/controller/mpi_job_controller.go, newConfigMap).
OPERATOR_FOLDER = "/etc/mpi"
HOSTFILE = f"{OPERATOR_FOLDER}/hostfile"
DISCOVERY_SCRIPT = f"{OPERATOR_FOLDER}/discover_hosts.sh"


@cache
def _built(kustomization):
    output = subprocess.run(
        ["kubectl", "kustomize", K8S / kustomization], check=True, capture_output=True, text=True
    ).stdout
    return list(yaml.safe_load_all(output))


def build(kustomization):
    """The objects of a kustomization, such as "overlays/cpu": a list of dicts, the caller's own."""
    return copy.deepcopy(_built(kustomization))


def only(objects, kind):
    """The one object of a kind."""
    (found,) = (item for item in objects if item["kind"] == kind)
    return found


@dataclass(frozen=True)
class Mount:
    """What a container sees under a path: a claim's name, or None for space of its own."""

    path: str
    claim: str | None
    read_only: bool


@dataclass(frozen=True)
class Launch:
    """What a launcher runs, and the ground it runs on.

    Attributes:
        command: the launcher's command line, as it is.
        environment: variables that the manifest sets for it.
        working_folder: the folder it runs in, on the launcher and, by Horovod, on the workers.
        launcher_mounts, worker_mounts: tuples of `Mount`, without those of mpi-operator.
        workers, slots: worker pods, and ranks on each.
    """

    command: list[str]
    environment: dict[str, str]
    working_folder: str
    launcher_mounts: tuple[Mount, ...]
    worker_mounts: tuple[Mount, ...]
    workers: int
    slots: int

    @classmethod
    def of(cls, job):
        launcher, worker = template(job, "Launcher"), template(job, "Worker")
        container = main_container(launcher)
        return cls(
            command=[*container.get("command", []), *container.get("args", [])],
            environment={item["name"]: item["value"] for item in container.get("env", [])},
            working_folder=container.get("workingDir", "/"),
            launcher_mounts=mounts(launcher),
            worker_mounts=mounts(worker),
            workers=job["spec"]["mpiReplicaSpecs"]["Worker"]["replicas"],
            slots=job["spec"].get("slotsPerWorker", 1),
        )


def launch(overlay):
    """The `Launch` of one of `OVERLAYS`."""
    return Launch.of(only(build(f"overlays/{overlay}"), "MPIJob"))


def launcher_command(overlay):
    """The command line of an overlay's launcher: a list of strings."""
    return launch(overlay).command


def template(job, role):
    return job["spec"]["mpiReplicaSpecs"][role]["template"]


def main_container(pod):
    # mpi-operator completes the first container and leaves the others alone.
    return pod["spec"]["containers"][0]


def mounts(pod):
    volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
    found = []
    for mount in main_container(pod).get("volumeMounts", []):
        claim = volumes[mount["name"]].get("persistentVolumeClaim")
        name, read_only = claim and claim["claimName"], mount.get("readOnly", False)
        found.append(Mount(mount["mountPath"], name, read_only))
    return tuple(found)


def pods(objects):
    """Pairs of a name and a pod or pod template, for all objects that have one."""
    for item in objects:
        name = f"{item['kind']} {item['metadata']['name']}"
        if item["kind"] == "MPIJob":
            for role in item["spec"]["mpiReplicaSpecs"]:
                yield f"{name} {role}", template(item, role)
        elif item["kind"] == "Pod":
            yield name, item
        elif "template" in item.get("spec", {}):
            yield name, item["spec"]["template"]


def containers(pod):
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def operator_objects(job):
    """The Job and the Pods that mpi-operator makes of an MPIJob: kinds that Kubernetes knows.

    After newLauncherJob, newLauncherPodTemplate, newWorker and setupSSHOnPod of mpi-operator's
    mpi_job_controller.go.
    """
    name, namespace = job["metadata"]["name"], job["metadata"]["namespace"]
    policy, roles = job["spec"]["runPolicy"], job["spec"]["mpiReplicaSpecs"]

    def completed(role, host):
        pod = copy.deepcopy(template(job, role))
        labels = pod.setdefault("metadata", {}).setdefault("labels", {})
        labels["training.kubeflow.org/job-name"] = name
        labels["training.kubeflow.org/job-role"] = role.lower()
        pod["spec"].update(hostname=host, subdomain=name)
        pod["spec"]["restartPolicy"] = roles[role]["restartPolicy"]
        keys = [
            {"key": "ssh-privatekey", "path": "id_rsa"},
            {"key": "ssh-publickey", "path": "id_rsa.pub"},
            {"key": "ssh-publickey", "path": "authorized_keys"},
        ]
        _mount(
            pod,
            job["spec"].get("sshAuthMountPath", "/root/.ssh"),
            {"name": "ssh-auth", "secret": {"secretName": f"{name}-ssh", "items": keys}},
        )
        return pod

    launcher = completed("Launcher", f"{name}-launcher")
    files = [
        {"key": "hostfile", "path": "hostfile", "mode": 0o444},
        {"key": "discover_hosts.sh", "path": "discover_hosts.sh", "mode": 0o555},
    ]
    config = {"name": f"{name}-config", "items": files}
    _mount(launcher, OPERATOR_FOLDER, {"name": "mpi-job-config", "configMap": config})
    yield {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"{name}-launcher", "namespace": namespace},
        "spec": {
            "backoffLimit": policy["backoffLimit"],
            "activeDeadlineSeconds": policy["activeDeadlineSeconds"],
            "ttlSecondsAfterFinished": policy["ttlSecondsAfterFinished"],
            "template": launcher,
        },
    }
    for number in range(roles["Worker"]["replicas"]):
        host = f"{name}-worker-{number}"
        pod = completed("Worker", host)
        pod["metadata"].update(name=host, namespace=namespace)
        yield {"apiVersion": "v1", "kind": "Pod", **pod}


def _mount(pod, path, volume):
    pod["spec"].setdefault("volumes", []).append(volume)
    container = main_container(pod)
    container.setdefault("volumeMounts", []).append({"name": volume["name"], "mountPath": path})


@dataclass(frozen=True)
class Stage:
    """One FROM of a Dockerfile with what follows: pairs of an instruction and its text."""

    name: str
    base: str
    steps: tuple[tuple[str, str], ...]

    def texts(self, instruction):
        return [text for name, text in self.steps if name == instruction]

    def copies(self):
        """Triples of the stage copied from (None: the repository), sources and destination."""
        for text in self.texts("COPY"):
            words = text.split()
            options = [word for word in words if word.startswith("--")]
            *sources, destination = (word for word in words if not word.startswith("--"))
            origin = [word.removeprefix("--from=") for word in options if "--from=" in word]
            yield (origin or [None])[0], sources, destination


def stages(dockerfile):
    """The `Stage`s of a Dockerfile's text, with the defaults of its arguments filled in."""
    lines = (line for line in dockerfile.splitlines() if not line.lstrip().startswith("#"))
    arguments, found = {}, []
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        instruction, _, text = line.strip().partition(" ")
        text = text.strip()
        if instruction == "ARG" and not found:
            name, _, default = text.partition("=")
            arguments[name] = default
        elif instruction == "FROM":
            for name, value in arguments.items():
                text = text.replace(f"${{{name}}}", value)
            base, _, name = text.partition(" AS ")
            found.append(Stage(name or base, base, ()))
        elif instruction:
            found[-1] = replace(found[-1], steps=(*found[-1].steps, (instruction, text)))
    return found


def ignored(path, patterns):
    """Whether a .dockerignore that begins with "*" and lists exceptions leaves a path out."""
    exceptions = [line[1:] for line in patterns.splitlines() if line.startswith("!")]
    return not any(path == kept or path.startswith(f"{kept}/") for kept in exceptions)


# Commands and where an image has them from: Debian's packages, steps that fill the virtual
# environment, Debian itself.
FROM_PACKAGES = {"/usr/sbin/sshd": "openssh-server", "ssh": "openssh-client"}
FROM_STEPS = {
    "python": "venv",
    "horovodrun": "horovod_build.py",
    "tensorboard": "pip install '.[train",
}
FROM_DEBIAN = ("sleep",)


class Image:
    """What the last stage of a Dockerfile holds, as far as the manifests rely on it."""

    def __init__(self, dockerfile):
        self.stages = stages(dockerfile)
        self.last = self.stages[-1]
        self.run = " ".join(self.last.texts("RUN"))
        self.build = next((stage for stage in self.stages if stage.name == "build"), None)

    @property
    def user(self):
        """The number that processes run as, None if it is a name, and useradd's name for it."""
        number = (self.last.texts("USER") or ["0"])[-1].partition(":")[0]
        name = re.search(rf"useradd [^&]*--uid {number} [^&]*?(\w+)\s*(&&|$)", self.run)
        return int(number) if number.isdigit() else None, name and name[1]

    @property
    def exposed(self):
        return {int(port) for port in self.last.texts("EXPOSE")}

    def files(self):
        """Pairs of a source in the repository and its path in the image."""
        for origin, sources, destination in self.last.copies():
            if origin is None:
                for source in sources:
                    inside = PurePosixPath(destination)
                    yield (
                        source,
                        str(inside / Path(source).name if destination[-1] == "/" else inside),
                    )

    def has_command(self, command):
        if command in FROM_PACKAGES:
            return FROM_PACKAGES[command] in self.run.split()
        if command in FROM_STEPS:
            built = self.build and any(
                FROM_STEPS[command] in text for text in self.build.texts("RUN")
            )
            moved = ("build", ["/opt/venv"], "/opt/venv") in list(self.last.copies())
            found = any("PATH=/opt/venv/bin:" in text for text in self.last.texts("ENV"))
            return bool(built and moved and found)
        return command in FROM_DEBIAN or command in dict(map(reversed, self.files()))


def ssh_settings(text):
    """The settings of an sshd_config or ssh_config: a dict of lower-case names to texts."""
    pairs = (line.split(None, 1) for line in text.splitlines() if line.split("#")[0].strip())
    return {name.lower(): value.strip() for name, value in pairs}


def _horovodrun():
    """The options of horovodrun that the manifests use; its own parser agrees (tested)."""
    parser = argparse.ArgumentParser(prog="horovodrun", exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--gloo", action="store_true")
    parser.add_argument("--disable-cache", action="store_true")
    for option in ("-np", "--min-np", "--max-np", "--slots-per-host", "--reset-limit"):
        parser.add_argument(option, type=int)
    for option in ("--elastic-timeout", "--gloo-timeout-seconds"):
        parser.add_argument(option, type=int)
    parser.add_argument("--blacklist-cooldown-range", type=int, nargs=2)
    for option in ("--hostfile", "--host-discovery-script", "--network-interfaces"):
        parser.add_argument(option)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    return parser


def horovodrun_arguments(command):
    """What a command line asks of horovodrun; `command` is what each rank runs."""
    return _horovodrun().parse_args(horovodrun_part(command)[1:])


def horovodrun_part(command):
    """A launcher's command line from horovodrun on, without the scripts that start it.

    Raises:
        LookupError: it does not run horovodrun.
    """
    if "horovodrun" not in command:
        raise LookupError(f"the launcher must run horovodrun. Received: {shlex.join(command)}")
    return command[command.index("horovodrun") :]


def train_arguments(command):
    """What a rank's command line asks of train/train.py, by the options of the script itself.

    Raises:
        ValueError: the script refuses an argument.
    """
    asked = []
    arguments = mock.patch.object(sys, "argv", command[1:])
    with arguments, contextlib.suppress(SystemExit):
        training.run_script(training.train, asked.append)
    if not asked:
        raise ValueError(f"train.py refuses: {shlex.join(command[1:])}")
    return asked[0]


SUFFIXES = {"": 1, "m": Decimal("0.001"), "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
SUFFIXES |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def quantity(text):
    """A Kubernetes quantity, such as 500m or 2Gi, as a number."""
    number, suffix = re.fullmatch(r"([\d.]+)([A-Za-z]*)", str(text)).groups()
    return Decimal(number) * SUFFIXES[suffix]


def write(folder):
    """Write the Dockerfile and a file for each kustomization, as mpi-operator leaves it."""
    write_text(folder / "Dockerfile", (K8S / "Dockerfile").read_text())
    for kustomization in KUSTOMIZATIONS:
        objects = build(kustomization)
        jobs = [item for item in objects if item["kind"] == "MPIJob"]
        # Linters do not know an MPIJob; the Job and the Pods that come of it they do.
        made = [item for job in jobs for item in operator_objects(job)]
        known = [item for item in objects if item not in jobs]
        path = folder / f"{kustomization.replace('/', '-')}.yaml"
        write_text(path, yaml.safe_dump_all([*known, *made], sort_keys=False))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
