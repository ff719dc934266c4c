"""The chart, rendered by the real Helm for three sets of values, and each of its objects against Kubernetes' own schemas."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.contract.sources import ROOT
from tests.helm.kubernetes_schemas import KubernetesSchemas, objects

CHART = ROOT / "deploy/helm/joulebench"
TOOLS = ROOT / ".build/helm"
VALUES = sorted(CHART.glob("ci/*-values.yaml"))

Json = dict[str, Any]


def need(path: Path, what: str) -> None:
    if path.exists():
        return
    missing = f"{what} is not there; 'make test-helm' fetches it"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    need(TOOLS / "helm", "Helm")
    return subprocess.run([TOOLS / "helm", *arguments], capture_output=True, text=True, check=False)


def rendered(values: Path, *flags: str) -> list[Json]:
    done = helm("template", "bench", CHART, "--namespace=metering", "--values", values, *flags)
    assert done.returncode == 0, done.stderr
    return list(objects(done.stdout))


@pytest.fixture(scope="module")
def schemas() -> KubernetesSchemas:
    need(TOOLS / "operator-crd", "the schemas of Kubernetes")
    return KubernetesSchemas(TOOLS)


def named(manifests: list[Json], kind: str, ending: str) -> Json:
    (manifest,) = (one for one in manifests if one["kind"] == kind and one["metadata"]["name"].endswith(ending))
    return manifest


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_the_chart_passes_the_strict_lint(values: Path) -> None:
    done = helm("lint", "--strict", CHART, "--values", values)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_every_object_is_valid_for_kubernetes(values: Path, schemas: KubernetesSchemas) -> None:
    manifests = rendered(values)
    problems = [problem for manifest in manifests for problem in schemas.problems(manifest)]
    assert not problems, "\n".join(problems)
    assert len(manifests) >= 15
    identities = [(one["kind"], one["metadata"]["name"]) for one in manifests]
    assert len(identities) == len(set(identities))


def planted() -> Iterator[tuple[str, Json, str]]:
    daemonset = ("DaemonSet", "-exporter")
    yield "a port as text", {"of": daemonset, "path": ["ports", 0, "containerPort"], "value": "18347"}, "is not of type 'integer'"
    yield "an unknown field", {"of": daemonset, "path": ["automountToken"], "value": False}, "'automountToken' was unexpected"
    monitor = ("PodMonitor", "-exporter")
    yield "a bad interval", {"of": monitor, "path": ["interval"], "value": "250mss"}, "does not match"


@pytest.mark.parametrize(("plan", "message"), [case[1:] for case in planted()], ids=[case[0] for case in planted()])
def test_an_error_planted_in_an_object_is_named(plan: Json, message: str, schemas: KubernetesSchemas) -> None:
    manifest = copy.deepcopy(named(rendered(VALUES[0]), *plan["of"]))
    spec = manifest["spec"]
    place = spec["template"]["spec"]["containers"][0] if manifest["kind"] == "DaemonSet" else spec["podMetricsEndpoints"][1]
    for part in plan["path"][:-1]:
        place = place[part]
    place[plan["path"][-1]] = plan["value"]
    (problem,) = schemas.problems(manifest)
    assert message in problem


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("", "image.repository: name the image that you built"),
        ("image: {repository: r/j, tag: latest}", "image.tag"),
        ("image: {repository: r/j, digest: sha256:12}", "image.digest"),
        ("image: {repository: r/j}\nproxy: {enabled: true}", "proxy.upstream: name the model server"),
        ("image: {repository: r/j}\nproxy: {enabled: true, upstream: vllm:8000}", "proxy.upstream"),
        ("image: {repository: r/j}\nprometheus: {energyInterval: 250}", "prometheus.energyInterval"),
        ("image: {repository: r/j}\nexporter: {port: 99999}", "exporter.port"),
        ("image: {repository: r/j}\nexporter: {privileged: true}", "privileged"),
        ("image: {repository: r/j}\nprometheus: {exporterEndpoint: {port: other}}", "prometheus.exporterEndpoint"),
    ],
)
def test_a_bad_value_is_refused_by_name(values: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(values, encoding="utf-8")
    done = helm("template", "bench", CHART, "--values", path)
    assert done.returncode != 0
    assert message.replace(".", "") in done.stderr.replace("/", "").replace(".", "")


def test_rules_and_dashboards_are_the_files_of_the_repository() -> None:
    manifests = rendered(VALUES[0])
    for path in sorted((ROOT / "prometheus/rules").glob("*.yml")):
        rule = named(manifests, "PrometheusRule", "-" + path.stem.replace("_", "-"))
        assert rule["spec"] == yaml.safe_load(path.read_text(encoding="utf-8")), path.name
    for path in sorted((ROOT / "dashboards").glob("*.json")):
        board = named(manifests, "ConfigMap", f"-dashboard-{path.stem}")
        assert board["data"] == {path.name: path.read_text(encoding="utf-8")}


def test_the_jobs_have_the_names_that_rules_and_dashboards_select() -> None:
    config = yaml.safe_load((ROOT / "prometheus/prometheus.yml").read_text(encoding="utf-8"))
    compose = {job["job_name"]: job for job in config["scrape_configs"]}
    manifests = rendered(next(path for path in VALUES if path.stem.startswith("full")))
    endpoints = {
        relabeling["replacement"]: endpoint
        for manifest in manifests
        if manifest["kind"] == "PodMonitor"
        for endpoint in manifest["spec"]["podMetricsEndpoints"]
        for relabeling in endpoint.get("relabelings", ())
        if relabeling["targetLabel"] == "job"
    }
    assert endpoints.keys() == {"joulebench", "joulebench-energy", "joulebench-proxy"}
    assert endpoints["joulebench-energy"]["params"] == compose["joulebench-energy"]["params"]
    assert endpoints["joulebench-energy"]["interval"] == compose["joulebench-energy"]["scrape_interval"]
    assert named(manifests, "PodMonitor", "-pushgateway")["spec"]["podMetricsEndpoints"][0]["honorLabels"] is True


def test_an_exporter_with_a_password_is_probed_and_scraped() -> None:
    plain, secured = (rendered(next(path for path in VALUES if path.stem.startswith(name))) for name in ("default", "full"))

    def pod(manifests: list[Json]) -> Json:
        spec: Json = named(manifests, "DaemonSet", "-exporter")["spec"]["template"]["spec"]
        return spec

    (exporter,) = pod(secured)["containers"]
    (mount,) = (mount for mount in exporter["volumeMounts"] if mount["name"] == "web-config")
    (volume,) = (volume for volume in pod(secured)["volumes"] if volume["name"] == "web-config")
    assert f"--web.config.file={mount['mountPath']}/web.yml" in exporter["args"]
    assert volume["secret"] == {"secretName": "joulebench-web", "defaultMode": 0o440}
    assert pod(secured)["securityContext"]["fsGroup"] == 10001
    for probe in ("livenessProbe", "readinessProbe"):
        assert exporter[probe]["tcpSocket"] == {"port": "metrics"}
        assert "httpGet" not in exporter[probe], "it would be answered 401"
        assert pod(plain)["containers"][0][probe]["httpGet"] == {"path": "/healthz", "port": "metrics"}
    endpoints = named(secured, "PodMonitor", "-exporter")["spec"]["podMetricsEndpoints"]
    assert [(endpoint["scheme"], endpoint["basicAuth"]["password"]["key"]) for endpoint in endpoints] == [
        ("https", "password")
    ] * 2
    assert "fsGroup" not in pod(plain)["securityContext"]
    assert not any("web.config" in argument for argument in pod(plain)["containers"][0]["args"])


def test_no_container_may_do_more_than_it_needs() -> None:
    for values in VALUES:
        for manifest in rendered(values):
            if manifest["kind"] not in ("DaemonSet", "Deployment"):
                continue
            pod = manifest["spec"]["template"]["spec"]
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["automountServiceAccountToken"] is False
            assert not pod.get("hostNetwork")
            for container in pod["containers"]:
                security = container["securityContext"]
                assert security["capabilities"] == {"drop": ["ALL"]}
                assert security["readOnlyRootFilesystem"] is True
                assert security["allowPrivilegeEscalation"] is False
                assert "memory" in container["resources"]["limits"]
                assert not container["image"].endswith(":latest")


def values_of(content: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(key, value) of each value of values.yaml, and of each object in it, by the keys that helm-docs gives them."""
    if path:
        yield path, content
    if isinstance(content, dict):
        for key, value in content.items():
            yield from values_of(value, f"{path}.{key}" if path else key)
    elif isinstance(content, list):
        for number, value in enumerate(content):
            yield from values_of(value, f"{path}[{number}]")


def test_the_readme_lists_every_value_with_its_default() -> None:
    values = dict(values_of(yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))))
    text = (CHART / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([\w.\[\]]+) \| \w+ \| `(.*?)` \|", text, flags=re.MULTILINE))
    for key, default in rows.items():
        assert json.loads(default) == values[key], key
    listed = {inner for key in rows for inner in dict(values_of(values[key], key))}
    missing = {key for key, value in values.items() if not (isinstance(value, (dict, list)) and value)} - listed
    assert not missing


def test_a_packaged_chart_renders_the_same(tmp_path: Path) -> None:
    done = helm("package", CHART, "--destination", tmp_path)
    assert done.returncode == 0, done.stderr
    (package,) = tmp_path.glob("*.tgz")
    packaged = helm("template", "bench", package, "--namespace=metering", "--values", VALUES[0])
    assert list(objects(packaged.stdout)) == rendered(VALUES[0])
