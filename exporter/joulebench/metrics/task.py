"""Pushed by a benchmark in the group ``{job, run_id, task_id, worker}``: the whole cumulative state of one task."""

from __future__ import annotations

from joulebench.metrics.label_sets import GPU
from joulebench.metrics.metric import counter, gauge, summary

TASK_INFO = gauge("task_info", "1, with what the task is.", ("task_name", "model", "suite"))
TASK_START = gauge("task_start_timestamp_seconds", "Unix time at which the task began.")
TASK_END = gauge("task_end_timestamp_seconds", "Unix time at which the task ended; absent until then.")
TASK_RUN_EPOCH = gauge("task_run_epoch_timestamp_seconds", "Whole unix second the offsets of this task count from.")
TASK_START_OFFSET = gauge("task_start_offset_seconds", "Task begin after the epoch; keeps microseconds in stores of 12 digits.")
TASK_END_OFFSET = gauge("task_end_offset_seconds", "Task end after the epoch; absent until then.")
TASK_DURATION = gauge("task_duration_seconds", "Duration by the monotonic clock; absent until the end.")
TASK_SUCCESS = gauge("task_success", "1 for a graded pass, 0 for a graded failure; absent without a verdict.")
TASK_STATUS = gauge("task_status_info", "1, with how the task ended; absent until then.", ("status",))
TASK_SENT = gauge(
    "task_sent_timestamp_seconds",
    "The benchmark's clock when it pushed; minus push_time_seconds this is the clock offset to the gateway.",
)
TASK_LLM_CALLS = counter("task_llm_calls_total", "LLM calls begun.")
TASK_LLM_ERRORS = counter("task_llm_errors_total", "LLM calls that failed.")
TASK_PROMPT_TOKENS = counter("task_prompt_tokens_total", "Prompt tokens as the server counted them.")
TASK_COMPLETION_TOKENS = counter(
    "task_completion_tokens_total", "Completion tokens as the server counted them, thinking included."
)
TASK_LLM_DURATION = summary("task_llm_duration_seconds", "Durations of the LLM calls.")
TASK_TTFT = summary("task_time_to_first_token_seconds", "Times to first token; only calls where the server streamed.")
TASK_PREFILL = summary("task_prefill_seconds", "Prompt evaluation as the server timed it.")
TASK_DECODE = summary("task_decode_seconds", "Token generation as the server timed it, else first to last token.")
TASK_DECODE_TOKENS = counter(
    "task_decode_tokens_total", "Completion tokens of the calls that joulebench_task_decode_seconds times."
)
TASK_LOAD = summary("task_load_seconds", "Model load and scheduler wait as the server timed it.")
TASK_TOOL_CALLS = counter("task_tool_calls_total", "Tool calls the model tried, by outcome.", ("outcome",))
TASK_TOOL_DURATION = summary("task_tool_duration_seconds", "Durations of the tool calls.")
TASK_CONFIDENCE = summary("task_tool_confidence_ratio", "Confidences of the tool calls whose tokens were found.")
TASK_CONFIDENCE_MIN = gauge("task_tool_confidence_min_ratio", "Lowest tool-call confidence; absent without one.")
TASK_CONFIDENCE_MAX = gauge("task_tool_confidence_max_ratio", "Highest tool-call confidence; absent without one.")
TASK_ENERGY = gauge(
    "task_energy_joules",
    "Energy over the task as the exporter's ring gives it; pushed a moment after the end, absent where not known.",
    GPU,
)
TASK_ENERGY_LOW = gauge("task_energy_low_joules", "Lower bound of joulebench_task_energy_joules.", GPU)
TASK_ENERGY_HIGH = gauge("task_energy_high_joules", "Upper bound of joulebench_task_energy_joules.", GPU)
TASK_THROTTLED = gauge(
    "task_throttled_seconds",
    "Time of the task for which the reason held the GPU's clocks down, as the exporter's ring gives it; pushed with"
    " joulebench_task_energy_joules, absent where not known. Reasons overlap.",
    (*GPU, "reason"),
)
TASK_CALL_ENERGY = summary(
    "task_call_energy_joules", "Energy of all GPUs over single LLM calls; only calls whose energy is known on every GPU."
)
