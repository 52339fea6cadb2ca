"""What can be wrong with the manifests of k8s/ that no schema says.

`problems` holds a `Setup` (built manifests, image, ssh configurations) against every check. Where a
check rests on what mpi-operator, Horovod or Kubernetes do, it says so.
"""

import ipaddress
import shlex
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from keras_squeezenet.errors import InputError
from keras_squeezenet.training.recipe import load_recipe
from tests.manifests import (
    DISCOVERY_SCRIPT,
    HOSTFILE,
    K8S,
    REPOSITORY,
    Image,
    Launch,
    build,
    containers,
    horovodrun_arguments,
    main_container,
    mounts,
    only,
    pods,
    quantity,
    ssh_settings,
    template,
    train_arguments,
)

# Horovod's servers listen from the first of these on (horovod/runner/util/network.py, find_port).
HOROVOD_PORTS = range(1024, 65536)
# What the ranks may take to save and end after SIGTERM.
SAVING_SECONDS = 30


@dataclass
class Setup:
    """All that has to fit together for one overlay."""

    objects: list
    storage: list
    dockerfile: str
    sshd_config: str
    ssh_config: str
    image: Image = field(init=False)

    def __post_init__(self):
        self.image = Image(self.dockerfile)

    @classmethod
    def of(cls, overlay):
        return cls(
            build(f"overlays/{overlay}"),
            build("storage"),
            *((K8S / name).read_text() for name in ("Dockerfile", "sshd_config", "ssh_config")),
        )

    @property
    def job(self):
        return only(self.objects, "MPIJob")

    @property
    def launch(self):
        return Launch.of(self.job)

    @property
    def horovod(self):
        return horovodrun_arguments(self.launch.command)


CHECKS = {}


def check(function):
    CHECKS[function.__name__] = function
    return function


def problems(setup):
    """A dict of the names of the checks that a `Setup` fails to their findings."""
    found = {name: findings(name, setup) for name in CHECKS}
    return {name: texts for name, texts in found.items() if texts}


def findings(name, setup):
    """What one check finds, as a list of texts."""
    try:
        return list(CHECKS[name](setup))
    except LookupError as error:
        return [f"what this check looks at is missing: {error!r}"]


@check
def one_launcher_and_some_workers(setup):
    roles = setup.job["spec"]["mpiReplicaSpecs"]
    if roles["Launcher"].get("replicas", 1) != 1:
        yield f"an MPIJob has one launcher. Received: {roles['Launcher']['replicas']}"
    if roles["Worker"].get("replicas", 0) < 1:
        yield f"an MPIJob needs a worker. Received: {roles['Worker'].get('replicas')}"


@check
def ranks_are_workers_times_slots(setup):
    asked, launch = setup.horovod, setup.launch
    places = launch.workers * launch.slots
    if setup.job["spec"].get("mpiImplementation", "OpenMPI") != "OpenMPI":
        yield "horovodrun reads the host file of Open MPI only: NAME slots=N"
    if asked.host_discovery_script is None:
        if asked.hostfile != HOSTFILE:
            yield f"mpi-operator writes {HOSTFILE}. Received: --hostfile {asked.hostfile}"
        if asked.np != places:
            yield f"-np must be workers × slots, {places}. Received: -np {asked.np}"
        return
    if asked.host_discovery_script != DISCOVERY_SCRIPT:
        yield f"mpi-operator writes {DISCOVERY_SCRIPT}. Received: {asked.host_discovery_script}"
    # The script prints names without slots, and Horovod adds None for them.
    if asked.slots_per_host != launch.slots:
        yield f"--slots-per-host must be slotsPerWorker. Received: {asked.slots_per_host}"
    if not asked.min_np <= asked.np <= min(places, asked.max_np):
        yield f"--min-np ≤ -np ≤ --max-np and ≤ {places} places. Received: -np {asked.np}"
    if asked.blacklist_cooldown_range is None:
        yield "without --blacklist-cooldown-range a worker that failed once is never used again"
    if asked.reset_limit is None:
        yield "without --reset-limit a worker that fails again and again never ends the job"
    if setup.job["spec"].get("launcherCreationPolicy") == "WaitForWorkersReady":
        yield "an elastic launcher does not wait for all workers: launcherCreationPolicy AtStartup"


