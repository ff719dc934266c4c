"""A real Pushgateway for callers that push."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from joulebench.clients.pushgateway import Pushgateway
from tests.hostile.attacked_proxy import MEASURED, TARGET_SECONDS
from tests.unit.push.conftest import RealGateway


class GatewayGroups(RealGateway):
    def groups(self) -> list[dict[str, str]]:
        return Pushgateway(self.url).groups()


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[GatewayGroups]:
    real = GatewayGroups(tmp_path)
    real.program.start()
    try:
        yield real
    finally:
        real.program.stop()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what a bystander and Prometheus saw of each attack on the proxy."""
    if not MEASURED:
        return
    terminalreporter.section(
        f"attacks on the proxy (target: p99 below {1e3 * TARGET_SECONDS:g} ms; load average {os.getloadavg()[0]:.1f} on"
        f" {len(os.sched_getaffinity(0))} cores)"
    )
    heads = ("attack", "p99 ms", "before ms", "requests", "slowest scrape ms", "log bytes")
    terminalreporter.write_line(f"{heads[0]:<28}" + "".join(f"{head:>19}" for head in heads[1:]))
    for one in MEASURED:
        numbers = (1e3 * one.p99, 1e3 * one.p99_before, one.requests, 1e3 * one.slowest_scrape, one.log_bytes)
        terminalreporter.write_line(f"{one.name:<28}" + "".join(f"{number:>19,.0f}" for number in numbers))
