"""From a server's port to its processes, and from a process to its unit, container, pod or job, on a /proc of known content."""

from __future__ import annotations

import ipaddress
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from joulebench.clock import SystemClock
from joulebench.devices import parse_server
from joulebench.gpu.listening_sockets import read_listening_sockets
from joulebench.gpu.owners import REMEMBERED_SECONDS, Owner, ProcessReader, parse_cgroup
from joulebench.units import Seconds
from tests.fakes.proc_tree import ProcTree


class ManualClock(SystemClock):
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> Seconds:
        return Seconds(self.now)


HEX = "4f" * 32
POD = "0a1b2c3d-1111-2222-3333-444455556666"
POD_SLICE = POD.replace("-", "_")


@pytest.fixture
def tree(tmp_path: Path) -> ProcTree:
    made = ProcTree(tmp_path)
    made.process(1, 0, words=("/sbin/init",))
    return made


def serving(tree: ProcTree, server: str, *pids: int) -> list[int]:
    """Those of the processes on GPUs that serve ``server``."""
    served = ProcessReader(tree.root).table().served_by(pids)
    return [pid for pid in pids if pid in served and any(e.accepts(*parse_server(server)) for e in served[pid].endpoints or ())]


@pytest.mark.parametrize(
    ("cgroup", "owner"),
    [
        ("0::/system.slice/ollama.service\n", Owner(unit="ollama.service")),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/vllm.service\n", Owner(unit="vllm.service")),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", Owner()),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-terminal-1.scope\n", Owner()),
        (f"0::/system.slice/docker-{HEX}.scope\n", Owner(container=HEX)),
        (f"12:memory:/docker/{HEX}\n1:name=systemd:/docker/{HEX}\n0::/system.slice/containerd.service\n", Owner(container=HEX)),
        (f"0::/machine.slice/libpod-{HEX}.scope/container\n", Owner(container=HEX)),
        (f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{HEX}.scope\n", Owner(container=HEX)),
        (
            f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{POD_SLICE}.slice/cri-containerd-{HEX}.scope\n",
            Owner(container=HEX, pod=POD),
        ),
        (f"0::/kubepods.slice/kubepods-pod{POD_SLICE}.slice/cri-containerd-{HEX}.scope\n", Owner(container=HEX, pod=POD)),
        (f"11:cpu:/kubepods/besteffort/pod{POD}/{HEX}\n", Owner(container=HEX, pod=POD)),
        (f"0::/kubelet/kubepods/pod{POD}/{HEX}\n", Owner(container=HEX, pod=POD)),
        (
            f"0::/system.slice/containerd.service/kubepods-pod{POD_SLICE}.slice:cri-containerd:{HEX}\n",
            Owner(container=HEX, pod=POD),
        ),
        ("9:devices:/slurm/uid_1000/job_42/step_0/task_0\n", Owner(job="42")),
        ("0::/system.slice/slurmstepd.scope/job_42/step_batch/user/task_0\n", Owner(job="42")),
        ("0::/system.slice/node1_slurmstepd.scope/job_7/step_0/user\n", Owner(job="7")),
        # Version 1 of cgroups: controllers that Slurm or Docker do not use name the service that started all.
        ("8:pids:/system.slice/slurmd.service\n5:devices:/slurm/uid_0/job_42/step_0\n", Owner(job="42")),
        (f"8:pids:/system.slice/docker.service\n5:devices:/docker/{HEX}\n", Owner(container=HEX)),
        (f"0::/docker/{'5e' * 32}/docker/{HEX}\n", Owner(container=HEX)),
        (f"0::/system.slice/docker-{'5e' * 32}.scope/system.slice/docker-{HEX}.scope\n", Owner(container=HEX)),
        (f"0::/kubepods.slice/kubepods-pod{POD_SLICE}.slice/crio-{HEX}.scope/container\n", Owner(container=HEX, pod=POD)),
        ("0::/job_9/x\n", Owner()),
        ("", Owner()),
        ("nonsense\n::\n", Owner()),
    ],
)
def test_a_cgroup_names_its_owner(cgroup: str, owner: Owner) -> None:
    assert parse_cgroup(cgroup) == owner


