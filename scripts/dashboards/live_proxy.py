"""Panels of the metering proxy: what clients of the model server asked, waited for and used, by the proxy's own scrape.

Where no proxy runs, every one of them says so.
"""

from __future__ import annotations

from scripts.dashboards.absence import ABSENCE, NOT_AVAILABLE
from scripts.dashboards.fields import Json, Query, override, states
from scripts.dashboards.panels import bargauge, heatmap, stat, table, timeseries
from scripts.dashboards.promql import PROXY_JOB, grown, growth, latest, quantile, ratio, select, served

from joulebench import metrics as m
from joulebench.metrics import Metric

NO_PROXY = "No data: no proxy"
NOTHING = f"{NO_PROXY}, or no such request"
TWO_SCRAPES = "10s"
OF_PROXY = 'server="proxy"'
NOT_OK = 'result!="ok"'
KEYS = "run_id, task_id, model"
COUNTED = ("Requests", "Not ok")
PROXY_STATES = states(
    {0: ("no proxy", "text"), 1: ("up", "green"), 2: ("up, model server unreachable", "red")},
)


def proxy_state() -> Json:
    unreachable = f"({select(m.PROXY_UPSTREAM_UP)} == 0) + 2"
    return stat(
        "Proxy",
        "Whether Prometheus can scrape the metering proxy, and whether the proxy's last request reached the model server. A host"
        " without a proxy needs none: the tasks above are what the benchmark itself pushes.",
        [Query(f"{unreachable} or up{{{PROXY_JOB}}}", "{{instance}}", "instant")],
        "none",
        mappings=PROXY_STATES,
        empty=NO_PROXY,
    )


def small_panels() -> list[Json]:
    unmetered = {
        "forgotten": m.PROXY_FORGOTTEN_TASKS,
        "sent again": m.PROXY_REFUSED_ADDITIONS,
        "no energy": m.PROXY_ENERGY_UNKNOWN,
    }
    nothing = f"0 * max(up{{{PROXY_JOB}}} == 1)"
    return [
        proxy_state(),
        stat(
            "Requests in flight",
            "Metered requests that are not answered to the end.",
            [Query(f"sum by (model) ({select(m.PROXY_IN_FLIGHT)})", "{{model}}")],
            "none",
            empty=NOTHING,
        ),
        bargauge(
            "Requests by result",
            "Of the chosen runs, and those that named none. refused: an HTTP error of the model server; broken: it failed while"
            " it answered; client_gone: the client left first; unreachable: no connection.",
            [Query(f"sum by (result) ({latest(m.PROXY_REQUESTS)})", "{{result}}", "instant")],
            "none",
            empty=NOTHING,
        ),
        bargauge(
            "Not or not wholly metered",
            "In this time range: requests passed on unread, by cause; those whose additions the server refused; tasks whose"
            " series were dropped to keep their number bounded; and time with requests for which the exporter gave no energy.",
            [
                Query(f"sum by (cause) ({grown(m.PROXY_UNREAD_REQUESTS)})", "{{cause}}", "instant"),
                *(Query(f"sum({grown(metric)}) or {nothing}", name, "instant") for name, metric in unmetered.items()),
            ],
            "none",
            overrides=[override("no energy", unit="s")],
            empty=NOTHING,
        ),
    ]


def proxy_panels() -> list[Json]:
    return [
        heatmap(
            "Proxy: time to first token, spread",
            "Streamed requests by their time to first token; every request is in one cell.",
            Query(growth(m.PROXY_TTFT), "{{le}}", "heatmap"),
            "s",
            empty=NOTHING,
            interval=TWO_SCRAPES,
        ),
        heatmap(
            "Proxy: time between tokens, spread",
            "Pieces of streams by the time since the piece before. A second band far above the first are stalls.",
            Query(growth(m.PROXY_TOKEN_GAP), "{{le}}", "heatmap"),
            "s",
            scheme="Blues",
            empty=NOTHING,
            interval=TWO_SCRAPES,
        ),
        timeseries(
            "Proxy: latency",
            "Over the last minute, interpolated within the histogram's buckets: time to first token of streamed requests, whole"
            " requests, and the time between two pieces of a stream.",
            [
                Query(quantile(0.5, m.PROXY_TTFT), "TTFT p50"),
                Query(quantile(0.95, m.PROXY_TTFT), "TTFT p95"),
                Query(quantile(0.5, m.PROXY_DURATION), "request p50"),
                Query(quantile(0.95, m.PROXY_DURATION), "request p95"),
                Query(quantile(0.95, m.PROXY_TOKEN_GAP), "between tokens p95"),
            ],
            "s",
            empty=NOTHING,
        ),
        timeseries(
            "Proxy: tokens per second",
            "Speed of single requests, median over the last minute: decoding, and prompt evaluation without cached tokens. Beside"
            " it all generated tokens per second of wall time.",
            [
                Query(quantile(0.5, m.PROXY_DECODE_RATE), "decode p50"),
                Query(quantile(0.5, m.PROXY_PREFILL_RATE), "prefill p50"),
                Query(f"sum({served('completion_tokens:rate1m', OF_PROXY)})", "generated, all requests"),
            ],
            "suffix:tok/s",
            overrides=[override("prefill p50", custom__axisPlacement="right")],
            empty=NOTHING,
        ),
        heatmap(
            "Proxy: tool-call confidence, spread",
            "Tool calls by confidence; those whose tokens were not found are not in it. Needs logprobs: the client's own, or"
            " --add-logprobs.",
            Query(growth(m.PROXY_CONFIDENCE), "{{le}}", "heatmap"),
            "percentunit",
            scheme="Blues",
            empty=NOTHING,
            interval=TWO_SCRAPES,
        ),
        bargauge(
            "Proxy: tool calls",
            "Tool calls by outcome (what a tool answers is not seen here), then by what became of the search for their tokens.",
            [
                Query(f"sum by (outcome) ({latest(m.PROXY_TOOL_CALLS)})", "{{outcome}}", "instant"),
                Query(f"sum by (span_status) ({grown(m.PROXY_SPANS)})", "tokens: {{span_status}}", "instant"),
            ],
            "none",
            empty=NOTHING,
        ),
    ]


