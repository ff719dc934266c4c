"""Checks against what the field knows: power of the card, joules and seconds for a token, times to first token, confidences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from joulebench.doctor import anchors
from joulebench.doctor.facts import Facts
from joulebench.doctor.finding import WARNING, Finding, judged, told
from joulebench.parsing import as_float

LIMIT_TOLERANCE = 1.05
IDLE_FLOOR_WATTS = 5.0
"""No card that is switched on draws less."""
SAME_AS_LATENCY = 0.02


@dataclass(frozen=True, slots=True)
class Given:
    """What the user knows of the machine: watts of all GPUs together; None: from the files or the card's name."""

    idle_watts: float | None = None
    limit_watts: float | None = None


def checks(tasks: Sequence[Facts], given: Given) -> list[Finding]:
    return [
        judged(
            "power",
            tasks,
            lambda task: _power(task, given),
            why="mean power is not between idle and the limit of the card",
            fix="see that the monitor watches the machine that runs the model, and all of its GPUs",
        ),
        judged(
            "joules per token",
            tasks,
            _joules_per_token,
            severity=WARNING,
            why="outside the published range of models of this size",
            fix="look for a wrong GPU, a wait inside the window or a model that ran on the CPU",
            not_told="no file has joules, tokens and a model whose name tells its size",
        ),
        judged(
            "tokens per second",
            tasks,
            _rate,
            severity=WARNING,
            why="no model of this size makes tokens at this rate for one caller",
            fix="see whether tokens are counted twice, or the time of a call does not hold its whole reply",
        ),
        judged(
            "time to first token",
            tasks,
            _ttft,
            severity=WARNING,
            why="it is the latency of the whole reply: the client stamps it when all of the reply is there",
            fix="do not report it as TTFT; stream, or measure with 'joulebench proxy'",
        ),
        judged(
            "confidence",
            tasks,
            _confidence,
            why="a confidence outside 0 to 1 is none",
            fix="see what the client takes for a probability (a log probability is at most 0)",
            not_told="no tool call has a confidence",
        ),
    ]


def _power(task: Facts, given: Given) -> str | None:
    watts = told(task.watts)
    idle = given.idle_watts if given.idle_watts is not None else task.idle_watts
    limit = given.limit_watts if given.limit_watts is not None else _limit(task)
    if watts < (IDLE_FLOOR_WATTS if idle is None else 0.95 * idle):
        return f"{watts:.1f} W, below idle" + ("" if idle is None else f" ({idle:.0f} W)")
    if limit is not None and watts > LIMIT_TOLERANCE * limit:
        return f"{watts:.1f} W, above the limit of {limit:.0f} W"
    return None


def _limit(task: Facts) -> float | None:
    """Of all GPUs together, where the name of each is known."""
    known = [anchors.board_power(name) for name in task.gpu_names]
    if not known or len(known) != task.gpu_count or None in known:
        return None
    return sum(watts for watts in known if watts is not None)


def _joules_per_token(task: Facts) -> str | None:
    size = anchors.size_of(task.model)
    joules, tokens = told(task.joules), told(task.completion_tokens)
    if size is None or tokens <= 0:
        raise LookupError
    low, high = anchors.joules_per_token(size)
    return None if low <= joules / tokens <= high else f"{joules / tokens:.3g} J/token, not {low:.2g} to {high:.3g}"


def _rate(task: Facts) -> str | None:
    rate = told(task.decode_rate if task.decode_rate is not None else task.end_to_end_rate)
    low, high = anchors.tokens_per_second(anchors.size_of(task.model))
    return None if low <= rate <= high else f"{rate:.3g} tokens/s, not {low:g} to {high:.0f}"


def _ttft(task: Facts) -> str | None:
    ttft, latency = told(task.ttft_ms), told(task.latency_ms)
    if task.ttft_measured:
        return None
    return f"{ttft:.0f} of {latency:.0f} ms" if abs(latency - ttft) <= SAME_AS_LATENCY * latency else None


def _confidence(task: Facts) -> str | None:
    values = [value for value in task.confidences if value is not None]
    if not values:
        raise LookupError
    wrong = [value for value in values if (known := as_float(value)) is None or not 0 <= known <= 1]
    return ", ".join(str(value)[:40] for value in wrong[:3]) if wrong else None
