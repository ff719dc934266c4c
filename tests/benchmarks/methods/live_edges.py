"""Runs the windows: a subprocess takes each edge at its moment, with Zeus where it could be installed, and tells when it was."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.benchmarks.methods import Answers, Estimate
from tests.benchmarks.windows import Planned, Taken

SCRIPT = Path(__file__).parents[1] / "peers" / "window_edges.py"


def run(
    plan: Sequence[Planned],
    origin: float,
    directory: Path,
    environment: Mapping[str, str],
    *,
    zeus_python: Path | None,
    ended: Callable[[Taken], None],
) -> tuple[list[Taken], Answers]:
    """``origin``: monotonic time of the plan's 0. ``ended`` is called for each window as it ends. Answers are Zeus' own.

    Raises RuntimeError, with what the subprocess said last, when it breaks off.
    """
    file = directory / "plan.json"
    file.write_text(json.dumps([[one.id, one.gpu, origin + one.start, origin + one.end] for one in plan]))
    argv = [str(zeus_python or sys.executable), str(SCRIPT), str(file), *(() if zeus_python else ("--without-zeus",))]
    planned = {one.id: one for one in plan}
    taken: list[Taken] = []
    answers: dict[int, Estimate] = {}
    log = directory / "edges.log"
    with (
        log.open("w") as errors,
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=errors, env=dict(environment), text=True) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            number, start, end, start_unix, end_unix, joules = json.loads(line)
            window = Taken(planned[number], start, end, start_unix, end_unix)
            taken.append(window)
            ended(window)
            if joules is not None:
                answers[number] = Estimate(joules)
    if process.returncode:
        raise RuntimeError("\n".join(log.read_text().splitlines()[-3:]))
    return taken, answers
