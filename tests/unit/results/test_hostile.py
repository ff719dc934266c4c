"""What a journal, a store or a disk may do to an export: no traceback, nothing lost that could be kept, nothing invented."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from joulebench import metrics
from joulebench.cli import main
from joulebench.clients.prometheus import PrometheusApi
from joulebench.errors import UserError
from joulebench.results.export import Export, Options, export
from joulebench.units import Seconds
from tests.unit.clients.test_prometheus_api import serving

RUN = "hostile"
START = 1_700_000_000.0


class Later:
    def unix(self) -> Seconds:
        return Seconds(START + 3600.0)

    def monotonic(self) -> Seconds:
        return Seconds(1.0)


def event(event_type: str, at: float, task_id: str | None = None, **more: Any) -> dict[str, Any]:
    return {"event_type": event_type, "timestamp": at, **({"task_id": task_id} if task_id else {}), "worker": "w", **more}


def a_task(task_id: str, start: float = START, end: float | None = START + 5.0, **more: Any) -> list[dict[str, Any]]:
    begun = event("TASK_START", start, task_id, task_name=task_id, model_name="m:1b", suite="")
    call = [
        event("LLM_QUERY_START", start + 0.5, task_id, call=1, model_name="m:1b"),
        event("LLM_QUERY_END", start + 1.5, task_id, call=1, status="success", prompt_tokens=7, completion_tokens=3, **more),
    ]
    if end is None:
        return [begun, *call]
    return [begun, *call, event("TASK_END", end, task_id, status="success", success=True, duration_seconds=end - start)]


def write(runs: Path, *lines: Mapping[str, Any] | bytes) -> None:
    (runs / RUN).mkdir(parents=True, exist_ok=True)
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines]
    (runs / RUN / "journal-w.jsonl").write_bytes(b"".join(texts))


def exported(runs: Path, api: PrometheusApi | None = None, **options: Any) -> tuple[Export, dict[str, dict[str, str]]]:
    done = export(Options(RUN, runs, **{"wait": 0.0, **options}), api, Later())
    with done.csv_path.open(newline="", encoding="utf-8") as file:
        return done, {row["task_id"]: row for row in csv.DictReader(file)}


Answer = Callable[[str], tuple[int, Mapping[str, Any]]]


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """The URL of a server that answers by the text of the query."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            (query,) = parse_qs(urlsplit(self.path).query)["query"]
            status, body = answer(query)
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def success(result: Sequence[Mapping[str, Any]], kind: str = "vector") -> tuple[int, Mapping[str, Any]]:
    return 200, {"status": "success", "data": {"resultType": kind, "result": result}}


def test_a_run_without_tasks_is_a_run(tmp_path: Path) -> None:
    write(tmp_path, event("RUN_START", START, model_name="m"))
    done, rows = exported(tmp_path)
    assert (rows, done.json_paths) == ({}, [])
    assert json.loads((tmp_path / RUN / "run.json").read_text())["totals"]["tasks"] == 0


@pytest.mark.parametrize(
    "line",
    [
        b'{"event_type": "TASK_ST',
        b"[" * 200_000 + b"\n",
        b"\x00" * 4096 + b"\n",
        b"\xff\xfe\xfa\n",
        json.dumps(event("TASK_END", 1e18, "good", status="success")).encode() + b"\n",
        json.dumps(event("TASK_END", -5.0, "good", status="success")).encode() + b"\n",
        b'{"event_type": "TASK_END", "timestamp": 1e999, "task_id": "good"}\n',
        json.dumps(event("LLM_QUERY_END", START, "good", call=[1])).encode() + b"\n",
        json.dumps(event("TOOL_CALL_END", START, "good", tool_call={"a": 1})).encode() + b"\n",
    ],
    ids=["torn", "deep", "zeros", "bytes", "far future", "before 1970", "infinite", "list as a call", "object as a call"],
)
def test_a_line_that_is_no_event_is_counted_and_left_out(tmp_path: Path, line: bytes) -> None:
    write(tmp_path, *a_task("good"), line)
    done, rows = exported(tmp_path)
    assert (rows["good"]["status"], rows["good"]["llm_call_count"]) == ("success", "1")
    assert "1 damaged lines in the journal were left out" in done.notes


def test_half_a_character_pair_is_kept_as_json_spells_it(tmp_path: Path) -> None:
    write(tmp_path, *a_task("half \ud83d", error="cut \udc00"))
    done, rows = exported(tmp_path)
    (path,) = done.json_paths
    found = json.loads(path.read_bytes())
    assert found["metadata"]["task_id"] == "half \ud83d"
    assert list(rows) == ["half \\ud83d"]
    assert list(exported(tmp_path)[1]) == ["half \\ud83d"], "a second export replaces the row"


