"""The headline numbers that a report and the bottleneck analyses must give for the script, worked out from the script alone.

Joules are known to within their bounds, and to 1 % in sums: the counter moves ten times a second. Phases last longer than a
step, so their shares are known to a hundredth. Everything else was reported or set, and must come out as it
went in. Numbers of single tasks are checked by invariants: sums, shares and bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from tests.truth import script
from tests.truth.leaves import AtLeast, AtMost, Check, Is, Truth, Unknown, Within
from tests.truth.script import ALPHA, BETA, EVERY, RUNS, TASKS, Call, Model, Task

JOULES = 0.01
SHARE = 0.01
SAMPLED = 0.02
"""Of a mean of readings a second apart, which is no measurement of energy."""
PRICES = """
currency: EUR
electricity: {per_kwh: 0.3, as_of: 2026-11-01}
hardware: {per_hour: 0.5, as_of: 2026-11-01}
pue: 1.2
api: [{model: small, prompt: 1, cached_prompt: 0.1, completion: 10, as_of: 2026-06-15}]
"""
PER_KWH, PER_HOUR, PUE, UTILIZATION = 0.3, 0.5, 1.2, 0.25
PROMPT, CACHED, COMPLETION = 1e-6, 1e-7, 1e-5
WEIGHTS, BANDWIDTH = 6e9, 600e9
"""Bytes of alpha's weights, and what the card reads in a second."""

COUNTED = {run: tuple(task for task in tasks if not task.hot) for run, tasks in RUNS.items()}


@dataclass(frozen=True)
class Sum:
    """A ratio of two sums over tasks, as a measure has it."""

    top: float
    bottom: float
    rel: float

    @property
    def value(self) -> float:
        return self.top / self.bottom


def prompt(tasks: Sequence[Task]) -> int:
    return sum(call.prompt for task in tasks for call in task.calls)


def completion(tasks: Sequence[Task]) -> int:
    return sum(call.completion for task in tasks for call in task.calls)


def joules(tasks: Sequence[Task]) -> float:
    return sum(script.total(task) for task in tasks)


def successes(tasks: Sequence[Task]) -> int:
    return sum(task.success for task in tasks)


def measures(tasks: Sequence[Task]) -> dict[str, Sum]:
    spent, won = joules(tasks), successes(tasks)
    return {
        "joules_per_success": Sum(spent, won, JOULES),
        "success_rate": Sum(won, len(tasks), 1e-9),
        "success_per_joule": Sum(won, spent, JOULES),
        "tokens_per_joule": Sum(prompt(tasks) + completion(tasks), spent, JOULES),
        "joules_per_completion_token": Sum(spent, completion(tasks), JOULES),
        "seconds_per_task": Sum(script.busy(tasks), len(tasks), 1e-6),
    }


def estimate(place: str, truth: float, rel: float = 1e-6, off: float = 1e-6) -> Truth:
    """A value that is the truth, in an interval that holds it."""
    return {f"{place}.value": Is(truth, rel, off), f"{place}.low": AtMost(truth + off), f"{place}.high": AtLeast(truth - off)}


def unknown(place: str) -> Truth:
    return {f"{place}.{name}": Unknown() for name in ("value", "low", "high")}


def report() -> Truth:
    found: Truth = {}
    for run, tasks in RUNS.items():
        found |= {f"runs[{run}].attempts": Is(TASKS), f"runs[{run}].planned": Is(TASKS + 1), f"runs[{run}].missing": Is(1)}
        found |= _model(run, tasks)
        found |= _failures(tasks)
        found |= _cost(run, tasks[0].model)
    found |= {"comparison_counts[0]": Is(2), "comparison_counts[1]": Is(4)}
    return found | {
        "cost.utilization": Is(UTILIZATION),
        "cost.apis[small].per_token.prompt": Is(PROMPT),
        "cost.apis[small].per_token.cached_prompt": Is(CACHED),
        "cost.apis[small].per_token.completion": Is(COMPLETION),
    }


