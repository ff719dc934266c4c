"""A real Pushgateway for callers that push."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from joulebench.clients.pushgateway import Pushgateway
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
