"""Costs by hand: the break-even is where both sides cost the same, and what has no price is said and never guessed."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest

from joulebench.analysis import cost
from joulebench.analysis.runs import load_run
from joulebench.errors import UserError
from joulebench.prices import PriceList, load
from tests.fakes.scripted_run import START, Scripted, write

PRICES = """
currency: EUR
pue: 1.5
electricity: {per_kwh: 0.30, as_of: 2026-11-01}
hardware: {price: 8766, years: 1, as_of: 2026-11-01}
api: [{model: small, prompt: 1, cached_prompt: 0.1, completion: 10, as_of: 2026-06-15}]
"""
HOUR = Scripted(
    "t",
    joules=3.6e6,
    seconds=3600.0,
    prompt_tokens=4_000_000,
    cached_tokens=1_000_000,
    completion_tokens=100_000,
    idle_watts=100.0,
)


def prices(folder: Path, text: str = PRICES) -> PriceList:
    path = folder / "prices.yml"
    path.write_text(text)
    return load(path)


def work(folder: Path, *attempts: Scripted, listed: PriceList | None = None) -> cost.Workload:
    return cost.workload_of_attempts(load_run(write(folder / "run", attempts)).attempts, listed or prices(folder))


def test_both_sides_by_hand(tmp_path: Path) -> None:
    listed = prices(tmp_path)
    done = work(tmp_path, HOUR)
    at = cost.cost_terms(done, listed, utilization=0.25)
    found = cost.local_cost(done, at)
    assert found.electricity == pytest.approx(1 * 0.30 * 1.5)
    assert found.hardware == pytest.approx(4 * 1.0)
    assert found.idle == pytest.approx(3 * 0.1 * 0.30 * 1.5)
    assert cost.api_cost(done, listed.api[0]) == pytest.approx(3 + 0.1 + 1)
    assert cost.missing_prices(done, listed) == []


def test_at_break_even_both_sides_cost_the_same(tmp_path: Path) -> None:
    listed = prices(tmp_path)
    done = work(tmp_path, HOUR)
    at = cost.cost_terms(done, listed)
    from_api = cost.api_cost(done, listed.api[0])
    found = cost.break_even(done, at, from_api)
    assert found.utilization == pytest.approx((1.0 + 0.045) / (4.1 - 0.45 + 0.045))
    there = replace(at, utilization=found.utilization or 0)
    assert cost.local_cost(done, there).total == pytest.approx(from_api)
    assert found.tokens_per_day == pytest.approx(4_100_000 * 24 * (found.utilization or 0))


@pytest.mark.parametrize(
    ("api_cost", "per_hour", "idle", "finding"),
    [(0.40, 1.0, 100.0, "never: the electricity"), (1.0, 1.0, 100.0, "never: local costs more"), (1.0, 0.0, 0.0, "always")],
)
def test_where_there_is_no_break_even_the_reason_is_told(
    tmp_path: Path, api_cost: float, per_hour: float, idle: float, finding: str
) -> None:
    done = work(tmp_path, HOUR)
    at = cost.CostTerms(per_kwh=0.30, idle_per_kwh=0.30, per_hour=per_hour, utilization=0.25, pue=1.5, idle_watts=idle)
    found = cost.break_even(done, at, api_cost)
    assert found.utilization is None
    assert found.finding.startswith(finding)


def test_tasks_side_by_side_pay_once_for_the_machine_and_unknown_ones_are_left_out(tmp_path: Path) -> None:
    together = [replace(HOUR, task_id=name) for name in "ab"]
    directory = write(tmp_path / "run", [*together, replace(HOUR, task_id="c", joules=None)])
    rows = [replace(row, start=START) for row in load_run(directory).attempts]
    done = cost.workload_of_attempts(rows)
    assert (done.attempts, done.excluded, done.busy_seconds, done.joules) == (2, 1, 3600.0, 7.2e6)


def test_electricity_costs_what_it_costs_at_that_hour(tmp_path: Path) -> None:
    text = PRICES.replace("as_of: 2026-11-01}\nhardware", "as_of: 2026-11-01, utc_offset_hours: 2,\n TIMES}\nhardware")
    listed = prices(tmp_path, text.replace("TIMES", "time_of_use: [{from: 22, to: 6, per_kwh: 0.1}]"))
    at = {hour: datetime(2026, 11, 2, hour, tzinfo=timezone.utc).timestamp() for hour in (19, 20, 3, 4)}
    found = {hour: round(3.6e6 * (listed.electricity_at(unix) or 0), 6) for hour, unix in at.items()}
    assert found == {19: 0.3, 20: 0.1, 3: 0.1, 4: 0.3}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("pue: 0.9", "1 or more"),
        ("hardware: {price: 10, years: 0, as_of: 2026-11-01}", "more than 0"),
        ("electricity: {per_kwh: 1, as_of: 2026-11-01, utc_offset_hours: 20}", "from -14 to 14"),
        ("electricity: {per_kwh: 1, as_of: 2026-11-01, time_of_use: [{from: 6, to: 6, per_kwh: 1}]}", "two different hours"),
        ("electricity: {per_kwh: 1, as_of: 2026-11-01, time_of_use: 3}", "a list of hours"),
    ],
)
def test_a_price_that_cannot_be_meant_is_refused(tmp_path: Path, wrong: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        prices(tmp_path, f"currency: EUR\n{wrong}\n")


def test_what_has_no_price_is_told(tmp_path: Path) -> None:
    done = work(tmp_path, replace(HOUR, idle_watts=None, cached_tokens=None))
    told = " ".join(cost.missing_prices(done, prices(tmp_path, "currency: EUR\n")))
    for what in ("electricity", "hardware", "idle power", "PUE"):
        assert what in told
    assert (done.cached_share, done.cached_source) == (None, "no server reports cached tokens: none are assumed")


def test_a_task_across_a_border_pays_both_prices_and_idle_hours_the_mean_of_a_day(tmp_path: Path) -> None:
    """An hour that begins a quarter before the cheap hours: 0.25 x 0.3 + 0.75 x 0.1; a day has 8 cheap hours of 24."""
    text = PRICES.replace("as_of: 2026-11-01}\nhardware", "as_of: 2026-11-01, utc_offset_hours: 2,\n TIMES}\nhardware")
    listed = prices(tmp_path, text.replace("TIMES", "time_of_use: [{from: 22, to: 6, per_kwh: 0.1}]"))
    begun = datetime(2026, 11, 2, 19, 45, tzinfo=timezone.utc).timestamp()
    attempts = [replace(each, start=begun) for each in load_run(write(tmp_path / "run", [HOUR])).attempts]
    done = cost.workload_of_attempts(attempts, listed)
    assert done.price_per_kwh == pytest.approx(0.25 * 0.3 + 0.75 * 0.1, rel=1e-6)
    assert done.idle_price_per_kwh == pytest.approx((16 * 0.3 + 8 * 0.1) / 24, rel=1e-6)
    terms = cost.cost_terms(done, listed, utilization=0.5)
    assert cost.local_cost(done, terms).idle == pytest.approx(0.1 * (16 * 0.3 + 8 * 0.1) / 24 * 1.5, rel=1e-6)


def test_the_cached_share_is_of_attempts_that_report_it_and_can_be_left_aside(tmp_path: Path) -> None:
    silent = replace(HOUR, task_id="silent", prompt_tokens=2_000_000, cached_tokens=None)
    attempts = load_run(write(tmp_path / "run", [HOUR, silent])).attempts
    listed = prices(tmp_path)
    done = cost.workload_of_attempts(attempts, listed)
    assert (done.cached_share, done.cached_source) == (0.25, "as the server reports in 1 of 2 attempts")
    assert cost.api_cost(done, listed.api[0]) == pytest.approx(4.5 + 1.5 * 0.1 + 2)
    uncached = cost.workload_of_attempts(attempts, listed, cache=False)
    assert uncached.cached_source == "as if nothing were cached"
    assert cost.api_cost(uncached, listed.api[0]) == pytest.approx(6 + 2)