def _model(run: str, tasks: Sequence[Task]) -> Truth:
    model, counted = tasks[0].model, COUNTED[run]
    place = f"models[{run}/{model.name}/{model.name}]"
    calls = [call for task in counted for call in task.calls]
    found: Truth = {
        f"{place}.attempts": Is(TASKS),
        f"{place}.counted": Is(len(counted)),
        f"{place}.tasks": Is(len(counted)),
        f"{place}.successes": Is(successes(counted)),
        f"{place}.joules": Is(joules(counted), JOULES),
        f"{place}.joules_low": AtMost(joules(counted)),
        f"{place}.joules_high": AtLeast(joules(counted)),
        f"{place}.ttft_seconds": Is(_mean([call.first - call.start for call in calls]), off=1e-6),
        f"{place}.decode_tokens_per_second": Is(completion(counted) / sum(call.decode for call in calls)),
        f"{place}.confidence": Is(_mean([call.confidence for call in calls])),
        f"{place}.least_confidence": Is(min(call.confidence for call in calls)),
        f"{place}.throttled_seconds": Is(sum(b - a for task in tasks for a, b in task.throttled)),
        f"{place}.max_temp_c": Is(script.TOO_HOT),
        f"{place}.peak_vram_mib": Is(max(task.vram for task in tasks) + script.OTHER_VRAM_MIB),
        f"{place}.quality.ok": Is(len(counted)),
        f"{place}.quality.suspect": Is(TASKS - len(counted)),
    }
    for key, one in measures(counted).items():
        found |= estimate(f"{place}.measures.{key}", one.value, one.rel, 1e-9)
    return found | _shares(place, counted, of_joules=True)


def _shares(place: str, tasks: Sequence[Task], *, of_joules: bool) -> Truth:
    found: Truth = {f"{place}.seconds_share.llm_unsplit": Is(0.0)}
    for phase in ("prefill", "decode", "load", "tool_wait", "other"):
        seconds = sum(task.in_phase(phase) for task in tasks)
        found[f"{place}.seconds_share.{phase}"] = Is(seconds / script.busy(tasks), off=1e-6)
        if of_joules:
            taken = sum(script.of_phase(task, phase) for task in tasks)
            found[f"{place}.joules_share.{phase}"] = Is(taken / joules(tasks), off=SHARE)
    return found | ({f"{place}.joules_share.llm_unsplit": Is(0.0)} if of_joules else {})


def _pair() -> Truth:
    (base, arm), place = COUNTED.values(), f"pairs[{ALPHA.name}/{BETA.name}]"
    found: Truth = {
        f"{place}.tasks": Is(len(base)),
        f"{place}.attempts.base": Is(len(base)),
        f"{place}.attempts.arm": Is(len(arm)),
    }
    both = measures(arm)
    for key, one in measures(base).items():
        other = both[key]
        within = f"{place}.measures.{key}"
        found |= estimate(f"{within}.base", one.value, one.rel, 1e-9) | estimate(f"{within}.arm", other.value, other.rel, 1e-9)
        apart = other.value - one.value
        # Both are known to one part in a hundred, and so is what lies between them to one of the larger.
        off = max(one.rel * max(abs(one.value), abs(other.value)), 1e-9)
        found |= estimate(f"{within}.difference", apart, one.rel, off)
        found |= estimate(f"{within}.quotient", other.value / one.value, 2 * one.rel, 1e-9)
        found |= {f"{within}.p": Within(0.0, 1.0), f"{within}.p_adjusted": Within(0.0, 1.0)}
    return found


def comparison() -> Truth:
    found = _pair()
    for run, tasks in RUNS.items():
        found[f"arms[{run}/{tasks[0].model.name}/{tasks[0].model.name}].attempts"] = Is(TASKS)
    for index in (0, 1):
        found[f"correction.differences[{index}]"] = Is(2 if index == 0 else 4)
    return found | {"interval.level": Is(0.95), "interval.resamples": Within(1000, 100_000)}


