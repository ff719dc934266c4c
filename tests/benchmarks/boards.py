"""How long the queries of each dashboard take over a day of 2,000 tasks, asked as Grafana asks them, and what they read.

Each board is opened over the whole day: all queries of its panels, variables and marks, one after the other. Grafana asks several
at a time, so that a board opens sooner than the sum.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import requests

from joulebench.clock import Clock
from joulebench.stack import programs
from joulebench.stack.process import Program, free_port
from tests.benchmarks import boards_day
from tests.benchmarks.report import Report, Target
from tests.contract.sources import DASHBOARDS, loaded
from tests.dashboard_queries import VALUES, panels_of, substituted, variable_queries_of
from tests.dashboards_ui.answers import DRAWN_POINTS, Stretch

LIMIT = 5.0
MARK_POINTS = 11_000
"""Points that Prometheus returns at most; Grafana widens the step of marks to keep to it."""
CHOSEN = {"api_model": "gpt-5-mini", "task_id": "task-100", "task_key": "task-100"}
RUN_OF_TASK = {"run_id": "run-5"}


class Asked(NamedTuple):
    """One HTTP request to Prometheus."""

    title: str
    path: str
    form: Mapping[str, str]


class Timed(NamedTuple):
    """``series``: how many the answer has."""

    title: str
    seconds: float
    series: int


def run(report: Report, clock: Clock) -> None:
    with tempfile.TemporaryDirectory(prefix="joulebench-bench-") as name:
        day = boards_day.Day(int(clock.unix()) - 3600)
        data = Path(name) / "prometheus-data"
        data.mkdir()
        began = clock.monotonic()
        stored = boards_day.write(day, data)
        written = clock.monotonic() - began
        prometheus, url = _prometheus(Path(name), data)
        prometheus.start()
        boards: dict[str, tuple[list[Timed], float]] = {}
        try:
            for path in DASHBOARDS:
                used = _cpu_seconds(prometheus)
                timed = _open(clock, url, loaded(path), day, path.stem)
                boards[path.stem] = timed, _cpu_seconds(prometheus) - used
        finally:
            prometheus.stop()
    tasks = boards_day.RUNS * boards_day.TASKS_PER_RUN
    report.heading("Dashboards over a day")
    report.say(
        f"{tasks:,} tasks in {boards_day.RUNS} runs, {boards_day.AT_ONCE} at once, {len(boards_day.GPUS)} GPUs scraped every"
        f" second: {stored:,} stored samples, written in {written:.0f} s. Queries one after the other."
    )
    rows = []
    for uid, (timed, cpu) in boards.items():
        total = sum(one.seconds for one in timed)
        slowest = max(timed, key=lambda one: one.seconds)
        lengths = [len(target["expr"]) for panel in panels_of(_board(uid)) for target in panel["targets"]]
        panels = len([*panels_of(_board(uid))])
        rows.append(
            (
                uid,
                f"{panels}",
                f"{len(timed)}",
                f"{max(lengths)}",
                f"{total:.2f} s",
                f"{cpu:.2f} s",
                f"{slowest.seconds:.2f} s",
                slowest.title,
                f"{sum(one.series == 0 for one in timed)}",
            )
        )
        report.targets.append(Target(f"queries of {uid} over a day of {tasks:,} tasks", LIMIT, total, "s"))
    report.table(("board", "panels", "queries", "longest, characters", "all", "CPU", "slowest", "which", "empty"), rows)


def _cpu_seconds(program: Program) -> float:
    """Of the process so far: on a busy machine the wall shows the neighbours too."""
    fields = Path(f"/proc/{program.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _board(uid: str) -> Any:
    return next(loaded(path) for path in DASHBOARDS if path.stem == uid)


def _open(clock: Clock, url: str, board: Mapping[str, Any], day: boards_day.Day, uid: str) -> list[Timed]:
    stretch = Stretch(day.start, day.end)
    variables = {**CHOSEN, **(RUN_OF_TASK if uid == "llm-task" else {})}
    timed = []
    with requests.Session() as session:
        for asked in _requests(board, stretch, variables):
            began = clock.monotonic()
            response = session.post(f"{url}/api/v1/{asked.path}", data=dict(asked.form), timeout=120)
            seconds = clock.monotonic() - began
            if response.status_code != 200:
                raise RuntimeError(f"{uid}, {asked.title}: {response.text[:1000]}\n{asked.form['query']}")
            timed.append(Timed(asked.title, seconds, len(response.json()["data"]["result"])))
    return timed


def _requests(board: Mapping[str, Any], stretch: Stretch, variables: Mapping[str, str]) -> Iterator[Asked]:
    for name, selector, _ in variable_queries_of(board, variables):
        # Grafana asks for the values of a label; the series of the whole range are what Prometheus has to look at for them.
        query = f"group by (job) (last_over_time({selector}[{stretch.end - stretch.start}s]))"
        yield Asked(f"variable {name}", "query", {"query": query, "time": f"{stretch.end}"})
    for panel in panels_of(board):
        least = int(panel.get("interval", "1s").removesuffix("s"))
        step = max(least, stretch.step(panel.get("maxDataPoints", DRAWN_POINTS)))
        for target in panel["targets"]:
            yield _request(panel["title"], target["expr"], stretch, step, variables, instant=target["instant"])
    for mark in board["annotations"]["list"]:
        if "expr" in mark:
            yield _request(mark["name"], mark["expr"], stretch, stretch.step(MARK_POINTS), variables, instant=False)


def _request(title: str, expr: str, stretch: Stretch, step: int, variables: Mapping[str, str], *, instant: bool) -> Asked:
    query = substituted(expr, {**VALUES, **variables, **stretch.grafana_values(step)})
    if instant:
        return Asked(title, "query", {"query": query, "time": f"{stretch.end}"})
    return Asked(title, "query_range", {"query": query, "start": f"{stretch.start}", "end": f"{stretch.end}", "step": f"{step}"})


def _prometheus(directory: Path, data: Path) -> tuple[Program, str]:
    (directory / "prometheus.yml").write_text("scrape_configs: []\n")
    url = f"http://127.0.0.1:{free_port()}"
    flags = [
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={data}",
        "--storage.tsdb.retention.time=100y",
        f"--web.listen-address={url.removeprefix('http://')}",
        "--log.level=warn",
        # Blocks have no marks of staleness: a series ends with its last sample.
        "--query.lookback-delta=6s",
    ]
    program = Program("prometheus", [str(programs.require("prometheus")), *flags], directory / "prometheus.log", f"{url}/-/ready")
    return program, url
