"""What limits each model of a run: where its time goes, what its card could do, and what to try, each with the numbers behind it.

Nothing is said where the files have no numbers. A gain is an estimate of time, by the sentence that gives it.

Waiting: the phases of a task add up to its time. Of what no phase claims, the part of a call before the server began to work on
it is queue (and network), which only a server that times its own work reports; the rest is the agent itself.

Offload: while the CPU works on its layers no kernel runs. So the part of prefill and decode that the utilization of the card does
not account for is the CPU's; with all layers the card would be busy for as much longer as it has fewer of them now.

Power limit: the files do not have how much a model gains from a faster clock. Prefill follows the clock, decode waits for memory.
So there is an upper bound, for work that follows the clock fully, and the lower bound is zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from joulebench.analysis.bottlenecks import roofline
from joulebench.analysis.bottlenecks.tasks import Finding, TaskRun, context_tokens, group_by_model
from joulebench.metrics import OTHER_REASON, POWER_CAP
from joulebench.schema.result import CallResult

TOOL, QUEUE, AGENT, LOAD, PREFILL, DECODE, UNSPLIT = "tool", "queue", "agent", "load", "prefill", "decode", "llm, not split"
KINDS = (TOOL, QUEUE, AGENT, LOAD, PREFILL, DECODE, UNSPLIT)
IDLE_KINDS = (TOOL, QUEUE, AGENT)
"""While these last the GPU has no work of this task. While a model loads it has, though not of its own kind."""

_PHASES = {"tool_wait": TOOL, "load": LOAD, "prefill": PREFILL, "decode": DECODE, "llm_unsplit": UNSPLIT}

LARGE = {TOOL: 0.2, AGENT: 0.2, QUEUE: 0.1, LOAD: 0.05}
"""Share of the time from which it is worth a finding."""
LOW_UTILIZATION = 50.0
PREFILL_SHARE = 0.25
REPEATED_SHARE = 0.5
THERMAL_SHARE = 0.05
THERMAL = ("hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake")
COOL_DOWN = "cool the card, or lower its power limit until the reason is gone; do not compare these tasks with others"
NAME_REASON = "see which reason nvidia-smi -q -d PERFORMANCE names; do not compare these tasks with others"
SHOWN = 3

_STEPS = {
    TOOL: ("the GPU waits for tools", "run several tasks at once (--workers), or make the slowest tools faster"),
    AGENT: ("the GPU waits for the agent", "look for what the agent does between calls; run several tasks at once meanwhile"),
    QUEUE: ("calls wait before the server works on them", "raise the server's parallel slots, or start fewer workers"),
    LOAD: ("the model is loaded again and again", "keep it in memory (keep_alive), and do not alternate models on one card"),
}
FULLY_LOADED = 0.995
"""From this share of the model in GPU memory on, no layer is taken to run elsewhere."""
_MODEL_PHASES = ("prefill", "decode", "llm_unsplit")
LEAST_POWER_CAP_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """What only the user knows: bytes of the weights and of one token in the KV cache, by model."""

    weights: Mapping[str, float] = field(default_factory=dict)
    cache_token: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TaskTime:
    """``cpu_seconds``: of the model's work, on layers that lie outside of the card. ``queued_request_share``: of the time that
    requests were in the server, whoever sent them, the share in its queue. None where not known."""

    task: str
    run: str
    idle_share: float
    shares: Mapping[str, float]
    util_percent: float | None
    cpu_seconds: float | None
    queued_request_share: float | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """Seconds by kind. ``total`` is the time of all tasks whose phases are known."""

    tasks: int
    total: float
    seconds: Mapping[str, float]

    def share(self, *kinds: str) -> float:
        return sum(self.seconds.get(kind, 0.0) for kind in kinds) / self.total if self.total else 0.0

    @property
    def idle_share(self) -> float:
        return self.share(*IDLE_KINDS)


@dataclass(frozen=True, slots=True)
class Offload:
    """Means over ``tasks``. ``cpu_share``: of the model's bytes. ``cpu_seconds``: of a task, in which the CPU worked on its
    layers; ``gain_seconds``: what a task would be shorter by. None where utilization or phases are not known."""

    tasks: int
    cpu_share: float
    size_bytes: float | None
    vram_bytes: float | None
    cpu_seconds: float | None
    gain_seconds: float | None


@dataclass(frozen=True, slots=True)
class PowerLimit:
    """``share`` of the time of ``tasks`` at the limit. ``clock_ratio``: SM clock meanwhile / highest clock, ``most_seconds``: of
    a task, that a higher limit could save at most; both None where no clock is known."""

    tasks: int
    share: float
    clock_ratio: float | None
    most_seconds: float | None


@dataclass(frozen=True, slots=True)
class Bottlenecks:
    """Of one model. ``waiting`` is None where no task has its phases; ``tasks`` are those that have."""

    model: str
    simulated: bool
    waiting: Waiting | None
    tasks: tuple[TaskTime, ...]
    decode: roofline.Decode | None
    memory: tuple[roofline.Memory, ...]
    offload: Offload | None
    power: PowerLimit | None
    findings: tuple[Finding, ...]
    skipped: tuple[str, ...] = ()
    """Checks that could not be made, each with the reason: what the card or the server does not report."""

    def data(self) -> dict[str, Any]:
        return asdict(self)


def find_bottlenecks(tasks: Sequence[TaskRun], sizes: ModelSizes | None = None) -> list[Bottlenecks]:
    return [_bottlenecks_of_model(model, own, sizes or ModelSizes()) for model, own in group_by_model(tasks).items()]


def _bottlenecks_of_model(model: str, tasks: Sequence[TaskRun], sizes: ModelSizes) -> Bottlenecks:
    times = [(task, time) for task in tasks if (time := waiting_of_task(task)) is not None]
    waiting = sum_waiting([time for _, time in times]) if times else None
    offload, power = offload_of_tasks(tasks), power_limit_of_tasks(tasks)
    weights, on_card = sizes.weights.get(model), offload is None or offload.cpu_share <= 1 - FULLY_LOADED
    # Weights that the card does not hold are not read at its bandwidth.
    decode = roofline.decode_of_tasks(tasks, weights) if on_card else None
    memory = roofline.memory_of_tasks(tasks, sizes.cache_token.get(model))
    findings = [
        *(_offload_findings(model, offload) if offload is not None else ()),
        *(_waits(model, times, waiting) if waiting is not None else ()),
        *_queue(model, tasks, waiting),
        *_low(model, tasks),
        *_prefill(model, tasks, waiting),
        *(roofline.decode_findings(model, decode) if decode is not None else ()),
        *roofline.memory_findings(model, memory, weights if offload is None else None),
        *(_power_findings(model, power) if power is not None else ()),
        *_throttled(model, tasks, "heat or the power supply holds the clocks down", THERMAL, COOL_DOWN),
        *_throttled(model, tasks, "a reason without a name here holds the clocks down", (OTHER_REASON,), NAME_REASON),
    ]
    return Bottlenecks(
        model=model,
        simulated=any(task.attempt.simulated for task in tasks),
        waiting=waiting,
        tasks=tuple(
            TaskTime(
                task=task.attempt.task_id,
                run=task.attempt.run,
                idle_share=time.idle_share,
                shares={k: time.share(k) for k in time.seconds},
                util_percent=task.max_utilization,
                cpu_seconds=cpu_seconds_of_task(task),
                queued_request_share=queued_request_share(task),
            )
            for task, time in times
        ),
        decode=decode,
        memory=memory,
        offload=offload,
        power=power,
        findings=tuple(findings),
        skipped=tuple(_skipped(tasks, waiting, decode, memory, power)),
    )


def _skipped(
    tasks: Sequence[TaskRun],
    waiting: Waiting | None,
    decode: roofline.Decode | None,
    memory: Sequence[roofline.Memory],
    power: PowerLimit | None,
) -> Iterator[str]:
    cards = ", ".join(sorted({gpu.name or "unknown GPU" for task in tasks for gpu in task.gpus})) or "no GPU"
    if any(task.attempt.simulated for task in tasks):
        yield "memory bandwidth and VRAM: the GPU is simulated"
    else:
        if decode is None and not any(call.decode_seconds for task in tasks for call in task.calls):
            yield "memory bandwidth: no call has its decode time"
        elif decode is None and cards not in roofline.CARDS:
            yield f"memory bandwidth: that of {cards} is not known"
        if not memory:
            yield f"VRAM: its size or use is not known of {cards}"
    if waiting is None:
        yield "waiting: no task has records of its calls"
    if all(task.max_utilization is None for task in tasks):
        yield f"utilization: not known of {cards}"
    if not any(reason in task.throttled_by_reason for task in tasks for reason in THERMAL):
        yield f"heat: seconds of throttling are not known of {cards}"
    if power is None:
        yield f"power limit: the time at it is not known of {cards}; it needs throttle reasons, the limit and power"
    elif power.share >= LEAST_POWER_CAP_SHARE and power.clock_ratio is None:
        yield f"clock at the power limit: not known of {cards}"


def _waits(model: str, times: Sequence[tuple[TaskRun, Waiting]], whole: Waiting) -> Iterator[Finding]:
    for kind, least in LARGE.items():
        share = whole.share(kind)
        if share < least:
            continue
        clearest = sorted(times, key=lambda each: each[1].share(kind), reverse=True)[:SHOWN]
        seconds = whole.seconds[kind] / whole.tasks
        title, step = _STEPS[kind]
        yield Finding(
            kind=title,
            scope=model,
            evidence=f"{100 * share:.0f} % of the time of {whole.tasks} tasks, {seconds:.2f} s of a task"
            + (_loads([task for task, _ in times]) if kind == LOAD else ""),
            gain=f"up to {seconds:.2f} s of a task{_idle_joules(times, kind)}",
            next_step=step,
            tasks=tuple(task.attempt.task_id for task, _ in clearest),
        )


def _loads(tasks: Sequence[TaskRun]) -> str:
    """Ollama counts the time in which its scheduler lets a request wait as loading, so loading without a load is a queue."""
    known = [task.server.loads for task in tasks if task.server.loads is not None]
    if not known:
        return ""
    seen = round(sum(known))
    queue = "" if seen else ", so what the server calls loading was its own queue"
    return f"; {seen} loads were seen during {len(known)} tasks{queue}"


def _idle_joules(times: Sequence[tuple[TaskRun, Waiting]], kind: str) -> str:
    known = [
        (task.attempt.idle_watts, time.seconds.get(kind, 0.0)) for task, time in times if task.attempt.idle_watts is not None
    ]
    if not known or len(known) < len(times):
        return ""
    joules = sum((watts or 0.0) * seconds for watts, seconds in known) / len(known)
    return f", and the {joules:.0f} J that the idle card takes meanwhile"


def _low(model: str, tasks: Sequence[TaskRun]) -> Iterator[Finding]:
    known = [(util, task.attempt.task_id) for task in tasks if (util := task.max_utilization) is not None]
    low = sorted((util, task) for util, task in known if util < LOW_UTILIZATION)
    if low and 2 * len(low) >= len(known):
        yield Finding(
            kind="the GPU is little used",
            scope=model,
            evidence=f"no card above {LOW_UTILIZATION:.0f} % use in {len(low)} of {len(known)} tasks, lowest {low[0][0]:.0f} %",
            gain="more tasks in the same time and idle energy, by as much as tasks can run beside each other",
            next_step="run several tasks at once; if decode is slow too, see whether layers run on the CPU",
            tasks=tuple(task for _, task in low[:SHOWN]),
        )


def _prefill(model: str, tasks: Sequence[TaskRun], waiting: Waiting | None) -> Iterator[Finding]:
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
            before = context_tokens(call) or call.prompt_tokens
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


def _queue(model: str, tasks: Sequence[TaskRun], waiting: Waiting | None) -> Iterator[Finding]:
    """By the server's own count, where it does not time each call."""
    known = [(share, task.attempt.task_id) for task in tasks if (share := queued_request_share(task)) is not None]
    if not known or (waiting is not None and waiting.share(QUEUE) >= LARGE[QUEUE]):
        return
    share = sum(each for each, _ in known) / len(known)
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