def test_the_command_prints_half_a_character_pair(tmp_path: Path) -> None:
    write(tmp_path, *a_task("half \ud83d"))
    argv = [
        sys.executable,
        "-m",
        "joulebench.cli",
        "export",
        "--run-id",
        RUN,
        "--runs-dir",
        str(tmp_path),
        "--prometheus-url",
        "none",
    ]
    done = subprocess.run(argv, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_journal_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / RUN / "journal-w.jsonl").mkdir(parents=True)
    with pytest.raises(UserError, match=r"journal-w\.jsonl cannot be read"):
        exported(tmp_path)


def test_a_clock_set_by_years_within_a_task_asks_for_no_years_of_samples(tmp_path: Path) -> None:
    """A machine whose clock began in 1970 and was set while the task ran."""
    write(tmp_path, *a_task("set", start=10.0, end=START), *a_task("good"))
    with serving((200, json.dumps({"status": "success", "data": {"resultType": "vector", "result": []}}))) as served:
        done, rows = exported(tmp_path, PrometheusApi(served.url, patience=0.0))
    assert len(served.queries) < 150
    assert (rows["set"]["quality"], rows["set"]["reasons"]) == ("missing", "clock_step")
    assert rows["good"]["status"] == "success"
    assert done.notes == []


def test_a_task_of_20_ms_and_one_that_never_ended(tmp_path: Path) -> None:
    write(tmp_path, *a_task("blink", end=START + 0.02), *a_task("lost", end=None))
    _, rows = exported(tmp_path)
    assert float(rows["blink"]["total_duration_seconds"]) == pytest.approx(0.02)
    assert (rows["lost"]["status"], rows["lost"]["reasons"], rows["lost"]["total_duration_seconds"]) == (
        "unfinished",
        "no_end",
        "",
    )


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (500, "oops", "HTTP 500 without valid JSON"),
        (503, "starting", "HTTP 503"),
        (200, '{"status": "success", "data": {"resultType": "vec', "without valid JSON"),
        (200, "[" * 100_000, "without valid JSON"),
        (200, '{"status": "success", "data": null}', "not an answer of the query API"),
        (
            200,
            '{"status": "success", "warnings": 5, "data": {"resultType": "vector", "result": [{"value": [1, "1"]}]}}',
            "not an answer",
        ),
        (
            200,
            '{"status": "success", "data": {"resultType": "vector", "result": [{"metric": null, "value": [1, "1"]}]}}',
            "not an answer",
        ),
        (
            200,
            '{"status": "success", "data": {"resultType": "matrix", "result": [{"metric": 7, "values": [[1, "1"]]}]}}',
            "not an answer",
        ),
    ],
)
def test_a_prometheus_that_fails_costs_its_numbers_and_no_others(tmp_path: Path, status: int, body: str, words: str) -> None:
    write(tmp_path, *a_task("good"))
    with serving((status, body)) as served:
        done, rows = exported(tmp_path, PrometheusApi(served.url, patience=0.0))
    assert (rows["good"]["total_tokens"], rows["good"]["reasons"]) == ("10", "prometheus_failed")
    assert any(words in note for note in done.notes)


def test_pushed_values_that_are_no_numbers_are_not_known(tmp_path: Path) -> None:
    def vector(query: str) -> tuple[int, Mapping[str, Any]]:
        labels = {"run_id": RUN, "task_id": "pushed", "worker": "w"}
        values = {metrics.TASK_START.name: START, metrics.TASK_END.name: START + 5.0}
        for name in (*values, metrics.TASK_LLM_CALLS.name, metrics.TASK_DURATION.name):
            if f"({name}{{" in query:
                return success([{"metric": {"__name__": name, **labels}, "value": [START, str(values.get(name, "NaN"))]}])
        return success([])

    with answering(vector) as url:
        _, rows = exported(tmp_path, PrometheusApi(url, patience=0.0))
    assert (rows["pushed"]["llm_call_count"], rows["pushed"]["total_duration_seconds"]) == ("", "5")


def refusing(longest: float) -> tuple[Answer, list[float]]:
    """A store that refuses to load more than ``longest`` seconds of samples; and what was asked of the energy counter."""
    asked: list[float] = []

    def answer(query: str) -> tuple[int, Mapping[str, Any]]:
        found = re.fullmatch(rf"{metrics.GPU_ENERGY.name}\[(\d+)ms\]", query)
        if found is None:
            return success([])
        asked.append(int(found[1]) / 1000)
        if asked[-1] > longest:
            return 422, {"status": "error", "errorType": "execution", "error": "query processing would load too many samples"}
        return success([], "matrix")

    return answer, asked


def test_a_store_that_refuses_an_hour_is_asked_for_less(tmp_path: Path) -> None:
    write(tmp_path, *a_task("good", end=START + 3000.0))
    answer, asked = refusing(400.0)
    with answering(answer) as url:
        done, _ = exported(tmp_path, PrometheusApi(url, patience=0.0))
    assert done.notes == []
    assert sum(seconds for seconds in asked if seconds <= 400.0) == pytest.approx(3060.0, abs=0.1)


