"""What a fleet costs its Prometheus: many exporters of eight GPUs each, scraped with the repository's own configuration.

The exporters are one process that repeats pages of a real exporter with eight simulated GPUs; Prometheus and its rules are real.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from joulebench.clients.prometheus import PrometheusApi
from joulebench.clock import Clock, wait_until
from joulebench.stack import programs
from joulebench.stack.data_files import data_path
from joulebench.stack.native import NativeStack, Ports
from joulebench.stack.process import Program, free_port
from tests.benchmarks import gateway_scale
from tests.benchmarks.process import cpu_share, resident_bytes
from tests.benchmarks.report import Report

HOSTS = (10, 100, 500)
GPUS = 8
PAGES = 40
SETTLE_SECONDS, MEASURE_SECONDS = 25.0, 30.0
BLOCK_SECONDS = 240.0
"""Until Prometheus has written a block of one minute, which says how many bytes a sample takes."""
FLEET_GPUS = 10_000
ENERGY_JOB = "joulebench-energy"
SCRAPE_SECONDS = {"joulebench": 1.0, ENERGY_JOB: 0.25}
SAMPLES, RULE_SECONDS = "prometheus_tsdb_head_samples_appended_total", "prometheus_rule_evaluation_duration_seconds_sum"


@dataclass(frozen=True)
class Cost:
    """``wanted`` and ``got``: samples a second. ``cpu``: cores. ``rules``: seconds of rule evaluation a second."""

    hosts: int
    jobs: str
    series: float
    wanted: float
    got: float
    cpu: float
    memory: int
    rules: float
    bytes_a_sample: float | None = None


def run(report: Report, clock: Clock) -> None:
    with tempfile.TemporaryDirectory(prefix="joulebench-bench-") as name:
        directory = Path(name)
        pages = _record_pages(directory)
        with _exporters(pages) as port:
            costs = [
                _measure(directory / f"{hosts}-{jobs}", port, hosts, jobs, clock) for jobs in ("both", "slow") for hosts in HOSTS
            ]
            with_block = _measure(directory / "block", port, HOSTS[0], "both", clock, block=True)
    _print(report, costs, with_block)
    gateway_scale.run(report)


def _record_pages(directory: Path) -> Path:
    """Pages of a real exporter with simulated GPUs, a second and a quarter of a second apart."""
    stack = NativeStack(
        directory / "recorded", Ports.free(), exporter_flags=["--gpu-source=simulated", f"--simulated.gpus={GPUS}"]
    )
    jobs = {job["job_name"]: job for job in _config()["scrape_configs"]}
    names = "&".join(f"name[]={name}" for name in jobs[ENERGY_JOB]["params"]["name[]"])
    between = threading.Event()
    recorded: dict[str, list[str]] = {"full": [], "energy": []}
    exporter = stack.exporter().start()
    try:
        for number in range(PAGES):
            between.wait(0.25)
            recorded["energy"].append(_read(f"{stack.exporter_url}/metrics?{names}"))
            if number % 4 == 0:
                recorded["full"].append(_read(f"{stack.exporter_url}/metrics"))
    finally:
        exporter.stop()
    path = directory / "pages.json"
    path.write_text(json.dumps(recorded))
    return path


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        return str(response.read().decode())


def _config() -> dict[str, Any]:
    return dict(yaml.safe_load(data_path("prometheus/prometheus.yml").read_text()))


@contextmanager
def _exporters(pages: Path) -> Iterator[int]:
    command = [sys.executable, "-m", "tests.benchmarks.many_exporters", str(pages)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


def _measure(directory: Path, port: int, hosts: int, jobs: str, clock: Clock, *, block: bool = False) -> Cost:
    """``block``: wait until Prometheus has written a block, which says how many bytes a sample takes on disk."""
    directory.mkdir()
    config, wanted_jobs = _config(), ("joulebench", ENERGY_JOB) if jobs == "both" else ("joulebench",)
    config["scrape_configs"] = [
        _with_targets(job, port, hosts) for job in config["scrape_configs"] if job["job_name"] in wanted_jobs
    ]
    config["rule_files"] = [str(data_path("prometheus/rules").resolve() / "*.yml")]
    config.pop("alerting", None)
    path, listen = directory / "prometheus.yml", free_port()
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    executable, url = programs.require("prometheus"), f"http://127.0.0.1:{listen}"
    flags = ["--storage.tsdb.min-block-duration=1m", "--storage.tsdb.max-block-duration=1m"] if block else []
    prometheus = Program(
        "prometheus",
        [
            str(executable),
            f"--config.file={path}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{listen}",
            "--log.level=warn",
            *flags,
        ],
        directory / "prometheus.log",
        f"{url}/-/ready",
        working_directory=programs.working_directory(executable),
    )
    prometheus.start()
    try:
        threading.Event().wait(SETTLE_SECONDS)
        began, before = clock.monotonic(), _own_counters(url)
        cpu = cpu_share(prometheus.pid, MEASURE_SECONDS, clock)
        seconds, after = clock.monotonic() - began, _own_counters(url)
        api = PrometheusApi(url)
        wanted = sum(
            api.query(f'max(scrape_samples_scraped{{job="{job["job_name"]}"}})')[0].points[-1][1]
            * hosts
            / SCRAPE_SECONDS[job["job_name"]]
            for job in config["scrape_configs"]
        )
        api.close()
        return Cost(
            hosts,
            jobs,
            after["prometheus_tsdb_head_series"],
            wanted,
            (after[SAMPLES] - before[SAMPLES]) / seconds,
            cpu,
            resident_bytes(prometheus.pid),
            (after[RULE_SECONDS] - before[RULE_SECONDS]) / seconds,
            _bytes_a_sample(url) if block else None,
        )
    finally:
        prometheus.stop()


def _with_targets(job: dict[str, Any], port: int, hosts: int) -> dict[str, Any]:
    targets = [
        {"targets": [f"127.0.0.1:{port}"], "labels": {"instance": f"host-{number}", "__metrics_path__": f"/{number}/metrics"}}
        for number in range(hosts)
    ]
    return {**job, "static_configs": targets}


def _own_counters(url: str) -> dict[str, float]:
    """What Prometheus counts of itself, summed over labels, by name."""
    counters: defaultdict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(_read(f"{url}/metrics")):
        for sample in family.samples:
            if "quantile" not in sample.labels and "le" not in sample.labels:
                counters[sample.name] += sample.value
    return counters


def _bytes_a_sample(url: str) -> float | None:
    """Of the chunks of the blocks that were written; None where none is written within the time."""
    size, samples = "prometheus_tsdb_compaction_chunk_size_bytes_sum", "prometheus_tsdb_compaction_chunk_samples_sum"
    if not wait_until(lambda: _own_counters(url)[samples] > 0, BLOCK_SECONDS):
        return None
    counters = _own_counters(url)
    return counters[size] / counters[samples]


def _print(report: Report, costs: Sequence[Cost], with_block: Cost) -> None:
    report.heading("What a fleet costs its Prometheus")
    report.say(
        f"Exporters of {GPUS} simulated GPUs; both: everything each second and the energy counter each 250 ms; slow: all "
        f"each second. {MEASURE_SECONDS:.0f} s each, recording rules and alerts included, on this machine beside the exporters."
    )
    rows = [
        (
            f"{cost.hosts} hosts, {cost.jobs}",
            f"{cost.series:,.0f}",
            f"{cost.wanted:,.0f}",
            f"{cost.got:,.0f}",
            f"{cost.cpu:.2f}",
            f"{cost.memory / 2**20:,.0f}",
            f"{cost.rules:.3f}",
        )
        for cost in costs
    ]
    report.table(("", "series", "samples/s wanted", "got", "cores", "MiB", "rule s/s"), rows)
    size = with_block.bytes_a_sample
    if size is None:
        report.say(f"No block was written within {BLOCK_SECONDS:.0f} s, so bytes a sample are not known.")
        return
    report.say(f"{size:.2f} bytes a sample in blocks ({with_block.hosts} hosts, {with_block.jobs}).")
    fleet_hosts = FLEET_GPUS / GPUS
    extrapolated = []
    for jobs in ("both", "slow"):
        largest = max(
            (cost for cost in costs if cost.jobs == jobs and cost.got > 0.95 * cost.wanted), key=lambda cost: cost.hosts
        )
        factor = fleet_hosts / largest.hosts
        extrapolated.append(
            (
                f"{jobs}, from {largest.hosts} hosts",
                f"{largest.series * factor:,.0f}",
                f"{largest.wanted * factor:,.0f}",
                f"{largest.cpu * factor:.1f}",
                f"{largest.memory * factor / 2**30:.1f}",
                f"{largest.wanted * factor * size * 86400 / 1e9:,.0f}",
            )
        )
    report.table(("", "series", "samples/s", "cores", "GiB", "GB a day"), extrapolated, f"Extrapolated to {FLEET_GPUS:,} GPUs")
