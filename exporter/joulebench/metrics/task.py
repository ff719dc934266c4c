"""Pushed by a benchmark in the group ``{job, run_id, task_id, worker}``: the cumulative state of one task.

Every series but the time of the push carries ``model`` and ``suite``, which are constant for a task, so that dashboards filter
and group by them without a join.
"""

from __future__ import annotations

from joulebench.metrics.label_sets import GPU, TASK
from joulebench.metrics.metric import counter, gauge, summary

TASK_INFO = gauge(
    "task_info",
    "Task metadata, constant 1. task_key names the task in letters, digits, dashes and underscores, for the address of a link.",
    (*TASK, "task_name", "task_key"),
)
TASK_START = gauge("task_start_timestamp_seconds", "Unix time at which the task started.", TASK)
TASK_END = gauge("task_end_timestamp_seconds", "Unix time at which the task ended; absent until then.", TASK)
TASK_RUN_EPOCH = gauge(
    "task_run_epoch_timestamp_seconds", "Full unix second from which the start and end offsets of the task count.", TASK
)
TASK_START_OFFSET = gauge(
    "task_start_offset_seconds",
    "Start of the task, in seconds after joulebench_task_run_epoch_timestamp_seconds; exact to microseconds in stores that keep"
    " 12 digits.",
    TASK,
)
TASK_END_OFFSET = gauge(
    "task_end_offset_seconds",
    "End of the task, in seconds after joulebench_task_run_epoch_timestamp_seconds; absent until then.",
    TASK,
)
TASK_DURATION = gauge("task_duration_seconds", "Duration of the task by the monotonic clock; absent until its end.", TASK)
TASK_SUCCESS = gauge(
    "task_success", "1 for a task that passed its grader, 0 for one that did not; absent without a verdict.", TASK
)
TASK_STATUS = gauge("task_status_info", "How the task ended, constant 1; absent until its end.", (*TASK, "status"))
TASK_SENT = gauge(
    "task_sent_timestamp_seconds",
    "The benchmark's clock when it pushed the group; minus push_time_seconds it is the clock offset to the Pushgateway.",
)
TASK_LLM_CALLS = counter("task_llm_calls_total", "LLM calls that the task started.", TASK)
TASK_LLM_ERRORS = counter("task_llm_errors_total", "LLM calls of the task that failed.", TASK)
TASK_TOKENS = counter(
    "task_tokens_total",
    "Tokens of the task as the model server counted them: prompt tokens not served from the prefix cache, cached_prompt tokens"
    " served from it (absent where the server does not report them; prompt then has all), and completion tokens with thinking.",
    (*TASK, "token"),
)
TASK_LLM_DURATION = summary("task_llm_duration_seconds", "Durations of the task's LLM calls.", TASK)
TASK_TTFT = summary("task_time_to_first_token_seconds", "Time to first token of the task's streamed LLM calls.", TASK)
TASK_PREFILL = summary("task_prefill_seconds", "Prefill time of the task's LLM calls, as the model server measured it.", TASK)
TASK_DECODE = summary(
    "task_decode_seconds",
    "Decode time of the task's LLM calls, as the model server measured it, else from the first to the last token.",
    TASK,
)
TASK_DECODE_TOKENS = counter(
    "task_decode_tokens_total", "Completion tokens of the LLM calls that joulebench_task_decode_seconds times.", TASK
)
TASK_LOAD = summary(
    "task_load_seconds", "Time for loading the model and waiting for the scheduler, as the model server measured it.", TASK
)
TASK_TOOL_CALLS = counter("task_tool_calls_total", "Tool calls that the model attempted, by outcome.", (*TASK, "outcome"))
TASK_TOOL_DURATION = summary("task_tool_duration_seconds", "Durations of the task's tool calls.", TASK)
TASK_CONFIDENCE = summary(
    "task_tool_confidence_ratio", "Confidences of the tool calls whose tokens were located in the logprobs.", TASK
)
TASK_CONFIDENCE_MIN = gauge(
    "task_tool_confidence_min_ratio", "Lowest confidence of a tool call of the task; absent where none is known.", TASK
)
TASK_CONFIDENCE_MAX = gauge(
    "task_tool_confidence_max_ratio", "Highest confidence of a tool call of the task; absent where none is known.", TASK
)
TASK_ENERGY = gauge(
    "task_energy_joules",
    "Energy of the GPU from the start of the task to its end, from the exporter's ring of counter changes; tasks that overlap"
    " each have all of it. Pushed a moment after the end, absent where it is not known.",
    (*TASK, *GPU),
)
TASK_ENERGY_LOW = gauge("task_energy_low_joules", "Lower bound of joulebench_task_energy_joules.", (*TASK, *GPU))
TASK_ENERGY_HIGH = gauge("task_energy_high_joules", "Upper bound of joulebench_task_energy_joules.", (*TASK, *GPU))
TASK_CHARGED_ENERGY = gauge(
    "task_charged_energy_joules",
    "Energy of the GPU that the task is charged: in each interval of its window an even share among the tasks that this worker"
    " ran at the same time, so that charges add up to the energy used. Pushed a moment after the end, absent where not known."
    " Tasks of other workers are not considered; the export shares among all of them.",
    (*TASK, *GPU),
)
TASK_CHARGED_SECONDS = gauge(
    "task_charged_seconds",
    "Machine time that the task is charged: its duration, less the shares of tasks that this worker ran at the same time; absent"
    " until its end.",
    TASK,
)
TASK_THROTTLED = gauge(
    "task_throttled_seconds",
    "Time of the task for which the reason lowered the GPU's clocks, from the exporter's ring; pushed with"
    " joulebench_task_energy_joules, absent where it is not known. Reasons may overlap.",
    (*TASK, *GPU, "reason"),
)
TASK_CALL_ENERGY = summary(
    "task_call_energy_joules",
    "Energy of all GPUs during single LLM calls of the task; only calls for which it is known on every GPU.",
    TASK,
)
