"""``export --from proxy``: tasks of a proxied run from the proxy's series in a real Prometheus, without any journal.

One GPU draws 100 W and served the run; another draws 40 W and did not. The proxy is restarted in the middle of the first task.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from joulebench import metrics as m
from joulebench.clients.prometheus import PrometheusApi
from joulebench.devices import parse_devices
from joulebench.errors import UserError
from joulebench.results.export import Export, Options, export
from joulebench.results.proxy_metrics import wait_until_proxy_scraped
from joulebench.schema.load import load_result
from joulebench.units import Seconds
from tests.unit.results.store import START, Store, filled_prometheus

pytestmark = pytest.mark.e2e

RUN, WATTS = "p", {"GPU-aaaa": 100.0, "GPU-bbbb": 40.0}
RESTART = 20
LAST = 60


class Clock:
    """An hour after the run, or some seconds after its last scrape."""

    def __init__(self, after: float = 3600.0) -> None:
        self.after = after

    def unix(self) -> Seconds:
        return Seconds(START + LAST + self.after)

    def monotonic(self) -> Seconds:
        return Seconds(1.0)


def put(store: Store, task: str, seconds: range, start: float, numbers: Mapping[m.Metric | str, float], **added: str) -> None:
    """One scrape a second of a task's series; a name with a slash has its further label behind it."""
    labels = {"job": "joulebench-proxy", "instance": "a:18348", "run_id": RUN, "task_id": task, "model": "qwen3:8b", **added}
    for second in seconds:
        at = START + second + 0.5
        store.add(m.PROXY_TASK_START, labels, at, START + start)
        for series, value in numbers.items():
            if isinstance(series, m.Metric):
                store.add(series, labels, at, value)
                continue
            name, _, further = series.partition("/")
            own = m.BY_SERIES_NAME[name].labels[3:]
            store.add(m.BY_SERIES_NAME[name], {**labels, **dict(zip(own, further.split("/"), strict=False))}, at, value, name)


def answered(requests: int, tokens: tuple[int, int], seconds: float, end: float, joules: float | None) -> dict[Any, float]:
    """``tokens``: of the prompts and completions."""
    prompt, completion = tokens
    found: dict[Any, float] = {
        m.PROXY_TASK_END: START + end,
        f"{m.PROXY_REQUESTS.name}/ok": requests,
        m.PROXY_PROMPT_TOKENS: prompt,
        m.PROXY_COMPLETION_TOKENS: completion,
        f"{m.PROXY_TASK_DURATION.name}_count": requests,
        f"{m.PROXY_TASK_DURATION.name}_sum": seconds,
    }
    if joules is not None:
        found[f"{m.PROXY_ENERGY.name}/0/GPU-aaaa"] = joules
    return found


def fill(store: Store) -> None:
    for quarter in range(-120, 4 * (LAST + 30)):
        at = START + quarter / 4
        for index, (uuid, watts) in enumerate(WATTS.items()):
            gpu = {"job": "joulebench-energy", "instance": "a:18347", "gpu": str(index), "uuid": uuid}
            store.add(m.GPU_ENERGY, gpu, at, round(5000 + watts * (at - START + 60), 3))
            store.add(m.GPU_ENERGY_SAMPLE_TIMESTAMP, gpu, at, at)
    # Fewer requests before the restart than after it: the totals never fall.
    put(store, "torn", range(12, RESTART), 10.25, answered(2, (100, 20), 3.0, 15.0, 300.0))
    after: dict[Any, float] = {**answered(3, (150, 30), 4.5, 28.75, 450.0), f"{m.PROXY_TOOL_CALLS.name}/ok": 2}
    put(store, "torn", range(RESTART + 3, LAST), 21.5, {**after, f"{m.PROXY_TASK_CONFIDENCE.name}_count": 2})
    put(store, "torn", range(RESTART + 3, LAST), 21.5, {f"{m.PROXY_TASK_CONFIDENCE.name}_sum": 1.5})
    # Two scrapers store one proxy; the first has had no scrape of late.
    late = {**answered(1, (10, 5), 0.5, 33.0, 50.0), f"{m.PROXY_REQUESTS.name}/refused": 1}
    put(store, "twice", range(34, 36), 31.5, answered(1, (10, 5), 0.5, 33.0, 50.0), replica="z")
    put(store, "twice", range(34, LAST), 31.5, {**late, m.PROXY_TASK_END: START + 39.5}, replica="b")
    put(store, "unanswered", range(48, LAST), 44.0, answered(1, (1, 1), 3.0, 47.0, 200.0))
    put(store, "remote", range(53, LAST), 50.0, {**answered(1, (1, 1), 2.0, 52.0, None), m.PROXY_REMOTE_REQUESTS: 1})
    put(store, "", range(57, LAST), 55.5, {})
    for second in range(LAST):
        # Seconds without an answer of the exporter, in the task "unanswered".
        proxy = {"job": "joulebench-proxy", "instance": "a:18348"}
        store.add(m.PROXY_ENERGY_UNKNOWN, proxy, START + second + 0.5, 0.0 if second < 45 else 0.75)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with filled_prometheus(tmp_path_factory.mktemp("prometheus"), fill) as running:
        yield running