def _throttled(model: str, tasks: Sequence[TaskRun], kind: str, reasons: Sequence[str], next_step: str) -> Iterator[Finding]:
    """By the reason that lasted longest of these."""
    known = [task for task in tasks if task.throttled_by_reason and task.attempt.seconds]
    total = sum(task.attempt.seconds or 0.0 for task in known)
    if not total:
        return
    by_reason = {reason: sum(task.throttled_by_reason.get(reason, 0.0) for task in known) / total for reason in reasons}
    reason, share = max(by_reason.items(), key=lambda each: each[1])
    if share >= THERMAL_SHARE:
        hottest = max((task.attempt.max_temp_c for task in known if task.attempt.max_temp_c is not None), default=None)
        at = "" if hottest is None else f", up to {hottest:.0f} C"
        yield Finding(
            kind=kind,
            scope=model,
            evidence=f"{reason} for {100 * share:.0f} % of the time of {len(known)} tasks{at}",
            gain="see joulebench analyze throttling, which compares decode rates inside and outside",
            next_step=next_step,
        )


def waiting_of_task(task: TaskRun) -> Waiting | None:
    """None for a task without a journal of its calls."""
    phases = task.attempt.seconds_by_phase
    total = sum(phases.values())
    if not phases or total <= 0:
        return None
    seconds = {kind: phases[phase] for phase, kind in _PHASES.items() if phases.get(phase)}
    rest = phases.get("other", 0.0)
    queue = min(sum(queued_seconds(call) or 0.0 for call in task.calls), rest)
    if queue > 0:
        seconds[QUEUE] = queue
    if rest > queue:
        seconds[AGENT] = rest - queue
    return Waiting(1, total, {kind: seconds[kind] for kind in KINDS if kind in seconds})