def _failures(tasks: Sequence[Task]) -> Truth:
    name = tasks[0].model.name
    lost = TASKS - successes(tasks)
    place = f"failures.predictions[{name}]"
    scores = [call.confidence for task in tasks for call in task.calls]
    tool = f"failures.tools[{name}/read_file]"
    found: Truth = {
        f"{place}.tasks": Is(TASKS),
        f"{place}.failures": Is(lost),
        # As many as bring the missing ones of fifty failures, at the rate that was seen.
        f"{place}.more_tasks": Is(ceil((50 - lost) * TASKS / lost)),
        **{
            f"{place}.{key}": Unknown() for key in ("auroc", "auroc_low", "auroc_high", "brier", "brier_base", "ece", "ece_noise")
        },
        # Yes or no, once there is a prediction.
        f"{place}.beats_base_rate": Unknown(),
        **unknown(f"{place}.skill"),
        f"{tool}.calls": Is(len(scores)),
        f"{tool}.scored": Is(len(scores)),
        f"{tool}.attempts": Is(TASKS),
        **estimate(f"{tool}.confidence", _mean(scores)),
        **estimate(f"{tool}.failed", 0.0),
    }
    return found


def _cost(run: str, model: Model) -> Truth:
    """The algebra that the report prints, with the script's numbers."""
    tasks, place = COUNTED[run], f"cost.arms[{model.name}]"
    spent, hours = joules(tasks), script.busy(tasks) / 3600
    cached = sum(call.cached for task in tasks for call in task.calls)
    idle_watts = script.IDLE_WATTS + script.OTHER_WATTS
    electricity = spent / 3.6e6 * PER_KWH * PUE

    def idle_hours(share: float) -> float:
        return hours * (1 - share) / share * idle_watts / 1000 * PER_KWH * PUE

    def local(share: float) -> float:
        return electricity + hours / share * PER_HOUR + idle_hours(share)

    whole = (prompt(tasks) - cached) * PROMPT + cached * CACHED + completion(tasks) * COMPLETION
    all_idle = hours * idle_watts / 1000 * PER_KWH * PUE
    share = (hours * PER_HOUR + all_idle) / (whole - electricity + all_idle)
    tokens = prompt(tasks) + completion(tasks)
    found: Truth = {
        f"{place}.work.attempts": Is(len(tasks)),
        f"{place}.work.successes": Is(successes(tasks)),
        f"{place}.work.excluded": Is(0),
        f"{place}.work.joules": Is(spent, JOULES),
        f"{place}.work.busy_seconds": Is(3600 * hours),
        f"{place}.work.prompt_tokens": Is(prompt(tasks)),
        f"{place}.work.cached_tokens": Is(cached),
        f"{place}.work.cached_share": Is(cached / prompt(tasks)),
        f"{place}.work.idle_price_per_kwh": Is(PER_KWH),
        f"{place}.work.completion_tokens": Is(completion(tasks)),
        f"{place}.work.tokens": Is(tokens),
        f"{place}.work.idle_watts": Is(idle_watts),
        f"{place}.work.price_per_kwh": Is(PER_KWH),
        f"{place}.terms.per_kwh": Is(PER_KWH),
        f"{place}.terms.per_hour": Is(PER_HOUR),
        f"{place}.terms.utilization": Is(UTILIZATION),
        f"{place}.terms.pue": Is(PUE),
        f"{place}.terms.idle_watts": Is(idle_watts),
        f"{place}.local.electricity": Is(electricity, JOULES),
        f"{place}.local.hardware": Is(hours / UTILIZATION * PER_HOUR),
        f"{place}.local.idle": Is(idle_hours(UTILIZATION)),
        f"{place}.local.total": Is(local(UTILIZATION), JOULES),
        f"{place}.local.per_task": Is(local(UTILIZATION) / len(tasks), JOULES),
        f"{place}.local.per_success": Is(local(UTILIZATION) / successes(tasks), JOULES),
        f"{place}.apis[small].total": Is(whole),
        f"{place}.apis[small].per_task": Is(whole / len(tasks)),
        f"{place}.apis[small].per_success": Is(whole / successes(tasks)),
    }
    even: tuple[Check, Check] = (Unknown(), Unknown())
    if whole > electricity and share <= 1:
        even = Is(share, JOULES), Is(share * tokens / (3600 * hours) * 86400, JOULES)
    found[f"{place}.apis[small].utilization"], found[f"{place}.apis[small].tokens_per_day"] = even
    return found


