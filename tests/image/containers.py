"""The image of ``exporter/Dockerfile``, built by buildah, and run by podman and runc as ``docker-compose.yml`` says.

Images and containers live in a storage that is removed afterwards, and containers have no network but their own loopback: nothing
of this machine's containers, ports or firewall is touched.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joulebench.cache import cache_path
from joulebench.clock import wait_until
from tests.contract.sources import ROOT
from tests.fresh_machine.machine import PIP_FILES, base_system, settings

DOCKERFILE = ROOT / "exporter/Dockerfile"
PROGRAMS = ("buildah", "podman", "runc", "mmdebstrap")
PYTHON = "/opt/joulebench/bin/python"
STAND_IN = ("trixie", ("python3", "python3-venv", "python-is-python3", "ca-certificates"))
"""Debian's release and packages in place of the base image, where no registry of images answers. exporter/requirements.lock needs
Python 3.12 or newer, so it is a newer Debian than that of the base image."""
LIMITS = ("--network=none", "--no-healthcheck", "--ulimit=nofile=20000:20000", "--ulimit=nproc=4096:4096")
"""Of every container. podman's own limits need a right that root lacks on some machines, and its health checks need systemd."""
SUMMARY: list[str] = []
"""Lines about the image, which pytest prints at its end."""
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def reason_against() -> str | None:
    """Return why no image can be built and run here, None where it can."""
    if os.geteuid() != 0:
        return "containers are built and run as root here"
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"{', '.join(absent)} not installed; 'make test-image' installs what apt-get has" if absent else None


