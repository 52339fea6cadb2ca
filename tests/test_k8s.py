"""k8s/: the manifests against Kubernetes' schemas, mpi-operator's, and our own checks."""

import re
import shutil
import sys
from dataclasses import replace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.manifest_checks import CHECKS, Setup, broken_restrictions, problems
from tests.manifests import (
    K8S,
    KUSTOMIZATIONS,
    OVERLAYS,
    REPOSITORY,
    Image,
    build,
    containers,
    horovodrun_arguments,
    horovodrun_part,
    launch,
    launcher_command,
    main_container,
    only,
    operator_objects,
    pods,
    quantity,
    template,
    train_arguments,
    write,
)

needs_kubectl = pytest.mark.skipif(
    not shutil.which("kubectl"),
    reason="kubectl is not installed (Debian: apt-get install kubernetes-client)",
)
NO_HOROVOD = "Horovod is not installed: keras-squeezenet horovod"
DOCKERFILE = (K8S / "Dockerfile").read_text()


# --- Schemas -------------------------------------------------------------------------------------


def known_objects(kustomization):
    """What a kustomization holds and mpi-operator makes of it: kinds that Kubernetes knows."""
    for item in build(kustomization):
        yield from operator_objects(item) if item["kind"] == "MPIJob" else [item]


@needs_kubectl
@pytest.mark.parametrize("kustomization", KUSTOMIZATIONS)
def test_kubernetes_accepts_every_object(kustomization):
    validator = pytest.importorskip("kubernetes_validate")
    for item in known_objects(kustomization):
        validator.validate(item, validator.latest_version(), strict=True)


@needs_kubectl
def test_a_misspelt_key_of_a_pod_is_refused():
    validator = pytest.importorskip("kubernetes_validate")
    job = only(build("overlays/cpu"), "MPIJob")
    main_container(template(job, "Worker"))["readinesProbe"] = {"tcpSocket": {"port": 2222}}
    *_, pod = operator_objects(job)
    with pytest.raises(validator.ValidationError, match="readinesProbe"):
        validator.validate(pod, validator.latest_version(), strict=True)


def closed(schema):
    """A schema that refuses keys it does not know, as the API server does for kubectl."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "type" in schema:
        result.setdefault("additionalProperties", False)
    return result


@pytest.fixture(scope="module")
def mpijob_validator(shared):
    jsonschema = pytest.importorskip("jsonschema")
    definition = yaml.load(
        (shared / "schemas" / "kubeflow.org_mpijobs.yaml").read_text(), yaml.CSafeLoader
    )
    (version,) = definition["spec"]["versions"]
    assert version["name"] == "v2beta1"
    schema = closed(version["schema"]["openAPIV3Schema"])
    # The API server knows what metadata is; this schema says only that it is an object.
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft202012Validator(schema)


@needs_kubectl
@pytest.mark.shared
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_mpijobs_follow_the_operators_own_schema(overlay, mpijob_validator):
    job = only(build(f"overlays/{overlay}"), "MPIJob")
    assert [error.message for error in mpijob_validator.iter_errors(job)] == []


@needs_kubectl
@pytest.mark.shared
@pytest.mark.parametrize(
    ("place", "value"),
    [("slotsPerWorker", "4"), ("slotPerWorker", 4), ("mpiImplementation", "Gloo")],
)
def test_the_operators_schema_refuses_what_it_does_not_know(place, value, mpijob_validator):
    job = only(build("overlays/cpu"), "MPIJob")
    job["spec"][place] = value
    assert not mpijob_validator.is_valid(job)


# --- What no schema says -------------------------------------------------------------------------


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nothing_is_wrong_with_an_overlay(overlay):
    assert problems(Setup.of(overlay)) == {}


JOB = "spec/mpiReplicaSpecs"
LAUNCHER, WORKER = f"{JOB}/Launcher/template", f"{JOB}/Worker/template"
MAIN = "spec/containers/0"
REMOVED = object()


def put(path, value, kind="MPIJob", source="objects"):
    """A mutation that sets or removes one value of an object; "~" stands for "/" in a key."""

    def mutate(setup):
        *parents, last = (key.replace("~", "/") for key in path.split("/"))
        place = only(getattr(setup, source), kind)
        for key in parents:
            place = place[int(key)] if isinstance(place, list) else place.setdefault(key, {})
        if isinstance(place, list) and last == "-":
            place.append(value)
        elif value is REMOVED:
            del place[last]
        else:
            place[int(last) if isinstance(place, list) else last] = value
        return setup

    return mutate


def option(name, value):
    """A mutation that gives an option of the launcher's command another value, or removes it."""

    def mutate(setup):
        container = main_container(template(setup.job, "Launcher"))
        arguments = container["args"]
        place = arguments.index(name)
        arguments[place : place + 2] = [] if value is REMOVED else [name, value]
        return setup

    return mutate