def bottlenecks() -> Truth:
    found: Truth = {}
    for tasks in RUNS.values():
        place = f"[{tasks[0].model.name}]"
        whole = script.busy(tasks)
        found |= {f"{place}.waiting.tasks": Is(TASKS), f"{place}.waiting.total": Is(whole, off=1e-5)}
        sums: dict[str, float] = {}
        for task in tasks:
            times = {kind: seconds for kind, seconds in _waits(task).items() if seconds}
            sums = {kind: sums.get(kind, 0.0) + times.get(kind, 0.0) for kind in {*sums, *times}}
        found |= {f"{place}.waiting.seconds.{kind}": Is(seconds, off=1e-5) for kind, seconds in sums.items()}
        found |= _memory(place, tasks) | _capacity(place, tasks)
    return found


def _waits(task: Task) -> Mapping[str, float]:
    queue = sum(call.queue for call in task.calls)
    return {
        "tool": sum(call.tool for call in task.calls),
        "queue": queue,
        "agent": task.in_phase("other") - queue,
        "load": sum(call.load for call in task.calls),
        "prefill": sum(call.prefill for call in task.calls),
        "decode": sum(call.decode for call in task.calls),
    }


def _model_seconds(task: Task) -> float:
    return sum(call.prefill + call.decode for call in task.calls)


def _busy(task: Task) -> float:
    return min(max(task.model.util) / 100 * task.seconds, _model_seconds(task))


def _on_cpu(task: Task) -> float:
    return _model_seconds(task) - _busy(task)


def _memory(place: str, tasks: Sequence[Task]) -> Truth:
    peaks = (max(task.vram for task in tasks), script.OTHER_VRAM_MIB)
    found: Truth = {}
    for index, peak in enumerate(peaks):
        found |= {f"{place}.memory[{index}].total_gib": Is(script.CARD_GIB), f"{place}.memory[{index}].peak_gib": Is(peak / 1024)}
        # Of two cards nobody says which one would hold more context.
        found |= {f"{place}.memory[{index}].more_tokens": Unknown(), f"{place}.memory[{index}].more_slots": Unknown()}
    return found


def _capacity(place: str, tasks: Sequence[Task]) -> Truth:
    model = tasks[0].model
    limited = sum(b - a for a, b in (task.capped for task in tasks))
    found: Truth = {f"{place}.power.tasks": Is(TASKS), f"{place}.power.share": Is(limited / script.busy(tasks), off=1e-6)}
    if model is ALPHA:
        slower = script.CLOCK_AT_LIMIT / script.CLOCK
        rate = completion(tasks) / sum(call.decode for task in tasks for call in task.calls)
        return found | {
            f"{place}.power.clock_ratio": Is(slower),
            f"{place}.power.most_seconds": Is(limited * (1 - slower) / TASKS),
            f"{place}.offload": Unknown(),
            f"{place}.decode.cards": Is(2),
            f"{place}.decode.tokens_per_second": Is(rate),
            f"{place}.decode.ceiling": Is(BANDWIDTH / WEIGHTS),
            f"{place}.decode.share": Is(rate * WEIGHTS / BANDWIDTH),
            f"{place}.decode.batch": Unknown(),
        }
    inside = model.vram / (model.size or 1.0)
    return found | {
        f"{place}.power.clock_ratio": Unknown(),
        f"{place}.power.most_seconds": Unknown(),
        f"{place}.decode": Unknown(),
        f"{place}.offload.tasks": Is(TASKS),
        f"{place}.offload.cpu_share": Is(1 - inside),
        f"{place}.offload.size_bytes": Is(model.size or 0.0),
        f"{place}.offload.vram_bytes": Is(model.vram),
        f"{place}.offload.cpu_seconds": Is(_mean([_on_cpu(task) for task in tasks]), off=1e-5),
        f"{place}.offload.gain_seconds": Is(_mean([_model_seconds(task) - _busy(task) / inside for task in tasks]), off=1e-5),
    }


