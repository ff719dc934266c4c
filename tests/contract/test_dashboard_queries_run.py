"""Every query of every dashboard runs on a real Prometheus with the real rules and scrape jobs, and finds what it asks for.

A wrong label, a join that matches nothing or a division that gives NaN shows here and not as a blank panel. Exact sums are
checked to the joule; a rate depends on when scrapes happened, so its tolerance only tells once from twice.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from joulebench import metrics as m
from joulebench.analysis import cost
from joulebench.clients.prometheus import PrometheusApi, Series
from joulebench.clients.pushgateway import Pushgateway
from joulebench.clock import SystemClock, wait_until
from joulebench.prices import ApiPrice
from joulebench.stack.native import NativeStack, Ports
from joulebench.stack.process import free_port
from joulebench.units import JOULES_PER_KWH
from tests.contract.sources import DASHBOARDS, ROOT, loaded, rules
from tests.dashboard_queries import EMPTY_WHEN_WELL, annotation_queries_of, panels_of, queries_of, variable_queries_of
from tests.fakes.every_metric import JOULES_OF_TASK, PRICES, PROXIED, RUN_ID, WATTS, Exporter, run_families, task_families
from tests.needs import need_program

pytestmark = pytest.mark.e2e

BOARDS = {path.stem: loaded(path) for path in DASHBOARDS}
LIVE = BOARDS["llm-live"]
VLLM = ROOT / "tests/captures/model_servers/vllm__0.26.0.prom"
RUN = {"job": "joulebench", "run_id": RUN_ID, "worker": "host-1"}
DONE, RUNNING = {**RUN, "task_id": "done"}, {**RUN, "task_id": "running"}
PATIENCE = 40.0
LATE_SCRAPES = 10.0

boards = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)


def until(holds: Callable[[], bool], what: str) -> None:
    clock = SystemClock()
    give_up = clock.monotonic() + PATIENCE
    while not holds():
        assert clock.monotonic() < give_up, f"never saw: {what}"
        threading.Event().wait(0.1)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusApi]:
    """A run with one task that passed, whose group is deleted again, and one that goes on."""
    for name in ("prometheus", "pushgateway"):
        need_program(name)
    ports = Ports.free()
    directory, proxy = tmp_path_factory.mktemp("stack"), free_port()
    targets = {"joulebench-proxy": f"127.0.0.1:{proxy}"}
    stack = NativeStack(directory, ports, with_exporter=False, with_alertmanager=False, more_targets=targets)
    # Beside the proxy's own series those of a vLLM: no job of prometheus.yml is a model server's.
    with Exporter(ports.exporter), Exporter(proxy, PROXIED, VLLM.read_text()), stack:
        gateway, api = Pushgateway(stack.gateway_url), PrometheusApi(stack.prometheus_url)
        clock = SystemClock()
        gateway.put(run_families(1), RUN)
        gateway.put(task_families(1, clock.unix(), ended=False), RUNNING)
        gateway.put(task_families(1, clock.unix(), ended=False), DONE)
        until(lambda: bool(api.query('joulebench_task_info{task_id="done"}')), "the task while it runs")
        ended = clock.unix()
        gateway.put(task_families(5, ended, ended=True), DONE)
        until(lambda: bool(api.query('joulebench_task_end_timestamp_seconds{task_id="done"}')), "the end of the task")
        gateway.delete(DONE)
        gateway.put(run_families(4), RUN)
        gateway.put(task_families(3, clock.unix(), ended=False), RUNNING)
        until(lambda: not api.query('joulebench_task_info{task_id="done"}'), "the deleted group to go stale")
        wanted = [f'count({{__name__="{rule}"}})' for rule in recorded_names()]
        until(lambda: all(api.query(expr) for expr in wanted), "all recorded series")
        yield api


def recorded_names() -> list[str]:
    return list(dict.fromkeys(rule["record"] for rule in rules("record")))


def answer(
    api: PrometheusApi, title: str, place: int = 0, board: str = "llm-live", values: Mapping[str, str] | None = None
) -> list[Series]:
    exprs = [expr for panel, expr in queries_of(BOARDS[board], values) if panel == title]
    return api.query(exprs[place])


def place_of(title: str, heading: str, board: str = "llm-live") -> int:
    """Which query of a table stands under ``heading``."""
    (panel,) = [panel for panel in panels_of(BOARDS[board]) if panel["title"] == title]
    shown = next(step["options"]["renameByName"] for step in panel["transformations"] if step["id"] == "organize")
    (field,) = [field for field, name in shown.items() if name == heading]
    return [f"Value #{target['refId']}" for target in panel["targets"]].index(field)


def done(series: list[Series]) -> float:
    (single,) = [one for one in series if one.labels["task_id"] == "done"]
    return single.points[-1][1]


def number(series: list[Series]) -> float:
    (single,) = series
    return single.points[-1][1]


@boards
def test_every_panel_query_finds_numbers(prometheus: PrometheusApi, board: dict[str, Any]) -> None:
    empty, broken, found_series = [], [], 0
    for title, expr in [*queries_of(instant_part(board)), *queries_of(range_part(board), {"task_id": "running"})]:
        found = prometheus.query(expr) if title in EMPTY_WHEN_WELL else answered(prometheus, expr)
        found_series += len(found)
        if not found and title not in EMPTY_WHEN_WELL:
            empty.append(f"{title}: {expr}")
        broken += [f"{title}: {series.labels}" for series in found if not math.isfinite(series.points[-1][1])]
    print(f"{board['uid']}: {len([*panels_of(board)])} panels, {len(queries_of(board))} queries, {found_series} series")  # noqa: T201
    assert not empty, "nothing found by:\n" + "\n".join(empty)
    assert not broken, "NaN or infinite:\n" + "\n".join(broken)


def answered(api: PrometheusApi, expr: str) -> list[Series]:
    """A range of two scrapes is empty for a moment where a busy machine scrapes late."""
    found: list[Series] = []

    def ask() -> bool:
        found[:] = api.query(expr)
        return bool(found)

    wait_until(ask, LATE_SCRAPES)
    return found


def instant_part(board: dict[str, Any]) -> dict[str, Any]:
    return {"panels": [{**panel, "targets": [t for t in panel["targets"] if t["instant"]]} for panel in panels_of(board)]}


def range_part(board: dict[str, Any]) -> dict[str, Any]:
    """What is drawn over time; asked for the present it finds what goes on now."""
    return {"panels": [{**panel, "targets": [t for t in panel["targets"] if t["range"]]} for panel in panels_of(board)]}


def test_at_least_sixty_panels_have_been_asked() -> None:
    panels = sum(len([panel for panel in panels_of(board) if panel["title"] not in EMPTY_WHEN_WELL]) for board in BOARDS.values())
    queries = sum(len(queries_of(board)) for board in BOARDS.values())
    print(f"{len(BOARDS)} boards, {panels} panels with data, {queries} queries")  # noqa: T201
    assert panels >= 60


@boards
def test_variables_and_annotations_find_values(prometheus: PrometheusApi, board: dict[str, Any]) -> None:
    for name, selector, label in variable_queries_of(board):
        values = {series.labels.get(label) for series in prometheus.query(selector)}
        assert values, name
        assert None not in values, name
    marks = dict(annotation_queries_of(board))
    if "Task starts" not in marks:
        return
    (mark,) = prometheus.query(marks["Task starts"])
    assert mark.labels["task_id"] == "running"
    assert mark.labels["model"] == "smol:135m"
    assert mark.points[-1][1] == math.floor(mark.points[-1][1])


def test_the_region_of_a_task_lasts_while_it_runs(prometheus: PrometheusApi) -> None:
    board = BOARDS["llm-task"]
    for task_id, points in (("running", 1), ("done", 0)):
        region = dict(annotation_queries_of(board, {"task_id": task_id}))["The task"]
        assert len(prometheus.query(region)) == points, task_id


def test_a_finished_task_whose_group_is_gone_still_has_its_row(prometheus: PrometheusApi) -> None:
    tasks = {series.labels["task_id"] for series in answer(prometheus, "Tasks by time", 0)}
    status = {series.labels["task_id"]: series.labels["status"] for series in answer(prometheus, "Tasks by time", 1)}
    assert tasks == {"done", "running"}
    assert status == {"done": "success", "running": "running"}


def test_joules_are_counted_once(prometheus: PrometheusApi) -> None:
    assert number(answer(prometheus, "Energy", 1)) == pytest.approx(2 * JOULES_OF_TASK)
    assert number(answer(prometheus, "Joules per success")) == pytest.approx(2 * JOULES_OF_TASK)
    by_model = place_of("Models", "Joules per success", "llm-tasks")
    assert number(answer(prometheus, "Models", by_model, "llm-tasks")) == pytest.approx(2 * JOULES_OF_TASK)
    counter, sensor = (number(answer(prometheus, "Energy counter against power", place, "llm-gpu")) for place in (0, 1))
    assert sensor == WATTS
    # rate() falls short when scrapes come late on a busy machine; a joule counted twice would make it 200 W.
    assert 0 < counter < 1.5 * WATTS


@pytest.mark.parametrize(
    ("board", "title"), [("llm-live", "Tasks by time"), ("llm-tasks", "Tasks by time"), ("llm-task", "Tasks in this time range")]
)
def test_every_table_row_query_joins_on_the_same_labels(prometheus: PrometheusApi, board: str, title: str) -> None:
    """Grafana merges rows on the fields that all queries have; a label too many in one of them splits every row."""
    keys = []
    for place in range(len([1 for found, _ in queries_of(BOARDS[board]) if found == title])):
        found = answer(prometheus, title, place, board)
        keys.append({frozenset(series.labels) for series in found})
    common = {"run_id", "task_id", "worker"}
    assert keys[0] == {frozenset({*common, "task_name", "model", "task_key"})}
    assert keys[1] == {frozenset({*common, "status"})}
    assert all(found == {frozenset(common)} for found in keys[2:])


def test_the_current_phase_and_the_source_are_told(prometheus: PrometheusApi) -> None:
    assert number(answer(prometheus, "Current phase")) == 2, "decode"
    assert number(answer(prometheus, "GPU source")) == 3, "simulated"
    assert number(answer(prometheus, "Unreachable")) == 0


def test_costs_are_joules_and_tokens_times_prices(prometheus: PrometheusApi) -> None:
    """Two tasks of 500 J and a PUE of 1.2; one of 10 s that ended; 5 + 3 tokens of each of three kinds."""
    local, api = (number(answer(prometheus, title)) for title in ("Local cost", "API cost"))
    electricity = 2 * JOULES_OF_TASK * PRICES[m.PRICE_ELECTRICITY] * PRICES[m.PRICE_PUE]
    assert local == pytest.approx(electricity + 10.0 * PRICES[m.PRICE_HARDWARE])
    assert api == pytest.approx((5 + 3) * 3 * PRICES[m.PRICE_API])
    assert number(answer(prometheus, "Local cost", board="llm-cost")) == pytest.approx(local)
    by_model = number(answer(prometheus, "Cost by model", place_of("Cost by model", "Local cost", "llm-cost"), "llm-cost"))
    assert by_model == pytest.approx(local)


def test_local_and_api_costs_are_those_of_the_report(prometheus: PrometheusApi) -> None:
    """PromQL and the report's code are two ways to the same sum, cached prompt tokens included."""
    done = cost.Workload(2, 1, 0, 2 * JOULES_OF_TASK, 10.0, 16, 0.5, "", 8, WATTS, None, None)
    per_kwh = PRICES[m.PRICE_ELECTRICITY] * JOULES_PER_KWH
    at = cost.CostTerms(per_kwh, per_kwh, PRICES[m.PRICE_HARDWARE] * 3600, 1.0, PRICES[m.PRICE_PUE], WATTS)
    assert number(answer(prometheus, "Local cost")) == pytest.approx(cost.local_cost(done, at).total)
    price = ApiPrice("small-api", dict.fromkeys(m.API_TOKENS, PRICES[m.PRICE_API]), 0.0)
    assert number(answer(prometheus, "API cost")) == pytest.approx(cost.api_cost(done, price))


def test_a_range_that_is_one_task_shows_its_end_and_no_other_task(prometheus: PrometheusApi) -> None:
    """The end of a task is pushed after it; a range that stops at the end must know it all the same."""
    begun, ended = (
        done(answer(prometheus, "Tasks by time", place_of("Tasks by time", heading))) for heading in ("From", "Until")
    )
    assert ended - begun == pytest.approx(25_000, abs=1), "the task, and the moments in which its energy is pushed"
    narrow = {"__from": f"{begun:.0f}", "__to": f"{ended:.0f}", "__range": "25s"}
    exprs = [expr for panel, expr in queries_of(LIVE, narrow) if panel == "Tasks by time"]
    found = {series.labels["task_id"]: series.labels["status"] for series in prometheus.query(exprs[1], time=ended / 1000)}
    assert found["done"] == "success"
    early = {**narrow, "__to": f"{begun - 1:.0f}", "__range": "1000s"}
    exprs = [expr for panel, expr in queries_of(LIVE, early) if panel == "Tasks by time"]
    assert prometheus.query(exprs[0], time=(begun - 1000) / 1000) == [], "a task that begins after the range is not in it"
