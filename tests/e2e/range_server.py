"""The scripted model server as a process of its own, so that a test can stop it dead: ``range_server.py SECONDS``.

Tasks are called ``t1`` to ``t4``, take ``SECONDS`` each and all succeed but ``t3``.
"""

from __future__ import annotations

import sys

from tests.e2e.scene import PlannedTask
from tests.fakes.model_server import ModelServer
from tests.fakes.model_turns import by_instruction


def tasks(seconds: float) -> list[PlannedTask]:
    return [PlannedTask(f"t{number}", seconds, 0.9, passes=number != 3) for number in range(1, 5)]


if __name__ == "__main__":
    with ModelServer(by_instruction({task.instruction: task.turns for task in tasks(float(sys.argv[1]))})) as server:
        print(server.openai_url, flush=True)  # noqa: T201
        sys.stdin.read()
