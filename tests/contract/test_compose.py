"""The compose file is valid and safe by default: pinned, on loopback, without root, healthy before it is used.

Only the schema and these rules are checked; no container is started here.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.contract.commands import parse
from tests.contract.sources import ROOT, loaded
from tests.needs import need_check_jsonschema, need_program

COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "exporter/Dockerfile"
SERVICES: dict[str, dict[str, Any]] = loaded(COMPOSE)["services"]

services = pytest.mark.parametrize(("name", "service"), SERVICES.items(), ids=SERVICES)
IN_THE_IMAGE: dict[str, set[str]] = {
    "prom/prometheus": {"prometheus", "promtool", "wget"},
    "prom/pushgateway": {"pushgateway", "wget"},
    "prom/alertmanager": {"alertmanager", "amtool", "wget"},
    "grafana/grafana": {"grafana", "wget", "curl"},
    "ollama/ollama": {"ollama"},
}
"""Programs that the default variant of an image has by its Dockerfile; the distroless variants have no wget."""
PINNED = re.compile(r"[\w./-]+:v?\d+\.\d+\.\d+(-[\w.-]+)?")


def test_it_fits_the_compose_specification() -> None:
    command: list[str | Path] = [need_check_jsonschema(), "--builtin-schema", "vendor.compose-spec", COMPOSE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@services
def test_images_are_pinned_to_a_full_version(name: str, service: dict[str, Any]) -> None:
    if "build" in service:
        bases = re.findall(r"^FROM (\S+)", DOCKERFILE.read_text(), flags=re.MULTILINE)
        assert bases
        for base in bases:
            assert PINNED.fullmatch(base), base
    else:
        assert PINNED.fullmatch(service["image"]), service["image"]


@services
def test_ports_are_published_on_loopback_only(name: str, service: dict[str, Any]) -> None:
    assert service["ports"]
    for port in service["ports"]:
        assert port.startswith("127.0.0.1:"), port


@services
def test_nothing_runs_as_root_or_may_become_it(name: str, service: dict[str, Any]) -> None:
    user, group = map(int, service["user"].split(":"))
    assert user > 0
    assert group > 0
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not service.get("privileged")
    assert service.get("network_mode") != "host"


@services
def test_everything_says_when_it_is_healthy(name: str, service: dict[str, Any]) -> None:
    if "healthcheck" in service or "build" not in service:
        assert service["healthcheck"]["test"]
    else:
        assert "HEALTHCHECK" in DOCKERFILE.read_text()


@services
def test_a_health_check_asks_its_own_port_with_a_program_that_the_image_has(name: str, service: dict[str, Any]) -> None:
    if "healthcheck" not in service:
        asked = re.search(r"HEALTHCHECK .*\n\s+CMD (\[.*\])", DOCKERFILE.read_text())
        assert asked is not None
        test = ["CMD", *json.loads(asked[1])]
    else:
        test = service["healthcheck"]["test"]
    kind, *words = test
    assert kind in ("CMD", "CMD-SHELL")
    alternatives = [words] if kind == "CMD" else [part.split() for part in words[0].split("||")]
    for program, *_ in alternatives:
        if "build" in service:
            assert Path(program).parent == Path("/opt/joulebench/bin"), program
        else:
            assert program in IN_THE_IMAGE[service["image"].partition(":")[0]], program
            assert "distroless" not in service["image"]
    inside = {port.rpartition(":")[2] for port in service["ports"]}
    for port in re.findall(r"127\.0\.0\.1:(\d+)", " ".join(words)):
        assert port in inside, f"{name} is asked on a port that it does not publish"


@services
def test_every_file_that_a_service_is_told_of_is_where_a_folder_of_the_repository_is_mounted(
    name: str, service: dict[str, Any]
) -> None:
    mounts = [volume.split(":")[:2] for volume in service.get("volumes", [])]
    told = [*service.get("command", []), *map(str, service.get("environment", {}).values())]
    for path in re.findall(r"(?<![\w:/])/[\w./-]+", " ".join(told).replace("=", " ")):
        for source, target in mounts:
            if path.startswith(f"{target}/") and source.startswith("."):
                assert (ROOT / source / Path(path).relative_to(target)).exists(), f"{name} is told of {path}"
                break
        else:
            assert any(path.startswith(target) for _, target in mounts), f"{name}: {path} lies in no volume"


@services
def test_our_own_commands_know_the_flags_they_are_given(name: str, service: dict[str, Any]) -> None:
    if "build" in service:
        entry = service.get("entrypoint") or json.loads(re.findall(r"ENTRYPOINT (\[.*\])", DOCKERFILE.read_text())[-1])
        parsed = parse([entry[-1], *(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", flag) for flag in service["command"])])
        assert parsed is not None


@services
def test_the_programs_know_the_flags_they_are_given(name: str, service: dict[str, Any]) -> None:
    image = service.get("image", "").partition(":")[0]
    if image.startswith("prom/"):
        program = need_program(image.removeprefix("prom/"))
        done = subprocess.run([program, "--help"], capture_output=True, text=True, check=False)
        known = set(re.findall(r"--(?:\[no-\])?[\w.-]+", done.stdout + done.stderr))
        given = {flag.partition("=")[0] for flag in service["command"]}
        assert given <= known, given - known


def test_the_image_copies_only_what_is_there() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE.read_text(), flags=re.MULTILINE)
    assert copied
    for source in " ".join(copied).split():
        assert (ROOT / source).exists(), source


def test_the_image_installs_packages_by_hash_and_within_the_ranges_of_the_project() -> None:
    tomllib = pytest.importorskip("tomllib", reason="tomllib comes with Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*map(Requirement, (*project["dependencies"], *extras["proxy"], *extras["basic-auth"]))]
    text = (ROOT / "exporter/requirements.lock").read_text()
    locked = {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", text, flags=re.MULTILINE)}
    for requirement in wanted:
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), f"{requirement}: make lock"
    for file in ("exporter/requirements.lock", "exporter/build.lock"):
        content = (ROOT / file).read_text()
        blocks = re.split(r"^(?=\S)", content, flags=re.MULTILINE)[1:]
        assert blocks
        assert all("--hash=sha256:" in block for block in blocks), file
        assert "://" not in content, f"{file} names a package index"
    installs = re.findall(r"pip install (.+?)(?: &&|$)", DOCKERFILE.read_text(), flags=re.MULTILINE)
    assert installs
    assert all("--require-hashes" in install or "--no-index --no-deps" in install for install in installs)


@services
def test_a_service_waits_until_what_it_needs_is_healthy(name: str, service: dict[str, Any]) -> None:
    for needed, how in service.get("depends_on", {}).items():
        assert how["condition"] == "service_healthy", needed
        optional = bool(SERVICES[needed].get("profiles"))
        assert how.get("required", True) is not optional, f"{needed}: a service of a profile that is off must not be required"


@services
def test_folders_of_the_repository_are_mounted_read_only(name: str, service: dict[str, Any]) -> None:
    declared = loaded(COMPOSE)["volumes"]
    for volume in service.get("volumes", []):
        source, target, *mode = volume.split(":")
        if source.startswith("."):
            assert mode == ["ro"], volume
            assert (ROOT / source).is_dir(), f"{volume}: a folder; a single file goes stale when an editor replaces it"
        else:
            assert source in declared, volume
        assert target.startswith("/"), volume


def test_the_two_exporters_answer_to_one_name_and_never_start_together() -> None:
    variants = [SERVICES["exporter-gpu"], SERVICES["exporter-cpu"]]
    assert [variant["networks"]["default"]["aliases"] for variant in variants] == [["exporter"], ["exporter"]]
    assert [variant["profiles"] for variant in variants] == [["gpu"], ["cpu"]]
    assert "deploy" not in SERVICES["exporter-cpu"], "asking for a GPU fails where there is none"


def test_prometheus_scrapes_services_that_exist() -> None:
    names = {*SERVICES, "exporter"}
    config = loaded(ROOT / "prometheus/prometheus.yml")
    jobs = [*config["scrape_configs"], *config["alerting"]["alertmanagers"]]
    targets = [target for job in jobs for static in job["static_configs"] for target in static["targets"]]
    assert targets
    for target in targets:
        host, port = target.split(":")
        assert host in names, target
        published = [entry for name, service in SERVICES.items() if name.startswith(host) for entry in service["ports"]]
        assert any(entry.endswith(f":{port}") for entry in published), target


def test_the_scrape_jobs_are_those_that_dashboards_and_the_native_stack_name() -> None:
    jobs = {job["job_name"]: job for job in loaded(ROOT / "prometheus/prometheus.yml")["scrape_configs"]}
    assert set(jobs) == {"joulebench", "joulebench-energy", "joulebench-pushgateway", "joulebench-proxy"}
    assert jobs["joulebench-pushgateway"]["honor_labels"] is True
    assert jobs["joulebench-energy"]["scrape_interval"] == "250ms"
    assert int(jobs["joulebench-energy"]["scrape_timeout"].removesuffix("ms")) < 250


def test_pushed_state_survives_a_restart_of_the_gateway() -> None:
    flags = SERVICES["pushgateway"]["command"]
    (file,) = [flag.partition("=")[2] for flag in flags if flag.startswith("--persistence.file=")]
    assert "--persistence.interval=1s" in flags
    assert any(file.startswith(volume.split(":")[1]) for volume in SERVICES["pushgateway"]["volumes"])


def test_there_is_no_default_password_and_strangers_may_only_look() -> None:
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_SECURITY_ADMIN_PASSWORD"].startswith("${GF_SECURITY_ADMIN_PASSWORD:?")
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    example = (ROOT / ".env.example").read_text()
    assert re.search(r"^GF_SECURITY_ADMIN_PASSWORD=$", example, flags=re.MULTILINE)


def test_every_variable_of_the_compose_file_stands_in_the_example() -> None:
    used = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text()))
    described = set(re.findall(r"^#?(\w+)=", (ROOT / ".env.example").read_text(), flags=re.MULTILINE))
    assert used <= described, used - described
    assert described <= used | {"COMPOSE_PROFILES"}, described - used


def test_grafana_finds_the_dashboards_where_they_are_mounted() -> None:
    mounts = {volume.split(":")[1]: volume.split(":")[0] for volume in SERVICES["grafana"]["volumes"]}
    (provider,) = loaded(ROOT / "dashboards/provisioning/dashboards/joulebench.yml")["providers"]
    folder = mounts[provider["options"]["path"]]
    home = Path(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (ROOT / folder / home.relative_to(provider["options"]["path"])).is_file()
    (source,) = loaded(ROOT / "dashboards/provisioning/datasources/prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
