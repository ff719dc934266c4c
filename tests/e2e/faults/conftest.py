"""All machines of the fault tests work at the same time, once for all tests, under one real Prometheus and Pushgateway."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from joulebench.stack.native import Ports
from tests.e2e.faults import hosts
from tests.e2e.faults.hosts import Fleet, Host
from tests.e2e.faults.machines import all_machines
from tests.needs import need_program


@pytest.fixture(scope="session")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Host]]:
    """By name, after their work; the programs still run."""
    for name in ("prometheus", "pushgateway"):
        need_program(name)
    directory = tmp_path_factory.mktemp("machines")
    found = all_machines()
    fleet = Fleet(directory / "stack", Ports.free(), with_exporter=False, with_alertmanager=False)
    try:
        with fleet.scraping([host.address for host in found]):
            hosts.start(found, directory, fleet)
            hosts.work(found)
            for host in found:
                host.export()
            yield {host.name: host for host in found}
    finally:
        for host in found:
            host.exporter.stop()
