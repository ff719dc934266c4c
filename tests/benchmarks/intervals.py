"""How often the 95 % intervals of a comparison contain the truth, and how often equal arms show a difference.

Every repetition draws the tasks of a suite from a world in which tasks differ in how hard and how dear they are, and both arms
find the same ones hard; the truth is the ratio of the expected sums. Each goes the whole way through rows and comparison.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import numpy as np
from scipy import stats

from joulebench.analysis.comparison import BETTER, PERHAPS_BETTER, PERHAPS_WORSE, WORSE, Arm, compare
from joulebench.analysis.prediction.calibration import auroc_interval
from joulebench.analysis.runs import Attempt
from joulebench.analysis.statistics import RESAMPLES, TaskResampler, TaskSums
from joulebench.clock import Clock
from tests.benchmarks.report import Report, Target
from tests.fakes.scripted_run import Scripted, attempt_of

REPETITIONS = 400
LEAST_COVERAGE = 0.93
WORLDS = ((20, 1), (30, 3), (100, 1))
"""(tasks of a suite, attempts at each)"""
TRUTH_TASKS = 400_000
EQUAL_ARMS = (2, 3, 6)
EQUAL_TASKS = (18, 50)
FLAKY_TASKS = (0, 4, 8, 14)
"""Tasks that succeed at random, half of the time; all others always succeed or never."""
MOST_FALSE = 0.07
"""5 % for each of two families of findings, which mostly err together."""
AUROC_WORLDS = ((60, 20), (120, 50), (400, 60))
"""(samples, failures) with scores one deviation apart, of which the AUROC is 0.7602."""
RESAMPLED_TASKS = 2000
SKEWS = (0.6, 0.9, 1.2)
"""Deviations of the logarithm of a task's joules."""
SKEWED_TASKS = (20, 50, 100, 400)
SKEWED_REPETITIONS = 2000
LEAST_SKEWED_COVERAGE = 0.90


@dataclass(frozen=True)
class Model:
    """``skill`` shifts the log odds of success; ``joules`` of a typical task; a failure takes ``failure`` times as many."""

    name: str
    skill: float
    joules: float
    failure: float


BASE, ARM = Model("base", 0.6, 900.0, 1.6), Model("arm", 0.1, 700.0, 1.4)


@dataclass(frozen=True)
class Kind:
    hardness: float
    size: float

    @classmethod
    def drawn(cls, random: Random) -> Kind:
        return cls(random.gauss(0.0, 1.2), random.lognormvariate(0.0, 0.6))

    def chance(self, model: Model) -> float:
        return 1 / (1 + math.exp(self.hardness - model.skill))


def _attempts(model: Model, kinds: list[Kind], attempts: int, random: Random) -> Iterator[Attempt]:
    for number, kind in enumerate(kinds):
        for attempt in range(attempts):
            good = random.random() < kind.chance(model)
            joules = kind.size * model.joules * (1.0 if good else model.failure) * random.lognormvariate(0.0, 0.15)
            tokens = max(1, round(80 * kind.size * random.lognormvariate(0.0, 0.1)))
            task_id = f"t{number}" if not attempt else f"t{number}#{attempt + 1}"
            seconds = joules / 300
            yield attempt_of(
                Scripted(task_id, good, joules, seconds, 0.1 * seconds, 500, None, tokens, model.name), model.name, 1e9 + number
            )


def _truth(model: Model) -> dict[str, float]:
    """Ratios of expected sums, by averaging over many drawn tasks what the rest of a task does on average."""
    random = Random(99)
    noise, token_noise = math.exp(0.15**2 / 2), math.exp(0.1**2 / 2)
    joules = success = tokens = 0.0
    for _ in range(TRUTH_TASKS):
        kind = Kind.drawn(random)
        chance = kind.chance(model)
        success += chance
        joules += kind.size * model.joules * (chance + (1 - chance) * model.failure) * noise
        tokens += 80 * kind.size * token_noise
    return {
        "joules_per_success": joules / success,
        "success_rate": success / TRUTH_TASKS,
        "success_per_joule": success / joules,
        "tokens_per_joule": (500 * TRUTH_TASKS + tokens) / joules,
        "joules_per_completion_token": joules / tokens,
        "seconds_per_task": joules / 300 / TRUTH_TASKS,
    }


def run(report: Report, clock: Clock) -> None:
    report.heading("Coverage of intervals")
    truth = [_truth(model) for model in (BASE, ARM)]
    began = clock.monotonic()
    worst = 1.0
    for tasks, attempts in WORLDS:
        held: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
        found = 0
        for repetition in range(REPETITIONS):
            random = Random(f"{tasks} {repetition}")
            kinds = [Kind.drawn(random) for _ in range(tasks)]
            arms = [Arm(m.name, m.name, m.name, tuple(_attempts(m, kinds, attempts, random))) for m in (BASE, ARM)]
            (pair,) = compare(arms).pairs
            for one in pair.differences:
                key = one.measure.key
                wanted = (truth[0][key], truth[1][key], truth[1][key] - truth[0][key])
                for place, (estimate, value) in enumerate(zip((one.base, one.arm, one.difference), wanted, strict=True)):
                    held[key][place] += estimate.interval is not None and estimate.interval.contains(value)
            found += pair.differences[0].finding == "better"
        rows = [(key, *(f"{100 * count / REPETITIONS:.1f} %" for count in counts)) for key, counts in held.items()]
        worst = min([worst, *(count / REPETITIONS for counts in held.values() for count in counts)])
        title = f"{tasks} tasks, {attempts} attempts each; {REPETITIONS} repetitions; share of intervals that contain the truth"
        report.table(("measure", BASE.name, ARM.name, "difference"), rows, title)
    known = 100 * math.sqrt(0.95 * 0.05 / REPETITIONS)
    report.say(f"a share of 95 % is known within {known:.1f} points (one deviation) from {REPETITIONS} repetitions")
    _skewed_means(report)
    _auroc(report)
    _resampling(report, clock)
    _equal_arms(report)
    report.say(f"{len(WORLDS) * REPETITIONS} comparisons in {clock.monotonic() - began:.0f} s")
    report.targets.append(Target("worst coverage of all 95 % intervals", 100 * LEAST_COVERAGE, 100 * worst, "%", at_least=True))


