"""One worker process of the loss test: runs short tasks of known content and prints what it did, as JSON, when it is done."""

from __future__ import annotations

import json
import random
import sys
import threading
from dataclasses import asdict, dataclass

from joulebench import Run
from joulebench.confidence.measures import CallConfidence


@dataclass
class Done:
    """What a task of this worker contains; the numbers that must be read back from Prometheus."""

    task_id: str
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    tools: int = 0
    confidence: float = 0.0


def main(worker: str, tasks: int, *, run_id: str, runs_dir: str, gateway_url: str, prometheus_url: str) -> list[Done]:
    rng = random.Random(worker)
    with Run(
        model="org/model:1b",
        suite="loss",
        run_id=run_id,
        worker=worker,
        runs_dir=runs_dir,
        gateway_url=gateway_url,
        prometheus_url=prometheus_url,
    ) as run:
        return [one_task(run, f"task/{number:02d} of {worker}", rng) for number in range(tasks)]


def one_task(run: Run, name: str, rng: random.Random) -> Done:
    with run.task(name) as task:
        done = Done(task.task_id)
        calls = rng.randint(1, 5)
        budget = rng.choice([0.05, 0.1, 0.2, 0.3, 0.5, 2.0])
        for _ in range(calls):
            with task.call() as call:
                threading.Event().wait(budget / calls / 2)
                call.first_token()
                threading.Event().wait(budget / calls / 2)
                prompt, completion = rng.randint(10, 4000), rng.randint(1, 900)
                call.finish(prompt_tokens=prompt, completion_tokens=completion)
            score = rng.random()
            with task.tool("lookup", {"n": 1}, CallConfidence("ok", "lookup", score, {"name_branch": score})) as tool:
                tool.result("found")
            done.calls += 1
            done.tools += 1
            done.prompt_tokens += prompt
            done.completion_tokens += completion
            done.confidence += score
        task.succeed()
    return done


if __name__ == "__main__":
    worker, tasks, run_id, runs_dir, gateway_url, prometheus_url = sys.argv[1:]
    result = main(worker, int(tasks), run_id=run_id, runs_dir=runs_dir, gateway_url=gateway_url, prometheus_url=prometheus_url)
    json.dump([asdict(done) for done in result], sys.stdout)
