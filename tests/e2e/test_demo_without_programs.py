"""The demo does its job without the programs that cannot be had: 18 rows with energy, and a sentence for each such program."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.e2e.recomputed import load_events, recompute
from tests.fakes.model_server import ModelServer
from tests.fakes.model_turns import call
from tests.needs import need_program

TASKS = 18
STACK = ("prometheus", "pushgateway", "alertmanager")

ANSWER = call("finish", answer="done").with_(first_token_after=0.06, token_gap=0.01, prefill_ms=60.0, decode_ms=200.0)

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("missing", [("alertmanager",), ("pushgateway",), STACK], ids=", ".join)
def test_the_demo_ends_well_and_says_in_one_sentence_what_each_missing_program_is_for(
    missing: tuple[str, ...], tmp_path: Path
) -> None:
    there = tmp_path / "programs"
    there.mkdir()
    for name in set(STACK) - set(missing):
        (there / name).symlink_to(need_program(name))
    # A PATH on which nothing of the stack can be: the interpreter is started by its full name.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JOULEBENCH_")}
    environment |= {"PATH": str(there), "XDG_CACHE_HOME": str(tmp_path / "cache"), "JOULEBENCH_PROGRAMS": str(there)}
    with ModelServer(lambda _conversation: ANSWER) as model:
        done = subprocess.run(
            [sys.executable, "-m", "joulebench.cli", "demo", "--no-fetch"],
            cwd=tmp_path,
            env={**environment, "OLLAMA_HOST": model.ollama_url},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    sentences = [line for line in done.stdout.splitlines() if " is missing: " in line]
    assert sorted(line.partition(" is missing: ")[0].lower() for line in sentences) == sorted(missing)
    (table,) = tmp_path.glob("runs/demo-*/results.csv")
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == TASKS
    assert all(float(row["total_energy_joules"]) > 0 for row in rows), "the exporter's window energies are enough"
    assert {row["energy_source"] for row in rows} == {"exporter"}
    assert all(row["avg_ttft_ms"] and row["avg_tool_confidence"] for row in rows), done.stdout
    _assert_values_are_those_of_their_definitions(rows, table.parent)


def _assert_values_are_those_of_their_definitions(rows: Sequence[Mapping[str, str]], run: Path) -> None:
    events = load_events(run)
    for row in rows:
        for name, value in recompute(events, row["task_id"]).items():
            shown = float(row[name]) if row[name] else None
            assert shown == (None if value is None else pytest.approx(value, rel=1e-6, abs=1e-6)), (row["task_id"], name)
