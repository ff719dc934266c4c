"""The result of a check. ``ok`` and ``skipped`` need nothing done; a ``warning`` needs a look, a ``failure`` a repair."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from joulebench.doctor.values import path_of
from joulebench.schema import TaskResult

OK, SKIPPED, WARNING, FAILURE = "ok", "skipped", "warning", "failure"
SEVERITIES = (OK, SKIPPED, WARNING, FAILURE)


@dataclass(frozen=True, slots=True)
class Case:
    """One file that a check objects to, and what it saw there."""

    path: Path
    saw: str


@dataclass(frozen=True, slots=True)
class CheckResult:
    """``reason``: what is wrong and why it matters. ``fix``: what to do; empty where nothing is wrong.

    ``checked``: tasks that could be checked; the others lack what the check needs.
    """

    check: str
    severity: str
    reason: str
    fix: str = ""
    cases: tuple[Case, ...] = ()
    checked: int = 0


class NotChecked(LookupError):
    """The file, or the card, does not have what a check needs; the message says what."""


Judge = Callable[[TaskResult], str | None]
"""What is wrong with one task, or None. Raises NotChecked where the file does not have what the check needs."""


def check_each(
    check: str,
    tasks: Sequence[TaskResult],
    judge: Judge,
    *,
    why: str,
    fix: str,
    severity: str = FAILURE,
    skipped: str = "no file has the values that it needs",
) -> CheckResult:
    """A check of each task on its own. ``why`` completes 'N of M tasks: ...'; ``skipped``: the reason without any checked."""
    cases: list[Case] = []
    missing: list[str] = []
    checked = 0
    for task in tasks:
        try:
            wrong = judge(task)
        except NotChecked as error:
            missing.append(str(error))
            continue
        checked += 1
        if wrong is not None:
            cases.append(Case(path_of(task), wrong))
    if not checked:
        return CheckResult(check, SKIPPED, next(filter(None, missing), skipped))
    if cases:
        return CheckResult(check, severity, f"{len(cases)} of {checked} tasks: {why}", fix, tuple(cases), checked)
    others = f", {len(missing)} not checked ({next(filter(None, missing), skipped)})" if missing else ""
    return CheckResult(check, OK, f"{checked} of {len(tasks)} tasks{others}", checked=checked)


def required(value: float | None, missing: str = "") -> float:
    """``value``; raises NotChecked where it is not known."""
    if value is None:
        raise NotChecked(missing)
    return value


def worst_severity(results: Iterable[CheckResult]) -> str:
    return max((result.severity for result in results), key=SEVERITIES.index, default=OK)
