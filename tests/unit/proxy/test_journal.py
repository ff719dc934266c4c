"""A proxied run is a run: its journal becomes results by the same export, each request one call with its tokens and joules."""

from __future__ import annotations

import csv
import json
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest
import requests

from joulebench import Run
from joulebench import metrics as m
from joulebench.clients.exporter import EnergyAnswer, GpuWindow
from joulebench.errors import UserError
from joulebench.push import ids
from joulebench.results.export import Options, export
from joulebench.schema.load import load_result
from joulebench.schema.result import CallResult, TaskResult
from joulebench.units import Joules, Seconds
from tests.fakes.model_server import ModelServer
from tests.fakes.model_turns import call, say
from tests.unit.proxy.conftest import served
from tests.unit.proxy.seen import Seen, wait_for

WATTS = 200.0
REQUESTS, CONCURRENCY = 12, 4
TOOLS = [{"type": "function", "function": {"name": "finish", "parameters": {"type": "object"}}}]


class SteadyPower:
    """An exporter with one GPU of known power."""

    def energy(self, start: Seconds, end: Seconds, wait: float = 0.0) -> EnergyAnswer:
        joules = WATTS * (end - start)
        row = {"joules": joules, "low": joules * 0.99, "high": joules * 1.01, "quality": "ok", "reasons": []}
        gpu = GpuWindow("0", "GPU-0", Joules(joules), Joules(joules * 0.99), Joules(joules * 1.01), "ok")
        return EnergyAnswer("nvml", (gpu,), [{"gpu": "0", "uuid": "GPU-0", **row}], row, "declared")


def results(runs_dir: Path, run: str = "r") -> list[TaskResult]:
    exported = export(Options(run, runs_dir, wait=0.0, per_call=True), None)
    return [load_result(path) for path in exported.json_paths]


def ask(proxy: Seen, number: int, task: str = "t", *, stop_after: int | None = None) -> int:
    """Returns the tokens that the client saw; it closes the connection after ``stop_after`` of them."""
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": str(number)}]}
    url = f"{proxy.url}/run/r/task/{task}/v1/chat/completions"
    tokens = 0
    with closing(requests.post(url, json=body, stream=True, timeout=10)) as reply:
        for line in reply.iter_lines():
            if line.startswith(b"data: {"):
                choices = json.loads(line[6:])["choices"]
                tokens += bool(choices and choices[0]["delta"].get("content"))
            if tokens == stop_after:
                if (raw := reply.raw.connection) is not None and raw.sock is not None:
                    raw.sock.shutdown(socket.SHUT_RDWR)
                break
    return tokens


def proxy_joules(proxy: Seen) -> float:
    return proxy.value(m.PROXY_ENERGY) or 0.0