@check
def slots_fit_the_resources(setup):
    launch = setup.launch
    limits = main_container(template(setup.job, "Worker"))["resources"]["limits"]
    gpus = limits.get("nvidia.com/gpu")
    if gpus is not None and quantity(gpus) != launch.slots:
        yield f"each rank takes one GPU: {launch.slots} slots. Received: {gpus} GPUs"
    threads = int(launch.environment.get("TF_NUM_INTRAOP_THREADS", 0))
    if not 0 < threads * launch.slots <= quantity(limits["cpu"]):
        yield (
            "TensorFlow takes the node's cores unless TF_NUM_INTRAOP_THREADS × slots is at most "
            f"the limit of {limits['cpu']}. Received: {threads} × {launch.slots}"
        )
    if "nvidia.com/gpu" in main_container(template(setup.job, "Launcher"))["resources"]["limits"]:
        yield "the launcher computes nothing: no GPU for it"


@check
def every_container_says_what_it_takes(setup):
    for name, pod in pods(setup.objects):
        for container in containers(pod):
            resources = container.get("resources", {})
            for resource in ("cpu", "memory", "ephemeral-storage"):
                least, most = (resources.get(k, {}).get(resource) for k in ("requests", "limits"))
                if least is None or most is None or quantity(least) > quantity(most):
                    yield f"{name}: {resource} needs a request ≤ a limit. Received: {least}, {most}"


@check
def what_is_read_and_written_is_mounted(setup):
    claims = {
        c["metadata"]["name"]: c for c in setup.storage if c["kind"] == "PersistentVolumeClaim"
    }
    mounted = setup.launch.worker_mounts
    for mount in mounted:
        if mount.claim is None:
            continue
        if mount.claim not in claims:
            yield f"{mount.path}: no such claim in k8s/storage. Received: {mount.claim}"
        elif claims[mount.claim]["spec"]["accessModes"] != ["ReadWriteMany"]:
            yield f"{mount.claim} is used on several nodes at once: accessModes [ReadWriteMany]"
    asked = train_arguments(setup.horovod.command)
    source = load_recipe(REPOSITORY / asked.recipe, asked.settings).data.source
    for path, writes in ((source, False), (str(asked.output), True)):
        held = [m for m in mounted if m.claim and PurePosixPath(path).is_relative_to(m.path)]
        if not held:
            yield f"no claim is mounted in the workers where {path} is"
        elif writes and held[0].read_only:
            yield f"{path} is written, and {held[0].path} is mounted read-only"


@check
def the_ranks_command_is_understood(setup):
    launch, asked = setup.launch, setup.horovod
    if asked.command[:2] != ["python", "train/train.py"]:
        yield f"horovodrun … python train/train.py … Received: {shlex.join(launch.command)}"
        return
    try:
        rank = train_arguments(asked.command)
    except ValueError as error:
        yield str(error)
        return
    try:
        load_recipe(REPOSITORY / rank.recipe, rank.settings)
    except InputError as error:
        yield str(error)
    if not rank.resume:
        yield "without --resume a restarted launcher trains from the beginning, or refuses to"
    if rank.elastic != (asked.host_discovery_script is not None):
        yield "--host-discovery-script and train.py's --elastic go together"


