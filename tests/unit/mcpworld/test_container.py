"""A container's CPU and memory from files as the kernel has them and from an API that speaks as Docker's does."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from joulebench.mcpworld.container import Cgroup, DockerContainer, Usage

STATS = {
    "cpu_stats": {"cpu_usage": {"total_usage": 12_500_000_000}},
    "memory_stats": {"usage": 900_000_000, "stats": {"inactive_file": 100_000_000}},
}


def cgroup(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n")
    (path / "memory.current").write_text("3000000\n")
    (path / "memory.stat").write_text("anon 2000000\ninactive_file 500000\n")
    return path


@pytest.fixture
def docker(tmp_path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(host, answers by path); a path without an answer is 404, as an unknown container is."""
    answers: dict[str, Any] = {}

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002

        def address_string(self) -> str:
            return "unix"

        def do_GET(self) -> None:
            found = answers.get(self.path.partition("?")[0])
            data = found if isinstance(found, bytes) else json.dumps(found or {"message": "no such container"}).encode()
            self.send_response(200 if found is not None else 404)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    path = tmp_path / "docker.sock"
    with socketserver.ThreadingUnixStreamServer(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield f"unix://{path}", answers
        server.shutdown()
        thread.join()


def test_a_cgroup_is_read_without_its_droppable_cache(tmp_path: Path) -> None:
    assert Cgroup(cgroup(tmp_path / "c")).read() == Usage(2.5, 2_500_000.0)


def test_what_a_cgroup_does_not_tell_is_not_known(tmp_path: Path) -> None:
    path = cgroup(tmp_path / "c")
    (path / "memory.current").unlink()
    assert Cgroup(path).read() == Usage(2.5, None)
    (path / "cpu.stat").write_text("nonsense\n")
    assert Cgroup(path).read() is None
    assert Cgroup(tmp_path / "none").read() is None


def test_a_container_is_found_by_name_and_read_from_its_cgroup(tmp_path: Path, docker: tuple[str, dict[str, Any]]) -> None:
    host, answers = docker
    answers["/containers/ollama/json"] = {"State": {"Pid": 4242}}
    cgroup(tmp_path / "fs" / "system.slice" / "docker-abc.scope")
    (tmp_path / "proc/4242").mkdir(parents=True)
    (tmp_path / "proc/4242/cgroup").write_text("0::/system.slice/docker-abc.scope\n")
    container = DockerContainer("ollama", host, tmp_path / "fs", tmp_path / "proc")
    assert container.read() == Usage(2.5, 2_500_000.0)
    answers.clear()
    assert container.read() == Usage(2.5, 2_500_000.0)


def test_without_its_cgroup_the_api_tells(tmp_path: Path, docker: tuple[str, dict[str, Any]]) -> None:
    host, answers = docker
    answers["/containers/ollama/json"] = {"State": {"Pid": 4242}}
    answers["/containers/ollama/stats"] = STATS
    assert DockerContainer("ollama", host, tmp_path, tmp_path).read() == Usage(12.5, 800_000_000.0)


@pytest.mark.parametrize(
    "answer", [None, b"no json", [], {"cpu_stats": None, "memory_stats": {}}, {"cpu_stats": {"cpu_usage": 5}}]
)
def test_an_api_without_an_answer_is_not_zero(tmp_path: Path, docker: tuple[str, dict[str, Any]], answer: Any) -> None:
    host, answers = docker
    if answer is not None:
        answers["/containers/ollama/stats"] = answer
    assert DockerContainer("ollama", host, tmp_path, tmp_path).read() is None


@pytest.mark.parametrize("host", ["unix:///no/such/socket", "tcp://127.0.0.1:9"])
def test_no_docker_is_not_zero(tmp_path: Path, host: str) -> None:
    assert DockerContainer("ollama", host, tmp_path, tmp_path).read() is None


def test_the_older_name_of_the_cache_counts_too(tmp_path: Path, docker: tuple[str, dict[str, Any]]) -> None:
    host, answers = docker
    memory: Mapping[str, Any] = {"usage": 900, "stats": {"total_inactive_file": 300}}
    answers["/containers/x%2Fy/stats"] = {**STATS, "memory_stats": memory}
    assert DockerContainer("x/y", host, tmp_path, tmp_path).read() == Usage(12.5, 600.0)