def throttling() -> Truth:
    found: Truth = {}
    for tasks in RUNS.values():
        place = f"[{tasks[0].model.name}]"
        hot, cool = _calls(tasks, hot=True), _calls(tasks, hot=False)
        inside, outside = _rate(hot), _rate(cool)
        seconds, slower = sum(call.decode for call in hot), inside / outside
        found |= {
            f"{place}.tasks": Is(TASKS),
            f"{place}.calls_inside": Is(len(hot)),
            f"{place}.calls_outside": Is(len(cool)),
            f"{place}.rate_inside": Is(inside),
            f"{place}.rate_outside": Is(outside),
            f"{place}.onset_c": Is(script.TOO_HOT),
        }
        lost = {"slowdown": slower, "seconds_lost": seconds * (1 - slower), "tokens_lost": seconds * outside * (1 - slower)}
        for name, truth in lost.items():
            found |= {
                f"{place}.{name}.value": Is(truth),
                f"{place}.{name}.interval.low": AtMost(truth),
                f"{place}.{name}.interval.high": AtLeast(truth),
            }
    return found


def _calls(tasks: Sequence[Task], *, hot: bool) -> list[Call]:
    return [call for task in tasks if task.hot is hot for call in task.calls]


def _rate(calls: Sequence[Call]) -> float:
    return sum(call.completion for call in calls) / sum(call.decode for call in calls)


def balance() -> Truth:
    found: Truth = {}
    for tasks in RUNS.values():
        model, whole = tasks[0].model, script.busy(tasks)
        place = f"[{model.name}]"
        uneven = max(model.util) / _mean(model.util) - 1
        found |= {f"{place}.seconds": Is(whole), f"{place}.imbalance": Is(uneven)}
        for index, peak in enumerate((max(task.vram for task in tasks), script.OTHER_VRAM_MIB)):
            card = f"{place}.cards[{index}/{script.CARD}]"
            taken = sum(script.joules(task.start, task.end)[index] for task in tasks)
            found |= {
                f"{card}.util": Is(model.util[index]),
                f"{card}.watts": Is(taken / whole, SAMPLED),
                f"{card}.peak_vram_mib": Is(peak),
                f"{card}.joules": Is(taken, JOULES),
            }
        received = script.RECEIVED_PER_SECOND * whole
        found |= estimate(f"{place}.cards[0/{script.CARD}].links.pcie_rx", received, off=100.0)
    return found


def kv_cache() -> Truth:
    found: Truth = {}
    per_token = script.VRAM_MIB_PER_TOKEN * 2**20
    for tasks in RUNS.values():
        model = tasks[0].model
        place = f"[{model.name}]"
        shape = model.cache_bytes / model.context if model.size is not None else None
        found[f"{place}.token_bytes"] = Unknown() if shape is None else Is(shape)
        found |= estimate(f"{place}.slope", per_token, off=1.0)
        found[f"{place}.slope.points"] = Is(TASKS)
        for turn in (1, 2):
            found |= _turn(f"{place}.turns[{turn}]", tasks, turn, per_token if shape is None else shape)
    return found


