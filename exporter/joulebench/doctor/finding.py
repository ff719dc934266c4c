"""What a check says. ``ok`` and ``skipped`` need nothing done; a ``warning`` needs a thought, a ``failure`` a repair."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from joulebench.doctor.facts import Facts

OK, SKIPPED, WARNING, FAILURE = "ok", "skipped", "warning", "failure"
SEVERITIES = (OK, SKIPPED, WARNING, FAILURE)


@dataclass(frozen=True, slots=True)
class Case:
    """One file that a check objects to, and what it saw there."""

    path: Path
    saw: str


@dataclass(frozen=True, slots=True)
class Finding:
    """``reason``: what was found and why it matters. ``fix``: what to do; empty where nothing is wrong."""

    check: str
    severity: str
    reason: str
    fix: str = ""
    cases: tuple[Case, ...] = ()
    checked: int = 0


Judge = Callable[[Facts], str | None]
"""What is wrong with one task, or None. Raises LookupError where the file does not tell."""


def judged(
    check: str,
    tasks: Sequence[Facts],
    judge: Judge,
    *,
    why: str,
    fix: str,
    severity: str = FAILURE,
    not_told: str = "no file tells it",
) -> Finding:
    """A check of each task on its own. ``why`` completes 'N of M tasks: ...'."""
    cases: list[Case] = []
    checked = 0
    for task in tasks:
        try:
            wrong = judge(task)
        except LookupError:
            continue
        checked += 1
        if wrong is not None:
            cases.append(Case(task.path, wrong))
    if not checked:
        return Finding(check, SKIPPED, not_told)
    if not cases:
        return Finding(check, OK, f"{checked} of {checked} tasks", checked=checked)
    return Finding(check, severity, f"{len(cases)} of {checked} tasks: {why}", fix, tuple(cases), checked)


def told(value: float | None) -> float:
    """``value``, or LookupError where it is not known."""
    if value is None:
        raise LookupError
    return value


def worst(findings: Iterable[Finding]) -> str:
    return max((finding.severity for finding in findings), key=SEVERITIES.index, default=OK)
