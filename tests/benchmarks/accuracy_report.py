"""The tables of ``accuracy``."""

from __future__ import annotations

from tests.benchmarks import scene
from tests.benchmarks.environments import Peer
from tests.benchmarks.methods import API, PROMETHEUS, ZEUS
from tests.benchmarks.report import Report, Target
from tests.benchmarks.result import Result
from tests.benchmarks.statistics import Errors, coverage, errors
from tests.benchmarks.windows import CLASSES

P95_LIMITS = (6.0, 2.0, 1.0, 1.0)
ZEUS_FACTOR = 4.0
PROMETHEUS_LIMIT = 1.5
COVERAGE_LIMIT = 95.0
ADDITIVITY_LIMIT = 1.0


def tell(report: Report, result: Result, zeus: Peer, ramp: float) -> None:
    """``ramp``: seconds that each change of power took."""
    report.heading("Energy of a window")
    report.say(
        f"{len(result.taken)} windows on {scene.GPUS} fake GPUs; counters step every"
        f" {1000 * (scene.STEP - scene.STEP_SPREAD):.0f}-{1000 * (scene.STEP + scene.STEP_SPREAD):.0f} ms, power changes"
        f" {f'over {1000 * ramp:.0f} ms' if ramp else 'at once'}.\n"
        "Every method gets the same edges, each taken live where power changes.\n"
        "What this cannot show: sensors that lag or miss part of the time, and counters without a beat.\n"
        "Error in % of the true joules; p95 ratio: p95 over that of the first row."
    )
    if zeus.bin is None:
        report.say(f"{zeus.title}: skipped: {zeus.why}")
    for problem in dict.fromkeys(result.asking_errors):
        report.say(f"exporter: {problem}")
    _error_table(report, result, zeus)
    _bounds_table(report, result)
    _additivity(report, result)
    _targets(report, result)


def _errors(result: Result, method: str) -> list[Errors | None]:
    if method not in result.answers:
        return [None] * len(CLASSES)
    return [errors(result.answers[method], result.taken, result.truth, length) for length in CLASSES]


def _error_table(report: Report, result: Result, zeus: Peer) -> None:
    ours = _errors(result, API)
    for index, length in enumerate(CLASSES):
        rows = []
        for method in result.answers:
            one, first = _errors(result, method)[index], ours[index]
            name = zeus.title if method == ZEUS else method
            if one is None:
                rows.append((name, "-", "-", "-", "-", "0", ""))
                continue
            factor = f"{one.p95 / first.p95:.1f} x" if first and first.p95 else "-"
            unknown = str(one.unknown) if one.unknown else ""
            rows.append((name, f"{one.median:.2f}", f"{one.p95:.2f}", f"{one.bias:+.2f}", factor, str(one.windows), unknown))
        report.table((length.name, "median", "p95", "bias", "p95 ratio", "windows", "unknown"), rows)


def _bounds_table(report: Report, result: Result) -> None:
    rows = []
    for method, answers in result.answers.items():
        cells = []
        for length in CLASSES:
            one = coverage(answers, result.taken, result.truth, length)
            cells.append("-" if one is None else f"{100 * one.share:.1f} % ({one.width:.1f} %)")
        if any(cell != "-" for cell in cells):
            rows.append((method, *cells))
    columns = ("truth within stated low..high (median width)", *(length.name for length in CLASSES))
    report.table(columns, rows)


def _additivity(report: Report, result: Result) -> None:
    known = [1000 * one for one in result.additivity if one is not None]
    if not known:
        report.say("adjacent windows: unknown, the exporter gave no joules for them")
        return
    report.say(
        f"adjacent windows against the window around them, {len(known)} tasks:"
        f" at most {max(known):.2g} mJ for each edge between two"
    )
    report.targets.append(Target("adjacent windows add up, per edge", ADDITIVITY_LIMIT, max(known), "mJ"))


def _targets(report: Report, result: Result) -> None:
    ours, stored, zeus = (_errors(result, method) for method in (API, PROMETHEUS, ZEUS))
    for index, length in enumerate(CLASSES):
        mine, peer = ours[index], zeus[index]
        report.targets.append(Target(f"exporter, p95, {length.name}", P95_LIMITS[index], mine.p95 if mine else None, "%"))
        factor = peer.p95 / mine.p95 if peer and mine and mine.p95 else None
        report.targets.append(Target(f"p95 of Zeus over ours, {length.name}", ZEUS_FACTOR, factor, "x", at_least=True))
    tasks = stored[-1]
    report.targets.append(Target("Prometheus only, p95, whole tasks 2-30 s", PROMETHEUS_LIMIT, tasks.p95 if tasks else None, "%"))
    for method, answers in result.answers.items():
        shares = [one.share for length in CLASSES if (one := coverage(answers, result.taken, result.truth, length))]
        if shares:
            report.targets.append(Target(f"truth within bounds, {method}", COVERAGE_LIMIT, 100 * min(shares), "%", at_least=True))
