"""The cost dashboard: what do tasks cost here, and what would the same tokens cost at an API?

Prices are those of the exporter's price list. What depends on more than that (hours without work, break-even, other prices, time
of use, intervals) is the report's.
"""

from __future__ import annotations

from scripts.dashboards.gpu_panels import source_tile
from scripts.dashboards.layout import Layout, dashboard, marks, variables
from scripts.dashboards.panels import (
    ABSENCE,
    NO_COSTS,
    NOT_AVAILABLE,
    NOT_MEASURED,
    Json,
    Query,
    bargauge,
    override,
    stat,
    states,
    steps,
    table,
    timeseries,
)
from scripts.dashboards.promql import (
    CHOSEN_API,
    COMPLETION,
    PASSED,
    PROMPT,
    added,
    api_cost,
    api_prices,
    electricity,
    hardware,
    latest,
    local_cost,
    ratio,
    select,
    total,
    used_energy,
)
from scripts.dashboards.task_panels import (
    CHARGED,
    CURRENCY,
    JOULES_PER_WH,
    price_variables,
    unmeasured_tasks,
)

from joulebench import metrics as m
from joulebench.units import JOULES_PER_KWH

UID = "llm-cost"
MILLION, THOUSAND = 1_000_000, 1000
RANGE_SECONDS = "($__to - $__from) / 1000"
OWN, NOT_OWN = ('item=~"electricity|hardware"', 'item!~"electricity|hardware"')


def build() -> Json:
    layout = Layout()
    layout.row("Local or API?")
    layout.add(local(), 7, 4)
    layout.add(included(), 5, 4)
    layout.all([api(), local_by_api(), unmeasured(), source_tile()], 3, 4)
    layout.all([cost_over_time(), same_tokens()], 12, 9)
    layout.row("By model")
    layout.add(model_table(), 24, 6)
    layout.row("Energy")
    layout.all([inside_and_outside(), per_thousand()], 12, 6)
    layout.row("Prices and assumptions")
    layout.all([local_prices(), api_price_list()], 12, 6)
    layout.add(assumptions(), 24, 4)
    return dashboard(
        UID,
        "Joulebench: cost & energy",
        "What do the tasks cost here, and what would the same tokens cost at an API? Break-even, utilization, other prices and"
        " intervals: joulebench report.",
        layout,
        variables=variables(*price_variables()),
        annotations=marks(task_starts=False),
        since="now-1h",
        refresh="30s",
    )


def local() -> Json:
    with_idle = f"{used_energy()} * {electricity()} + {hardware()} * {RANGE_SECONDS}"
    return stat(
        "Local cost",
        "Cost of the tasks in this time range on this hardware; and that of all energy and all of the time in it, hours without"
        f" work included. {CHARGED}",
        [Query(local_cost(), "tasks", "instant"), Query(with_idle, "with idle time", "instant")],
        CURRENCY,
        value_size=32,
    )


def api() -> Json:
    return stat(
        "API cost",
        "Cost of the same tokens at the chosen API model. Prompt tokens from the cache have the API's price for cached tokens, as"
        " many as the model server reported, or none, as chosen above.",
        [Query(api_cost(), "$api_model", "instant")],
        CURRENCY,
    )


def local_by_api() -> Json:
    """The ratio is computed by Grafana: in PromQL it would be longer than a person can read."""
    ratio_of_both: Json = {
        "mode": "binary",
        "binary": {"left": "local", "operator": "/", "right": "API"},
        "alias": "local / API",
        "replaceFields": True,
    }
    panel = stat(
        "Local / API",
        "Local cost of the tasks as a share of the API's for the same tokens. Below 100 % it is cheaper here, hours without work"
        " not counted.",
        [Query(local_cost(), "local", "instant"), Query(api_cost(), "API", "instant")],
        "percentunit",
        thresholds=steps((None, "green"), (1, "orange")),
        decimals=0,
    )
    join = {"id": "joinByField", "options": {"byField": "Time", "mode": "outer"}}
    return {**panel, "transformations": [join, {"id": "calculateField", "options": ratio_of_both}]}


def unmeasured() -> Json:
    return stat(
        "Tasks without energy",
        "Finished tasks in this time range whose energy is not known: local costs are too low by theirs.",
        [Query(unmeasured_tasks(), "tasks", "instant")],
        "none",
        thresholds=steps((None, "text"), (1, "orange")),
    )


