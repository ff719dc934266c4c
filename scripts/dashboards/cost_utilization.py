"""What tasks cost when the hours in which the machine waits are paid too, and how busy it must be to be no dearer than an API.

With u the share of its hours in which the machine works on tasks, E the electricity of the tasks, H the hardware and I the idle
electricity of the time they took, and A the same tokens at the API:

    local(u) = E + H / u + I (1 - u) / u          local(u) = A  at  u = (H + I) / (A - E + I)

All of it in PromQL, from the price metrics or what is typed in. Tasks that overlap are each counted whole.
"""

from __future__ import annotations

from scripts.dashboards import costs
from scripts.dashboards.absence import NO_COSTS
from scripts.dashboards.costs import CURRENCY
from scripts.dashboards.fields import Json, Query, override, states, steps
from scripts.dashboards.panels import bargauge, stat
from scripts.dashboards.promql import COMPLETION, PROMPT, in_range, latest, per_task, select, total

from joulebench import metrics as m

MILLION = 1_000_000
SECONDS_PER_DAY = 86_400
NEVER = 1000
NEVER_STATE = states({NEVER: ("never", "red")})
SHARES = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
TOKENS = f"({total(m.TASK_TOKENS, PROMPT)} + {total(m.TASK_TOKENS, COMPLETION)})"
LOCAL = f"sum({costs.local_cost_per_task()})"
API = f"sum({costs.api_cost_per_task()})"
SECONDS = total(m.TASK_DURATION)
IDLE_WATTS = f"sum(quantile_over_time(0.05, {select(m.GPU_POWER)}[$__range]))"
IDLE_PRICE = f"{IDLE_WATTS} * {costs.electricity()}"
TASKS = f"count{in_range(latest(m.TASK_DURATION))}"


def local_at(share: str) -> str:
    """Cost of all the tasks here where the machine is busy for that share of its hours."""
    electricity = f"{total(m.TASK_ENERGY)} * {costs.electricity()}"
    return f"({electricity} + {SECONDS} * ({costs.hardware()} / {share} + {IDLE_PRICE} * (1 - {share}) / {share}))"


def _break_even() -> str:
    """That share; absent where the API is always cheaper."""
    standing = f"({costs.hardware()} + {IDLE_PRICE})"
    earning = f"{API} / ({SECONDS} > 0)"
    working = f"({total(m.TASK_ENERGY)} / ({SECONDS} > 0) - {IDLE_WATTS}) * {costs.electricity()}"
    return f"{standing} / (({earning} - {working}) > 0)"


def _needed() -> str:
    return f"{_break_even()} <= 1 or 0 * {API} + {NEVER}"


def break_even() -> Json:
    return stat(
        "Break-even utilization",
        "Share of time for which tasks like these must run for this hardware, idle time included, to cost no more than the API."
        " Idle power is what 95 % of the samples stay above. never: the API is cheaper however busy this hardware is.",
        [Query(_needed(), "of the time", "instant")],
        "percentunit",
        thresholds=steps((None, "green"), (0.5, "orange"), (1, "red")),
        mappings=NEVER_STATE,
        decimals=0,
    )


def at_utilization() -> Json:
    share = costs.utilization()
    return stat(
        "A task, idle hours paid",
        "Mean cost of a task where the machine is busy for the share of its hours that stands on top, idle hours and hardware"
        " paid by the busy ones; beside it that of the same tokens at the chosen API model.",
        [
            Query(f"{local_at(share)} / ({TASKS} > 0)", "here", "instant"),
            Query(f"{API} / ({TASKS} > 0)", "$api_model", "instant"),
            Query(f"{local_at(share)} / ({API} > 0)", "here / API", "instant"),
        ],
        CURRENCY,
        overrides=[override("here / API", unit="percentunit", decimals=0, thresholds=steps((None, "green"), (1, "orange")))],
    )


def tokens_to_break_even() -> Json:
    pace = f"{TOKENS} / ({SECONDS} > 0) * {SECONDS_PER_DAY}"
    return stat(
        "Tokens a day to break even",
        "Tokens like these, prompt and completion together, that must be worked on each day for this hardware to cost no more"
        " than the API; and how many it would work on if it never waited.",
        [
            Query(f"{pace} * ({_break_even()} <= 1) or 0 * {API} - {NEVER}", "needed", "instant"),
            Query(pace, "at most", "instant"),
        ],
        "short",
        mappings=states({-NEVER: ("never", "red")}),
        decimals=1,
    )


def by_utilization() -> Json:
    def million(cost: str) -> str:
        return f"{cost} * {MILLION} / ({TOKENS} > 0)"

    return bargauge(
        "A million tokens, by utilization",
        "Cost of a million tokens like these, prompt and completion together, where the machine is busy for that share of its"
        " hours; and at the chosen API model.",
        [
            *(Query(million(local_at(f"{share:g}")), f"here, {share:.0%} busy", "instant") for share in SHARES),
            Query(million(API), "$api_model", "instant"),
        ],
        CURRENCY,
        decimals=2,
        empty=NO_COSTS,
    )


def utilization_needed() -> Json:
    working = f"sum({per_task(m.TASK_DURATION)}) / (($__to - $__from) / 1000)"
    return bargauge(
        "Busy and break-even",
        "Share of this time range in which tasks ran (above 100 % where workers overlap), the share that the cost above is"
        " reckoned with, and the share that would be needed for this hardware to cost no more than the API.",
        [
            Query(working, "busy with tasks", "instant"),
            Query(costs.utilization(), "reckoned with", "instant"),
            Query(_needed(), "needed to break even", "instant"),
        ],
        "percentunit",
        decimals=0,
        maximum=1,
        overrides=[override("needed to break even", mappings=NEVER_STATE)],
        empty=NO_COSTS,
    )
