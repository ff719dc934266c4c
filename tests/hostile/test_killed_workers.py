"""``kill -9`` of a benchmark at any moment: every task that it had ended is in the results, with its verdict and its tokens."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from joulebench import cli

ROUNDS = 22
TASKS = 30
"""Tasks of a round that have surely ended when its process is killed; it goes on with more until then."""
AT_ONCE = 4
RUN_ID = "killed"

PROGRAM = """
import itertools, sys
from joulebench import Run

worker, runs_dir, gateway_url = sys.argv[1:]
with Run(model="m", run_id="killed", worker=worker, runs_dir=runs_dir, gateway_url=gateway_url, prometheus_url="none",
         exporter_url="none") as run:
    for number in itertools.count():
        with run.task(f"{worker} task {number}") as task:
            with task.call() as call:
                call.finish(prompt_tokens=number, completion_tokens=2 * number)
            task.succeed()
        print(number, flush=True)
"""


def kill_while_it_works(number: int, program: Path, gateway_url: str) -> dict[str, int]:
    """Runs a benchmark and kills it. Returns the number in each task that it had ended by then, as it says itself."""
    worker = f"w{number:02d}"
    argv = [sys.executable, str(program), worker, str(program.parent), gateway_url]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ended = [process.stdout.readline() for _ in range(TASKS)]
        process.send_signal(signal.SIGKILL)
        ended += process.stdout.readlines()
        assert process.wait(10) == -signal.SIGKILL
    return {f"{worker} task {int(line)}": int(line) for line in ended if line.endswith("\n")}


def test_22_rounds_of_kill_9_lose_no_task_that_had_ended(tmp_path: Path, gateway: Any) -> None:
    program = tmp_path / "benchmark.py"
    program.write_text(PROGRAM)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        rounds = list(pool.map(lambda number: kill_while_it_works(number, program, gateway.url), range(ROUNDS)))
    ended = {name: number for numbers in rounds for name, number in numbers.items()}
    assert len(ended) >= ROUNDS * TASKS

    argv = ["export", "--run-id", RUN_ID, "--runs-dir", str(tmp_path), "--prometheus-url", "none", "--gateway-url", "none"]
    assert cli.main(argv) in (0, 1)
    directory = tmp_path / RUN_ID
    results = {}
    for path in directory.glob("result_*.json"):
        result = json.loads(path.read_text())
        results[result["metadata"]["task_id"]] = result["computed_metrics"]
    survived = {
        name
        for name, number in ended.items()
        if name in results
        and results[name]["task_completion_status"]["status"] == "success"
        and results[name]["llm_token_usage"]["total_prompt_tokens"] == number
        and results[name]["llm_token_usage"]["total_completion_tokens"] == 2 * number
    }
    first = {name for name in ended if ended[name] < TASKS}
    print(  # noqa: T201 - shown by -s
        f"{ROUNDS} rounds of kill -9: {len(first & survived)} of {len(first)} tasks survive"
        f" (with those that ended before the signal came: {len(survived)} of {len(ended)})"
    )
    assert survived == set(ended)
    # Beside them at most the task of each round that was open, or had ended and was not printed yet.
    cut_off = {name: result["task_completion_status"]["status"] for name, result in results.items() if name not in ended}
    assert len(cut_off) <= ROUNDS
    assert set(cut_off.values()) <= {"unfinished", "success"}
    with (directory / "results.csv").open(newline="") as table:
        assert sorted(row["task_id"] for row in csv.DictReader(table)) == sorted(results)