def included() -> Json:
    return stat(
        "Included",
        "Whether local costs are electricity of the GPUs only, or hardware too, where the price list has a price for it. The"
        " electricity of CPU, memory and cooling is in it only as far as the price list has a PUE.",
        [Query(f"count({hardware()} > 0) or 0 * {electricity()}", "", "instant")],
        "none",
        mappings=states({0: ("GPU electricity only", "text"), 1: ("GPU electricity and hardware", "text")}),
        value_size=22,
    )


def since_start(metric: m.Metric, by: str = "") -> str:
    """Growth of a run's counters since the left edge of the graph, exactly; a counter that appears later counts from 0."""
    counter = select(metric)
    newest = f"last_over_time({counter}[$__range])"
    return f"sum{f' by ({by})' if by else ''} ({newest} - ({counter} @ start() or 0 * {newest}))"


def cost_over_time() -> Json:
    counter = select(m.GPU_ENERGY)
    every_joule = f"sum(last_over_time({counter}[$__rate_interval]) - min_over_time({counter}[$__range] @ end()))"
    return timeseries(
        "Cost over time",
        "Sums since the left edge: electricity and hardware of the tasks that have ended, the same for all energy and time, hours"
        f" without work included, and the same tokens at the chosen API model. {CHARGED}",
        [
            Query(f"{since_start(m.RUN_CHARGED_ENERGY)} * {electricity()}", "local, electricity of tasks"),
            Query(f"{since_start(m.RUN_CHARGED_SECONDS)} * {hardware()}", "local, hardware of tasks"),
            Query(f"{every_joule} * {electricity()} + {hardware()} * (time() - $__from / 1000)", "local, with idle time"),
            Query(f"sum({since_start(m.RUN_TOKENS, 'token')} * on (token) {api_prices(CHOSEN_API)})", "API $api_model"),
        ],
        CURRENCY,
        empty=NO_COSTS,
    )


def same_tokens() -> Json:
    every = api_prices(by="api_model, token")
    return bargauge(
        "The same tokens elsewhere",
        "Cost of the tokens of these tasks at each model of the price list, beside their cost here. A dearer model may need fewer"
        " tokens or pass more tasks; that is not known here.",
        [
            Query(local_cost(), "here, tasks", "instant"),
            Query(
                f"sort_desc(sum by (api_model) ({every} * on (token) group_left () {total(m.TASK_TOKENS, by='token')}))",
                "{{api_model}}",
                "instant",
            ),
        ],
        CURRENCY,
        empty=NO_COSTS,
    )


def model_table() -> Json:
    tokens = f"({total(m.TASK_TOKENS, by='model')} > 0)"
    tasks = f"(count by (model) ({latest(m.TASK_INFO)}) > 0)"
    energy = total(m.TASK_CHARGED_ENERGY, by="model")
    values: dict[str, tuple[str, Json]] = {
        "Tasks": (f"count by (model) ({latest(m.TASK_INFO)})", {}),
        "Passed": (f"sum by (model) ({added(m.RUN_TASKS, PASSED)})", {}),
        "Without energy": (f"sum by (model) ({added(m.RUN_TASKS_WITHOUT_ENERGY)})", {}),
        "Energy": (energy, {"unit": "joule", "decimals": 1}),
        "Wh per task": (f"{energy} / {JOULES_PER_WH:.0f} / {tasks}", {"unit": "watth", "decimals": 2}),
        "Wh per 1k tokens": (f"{energy} / {JOULES_PER_WH / THOUSAND} / {tokens}", {"unit": "watth", "decimals": 2}),
        "Local cost": (local_cost(by="model"), {"unit": CURRENCY}),
        "API cost": (api_cost(by="model"), {"unit": CURRENCY}),
        "Local per task": (f"{local_cost(by='model')} / {tasks}", {"unit": CURRENCY}),
        "API per task": (f"{api_cost(by='model')} / {tasks}", {"unit": CURRENCY}),
    }
    fields = {f"Value #{chr(ord('A') + place)}": name for place, name in enumerate(values)}
    return table(
        "Cost by model",
        f"One row per model, over the tasks in this time range. Tokens are prompt and completion together. {CHARGED} n/a: not"
        " known.",
        [Query(expr, "__auto", "table") for expr, _ in values.values()],
        {"model": "Model", **fields},
        overrides=[
            override("Model", custom__minWidth=160),
            *(override(name, custom__width=135, **shown) for name, (_, shown) in values.items()),
        ],
        sort="Energy",
        empty=NO_COSTS,
    )


