"""Panels of the metering proxy: requests, latency, tokens and energy of the model server's clients, by the proxy's own scrape.

Where no proxy runs, every one of them says so.
"""

from __future__ import annotations

from scripts.dashboards.panels import (
    ABSENCE,
    NOT_AVAILABLE,
    Json,
    Query,
    bargauge,
    override,
    stat,
    states,
    table,
    timeseries,
)
from scripts.dashboards.promql import (
    PROXY_JOB,
    added,
    latest,
    quantile,
    quantile_so_far,
    ratio,
    select,
    served,
)

from joulebench import metrics as m
from joulebench.metrics import Metric

NO_PROXY = "No data: no proxy"
NO_REQUEST = f"{NO_PROXY}, or no such request"
OF_PROXY = 'server="proxy"'
NOT_OK = 'result!="ok"'
KEYS = "run_id, task_id, model"
COUNTED = ("Requests", "Failed")
PROXY_STATES = states(
    {0: ("no proxy", "text"), 1: ("up", "green"), 2: ("up, model server unreachable", "red")},
)


def tiles() -> list[Json]:
    unmetered = {
        "dropped": m.PROXY_FORGOTTEN_TASKS,
        "sent again": m.PROXY_REFUSED_ADDITIONS,
        "no energy": m.PROXY_ENERGY_UNKNOWN,
        "in no journal": m.PROXY_UNRECORDED_REQUESTS,
    }
    none = f"0 * max(up{{{PROXY_JOB}}} == 1)"
    unreachable = f"({select(m.PROXY_UPSTREAM_UP)} == 0) + 2"
    return [
        stat(
            "Proxy",
            "Whether Prometheus can scrape the metering proxy, and whether its last request reached the model server. A host"
            " without a proxy needs none: the tasks above come from the benchmark itself.",
            [Query(f"{unreachable} or up{{{PROXY_JOB}}}", "{{instance}}", "instant")],
            "none",
            mappings=PROXY_STATES,
            empty=NO_PROXY,
        ),
        bargauge(
            "Requests by result",
            "Of the chosen runs, requests without a run, those in flight. refused: HTTP error of the model server;"
            " broken: the response failed midway; client_gone: the client closed the connection; unreachable: no connection.",
            [
                Query(f"sum by (result) ({latest(m.PROXY_REQUESTS)})", "{{result}}", "instant"),
                Query(f"sum({select(m.PROXY_IN_FLIGHT)})", "in flight", "instant"),
            ],
            "none",
            empty=NO_REQUEST,
        ),
        bargauge(
            "Unmetered requests",
            "In this time range: requests that were forwarded but not, or only partly, metered, by cause; those whose additions"
            " the server refused; tasks whose series were dropped; time with requests without an energy from the exporter; those"
            " in no journal; and events that wait for the disk of the journals now.",
            [
                Query(f"sum by (cause) ({added(m.PROXY_UNREAD_REQUESTS)})", "{{cause}}", "instant"),
                *(Query(f"sum({added(metric)}) or {none}", name, "instant") for name, metric in unmetered.items()),
                Query(f"sum({select(m.PROXY_UNWRITTEN_EVENTS)})", "wait for the disk", "instant"),
            ],
            "none",
            overrides=[override("no energy", unit="s")],
            empty=NO_REQUEST,
        ),
    ]


def graphs() -> list[Json]:
    return [
        timeseries(
            "Proxy latency",
            "Over the last minute: time to first token of streamed requests,"
            " duration of requests, and time between two chunks of a stream.",
            [
                Query(quantile(0.5, m.PROXY_TTFT), "TTFT p50"),
                Query(quantile(0.95, m.PROXY_TTFT), "TTFT p95"),
                Query(quantile(0.5, m.PROXY_DURATION), "request p50"),
                Query(quantile(0.95, m.PROXY_DURATION), "request p95"),
                Query(quantile(0.95, m.PROXY_TOKEN_GAP), "between chunks p95"),
            ],
            "s",
            empty=NO_REQUEST,
        ),
        timeseries(
            "Proxy tokens per second",
            "Median of single requests over the last minute: decode, and prefill without cached tokens (right axis). Beside them"
            " all generated tokens per second of wall time.",
            [
                Query(quantile(0.5, m.PROXY_DECODE_RATE), "decode p50"),
                Query(quantile(0.5, m.PROXY_PREFILL_RATE), "prefill p50"),
                Query(f"sum({served('completion_tokens:rate1m', OF_PROXY)})", "generated, all requests"),
            ],
            "suffix:tok/s",
            overrides=[override("prefill p50", custom__axisPlacement="right")],
            empty=NO_REQUEST,
        ),
        bargauge(
            "Tool calls at the proxy",
            "Tool calls by outcome (the proxy does not see the results of tools), and by whether their tokens were located in the"
            " logprobs; and the 10th percentile of their confidence.",
            [
                Query(f"sum by (outcome) ({latest(m.PROXY_TOOL_CALLS)})", "{{outcome}}", "instant"),
                Query(f"sum by (span_status) ({added(m.PROXY_SPANS)})", "tokens: {{span_status}}", "instant"),
                Query(quantile_so_far(0.1, m.PROXY_CONFIDENCE), "p10 of confidence", "instant"),
            ],
            "none",
            overrides=[override("p10 of confidence", unit="percentunit", max=1, decimals=0)],
            empty=NO_REQUEST,
        ),
    ]


