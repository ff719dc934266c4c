"""The journal: one flat JSON object a line, with the event's name, its time and the fields that are declared here.

Readers ignore fields they do not know, and take an absent field as unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

RUN_START = "RUN_START"
RUN_END = "RUN_END"
TASK_START = "TASK_START"
TASK_END = "TASK_END"
LLM_QUERY_START = "LLM_QUERY_START"
LLM_FIRST_TOKEN_RECEIVED = "LLM_FIRST_TOKEN_RECEIVED"
LLM_QUERY_END = "LLM_QUERY_END"
TOOL_CALL_START = "TOOL_CALL_START"
TOOL_CALL_END = "TOOL_CALL_END"
KEY_STEP_COMPLETED = "KEY_STEP_COMPLETED"
AGENT_ERROR_OCCURRED = "AGENT_ERROR_OCCURRED"
TASK_ENERGY = "TASK_ENERGY"
CALL_ENERGY = "CALL_ENERGY"
IDLE_POWER = "IDLE_POWER"
WARM_UP = "WARM_UP"
ENERGY_UNAVAILABLE = "ENERGY_UNAVAILABLE"
PUSH_STATE = "PUSH_STATE"

PROXY = "proxy"
"""``recorded_by`` of a RUN_START, and the worker of tasks that only the metering proxy knows."""
UNNAMED_TASK = "requests"
"""Task of proxied requests that name a run and no task."""

JOURNAL_PATTERN = "journal-*.jsonl"
"""Names of the journals in the directory of a run, one for each worker."""
REPORTED = "reported"
"""Span status of a confidence that the benchmark worked out itself, from whichever tokens it took."""


def is_event(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether a decoded object has the name of an event, and numbers of calls by which events can be joined."""
    if not isinstance(value, dict) or not isinstance(value.get("event_type"), str):
        return False
    return not any(isinstance(value.get(name), dict | list) for name in ("call", "tool_call"))


@dataclass(frozen=True, slots=True)
class EventField:
    """``unit``: ``s``, ``unix s``, ``tokens``, ``J``, ``W``, or empty for text and objects."""

    unit: str
    meaning: str


@dataclass(frozen=True, slots=True)
class EventType:
    meaning: str
    fields: Mapping[str, EventField]


COMMON: Mapping[str, EventField] = {
    "event_type": EventField("", "The name of the event."),
    "timestamp": EventField("unix s", "When it happened, by the benchmark's wall clock."),
    "run_id": EventField("", "The run."),
    "task_id": EventField("", "The task; absent in events of the run."),
    "worker": EventField("", "The worker, unique in the run."),
}
"""In every event."""

_CUTS = EventField(
    "s", "Rising times after the start at which the phase changed; the `parts` of each GPU are joules and bounds between them."
)
_ENERGY = {
    "start": EventField("unix s", "Start of the window."),
    "end": EventField("unix s", "End of the window."),
    "source": EventField("", "`nvml`, `amd`, `simulated`, `mixed`, or `none` for an exporter without a GPU."),
    "basis": EventField("", "How the devices are known: `declared`, `observed` or `assumed`."),
    "missing_hosts": EventField("", "Exporters that should be part of the total and did not answer."),
    "gpus": EventField(
        "",
        "One object a GPU: `host`, `gpu`, `uuid`, `method`, `samples`, `joules`, `low`, `high`, `quality`, `reasons`, `share`, `parent`,"
        " `longest_gap_seconds`, `throttled_seconds`, `parts`, and `end_joules`, the cumulative energy at the end of the window.",
    ),
    "total": EventField("", "All GPUs: `joules`, `low`, `high`, `quality`, `reasons`."),
}

