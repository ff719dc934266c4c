"""Judges and counts finished requests in a thread of its own, so that no reply waits for that.

Nothing here can fail a request or delay its bytes. The queue is bounded: when it is full, the oldest request is counted without
its reply, as unread with the cause ``queue_full``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from joulebench.clock import Clock
from joulebench.confidence.formats import ARGUMENT_KEYS
from joulebench.confidence.measures import (
    AttemptedCall,
    CallConfidence,
    find_attempted_calls,
    find_unreported_calls,
    tool_call_confidences,
)
from joulebench.llm.decoder import ReplyDecoder
from joulebench.llm.events import parse_object
from joulebench.llm.readers import Api, parse_tool_call
from joulebench.llm.reply import Reply, ToolCall
from joulebench.parsing import Json, as_dict
from joulebench.proxy.metrics import ProxyMetrics, TaskKey
from joulebench.proxy.request import MeteredRequest, RequestTicket
from joulebench.proxy.rewrite import LogprobTrial
from joulebench.proxy.schema_check import UNCHECKED, SchemaChecker
from joulebench.supervise import BackgroundLoop, BoundedQueue

log = logging.getLogger(__name__)

MAX_QUEUED = 2000
IDLE_WAIT = 0.5
"""Seconds that the thread waits for a request at a time."""


@dataclass(frozen=True, slots=True)
class FinishedRequest:
    """A metered request that is over. ``began`` and ``ended`` by the monotonic clock.

    ``result`` is one of ``metrics.PROXY_RESULTS``; ``delivered`` in its place says that the client got the complete reply and
    ``decoder`` knows whether it ended well. ``decoder`` is None where there was no reply to read. ``status``: of the model
    server's answer. ``ticket``: of the request in the journal of its run, None where it is in none.
    """

    key: TaskKey
    request: MeteredRequest
    result: str
    began: float
    ended: float
    decoder: ReplyDecoder | None = None
    status: int | None = None
    ticket: RequestTicket | None = None


class ToolCallOutcome(NamedTuple):
    """``outcome`` is one of ``metrics.TOOL_OUTCOMES`` but tool_error."""

    outcome: str
    confidence: CallConfidence


Record: TypeAlias = Callable[[RequestTicket, FinishedRequest, str, Reply | None, list[ToolCallOutcome]], None]
"""Takes a request with its result, its reply as far as it came and the outcomes of its tool calls."""


class UsageRecorder:
    """Counts what is put in, in order. ``on_model`` gets the model of each reply and whether another host ran it; ``record`` each
    request that has a ticket; ``trial`` the time of each reply."""

    def __init__(
        self,
        metrics: ProxyMetrics,
        clock: Clock,
        on_model: Callable[[str, bool], None] | None = None,
        record: Record | None = None,
        trial: LogprobTrial | None = None,
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._on_model = on_model
        self._record = record
        self._trial = trial
        self._checker = SchemaChecker()
        self.queue: BoundedQueue[FinishedRequest] = BoundedQueue("proxy_usage", MAX_QUEUED, self._count_dropped)
        self._loop = BackgroundLoop("proxy-usage", self._step, at_end=self._checker.close)

    def start(self) -> None:
        self._loop.start()

    def stop(self) -> None:
        """Counts what is in the queue, within a second."""
        end = self._clock.monotonic() + 1.0
        self._loop.stop(timeout=1.0)
        for finished in self.queue.drain():
            if self._clock.monotonic() > end:
                break
            self._count(finished)
        self._checker.close()

    def put(self, finished: FinishedRequest) -> None:
        self.queue.put(finished)

    def _step(self) -> float:
        finished = self.queue.get(IDLE_WAIT)
        if finished is not None:
            self._count(finished)
        return 0.0

    def _count_dropped(self, finished: FinishedRequest) -> None:
        self._metrics.count_unread("queue_full")
        self._end(finished, "ok" if finished.result == "delivered" else finished.result, None, [])

    def _count(self, finished: FinishedRequest) -> None:
        result, reply, outcomes = finished.result, None, list[ToolCallOutcome]()
        try:
            if finished.decoder is not None:
                reply = finished.decoder.finish()
                if result == "delivered":
                    result = "ok" if finished.decoder.ended_well else "broken"
                elif result == "client_gone" and finished.decoder.ended_well and reply.completion_tokens is not None:
                    # Clients hang up at the end mark, such as the openai library at [DONE], before the connection's own end.
                    result = "ok"
                if self._on_model is not None and (reply.remote_host or result == "ok"):
                    self._on_model(finished.request.model, bool(reply.remote_host))
                if result == "ok":
                    outcomes = self._count_reply(finished, reply)
        finally:
            # Whatever is wrong with a reply, its request is over.
            self._end(finished, "broken" if result == "delivered" else result, reply, outcomes)

    def _end(self, finished: FinishedRequest, result: str, reply: Reply | None, outcomes: list[ToolCallOutcome]) -> None:
        since_end = self._clock.monotonic() - finished.ended
        end = self._clock.unix() - max(0.0, since_end)
        self._metrics.end(finished.key, result, end - max(0.0, finished.ended - finished.began), end)
        if self._record is not None and finished.ticket is not None:
            self._record(finished.ticket, finished, result, reply, outcomes)

    def _count_reply(self, finished: FinishedRequest, reply: Reply) -> list[ToolCallOutcome]:
        outcomes = judge_tool_calls(reply, finished.request.tools, self._check_schema)
        self._metrics.count_reply(finished.key, finished.began, finished.ended, reply, outcomes)
        is_embedding = finished.request.api is Api.EMBEDDING
        tokens = reply.prompt_tokens if is_embedding else reply.completion_tokens
        cause = reply.problem or ("no_usage" if tokens is None else None)
        if cause is not None:
            self._metrics.count_unread(cause)
        if self._trial is not None:
            seconds = finished.ended - finished.began
            self._trial.observe(finished.request, seconds, reply.completion_tokens, has_logprobs=reply.rows is not None)
        if reply.remote_host:
            self._metrics.count_remote(finished.key)
        return outcomes

    def _check_schema(self, schema: Json, arguments: object) -> str:
        return self._checker.check(schema, arguments, self._clock.monotonic)


def judge_tool_calls(
    reply: Reply, tools: Mapping[str, Json] | None, check_schema: Callable[[Json, object], str]
) -> list[ToolCallOutcome]:
    """Returns the tool calls of a reply, judged as far as the reply alone can tell, each with its confidence.

    ok: declared, well-formed and valid by the schema of its arguments. A call that the server's parser dropped leaves only its
    tokens or its text behind; it is malformed or undeclared. A bare JSON object in the text that names a declared tool is judged
    like a reported call: clients execute it. ``tools`` is None where they were too many to be read: then calls
    are unchecked.
    """
    calls = reply.tool_calls
    rows = reply.rows or ()
    if tools is None:
        confidences = tool_call_confidences(rows, [call.name for call in calls], ())
        return [ToolCallOutcome(UNCHECKED, confidence) for confidence in confidences]
    if not tools and not calls:
        return []
    declared = list(tools)
    if not calls:
        return [
            ToolCallOutcome(_judge_attempt(attempt, tools, check_schema), attempt.confidence)
            for attempt in find_attempted_calls(rows or reply.text, declared)
        ]
    names = [call.name for call in calls]
    confidences = tool_call_confidences(rows, names, declared)
    outcomes = [
        ToolCallOutcome(_judge(call, tools, check_schema), confidence)
        for call, confidence in zip(calls, confidences, strict=True)
    ]
    unreported = find_unreported_calls(rows, names, declared)
    return outcomes + [ToolCallOutcome(attempt.outcome, attempt.confidence) for _, attempt in unreported]


def _judge_attempt(attempt: AttemptedCall, tools: Mapping[str, Json], check_schema: Callable[[Json, object], str]) -> str:
    if attempt.outcome != "ok" or attempt.name is None:
        return attempt.outcome
    if attempt.tagged:
        # Behind a marker the server's parser takes every call that is in order.
        return "malformed"
    call = parse_object(attempt.text.encode("utf-8", "replace"))
    if call is None:
        return UNCHECKED
    call = as_dict(call.get("function")) or call
    arguments = next((call[key] for key in ARGUMENT_KEYS if key in call), None)
    if isinstance(arguments, str):
        return _judge(parse_tool_call(attempt.name, arguments), tools, check_schema)
    return _judge(ToolCall(attempt.name, attempt.text, arguments), tools, check_schema)


def _judge(call: ToolCall, tools: Mapping[str, Json], check_schema: Callable[[Json, object], str]) -> str:
    if call.name not in tools:
        return "undeclared"
    if call.problem or not isinstance(call.arguments, dict):
        return "malformed"
    return check_schema(tools[call.name], call.arguments)