@pytest.fixture(scope="module")
def exported(url: str, tmp_path_factory: pytest.TempPathFactory) -> Export:
    return export(Options(RUN, tmp_path_factory.mktemp("runs"), from_proxy=True), PrometheusApi(url), Clock())


@pytest.fixture(scope="module")
def rows(exported: Export) -> dict[str, dict[str, Any]]:
    return {str(row["task_id"]): dict(row) for row in exported.rows}


def cells(row: Mapping[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(row[name] for name in names)


def test_a_task_of_a_restarted_proxy_is_one_row_with_all_of_its_requests(rows: dict[str, dict[str, Any]]) -> None:
    row = rows["torn"]
    assert cells(row, "worker", "model_name", "status", "success") == ("proxy", "qwen3:8b", "unknown", None)
    assert cells(row, "llm_call_count", "llm_error_count", "total_prompt_tokens", "total_completion_tokens") == (5, 0, 250, 50)
    assert cells(row, "start_timestamp_seconds", "end_timestamp_seconds") == (START + 10.25, START + 28.75)
    assert row["total_duration_seconds"] == pytest.approx(18.5)
    assert row["tokens_per_second"] == pytest.approx(50 / 7.5)
    assert row["call_energy_joules"] == pytest.approx(750.0)
    assert row["joules_per_call"] == pytest.approx(150.0)
    assert (row["quality"], row["reasons"]) == ("suspect", "proxy_restarted")
    assert row["sources"] == "prometheus"


def test_the_joules_of_the_window_are_those_of_the_gpu_that_served(rows: dict[str, dict[str, Any]]) -> None:
    row = rows["torn"]
    assert row["total_energy_joules"] == pytest.approx(1850.0, rel=0.01)
    assert row["energy_low_joules"] <= 1850.0 <= row["energy_high_joules"]
    assert cells(row, "gpu_count", "device_basis", "energy_source") == (1, "assumed", "prometheus")


def test_what_the_metrics_cannot_say_is_empty_and_what_they_have_not_is_0(rows: dict[str, dict[str, Any]]) -> None:
    row = rows["torn"]
    assert cells(row, "total_tool_calls", "tool_calls_ok", "tool_calls_malformed", "tool_calls_tool_error") == (2, 2, 0, None)
    assert cells(row, "tool_calls_with_confidence", "avg_tool_confidence", "min_tool_confidence") == (2, 0.75, None)
    assert cells(row, "avg_ttft_ms", "prefill_energy_joules", "decode_tokens_per_second") == (None, None, None)
    assert cells(rows["twice"], "total_tool_calls", "tool_calls_with_confidence") == (0, 0)


def test_a_count_that_two_scrapers_stored_is_taken_once_from_the_later_one(rows: dict[str, dict[str, Any]]) -> None:
    row = rows["twice"]
    assert cells(row, "llm_call_count", "llm_error_count", "total_prompt_tokens") == (2, 1, 10)
    assert cells(row, "end_timestamp_seconds", "call_energy_joules", "quality") == (START + 39.5, 50.0, "ok")
    # The durations of refused requests are not known.
    assert row["tokens_per_second"] == pytest.approx(10.0)


def test_joules_of_which_a_part_is_not_known_are_empty(rows: dict[str, dict[str, Any]]) -> None:
    assert rows["unanswered"]["call_energy_joules"] is None
    assert rows["unanswered"]["total_energy_joules"] == pytest.approx(300.0, rel=0.02)


def test_a_model_of_another_host_has_no_joules_here(rows: dict[str, dict[str, Any]]) -> None:
    assert cells(rows["remote"], "total_energy_joules", "reasons") == (None, "remote_model")


def test_a_task_whose_first_request_still_runs_is_unfinished(rows: dict[str, dict[str, Any]]) -> None:
    row = rows["requests"]
    assert cells(row, "status", "llm_call_count", "total_prompt_tokens", "reasons") == ("unfinished", 0, None, "no_end")


def test_tasks_are_exported_once_and_the_note_says_what_is_missing(exported: Export, url: str) -> None:
    assert len(exported.rows) == 5
    assert any("from the proxy's metrics alone" in note for note in exported.notes)
    again = export(Options(RUN, exported.csv_path.parent.parent, from_proxy=True), PrometheusApi(url), Clock())
    assert len(again.csv_path.read_text(encoding="utf-8").splitlines()) == 6


def test_an_unknown_run_names_those_of_the_proxy(url: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no run 'q'; known at http://\S+: p$"):
        export(Options("q", tmp_path, from_proxy=True), PrometheusApi(url), Clock())
    with pytest.raises(UserError, match=r"known in .*: none; the metering proxy's metrics there have it: add --from proxy"):
        export(Options(RUN, tmp_path), PrometheusApi(url), Clock())
    with pytest.raises(UserError, match="give its address with --prometheus-url"):
        export(Options(RUN, tmp_path, from_proxy=True), None, Clock())


def write_overlapping_proxies(runs_dir: Path, tasks: tuple[str, str]) -> None:
    """10 to 14 s and 12 to 16 s at 100 W: 600 J, of which each proxy journaled 400 J as its request's own."""
    (runs_dir / "two").mkdir()
    for worker, start, task in (("proxy-a-1", 10.0, tasks[0]), ("proxy-b-1", 12.0, tasks[1])):
        at, head = START + start, {"run_id": "two", "worker": worker}
        of_task = {**head, "task_id": task}
        share = {"joules": 400.0, "low": 390.0, "high": 410.0, "exclusive": True}
        gpu = {"gpu": "0", "uuid": "GPU-aaaa", "joules": 400.0, "low": 390.0, "high": 410.0, "quality": "ok"}
        energy = {"start": at, "end": at + 4, "source": "nvml", "gpus": [gpu], "total": gpu}
        lines = [
            {**head, "event_type": "RUN_START", "timestamp": at, "recorded_by": "proxy", "version": "0.1"},
            {**of_task, "event_type": "TASK_START", "timestamp": at, "task_name": "t", "model_name": "m"},
            {**of_task, "event_type": "LLM_QUERY_START", "timestamp": at, "call": 1},
            {
                **of_task,
                "event_type": "LLM_QUERY_END",
                "timestamp": at + 4,
                "call": 1,
                "status": "success",
                "duration_seconds": 4,
            },
            {**of_task, "event_type": "TASK_END", "timestamp": at + 4, "status": "unknown", "duration_seconds": 4.0},
            {**of_task, "event_type": "CALL_ENERGY", "timestamp": at + 5, "call": 1, **energy, "share": share},
            {**of_task, "event_type": "TASK_ENERGY", "timestamp": at + 5, **energy},
        ]
        journal = runs_dir / "two" / f"journal-{worker}.jsonl"
        journal.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")


def test_calls_of_two_proxies_that_overlap_share_what_both_took_for_their_own(url: str, tmp_path: Path) -> None:
    write_overlapping_proxies(tmp_path, ("t", "t"))
    devices = parse_devices(["GPU-aaaa"], "devices")
    known = export(Options("two", tmp_path, devices=devices), PrometheusApi(url), Clock())
    (result,) = [load_result(path) for path in known.json_paths]
    assert [one.joules for one in result.calls] == pytest.approx([300.0, 300.0], rel=0.02)
    assert all("calls_overlap" in one.reasons for one in result.calls)
    assert result.measurement.joules == pytest.approx(600.0, rel=0.02)
    assert result.efficiency.call_energy_joules == pytest.approx(600.0, rel=0.02)
    alone = export(Options("two", tmp_path, out=tmp_path / "alone"), None, Clock())
    (result,) = [load_result(path) for path in alone.json_paths]
    # Without samples it is not known how they shared it, and neither answer is of all of the task.
    assert [one.joules for one in result.calls] == [None, None]
    assert result.measurement.joules is None


def test_tasks_of_two_proxies_that_overlap_are_not_charged_the_same_joules_twice(url: str, tmp_path: Path) -> None:
    write_overlapping_proxies(tmp_path, ("a", "b"))
    found = export(Options("two", tmp_path), PrometheusApi(url), Clock()).rows
    assert [(row["call_energy_joules"], row["joules_per_call"]) for row in found] == [(None, None)] * 2
    assert [row["attributed_energy_joules"] for row in found] == pytest.approx([300.0, 300.0], rel=0.02)


def journal_lines(worker: str, requests: int) -> list[dict[str, Any]]:
    """The first requests of the task "torn", of 10 prompt tokens each."""
    of_task = {"run_id": RUN, "worker": worker, "task_id": "torn"}
    lines: list[dict[str, Any]] = [
        {"run_id": RUN, "worker": worker, "event_type": "RUN_START", "timestamp": START + 10, "recorded_by": "proxy"},
        {**of_task, "event_type": "TASK_START", "timestamp": START + 10.25, "task_name": "torn", "model_name": "qwen3:8b"},
    ]
    for number in range(1, requests + 1):
        at = START + 9.25 + number
        lines += [
            {**of_task, "event_type": "LLM_QUERY_START", "timestamp": at, "call": number},
            {
                **of_task,
                "event_type": "LLM_QUERY_END",
                "timestamp": at + 1,
                "call": number,
                "status": "success",
                "prompt_tokens": 10,
            },
        ]
    end = START + 10.25 + requests
    return [*lines, {**of_task, "event_type": "TASK_END", "timestamp": end, "status": "unknown", "duration_seconds": requests}]


@pytest.mark.parametrize(("requests", "is_complete"), [(2, False), (5, True)])
def test_requests_that_no_journal_holds_are_counted_and_named(
    url: str, tmp_path: Path, requests: int, *, is_complete: bool
) -> None:
    (tmp_path / RUN).mkdir()
    lines = "".join(f"{json.dumps(line)}\n" for line in journal_lines("proxy-a-1", requests))
    (tmp_path / RUN / "journal-proxy-a-1.jsonl").write_text(lines, encoding="utf-8")
    row = next(row for row in export(Options(RUN, tmp_path), PrometheusApi(url), Clock()).rows if row["task_id"] == "torn")
    assert row["llm_call_count"] == 5
    reasons = str(row["reasons"]).split(";")
    assert ("requests_not_journaled" in reasons) == (not is_complete)
    if not is_complete:
        assert cells(row, "total_prompt_tokens", "end_timestamp_seconds", "call_energy_joules") == (250, START + 28.75, 750.0)
        assert row["total_energy_joules"] == pytest.approx(1850.0, rel=0.01)
        assert "llm_calls" in str(row["sources_disagree"])
    else:
        assert cells(row, "total_prompt_tokens", "sources") == (50, "journal")


def test_a_benchmarks_task_of_which_requests_are_missing_is_named(url: str, tmp_path: Path) -> None:
    (tmp_path / RUN).mkdir()
    of_task = {"run_id": RUN, "worker": "w", "task_id": "torn"}
    lines: list[dict[str, Any]] = [
        {"run_id": RUN, "worker": "w", "event_type": "RUN_START", "timestamp": START, "model_name": "m"},
        {**of_task, "event_type": "TASK_START", "timestamp": START + 10, "task_name": "torn", "model_name": "m"},
        {
            **of_task,
            "event_type": "TASK_END",
            "timestamp": START + 29,
            "status": "success",
            "success": True,
            "duration_seconds": 19,
        },
    ]
    (tmp_path / RUN / "journal-w.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    begun = json.dumps(journal_lines("proxy-a-1", 0)[0])
    (tmp_path / RUN / "journal-proxy-a-1.jsonl").write_text(f"{begun}\n", encoding="utf-8")
    found = [row for row in export(Options(RUN, tmp_path), PrometheusApi(url), Clock()).rows if row["task_id"] == "torn"]
    assert [(row["worker"], row["status"]) for row in found] == [("w", "success")]
    assert "requests_not_journaled" in str(found[0]["reasons"])


def test_nothing_is_waited_for_that_is_not_scraped_any_more(url: str) -> None:
    assert wait_until_proxy_scraped(PrometheusApi(url), RUN, 0.0, Clock(1.0))