def sum_waiting(tasks: Sequence[Waiting]) -> Waiting:
    sums = {kind: sum(each.seconds.get(kind, 0.0) for each in tasks) for kind in KINDS}
    return Waiting(len(tasks), sum(each.total for each in tasks), {kind: value for kind, value in sums.items() if value})


def queued_seconds(call: CallResult) -> float | None:
    """Seconds of a call in which its server did not work on it; None where the server does not time its own work."""
    if call.duration_seconds is None or call.prefill_seconds is None or call.decode_seconds is None:
        return None
    return max(0.0, call.duration_seconds - (call.load_seconds or 0.0) - call.prefill_seconds - call.decode_seconds)


def queued_request_share(task: TaskRun) -> float | None:
    """Of the time that requests were in the server during a task, the share in its queue: by Little's law the mean number that
    waits over the mean number that is there. Of all requests together; None where the server does not count both."""
    running, waits = task.server.running_requests, task.server.waiting_requests
    if running is None or waits is None or running + waits <= 0:
        return None
    return waits / (running + waits)


def offload_of_tasks(tasks: Sequence[TaskRun]) -> Offload | None:
    """None where no server reports where its model lies."""
    reported = [(task, ratio) for task in tasks if (ratio := task.server.offload_ratio) is not None]
    if not reported:
        return None
    times = [(times_, ratio) for task, ratio in reported if (times_ := _model_times(task)) is not None]
    cpu = [model - busy for (model, busy), _ in times]
    gain = [max(0.0, model - busy / ratio) if ratio > 0 else 0.0 for (model, busy), ratio in times]
    last = reported[-1][0].server
    return Offload(
        tasks=len(reported),
        cpu_share=1 - sum(ratio for _, ratio in reported) / len(reported),
        size_bytes=last.size_bytes,
        vram_bytes=last.vram_bytes,
        cpu_seconds=sum(cpu) / len(cpu) if cpu else None,
        gain_seconds=sum(gain) / len(gain) if gain else None,
    )


