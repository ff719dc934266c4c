"""The live dashboard's panels of what the model does: tokens, waiting times, tool calls."""

from __future__ import annotations

from scripts.dashboards.absence import NO_CALLS
from scripts.dashboards.fields import Json, Query, override
from scripts.dashboards.panels import bargauge, heatmap, stat, timeseries
from scripts.dashboards.promql import COMPLETION, PROMPT, growth, latest, quantile, ratio, recorded, select, total

from joulebench import metrics as m


def model_panels() -> list[Json]:
    prompt, completion = (recorded("run_token:joulebench_task_tokens:per_second1m", token) for token in (PROMPT, COMPLETION))
    watts = recorded("instance:joulebench_gpu_energy_joules:rate1m")
    not_ok = ratio(total(m.TASK_TOOL_CALLS, 'outcome!="ok"'), total(m.TASK_TOOL_CALLS))
    confidence_mean = ratio(total(m.TASK_CONFIDENCE, suffix="_sum"), total(m.TASK_CONFIDENCE, suffix="_count"))
    share: Json = {"unit": "percentunit", "max": 1, "decimals": 1}
    calls = f"sum by (model) ({latest(m.CALL_DURATION, suffix='_count')})"
    call_mean = ratio(f"sum by (model) ({latest(m.CALL_DURATION, suffix='_sum')})", calls)
    return [
        timeseries(
            "Token throughput",
            "Tokens per second of wall time over the last minute, all tasks of a run together. A call's tokens count when it"
            " ends. Prompt tokens include those that the server took from its prefix cache.",
            [Query(f"sum by (run_id) ({prompt})", "{{run_id}} prompt"), Query(completion, "{{run_id}} completion")],
            "suffix:tok/s",
            empty=NO_CALLS,
        ),
        timeseries(
            "Decode speed",
            "Tokens per second while generating, average of the tasks live at that moment.",
            [
                Query(
                    ratio(
                        f"sum by (run_id) ({select(m.TASK_DECODE_TOKENS)})",
                        f"sum by (run_id) ({select(m.TASK_DECODE, suffix='_sum')})",
                    ),
                    "{{run_id}}",
                )
            ],
            "suffix:tok/s",
            empty=NO_CALLS,
        ),
        heatmap(
            "Time to first token, spread",
            "Streamed calls by their time to first token; every call is in one cell.",
            Query(growth(m.CALL_TTFT), "{{le}}", "heatmap"),
            "s",
            empty=NO_CALLS,
        ),
        timeseries(
            "Time to first token and call duration",
            "Median and 95th percentile over the last minute, interpolated within the histogram's buckets.",
            [
                Query(quantile(0.5, m.CALL_TTFT), "TTFT p50"),
                Query(quantile(0.95, m.CALL_TTFT), "TTFT p95"),
                Query(quantile(0.95, m.CALL_DURATION), "call p95"),
            ],
            "s",
            empty=NO_CALLS,
        ),
        heatmap(
            "Tool-call confidence, spread",
            "Tool calls by confidence: the smaller of how sure the model was of the tool's name and of its least sure argument"
            " token. Calls whose tokens were not found are not in it.",
            Query(growth(m.TOOL_CONFIDENCE), "{{le}}", "heatmap"),
            "percentunit",
            scheme="Blues",
            empty=NO_CALLS,
        ),
        bargauge(
            "Tool-call outcomes",
            "Tool calls that the model tried, by outcome, over the tasks in this time range; then the share that did not end ok,"
            " and the mean confidence of those that have one.",
            [
                Query(total(m.TASK_TOOL_CALLS, by="outcome"), "{{outcome}}", "instant"),
                Query(not_ok, "not ok", "instant"),
                Query(confidence_mean, "mean confidence", "instant"),
            ],
            "none",
            overrides=[override("not ok", **share), override("mean confidence", **share)],
            empty=NO_CALLS,
        ),
        timeseries(
            "Joules per output token",
            "Energy of all GPUs by completion tokens of all runs, over the last minute. High while prompts are read.",
            [Query(f"sum({watts}) / (sum({completion}) > 0)", "J per token")],
            "joule",
            empty=NO_CALLS,
        ),
        stat(
            "LLM calls",
            "Calls and their mean duration by model, over the runs until now.",
            [Query(calls, "{{model}} calls", "instant"), Query(call_mean, "{{model}} mean", "instant")],
            "none",
            overrides=[override("/mean$/", by="byRegexp", unit="s")],
            empty=NO_CALLS,
        ),
    ]
