"""The demo does its job without the programs that cannot be had: 18 rows with energy, and a sentence for each such program."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.model_server import ModelServer
from tests.fakes.model_turns import call
from tests.needs import need_program

TASKS = 18
STACK = ("prometheus", "pushgateway", "alertmanager")

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
    with ModelServer(lambda _conversation: call("finish", answer="done")) as model:
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