@check
def the_launcher_waits_for_the_workers_that_it_begins_with(setup):
    # The DNS knows a worker when it is ready; horovodrun tries each worker once.
    launch = setup.launch
    needed = str(-(-setup.horovod.np // launch.slots))
    if launch.command[:2] != ["/usr/local/bin/until_reachable", needed]:
        yield f"until_reachable {needed} … Received: {shlex.join(launch.command)}"


@check
def an_elastic_launcher_succeeds_by_its_result(setup):
    # Horovod's elastic driver may end with 0 where ranks were asked to end: a job half done.
    launch, asked = setup.launch, setup.horovod
    if asked.host_discovery_script is None:
        return
    result = f"{train_arguments(asked.command).output}/report.html"  # written last
    if launch.command[2:5] != ["/usr/local/bin/until_written", result, "horovodrun"]:
        yield f"… until_written {result} horovodrun … Received: {shlex.join(launch.command)}"
    seen = [mount for mount in launch.launcher_mounts if mount.claim]
    written = [mount for mount in launch.worker_mounts if mount.claim and not mount.read_only]
    if [(m.path, m.claim) for m in seen] != [(m.path, m.claim) for m in written]:
        yield f"the launcher looks for {result} where the workers write. Received: {seen}"


@check
def the_image_has_what_is_run(setup):
    image, job = setup.image, setup.job
    number, user = image.user
    folders = {
        str(PurePosixPath(inside).parent) for source, inside in image.files() if source == "train"
    }
    for role in ("Launcher", "Worker"):
        pod, container = template(job, role), main_container(template(job, role))
        hook = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [])
        started = container["command"][:1]
        if role == "Launcher":  # the scripts of the image start horovodrun, and that the ranks
            scripts = (word for word in container["command"] if word.startswith("/usr/local/bin/"))
            started = [*scripts, "horovodrun", *setup.horovod.command[:1]]
        for command in (*started, *hook[:1]):
            if not image.has_command(command):
                yield f"{role}: the image has no {command}"
        if pod["spec"]["securityContext"]["runAsUser"] != number or user is None:
            yield f"{role}: runs as a user whom the image does not have: USER {number}, {user}"
        # horovodrun goes to its own folder on every worker.
        if container.get("workingDir") not in folders:
            yield f"{role}: workingDir must hold train/. Received: {container.get('workingDir')}"
        name = container["image"].rpartition("/")[2].partition(":")[0]
        if name != "keras-squeezenet" or container["image"].endswith((name, ":latest")):
            yield f"{role}: keras-squeezenet with a tag. Received: {container['image']}"
    home = setup.launch.environment.get("HOME")
    if home != f"/home/{user}" or job["spec"].get("sshAuthMountPath") != f"{home}/.ssh":
        yield f"ssh keys belong into the home of {user}: sshAuthMountPath /home/{user}/.ssh"
    key = ssh_settings(setup.sshd_config).get("hostkey")
    if key != f"/home/{user}/.ssh/id_rsa":
        yield f"sshd's host key is the job's: HostKey /home/{user}/.ssh/id_rsa. Received: {key}"
    if ("k8s/sshd_config", "/etc/ssh/sshd_config") not in list(image.files()):
        yield "k8s/sshd_config is not where sshd reads it"
    if ("k8s/ssh_config", "/etc/ssh/ssh_config") not in list(image.files()):
        yield "k8s/ssh_config is not where ssh reads it"


@check
def one_port_for_ssh(setup):
    worker = main_container(template(setup.job, "Worker"))
    port = int(ssh_settings(setup.sshd_config)["port"])
    if port < 1024:
        yield f"only root may listen below 1024. Received: Port {port}"
    others = {
        "ssh_config": int(ssh_settings(setup.ssh_config)["port"]),
        "containerPort": worker["ports"][0]["containerPort"],
        "readinessProbe": worker["readinessProbe"]["tcpSocket"]["port"],
        "EXPOSE": port if port in setup.image.exposed else None,
    }
    for place, other in others.items():
        if other != port:
            yield f"sshd listens on {port}. Received: {place} {other}"


@check
def the_network_carries_the_job_and_nothing_else(setup):
    policy = only(setup.objects, "NetworkPolicy")["spec"]
    ssh = int(ssh_settings(setup.sshd_config)["port"])
    selected = policy["podSelector"].get("matchLabels", {})
    for name, pod in pods(setup.objects):
        labels = pod["metadata"].get("labels", {})
        if not selected or not selected.items() <= labels.items():
            yield f"{name}: the network policy selects {selected}. Received: labels {labels}"
    if sorted(policy["policyTypes"]) != ["Egress", "Ingress"]:
        yield f"policyTypes must be Ingress and Egress. Received: {policy['policyTypes']}"
    job = [{"podSelector": policy["podSelector"]}]
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        inside = [rule for rule in policy[direction] if rule.get(peers) == job]
        carried = [_ports(rule) for rule in inside]
        for port in (ssh, HOROVOD_PORTS[0], HOROVOD_PORTS[-1]):
            if not any(port in ports for ports in carried for ports in ports):
                yield f"{direction}: port {port} is closed between the job's pods"
        outside = [rule for rule in policy[direction] if rule not in inside]
        names = [rule for rule in outside if direction == "egress" and _is_dns(rule)]
        if direction == "egress" and not names:
            yield "egress: no way to the DNS"
        if outside != names:
            yield f"{direction}: open to others than the job's pods and the DNS"
    everything = only(setup.storage, "NetworkPolicy")["spec"]
    if everything != {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}:
        yield f"k8s/storage must close the namespace for all pods. Received: {everything}"


def _ports(rule):
    return [
        range(item["port"], item.get("endPort", item["port"]) + 1)
        for item in rule.get("ports", [])
        if item.get("protocol", "TCP") == "TCP"
    ]


def _is_dns(rule):
    asked = {(item["protocol"], item["port"]) for item in rule.get("ports", [])}
    peers = rule.get("to")
    return bool(peers) and all(map(_serves_names, peers)) and asked == {("UDP", 53), ("TCP", 53)}


def _serves_names(peer):
    """Whether a peer is the cluster's DNS: its pods, or the address of the node's own cache."""
    if "ipBlock" in peer:
        network = ipaddress.ip_network(peer["ipBlock"]["cidr"])
        return network.num_addresses == 1 and network.is_link_local
    # The labels are the cluster's; an empty selector takes all namespaces, or all pods of one.
    return all(
        peer.get(selector, {}).get("matchLabels")
        for selector in ("namespaceSelector", "podSelector")
    )


@check
def pods_are_restricted(setup):
    for name, pod in pods(setup.objects):
        for finding in broken_restrictions(pod["spec"]):
            yield f"{name}: {finding}"


# https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted, with baseline's
# rules, which it contains.
ALLOWED_VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"),
    *("persistentVolumeClaim", "projected", "secret"),
}
ALLOWED_CAPABILITIES = {"NET_BIND_SERVICE"}
ALLOWED_SECCOMP = {"RuntimeDefault", "Localhost"}
SAFE_SYSCTLS = {
    *("kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies"),
    *("net.ipv4.ping_group_range", "net.ipv4.ip_unprivileged_port_start"),
    *("net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time"),
    *("net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes"),
}
SELINUX_TYPES = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}


