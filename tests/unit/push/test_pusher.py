"""Whatever happens to the Pushgateway or to Prometheus, the last state arrives, or the report says that it did not.

Real Pushgateway; Prometheus is a local server that scrapes it when asked, so that each acknowledgement can be held back.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from joulebench import Run, metrics
from joulebench.clients.pushgateway import Pushgateway
from joulebench.clock import SystemClock
from joulebench.errors import GatewayError
from joulebench.metrics.families import Family, Sheet
from joulebench.push.groups import REFRESH_PERIOD, Group, Groups
from joulebench.push.pusher import Acknowledgements, Pusher
from joulebench.units import Seconds
from tests.unit.push.conftest import FakePrometheus, LocalServer, RealGateway, events, eventually, scrape, sent_times, serving

IDENTITY = {"job": "joulebench", "run_id": "r", "worker": "w"}


@pytest.fixture
def prometheus(gateway: RealGateway) -> Iterator[FakePrometheus]:
    fake = FakePrometheus(gateway_url=gateway.url)
    with serving(fake):
        yield fake


def run_with(tmp_path: Path, gateway: str, prometheus: str | None = None, drain: float = 8.0) -> Run:
    return Run(
        model="m",
        run_id="r",
        worker="w",
        runs_dir=tmp_path,
        gateway_url=gateway,
        prometheus_url=prometheus,
        drain_seconds=drain,
    )


def one_call(run: Run, name: str, tokens: int) -> None:
    with run.task(name) as task, task.call() as call:
        call.finish(prompt_tokens=tokens, completion_tokens=tokens)


def tokens_of(gateway: RealGateway, task_id: str) -> float | None:
    return next(
        (
            value
            for name, labels, value in scrape(gateway.url)
            if name == metrics.TASK_TOKENS.name and labels.get("task_id") == task_id and labels["token"] == "prompt"
        ),
        None,
    )


def test_a_gateway_that_comes_up_late_gets_everything(tmp_path: Path, gateway: RealGateway) -> None:
    gateway.program.stop()
    with run_with(tmp_path, gateway.url) as run:
        for number in range(20):
            one_call(run, f"t{number}", number)
        gateway.program.start()
        one_call(run, "last", 99)
        eventually(lambda: tokens_of(gateway, "last") == 99)
    assert [tokens_of(gateway, f"t{number}") for number in range(20)] == list(range(20))
    (state,) = events(run.directory, "PUSH_STATE")
    assert (state["groups_unpushed"], state["groups_left"]) == (0, 22)
    assert gateway.samples()[metrics.PUSH_FAILURES.name, ""] == state["failures"] >= 1


def test_a_gateway_killed_and_emptied_in_mid_run_is_filled_again(
    tmp_path: Path, gateway: RealGateway, prometheus: FakePrometheus
) -> None:
    prometheus.scrapes = False
    with run_with(tmp_path, gateway.url, prometheus.url) as run:
        one_call(run, "before", 1)
        with run.task("during") as task:
            with task.call() as call:
                call.finish(prompt_tokens=2)
            eventually(lambda: tokens_of(gateway, "before") == 1 and tokens_of(gateway, "during") == 2)
            gateway.program.kill()
            (tmp_path / "pushgateway.data").unlink(missing_ok=True)
            with task.call() as call:
                call.finish(prompt_tokens=3)
            gateway.program.start()
            eventually(lambda: tokens_of(gateway, "before") == 1 and tokens_of(gateway, "during") == 5)
        prometheus.scrapes = True
    (state,) = events(run.directory, "PUSH_STATE")
    assert (state["groups_acknowledged"], state["groups_left"], state["groups_unpushed"]) == (3, 0, 0)


def test_no_group_is_deleted_before_prometheus_has_its_end(
    tmp_path: Path, gateway: RealGateway, prometheus: FakePrometheus
) -> None:
    prometheus.scrapes = False
    with run_with(tmp_path, gateway.url, prometheus.url) as run:
        one_call(run, "t/1", 7)
        eventually(lambda: len([r for r in prometheus.requests if r[0] == "GET"]) >= 2)
        assert tokens_of(gateway, "t/1") == 7
        prometheus.scrapes = True
        eventually(lambda: tokens_of(gateway, "t/1") is None)
    assert gateway.samples() == {}
    assert Pushgateway(gateway.url).groups() == []
    query = prometheus.requests[0][1]
    assert "joulebench_task_sent_timestamp_seconds" in query
    assert "run_id" in query


def test_a_prometheus_that_never_scrapes_leaves_the_groups_and_says_so(
    tmp_path: Path, gateway: RealGateway, prometheus: FakePrometheus
) -> None:
    prometheus.scrapes = False
    with run_with(tmp_path, gateway.url, prometheus.url, drain=1.5) as run:
        one_call(run, "t", 7)
    (state,) = events(run.directory, "PUSH_STATE")
    assert (state["groups_acknowledged"], state["groups_left"], state["groups_unpushed"]) == (0, 2, 0)
    assert "does it scrape this Pushgateway?" in state["reasons"][0]
    assert tokens_of(gateway, "t") == 7


def test_a_prometheus_that_never_answers_is_not_waited_for(tmp_path: Path, gateway: RealGateway) -> None:
    clock = SystemClock()
    start = clock.monotonic()
    with run_with(tmp_path, gateway.url, "http://127.0.0.1:9", drain=60.0) as run:
        one_call(run, "t", 7)
    assert clock.monotonic() - start < 10
    (state,) = events(run.directory, "PUSH_STATE")
    assert state["groups_left"] == 2
    assert "Connection refused" in state["reasons"][0]


def test_pushes_are_coalesced_and_nothing_is_lost(tmp_path: Path, gateway: RealGateway) -> None:
    pause = threading.Event()
    with run_with(tmp_path, gateway.url) as run, run.task("t") as task:
        for _ in range(400):
            with task.call() as call:
                call.finish(prompt_tokens=1)
            pause.wait(0.002)
    (state,) = events(run.directory, "PUSH_STATE")
    assert tokens_of(gateway, "t") == 400
    assert state["pushes"] < 60, "2 groups, 4 pushes a second each, in about a second"


def test_unknown_values_are_absent_from_the_gateway(tmp_path: Path, gateway: RealGateway) -> None:
    with run_with(tmp_path, gateway.url) as run, run.task("t") as task:
        eventually(lambda: (metrics.TASK_START.name, "t") in gateway.samples())
        names = {name for name, task_id in gateway.samples() if task_id == "t"}
        absent_before_the_end = (
            *(metrics.TASK_END, metrics.TASK_END_OFFSET, metrics.TASK_DURATION, metrics.TASK_SUCCESS),
            *(metrics.TASK_STATUS, metrics.TASK_TOKENS, metrics.TASK_TTFT, metrics.TASK_CHARGED_SECONDS),
            *(metrics.TASK_CONFIDENCE, metrics.TASK_CONFIDENCE_MIN, metrics.TASK_DECODE_TOKENS, metrics.TASK_ENERGY),
            metrics.TASK_CHARGED_ENERGY,
        )
        assert not names & {series for metric in absent_before_the_end for series in metric.series_names}
        assert gateway.samples()[metrics.TASK_LLM_CALLS.name, "t"] == 0
        with task.call() as call:
            call.finish()
    names = {name for name, task_id in gateway.samples() if task_id == "t"}
    assert metrics.TASK_END.name in names
    assert f"{metrics.TASK_LLM_DURATION.name}_count" in names
    unknown = (
        metrics.TASK_SUCCESS,
        metrics.TASK_TOKENS,
        metrics.TASK_DECODE,
        metrics.TASK_LOAD,
        metrics.TASK_ENERGY,
    )
    assert not names & {series for metric in unknown for series in metric.series_names}


def test_a_late_event_of_a_finished_task_is_pushed_again(
    tmp_path: Path, gateway: RealGateway, prometheus: FakePrometheus
) -> None:
    with run_with(tmp_path, gateway.url, prometheus.url) as run:
        with run.task("t") as task:
            late = task.call()
        eventually(lambda: (metrics.TASK_END.name, "t") in gateway.samples())
        eventually(lambda: (metrics.TASK_END.name, "t") not in gateway.samples())
        prometheus.scrapes = False
        with late as call:
            call.finish(prompt_tokens=5)
        eventually(lambda: tokens_of(gateway, "t") == 5)
        prometheus.scrapes = True
    assert gateway.samples() == {}


def group(task_id: str, value: float = 1.0) -> Group:
    def families(sent: Seconds) -> list[Family]:
        sheet = Sheet()
        sheet.value(metrics.TASK_START, value, ("m", "s"))
        sheet.value(metrics.TASK_SENT, sent)
        return sheet.families()

    return Group({**IDENTITY, "task_id": task_id}, families)


def test_live_groups_stay_under_the_limit_until_there_is_room(gateway: RealGateway) -> None:
    scrapes = threading.Event()
    acks = Acknowledgements(lambda _: sent_times(gateway.url) if scrapes.is_set() else [], IDENTITY)
    pusher = Pusher(
        Pushgateway(gateway.url),
        SystemClock(),
        IDENTITY,
        acknowledgements=acks,
        on_failure=lambda: None,
        sync=lambda: None,
        max_live_groups=5,
    )
    pusher.start()
    for number in range(20):
        pusher.finished(group(f"t{number:02d}"))
    eventually(lambda: len(gateway.samples()) == 10)
    scrapes.set()
    report = pusher.close(15.0)
    assert (report.acknowledged, report.groups_left, report.unpushed) == (20, 0, 0)
    assert "5 groups or more" in report.reasons[-1]


def test_room_is_not_waited_for_where_nothing_makes_any() -> None:
    groups = Groups(wait_for_acknowledgement=False, limit=1)
    for number in range(3):
        groups.add(group(f"t{number}"))
    assert len(groups.due(0.0, over_limit=False)) == 3
    limited = Groups(wait_for_acknowledgement=True, limit=1)
    for number in range(3):
        limited.add(group(f"t{number}"))
    assert len(limited.due(0.0, over_limit=False)) == 1
    assert len(limited.due(0.0, over_limit=True)) == 3


def test_only_the_final_state_is_acknowledged() -> None:
    groups = Groups(wait_for_acknowledgement=True, limit=10)
    one = group("t")
    groups.add(one)
    one.dirty = False
    one.mark_pushed(Seconds(100.0), changed=True, final=False)
    assert groups.acknowledged({"t": Seconds(100.0)}) == []
    one.mark_pushed(Seconds(101.0), changed=True, final=True)
    assert groups.acknowledged({"t": Seconds(100.0)}) == []
    assert groups.acknowledged({"other": Seconds(101.0)}) == []
    assert groups.acknowledged({"t": Seconds(101.0)}) == [one]
    assert groups.acknowledged({"t": Seconds(101.004)}) == [one], "a store of 12 digits keeps hundredths"
    one.mark_pushed(Seconds(107.0), changed=False, final=True)
    assert groups.acknowledged({"t": Seconds(101.0)}) == [one], "the same state, pushed again"
    one.mark_pushed(Seconds(108.0), changed=True, final=True)
    assert groups.acknowledged({"t": Seconds(107.0)}) == [], "something came after it"
    one.dirty = True
    assert groups.acknowledged({"t": Seconds(108.0)}) == []


def test_an_unacknowledged_group_is_pushed_again_after_a_while() -> None:
    groups = Groups(wait_for_acknowledgement=True, limit=10)
    one = group("t")
    groups.add(one)
    one.dirty = False
    one.tried_at = 100.0
    one.mark_pushed(Seconds(1.0), changed=True, final=True)
    groups.mark_stale(100.0 + REFRESH_PERIOD)
    assert groups.next_due(over_limit=False) is None
    groups.mark_stale(100.1 + REFRESH_PERIOD)
    assert groups.due(200.0, over_limit=False) == [one]


def test_one_refused_group_does_not_hold_up_the_others(gateway: RealGateway) -> None:
    pusher = Pusher(
        Pushgateway(gateway.url), SystemClock(), IDENTITY, acknowledgements=None, on_failure=lambda: None, sync=lambda: None
    )
    pusher.start()
    bad = Group({**IDENTITY, "task_id": "bad"}, _the_same_twice)
    pusher.finished(bad)
    pusher.finished(group("good", 5.0))
    eventually(lambda: gateway.samples().get((metrics.TASK_START.name, "good")) == 5.0)
    report = pusher.close(0.5)
    assert (report.pushes, report.unpushed) == (1, 1)
    assert report.failures >= 1
    assert "400" in report.reasons[0]


def _the_same_twice(sent: Seconds) -> list[Family]:
    """The same sample twice: the gateway refuses it."""
    sheet = Sheet()
    sheet.value(metrics.TASK_START, 1.0, ("m", "s"))
    sheet.value(metrics.TASK_START, float(sent), ("m", "s"))
    return sheet.families()


def test_the_key_of_any_task_id_comes_back_as_it_was(gateway: RealGateway) -> None:
    client = Pushgateway(gateway.url)
    ids = ["plain", "a/b", "..", ".", "", "sp ace", "üñ", "a+b%20c", "x@base64", "=1", "?q#f", "\\", "hf.co/org/llama 3.1:8b"]
    for task_id in ids:
        client.put(group(task_id).render(Seconds(1.0)), {**IDENTITY, "task_id": task_id})
    assert sorted(key.get("task_id", "") for key in client.groups()) == sorted(ids)
    for task_id in ids:
        client.delete({**IDENTITY, "task_id": task_id})
    assert client.groups() == []


def test_a_server_that_is_no_gateway_is_told(server: LocalServer) -> None:
    server.body = "<html>"
    with pytest.raises(GatewayError, match="not the answer of a Pushgateway"):
        Pushgateway(server.url).groups()
    server.status, server.body = 503, "down for repairs"
    with pytest.raises(GatewayError, match="503 down for repairs"):
        Pushgateway(server.url).delete(IDENTITY)
