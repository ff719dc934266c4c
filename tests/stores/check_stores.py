"""One run, measured once, exported through each of the stores that people run, beside the same run out of one Prometheus.

All stores hold the same tasks of the same fake GPUs: Thanos over two Prometheus replicas, Cortex with tenants, VictoriaMetrics
that two agents write to as a pair, a Prometheus 3, and a Prometheus that scrapes every 5 seconds. Each export is compared with
that of the first Prometheus and with the joules that the fake GPUs used.
"""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from joulebench import metrics
from joulebench.clients.prometheus import PrometheusApi
from joulebench.clock import SystemClock, wait_until
from joulebench.errors import PrometheusError
from joulebench.settings import ConnectionSettings
from joulebench.stack import programs
from joulebench.stack.data_files import data_path
from joulebench.stack.native import NativeStack, Ports
from joulebench.stack.process import Program, free_port
from joulebench.stack.prometheus_config import readdressed
from tests.certificates import Certificates
from tests.contract.sources import ROOT
from tests.e2e.scene import (
    PlannedTask,
    PowerScript,
    Scene,
    bench_arguments,
    fake_gpus,
    joulebench,
    read_results,
    start_exporter,
    write_suite,
)
from tests.fakes.model_server import ModelServer
from tests.fakes.nvml import FakeGpuScript
from tests.needs import missing, need_program

BUILT = ROOT / ".build/stores"
TASKS = [PlannedTask("long", 6.2, 0.95), PlannedTask("short", 0.6, 0.45), PlannedTask("middle", 2.6, 0.8, passes=False)]
RUN_ID = "stores"
TENANT = "team-a"
STORES = ("prometheus", "thanos", "cortex", "victoriametrics", "prometheus3", "slow")
SAME_SAMPLES = {"cortex": "prometheus3"}
"""Stores that hold the very samples of another; the others were scraped at moments of their own."""


def need_built(name: str) -> Path:
    path = BUILT / name
    if not path.exists():
        missing(f"{name} is not built; 'make test-stores' builds it where there is Go")
    return path


def cortex_arguments(directory: Path, http: int) -> tuple[str, ...]:
    """All of Cortex in one process that listens on the port ``http``, every request with a tenant, its files in ``directory``."""
    store, rules = {"kvstore": {"store": "inmemory"}}, directory / "cortex-rules"
    rules.mkdir()
    config = {
        "auth_enabled": True,
        "server": {
            "http_listen_address": "127.0.0.1",
            "http_listen_port": http,
            "grpc_listen_address": "127.0.0.1",
            "grpc_listen_port": free_port(),
        },
        "distributor": {"ring": {**store, "instance_addr": "127.0.0.1"}},
        "ingester": {"lifecycler": {"address": "127.0.0.1", "final_sleep": "0s", "ring": {**store, "replication_factor": 1}}},
        "blocks_storage": {
            "backend": "filesystem",
            "filesystem": {"dir": str(directory / "cortex-blocks")},
            "tsdb": {"dir": str(directory / "cortex-tsdb")},
            "bucket_store": {"sync_dir": str(directory / "cortex-sync")},
        },
        "ruler_storage": {"backend": "local", "local": {"directory": str(rules)}},
        "alertmanager": {
            "external_url": f"http://127.0.0.1:{http}/alertmanager",
            "data_dir": str(directory / "cortex-alerts"),
            # No cluster: every Cortex of a machine would listen on the same port for it.
            "cluster": {"listen_address": ""},
        },
        "alertmanager_storage": {"backend": "local", "local": {"path": str(directory / "cortex-alerts")}},
        "compactor": {"data_dir": str(directory / "cortex-compactor"), "sharding_ring": store},
        "store_gateway": {"sharding_ring": store},
    }
    path = directory / "cortex.yml"
    path.write_text(yaml.safe_dump(config))
    return f"-config.file={path}", "-target=all", "-log.level=warn"


