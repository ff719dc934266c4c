"""The journal that a run of scripted tasks would have left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from joulebench.push.journal import Journal
from joulebench.units import Seconds

CALLS = 3

Window = tuple[float, float]


def write(runs: Path, run_id: str, windows: Sequence[Window]) -> None:
    """Tasks of ``CALLS`` calls each, over these windows (unix seconds)."""
    journal = Journal(runs / run_id / "journal-w.jsonl", run_id, "w")
    journal.write("RUN_START", windows[0][0], model_name="model", suite="", version="0", planned_tasks=len(windows))
    for number, (start, end) in enumerate(windows):
        _task(journal, f"task-{number}", start, end - start)
    journal.write("RUN_END", windows[-1][1])
    journal.close()


def _task(journal: Journal, task_id: str, start: float, length: float) -> None:
    journal.write("TASK_START", start, task_id, task_name="a task", model_name="model", suite="")
    for call in range(CALLS):
        at, seconds = start + call * length / CALLS, 0.8 * length / CALLS
        journal.write("LLM_QUERY_START", at, task_id, call=call + 1, model_name="model")
        journal.write("LLM_FIRST_TOKEN_RECEIVED", at + 0.1 * seconds, task_id, call=call + 1)
        journal.write(
            "LLM_QUERY_END",
            at + seconds,
            task_id,
            call=call + 1,
            status="success",
            error=None,
            prompt_tokens=512,
            completion_tokens=64,
            duration_seconds=Seconds(seconds),
            ttft_seconds=0.1 * seconds,
            prefill_seconds=0.1 * seconds,
            decode_seconds=0.9 * seconds,
            decode_tokens=63,
            load_seconds=None,
        )
    journal.write("TASK_END", start + length, task_id, status="success", success=True, reason="", duration_seconds=length)