def broken_restrictions(spec):
    """Rules of the restricted Pod Security Standard that a pod's spec breaks, as texts."""
    own = spec.get("securityContext", {})
    for host in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(host):
            yield f"{host} must be false"
    for volume in spec.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= ALLOWED_VOLUMES:
            yield f"volume type {', '.join(kinds)}"
    for sysctl in own.get("sysctls", []):
        if sysctl["name"] not in SAFE_SYSCTLS:
            yield f"sysctl {sysctl['name']}"
    every = [*containers({"spec": spec}), *spec.get("ephemeralContainers", [])]
    for context in (own, *(container.get("securityContext", {}) for container in every)):
        selinux = context.get("seLinuxOptions", {})
        if (
            selinux.get("type", "") not in SELINUX_TYPES
            or selinux.get("user")
            or selinux.get("role")
        ):
            yield f"seLinuxOptions {selinux}"
        if context.get("appArmorProfile", {}).get("type", "RuntimeDefault") == "Unconfined":
            yield "appArmorProfile Unconfined"
        if context.get("windowsOptions", {}).get("hostProcess"):
            yield "windowsOptions.hostProcess"
    for container in every:
        context = container.get("securityContext", {})
        effective = {**own, **context}
        capabilities = context.get("capabilities", {})
        if effective.get("runAsNonRoot") is not True:
            yield "runAsNonRoot must be true"
        if effective.get("runAsUser") == 0:
            yield "runAsUser must not be 0"
        if effective.get("seccompProfile", {}).get("type") not in ALLOWED_SECCOMP:
            yield "seccompProfile must be RuntimeDefault or Localhost"
        if context.get("allowPrivilegeEscalation") is not False:
            yield "allowPrivilegeEscalation must be false"
        if context.get("privileged"):
            yield "privileged"
        if context.get("procMount", "Default") != "Default":
            yield f"procMount {context['procMount']}"
        if "ALL" not in capabilities.get("drop", []):
            yield "capabilities must drop ALL"
        if not set(capabilities.get("add", [])) <= ALLOWED_CAPABILITIES:
            yield f"capabilities added: {capabilities['add']}"
        if any(port.get("hostPort") for port in container.get("ports", [])):
            yield "hostPort"
        handlers = [
            container.get(p, {}) for p in ("livenessProbe", "readinessProbe", "startupProbe")
        ]
        handlers += container.get("lifecycle", {}).values()
        if any(h.get(kind, {}).get("host") for h in handlers for kind in ("httpGet", "tcpSocket")):
            yield "a probe or hook that asks another host"