def by_task(metric: Metric, *matchers: str, suffix: str = "") -> str:
    return f"sum by ({KEYS}) ({latest(metric, *matchers, suffix=suffix)})"


def mean(metric: Metric) -> str:
    return ratio(by_task(metric, suffix="_sum"), by_task(metric, suffix="_count"))


def task_table() -> Json:
    requests = by_task(m.PROXY_REQUESTS)

    def or_not_reported(expr: str) -> str:
        """Without it the table would lack the column of a metric that no server reports."""
        return f"{expr} or on ({KEYS}) 0 * {requests} - {-NOT_AVAILABLE}"

    values: dict[str, tuple[str, Json]] = {
        "Requests": (requests, {"custom__width": 80}),
        "Failed": (f"{by_task(m.PROXY_REQUESTS, NOT_OK)} or 0 * {requests}", {"custom__width": 70}),
        "Prompt": (by_task(m.PROXY_PROMPT_TOKENS), {"unit": "none", "custom__width": 75}),
        "Cached": (by_task(m.PROXY_CACHED_TOKENS), {"unit": "none", "custom__width": 75}),
        "Output": (by_task(m.PROXY_COMPLETION_TOKENS), {"unit": "none", "custom__width": 75}),
        "TTFT": (mean(m.PROXY_TASK_TTFT), {"unit": "s", "custom__width": 85}),
        "Request": (mean(m.PROXY_TASK_DURATION), {"unit": "s", "custom__width": 85}),
        "Prefill": (
            ratio(by_task(m.PROXY_PREFILL_TOKENS), by_task(m.PROXY_PREFILL, suffix="_sum")),
            {"unit": "suffix:tok/s", "decimals": 0, "custom__width": 95},
        ),
        "Decode": (
            ratio(by_task(m.PROXY_DECODE_TOKENS), by_task(m.PROXY_DECODE, suffix="_sum")),
            {"unit": "suffix:tok/s", "decimals": 1, "custom__width": 95},
        ),
        "Load": (by_task(m.PROXY_LOAD, suffix="_sum"), {"unit": "s", "custom__width": 75}),
        "Other": (by_task(m.PROXY_OTHER_TIME, suffix="_sum"), {"unit": "s", "custom__width": 75}),
        "Energy": (by_task(m.PROXY_ENERGY), {"unit": "joule", "decimals": 1, "custom__width": 82}),
        "At most": (by_task(m.PROXY_ENERGY_WHOLE), {"unit": "joule", "decimals": 1, "custom__width": 82}),
        "Confidence": (mean(m.PROXY_TASK_CONFIDENCE), {"unit": "percentunit", "decimals": 0, "custom__width": 92}),
    }
    fields = {f"Value #{chr(ord('A') + place)}": name for place, name in enumerate(values)}
    return table(
        "Tasks at the proxy",
        "One row per task, as the clients named run and task; empty where they named none. Energy is shared evenly with requests"
        " of the same time, so that rows add up to the energy used; At most is all energy while the task's requests ran. TTFT,"
        " Request and Confidence are means; Load and Queue are sums. n/a: not reported by the server.",
        [Query(expr if name in COUNTED else or_not_reported(expr), "__auto", "table") for name, (expr, _) in values.items()],
        {"run_id": "Run", "task_id": "Task", "model": "Model", **fields},
        overrides=[
            override("Run", custom__minWidth=120),
            override("Model", custom__width=115),
            override("Task", custom__minWidth=140),
            *(override(name, mappings=ABSENCE, **shown) for name, (_, shown) in values.items()),
        ],
        sort="Energy",
        empty=NO_REQUEST,
    )


def time_of_task(task: str) -> Json:
    """Of the one task that ``task`` selects."""

    def of(metric: Metric, suffix: str = "") -> str:
        return f"sum({latest(metric, task, suffix=suffix)})"

    times = {"prefill": m.PROXY_PREFILL, "decode": m.PROXY_DECODE, "load": m.PROXY_LOAD, "other": m.PROXY_OTHER_TIME}
    return bargauge(
        "Time at the proxy",
        "Sums over the task's requests, as the model server measured them, or from the first to the last token for decode;"
        " other is Ollama's total less these, waiting and logprobs included; and the duration of the requests.",
        [
            *(Query(of(metric, "_sum"), name, "instant") for name, metric in times.items()),
            Query(of(m.PROXY_TASK_DURATION, "_sum"), "requests", "instant"),
        ],
        "s",
        empty=NO_PROXY,
    )