def by_task(metric: Metric, *matchers: str, suffix: str = "") -> str:
    return f"sum by ({KEYS}) ({latest(metric, *matchers, suffix=suffix)})"


def mean(metric: Metric) -> str:
    return ratio(by_task(metric, suffix="_sum"), by_task(metric, suffix="_count"))


def proxy_table() -> Json:
    requests = by_task(m.PROXY_REQUESTS)

    def known(expr: str) -> str:
        """A server that tells none of it would leave the table without the column."""
        return f"{expr} or on ({KEYS}) 0 * {requests} - {-NOT_AVAILABLE}"

    values: dict[str, tuple[str, Json]] = {
        "Requests": (requests, {"custom__width": 85}),
        "Not ok": (f"{by_task(m.PROXY_REQUESTS, NOT_OK)} or 0 * {requests}", {"custom__width": 70}),
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
        "Queue": (by_task(m.PROXY_QUEUE, suffix="_sum"), {"unit": "s", "custom__width": 75}),
        "Energy": (by_task(m.PROXY_ENERGY), {"unit": "joule", "decimals": 1, "custom__width": 90}),
        "At most": (by_task(m.PROXY_ENERGY_WHOLE), {"unit": "joule", "decimals": 1, "custom__width": 90}),
        "Confidence": (mean(m.PROXY_TASK_CONFIDENCE), {"unit": "percentunit", "decimals": 0, "custom__width": 95}),
    }
    fields = {f"Value #{chr(ord('A') + place)}": name for place, name in enumerate(values)}
    return table(
        "Tasks at the proxy",
        "One row a task, as the clients named run and task; empty where they named none. Energy is shared evenly with requests"
        " that ran at the same time, so that rows add up to the GPU's own; At most is all energy while the task's requests ran."
        " TTFT, Request and Confidence are means; Load and Queue are sums. n/a: the server does not tell.",
        [Query(expr if name in COUNTED else known(expr), "__auto", "table") for name, (expr, _) in values.items()],
        {"run_id": "Run", "task_id": "Task", "model": "Model", **fields},
        overrides=[
            override("Run", custom__minWidth=130),
            override("Task", custom__minWidth=150),
            *(override(name, mappings=ABSENCE, **shown) for name, (_, shown) in values.items()),
        ],
        sort="Energy",
        empty=NOTHING,
    )


def task_panels(task: str) -> list[Json]:
    """Of the one task that ``task`` selects."""

    def whole(metric: Metric, suffix: str = "") -> str:
        return f"sum({latest(metric, task, suffix=suffix)})"

    times = {"prefill": m.PROXY_PREFILL, "decode": m.PROXY_DECODE, "load": m.PROXY_LOAD, "queue": m.PROXY_QUEUE}
    return [
        bargauge(
            "Requests at the proxy",
            "Requests of the task by result.",
            [Query(f"sum by (result) ({latest(m.PROXY_REQUESTS, task)})", "{{result}}", "instant")],
            "none",
            empty=NO_PROXY,
        ),
        bargauge(
            "Seconds at the proxy",
            "As the model server timed them; queue is what Ollama spent on none of the others; then the requests as a whole.",
            [
                *(Query(whole(metric, "_sum"), name, "instant") for name, metric in times.items()),
                Query(whole(m.PROXY_TASK_DURATION, "_sum"), "requests, whole", "instant"),
            ],
            "s",
            empty=NO_PROXY,
        ),
        stat(
            "Energy at the proxy",
            "Shared evenly with requests that ran at the same time, and all energy while requests of the task ran. Time in which"
            " the task asked nothing is in neither.",
            [Query(whole(m.PROXY_ENERGY), "shared", "instant"), Query(whole(m.PROXY_ENERGY_WHOLE), "at most", "instant")],
            "joule",
            decimals=1,
            empty=NO_PROXY,
        ),
        stat(
            "Tokens at the proxy",
            "As the model server counted them; cached where it tells.",
            [
                Query(whole(m.PROXY_PROMPT_TOKENS), "prompt", "instant"),
                Query(whole(m.PROXY_CACHED_TOKENS), "cached", "instant"),
                Query(whole(m.PROXY_COMPLETION_TOKENS), "completion", "instant"),
            ],
            "none",
            empty=NO_PROXY,
        ),
        stat(
            "Waits at the proxy",
            "Means: time to first token of the task's streamed requests, and whole requests.",
            [
                Query(ratio(whole(m.PROXY_TASK_TTFT, "_sum"), whole(m.PROXY_TASK_TTFT, "_count")), "TTFT", "instant"),
                Query(ratio(whole(m.PROXY_TASK_DURATION, "_sum"), whole(m.PROXY_TASK_DURATION, "_count")), "request", "instant"),
            ],
            "s",
            empty=NO_PROXY,
        ),
    ]
