"""Hosts in namespaces: that they are apart, and that their links do what is asked of them."""

import time

import hosts as hosts_module
import pytest
from hosts import Hosts, HostsError, why_not

needs_hosts = pytest.mark.skipif(why_not() is not None, reason=f"hosts: {why_not()}")


@pytest.fixture(scope="module")
def hosts():
    with Hosts(workers=2, slots=3, job="net") as made:
        yield made


def lines(process):
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


@needs_hosts
def test_workers_are_reached_over_ssh_by_the_names_of_their_pods(hosts):
    for worker in hosts.workers:
        for name in (worker.name, f"{worker.name}.net.default.svc"):
            assert lines(hosts.launcher.run(["ssh", name, "hostname"])) == [worker.name]


@needs_hosts
def test_the_files_of_mpi_operator_name_the_workers_and_their_slots(hosts):
    full = [f"net-worker-{number}.net.default.svc" for number in range(2)]
    assert lines(hosts.launcher.run(["cat", hosts_module.HOSTFILE])) == [
        f"{name} slots=3" for name in full
    ]
    assert lines(hosts.launcher.run([hosts_module.DISCOVERY_SCRIPT])) == full


@needs_hosts
def test_commands_have_neither_privileges_nor_a_way_to_them(hosts):
    status = lines(hosts.launcher.run(["cat", "/proc/self/status"]))
    fields = dict(line.split(":\t", 1) for line in status)
    assert fields["Uid"].split() == ["1000"] * 4
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"] == "1"


@needs_hosts
def test_a_host_sees_its_own_processes_and_one_interface_only(hosts):
    assert lines(hosts.launcher.run(["sh", "-c", "ls /sys/class/net"])) == ["eth0", "lo"]
    assert "sshd" in " ".join(lines(hosts.workers[0].run(["ps", "-eo", "comm"])))
    assert "sshd" not in " ".join(lines(hosts.launcher.run(["ps", "-eo", "comm"])))


def send(hosts, worker, size):
    """Seconds that a worker takes to send so many bytes to the launcher, and what it counted."""
    before = worker.sent_bytes(), hosts.launcher.received_bytes()
    started = time.perf_counter()
    command = f"ssh {worker.name} head -c {size} /dev/zero | wc -c"
    assert lines(hosts.launcher.run(["sh", "-c", command])) == [str(size)]
    seconds = time.perf_counter() - started
    return seconds, worker.sent_bytes() - before[0], hosts.launcher.received_bytes() - before[1]


@needs_hosts
def test_the_counters_of_both_ends_count_what_was_sent(hosts):
    _, sent, received = send(hosts, hosts.workers[0], 10_000_000)
    assert 10_000_000 < sent < 10_500_000
    assert received == pytest.approx(sent, rel=0.01)


@needs_hosts
def test_a_limit_holds_what_leaves_a_host_to_its_rate(hosts):
    worker, size = hosts.workers[0], 4_000_000
    worker.limit(16e6)
    try:
        seconds, _, _ = send(hosts, worker, size)
    finally:
        worker.limit(None)
    # At most what is sent at once and what the rate lets through: no machine is faster.
    assert size - hosts_module.BURST_BYTES <= seconds * 16e6 / 8


@needs_hosts
def test_a_host_that_was_cut_off_answers_again_when_it_is_connected(hosts):
    worker = hosts.workers[0]
    ask = ["ssh", "-o", "ConnectTimeout=1", worker.name, "hostname"]
    worker.disconnect()
    assert hosts.launcher.run(ask).returncode == 255
    worker.connect()
    assert lines(hosts.launcher.run(["ssh", worker.name, "hostname"])) == [worker.name]


@needs_hosts
def test_workers_come_and_go_and_the_discovery_script_follows(tmp_path):
    seen = tmp_path / "seen"
    seen.mkdir()
    seen.chmod(0o777)
    with Hosts(workers=1, job="net", mounts={"/runs": seen}) as hosts:
        first = hosts.workers[0]
        second = hosts.add_worker()
        ask = f"ssh {second.name} 'hostname > /runs/name'"
        assert lines(hosts.launcher.run(["sh", "-c", ask])) == []
        hosts.remove_worker(first)
        assert lines(hosts.launcher.run([hosts_module.DISCOVERY_SCRIPT])) == [
            "net-worker-1.net.default.svc"
        ]
        with pytest.raises(HostsError, match="net-worker-0 has ended"):
            first.run(["true"])
    assert (seen / "name").read_text() == "net-worker-1\n"
    with pytest.raises(HostsError, match="net-worker-1 has ended"):
        second.run(["true"])


def test_without_privileges_the_reason_is_said(monkeypatch):
    monkeypatch.setattr(hosts_module.os, "geteuid", lambda: 1000)
    with pytest.raises(HostsError, match="root's privileges"), Hosts(workers=1):
        pass


def test_a_missing_command_is_named(monkeypatch):
    monkeypatch.setattr(hosts_module.os, "geteuid", lambda: 0)
    monkeypatch.setattr(hosts_module, "_tool", lambda name: None if name == "sshd" else name)
    assert "missing commands: sshd" in why_not()