@dataclass
class Stores:
    """The programs, and where each store answers. ``with_journal`` and ``alone``: exports by store, the second without the
    journal, so that every figure comes from the store."""

    stack: NativeStack
    directory: Path
    urls: dict[str, str] = field(default_factory=dict)
    tenants: dict[str, str] = field(default_factory=dict)
    gpus: FakeGpuScript = field(init=False)
    with_journal: dict[str, Scene] = field(default_factory=dict)
    alone: dict[str, Scene] = field(default_factory=dict)

    def api(self, name: str, tenant: str | None = None) -> PrometheusApi:
        tenant = tenant or self.tenants.get(name)
        return PrometheusApi(self.urls[name], patience=0.0, settings=ConnectionSettings(tenant=tenant or ""))

    def config(self, name: str, replica: str, **more: Any) -> Path:
        """The repository's prometheus.yml as a file of its own, with the external labels of a replica."""
        exporter = f"127.0.0.1:{self.stack.ports.exporter}"
        targets = {
            "joulebench": exporter,
            "joulebench-energy": exporter,
            "joulebench-pushgateway": f"127.0.0.1:{self.stack.ports.pushgateway}",
        }
        config = readdressed(yaml.safe_load(data_path("prometheus/prometheus.yml").read_text()), targets, None, None)
        config["global"]["external_labels"] = {"cluster": "lab", "replica": replica}
        config |= more
        if "interval" in more:
            del config["interval"]
            for job in config["scrape_configs"]:
                job |= {"scrape_interval": more["interval"], "scrape_timeout": "4s"}
            config["scrape_configs"] = [job for job in config["scrape_configs"] if job["job_name"] != "joulebench-energy"]
        path = self.directory / f"{name}.yml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        return path

    def start(self, name: str, executable: Path, ready_url: str, *flags: str) -> None:
        # Debian's Prometheus reads its templates beside itself; others write files where they are started.
        folder = programs.working_directory(executable) or self.directory
        log = self.directory / "logs" / f"{name}.log"
        self.stack.started.append(Program(name, [str(executable), *flags], log, ready_url, working_directory=folder).start())

    def prometheus(self, name: str, executable: Path, config: Path, port: int | None = None) -> int:
        port = port or free_port()
        self.start(
            name,
            executable,
            f"http://127.0.0.1:{port}/-/ready",
            f"--config.file={config}",
            f"--storage.tsdb.path={self.directory / name}",
            # Sidecars refuse a Prometheus that compacts what they would upload.
            "--storage.tsdb.min-block-duration=2h",
            "--storage.tsdb.max-block-duration=2h",
            f"--web.listen-address=127.0.0.1:{port}",
        )
        return port

    def start_thanos(self, replicas: Mapping[str, int]) -> None:
        """A sidecar beside each Prometheus, and a querier that merges the replicas."""
        thanos, endpoints = need_built("thanos"), []
        for name, port in replicas.items():
            grpc, http = free_port(), free_port()
            self.start(
                f"sidecar-{name}",
                thanos,
                f"http://127.0.0.1:{http}/-/ready",
                "sidecar",
                f"--prometheus.url=http://127.0.0.1:{port}",
                f"--tsdb.path={self.directory / name}",
                f"--grpc-address=127.0.0.1:{grpc}",
                f"--http-address=127.0.0.1:{http}",
            )
            endpoints.append(f"--endpoint=127.0.0.1:{grpc}")
        grpc, http = free_port(), free_port()
        self.start(
            "thanos",
            thanos,
            f"http://127.0.0.1:{http}/-/ready",
            "query",
            *endpoints,
            "--query.replica-label=replica",
            f"--grpc-address=127.0.0.1:{grpc}",
            f"--http-address=127.0.0.1:{http}",
        )
        self.urls["thanos"] = f"http://127.0.0.1:{http}"

    def start_cortex(self) -> str:
        """All of Cortex in one process, every request with a tenant. Returns the address to write to."""
        http = free_port()
        arguments = cortex_arguments(self.directory, http)
        address = f"http://127.0.0.1:{http}"
        self.start("cortex", need_built("cortex"), f"{address}/ready", *arguments)
        self.urls["cortex"], self.tenants["cortex"] = f"{address}/prometheus", TENANT
        return f"{address}/api/v1/push"

    def start_victoriametrics(self, agent: Path) -> None:
        """Two agents with the labels of a pair write the same targets into one store, which keeps one sample a scrape."""
        port = free_port()
        self.start(
            "victoriametrics",
            need_program("victoriametrics"),
            f"http://127.0.0.1:{port}/health",
            f"-storageDataPath={self.directory / 'victoriametrics'}",
            f"-httpListenAddr=127.0.0.1:{port}",
            "-loggerLevel=WARN",
        )
        self.urls["victoriametrics"] = f"http://127.0.0.1:{port}"
        for replica in ("a", "b"):
            name, http = f"agent-{replica}", free_port()
            write = [{"url": f"http://127.0.0.1:{port}/api/v1/write", "queue_config": {"batch_send_deadline": "500ms"}}]
            self.start(
                name,
                agent,
                f"http://127.0.0.1:{http}/-/ready",
                "--enable-feature=agent",
                f"--config.file={self.config(name, replica, remote_write=write)}",
                f"--storage.agent.path={self.directory / name}",
                f"--web.listen-address=127.0.0.1:{http}",
            )

    def await_energy(self, name: str, since: float) -> None:
        """Until the store has both GPUs' energy of a sample at ``since`` (unix seconds) or later."""
        expr = f"count(timestamp({metrics.GPU_ENERGY.name}) >= {since!r})"

        def has_samples() -> bool:
            try:
                found = api.query(expr)
            except PrometheusError:
                return False
            return bool(found) and found[0].points[-1][1] >= 2

        api = self.api(name)
        assert wait_until(has_samples, 60.0), f"{name} has no energy of the fake GPUs"
        api.close()

    def export(self, name: str, kind: str) -> Scene:
        """``kind``: ``with_journal`` or ``alone``."""
        runs = self.directory / kind / name
        (runs / RUN_ID).mkdir(parents=True)
        if kind == "with_journal":
            shutil.copytree(self.directory / "runs" / RUN_ID, runs / RUN_ID, dirs_exist_ok=True)
        connections = self.directory / "connections.yml"
        tenant = {"tenant": self.tenants[name]} if name in self.tenants else {}
        connections.write_text(yaml.safe_dump({"prometheus": tenant}))
        where = (f"--prometheus-url={self.urls[name]}", f"--connections.file={connections}")
        joulebench("export", f"--run-id={RUN_ID}", f"--runs-dir={runs}", "--gpus=0,1", *where)
        return read_results(Scene(self.gpus, {task.task_id: task for task in TASKS}, runs / RUN_ID))


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    prometheus = need_program("prometheus")
    need_program("pushgateway")
    directory = tmp_path_factory.mktemp("stores")
    stack = NativeStack(directory / "stack", Ports.free(), with_exporter=False, with_alertmanager=False)
    stack.directory.mkdir()
    made = Stores(stack, directory)
    made.gpus = fake_gpus(directory)
    assert made.gpus.busy is not None
    suite = write_suite(directory / "suite.yaml", TASKS)
    with ModelServer(PowerScript(made.gpus.busy, TASKS)) as server:
        try:
            stack.started.append(stack.pushgateway().start())
            start_exporter(stack, made.gpus, directory, server.ollama_url)
            # The older Prometheus does not send headers of its own, so the newer one writes to the store with tenants.
            tenant = {"X-Scope-OrgID": TENANT}
            write = {"url": made.start_cortex(), "headers": tenant, "queue_config": {"batch_send_deadline": "500ms"}}
            replicas = {
                "a": made.prometheus("a", prometheus, made.config("a", "a"), stack.ports.prometheus),
                "b": made.prometheus("b", need_built("prometheus3"), made.config("b", "b", remote_write=[write])),
            }
            made.urls |= {"prometheus": stack.prometheus_url, "prometheus3": f"http://127.0.0.1:{replicas['b']}"}
            slow = made.prometheus("slow", prometheus, made.config("slow", "slow", interval="5s"))
            made.urls["slow"] = f"http://127.0.0.1:{slow}"
            made.start_thanos(replicas)
            made.start_victoriametrics(prometheus)
            for name in STORES:
                made.await_energy(name, 1.0)
            # The benchmark keeps what it pushed until the slowest store has it.
            arguments = bench_arguments(stack, server, suite, RUN_ID, directory / "runs")
            joulebench(*arguments, f"--prometheus-url={made.urls['slow']}")
            end = SystemClock().unix()
            for name in STORES:
                made.await_energy(name, end)
            for name in STORES:
                made.with_journal[name] = made.export(name, "with_journal")
                made.alone[name] = made.export(name, "alone")
            yield made
        finally:
            stack.stop()


