"""What limits each model of a run: where its time goes, what its card could do, and what to try, each with the numbers behind it.

Nothing is said of what the files do not tell. A gain is an estimate of time, by the sentence that gives it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from joulebench.analysis.bottlenecks import offload, power_limit, roofline
from joulebench.analysis.bottlenecks.observed import Finding, Observed, by_model
from joulebench.analysis.bottlenecks.offload import Offload
from joulebench.analysis.bottlenecks.power_limit import PowerLimit
from joulebench.analysis.bottlenecks.waiting import (
    AGENT,
    LOAD,
    PREFILL,
    QUEUE,
    TOOL,
    Waiting,
    of_task,
    queue_of_requests,
    together,
)

LARGE = {TOOL: 0.2, AGENT: 0.2, QUEUE: 0.1, LOAD: 0.05}
"""Share of the time from which it is worth a finding."""
LOW_UTILISATION = 50.0
PREFILL_SHARE = 0.25
REPEATED_SHARE = 0.5
THERMAL_SHARE = 0.05
THERMAL = ("hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake")
SHOWN = 3

_STEPS = {
    TOOL: ("the GPU waits for tools", "run several tasks at once (--workers), or make the slowest tools faster"),
    AGENT: ("the GPU waits for the agent", "look for what the agent does between calls; run several tasks at once meanwhile"),
    QUEUE: ("calls wait before the server works on them", "raise the server's parallel slots, or start fewer workers"),
    LOAD: ("the model is loaded again and again", "keep it in memory (keep_alive), and do not alternate models on one card"),
}


@dataclass(frozen=True, slots=True)
class Known:
    """What the files do not tell and a user may: bytes of the weights and of one token in the KV cache, by model."""

    weights: Mapping[str, float] = field(default_factory=dict)
    cache_token: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TaskTime:
    """``cpu_seconds``: of the model's work, on layers that lie outside of the card. ``queue_of_requests``: of the time that
    requests were in the server, whoever sent them, the share in its queue. None where not known."""

    task: str
    run: str
    idle_share: float
    shares: Mapping[str, float]
    util_percent: float | None
    cpu_seconds: float | None
    queue_of_requests: float | None


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one model. ``waiting`` is None where no task tells its phases; ``tasks`` has those that do."""

    model: str
    simulated: bool
    waiting: Waiting | None
    tasks: tuple[TaskTime, ...]
    decode: roofline.Decode | None
    memory: tuple[roofline.Memory, ...]
    offload: Offload | None
    power: PowerLimit | None
    findings: tuple[Finding, ...]

    def data(self) -> dict[str, Any]:
        return asdict(self)


def limits(tasks: Sequence[Observed], known: Known | None = None) -> list[Limits]:
    told = known or Known()
    return [_limits(model, own, told) for model, own in by_model(tasks).items()]


def _limits(model: str, tasks: Sequence[Observed], known: Known) -> Limits:
    times = [(task, time) for task in tasks if (time := of_task(task)) is not None]
    waiting = together([time for _, time in times]) if times else None
    elsewhere, power = offload.offload(tasks), power_limit.power_limit(tasks)
    weights, whole = known.weights.get(model), elsewhere is None or elsewhere.cpu_share <= 1 - offload.WHOLE
    # Weights that the card does not hold are not read at its bandwidth.
    decode = roofline.decode(tasks, weights) if whole else None
    memory = roofline.memory(tasks, known.cache_token.get(model))
    found = [
        *(offload.findings(model, elsewhere) if elsewhere is not None else ()),
        *(_waits(model, times, waiting) if waiting is not None else ()),
        *_queue(model, tasks, waiting),
        *_low(model, tasks),
        *_prefill(model, tasks, waiting),
        *(roofline.findings(model, decode) if decode is not None else ()),
        *roofline.memory_findings(model, memory, weights if elsewhere is None else None),
        *(power_limit.findings(model, power) if power is not None else ()),
        *_heat(model, tasks),
    ]
    return Limits(
        model=model,
        simulated=any(task.row.simulated for task in tasks),
        waiting=waiting,
        tasks=tuple(
            TaskTime(
                task=task.row.task_id,
                run=task.row.run,
                idle_share=time.idle_share,
                shares={k: time.share(k) for k in time.seconds},
                util_percent=task.busiest,
                cpu_seconds=offload.cpu_seconds(task),
                queue_of_requests=queue_of_requests(task),
            )
            for task, time in times
        ),
        decode=decode,
        memory=memory,
        offload=elsewhere,
        power=power,
        findings=tuple(found),
    )


def _waits(model: str, times: Sequence[tuple[Observed, Waiting]], whole: Waiting) -> Iterator[Finding]:
    for kind, least in LARGE.items():
        share = whole.share(kind)
        if share < least:
            continue
        clearest = sorted(times, key=lambda one: one[1].share(kind), reverse=True)[:SHOWN]
        seconds = whole.seconds[kind] / whole.tasks
        title, step = _STEPS[kind]
        yield Finding(
            kind=title,
            scope=model,
            evidence=f"{100 * share:.0f} % of the time of {whole.tasks} tasks, {seconds:.2f} s of a task"
            + (_loads([task for task, _ in times]) if kind == LOAD else ""),
            gain=f"up to {seconds:.2f} s of a task{_idle_joules(times, kind)}",
            next_step=step,
            tasks=tuple(task.row.task_id for task, _ in clearest),
        )


