"""Idle processes that stand for the model servers of a busy machine: 40 on 8 GPUs, with ports, workers, open files and cgroups.

Six GPUs have a server each whose workers are its children, as vLLM starts them. On one GPU something else starts the workers, as
Ray does, so that only the unit that they share with their server says whose they are; on the last there are programs that serve
nothing. Beside them run processes of other units that use no GPU. All are ``sleep`` with another title: they cost nothing, and
have what the exporter reads of a process.

Run as ``python gpu_processes.py PLAN`` this file starts the processes of PLAN (JSON), prints ``GPU PID`` for each that uses a
GPU, and waits.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

GPUS, PROCESSES_PER_GPU = 8, 5
NEIGHBOURS, NEIGHBOURS_PER_UNIT = 120, 10
OPEN_FILES, SOCKET_PAIRS = 80, 10
"""Of each process on a GPU, as a worker of vLLM has them: device files, and sockets between workers."""
PORTS = 4
"""Ports that a server listens on: its own, and those between its workers."""


@contextmanager
def running_processes() -> Iterator[tuple[Sequence[Sequence[int]], bool]]:
    """Starts the processes and ends them. Yields the pids by GPU, and whether they could be put into cgroups of their own."""
    parent = _cgroup_root()
    directories: list[Path] = []

    def unit(name: str) -> str | None:
        if parent is None:
            return None
        directory = parent / f"joulebench-benchmark-{os.getpid()}-{name}.service"
        directory.mkdir()
        directories.append(directory)
        return str(directory)

    try:
        plan = _plan(unit)
    except OSError:
        _remove(directories)
        directories, parent = [], None
        plan = _plan(unit)
    command = [sys.executable, "-S", __file__, json.dumps(plan)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        by_gpu: list[list[int]] = [[] for _ in range(GPUS)]
        for _ in range(GPUS * PROCESSES_PER_GPU):
            gpu, pid = process.stdout.readline().split()
            by_gpu[int(gpu)].append(int(pid))
        yield by_gpu, parent is not None
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        _remove(directories)


def _remove(directories: Sequence[Path]) -> None:
    for directory in directories:
        for _ in range(50):
            try:
                directory.rmdir()
                break
            except OSError:
                # The kernel has not ended all its processes yet.
                subprocess.run(["sleep", "0.05"], check=True)


def _cgroup_root() -> Path | None:
    """Returns where version 2 of the cgroups is mounted; None where no cgroup can be made."""
    for line in Path("/proc/mounts").read_text().splitlines():
        words = line.split()
        if words[2] == "cgroup2" and os.access(words[1], os.W_OK):
            return Path(words[1])
    return None


def _plan(unit: Any) -> list[Mapping[str, Any]]:
    servers = [
        _process(
            "vllm",
            gpu=gpu,
            cgroup=unit(f"vllm-{gpu}"),
            ports=PORTS,
            children=[_process(f"VLLM::Worker_TP{rank}", gpu=gpu) for rank in range(PROCESSES_PER_GPU - 1)],
        )
        for gpu in range(GPUS - 2)
    ]
    ray, batch = unit("ray"), unit("batch")
    workers = [_process("ray::RayWorkerWrapper", gpu=GPUS - 2) for _ in range(PROCESSES_PER_GPU)]
    neighbours: list[Mapping[str, Any]] = []
    for number in range(NEIGHBOURS // NEIGHBOURS_PER_UNIT):
        cgroup = unit(f"neighbour-{number}")
        neighbours += [_process("neighbour", cgroup=cgroup) for _ in range(NEIGHBOURS_PER_UNIT)]
    return [
        *servers,
        _process("raylet", cgroup=ray, children=workers),
        _process("vllm", cgroup=ray, ports=PORTS),
        *(_process("train", gpu=GPUS - 1, cgroup=batch) for _ in range(PROCESSES_PER_GPU)),
        *neighbours,
    ]


def _process(
    title: str,
    *,
    gpu: int | None = None,
    cgroup: str | None = None,
    ports: int = 0,
    children: Sequence[Mapping[str, Any]] = (),
) -> Mapping[str, Any]:
    return {"title": title, "gpu": gpu, "cgroup": cgroup, "ports": ports, "children": children}


def _start(process: Mapping[str, Any]) -> None:
    """Forks the process and its children. The files that it opens stay open when it becomes ``sleep``."""
    if os.fork():
        return
    if process["cgroup"] is not None:
        (Path(process["cgroup"]) / "cgroup.procs").write_text(str(os.getpid()))
    for child in process["children"]:
        _start(child)
    for _ in range(process["ports"]):
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        os.set_inheritable(listener.detach(), True)
    if process["gpu"] is not None:
        for _ in range(OPEN_FILES):
            os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True)
        for pair in (socket.socketpair() for _ in range(SOCKET_PAIRS)):
            for end in pair:
                os.set_inheritable(end.detach(), True)
        os.write(1, f"{process['gpu']} {os.getpid()}\n".encode())
    os.execv(shutil.which("sleep") or "/bin/sleep", [process["title"], "86400"])


if __name__ == "__main__":
    for planned in json.loads(sys.argv[1]):
        _start(planned)
    signal.pause()
