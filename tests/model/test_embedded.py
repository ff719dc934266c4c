"""The agent on a real small model: what a script cannot show, such as whether a real tokenizer's rows cover a real tool call.

Nothing here depends on how clever the model is, except that it calls a tool at all when shown how. Times are only ordered.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from joulebench.bench import tools
from joulebench.bench.agent import Agent, Outcome
from joulebench.bench.embedded import MODEL_NAME, REQUEST_SETTINGS, EmbeddedModel, model_file
from joulebench.bench.prompts import opening
from joulebench.bench.suites import load
from joulebench.clock import SystemClock, wait_until
from joulebench.confidence.measures import tool_call_confidences
from joulebench.llm.chat import ContextFull, Message, Reply, ToolMode
from joulebench.llm.client import OpenAIChat
from joulebench.llm.http import ModelServerHttp
from joulebench.push.run import Run
from joulebench.units import Seconds
from tests.needs import need_model
from tests.unit.bench.conftest import NOWHERE, journal, of_type

CLOCK = SystemClock()

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedModel]:
    need_model()
    with EmbeddedModel() as running:
        yield running


def client(server: EmbeddedModel, mode: ToolMode) -> OpenAIChat:
    wire = ModelServerHttp(server.base_url, CLOCK)
    return OpenAIChat(wire, MODEL_NAME, CLOCK, tool_mode=mode, max_tokens=80, extra=REQUEST_SETTINGS)


def ask(server: EmbeddedModel, mode: ToolMode) -> Reply:
    model = client(server, mode)
    return model.reply(
        opening("Write 'hello' to the file out.txt."), tools.SPECS, lambda: None, Seconds(CLOCK.monotonic() + 120.0)
    )


def test_a_model_file_is_served_under_its_own_name_with_its_own_template(server: EmbeddedModel, tmp_path: Path) -> None:
    file = tmp_path / "other.gguf"
    file.symlink_to(model_file())
    with EmbeddedModel(file=file) as other:
        assert requests.get(f"{other.base_url}/models", timeout=30).json()["data"][0]["id"] == "other"
        wire = ModelServerHttp(other.base_url, CLOCK)
        model = OpenAIChat(wire, other.name, CLOCK, tool_mode="prompt", max_tokens=8, extra=REQUEST_SETTINGS)
        reply = model.reply(opening("Say hello."), tools.SPECS, lambda: None, Seconds(CLOCK.monotonic() + 120.0))
    assert reply.completion_tokens


def test_prompt_mode_gives_first_token_and_a_covered_call(server: EmbeddedModel) -> None:
    begin = CLOCK.monotonic()
    reply = ask(server, "prompt")
    duration = CLOCK.monotonic() - begin
    assert [call.name for call in reply.tool_calls] == ["write_file"]
    assert reply.rows is not None
    assert "".join(row.token for row in reply.rows).strip() == reply.text.strip()
    (confidence,) = tool_call_confidences(reply.rows, ["write_file"], tools.NAMES)
    assert confidence.span_status == "ok"
    assert confidence.score is not None
    assert 0.0 < confidence.score <= 1.0
    assert reply.completion_tokens is not None
    assert len(reply.rows) in (reply.completion_tokens, reply.completion_tokens - 1)
    assert reply.prompt_tokens is not None
    assert reply.prompt_tokens > 500
    assert reply.first_token_seconds is not None
    assert 0.0 < reply.first_token_seconds < duration
    timings = reply
    assert timings.decode_seconds is not None
    assert timings.prefill_seconds is not None
    assert timings.prefill_seconds <= reply.first_token_seconds
    assert timings.prefill_seconds + timings.decode_seconds < duration


def test_native_mode_gives_a_covered_call_but_no_first_token(server: EmbeddedModel) -> None:
    reply = ask(server, "native")
    assert [call.name for call in reply.tool_calls] == ["write_file"]
    assert isinstance(reply.tool_calls[0].arguments, dict)
    assert reply.first_token_seconds is None
    assert reply.rows is not None
    (confidence,) = tool_call_confidences(reply.rows, ["write_file"], tools.NAMES)
    assert (confidence.span_status, confidence.score is not None) == ("ok", True)


def test_a_task_is_measured_from_end_to_end(server: EmbeddedModel, tmp_path: Path) -> None:
    (spec,) = load("files").only("write-hello").tasks
    outcome = Outcome(spec.id)
    with Run(MODEL_NAME, "files", gateway_url=NOWHERE, runs_dir=tmp_path, drain_seconds=0.0) as run:
        Agent(run, client(server, "prompt"), CLOCK).work(spec, outcome)
    events = journal(run.directory)
    ends = of_type(events, "LLM_QUERY_END")
    assert len(ends) == outcome.turns >= 1
    assert sum(end["completion_tokens"] for end in ends) == outcome.completion_tokens > 0
    assert all(0.0 < end["ttft_seconds"] < end["duration_seconds"] for end in ends)
    starts = of_type(events, "TOOL_CALL_START")
    assert any(start["span_status"] == "ok" and 0.0 < start["confidence"] <= 1.0 for start in starts)
    assert of_type(events, "TASK_END")[0]["status"] == outcome.status in ("success", "failure")


def test_a_full_context_is_told_from_a_reply_that_ended() -> None:
    """Of the server itself: a prompt that does not fit is refused, and a reply that fills the context ends early."""
    with EmbeddedModel(context_tokens=256) as small:
        model = OpenAIChat(
            ModelServerHttp(small.base_url, CLOCK), MODEL_NAME, CLOCK, max_tokens=400, extra={**REQUEST_SETTINGS, "min_p": 0.0}
        )
        deadline = Seconds(CLOCK.monotonic() + 120.0)
        with pytest.raises(ContextFull, match="context size"):
            model.reply([Message("user", "word " * 400)], (), lambda: None, deadline)
        reply = model.reply([Message("user", "Tell me a very long story.")], (), lambda: None, deadline)
    assert reply.context_full
    assert reply.completion_tokens is not None
    assert 0 < reply.completion_tokens < 256


PARENT = """
import sys
from joulebench.bench.embedded import EmbeddedModel
with EmbeddedModel() as model:
    print(model.pid, flush=True)
    sys.stdin.read()
"""


def test_the_child_ends_even_when_its_parent_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = Path(f"/proc/{int(parent.stdout.readline())}")
        assert child.exists()
        parent.kill()
    assert wait_until(lambda: not child.exists(), 10.0)


def test_the_server_has_its_metrics(server: EmbeddedModel) -> None:
    answer = requests.get(server.base_url.removesuffix("/v1") + "/metrics", timeout=10.0)
    assert answer.status_code == 200
    assert "llamacpp:tokens_predicted_total" in answer.text
