"""The image of the exporter and the proxy, built from ``exporter/Dockerfile`` and run as ``docker-compose.yml`` does.

What is not tested: the base image, where no registry gives it (the summary says so), and NVIDIA's container runtime, which
brings the driver's library. ``make test-image`` runs this, ``make test`` does not.
"""

from __future__ import annotations

import base64
import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bcrypt
import pytest
from packaging.utils import canonicalize_name
from prometheus_client.parser import text_string_to_metric_families

from joulebench.clock import SystemClock, wait_until
from tests.contract.sources import ROOT, loaded
from tests.fakes import nvml
from tests.image.containers import DOCKERFILE, LIMITS, PYTHON, SUMMARY, Container, ContainerEngine, reason_against
from tests.needs import missing

SERVICES: dict[str, dict[str, Any]] = loaded(ROOT / "docker-compose.yml")["services"]
EXPORTER, WITH_GPUS, PROXY = SERVICES["exporter-cpu"], SERVICES["exporter-gpu"], SERVICES["proxy"]
IMAGE = "localhost/joulebench:test"
SIMULATED = ("--web.listen-address=0.0.0.0:18347", "--gpu-source=simulated", "--no-ollama")
BUILD_TOOLS = ("gcc", "cc", "g++", "c++", "clang", "ld", "as", "make", "cmake", "go", "cargo", "rustc", "git", "hatchling")

# The first test waits for the base image and the build.
pytestmark = pytest.mark.timeout(600)


@dataclass(frozen=True)
class Image:
    engine: ContainerEngine
    description: dict[str, Any]
    """What podman knows of the image."""

    @property
    def health_check(self) -> list[str]:
        kind, *command = self.description["Healthcheck"]["Test"]
        assert kind == "CMD"
        return list(command)


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    reason = reason_against()
    if reason is not None:
        missing(reason)
    # Not in pytest's folder: a mount that stays in there makes later sessions fail at their end.
    engine = ContainerEngine(Path(tempfile.mkdtemp(prefix="joulebench-containers-")))
    (name,) = set(re.findall(r"^FROM (\S+)", DOCKERFILE.read_text(), flags=re.MULTILINE))
    try:
        SUMMARY.append(f"base image: {engine.prepare_base(name)}")
        done = engine.build(IMAGE)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        (description,) = json.loads(engine.output("image", "inspect", IMAGE))
        SUMMARY.append(f"image with its base: {description['Size'] / 1e6:.0f} MB")
        yield Image(engine, description | description["Config"])
    finally:
        engine.remove()


@pytest.fixture(scope="module")
def exporter(image: Image) -> Container:
    """The exporter with the compose file's own command and limits."""
    container = image.engine.start(IMAGE, EXPORTER)
    wait_until_healthy(container)
    return container


def wait_until_healthy(container: Container, port: int = 18347) -> None:
    assert wait_until(lambda: container.get("/healthz", port)[0] in (200, 401), 30.0, interval=0.2), container.log()