def test_a_server_and_the_workers_it_started_serve_its_port(tree: ProcTree) -> None:
    tree.process(100, words=("ollama", "serve"))
    tree.process(110, 100, words=("ollama", "runner"))
    tree.process(111, 110)
    tree.process(200, words=("vllm",))
    tree.listen(100, "127.0.0.1", 11434)
    tree.listen(200, "0.0.0.0", 8000)
    assert serving(tree, "127.0.0.1:11434", 100, 110, 111, 200) == [100, 110, 111]
    assert serving(tree, "http://localhost:11434/v1", 110, 111, 200) == [110, 111]
    assert serving(tree, "192.0.2.7:8000", 110, 200) == [200]


@pytest.mark.parametrize(
    ("listening", "server"),
    [("::", "127.0.0.1:80"), ("::1", "[::1]:80"), ("::ffff:127.0.0.1", "127.0.0.1:80"), ("0.0.0.0", "box:80")],
)
def test_a_socket_takes_connections_to_its_addresses(tree: ProcTree, listening: str, server: str) -> None:
    tree.process(100)
    tree.listen(100, listening, 80)
    assert serving(tree, server, 100) == [100]


def test_a_socket_on_another_address_and_a_connection_are_no_server(tree: ProcTree) -> None:
    tree.process(100)
    tree.listen(100, "10.0.0.5", 8000)
    tree.process(200)
    tree.connect(200, "127.0.0.1", 8000)
    assert serving(tree, "127.0.0.1:8000", 100, 200) == []
    assert serving(tree, "10.0.0.5:8000", 100, 200) == [100]


def test_a_socket_for_all_ipv4_addresses_takes_no_ipv6_connection(tree: ProcTree) -> None:
    for pid, address in ((100, "0.0.0.0"), (200, "::1")):
        tree.process(pid)
        tree.listen(pid, address, 8000)
    assert serving(tree, "[::1]:8000", 100, 200) == [200]
    assert serving(tree, "127.0.0.1:8000", 100, 200) == [100]


def test_dockers_port_proxy_leads_into_the_container(tree: ProcTree) -> None:
    inside, other = "net:[4026532001]", "net:[4026532002]"
    tree.network(inside, "127.0.0.1", "172.17.0.2")
    tree.network(other, "127.0.0.1", "172.17.0.3")
    tree.process(50, words=("/usr/bin/docker-proxy", "-proto", "tcp", "-host-ip", "0.0.0.0", "-host-port", "8000",
                            "-container-ip", "172.17.0.2", "-container-port", "80"), program="docker-proxy")  # fmt: skip
    tree.listen(50, "0.0.0.0", 8000)
    tree.process(300, cgroup=f"0::/system.slice/docker-{HEX}.scope\n", network=inside)
    tree.listen(300, "0.0.0.0", 80)
    tree.process(301, 300, cgroup=f"0::/system.slice/docker-{HEX}.scope\n", network=inside)
    tree.process(400, network=other)
    tree.listen(400, "0.0.0.0", 80)
    assert serving(tree, "127.0.0.1:8000", 300, 301, 400) == [300, 301]
    assert serving(tree, "127.0.0.1:80", 300, 301, 400) == []


def test_an_address_of_a_pod_is_looked_up_in_its_network(tree: ProcTree) -> None:
    inside = "net:[4026532001]"
    tree.network(inside, "127.0.0.1", "10.42.0.17")
    tree.process(300, network=inside)
    tree.listen(300, "::", 8000)
    assert serving(tree, "10.42.0.17:8000", 300) == [300]
    assert serving(tree, "10.42.0.1:8000", 300) == []


def test_a_pod_with_ipv6_alone_is_found_by_its_address_and_not_by_the_hosts(tree: ProcTree) -> None:
    inside, closed = "net:[4026532001]", "net:[4026532002]"
    tree.network(inside, "fd00:10:42::17", "fe80::1")
    tree.process(300, network=inside)
    tree.listen(300, "::", 8000)
    assert serving(tree, "http://[fd00:10:42::17]:8000/v1", 300) == [300]
    assert serving(tree, "[::1]:8000", 300) == serving(tree, "127.0.0.1:8000", 300) == []
    endpoints = ProcessReader(tree.root).table().served_by([300])[300].endpoints or ()
    assert [endpoint.addresses() for endpoint in endpoints] == [["[fd00:10:42::17]:8000"]]
    # A namespace of which no address is known is reached from nowhere.
    tree.process(400, network=closed)
    tree.listen(400, "0.0.0.0", 8001)
    assert serving(tree, "127.0.0.1:8001", 400) == serving(tree, "box:8001", 400) == []


