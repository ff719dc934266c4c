"""Every declared metric with plausible, growing values: an exporter to scrape and the groups that a benchmark pushes.

What it says is invented; that each declared series is there, with every label, is the point.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlsplit

from prometheus_client import generate_latest

from joulebench import metrics as m
from joulebench.clock import SystemClock
from joulebench.metrics import Kind, Metric
from joulebench.metrics.families import Family, Sheet

WATTS = 100.0
PRICES = {m.PRICE_ELECTRICITY: 1e-7, m.PRICE_PUE: 1.2, m.PRICE_HARDWARE: 1e-5, m.PRICE_API: 1e-6, m.PRICE_AS_OF: 1.79e9}
JOULES_OF_TASK = 500.0
RUN_ID = "20270101-000000-abcdef"
LABEL_VALUES: Mapping[str, tuple[str, ...]] = {
    "gpu": ("0",),
    "uuid": ("GPU-0",),
    "reason": m.THROTTLE_REASONS,
    "clock": m.CLOCK_DOMAINS,
    "collector": ("gpu", "ollama"),
    "status": m.TASK_STATUSES,
    "phase": m.PHASES,
    "outcome": m.TOOL_OUTCOMES,
    "source": ("simulated",),
    "gpu_source": ("simulated",),
    "energy_method": ("counter",),
    "model": ("smol:135m",),
    "token": m.API_TOKENS,
    "api_model": ("large-api", "small-api"),
    "item": ("electricity", "hardware", "large-api", "small-api"),
    "currency": ("USD",),
    "tool": ("read_file", "other"),
    "result": m.PROXY_RESULTS,
    "cause": m.PROXY_UNREAD_CAUSES,
    "span_status": m.SPAN_STATUSES,
    "run_id": (RUN_ID,),
    "task_id": ("done", "running"),
    "task_key": ("done",),
}
"""Values of each label; any other label has the one value "x"."""
TASK_LABELS = ("smol:135m", "x")

RUN_PREFIXES = ("joulebench_run_", "joulebench_call_", "joulebench_tool_call_")
RUN_METRICS = tuple(metric for metric in m.METRICS if metric.name.startswith(RUN_PREFIXES))
TASK_METRICS = tuple(metric for metric in m.METRICS if metric.name.startswith("joulebench_task_"))
PUSHED = (*RUN_METRICS, *TASK_METRICS, m.PUSH_FAILURES)
PROXIED = tuple(metric for metric in m.METRICS if metric.name.startswith("joulebench_proxy_"))
SCRAPED = tuple(metric for metric in m.METRICS if metric not in (*PUSHED, *PROXIED))
ABSENT_UNTIL_THE_END = (m.TASK_END, m.TASK_END_OFFSET, m.TASK_DURATION, m.TASK_SUCCESS, m.TASK_STATUS, m.TASK_CHARGED_SECONDS)


def label_sets(metric: Metric) -> Iterator[tuple[str, ...]]:
    return itertools.product(*(LABEL_VALUES.get(name, ("x",)) for name in metric.labels))


def fill(sheet: Sheet, metric: Metric, step: int, value: float | None = None) -> None:
    """All series of ``metric``; ``value`` where it is given, else 1 for gauges and what grows with ``step`` for the others."""
    for labels in label_sets(metric):
        match metric.kind:
            case Kind.HISTOGRAM:
                sheet.histogram(metric, [step] * (len(metric.buckets) + 1), float(step), labels)
            case Kind.SUMMARY:
                sheet.summary(metric, step, float(step), labels)
            case Kind.COUNTER:
                sheet.value(metric, float(step) if value is None else value, labels)
            case Kind.GAUGE:
                sheet.value(metric, 1.0 if value is None else value, labels)


def run_families(step: int) -> list[Family]:
    sheet = Sheet()
    for metric in (*RUN_METRICS, m.PUSH_FAILURES):
        if metric is not m.RUN_PHASE:
            fill(sheet, metric, step)
    for phase in m.PHASES:
        sheet.value(m.RUN_PHASE, float(phase == "decode"), (phase,))
    return sheet.families()


def task_families(step: int, now: float, *, ended: bool) -> list[Family]:
    """A task that began ten seconds ago, and passed if it has ended."""
    sheet = Sheet()
    values = {m.TASK_START: now - 10.0, m.TASK_END: now, m.TASK_SENT: now, m.TASK_DURATION: 10.0, m.TASK_ENERGY: JOULES_OF_TASK}
    values |= {m.TASK_CHARGED_ENERGY: JOULES_OF_TASK, m.TASK_CHARGED_SECONDS: 10.0}
    for metric in TASK_METRICS:
        if metric is not m.TASK_STATUS and (ended or metric not in ABSENT_UNTIL_THE_END):
            fill(sheet, metric, step, values.get(metric))
    if ended:
        sheet.value(m.TASK_STATUS, 1.0, (*TASK_LABELS, "success"))
    return sheet.families()


class Exporter:
    """Serves ``metrics`` on ``port``, and ``more`` text; the energy counter grows by 100 W. ``name[]`` filters as the real one
    does."""

    def __init__(self, port: int, metrics: Sequence[Metric] = SCRAPED, more: str = "") -> None:
        self._metrics, self._more = metrics, more
        self._clock = SystemClock()
        self._begun = self._clock.monotonic()
        self._step = itertools.count(1)
        exporter = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = exporter.exposition(parse_qs(urlsplit(self.path).query).get("name[]", []))
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                # A scrape has a short timeout; on a busy machine it is sometimes over.
                with suppress(ConnectionError):
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """A test's output is no access log."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Exporter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def exposition(self, names: list[str]) -> bytes:
        now, step = self._clock.unix(), next(self._step)
        values = {
            m.GPU_ENERGY: WATTS * (self._clock.monotonic() - self._begun),
            m.GPU_ENERGY_SAMPLE_TIMESTAMP: now - 0.05,
            m.EXPORTER_CLOCK: float(now),
            m.OLLAMA_MODEL_EXPIRES: now + 300.0,
            m.GPU_POWER: WATTS,
            m.GPU_POWER_LIMIT: 2 * WATTS,
            **PRICES,
        }
        sheet = Sheet()
        for metric in self._metrics:
            if not names or metric.name in names:
                fill(sheet, metric, step, values.get(metric))
        return generate_latest(_Collected(sheet.families())) + self._more.encode()


class _Collected:
    """Families as generate_latest wants them."""

    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> list[Family]:
        return self._families