@check
def nothing_is_written_beside_the_volumes(setup):
    for name, pod in pods(setup.objects):
        scratch = [mount for mount in mounts(pod) if mount.claim is None and not mount.read_only]
        if "/tmp" not in [mount.path for mount in scratch]:
            yield f"{name}: /tmp must be an emptyDir"
        for volume in pod["spec"].get("volumes", []):
            if "emptyDir" in volume and "sizeLimit" not in (volume["emptyDir"] or {}):
                yield f"{name}: emptyDir {volume['name']} needs a sizeLimit"
        for container in containers(pod):
            if not container.get("securityContext", {}).get("readOnlyRootFilesystem"):
                yield f"{name}: readOnlyRootFilesystem must be true"


@check
def ranks_have_time_to_save(setup):
    stop = "/usr/local/bin/stop_ranks"
    for role, command in (("Launcher", [stop, "--on-workers"]), ("Worker", [stop])):
        pod = template(setup.job, role)
        hook = main_container(pod).get("lifecycle", {}).get("preStop", {}).get("exec", {})
        if hook.get("command") != command:
            yield f"{role}: preStop must run {shlex.join(command)}. Received: {hook}"
        seconds = pod["spec"].get("terminationGracePeriodSeconds", 30)
        if seconds < SAVING_SECONDS + 15:
            yield f"{role}: saving takes up to {SAVING_SECONDS} s. Received: {seconds} s in all"


@check
def the_job_ends_and_is_tidied_up(setup):
    spec = setup.job["spec"]
    policy = spec["runPolicy"]
    for key in ("backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"):
        if policy.get(key, 0) < 1:
            yield f"runPolicy.{key} must be ≥ 1. Received: {policy.get(key)}"
    if policy.get("cleanPodPolicy") not in ("Running", "All"):
        yield f"cleanPodPolicy must free the workers. Received: {policy.get('cleanPodPolicy')}"
    for role in ("Launcher", "Worker"):
        # mpi-operator's validation knows these two.
        given = spec["mpiReplicaSpecs"][role].get("restartPolicy")
        if given not in ("Never", "OnFailure"):
            yield f"{role}: restartPolicy Never or OnFailure. Received: {given}"
        if "restartPolicy" in template(setup.job, role)["spec"]:
            yield f"{role}: restartPolicy belongs beside the template, which it overrides"
    waits = spec.get("launcherCreationPolicy") == "WaitForWorkersReady"
    if setup.horovod.host_discovery_script is None and not waits:
        yield "the launcher must wait for the workers' sshd: WaitForWorkersReady"
    if "readinessProbe" not in main_container(template(setup.job, "Worker")):
        yield "a worker without readinessProbe is in the DNS before its sshd listens"


@check
def no_pod_holds_a_token(setup):
    accounts = [item for item in setup.objects if item["kind"] == "ServiceAccount"]
    names = {item["metadata"]["name"] for item in accounts}
    for account in accounts:
        if account.get("automountServiceAccountToken") is not False:
            yield f"{account['metadata']['name']}: automountServiceAccountToken must be false"
    for name, pod in pods(setup.objects):
        if pod["spec"].get("automountServiceAccountToken") is not False:
            yield f"{name}: automountServiceAccountToken must be false"
        account = pod["spec"].get("serviceAccountName")
        if account not in names:
            yield f"{name}: no such ServiceAccount. Received: {account}"


@check
def one_namespace_for_all(setup):
    namespace = only(setup.storage, "Namespace")
    name = namespace["metadata"]["name"]
    label = "pod-security.kubernetes.io/enforce"
    if namespace["metadata"].get("labels", {}).get(label) != "restricted":
        yield f"the namespace must carry {label}: restricted"
    for item in (*setup.objects, *setup.storage):
        if item is not namespace and item["metadata"].get("namespace") != name:
            yield f"{item['kind']} {item['metadata']['name']} is not in the namespace {name}"