EVENTS: Mapping[str, EventType] = {
    RUN_START: EventType(
        "A worker opened the run.",
        {
            "devices": EventField("", "What the run says of its devices: `gpus`, `server`, `job`; absent where it says nothing."),
            "model_name": EventField("", "The model of tasks that name none."),
            "suite": EventField("", "The suite of the tasks."),
            "version": EventField("", "Version of Joulebench that the benchmark used."),
            "planned_tasks": EventField("tasks", "Tasks that this worker means to run."),
            "forked_from": EventField("", "The worker that this process was forked from; its plan is that worker's."),
            "configuration": EventField("", "Settings of the benchmark, as it gave them."),
            "recorded_by": EventField(
                "", "`proxy`: the metering proxy recorded requests that named this run; absent for a benchmark."
            ),
        },
    ),
    RUN_END: EventType("The worker closed the run.", {}),
    TASK_START: EventType(
        "A task began.",
        {
            "task_name": EventField("", "Name of the task, equal over repetitions."),
            "model_name": EventField("", "The model."),
            "suite": EventField("", "The suite."),
            "task_metadata": EventField(
                "",
                "What the benchmark knows of the task beside: `infrastructure_tag`, `temperature`, `application`, its configuration.",
            ),
        },
    ),
    TASK_END: EventType(
        "A task ended; of several the last counts.",
        {
            "status": EventField("", "`success`, `failure`, `timeout`, `error` or `unknown`."),
            "success": EventField("", "Whether the task was solved; null where that was not judged."),
            "reason": EventField("", "Why, in words."),
            "duration_seconds": EventField("s", "By the monotonic clock."),
        },
    ),
    LLM_QUERY_START: EventType(
        "A request to the model began.",
        {"call": EventField("", "Number of the call in its task, from 1."), "model_name": EventField("", "The model.")},
    ),
    LLM_FIRST_TOKEN_RECEIVED: EventType("The first streamed token came.", {"call": EventField("", "Number of the call.")}),
    LLM_QUERY_END: EventType(
        "The request ended.",
        {
            "call": EventField("", "Number of the call."),
            "status": EventField("", "`success`, `error`, or `cancelled` where the client closed the connection first."),
            "error": EventField("", "What failed, in words."),
            "prompt_tokens": EventField("tokens", "Tokens of the prompt, as the server counted them."),
            "cached_tokens": EventField("tokens", "Those of the prompt that came from the prefix cache."),
            "completion_tokens": EventField("tokens", "Tokens of the reply, as the server counted them."),
            "duration_seconds": EventField("s", "From the request to the end of the reply, by the client's monotonic clock."),
            "ttft_seconds": EventField("s", "From the request to the first streamed token; null where nothing was streamed."),
            "prefill_seconds": EventField("s", "Prompt evaluation, as the server timed it."),
            "decode_seconds": EventField("s", "Generation: the server's own time, else from the first token to the end."),
            "decode_tokens": EventField("tokens", "Tokens that `decode_seconds` is the time of."),
            "load_seconds": EventField("s", "Loading the model, as the server timed it."),
            "remote_host": EventField("", "Host that ran the model where it is another one (Ollama cloud), else null."),
            "response_id": EventField("", "The server's own id of the reply; null where its API has none."),
            "choices": EventField("", "Choices of the reply, where there are several (`n`, or a list of prompts); else null."),
            "usage_problem": EventField(
                "", "Why the counts are not to be believed: `one_choice` where they are of one of several choices; else null."
            ),
            "streamed_tokens": EventField(
                "tokens",
                "Events with output that had arrived in the stream, mostly one a token: what is known of a reply cut off.",
            ),
        },
    ),
    TOOL_CALL_START: EventType(
        "The model called a tool.",
        {
            "tool_call": EventField("", "Number of the tool call in its task, from 1."),
            "call": EventField("", "Number of the LLM call that made it."),
            "tool_name": EventField("", "The tool, as the model named it."),
            "args": EventField("", "Its arguments."),
            "confidence": EventField("ratio", "The single confidence of the call; see `confidence_measures`."),
            "confidence_measures": EventField("ratio", "Every measure of confidence by name."),
            "span_status": EventField("", "How the tokens of the call were found among the logprobs."),
        },
    ),
    TOOL_CALL_END: EventType(
        "The tool call ended.",
        {
            "tool_call": EventField("", "Number of the tool call."),
            "tool_name": EventField("", "The tool."),
            "outcome": EventField("", "`ok`, `malformed`, `undeclared`, `schema_invalid`, `tool_error` or `unchecked`."),
            "success": EventField("", "Whether the outcome is `ok`."),
            "error": EventField("", "What failed, in words."),
            "result": EventField("", "What the tool answered, cut at 65,536 characters."),
            "result_characters": EventField("characters", "Length of a result that was cut."),
            "duration_seconds": EventField("s", "By the monotonic clock."),
        },
    ),
    KEY_STEP_COMPLETED: EventType(
        "A step towards the goal of the task was reached.",
        {"step_index": EventField("", "Number of the step."), "step_name": EventField("", "Its name.")},
    ),
    AGENT_ERROR_OCCURRED: EventType(
        "Something went wrong in the benchmark itself, outside of its calls.",
        {
            "error": EventField("", "Kind of the error; `loop_detection` where the agent repeated its tool calls."),
            "message": EventField("", "What happened, in words."),
            "tool_name": EventField("", "The tool that it concerns."),
        },
    ),
    TASK_ENERGY: EventType("The exporter's energy of the task's window; of several the last counts.", {**_ENERGY, "cuts": _CUTS}),
    CALL_ENERGY: EventType(
        "The exporter's energy of a call's window.",
        {
            "call": EventField("", "Number of the call."),
            **_ENERGY,
            "cuts": _CUTS,
            "share": EventField(
                "J",
                "Share of the call, where other calls were looked at, too: `joules`, in which each moment is divided evenly among all"
                " that ran, `low`, `high`; `exclusive`, by the proxy alone: that none ran beside it. Null in a field that is not known.",
            ),
        },
    ),
    IDLE_POWER: EventType(
        "Idle power was measured while no task of this worker ran.",
        {
            "label": EventField("", "When in the run, such as `before` or `after`."),
            "start": EventField("unix s", "Start of the measurement."),
            "end": EventField("unix s", "End of the measurement."),
            "source": EventField("", "`nvml`, `amd` or `simulated`."),
            "gpus": EventField("W", "One object a GPU: `gpu`, `uuid`, `watts`, `low`, `high`, `quality`."),
        },
    ),
    WARM_UP: EventType(
        "A warm-up that is no task.",
        {
            "model_name": EventField("", "The model."),
            "start": EventField("unix s", "When it began."),
            "duration_seconds": EventField("s", "By the monotonic clock."),
            "error": EventField("", "What failed, in words."),
        },
    ),
    ENERGY_UNAVAILABLE: EventType("The exporter could not be asked.", {"reason": EventField("", "Why, in words.")}),
    PUSH_STATE: EventType(
        "What became of the pushes, at the end of a run.",
        {
            "pushes": EventField("pushes", "Pushes that the Pushgateway took."),
            "failures": EventField("pushes", "Pushes that failed."),
            "groups_acknowledged": EventField("groups", "Groups whose end Prometheus has shown."),
            "groups_left": EventField("groups", "This worker's groups on the Pushgateway; null where it does not answer."),
            "groups_unpushed": EventField("groups", "Groups whose last state never reached the Pushgateway."),
            "groups_dropped": EventField(
                "groups", "Those of them that were given up because too many waited for the Pushgateway."
            ),
            "windows_dropped": EventField("windows", "Windows of calls that were not asked for because too many waited."),
            "loop_errors": EventField("errors", "Unforeseen errors in the library's own threads."),
            "windows_without_energy": EventField("windows", "Questions for energy that no exporter answered."),
            "events_lost": EventField("events", "Events that could not be written to the journal."),
            "reasons": EventField("", "Why a push or an energy is not as it should be, in words."),
        },
    ),
}
