"""All checks over a directory of results, and the report of them as text or data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from joulebench.doctor.findings import FAILURE, WARNING, CheckResult, worst_severity
from joulebench.doctor.measurement_checks import measurement_checks
from joulebench.doctor.plausibility_checks import KnownPower, plausibility_checks
from joulebench.doctor.values import load_readable_results
from joulebench.errors import UserError

SHOWN_CASES = 5


@dataclass(frozen=True, slots=True)
class DoctorReport:
    root: Path
    tasks: int
    findings: list[CheckResult]

    @property
    def verdict(self) -> str:
        return worst_severity(self.findings)

    def data(self) -> dict[str, Any]:
        """As JSON can hold it."""
        findings = [asdict(finding) for finding in self.findings]
        for finding in findings:
            finding["cases"] = [{"path": str(case["path"]), "saw": case["saw"]} for case in finding["cases"]]
        return {"results": str(self.root), "tasks": self.tasks, "verdict": self.verdict, "findings": findings}

    def lines(self, cases: int = SHOWN_CASES) -> Iterator[str]:
        width = max(len(finding.check) for finding in self.findings)
        for finding in self.findings:
            yield f"{finding.severity:<8} {finding.check:<{width}}  {finding.reason}"
            if finding.severity not in (WARNING, FAILURE):
                continue
            yield f"{'':<8} {'':<{width}}  fix: {finding.fix}"
            for case in finding.cases[:cases]:
                path = case.path.relative_to(self.root) if case.path.is_relative_to(self.root) else case.path
                yield f"{'':<8} {'':<{width}}    {path}: {case.saw}"
            if len(finding.cases) > cases:
                yield f"{'':<8} {'':<{width}}    ... and {len(finding.cases) - cases} more"
        counts = ", ".join(f"{count} {severity}" for severity, count in _counts(self.findings))
        yield f"{self.tasks} tasks; {counts}"


def examine_results(root: Path, power: KnownPower | None = None) -> DoctorReport:
    """Raises UserError where there are no results."""
    if not root.exists():
        raise UserError(f"RESULTS: {root} does not exist; give a directory with result_*.json, or one such file")
    results = load_readable_results(root)
    if not results.tasks and not results.unreadable:
        raise UserError(f"RESULTS: no result_*.json below {root}; give the directory of a run, or the client's log directory")
    findings = [
        *measurement_checks(results),
        *plausibility_checks(results.tasks, power or KnownPower()),
    ]
    return DoctorReport(root, len(results.tasks), findings)


def _counts(findings: Sequence[CheckResult]) -> list[tuple[str, int]]:
    counts: dict[str, int] = {}
    for finding in findings:
        counts[finding.severity] = counts.get(finding.severity, 0) + 1
    return sorted(counts.items())
