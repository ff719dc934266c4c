"""Arms compared on the tasks that they have in common; what is not comparable is refused or excluded, with the reason.

An arm is one model of one run. Every measure is a ratio of two sums over attempts, and joules per success includes the joules of
failures: whoever needs two attempts pays for both. A task counts for a measure where both arms have an attempt that has it; an
attempt without joules still counts for success and time.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from math import ceil
from pathlib import Path

import numpy as np

from joulebench.analysis import runs
from joulebench.analysis.runs import Attempt, RunResults
from joulebench.analysis.statistics import (
    LEAST_TESTED,
    Estimate,
    TaskResampler,
    TaskSums,
    combined_difference,
    discordant_tasks,
    holm,
    permutation_p_value,
    success_p_value,
    success_rate,
    success_rate_difference,
    without_success,
)
from joulebench.errors import UserError
from joulebench.schema.scopes import GPU

SUITE, SIMULATED, BASIS = "suite", "simulated", "basis"
ALLOWABLE = (SUITE, SIMULATED, BASIS, *runs.WAIVABLE)
MOST_EXCLUDED = 0.25
"""An arm that loses more than this share of its attempts to throttling, overlap or suspicion is refused."""

BETTER, WORSE, NONE, TOO_FEW, UNKNOWN = "better", "worse", "no difference shown", "too few tasks", "not known"
PERHAPS_BETTER, PERHAPS_WORSE = "perhaps better", "perhaps worse"
"""By its own p-value, but not after Holm's correction for the differences beside it."""
LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class Measure:
    """``numerator`` and ``denominator`` of one attempt; an attempt that lacks either counts in neither sum."""

    key: str
    label: str
    unit: str
    lower_is_better: bool
    numerator: Callable[[Attempt], float | None]
    denominator: Callable[[Attempt], float | None]


def _joules(attempt: Attempt) -> float | None:
    return attempt.joules


def _success(attempt: Attempt) -> float | None:
    """An outcome that is not known is not a success."""
    return float(attempt.success is True)


def _attempt_count(_: Attempt) -> float | None:
    return 1.0


def _tokens(attempt: Attempt) -> float | None:
    if attempt.prompt_tokens is None or attempt.completion_tokens is None:
        return None
    return attempt.prompt_tokens + attempt.completion_tokens


def _completion_tokens(attempt: Attempt) -> float | None:
    return attempt.completion_tokens


def _seconds(attempt: Attempt) -> float | None:
    return attempt.seconds


PER_SUCCESS = Measure("joules_per_success", "energy per successful task, failures included", "J", True, _joules, _success)
SUCCESS_RATE = Measure("success_rate", "success rate", "", False, _success, _attempt_count)
SUCCESS_PER_JOULE = Measure("success_per_joule", "successes per joule", "1/J", False, _success, _joules)
MEASURES = (
    PER_SUCCESS,
    SUCCESS_RATE,
    SUCCESS_PER_JOULE,
    Measure("tokens_per_joule", "tokens per joule", "tokens/J", False, _tokens, _joules),
    Measure("joules_per_completion_token", "energy per completion token", "J", True, _joules, _completion_tokens),
    Measure("seconds_per_task", "duration of a task", "s", True, _seconds, _attempt_count),
)
PRIMARY = (PER_SUCCESS, SUCCESS_RATE)
"""The measures that the summary rests on; the others explain them."""


@dataclass(frozen=True, slots=True)
class Arm:
    label: str
    run: str
    model: str
    attempts: tuple[Attempt, ...]

    @property
    def simulated(self) -> bool:
        return any(attempt.simulated for attempt in self.attempts)

    @property
    def device_bases(self) -> tuple[str, ...]:
        """How the devices of its joules are known; empty where no file says so."""
        return tuple(sorted({each.device_basis for each in self.attempts if each.joules is not None and each.device_basis}))

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(sorted({device for each in self.attempts for device in each.devices}))


