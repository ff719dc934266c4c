"""What a test sees of a running proxy: its addresses, and its numbers by metric and labels."""

from __future__ import annotations

import threading
from collections.abc import Callable

import requests
from prometheus_client.parser import text_string_to_metric_families

from joulebench import metrics as m
from joulebench.clock import SystemClock
from joulebench.metrics import Metric
from joulebench.proxy.server import ProxyServer

CLOCK = SystemClock()


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Raises TimeoutError if it does not come true."""
    end = CLOCK.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        if CLOCK.monotonic() > end:
            raise TimeoutError("the condition did not come true")
        pause.wait(0.005)


class Seen:
    def __init__(self, server: ProxyServer) -> None:
        self.url = server.url
        self.metrics_url = server.metrics_url

    def numbers(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        answer = requests.get(f"{self.metrics_url}/metrics", timeout=5)
        assert answer.status_code == 200
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }

    def value(self, metric: Metric, suffix: str = "", /, **labels: str) -> float | None:
        """The sum over all series that have these labels; None where there are none."""
        wanted = labels.items()
        found = [value for (name, has), value in self.numbers().items() if name == metric.name + suffix and wanted <= has]
        return sum(found) if found else None

    def wait_until_over(self, requests_: int) -> None:
        """Until that many metered requests are counted: what is measured is counted a moment after the client has its reply."""
        wait_for(lambda: self.value(m.PROXY_REQUESTS) == requests_)
