"""What each derived number is, with its formula; where a name is common in the field, in the common sense."""

from __future__ import annotations

from typing import NamedTuple


class Definition(NamedTuple):
    """``formula``: in the names of events and fields."""

    name: str
    formula: str
    meaning: str


DEFINITIONS = (
    Definition(
        "E(t)",
        "counter at its changes, two-sided edge split inside a step",
        "Cumulative energy of a GPU; a window is E(end) - E(start).",
    ),
    Definition(
        "energy bounds",
        "low: last change safely before the end - first safely after the start; high: first safely after the end - last safely before the start",
        "Guaranteed by the monotone counter for any power in between, if its sensor does not lag.",
    ),
    Definition("duration of a task", "TASK_END.duration_seconds, else end - start", "By the monotonic clock of the benchmark."),
    Definition(
        "latency of a call",
        "LLM_QUERY_END.duration_seconds",
        "From the request to the end of the reply: queue, load, prefill and decode.",
    ),
    Definition(
        "TTFT",
        "first streamed token - request",
        "Time to first token as the client sees it: network, queue, load and prefill. Unknown for a reply that was not streamed.",
    ),
    Definition(
        "decode tokens, decode seconds",
        "the server's eval count and eval time, else completion_tokens - 1 and end - first token",
        "By the server where it reports both; by the client n tokens are n - 1 intervals.",
    ),
    Definition(
        "TPOT (ITL)",
        "decode seconds / decode tokens = 1 / decode_tokens_per_second",
        "Time per output token, over all calls of a task that report both.",
    ),
    Definition(
        "decode_tokens_per_second",
        "sum(decode tokens) / sum(decode seconds)",
        "Without queue, load and prefill; a mean over tokens, not over calls.",
    ),
    Definition(
        "tokens_per_second, overall_tokens_per_second",
        "sum(completion tokens) / sum(latency)",
        "Completion tokens per second of summed call time: queue, load and prefill included; calls at the same time count each.",
    ),
    Definition(
        "wall_tokens_per_second",
        "sum(completion tokens) / time in which a call ran",
        "By wall time: what several calls at the same time come to together.",
    ),
    Definition(
        "avg_tokens_per_second",
        "mean over calls of completion tokens / latency",
        "A mean of calls: a short call weighs as much as a long one.",
    ),
    Definition("avg_ttft_ms", "mean over calls that have a TTFT", "Of one task; a mean over tasks weighs each task once."),
    Definition(
        "confidence of a tool call",
        "min(name_branch, args_min)",
        "name_branch: probability of the tool's name at the token where it differs from other tools; args_min: least probable argument token.",
    ),
    Definition(
        "avg_tool_confidence",
        "mean over the tool calls of the task that have one",
        "A mean of calls; a mean over tasks weighs each task once.",
    ),
    Definition("avg_power_w", "joules / window", "Mean power of all GPUs of the task."),
    Definition(
        "max_power_w",
        "highest power sample of all GPUs together",
        "A sample every second can miss a peak, so it can lie below the mean of a short task.",
    ),
    Definition(
        "avg_gpu_util_pct",
        "mean over the window of the mean over GPUs",
        "A sample counts for the time until half way to its neighbours.",
    ),
    Definition("max_gpu_util_pct", "highest sample of the mean over GPUs", "`per_gpu[].util_pct.high` is that of a single GPU."),
    Definition(
        "energy_h1..h2, energy_q1..q5",
        "E over equal parts of the window by the stored counter x joules / sum of the parts",
        "Parts by time; they add up to total_energy_joules.",
    ),
    Definition(
        "energy_longest_gap_seconds",
        "longest time between two changes that touch the window",
        "Of the source that energy_source names; unknown where the exporter's answer does not say.",
    ),
    Definition(
        "idle_energy_joules",
        "idle power x window",
        "Idle power: the lowest that was measured in the run with the model loaded and no task under way.",
    ),
    Definition("active_energy_joules", "joules - idle_energy_joules", "What the task took above its idle floor."),
    Definition(
        "attributed_energy_joules",
        "sum over bins: all where alone; above idle by the only call in flight, else by tokens, else by seconds of calls in flight",
        "What the task is charged; over a run, with idle and unattributed energy, these add up to the counters.",
    ),
    Definition(
        "phase joules",
        "sum of E(end) - E(start) over the stretches of the phase",
        "By the exporter's record, else by stored samples, as `phases.source` says; then made to add up to the task's joules. A moment in which several go on belongs to the first of decode, prefill, load, LLM, tool wait, other.",
    ),
    Definition(
        "joules_per_prompt_token",
        "prefill joules / prompt tokens that were computed",
        "Without tokens from the prefix cache where every call reports them (`computed`), else all (`effective`).",
    ),
    Definition("joules_per_decode_token", "decode joules / decode tokens", "Null where tasks overlapped."),
    Definition(
        "joules_per_completion_token", "joules / completion tokens", "All of the window, prefill, tools and waiting included."
    ),
    Definition(
        "throttled_seconds",
        "max over reasons that are trouble, of the GPU that was held down most",
        "Not `sw_power_cap` and `sync_boost`, which are settings. `sw_power_cap` counts only while the power is at 90 % of the"
        " enforced limit or more, as drivers set and count it on idle cards too; without a limit or power it is unknown.",
    ),
    Definition("overlap_fraction", "time with another task's window on the same GPUs / window", "0 where the task was alone."),
)