def from_store(scene: Scene, task: PlannedTask) -> dict[str, Any]:
    return dict(scene.records[task.task_id]["measurement"]["energy_prometheus"])


@pytest.mark.parametrize("name", [name for name in STORES if name != "prometheus"])
def test_a_store_gives_the_joules_of_one_prometheus(stores: Stores, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"{name:16} task     truth J   store J  of one Prometheus"]
    for task in TASKS:
        scene = stores.with_journal[name]
        one, other = from_store(stores.with_journal["prometheus"], task), from_store(scene, task)
        truth = scene.joules(task.task_id)
        lines.append(f"{'':16} {task.task_id:8}{truth:8.2f}  {other['joules'] or float('nan'):8.2f}  {one['joules']:8.2f}")
        if name in SAME_SAMPLES:
            assert other == from_store(stores.with_journal[SAME_SAMPLES[name]], task)
        if other["joules"] is not None:
            assert other["low"] <= truth <= other["high"]
            assert other["low"] <= one["high"]
            assert one["low"] <= other["high"]
        if name != "slow" and task.seconds >= 2:
            assert other["joules"] == pytest.approx(truth, rel=0.02)
    with capsys.disabled():
        sys.stdout.write("\n".join(["", *lines]))


@pytest.mark.parametrize("name", STORES)
def test_what_the_result_counts_is_the_exporters_answer_whatever_the_store(stores: Stores, name: str) -> None:
    for task in TASKS:
        measured = stores.with_journal[name].records[task.task_id]["measurement"]
        assert measured["energy_source"] == "exporter"
        assert measured["low_joules"] <= stores.with_journal[name].joules(task.task_id) <= measured["high_joules"]
        assert set(measured["reasons"]) <= {"short"}, task.task_id


