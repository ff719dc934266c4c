"""An unchanged client under ``joulebench run``, on real programs and a fake GPU with known joules: live tasks, then backfill.

What could go wrong and would be seen here: the launcher not reaching the client's interpreter, a wait for a verdict charged to
the task, an exit code or a file of the client changed by being watched, the two ways to the joules telling different things.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from joulebench import metrics
from joulebench.clients.prometheus import PrometheusApi
from joulebench.clock import wait_until
from joulebench.stack.native import NativeStack, Ports
from tests.e2e.scene import IDLE_WATTS, STEADY_WATTS, fake_gpus, joulebench, start_exporter
from tests.fakes.nvml import FakeGpuScript
from tests.needs import need_program

pytestmark = pytest.mark.e2e

CLIENT = Path(__file__).parents[1] / "fakes/mcpworld_client/run_task.py"
RUN_ID = "client"
WATTS = IDLE_WATTS + STEADY_WATTS
ENDINGS = {"task01_a": "success", "task02_b": "failure", "task03_c": "no_verdict"}
SCRIPTED = {
    **ENDINGS,
    "task04_d": "late_work",
    "task05_e": "open_tool",
    "task06_f": "two_verdicts",
    "task07_g": "success",
    "task08_h": "late_work",
    "task10_i": "open_tool",
    "task11_j": "two_verdicts",
}
"""Ten tasks, some with work after the verdict, with a tool call without an end or with two verdicts."""


@dataclass
class Lived:
    directory: Path
    stack: NativeStack
    gpus: FakeGpuScript
    exit_codes: dict[str, int]
    rows: dict[str, dict[str, Any]]

    def file_of(self, task_id: str) -> Path:
        (path,) = (self.directory / "logs").rglob(f"result_*_{task_id}.json")
        return path


def other_python() -> str:
    """The interpreter that this environment was made from: it has none of our packages."""
    found = shutil.which("python3", path=str(Path(sys.base_prefix) / "bin"))
    return found or sys.executable


def run_command(lived_in: Path, stack: NativeStack, *client: str) -> list[str]:
    urls = ["--gateway-url", stack.gateway_url, "--prometheus-url", stack.prometheus_url, "--exporter-url", stack.exporter_url]
    places = ["--run-id", RUN_ID, "--runs-dir", str(lived_in / "runs")]
    return [sys.executable, "-m", "joulebench.cli", "run", *places, *urls, "--", other_python(), str(CLIENT), *client]


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lived]:
    for name in ("prometheus", "pushgateway"):
        need_program(name)
    directory = tmp_path_factory.mktemp("live")
    gpus = fake_gpus(directory)
    stack = NativeStack(directory / "stack", Ports.free(), with_exporter=False, with_alertmanager=False)
    with stack:
        start_exporter(stack, gpus, directory, "http://127.0.0.1:9")
        api = PrometheusApi(stack.prometheus_url)
        scraped = f'count({metrics.GPU_ENERGY.name}{{job="joulebench-energy"}}) == 2'
        assert wait_until(lambda: bool(api.query(scraped)), 20.0), "Prometheus does not scrape both fake GPUs"
        api.close()
        codes = {}
        for task_id, ending in SCRIPTED.items():
            command = run_command(directory, stack, str(directory / "logs" / "vscode_runs"), task_id, ending)
            done = subprocess.run(
                command, check=False, capture_output=True, text=True, env={**os.environ, "MODEL": "qwen3-vl:8b"}
            )
            assert "Traceback" not in done.stderr, done.stderr
            codes[task_id] = done.returncode
        places = ["--run-id", RUN_ID, "--runs-dir", str(directory / "runs"), "--prometheus-url", stack.prometheus_url]
        joulebench("export", *places)
        found = [json.loads(path.read_text()) for path in (directory / "runs" / RUN_ID).glob("result_*.json")]
        by_id = {one["metadata"]["task_id"]: one for one in found}
        assert set(by_id) == {f"vscode/{task_id}" for task_id in SCRIPTED}
        yield Lived(directory, stack, gpus, codes, {name.partition("/")[2]: one for name, one in by_id.items()})


def test_the_client_is_as_it_was(lived: Lived) -> None:
    assert {task_id: lived.exit_codes[task_id] for task_id in ENDINGS} == {"task01_a": 0, "task02_b": 3, "task03_c": 0}
    for task_id in ENDINGS:
        saved = json.loads(lived.file_of(task_id).read_text())
        assert saved["raw_events"][0]["event_type"] == "TASK_START"
        assert saved["metadata"]["model_name"] == "qwen3-vl:8b"


def test_every_task_was_measured_live(lived: Lived) -> None:
    assert set(lived.rows) == set(SCRIPTED)
    for task_id in ENDINGS:
        record = lived.rows[task_id]
        window = (record["metadata"]["session_start_unix"], record["metadata"]["session_end_unix"])
        truth = sum(lived.gpus.joules(gpu, *window) for gpu in (0, 1))
        measured = record["measurement"]
        assert measured["low_joules"] <= truth <= measured["high_joules"], task_id
        assert measured["energy_source"] == "exporter"
        usage = record["computed_metrics"]["llm_token_usage"]
        assert (usage["total_prompt_tokens"], usage["total_completion_tokens"]) == (201, 40)
        assert record["computed_metrics"]["ttft_metrics"]["average_ttft_ms"] is None
        assert record["computed_metrics"]["tool_usage_stats"]["outcomes"]["tool_error"] == 1
        assert record["computed_metrics"]["tool_confidence_metrics"]["avg_tool_confidence"] == pytest.approx(0.75)


def test_statuses_are_the_evaluators_and_no_verdict_is_none(lived: Lived) -> None:
    statuses = {t: lived.rows[t]["computed_metrics"]["task_completion_status"] for t in ENDINGS}
    assert [(statuses[t]["status"], statuses[t]["success"]) for t in ENDINGS] == [
        ("success", True),
        ("failure", False),
        ("unknown", None),
    ]
    undecided = lived.rows["task03_c"]["metadata"]
    assert undecided["session_end_unix"] - undecided["session_start_unix"] < 1.4


def test_backfill_tells_the_same_of_the_clients_own_files(lived: Lived) -> None:
    arguments = ["backfill", str(lived.directory / "logs"), "--prometheus-url", lived.stack.prometheus_url]
    first = joulebench(*arguments)
    before = {task_id: lived.file_of(task_id).read_bytes() for task_id in SCRIPTED}
    again = joulebench(*arguments)
    assert "10 filled" in first.stdout
    assert "10 unchanged" in again.stdout
    for task_id in SCRIPTED:
        saved = json.loads(before[task_id])
        assert lived.file_of(task_id).read_bytes() == before[task_id]
        assert saved["measurement"]["energy_source"] == "prometheus"
        live = lived.rows[task_id]["metadata"]
        headline = saved["windows"]["headline"]
        assert headline["start"] == pytest.approx(live["session_start_unix"], abs=0.01)
        assert headline["end"] == pytest.approx(live["session_end_unix"], abs=0.02)
        assert headline["low_joules"] <= WATTS * headline["seconds"] <= headline["high_joules"]


def test_live_and_backfill_agree_on_ten_scripted_tasks(lived: Lived) -> None:
    joulebench("backfill", str(lived.directory / "logs"), "--prometheus-url", lived.stack.prometheus_url)
    calls = {"late_work": 4}
    statuses = {"failure": "failure", "open_tool": "failure", "no_verdict": "unknown"}
    for task_id, ending in SCRIPTED.items():
        live, filled = lived.rows[task_id], json.loads(lived.file_of(task_id).read_text())
        headline = filled["windows"]["headline"]
        assert live["computed_metrics"]["total_duration_seconds"] == pytest.approx(headline["seconds"], abs=0.05), task_id
        assert len(live["calls"]) == len(filled["calls"]) == calls.get(ending, 2), task_id
        tokens = [sum(call["completion_tokens"] for call in one["calls"]) for one in (live, filled)]
        assert tokens[0] == tokens[1] == 20 * calls.get(ending, 2), task_id
        assert live["computed_metrics"]["task_completion_status"]["status"] == statuses.get(ending, "success"), task_id
        measured, stored = live["measurement"], filled["measurement"]
        near = measured["joules"] == pytest.approx(stored["joules"], rel=0.01)
        inside = stored["low_joules"] <= measured["joules"] <= stored["high_joules"]
        assert near or inside, task_id


def test_a_client_that_crashes_leaves_an_unjudged_task_and_its_own_exit_code(lived: Lived, tmp_path: Path) -> None:
    done = subprocess.run(
        run_command(tmp_path, lived.stack, str(tmp_path), "task09_x", "crash"), check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "RuntimeError: the agent crashed" in done.stderr
    (journal,) = (tmp_path / "runs" / RUN_ID).glob("journal-*.jsonl")
    (end,) = [json.loads(line) for line in journal.read_text().splitlines() if '"TASK_END"' in line]
    assert (end["status"], end["success"]) == ("unknown", None)


def test_the_launcher_passes_signals_and_refuses_what_cannot_run(lived: Lived, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "joulebench.cli", "run", "--gateway-url", lived.stack.gateway_url, "--"]
    with subprocess.Popen([*command, "sleep", "60"], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert b"joulebench run" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM
    for arguments, why in (
        (["run"], "nothing to run"),
        (["run", "--", "no-such-program"], "no program"),
        (["run", "--gateway-url", "x", "--", "true"], "not a URL"),
    ):
        refused = joulebench(*arguments, check=False)
        assert (refused.returncode, why in refused.stderr) == (2, True)