def _skewed_means(report: Report) -> None:
    """Mean joules of tasks that are very unequal, of which few tasks show too little of the tail."""
    random = np.random.default_rng(1)
    rows, worst = [], 1.0
    for sigma in SKEWS:
        for tasks in SKEWED_TASKS:
            resampler, held = TaskResampler(tasks), 0
            for _ in range(SKEWED_REPETITIONS):
                interval = resampler.ratio(TaskSums(random.lognormal(0.0, sigma, tasks), np.ones(tasks))).interval
                held += interval is not None and interval.contains(math.exp(sigma**2 / 2))
            rows.append((f"{sigma:g}", str(tasks), f"{100 * held / SKEWED_REPETITIONS:.1f} %"))
            worst = min(worst, held / SKEWED_REPETITIONS)
    report.table(("log deviation", "tasks", "coverage"), rows, "mean joules: share of 95 % intervals that contain the truth")
    report.targets.append(
        Target("coverage of mean joules, however skewed", 100 * LEAST_SKEWED_COVERAGE, 100 * worst, "%", at_least=True)
    )


def _auroc(report: Report) -> None:
    random = np.random.default_rng(12)
    rows = []
    for samples, failures in AUROC_WORLDS:
        good = np.arange(samples) >= failures
        groups = [str(number) for number in range(samples)]
        held = 0
        for _ in range(REPETITIONS):
            interval = auroc_interval(random.normal(1.0 * good, 1.0), good, groups)
            held += interval is not None and interval[0] <= 0.7602 <= interval[1]
        rows.append((str(samples), str(failures), f"{100 * held / REPETITIONS:.1f} %"))
        what, share = f"coverage of the AUROC, {failures} of {samples} failed", 100 * held / REPETITIONS
        report.targets.append(Target(what, 100 * LEAST_COVERAGE, share, "%", at_least=True))
    report.table(("samples", "failures", "coverage"), rows, "AUROC: share of 95 % intervals that contain the truth")


def _resampling(report: Report, clock: Clock) -> None:
    """Why statistics.TaskResampler does not call scipy's bootstrap."""
    random = np.random.default_rng(3)
    tops, bottoms = random.lognormal(5.0, 0.5, RESAMPLED_TASKS), (random.random(RESAMPLED_TASKS) < 0.7).astype(float)
    began = clock.monotonic()
    resampler = TaskResampler(RESAMPLED_TASKS)
    drawn = clock.monotonic()
    resampler.ratio(TaskSums(tops, bottoms))
    own = clock.monotonic()
    stats.bootstrap(
        (tops, bottoms),
        lambda top, bottom, axis: top.sum(axis) / bottom.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
    )
    theirs = clock.monotonic()
    report.say(
        f"resampling {RESAMPLED_TASKS:,} tasks: {own - drawn:.2f} s a ratio after {drawn - began:.2f} s once for all ratios;"
        f" scipy.stats.bootstrap {theirs - own:.2f} s a ratio"
    )


def _equal_arms(report: Report) -> None:
    """Arms that are the same model: every finding is false, however many differences are shown."""
    rows = []
    worst = 0.0
    for arms in EQUAL_ARMS:
        for tasks in EQUAL_TASKS:
            for flaky in FLAKY_TASKS:
                false, hints = _false_findings(arms, tasks, flaky)
                worst = max(worst, false)
                rows.append((str(arms), str(tasks), str(flaky), f"{100 * false:.1f} %", f"{100 * hints:.1f} %"))
    title = f"equal arms; {REPETITIONS} repetitions; share of comparisons with a false finding"
    report.table(("arms", "tasks", "flaky tasks", "any finding", "any 'perhaps'"), rows, title)
    report.targets.append(Target("equal arms: worst share of false findings", 100 * MOST_FALSE, 100 * worst, "%"))


def _false_findings(arms: int, tasks: int, flaky: int) -> tuple[float, float]:
    false = hints = 0
    for repetition in range(REPETITIONS):
        random = Random(f"equal {arms} {tasks} {flaky} {repetition}")
        sizes = [random.lognormvariate(6.5, 0.8) for _ in range(tasks)]
        compared = [Arm(f"arm-{arm}", f"arm-{arm}", "model", tuple(_equal_attempts(sizes, flaky, random))) for arm in range(arms)]
        findings = {one.finding for pair in compare(compared).pairs for one in pair.differences}
        false += bool(findings & {BETTER, WORSE})
        hints += bool(findings & {PERHAPS_BETTER, PERHAPS_WORSE})
    return false / REPETITIONS, hints / REPETITIONS


def _equal_attempts(sizes: list[float], flaky: int, random: Random) -> Iterator[Attempt]:
    for number, size in enumerate(sizes):
        good = random.random() < 0.5 if number < flaky else number % 3 != 0
        joules = size * random.lognormvariate(0.0, 0.3)
        tokens = max(1, round(size / 10 * random.lognormvariate(0.0, 0.1)))
        seconds = joules / 300 * random.lognormvariate(0.0, 0.1)
        yield attempt_of(Scripted(f"t{number}", good, joules, seconds, 0.1 * seconds, 500, None, tokens), "run", 1e9 + number)
