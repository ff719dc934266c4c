"""The way of a proxied request into a real Prometheus: a client that only changed its base URL, the repository's scrape job and
recording rules, and joules of a real exporter whose simulated GPU has known power."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import requests

from joulebench.clients.prometheus import PrometheusApi
from joulebench.clock import wait_until
from joulebench.stack.data_files import data_path
from joulebench.stack.process import Program, free_port
from joulebench.stack.prometheus_config import write_readdressed
from tests.fakes.model_server import ModelServer
from tests.fakes.model_turns import call, say
from tests.needs import need_program

pytestmark = pytest.mark.e2e

RUN, TASKS = "run-1", ("sort a list", "count words")


@contextmanager
def joulebench(command: str, *flags: str) -> Iterator[str]:
    """The address that it tells."""
    argv = [sys.executable, "-m", "joulebench.cli", command, *flags]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, env={**os.environ}) as running:
        assert running.stderr is not None
        try:
            found = next(match for line in running.stderr if (match := re.search(r"listening on (http://[\d.:]+)", line)))
            yield found.group(1)
        finally:
            running.terminate()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[tuple[str, PrometheusApi]]:
    """The proxy's address, and a Prometheus that scrapes it."""
    program = need_program("prometheus")
    metrics, port = f"127.0.0.1:{free_port()}", free_port()
    turns = [say("one two three").with_(token_gap=0.2, prompt_tokens=40), call("finish", answer="7").with_(prompt_tokens=60)]
    with ExitStack() as stack:
        upstream = stack.enter_context(ModelServer([*turns, *turns]))
        exporter = stack.enter_context(
            joulebench("exporter", "--web.listen-address=127.0.0.1:0", "--gpu-source=simulated", "--no-ollama")
        )
        proxy = stack.enter_context(
            joulebench(
                "proxy",
                f"--upstream={upstream.ollama_url}",
                "--listen=127.0.0.1:0",
                f"--web.listen-address={metrics}",
                f"--exporter.url={exporter}",
                "--add-logprobs=2",
                f"--runs-dir={tmp_path / 'runs'}",
            )
        )
        source, config = data_path("prometheus/prometheus.yml"), tmp_path / "prometheus.yml"
        rules = data_path("prometheus/rules")
        gpus = exporter.removeprefix("http://")
        targets = {"joulebench-proxy": metrics, "joulebench": gpus, "joulebench-energy": gpus}
        write_readdressed(source, config, targets, alertmanager=None, rules=rules)
        url = f"http://127.0.0.1:{port}"
        flags = [f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
        started = Program("prometheus", [str(program), *flags, "--log.level=warn"], tmp_path / "prometheus.log", f"{url}/-/ready")
        started.start()
        stack.callback(started.stop)
        api = PrometheusApi(url)
        stack.callback(api.close)
        yield proxy, api


def values(api: PrometheusApi, expr: str, label: str) -> Mapping[str, float]:
    return {series.labels.get(label, ""): series.points[-1][1] for series in api.query(expr)}


def test_a_client_that_changed_only_its_base_url_is_in_prometheus_task_by_task(
    scene: tuple[str, PrometheusApi], tmp_path: Path
) -> None:
    proxy, api = scene
    assert wait_until(lambda: list(values(api, "up", "job").values()) == [1.0] * 3, 30.0)
    tools = [{"type": "function", "function": {"name": "finish", "parameters": {"type": "object"}}}]
    for task in TASKS:
        base_url = f"{proxy}/run/{RUN}/task/{task.replace(' ', '%20')}/v1"
        for _ in range(2):
            body = {"model": "m", "messages": [], "stream": True, "tools": tools}
            reply = requests.post(f"{base_url}/chat/completions", json=body, timeout=10)
            assert reply.status_code == 200
            assert b"logprob" not in reply.content
            if task == TASKS[0]:
                # A counter that has its last value at its first scrape never has a rate.
                assert wait_until(lambda: bool(api.query("joulebench_proxy_requests_total")), 30.0)
    job = '{job="joulebench-proxy"}'

    def complete() -> bool:
        # The energy of the last request is asked for a moment later than the rest.
        told = values(api, f"sum by (task_id) (joulebench_proxy_energy_joules_total{job})", "task_id")
        rate = api.query('server:joulebench_server_completion_tokens:rate1m{server="proxy"} > 0')
        return (
            set(told) == set(TASKS) and bool(rate) and values(api, f"sum(joulebench_proxy_requests_total{job})", "") == {"": 4.0}
        )

    assert wait_until(complete, 30.0)
    for metric, expected in (
        ("joulebench_proxy_requests_total", 2.0),
        ("joulebench_proxy_prompt_tokens_total", 100.0),
        ("joulebench_proxy_tool_calls_total", 1.0),
        ("joulebench_proxy_task_tool_confidence_ratio_count", 1.0),
    ):
        told = values(api, f'sum by (task_id) ({metric}{{job="joulebench-proxy", run_id="{RUN}"}})', "task_id")
        assert told == dict.fromkeys(TASKS, expected), metric
    joules = values(api, f"sum by (task_id) (joulebench_proxy_energy_joules_total{job})", "task_id")
    seconds = values(api, f"sum by (task_id) (joulebench_proxy_task_request_seconds_sum{job})", "task_id")
    for task in TASKS:
        # The simulated card takes 55 to 350 W.
        assert 55 * seconds[task] * 0.9 < joules[task] < 350 * seconds[task] * 1.1
    by_journal = exported_rows(tmp_path / "runs", tmp_path / "by_journal", api)
    by_metrics = exported_rows(tmp_path / "nothing", tmp_path / "by_metrics", api, "--from=proxy")
    assert len(by_journal) == len(by_metrics) == len(TASKS)
    for journaled, counted in zip(by_journal, by_metrics, strict=True):
        exact: tuple[str, ...] = ("task_id", "model_name", "status", "llm_call_count", "llm_error_count", "total_prompt_tokens")
        exact += ("total_completion_tokens", "total_tool_calls", "tool_calls_ok", "tool_calls_with_confidence")
        assert {name: counted[name] for name in exact} == {name: journaled[name] for name in exact}
        for name in ("start_timestamp_seconds", "end_timestamp_seconds", "total_duration_seconds"):
            assert float(counted[name]) == pytest.approx(float(journaled[name]), abs=0.02), name
        for name in ("avg_ttft_ms", "tokens_per_second", "call_energy_joules", "avg_tool_confidence"):
            assert float(counted[name]) == pytest.approx(float(journaled[name]), rel=0.03), name
        low, high = float(journaled["energy_low_joules"]), float(journaled["energy_high_joules"])
        assert float(counted["energy_low_joules"]) <= high
        assert low <= float(counted["energy_high_joules"])
        assert (counted["worker"], counted["sources"], counted["tool_calls_tool_error"]) == ("proxy", "prometheus", "")


def exported_rows(runs_dir: Path, out: Path, api: PrometheusApi, *flags: str) -> list[dict[str, str]]:
    where = [f"--prometheus-url={api.shown_url}", f"--runs-dir={runs_dir}", f"--out={out}", "--gateway-url=none"]
    argv = [sys.executable, "-m", "joulebench.cli", "export", f"--run-id={RUN}", *where, *flags]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    with (out / "results.csv").open(encoding="utf-8") as table:
        return sorted(csv.DictReader(table), key=lambda row: row["task_id"])