@dataclass(frozen=True, slots=True)
class Excluded:
    """One attempt that does not count, and why; ``energy_only``: it still counts for success and time."""

    arm: str
    task_id: str
    reason: str
    file: str
    energy_only: bool = False


@dataclass(frozen=True, slots=True)
class Difference:
    """``difference``: arm minus base; ``quotient``: arm / base. ``p``: two-sided, of no difference, exact or by permutation.

    ``adjusted``: p after Holm's correction for all differences shown together. ``finding``: about the arm. ``discordant``:
    tasks with different outcomes, of the success rate; ``tasks_needed``: tasks with which a difference could be shown at
    this rate of different outcomes, where these tasks cannot.
    """

    measure: Measure
    base: Estimate
    arm: Estimate
    difference: Estimate
    quotient: Estimate
    finding: str
    tasks: int
    p: float | None = None
    adjusted: float | None = None
    discordant: int | None = None
    tasks_needed: int | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """``tasks`` in common; ``attempts`` of base and arm. ``refusals``: why there are no ``differences``, and what waives each."""

    base: str
    arm: str
    tasks: int
    attempts: tuple[int, int]
    refusals: tuple[str, ...]
    notes: tuple[str, ...]
    differences: tuple[Difference, ...]
    differing_bases: bool = False


@dataclass(frozen=True, slots=True)
class Comparison:
    arms: tuple[Arm, ...]
    pairs: tuple[Pair, ...]
    excluded: tuple[Excluded, ...]
    scopes: tuple[str, ...] = (GPU,)

    @property
    def refused(self) -> bool:
        return any(pair.refusals for pair in self.pairs)

    @property
    def differing_bases(self) -> bool:
        """Whether a pair was refused because the devices of its arms are known in different ways."""
        return any(pair.differing_bases for pair in self.pairs)


def arms_of_runs(selections: Sequence[tuple[RunResults, str | None]]) -> list[Arm]:
    """An arm for each model of each run, or for the named model only.

    Raises UserError for a model that the run does not have.
    """
    arms = []
    for run, model in selections:
        models = sorted({attempt.model for attempt in run.attempts})
        if model is not None and model not in models:
            raise UserError(f"{run.directory}@{model}: the run has no such model; it has {', '.join(models)}")
        arms += [
            (run.name, name, tuple(attempt for attempt in run.attempts if attempt.model == name))
            for name in models
            if model in (None, name)
        ]
    return [Arm(label, *arm) for label, arm in zip(_labels([(run, model) for run, model, _ in arms]), arms, strict=True)]


def _labels(arms: Sequence[tuple[str, str]]) -> Iterator[str]:
    """The model; where two arms have the same, with the run; where even that is the same, numbered."""
    models, both = Counter(model for _, model in arms), Counter(arms)
    seen: Counter[tuple[str, str]] = Counter()
    for run, model in arms:
        seen[run, model] += 1
        label = model if models[model] == 1 else f"{model} in {run}"
        yield label if both[run, model] == 1 else f"{label} ({seen[run, model]})"


def parse_selection(argument: str) -> tuple[Path, str | None]:
    """(directory, model) of ``DIRECTORY`` or ``DIRECTORY@MODEL``."""
    path = Path(argument)
    if path.exists() or "@" not in argument:
        return path, None
    directory, _, model = argument.rpartition("@")
    return Path(directory), model


def compare(arms: Sequence[Arm], allow: Collection[str] = (), scopes: Sequence[str] = (GPU,)) -> Comparison:
    """Every arm with every arm before it. ``scopes``: whose joules the attempts have. Raises UserError for a single arm."""
    if len(arms) < 2:
        raise UserError(f"only {arms[0].label if arms else 'nothing'} to compare; give two runs, or a run of several models")
    excluded = tuple(each for arm in arms for each in excluded_attempts(arm, allow))
    pairs = apply_holm([compare_pair(base, arm, allow) for base, arm in combinations(arms, 2)])
    return Comparison(tuple(arms), pairs, excluded, tuple(scopes))