@pytest.mark.parametrize("name", STORES)
def test_without_the_journal_the_store_alone_has_every_task_once(stores: Stores, name: str) -> None:
    rows, journal = stores.alone[name].rows, stores.with_journal["prometheus"].rows
    assert set(rows) == {task.task_id for task in TASKS}
    same = ("model_name", "success", "llm_call_count", "total_prompt_tokens", "total_completion_tokens")
    for task in TASKS:
        assert {key: rows[task.task_id][key] for key in same} == {key: journal[task.task_id][key] for key in same}
        # What was pushed at the end of the task is in the store, so its joules are the exporter's there, too.
        assert float(rows[task.task_id]["total_energy_joules"]) == pytest.approx(
            float(journal[task.task_id]["total_energy_joules"]), rel=1e-6
        )


def test_the_energy_of_a_pair_that_writes_to_one_store_never_doubles(stores: Stores) -> None:
    api = stores.api("victoriametrics")
    pairs = api.query(f'count({metrics.GPU_ENERGY.name}{{job="joulebench"}}) by (uuid)')
    api.close()
    assert [series.points[-1][1] for series in pairs] == [2.0, 2.0], "two series a GPU, one of each agent"
    for task in TASKS:
        joules = from_store(stores.with_journal["victoriametrics"], task)["joules"]
        assert joules == pytest.approx(from_store(stores.with_journal["prometheus"], task)["joules"], rel=0.05)