def test_labels_are_those_of_the_project(image: Image) -> None:
    tomllib = pytest.importorskip("tomllib", reason="tomllib comes with Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    labels = image.description["Labels"]
    for label, key in {"title": "name", "description": "description", "licenses": "license"}.items():
        assert labels[f"org.opencontainers.image.{label}"] == project[key]


def test_it_runs_as_the_user_of_the_compose_file_who_is_not_root(image: Image) -> None:
    assert image.description["User"] == EXPORTER["user"] == PROXY["user"]
    user, group = map(int, image.description["User"].split(":"))
    assert user > 0
    assert group > 0


def test_it_holds_no_compiler_no_build_tool_and_nothing_of_the_build(exporter: Container) -> None:
    tools = exporter.run("sh", "-c", f"for tool in {' '.join(BUILD_TOOLS)}; do command -v $tool; done")
    assert tools.stdout == ""
    assert exporter.run("ls", "/opt").stdout.split() == ["joulebench"]
    for folder in ("/src", "/wheels"):
        assert exporter.run("test", "-e", folder).returncode == 1, folder


def test_it_holds_the_packages_that_are_pinned_by_hash_and_no_other(exporter: Container) -> None:
    code = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    installed = {
        canonicalize_name(name): version for name, version in json.loads(exporter.run(PYTHON, "-c", code).stdout).items()
    }
    lock = (ROOT / "exporter/requirements.lock").read_text()
    locked = {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", lock, flags=re.MULTILINE)}
    assert installed.pop(canonicalize_name("joulebench"))
    assert {"bcrypt", "aiohttp", "nvidia-ml-py"} <= installed.keys()
    assert installed.items() <= locked.items()


def test_its_process_has_no_privilege_and_can_get_none(exporter: Container) -> None:
    status = dict(line.split(":\t", 1) for line in exporter.run("cat", "/proc/1/status").stdout.splitlines())
    user, group = EXPORTER["user"].split(":")
    assert set(status["Uid"].split()) == {user}
    assert set(status["Gid"].split()) == {group}
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[kind], 16) == 0, kind
    assert status["NoNewPrivs"] == "1"


@pytest.mark.parametrize("folder", ["/", "/tmp", "/opt/joulebench", "/etc/joulebench/prometheus", "/run", "/var/tmp"])
def test_its_files_cannot_be_changed(exporter: Container, folder: str) -> None:
    done = exporter.run("touch", f"{folder}/file")
    assert done.returncode != 0
    assert "Read-only file system" in done.stderr


def test_memory_and_processes_are_limited_as_the_compose_file_says(exporter: Container) -> None:
    memory = exporter.first_line("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
    processes = exporter.first_line("/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max")
    if memory is None or processes is None:
        pytest.skip("this kernel shows a container no control group of memory or pids")
    assert EXPORTER["mem_limit"] == f"{int(memory) // 2**20}m"
    assert int(processes) == EXPORTER["pids_limit"]


def test_it_serves_metrics_and_health_without_a_gpu(exporter: Container) -> None:
    status, body = exporter.get("/metrics")
    assert status == 200
    families = {family.name for family in text_string_to_metric_families(body)}
    # Of the price list that the compose file mounts.
    assert "joulebench_price_electricity_per_joule" in families
    assert not [name for name in families if name.startswith("joulebench_gpu_energy")]
    assert exporter.get("/healthz") == (200, "ok\n")
    assert "no NVIDIA driver is installed here, or this container was started without its GPUs" in exporter.log()


def test_a_driver_that_is_mounted_gives_the_joules_of_a_window(image: Image, tmp_path: Path) -> None:
    """The service of the profile gpu, with a library of known joules where the container runtime mounts that of the driver."""
    script = nvml.FakeGpuScript([nvml.FakeGpu(power=((0.0, 120.0),), uuid="GPU-120"), nvml.FakeGpu(uuid="GPU-other")])
    tmp_path.chmod(0o755)
    mounts = {
        nvml.build(): "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
        script.write(tmp_path / "gpus"): "/etc/joulebench/gpus",
    }
    flags = [f"--volume={source}:{target}:ro" for source, target in mounts.items()]
    container = image.engine.start(IMAGE, WITH_GPUS, *flags, f"--env={nvml.SCRIPT_VARIABLE}=/etc/joulebench/gpus")
    energy = 'joulebench_gpu_energy_joules_total{gpu="0",uuid="GPU-120"}'
    assert wait_until(lambda: energy in container.get("/metrics")[1], 30.0, interval=0.2), container.log()
    start = SystemClock().unix()
    end = start + 1.0
    status, body = container.get(f"/api/v1/energy?start={start!r}&end={end!r}&wait=2")
    assert status == 200, body
    gpu, _other = json.loads(body)["gpus"]
    assert gpu["joules"] == pytest.approx(script.joules(0, start, end), rel=0.02)


def test_the_health_check_passes_on_a_live_exporter_and_fails_on_a_hung_one(image: Image, exporter: Container) -> None:
    assert exporter.run(*image.health_check).returncode == 0
    exporter.engine.output("kill", "--signal=STOP", exporter.identifier)
    try:
        assert exporter.run(*image.health_check).returncode != 0
    finally:
        exporter.engine.output("kill", "--signal=CONT", exporter.identifier)
    assert exporter.run(*image.health_check).returncode == 0


def test_the_health_check_fails_where_no_exporter_runs(image: Image) -> None:
    done = image.engine.podman("run", *LIMITS, f"--entrypoint={json.dumps(image.health_check)}", IMAGE)
    assert done.returncode == 1
    assert "Connection refused" in done.stderr


def test_it_ends_by_itself_when_it_is_stopped(image: Image) -> None:
    container = image.engine.start(IMAGE, EXPORTER, command=SIMULATED)
    wait_until_healthy(container)
    assert "joulebench_gpu_energy_joules_total{" in container.get("/metrics")[1]
    assert container.stop() == 0


def test_a_password_is_asked_and_the_health_check_passes_still(image: Image, tmp_path: Path) -> None:
    path = tmp_path / "web.yml"
    path.write_text(f"basic_auth_users: {{alice: {bcrypt.hashpw(b'correct horse', bcrypt.gensalt(4)).decode()}}}\n")
    tmp_path.chmod(0o755)
    path.chmod(0o644)
    flag = "--web.config.file=/etc/joulebench/web.yml"
    container = image.engine.start(IMAGE, EXPORTER, f"--volume={path}:/etc/joulebench/web.yml:ro", command=(*SIMULATED, flag))
    wait_until_healthy(container)
    assert container.get("/metrics")[0] == 401
    for password, expected in {"correct horse": 200, "wrong": 401}.items():
        value = base64.b64encode(f"alice:{password}".encode()).decode()
        assert container.get("/metrics", Authorization=f"Basic {value}")[0] == expected
    assert container.run(*image.health_check).returncode == 0


def test_the_proxy_runs_from_the_same_image(image: Image) -> None:
    container = image.engine.start(IMAGE, PROXY)
    wait_until_healthy(container, 18348)
    status, body = container.get("/metrics", 18348)
    assert status == 200
    assert "joulebench_loop_errors_total" in body
    kind, *command = PROXY["healthcheck"]["test"]
    assert kind == "CMD"
    assert container.run(*command).returncode == 0
    assert container.stop() == 0