def _turn(place: str, tasks: Sequence[Task], turn: int, size: float) -> Truth:
    model = tasks[0].model
    held = [task.calls[turn - 1].held for task in tasks]
    before = [task.calls[turn - 2].held if turn > 1 else 0 for task in tasks]
    tokens = _mean(held)
    found: Truth = {
        f"{place}.turn": Is(turn),
        f"{place}.tasks": Is(TASKS),
        f"{place}.tokens": Is(tokens),
        f"{place}.growth": Is(_mean(held) - _mean(before)),
        f"{place}.bytes": Is(size * tokens),
    }
    whole = model.cache_tokens
    if whole is None:
        names = ("bytes_low", "bytes_high", "ratio", "ratio_low", "ratio_high", "ratio_growth")
        return found | {f"{place}.seen": Is(0), **{f"{place}.{name}": Unknown() for name in names}}
    return found | {
        f"{place}.bytes_low": AtMost(size * tokens + 1.0),
        f"{place}.bytes_high": AtLeast(size * tokens - 1.0),
        f"{place}.seen": Is(TASKS),
        f"{place}.ratio": Is(tokens / whole),
        f"{place}.ratio_low": Is(min(held) / whole),
        f"{place}.ratio_high": Is(max(held) / whole),
        f"{place}.ratio_growth": Is((_mean(held) - _mean(before)) / whole),
    }


def findings() -> Iterator[tuple[str, str, str]]:
    """(model, finding, what its evidence and gain must hold)"""
    for tasks in RUNS.values():
        model, whole = tasks[0].model, script.busy(tasks)
        hot, cool = _calls(tasks, hot=True), _calls(tasks, hot=False)
        heat = sum(b - a for task in tasks for a, b in task.throttled) / whole
        held = f"hw_thermal for {100 * heat:.0f} % of the time of {TASKS} tasks, up to {script.TOO_HOT:.0f} C"
        yield model.name, "heat or the power supply holds the clocks down", held
        slower = _rate(hot) / _rate(cool)
        lost = sum(call.decode for call in hot) * (1 - slower)
        yield model.name, "throttling slows decode down", f"{100 * slower:.0f} % of the rate outside"
        yield model.name, "throttling slows decode down", f"{lost:.1f} s of decode"
        peak = max(task.vram for task in tasks) / 1024
        yield model.name, "VRAM is left", f"{peak:.1f} of {script.CARD_GIB} GiB in use at most"
    yield from _of_alpha(RUNS["run-a"])
    yield from _of_beta(RUNS["run-b"])


def _of_alpha(tasks: Sequence[Task]) -> Iterator[tuple[str, str, str]]:
    whole = script.busy(tasks)
    limited = sum(b - a for a, b in (task.capped for task in tasks))
    most = limited * (1 - script.CLOCK_AT_LIMIT / script.CLOCK) / TASKS
    power = "the power limit holds the clocks down"
    yield ALPHA.name, power, f"sw_power_cap for {100 * limited / whole:.0f} % of the time"
    yield ALPHA.name, power, f"0 to {most:.2f} s of a task"
    queued = 100 * ALPHA.waits / (ALPHA.waits + ALPHA.runs)
    yield ALPHA.name, "calls wait before the server works on them", f"{queued:.0f} % of the time that requests are in the server"
    idle = whole * (max(ALPHA.util) - min(ALPHA.util)) / 100
    yield ALPHA.name, "GPU 1 waits for the others", f"at least {idle:.1f} of {whole:.1f} s ({100 * idle / whole:.0f} %)"


def _of_beta(tasks: Sequence[Task]) -> Iterator[tuple[str, str, str]]:
    inside = BETA.vram / (BETA.size or 1.0)
    saved = _mean([_model_seconds(task) - _busy(task) / inside for task in tasks])
    layers = "layers run on the CPU"
    yield BETA.name, layers, f"{100 * (1 - inside):.0f} % of the model runs on the CPU"
    yield BETA.name, layers, f"about {saved:.2f} s of a task"
    yield BETA.name, layers, f"of {_mean([_on_cpu(task) for task in tasks]):.2f} s in which the CPU works"
    little = f"no card above 50 % use in {TASKS} of {TASKS} tasks, lowest {max(BETA.util):.0f} %"
    yield BETA.name, "the GPU is little used", little


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


assert len(EVERY) == 2 * TASKS