def test_scrapes_every_5_seconds_are_named_with_what_they_can_say(stores: Stores) -> None:
    for task in TASKS:
        slow, one = (from_store(stores.with_journal[name], task) for name in ("slow", "prometheus"))
        if slow["joules"] is not None:
            assert slow["high"] - slow["low"] > 5 * (one["high"] - one["low"])


def test_another_tenant_sees_nothing_and_none_is_told_to_name_one(stores: Stores) -> None:
    other = stores.api("cortex", "team-b")
    assert other.query(metrics.GPU_ENERGY.name) == []
    other.close()
    without = PrometheusApi(stores.urls["cortex"], patience=0.0, settings=ConnectionSettings())
    with pytest.raises(PrometheusError, match="tenant"):
        without.query("vector(1)")
    without.close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


def ask(url: str, settings: ConnectionSettings) -> list[Any]:
    api = PrometheusApi(url, patience=0.0, settings=settings)
    try:
        return api.query("vector(1)")
    finally:
        api.close()


@pytest.fixture(scope="module")
def guarded_cortex(
    certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, ConnectionSettings]]:
    """(address, right settings) of a Cortex that wants a tenant and, by TLS, a client's certificate."""
    directory, port = tmp_path_factory.mktemp("guarded-cortex"), free_port()
    server = {"cert-path": "server", "key-path": "server-key", "ca-path": "ca"}
    flags = [f"-server.http-tls-{flag}={certificates[name]}" for flag, name in server.items()]
    flags += ["-server.http-tls-client-auth=RequireAndVerifyClientCert", *cortex_arguments(directory, port)]
    files = {"ca_file": "ca", "client_cert_file": "client", "client_key_file": "client-key"}
    paths: dict[str, Any] = {name: certificates[file] for name, file in files.items()}
    settings = ConnectionSettings(tenant=TENANT, **paths)
    url = f"https://127.0.0.1:{port}/prometheus"

    def is_ready() -> bool:
        try:
            return bool(ask(url, settings))
        except PrometheusError:
            return False

    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([need_built("cortex"), *flags], stdout=log, stderr=log, cwd=directory)
    try:
        assert wait_until(is_ready, 60.0, interval=0.25), (directory / "log").read_text()[-2000:]
        yield url, settings
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"ca_file": ""}, "unknown authority: give the authority's file as ca_file"),
        ({"ca_file": "other-ca"}, "unknown authority: give the authority's file as ca_file"),
        ({"client_cert_file": "", "client_key_file": ""}, "wants a certificate of the client"),
        (
            {"client_cert_file": "other-client", "client_key_file": "other-client-key"},
            "(does not trust|may not accept) the client's certificate",
        ),
        ({"client_key_file": "server-key"}, "client_key_file is not the key of client_cert_file"),
        ({"tenant": ""}, "wants a tenant: give it as tenant"),
    ],
    ids=["no authority", "another authority", "no certificate", "another client", "another key", "no tenant"],
)
def test_a_wrong_setting_for_a_cortex_with_tls_is_named(
    guarded_cortex: tuple[str, ConnectionSettings], certificates: Certificates, wrong: dict[str, str], message: str
) -> None:
    url, right = guarded_cortex
    changes: dict[str, Any] = {name: certificates[file] if file else None for name, file in wrong.items()}
    with pytest.raises(PrometheusError, match=message):
        ask(url, dataclasses.replace(right, **changes))
