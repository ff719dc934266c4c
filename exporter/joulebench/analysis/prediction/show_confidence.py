"""The confidence report as text, and as a reliability diagram in SVG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from joulebench.analysis.prediction.confidence import ABOVE, LEAST_FAILURES, LEAST_SUCCESSES, REGRESSION, Level, Report, Row
from joulebench.analysis.prediction.levels import NO_ERROR_SEEN
from joulebench.analysis.prediction.records import SCORE
from joulebench.analysis.prediction.savings import Saving
from joulebench.analysis.prediction.statistics import RESAMPLES

_HEAD = (
    f"  {'measure':<14} {'n':>5} {'failures':>8} {'base':>5}  {'AUROC':>5} {'95 % CI':<13}"
    f" {'Brier':>6} {'ECE':>6} {'AURC':>6}  finding"
)
_NOTES = (
    f"AUROC: chance is 0.5; intervals from {RESAMPLES} resamples of whole tasks.",
    "base: share of successes. AURC: less is better, chance is 1 - base.",
    f"{REGRESSION}: logistic regression over all measures, each task predicted by a fit to other tasks.",
    f"{NO_ERROR_SEEN}: whether all calls of the task went through, which is seen without any confidence.",
    "Each row is one of many looked at: the best of them looks better here than it will be on new tasks.",
)


def as_text(reports: Sequence[Report]) -> str:
    lines: list[str] = []
    for report in reports:
        lines += [*_model(report), ""]
    lines += _NOTES
    return "\n".join(lines)


def _model(report: Report) -> Iterator[str]:
    yield (
        f"model {report.model}: {report.calls} tool calls, {report.scored_calls} with a score, in {report.tasks} tasks"
        f" ({report.without_call} without a call); runs {', '.join(report.runs)}"
    )
    for level in report.levels:
        yield from _level(level)
    if report.refused:
        yield f"nothing is claimed for {report.model}: no level has {LEAST_FAILURES} failures and {LEAST_SUCCESSES} successes"
        return
    yield from _savings(report.savings, simulated=report.simulated)


def _level(level: Level) -> Iterator[str]:
    rate = "" if level.base_rate is None else f", {100 * level.base_rate:.1f} % good"
    yield f"{level.level}: n {level.n}, failures {level.failures}{rate}"
    if level.refused:
        yield f"  refused: {level.refused}"
        return
    yield _HEAD
    yield from map(_row, level.rows)
    if not any(row.finding == ABOVE and row.measure != NO_ERROR_SEEN for row in level.rows):
        yield "  a null result: no measure told good from bad better than chance"


def _row(row: Row) -> str:
    start = f"  {row.measure:<14} {row.n:>5} {row.failures:>8} {_number(row.base_rate, 5, 2)}"
    if row.refused:
        return f"{start}  refused: {row.refused}"
    interval = "unknown" if row.auroc_low is None else f"{row.auroc_low:.3f}-{row.auroc_high:.3f}"
    return (
        f"{start}  {_number(row.auroc, 5)} {interval:<13} {_number(row.brier, 6)} {_number(row.ece, 6)} {_number(row.aurc, 6)}"
        f"  {row.finding}"
    )


def _savings(found: Sequence[Saving], *, simulated: bool) -> Iterator[str]:
    yield "giving a task up at its first call with a score below a threshold" + (
        " (joules of a SIMULATED GPU)" if simulated else ""
    )
    yield f"  {'threshold':>9} {'given up':>8} {'failures':>8} {'lost successes':>14} {'joules saved in failures':>25}"
    for one in found:
        saved = "unknown" if one.saved_joules is None else f"{one.saved_joules:.0f}"
        share = f" ({100 * one.saved_joules / one.all_joules:.0f} %)" if one.saved_joules is not None and one.all_joules else ""
        yield f"  {one.threshold:>9.2f} {one.given_up:>8} {one.failures:>8} {one.lost_successes:>14} {saved + share:>25}"


def _number(value: float | None, width: int, digits: int = 3) -> str:
    return f"{'-' if value is None else format(value, f'.{digits}f'):>{width}}"


_SIDE = 220
_MARGIN = 40
_COLOURS = {SCORE: "#1f77b4", REGRESSION: "#d62728"}


def as_svg(reports: Sequence[Report]) -> str:
    """How good against how sure, one square for each level of each model that was not refused; dots are bins of equal mass."""
    squares = [(report, level) for report in reports for level in report.levels if not level.refused]
    width, height = max(1, len(squares)) * (_SIDE + _MARGIN) + _MARGIN, _SIDE + 3 * _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="11">'
    ]
    parts.append(f'<rect width="{width}" height="{height}" fill="white"/>')
    for number, (report, level) in enumerate(squares):
        parts += _square(_MARGIN + number * (_SIDE + _MARGIN), _MARGIN, f"{report.model}: {level.level}", level)
    return "\n".join([*parts, "</svg>", ""])


def _square(left: float, top: float, title: str, level: Level) -> Iterator[str]:
    bottom, right = top + _SIDE, left + _SIDE
    yield f'<text x="{left}" y="{top - 8}">{escape(title)}, n {level.n}</text>'
    yield f'<rect x="{left}" y="{top}" width="{_SIDE}" height="{_SIDE}" fill="none" stroke="#888"/>'
    yield f'<line x1="{left}" y1="{bottom}" x2="{right}" y2="{top}" stroke="#bbb" stroke-dasharray="4 3"/>'
    for tick in (0.0, 0.5, 1.0):
        yield f'<text x="{left + tick * _SIDE}" y="{bottom + 14}" text-anchor="middle">{tick:g}</text>'
        yield f'<text x="{left - 4}" y="{bottom - tick * _SIDE + 4}" text-anchor="end">{tick:g}</text>'
    drawn = [row for row in level.rows if row.measure in _COLOURS and row.bins]
    for number, row in enumerate(drawn):
        colour = _COLOURS[row.measure]
        points = [(left + one.sure * _SIDE, bottom - one.good * _SIDE) for one in row.bins]
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        yield f'<polyline points="{joined}" fill="none" stroke="{colour}"/>'
        yield from (f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points)
        yield f'<text x="{left}" y="{bottom + 30 + 14 * number}" fill="{colour}">{row.measure}, ECE {row.ece:.3f}</text>'
