"""From a server's port to its processes, and from a process to its unit, container, pod or job, on a /proc of known content."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from joulebench.gpu.owners import Owner, ServerProcesses, parse_cgroup, read_processes, start_ticks
from tests.fakes.proc_tree import ProcTree

HEX = "4f" * 32
POD = "0a1b2c3d-1111-2222-3333-444455556666"
POD_SLICE = POD.replace("-", "_")


@pytest.fixture
def tree(tmp_path: Path) -> ProcTree:
    made = ProcTree(tmp_path)
    made.process(1, 0, words=("/sbin/init",))
    return made


def servers(tree: ProcTree, address: str, port: int) -> ServerProcesses:
    return read_processes(tree.root).servers(address, port)


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
        ("0::/job_9/x\n", Owner()),
        ("", Owner()),
        ("nonsense\n::\n", Owner()),
    ],
)
def test_a_cgroup_names_its_owner(cgroup: str, owner: Owner) -> None:
    assert parse_cgroup(cgroup) == owner


def test_a_port_leads_to_the_server_and_the_workers_it_started(tree: ProcTree) -> None:
    tree.process(100, words=("ollama", "serve"))
    tree.process(110, 100, words=("ollama", "runner"))
    tree.process(111, 110)
    tree.process(200, words=("vllm",))
    tree.listen(100, "127.0.0.1", 11434)
    tree.listen(200, "0.0.0.0", 8000)
    assert servers(tree, "127.0.0.1", 11434).pids == {100, 110, 111}
    assert servers(tree, "localhost", 11434).pids == {100, 110, 111}
    assert servers(tree, "192.0.2.7", 8000).pids == {200}


@pytest.mark.parametrize(("listening", "asked"), [("::", "127.0.0.1"), ("::1", "::1"), ("::ffff:127.0.0.1", "127.0.0.1")])
def test_ipv6_sockets_are_read(tree: ProcTree, listening: str, asked: str) -> None:
    tree.process(100)
    tree.listen(100, listening, 11434)
    assert servers(tree, asked, 11434).pids == {100}


def test_a_socket_on_another_address_and_a_connection_are_no_server(tree: ProcTree) -> None:
    tree.process(100)
    tree.listen(100, "10.0.0.5", 8000)
    tree.process(200)
    tree.connect(200, "127.0.0.1", 8000)
    assert servers(tree, "127.0.0.1", 8000) == ServerProcesses()
    assert servers(tree, "10.0.0.5", 8000).pids == {100}


def test_dockers_port_proxy_leads_into_the_container(tree: ProcTree) -> None:
    inside, other = "net:[4026532001]", "net:[4026532002]"
    tree.network(inside, "127.0.0.1", "172.17.0.2")
    tree.network(other, "127.0.0.1", "172.17.0.3")
    tree.process(50, words=("/usr/bin/docker-proxy", "-proto", "tcp", "-host-ip", "0.0.0.0", "-host-port", "8000",
                            "-container-ip", "172.17.0.2", "-container-port", "80"))  # fmt: skip
    tree.listen(50, "0.0.0.0", 8000)
    tree.process(300, cgroup=f"0::/system.slice/docker-{HEX}.scope\n", network=inside)
    tree.listen(300, "0.0.0.0", 80)
    tree.process(301, 300, cgroup=f"0::/system.slice/docker-{HEX}.scope\n", network=inside)
    tree.process(400, network=other)
    tree.listen(400, "0.0.0.0", 80)
    found = servers(tree, "127.0.0.1", 8000)
    assert found.pids >= {300, 301}
    assert 400 not in found.pids
    assert Owner(container=HEX) in found.owners


def test_an_address_of_a_pod_is_looked_up_in_its_network(tree: ProcTree) -> None:
    inside = "net:[4026532001]"
    tree.network(inside, "127.0.0.1", "10.42.0.17")
    tree.process(300, network=inside)
    tree.listen(300, "::", 8000)
    assert servers(tree, "10.42.0.17", 8000).pids == {300}
    assert servers(tree, "10.42.0.1", 8000) == ServerProcesses()


def test_a_worker_of_another_tree_belongs_to_the_server_by_its_container(tree: ProcTree) -> None:
    container = f"0::/system.slice/docker-{HEX}.scope\n"
    tree.process(100, cgroup=container, words=("vllm", "serve"))
    tree.listen(100, "0.0.0.0", 8000)
    tree.process(150, cgroup=container, words=("raylet",))
    tree.process(151, 150, cgroup=container, words=("ray::RayWorkerWrapper",))
    tree.process(500, cgroup=f"0::/system.slice/docker-{'5e' * 32}.scope\n")
    table = read_processes(tree.root)
    found = table.servers("127.0.0.1", 8000)
    assert [pid for pid in (100, 151, 500) if table.serves(pid, found)] == [100, 151]


def test_processes_without_any_owner_do_not_share_one(tree: ProcTree) -> None:
    session = "0::/user.slice/user-1000.slice/session-3.scope\n"
    tree.process(100, cgroup=session)
    tree.listen(100, "127.0.0.1", 8000)
    tree.process(200, cgroup=session)
    table = read_processes(tree.root)
    assert not table.serves(200, table.servers("127.0.0.1", 8000))


def test_a_listener_that_cannot_be_seen_is_said_to_be_hidden(tree: ProcTree) -> None:
    tree.process(100)
    tree.listen(100, "127.0.0.1", 8000, visible=False)
    assert servers(tree, "127.0.0.1", 8000) == ServerProcesses(hidden=True)


def test_the_start_of_a_process_is_read_past_any_name(tree: ProcTree) -> None:
    tree.process(100, started=123456)
    assert start_ticks(tree.root, 100) == 123456
    assert start_ticks(tree.root, 101) is None


SERVER = """
import socket, subprocess, sys
listener = socket.create_server(("127.0.0.1", 0))
child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
print(listener.getsockname()[1], child.pid, flush=True)
sys.stdin.read()
child.kill(); child.wait()
"""


def test_on_this_machine_a_real_server_is_found_with_its_child() -> None:
    with subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port, child = map(int, server.stdout.readline().split())
        found = read_processes().servers("127.0.0.1", port)
        assert {server.pid, child} <= found.pids
        assert os.getpid() not in found.pids
        server.communicate("")
