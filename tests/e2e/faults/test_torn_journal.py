"""A journal whose last line was cut by a crash: what was pushed stands in for it, and the loss is told."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.e2e.faults.hosts import Host
from tests.e2e.faults.results import export

pytestmark = pytest.mark.e2e

SAME_TEXT = ("status", "success", "total_tokens", "llm_call_count", "energy_source")
SAME_NUMBER = (
    "start_timestamp_seconds",
    "end_timestamp_seconds",
    "total_duration_seconds",
    "total_energy_joules",
    "energy_low_joules",
    "energy_high_joules",
    "avg_temp_c",
)


def cut(host: Host, runs: Path, last: str) -> None:
    """A copy of the host's run whose journal ends in the middle of its first line with ``last`` in it."""
    shutil.copytree(host.runs / host.name, runs / host.name, ignore=shutil.ignore_patterns("result*"))
    (journal,) = (runs / host.name).glob("journal-*.jsonl")
    lines = journal.read_text().splitlines(keepends=True)
    number = next(i for i, line in enumerate(lines) if last in line)
    journal.write_text("".join(lines[:number]) + lines[number][: len(lines[number]) // 2])


@pytest.mark.parametrize(("last", "source"), [("PUSH_STATE", "both"), ("TASK_END", "prometheus")])
def test_the_result_is_whole_from_what_was_pushed(machines: Mapping[str, Host], tmp_path: Path, last: str, source: str) -> None:
    host = machines["driver-580.82.07"]
    cut(host, tmp_path, last)
    results = export(host.name, tmp_path, host.stack.prometheus_url, "--wait=1")
    whole, torn = host.results["one"], results["one"]
    assert "1 damaged lines in the journal were left out" in results.said
    assert [torn.row[column] for column in SAME_TEXT] == [whole.row[column] for column in SAME_TEXT]
    for column in SAME_NUMBER:
        assert torn.cell(column) == pytest.approx(whole.cell(column), rel=1e-11), column
    assert torn.record["measurement"]["sources"]["end"] == source
    assert torn.reasons == whole.reasons
