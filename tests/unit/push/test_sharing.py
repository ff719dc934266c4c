"""Calls of one worker that overlap share the energy of the time that they share; others keep their window."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from joulebench import Run
from joulebench.results.export import Options, export
from joulebench.schema.load import load_result
from joulebench.schema.result import TaskResult
from tests.fakes.raw_upstream import Part, RawRequest, RawUpstream, whole

WATTS = 100.0


def exporter(request: RawRequest) -> list[Part]:
    """One GPU of 100 W, for whatever window is asked; of a version that takes one window a request."""
    if request.line.startswith("POST"):
        return whole(b"Method Not Allowed", status="405 Method Not Allowed")
    query = parse_qs(urlsplit(request.line.split()[1]).query)
    joules = WATTS * (float(query["end"][0]) - float(query["start"][0]))
    energy = {"joules": joules, "low": joules - 1, "high": joules + 1, "quality": "ok", "reasons": []}
    gpu = {"gpu": "0", "uuid": "GPU-0", "method": "counter", "samples": 9, **energy, "end_joules": WATTS * float(query["end"][0])}
    return whole(json.dumps({"source": "nvml", "basis": "declared", "gpus": [gpu], "total": energy}).encode())


def record(runs_dir: Path, windows: list[tuple[float, float]]) -> TaskResult:
    """Calls that start and end by their windows, in seconds from now, each in a thread of its own."""
    pause = threading.Event()
    with (
        RawUpstream(exporter) as server,
        Run("m", run_id="r", exporter_url=server.url, gateway_url="none", prometheus_url="none", runs_dir=runs_dir) as run,
        run.task("t") as task,
    ):

        def call(start: float, end: float) -> None:
            pause.wait(start)
            with task.call() as one:
                pause.wait(end - start)
                one.finish(10, 5)

        threads = [threading.Thread(target=call, args=window) for window in windows]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    (path,) = export(Options("r", runs_dir, wait=0.0), None).json_paths
    return load_result(path)


def test_overlapping_calls_share_and_do_not_exceed_their_task(tmp_path: Path) -> None:
    result = record(tmp_path, [(0.0, 0.4), (0.1, 0.5), (0.2, 0.6), (0.3, 0.7)])
    shares = [call.joules for call in result.calls]
    windows = [call.window_joules for call in result.calls]
    assert all(share is not None and share > 0 for share in shares)
    total = sum(share or 0.0 for share in shares)
    starts, ends = [call.start or 0.0 for call in result.calls], [call.end or 0.0 for call in result.calls]
    assert total == pytest.approx(WATTS * (max(ends) - min(starts)), rel=1e-6)
    assert total <= (result.measurement.joules or 0.0)
    assert sum(window or 0.0 for window in windows) > 2 * total
    assert all("calls_overlap" in call.reasons for call in result.calls)


def test_calls_one_after_another_keep_their_windows(tmp_path: Path) -> None:
    result = record(tmp_path, [(0.0, 0.1), (0.3, 0.4)])
    for call in result.calls:
        assert call.joules == call.window_joules == pytest.approx(WATTS * ((call.end or 0.0) - (call.start or 0.0)), rel=1e-6)
        assert (call.quality, call.reasons) == ("ok", [])


def test_overlapping_tasks_of_two_workers_share_what_the_exporter_counted_without_any_prometheus(tmp_path: Path) -> None:
    pause = threading.Event().wait

    def work(worker: str, start: float, url: str) -> None:
        pause(start)
        with (
            Run(
                "m", run_id="r", worker=worker, exporter_url=url, gateway_url="none", prometheus_url="none", runs_dir=tmp_path
            ) as run,
            run.task(worker) as task,
            task.call() as call,
        ):
            pause(0.3)
            call.finish(10, 5)

    with RawUpstream(exporter) as server:
        threads = [threading.Thread(target=work, args=(f"w{number}", 0.1 * number, server.url)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    results = [load_result(path) for path in export(Options("r", tmp_path, wait=0.0), None).json_paths]
    windows = [(one.metadata.session_start_unix or 0.0, one.metadata.session_end_unix or 0.0) for one in results]
    shares = [one.attribution.attributed or 0.0 for one in results]
    assert [one.attribution.source for one in results] == ["exporter"] * 2
    assert sum(shares) == pytest.approx(WATTS * (max(end for _, end in windows) - min(start for start, _ in windows)), rel=1e-3)
    assert sum(shares) < 0.9 * sum(one.measurement.joules or 0.0 for one in results)