@dataclass(frozen=True)
class ContainerEngine:
    """buildah and podman on a storage of their own in ``directory``."""

    directory: Path

    def _run(self, program: str, flags: tuple[str, ...], arguments: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        storage = [f"--root={self.directory}/root", f"--runroot={self.directory}/run"]
        command = [program, *storage, *flags, *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    def buildah(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._run("buildah", (), arguments)

    def podman(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        # crun, the default, refuses control groups of both versions side by side; neither systemd nor a journal need run here.
        flags = (f"--tmpdir={self.directory}/tmp", "--runtime=runc", "--cgroup-manager=cgroupfs", "--events-backend=none")
        return self._run("podman", flags, arguments)

    def output(self, *arguments: str) -> str:
        """What a podman command prints. Raises AssertionError where it fails."""
        done = self.podman(*arguments)
        assert done.returncode == 0, f"podman {arguments}: {done.stderr}"
        return done.stdout

    def prepare_base(self, name: str) -> str:
        """Make ``name`` available as an image and return what it is: the image of a registry, or a Debian of that name."""
        if self.buildah("pull", "--policy=always", name).returncode == 0:
            return f"{name} of its registry"
        release, packages = STAND_IN
        archive = base_system(cache_path("fresh-machine"), release, packages)
        self.output("import", "--change", f"ENV {PATH}", str(archive), f"docker.io/library/{name}")
        return f"Debian {release} with its own Python in place of {name}, which no registry gives here"

    def build(self, tag: str) -> subprocess.CompletedProcess[str]:
        """Build exporter/Dockerfile. Packages come from where pip gets them on this machine."""
        volumes = [f"--volume={source}:{target}:ro" for source, target in self._pip_files()]
        flags = ("--isolation=chroot", "--pull-never", "--format=docker", *volumes, f"--file={DOCKERFILE}")
        return self.buildah("build", *flags, f"--tag={tag}", str(ROOT))

    def _pip_files(self) -> Iterator[tuple[Path, Path]]:
        """pip's configuration on this machine, of its files and its environment, and the certificates that it names."""
        configuration = configparser.ConfigParser(interpolation=None)
        configuration.read(PIP_FILES)
        if not configuration.has_section("global"):
            configuration.add_section("global")
        options = configuration["global"]
        for name, value in settings().items():
            if name.startswith("PIP_"):
                options[name.removeprefix("PIP_").lower().replace("_", "-")] = value
        path = self.directory / "pip.conf"
        with path.open("w", encoding="utf-8") as file:
            configuration.write(file)
        yield path, Path("/etc/pip.conf")
        if "cert" in options:
            yield Path(options["cert"]), Path(options["cert"])

    def start(self, image: str, service: dict[str, Any], *flags: str, command: tuple[str, ...] | None = None) -> Container:
        """Start a service of the compose file, and return its container. ``flags``: of podman run. ``command``: in place of the
        service's own."""
        words = [value_of(word) for word in service["command"]] if command is None else list(command)
        run = ("run", "--detach", "--log-driver=k8s-file", *LIMITS)
        identifier = self.output(*run, *hardening(service), *flags, image, *words).strip()
        return Container(self, identifier)

    def remove(self) -> None:
        """Remove containers, images and the folder. Raises AssertionError where something of it stays."""
        self.podman("rm", "--all", "--force", "--time=0")
        self.buildah("rm", "--all")

        def is_removed() -> bool:
            # podman cleans up after a container in the background and has the storage mounted meanwhile.
            subprocess.run(["umount", self.directory / "root/overlay"], capture_output=True, check=False)
            shutil.rmtree(self.directory, ignore_errors=True)
            return not self.directory.exists()

        assert wait_until(is_removed, 30.0, interval=0.5), f"{self.directory} cannot be removed"


def value_of(word: str) -> str:
    """A word of the compose file with the defaults of its variables."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", word)


def hardening(service: dict[str, Any]) -> Iterator[str]:
    """podman's flags for what the compose file says of a service."""
    yield f"--user={service['user']}"
    yield f"--memory={service['mem_limit']}"
    yield f"--pids-limit={service['pids_limit']}"
    yield from (f"--cap-drop={capability}" for capability in service["cap_drop"])
    yield from (f"--security-opt={option.removesuffix(':true')}" for option in service["security_opt"])
    if service["read_only"]:
        # podman alone adds folders in memory to a read-only file system.
        yield from ("--read-only", "--read-only-tmpfs=false")
    if "entrypoint" in service:
        yield f"--entrypoint={json.dumps(service['entrypoint'])}"
    yield from (f"--env={name}={value}" for name, value in service.get("environment", {}).items())
    for volume in service["volumes"]:
        source, target, mode = volume.split(":")
        yield f"--volume={ROOT / source}:{target}:{mode}"


@dataclass(frozen=True)
class Container:
    engine: ContainerEngine
    identifier: str

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container, as its user."""
        return self.engine.podman("exec", self.identifier, *command)

    def get(self, path: str, port: int = 18347, **headers: str) -> tuple[int, str]:
        """Ask the server in the container and return the status, 0 where it does not answer, and the body."""
        code = (
            "import http.client, json, sys\n"
            f"connection = http.client.HTTPConnection('127.0.0.1', {port}, timeout=5)\n"
            "connection.request('GET', sys.argv[1], headers=json.loads(sys.argv[2]))\n"
            "reply = connection.getresponse()\n"
            "print(reply.status)\n"
            "sys.stdout.write(reply.read().decode())\n"
        )
        done = self.run(PYTHON, "-c", code, path, json.dumps(headers))
        if done.returncode != 0:
            return 0, done.stderr
        status, _, body = done.stdout.partition("\n")
        return int(status), body

    def first_line(self, *paths: str) -> str | None:
        """The first line of the first of these files that is there, None where none of them is."""
        for path in paths:
            done = self.run("cat", path)
            if done.returncode == 0:
                return done.stdout.partition("\n")[0]
        return None

    def log(self) -> str:
        done = self.engine.podman("logs", self.identifier)
        return done.stdout + done.stderr

    def stop(self) -> int:
        """Stop the container as docker compose does, and return the exit status of its first process: 137 where it was killed."""
        self.engine.output("stop", "--time=10", self.identifier)
        return int(self.engine.output("inspect", "--format={{.State.ExitCode}}", self.identifier))
