"""``docker-compose.yml`` as Docker Compose itself resolves it, for each set of profiles. No container is started.

``tests/contract/test_compose.py`` reads the file without it.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.contract.sources import ROOT
from tests.contract.test_compose import COMPOSE, PINNED
from tests.needs import missing

PROGRAM = ROOT / ".build/image/docker-compose"
ALWAYS = {"prometheus", "pushgateway", "alertmanager", "grafana"}
PROFILES = {
    "": set[str](),
    "cpu": {"exporter-cpu"},
    "gpu": {"exporter-gpu"},
    "cpu,proxy": {"exporter-cpu", "proxy"},
    "gpu,proxy": {"exporter-gpu", "proxy"},
    "cpu,ollama": {"exporter-cpu", "ollama"},
    "gpu,proxy,ollama": {"exporter-gpu", "proxy", "ollama"},
}
"""Services beside those that always run, by profiles."""

each_set_of_profiles = pytest.mark.parametrize("profiles", PROFILES)


def compose_config(folder: Path, environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``docker compose config`` with ``environment`` as .env and nothing else of this machine."""
    if not PROGRAM.exists():
        missing("Docker Compose is not built; 'make test-image' builds it where there is Go")
    file = folder / "env"
    file.write_text(environment, encoding="utf-8")
    command = [str(PROGRAM), f"--file={COMPOSE}", f"--env-file={file}", "config", "--format=json"]
    variables = {"PATH": os.environ["PATH"], "HOME": str(folder), "DOCKER_CONFIG": str(folder)}
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)


def resolved(folder: Path, profiles: str) -> dict[str, dict[str, Any]]:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    for name, value in {"GF_SECURITY_ADMIN_PASSWORD": "wrong$horse", "COMPOSE_PROFILES": profiles}.items():
        lines = example.splitlines()
        (number,) = (number for number, line in enumerate(lines) if line.startswith(f"{name}="))
        lines[number] = f"{name}='{value}'"
        example = "\n".join(lines)
    done = compose_config(folder, example)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    services: dict[str, dict[str, Any]] = json.loads(done.stdout)["services"]
    return services


@each_set_of_profiles
def test_a_profile_starts_its_services_and_those_that_always_run(profiles: str, tmp_path: Path) -> None:
    services = resolved(tmp_path, profiles)
    assert services.keys() == ALWAYS | PROFILES[profiles]
    # As it is given: a "$" of a password is doubled for the file that is printed.
    assert services["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD"].replace("$$", "$") == "wrong$horse"


@each_set_of_profiles
def test_what_is_mounted_from_the_repository_is_there_and_read_only(profiles: str, tmp_path: Path) -> None:
    mounts = [volume for service in resolved(tmp_path, profiles).values() for volume in service.get("volumes") or ()]
    folders = [volume for volume in mounts if volume["type"] == "bind"]
    assert folders
    for volume in folders:
        assert Path(volume["source"]).is_dir(), volume
        assert Path(volume["source"]).is_relative_to(ROOT), volume
        assert volume["read_only"] is True, volume


@each_set_of_profiles
def test_every_service_is_pinned_limited_and_without_privileges(profiles: str, tmp_path: Path) -> None:
    for name, service in resolved(tmp_path, profiles).items():
        if "build" in service:
            assert (Path(service["build"]["context"]) / service["build"]["dockerfile"]).is_file(), name
            assert service["read_only"] is True, name
        else:
            assert PINNED.fullmatch(service["image"]), name
        assert int(service["user"].partition(":")[0]) > 0, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("privileged"), name
        assert not service.get("cap_add"), name
        assert int(service["mem_limit"]) > 0, name
        assert int(service["pids_limit"]) > 0, name
        assert service["ports"], name
        assert {port["host_ip"] for port in service["ports"]} == {"127.0.0.1"}, name


@pytest.mark.parametrize("environment", ["", "GF_SECURITY_ADMIN_PASSWORD=\n"], ids=["absent", "empty"])
def test_a_missing_password_is_refused_with_what_to_do(environment: str, tmp_path: Path) -> None:
    done = compose_config(tmp_path, environment)
    assert done.returncode != 0
    assert "set GF_SECURITY_ADMIN_PASSWORD in .env, see .env.example" in done.stderr


def test_an_own_address_of_ollama_reaches_exporter_and_proxy(tmp_path: Path) -> None:
    text = "GF_SECURITY_ADMIN_PASSWORD=x\nCOMPOSE_PROFILES=cpu,proxy\nJOULEBENCH_OLLAMA_URL=http://ollama:11434\n"
    services = json.loads(compose_config(tmp_path, text).stdout)["services"]
    assert "--ollama.url=http://ollama:11434" in services["exporter-cpu"]["command"]
    assert "--upstream=http://ollama:11434" in services["proxy"]["command"]
