"""What tasks cost, here and at an API, in PromQL: prices are series of the exporter's price list or variables of the dashboard.

Local cost is electricity of the GPUs, and the machine's price by the second where the price list or the variable gives one. The
API's cost is that of the same tokens; how many of the prompt tokens an API would take from its cache is a variable.
"""

from __future__ import annotations

from pathlib import Path

import yaml
from scripts.dashboards.fields import Json
from scripts.dashboards.layout import query_variable, text_variable
from scripts.dashboards.promql import JOB, TASK_LABELS, per_task, select

from joulebench import catalogue as c
from joulebench.units import JOULES_PER_KWH

PRICES = Path(__file__).resolve().parents[2] / "prometheus/prices.yml"
CURRENCY = f"currency{yaml.safe_load(PRICES.read_text())['currency']}"
"""Grafana's unit; a dashboard cannot take it from a series, so the dashboards are built anew when the currency changes."""

BY_MODEL = f"on ({TASK_LABELS}) group_left (model)"


def electricity() -> str:
    """For one joule, without labels."""
    return f"(max((vector($kwh_price) > 0) / {JOULES_PER_KWH:.0f}) or max({select(c.PRICE_ELECTRICITY)}))"


def hardware() -> str:
    """For one second; 0 where only electricity is to be counted, which the dashboards then say."""
    return f"(max((vector($hour_price) > 0) / 3600) or max({select(c.PRICE_HARDWARE)}) or vector(0))"


def completion_token(model: str = '"$api_model"', by: str = "") -> str:
    return _token("completion", model, by)


def prompt_token(model: str = '"$api_model"', by: str = "") -> str:
    """For one prompt token, of which ``$cached_percent`` come from the API's cache."""
    fresh = _token("prompt", model, by)
    cached = f"({_token('cached_prompt', model, by)} or {fresh})"
    return f"((100 - $cached_percent) / 100 * {fresh} + $cached_percent / 100 * {cached})"


def local_cost_per_task() -> str:
    energy = f"{per_task(c.TASK_ENERGY)} * on () group_left () {electricity()}"
    time = f"{per_task(c.TASK_DURATION)} * on () group_left () {hardware()}"
    return f"({energy} + on ({TASK_LABELS}) {time})"


def api_cost_per_task() -> str:
    prompt = f"{per_task(c.TASK_PROMPT_TOKENS)} * on () group_left () {prompt_token()}"
    completion = f"{per_task(c.TASK_COMPLETION_TOKENS)} * on () group_left () {completion_token()}"
    return f"({prompt} + on ({TASK_LABELS}) {completion})"


def variables() -> list[Json]:
    return [
        query_variable("api_model", "API model", f"{c.PRICE_API.name}{{{JOB}}}", single=True),
        text_variable("kwh_price", "Price per kWh (0: price list)", "0"),
        text_variable("hour_price", "Hardware per hour (0: price list)", "0"),
        text_variable("cached_percent", "Cached prompt tokens, %", "0"),
    ]


def _token(kind: str, model: str, by: str) -> str:
    series = select(c.PRICE_API, f"api_model=~{model}", f'token="{kind}"')
    return f"max{f' by ({by})' if by else ''} ({series})"
