"""What the terminal shows is what was measured, and nothing is shown for what was not."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from joulebench.bench.agent import Agent, Outcome
from joulebench.bench.display import LiveTable, progress, summary
from joulebench.push.run import Run
from tests.fakes.model_server import ModelServer
from tests.fakes.model_turns import call
from tests.unit.bench.conftest import CLOCK, NOWHERE, openai, write_hello
from tests.unit.push.conftest import FakeExporter, serving

PASSED = Outcome(
    "one", "success", turns=2, tool_calls=2, completion_tokens=60, decode_tokens=50, decode_seconds=2.0, confidences=[0.5, 0.75]
)
BARE = Outcome("two", "error", "the reply broke off", turns=1)


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), width=110, force_terminal=terminal, color_system=None)


def shown(on: Console) -> str:
    assert isinstance(on.file, io.StringIO)
    return on.file.getvalue()


def test_a_line_for_each_task_without_a_terminal() -> None:
    out = console(terminal=False)
    with progress(out, 2, live=True) as listener:
        for outcome in (PASSED, BARE):
            listener.started(outcome)
            listener.ended(outcome)
    first, second = shown(out).splitlines()
    assert first.split()[:4] == ["[1/2]", "one", "success", "2"]
    assert "25.0 tok/s" in first
    assert "confidence 0.500" in first
    assert "tok/s" not in second
    assert second.endswith("the reply broke off")


def test_a_table_on_a_terminal_unless_it_is_not_wanted() -> None:
    live, plain = console(terminal=True), console(terminal=True)
    for out in (live, plain):
        with progress(out, 1, live=out is live) as listener:
            assert isinstance(listener, LiveTable) == (out is live)
            listener.started(PASSED)
            listener.ended(PASSED)
    assert "1 of 1 tasks begun, 1 passed" in shown(live)
    assert shown(plain).startswith("  [1/1] one")


def test_a_running_task_has_no_time_yet() -> None:
    out = console(terminal=False)
    table = LiveTable(1)
    table.started(Outcome("three", turns=1))
    out.print(table)
    assert "running" in shown(out)
    assert "0.0 s" not in shown(out)


def test_the_summary_leaves_out_what_is_not_known() -> None:
    assert summary([PASSED, BARE]) == (
        "1 of 2 tasks passed, 2 tool calls, 60 completion tokens, 25.0 tokens/s,"
        " tool confidence 0.500 to 0.750, mean 0.625 (2 calls)"
    )
    assert summary([BARE]) == "0 of 1 tasks passed, 0 tool calls, 0 completion tokens"


class OneGpu(FakeExporter):
    def answer(self, path: str) -> tuple[int, str]:
        status, body = super().answer(path)
        told = json.loads(body)
        return status, json.dumps({**told, "gpus": [{**told["gpus"][0], "joules": 123.4}]})


def test_joules_are_shown_once_the_exporter_has_answered(tmp_path: Path) -> None:
    exporter = OneGpu()
    outcome = Outcome("write-hello")
    with serving(exporter), ModelServer([call("finish", answer="done")]) as server:
        model = openai(server)
        with Run(model.name, gateway_url=NOWHERE, exporter_url=exporter.url, runs_dir=tmp_path, drain_seconds=5.0) as run:
            Agent(run, model, CLOCK).work(write_hello(), outcome)
    assert outcome.joules == pytest.approx(123.4)
    assert summary([outcome]).endswith("123 J over the 1 tasks whose energy is known")