def cpu_seconds_of_task(task: TaskRun) -> float | None:
    """Of the task's model time; None where all layers are on the card, or it is not known."""
    ratio, times = task.server.offload_ratio, _model_times(task)
    return None if ratio is None or ratio >= FULLY_LOADED or times is None else times[0] - times[1]


def _offload_findings(model: str, offload: Offload) -> Iterator[Finding]:
    if offload.cpu_share <= 1 - FULLY_LOADED:
        return
    size = (
        ""
        if offload.size_bytes is None or offload.vram_bytes is None
        else f": {offload.vram_bytes / 1e9:.1f} of its {offload.size_bytes / 1e9:.1f} GB are in GPU memory"
    )
    gain = ""
    if offload.gain_seconds is not None and offload.cpu_seconds is not None:
        gain = (
            f"about {offload.gain_seconds:.2f} s of a task if all layers were on the card"
            f" (of {offload.cpu_seconds:.2f} s in which the CPU works on its own), by the card's utilization"
        )
    yield Finding(
        kind="layers run on the CPU",
        scope=model,
        evidence=f"{100 * offload.cpu_share:.0f} % of the model runs on the CPU by the server's own account{size}, mean of"
        f" {offload.tasks} tasks",
        gain=gain,
        next_step="take a smaller quantisation or context, or free the card, until the whole model is on it",
    )