def test_a_worker_of_another_tree_serves_the_port_of_its_container(tree: ProcTree) -> None:
    container = f"0::/system.slice/docker-{HEX}.scope\n"
    tree.process(100, cgroup=container, words=("vllm", "serve"))
    tree.listen(100, "0.0.0.0", 8000)
    tree.process(150, cgroup=container, words=("raylet",))
    tree.process(151, 150, cgroup=container, words=("ray::RayWorkerWrapper",))
    tree.process(500, cgroup=f"0::/system.slice/docker-{'5e' * 32}.scope\n")
    assert serving(tree, "127.0.0.1:8000", 151, 500) == [151]


def test_a_worker_of_ray_serves_the_port_of_its_container_although_it_listens_itself(tree: ProcTree) -> None:
    container = f"0::/system.slice/docker-{HEX}.scope\n"
    tree.process(100, cgroup=container, words=("vllm", "serve"))
    tree.listen(100, "0.0.0.0", 8000)
    tree.process(150, cgroup=container, program="raylet")
    tree.listen(150, "0.0.0.0", 35001)
    tree.process(151, 150, cgroup=container, program="ray::RayWorkerW")
    tree.listen(151, "0.0.0.0", 10002)
    assert serving(tree, "127.0.0.1:8000", 151) == serving(tree, "127.0.0.1:10002", 151) == [151]


def test_two_servers_of_one_job_keep_their_own_workers(tree: ProcTree) -> None:
    job = "0::/system.slice/slurmstepd.scope/job_42/step_batch/user/task_0\n"
    for pid, port in ((100, 8000), (200, 8001)):
        tree.process(pid, cgroup=job)
        tree.listen(pid, "127.0.0.1", port)
        tree.process(pid + 1, pid, cgroup=job)
    assert serving(tree, "127.0.0.1:8000", 101, 201) == [101]
    assert serving(tree, "127.0.0.1:8001", 101, 201) == [201]


def test_processes_without_any_owner_do_not_share_one(tree: ProcTree) -> None:
    session = "0::/user.slice/user-1000.slice/session-3.scope\n"
    tree.process(100, cgroup=session)
    tree.listen(100, "127.0.0.1", 8000)
    tree.process(200, cgroup=session)
    assert serving(tree, "127.0.0.1:8000", 200) == []


def test_a_process_whose_network_may_not_be_read_serves_nobody_knows_what(tree: ProcTree) -> None:
    tree.process(100)
    (tree.root / "100/ns/net").unlink()
    served = ProcessReader(tree.root).table().served_by([100])
    assert served[100].endpoints is None


def ports(reader: ProcessReader, pid: int) -> list[int]:
    """Those that the process on a GPU serves by a new look at it."""
    return sorted(endpoint.port for endpoint in reader.table().served_by([pid])[pid].endpoints or ())


def test_a_socket_that_listens_later_is_seen_at_the_next_look(tree: ProcTree) -> None:
    tree.process(100)
    tree.process(101, parent=100)
    reader = ProcessReader(tree.root)
    assert ports(reader, 101) == []
    tree.listen(100, "127.0.0.1", 8000)
    assert ports(reader, 101) == [8000]
    tree.listen(101, "127.0.0.1", 8001)
    assert ports(reader, 101) == [8000, 8001]


def test_a_socket_that_is_closed_is_no_longer_served(tree: ProcTree) -> None:
    tree.process(100)
    tree.process(101, parent=100)
    tree.listen(100, "127.0.0.1", 8000)
    tree.listen(101, "127.0.0.1", 8001)
    reader = ProcessReader(tree.root)
    assert ports(reader, 101) == [8000, 8001]
    tree.end(100)
    tree.process(101)
    assert ports(reader, 101) == [8001]


def test_a_new_process_of_an_old_number_does_not_inherit_sockets(tree: ProcTree) -> None:
    tree.process(99)
    tree.process(100, started=5000)
    tree.listen(100, "127.0.0.1", 8000)
    reader = ProcessReader(tree.root)
    assert ports(reader, 100) == [8000]
    (descriptor,) = (tree.root / "100/fd").iterdir()
    descriptor.rename(tree.root / "99/fd" / descriptor.name)
    tree.process(100, started=9000)
    assert ports(reader, 100) == []


