"""``bfcl:CATEGORY[:N]`` as a suite: the first N tasks of a category, in the package's order."""

from __future__ import annotations

from dataclasses import replace

from joulebench.bench.bfcl import package
from joulebench.bench.bfcl.multi_turn import MultiTurnTask
from joulebench.bench.bfcl.single_turn import NO_CALL_WANTED, SingleTurnTask
from joulebench.bench.stage import Work
from joulebench.bench.suites import Suite
from joulebench.errors import UserError

PREFIX = "bfcl:"
_CHECKED = ("multiple", "parallel", "parallel_multiple")
_LIVE = tuple(f"live_{name}" for name in ("simple", *_CHECKED))
MULTI_TURN = "multi_turn_base"
MULTI_TURN_CONTEXT = 8192
"""The tools of its simulators alone take up to 5,000 tokens."""
CATEGORIES = ("simple", *_CHECKED, *_LIVE, *NO_CALL_WANTED, MULTI_TURN)
_FILES = {"simple": "simple_python"}


def load(name: str, examples: int) -> Suite[Work]:
    """``examples``: past turns answered by a call in front of each question. Raises UserError."""
    category, _, limit = name.removeprefix(PREFIX).partition(":")
    category = category.removesuffix("_python")
    if category not in CATEGORIES:
        raise UserError(f"--suite: {name!r} has no category of BFCL that is run here; there are {', '.join(CATEGORIES)}")
    if limit and (not limit.isdecimal() or int(limit) < 1):
        raise UserError(f"--suite: {name!r}: {limit!r} is not a number of tasks; write bfcl:{category}:100")
    file = _FILES.get(category, category)
    entries = package.entries(file)[: int(limit) if limit else None]
    answers = {} if category in NO_CALL_WANTED else package.answers(file)
    tasks = tuple(_task(entry, category, answers, examples) for entry in entries)
    suite = Suite(f"bfcl-{category.replace('_', '-')}", tasks)
    return replace(suite, context_tokens=MULTI_TURN_CONTEXT) if category == MULTI_TURN else suite


def _task(entry: package.Entry, category: str, answers: dict[str, object], examples: int) -> Work:
    answer = answers.get(str(entry["id"]), [])
    assert isinstance(answer, list)
    return MultiTurnTask(entry, answer, examples) if category == MULTI_TURN else SingleTurnTask(entry, category, answer, examples)