def _model_times(task: TaskRun) -> tuple[float, float] | None:
    """Seconds (of the model's work, of it with a kernel running); of a task alone on its cards."""
    seconds, phases = task.attempt.seconds, task.attempt.seconds_by_phase
    model = sum(phases.get(phase, 0.0) for phase in _MODEL_PHASES)
    if task.max_utilization is None or not seconds or not model or "overlap" in task.attempt.reasons:
        return None
    return model, min(model, task.max_utilization / 100 * seconds)


def power_limit_of_tasks(tasks: Sequence[TaskRun]) -> PowerLimit | None:
    """None where throttling is not known."""
    reported = [task for task in tasks if POWER_CAP in task.throttled_by_reason and task.attempt.seconds]
    total = sum(task.attempt.seconds or 0.0 for task in reported)
    if not total:
        return None
    capped = [(task.throttled_by_reason[POWER_CAP], _clock_ratio(task)) for task in reported]
    seconds = sum(each for each, _ in capped)
    known = [(entry, ratio) for entry, ratio in capped if ratio is not None and entry > 0]
    ratio = sum(entry * ratio for entry, ratio in known) / sum(entry for entry, _ in known) if known else None
    return PowerLimit(
        tasks=len(reported),
        share=seconds / total,
        clock_ratio=ratio,
        most_seconds=None if ratio is None else seconds * (1 - ratio) / len(reported),
    )


def _power_findings(model: str, limit: PowerLimit) -> Iterator[Finding]:
    if limit.share < LEAST_POWER_CAP_SHARE:
        return
    clock = "" if limit.clock_ratio is None else f", the SM clock at {100 * limit.clock_ratio:.0f} % of its highest meanwhile"
    gain = "not known: no clock was read at the limit"
    if limit.most_seconds is not None:
        gain = (
            f"0 to {limit.most_seconds:.2f} s of a task by a higher limit, for more energy: the most where all work follows the"
            " clock, as prefill does, nothing where it waits for memory, as decode mostly does"
        )
    yield Finding(
        kind="the power limit holds the clocks down",
        scope=model,
        evidence=f"{POWER_CAP} for {100 * limit.share:.0f} % of the time of {limit.tasks} tasks{clock}",
        gain=gain,
        next_step="compare runs at two power limits: the lower one often costs little time and saves energy",
    )


def _clock_ratio(task: TaskRun) -> float | None:
    """Of the card whose clock was lowest: the others wait for it."""
    clocks = [gpu.power_capped_clock for gpu in task.gpus if gpu.power_capped_clock is not None]
    ratios = [clock.capped_hz / clock.max_hz for clock in clocks if clock.capped_hz is not None and clock.max_hz]
    return min(1.0, *ratios) if ratios else None
