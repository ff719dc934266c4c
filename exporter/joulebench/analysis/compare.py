"""Two or more arms compared on the tasks that they have in common; what is not comparable is refused or left out, and told.

An arm is one model of one run. A task counts in a pair only where both arms have an attempt at it that can be counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from joulebench.analysis import measures, runs
from joulebench.analysis.bootstrap import LEAST_TASKS, Draws, Estimate, holm, share_difference
from joulebench.analysis.measures import MEASURES, PRIMARY, SUCCESS_RATE, Measure
from joulebench.analysis.runs import Row, Run
from joulebench.errors import UserError

SUITE, SIMULATED = "suite", "simulated"
ALLOWABLE = (SUITE, SIMULATED, *runs.WAIVABLE)
MOST_LEFT_OUT = 0.25
"""An arm that loses more than this share of its attempts to throttling or doubt is refused: what is left is a selection."""

BETTER, WORSE, NONE, TOO_FEW, UNKNOWN = "better", "worse", "no difference shown", "too few tasks", "not known"
PERHAPS_BETTER, PERHAPS_WORSE = "perhaps better", "perhaps worse"
"""By its own interval, but not among all the differences that are told beside it."""
LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class Arm:
    label: str
    run: str
    model: str
    rows: tuple[Row, ...]

    @property
    def simulated(self) -> bool:
        return any(row.simulated for row in self.rows)


@dataclass(frozen=True, slots=True)
class Excluded:
    """One attempt that does not count, and why."""

    arm: str
    task_id: str
    reason: str
    file: str


@dataclass(frozen=True, slots=True)
class Difference:
    """``difference``: arm less base. ``quotient``: arm over base. ``finding``: of the arm, by the interval of the difference and
    by ``adjusted``, its level after Holm's correction for all differences that are told together.
    """

    measure: Measure
    base: Estimate
    arm: Estimate
    difference: Estimate
    quotient: Estimate
    finding: str
    adjusted: float | None = None


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


@dataclass(frozen=True, slots=True)
class Comparison:
    arms: tuple[Arm, ...]
    pairs: tuple[Pair, ...]
    excluded: tuple[Excluded, ...]

    @property
    def refused(self) -> bool:
        return any(pair.refusals for pair in self.pairs)


def arms_of(found: Sequence[tuple[Run, str | None]]) -> list[Arm]:
    """One for each model of each run, or for the one that is named. Raises UserError for a model that the run does not have."""
    arms = []
    for run, model in found:
        models = sorted({row.model for row in run.rows})
        if model is not None and model not in models:
            raise UserError(f"{run.directory}@{model}: the run has no such model; it has {', '.join(models)}")
        arms += [(run.name, one, tuple(row for row in run.rows if row.model == one)) for one in models if model in (None, one)]
    return [Arm(label, *arm) for label, arm in zip(_labels([(run, model) for run, model, _ in arms]), arms, strict=True)]


def _labels(arms: Sequence[tuple[str, str]]) -> Iterator[str]:
    """The model; where two arms have the same, with the run; where even that is the same, numbered."""
    models, both = Counter(model for _, model in arms), Counter(arms)
    seen: Counter[tuple[str, str]] = Counter()
    for run, model in arms:
        seen[run, model] += 1
        label = model if models[model] == 1 else f"{model} in {run}"
        yield label if both[run, model] == 1 else f"{label} ({seen[run, model]})"


def parsed(argument: str) -> tuple[Path, str | None]:
    """``DIRECTORY`` or ``DIRECTORY@MODEL``."""
    whole = Path(argument)
    if whole.is_dir() or "@" not in argument:
        return whole, None
    directory, _, model = argument.rpartition("@")
    return Path(directory), model


def compare(arms: Sequence[Arm], allow: Collection[str] = ()) -> Comparison:
    """Every arm with every one before it. Raises UserError where there is only one."""
    if len(arms) < 2:
        raise UserError(f"only {arms[0].label if arms else 'nothing'} to compare; give two runs, or a run of several models")
    gone = tuple(one for arm in arms for one in excluded(arm, allow))
    return Comparison(tuple(arms), settled([_pair(base, arm, allow) for base, arm in combinations(arms, 2)]), gone)


def settled(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """The same pairs with the findings that hold when all of them are told together.

    Those that a verdict stands on are corrected for each other, and the others for each other.
    """
    found = [one for pair in pairs for one in pair.differences if one.difference.p is not None]
    adjusted: dict[int, float] = {}
    for primary in (True, False):
        family = [one for one in found if (one.measure in PRIMARY) is primary]
        levels = holm([one.difference.p for one in family if one.difference.p is not None])
        adjusted |= {id(one): level for one, level in zip(family, levels, strict=True)}
    return tuple(
        replace(pair, differences=tuple(_settled(one, adjusted.get(id(one))) for one in pair.differences)) for pair in pairs
    )


def told_together(pairs: Sequence[Pair]) -> tuple[int, int]:
    """How many differences findings are corrected for: of those that a verdict stands on, and of the others."""
    found = [one for pair in pairs for one in pair.differences if one.difference.p is not None]
    primary = sum(one.measure in PRIMARY for one in found)
    return primary, len(found) - primary


def _settled(one: Difference, adjusted: float | None) -> Difference:
    return replace(one, adjusted=adjusted, finding=_finding(one.measure, one.difference, adjusted))


def reasons(row: Row, allow: Collection[str]) -> list[str]:
    return [reason for reason in row.exclusions if reason not in allow]


def excluded(arm: Arm, allow: Collection[str]) -> Iterator[Excluded]:
    for row in arm.rows:
        if why := reasons(row, allow):
            detail = f" ({', '.join(row.reasons)})" if row.reasons and tuple(why) != row.reasons else ""
            yield Excluded(arm.label, row.task_id, ", ".join(why) + detail, row.file)


def _pair(base: Arm, arm: Arm, allow: Collection[str]) -> Pair:
    kept = [measures.by_task([row for row in one.rows if not reasons(row, allow)]) for one in (base, arm)]
    common = [task for task in kept[0] if task in kept[1]]
    rows = [[tasks[task] for task in common] for tasks in kept]
    attempts = sum(map(len, rows[0])), sum(map(len, rows[1]))
    refusals = tuple(_refusals(base, arm, allow, len(common)))
    uneven = any(len(a) != len(b) for a, b in zip(*rows, strict=True))
    differences = () if refusals else tuple(_differences(rows[0], rows[1], mean=uneven))
    return Pair(base.label, arm.label, len(common), attempts, refusals, tuple(_notes(base, arm, common, uneven)), differences)


def _refusals(base: Arm, arm: Arm, allow: Collection[str], common: int) -> Iterator[str]:
    suites = [sorted({row.suite for row in one.rows}) for one in (base, arm)]
    if suites[0] != suites[1] and SUITE not in allow:
        named = " and ".join(", ".join(name or "no suite" for name in one) for one in suites)
        yield f"different suites ({named}); --allow {SUITE} compares the tasks of equal names"
    for one in (base, arm):
        if len({row.simulated for row in one.rows if row.joules is not None}) > 1 and SIMULATED not in allow:
            yield f"{one.label} mixes simulated and measured joules; --allow {SIMULATED} waives it"
    if base.simulated != arm.simulated and SIMULATED not in allow:
        which = base.label if base.simulated else arm.label
        yield f"the joules of {which} are simulated and the others measured; --allow {SIMULATED} waives it"
    for one in (base, arm):
        for reason in runs.WAIVABLE:
            gone = sum(reason in reasons(row, allow) for row in one.rows)
            if gone > MOST_LEFT_OUT * len(one.rows):
                share = f"{gone} of {len(one.rows)} attempts of {one.label}"
                yield f"{share} are {_as_adjective(reason)}; --allow {reason} counts them"
    if not common:
        yield "no task in common whose attempts can be counted"


def _as_adjective(reason: str) -> str:
    return "overlapped by other tasks" if reason == runs.OVERLAP else reason


def _notes(base: Arm, arm: Arm, common: Collection[str], uneven: bool) -> Iterator[str]:
    for one, other in ((base, arm), (arm, base)):
        names = {row.task for row in other.rows}
        alone = sorted({row.task for row in one.rows if row.task not in names})
        if alone:
            yield f"only {one.label} has {_listed(alone)}"
    gpus = [sorted({" + ".join(row.gpus) for row in one.rows if row.gpus}) for one in (base, arm)]
    if gpus[0] != gpus[1] and all(gpus):
        yield f"the GPUs differ ({'; '.join(gpus[0])} and {'; '.join(gpus[1])}): this compares models and machines together"
    if base.model == arm.model:
        yield "the same model in both: a difference is one of machines, settings or moments"
    first, then = sorted(([row.start for row in one.rows if row.start is not None], one.label) for one in (base, arm))
    if first[0] and then[0] and max(first[0]) < min(then[0]):
        yield f"{then[1]} ran when {first[1]} was done: what else changed meanwhile, as heat or other load, is in the difference"
    if base.simulated or arm.simulated:
        yield "the joules are those of a SIMULATED GPU"
    if uneven:
        yield "attempts at a task differ in number, so each task weighs the same whatever their number"
    if 0 < len(common) < LEAST_TASKS:
        yield f"{len(common)} tasks in common; an interval needs {LEAST_TASKS}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _differences(base: Sequence[Sequence[Row]], arm: Sequence[Sequence[Row]], *, mean: bool) -> Iterator[Difference]:
    draws = Draws(len(base))
    for measure in MEASURES:
        one, two = (measures.estimate(measure, tasks, draws, mean=mean) for tasks in (base, arm))
        columns = (*measures.sums(measure, arm, mean=mean), *measures.sums(measure, base, mean=mean))
        difference = draws.difference(*columns)
        if measure is SUCCESS_RATE:
            difference = share_difference(two, one, difference)
        yield Difference(measure, one, two, difference, draws.quotient(*columns), UNKNOWN)


def _finding(measure: Measure, difference: Estimate, adjusted: float | None) -> str:
    if difference.value is None:
        return UNKNOWN
    interval = difference.interval
    if interval is None:
        return TOO_FEW
    if interval.holds(0.0):
        return NONE
    lower = interval.high is not None and interval.high < 0
    good, bad = (PERHAPS_BETTER, PERHAPS_WORSE) if adjusted is None or adjusted >= LEVEL else (BETTER, WORSE)
    return good if lower == measure.lower_is_better else bad