def test_a_store_that_refuses_everything_is_not_asked_for_ever(tmp_path: Path) -> None:
    write(tmp_path, *a_task("good", end=START + 3000.0))
    answer, asked = refusing(0.0)
    with answering(answer) as url:
        done, rows = exported(tmp_path, PrometheusApi(url, patience=0.0))
    assert rows["good"]["reasons"] == "prometheus_failed"
    assert "too many samples" in done.notes[0]
    assert len(asked) < 20


def test_an_old_table_that_is_none_is_not_overwritten(tmp_path: Path) -> None:
    write(tmp_path, *a_task("good"))
    table = tmp_path / RUN / "results.csv"
    table.write_text("run_id,task_id,worker\n" + "x" * 200_000 + ",a,b\n")
    before = table.read_bytes()
    with pytest.raises(UserError, match=r"results\.csv"):
        exported(tmp_path)
    assert table.read_bytes() == before
    table.unlink()
    table.mkdir()
    with pytest.raises(UserError, match=r"results\.csv"):
        exported(tmp_path)


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    write(tmp_path, *a_task("good"))
    before = {path.name: path.read_bytes() for path in exported(tmp_path)[0].csv_path.parent.iterdir()}
    write(tmp_path, *a_task("good"), *a_task("other", START + 10, START + 11))
    before["journal-w.jsonl"] = (tmp_path / RUN / "journal-w.jsonl").read_bytes()
    code = f"""
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))
sys.argv = ["joulebench", "export", "--run-id", {RUN!r}, "--runs-dir", {str(tmp_path)!r}, "--prometheus-url", "none"]
from joulebench.cli import main
sys.exit(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "cannot be written (File too large)" in done.stderr
    assert {path.name: path.read_bytes() for path in (tmp_path / RUN).iterdir()} == before


@pytest.mark.parametrize("out", ["/proc/joulebench", "/dev/null", "/proc"])
def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, out: str) -> None:
    write(tmp_path, *a_task("good"))
    with pytest.raises(UserError, match="--out: "):
        exported(tmp_path, out=Path(out))


def test_two_exports_at_once_end_as_one(tmp_path: Path) -> None:
    write(tmp_path, *(line for n in range(40) for line in a_task(f"task-{n}", START + 10 * n, START + 10 * n + 5)))
    expected = {path.name: path.read_bytes() for path in exported(tmp_path)[0].csv_path.parent.iterdir()}
    threads = [threading.Thread(target=exported, args=(tmp_path,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {path.name: path.read_bytes() for path in (tmp_path / RUN).iterdir()} == expected


def test_a_sample_that_is_no_number_is_no_sample(tmp_path: Path) -> None:
    """Once a second over the task: 100 W, and a counter that is NaN for one scrape."""
    write(tmp_path, *a_task("good"))
    labels = {"job": "joulebench", "instance": "a:1", "gpu": "0", "uuid": "GPU-a"}
    moments = [START + n for n in range(-20, 26)]
    values: dict[str, Callable[[float], float]] = {
        metrics.GPU_ENERGY.name: lambda at: float("nan") if at == START + 2 else 100.0 * (at - START + 20),
        metrics.GPU_ENERGY_SAMPLE_TIMESTAMP.name: lambda at: at,
        metrics.GPU_POWER.name: lambda at: float("inf") if at == START + 3 else 100.0,
    }

    def answer(query: str) -> tuple[int, Mapping[str, Any]]:
        name = query.partition("[")[0].partition("{")[0]
        if name not in values or not query.endswith("ms]"):
            return success([])
        points = [[at, str(values[name](at)).replace("nan", "NaN").replace("inf", "+Inf")] for at in moments]
        return success([{"metric": {"__name__": name, **labels}, "values": points}], "matrix")

    with answering(answer) as url:
        _, rows = exported(tmp_path, PrometheusApi(url, patience=0.0))
    good = rows["good"]
    assert float(good["total_energy_joules"]) == pytest.approx(500.0)
    assert good["max_power_w"] == "100"


def test_numbers_beyond_64_bits_and_control_characters_neither_end_an_export_nor_reach_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(
        tmp_path,
        *a_task("huge", decode_seconds=1.0, decode_tokens=10**400, ttft_seconds=10**30),
        *(line | {"status": "\x1b[31mred\x07\u202e"} if line["event_type"] == "TASK_END" else line for line in a_task("colour")),
        *a_task("\x1b]0;title\x07"),
    )
    argv = ["export", "--run-id", RUN, "--runs-dir", str(tmp_path), "--prometheus-url", "none", "--gateway-url", "none"]
    assert main(argv) == 0
    printed = "".join(capsys.readouterr())
    assert "huge" in printed
    assert set(printed) & set("\x1b\x07\u202e") == set()
    rows = {row["task_id"]: row for row in csv.DictReader((tmp_path / RUN / "results.csv").read_text().splitlines())}
    assert (rows["huge"]["total_completion_tokens"], rows["huge"]["tokens_per_second"]) == ("3", "")