def apply_holm(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """The same pairs with the findings that remain when all of them are shown together.

    Primary measures are corrected for each other, and the others for each other.
    """
    tested = [each for pair in pairs for each in pair.differences if each.p is not None]
    adjusted: dict[int, float] = {}
    for primary in (True, False):
        family = [each for each in tested if (each.measure in PRIMARY) is primary]
        levels = holm([each.p for each in family if each.p is not None])
        adjusted |= {id(each): level for each, level in zip(family, levels, strict=True)}
    return tuple(
        replace(pair, differences=tuple(_with_finding(each, adjusted.get(id(each))) for each in pair.differences))
        for pair in pairs
    )


def comparison_counts(pairs: Sequence[Pair]) -> tuple[int, int]:
    """How many differences findings are corrected for: of primary measures, and of the others."""
    tested = [each for pair in pairs for each in pair.differences if each.p is not None]
    primary = sum(each.measure in PRIMARY for each in tested)
    return primary, len(tested) - primary


def _with_finding(difference: Difference, adjusted: float | None) -> Difference:
    return replace(difference, adjusted=adjusted, finding=_finding(difference, adjusted))


def exclusion_reasons(attempt: Attempt, allow: Collection[str]) -> list[str]:
    """Why the attempt does not count at all; without joules it counts for success and time."""
    return [reason for reason in attempt.exclusions if reason not in allow and reason != runs.NO_ENERGY]


def excluded_attempts(arm: Arm, allow: Collection[str]) -> Iterator[Excluded]:
    for attempt in arm.attempts:
        reasons = [reason for reason in attempt.exclusions if reason not in allow]
        if reasons:
            detail = f" ({', '.join(attempt.reasons)})" if attempt.reasons and tuple(reasons) != attempt.reasons else ""
            energy_only = not exclusion_reasons(attempt, allow)
            yield Excluded(arm.label, attempt.task_id, ", ".join(reasons) + detail, attempt.file, energy_only)


def attempts_by_task(attempts: Sequence[Attempt]) -> dict[str, list[Attempt]]:
    by_task: defaultdict[str, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        by_task[attempt.task].append(attempt)
    return dict(by_task)


def measure_estimates(attempts: Sequence[Attempt]) -> Mapping[str, Estimate]:
    """Every measure of these attempts by its key; measures of energy over the attempts whose joules are known."""
    return {measure.key: _estimate(measure, list(_with_measure(measure, attempts).values())) for measure in MEASURES}


def _with_measure(measure: Measure, attempts: Sequence[Attempt]) -> dict[str, list[Attempt]]:
    known = [each for each in attempts if measure.numerator(each) is not None and measure.denominator(each) is not None]
    return attempts_by_task(known)


def _sums(
    tasks: Sequence[Sequence[Attempt]],
    numerator: Callable[[Attempt], float | None],
    denominator: Callable[[Attempt], float | None],
    *,
    mean: bool = False,
) -> TaskSums:
    """Sums of each task; ``mean``: means over its attempts instead."""
    columns = np.zeros((2, len(tasks)))
    for place, attempts in enumerate(tasks):
        for row, value in enumerate((numerator, denominator)):
            columns[row, place] = sum(value(attempt) or 0.0 for attempt in attempts) / (len(attempts) if mean else 1)
    return TaskSums(columns[0], columns[1])


@lru_cache(maxsize=4)
def _resampler(tasks: int) -> TaskResampler:
    return TaskResampler(tasks)


def _estimate(measure: Measure, tasks: Sequence[Sequence[Attempt]], *, mean: bool = False) -> Estimate:
    sums = _sums(tasks, measure.numerator, measure.denominator, mean=mean)
    if measure is SUCCESS_RATE:
        return success_rate(sums)
    if measure in (PER_SUCCESS, SUCCESS_PER_JOULE) and not any(_success(attempt) for attempts in tasks for attempt in attempts):
        per_success, per_joule = without_success(_sums(tasks, _joules, _attempt_count, mean=mean))
        return per_success if measure is PER_SUCCESS else per_joule
    return _resampler(len(tasks)).ratio(sums)


def compare_pair(base: Arm, arm: Arm, allow: Collection[str]) -> Pair:
    """Differences without Holm's correction, which ``apply_holm`` adds."""
    counted = [[each for each in side.attempts if not exclusion_reasons(each, allow)] for side in (base, arm)]
    tasks = [attempts_by_task(attempts) for attempts in counted]
    common = [task for task in tasks[0] if task in tasks[1]]
    attempts = sum(len(tasks[0][task]) for task in common), sum(len(tasks[1][task]) for task in common)
    refusals = tuple(_refusals(base, arm, allow, len(common)))
    uneven = any(len(tasks[0][task]) != len(tasks[1][task]) for task in common)
    differences = () if refusals else tuple(_difference(measure, counted[0], counted[1]) for measure in MEASURES)
    notes = (*_notes(base, arm, common, uneven), *_success_note(differences))
    return Pair(base.label, arm.label, len(common), attempts, refusals, notes, differences, _refused_for_bases(base, arm, allow))


def _difference(measure: Measure, base: Sequence[Attempt], arm: Sequence[Attempt]) -> Difference:
    by_task = [_with_measure(measure, attempts) for attempts in (base, arm)]
    common = [task for task in by_task[0] if task in by_task[1]]
    tasks = [[side[task] for task in common] for side in by_task]
    mean = any(len(each) != len(other) for each, other in zip(*tasks, strict=True))
    of_base, of_arm = (_estimate(measure, side, mean=mean) for side in tasks)
    base_sums, arm_sums = (_sums(side, measure.numerator, measure.denominator, mean=mean) for side in tasks)
    resampler = _resampler(len(common))
    difference = resampler.difference(arm_sums, base_sums)
    discordant = needed = None
    if measure is SUCCESS_RATE:
        difference = success_rate_difference(arm_sums, base_sums)
        discordant = discordant_tasks(arm_sums, base_sums)
        needed = _tasks_needed(len(common), discordant)
    elif measure is SUCCESS_PER_JOULE and 0.0 in (of_base.value, of_arm.value):
        difference = combined_difference(of_arm, of_base)
    p = None
    if difference.value is not None and len(common) >= LEAST_TESTED:
        p = (success_p_value if measure is SUCCESS_RATE else permutation_p_value)(arm_sums, base_sums)
    quotient = resampler.quotient(arm_sums, base_sums)
    return Difference(
        measure, of_base, of_arm, difference, quotient, UNKNOWN, len(common), p, discordant=discordant, tasks_needed=needed
    )


def _tasks_needed(tasks: int, discordant: int) -> int | None:
    """Tasks that at this rate of different outcomes bring LEAST_TESTED of them; None where there are enough, or none at all."""
    if tasks < LEAST_TESTED:
        return LEAST_TESTED
    return ceil(LEAST_TESTED * tasks / discordant) if 0 < discordant < LEAST_TESTED else None


def _success_note(differences: Sequence[Difference]) -> Iterator[str]:
    for each in differences:
        if each.measure is SUCCESS_RATE and each.discordant is not None and each.tasks_needed is not None:
            yield (
                f"success rates: {each.discordant} of {each.tasks} tasks have different outcomes; fewer than {LEAST_TESTED}"
                f" cannot show a difference, about {each.tasks_needed} tasks would do at this rate"
            )


def _refusals(base: Arm, arm: Arm, allow: Collection[str], common: int) -> Iterator[str]:
    suites = [sorted({each.suite for each in side.attempts}) for side in (base, arm)]
    if suites[0] != suites[1] and SUITE not in allow:
        named = " and ".join(", ".join(name or "no suite" for name in names) for names in suites)
        yield f"different suites ({named}); --allow {SUITE} compares the tasks of equal names"
    for side in (base, arm):
        if len({each.simulated for each in side.attempts if each.joules is not None}) > 1 and SIMULATED not in allow:
            yield f"{side.label} mixes simulated and measured joules; --allow {SIMULATED} waives it"
    if base.simulated != arm.simulated and SIMULATED not in allow:
        which = base.label if base.simulated else arm.label
        yield f"the joules of {which} are simulated and the others measured; --allow {SIMULATED} waives it"
    if _refused_for_bases(base, arm, allow):
        said = " and ".join(f"{' or '.join(side.device_bases)} for {side.label}" for side in (base, arm))
        yield (
            f"the devices that the joules are of are known in different ways: {said}; name them alike by --gpus or --server,"
            f" or --allow {BASIS} compares them"
        )
    for side in (base, arm):
        for reason in runs.WAIVABLE:
            excluded = sum(reason in exclusion_reasons(each, allow) for each in side.attempts)
            if excluded > MOST_EXCLUDED * len(side.attempts):
                share = f"{excluded} of {len(side.attempts)} attempts of {side.label}"
                yield f"{share} are {_as_adjective(reason)}; --allow {reason} counts them"
    if not common:
        yield "no task in common whose attempts can be counted"


def _refused_for_bases(base: Arm, arm: Arm, allow: Collection[str]) -> bool:
    """A file that does not say its basis, as of an earlier version, refuses nothing."""
    return bool(base.device_bases and arm.device_bases) and base.device_bases != arm.device_bases and BASIS not in allow


def _as_adjective(reason: str) -> str:
    return "overlapped by other tasks" if reason == runs.OVERLAP else reason


def _notes(base: Arm, arm: Arm, common: Collection[str], uneven: bool) -> Iterator[str]:
    for side, other in ((base, arm), (arm, base)):
        names = {each.task for each in other.attempts}
        alone = sorted({each.task for each in side.attempts if each.task not in names})
        if alone:
            yield f"only {side.label} has {_listed(alone)}"
        if unknown := sum(each.joules is None for each in side.attempts):
            yield f"the joules of {unknown} attempts of {side.label} are not known: they count for success and time only"
    gpus = [sorted({" + ".join(each.gpus) for each in side.attempts if each.gpus}) for side in (base, arm)]
    if gpus[0] != gpus[1] and all(gpus):
        yield f"the GPUs differ ({'; '.join(gpus[0])} and {'; '.join(gpus[1])}): this compares models and machines together"
    bases = [side.device_bases for side in (base, arm)]
    if all(bases) and bases[0] != bases[1]:
        yield f"devices {' or '.join(bases[0])} for {base.label}, {' or '.join(bases[1])} for {arm.label}"
    if base.model == arm.model:
        yield "the same model in both: a difference is one of machines, settings or moments"
    first, then = sorted(([each.start for each in side.attempts if each.start is not None], side.label) for side in (base, arm))
    if first[0] and then[0] and max(first[0]) < min(then[0]):
        yield f"{then[1]} ran after {first[1]}: other changes between them, such as heat or load, are part of the difference"
    if base.simulated or arm.simulated:
        yield "the joules are SIMULATED: no meter measured them"
    if uneven:
        yield "attempts at a task differ in number, so each task weighs the same whatever their number"
    if 0 < len(common) < LEAST_TESTED:
        yield f"{len(common)} tasks in common; a finding needs {LEAST_TESTED}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _finding(difference: Difference, adjusted: float | None) -> str:
    estimate = difference.difference
    if estimate.value is None:
        return UNKNOWN
    if difference.tasks < LEAST_TESTED or difference.p is None:
        return TOO_FEW
    if difference.p >= LEVEL or estimate.interval is None or estimate.interval.contains(0.0):
        return NONE
    good, bad = (PERHAPS_BETTER, PERHAPS_WORSE) if adjusted is None or adjusted >= LEVEL else (BETTER, WORSE)
    return good if (estimate.value < 0) == difference.measure.lower_is_better else bad