def inside_and_outside() -> Json:
    charged = total(m.TASK_CHARGED_ENERGY)
    return bargauge(
        "Energy inside and outside of tasks",
        "Of all chosen GPUs in this time range. Tasks that began before the range count in full, so that outside may be too low"
        f" by their part before it. {CHARGED}",
        [
            Query(charged, "in tasks", "instant"),
            Query(f"{used_energy()} - {charged}", "outside of tasks", "instant"),
        ],
        "joule",
        decimals=1,
        empty=NO_COSTS,
    )


def per_thousand() -> Json:
    energy = f"{total(m.TASK_CHARGED_ENERGY)} / {JOULES_PER_WH / THOUSAND}"
    return stat(
        "Wh per 1,000 tokens",
        f"Energy of the tasks divided by their tokens: prompt and completion together, and completion alone. {CHARGED}",
        [
            Query(ratio(energy, total(m.TASK_TOKENS)), "all tokens", "instant"),
            Query(ratio(energy, total(m.TASK_TOKENS, COMPLETION)), "completion tokens", "instant"),
        ],
        "watth",
        decimals=2,
    )


def local_prices() -> Json:
    by = "item"
    prices = {
        "Price": f'label_replace({electricity()} * {JOULES_PER_KWH:.0f}, "{by}", "electricity", "", "")'
        f' or label_replace({hardware()} * 3600, "{by}", "hardware", "", "")',
        "Looked up": f"floor(1000 * max by ({by}) ({select(m.PRICE_AS_OF, OWN)}))",
    }
    return table(
        "Local prices",
        "Electricity for one kWh, with the PUE where the price list has one, and hardware for one hour. Hardware 0: not counted.",
        [Query(expr, "__auto", "table") for expr in prices.values()],
        {by: "Price of", "Value #A": "kWh or hour", "Value #B": "Looked up"},
        overrides=[override("kWh or hour", unit=CURRENCY), override("Looked up", unit="time:YYYY-MM-DD")],
        empty="No data: no price list",
    )


def api_price_list() -> Json:
    def of(token: str) -> str:
        series = select(m.PRICE_API, f'token="{token}"')
        return f"{MILLION} * max by (api_model) ({series})"

    day = f"max by (item) ({select(m.PRICE_AS_OF, NOT_OWN)})"
    as_of = f'floor(1000 * max by (api_model) (label_replace({day}, "api_model", "$1", "item", "(.*)")))'
    queries = [*(of(token) for token in m.API_TOKENS), as_of]
    names = ("Prompt", "Cached prompt", "Completion", "Looked up")
    return table(
        "API prices",
        "For a million tokens, by the price list. n/a: the list has no price for cached prompt tokens; they then cost as much as"
        " others.",
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
    idle = f"sum(min by (instance, gpu, uuid) ({latest(m.RUN_IDLE_POWER)}))"
    known_cached = total(m.TASK_TOKENS, 'token="cached_prompt"')
    return stat(
        "Assumptions",
        "Tokens of the tasks, the share of prompt tokens that the model server reported as cached (n/a: it reports none, and the"
        " API is counted without a cache), mean power in tasks, and idle power with the model loaded as the runs measured it"
        " (Run.measure_idle, joulebench bench --idle-seconds).",
        [
            Query(total(m.TASK_TOKENS, PROMPT), "prompt tokens", "instant"),
            Query(total(m.TASK_TOKENS, COMPLETION), "completion tokens", "instant"),
            Query(
                f"{ratio(known_cached, total(m.TASK_TOKENS, PROMPT))} or 0 * {total(m.TASK_TOKENS)} - {-NOT_AVAILABLE}",
                "cached",
                "instant",
            ),
            Query(ratio(total(m.TASK_CHARGED_ENERGY), total(m.TASK_CHARGED_SECONDS)), "power in tasks", "instant"),
            Query(f"{idle} or 0 * max({select(m.EXPORTER_INFO)}) - {-NOT_MEASURED}", "idle power", "instant"),
        ],
        "none",
        mappings=ABSENCE,
        value_size=32,
        overrides=[
            override("/power/", by="byRegexp", unit="watt", decimals=1),
            override("cached", unit="percentunit", decimals=0),
        ],
    )
