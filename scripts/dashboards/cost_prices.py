"""The cost dashboard's last row: prices, their days, and whatever else its numbers rest on."""

from __future__ import annotations

from scripts.dashboards import costs
from scripts.dashboards.cost_utilization import IDLE_WATTS, SECONDS
from scripts.dashboards.costs import CURRENCY
from scripts.dashboards.fields import Json, Query, override
from scripts.dashboards.panels import stat, table
from scripts.dashboards.promql import COMPLETION, PROMPT, ratio, select, total

from joulebench import metrics as m
from joulebench.units import JOULES_PER_KWH

MILLION = 1_000_000
OWN, NOT_OWN = ('item=~"electricity|hardware"', 'item!~"electricity|hardware"')


def oldest_price() -> Json:
    used = 'item=~"electricity|hardware|$api_model"'
    return stat(
        "Oldest price",
        "Day on which the oldest of the prices that these costs rest on was looked up. After 180 days an alert asks for a look.",
        [Query(f"floor(1000 * min({select(m.PRICE_AS_OF, used)}))", "looked up", "instant")],
        "time:YYYY-MM-DD",
        empty="No data: no price list",
    )


def own_prices() -> Json:
    by = "item"
    prices = {
        "Price": f'label_replace({costs.electricity()} * {JOULES_PER_KWH:.0f}, "{by}", "electricity", "", "")'
        f' or label_replace({costs.hardware()} * 3600, "{by}", "hardware", "", "")',
        "Looked up": f"floor(1000 * max by ({by}) ({select(m.PRICE_AS_OF, OWN)}))",
    }
    return table(
        "Own prices",
        "Electricity for one kWh and hardware for one hour, as reckoned with here: the price list's, or those typed into the"
        " variables on top. Hardware 0: not counted. The day is that of the price list.",
        [Query(expr, "__auto", "table") for expr in prices.values()],
        {by: "Price of", "Value #A": "kWh or hour", "Value #B": "Looked up"},
        overrides=[override("kWh or hour", unit=CURRENCY), override("Looked up", unit="time:YYYY-MM-DD")],
        empty="No data: no price list",
    )


def api_prices() -> Json:
    def of(token: str) -> str:
        series = select(m.PRICE_API, f'token="{token}"')
        return f"{MILLION} * max by (api_model) ({series})"

    day = f"max by (item) ({select(m.PRICE_AS_OF, NOT_OWN)})"
    as_of = f'floor(1000 * max by (api_model) (label_replace({day}, "api_model", "$1", "item", "(.*)")))'
    queries = [*(of(token) for token in m.API_TOKENS), as_of]
    names = ("Prompt", "Cached prompt", "Completion", "Looked up")
    return table(
        "API prices",
        "For a million tokens, by the price list. n/a: the list gives no price for cached prompt tokens; they are then reckoned"
        " as others.",
        [Query(expr, "__auto", "table") for expr in queries],
        {"api_model": "API model", **{f"Value #{chr(ord('A') + place)}": name for place, name in enumerate(names)}},
        overrides=[
            *(override(name, unit=CURRENCY, decimals=3) for name in names[:3]),
            override("Looked up", unit="time:YYYY-MM-DD"),
        ],
        sort="API model",
        empty="No data: no price list",
    )


def assumptions() -> Json:
    return stat(
        "Reckoned with",
        "What the numbers above rest on, beside the prices: tokens of the tasks, idle and working power of all chosen GPUs, and"
        " the share of the prompt tokens that an API would take from its cache.",
        [
            Query(total(m.TASK_TOKENS, PROMPT), "prompt tokens", "instant"),
            Query(total(m.TASK_TOKENS, COMPLETION), "completion tokens", "instant"),
            Query(IDLE_WATTS, "idle power", "instant"),
            Query(ratio(total(m.TASK_ENERGY), SECONDS), "power in tasks", "instant"),
            Query("vector($cached_percent) / 100", "cached at the API", "instant"),
        ],
        "none",
        overrides=[
            override("/power/", by="byRegexp", unit="watt", decimals=1),
            override("cached at the API", unit="percentunit", decimals=0),
        ],
    )