def _loads(tasks: Sequence[Observed]) -> str:
    """Ollama counts the time in which its scheduler lets a request wait as loading, so a load that nobody saw is a queue."""
    known = [task.server.loads for task in tasks if task.server.loads is not None]
    if not known:
        return ""
    seen = round(sum(known))
    queue = "" if seen else ", so what the server calls loading was its own queue"
    return f"; {seen} loads were seen during {len(known)} tasks{queue}"


def _idle_joules(times: Sequence[tuple[Observed, Waiting]], kind: str) -> str:
    known = [(task.row.idle_watts, time.seconds.get(kind, 0.0)) for task, time in times if task.row.idle_watts is not None]
    if not known or len(known) < len(times):
        return ""
    joules = sum((watts or 0.0) * seconds for watts, seconds in known) / len(known)
    return f", and the {joules:.0f} J that the idle card takes meanwhile"


def _low(model: str, tasks: Sequence[Observed]) -> Iterator[Finding]:
    known = [(util, task.row.task_id) for task in tasks if (util := task.busiest) is not None]
    low = sorted((util, task) for util, task in known if util < LOW_UTILISATION)
    if low and 2 * len(low) >= len(known):
        yield Finding(
            kind="the GPU is little used",
            scope=model,
            evidence=f"no card above {LOW_UTILISATION:.0f} % use in {len(low)} of {len(known)} tasks, lowest {low[0][0]:.0f} %",
            gain="more tasks in the same time and idle energy, by as much as tasks can run beside each other",
            next_step="run several tasks at once; if decode is slow too, see whether layers run on the CPU",
            tasks=tuple(task for _, task in low[:SHOWN]),
        )


def _prefill(model: str, tasks: Sequence[Observed], waiting: Waiting | None) -> Iterator[Finding]:
    """A prompt that repeats the conversation so far need not be computed again."""
    if waiting is None or waiting.share(PREFILL) < PREFILL_SHARE:
        return
    repeated = computed = 0
    for task in tasks:
        before = 0
        for call in task.calls:
            if call.prompt_tokens is None or call.cached_tokens is None:
                return
            again = min(before, call.prompt_tokens)
            repeated += max(0, again - call.cached_tokens)
            computed += call.prompt_tokens - call.cached_tokens
            before = call.held_tokens or call.prompt_tokens
    if computed and repeated >= REPEATED_SHARE * computed:
        seconds = waiting.seconds[PREFILL] / waiting.tasks * repeated / computed
        yield Finding(
            kind="prompts are computed again",
            scope=model,
            evidence=f"prefill is {100 * waiting.share(PREFILL):.0f} % of the time, {100 * repeated / computed:.0f} % of its"
            " tokens at most were in the context of the call before",
            gain=f"up to {seconds:.2f} s of a task, if what is repeated were taken from the cache",
            next_step="turn on the server's prefix cache, and keep the beginning of the prompt the same from call to call",
        )


def _queue(model: str, tasks: Sequence[Observed], waiting: Waiting | None) -> Iterator[Finding]:
    """By the server's own count, where it does not time each call."""
    known = [(share, task.row.task_id) for task in tasks if (share := queue_of_requests(task)) is not None]
    if not known or (waiting is not None and waiting.share(QUEUE) >= LARGE[QUEUE]):
        return
    share = sum(one for one, _ in known) / len(known)
    if share >= LARGE[QUEUE]:
        title, step = _STEPS[QUEUE]
        yield Finding(
            kind=title,
            scope=model,
            evidence=f"{100 * share:.0f} % of the time that requests are in the server they are in its queue, mean of"
            f" {len(known)} tasks, by its own count of those that wait and those that run",
            gain=f"up to {100 * share:.0f} % of the time of calls, if none had to wait",
            next_step=step,
            tasks=tuple(task for _, task in sorted(known, reverse=True)[:SHOWN]),
        )


def _heat(model: str, tasks: Sequence[Observed]) -> Iterator[Finding]:
    told = [task for task in tasks if task.throttled_by_reason and task.row.seconds]
    total = sum(task.row.seconds or 0.0 for task in told)
    if not total:
        return
    by_reason = {reason: sum(task.throttled_by_reason.get(reason, 0.0) for task in told) / total for reason in THERMAL}
    reason, share = max(by_reason.items(), key=lambda one: one[1])
    if share >= THERMAL_SHARE:
        hottest = max((task.row.max_temp_c for task in told if task.row.max_temp_c is not None), default=None)
        at = "" if hottest is None else f", up to {hottest:.0f} C"
        yield Finding(
            kind="heat or the power supply holds the clocks down",
            scope=model,
            evidence=f"{reason} for {100 * share:.0f} % of the time of {len(told)} tasks{at}",
            gain="see joulebench analyze throttling, which compares decode rates inside and outside",
            next_step="cool the card, or lower its power limit until the reason is gone; do not compare these tasks with others",
        )