def test_a_socket_that_is_handed_over_is_seen_within_a_minute(tree: ProcTree) -> None:
    clock = ManualClock()
    tree.process(99)
    tree.process(100)
    tree.listen(99, "127.0.0.1", 8000)
    reader = ProcessReader(tree.root, clock)
    assert ports(reader, 100) == []
    (descriptor,) = (tree.root / "99/fd").iterdir()
    descriptor.rename(tree.root / "100/fd" / descriptor.name)
    clock.now += REMEMBERED_SECONDS + 1
    assert ports(reader, 100) == [8000]


def test_a_server_that_starts_after_its_workers_is_found_by_their_unit(tree: ProcTree) -> None:
    unit = "0::/system.slice/ray.service\n"
    tree.process(100, cgroup=unit)
    reader = ProcessReader(tree.root)
    assert ports(reader, 100) == []
    tree.process(200, cgroup=unit)
    tree.listen(200, "127.0.0.1", 8000)
    assert ports(reader, 100) == [8000]
    tree.end(200)
    assert ports(reader, 100) == []


def test_the_kernel_lists_the_same_listening_sockets_as_its_file() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_server(("127.0.0.1", 0)) as other:
        connection = socket.create_connection(other.getsockname())
        found = [one for one in read_listening_sockets() if one.port == listener.getsockname()[1]]
        connected = [one for one in read_listening_sockets() if one.port == connection.getsockname()[1]]
        connection.close()
        lines = Path("/proc/net/tcp").read_text().splitlines()
        inodes = [line.split()[9] for line in lines if f"0100007F:{listener.getsockname()[1]:04X} 00000000:0000 0A" in line]
    assert [(one.inode, one.address) for one in found] == [(inode, ipaddress.ip_address("127.0.0.1")) for inode in inodes]
    assert connected == []


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_an_ipv6_socket_for_all_addresses_is_listed() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        found = [one.address for one in read_listening_sockets() if one.port == listener.getsockname()[1]]
    assert found == [ipaddress.ip_address("::")]


def test_a_process_that_is_gone_is_left_out(tree: ProcTree) -> None:
    assert ProcessReader(tree.root).table().served_by([4711]) == {}


def test_the_age_of_a_process_is_read_past_any_name(tree: ProcTree) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    tree.uptime(1000.0)
    tree.process(100, started=990 * ticks)
    assert ProcessReader(tree.root).table().age(100) == pytest.approx(10.0)
    assert ProcessReader(tree.root).table().age(101) is None


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("127.0.0.1:11434", ("127.0.0.1", 11434)),
        ("http://127.0.0.1:8000/v1", ("127.0.0.1", 8000)),
        ("https://user:secret@box.example/v1", ("box.example", 443)),
        ("http://[::1]:8000", ("::1", 8000)),
        ("http://[::1]", ("::1", 80)),
        ("HTTPS://Box.example", ("Box.example", 443)),
        ("http://box?key=1", ("box", 80)),
        ("http://box:8000#top", ("box", 8000)),
        ("[fe80::1%eth0]:8000", ("fe80::1%eth0", 8000)),
    ],
)
def test_a_server_is_read_from_an_address_or_a_url(text: str, server: tuple[str, int]) -> None:
    assert parse_server(text) == server


@pytest.mark.parametrize("text", ["", "box", ":8000", "box:0", "box:99999", "box:http", "[::1]", "::1", "a box:80", "a:b:80"])
def test_what_is_no_server_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not HOST:PORT, such as 127\.0\.0\.1:11434"):
        parse_server(text)


def test_a_server_that_is_refused_is_shown_without_its_credentials() -> None:
    with pytest.raises(ValueError, match="'box:http' is not HOST:PORT") as refused:
        parse_server("http://user:secret@box:http")
    assert "secret" not in str(refused.value)


SERVER = """
import socket, subprocess, sys
listener = socket.create_server(("127.0.0.1", 0))
child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
print(listener.getsockname()[1], child.pid, flush=True)
sys.stdin.read()
child.kill(); child.wait()
"""


def test_on_this_machine_a_real_servers_child_serves_its_port() -> None:
    with subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port, child = map(int, server.stdout.readline().split())
        table = ProcessReader().table()
        served, age = table.served_by([child, os.getpid()]), table.age(child)
        server.communicate("")
    assert any(endpoint.accepts("127.0.0.1", port) for endpoint in served[child].endpoints or ())
    assert not any(endpoint.accepts("127.0.0.1", port) for endpoint in served[os.getpid()].endpoints or ())
    assert age is not None
    assert 0 <= age < 60
