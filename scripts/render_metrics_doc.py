"""Writes exporter/METRICS.md from the metrics declared in joulebench.metrics.

``--check`` writes nothing and exits with 1 where the file is not up to date.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from generated_doc import ROOT, write_or_check
from joulebench import metrics
from joulebench.metrics import METRICS, PREFIX, Kind, Metric

TARGET = ROOT / "exporter" / "METRICS.md"

SECTIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "GPU",
        "From the exporter. A GPU that is lost keeps only `joulebench_gpu_info`, `joulebench_gpu_up` and the count of failed"
        " reads; a value that the card or its driver does not give has no series.",
        ("gpu_",),
    ),
    (
        "Host",
        "From the exporter, for each RAPL zone of `/sys/class/powercap`: CPU package, memory (`dram`), platform (`psys`, which"
        " contains the package). A machine without RAPL has no series; where only root may read them, docs/METERS.md says what"
        " to do.",
        ("host_",),
    ),
    ("Exporter", "The exporter about itself.", ("exporter_",)),
    (
        "Ollama",
        "From `/api/version`, `/api/ps` and `/api/tags`, asked in the background. A model that is unloaded leaves no series.",
        ("ollama_",),
    ),
    ("Prices", "From the file of `--prices.file`, in its currency, for one base unit.", ("price_",)),
    (
        "Run",
        "Pushed by the benchmark in the group `{job, run_id, worker}`; these labels stand on every series beside those named"
        " here.",
        ("run_", "call_", "tool_", "push_"),
    ),
    (
        "Task",
        "Pushed by the benchmark in the group `{job, run_id, task_id, worker}`; these labels stand on every series beside those"
        " named here.",
        ("task_",),
    ),
    (
        "Proxy",
        "From `joulebench proxy`, scraped. Run and task are what the client named; series of the tasks that were idle longest are"
        " dropped where there are more than `--tasks`.",
        ("proxy_",),
    ),
    ("Every process", "From the exporter, the proxy and each worker of a run, about itself.", ("loop_", "queue_")),
)

CLOSED_LABELS: dict[str, tuple[str, ...]] = {
    "reason": metrics.THROTTLE_REASONS,
    "clock": metrics.CLOCK_DOMAINS,
    "zone": metrics.HOST_ZONES,
    "outcome": metrics.TOOL_OUTCOMES,
    "status": metrics.TASK_STATUSES,
    "phase": metrics.PHASES,
    "token": metrics.API_TOKENS,
    "result": metrics.PROXY_RESULTS,
    "cause": metrics.PROXY_UNREAD_CAUSES,
    "span_status": metrics.SPAN_STATUSES,
}

INTRO = """\
# Metrics

Made from `exporter/joulebench/metrics/` by `python scripts/render_metrics_doc.py`; change it there.

All values are in base units: joules, watts, seconds, bytes, celsius, hertz, ratios from 0 to 1. A value that is not known has no
series; 0 is always a measurement. A summary is `NAME_sum` and `NAME_count`, without quantiles.
"""


def render(metrics: Sequence[Metric] = METRICS) -> str:
    """Raises ValueError for a metric that belongs to no section."""
    parts = [INTRO]
    left = {metric.name: metric for metric in metrics}
    for title, text, prefixes in SECTIONS:
        chosen = [metric for metric in metrics if metric.name.removeprefix(PREFIX).startswith(prefixes)]
        for metric in chosen:
            left.pop(metric.name)
        parts.append(f"\n## {title}\n\n{text}\n\n{table(chosen)}")
    if left:
        raise ValueError(f"no section of METRICS.md takes {', '.join(left)}")
    parts.append(f"\n## Closed label values\n\n{closed_labels()}")
    parts.append(f"\n## Buckets\n\n{buckets(metrics)}")
    return "".join(parts)


def table(metrics: Iterable[Metric]) -> str:
    lines = ["| name | kind | labels | meaning |", "|---|---|---|---|"]
    for metric in metrics:
        labels = ", ".join(f"`{label}`" for label in metric.labels) or "none"
        text = metric.help.replace("|", "\\|")
        if metric.unused_because:
            text += f" (On no dashboard: {metric.unused_because})"
        lines.append(f"| `{metric.name}` | {metric.kind.value} | {labels} | {text} |")
    return "\n".join(lines) + "\n"


def closed_labels() -> str:
    lines = ["| label | values |", "|---|---|"]
    lines += [f"| `{label}` | {', '.join(f'`{value}`' for value in values)} |" for label, values in CLOSED_LABELS.items()]
    return "\n".join(lines) + "\n"


def buckets(metrics: Iterable[Metric]) -> str:
    lines = [
        f"- `{metric.name}`: {', '.join(f'{bound:g}' for bound in metric.buckets)}"
        for metric in metrics
        if metric.kind is Kind.HISTOGRAM
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(write_or_check(render, TARGET, __doc__))
