"""Pushed by a benchmark in the group ``{job, run_id, worker}``: the state of one worker of a run."""

from __future__ import annotations

from joulebench.metrics.label_sets import CONFIDENCE_BUCKETS, SECONDS_BUCKETS
from joulebench.metrics.metric import counter, gauge, histogram

RUN_INFO = gauge("run_info", "1 while the run is live, with its suite and the library's version.", ("suite", "version"))
RUN_TASKS = counter("run_tasks_total", "Finished tasks of this worker, by status.", ("status",))
RUN_TASKS_PLANNED = gauge("run_tasks_planned", "Tasks this worker means to run, where it knows.")
RUN_PHASE = gauge("run_phase", "1 for the phase this worker is in and 0 for the others.", ("phase",))
CALL_TTFT = histogram(
    "call_time_to_first_token_seconds", "Time to first token of streamed LLM calls.", ("model",), SECONDS_BUCKETS
)
CALL_DURATION = histogram("call_duration_seconds", "Duration of LLM calls.", ("model",), SECONDS_BUCKETS)
TOOL_CONFIDENCE = histogram(
    "tool_call_confidence_ratio",
    "Confidence of tool calls whose tokens were found: min(name_branch, args_min). tool: one of the tools that the benchmark"
    " declared, the first 24 of a run; other for all else.",
    ("model", "tool"),
    CONFIDENCE_BUCKETS,
)
PUSH_FAILURES = counter(
    "push_failures_total", "Pushes of this worker that the Pushgateway did not take; their state went with a later push."
)