@pytest.mark.parametrize("cancelled", [False, True], ids=["complete", "half of them cancelled"])
def test_concurrent_requests_are_calls_with_their_tokens_and_joules_that_add_up(tmp_path: Path, *, cancelled: bool) -> None:
    words = [" ".join(["word"] * (10 + number)) for number in range(REQUESTS)]

    def turn(body: dict[str, object]) -> object:
        messages = body["messages"]
        assert isinstance(messages, list)
        return say(words[int(messages[-1]["content"])]).with_(token_gap=0.01, prompt_tokens=40)

    with ModelServer(turn) as server:  # type: ignore[arg-type]
        with served(server.ollama_url, energy_api=SteadyPower(), runs_dir=tmp_path) as proxy:
            with ThreadPoolExecutor(CONCURRENCY) as pool:
                stops = [3 if cancelled and number % 2 else None for number in range(REQUESTS)]
                tokens = list(pool.map(lambda number: ask(proxy, number, stop_after=stops[number]), range(REQUESTS)))
            proxy.wait_until_over(REQUESTS)
            wait_for(lambda: energy_is_complete(tmp_path))
            joules = proxy_joules(proxy)
        (result,) = results(tmp_path)
    calls = result.calls
    assert len(calls) == REQUESTS
    assert [one.status for one in calls].count("cancelled") == (REQUESTS // 2 if cancelled else 0)
    complete = sorted(one.completion_tokens or 0 for one in calls if one.status == "success")
    assert complete == sorted(count for count, stop in zip(tokens, stops, strict=True) if stop is None)
    # The proxy reads until it sees the connection closed: what it has seen is what the client has, and may be a little more.
    seen = [one.streamed_tokens or 0 for one in calls if one.status == "cancelled"]
    assert all(3 <= count <= 6 for count in seen)
    assert all(one.ttft_seconds is not None for one in calls)
    assert sum(one.joules or 0.0 for one in calls) == pytest.approx(joules, rel=0.01)
    assert sum(one.joules or 0.0 for one in calls) <= (result.measurement.joules or 0.0) * 1.001
    assert result.measurement.joules == pytest.approx(joules, rel=0.05)
    assert sum(one.window_joules or 0.0 for one in calls) > 2 * joules
    assert result.efficiency.call_energy_joules == pytest.approx(joules, rel=0.01)
    assert result.computed_metrics.llm_call_count == REQUESTS
    assert result.metadata.task_id == "t"
    with (tmp_path / "r" / "calls.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert len(rows) == REQUESTS
    assert sum(float(row["joules"]) for row in rows) == pytest.approx(joules, rel=0.01)
    assert sorted(int(row["completion_tokens"]) for row in rows if row["status"] == "success") == complete


def energy_is_complete(runs_dir: Path) -> bool:
    lines = [json.loads(line) for path in runs_dir.rglob("journal-proxy-*.jsonl") for line in path.read_text().splitlines()]
    return [line["event_type"] for line in lines].count("CALL_ENERGY") == REQUESTS


def test_tool_calls_belong_to_their_request_and_errors_have_their_cause(tmp_path: Path) -> None:
    turns = [call("finish", answer="7"), call("delete_all"), say("x").with_(fault="http_500")]
    with ModelServer(turns) as server, served(server.ollama_url, runs_dir=tmp_path, add_logprobs=2) as proxy:
        for _ in turns:
            body = {"model": "m", "messages": [], "tools": TOOLS}
            requests.post(f"{proxy.url}/v1/chat/completions", json=body, headers={"X-Joulebench-Run": "r"}, timeout=5)
        proxy.wait_until_over(len(turns))
    (result,) = results(tmp_path)
    assert result.metadata.task_id == "requests"
    assert [one.status for one in result.calls] == ["success", "success", "error"]
    assert (result.calls[2].error or "").startswith("HTTP 500")
    tools = [event for event in result.raw_events if event["event_type"] == "TOOL_CALL_START"]
    assert [(event["tool_name"], event["call"]) for event in tools] == [("finish", 1), ("delete_all", 2)]
    assert 0 < tools[0]["confidence"] <= 1
    assert (result.computed_metrics.tool_usage_stats.outcomes or {})["undeclared"] == 1


def test_a_run_around_proxied_requests_is_one_task_and_each_request_one_call(tmp_path: Path) -> None:
    """The benchmark records one of three requests itself; its verdict and windows hold, the proxy adds what it lacks."""
    turns = [say("one two").with_(prompt_tokens=10), say("three").with_(prompt_tokens=20), call("finish", answer="7")]
    with ModelServer(turns) as server, served(server.ollama_url, energy_api=SteadyPower(), runs_dir=tmp_path) as proxy:
        none = {"gateway_url": "none", "prometheus_url": "none", "exporter_url": "none"}
        with Run(model="m", run_id="r", worker="w", runs_dir=tmp_path, **none) as run, run.task("t") as task:  # type: ignore[arg-type]
            url = f"{proxy.url}/run/r/task/t/v1/chat/completions"
            with task.call() as own:
                requests.post(url, json={"model": "m", "messages": []}, timeout=5)
                own.finish(prompt_tokens=10)
            for tools in ([], TOOLS):
                requests.post(url, json={"model": "m", "messages": [], "tools": tools}, timeout=5)
            task.succeed()
        proxy.wait_until_over(3)
    (result,) = results(tmp_path)
    assert (result.metadata.worker, result.computed_metrics.task_completion_status.status) == ("w", "success")
    assert [(one.call, one.prompt_tokens, one.completion_tokens) for one in result.calls][:2] == [(1, 10, 2), (2, 20, 1)]
    assert len(result.calls) == result.computed_metrics.llm_call_count == 3
    assert all(one.joules is not None for one in result.calls)
    assert result.computed_metrics.tool_usage_stats.total_tool_calls == 1


@pytest.mark.parametrize("restarted", ["with another process id", "with the same process id, as in a container"])
def test_a_proxy_that_is_restarted_in_a_task_leaves_one_row(tmp_path: Path, restarted: str) -> None:
    turns = [say("one two").with_(prompt_tokens=10), call("finish", answer="7"), say("three").with_(prompt_tokens=20)]
    turns = [*turns, call("finish", answer="8")]
    with ModelServer(turns) as server:
        for first in (True, False):
            with served(server.ollama_url, energy_api=SteadyPower(), runs_dir=tmp_path) as proxy:
                for tools in ([], TOOLS):
                    body = {"model": "m", "messages": [], "tools": tools}
                    requests.post(f"{proxy.url}/run/r/task/t/v1/chat/completions", json=body, timeout=5)
                proxy.wait_until_over(2)
                ended = time.time()
            if first and restarted.startswith("with another"):
                (journal,) = tmp_path.rglob("journal-proxy-*")
                text = journal.read_text()
                worker = str(json.loads(text.splitlines()[0])["worker"])
                journal.unlink()
                (journal.parent / "journal-proxy-earlier-1.jsonl").write_text(text.replace(worker, "proxy-earlier-1"))
            threading.Event().wait(0.3)
    (result,) = results(tmp_path)
    assert result.metadata.worker == "proxy"
    assert [(one.call, one.status) for one in result.calls] == [(number, "success") for number in range(1, 5)]
    tokens = result.computed_metrics.llm_token_usage
    assert (tokens.total_prompt_tokens, tokens.total_completion_tokens) == (
        sum(one.prompt_tokens or 0 for one in result.calls),
        sum(one.completion_tokens or 0 for one in result.calls),
    )
    assert result.computed_metrics.tool_usage_stats.total_tool_calls == 2
    assert "tool_error" not in (result.computed_metrics.tool_usage_stats.outcomes or {})
    tools_of = [event["call"] for event in result.raw_events if event["event_type"] == "TOOL_CALL_START"]
    assert tools_of == [2, 4]
    # The second proxy asks for the joules from the start of the first one's requests on.
    seconds = result.metadata.session_duration_seconds or 0.0
    assert seconds > 0.3
    assert result.metadata.session_end_unix == pytest.approx(ended, abs=0.3)
    assert result.measurement.joules == pytest.approx(WATTS * seconds, rel=0.01)
    assert result.measurement.energy_source == "exporter"
    assert 0 < sum(one.joules or 0.0 for one in result.calls) < 0.9 * WATTS * seconds


def test_requests_outside_of_the_benchmarks_task_stay_a_task_of_the_proxy(tmp_path: Path) -> None:
    with ModelServer([say("a"), say("b")]) as server, served(server.ollama_url, runs_dir=tmp_path) as proxy:
        url = f"{proxy.url}/run/r/task/t/v1/chat/completions"
        requests.post(url, json={"model": "m", "messages": []}, timeout=5)
        proxy.wait_until_over(1)
        wait_for(lambda: bool(list(tmp_path.rglob("journal-proxy-*"))))
        none = {"gateway_url": "none", "prometheus_url": "none", "exporter_url": "none"}
        threading.Event().wait(0.1)
        with Run(model="m", run_id="r", worker="w", runs_dir=tmp_path, **none) as run, run.task("t"):  # type: ignore[arg-type]
            requests.post(url, json={"model": "m", "messages": []}, timeout=5)
        proxy.wait_until_over(2)
    found = {result.metadata.worker or "": len(result.calls) for result in results(tmp_path)}
    assert found.pop("w") == 1
    assert list(found.values()) == [1]


def test_a_directory_that_cannot_be_written_stops_no_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    in_the_way = tmp_path / "runs"
    in_the_way.write_text("a file")
    with ModelServer([say("a"), say("b")]) as server, served(server.ollama_url, runs_dir=in_the_way) as proxy:
        for run in ("r", "not a path part", ".."):
            quoted = run.replace(" ", "%20")
            requests.get(f"{proxy.url}/run/{quoted}/v1/models", timeout=5)
        for run in ("r", "not%20a%20path%20part"):
            reply = requests.post(f"{proxy.url}/run/{run}/v1/chat/completions", json={"model": "m", "messages": []}, timeout=5)
            assert reply.status_code == 200
        wait_for(lambda: proxy.value(m.PROXY_UNRECORDED_REQUESTS) == 2)
    assert in_the_way.read_text() == "a file"
    assert sum("r has no journal" in record.message for record in caplog.records) == 1


def journal_path(runs_dir: Path) -> Path:
    (runs_dir / "r").mkdir()
    return runs_dir / "r" / f"journal-proxy-{ids.default_worker()}.jsonl"


def ask_in_time(proxy: Seen, number: int) -> None:
    """The reply is complete and as it is without a journal, within the time of a healthy disk."""
    began = time.monotonic()
    reply = requests.post(f"{proxy.url}/run/r/task/t/v1/chat/completions", json={"model": "m", "messages": []}, timeout=5)
    assert time.monotonic() - began < 2.0
    assert reply.json()["choices"][0]["message"]["content"] == f"reply {number}"


def test_a_full_disk_delays_no_request_and_shows_in_the_metrics(tmp_path: Path) -> None:
    journal_path(tmp_path).symlink_to("/dev/full")
    with ModelServer([say(f"reply {n}") for n in range(20)]) as server, served(server.ollama_url, runs_dir=tmp_path) as proxy:
        for number in range(20):
            ask_in_time(proxy, number)
        proxy.wait_until_over(20)
        # RUN_START, TASK_START, and two events of each request at least.
        wait_for(lambda: (proxy.value(m.PROXY_UNWRITTEN_EVENTS) or 0) >= 42)
        assert proxy.value(m.PROXY_JOURNAL_QUEUE) == 0
    with pytest.raises(UserError, match="no regular file"):
        results(tmp_path)


def test_a_disk_that_does_not_answer_delays_no_request_and_no_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The journal is a pipe that is full, and nobody reads it: the first write waits for ever."""
    path = journal_path(tmp_path)
    os.mkfifo(path)
    reader = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        with suppress(BlockingIOError):
            while os.write(reader, b"x" * 4096):
                pass
        with ModelServer([say(f"reply {n}") for n in range(20)]) as server:
            with served(server.ollama_url, runs_dir=tmp_path) as proxy:
                for number in range(20):
                    ask_in_time(proxy, number)
                proxy.wait_until_over(20)
                # The first one has been taken out and waits in its write.
                wait_for(lambda: proxy.value(m.PROXY_JOURNAL_QUEUE) == 19)
                ended = time.monotonic()
            assert time.monotonic() - ended < 8.0
        assert "the disk does not answer; 19 requests and energies that wait for it are lost" in caplog.text
    finally:
        drain_until_writer_ends(reader)
        os.close(reader)


def drain_until_writer_ends(reader: int) -> None:
    def has_ended() -> bool:
        with suppress(BlockingIOError):
            while os.read(reader, 65536):
                pass
        return not any(thread.name == "joulebench-proxy-journal" for thread in threading.enumerate())

    wait_for(has_ended)


def test_requests_that_name_no_run_are_in_no_journal_unless_the_proxy_has_one(tmp_path: Path) -> None:
    with ModelServer([say("a"), say("b")]) as server:
        for run_id in ("", "mine"):
            with served(server.ollama_url, runs_dir=tmp_path, run_id=run_id) as proxy:
                requests.post(f"{proxy.url}/v1/chat/completions", json={"model": "m", "messages": []}, timeout=5)
                proxy.wait_until_over(1)
    assert [path.parent.name for path in tmp_path.rglob("journal-*")] == ["mine"]
    (result,) = results(tmp_path, "mine")
    assert isinstance(result.calls[0], CallResult)


def test_calls_without_an_exporter_have_no_joules(tmp_path: Path) -> None:
    with ModelServer([say("a")]) as server, served(server.ollama_url, runs_dir=tmp_path) as proxy:
        requests.post(f"{proxy.url}/run/r/v1/chat/completions", json={"model": "m", "messages": []}, timeout=5)
        proxy.wait_until_over(1)
    (result,) = results(tmp_path)
    assert result.calls[0].joules is None
    assert result.measurement.joules is None
