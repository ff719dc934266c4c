"""What tasks cost, here and at an API, in PromQL: prices are series of the exporter's price list or variables of the dashboard.

Local cost is electricity of the GPUs, and the machine's price by the second where the price list or a variable gives one: what it
was bought for over the years of its use, or what an hour costs. The API's cost is that of the same tokens; how many of the prompt
tokens an API would take from its cache is a variable.
"""

from __future__ import annotations

from pathlib import Path

import yaml
from scripts.dashboards.fields import Json
from scripts.dashboards.layout import query_variable, text_variable
from scripts.dashboards.promql import COMPLETION, JOB, PROMPT, TASK_LABELS, per_task, select

from joulebench import metrics as m
from joulebench.analysis.cost import DEFAULT_UTILISATION
from joulebench.prices import HOURS_PER_YEAR, SECONDS_PER_HOUR
from joulebench.units import JOULES_PER_KWH

PRICES = Path(__file__).resolve().parents[2] / "prometheus/prices.yml"
CURRENCY = f"currency{yaml.safe_load(PRICES.read_text())['currency']}"
"""Grafana's unit; a dashboard cannot take it from a series, so the dashboards are built anew when the currency changes."""

SECONDS_PER_YEAR = HOURS_PER_YEAR * SECONDS_PER_HOUR
BY_MODEL = f"on ({TASK_LABELS}) group_left (model)"


def electricity() -> str:
    """For one joule of the GPUs, with what cooling adds, without labels."""
    return f"((max((vector($kwh_price) > 0) / {JOULES_PER_KWH:.0f}) or max({select(m.PRICE_ELECTRICITY)})) * $pue)"


def hardware() -> str:
    """For one second; 0 where only electricity is to be counted, which the dashboards then say."""
    bought = f"(vector($machine_price) > 0) / (vector($machine_years) > 0) / {SECONDS_PER_YEAR:.0f}"
    return f"(max((vector($hour_price) > 0) / 3600) or max({bought}) or max({select(m.PRICE_HARDWARE)}) or vector(0))"


def completion_token(model: str = '"$api_model"', by: str = "") -> str:
    return _token("completion", model, by)


def prompt_token(model: str = '"$api_model"', by: str = "") -> str:
    """For one prompt token, of which ``$cached_percent`` come from the API's cache."""
    fresh = _token("prompt", model, by)
    cached = f"({_token('cached_prompt', model, by)} or {fresh})"
    return f"((100 - $cached_percent) / 100 * {fresh} + $cached_percent / 100 * {cached})"


def local_cost_per_task() -> str:
    energy = f"{per_task(m.TASK_ENERGY)} * on () group_left () {electricity()}"
    time = f"{per_task(m.TASK_DURATION)} * on () group_left () {hardware()}"
    return f"({energy} + on ({TASK_LABELS}) {time})"


def api_cost_per_task() -> str:
    prompt = f"{per_task(m.TASK_TOKENS, PROMPT)} * on () group_left () {prompt_token()}"
    completion = f"{per_task(m.TASK_TOKENS, COMPLETION)} * on () group_left () {completion_token()}"
    return f"({prompt} + on ({TASK_LABELS}) {completion})"


def utilization() -> str:
    """Share of its hours in which the machine works on tasks, as typed in."""
    return "(clamp(vector($utilization), 1, 100) / 100)"


def variables(*, whole: bool = False) -> list[Json]:
    """``whole``: with those of hardware and idle hours. They are there on every dashboard, so that a link keeps what was typed,
    and shown on that of the costs."""
    return [
        query_variable("api_model", "API model", f"{m.PRICE_API.name}{{{JOB}}}", single=True),
        text_variable("kwh_price", "Price per kWh (0: price list)", "0"),
        text_variable("hour_price", "Hardware per hour (0: price list)", "0"),
        text_variable("cached_percent", "Cached prompt tokens, %", "0"),
        text_variable("machine_price", "Hardware bought for (0: per hour)", "0", shown=whole),
        text_variable("machine_years", "Years of use", "3", shown=whole),
        text_variable("utilization", "Busy, % of its hours", f"{100 * DEFAULT_UTILISATION:.0f}", shown=whole),
        text_variable("pue", "PUE", "1", shown=whole),
    ]


def _token(kind: str, model: str, by: str) -> str:
    series = select(m.PRICE_API, f"api_model=~{model}", f'token="{kind}"')
    return f"max{f' by ({by})' if by else ''} ({series})"
