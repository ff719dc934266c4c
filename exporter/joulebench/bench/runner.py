"""The tasks of a run, one after another or in threads, with a listener that shows how it goes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from joulebench.bench.agent import Agent, Outcome
from joulebench.bench.stage import Work
from joulebench.bench.suites import Suite


class Listener(Protocol):
    def started(self, outcome: Outcome) -> None:
        """The outcome goes on changing until ``ended``."""
        ...

    def ended(self, outcome: Outcome) -> None: ...


def run_suite(
    agent: Agent, suite: Suite[Work], listener: Listener, transcripts: Path, *, repeat: int = 1, workers: int = 1
) -> list[Outcome]:
    """Every task ``repeat`` times, a whole round of the suite before the next, so that a drift of the machine meets all tasks.

    ``transcripts``: folder for the conversation of each task, to see what the model said.
    """
    jobs = [spec for _ in range(repeat) for spec in suite.tasks]

    def work(spec: Work) -> Outcome:
        outcome = Outcome(spec.id)
        listener.started(outcome)
        agent.work(spec, outcome)
        _save(transcripts, outcome)
        listener.ended(outcome)
        return outcome

    if workers == 1:
        return [work(spec) for spec in jobs]
    with ThreadPoolExecutor(workers, thread_name_prefix="joulebench-task") as pool:
        try:
            return list(pool.map(work, jobs))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def passed(outcomes: Sequence[Outcome]) -> int:
    return sum(outcome.status == "success" for outcome in outcomes)


def _save(folder: Path, outcome: Outcome) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    told = {"task_id": outcome.task_id, "status": outcome.status, "reason": outcome.reason}
    document = {**told, "messages": [asdict(message) for message in outcome.messages]}
    # A task id is a name of the suite or that with #2 behind it: see suites.py for its alphabet.
    (folder / f"{outcome.task_id}.json").write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
