"""A price list is served in base units, and every way to write it wrongly is told with the place where it is wrong."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from joulebench.clock import SystemClock
from joulebench.errors import UserError
from joulebench.exporter.exporter_collector import PricesCollector
from joulebench.exporter.exposition import Exposition
from joulebench.prices import load
from tests.unit.exporter.exporter_process import COMMAND, exporter

ROOT = Path(__file__).resolve().parents[3]

FULL = """
currency: EUR
electricity: {per_kwh: 0.36, as_of: 2026-11-01}
hardware: {per_hour: 0.36, as_of: 2026-11-02}
api:
  - {model: small, prompt: 0.25, cached_prompt: 0.025, completion: 2, as_of: 2026-06-15, note: list price}
  - {model: free, prompt: 0, completion: 0, as_of: 2026-06-16}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "prices.yml"
    path.write_text(text, encoding="utf-8")
    return path


def samples(path: Path) -> dict[str, float]:
    text = Exposition([PricesCollector(load(path))], SystemClock(), process=False).render()[0].decode()
    lines = [line.rpartition(" ") for line in text.splitlines() if line.startswith("joulebench_price")]
    return {name.removeprefix("joulebench_price_"): float(value) for name, _, value in lines}


def test_prices_are_served_for_one_joule_second_or_token_with_the_day_of_each(tmp_path: Path) -> None:
    expected = {
        'electricity_per_joule{currency="EUR"}': 0.36 / 3.6e6,
        'hardware_per_second{currency="EUR"}': 0.0001,
        'api_per_token{api_model="small",currency="EUR",token="prompt"}': 0.25e-6,
        'api_per_token{api_model="small",currency="EUR",token="cached_prompt"}': 0.025e-6,
        'api_per_token{api_model="small",currency="EUR",token="completion"}': 2e-6,
        'api_per_token{api_model="free",currency="EUR",token="prompt"}': 0.0,
        'api_per_token{api_model="free",currency="EUR",token="completion"}': 0.0,
        'as_of_timestamp_seconds{item="electricity"}': 1793491200.0,
        'as_of_timestamp_seconds{item="hardware"}': 1793577600.0,
        'as_of_timestamp_seconds{item="small"}': 1781481600.0,
        'as_of_timestamp_seconds{item="free"}': 1781568000.0,
    }
    assert samples(written(tmp_path, FULL)) == pytest.approx(expected, rel=1e-12)


def test_what_the_list_does_not_give_is_absent(tmp_path: Path) -> None:
    assert samples(written(tmp_path, "currency: USD\n")) == {}


def test_the_price_list_of_the_repository_is_one() -> None:
    prices = load(ROOT / "prometheus/prices.yml")
    assert prices.electricity is not None
    assert prices.electricity.per_unit > 0
    assert prices.api


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file: None is not a mapping"),
        ("electricity: {per_kwh: 0.3, as_of: 2026-11-01}", "currency is missing"),
        ("currency: dollars", "currency: 'dollars' is not three capital letters"),
        ("{currency: USD, gas: 1}", "unknown key gas"),
        ("{currency: USD, electricity: 0.3}", "electricity: 0.3 is not a mapping with per_kwh, as_of"),
        ("{currency: USD, electricity: {per_kwh: 0.3}}", "electricity: as_of is missing"),
        ("{currency: USD, electricity: {per_kwh: -1, as_of: 2026-11-01}}", "-1 is not a number, 0 or more"),
        ("{currency: USD, electricity: {per_kwh: .nan, as_of: 2026-11-01}}", "nan is not a number"),
        ("{currency: USD, electricity: {per_kwh: 'a lot', as_of: 2026-11-01}}", "'a lot' is not a number"),
        ("{currency: USD, electricity: {per_kwh: 0.3, as_of: lately}}", "'lately' is not a day such as"),
        ("{currency: USD, electricity: {per_kwh: 0.3, as_of: 2026-13-01}}", "month must be in 1..12"),
        ("{currency: USD, api: small}", "api: 'small' is not a list"),
        ("{currency: USD, api: [{model: a, prompt: 1, as_of: 2026-11-01}]}", "api, entry 1: completion is missing"),
        ("{currency: USD, api: [{model: 7, prompt: 1, completion: 1, as_of: 2026-11-01}]}", "model: 7 is not a name"),
        ("{currency: USD, api: [{model: hardware, prompt: 1, completion: 1, as_of: 2026-11-01}]}", "is there already"),
        ("currency: [", "while parsing"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused_with_the_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=r"--prices\.file .*prices\.yml") as refused:
        load(written(tmp_path, text))
    assert message in str(refused.value)


def test_the_exporter_serves_the_list_and_ends_with_2_for_a_bad_one(tmp_path: Path) -> None:
    flags = ("--gpu-source=simulated", "--no-ollama")
    with exporter(*flags, f"--prices.file={ROOT / 'prometheus/prices.yml'}") as running:
        assert 'joulebench_price_electricity_per_joule{currency="USD"}' in running.get("/metrics")[1]
    bad = written(tmp_path, "currency: dollars")
    argv = [*COMMAND, "--web.listen-address=127.0.0.1:0", *flags, f"--prices.file={bad}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 2
    assert f"--prices.file {bad}: currency: 'dollars'" in done.stderr