def flag(name, *instead):
    """A mutation that takes a word of the launcher's command away, or puts others in its place."""

    def mutate(setup):
        arguments = main_container(template(setup.job, "Launcher"))["args"]
        place = arguments.index(name)
        arguments[place : place + 1] = instead
        return setup

    return mutate


def text(name, old, new):
    """A mutation that changes the Dockerfile or an ssh configuration."""

    def mutate(setup):
        before = getattr(setup, name)
        assert old in before
        return replace(setup, **{name: before.replace(old, new)})

    return mutate


def claims(**changes):
    def mutate(setup):
        for item in setup.storage:
            if item["kind"] == "PersistentVolumeClaim":
                item["spec"].update(changes)
        return setup

    return mutate


GPU, ELASTIC = ("gpu",), ("elastic",)
STATIC = ("cpu", "gpu")
MUTATIONS = [
    ("one_launcher_and_some_workers", OVERLAYS, put(f"{JOB}/Launcher/replicas", 2)),
    ("one_launcher_and_some_workers", OVERLAYS, put(f"{JOB}/Worker/replicas", 0)),
    ("ranks_are_workers_times_slots", STATIC, option("-np", "3")),
    ("ranks_are_workers_times_slots", STATIC, put("spec/slotsPerWorker", 2)),
    ("ranks_are_workers_times_slots", STATIC, put(f"{JOB}/Worker/replicas", 3)),
    ("ranks_are_workers_times_slots", STATIC, option("--hostfile", "/etc/hostfile")),
    ("ranks_are_workers_times_slots", OVERLAYS, put("spec/mpiImplementation", "Intel")),
    ("ranks_are_workers_times_slots", ELASTIC, option("--slots-per-host", REMOVED)),
    ("ranks_are_workers_times_slots", ELASTIC, option("--slots-per-host", "2")),
    ("ranks_are_workers_times_slots", ELASTIC, option("--reset-limit", REMOVED)),
    ("ranks_are_workers_times_slots", ELASTIC, option("--min-np", "3")),
    ("ranks_are_workers_times_slots", ELASTIC, option("--max-np", "1")),
    ("ranks_are_workers_times_slots", ELASTIC, put(f"{JOB}/Worker/replicas", 1)),
    ("ranks_are_workers_times_slots", ELASTIC, option("--host-discovery-script", "hosts.sh")),
    (
        "ranks_are_workers_times_slots",
        ELASTIC,
        put("spec/launcherCreationPolicy", "WaitForWorkersReady"),
    ),
    ("slots_fit_the_resources", GPU, put(f"{WORKER}/{MAIN}/resources/limits/nvidia.com~gpu", 8)),
    ("slots_fit_the_resources", OVERLAYS, put(f"{WORKER}/{MAIN}/resources/limits/cpu", "500m")),
    ("slots_fit_the_resources", OVERLAYS, put(f"{LAUNCHER}/{MAIN}/env/1/value", "64")),
    ("slots_fit_the_resources", OVERLAYS, put(f"{LAUNCHER}/{MAIN}/env/1/name", "OMP_NUM_THREADS")),
    (
        "slots_fit_the_resources",
        OVERLAYS,
        put(f"{LAUNCHER}/{MAIN}/resources/limits/nvidia.com~gpu", 1),
    ),
    *(
        ("every_container_says_what_it_takes", OVERLAYS, put(f"{role}/{MAIN}/resources/{at}", to))
        for role in (LAUNCHER, WORKER)
        for at, to in (
            ("limits", {}),
            ("requests/cpu", REMOVED),
            ("requests/memory", "4Ti"),
            ("limits/ephemeral-storage", "1Ki"),
        )
    ),
    (
        "every_container_says_what_it_takes",
        OVERLAYS,
        put(f"{WORKER}/spec/initContainers", [{"name": "wait", "image": "busybox:1"}]),
    ),
    ("what_is_read_and_written_is_mounted", OVERLAYS, option("--output", "/tmp/run")),
    ("what_is_read_and_written_is_mounted", OVERLAYS, option("--output", "/data/run")),
    ("what_is_read_and_written_is_mounted", OVERLAYS, option("--set", "data.source=/images")),
    ("what_is_read_and_written_is_mounted", OVERLAYS, put(f"{WORKER}/{MAIN}/volumeMounts", [])),
    (
        "what_is_read_and_written_is_mounted",
        OVERLAYS,
        put(f"{WORKER}/spec/volumes/1/persistentVolumeClaim/claimName", "data"),
    ),
    ("what_is_read_and_written_is_mounted", OVERLAYS, claims(accessModes=["ReadWriteOnce"])),
    ("the_ranks_command_is_understood", OVERLAYS, flag("--resume")),
    ("the_ranks_command_is_understood", OVERLAYS, flag("--resume", "--resume", "--gpus", "2")),
    ("the_ranks_command_is_understood", OVERLAYS, flag("--set", "--set", "data.sauce=x", "--set")),
    ("the_ranks_command_is_understood", OVERLAYS, flag("train/train.py", "train.py")),
    ("the_ranks_command_is_understood", ELASTIC, flag("--elastic")),
    ("the_ranks_command_is_understood", STATIC, flag("--resume", "--resume", "--elastic")),
    *(
        ("the_launcher_waits_for_the_workers_that_it_begins_with", OVERLAYS, mutate)
        for mutate in (
            put(f"{LAUNCHER}/{MAIN}/command", ["horovodrun"]),
            put(f"{LAUNCHER}/{MAIN}/command/1", "1"),
            option("-np", "16"),
        )
    ),
    *(
        ("an_elastic_launcher_succeeds_by_its_result", ELASTIC, mutate)
        for mutate in (
            put(
                f"{LAUNCHER}/{MAIN}/command", ["/usr/local/bin/until_reachable", "2", "horovodrun"]
            ),
            put(f"{LAUNCHER}/{MAIN}/command/3", "/runs/imagenette-elastic/metrics.json"),
        )
    ),
    (
        "an_elastic_launcher_succeeds_by_its_result",
        ELASTIC,
        option("--output", "/runs/another"),
    ),
    (
        "an_elastic_launcher_succeeds_by_its_result",
        ELASTIC,
        put(f"{LAUNCHER}/spec/volumes/-1/persistentVolumeClaim/claimName", "squeezenet-data"),
    ),
    (
        "the_image_has_what_is_run",
        OVERLAYS,
        put(f"{LAUNCHER}/{MAIN}/command/0", "/usr/local/bin/wait"),
    ),
    ("the_image_has_what_is_run", OVERLAYS, put(f"{WORKER}/{MAIN}/command", ["/sbin/sshd"])),
    ("the_image_has_what_is_run", OVERLAYS, put(f"{WORKER}/{MAIN}/workingDir", "/srv")),
    ("the_image_has_what_is_run", OVERLAYS, put(f"{WORKER}/{MAIN}/image", "keras-squeezenet")),
    (
        "the_image_has_what_is_run",
        OVERLAYS,
        put(f"{LAUNCHER}/{MAIN}/image", "docker.io/x/keras-squeezenet:latest"),
    ),
    (
        "the_image_has_what_is_run",
        OVERLAYS,
        put(f"{WORKER}/spec/securityContext/runAsUser", 1001),
    ),
    ("the_image_has_what_is_run", OVERLAYS, put("spec/sshAuthMountPath", REMOVED)),
    ("the_image_has_what_is_run", OVERLAYS, put("spec/sshAuthMountPath", "/root/.ssh")),
    *(
        ("the_image_has_what_is_run", OVERLAYS, text("dockerfile", old, new))
        for old, new in (
            ("USER 1000:1000", "USER root"),
            ("--uid 1000", "--uid 1001"),
            ("openssh-client openssh-server", "openssh-client"),
            ("python -P keras_squeezenet/cli/horovod_build.py", "true"),
            ("COPY --from=build /opt/venv /opt/venv", ""),
            ("k8s/sshd_config k8s/ssh_config", "k8s/ssh_config"),
            ("k8s/sshd_config k8s/ssh_config", "k8s/sshd_config"),
            ("k8s/stop_ranks ", ""),
            ("k8s/until_reachable ", ""),
            ("COPY train /opt/keras_squeezenet/train", "COPY train /opt/train"),
        )
    ),
    ("the_image_has_what_is_run", OVERLAYS, text("sshd_config", "id_rsa", "ssh_host_rsa_key")),
    ("one_port_for_ssh", OVERLAYS, text("sshd_config", "Port 2222", "Port 22")),
    ("one_port_for_ssh", OVERLAYS, text("ssh_config", "Port 2222", "Port 2200")),
    ("one_port_for_ssh", OVERLAYS, text("dockerfile", "EXPOSE 2222", "EXPOSE 22")),
    ("one_port_for_ssh", OVERLAYS, put(f"{WORKER}/{MAIN}/ports/0/containerPort", 22)),
    ("one_port_for_ssh", OVERLAYS, put(f"{WORKER}/{MAIN}/readinessProbe/tcpSocket/port", 22)),
    *(
        ("the_network_carries_the_job_and_nothing_else", OVERLAYS, put(at, to, "NetworkPolicy"))
        for at, to in (
            ("spec/podSelector", {}),
            ("spec/podSelector/matchLabels/app.kubernetes.io~name", "other"),
            ("spec/policyTypes", ["Ingress"]),
            ("spec/ingress/0/ports", [{"protocol": "TCP", "port": 2222}]),
            ("spec/egress/0/ports/1/endPort", 40000),
            ("spec/ingress/0/from", [{"podSelector": {}}]),
            ("spec/ingress/-", {}),
            ("spec/egress/-", {"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}),
            ("spec/egress/1/ports/0/port", 443),
            ("spec/egress/1/to", []),
            ("spec/egress/1/to/-", {"namespaceSelector": {}}),
            ("spec/egress/1/to/0/podSelector", REMOVED),
            ("spec/egress/1/to/1/ipBlock/cidr", "0.0.0.0/0"),
            ("spec/egress/1/to/1/ipBlock/cidr", "8.8.8.8/32"),
        )
    ),
    (
        "the_network_carries_the_job_and_nothing_else",
        OVERLAYS,
        put(f"{WORKER}/metadata/labels/app.kubernetes.io~name", "worker"),
    ),
    (
        "the_network_carries_the_job_and_nothing_else",
        OVERLAYS,
        put("spec/ingress", [{}], "NetworkPolicy", "storage"),
    ),
    (
        "pods_are_restricted",
        OVERLAYS,
        put(f"{LAUNCHER}/{MAIN}/securityContext/allowPrivilegeEscalation", True),
    ),
    (
        "nothing_is_written_beside_the_volumes",
        OVERLAYS,
        put(f"{WORKER}/{MAIN}/securityContext/readOnlyRootFilesystem", REMOVED),
    ),
    ("nothing_is_written_beside_the_volumes", OVERLAYS, put(f"{LAUNCHER}/{MAIN}/volumeMounts", [])),
    (
        "nothing_is_written_beside_the_volumes",
        OVERLAYS,
        put(f"{WORKER}/spec/volumes/0/emptyDir", {}),
    ),
    ("ranks_have_time_to_save", OVERLAYS, put(f"{WORKER}/{MAIN}/lifecycle", REMOVED)),
    (
        "ranks_have_time_to_save",
        OVERLAYS,
        put(f"{LAUNCHER}/{MAIN}/lifecycle/preStop/exec/command", ["/usr/local/bin/stop_ranks"]),
    ),
    ("ranks_have_time_to_save", OVERLAYS, put(f"{WORKER}/spec/terminationGracePeriodSeconds", 30)),
    (
        "ranks_have_time_to_save",
        OVERLAYS,
        put(f"{LAUNCHER}/spec/terminationGracePeriodSeconds", REMOVED),
    ),
    ("the_job_ends_and_is_tidied_up", OVERLAYS, put("spec/runPolicy/backoffLimit", 0)),
    (
        "the_job_ends_and_is_tidied_up",
        OVERLAYS,
        put("spec/runPolicy/activeDeadlineSeconds", REMOVED),
    ),
    ("the_job_ends_and_is_tidied_up", OVERLAYS, put("spec/runPolicy/cleanPodPolicy", "None")),
    ("the_job_ends_and_is_tidied_up", OVERLAYS, put(f"{JOB}/Worker/restartPolicy", "Always")),
    ("the_job_ends_and_is_tidied_up", OVERLAYS, put(f"{WORKER}/spec/restartPolicy", "Never")),
    ("the_job_ends_and_is_tidied_up", STATIC, put("spec/launcherCreationPolicy", "AtStartup")),
    ("the_job_ends_and_is_tidied_up", OVERLAYS, put(f"{WORKER}/{MAIN}/readinessProbe", REMOVED)),
    (
        "no_pod_holds_a_token",
        OVERLAYS,
        put("automountServiceAccountToken", True, "ServiceAccount"),
    ),
    (
        "no_pod_holds_a_token",
        OVERLAYS,
        put(f"{LAUNCHER}/spec/automountServiceAccountToken", REMOVED),
    ),
    ("no_pod_holds_a_token", OVERLAYS, put(f"{WORKER}/spec/serviceAccountName", "default")),
    ("one_namespace_for_all", OVERLAYS, put("metadata/namespace", "default")),
    ("one_namespace_for_all", OVERLAYS, put("metadata/labels", {}, "Namespace", "storage")),
]


@needs_kubectl
@pytest.mark.parametrize(
    ("name", "overlay", "mutate"),
    [
        pytest.param(name, overlay, mutate, id=f"{name}-{number}-{overlay}")
        for number, (name, overlays, mutate) in enumerate(MUTATIONS)
        for overlay in overlays
    ],
)
def test_a_check_catches_what_it_is_for(name, overlay, mutate):
    assert list(CHECKS[name](mutate(Setup.of(overlay))))


@needs_kubectl
def test_a_check_says_what_it_misses_and_the_others_go_on():
    setup = put(f"{WORKER}/{MAIN}/resources", REMOVED)(Setup.of("cpu"))
    found = problems(setup)
    assert "missing" in found["slots_fit_the_resources"][0]
    assert len(found["every_container_says_what_it_takes"]) == 3


def test_every_check_has_a_mutation_that_it_must_catch():
    assert {name for name, _, _ in MUTATIONS} == set(CHECKS)


# Each breaks one rule of the restricted standard: a place in a pod's spec and what stands there.
BROKEN_RESTRICTIONS = [
    ("hostNetwork", True),
    ("hostPID", True),
    ("hostIPC", True),
    ("volumes/-", {"name": "x", "hostPath": {"path": "/"}}),
    ("volumes/-", {"name": "x", "nfs": {"server": "x", "path": "/"}}),
    ("securityContext/runAsNonRoot", False),
    ("securityContext/runAsNonRoot", REMOVED),
    ("securityContext/runAsUser", 0),
    ("securityContext/seccompProfile", REMOVED),
    ("securityContext/seccompProfile", {"type": "Unconfined"}),
    ("securityContext/sysctls", [{"name": "kernel.msgmax", "value": "1"}]),
    ("securityContext/seLinuxOptions", {"type": "spc_t"}),
    ("securityContext/seLinuxOptions", {"user": "system_u"}),
    ("containers/0/securityContext", REMOVED),
    ("containers/0/securityContext/runAsNonRoot", False),
    ("containers/0/securityContext/runAsUser", 0),
    ("containers/0/securityContext/privileged", True),
    ("containers/0/securityContext/allowPrivilegeEscalation", REMOVED),
    ("containers/0/securityContext/capabilities", {"drop": ["NET_RAW"]}),
    ("containers/0/securityContext/capabilities", {"drop": ["ALL"], "add": ["SYS_CHROOT"]}),
    ("containers/0/securityContext/procMount", "Unmasked"),
    ("containers/0/securityContext/seccompProfile", {"type": "Unconfined"}),
    ("containers/0/securityContext/appArmorProfile", {"type": "Unconfined"}),
    ("containers/0/securityContext/windowsOptions", {"hostProcess": True}),
    ("containers/0/ports", [{"containerPort": 2222, "hostPort": 2222}]),
    ("containers/0/livenessProbe", {"httpGet": {"host": "10.0.0.1", "port": 80}}),
    ("initContainers", [{"name": "x", "image": "x:1"}]),
    ("ephemeralContainers", [{"name": "x", "image": "x:1"}]),
]
EVERY_POD = [
    (kustomization, name)
    for kustomization in (
        "overlays/cpu",
        "overlays/gpu",
        "overlays/elastic",
        "tensorboard",
        "files",
    )
    for name in (("Launcher", "Worker") if "overlays" in kustomization else ("",))
]


def pod_spec(kustomization, name):
    return next(pod["spec"] for title, pod in pods(build(kustomization)) if title.endswith(name))


@needs_kubectl
@pytest.mark.parametrize(("kustomization", "name"), EVERY_POD)
def test_every_pod_meets_the_restricted_standard(kustomization, name):
    assert list(broken_restrictions(pod_spec(kustomization, name))) == []


@needs_kubectl
@pytest.mark.parametrize(("place", "value"), BROKEN_RESTRICTIONS)
def test_a_pod_that_breaks_a_rule_of_the_standard_is_found(place, value):
    for kustomization, name in EVERY_POD:
        pod = {"kind": "Pod", **pod_spec(kustomization, name)}
        setup = Setup([pod], [], DOCKERFILE, "", "")
        put(place, value, "Pod")(setup)
        assert list(broken_restrictions(pod))


@given(st.integers(0, 10**9), st.sampled_from(["Ki", "Mi", "Gi"]))
def test_quantities_are_read_as_kubernetes_writes_them(number, unit):
    power = {"Ki": 1, "Mi": 2, "Gi": 3}[unit]
    assert quantity(f"{number}{unit}") == number * 1024**power
    assert quantity(f"{number}m") * 1000 == quantity(number) == number


# --- The command line ----------------------------------------------------------------------------


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_horovods_own_parser_reads_the_launchers_command_as_we_do(overlay, monkeypatch):
    horovod_launch = pytest.importorskip("horovod.runner.launch", reason=NO_HOROVOD)

    command = launcher_command(overlay)
    monkeypatch.setattr(sys, "argv", horovodrun_part(command))
    theirs, ours = horovod_launch.parse_args(), horovodrun_arguments(command)
    assert theirs.command == ours.command
    assert (theirs.num_proc, theirs.use_gloo, theirs.disable_cache) == (
        ours.np,
        ours.gloo,
        ours.disable_cache,
    )
    assert (theirs.min_num_proc, theirs.max_num_proc, theirs.slots) == (
        ours.min_np,
        ours.max_np,
        ours.slots_per_host,
    )
    assert theirs.nics == {ours.network_interfaces}
    assert theirs.elastic_timeout == ours.elastic_timeout
    assert theirs.cooldown_range == ours.blacklist_cooldown_range
    assert theirs.reset_limit == ours.reset_limit
    assert theirs.host_discovery_script == ours.host_discovery_script
    # It refuses both a host file and a script; with a host file it reads it later.
    assert theirs.hostfile == ours.hostfile


@needs_kubectl
def test_horovod_reads_what_mpi_operator_writes(tmp_path):
    pytest.importorskip("horovod.runner", reason=NO_HOROVOD)
    from horovod.runner.common.util.hosts import parse_host_files
    from horovod.runner.elastic.discovery import HostDiscoveryScript

    names = [f"squeezenet-worker-{number}.squeezenet.squeezenet.svc" for number in range(2)]
    gpu, elastic = launch("gpu"), launch("elastic")
    hostfile, script = tmp_path / "hostfile", tmp_path / "discover_hosts.sh"
    hostfile.write_text("".join(f"{name} slots={gpu.slots}\n" for name in names))
    assert parse_host_files(hostfile) == ",".join(f"{name}:4" for name in names)

    script.write_text("#!/bin/sh\n" + "".join(f"echo {name}\n" for name in names))
    script.chmod(0o555)
    asked = horovodrun_arguments(elastic.command)
    found = HostDiscoveryScript(str(script), asked.slots_per_host).find_available_hosts_and_slots()
    assert found == dict.fromkeys(names, elastic.slots)


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_runs_of_different_overlays_do_not_share_a_folder(overlay):
    def folder(name):
        return train_arguments(horovodrun_arguments(launcher_command(name)).command).output

    assert [name for name in OVERLAYS if folder(name) == folder(overlay)] == [overlay]


# --- TensorBoard, files, linters -----------------------------------------------------------------


@needs_kubectl
def test_tensorboard_reads_the_runs_where_it_is_asked_for_them():
    pod = only(build("tensorboard"), "Deployment")["spec"]["template"]
    container = main_container(pod)
    options = dict(zip(container["args"][::2], container["args"][1::2], strict=True))
    assert options["--logdir"] in [mount["mountPath"] for mount in container["volumeMounts"]]
    assert int(options["--port"]) == container["ports"][0]["containerPort"]
    assert {container[p]["httpGet"]["port"] for p in ("readinessProbe", "livenessProbe")} == {6006}


@needs_kubectl
@pytest.mark.parametrize("kustomization", ["tensorboard", "files"])
def test_the_other_pods_run_commands_of_the_image_with_the_claims_of_the_storage(kustomization):
    names = {item["metadata"]["name"] for item in build("storage")}
    for _, pod in pods(build(kustomization)):
        for volume in pod["spec"]["volumes"]:
            claim = volume.get("persistentVolumeClaim")
            assert claim is None or claim["claimName"] in names
        for container in containers(pod):
            assert Image(DOCKERFILE).has_command(container["command"][0])
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert container["image"].partition(":")[2]


@needs_kubectl
def test_deleting_a_job_leaves_data_and_runs():
    kinds = [item["kind"] for name in KUSTOMIZATIONS[1:] for item in build(name)]
    assert not {"Namespace", "PersistentVolumeClaim"} & set(kinds)


@needs_kubectl
def test_linters_get_a_file_for_each_kustomization_without_kinds_they_do_not_know(tmp_path):
    write(tmp_path)
    kinds = {
        path.stem: [item["kind"] for item in yaml.safe_load_all(path.read_text())]
        for path in tmp_path.glob("*.yaml")
    }
    assert len(kinds) == len(KUSTOMIZATIONS)
    assert (tmp_path / "Dockerfile").read_text() == DOCKERFILE
    assert kinds["overlays-gpu"].count("Pod") == launch("gpu").workers
    assert not any("MPIJob" in found for found in kinds.values())


# --- k8s/README.md -------------------------------------------------------------------------------


def test_the_readme_names_files_and_objects_that_are_there():
    readme = (K8S / "README.md").read_text()
    named = re.findall(r"\bk8s/[\w./-]*\w", readme)
    assert named
    assert [path for path in named if not (REPOSITORY / path).exists()] == []
    applied = re.findall(r"kubectl (?:apply|delete) -k (\S+)", readme)
    assert {f"k8s/{name}" for name in ("storage", "files", "overlays/cpu")} <= set(applied)
