"""Pushed by a benchmark in the group ``{job, run_id, worker}``: the cumulative state of one worker of a run.

Counters by model grow when a task ends (energy: when the exporter has answered for it), so what adds up over time is a
difference of counters and not a sum over tasks.
"""

from __future__ import annotations

from joulebench.metrics.label_sets import CONFIDENCE_BUCKETS, GPU, SECONDS_BUCKETS
from joulebench.metrics.metric import counter, gauge, histogram

MODEL = ("model",)

RUN_INFO = gauge(
    "run_info",
    "Metadata of a live run: its suite, the version of the library, and what names its GPUs: those that were declared, separated"
    " by commas, its model server as HOST:PORT and its Slurm job, each empty where there is none; constant 1, absent after its"
    " end.",
    ("suite", "version", "gpus", "server", "slurm_job"),
    unused_because="the export finds the GPUs of a run by it whose journal is lost",
)
RUN_TASKS = counter("run_tasks_total", "Tasks that this worker finished, by model and status.", (*MODEL, "status"))
RUN_TASKS_PLANNED = gauge("run_tasks_planned", "Tasks that this worker is going to run; absent where it does not know.")
RUN_TASKS_WITHOUT_ENERGY = counter(
    "run_tasks_without_energy_total",
    "Finished tasks of this worker whose energy is not known on every GPU, so that"
    " joulebench_run_charged_energy_joules_total is too low.",
    MODEL,
)
RUN_CHARGED_ENERGY = counter(
    "run_charged_energy_joules_total",
    "Energy of the GPU charged to finished tasks of this worker: the sum of joulebench_task_charged_energy_joules.",
    (*MODEL, *GPU),
)
RUN_CHARGED_SECONDS = counter(
    "run_charged_seconds_total",
    "Machine time charged to finished tasks of this worker: the sum of joulebench_task_charged_seconds.",
    MODEL,
)
RUN_TOKENS = counter(
    "run_tokens_total",
    "Tokens of finished tasks of this worker: the sum of joulebench_task_tokens_total.",
    (*MODEL, "token"),
)
RUN_THROTTLED = counter(
    "run_throttled_seconds_total",
    "Time for which the reason lowered the GPU's clocks while tasks of this worker ran; time with several tasks counts once."
    " Reasons may overlap.",
    (*MODEL, *GPU, "reason"),
)
RUN_IDLE_POWER = gauge(
    "run_idle_power_watts",
    "Lowest mean power of the GPU that this run measured with the model loaded and no work; absent where none was measured.",
    GPU,
)
RUN_PHASE = gauge("run_phase", "1 for the phase that this worker is in, 0 for the others.", ("phase",))
CALL_TTFT = histogram("call_time_to_first_token_seconds", "Time to first token of streamed LLM calls.", MODEL, SECONDS_BUCKETS)
CALL_DURATION = histogram("call_duration_seconds", "Duration of LLM calls.", MODEL, SECONDS_BUCKETS)
TOOL_CONFIDENCE = histogram(
    "tool_call_confidence_ratio",
    "Confidence of tool calls whose tokens were located in the logprobs: min(name_branch, args_min). tool is one of the first 24"
    " tools that the benchmark declared, other for all else.",
    (*MODEL, "tool"),
    CONFIDENCE_BUCKETS,
)
PUSH_FAILURES = counter(
    "push_failures_total", "Pushes of this worker that the Pushgateway did not accept; a later push repeats their state."
)
