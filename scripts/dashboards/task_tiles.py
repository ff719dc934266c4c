"""The tiles on top of the task dashboard: the totals of the one task that is chosen."""

from __future__ import annotations

from scripts.dashboards import costs
from scripts.dashboards.absence import ABSENCE, or_unknown
from scripts.dashboards.costs import CURRENCY
from scripts.dashboards.fields import Json, Query, override, steps
from scripts.dashboards.live_tiles import source_tile
from scripts.dashboards.panels import stat
from scripts.dashboards.promql import COMPLETION, PROMPT, TASK_LABELS, latest, ratio
from scripts.dashboards.task_rows import throttled

from joulebench import metrics as m
from joulebench.metrics import Metric

TASK = 'task_id=~"$task_id"'


def known(expr: str, legend: str) -> Query:
    """A number of the task, or the words for one that nobody knows, such as the confidence of calls without logprobs."""
    return Query(or_unknown(expr, latest(m.TASK_INFO, TASK)), legend, "instant")


def wide_tiles() -> list[tuple[Json, int]]:
    """Tiles with their widths, two lines of 24 columns."""
    return [
        (duration(), 6),
        (energy(), 6),
        (tokens(), 6),
        (throttled_seconds(), 3),
        (source_tile(), 3),
        (cost(), 6),
        (speed_so_far(), 3),
        (first_token(), 3),
        (confidence(), 7),
        (calls(), 5),
    ]


def total(metric: Metric, *matchers: str, suffix: str = "", by: str = "") -> str:
    return f"sum{f' by ({by})' if by else ''} ({latest(metric, TASK, *matchers, suffix=suffix)})"


def duration() -> Json:
    begun, ended = total(m.TASK_START), total(m.TASK_END)
    return stat(
        "Duration",
        "By the benchmark's monotonic clock once the task is over; until then the time since its start.",
        [
            Query(f"{total(m.TASK_DURATION)} or (time() - {begun} unless {ended})", "whole", "instant"),
            Query(total(m.TASK_LLM_DURATION, suffix="_sum"), "in LLM calls", "instant"),
        ],
        "s",
        decimals=1,
    )


def energy() -> Json:
    high, low = total(m.TASK_ENERGY_HIGH), total(m.TASK_ENERGY_LOW)
    return stat(
        "Energy",
        "Joules of all GPUs from the start of the task to its end, half the distance of the guaranteed bounds, and what of it was"
        " used during LLM calls. It comes a moment after the end.",
        [
            known(total(m.TASK_ENERGY), "whole"),
            known(f"({high} - {low}) / 2", "±"),
            known(total(m.TASK_CALL_ENERGY, suffix="_sum"), "in LLM calls"),
        ],
        "joule",
        decimals=1,
        mappings=ABSENCE,
    )


def tokens() -> Json:
    return stat(
        "Tokens",
        "As the server counted them.",
        [
            Query(total(m.TASK_TOKENS, PROMPT), "prompt", "instant"),
            Query(total(m.TASK_TOKENS, COMPLETION), "completion", "instant"),
        ],
        "none",
    )


def cost() -> Json:
    here = f"{total(m.TASK_ENERGY)} * {costs.electricity()} + {total(m.TASK_DURATION)} * {costs.hardware()}"
    prompt, completion = total(m.TASK_TOKENS, PROMPT), total(m.TASK_TOKENS, COMPLETION)
    api = f"{prompt} * {costs.prompt_token()} + {completion} * {costs.completion_token()}"
    return stat(
        "Cost",
        "Local cost of the task, and that of the same tokens at the chosen API model.",
        [known(here, "here"), known(api, "$api_model")],
        CURRENCY,
        mappings=ABSENCE,
    )


def throttled_seconds() -> Json:
    of_this = f"sum(({throttled()}) and on ({TASK_LABELS}) {latest(m.TASK_INFO, TASK)})"
    return stat(
        "Throttled",
        "Seconds of the task in which heat held clocks down, all chosen GPUs together, from the samples within it.",
        [known(of_this, "by heat")],
        "s",
        thresholds=steps((None, "text"), (0.0001, "orange")),
        decimals=1,
        mappings=ABSENCE,
    )


def speed_so_far() -> Json:
    return stat(
        "Output speed",
        "Decoded tokens by the time the server spent on decoding.",
        [known(ratio(total(m.TASK_DECODE_TOKENS), total(m.TASK_DECODE, suffix="_sum")), "output")],
        "suffix:tok/s",
        decimals=1,
        mappings=ABSENCE,
    )


def first_token() -> Json:
    return stat(
        "TTFT",
        "Mean time to first token of the task's streamed calls.",
        [known(ratio(total(m.TASK_TTFT, suffix="_sum"), total(m.TASK_TTFT, suffix="_count")), "mean")],
        "s",
        mappings=ABSENCE,
    )


def confidence() -> Json:
    return stat(
        "Confidence",
        "Of the tool calls whose tokens were found, and how many those are.",
        [
            known(f"min({latest(m.TASK_CONFIDENCE_MIN, TASK)})", "lowest"),
            known(ratio(total(m.TASK_CONFIDENCE, suffix="_sum"), total(m.TASK_CONFIDENCE, suffix="_count")), "mean"),
            known(f"max({latest(m.TASK_CONFIDENCE_MAX, TASK)})", "highest"),
            known(total(m.TASK_CONFIDENCE, suffix="_count"), "calls"),
        ],
        "percentunit",
        decimals=0,
        overrides=[override("calls", unit="none")],
        mappings=ABSENCE,
    )


def calls() -> Json:
    return stat(
        "Calls",
        "LLM calls that were begun, those that failed, and tool calls that the model tried.",
        [
            Query(total(m.TASK_LLM_CALLS), "LLM", "instant"),
            Query(total(m.TASK_LLM_ERRORS), "failed", "instant"),
            Query(total(m.TASK_TOOL_CALLS), "tool", "instant"),
        ],
        "none",
    )
